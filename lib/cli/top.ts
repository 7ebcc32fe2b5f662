import { setTimeout as sleep } from 'node:timers/promises'
import cliTruncate from 'cli-truncate'
import ms from 'ms'
import stringWidth from 'string-width'
import type { QueueError } from '../index.ts'
import { type Command, defineCommand } from './command.ts'
import { toInterval } from './duration.ts'
import { Flow } from './flow.ts'
import { interruptible } from './interruption.ts'
import { matcher } from './ls.ts'
import { listQueues, type Peer, type QueueRow } from './queues.ts'
import { type Key, Screen } from './screen.ts'
import { harmless, style } from './terminal.ts'

interface Entry extends QueueRow {
  readonly flow: Flow
  /** How full it is, 0 to 1. */
  readonly fill: number | undefined
}

/** What is sorted by, and which key does. */
const ORDERS = {
  name: { key: 'n', of: (entry: Entry) => entry.queue },
  depth: { key: 'd', of: (entry: Entry) => entry.messages ?? -1 },
  fill: { key: 'f', of: (entry: Entry) => entry.fill ?? -1 },
  rate: {
    key: 'r',
    of({ flow: { rates } }: Entry) {
      return rates === undefined ? -1 : rates.in + rates.out
    },
  },
  waiting: { key: 'w', of: (entry: Entry) => -(entry.flow.waitingSince ?? Number.POSITIVE_INFINITY) },
} as const

type Order = keyof typeof ORDERS

const ORDER_NAMES = Object.keys(ORDERS) as Order[]

export const top: Command = defineCommand({
  name: 'top',
  summary: 'watch queues on a full screen',
  operands: '[PATTERN]',
  description: [
    'Shows the queues of both families, again and again: how full they are, what moves, and for how long messages have waited. PATTERN is as of kmq ls.',
    'The kernel counts no messages. NET/s is by how many a second a queue grows, over five seconds. IN/s and OUT/s are the least that must have been sent and received, as its depth and the times of its last use tell at each look: a busy queue has more. WAITING is for how long it has had messages at every look; the oldest may be younger. IDLE is for how long nobody has sent or received. Only System V tells who did last.',
    'Keys: n d f r w sort by name, depth, fill, rate (the most in and out) or waiting, and again for the reverse; / filters, Esc shows all again; the space bar pauses; arrows and pages scroll; h helps; q quits.',
  ],
  options: {
    interval: { type: 'string', short: 'i', value: 'TIME', help: 'between two looks; default: 500ms' },
    sort: {
      type: 'string',
      short: 's',
      value: 'ORDER',
      choices: ORDER_NAMES,
      help: `${ORDER_NAMES.join(', ')}; default: depth`,
    },
  },
  examples: [
    ['kmq top', 'until q'],
    ["kmq top '/orders*' --sort fill", 'some of them, the fullest first'],
  ],
  async run({ operands: [pattern = ''], options }) {
    const interval = toInterval(options.interval, 500)
    const view = new View((options.sort ?? 'depth') as Order)
    await view.filter(pattern)
    return interruptible((signal) => show(view, interval, signal))
  },
})

async function show(view: View, interval: number, signal: AbortSignal): Promise<undefined> {
  const stop = new AbortController()
  const until = AbortSignal.any([signal, stop.signal])
  const screen = new Screen((columns, rows) => view.draw(columns, rows))
  const look = async () => {
    for (;;) {
      const found = view.isPaused ? undefined : await listQueues()
      if (found !== undefined && !view.isPaused) view.update(found)
      screen.draw()
      await sleep(interval, undefined, { signal: until })
    }
  }
  const obey = async () => {
    for await (const key of screen.keys(until)) {
      if (await view.press(key)) return
      screen.draw()
    }
  }
  try {
    screen.open()
    await Promise.race([look(), obey()])
  } finally {
    stop.abort()
    screen.close()
  }
}

interface Column {
  readonly title: string
  readonly align: 'l' | 'r'
  readonly width: number
  text(entry: Entry): string
}

const MIN_NAME = 14
const BAR = 10

const COUNT = new Intl.NumberFormat('en', { notation: 'compact', maximumFractionDigits: 1 })
const GROWTH = new Intl.NumberFormat('en', { notation: 'compact', maximumFractionDigits: 1, signDisplay: 'exceptZero' })

const atLeast = (rate: number | undefined): string =>
  rate === undefined ? '-' : rate === 0 ? '0' : `≥${COUNT.format(rate)}`

const since = (time: number | undefined): string =>
  time === undefined ? '-' : ms(Math.max(0, Math.floor((Date.now() - time) / 1000) * 1000)).replace(/^0ms$/, '0s')

const peer = (value: Peer | undefined): string =>
  value === undefined ? '-' : `${value.pid} ${value.name === undefined ? '(ended)' : harmless(value.name)}`

