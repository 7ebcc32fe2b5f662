// Messages and dead letters, as they are shown: for people on one line, for programs in JSON.

/** What bodies are in JSON: text as it is, bytes in base64, anything else the value that was sent. */
export interface ShownBody {
  /** `unreadable`: it is damaged, or encrypted, and `body` is null. */
  readonly format: 'text' | 'json' | 'base64' | 'unreadable'
  readonly body: unknown
}

export function shown(body: unknown): ShownBody {
  if (body === undefined) return { format: 'unreadable', body: null }
  if (typeof body === 'string') return { format: 'text', body }
  if (body instanceof Uint8Array) return { format: 'base64', body: Buffer.from(body).toString('base64') }
  return { format: 'json', body }
}

interface Common {
  readonly id: string
  readonly body: unknown
  readonly key?: string | undefined
  readonly headers: Readonly<Record<string, string>>
  readonly sentAt: Date
}

/** What every message has; the rest stands between. */
export function toJson<M extends Common>({ body, key, ...rest }: M): object {
  return { ...rest, key: key ?? null, ...shown(body) }
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
const CONTROL = /[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]/g

/** On one line, and nothing that a terminal would obey. */
export function oneLine(text: string, most: number = Number.POSITIVE_INFINITY): string {
  const short = text.length > most ? `${text.slice(0, most - 1)}…` : text
  return short.replace(CONTROL, (sign) =>
    sign === '\n' ? '\\n' : sign === '\t' ? '\\t' : `\\u${sign.charCodeAt(0).toString(16).padStart(4, '0')}`,
  )
}

/** A body for people. */
export function preview(body: unknown, most?: number): string {
  const { format, body: value } = shown(body)
  if (format === 'unreadable') return '(unreadable)'
  if (format === 'base64') return `base64:${oneLine(String(value), most)}`
  return oneLine(format === 'text' ? String(value) : JSON.stringify(value), most)
}

/** How much of a body is in a table. */
export const SHORT = 60
