import { constants } from 'node:os'
import { inspect } from 'node:util'
import { isDataView } from 'node:util/types'

const codeByErrno = new Map<number, string>(Object.entries(constants.errno).map(([code, errno]) => [errno, code]))
codeByErrno.set(constants.errno.EAGAIN, 'EAGAIN') // the same number as EWOULDBLOCK

const descriptions: Record<string, string> = {
  EACCES: 'permission denied',
  EAGAIN: 'resource temporarily unavailable',
  EBADF: 'bad descriptor for this operation',
  EBUSY: 'resource busy',
  E2BIG: 'message longer than the buffer',
  EEXIST: 'queue exists already',
  EIDRM: 'the queue was removed',
  EINTR: 'interrupted by a signal',
  EINVAL: 'invalid argument',
  EMFILE: 'too many queues or descriptors',
  EMSGSIZE: 'message too long',
  ENAMETOOLONG: 'name too long',
  ENFILE: 'too many open files in the system',
  ENODEV: 'no such device',
  ENOENT: 'no such queue',
  ENOMEM: 'out of memory',
  ENOMSG: 'no message of the desired type',
  ENOSPC: 'no space left for another queue',
  ENOSYS: 'not supported by this kernel',
  EPERM: 'operation not permitted',
  ETIMEDOUT: 'timed out',
  ERR_BUS_ACCESS: 'the server does not let this user in, or do that',
  ERR_BUS_BUSY: 'another process has been writing for too long',
  ERR_BUS_CANCELLED: 'nobody waits for the reply any more',
  ERR_BUS_CONNECTION: 'there is no connection to the server',
  ERR_BUS_DAMAGED: 'what was stored is damaged',
  ERR_BUS_DIRECTORY: 'the directory cannot be used',
  ERR_BUS_DISK_FULL: 'the disk is full',
  ERR_BUS_INVALID_BODY: 'the body does not fit its schema',
  ERR_BUS_LEASE_LOST: 'the message was taken away from this consumer',
  ERR_BUS_NO_CLIENT: 'there is no client for the server',
  ERR_BUS_NO_CRON: 'there is nothing that reads cron expressions',
  ERR_BUS_NO_SQLITE: 'there is no SQLite',
  ERR_BUS_NO_TELEMETRY: 'there is no OpenTelemetry',
  ERR_BUS_NOT_A_BUS: 'the file is not the store of a bus',
  ERR_BUS_NOT_FOUND: 'there is no bus',
  ERR_BUS_OTHER_QUEUE: 'there is another queue of that name',
  ERR_BUS_QUEUE_FULL: 'the queue is full',
  ERR_BUS_SETTLED: 'the message is settled',
  ERR_BUS_UNSUPPORTED: 'this bus cannot do that',
  ERR_BUS_VERSION: 'the store was made by another version',
  ERR_MQ_CLOSED: 'the queue is closed',
  ERR_MQ_NOT_MOUNTED: 'the mqueue file system is not mounted',
}

/** What is known of a failure beyond its code. */
export interface QueueErrorDetails {
  syscall: string
  /** The name of a POSIX queue, with its slash; the key of a System V queue that has no identifier yet; a file. */
  path?: string | undefined
  /** The identifier of a System V queue. */
  id?: number | undefined
  hint?: string | ((code: string) => string | undefined) | undefined
  /** What was compared, such as `900 > 512 bytes`. */
  detail?: string | undefined
}

/**
 * A call on a queue failed.
 *
 * `code` is an errno name, such as `'EMSGSIZE'`, or one of the library's own:
 * `'ERR_MQ_CLOSED'` (the queue was closed, before the call or under it) and
 * `'ERR_MQ_NOT_MOUNTED'` (discovery needs the mqueue file system).
 */