/** Behind the name, the most important first: those that find no room are left out. */
const COLUMNS: readonly Column[] = [
  { title: 'DEPTH', align: 'l', width: BAR, text: ({ fill }) => bar(fill) },
  {
    title: 'MSGS',
    align: 'r',
    width: 6,
    text: ({ messages }) => (messages === undefined ? '-' : COUNT.format(messages)),
  },
  {
    title: 'FILL',
    align: 'r',
    width: 4,
    text: ({ fill }) => (fill === undefined ? '-' : `${Math.floor(fill * 100)}%`),
  },
  {
    title: 'NET/s',
    align: 'r',
    width: 6,
    text: ({ flow: { rates } }) => (rates === undefined ? '-' : GROWTH.format(rates.net)),
  },
  { title: 'IN/s', align: 'r', width: 6, text: ({ flow }) => atLeast(flow.rates?.in) },
  { title: 'OUT/s', align: 'r', width: 6, text: ({ flow }) => atLeast(flow.rates?.out) },
  { title: 'WAITING', align: 'r', width: 7, text: ({ flow }) => since(flow.waitingSince) },
  { title: 'IDLE', align: 'r', width: 4, text: ({ usedAt }) => since(usedAt?.getTime()) },
  { title: 'LAST SENDER', align: 'l', width: 23, text: ({ lastSender }) => peer(lastSender) },
  { title: 'LAST RECEIVER', align: 'l', width: 23, text: ({ lastReceiver }) => peer(lastReceiver) },
]

function bar(fill: number | undefined): string {
  if (fill === undefined) return ''
  const full = Math.round(Math.min(fill, 1) * BAR)
  const color = fill >= 0.9 ? style.red : fill >= 0.6 ? style.yellow : style.green
  // Not empty is seen, however little it is.
  const cells = fill > 0 ? Math.max(full, 1) : 0
  return color('█'.repeat(cells)) + style.dim('░'.repeat(BAR - cells))
}

function cell(text: string, width: number, align: Column['align']): string {
  const short = cliTruncate(text, width)
  const space = ' '.repeat(Math.max(0, width - stringWidth(short)))
  return align === 'l' ? short + space : space + short
}

const KEYS = 'q quit  / filter  n d f r w sort  space pause  h help'

const HELP = [
  'n  d  f  r  w     sort by name, depth, fill, rate, waiting; again: the reverse',
  '/                 show only names with a part, or a glob such as /orders-*',
  'Esc               show all again',
  'space             pause, and go on',
  'up, down, pages   scroll',
  'q                 quit',
  '',
  'NET/s             by how many messages a second it grows, over five seconds',
  'IN/s, OUT/s       the least that must have been sent and received: the kernel',
  '                  counts no messages, and a busy queue has more',
  'WAITING           for how long it has had messages at every look',
  'IDLE              for how long nobody has sent or received',
  'LAST SENDER       and receiver: the kernel knows them of System V only',
  '',
  'Any key goes back.',
]

class View {
  isPaused = false
  #order: Order
  #isReverse = false
  #pattern = ''
  #isWanted: (name: string) => boolean = () => true
  #isTyping = false
  #isHelping = false
  #entries: readonly Entry[] = []
  #errors: readonly QueueError[] = []
  #hasLooked = false
  /** How many rows are above the screen, and how many fit on it. */
  #above = 0
  #page = 1

  constructor(order: Order) {
    this.#order = order
  }

