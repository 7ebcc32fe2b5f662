// The URL of an engine, what it says, and what may be said of it.
import { invalidValue, QueueError } from '../../../errors.ts'
import { shown } from '../../secrets.ts'

/** What the names of all that a bus makes in an engine begin with. */
const PREFIX = /^[\w-]{1,64}$/

/** Milliseconds to wait for an engine that is not to be had. */
const PATIENCE = 30_000

/** What Node.js says of a certificate that is in order, but signed by nobody whom it knows. */
const UNTRUSTED = /SELF_SIGNED|UNABLE_TO_(?:GET_ISSUER|VERIFY)|CERT_UNTRUSTED/
/** What it says when the other end has no TLS, and the client of NATS. */
const PLAIN = /WRONG_VERSION_NUMBER|does not support 'tls'/

export interface Address {
  readonly prefix: string
  /** Milliseconds to wait for an engine that is not to be had. */
  readonly patience: number
  /** The other parameters, which are numbers > 0. */
  readonly numbers: Readonly<Record<string, number>>
}

/** @param names what else may stand behind the "?", beside `prefix` and `timeout` */
export function addressOf(url: URL, names: readonly string[] = []): Address {
  const { prefix = 'kmq', ...rest } = Object.fromEntries(url.searchParams)
  const known = ['timeout', ...names]
  const unknown = Object.keys(rest).find((name) => !known.includes(name))
  if (unknown !== undefined) {
    throw invalidValue(
      'URL',
      `one with nothing behind "?" but prefix, ${known.join(', ')}, not "${unknown}"`,
      shown(url),
    )
  }
  if (!PREFIX.test(prefix))
    throw invalidValue('URL', 'one whose prefix is 1 to 64 letters, digits, "_" or "-"', shown(url))
  const numbers = Object.fromEntries(Object.entries(rest).map(([name, value]) => [name, Number(value)]))
  for (const [name, value] of Object.entries(numbers)) {
    if (!(Number.isSafeInteger(value) && value > 0))
      throw invalidValue('URL', `one whose ${name} is a number`, shown(url))
  }
  return { prefix, patience: numbers.timeout ?? PATIENCE, numbers }
}

/** It refuses, cannot be reached, or was lost for longer than anybody waits. */
export function noConnection(url: URL, port: number, call: string, cause: unknown): QueueError {
  const path = `${url.hostname || 'localhost'}:${url.port || port}`
  const { message, code } = (cause instanceof Error ? cause : {}) as NodeJS.ErrnoException
  const detail = message || code
  const hint = hintOf(`${code} ${message}`, path)
  return Object.assign(new QueueError('ERR_BUS_CONNECTION', { syscall: call, path, detail, hint }), { cause })
}

function hintOf(cause: string, path: string): string {
  if (UNTRUSTED.test(cause)) {
    return 'nobody whom Node.js knows has signed its certificate: set NODE_EXTRA_CA_CERTS=/path/to/ca.pem for the process'
  }
  if (PLAIN.test(cause)) return `the server at ${path} speaks without TLS: is this the right port?`
  return `is the server up, and does it listen at ${path}?`
}

/**
 * The engine knows who asks, or does not, and lets him not.
 *
 * @param token whether a token may stand in place of a user
 */
export function noAccess(url: URL, port: number, call: string, cause: unknown, token = false): QueueError {
  const path = `${url.hostname || 'localhost'}:${url.port || port}`
  const isNamed = url.password !== ''
  const user = isNamed ? `user "${decodeURIComponent(url.username)}"` : token ? 'the right token, or a user' : 'a user'
  const detail = cause instanceof Error ? cause.message : undefined
  const hint = `give the URL ${user} with the right password and permissions: ${url.protocol}//user:password@${path}`
  return Object.assign(new QueueError('ERR_BUS_ACCESS', { syscall: call, path, detail, hint }), { cause })
}
