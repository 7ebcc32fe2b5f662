import ms from 'ms'
import { type Command, JSON_OPTION } from '../command.ts'
import { matcher } from '../ls.ts'
import { print, printJson, style, table } from '../terminal.ts'
import { defineBusCommand } from './connection.ts'
import { type Figures, figuresOf } from './figures.ts'

export const ls: Command = defineBusCommand({
  name: 'ls',
  summary: 'list the queues of a bus',
  operands: '[PATTERN]',
  description: [
    'Lists the queues of a bus: how many messages are ready, in the hands of consumers (leased), not due yet (delayed), behind another of their key (held), and dead letters; the bytes of the first four, and how long the oldest that is ready has waited. Of mq: and sysv: READY counts packs, of one message or more.',
    'PATTERN is part of the name, or a glob such as orders-*.',
  ],
  options: JSON_OPTION,
  examples: [
    ['kmq bus local:/var/lib/app ls', 'all queues'],
    ['kmq bus local:/var/lib/app ls --json | jq ".[] | select(.dead > 0).queue"', 'those with dead letters'],
  ],
  async prepare({ operands: [pattern], options }) {
    const isWanted = await matcher(pattern)
    return async (bus) => {
      const figures = await figuresOf(bus, (await bus.queues()).filter(isWanted))
      await (options.json === true ? printJson(figures) : print(draw(figures)))
      return 0
    }
  },
})

function draw(figures: readonly Figures[]): string {
  return table(
    ['QUEUE', 'READY', 'LEASED', 'DELAYED', 'HELD', 'DEAD', 'BYTES', 'OLDEST'],
    ['l', 'r', 'r', 'r', 'r', 'r', 'r', 'r'],
    figures.map(({ queue, ready, leased, delayed, held, dead, bytes, age }) => [
      queue,
      ...[ready, leased, delayed, held].map(String),
      dead > 0 ? style.yellow(String(dead)) : '0',
      String(bytes),
      age === null ? '-' : ms(age),
    ]),
  )
}
