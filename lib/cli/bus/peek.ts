import type { Queue, QueuedMessage } from '../../bus/index.ts'
import { type Command, JSON_OPTION, toInteger } from '../command.ts'
import { note, print, printJson, table } from '../terminal.ts'
import { defineBusCommand, findQueue } from './connection.ts'
import { oneLine, preview, SHORT, toJson } from './messages.ts'

export const peek: Command = defineBusCommand({
  name: 'peek',
  summary: 'show messages without taking them',
  operands: 'QUEUE',
  description: [
    'Shows what is in a queue, in the order in which it is received, and leaves it there. What consumers have in hand is shown, too; what is not due yet or is behind another of its key is not, but counted on stderr.',
  ],
  options: {
    count: { type: 'string', short: 'n', value: 'N', help: 'so many at most; default: 10' },
    ...JSON_OPTION,
  },
  examples: [
    ['kmq bus local:/var/lib/app peek mail', 'the first ten'],
    ['kmq bus local:/var/lib/app peek mail -n1 --json', 'all of the first'],
  ],
  prepare({ operands: [name = ''], options }) {
    const count = toInteger('count', options.count, 1, 1e6) ?? 10
    return async (bus) => {
      const queue = await findQueue(bus, name)
      const messages = await browse(queue, count)
      if (options.json === true) {
        await printJson(messages.map(toJson))
        return 0
      }
      await print(draw(messages))
      const { delayed, held } = await queue.stats()
      if (delayed + held > 0) note(`not shown: ${delayed} that are not due yet, ${held} behind others of their key`)
      return 0
    }
  },
})

/** The most in one page. */
const PAGE = 100

async function browse(queue: Queue, count: number): Promise<QueuedMessage[]> {
  const all: QueuedMessage[] = []
  let after: string | undefined
  do {
    const max = Math.min(count - all.length, PAGE)
    const page = await queue.browse({ max, ...(after !== undefined && { after }) })
    all.push(...page.messages)
    after = page.next
  } while (after !== undefined && all.length < count)
  return all
}

function draw(messages: readonly QueuedMessage[]): string {
  return table(
    ['ID', 'PRIORITY', 'KEY', 'SENT', 'ATTEMPTS', 'BODY'],
    ['l', 'r', 'l', 'l', 'r', 'l'],
    messages.map(({ id, priority, key = '-', sentAt, attempts, body }) => [
      oneLine(id),
      String(priority),
      oneLine(key),
      sentAt.toISOString(),
      String(attempts),
      preview(body, SHORT),
    ]),
  )
}
