import { addAbortSignal } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Command, defineCommand, JSON_OPTION, toInteger } from './command.ts'
import { MAX_TIMER, toDuration } from './duration.ts'
import { EXIT, Failure, UsageError } from './errors.ts'
import { type Input, LF, NUL, openInput, pieces, whole } from './input.ts'
import { interruptible } from './interruption.ts'
import { type Item, itemFor, messageFromJson, plural, toTag } from './messages.ts'
import { codeOf, give, longestOf, type Source } from './moving.ts'
import { openTarget, parseTarget } from './target.ts'
import { complain, note, printJson } from './terminal.ts'

export const send: Command = defineCommand({
  name: 'send',
  summary: 'send messages',
  operands: 'QUEUE [TEXT|@FILE|-]',
  description: [
    'Sends the text, the content of a file, or what comes on standard input (-, or nothing) as one message; with --lines, --null or --json-lines as many. Nothing is added and nothing but the separators is left out; an empty line is an empty message.',
    'When the queue is full it ends with code 3, and says how many were sent; with --wait it waits for room. A text that begins with @ goes through standard input.',
  ],
  options: {
    priority: {
      type: 'string',
      short: 'p',
      value: 'N',
      help: 'of a POSIX queue: 0 to 32767, the highest is received first; default: 0',
    },
    type: { type: 'string', short: 't', value: 'N', help: 'of a System V queue: 1 to 2^63-1; default: 1' },
    lines: { type: 'boolean', short: 'l', help: 'each line is a message' },
    null: { type: 'boolean', short: '0', help: 'a null character ends each message' },
    'json-lines': {
      type: 'boolean',
      help: 'each line is a message with its priority or type as recv --json prints it',
    },
    wait: { type: 'boolean', short: 'w', help: 'wait for room' },
    timeout: {
      type: 'string',
      value: 'TIME',
      help: 'wait for room, but when there is none for so long (500, 500ms, 2s) end with code 3',
    },
    rate: { type: 'string', short: 'r', value: 'N', help: 'messages a second at most' },
    ...JSON_OPTION,
  },
  examples: [
    ['kmq send /orders \'{"id":1}\' --priority 5', 'one message'],
    ['kmq send /orders @order.json', 'what is in a file'],
    ['kmq send /orders --lines --wait < orders.txt', 'each line, as fast as somebody receives'],
    ['find . -print0 | kmq send 0x2a --null --wait --rate 100', 'each name, 100 a second'],
  ],
  async run({ operands: [text = '', content = '-'], options }) {
    const target = parseTarget(text)
    const tag = toTag(target, options)
    const modes = [options.lines, options.null, options['json-lines']].filter((mode) => mode === true)
    if (modes.length > 1) throw new UsageError('--lines, --null and --json-lines exclude each other')
    if (options['json-lines'] && Object.keys(tag).length > 0)
      throw new UsageError('with --json-lines each message says its priority or type itself')
    const limit = toDuration('timeout', options.timeout, MAX_TIMER)
    const rate = toInteger('rate', options.rate, 1, 1e6)
    const source = { target, queue: openTarget(target, { access: 'write' }) }
    const input = await openInput(content)
    const parse = options['json-lines']
      ? (line: Buffer) => itemFor(target.family, messageFromJson(line.toString()))
      : (data: Buffer): Item => ({ data, ...tag })
    const batches =
      modes.length === 0
        ? one(input, longestOf(source.queue))
        : pieces(input, options.null ? NUL : LF, options['json-lines'] ? MAX_JSON : longestOf(source.queue))
    const timeout = limit ?? (options.wait ? undefined : 0)
    return interruptible(async (signal) => {
      if ('destroy' in input) addAbortSignal(signal, input)
      const { sent, bytes, error } = await sendAll(source, batches, {
        parse,
        rate,
        timeout,
        signal,
        isMany: modes.length > 0,
      })
      if (error === undefined) {
        if (options.json) await printJson({ queue: text, sent, bytes })
        return 0
      }
      if (signal.aborted) {
        note(`interrupted; ${plural(sent)} sent`, options.json)
        return EXIT.failure
      }
      if (codeOf(error) !== 'ETIMEDOUT') throw error
      const hint = limit === undefined ? '--wait waits for room.' : undefined
      const full = new Failure(`${text} is full; ${plural(sent)} sent`, hint)
      complain('kmq send', Object.assign(full, { sent, code: 'ETIMEDOUT' }), options.json)
      return EXIT.timeout
    })
  },
})

/** A line of JSON is longer than the message in it. */
const MAX_JSON = 2 ** 26

async function* one(input: Input, most: number): AsyncGenerator<Buffer[]> {
  yield [await whole(input, most)]
}

interface Sending {
  readonly parse: (data: Buffer) => Item
  readonly rate: number | undefined
  readonly timeout: number | undefined
  readonly signal: AbortSignal
  /** Whether to say which one it was. */
  readonly isMany: boolean
}

async function sendAll(
  source: Source,
  batches: AsyncIterable<Buffer[]>,
  { parse, rate, timeout, signal, isMany }: Sending,
): Promise<{ sent: number; bytes: number; error: unknown }> {
  const pace = rate === undefined ? undefined : new Pace(rate)
  let sent = 0
  let bytes = 0
  const failed = (error: unknown, isIts: boolean) => {
    if (error instanceof Error && isIts && isMany) error.message = `number ${sent + 1}: ${error.message}`
    return { sent, bytes, error: error instanceof Error ? Object.assign(error, { sent }) : error }
  }
  try {
    for await (const batch of batches) {
      for (let from = 0; from < batch.length; ) {
        const most = (await pace?.next(signal)) ?? batch.length
        const items: Item[] = []
        let bad: unknown
        for (const data of batch.slice(from, from + most)) {
          try {
            items.push(parse(data))
          } catch (error) {
            bad = error
            break
          }
        }
        const given = await give(source, items, { timeout, signal })
        for (const { data } of items.slice(0, given.sent)) bytes += data.length
        sent += given.sent
        if (given.error !== undefined) return failed(given.error, codeOf(given.error) !== 'ETIMEDOUT')
        if (bad !== undefined) return failed(bad, true)
        pace?.spent(items.length)
        from += items.length
      }
    }
  } catch (error) {
    return failed(error, false)
  }
  return { sent, bytes, error: undefined }
}

/** So many a second. */
class Pace {
  readonly #interval: number
  #due = performance.now()

  constructor(rate: number) {
    this.#interval = 1000 / rate
  }

  /** How many may go now, at least one. */
  async next(signal: AbortSignal): Promise<number> {
    const early = this.#due - performance.now()
    if (early > 0) await sleep(early, undefined, { signal })
    return Math.max(1, Math.floor((performance.now() - this.#due) / this.#interval))
  }

  spent(count: number): void {
    // What was missed while the queue was full is not made up for, but for the time that a timer may be late.
    this.#due = Math.max(this.#due + count * this.#interval, performance.now() - SLACK)
  }
}

const SLACK = 100
