// What kmq dump writes and kmq restore reads: a line of JSON for the queue, one for each message, and one for the end.
import { fstatSync } from 'node:fs'
import { PosixQueue, type SysvQueue } from '../index.ts'
import { Failure } from './errors.ts'
import { type Family, type Item, type KernelMessage, messageFromJson, parseObject, tagToJson } from './messages.ts'
import { octal } from './queues.ts'

const FORMAT = 'kmq-dump'
const VERSION = 1

/** What a queue is created with. */
export interface Attributes {
  /** Permission bits, in octal. */
  readonly mode: string
  readonly uid: number
  readonly gid: number
  /** Of POSIX. */
  readonly maxMessages?: number
  readonly messageSize?: number
  /** Of System V. */
  readonly maxBytes?: number
}

export interface Header {
  readonly queue: string
  readonly family: Family
  /** Absent if the queue was gone. */
  readonly attributes?: Attributes
}

export function attributesOf(queue: PosixQueue | SysvQueue): Attributes {
  if (queue instanceof PosixQueue) {
    const { maxMessages, messageSize } = queue.attributes
    const { mode, uid, gid } = fstatSync(queue.fd)
    return { mode: octal(mode & 0o777), uid, gid, maxMessages, messageSize }
  }
  const { mode, uid, gid, maxBytes } = queue.stat()
  return { mode: octal(mode), uid, gid, maxBytes }
}

export function* toLines(header: Header, messages: readonly KernelMessage[]): Generator<string> {
  const { queue, family, attributes } = header
  yield line({ format: FORMAT, version: VERSION, queue, family, attributes, dumpedAt: new Date().toISOString() })
  for (const message of messages) yield line({ ...tagToJson(message), base64: message.data.toString('base64') })
  yield line({ end: true, messages: messages.length })
}

const line = (value: object): string => `${JSON.stringify(value)}\n`

/** @throws {Failure} if it is none, or not whole */
export function parseSnapshot(text: string): { header: Header; items: Item[] } {
  const lines = text.split('\n')
  if (lines.at(-1) === '') lines.pop()
  const [first = '', ...rest] = lines
  const header = at(1, () => headerFrom(first))
  const end = rest.length === 0 ? {} : at(lines.length, () => parseObject(rest.pop() as string))
  if (end.end !== true) throw new Failure('the dump is not whole: its last line is not that of an end')
  if (end.messages !== rest.length)
    throw new Failure(`the dump is not whole: it had ${end.messages} messages, and ${rest.length} are here`)
  return { header, items: rest.map((text, index) => at(index + 2, () => messageFromJson(text))) }
}

function at<T>(line: number, parse: () => T): T {
  try {
    return parse()
  } catch (error) {
    throw new Failure(`line ${line} of the dump: ${(error as Error).message}`)
  }
}

function headerFrom(text: string): Header {
  const { format, version, queue, family, attributes } = parseObject(text)
  if (format !== FORMAT) throw new Failure('this is no dump of kmq')
  if (version !== VERSION) throw new Failure(`the dump is of version ${version}, and this kmq reads version ${VERSION}`)
  if (typeof queue !== 'string' || (family !== 'posix' && family !== 'sysv'))
    throw new Failure('it does not say of which queue it is')
  return { queue, family, ...(isAttributes(attributes) && { attributes }) }
}

function isAttributes(value: unknown): value is Attributes {
  if (typeof value !== 'object' || value === null) return false
  const { mode, ...numbers } = value as Record<string, unknown>
  return (
    typeof mode === 'string' && /^[0-7]{3}$/.test(mode) && Object.values(numbers).every((n) => Number.isSafeInteger(n))
  )
}
