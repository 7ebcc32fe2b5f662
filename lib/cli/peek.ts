import type { SysvQueue } from '../index.ts'
import { type Command, defineCommand, toInteger } from './command.ts'
import { EXIT, Failure, UsageError } from './errors.ts'
import { toCount, toSelection } from './messages.ts'
import { FORMAT_OPTIONS, formatter } from './recv.ts'
import { openTarget, parseTarget } from './target.ts'
import { complain, write } from './terminal.ts'

export const peek: Command = defineCommand({
  name: 'peek',
  summary: 'look at messages without taking them',
  operands: 'QUEUE',
  description: [
    'Prints the oldest messages of a System V queue and leaves them there; without -n or --all, one. The code is 3 if there is none. What others take meanwhile shifts the rest, so that one may be left out.',
    'The kernel cannot do that for POSIX queues: it gives a message only to who takes it. kmq dump --keep takes all and puts them back; kmq ls shows how many there are.',
  ],
  options: {
    count: { type: 'string', short: 'n', value: 'N', help: 'so many; default: 1' },
    all: { type: 'boolean', short: 'a', help: 'all that are there' },
    skip: { type: 'string', value: 'N', help: 'leave out the first N' },
    type: { type: 'string', short: 't', value: 'N', help: 'only those of this type' },
    except: { type: 'boolean', help: 'only those of any other type' },
    ...FORMAT_OPTIONS,
  },
  examples: [
    ['kmq peek 0x2a', 'what recv would take'],
    ['kmq peek 0x2a --all --json', 'all, with their types'],
    ["kmq peek '#3' -n 5 --type 7", 'the first five of type 7'],
  ],
  async run({ operands: [text = ''], options }) {
    const target = parseTarget(text)
    if (target.family === 'posix') {
      throw new Failure(
        `${text} is a POSIX queue: the kernel gives its messages only to who takes them`,
        'kmq dump --keep takes all and puts them back in order; kmq ls shows how many there are.',
      )
    }
    const selection = toSelection(target, options)
    if (selection !== undefined && selection.type <= 0) throw new UsageError('--type is above 0 here')
    const format = formatter(options)
    const count = toCount(options.count)
    if (options.all && count !== undefined) throw new UsageError('--count and --all exclude each other')
    const most = options.all ? Number.POSITIVE_INFINITY : (count ?? 1)
    const skip = toInteger('skip', options.skip ?? '0', 0, Number.MAX_SAFE_INTEGER)
    const queue = openTarget(target) as SysvQueue
    let index = -1
    let shown = 0
    let skipped = 0
    for (const message of queue.browse()) {
      index++
      if (selection !== undefined && (message.type === selection.type) === selection.except) continue
      if (skipped++ < skip) continue
      await write(format(message, { index }))
      if (++shown === most) break
    }
    if (shown > 0) return 0
    complain('kmq peek', Object.assign(new Failure(`no such message in ${text}`), { code: 'ENOMSG' }), options.json)
    return EXIT.timeout
  },
})
