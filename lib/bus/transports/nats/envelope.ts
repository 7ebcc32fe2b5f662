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

/** @param time when the server got it, in milliseconds since the epoch */
export function read(headers: MsgHdrs | undefined, time: number): Read {
  const fields: Fields = {}
  if (headers !== undefined) for (const [name, values] of headers) fields[name] = unescaped(values[0] ?? '')
  if (fields[FIELD.format] !== undefined) return fromFields(fields, { sentAt: time })
  const { [MESSAGE_ID]: id, ...rest } = fields
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

/** $JS.ACK.stream.consumer.count.sequence.…, or with a domain and an account before the stream. */
export function placeOf({ reply = '' }: Msg): Place {
  const words = reply.split('.')
  const at = words.length === 9 ? 4 : 6
  // The time is in nanoseconds, more than a number can tell.
  const [count, sequence, time] = [words[at], words[at + 1], words[at + 3]?.slice(0, -6)].map(Number) as [
    number,
    number,
    number,
  ]
  return { count, sequence, time }
}

/** The headers of a message that is looked at in its stream: the bytes of their lines, in base64. */
export function headersOf(client: Client, encoded: string | undefined): MsgHdrs | undefined {
  if (encoded === undefined) return undefined
  const headers = client.headers()
  for (const line of Buffer.from(encoded, 'base64').toString().split('\r\n').slice(1)) {
    const colon = line.indexOf(':')
    if (colon > 0) headers.append(line.slice(0, colon), line.slice(colon + 1).trim())
  }
  return headers
}
