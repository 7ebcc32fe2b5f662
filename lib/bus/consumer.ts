// Takes messages from a queue and calls a handler for them, so many at a time.
import { AbortError, isClosed, QueueError } from '../errors.ts'
import type { Cancel, Clock } from './clock.ts'
import { isPassing, type Message } from './message.ts'
import { BUS_BATCH, type Start } from './transport.ts'

export interface HandlerContext {
  /** Aborted when the time of the handler is over, or nobody waits any more for what was requested. */
  readonly signal: AbortSignal
}

export type Handler<M> = (message: M, context: HandlerContext) => unknown

export interface ConsumeOptions {
  /** How many handlers run at a time. Default: 1. */
  concurrency?: number | undefined
  /** How many messages (with `batch`: batches) are fetched ahead, 0 to 500. Default: as many as `concurrency`. */
  prefetch?: number | undefined
  /** Milliseconds for a handler; then its signal is aborted, and the attempt has failed. Default: for ever. */
  timeout?: number | undefined
  /** Milliseconds after which the peers take a message away from a consumer that hangs. Default: never, while it lives. */
  lease?: number | undefined
  /** How many times a second the handler is called at most. */
  rate?: number | undefined
  /** Aborting it closes the consumer. */
  signal?: AbortSignal | undefined
  /** Begins when so much is there, goes on until nothing is left, and waits again. Default: with the first message. */
  start?: StartOptions | undefined
}

export interface StartOptions {
  /** How many messages have to be ready, 1 to 500. */
  messages: number
  /** Only those of at least this priority count. Default: 0. */
  priority?: number | undefined
}

/** What a consumer needs of its queue. */
export interface Source<M> {
  /** The most that it gives at a time. */
  readonly most?: number
  /** Waits for the first, or for as many as `start` says, or takes only what is there. */
  receive(max: number, wait: boolean, signal: AbortSignal, start: Start | undefined): Promise<M[]>
  /** Settles what the handler has left unsettled; `result` is what it returned. Undefined if it is done already. */
  succeeded(message: M, result?: unknown): Promise<void> | undefined
  failed(message: M, error: unknown): Promise<void>
  release(message: M): Promise<void>
  /** Resolves when the handler may begin, or false if the message is no longer ours. */
  begin(message: M): Promise<boolean> | true
  /** Milliseconds after which nobody waits for the result; undefined is never. */
  timeLeft(message: M): number | undefined
  /** Calls `abort` when nobody waits for the result any more, until the function that it may return is called. */
  watch?(message: M, abort: (reason: unknown) => void): (() => void) | undefined
  /** Whether a message says that the consumer that gets it is to stop. */
  isStop(message: M): boolean
}

/** How many handlers are called in one turn of the loop: those that never wait must not hold it. */
const TURN = 256

export class Consumer<M = Message> {
  readonly #source: Source<M>
  readonly #handler: Handler<M>
  readonly #clock: Clock
  readonly #concurrency: number
  readonly #prefetch: number
  readonly #timeout: number | undefined
  readonly #interval: number
  readonly #start: Start | undefined
  readonly #fetch = new AbortController()
  /** Of a fetch that waits. */
  #rest = new AbortController()
  readonly #ended: (consumer: Consumer<M>, untold: { error: unknown } | undefined) => void
  readonly #signal: AbortSignal | undefined
  /** What was fetched; before `#at` of it all is begun. */
  #fetched: M[] = []
  #at = 0
  #running = 0
  #fetching = false
  /** The last time there was as much as was asked for. */
  #more = false
  /** There may be something left of what was enough to start. */
  #started = false
  #paused = false
  #next = 0
  #turn = TURN
  #scheduled = false
  #cancel: Cancel | undefined
  #closing = false
  #settle!: { resolve: () => void; reject: (error: unknown) => void }
  #failure: { error: unknown } | undefined
  #isOver = false
  /** Somebody is told what stopped it. */
  #isWatched = false
  readonly #closed: Promise<void>

