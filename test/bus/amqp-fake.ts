// A queue as RabbitMQ has it, and its channels as their client has them, whose time the test has in its hands.
import { EventEmitter } from 'node:events'
import { setImmediate as turn } from 'node:timers/promises'
import { systemClock } from '../../lib/bus/clock.ts'
import type { Held, LineContext } from '../../lib/bus/transports/amqp/held.ts'
import { Line } from '../../lib/bus/transports/amqp/line.ts'
import { Hold } from '../../lib/bus/transports/engine/hold.ts'
import { deferred } from './support.ts'

export const FOR_EVER = { deadline: Number.POSITIVE_INFINITY, lease: Number.POSITIVE_INFINITY, signal: undefined }

/** Turns of the loop that a message is on its way within the server. */
export const WITHIN = 3

interface Given {
  readonly fields: { readonly deliveryTag: number }
}

interface Sent {
  readonly id: string
  /** How often it was handed out before. */
  count: number
}

interface Consumer {
  readonly tag: string
  readonly channel: FakeChannel
  readonly prefetch: number
  /** What it was sent and has not settled. */
  sent: number
  readonly take: (message: unknown) => void
}

interface Unsettled {
  readonly consumer: Consumer
  readonly message: Sent
}

/** A line on what stands for a link. */
export function newLine(link: object, isKeyed = async () => false, again?: LineContext['again']): Line {
  const topology = { nameOf: (name: string) => name, queue: async () => {}, forget: () => {} }
  return new Line('q', { link, topology, clock: systemClock, isKeyed, again } as unknown as LineContext)
}

/** What is on its way to a consumer as that is cancelled is the queue's again, and counts as handed out. */
export class FakeQueue {
  readonly ready: Sent[] = []
  /** Consumers, since the queue was made. */
  begun = 0
  /** Messages that were on their way to a consumer that was gone. */
  strays = 0
  /** Has the next that is handed out never arrive. */
  losesOne = false
  isKeyed: () => boolean = () => false
  /** What is sent again waits for it to be taken. */
  taken: Promise<unknown> = Promise.resolve()
  /** Messages that were sent again. */
  copies = 0
  /** Answers wait for it. */
  held: Promise<unknown> = Promise.resolve()
  /** Is called with what a channel is asked. */
  onAsk: () => void = () => {}
  /** Is called as a channel begins to be closed. */
  onClose: () => void = () => {}
  readonly line: Line
  readonly #link: { isUp: boolean }
  #back = deferred()
  #channel: FakeChannel | undefined
  readonly #consumers = new Map<string, Consumer>()
  readonly #unsettled = new Map<number, Unsettled>()
  #tag = 0

  constructor() {
    this.#back.resolve()
    const link = {
      hold: new Hold(),
      isUp: true,
      check: () => {},
      up: async () => {
        await this.#back.promise
        link.isUp = true
      },
      channel: async () => {
        this.#channel = new FakeChannel(this)
        return this.#channel
      },
      ends: async (work: Promise<unknown>) => link.isUp && work.then(() => true),
    }
    this.#link = link
    const again = async (held: Held) => {
      this.copies++
      await this.taken
      return this.line.acknowledge([held])[0] as boolean
    }
    this.line = newLine(link, async () => this.isKeyed(), again)
  }

