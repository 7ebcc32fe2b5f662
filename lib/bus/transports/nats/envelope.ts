// A message as NATS has it: headers, and the body as it is.
import { invalidValue } from '../../../errors.ts'
import type { Outgoing } from '../../transport.ts'
import { FIELD, type Fields, fromFields, type Past, type Read, toFields } from '../engine/wire.ts'
import type { Client, Msg, MsgHdrs } from './link.ts'

/** The header by which JetStream knows what was sent before. */
const MESSAGE_ID = 'Nats-Msg-Id'

const PLAIN = /^[\x21-\x24\x26-\x7e](?:[\x20-\x24\x26-\x7e]*[\x21-\x24\x26-\x7e])?$/

/** A header is a line; what is not plain in it goes as `%0A`, and so does `%`. */
const escaped = (text: string): string => {
  if (PLAIN.test(text)) return text
  try {
    return encodeURIComponent(text)
  } catch (cause) {
    throw Object.assign(invalidValue('text of a message', 'well-formed', text), { cause })
  }
}

function unescaped(text: string): string {
  if (!text.includes('%')) return text
  try {
    return decodeURIComponent(text)
  } catch {
    // Somebody else's.
    return text
  }
}

export function toHeaders(client: Client, message: Outgoing, past: Past, messageId?: string): MsgHdrs {
  const headers = client.headers()
  if (messageId !== undefined) headers.set(MESSAGE_ID, escaped(messageId))
  for (const [name, value] of Object.entries(toFields(message, past))) headers.set(name, escaped(value))
  return headers
}

/** Those of a message. The client would read them into a map of lists, which takes longer than all else. */
export function fieldsOf(message: Msg): Fields {
  const { _rdata: bytes, _msg: { hdr = -1 } = {} } = message as { _rdata?: Uint8Array; _msg?: { hdr?: number } }
  if (Buffer.isBuffer(bytes) && hdr > 0) return parse(bytes.toString('utf8', 0, hdr))
  return Object.fromEntries(Array.from(message.headers ?? [], ([name, values]) => [name, unescaped(values[0] ?? '')]))
}

/** By lines, the first of which is not one of them; of those with the same name the first. */
export function parse(lines: string): Fields {
  const fields: Fields = {}
  for (let at = lines.indexOf('\n') + 1; at > 0 && at < lines.length; at = lines.indexOf('\n', at) + 1) {
    const colon = lines.indexOf(':', at)
    const end = lines.indexOf('\r', at)
    if (colon < at || colon > end) continue
    const name = lines.slice(at, colon)
    fields[name] ??= unescaped(lines.slice(colon + 1, end).trim())
  }
  return fields
}

/**
 * @param time when the server got it, in milliseconds since the epoch
 * @param stream the name of the one that it is in, if there is one, and its `sequence` there
 */
export function read(fields: Fields, time: number, stream?: string, sequence?: number): Read {
  if (fields[FIELD.format] !== undefined) return fromFields(fields, { sentAt: time })
  const { [MESSAGE_ID]: own, ...rest } = fields
  // The same each time it is handed out; its time tells it from one of a stream that was made anew.
  const id = own ?? (stream === undefined ? undefined : `${stream}~${sequence}~${time}`)
  return fromFields(fields, { id, headers: rest, sentAt: time })
}

/** What the subject of an acknowledgement tells of a message. */
export interface Place {
  readonly sequence: number
  /** How often it was handed out, this time included. */
  readonly count: number
  /** In milliseconds since the epoch. */
  readonly time: number
}

const DOT = 46
const ZERO = 48

/**
 * $JS.ACK.stream.consumer.count.sequence.sequence.time.pending, or with a domain and an account before the stream, and
 * more behind. Read as it stands: the strings that splitting it makes cost more than all else of a header.
 */
export function placeOf({ reply = '' }: Pick<Msg, 'reply'>): Place {
  let dots = 0
  for (let at = 0; at < reply.length; at++) if (reply.charCodeAt(at) === DOT) dots++
  let at = 0
  for (let left = dots === 8 ? 4 : 6; left > 0 && at < reply.length; at++) if (reply.charCodeAt(at) === DOT) left--
  const next = (): number => {
    let number = 0
    for (; at < reply.length && reply.charCodeAt(at) !== DOT; at++) number = number * 10 + reply.charCodeAt(at) - ZERO
    at++
    return number
  }
  const [count, sequence] = [next(), next()]
  next()
  // In nanoseconds, more than a number can tell exactly.
  return { count, sequence, time: Math.floor(next() / 1e6) }
}
