// What both families of queues share: messages, all ways to wait, iteration, streams.
import { constants } from 'node:os'
import { Readable, Writable } from 'node:stream'
import { inspect } from 'node:util'
import { checkInteger, invalidType, isClosed, type QueueError } from './errors.ts'
import { MAX_BATCH } from './native.ts'
import { type Data, Outbox, type Packing, type Tag, toBytes } from './outbox.ts'
import { checkSignal, deadlineOf, Puller, type SyncOptions, Waiter, type WaitOptions } from './waiting.ts'

/** A received message. Its memory is its own, or shared with other messages of this thread; no call reuses it. */
export abstract class Message {
  readonly #memory: Buffer
  readonly #start: number
  readonly #end: number
  #data: Buffer | undefined

  constructor(memory: Buffer, start = 0, end: number = memory.length) {
    this.#memory = memory
    this.#start = start
    this.#end = end
  }

  /** The bytes; those of a small message may be a part of a larger ArrayBuffer. */
  get data(): Buffer {
    // Made when it is asked for: a view costs as much as half a receive.
    this.#data ??= this.#memory.subarray(this.#start, this.#end)
    return this.#data
  }

  /** The data as UTF-8. */
  text(): string {
    return this.#memory.toString('utf8', this.#start, this.#end)
  }

  /**
   * The data parsed as JSON.
   *
   * @throws SyntaxError if it is none
   */
  json<T = unknown>(): T {
    return JSON.parse(this.text()) as T
  }

  /** For `JSON.stringify()`: what can be seen of it. Only members that a class has of its own are enumerable. */
  toJSON(): object {
    return { ...this, data: this.data }
  }

  static {
    const custom = function (this: Message, _depth: number, options: object): string {
      return `${this.constructor.name} ${inspect(this.toJSON(), options)}`
    }
    Object.defineProperty(Message.prototype, inspect.custom, { value: custom })
  }
}

const EAGAIN = -constants.errno.EAGAIN

export interface ConsumeOptions {
  /** How many handlers may run at once. Default: 1. */
  concurrency?: number | undefined
  /** Takes no more messages once aborted. */
  signal?: AbortSignal | undefined
}

export interface ReceiveManyOptions extends WaitOptions {
  /** The most messages to take, at least 1. Default: 256. */
  max?: number | undefined
}

export interface StreamOptions {
  /** How many messages the stream may hold. Default: 16. */
  highWaterMark?: number | undefined
  signal?: AbortSignal | undefined
}

/** Whatever went wrong, the caller has to know how far it went. */
function withSent(error: unknown, sent: number): unknown {
  return error instanceof Error && Object.isExtensible(error) ? Object.assign(error, { sent }) : error
}

/** A message to send, with options of its own. */
export type Outgoing<S> = { data: Data } & S

/** A send that has to wait. */
export interface Sending {
  /** True when all is sent, undefined if it would block. */
  attempt(): true | undefined
  /** The message that would block. */
  readonly next: { bytes: Uint8Array; tag: Tag }
  /** It has been sent by somebody else; then as {@link attempt}. */
  advance(): true | undefined
}

const sent = Promise.resolve()

/** Where Node.js itself listens: it never hears what only looks like a signal, or throws in nobody's call when it leaves it. */
function genuine(signal: AbortSignal): AbortSignal {
  if (!(signal instanceof AbortSignal)) throw invalidType('"signal" option', 'an AbortSignal', signal)
  return signal
}

/**
 * A message queue. `M` is what it brings, `S` the options that a message is sent
 * with, and `R` those that select what to receive.
 */
