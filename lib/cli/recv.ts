import { type Command, defineCommand } from './command.ts'
import { MAX_TIMER, toDuration } from './duration.ts'
import { EXIT, Failure, UsageError } from './errors.ts'
import { interruptible } from './interruption.ts'
import { type KernelMessage, messageToJson, plural, toCount, toSelection } from './messages.ts'
import { batchFor, codeOf, holding, openSource, putBack, take } from './moving.ts'
import { Output } from './output.ts'
import { parseTarget } from './target.ts'
import { complain } from './terminal.ts'

/** How messages are printed; as peek has it, too. */
export const FORMAT_OPTIONS: {
  readonly raw: { readonly type: 'boolean'; readonly help: string }
  readonly null: { readonly type: 'boolean'; readonly short: '0'; readonly help: string }
  readonly json: { readonly type: 'boolean'; readonly help: string }
} = {
  raw: { type: 'boolean', help: 'nothing behind a message, not even a newline' },
  null: { type: 'boolean', short: '0', help: 'a null character behind each message instead of a newline' },
  json: {
    type: 'boolean',
    help: 'an object for each message, on a line: text (or base64 of what is not UTF-8), bytes, priority or type, time',
  },
}

export const recv: Command = defineCommand({
  name: 'recv',
  summary: 'receive messages',
  operands: 'QUEUE',
  description: [
    'Takes a message as soon as there is one, and prints it with a newline behind it. With -n it takes so many, with --follow all that come until Ctrl-C. --timeout limits the wait for each: --follow --timeout 0 takes what is there. The code is 3 if nothing came, or with -n not so many.',
    'A message that cannot be written because nobody reads any more, or the disk is full, is put back with its priority or type; it is then behind others of the same priority (System V: behind all). What a pipe has taken counts as delivered: to get one message, say -n 1 rather than | head -1.',
  ],
  options: {
    count: { type: 'string', short: 'n', value: 'N', help: 'take so many; default: 1' },
    follow: { type: 'boolean', short: 'f', help: 'take all that come' },
    timeout: { type: 'string', value: 'TIME', help: 'wait no longer than this for each (500, 500ms, 2s)' },
    type: {
      type: 'string',
      short: 't',
      value: 'N',
      help: 'System V: the oldest of this type; --type=-N: the lowest type up to N first',
    },
    except: { type: 'boolean', help: 'System V: any type but that of --type' },
    ...FORMAT_OPTIONS,
  },
  examples: [
    ['kmq recv /orders', 'one message, however long it takes'],
    ['kmq recv /orders -n 10 --timeout 2s', 'ten, or code 3'],
    ['kmq recv /orders --follow --timeout 0 > orders.txt', 'all that is there'],
    ['kmq recv 0x2a --type=-3 --json', 'the most urgent of types 1 to 3'],
  ],
  async run({ operands: [text = ''], options }) {
    const target = parseTarget(text)
    const selection = toSelection(target, options)
    const format = formatter(options)
    const count = toCount(options.count)
    if (options.follow && count !== undefined) throw new UsageError('--count and --follow exclude each other')
    const most = options.follow ? Number.POSITIVE_INFINITY : (count ?? 1)
    const timeout = toDuration('timeout', options.timeout, MAX_TIMER)
    const source = openSource(target)
    const batch = batchFor(source.queue)
    return interruptible(async (signal) => {
      const output = new Output(signal)
      let received = 0
      while (received < most) {
        const messages = await take(source, { max: Math.min(batch, most - received), selection, timeout, signal })
        if (messages === undefined) break
        const at = new Date()
        const parts = messages.map((message) => format(message, { receivedAt: at }))
        const undelivered = await holding(source, messages, options.json, () => output.write(parts))
        received += messages.length - undelivered.count
        if (undelivered.count > 0) {
          await putBack(source, messages.slice(-undelivered.count), options.json)
          if (codeOf(undelivered.error) === 'EPIPE') return EXIT.brokenPipe
          if (signal.aborted) return EXIT.failure
          throw undelivered.error
        }
      }
      if (received > 0 && (options.follow || received === most)) return 0
      const what = received === 0 ? 'no message' : `only ${plural(received)}`
      const where = timeout === 0 ? `in ${text}` : `came to ${text} in ${timeout} ms`
      complain('kmq recv', Object.assign(new Failure(`${what} ${where}`), { code: 'ETIMEDOUT' }), options.json)
      return EXIT.timeout
    })
  },
})

type Format = (message: KernelMessage, more: object) => Buffer

const ENDS = { newline: Buffer.from('\n'), null: Buffer.from('\0') }

/** What stands for one message in the output. */
export function formatter(options: {
  readonly raw?: boolean | undefined
  readonly null?: boolean | undefined
  readonly json?: boolean | undefined
}): Format {
  if ([options.raw, options.null, options.json].filter((chosen) => chosen === true).length > 1)
    throw new UsageError('--raw, --null and --json exclude each other')
  if (options.json) return (message, more) => Buffer.from(`${JSON.stringify({ ...messageToJson(message), ...more })}\n`)
  if (options.raw) return ({ data }) => data
  const end = options.null ? ENDS.null : ENDS.newline
  return ({ data }) => Buffer.concat([data, end])
}
