// What this process has done with a queue: counters, rates, latencies, and events for whoever listens.
import { channel } from 'node:diagnostics_channel'
import { createHistogram, type RecordableHistogram } from 'node:perf_hooks'
import { type Addressed, BORROWED } from './transport.ts'

/** What is counted, and what the channels `kernelmq:bus:<event>` tell of. */
export const EVENTS = ['sent', 'received', 'acknowledged', 'retried', 'dead'] as const

export type Event = (typeof EVENTS)[number]

/** What a subscriber of `kernelmq:bus:<event>` is given. */
export interface BusEvent {
  readonly queue: string
  readonly ids: readonly string[]
  /** Of `dead`. */
  readonly reason?: string
}

const channels = Object.fromEntries(EVENTS.map((event) => [event, channel(`kernelmq:bus:${event}`)]))

export interface Latencies {
  readonly p50: number
  readonly p90: number
  readonly p99: number
  readonly max: number
}

/** Rates are of the last so many seconds. */
const WINDOW = 60

/** How many things happened in each of the last seconds. */
class Rate {
  readonly #counts = new Float64Array(WINDOW)
  #second = 0

  #turn(now: number): void {
    const second = Math.floor(now / 1000)
    const from = Math.max(this.#second + 1, second - WINDOW + 1)
    for (let at = from; at <= second; at++) this.#counts[at % WINDOW] = 0
    this.#second = Math.max(this.#second, second)
  }

  add(count: number, now: number): void {
    this.#turn(now)
    const at = this.#second % WINDOW
    this.#counts[at] = (this.#counts[at] as number) + count
  }

  perSecond(now: number): number {
    this.#turn(now)
    return this.#counts.reduce((sum, count) => sum + count, 0) / WINDOW
  }
}

export class Meter {
  readonly #queue: string
  readonly #totals: Record<Event, number> = { sent: 0, received: 0, acknowledged: 0, retried: 0, dead: 0 }
  readonly #rates: Record<Event, Rate>
  /** What of the totals is in the rates. */
  readonly #rated: Record<Event, number> = { ...this.#totals }
  #isLate = false
  #latency: RecordableHistogram | undefined

  constructor(queue: string) {
    this.#queue = queue
    this.#rates = Object.fromEntries(EVENTS.map((event) => [event, new Rate()])) as Record<Event, Rate>
  }

  /** Whether somebody wants to know of each. */
  isWatched(event: Event): boolean {
    return channels[event]?.hasSubscribers === true
  }

  /** Where nobody asks which. */
  tally(event: Event, messages: number): void {
    this.#totals[event] += messages
    if (this.#isLate) return
    this.#isLate = true
    // The time is the same for all of one turn, and asking for it costs more than counting.
    setImmediate(this.#rate)
  }

  readonly #rate = (): void => {
    this.#isLate = false
    const now = performance.now()
    for (const event of EVENTS) {
      this.#rates[event].add(this.#totals[event] - this.#rated[event], now)
      this.#rated[event] = this.#totals[event]
    }
  }

  count(event: Event, messages: readonly { readonly id: string }[], reason?: string): void {
    if (messages.length === 0) return
    this.tally(event, messages.length)
    tell(event, this.#queue, messages, reason)
  }

  /** How long a message waited, in milliseconds, until it was received. */
  waited(ms: number): void {
    this.#latency ??= createHistogram()
    // In microseconds; one that was sent by a clock that is ahead waited no time.
    const microseconds = Math.round(ms * 1000)
    this.#latency.record(microseconds >= 1 && microseconds <= Number.MAX_SAFE_INTEGER ? microseconds : 1)
  }

  get totals(): Readonly<Record<Event, number>> {
    return { ...this.#totals }
  }

  get rates(): Record<Event, number> {
    this.#rate()
    const now = performance.now()
    return Object.fromEntries(EVENTS.map((event) => [event, this.#rates[event].perSecond(now)])) as Record<
      Event,
      number
    >
  }

  get latency(): Latencies | undefined {
    const latency = this.#latency
    if (latency === undefined) return undefined
    const at = (percentile: number) => latency.percentile(percentile) / 1000
    return { p50: at(50), p90: at(90), p99: at(99), max: latency.max / 1000 }
  }
}

function tell(event: Event, queue: string, messages: readonly { readonly id: string }[], reason?: string): void {
  const events = channels[event]
  if (!events?.hasSubscribers) return
  const ids = messages.map(({ id }) => id)
  events.publish({ queue, ids, ...(reason !== undefined && { reason }) } satisfies BusEvent)
}

/** Of all queues that this process has used. */
export class Meters {
  readonly #meters = new Map<string, Meter>()

  of(queue: string): Meter {
    // Nobody asks for it by its name, and there may be many, one after the other.
    if (queue.startsWith(BORROWED)) return new Meter(queue)
    let meter = this.#meters.get(queue)
    if (meter === undefined) {
      meter = new Meter(queue)
      this.#meters.set(queue, meter)
    }
    return meter
  }

  /** Each to a queue, whichever. */
  sent(all: readonly Addressed[]): void {
    for (const { queue, message } of all) {
      // A reply: of its queue nobody asks for totals.
      if (queue.startsWith(BORROWED)) tell('sent', queue, [message])
      else this.of(queue).count('sent', [message])
    }
  }
}
