// What was acknowledged in a queue, as long as the queue keeps it: to look at, and to send again.
import { randomUUID } from 'node:crypto'
import { setTimeout as sleep, setImmediate as turn } from 'node:timers/promises'
import { checkInteger, checkOptions, invalidType } from '../errors.ts'
import type { Codecs } from './codecs.ts'
import { bodyOf, checkRate, chooser } from './dead-letters.ts'
import { isPassing, STOP } from './message.ts'
import { RPC } from './replies.ts'
import { BUS_BATCH, type Outgoing, type Past, type SendOptions, type Transport, withoutOwn } from './transport.ts'

export interface HistoryEntry {
  readonly id: string
  /** What was sent; undefined if that cannot be read. */
  readonly body: unknown
  readonly key: string | undefined
  readonly priority: number
  readonly headers: Readonly<Record<string, string>>
  readonly sentAt: Date
  readonly acknowledgedAt: Date
}

export interface ReplayOptions {
  /** Those with these ids. Default: all. */
  ids?: Iterable<string> | undefined
  filter?: ((entry: HistoryEntry) => boolean) | undefined
  /** Those that were acknowledged at this time or later. */
  from?: Date | undefined
  /** Those that were acknowledged at this time or earlier. */
  to?: Date | undefined
  /** How many messages a second at most. */
  rate?: number | undefined
  /** The name of the queue to send them to. Default: the one they were in. */
  queue?: string | undefined
}

/** What a history needs of its queue. */
export interface HistoryContext {
  readonly transport: Transport
  readonly codecs: Codecs
  readonly send: SendOptions
  /** What the queue of a name is called in the transport. */
  nameOf(queue: string): string
  /** Comes before all that is asked of the queue. */
  declare(): Promise<unknown> | undefined
}

/** The header of a message that was sent again: the id of the one that was acknowledged. */
const REPLAY_OF = 'replay-of'

/** Entries that are in memory at a time: their bodies may be large. */
const PAGE = 50

export class History {
  readonly #queue: string
  readonly #context: HistoryContext

  /** @internal */
  constructor(queue: string, context: HistoryContext) {
    this.#queue = queue
    this.#context = context
  }

  /** A page, in the order of acknowledgement; `after` is the `next` of the page before. */
  async list(
    options: { max?: number; after?: string } = {},
  ): Promise<{ entries: HistoryEntry[]; next: string | undefined }> {
    checkOptions(options)
    const { max = 100, after } = options
    checkInteger('"max" option', max, 1, BUS_BATCH)
    const { transport, codecs } = this.#context
    await this.#context.declare()
    const { deliveries, next } = await transport.history(this.#queue, { max, after, until: undefined })
    return { entries: deliveries.map((past) => toEntry(past, codecs)), next }
  }

  /**
   * Sends them again, as new messages in the order of acknowledgement, each with a new id and its old one in the header
   * `replay-of`. Not those that are acknowledged meanwhile, nor those that the queue does not keep so long. Resolves to
   * how many were sent.
   *
   * @throws {QueueError} as {@link Queue.send}; those before have been sent
   */
  async replay(options: ReplayOptions = {}): Promise<number> {
    checkOptions(options)
    const { ids, filter, from, to, rate, queue } = options
    checkRate(rate)
    for (const [what, date] of Object.entries({ from, to })) checkDate(what, date)
    const { transport, codecs, send, nameOf } = this.#context
    const target = queue === undefined ? this.#queue : nameOf(queue)
    const isChosen = chooser(ids, filter, (past: Past) => toEntry(past, codecs))
    await this.#context.declare()
    let [count, after, until]: [number, string | undefined, string | undefined] = [0, undefined, undefined]
    do {
      const page = await transport.history(this.#queue, { max: PAGE, after, until })
      until ??= page.last
      for (const past of page.deliveries) {
        const { acknowledgedAt: at, damage, headers } = past
        // It can be read later.
        if (isPassing(damage)) throw damage
        // It would go without its body, or stop a consumer.
        if (damage !== undefined || headers[STOP] !== undefined) continue
        if (at < Number(from ?? 0) || at > Number(to ?? at) || !isChosen(past)) continue
        await transport.send([{ queue: target, message: again(past) }], send)
        count++
        if (rate !== undefined) await sleep(1000 / rate)
      }
      after = page.next
      // Sending alone never leaves the loop to others.
      await turn()
    } while (after !== undefined)
    return count
  }
}

function checkDate(name: string, date: unknown): void {
  if (date === undefined || (date instanceof Date && !Number.isNaN(date.getTime()))) return
  throw invalidType(`"${name}" option`, 'a valid Date', date)
}

/** Whoever asked for a reply has it. */
function again({ id, body, format, key, priority, headers }: Past): Outgoing {
  const { [RPC.replyTo]: _, [RPC.replyId]: __, [RPC.deadline]: ___, ...rest } = headers
  const about = { ...rest, [REPLAY_OF]: id }
  return { id: randomUUID(), body, format, key, priority, headers: about, dedup: 0, due: 0, expires: 0 }
}

function toEntry(past: Past, codecs: Codecs): HistoryEntry {
  const { id, key, priority, headers, sentAt, acknowledgedAt } = past
  return {
    id,
    body: bodyOf(past, codecs),
    key,
    priority,
    headers: withoutOwn(headers),
    sentAt: new Date(sentAt),
    acknowledgedAt: new Date(acknowledgedAt),
  }
}
