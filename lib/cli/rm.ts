import { PosixQueue, type QueueError } from '../index.ts'
import { type Command, defineCommand, JSON_OPTION } from './command.ts'
import { EXIT, UsageError } from './errors.ts'
import { listQueues } from './queues.ts'
import { countOf, openSysv, parseTarget, type Target } from './target.ts'
import { complain, confirm, isInteractive, print, printJson } from './terminal.ts'

const GONE = ['ENOENT', 'EIDRM']

export const rm: Command = defineCommand({
  name: 'rm',
  summary: 'remove queues',
  operands: '[QUEUE...]',
  description: [
    'Removes each QUEUE with what is in it. On a terminal it asks first if there is something in it.',
    'A POSIX queue lives on without its name until the last process closes it; who waits for a System V queue gets EIDRM at once.',
  ],
  options: {
    force: { type: 'boolean', short: 'f', help: 'never ask; a queue that is not there is no error' },
    stale: { type: 'boolean', help: 'all System V queues whose last sender and receiver have both ended' },
    ...JSON_OPTION,
  },
  examples: [
    ["kmq rm /orders '#3'", 'two queues'],
    ['kmq rm --stale', 'what processes left behind'],
  ],
  async run({ operands, options }) {
    if ((operands.length === 0) !== (options.stale === true))
      throw new UsageError('expected either QUEUE... or --stale')
    const names = options.stale === true ? await staleQueues() : operands
    const targets = names.map(parseTarget)
    const removed: string[] = []
    let failed = false
    for (const target of targets) {
      try {
        if (options.force !== true && isInteractive() && !(await isSure(target))) continue
        remove(target)
        removed.push(target.text)
        if (options.json !== true) await print(target.text)
      } catch (error) {
        if (options.force === true && GONE.includes((error as QueueError).code)) continue
        failed = true
        complain('kmq rm', error, options.json)
      }
    }
    if (options.json === true) await printJson({ removed })
    return failed ? EXIT.failure : 0
  },
})

/** By their identifiers: a key may have been given to another queue by now. */
async function staleQueues(): Promise<string[]> {
  const { rows } = await listQueues()
  return rows.filter(({ stale }) => stale).map(({ id }) => `#${id}`)
}

async function isSure(target: Target): Promise<boolean> {
  const count = countOf(target)
  return count === 0 || confirm(`Remove ${target.text} with ${count ?? 'an unknown number of'} messages in it?`)
}

function remove(target: Target): void {
  if (target.family === 'posix') PosixQueue.unlink(target.name)
  else openSysv(target).remove()
}
