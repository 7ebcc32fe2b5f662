// nats://host: each queue is a stream of JetStream, with the retention of work queues.
import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { QueueError } from '../../../errors.ts'
import type { Clock } from '../../clock.ts'
import { isBound } from '../../topic-pattern.ts'
import {
  type Addressed,
  type Binding,
  BORROWED,
  type Capabilities,
  type Delivery,
  type Outgoing,
  type Page,
  type PutOptions,
  type Receipt,
  type ReceiveOptions,
  Refusals,
  type SendOptions,
  type Settlement,
  type Transport,
  type TransportStats,
  unsupported,
} from '../../transport.ts'
import { type Address, addressOf } from '../engine/address.ts'
import { Bindings } from './bindings.ts'
import { Borrowed, FULL, Lent, outgoing } from './borrowed.ts'
import { toHeaders } from './envelope.ts'
import { Held } from './hands.ts'
import { Ledger } from './ledger.ts'
import { Link, Trouble } from './link.ts'
import { nameOf, PARTITIONS } from './names.ts'
import { Records, subjectOf } from './records.ts'
import { isStored } from './state.ts'
import { Stream, type StreamSettings } from './stream.ts'

/** Bytes that a message may have beside its body. */
const BESIDE = 16_384
/** Milliseconds after which a message is taken away from a process that says nothing. */
const LEASE = 30_000
/** Milliseconds for a process to come back for what was sent to a queue that it has borrowed. */
const BACK = 1000
/** Milliseconds between looks whether what this process has borrowed is still bound. */
const REBIND = 5000
/** Nanoseconds after which a note of a message is forgotten: thirty days. */
const FORGOTTEN = 30 * 86_400 * 1e9
/** Milliseconds for what is to be said when it is closed. */
const LINGER = 1000
const capabilities = {
  persist: 'process',
  delay: 'native',
  priority: 'emulated',
  dedup: 'native',
  order: 'emulated',
  partitions: PARTITIONS,
  lease: 'timer',
  deadLetter: 'emulated',
  transaction: 'emulated',
  browse: 'native',
  fanout: 'emulated',
  bounds: false,
  replay: false,
  start: false,
  quotas: false,
  records: 'emulated',
} as const

/** @throws {QueueError} ERR_BUS_NO_CLIENT, ERR_BUS_CONNECTION, ERR_BUS_ACCESS */
export async function openNats(url: URL, { clock }: { clock: Clock }): Promise<Transport> {
  const address = addressOf(url, ['lease', 'replicas'])
  const { lease = LEASE, replicas = 1 } = address.numbers
  const link = await Link.open(url, address)
  return new Nats(link, address, { lease, replicas }, clock)
}

/** Of many there is nothing to be encoded. */
const ACK = Buffer.from('+ACK')

/** What the server is told of one of a batch. */
type Told = [at: number, held: Held, word: string]

/** Bytes of messages that are looked at together before they are told of: their bodies come with them. */
const LOOKED = 2 ** 21

/** How many of them. */
function lookable(list: readonly Told[]): number {
  let bytes = 0
  const end = list.findIndex(([, { body }]) => {
    bytes += body.length
    return bytes > LOOKED
  })
  return end < 0 ? list.length : Math.max(end, 1)
}

class Nats extends Refusals implements Transport {
  readonly capabilities: Capabilities
  readonly overflow = 'reject'
  readonly #link: Link
  readonly #prefix: string
  /** Milliseconds to wait for a server that is away. */
  readonly #patience: number
  readonly #clock: Clock
  readonly #settings: StreamSettings
  readonly #records: Records
  readonly #bindings: Bindings
  readonly #streams = new Map<string, Stream>()
  readonly #borrowed = new Map<string, Borrowed>()
  /** Of queues that this process has borrowed. */
  readonly #own: Binding[] = []
  #rebinding: NodeJS.Timeout | undefined
  #count = 0
  readonly #nonce = randomUUID()
  #closed: Promise<void> | undefined

