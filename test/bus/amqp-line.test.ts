// What no server is needed for: at which moment something is asked for again.
import { EventEmitter } from 'node:events'
import { setImmediate as turn } from 'node:timers/promises'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { systemClock } from '../../lib/bus/clock.ts'
import { type Held, type LineContext, QUIET } from '../../lib/bus/transports/amqp/held.ts'
import { Line } from '../../lib/bus/transports/amqp/line.ts'
import { Hold } from '../../lib/bus/transports/engine/hold.ts'
import { deferred } from './support.ts'

interface Given {
  readonly fields: { readonly deliveryTag: number }
}

interface FakeConsumer {
  readonly tag: string
  readonly prefetch: number
  /** What it was sent and has not settled. */
  sent: number
  readonly take: (message: unknown) => void
}

interface Unsettled {
  readonly consumer: FakeConsumer
  readonly message: Sent
}

const FOR_EVER = { deadline: Number.POSITIVE_INFINITY, lease: Number.POSITIVE_INFINITY, signal: undefined }

interface Sent {
  readonly id: string
  /** How often it was handed out before. */
  count: number
}

/**
 * A queue as RabbitMQ has it, for one channel: what was on its way to a consumer as that was cancelled is the queue's
 * again, and counts as handed out.
 */
class FakeQueue {
  readonly channel = Object.assign(new EventEmitter(), {
    prefetch: (count: number) =>
      this.#ask(() => {
        this.#prefetch = count
      }),
    consume: (_: string, take: (message: unknown) => void) =>
      this.#ask(() => {
        const consumer = { tag: String(++this.begun), prefetch: this.#prefetch, sent: 0, take }
        this.#consumers.set(consumer.tag, consumer)
        this.#handOut()
        return { consumerTag: consumer.tag }
      }),
    cancel: (tag: string) => this.#ask(() => void this.#consumers.delete(tag)),
    close: async () => {},
    checkQueue: () => this.#ask(() => ({ messageCount: this.ready.length })),
    ack: ({ fields }: Given, upTo = false) =>
      void this.#write(() => {
        for (const [tag, { consumer }] of this.#unsettled) {
          if (tag !== fields.deliveryTag && !(upTo && tag < fields.deliveryTag)) continue
          this.#unsettled.delete(tag)
          consumer.sent--
        }
        this.#handOut()
      }),
    nack: ({ fields }: Given) =>
      void this.#write(() => {
        const { consumer, message } = this.#unsettled.get(fields.deliveryTag) as Unsettled
        this.#unsettled.delete(fields.deliveryTag)
        consumer.sent--
        this.#again(message)
      }),
  })
  readonly ready: Sent[] = []
  /** Consumers, since the queue was made. */
  begun = 0
  /** Messages that were on their way to a consumer that was gone. */
  strays = 0
  /** Has the next that is handed out never arrive. */
  losesOne = false
  /** Answers wait for it. */
  held: Promise<unknown> = Promise.resolve()
  readonly line: Line
  readonly #consumers = new Map<string, FakeConsumer>()
  readonly #unsettled = new Map<number, Unsettled>()
  #asked: Promise<unknown> = Promise.resolve()
  #prefetch = 0
  #tag = 0

  constructor() {
    const { channel } = this
    const link = {
      hold: new Hold(),
      isUp: true,
      check: () => {},
      up: async () => {},
      channel: async () => channel,
      ends: async (work: Promise<unknown>) => work.then(() => true),
    }
    const topology = { nameOf: (name: string) => name, queue: async () => {}, forget: () => {} }
    const context = { link, topology, clock: systemClock, isKeyed: async () => false } as unknown as LineContext
    this.line = new Line('q', context)
  }

  /** So much may be sent to those that consume. */
  get prefetches(): number[] {
    return [...this.#consumers.values()].map(({ prefetch }) => prefetch)
  }

  send(count: number): void {
    for (let at = 0; at < count; at++) this.ready.push({ id: String(this.ready.length), count: 0 })
    this.#handOut()
  }

  receive(max: number, wait = true): Promise<Held[]> {
    return this.line.receive({ ...FOR_EVER, max, together: true, ...(wait ? {} : { deadline: 0 }) })
  }

  /** What is written arrives a while later, in that order. */
  async #write<R>(work: () => R): Promise<R> {
    await turn()
    return work()
  }

  /** As the client does it: the next is asked when the one before was answered. */
  #ask<R>(work: () => R): Promise<R> {
    const answer = this.#asked.then(async () => {
      const result = await this.#write(work)
      await this.held
      return result
    })
    this.#asked = answer
    return answer
  }

  #handOut(): void {
    for (const consumer of this.#consumers.values()) {
      while (consumer.sent < consumer.prefetch && this.ready.length > 0)
        this.#handTo(consumer, this.ready.shift() as Sent)
    }
  }

  #handTo(consumer: FakeConsumer, message: Sent): void {
    consumer.sent++
    if (this.losesOne) {
      this.losesOne = false
      return
    }
    void this.#deliver(consumer, message)
  }

  async #deliver(consumer: FakeConsumer, message: Sent): Promise<void> {
    await turn()
    if (!this.#consumers.has(consumer.tag)) {
      this.strays++
      this.#again(message)
      return
    }
    const deliveryTag = ++this.#tag
    this.#unsettled.set(deliveryTag, { consumer, message })
    const headers = { 'x-delivery-count': message.count }
    consumer.take({ fields: { deliveryTag }, properties: { messageId: message.id, headers }, content: Buffer.of() })
  }

  #again(message: Sent): void {
    this.ready.unshift({ ...message, count: message.count + 1 })
    this.#handOut()
  }
}

