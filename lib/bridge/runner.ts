// A route that runs: from the queue where it begins, of a kernel queue through its outbox, to the other end.
import { createHash } from 'node:crypto'
import { pathToFileURL } from 'node:url'
import type { Queue } from '../bus/index.ts'
import { Collector } from './collector.ts'
import type { Outbox, Route, Taken } from './config.ts'
import { type BridgeEvent, backOff, type End, Reporter, type RouteCounters } from './counters.ts'
import { isKernel } from './endpoint.ts'
import { KernelQueue } from './kernel.ts'
import { GRACE, inTime, type Links } from './links.ts'
import { Mover } from './mover.ts'
import { type Sink, toBus } from './sink.ts'
import { type Fount, fromBus, NEVER_SUSPECT, VolatileQueue } from './source.ts'

/** How a route is. */
export interface RouteStatus {
  readonly name: string
  readonly from: string
  readonly to: string
  /** Whether all its ends work, as far as the last attempt has shown. */
  readonly up: boolean
  /** What is wrong, of each end where something is. */
  readonly errors: { readonly [E in End]?: Error }
  readonly counters: Readonly<RouteCounters>
  /** Received, and neither acknowledged nor given back yet. */
  readonly inHand: number
}

/** What waits where a route begins, its outbox included; in messages and milliseconds. */
export interface Lag {
  readonly messages: number
  readonly age: number
}

export const outboxUrl = ({ directory }: Outbox): string => `local:${pathToFileURL(directory).pathname}`

/** In the outbox each queue that is taken from has one of its own. */
function outboxQueue(shown: string): string {
  const name = shown.replace(/[^\w.-]/g, '.').replace(/\.+/g, '.')
  return `${name.slice(0, 100)}-${createHash('sha256').update(shown).digest('hex').slice(0, 8)}`
}

export class Runner {
  readonly route: Route
  readonly #links: Links
  readonly #reporter: Reporter
  readonly #stop = new AbortController()
  readonly #over = new AbortController()
  readonly #mover: Mover
  readonly #fount: Fount | undefined
  readonly #end: KernelQueue | undefined
  #collector: Collector | undefined
  #source: Queue | undefined
  #sink: Sink | undefined
  readonly #running: Promise<unknown>

  constructor(route: Route, links: Links, tell: (event: BridgeEvent) => void) {
    this.route = route
    this.#links = links
    this.#reporter = new Reporter(route.name, tell)
    const { from, to } = route
    if (isKernel(from)) this.#fount = new KernelQueue(from, 'read')
    else if (route.outbox !== undefined) this.#fount = new VolatileQueue(links, from)
    if (isKernel(to)) this.#end = new KernelQueue(to, 'write')
    const ends = {
      from: this.#fount === undefined ? ('source' as const) : ('outbox' as const),
      source: (signal: AbortSignal) => this.#openSource(signal),
      sink: (signal: AbortSignal) => this.#openSink(signal),
      settled: () => this.#collector?.wake(),
    }
    const [stop, over] = [this.#stop.signal, this.#over.signal]
    this.#mover = new Mover(route, ends, this.#reporter, stop, over)
    this.#running = Promise.all([this.#mover.run(), this.#collect(), this.#reach()])
  }

  /** What has to be connected for it. */
  static urlsOf({ from, to, outbox }: Route): string[] {
    const ends = [from, to].flatMap((end) => (isKernel(end) ? [] : [end.url]))
    return outbox === undefined ? ends : [...ends, outboxUrl(outbox)]
  }

  async #openSource(signal: AbortSignal): Promise<Queue> {
    const { from, outbox } = this.route
    if (this.#source !== undefined) return this.#source
    if (outbox === undefined) {
      const taken = from as Taken
      this.#source = await fromBus(await this.#links.use(taken.url, signal), taken)
    } else {
      const bus = await this.#links.use(outboxUrl(outbox), signal)
      // Whether an id was there before is for the other end to say.
      const options = { maxMessages: outbox.maxMessages, overflow: 'wait', retry: NEVER_SUSPECT, dedup: 0 } as const
      this.#source = bus.queue(outboxQueue(from.shown), options)
    }
    return this.#source
  }

  async #openSink(signal: AbortSignal): Promise<Sink> {
    const { to } = this.route
    if (isKernel(to)) {
      const end = this.#end as KernelQueue
      end.open()
      this.#sink ??= { send: (parcels, over) => end.send(parcels, over).then(() => 0) }
    } else this.#sink ??= toBus(await this.#links.use(to.url, signal), to)
    return this.#sink
  }

  /** Opens the other end, so that it is known to be there before there is anything to send. */
  async #reach(): Promise<void> {
    const { signal } = this.#stop
    for (let attempts = 1; !signal.aborted && this.#reporter.ends.target !== true; attempts++) {
      try {
        await this.#openSink(signal)
        this.#reporter.up('target')
      } catch (error) {
        if (signal.aborted) return
        this.#reporter.down('target', error)
        await backOff(attempts, this.route.retry, signal)
      }
    }
  }

  async #collect(): Promise<void> {
    const { outbox } = this.route
    if (this.#fount === undefined || outbox === undefined) return
    const [stop, over] = [this.#stop.signal, this.#over.signal]
    const queue = await this.#openSource(stop).catch(() => undefined)
    if (queue === undefined) return
    this.#collector = new Collector(this.#fount, queue, { ...this.route, outbox }, this.#reporter)
    await this.#collector.run(stop, over)
  }

  get status(): RouteStatus {
    const { name, from, to } = this.route
    const { ends, counters } = this.#reporter
    const needed: End[] = this.#fount === undefined ? ['source', 'target'] : ['source', 'outbox', 'target']
    const errors = needed.flatMap((end) => (ends[end] instanceof Error ? [[end, ends[end]]] : []))
    return {
      name,
      from: from.shown,
      to: to.shown,
      up: needed.every((end) => ends[end] === true),
      errors: Object.fromEntries(errors),
      counters: { ...counters },
      inHand: this.#mover.inHand,
    }
  }

  /** Undefined if nobody can say. */
  async lag(now: number): Promise<Lag | undefined> {
    if (this.#source === undefined) return undefined
    const { ready, leased, delayed, held, oldest } = await this.#source.stats()
    const waiting = (await this.#fount?.messages()) ?? 0
    return {
      messages: ready + leased + delayed + held + waiting,
      age: oldest === undefined ? 0 : Math.max(now - oldest, 0),
    }
  }

  /** Takes no more, and resolves when what is in hand is sent, or after so many milliseconds given back. */
  async stop(patience: number): Promise<void> {
    this.#stop.abort()
    this.#mover.wake()
    this.#collector?.wake()
    const timer = setTimeout(() => this.#over.abort(), patience)
    await inTime(this.#running, patience + GRACE)
    clearTimeout(timer)
    this.#end?.close()
  }
}
