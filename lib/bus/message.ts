// A message in the hands of a consumer, and how it is settled.
import { setMaxListeners } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { inspect } from 'node:util'
import { checkInteger, outOfRange, QueueError } from '../errors.ts'
import { checkSignal } from '../waiting.ts'
import { bytesOf, decode } from './body.ts'
import type { Event, Meter, Meters } from './meter.ts'
import {
  type Addressed,
  BUS_BATCH,
  type Delivery,
  demand,
  type Settlement,
  type Transport,
  withoutOwn,
} from './transport.ts'

/** Passes by itself, sooner or later; what has failed so is not done. */
const PASSING: readonly unknown[] = ['ERR_BUS_BUSY', 'ERR_BUS_DISK_FULL', 'ERR_BUS_QUEUE_FULL']

export const isPassing = (error: unknown): boolean => PASSING.includes((error as QueueError | undefined)?.code)

/** What keeps one from a queue, and may pass. */
export const isAway = (error: unknown): boolean =>
  isPassing(error) || (error as QueueError | undefined)?.code === 'ERR_BUS_CONNECTION'

/** Milliseconds between attempts: the first time, doubled each time, and at most. */
const SHORTEST = 100
const LONGEST = 5000

interface PersistOptions {
  /** Gives it up. */
  signal?: AbortSignal | undefined
  /** It does not hold the process. */
  background?: boolean | undefined
}

interface Pending {
  settlement: Settlement
  insists: boolean
  resolve: (held: boolean) => void
  reject: (error: unknown) => void
}

/** Settlements of one turn of the loop go to the transport together. */
export class Settler {
  readonly #transport: Transport
  #batch: Pending[] = []
  #scheduled = false
  readonly #over = new AbortController()

