import { type Command, defineCommand, JSON_OPTION } from './command.ts'
import { EXIT } from './errors.ts'
import { listQueues, type Peer, type QueueRow } from './queues.ts'
import { complain, harmless, print, printJson, style, table } from './terminal.ts'

export const ls: Command = defineCommand({
  name: 'ls',
  summary: 'list queues of both families',
  operands: '[PATTERN]',
  description: [
    'Lists the message queues of this IPC namespace with what is in them, what they may hold, whose they are, and who used them last (the kernel knows that of System V only).',
    'PATTERN is part of the name, or a glob such as /orders-* or 0x00*. A queue is stale when the processes that sent and received last have both ended.',
  ],
  options: {
    watch: { type: 'boolean', short: 'w', help: 'show it again and again' },
    interval: { type: 'string', short: 'i', value: 'TIME', help: 'between two looks; default: 1s' },
    stale: { type: 'boolean', help: 'only stale queues' },
    ...JSON_OPTION,
  },
  examples: [
    ['kmq ls', 'all queues'],
    ["kmq ls '/orders*'", 'POSIX queues whose name begins so'],
    ['kmq ls --watch', 'until Ctrl-C'],
    ['kmq ls --json | jq -r ".[].queue"', 'their names'],
  ],
  async run({ operands: [pattern], options }) {
    const isWanted = await matcher(pattern)
    const look = async () => {
      const { rows, errors } = await listQueues()
      const wanted = rows.filter((row) => isWanted(row.queue) && (row.stale || options.stale !== true))
      return { wanted, errors }
    }
    if (options.watch === true) {
      const { toInterval } = await import('./duration.ts')
      const { interruptible } = await import('./interruption.ts')
      const { watch } = await import('./watch.ts')
      const interval = toInterval(options.interval, 1000)
      return interruptible((signal) => watch(async () => draw((await look()).wanted, options.json), interval, signal))
    }
    const { wanted, errors } = await look()
    if (options.json === true) await printJson(wanted)
    else await print(draw(wanted))
    for (const error of errors) complain('kmq ls', error, options.json)
    return errors.length > 0 ? EXIT.failure : 0
  },
})

/** What a pattern means: a glob, or a part. */
export async function matcher(pattern: string | undefined): Promise<(name: string) => boolean> {
  if (pattern === undefined) return () => true
  if (!/[*?[\]{}!]/.test(pattern)) return (name) => name.includes(pattern)
  const { default: picomatch } = await import('picomatch')
  const matches = picomatch(pattern, { dot: true })
  return (name) => matches(name)
}

function draw(rows: readonly QueueRow[], asJson = false): string {
  if (asJson) return JSON.stringify(rows)
  return table(
    ['QUEUE', 'MESSAGES', 'MAX', 'BYTES', 'LIMIT', 'OWNER', 'MODE', 'LAST SENDER', 'LAST RECEIVER', ''],
    ['l', 'r', 'r', 'r', 'r', 'l', 'l', 'l', 'l', 'l'],
    rows.map((row) => [
      harmless(row.queue),
      number(row.messages),
      number(row.maxMessages),
      number(row.bytes),
      number(row.maxBytes),
      row.owner,
      row.mode,
      peer(row.lastSender),
      peer(row.lastReceiver),
      row.stale ? style.yellow('stale') : '',
    ]),
  )
}

const number = (value: number | undefined): string => (value === undefined ? '-' : String(value))

const peer = (value: Peer | undefined): string =>
  value === undefined ? '-' : `${value.pid} ${value.name === undefined ? style.dim('(ended)') : harmless(value.name)}`