export class QueueError extends Error {
  override readonly name: string = 'QueueError'
  readonly code: string
  /** Negative, as everywhere in Node.js; absent for the library's own codes. */
  declare readonly errno?: number
  readonly syscall: string
  /** The name of a POSIX queue, with its slash; of `SysvQueue.open` the key, of `ftok` the file. */
  declare readonly path?: string
  /** The identifier of a System V queue. */
  declare readonly id?: number
  /** What to do about it. */
  declare readonly hint?: string
  /** Of `sendMany` and `trySendMany`: how many messages were sent before. */
  declare sent?: number
  /** Of ERR_BUS_QUEUE_FULL: milliseconds after which there may be room. */
  declare retryAfter?: number

  constructor(codeOrErrno: string | number, details: QueueErrorDetails) {
    const code =
      typeof codeOrErrno === 'string' ? codeOrErrno : (codeByErrno.get(-codeOrErrno) ?? `errno ${-codeOrErrno}`)
    const what = descriptions[code] ?? 'failed'
    const { syscall, path, id, hint, detail } = details
    super(
      `${code}: ${what}, ${syscall}${path === undefined ? '' : ` '${path}'`}${id === undefined ? '' : ` #${id}`}${detail === undefined ? '' : ` (${detail})`}`,
    )
    this.code = code
    if (typeof codeOrErrno === 'number') this.errno = codeOrErrno
    this.syscall = syscall
    if (path !== undefined) this.path = path
    if (id !== undefined) this.id = id
    const mend = typeof hint === 'function' ? tryHint(hint, code) : hint
    if (mend !== undefined) this.hint = mend
  }
}

/** What cannot find out its figures, without /proc for example, must not hide the error. */
function tryHint(hint: (code: string) => string | undefined, code: string): string | undefined {
  try {
    return hint(code)
  } catch {
    return undefined
  }
}

/** A wait was given up by its `AbortSignal`; `cause` is the signal's reason. */
export class AbortError extends Error {
  override readonly name: string = 'AbortError'
  readonly code = 'ABORT_ERR'
  /** Of `sendMany`: how many messages were sent before. */
  declare sent?: number

  constructor(reason: unknown) {
    super('The operation was aborted', { cause: reason })
  }
}

/** True if the queue was closed, before the call or under it. */
export function isClosed(error: unknown): boolean {
  return error instanceof QueueError && error.code === 'ERR_MQ_CLOSED'
}

export function invalidType(name: string, expected: string, value: unknown): TypeError {
  const error = new TypeError(`The ${name} must be ${expected}. Received ${inspect(value, { depth: 0 })}`)
  return Object.assign(error, { code: 'ERR_INVALID_ARG_TYPE' })
}

export function invalidValue(name: string, expected: string, value: unknown): TypeError {
  const error = new TypeError(`The ${name} must be ${expected}. Received ${inspect(value, { depth: 0 })}`)
  return Object.assign(error, { code: 'ERR_INVALID_ARG_VALUE' })
}

export function outOfRange(name: string, expected: string, value: unknown): RangeError {
  const error = new RangeError(`The ${name} must be ${expected}. Received ${inspect(value)}`)
  return Object.assign(error, { code: 'ERR_OUT_OF_RANGE' })
}

/** `receive(100)` would wait for ever, and `trySend(data, 7)` send with priority 0. */
export function checkOptions(options: unknown): void {
  if (options !== undefined && typeof options !== 'object')
    throw invalidType('"options" argument', 'an object', options)
}

const { keys } = Uint8Array.prototype

/**
 * Throws if the view has lost its bytes: its buffer is detached, or has shrunk to
 * end before it. It would pass for an empty one.
 */
export function checkAttached(name: string, view: ArrayBufferView): void {
  try {
    if (view.byteLength === 0 && !isDataView(view)) keys.call(view)
  } catch {
    throw invalidValue(name, 'backed by a buffer that is not detached', view.buffer)
  }
}

/** Throws unless `value` is an integer within the bounds, both allowed. */
export function checkInteger(name: string, value: unknown, min: number, max: number): asserts value is number {
  if (typeof value !== 'number') throw invalidType(name, 'an integer', value)
  if (!Number.isInteger(value) || value < min || value > max) {
    throw outOfRange(name, `an integer from ${min} to ${max}`, value)
  }
}
