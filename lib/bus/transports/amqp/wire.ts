// A message as RabbitMQ has it: what AMQP has a property for is one, our fields and the user's headers are headers.
import type { ConsumeMessage, GetMessage, Options } from 'amqplib'
import { type Format, NO_HEADERS, type Outgoing } from '../../transport.ts'
import { FIELD, fromFields, type Past, type Read } from '../engine/wire.ts'

const TYPES: Record<Format, string> = {
  bytes: 'application/octet-stream',
  text: 'text/plain',
  json: 'application/json',
}

/** Headers that mean something to RabbitMQ or to us; the rest are headers there, too, by which others can filter. */
const OTHERS = /^(?:x-.*|kmq-.*|CC|BCC|.{121,})$/su

export const isFilterable = (name: string): boolean => !OTHERS.test(name)

/** What the type of our messages begins with; the rest is when they were sent. */
const SENT = 'kmq '

/** Milliseconds that a message may wait for its time to be over: the longest that RabbitMQ takes. */
const LONGEST = 2 ** 32 - 1

/** Milliseconds for which one queue delays a message. */
export const LONGEST_DELAY: number = 2 ** 31

export function toOptions(message: Outgoing, { sentAt, attempts = 0, losses = 0 }: Past, now: number): Options.Publish {
  const { id, format, key, priority, headers = NO_HEADERS, expires, due } = message
  const fields: Record<string, string | number> = {}
  let isPlain = true
  for (const name in headers) {
    if (isFilterable(name)) fields[name] = headers[name] as string
    else isPlain = false
  }
  if (!isPlain) fields[FIELD.headers] = JSON.stringify(headers)
  if (key !== undefined) fields[FIELD.key] = key
  if (attempts > 0) fields[FIELD.attempts] = attempts
  if (losses > 0) fields[FIELD.losses] = losses
  const options: Options.Publish = {
    messageId: id,
    contentType: TYPES[format],
    // A header would take the client twice as long as all the rest.
    type: `${SENT}${sentAt}`,
    headers: fields,
    mandatory: true,
    persistent: true,
  }
  // Longer than a queue delays it: when it comes it goes back there.
  if (due - now > LONGEST_DELAY) fields[FIELD.due] = due
  if (priority > 0) options.priority = priority
  if (expires > 0) {
    fields[FIELD.expires] = expires
    // The server drops it, too, where nobody comes for it.
    options.expiration = Math.min(Math.max(Math.ceil(expires - now), 0), LONGEST)
  }
  return options
}

/** How often a queue handed it out before. */
export const countOf = ({ properties }: ConsumeMessage | GetMessage): number => {
  const count: unknown = properties.headers?.['x-delivery-count']
  return typeof count === 'number' ? count : 0
}

export function read({ properties }: ConsumeMessage | GetMessage): Read {
  const { messageId, contentType, timestamp, correlationId, type } = properties
  const fields = (properties.headers ?? {}) as Record<string, unknown>
  let headers: Record<string, string> | undefined
  for (const name in fields) {
    if (OTHERS.test(name)) continue
    headers ??= {}
    const value = fields[name]
    headers[name] = typeof value === 'string' ? value : (JSON.stringify(value) ?? '')
  }
  if (typeof correlationId === 'string') headers = { 'correlation-id': correlationId, ...headers }
  const foreign = {
    id: typeof messageId === 'string' && messageId !== '' ? messageId : undefined,
    headers: headers ?? NO_HEADERS,
    format: formatOf(contentType),
    sentAt: sentAtOf(type, timestamp),
  }
  const known = fromFields(fields as Record<string, string>, foreign)
  return typeof properties.priority === 'number' ? { ...known, priority: properties.priority } : known
}

function sentAtOf(type: unknown, timestamp: unknown): number {
  const ours = typeof type === 'string' && type.startsWith(SENT) ? Number(type.slice(SENT.length)) : Number.NaN
  if (Number.isFinite(ours)) return ours
  return typeof timestamp === 'number' ? timestamp * 1000 : 0
}

function formatOf(type: unknown): Format {
  if (typeof type !== 'string') return 'bytes'
  if (type.startsWith('text/')) return 'text'
  return type.startsWith(TYPES.json) ? 'json' : 'bytes'
}
