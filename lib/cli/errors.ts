// What goes wrong, and what is said of it.

/** The command was not understood; nothing was done. */
export class UsageError extends Error {}

/** Said as it is, without a hint: the command itself found it. */
export class Failure extends Error {
  readonly hint: string | undefined

  constructor(message: string, hint?: string) {
    super(message)
    this.hint = hint
  }
}

/** What nobody is to print: there may be a password in it. */
export const isUrl = (text: string): boolean => /^[a-z][\w+.-]*:\//i.test(text)

export const EXIT = {
  failure: 1,
  usage: 2,
  /** There was nothing to receive, or no room, in time. */
  timeout: 3,
  /** As if SIGPIPE had ended it. */
  brokenPipe: 141,
} as const

interface Described {
  readonly code?: string
  readonly message: string
  readonly hint?: string
  /** Messages that were sent before. */
  readonly sent?: number
  /** Of a queue that is full: milliseconds after which there may be room. */
  readonly retryAfter?: number
}

/** Only what a user can do something with. */
export function describe(error: unknown): Described {
  if (!(error instanceof Error)) return { message: String(error) }
  const { code, hint, sent, retryAfter } = error as {
    code?: unknown
    hint?: unknown
    sent?: unknown
    retryAfter?: unknown
  }
  const [, missing] =
    (/MODULE_NOT_FOUND$/.test(String(code)) && /(?:package|module) '([^./].*?)'/.exec(error.message)) || []
  if (missing !== undefined) {
    return {
      code: String(code),
      message: `the package ${missing} is missing`,
      hint: 'Install kernelmq again, without --omit=optional.',
    }
  }
  const isAbsent = code === 'ENOENT' && typeof hint === 'string'
  return {
    message: error.message === '' ? error.name : error.message,
    ...(typeof code === 'string' && { code }),
    // That of the library is for programs.
    ...(typeof hint === 'string' && { hint: isAbsent ? 'kmq ls lists the queues here; kmq create makes one.' : hint }),
    ...(typeof sent === 'number' && { sent }),
    ...(typeof retryAfter === 'number' && { retryAfter }),
  }
}

export function exitCodeOf(error: unknown): number {
  if (error instanceof UsageError) return EXIT.usage
  return (error as { code?: unknown } | undefined)?.code === 'ERR_BUS_QUEUE_FULL' ? EXIT.timeout : EXIT.failure
}
