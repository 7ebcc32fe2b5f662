import { type Command, defineCommand, JSON_OPTION } from './command.ts'
import { EXIT } from './errors.ts'
import { countOf, openTarget, parseTarget, type Target } from './target.ts'
import { complain, confirm, isInteractive, print, printJson } from './terminal.ts'

export const purge: Command = defineCommand({
  name: 'purge',
  summary: 'throw away the messages of queues',
  operands: 'QUEUE...',
  description: [
    'Receives and throws away as many messages as are in each QUEUE when it begins. On a terminal it asks first.',
  ],
  options: {
    force: { type: 'boolean', short: 'f', help: 'do not ask' },
    ...JSON_OPTION,
  },
  examples: [['kmq purge /orders', 'empties it']],
  async run({ operands, options }) {
    const purged: { queue: string; messages: number }[] = []
    let failed = false
    for (const target of operands.map(parseTarget)) {
      try {
        const messages = countOf(target) ?? Number.POSITIVE_INFINITY
        const asks = options.force !== true && messages > 0 && isInteractive()
        if (asks && !(await confirm(`Throw away ${messages} messages of ${target.text}?`))) continue
        const gone = await drain(target, messages)
        purged.push({ queue: target.text, messages: gone })
        if (options.json !== true)
          await print(`${target.text}: ${gone} ${gone === 1 ? 'message' : 'messages'} thrown away`)
      } catch (error) {
        failed = true
        complain('kmq purge', error, options.json)
      }
    }
    if (options.json === true) await printJson(purged)
    return failed ? EXIT.failure : 0
  },
})

async function drain(target: Target, most: number): Promise<number> {
  const queue = openTarget(target, { access: 'read' })
  let gone = 0
  while (gone < most) {
    const batch = queue.tryReceiveMany(Math.min(most - gone, 256))
    if (batch.length === 0) break
    gone += batch.length
  }
  await queue.close()
  return gone
}
