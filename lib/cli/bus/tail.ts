import { setTimeout as sleep } from 'node:timers/promises'
import type { Bus, HistoryEntry, Queue, QueuedMessage } from '../../bus/index.ts'
import { type Command, JSON_OPTION, toInteger } from '../command.ts'
import { toInterval } from '../duration.ts'
import { UsageError } from '../errors.ts'
import { note, print, printJson } from '../terminal.ts'
import { defineBusCommand, findQueue } from './connection.ts'
import { oneLine, preview, toJson } from './messages.ts'

export const tail: Command = defineBusCommand({
  name: 'tail',
  summary: 'show what comes',
  operands: '[QUEUE]',
  description: [
    'Of a topic (--topic) it shows each message that is published from now on: it subscribes for as long as it runs, and takes nothing away from anybody.',
    'Of a QUEUE it shows what it sees of it without taking it, by looking again and again. It misses what is handled between two looks, unless the queue keeps a history; and it reads the whole queue each time, which is for short ones: it takes care not to be at it for more than a fifth of the time.',
  ],
  options: {
    topic: { type: 'string', short: 't', value: 'PATTERN', help: 'words with dots; * is one word, # any number' },
    count: { type: 'string', short: 'n', value: 'N', help: 'ends after so many' },
    all: { type: 'boolean', short: 'a', help: 'of a queue, what is there already, too' },
    interval: { type: 'string', short: 'i', value: 'TIME', help: 'of a queue, between two looks; default: 500ms' },
    ...JSON_OPTION,
  },
  examples: [
    ["kmq bus local:/var/lib/app tail --topic 'orders.#'", 'until Ctrl-C'],
    ['kmq bus local:/var/lib/app tail mail --json', 'one line of JSON for each'],
  ],
  prepare({ operands: [name], options: { topic, count, all, interval, json } }) {
    if ((name === undefined) === (topic === undefined)) throw new UsageError('expected a QUEUE, or --topic PATTERN')
    if (topic !== undefined && (all ?? interval) !== undefined)
      throw new UsageError('--all and --interval are for a QUEUE: a topic keeps nothing, and tells at once')
    const most = toInteger('count', count, 1, 1e9) ?? Number.POSITIVE_INFINITY
    const pause = toInterval(interval, 500)
    const show = (message: Seen) => (json === true ? printJson(toJson(message), true) : print(line(message)))
    return async (bus, signal) => {
      if (topic !== undefined) await follow(bus, topic, most, show, signal)
      else {
        const hasHistory = bus.capabilities.replay !== false
        await watch(await findQueue(bus, name ?? ''), { isNew: all === true, hasHistory, most, pause, show, signal })
      }
      return 0
    }
  },
})

type Seen = Pick<QueuedMessage, 'id' | 'body' | 'key' | 'priority' | 'headers' | 'sentAt'>

type Show = (message: Seen) => Promise<void>

function line({ id, key, sentAt, body }: Seen): string {
  return [sentAt.toISOString(), oneLine(id), ...(key === undefined ? [] : [`[${oneLine(key)}]`]), preview(body)].join(
    ' ',
  )
}

/** A subscription of its own, which ends with it. */
async function follow(bus: Bus, topic: string, most: number, show: Show, signal: AbortSignal): Promise<void> {
  let left = most
  let wrong: unknown
  const done = new AbortController()
  const consumer = await bus.topic(topic).subscribe(
    undefined,
    async ({ id, body, key, priority, headers, sentAt }) => {
      if (left-- <= 0) return
      try {
        await show({ id, body, key, priority, headers, sentAt })
      } catch (error) {
        // Trying again would tell nobody.
        wrong = error
        left = 0
      }
      if (left === 0) done.abort()
    },
    { signal: AbortSignal.any([signal, done.signal]) },
  )
  if (process.stderr.isTTY) note(`what is published to ${topic} from now on; Ctrl-C ends`)
  await consumer.closed.catch((error) => {
    if (!done.signal.aborted) throw error
  })
  if (wrong !== undefined) throw wrong
}

interface Watching {
  /** What is there at the first look is shown. */
  readonly isNew: boolean
  readonly hasHistory: boolean
  readonly most: number
  readonly pause: number
  readonly show: Show
  readonly signal: AbortSignal
}

/** The most in one page. */
const PAGE = 100

/** Of what has gone: a message may come back after a while. */
const REMEMBERED = 100_000

/** An id may be used again. */
const nameOf = ({ id, sentAt }: Seen): string => `${sentAt.getTime()}/${id}`

async function watch(queue: Queue, { isNew, hasHistory, most, pause, show, signal }: Watching): Promise<void> {
  const seen = new Set<string>()
  let [left, place] = [most, undefined as string | undefined]

  const isFresh = (message: Seen): boolean => {
    const name = nameOf(message)
    const isKnown = seen.delete(name)
    // The last that was seen is forgotten last.
    seen.add(name)
    return !isKnown
  }

  const showAll = async (messages: readonly Seen[]): Promise<void> => {
    for (const { id, body, key, priority, headers, sentAt } of messages) {
      if (left-- > 0) await show({ id, body, key, priority, headers, sentAt })
    }
  }

  const readHistory = async (use: (entries: readonly Seen[]) => Promise<void>): Promise<void> => {
    if (!hasHistory) return
    for await (const { entries, at } of historyOf(queue, place)) {
      place = at
      await use(entries.filter(isFresh))
    }
  }

  if (process.stderr.isTTY) note(`what can be seen of ${queue.name} from now on; Ctrl-C ends`)
  await readHistory(async () => {})
  for await (const messages of messagesOf(queue)) {
    const fresh = messages.filter(isFresh)
    if (isNew) await showAll(fresh)
    if (left <= 0) return
  }
  for (let took = 0; left > 0; ) {
    await sleep(Math.max(pause, 4 * took), undefined, { signal })
    const began = performance.now()
    const waiting: QueuedMessage[] = []
    let present = 0
    for await (const messages of messagesOf(queue)) {
      present += messages.length
      waiting.push(...messages.filter((message) => !seen.has(nameOf(message))))
    }
    took = performance.now() - began
    // What is gone came before what is there.
    await readHistory(showAll)
    await showAll(waiting.filter(isFresh))
    const excess = seen.size - present - REMEMBERED
    if (excess > 0) for (const name of [...seen].slice(0, excess)) seen.delete(name)
  }
}

async function* messagesOf(queue: Queue): AsyncGenerator<QueuedMessage[]> {
  let after: string | undefined
  do {
    const { messages, next } = await queue.browse({ max: PAGE, ...(after !== undefined && { after }) })
    yield messages
    after = next
  } while (after !== undefined)
}

/** From a place on; `at` is that of the page, which is read again: there may be more on it then. */
async function* historyOf(
  queue: Queue,
  place: string | undefined,
): AsyncGenerator<{ entries: HistoryEntry[]; at: string | undefined }> {
  let after = place
  do {
    const { entries, next } = await queue.history.list({ max: PAGE, ...(after !== undefined && { after }) })
    yield { entries, at: after }
    after = next
  } while (after !== undefined)
}