  /** So much may be sent to those that consume. */
  get prefetches(): number[] {
    return [...this.#consumers.values()].map(({ prefetch }) => prefetch)
  }

  send(count: number): void {
    for (let at = 0; at < count; at++) this.ready.push({ id: String(this.#tag++), count: 0 })
    this.#handOut()
  }

  /** By the consumer that stays. */
  receive(max: number, wait = true, signal?: AbortSignal): Promise<Held[]> {
    return this.line.receive({ ...FOR_EVER, max, together: true, signal, ...(wait ? {} : { deadline: 0 }) })
  }

  /** By a consumer of its own. */
  receiveOnce(max: number, signal?: AbortSignal, deadline = Number.POSITIVE_INFINITY): Promise<Held[]> {
    return this.line.receive({ ...FOR_EVER, max, together: false, signal, deadline })
  }

  /** The connection, with the channel. */
  lose(): void {
    this.#link.isUp = false
    this.#channel?.lose()
  }

  /** Until the function that it returns is called. */
  leave(): () => void {
    this.#back = deferred()
    this.lose()
    return this.#back.resolve
  }

  /** As the server does it. */
  cancel(): void {
    for (const { take } of this.#consumers.values()) take(null)
    this.#consumers.clear()
  }

  begin(channel: FakeChannel, prefetch: number, take: (message: unknown) => void): string {
    const consumer = { tag: String(++this.begun), channel, prefetch, sent: 0, take }
    this.#consumers.set(consumer.tag, consumer)
    this.#handOut()
    return consumer.tag
  }

  end(tag: string): void {
    this.#consumers.delete(tag)
  }

  acknowledge({ fields }: Given, upTo: boolean): void {
    for (const [tag, { consumer }] of this.#unsettled) {
      if (tag !== fields.deliveryTag && !(upTo && tag < fields.deliveryTag)) continue
      this.#unsettled.delete(tag)
      consumer.sent--
    }
    this.#handOut()
  }

  reject({ fields }: Given): void {
    this.#return(fields.deliveryTag)
    this.#handOut()
  }

  /** With all that it had. */
  remove(channel: FakeChannel): void {
    for (const [tag, { consumer }] of this.#unsettled) if (consumer.channel === channel) this.#return(tag)
    for (const consumer of this.#consumers.values())
      if (consumer.channel === channel) this.#consumers.delete(consumer.tag)
    this.#handOut()
  }

  #return(deliveryTag: number): void {
    const { consumer, message } = this.#unsettled.get(deliveryTag) as Unsettled
    this.#unsettled.delete(deliveryTag)
    consumer.sent--
    this.ready.unshift({ ...message, count: message.count + 1 })
  }

  #handOut(): void {
    for (const consumer of this.#consumers.values()) {
      while (consumer.sent < consumer.prefetch && this.ready.length > 0) {
        void this.#handTo(consumer, this.ready.shift() as Sent)
      }
    }
  }

  async #handTo(consumer: Consumer, message: Sent): Promise<void> {
    consumer.sent++
    if (this.losesOne) {
      this.losesOne = false
      return
    }
    for (let turns = 0; turns < WITHIN; turns++) await turn()
    if (!this.#consumers.has(consumer.tag)) {
      this.strays++
      this.ready.unshift({ ...message, count: message.count + 1 })
      this.#handOut()
      return
    }
    const deliveryTag = ++this.#tag
    this.#unsettled.set(deliveryTag, { consumer, message })
    const headers = { 'x-delivery-count': message.count }
    consumer.take({ fields: { deliveryTag }, properties: { messageId: message.id, headers }, content: Buffer.of() })
  }
}

class FakeChannel extends EventEmitter {
  readonly #queue: FakeQueue
  #prefetch = 0
  #isClosing = false
  readonly #lost = deferred()
  #asked: Promise<unknown> = Promise.resolve()

  constructor(queue: FakeQueue) {
    super()
    this.#queue = queue
  }

  prefetch(count: number): Promise<void> {
    return this.#ask(() => {
      this.#prefetch = count
    })
  }

  consume(_: string, take: (message: unknown) => void): Promise<{ consumerTag: string }> {
    return this.#ask(() => ({ consumerTag: this.#queue.begin(this, this.#prefetch, take) }))
  }

  cancel(tag: string): Promise<void> {
    return this.#ask(() => this.#queue.end(tag))
  }

  checkQueue(): Promise<{ messageCount: number }> {
    return this.#ask(() => ({ messageCount: this.#queue.ready.length }))
  }

  ack(message: Given, upTo = false): void {
    this.#check()
    void this.#write(() => this.#queue.acknowledge(message, upTo))
  }

  nack(message: Given): void {
    this.#check()
    void this.#write(() => this.#queue.reject(message))
  }

  /** From now on it refuses what it is asked. */
  async close(): Promise<void> {
    this.#isClosing = true
    this.#queue.onClose()
    await this.#write(() => this.#queue.remove(this))
    await this.#queue.held
    this.emit('close')
  }

  #check(): void {
    if (this.#isClosing) throw Object.assign(new Error('Channel closing'), { name: 'IllegalOperationError' })
  }

  /** What it has asked for is not answered any more. */
  lose(): void {
    this.#isClosing = true
    this.#queue.remove(this)
    this.#lost.resolve()
    this.emit('close')
  }

  /** What is written arrives a while later, in that order. */
  async #write<R>(work: () => R): Promise<R> {
    await turn()
    return work()
  }

  /** As the client does it: the next is asked when the one before was answered. */
  #ask<R>(work: () => R): Promise<R> {
    const answered = this.#asked.then(async () => {
      this.#queue.onAsk()
      this.#check()
      const result = await this.#write(work)
      await this.#queue.held
      return result
    })
    this.#asked = answered.catch(() => {})
    const lost = this.#lost.promise.then(() => {
      throw new Error('Channel ended, no reply will be forthcoming')
    })
    return Promise.race([answered, lost])
  }
}