  constructor(
    link: Link,
    { prefix, patience }: Address,
    { lease, replicas }: { lease: number; replicas: number },
    clock: Clock,
  ) {
    super()
    this.#link = link
    this.#prefix = prefix
    this.#patience = patience
    this.#clock = clock
    const ledger = (name: string, more: object) =>
      new Ledger(link, `${prefix}~${name}`, `${prefix}~${name}`, { num_replicas: replicas, ...more })
    const records = ledger('records', {})
    this.#records = new Records(records, clock)
    this.#bindings = new Bindings(records)
    this.#settings = { link, clock, prefix, lease, replicas, notes: ledger('notes', { max_age: FORGOTTEN }) }
    this.capabilities = { ...capabilities, maxBytes: Math.max(link.maxPayload - BESIDE, 0) }
    link.onConnection(() => this.#rebind())
  }

  #check(call: string): void {
    if (this.#closed !== undefined) throw new QueueError('ERR_MQ_CLOSED', { syscall: call })
  }

  #stream(queue: string): Stream {
    let stream = this.#streams.get(queue)
    if (stream === undefined) {
      stream = new Stream(queue, this.#settings)
      this.#streams.set(queue, stream)
    }
    return stream
  }

  async declare(): Promise<void> {}

  async send(batch: readonly Addressed[], { disk }: SendOptions): Promise<Receipt[]> {
    this.#check('send')
    if (disk) throw unsupported('persist', 'send')
    const sent = await Promise.allSettled(batch.map(({ queue, message }) => this.#send('send', queue, message)))
    return receiptsOf(sent)
  }

  /** @param source by which the server knows that it has it; a message with an id that was given has that */
  async #send(call: string, queue: string, message: Outgoing, source?: string): Promise<Receipt> {
    if (queue.startsWith(BORROWED)) {
      await this.#lend(call, queue, message, BACK)
      return { id: message.id, duplicate: false }
    }
    const once = source ?? `${this.#nonce}~${++this.#count}`
    return this.#stream(queue).send(call, message, message.dedup > 0 ? message.id : once)
  }

  /** Whether it has come to the process that has borrowed the queue; if that is gone, what was for it is, too. */
  async #lend(call: string, queue: string, message: Outgoing, patience: number): Promise<boolean> {
    const headers = toHeaders(this.#link.client, message, { sentAt: this.#clock.now() })
    const subject = this.#subjectOf(queue)
    const until = performance.now() + patience
    this.#link.hold(true)
    try {
      for (;;) {
        try {
          await this.#link.ready(call)
          const answer = await this.#link.ask(subject, message.body, headers)
          if (answer.string() !== FULL) return true
          throw new QueueError('ERR_BUS_QUEUE_FULL', { syscall: call, path: queue })
        } catch (error) {
          if (!(error instanceof Trouble)) throw error
          if (error.kind !== 'lost' && performance.now() >= until) return false
          await sleep(20)
        }
      }
    } finally {
      this.#link.hold(false)
    }
  }

  #subjectOf(borrowed: string): string {
    return `${this.#prefix}~borrowed.${nameOf(borrowed)}`
  }

  async receive(queue: string, options: ReceiveOptions): Promise<Delivery[]> {
    this.#check('receive')
    const borrowed = this.#borrowed.get(queue)
    const deliveries = await (borrowed ?? this.#stream(queue)).receive(options)
    return deliveries
  }

  /** What is sent or written down before the server is told is answered by itself, if at all. */
  isApart(settlement: Settlement): boolean {
    const { outcome, token } = settlement
    if (outcome === 'ack') return settlement.send !== undefined
    if (outcome === 'retry') return settlement.counted || (token instanceof Held && token.begun)
    return outcome !== 'extend'
  }

  async settle(batch: readonly Settlement[]): Promise<boolean[]> {
    this.#check('settle')
    const settled = new Array<boolean>(batch.length).fill(false)
    /** What the server is told, by consumer. */
    const words = new Map<object, Told[]>()
    const tell = (at: number, held: Held, word: string) => {
      const list = words.get(held.hands)
      if (list === undefined) words.set(held.hands, [[at, held, word]])
      else list.push([at, held, word])
    }
    const prepared: Promise<void>[] = []
    for (const [at, settlement] of batch.entries()) {
      const { token } = settlement
      if (token instanceof Lent) {
        const done = this.#settleLent(token, settlement).then((isDone) => {
          settled[at] = isDone
        })
        prepared.push(done)
      } else if (token instanceof Held) {
        // Most are only acknowledged.
        if (settlement.outcome === 'ack' && settlement.send === undefined) {
          if (token.hands.take(token)) tell(at, token, '+ACK')
        } else {
          const done = this.#prepare(token, settlement).then((word) => {
            if (typeof word === 'string') tell(at, token, word)
            else settled[at] = word
          })
          prepared.push(done)
        }
      }
    }
    const failed = (await Promise.allSettled(prepared)).find(({ status }) => status === 'rejected')
    await Promise.all(
      [...words.values()].map(async (list) => {
        const done = await this.#tell(list)
        for (const [at] of list) settled[at] = done
      }),
    )
    if (failed !== undefined) throw (failed as PromiseRejectedResult).reason
    return settled
  }

  /** What comes before the server is told, and what that is; or whether there is nothing to be told. */
  async #prepare(held: Held, settlement: Settlement): Promise<string | boolean> {
    const { hands, sequence } = held
    if (!hands.has(held)) return false
    try {
      if (settlement.outcome === 'ack') {
        const send = settlement.send ?? []
        const source = `${hands.stream}~${sequence}`
        const sent = send.map(({ queue, message }, at) => this.#send('ack', queue, message, `${source}~${at}`))
        receiptsOf(await Promise.allSettled(sent))
        return hands.take(held) && '+ACK'
      }
      if (settlement.outcome === 'dead') {
        const { id, format, sentAt } = held.fields
        const { queue, headers } = settlement
        const nothing = { dedup: 0, key: undefined, priority: 0, due: 0, expires: 0 }
        const copy: Outgoing = { id, body: held.body, format, headers, ...nothing }
        await this.#stream(queue).send('dead', copy, `${hands.stream}~${sequence}~dead`, sentAt)
        return hands.take(held) && '+TERM'
      }
      if (settlement.outcome === 'begin') {
        await hands.write(held, { begun: true })
        held.begun = true
        return true
      }
      if (settlement.outcome === 'extend') {
        hands.extend(held, settlement.until)
        return true
      }
      const { due, counted } = settlement
      if (counted) held.attempts++
      // Who gets it next has to know, unless nothing has happened.
      if (counted || held.begun) await hands.write(held, { due })
      return hands.take(held) && hands.nak(held, due)
    } catch (error) {
      if ((error as QueueError).code !== 'ERR_BUS_CONNECTION') throw error
      // It will be handed out again by itself, once nobody keeps it.
      hands.take(held)
      return false
    }
  }

  /** All of one consumer; it answers the last when it has done all that came before. */
  async #tell(list: Told[]): Promise<boolean> {
    list.sort(([, a], [, b]) => a.sequence - b.sequence)
    // What cannot be told in time comes again.
    const until = Math.min(performance.now() + this.#patience, ...list.map(([, { safe }]) => safe))
    let left = list
    this.#link.hold(true)
    try {
      let isDoubtful = !this.#link.isConnected || list.some(([, held]) => held.isDoubtful)
      for (; performance.now() < until; isDoubtful = true) {
        try {
          await this.#link.ready('settle', until)
          // What was told before may be done, and a server that was killed since may have given another the sequence;
          // so may the stream that was made since somebody has removed the one of the message.
          while (left.length > 0) {
            const part = isDoubtful ? left.slice(0, lookable(left)) : left
            const there = isDoubtful ? await this.#stored(part, until) : part
            const last = there.at(-1)
            for (const one of there) if (one !== last) this.#link.tell(one[1].reply, one[2] === '+ACK' ? ACK : one[2])
            if (last !== undefined) await this.#link.ask(last[1].reply, last[2], undefined, until)
            left = left.slice(part.length)
          }
          for (const [, { note }, word] of list) if (note !== undefined && !word.startsWith('-')) this.#forget(note)
          return true
        } catch (error) {
          // It may have been done, or not: the same again does no harm as long as it is ours, and there.
          if (!(error instanceof Trouble || (error as QueueError).code === 'ERR_BUS_CONNECTION')) throw error
          await sleep(20)
        }
      }
      return false
    } finally {
      this.#link.hold(false)
    }
  }

  /** Those that are there; all of them are asked for over one connection, over which they can be told next. */
  async #stored(list: readonly Told[], until: number): Promise<Told[]> {
    const stored = await Promise.all(
      list.map(([, { hands, reply }]) => isStored(hands.stream, reply, until, this.#link)),
    )
    return list.filter((_, at) => stored[at])
  }

  #forget(note: number): void {
    void this.#settings.notes.remove(note).catch(() => {})
  }

  async #settleLent(lent: Lent, settlement: Settlement): Promise<boolean> {
    const { borrowed, delivery } = lent
    const { outcome } = settlement
    if (outcome === 'retry') return borrowed.again(lent, settlement.due, settlement.counted)
    if (outcome === 'begin' || outcome === 'extend') return lent.isHeld
    if (outcome === 'dead') {
      const copy = { ...outgoing(delivery), headers: settlement.headers }
      await this.#send('dead', settlement.queue, copy)
    } else {
      await Promise.all((settlement.send ?? []).map(({ queue, message }) => this.#send('ack', queue, message)))
    }
    return borrowed.done(lent)
  }

  async stats(queue: string): Promise<TransportStats> {
    this.#check('stats')
    return this.#borrowed.get(queue)?.stats() ?? this.#stream(queue).stats()
  }

  async queues(): Promise<string[]> {
    this.#check('queues')
    const names: string[] = []
    for (let offset = 0; ; ) {
      interface List {
        total: number
        limit: number
        streams: { config: { name: string; description?: string } }[] | null
      }
      const { total, limit, streams } = await this.#link.api<List>('STREAM.LIST', { offset })
      for (const { config } of streams ?? []) {
        const { name, description } = config
        if (name.startsWith(`${this.#prefix}=`) && description !== undefined) names.push(description)
      }
      offset += limit
      if (offset >= total || limit === 0) return names
    }
  }

  override async browse(queue: string, { max, after }: { max: number; after: string | undefined }): Promise<Page> {
    this.#check('browse')
    return this.#stream(queue).browse(max, after)
  }

  async bind(binding: Binding): Promise<void> {
    this.#check('bind')
    if (this.#borrowed.has(binding.queue)) {
      this.#own.push(binding)
      this.#rebinding ??= setInterval(() => this.#rebind(), REBIND).unref()
    }
    await this.#bindings.add([binding])
  }

  /**
   * Who publishes while this process is away, or says nothing, takes it for gone; and may remove what is bound when it
   * has just come back.
   */
  #rebind(): void {
    if (this.#own.length > 0 && this.#link.isConnected) void this.#bindings.add(this.#own).catch(() => {})
  }

  async unbind(binding: Binding): Promise<void> {
    this.#check('unbind')
    await this.#bindings.remove(binding)
  }

  /** To one after the other. */
  async publish(topic: string, message: Outgoing, { disk }: SendOptions): Promise<string[]> {
    this.#check('publish')
    if (disk) throw unsupported('persist', 'publish')
    const bound = (await this.#bindings.list()).filter((binding) => isBound(binding, topic, message.headers ?? {}))
    const queues = [...new Set(bound.map(({ queue }) => queue))]
    const source = `${this.#nonce}~${++this.#count}`
    const sent = await Promise.allSettled(queues.map((queue) => this.#publishTo(queue, message, source)))
    const failed = sent.find(({ status }) => status === 'rejected')
    if (failed !== undefined) throw (failed as PromiseRejectedResult).reason
    return queues.filter((_, at) => (sent[at] as PromiseFulfilledResult<boolean>).value)
  }

  async #publishTo(queue: string, message: Outgoing, source: string): Promise<boolean> {
    if (!queue.startsWith(BORROWED)) {
      await this.#send('publish', queue, message, source)
      return true
    }
    try {
      if (await this.#lend('publish', queue, message, 0)) return true
    } catch (error) {
      // Who is slow misses it.
      if ((error as QueueError).code !== 'ERR_BUS_QUEUE_FULL') throw error
      return false
    }
    await this.#bindings.removeAll(new Set([queue]))
    return false
  }

  async borrow(prefix = ''): Promise<string> {
    this.#check('borrow')
    const name = `${BORROWED}${prefix}${randomUUID()}`
    this.#borrowed.set(name, new Borrowed(name, this.#subjectOf(name), this.#link, this.#clock))
    // Nobody may send to it before the server knows of it.
    await this.#link.flush().catch(() => {})
    return name
  }

  async drop(queue: string): Promise<void> {
    const borrowed = this.#borrowed.get(queue)
    this.#borrowed.delete(queue)
    borrowed?.close(new QueueError('ERR_MQ_CLOSED', { syscall: 'drop' }))
    this.#own.splice(0, this.#own.length, ...this.#own.filter((one) => one.queue !== queue))
    if (this.#closed !== undefined) return
    await this.#bindings.removeAll(new Set([queue]))
    if (queue.startsWith(BORROWED)) return
    const stream = this.#stream(queue)
    this.#streams.delete(queue)
    await stream.drop()
  }

  override async entries(prefix: string): Promise<[key: string, value: string][]> {
    this.#check('entries')
    return this.#records.entries(prefix)
  }

  /** What is sent goes first: what is put without it would be a promise that nobody keeps. */
  override async put(key: string, value: string | undefined, { send = [], until = 0 }: PutOptions = {}): Promise<void> {
    this.#check('put')
    const subject = subjectOf(key)
    receiptsOf(await Promise.allSettled(send.map(({ queue, message }) => this.#send('put', queue, message))))
    await this.#records.put(subject, value, until)
  }

  close(): Promise<void> {
    this.#closed ??= this.#close()
    return this.#closed
  }

  async #close(): Promise<void> {
    clearInterval(this.#rebinding)
    const reason = new QueueError('ERR_MQ_CLOSED', { syscall: 'receive' })
    const borrowed = [...this.#borrowed.values()]
    for (const one of borrowed) one.close(reason)
    for (const stream of this.#streams.values()) stream.close(reason)
    // A server that says nothing learns it by itself.
    const over = new AbortController()
    await Promise.race([this.#finish(), sleep(LINGER, undefined, { signal: over.signal })])
    over.abort()
    await this.#link.close()
  }

  async #finish(): Promise<void> {
    if (this.#own.length > 0 && this.#link.isConnected) {
      // Nobody binds them again.
      const queues = new Set(this.#own.splice(0).map(({ queue }) => queue))
      await this.#bindings.removeAll(queues).catch(() => {})
    }
    await this.#link.flush().catch(() => {})
  }
}

/** All of them; the error of the first that was not sent says how many were. */
function receiptsOf(sent: readonly PromiseSettledResult<Receipt>[]): Receipt[] {
  const receipts = sent.filter((one) => one.status === 'fulfilled').map(({ value }) => value)
  const failed = sent.find(({ status }) => status === 'rejected') as PromiseRejectedResult | undefined
  if (failed === undefined) return receipts
  if (failed.reason instanceof QueueError) failed.reason.sent = receipts.length
  throw failed.reason
}