  update({ rows, errors }: { rows: readonly QueueRow[]; errors: readonly QueueError[] }): void {
    const flows = new Map(this.#entries.map((entry) => [identityOf(entry), entry.flow]))
    const at = performance.now()
    const now = Date.now()
    this.#entries = rows.map((row) => {
      const flow = flows.get(identityOf(row)) ?? new Flow()
      flow.look(row, at, now)
      return { ...row, flow, fill: fillOf(row) }
    })
    this.#errors = errors
    this.#hasLooked = true
  }

  async filter(pattern: string): Promise<void> {
    this.#pattern = pattern
    this.#isWanted = await matcher(pattern === '' ? undefined : pattern)
  }

  /** True if it was the last one. */
  async press(key: Key): Promise<boolean> {
    if (this.#isHelping) this.#isHelping = false
    else if (this.#isTyping) await this.#type(key)
    else if (key.name === 'q' && !key.ctrl && !key.meta) return true
    else await this.#command(key)
    return false
  }

  async #type({ name, sequence, ctrl, meta }: Key): Promise<void> {
    if (name === 'return' || name === 'enter') this.#isTyping = false
    else if (name === 'escape') await this.#showAll()
    else if (ctrl && name === 'u') await this.filter('')
    else if (name === 'backspace') await this.filter([...this.#pattern].slice(0, -1).join(''))
    else if (!ctrl && !meta && /^\P{C}+$/u.test(sequence)) await this.filter(this.#pattern + sequence)
  }

  async #showAll(): Promise<void> {
    this.#isTyping = false
    await this.filter('')
  }

  async #command({ name, sequence }: Key): Promise<void> {
    const order = ORDER_NAMES.find((name) => ORDERS[name].key === sequence)
    if (order !== undefined) {
      this.#isReverse = order === this.#order && !this.#isReverse
      this.#order = order
      this.#above = 0
    } else if (sequence === '/') this.#isTyping = true
    else if (name === 'escape') await this.#showAll()
    else if (name === 'space' || sequence === 'p') this.isPaused = !this.isPaused
    else if (sequence === 'h' || sequence === '?') this.#isHelping = true
    else if (name === 'up') this.#above--
    else if (name === 'down') this.#above++
    else if (name === 'pageup') this.#above -= this.#page
    else if (name === 'pagedown') this.#above += this.#page
    else if (name === 'home') this.#above = 0
    else if (name === 'end') this.#above = this.#entries.length
  }

  draw(columns: number, rows: number): string[] {
    if (this.#isHelping) return HELP.map((line) => cliTruncate(line, columns))
    const shown = this.#sorted()
    const errors = this.#errors.map(({ message }) => style.red(cliTruncate(harmless(message), columns)))
    const around = [this.#title(shown.length), ...errors]
    this.#page = Math.max(1, rows - around.length - 2)
    this.#above = Math.max(0, Math.min(this.#above, shown.length - this.#page))
    const body = this.#table(shown, columns).slice(0, this.#page + 1)
    const lines = [...around.map((line) => cliTruncate(line, columns)), ...body]
    const bottom = this.#isTyping ? `filter: ${this.#pattern}${style.inverse(' ')}` : style.dim(KEYS)
    while (lines.length < rows - 1) lines.push('')
    return [...lines.slice(0, Math.max(0, rows - 1)), cliTruncate(bottom, columns)]
  }

  #title(shown: number): string {
    const { length } = this.#entries
    const parts = [
      `${style.bold('kmq top')}  ${this.#pattern === '' ? length : `${shown} of ${length}`} queues`,
      ...(this.#pattern === '' ? [] : [`filter ${harmless(this.#pattern)}`]),
      `by ${this.#order}${this.#isReverse ? ', reversed' : ''}`,
      ...(this.isPaused ? [style.yellow('paused')] : []),
    ]
    return parts.join('  ')
  }

  /** The header and the rows from the first one on the screen. */
  #table(shown: readonly Entry[], columns: number): string[] {
    const fixed = COLUMNS.filter((_, index) => MIN_NAME + widthOf(COLUMNS.slice(0, index + 1)) <= columns)
    const longest = Math.max(MIN_NAME, ...shown.map((entry) => stringWidth(harmless(entry.queue))))
    const name = Math.min(longest, Math.max(columns - widthOf(fixed), 1))
    const line = (first: string, rest: (column: Column) => string) =>
      // Names often differ at their ends only.
      [
        cell(cliTruncate(first, name, { position: 'middle' }), name, 'l'),
        ...fixed.map((column) => cell(rest(column), column.width, column.align)),
      ].join('  ')
    const header = line('QUEUE', ({ title }) => title)
    return [
      style.inverse(header + ' '.repeat(Math.max(0, columns - stringWidth(header)))),
      ...(shown.length === 0 && this.#hasLooked ? [style.dim(cliTruncate(this.#nothing(), columns))] : []),
      ...shown.slice(this.#above).map((entry) => line(harmless(entry.queue), (column) => column.text(entry))),
    ]
  }

  #nothing(): string {
    return this.#pattern === '' ? 'There are no queues.' : 'No queue has such a name; Esc shows all.'
  }

  #sorted(): Entry[] {
    const { of } = ORDERS[this.#order]
    // Of numbers the largest come first.
    const direction = (this.#order === 'name') === this.#isReverse ? -1 : 1
    const compare = (a: string | number, b: string | number) => (a < b ? -direction : a > b ? direction : 0)
    const wanted = this.#entries.filter((entry) => this.#isWanted(entry.queue))
    return wanted.sort((a, b) => compare(of(a), of(b)) || (a.queue < b.queue ? -1 : 1))
  }
}

const widthOf = (columns: readonly Column[]): number => columns.reduce((sum, { width }) => sum + 2 + width, 0)

/** A key is given to another queue when its queue is removed. */
const identityOf = ({ queue, id }: QueueRow): string => (id === undefined ? queue : `#${id}`)

function fillOf({ messages, maxMessages, bytes, maxBytes }: QueueRow): number | undefined {
  const [used, limit] = maxMessages === undefined ? [bytes, maxBytes] : [messages, maxMessages]
  return used === undefined || limit === undefined || limit === 0 ? undefined : used / limit
}
