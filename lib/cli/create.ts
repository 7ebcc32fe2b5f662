import { type QueueError, SysvQueue } from '../index.ts'
import { type Command, defineCommand, JSON_OPTION, toInteger, toMode } from './command.ts'
import { Failure, UsageError } from './errors.ts'
import { openTarget, parseTarget } from './target.ts'
import { print, printJson } from './terminal.ts'

const MOST = 2 ** 31 - 1

export const create: Command = defineCommand({
  name: 'create',
  summary: 'create a queue',
  operands: '[QUEUE]',
  description: [
    'Creates QUEUE, which must not be there yet, and prints its name. It stays until somebody removes it, or the machine is restarted.',
    'Sizes that are not given are those of the kernel (kmq limits). The mode is exactly what is given, whatever the umask.',
  ],
  options: {
    'max-messages': { type: 'string', short: 'm', value: 'N', help: 'messages that a POSIX queue holds' },
    'message-size': { type: 'string', short: 's', value: 'BYTES', help: 'bytes of its longest message' },
    'max-bytes': { type: 'string', short: 'b', value: 'BYTES', help: 'bytes that a System V queue holds' },
    mode: { type: 'string', value: 'MODE', help: 'permissions in octal; default: 600' },
    private: { type: 'boolean', help: "a System V queue without a key, instead of QUEUE: its '#n' is printed" },
    'if-absent': { type: 'boolean', help: 'a queue that is there already is left as it is' },
    ...JSON_OPTION,
  },
  examples: [
    ['kmq create /orders -m 10 -s 1024 --mode 660', 'a POSIX queue for its owner and group'],
    ['kmq create 0x1f --max-bytes 65536', 'a System V queue'],
    ['queue=$(kmq create --private)', 'a System V queue that only its identifier leads to'],
  ],
  async run({ operands: [text], options }) {
    const maxMessages = toInteger('max-messages', options['max-messages'], 1, MOST)
    const messageSize = toInteger('message-size', options['message-size'], 1, MOST)
    const maxBytes = toInteger('max-bytes', options['max-bytes'], 1, MOST)
    const mode = toMode(options.mode) ?? 0o600
    if ((text === undefined) !== (options.private === true)) {
      throw new UsageError('expected either QUEUE or --private')
    }
    const target = text === undefined ? undefined : parseTarget(text)
    if (target?.family === 'sysv' && 'id' in target.at) {
      throw new UsageError('an identifier is what the kernel gives: name a key, or --private')
    }
    const isPosix = target?.family === 'posix'
    const strange = isPosix
      ? maxBytes !== undefined && '--max-bytes'
      : (maxMessages ?? messageSize) !== undefined && '--max-messages and --message-size'
    if (strange) throw new UsageError(`${strange} are of the other family`)
    const isNew = options['if-absent'] !== true
    process.umask(0)
    try {
      const common = { create: true, exclusive: isNew, mode }
      const sysv = { ...common, ...(maxBytes !== undefined && { maxBytes }) }
      const queue =
        target === undefined
          ? SysvQueue.open('private', sysv)
          : openTarget(target, {
              posix: {
                ...common,
                ...(maxMessages !== undefined && { maxMessages }),
                ...(messageSize !== undefined && { messageSize }),
              },
              sysv,
            })
      const id = 'id' in queue ? queue.id : undefined
      await queue.close()
      const name = text ?? `#${id}`
      await (options.json === true ? printJson({ queue: name, id }) : print(name))
      return 0
    } catch (error) {
      if ((error as QueueError).code !== 'EEXIST') throw error
      throw new Failure(`${text} is there already`, `'kmq info ${text}' tells how it is; --if-absent leaves it so.`)
    }
  },
})
