import { type Command, defineCommand, JSON_OPTION, toInteger, toMode } from './command.ts'
import { UsageError } from './errors.ts'
import { groupId, userId } from './queues.ts'
import { openSysv, parseTarget } from './target.ts'
import { printJson } from './terminal.ts'

export const set: Command = defineCommand({
  name: 'set',
  summary: 'change the owner, mode or size of a System V queue',
  operands: 'QUEUE',
  description: [
    'Changes a System V queue, see msgctl(2). Only its owner, its creator and root may; more bytes than kernel.msgmnb need CAP_SYS_RESOURCE.',
    'The sizes of a POSIX queue never change; its permissions are those of its file: chmod 660 /dev/mqueue/orders.',
  ],
  options: {
    'max-bytes': { type: 'string', short: 'b', value: 'BYTES', help: 'bytes that it holds' },
    mode: { type: 'string', value: 'MODE', help: 'permissions in octal' },
    owner: { type: 'string', value: 'USER', help: 'a name or a number' },
    group: { type: 'string', value: 'GROUP', help: 'a name or a number' },
    ...JSON_OPTION,
  },
  examples: [
    ['kmq set 0x1f --max-bytes 32768 --mode 660', 'smaller, and for the group, too'],
    ["kmq set '#3' --owner daemon", 'given to another user'],
  ],
  async run({ operands: [text = ''], options }) {
    const target = parseTarget(text)
    const maxBytes = toInteger('max-bytes', options['max-bytes'], 0, 2 ** 31 - 1)
    const mode = toMode(options.mode)
    const uid = options.owner === undefined ? undefined : userId(options.owner)
    const gid = options.group === undefined ? undefined : groupId(options.group)
    const changes = {
      ...(maxBytes !== undefined && { maxBytes }),
      ...(mode !== undefined && { mode }),
      ...(uid !== undefined && { uid }),
      ...(gid !== undefined && { gid }),
    }
    if (Object.keys(changes).length === 0)
      throw new UsageError('nothing to change: name --max-bytes, --mode, --owner or --group')
    if (target.family === 'posix') {
      throw new UsageError(
        `${text} is a POSIX queue: only its permissions can change (chmod, chown of /dev/mqueue${target.name})`,
      )
    }
    const queue = openSysv(target)
    queue.set(changes)
    await queue.close()
    if (options.json === true) await printJson({ queue: text, ...changes, mode: options.mode })
    return 0
  },
})
