// Requests of this process that wait for their replies, in a queue of its own.
import { randomUUID } from 'node:crypto'
import { QueueError } from '../errors.ts'
import { checkSignal, deadlineOf, MAX_TIMER, Waiter } from '../waiting.ts'
import type { Cancellations } from './cancellations.ts'
import type { Message } from './message.ts'
import type { Transport } from './transport.ts'

/** Headers of a request, and of a reply. */
export const RPC = {
  replyTo: 'kmq-reply-to',
  /** By this the reply is found: the correlation id is for the user. */
  replyId: 'kmq-reply-id',
  /** When nobody waits for the reply any more, in milliseconds since the epoch. */
  deadline: 'kmq-deadline',
  error: 'kmq-error',
} as const

export interface RequestOptions {
  /** Milliseconds to wait for the reply. Default: 30000. */
  timeout?: number | undefined
  signal?: AbortSignal | undefined
}

/** A handler threw, of a request; `message` is what it said. */
export class ReplyError extends Error {
  override readonly name: string = 'ReplyError'
  readonly code = 'ERR_BUS_REPLY'
}

export class Replies {
  readonly #transport: Transport
  /** Resolves when it has ended. */
  readonly #consume: (queue: string, handler: (message: Message) => void) => Promise<void>
  readonly #cancellations: Cancellations
  readonly #waiting = new Map<string, { waiter: Waiter<unknown>; deadline: number }>()
  /** The queue that they come to. */
  #ready: Promise<string> | undefined
  /** Requests hold the process; that its queue is consumed does not. */
  #hold: NodeJS.Timeout | undefined
  #closed = false

  constructor(
    transport: Transport,
    cancellations: Cancellations,
    consume: (queue: string, handler: (message: Message) => void) => Promise<void>,
  ) {
    this.#transport = transport
    this.#cancellations = cancellations
    this.#consume = consume
  }

  #begin(): Promise<string> {
    this.#ready ??= this.#transport.borrow().then(
      (queue) => {
        this.#consume(queue, (message) => this.#take(message)).catch((error: unknown) => this.#fail(queue, error))
        return queue
      },
      (error: unknown) => {
        this.#ready = undefined
        throw error
      },
    )
    return this.#ready
  }

  #take({ allHeaders: headers, body }: Message): void {
    const waiter = this.#waiting.get(headers[RPC.replyId] ?? '')?.waiter
    if (waiter === undefined) return
    if (headers[RPC.error] === undefined) waiter.resolve(body)
    else waiter.reject(new ReplyError(headers[RPC.error]))
  }

  /** No reply comes to those who wait; the next one has a queue of its own made. */
  #fail(queue: string, error: unknown): void {
    this.#ready = undefined
    for (const { waiter } of this.#waiting.values()) waiter.reject(error)
    this.#transport.drop(queue).catch(() => {})
  }

  /** No reply comes any more. */
  close(): void {
    this.#closed = true
    for (const [id, { waiter, deadline }] of this.#waiting) {
      this.#cancellations.cancel(id, deadline)
      waiter.reject(new QueueError('ERR_MQ_CLOSED', { syscall: 'request' }))
    }
  }

  /** Sends by `send`, with headers that bring the reply back, as long as nobody has given up, and waits for it. */
  async request(
    send: (headers: Record<string, string>, ttl: number, over: AbortSignal) => Promise<unknown>,
    now: number,
    { timeout = 30_000, signal }: RequestOptions,
  ): Promise<unknown> {
    const deadline = deadlineOf({ timeout })
    checkSignal(signal)
    const id = randomUUID()
    const until = now + timeout
    const over = new AbortController()
    const waiter = new Waiter<unknown>(deadline, signal, (ended, reason) => {
      // That its time is over, its handler knows by itself; and of one that was not sent there is none.
      if (reason !== 'timeout' && this.#waiting.has(id)) this.#cancellations.cancel(id, until)
      ended.reject(
        reason === 'timeout' ? new QueueError('ETIMEDOUT', { syscall: 'request', detail: `${timeout} ms` }) : reason,
      )
    })
    // Nobody looks at it before it is sent.
    waiter.promise.catch(() => {})
    try {
      // The queue may be longer in the making than anybody waits.
      const queue = (await Promise.race([this.#begin(), waiter.promise])) as string
      // It may be asked for by a handler whose end is waited for.
      if (this.#closed) throw new QueueError('ERR_MQ_CLOSED', { syscall: 'request' })
      this.#waiting.set(id, { waiter, deadline: until })
      this.#hold ??= setInterval(() => {}, MAX_TIMER)
      const headers = { [RPC.replyTo]: queue, [RPC.replyId]: id, [RPC.deadline]: String(until) }
      // To wait for room may take longer than there is time.
      const sent = send(headers, timeout, over.signal)
      return await Promise.race([waiter.promise, sent.then(() => waiter.promise)])
    } catch (error) {
      waiter.reject(error)
      // Not of each: that takes longer than all else that is done for a request here.
      over.abort()
      throw error
    } finally {
      this.#waiting.delete(id)
      if (this.#waiting.size === 0) {
        clearInterval(this.#hold)
        this.#hold = undefined
      }
    }
  }
}