/** All that is answered at once has been. */
async function settled(): Promise<void> {
  for (let turns = 0; turns < 30; turns++) await turn()
}

let queue: FakeQueue

beforeEach(() => {
  // Who waits for a while does so until the test says that it is over.
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'setInterval', 'clearInterval'] })
  queue = new FakeQueue()
})

afterEach(async () => {
  const closed = queue.line.close(new Error('closed'))
  await settled()
  await closed
  vi.useRealTimers()
})

test('of two that wait each gets one, while the other holds his', async () => {
  const both = [queue.receive(1), queue.receive(1)]
  await settled()
  queue.send(2)
  const given = await Promise.all(both)
  expect(given.map((held) => held.length)).toEqual([1, 1])
})

test('who has plenty is sent more, of which nothing counts as lost', async () => {
  queue.send(8)
  const first = await queue.receive(2)
  expect(await queue.receive(2, false)).toEqual([])
  queue.line.acknowledge(first)
  queue.line.acknowledge(await queue.receive(2))
  await settled()
  expect(queue.prefetches).toEqual([4])
  expect(queue.strays).toBe(0)
})

test('nothing is fetched for those who are busy and do not wait', async () => {
  queue.send(8)
  const held = await queue.receive(2)
  expect(await queue.receive(2, false)).toEqual([])
  queue.line.acknowledge(held.slice(0, 1))
  await settled()
  expect([queue.begun, queue.ready.length]).toEqual([1, 5])
})

test('who gets something as he is about to be sent more is sent it all the same', async () => {
  queue.send(8)
  const first = await queue.receive(2)
  expect(await queue.receive(2, false)).toEqual([])
  const more = queue.receive(2)
  queue.line.acknowledge(first)
  await more
  await settled()
  expect(queue.prefetches).toEqual([4])
})

test('who acknowledges something as he is about to be sent more is sent it when all has come', async () => {
  const first = queue.receive(2)
  await settled()
  queue.send(1)
  const held = await first
  const second = queue.receive(2)
  const answers = deferred()
  queue.held = answers.promise
  const signal = new AbortController()
  const other = queue.line.receive({ ...FOR_EVER, max: 1, together: false, signal: signal.signal })
  await settled()
  queue.send(4)
  await second
  queue.line.acknowledge(held)
  answers.resolve()
  await settled()
  expect(queue.strays).toBe(0)
  signal.abort()
  await other.catch(() => {})
})

test('a message that the server has lost on the way keeps nobody from others, while somebody holds one', async () => {
  const first = queue.receive(2)
  await settled()
  queue.send(1)
  expect((await first).length).toBe(1)
  queue.losesOne = true
  queue.send(2)
  const second = queue.receive(2)
  await settled()
  vi.advanceTimersByTime(QUIET)
  expect((await second).length).toBe(1)
})

test('who asks as the server says that the consumer before has ended gets one of his own', async () => {
  for (let hops = 0; hops < 40; hops++) {
    let consumers = 0
    let cancelled = deferred()
    const channel = Object.assign(new EventEmitter(), {
      prefetch: async () => {},
      consume: async () => ({ consumerTag: String(++consumers) }),
      cancel: () => cancelled.promise.then(() => void consumers--),
      close: async () => {},
      checkQueue: async () => ({ messageCount: 0 }),
    })
    const link = { hold: new Hold(), isUp: true, check: () => {}, up: async () => {}, channel: async () => channel }
    const topology = { nameOf: (name: string) => name, queue: async () => {}, forget: () => {} }
    const context = { link, topology, clock: systemClock, isKeyed: async () => false } as unknown as LineContext
    const line = new Line('q', context)
    const receive = (signal?: AbortSignal) => line.receive({ ...FOR_EVER, max: 1, together: true, signal })
    const first = new AbortController()
    const received = receive(first.signal)
    await turn()
    expect(consumers).toBe(1)
    first.abort()
    await expect(received).rejects.toMatchObject({ name: 'AbortError' })
    cancelled.resolve()
    for (let hop = 0; hop < hops; hop++) await undefined
    cancelled = deferred()
    const again = receive()
    await turn()
    expect(consumers, `${hops} hops later`).toBe(1)
    cancelled.resolve()
    await Promise.all([expect(again).rejects.toThrow('closed'), line.close(new Error('closed'))])
  }
})