  constructor(transport: Transport) {
    this.#transport = transport
    // As many as there are messages in hand.
    setMaxListeners(0, this.#over.signal)
  }

  /** False if the message was no longer ours. `insists`: it is tried again as long as what is in the way may pass. */
  add(settlement: Settlement, insists: boolean): Promise<boolean> {
    return new Promise((resolve, reject) => this.#push({ settlement, insists, resolve, reject }))
  }

  /** The same of many, with one promise for all; all insist. */
  addAll(settlements: readonly Settlement[]): Promise<boolean[]> {
    return new Promise((resolve, reject) => {
      const held: boolean[] = []
      let left = settlements.length
      settlements.forEach((settlement, at) => {
        const resolveOne = (isHeld: boolean) => {
          held[at] = isHeld
          if (--left === 0) resolve(held)
        }
        this.#push({ settlement, insists: true, resolve: resolveOne, reject })
      })
    })
  }

  #push(pending: Pending): void {
    this.#batch.push(pending)
    if (this.#scheduled) return
    this.#scheduled = true
    setImmediate(() => this.flush())
  }

  /** One that may fail by itself. */
  async alone(settlement: Settlement, insists: boolean): Promise<boolean> {
    const settle = () => this.#transport.settle([settlement])
    const [held] = await (insists ? this.persist(settle) : settle())
    return held as boolean
  }

  /** Tries again until it is done, fails for a reason that does not pass, or the bus is closed. */
  async persist<R>(
    work: () => Promise<R>,
    options: PersistOptions = {},
    passes: (error: unknown) => boolean = isPassing,
  ): Promise<R> {
    const { signal = this.#over.signal, background } = options
    for (let wait = SHORTEST; ; wait = Math.min(2 * wait, LONGEST)) {
      try {
        return await work()
      } catch (error) {
        if (!passes(error) || this.#over.signal.aborted) throw error
      }
      await sleep(wait, undefined, { signal, ref: background !== true }).catch(() => {})
      checkSignal(options.signal)
    }
  }

  /** As if they had never been received. What is in the way may pass: they are nobody's else as long as this process lives. */
  async giveBack(deliveries: readonly Delivery[]): Promise<void> {
    for (let at = 0; at < deliveries.length; at += BUS_BATCH) {
      const some = deliveries.slice(at, at + BUS_BATCH)
      const back = some.map(({ token }) => ({ token, outcome: 'retry', due: 0, counted: false }) as const)
      const settle = () => this.#transport.settle(back)
      await settle().catch(() => void this.persist(settle, { background: true }).catch(() => {}))
    }
  }

  /** From now on nothing is tried more than once again. */
  end(): void {
    this.#over.abort()
    this.#transport.end?.()
  }

  flush(): void {
    this.#scheduled = false
    const batch = this.#batch.splice(0)
    const together = batch.filter((pending) => {
      const isApart = this.#transport.isApart?.(pending.settlement) === true
      if (isApart) void this.#settle([pending])
      return !isApart
    })
    for (let at = 0; at < together.length; at += BUS_BATCH) void this.#settle(together.slice(at, at + BUS_BATCH))
  }

  async #settle(batch: readonly Pending[], persists = false): Promise<void> {
    const settle = () => this.#transport.settle(batch.map(({ settlement }) => settlement))
    try {
      const held = await (persists ? this.persist(settle) : settle())
      for (const [at, { resolve }] of batch.entries()) resolve(held[at] as boolean)
    } catch (error) {
      const again = persists || !isPassing(error) ? [] : batch.filter(({ insists }) => insists)
      for (const { insists, reject } of batch) if (again.length === 0 || !insists) reject(error)
      if (again.length > 0) void this.#settle(again, true)
    }
  }
}

/** What a message needs of its queue. */
export interface Origin {
  readonly name: string
  readonly settler: Settler
  readonly transport: Transport
  readonly meter: Meter
  readonly meters: Meters
  now(): number
  /** Milliseconds to wait before the next attempt, after so many. */
  backoff(attempts: number): number
}

/** Headers that tell of a dead letter what it died of. */
export const DEAD = {
  reason: 'dead-reason',
  error: 'dead-error',
  queue: 'dead-queue',
  attempts: 'dead-attempts',
  losses: 'dead-losses',
  at: 'dead-at',
  key: 'dead-key',
  priority: 'dead-priority',
} as const

/** The header of what a message belongs to, as its sender says. */
export const CORRELATION = 'correlation-id'

/** The header of a message that ends the consumer that gets it. */
export const STOP = 'kmq-stop'

/** The queue of the dead letters of a queue. */
export const deadOf = (queue: string): string => `${queue}/dead`

/** What an error says, or whatever else was thrown. */
export function textOf(error: unknown, what: 'message' | 'stack'): string {
  try {
    return error instanceof Error ? String(error[what] ?? error.message) : String(error)
  } catch {
    return 'something that has no text was thrown'
  }
}

/** Instead of a body that nobody has asked for yet. */
export const UNREAD: unique symbol = Symbol('unread')

/** One message, which its consumer has until it settles it: by `ack`, `retry` or `dead`. */
export class Message<T = unknown> {
  readonly #delivery: Delivery
  readonly #origin: Origin
  #body: T | typeof UNREAD
  #settled = false
  #isLeft = false

  /** @internal */
  constructor(delivery: Delivery, body: T | typeof UNREAD, origin: Origin) {
    this.#delivery = delivery
    this.#body = body
    this.#origin = origin
  }

  get id(): string {
    return this.#delivery.id
  }

  get key(): string | undefined {
    return this.#delivery.key
  }

  /** 0 to 255. */
  get priority(): number {
    return this.#delivery.priority
  }

  get headers(): Readonly<Record<string, string>> {
    return withoutOwn(this.#delivery.headers)
  }

  /** @internal With those of the bus. */
  get allHeaders(): Readonly<Record<string, string>> {
    return this.#delivery.headers
  }

  get sentAt(): Date {
    return new Date(this.#delivery.sentAt)
  }

  /** How often it was handled before, and failed. */
  get attempts(): number {
    return this.#delivery.attempts
  }

  /** How often its consumer died over it. */
  get losses(): number {
    return this.#delivery.losses
  }

  /** What was sent: bytes, a string, or a value that went as JSON; with a schema, what it made of that. */
  get body(): T {
    if (this.#body === UNREAD) this.#body = decode(this.#delivery.body, this.#delivery.format) as T
    return this.#body
  }

  /** For `JSON.stringify()` and `console.log()`: what can be seen of it. */
  toJSON(): object {
    const { id, key, priority, headers, sentAt, attempts, losses, body } = this
    return { id, key, priority, headers, sentAt, attempts, losses, body }
  }

  /** The bytes in the store: those that were sent, unless codecs have changed them. */
  get data(): Buffer {
    return bytesOf(this.#delivery.body)
  }

  /** Whether it was acknowledged, given back or dead-lettered, by this consumer. */
  get settled(): boolean {
    return this.#settled
  }

  /**
   * It is done. `send`, from {@link Queue.prepare}, up to 499, goes out in the same transaction: both happen or neither. Where
   * `capabilities.transaction` is `emulated` it is sent first.
   *
   * @throws {QueueError} ERR_BUS_LEASE_LOST: it was taken away, and nothing was done; ERR_BUS_QUEUE_FULL; ERR_BUS_SETTLED
   */
  async ack(options: { send?: readonly Addressed[] } = {}): Promise<void> {
    const { send = [] } = options
    if (send.length === 0) return this.done()
    demand(this.#origin.transport, 'transaction', 'ack')
    return this.reply(send)
  }

  /** @internal It is for its consumer to settle it, which does not give up for what passes. */
  left(): this {
    this.#isLeft = true
    return this
  }

  /** @internal Acknowledges; at once where there is nobody who has to know. */
  done(): Promise<void> | undefined {
    if (this.#origin.transport.capabilities.lease !== false) {
      return this.#settle('ack', { token: this.#delivery.token, outcome: 'ack' }, 'acknowledged')
    }
    this.#check('ack')
    this.#settled = true
    const { meter } = this.#origin
    if (meter.isWatched('acknowledged')) meter.count('acknowledged', [this])
    else meter.tally('acknowledged', 1)
    return undefined
  }

  /** @internal Acknowledges messages of one queue together; none of them is settled yet. */
  static async doneAll(messages: readonly Message[]): Promise<void> {
    const [first] = messages
    if (first === undefined) return
    const { settler, transport, meter } = first.#origin
    if (transport.capabilities.lease === false) {
      for (const message of messages) void message.done()
      return
    }
    for (const message of messages) message.#settled = true
    let held: boolean[]
    try {
      held = await settler.addAll(messages.map((message) => ({ token: message.#delivery.token, outcome: 'ack' })))
    } catch (error) {
      for (const message of messages) message.#settled = false
      throw error
    }
    const lost = messages.find((_, at) => held[at] !== true)
    meter.count('acknowledged', lost === undefined ? messages : messages.filter((_, at) => held[at]))
    if (lost !== undefined) throw lost.#lost('ack')
  }

  /** @internal Acknowledges, and sends; in one, if the transport can. */
  async reply(send: readonly Addressed[]): Promise<void> {
    const { token } = this.#delivery
    checkInteger('number of messages to send', send.length, 1, BUS_BATCH - 1)
    this.#check('ack')
    if (!(await this.#origin.settler.alone({ token, outcome: 'ack', send }, false))) throw this.#lost('ack')
    this.#settled = true
    this.#origin.meter.count('acknowledged', [this])
    this.#origin.meters.sent(send)
  }

  /** To be received again, after `delay` milliseconds; by default after what the queue's backoff says. */
  retry(delay: number = this.#origin.backoff(this.attempts + 1)): Promise<void> {
    checkDelay(delay)
    const due = this.#origin.now() + delay
    return this.#settle('retry', { token: this.#delivery.token, outcome: 'retry', due, counted: true }, 'retried')
  }

  /** Goes back as if it had never been received. */
  release(): Promise<void> {
    return this.#settle('release', { token: this.#delivery.token, outcome: 'retry', due: 0, counted: false })
  }

  /** To the dead letters of its queue. */
  dead(reason: string, error?: unknown): Promise<void> {
    const { name, now } = this.#origin
    const headers: Record<string, string> = {
      ...this.#delivery.headers,
      [DEAD.reason]: reason,
      [DEAD.queue]: name,
      [DEAD.attempts]: String(this.attempts + 1),
      [DEAD.losses]: String(this.losses),
      [DEAD.at]: String(now()),
      [DEAD.priority]: String(this.priority),
    }
    // The dead have no order.
    if (this.key !== undefined) headers[DEAD.key] = this.key
    if (error !== undefined) headers[DEAD.error] = textOf(error, 'stack')
    const settlement = { token: this.#delivery.token, outcome: 'dead', queue: deadOf(name), headers } as const
    return this.#settle('dead', settlement, 'dead', reason)
  }

  /** Of a lease with a limit: it ends `ms` milliseconds from now, or later if it would have. */
  async extend(ms: number): Promise<void> {
    checkDelay(ms)
    this.#check('extend')
    const until = this.#origin.now() + ms
    const held = await this.#origin.settler.add({ token: this.#delivery.token, outcome: 'extend', until }, false)
    if (!held) throw this.#lost('extend')
  }

  /**
   * @internal Its handler begins; of one that was lost before, its peers have to know, and one that was fetched ahead has
   * all of its lease from now on. False if it is not ours.
   */
  begin(): Promise<boolean> | true {
    const { suspect, leasedAt } = this.#delivery
    if (!suspect && (leasedAt === undefined || this.#origin.now() <= leasedAt)) return true
    return this.#origin.settler.alone({ token: this.#delivery.token, outcome: 'begin' }, true)
  }

  async #settle(call: string, settlement: Settlement, event?: Event, reason?: string): Promise<void> {
    this.#check(call)
    this.#settled = true
    let held: boolean
    try {
      held = await this.#origin.settler.add(settlement, this.#isLeft)
    } catch (error) {
      this.#settled = false
      throw error
    }
    if (!held) throw this.#lost(call)
    if (event !== undefined) this.#origin.meter.count(event, [this], reason)
  }

  #check(call: string): void {
    if (this.#settled)
      throw new QueueError('ERR_BUS_SETTLED', { syscall: call, path: this.#origin.name, detail: this.id })
  }

  #lost(call: string): QueueError {
    const hint = 'somebody else may be at it: do not repeat what must happen once'
    return new QueueError('ERR_BUS_LEASE_LOST', { syscall: call, path: this.#origin.name, detail: this.id, hint })
  }
}

Object.defineProperty(Message.prototype, inspect.custom, {
  value(this: Message, _depth: number, options: object): string {
    return `Message ${inspect(this.toJSON(), options)}`
  },
})

/** A hundred years, in milliseconds. */
export const MAX_TIME: number = 100 * 366 * 86_400_000

function checkDelay(ms: number): void {
  if (!(typeof ms === 'number' && ms >= 0 && ms <= MAX_TIME)) {
    throw outOfRange('delay', `0 to ${MAX_TIME} milliseconds`, ms)
  }
}
