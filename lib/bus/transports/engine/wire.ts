// A message as text fields beside its bytes: what engines have headers, properties or entries for.
import { randomUUID } from 'node:crypto'
import { type Delivery, type Format, NO_HEADERS, type Outgoing } from '../../transport.ts'

/** The names of the fields; those that say nothing new are left out. */
export const FIELD = {
  id: 'kmq-id',
  format: 'kmq-format',
  key: 'kmq-key',
  priority: 'kmq-priority',
  headers: 'kmq-headers',
  sentAt: 'kmq-sent',
  expires: 'kmq-expires',
  due: 'kmq-due',
  attempts: 'kmq-attempts',
  losses: 'kmq-losses',
} as const

export type Fields = Record<string, string>

/** What a message was before it was handed out. */
export interface Past {
  readonly sentAt: number
  readonly attempts?: number
  readonly losses?: number
}

export function toFields(message: Outgoing, { sentAt, attempts = 0, losses = 0 }: Past): Fields {
  const { id, format, key, priority, headers, expires, due } = message
  const fields: Fields = { [FIELD.id]: id, [FIELD.format]: format, [FIELD.sentAt]: String(sentAt) }
  if (key !== undefined) fields[FIELD.key] = key
  if (headers !== undefined) fields[FIELD.headers] = JSON.stringify(headers)
  const numbers = { priority, expires, due, attempts, losses }
  for (const [name, value] of Object.entries(numbers)) {
    if (value !== 0) fields[FIELD[name as keyof typeof numbers]] = String(value)
  }
  return fields
}

/** What a message is, without its place in an engine. */
export type Read = Omit<Delivery, 'token' | 'body' | 'suspect' | 'damage'> & {
  readonly expires: number
  readonly due: number
}

/**
 * Of one that somebody else put there, without our fields: bytes, or text if that is what it says, with the id and the
 * headers that it has in the engine.
 */
export function fromFields(
  fields: Readonly<Record<string, string | undefined>>,
  foreign: {
    id?: string | undefined
    headers?: Fields | undefined
    format?: Format | undefined
    sentAt?: number | undefined
  } = {},
): Read {
  const number = (name: string): number => {
    const text = fields[name]
    if (text === undefined) return 0
    const value = Number(text)
    return Number.isFinite(value) ? value : 0
  }
  const format = fields[FIELD.format]
  const isOurs = format === 'bytes' || format === 'text' || format === 'json'
  return {
    id: fields[FIELD.id] ?? foreign.id ?? randomUUID(),
    format: isOurs ? format : (foreign.format ?? 'bytes'),
    key: fields[FIELD.key],
    priority: number(FIELD.priority),
    headers: headersOf(fields[FIELD.headers]) ?? foreign.headers ?? NO_HEADERS,
    sentAt: fields[FIELD.sentAt] === undefined ? (foreign.sentAt ?? 0) : number(FIELD.sentAt),
    expires: number(FIELD.expires),
    due: number(FIELD.due),
    attempts: number(FIELD.attempts),
    losses: number(FIELD.losses),
  }
}

function headersOf(text: string | undefined): Fields | undefined {
  if (text === undefined) return undefined
  try {
    const headers: unknown = JSON.parse(text)
    if (typeof headers !== 'object' || headers === null) return undefined
    return Object.fromEntries(Object.entries(headers).map(([name, value]) => [name, String(value)]))
  } catch {
    return undefined
  }
}
