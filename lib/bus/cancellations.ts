// Requests that their senders have given up, and all who have to know: handlers that run for them, and those to come.
import { randomUUID } from 'node:crypto'
import { QueueError } from '../errors.ts'
import { decode } from './body.ts'
import type { Clock } from './clock.ts'
import { BUS_BATCH, type Outgoing, type Transport } from './transport.ts'

/** No name of a user's topic begins so, and no pattern means it. */
const TOPIC = '$cancelled'
const PREFIX = 'cancelled/'
/** How many of those whose time is not over are remembered at least. */
const MOST = 100_000
/** Fewer are not worth going through to forget some of them. */
const FEW = 1000

/** The id of a request, and when it would have been over anyway, in milliseconds since the epoch. */
type Cancelled = readonly [id: string, deadline: number]

const cancelled = (): QueueError => new QueueError('ERR_BUS_CANCELLED', { syscall: 'handler' })

export class Cancellations {
  readonly #transport: Transport
  readonly #clock: Clock
  readonly #known = new Map<string, number>()
  readonly #running = new Map<string, Set<(reason: unknown) => void>>()
  /** To be sent. */
  readonly #news: Cancelled[] = []
  #sending: Promise<void> | undefined
  #ready: Promise<void> | undefined
  #listens = false
  #limit: number = FEW

  constructor(transport: Transport, clock: Clock) {
    this.#transport = transport
    this.#clock = clock
  }

  /** Tells everybody. */
  cancel(id: string, deadline: number): void {
    this.#news.push([id, deadline])
    this.#sending ??= this.#send()
  }

  /** Resolves when everybody was told. */
  async sent(): Promise<void> {
    await this.#sending
  }

  async #send(): Promise<void> {
    // All that one signal ends is told together.
    await null
    while (this.#news.length > 0) {
      const batch = this.#news.splice(0, BUS_BATCH)
      this.#learn(batch)
      // Who is not told works until the deadline.
      await this.#tell(batch).catch(() => {})
    }
    this.#sending = undefined
  }

  async #tell(batch: readonly Cancelled[]): Promise<void> {
    const value = JSON.stringify(batch)
    const until = Math.max(...batch.map(([, deadline]) => deadline))
    // The note comes first: who begins to listen after the publication finds it.
    if (this.#transport.capabilities.records !== false)
      await this.#transport.put(PREFIX + randomUUID(), value, { until })
    const message: Outgoing = {
      id: randomUUID(),
      body: Buffer.from(value),
      format: 'json',
      dedup: 0,
      key: undefined,
      priority: 0,
      due: 0,
      expires: Math.ceil(until),
      headers: undefined,
    }
    await this.#transport.publish(TOPIC, message, { overflow: 'reject', disk: false, signal: undefined })
  }

  /** Undefined if this process hears of cancellations, and knows those of before; else resolves when it does. */
  listen(): Promise<void> | undefined {
    if (this.#listens) return undefined
    this.#ready ??= this.#listen()
    return this.#ready
  }

  async #listen(): Promise<void> {
    let queue: string | undefined
    try {
      queue = await this.#transport.borrow()
      await this.#transport.bind({ pattern: TOPIC, queue, headers: {} })
      if (this.#transport.capabilities.records !== false)
        for (const [, value] of await this.#transport.entries(PREFIX)) this.#learn(JSON.parse(value))
      this.#listens = true
      void this.#hear(queue)
    } catch {
      // Requests are handled all the same; the next one tries again, with a queue of its own.
      if (queue !== undefined) this.#transport.drop(queue).catch(() => {})
      this.#ready = undefined
    }
  }

  async #hear(queue: string): Promise<void> {
    const forever = Number.POSITIVE_INFINITY
    const options = {
      max: BUS_BATCH,
      deadline: forever,
      signal: undefined,
      lease: forever,
      together: false,
      background: true,
    }
    try {
      for (;;) {
        const deliveries = await this.#transport.receive(queue, options)
        for (const { body, format } of deliveries) this.#learn(decode(body, format) as Cancelled[])
        await this.#transport.settle(deliveries.map(({ token }) => ({ token, outcome: 'ack' }) as const))
      }
    } catch {
      // The bus is closed; or the store was not to be had, and the next request begins anew.
      this.#listens = false
      this.#ready = undefined
      await this.#transport.drop(queue).catch(() => {})
    }
  }

  #learn(batch: readonly Cancelled[]): void {
    for (const [id, deadline] of batch) {
      this.#known.set(id, deadline)
      for (const abort of this.#running.get(id) ?? []) abort(cancelled())
    }
    if (this.#known.size > this.#limit) this.#forget()
  }

  #forget(): void {
    const now = this.#clock.now()
    for (const [id, deadline] of this.#known) {
      if ((deadline <= now || this.#known.size > MOST) && !this.#running.has(id)) this.#known.delete(id)
    }
    this.#limit = Math.max(2 * this.#known.size, FEW)
  }

  has(id: string): boolean {
    return this.#known.has(id)
  }

  /** Calls `abort` when a request is cancelled, until the function that this returns is called. */
  watch(id: string, abort: (reason: unknown) => void): () => void {
    const aborts = this.#running.get(id) ?? new Set()
    this.#running.set(id, aborts.add(abort))
    // It may have been heard of after the handler was found to be wanted.
    if (this.has(id)) abort(cancelled())
    return () => {
      aborts.delete(abort)
      if (aborts.size === 0) this.#running.delete(id)
    }
  }
}