export abstract class Queue<M extends Message, S extends object, R>
  implements AsyncIterable<M>, AsyncDisposable, Disposable
{
  readonly #take = (options: R | undefined, first?: M): M | undefined => first ?? this.tryReceive(options)

  /** One message if there is one, else undefined; never waits. */
  abstract tryReceive(options?: R): M | undefined

  /**
   * As many messages as there are, but `max` at most; never waits.
   *
   * @param max at least 1; default: 256
   */
  abstract tryReceiveMany(max?: number, options?: R): M[]

  /**
   * Lets go of the queue, which goes on existing. Whatever waits is rejected
   * with ERR_MQ_CLOSED; iterations end.
   */
  abstract close(): Promise<void>

  protected abstract readonly packing: Packing<S>

  /** False if the queue is full. */
  protected abstract put(bytes: Uint8Array, tag: Tag): boolean

  /** Puts it in although the queue was full; blocks the thread. */
  protected abstract putBlocking(bytes: Uint8Array, tag: Tag, deadline: number, options: SyncOptions | undefined): void

  /** What a negative errno of a send means. */
  protected abstract sendError(errno: number, length: number): QueueError

  /** Whether asynchronous sends wait. */
  protected abstract get sendsWait(): boolean

  /** False if earlier sends wait, or the loop is due for a turn. */
  protected abstract admitSend(): boolean

  /** The same, of receives that select alike. */
  protected abstract admitReceive(options: R | undefined): boolean

  /** Counts messages that passed together, for the loop to get its turn. */
  protected abstract spend(messages: number): void

  /** Attempts again when there may be room, after those who wait already. */
  protected abstract waitToSend(sending: Sending, deadline: number, signal: AbortSignal | undefined): Waiter<true>

  /** Calls `take` when there may be a message, or with one, until it brings something. */
  protected abstract waitToReceive<T>(
    take: (options: R | undefined, first?: M) => T | undefined,
    options: (R & WaitOptions) | undefined,
    deadline: number,
  ): Waiter<T>

  /**
   * Sends without waiting.
   *
   * @returns false if the queue is full, or if asynchronous sends wait before it
   * @throws QueueError EMSGSIZE (System V: EINVAL as well), ERR_MQ_CLOSED, EBADF (POSIX:
   * opened for reading only), EACCES and EIDRM (System V)
   * @see mq_send(3), msgsnd(2)
   */
  trySend(data: Data, options?: S): boolean {
    const tag = this.packing.tagOf(options)
    const bytes = toBytes(data)
    return !this.sendsWait && this.put(bytes, tag)
  }

  /**
   * Sends; blocks the thread while the queue is full. It goes past asynchronous
   * sends that wait: those need the loop, which is blocked.
   *
   * @throws QueueError as {@link trySend}; ETIMEDOUT, EINTR (see `restart`)
   * @see mq_timedsend(3), msgsnd(2)
   */
  sendSync(data: Data, options?: S & SyncOptions): void {
    const tag = this.packing.tagOf(options)
    const deadline = deadlineOf(options)
    const bytes = toBytes(data)
    if (!this.put(bytes, tag)) this.putBlocking(bytes, tag, deadline, options)
  }

  /**
   * Sends as soon as there is room. Concurrent calls keep their order. The data
   * is copied before this returns, unless it is gone by then.
   *
   * @throws QueueError as {@link trySend}; ETIMEDOUT
   * @throws AbortError
   */
  send(data: Data, options?: S & WaitOptions): Promise<void> {
    try {
      const tag = this.packing.tagOf(options)
      const deadline = deadlineOf(options)
      const signal = options?.signal
      checkSignal(signal)
      const bytes = toBytes(data)
      if (this.admitSend() && this.put(bytes, tag)) return sent
      const next = { bytes: Uint8Array.from(bytes), tag }
      const attempt = () => this.put(next.bytes, tag) || undefined
      const waiter = this.waitToSend({ attempt, next, advance: () => true }, deadline, signal)
      return waiter.promise.then(() => {})
    } catch (error) {
      return Promise.reject(error)
    }
  }

  /**
   * Sends as many as there is room for, in order, and without waiting.
   *
   * @returns how many were sent
   * @throws QueueError as {@link trySend}, with `sent`
   */
  trySendMany(messages: readonly (Data | Outgoing<S>)[]): number {
    if (!Array.isArray(messages)) throw invalidType('"messages" argument', 'an array of messages', messages)
    if (this.sendsWait) return 0
    const outbox = new Outbox(messages, this.packing)
    try {
      for (;;) {
        const before = outbox.sent
        if (this.#flush(outbox, Number.POSITIVE_INFINITY) || outbox.sent === before) return outbox.sent
      }
    } catch (error) {
      throw withSent(error, outbox.sent)
    }
  }

  /**
   * Sends all, in order, waiting while the queue is full. It takes up to 256
   * messages from the iterable before it sends them.
   *
   * @throws as {@link send}; `sent` tells how many went out before
   */
  async sendMany(messages: Iterable<Data | Outgoing<S>>, options?: WaitOptions): Promise<void> {
    const deadline = deadlineOf(options)
    const signal = options?.signal
    checkSignal(signal)
    const outbox = new Outbox(messages, this.packing)
    // One batch a turn of the loop; but at the deadline there is no other turn.
    const most = () => (performance.now() < deadline ? MAX_BATCH : Number.POSITIVE_INFINITY)
    const attempt = () => this.#flush(outbox, most()) || undefined
    const advance = () => {
      outbox.advance(1)
      return attempt()
    }
    const sending: Sending = {
      attempt,
      advance,
      get next() {
        return outbox.next
      },
    }
    try {
      if (this.admitSend() && attempt()) return
      outbox.prepare()
      checkSignal(signal) // the iterable may have aborted it
      await this.waitToSend(sending, deadline, signal).promise
    } catch (error) {
      outbox.close()
      throw withSent(error, outbox.sent)
    }
  }

  /** True when all is sent. */
  #flush(outbox: Outbox<S>, most: number): boolean {
    const before = outbox.sent
    const errno = outbox.flush(most)
    this.spend(outbox.sent - before)
    if (errno === 0 || errno === EAGAIN) return errno === 0
    throw this.sendError(errno, outbox.next.bytes.length)
  }

  #receive<T>(
    take: (options: R | undefined, first?: M) => T | undefined,
    options: (R & WaitOptions) | undefined,
  ): T | Waiter<T> {
    const deadline = deadlineOf(options)
    checkSignal(options?.signal)
    if (this.admitReceive(options)) {
      const value = take(options)
      if (value !== undefined) return value
    }
    return this.waitToReceive(take, options, deadline)
  }

  /**
   * One message, as soon as there is one. Concurrent calls are served in the
   * order in which they were made.
   *
   * @throws QueueError ETIMEDOUT, ERR_MQ_CLOSED, EBADF (POSIX: opened for writing
   * only), EACCES and EIDRM (System V)
   * @throws AbortError
   */
  receive(options?: R & WaitOptions): Promise<M> {
    try {
      const value = this.#receive(this.#take, options)
      return value instanceof Waiter ? value.promise : Promise.resolve(value)
    } catch (error) {
      return Promise.reject(error)
    }
  }

  /**
   * Waits for the first message, then takes what else is there, up to `max`.
   *
   * @throws as {@link receive}
   */
  receiveMany(options?: R & ReceiveManyOptions): Promise<M[]> {
    try {
      const value = this.#receiveMany(options)
      return value instanceof Waiter ? value.promise : Promise.resolve(value)
    } catch (error) {
      return Promise.reject(error)
    }
  }

  #receiveMany(options: (R & ReceiveManyOptions) | undefined): M[] | Waiter<M[]> {
    const { max = MAX_BATCH }: ReceiveManyOptions = options ?? {}
    checkInteger('"max" option', max, 1, Number.MAX_SAFE_INTEGER)
    return this.#receive((selection, first) => {
      if (first !== undefined) return this.#withMore(first, max, selection)
      const messages = this.tryReceiveMany(max, selection)
      return messages.length > 0 ? messages : undefined
    }, options)
  }

  #withMore(first: M, max: number, selection: R | undefined): M[] {
    if (max === 1) return [first]
    try {
      return [first, ...this.tryReceiveMany(max - 1, selection)]
    } catch {
      return [first] // what is in hand comes first; the next call meets the error again
    }
  }

  /**
   * Iterates over messages as they come; ends when the queue is closed. Each
   * request takes one message, so that leaving the loop loses none.
   *
   * @throws as {@link receive}
   */
  messages(options?: R & WaitOptions): AsyncIterableIterator<M, undefined> {
    return new Puller(() => this.#receive(this.#take, options))
  }

  [Symbol.asyncIterator](): AsyncIterableIterator<M, undefined> {
    return this.messages()
  }

  /** Iterates over arrays of what is there, each of at least one message. */
  batches(options?: R & ReceiveManyOptions): AsyncIterableIterator<M[], undefined> {
    return new Puller(() => this.#receiveMany(options))
  }

  /**
   * Calls the handler for each message until the queue is closed, then
   * resolves. When the signal aborts or a handler fails it takes no more
   * messages, waits for the handlers that run, and rejects with that error.
   *
   * @throws as {@link receive}
   */
  async consume(
    handler: (message: M, context: { signal: AbortSignal }) => unknown,
    options?: R & ConsumeOptions,
  ): Promise<void> {
    const { concurrency = 1, signal }: ConsumeOptions = options ?? {}
    if (typeof handler !== 'function') throw invalidType('"handler" argument', 'a function', handler)
    if (concurrency !== Number.POSITIVE_INFINITY) {
      checkInteger('"concurrency" option', concurrency, 1, Number.MAX_SAFE_INTEGER)
    }
    checkSignal(signal)
    const stop = new AbortController()
    const context = { signal: signal === undefined ? stop.signal : AbortSignal.any([genuine(signal), stop.signal]) }
    const selection = { ...options, ...context } as R & WaitOptions
    const loops: Promise<void>[] = []
    const failures: unknown[] = []
    let idle = 0
    const loop = async () => {
      idle++
      try {
        for await (const message of this.messages(selection)) {
          idle--
          if (idle === 0 && loops.length < concurrency) loops.push(loop())
          await handler(message, context)
          idle++
        }
      } catch (error) {
        failures.push(error)
        stop.abort(error)
      }
    }
    loops.push(loop())
    for (const running of loops) await running
    if (failures.length > 0) throw failures[0]
  }

  /**
   * A readable stream of messages, in object mode; it ends when the queue is
   * closed. It fetches up to `highWaterMark` messages ahead: destroying it
   * drops those.
   */
  createReadStream(options?: R & StreamOptions): Readable {
    const { highWaterMark = 16, signal }: StreamOptions = options ?? {}
    const stop = new AbortController()
    const receive = (max: number) =>
      this.receiveMany({ ...options, max: Math.max(max, 1), signal: stop.signal } as R & ReceiveManyOptions)
    const fetched: M[] = []
    // Runs no handlers: what they throw is an uncaught exception, and must not keep 'close' from coming.
    let receiving: Promise<void> | undefined
    // Each leaves `fetched` before push() runs handlers: what they throw must
    // neither lose the others nor end the stream.
    const deliver = (stream: Readable): void => {
      try {
        for (let message = fetched.shift(); message !== undefined; message = fetched.shift()) stream.push(message)
      } catch (error) {
        process.nextTick(() => stream.read(0))
        throw error
      }
    }
    return new Readable({
      objectMode: true,
      highWaterMark,
      ...(signal && { signal: genuine(signal) }),
      read() {
        if (fetched.length > 0) {
          deliver(this)
          return
        }
        receiving = receive(this.readableHighWaterMark - this.readableLength)
          .then((messages) => {
            // Not as arguments, of which a call can have so many only.
            for (const message of messages) fetched.push(message)
            process.nextTick(deliver, this)
          })
          .catch((error) => process.nextTick(() => (isClosed(error) ? this.push(null) : this.destroy(error))))
      },
      // 'close' comes when nothing waits any more: a message sent after that stays in the queue.
      destroy(error, callback) {
        stop.abort()
        Promise.resolve(receiving).then(() => callback(error))
      },
    })
  }

  /** A writable stream, in object mode, of what {@link sendMany} takes. */
  createWriteStream(options: StreamOptions = {}): Writable {
    const { highWaterMark = 16, signal } = options
    const stop = new AbortController()
    // Runs no handlers, as in a read stream.
    let sending: Promise<void> | undefined
    const send = (items: (Data | Outgoing<S>)[], callback: (error?: Error | null) => void) => {
      const done = (error?: Error) => process.nextTick(callback, error)
      sending = this.sendMany(items, { signal: stop.signal }).then(() => done(), done)
    }
    return new Writable({
      objectMode: true,
      highWaterMark,
      ...(signal && { signal: genuine(signal) }),
      write: (item, _encoding, callback) => send([item], callback),
      writev: (items, callback) =>
        send(
          items.map(({ chunk }) => chunk),
          callback,
        ),
      destroy(error, callback) {
        stop.abort()
        Promise.resolve(sending).then(() => callback(error))
      },
    })
  }

  [Symbol.dispose](): void {
    this.close()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}
