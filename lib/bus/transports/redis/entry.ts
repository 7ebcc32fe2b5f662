// A message as an entry of a stream: a line of JSON, its head, and its body behind it.
import { type Delivery, type Format, NO_HEADERS, type Outgoing, type Settlement } from '../../transport.ts'
import { FIELD, type Fields, fromFields, toFields } from '../engine/wire.ts'

/** Entries of one priority, in columns; see the scripts. */
export type Columns = [rank: Buffer, ids: Buffer, messages: Buffer[], times: Buffer, wears: Buffer]

/** What is the same of all that were handed out in one go. */
export interface Chunk {
  readonly queue: string
  readonly rank: string
  /** There was but one. */
  readonly alone: boolean
  /** Their leases have a limit. */
  readonly limited: boolean
  /** Of the life of this process. */
  readonly life: number
}

/** A message that was handed out, and what settling it needs: it is its own token. */
export class Taken implements Delivery {
  readonly token: unknown
  readonly chunk: Chunk
  /** Its id in the stream. */
  readonly entry: string
  /** How often it was handed out. */
  readonly times: number
  readonly id: string
  readonly body: Buffer
  readonly format: Format
  readonly key: string | undefined
  readonly priority: number
  readonly headers: Readonly<Record<string, string>>
  readonly sentAt: number
  /** When it is no longer wanted; 0 is never. */
  readonly expires: number
  readonly attempts: number
  readonly losses: number
  readonly suspect: boolean
  readonly damage: undefined
  /** Of one that somebody else has added, which field is the body. */
  readonly field: string | undefined
  /** It was handed out before: there are notes on that. */
  readonly worn: boolean
  /** Its lease has a limit. */
  limited: boolean

  constructor(chunk: Chunk, entry: string, priority: number, message: Buffer, times: number, wear: string) {
    const end = message.indexOf(NEW_LINE)
    const read = end >= 0 ? headOf(message.toString('utf8', 0, end), entry) : undefined
    const other = read === undefined ? foreign(message, entry) : undefined
    const head = read ?? (other as Foreign).head
    this.token = this
    this.chunk = chunk
    this.entry = entry
    this.times = times
    this.id = head.id
    this.body = other?.body ?? message.subarray(end + 1)
    this.format = head.format
    this.key = head.key
    this.priority = priority
    this.headers = head.headers
    this.sentAt = head.sentAt
    this.expires = head.expires
    const [attempts, losses, suspect] = wear === '' ? FRESH : wear.split(':').map(Number)
    this.attempts = attempts as number
    this.losses = losses as number
    this.suspect = suspect === 1
    this.damage = undefined
    this.field = other?.field
    this.worn = wear !== ''
    this.limited = chunk.limited
  }

  /** Bytes that count. */
  get size(): number {
    return this.field === undefined ? this.body.length : 0
  }

  /** Whether there is more to do than to remove it. */
  get isMarked(): boolean {
    return this.limited || this.worn || this.key !== undefined
  }
}

const FRESH = [0, 0, 0]
const NEW_LINE = 10

/** What was handed out, from columns as the scripts give them. */
export function takenOf(queue: string, chunks: readonly Columns[], about: { limited: boolean; life: number }): Taken[] {
  const alone = chunks.length === 1 && (chunks[0] as Columns)[2].length === 1
  return chunks.flatMap(([rankBytes, ids, messages, timesBytes, wearsBytes]) => {
    const rank = String(rankBytes)
    const priority = Number(rank)
    const chunk = { queue, rank, alone, ...about }
    const entries = String(ids).split(',')
    const times = String(timesBytes).split(',')
    const wears = String(wearsBytes).split(',')
    return messages.map(
      (message, at) =>
        new Taken(chunk, entries[at] as string, priority, message, Number(times[at] || 1), wears[at] ?? ''),
    )
  })
}

/** What the line says. Of most messages that is little: an array is read faster than names. */
interface Head {
  readonly id: string
  readonly format: Format
  readonly key: string | undefined
  readonly headers: Readonly<Record<string, string>>
  readonly sentAt: number
  readonly expires: number
}

function lineOf(message: Outgoing, sentAt: number): string {
  const { id, format, key, priority, due, expires, headers } = message
  const isPlain = key === undefined && headers === undefined && priority === 0 && due === 0 && expires === 0
  return JSON.stringify(isPlain ? [id, format, sentAt] : toFields(message, { sentAt }))
}

function headOf(line: string, entry: string): Head | undefined {
  const parsed = parse(line)
  if (!Array.isArray(parsed)) return line.startsWith('{') ? fromFields(parsed, timeOf(entry)) : undefined
  const [id, format, sentAt] = parsed as [string, Format, number]
  if (typeof sentAt !== 'number') return undefined
  return { id, format, key: undefined, headers: NO_HEADERS, sentAt, expires: 0 }
}

/** When a message was sent, by its head, or by the id of its entry. */
export function sentAtOf(line: Buffer, entry: Buffer): number {
  const parsed = parse(String(line))
  const sentAt = Array.isArray(parsed) ? parsed[2] : parsed[FIELD.sentAt]
  return sentAt === undefined ? Number.parseInt(String(entry), 10) : Number(sentAt)
}

const timeOf = (entry: string) => ({ id: entry, sentAt: Number.parseInt(entry, 10) })

/** Messages one after the other, each its length and what its entry is. */
export function pack(messages: readonly Outgoing[], sentAt: number): { bytes: number; packed: Buffer } {
  let [bytes, all] = [0, 0]
  const heads = messages.map((message) => {
    const head = `${lineOf(message, sentAt)}\n`
    bytes += message.body.byteLength
    all += 4 + Buffer.byteLength(head) + message.body.byteLength
    return head
  })
  const packed = Buffer.allocUnsafe(all)
  let at = 0
  for (const [n, { body }] of messages.entries()) {
    const start = at + 4
    const end = start + packed.write(heads[n] as string, start)
    packed.set(body, end)
    at = end + body.byteLength
    packed.writeUInt32LE(at - start, start - 4)
  }
  return { bytes, packed }
}

/** The head of a dead letter: as it was, with other headers, and without what had been its turn. */
export function buried({ token, headers }: Settlement & { outcome: 'dead' }): string {
  const { id, format, sentAt } = token as Taken
  const plain = { id, format, headers, key: undefined, priority: 0, expires: 0, due: 0, dedup: 0, body: NOTHING }
  return JSON.stringify(toFields(plain, { sentAt }))
}

const NOTHING = new Uint8Array()

function parse(text: string): Fields | unknown[] {
  try {
    const value: unknown = JSON.parse(text)
    return typeof value === 'object' && value !== null ? (value as Fields | unknown[]) : {}
  } catch {
    return {}
  }
}

interface Foreign {
  readonly head: Head
  readonly body: Buffer
  readonly field: string
}

/** What somebody else has added: its field `body`, or its first, is the body, the others are headers. */
function foreign(message: Buffer, entry: string): Foreign {
  const parsed = parse(String(message))
  const flat = Array.isArray(parsed) ? parsed.map(String) : []
  const pairs = Array.from({ length: flat.length / 2 }, (_, at) => [flat[2 * at], flat[2 * at + 1]] as [string, string])
  const [field, body] = pairs.find(([name]) => name === 'body') ?? pairs[0] ?? ['', '']
  const headers = Object.fromEntries(pairs.filter(([name]) => name !== field))
  return { head: fromFields({}, { ...timeOf(entry), headers }), body: Buffer.from(body), field }
}