  /** @internal */
  constructor(
    source: Source<M>,
    handler: Handler<M>,
    options: ConsumeOptions,
    clock: Clock,
    ended: (consumer: Consumer<M>, untold: { error: unknown } | undefined) => void,
  ) {
    const { concurrency = 1, prefetch = concurrency, timeout, rate, signal, start } = options
    this.#source = source
    this.#handler = handler
    this.#clock = clock
    this.#concurrency = concurrency
    this.#prefetch = prefetch
    this.#timeout = timeout
    this.#interval = rate === undefined ? 0 : 1000 / rate
    this.#start = start === undefined ? undefined : { messages: start.messages, priority: start.priority ?? 0 }
    this.#ended = ended
    this.#signal = signal
    this.#closed = new Promise((resolve, reject) => {
      this.#settle = { resolve, reject }
    })
    // Who does not look at it does not want to be killed by it.
    this.#closed.catch(() => {})
    signal?.addEventListener('abort', this.#onAbort)
    if (signal?.aborted) queueMicrotask(this.#onAbort)
    else this.#work()
  }

  /**
   * Resolves when the consumer has stopped and all its handlers have ended; rejects with what stopped it. Where nobody
   * has asked for it by then, a warning of the process says that.
   */
  get closed(): Promise<void> {
    this.#isWatched = true
    return this.#closed
  }

  /** @internal Resolves when it has ended, whatever has ended it. */
  get ended(): Promise<void> {
    return this.#closed.catch(() => {})
  }

  /** @internal Closes it for somebody who has not to be told what has stopped it. */
  end(): Promise<void> {
    this.#stop()
    return this.ended
  }

  readonly #onAbort = (): void => {
    this.#stop({ error: new AbortError(this.#signal?.reason) })
  }

  /** Begins nothing more, and gives back what was fetched ahead. */
  pause(): void {
    this.#paused = true
    this.#rest.abort()
    this.#giveBack()
  }

  resume(): void {
    this.#paused = false
    this.#work()
  }

  /** Begins nothing more, gives back what was fetched ahead, and resolves when the handlers have ended. */
  close(): Promise<void> {
    this.#stop()
    return this.closed
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #stop(failure?: { error: unknown }): void {
    if (this.#closing) return
    this.#closing = true
    this.#failure = failure
    this.#signal?.removeEventListener('abort', this.#onAbort)
    this.#cancel?.()
    this.#fetch.abort()
    this.#rest.abort()
    this.#giveBack()
    this.#endWhenIdle()
  }

  #endWhenIdle(): void {
    if (!this.#closing || this.#isOver || this.#running > 0 || this.#fetching) return
    this.#isOver = true
    // Who has aborted its signal knows.
    const isKnown = this.#isWatched || this.#failure?.error instanceof AbortError
    this.#ended(this, isKnown ? undefined : this.#failure)
    if (this.#failure === undefined) this.#settle.resolve()
    else this.#settle.reject(this.#failure.error)
  }

  #giveBack(): void {
    const messages = this.#fetched.slice(this.#at)
    this.#fetched = []
    this.#at = 0
    for (const message of messages) void this.#track(this.#source.release(message))
  }

  /** Something that has to end before the consumer has. */
  async #track(promise: Promise<unknown>): Promise<void> {
    this.#running++
    try {
      await promise
    } catch (error) {
      // A message that is not ours any more is somebody else's, by right; one of a lost connection comes again.
      const { code } = (error ?? {}) as QueueError
      const isNoMatter = code === 'ERR_BUS_LEASE_LOST' || code === 'ERR_BUS_CONNECTION' || isPassing(error)
      if (!isNoMatter) this.#stop({ error })
    }
    this.#running--
    if (this.#start !== undefined) this.#lookAgain()
    this.#schedule()
  }

  /** What is settled may have held others of its key, which are to be taken before the consumer waits. */
  #lookAgain(): void {
    this.#started = true
    this.#rest.abort()
  }

  /** After what else this turn of the loop brings: settling and fetching then are one transaction. */
  #schedule(): void {
    if (this.#scheduled) return
    this.#scheduled = true
    setImmediate(() => {
      this.#scheduled = false
      this.#turn = TURN
      this.#work()
    })
  }

  #work(): void {
    this.#endWhenIdle()
    if (this.#closing || this.#paused) return
    while (this.#at < this.#fetched.length && this.#running < this.#concurrency && this.#mayBegin()) {
      this.#begin(this.#fetched[this.#at++] as M)
    }
    // A handler may have closed or paused it.
    if (this.#closing || this.#paused) {
      this.#endWhenIdle()
      return
    }
    const ahead = this.#fetched.length - this.#at
    const idle = this.#concurrency - this.#running - ahead
    // Who has time waits; who has none takes ahead only of plenty: what is there is for those who have time.
    if (idle > 0) void this.#fill(this.#more ? idle + this.#prefetch : idle, !this.#more)
    else if (this.#more && ahead * 2 <= this.#prefetch && this.#prefetch > 0) {
      void this.#fill(this.#prefetch - ahead, false)
    }
  }

  #mayBegin(): boolean {
    if (this.#turn-- <= 0) {
      this.#schedule()
      return false
    }
    if (this.#interval === 0) return true
    const now = this.#clock.now()
    // It is never further away, unless the clock of the machine was set back.
    this.#next = Math.min(this.#next, now + this.#interval)
    if (now < this.#next) {
      this.#cancel?.()
      this.#cancel = this.#clock.after(this.#next - now, () => this.#work(), true)
      return false
    }
    this.#next = Math.max(this.#next, now) + this.#interval
    return true
  }

  async #fill(wanted: number, wait: boolean): Promise<void> {
    if (this.#fetching) return
    this.#fetching = true
    const max = Math.min(wanted, this.#source.most ?? BUS_BATCH)
    const start = this.#started ? undefined : this.#start
    // Whoever has started waits no more until nothing is left; what is settled while he looks is looked for again.
    const waits = wait && !this.#started
    if (this.#rest.signal.aborted) this.#rest = new AbortController()
    const rest = this.#rest
    const { signal } = waits ? rest : this.#fetch
    this.#started = false
    try {
      const fetched = await this.#source.receive(max, waits, signal, start)
      this.#more = fetched.length >= max
      this.#started ||= this.#start !== undefined && (fetched.length > 0 || start !== undefined)
      this.#fetched = this.#at < this.#fetched.length ? [...this.#fetched.slice(this.#at), ...fetched] : fetched
      this.#at = 0
    } catch (error) {
      const isGivenUp = error instanceof AbortError && rest.signal.aborted && !this.#closing
      if (!isGivenUp) this.#stop(error instanceof AbortError || isClosed(error) ? undefined : { error })
    }
    this.#fetching = false
    if (this.#closing || this.#paused) this.#giveBack()
    this.#work()
  }

  #begin(message: M): void {
    const isStop = this.#source.isStop(message)
    let running: Promise<void> | undefined
    // Also while it is called: it may close, pause or resume its consumer.
    this.#running++
    try {
      running = isStop ? this.#source.succeeded(message) : this.#handle(message)
    } catch (error) {
      running = Promise.reject(error)
    }
    if (running !== undefined) void this.#track(running)
    this.#running--
    if (isStop) this.#stop()
  }

  /** Undefined if all is done: a promise would cost more than most handlers that need none. */
  #handle(message: M): Promise<void> | undefined {
    const begun = this.#source.begin(message)
    if (begun !== true) return begun.then((isOurs) => (isOurs ? this.#handleBegun(message) : undefined))
    return this.#handleBegun(message)
  }

  #handleBegun(message: M): Promise<void> | undefined {
    const context = new Context()
    const leave = this.#source.watch?.(message, (reason) => context.abort(reason))
    let result: unknown
    let isPromise: boolean
    let settled: Promise<void> | undefined
    try {
      result = this.#call(message, context)
      isPromise = isThenable(result)
    } catch (error) {
      settled = this.#source.failed(message, error)
      return leave === undefined ? settled : settled.finally(leave)
    }
    settled = isPromise
      ? this.#whenDone(message, result as PromiseLike<unknown>)
      : this.#source.succeeded(message, result)
    if (leave === undefined) return settled
    if (settled !== undefined) return settled.finally(leave)
    leave()
    return undefined
  }

  async #whenDone(message: M, running: PromiseLike<unknown>): Promise<void> {
    let result: unknown
    try {
      result = await running
    } catch (error) {
      await this.#source.failed(message, error)
      return
    }
    await this.#source.succeeded(message, result)
  }

  #call(message: M, context: Context): unknown {
    const left = this.#source.timeLeft(message)
    const timeout = left === undefined ? this.#timeout : Math.max(Math.min(left, this.#timeout ?? left), 0)
    return timeout === undefined ? this.#handler(message, context) : this.#timed(message, context, timeout)
  }

  async #timed(message: M, context: Context, timeout: number): Promise<unknown> {
    let cancel: Cancel = () => {}
    const over = new Promise<never>((_, reject) => {
      const end = () => {
        const error = new QueueError('ETIMEDOUT', { syscall: 'handler', detail: `after ${timeout} ms` })
        context.abort(error)
        reject(error)
      }
      cancel = this.#clock.after(timeout, end, true)
    })
    try {
      return await Promise.race([this.#handler(message, context), over])
    } finally {
      cancel()
    }
  }
}

/** Those of a bus. */
export class Consumers {
  readonly #all = new Set<{ end(): Promise<void> }>()
  #isClosing = false

  add(consumer: { end(): Promise<void> }): void {
    this.#all.add(consumer)
    if (this.#isClosing) void consumer.end()
  }

  delete(consumer: { end(): Promise<void> }): void {
    this.#all.delete(consumer)
  }

  /** Ends them, and those that begin meanwhile, as that of a handler whose end is waited for. */
  async close(): Promise<void> {
    this.#isClosing = true
    while (this.#all.size > 0) await Promise.all([...this.#all].map((consumer) => consumer.end()))
  }
}

const isThenable = (value: unknown): boolean =>
  typeof value === 'object' && value !== null && 'then' in value && typeof value.then === 'function'

/** Most handlers never ask for their signal. */
class Context implements HandlerContext {
  #controller: AbortController | undefined
  #aborted: { reason: unknown } | undefined

  abort(reason: unknown): void {
    this.#aborted ??= { reason }
    this.#controller?.abort(reason)
  }

  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController()
      if (this.#aborted !== undefined) this.#controller.abort(this.#aborted.reason)
    }
    return this.#controller.signal
  }
}
