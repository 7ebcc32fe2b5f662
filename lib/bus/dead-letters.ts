// The dead letters of a queue: a queue of their own, with tools to look at them and to send them back.
import { setTimeout as sleep } from 'node:timers/promises'
import { checkInteger, checkOptions, outOfRange } from '../errors.ts'
import { decode } from './body.ts'
import type { Codecs } from './codecs.ts'
import { DEAD, deadOf, isPassing, type Settler } from './message.ts'
import { BUS_BATCH, type Delivery, demand, type Outgoing, type Transport, withoutOwn } from './transport.ts'

export interface DeadLetter {
  readonly id: string
  /** What was sent; undefined if that cannot be read. */
  readonly body: unknown
  readonly key: string | undefined
  /** Those it was sent with. */
  readonly headers: Readonly<Record<string, string>>
  readonly sentAt: Date
  readonly diedAt: Date
  readonly reason: string
  /** What its handler threw last, with its stack. */
  readonly error: string | undefined
  /** How often it was handled. */
  readonly attempts: number
  /** How many consumers died over it. */
  readonly losses: number
}

export interface DeadLetterChoice {
  /** Those with these ids. Default: all. */
  ids?: Iterable<string> | undefined
  filter?: ((letter: DeadLetter) => boolean) | undefined
}

export class DeadLetters {
  readonly #queue: string
  readonly #transport: Transport
  readonly #codecs: Codecs
  readonly #settler: Settler

  /** @internal */
  constructor(
    queue: string,
    { transport, codecs, settler }: { transport: Transport; codecs: Codecs; settler: Settler },
  ) {
    this.#queue = queue
    this.#transport = transport
    this.#codecs = codecs
    this.#settler = settler
  }

  /** A page of them, the oldest first; `after` is the `next` of the page before. */
  async list(
    options: { max?: number; after?: string } = {},
  ): Promise<{ letters: DeadLetter[]; next: string | undefined }> {
    checkOptions(options)
    const { max = 100, after } = options
    checkInteger('"max" option', max, 1, BUS_BATCH)
    demand(this.#transport, 'deadLetter', 'list')
    const { deliveries, next } = await this.#transport.browse(deadOf(this.#queue), { max, after })
    return { letters: deliveries.map((delivery) => toLetter(delivery, this.#codecs)), next }
  }

  /**
   * Sends them back to their queue, as new; each is moved in one transaction (of `nats:` and `amqp:` copied, then removed).
   * `rate` is how many a second at most. Resolves to how many there were.
   */
  redrive({ rate, ...choice }: DeadLetterChoice & { rate?: number | undefined } = {}): Promise<number> {
    checkRate(rate)
    return this.#each(choice, async (delivery) => {
      // It would go without its body; one that can be read later is not passed over.
      if (isPassing(delivery.damage)) throw delivery.damage
      if (delivery.damage !== undefined) return false
      const send = [{ queue: this.#queue, message: afresh(delivery) }]
      await this.#transport.settle([{ token: delivery.token, outcome: 'ack', send }])
      if (rate !== undefined) await sleep(1000 / rate)
      return true
    })
  }

  /** Drops them. Resolves to how many there were. */
  discard(choice: DeadLetterChoice = {}): Promise<number> {
    return this.#each(choice, async ({ token }) => {
      await this.#transport.settle([{ token, outcome: 'ack' }])
      return true
    })
  }

  async #each({ ids, filter }: DeadLetterChoice, work: (delivery: Delivery) => Promise<boolean>): Promise<number> {
    demand(this.#transport, 'deadLetter', 'dead letters')
    const isChosen = chooser(ids, filter, (delivery: Delivery) => toLetter(delivery, this.#codecs))
    const others: Delivery[] = []
    let count = 0
    try {
      // Those of now: what dies again meanwhile would be sent back for ever.
      for (let left = (await this.#transport.stats(deadOf(this.#queue))).ready; left > 0; ) {
        const deliveries = await this.#take(Math.min(left, BUS_BATCH))
        if (deliveries.length === 0) break
        left -= deliveries.length
        for (const [at, delivery] of deliveries.entries()) {
          let done: boolean
          try {
            done = isChosen(delivery) && (await work(delivery))
          } catch (error) {
            others.push(...deliveries.slice(at))
            throw error
          }
          if (done) count++
          else others.push({ ...delivery, body: NOTHING })
        }
      }
      return count
    } finally {
      // Only now: they would be received again at once.
      await this.#settler.giveBack(others)
    }
  }

  #take(max: number): Promise<Delivery[]> {
    const options = {
      max,
      deadline: performance.now(),
      signal: undefined,
      lease: Number.POSITIVE_INFINITY,
      together: false,
    }
    return this.#transport.receive(deadOf(this.#queue), options)
  }
}

const NOTHING = new Uint8Array()

function withoutDeath(headers: Delivery['headers']): Record<string, string> {
  const names = new Set<string>(Object.values(DEAD))
  return Object.fromEntries(Object.entries(headers).filter(([name]) => !names.has(name)))
}

function afresh({ id, body, format, headers }: Delivery): Outgoing {
  const [key, priority] = [headers[DEAD.key], Number(headers[DEAD.priority] ?? 0)]
  return { id, body, format, key, priority, headers: withoutDeath(headers), dedup: 0, due: 0, expires: 0 }
}

export function checkRate(rate: number | undefined): void {
  if (rate !== undefined && !(rate > 0)) throw outOfRange('"rate" option', 'a number of messages a second > 0', rate)
}

/** Whether a message is one of those that are meant. */
export function chooser<D extends Delivery, V>(
  ids: Iterable<string> | undefined,
  filter: ((view: V) => boolean) | undefined,
  toView: (delivery: D) => V,
): (delivery: D) => boolean {
  const chosen = ids === undefined ? undefined : new Set(ids)
  return (delivery) => (chosen?.has(delivery.id) ?? true) && (filter?.(toView(delivery)) ?? true)
}

/** What was sent; undefined if that cannot be read. */
export function bodyOf(delivery: Delivery, codecs: Codecs): unknown {
  if (delivery.damage !== undefined) return undefined
  try {
    return decode(codecs.decode(delivery.body, delivery.headers, delivery.format), delivery.format)
  } catch {
    // That may be what it died of.
    return undefined
  }
}

function toLetter(delivery: Delivery, codecs: Codecs): DeadLetter {
  const { id, headers, sentAt } = delivery
  return {
    id,
    body: bodyOf(delivery, codecs),
    key: headers[DEAD.key],
    headers: withoutOwn(withoutDeath(headers)),
    sentAt: new Date(sentAt),
    diedAt: new Date(Number(headers[DEAD.at])),
    reason: headers[DEAD.reason] ?? 'unknown',
    error: headers[DEAD.error],
    attempts: Number(headers[DEAD.attempts]),
    losses: Number(headers[DEAD.losses]),
  }
}
