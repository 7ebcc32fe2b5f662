// What both families of queues share: messages, receiving, iteration, streams.
import { Buffer } from 'node:buffer'
import { Readable, Writable } from 'node:stream'
import { checkInteger, invalidType, invalidValue, isClosed } from './errors.ts'
import { MAX_BATCH } from './native.ts'
import { checkSignal, deadlineOf, Puller, Waiter, type WaitOptions } from './waiting.ts'

/** What can be sent; strings are sent as UTF-8. It is copied when it is handed over. */
export type Data = string | ArrayBufferView | ArrayBufferLike

/** A received message. It owns its memory. */
export abstract class Message {
  readonly data: Buffer

  constructor(data: Buffer) {
    this.data = data
  }

  /** The data as UTF-8. */
  text(): string {
    return this.data.toString('utf8')
  }

  /**
   * The data parsed as JSON.
   *
   * @throws SyntaxError if it is none
   */
  json<T = unknown>(): T {
    return JSON.parse(this.text()) as T
  }
}

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

/** The bytes to send, not copied. */
export function toBytes(data: Data): Uint8Array {
  if (typeof data === 'string') return Buffer.from(data)
  if (data instanceof Uint8Array) {
    if (data.length === 0) checkAttached(data.buffer, data)
    return data
  }
  if (ArrayBuffer.isView(data)) {
    checkAttached(data.buffer, data)
    return new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
  }
  if (data instanceof ArrayBuffer || data instanceof SharedArrayBuffer) {
    checkAttached(data, data)
    return new Uint8Array(data)
  }
  throw invalidType('"data" argument', 'a string, an ArrayBufferView or an ArrayBuffer', data)
}

/** A detached buffer has length 0, and would be sent as an empty message. */
function checkAttached(buffer: ArrayBufferLike, data: unknown): void {
  if (buffer.byteLength > 0) return
  try {
    new Uint8Array(buffer)
  } catch {
    throw invalidValue('"data" argument', 'backed by a buffer that is not detached', data)
  }
}

/**
 * A message queue. `M` is what it brings, `O` what it takes with options of
 * their own, such as `{ data, priority }`.
 */
export abstract class Queue<M extends Message, O extends { data: Data }> implements AsyncDisposable, Disposable {
  readonly #take = (): M | undefined => this.tryReceive()

  /** One message if there is one, else undefined; never waits. */
  abstract tryReceive(): M | undefined

  /**
   * As many messages as there are, but `max` at most; never waits.
   *
   * @param max at least 1; default: 256
   */
  abstract tryReceiveMany(max?: number): M[]

  /**
   * Sends all, in order, waiting while the queue is full. It takes up to 256
   * messages from the iterable before it sends them.
   *
   * An error says in `sent` how many messages went out before it.
   */
  abstract sendMany(messages: Iterable<Data | O>, options?: WaitOptions): Promise<void>

  /**
   * Lets go of the queue, which goes on existing. Whatever waits is rejected
   * with ERR_MQ_CLOSED; iterations end.
   */
  abstract close(): Promise<void>

  /** False if earlier waits come first, or the loop is due for a turn. */
  protected abstract mayReceiveNow(): boolean

  /** Calls `take` whenever there may be a message, until it brings something. */
  protected abstract waitToReceive<T>(
    take: () => T | undefined,
    deadline: number,
    signal: AbortSignal | undefined,
  ): Waiter<T>

  #receive<T>(take: () => T | undefined, options: WaitOptions | undefined): T | Waiter<T> {
    const deadline = deadlineOf(options)
    const signal = options?.signal
    checkSignal(signal)
    if (this.mayReceiveNow()) {
      const value = take()
      if (value !== undefined) return value
    }
    return this.waitToReceive(take, deadline, signal)
  }

  /**
   * One message, as soon as there is one. Concurrent calls are served in the
   * order in which they were made.
   *
   * @throws QueueError ETIMEDOUT, ERR_MQ_CLOSED, EBADF (opened for writing only)
   * @throws AbortError
   */
  receive(options?: WaitOptions): Promise<M> {
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
  receiveMany(options: ReceiveManyOptions = {}): Promise<M[]> {
    try {
      const value = this.#receiveMany(options)
      return value instanceof Waiter ? value.promise : Promise.resolve(value)
    } catch (error) {
      return Promise.reject(error)
    }
  }

  #receiveMany(options: ReceiveManyOptions): M[] | Waiter<M[]> {
    const { max = MAX_BATCH } = options
    checkInteger('"max" option', max, 1, Number.MAX_SAFE_INTEGER)
    return this.#receive(() => {
      const messages = this.tryReceiveMany(max)
      return messages.length > 0 ? messages : undefined
    }, options)
  }

  /**
   * Iterates over messages as they come; ends when the queue is closed. Each
   * request takes one message, so that leaving the loop loses none.
   *
   * @throws as {@link receive}
   */
  messages(options?: WaitOptions): AsyncIterableIterator<M, undefined> {
    return new Puller(() => this.#receive(this.#take, options))
  }

  [Symbol.asyncIterator](): AsyncIterableIterator<M, undefined> {
    return this.messages()
  }

  /** Iterates over arrays of what is there, each of at least one message. */
  batches(options: ReceiveManyOptions = {}): AsyncIterableIterator<M[], undefined> {
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
    options: ConsumeOptions = {},
  ): Promise<void> {
    const { concurrency = 1, signal } = options
    if (typeof handler !== 'function') throw invalidType('"handler" argument', 'a function', handler)
    if (concurrency !== Number.POSITIVE_INFINITY) {
      checkInteger('"concurrency" option', concurrency, 1, Number.MAX_SAFE_INTEGER)
    }
    checkSignal(signal)
    const stop = new AbortController()
    const context = { signal: signal === undefined ? stop.signal : AbortSignal.any([signal, stop.signal]) }
    const loops: Promise<void>[] = []
    const failures: unknown[] = []
    let idle = 0
    const loop = async () => {
      idle++
      try {
        for await (const message of this.messages(context)) {
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
  createReadStream(options: StreamOptions = {}): Readable {
    const { highWaterMark = 16, signal } = options
    const stop = new AbortController()
    const receive = (max: number) => this.receiveMany({ max: Math.max(max, 1), signal: stop.signal })
    return new Readable({
      objectMode: true,
      highWaterMark,
      ...(signal && { signal }),
      read() {
        receive(this.readableHighWaterMark - this.readableLength).then(
          (messages) => {
            for (const message of messages) this.push(message)
          },
          (error) => (isClosed(error) ? this.push(null) : this.destroy(error)),
        )
      },
      destroy(error, callback) {
        stop.abort()
        callback(error)
      },
    })
  }

  /** A writable stream, in object mode, of what {@link sendMany} takes. */
  createWriteStream(options: StreamOptions = {}): Writable {
    const { highWaterMark = 16, signal } = options
    const stop = new AbortController()
    const send = (items: (Data | O)[], callback: (error?: Error | null) => void) => {
      this.sendMany(items, { signal: stop.signal }).then(() => callback(), callback)
    }
    return new Writable({
      objectMode: true,
      highWaterMark,
      ...(signal && { signal }),
      write: (item, _encoding, callback) => send([item], callback),
      writev: (items, callback) =>
        send(
          items.map(({ chunk }) => chunk),
          callback,
        ),
      destroy(error, callback) {
        stop.abort()
        callback(error)
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
