// Takes messages from a queue of a bus, sends each to the other end, and acknowledges what is confirmed there.
import { setTimeout as sleep } from 'node:timers/promises'
import type { Message, Queue } from '../bus/index.ts'
import type { Route } from './config.ts'
import { backOff, type End, type Reporter } from './counters.ts'
import { filterOf, map, type Parcel } from './mapping.ts'
import type { Sink } from './sink.ts'

/** What a mover needs of its route. */
export interface Ends {
  /** Which end of the route it takes from. */
  readonly from: End
  /** Where it takes from; opens it if that has to be done. */
  source(signal: AbortSignal): Promise<Queue>
  sink(signal: AbortSignal): Promise<Sink>
  /** Something was acknowledged. */
  settled(): void
}

/** A message in hand; without a parcel nobody wants it. */
interface Work {
  readonly message: Message
  readonly parcel: Parcel | undefined
}

interface Wanted extends Work {
  readonly parcel: Parcel
}

/** Milliseconds of a rate that are sent at once. */
const BURST = 100

export class Mover {
  readonly #route: Route
  readonly #ends: Ends
  readonly #reporter: Reporter
  readonly #isWanted: (message: Message) => boolean
  readonly #lanes: Work[][]
  readonly #running = new Set<Promise<void>>()
  /** Aborted when no more is to be taken. */
  readonly #stop: AbortSignal
  /** Aborted when what is in hand is to be given back. */
  readonly #over: AbortSignal
  /** What comes behind a message that is given back does not overtake it. */
  #givesBack = false
  #inHand = 0
  #handFreed = () => {}
  #turn = 0
  #next = 0

  constructor(route: Route, ends: Ends, reporter: Reporter, stop: AbortSignal, over: AbortSignal) {
    this.#route = route
    this.#ends = ends
    this.#reporter = reporter
    this.#isWanted = filterOf(route.filter)
    this.#lanes = Array.from({ length: route.concurrency }, () => [])
    this.#stop = stop
    this.#over = over
  }

  get inHand(): number {
    return this.#inHand
  }

