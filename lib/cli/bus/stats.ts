import ms from 'ms'
import type { Bus } from '../../bus/index.ts'
import { type Command, JSON_OPTION } from '../command.ts'
import { toInterval } from '../duration.ts'
import { UsageError } from '../errors.ts'
import { print, printJson, style, write } from '../terminal.ts'
import { watch } from '../watch.ts'
import { defineBusCommand, findQueue } from './connection.ts'
import { type Figures, figuresOf } from './figures.ts'

export const stats: Command = defineBusCommand({
  name: 'stats',
  summary: 'all figures of the queues of a bus',
  operands: '[QUEUE]',
  description: [
    'Tells what is in a queue, or in all: as kmq bus ls does, one figure a line. What the programs of a bus have done with it only they know: their own stats() and metrics().',
  ],
  options: {
    watch: { type: 'boolean', short: 'w', help: 'show them again and again' },
    interval: { type: 'string', short: 'i', value: 'TIME', help: 'between two looks; default: 1s' },
    prometheus: { type: 'boolean', help: 'of all queues, in the text format of Prometheus' },
    ...JSON_OPTION,
  },
  examples: [
    ['kmq bus local:/var/lib/app stats mail', 'of one queue'],
    ['kmq bus local:/var/lib/app stats --watch --json', 'one line of JSON a second'],
    ['kmq bus local:/var/lib/app stats --prometheus > app.prom', 'for the node exporter'],
  ],
  prepare({ operands: [queue], options }) {
    const interval = toInterval(options.interval, 1000)
    if (options.prometheus === true) {
      const others = [queue, options.watch, options.json].some((other) => other !== undefined)
      if (others) throw new UsageError('--prometheus stands alone: it is of all queues, once')
      return async (bus) => {
        await write(await bus.metrics())
        return 0
      }
    }
    return async (bus, signal) => {
      if (queue !== undefined) await findQueue(bus, queue)
      const look = () => lookAt(bus, queue)
      if (options.watch === true) {
        const draw = async () => (options.json === true ? JSON.stringify(await look()) : drawAll(await look()))
        return watch(draw, interval, signal)
      }
      const figures = await look()
      await (options.json === true ? printJson(figures) : print(drawAll(figures)))
      return 0
    }
  },
})

/** Of one queue it is one object, of all an array. */
async function lookAt(bus: Bus, queue: string | undefined): Promise<Figures | Figures[] | undefined> {
  if (queue === undefined) return figuresOf(bus, await bus.queues())
  return (await figuresOf(bus, [queue]))[0]
}

function drawAll(figures: Figures | readonly Figures[] = []): string {
  return [figures].flat().map(draw).join('\n\n')
}

function draw({ queue, age, oldest, ...counts }: Figures): string {
  const since = oldest === null ? '-' : `${oldest} (${ms(age ?? 0)})`
  const lines = [...Object.entries(counts), ['oldest', since]]
  return [style.bold(queue), ...lines.map(([name, value]) => `  ${String(name).padEnd(9)}${value}`)].join('\n')
}
