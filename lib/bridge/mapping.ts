// Which messages a route wants, and what they become on their way.
import type { Item, Message } from '../bus/index.ts'
import type { FilterConfig, Mapped, Pattern, Route } from './config.ts'

/** A message on its way from one end to the other. */
export type Parcel = Pick<Item, 'body' | 'key' | 'headers'> & { readonly id: string; readonly priority: number }

/** A message as it may leave its bus: what codecs did, and who waits for a reply, is that bus's own. */
export function parcelOf({ id, body, key, headers, priority }: Message): Parcel {
  return { id, body, key, headers: Object.keys(headers).length > 0 ? headers : undefined, priority }
}

type Mapping = Pick<Route, 'headers' | 'key' | 'priority'>

export function map(message: Message, mapping: Mapping): Parcel {
  const { headers } = message
  const parcel = parcelOf(message)
  const mapped: Record<string, string> = { ...parcel.headers }
  for (const [name, what] of Object.entries(mapping.headers)) {
    const value = textOf(what, headers)
    if (value === undefined) delete mapped[name]
    else mapped[name] = value
  }
  const { id, body, key, priority } = parcel
  return {
    id,
    body,
    key: mapping.key === undefined ? key : textOf(mapping.key, headers),
    headers: Object.keys(mapped).length > 0 ? mapped : undefined,
    priority: mapping.priority ?? priority,
  }
}

const textOf = (what: Mapped, headers: Message['headers']): string | undefined =>
  what === null || typeof what === 'string' ? (what ?? undefined) : headers[what.header]

export function filterOf({ headers = {}, key, priority }: FilterConfig): (message: Message) => boolean {
  const tests = Object.entries(headers).map(([name, pattern]) => [name, matcher(pattern)] as const)
  const isKey = key === undefined ? undefined : matcher(key)
  const { min = 0, max = 255 } = priority ?? {}
  return (message) =>
    message.priority >= min &&
    message.priority <= max &&
    (isKey === undefined || isKey(message.key)) &&
    tests.every(([name, isRight]) => isRight(message.headers[name]))
}

function matcher(pattern: Pattern): (text: string | undefined) => boolean {
  const all = (Array.isArray(pattern) ? pattern : [pattern]) as readonly (string | null)[]
  const expressions = all.filter((one) => one !== null).map(toExpression)
  const isAbsent = all.includes(null)
  return (text) => (text === undefined ? isAbsent : expressions.some((one) => one.test(text)))
}

function toExpression(pattern: string): RegExp {
  const parts = pattern.split('*').map((part) => part.replace(/[\\^$.|?+()[\]{}]/g, '\\$&'))
  return new RegExp(`^${parts.join('.*')}$`, 's')
}