  /** Resolves when it is stopped and nothing is in its hands any more. */
  async run(): Promise<void> {
    for (let attempts = 0; !this.#stop.aborted; ) {
      try {
        const room = await this.#room()
        if (this.#stop.aborted) break
        const source = await this.#ends.source(this.#stop)
        this.#reporter.up(this.#ends.from)
        this.#take(await source.receive({ max: room, signal: this.#stop }))
        attempts = 0
        await this.#pace()
      } catch (error) {
        if (this.#stop.aborted) break
        this.#reporter.down(this.#ends.from, error)
        await backOff(++attempts, this.#route.retry, this.#stop)
      }
    }
    while (this.#running.size > 0) await Promise.all(this.#running)
  }

  /** How many may be taken: as many again as are on their way wait behind those, so that nobody waits for the next. */
  async #room(): Promise<number> {
    const { batch, concurrency, rate } = this.#route
    const most = 2 * batch * concurrency
    while (this.#inHand > most - batch && !this.#stop.aborted) {
      await new Promise<void>((resolve) => {
        this.#handFreed = resolve
      })
    }
    return Math.max(Math.min(batch, Math.floor((rate * BURST) / 1000)), 1)
  }

  /** No more is to be taken. */
  wake(): void {
    this.#handFreed()
  }

  /** Of the messages that were taken, so many a second. */
  async #pace(): Promise<void> {
    const wait = this.#next - performance.now()
    if (wait > 0) await sleep(wait, undefined, { signal: this.#stop }).catch(() => {})
  }

  #take(messages: readonly Message[]): void {
    this.#reporter.counters.received += messages.length
    this.#next = Math.max(this.#next, performance.now()) + (messages.length * 1000) / this.#route.rate
    for (const message of messages) {
      const parcel = this.#isWanted(message) ? map(message, this.#route) : undefined
      this.#inHand++
      this.#assign({ message, parcel })
    }
  }

  /** Those of a key stay behind each other. */
  #assign(work: Work): void {
    const key = work.parcel?.key
    const at = key === undefined ? this.#turn++ : hashOf(key)
    const lane = this.#lanes[at % this.#lanes.length] as Work[]
    lane.push(work)
    if (lane.length > 1) return
    const running = this.#drive(lane)
    this.#running.add(running)
    void running.then(() => this.#running.delete(running))
  }

  /** A lane whose first is still in it is driven. */
  async #drive(lane: Work[]): Promise<void> {
    // What is taken in the same turn goes together.
    await null
    while (lane.length > 0) {
      const batch = lane.slice(0, this.#route.batch)
      await this.#deliver(batch)
      lane.splice(0, batch.length)
      this.#inHand -= batch.length
      this.#handFreed()
    }
  }

  async #deliver(batch: readonly Work[]): Promise<void> {
    const unwanted = batch.filter(({ parcel }) => parcel === undefined)
    await this.#settleAll(unwanted, ({ message }) => this.#refuse(message))
    let rest = batch.filter((work): work is Wanted => work.parcel !== undefined)
    let size = rest.length
    for (let attempts = 0; rest.length > 0 && !this.#givesBack && !this.#over.aborted; ) {
      const part = rest.slice(0, size)
      const { sent, error, isRefused } = await this.#send(part.map(({ parcel }) => parcel))
      await this.#settleAll(part.slice(0, sent), ({ message }) => message.ack())
      rest = rest.slice(sent)
      this.#reporter.counters.sent += sent
      if (error === undefined || sent > 0) attempts = 0
      if (error === undefined) size = rest.length
      else if (this.#over.aborted) break
      else if (isRefused && part.length - sent > 1 && mayFitAlone(error)) size = Math.ceil((part.length - sent) / 2)
      else if (isRefused && isOfMessage(error)) {
        await this.#bury(rest.shift() as Wanted, error)
        size = rest.length
      } else {
        this.#reporter.down('target', error)
        // Who is to stop does not wait for what does not work.
        if (this.#stop.aborted) this.#givesBack = true
        else await backOff(++attempts, this.#route.retry, this.#stop)
      }
    }
    await Promise.all(rest.map(({ message }) => message.release().catch(() => {})))
  }

  /** How many were sent, and what went wrong with the next; it is not refused by what cannot even be opened. */
  async #send(parcels: readonly Parcel[]): Promise<{ sent: number; error?: unknown; isRefused?: boolean }> {
    let isRefused = false
    try {
      const sink = await this.#ends.sink(this.#over)
      isRefused = true
      const duplicates = await sink.send(parcels, this.#over)
      this.#reporter.counters.duplicates += duplicates
      this.#reporter.up('target')
      return { sent: parcels.length }
    } catch (error) {
      return { sent: (error as { sent?: number }).sent ?? 0, error, isRefused }
    }
  }

  #refuse(message: Message): Promise<void> {
    this.#reporter.counters.unmatched++
    return this.#route.unmatched === 'drop'
      ? message.ack()
      : message.dead(`the route '${this.#route.name}' does not want it`)
  }

  async #bury({ message }: Work, error: unknown): Promise<void> {
    this.#reporter.dead(message.id, error)
    await this.#settle(() => message.dead(`the route '${this.#route.name}' cannot send it`, error))
  }

  async #settleAll(works: readonly Work[], how: (work: Work) => Promise<void>): Promise<void> {
    if (works.length === 0) return
    await Promise.all(works.map((work) => this.#settle(() => how(work))))
    this.#ends.settled()
  }

  /** What is not ours any more, or cannot be settled before the bridge ends, comes again. */
  async #settle(how: () => Promise<void>): Promise<void> {
    for (let attempts = 1; ; attempts++) {
      try {
        await how()
      } catch (error) {
        const { code } = error as { code?: string }
        if (code !== 'ERR_BUS_LEASE_LOST' && code !== 'ERR_MQ_CLOSED' && !this.#over.aborted) {
          this.#reporter.down(this.#ends.from, error)
          await backOff(attempts, this.#route.retry, this.#over)
          continue
        }
        this.#reporter.counters.again++
      }
      // Whoever waits for the next message would not say so.
      if (attempts > 1 && !this.#over.aborted) this.#reporter.up(this.#ends.from)
      return
    }
  }
}

function hashOf(key: string): number {
  let hash = 0
  for (let at = 0; at < key.length; at++) hash = (Math.imul(hash, 31) + key.charCodeAt(at)) >>> 0
  return hash
}

/** Trying again does not help: it is too long, or cannot be what it has become on the way. */
const OF_MESSAGE = new Set([
  'EMSGSIZE',
  'ERR_BUS_INVALID_BODY',
  'ERR_INVALID_ARG_TYPE',
  'ERR_INVALID_ARG_VALUE',
  'ERR_OUT_OF_RANGE',
])

const codeOf = (error: unknown): string => (error as { code?: string } | undefined)?.code ?? ''
const isOfMessage = (error: unknown): boolean => OF_MESSAGE.has(codeOf(error))

/** A batch that is larger than what a queue may hold never fits. */
const mayFitAlone = (error: unknown): boolean => isOfMessage(error) || codeOf(error) === 'ERR_BUS_QUEUE_FULL'
