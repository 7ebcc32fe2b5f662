// amqp://host: queues of RabbitMQ, which keep what they have on more than one machine.
import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Channel, ChannelModel, GetMessage } from 'amqplib'
import { checkInteger, QueueError } from '../../../errors.ts'
import { checkSignal, Waiter } from '../../../waiting.ts'
import { bytesOf } from '../../body.ts'
import type { Clock } from '../../clock.ts'
import { DEAD } from '../../message.ts'
import { isBound } from '../../topic-pattern.ts'
import {
  type Addressed,
  type Binding,
  BORROWED,
  BUS_BATCH,
  type Capabilities,
  type Delivery,
  type Outgoing,
  type Page,
  type Receipt,
  type ReceiveOptions,
  Refusals,
  type SendOptions,
  type Settlement,
  type Transport,
  type TransportStats,
  unsupported,
} from '../../transport.ts'
import { addressOf, noAccess, noConnection } from '../engine/address.ts'
import { loadClient } from '../engine/client.ts'
import { Hold } from '../engine/hold.ts'
import type { Past } from '../engine/wire.ts'
import { Discovery } from './discovery.ts'
import type { Held, Holder, Told } from './held.ts'
import { partitionOf } from './keyed.ts'
import { Line, LOOK_AGAIN, LOOKS } from './line.ts'
import { Link, refusalOf } from './link.ts'
import { type Posting, Publisher } from './publisher.ts'
import { notesOf, PARTITIONS, partitionName, refused, rounded, Topology, topicKey } from './topology.ts'
import { countOf, read, toOptions } from './wire.ts'

const PORTS: Record<string, number> = { 'amqp:': 5672, 'amqps:': 5671 }

/** Milliseconds to make a connection, all that is said before it is one included. */
const HANDSHAKE = 10_000

/** Seconds without a sign of life after which the other side asks for one. */
const HEARTBEAT = 30

/** Bytes: what a server takes by default, before RabbitMQ 4 and from then on. */
const LARGEST = 2 ** 27
const LARGEST_4 = 2 ** 24

/** What the stack of an error may be, in a header. */
const LONGEST_ERROR = 8000

/** Milliseconds after which a queue that was full may take more. */
const FULL = 100

const WAITING: SendOptions = { overflow: 'wait', disk: true, signal: undefined }

/** What passes when the server is there again, or has room. */
const PASSING = ['ERR_BUS_CONNECTION', 'ERR_BUS_DISK_FULL']

const NOTHING: TransportStats = { ready: 0, leased: 0, delayed: 0, held: 0, bytes: 0, oldest: undefined }

const capabilities = (maxBytes: number): Capabilities => ({
  persist: 'disk',
  delay: 'emulated',
  priority: false,
  dedup: false,
  order: 'emulated',
  partitions: PARTITIONS,
  lease: 'timer',
  deadLetter: 'emulated',
  transaction: false,
  browse: false,
  fanout: 'native',
  replay: false,
  start: false,
  quotas: false,
  bounds: false,
  records: false,
  maxBytes,
})

interface Client {
  connect(url: object, options: object): Promise<ChannelModel>
}

/** Opens the bus of a prefix in a virtual host. */
export async function openAmqp(url: URL, clock: Clock): Promise<Amqp> {
  const { prefix, patience, numbers } = addressOf(url, ['heartbeat'])
  const { connect } = await loadClient<Client>('amqplib')
  const port = PORTS[url.protocol] as number
  const vhost = url.pathname.length > 1 ? url.pathname.slice(1) : '/'
  const address = {
    protocol: url.protocol.slice(0, -1),
    hostname: url.hostname.replace(/^\[|\]$/g, '') || 'localhost',
    port: Number(url.port || port),
    username: decodeURIComponent(url.username) || 'guest',
    password: decodeURIComponent(url.password) || (url.username === '' ? 'guest' : ''),
    vhost,
    heartbeat: numbers.heartbeat ?? HEARTBEAT,
  }
  const explain = (cause: unknown, call: string) => toError(url, port, decodeURIComponent(vhost), cause, call)
  const hold = new Hold()
  const options = {
    connect: () => connect(address, { keepAlive: true, timeout: HANDSHAKE }),
    explain,
    patience,
    // A queue takes seconds to be made on a busy machine.
    limit: Math.max(patience, HANDSHAKE),
    hold,
  }
  const inward = new Link({ ...options, gathers: false })
  await inward.open()
  return new Amqp(inward, new Link({ ...options, gathers: true }), prefix, clock)
}

function toError(url: URL, port: number, vhost: string, cause: unknown, call: string): QueueError {
  const message = cause instanceof Error ? cause.message : ''
  if (/ACCESS.REFUSED/.test(message)) return noAccess(url, port, call, cause)
  if (/ConnectionOpenOk/.test(message)) {
    const user = decodeURIComponent(url.username) || 'guest'
    const hint = `rabbitmqctl add_vhost ${vhost}; rabbitmqctl set_permissions -p ${vhost} ${user} '.*' '.*' '.*'`
    const detail = `there is no virtual host "${vhost}", or user "${user}" may not use it`
    return Object.assign(new QueueError('ERR_BUS_ACCESS', { syscall: call, detail, hint }), { cause })
  }
  return noConnection(url, port, call, cause)
}

export class Amqp extends Refusals implements Transport {
  readonly capabilities: Capabilities
  readonly overflow = 'reject'
  /** Two connections: the server stops those that publish when it is short of room, and with them what is settled. */
  readonly #inward: Link
  readonly #outward: Link
  readonly #topology: Topology
  readonly #publisher: Publisher
  readonly #clock: Clock
  readonly #discovery: Discovery
  readonly #lines = new Map<string, Line>()
  readonly #bindings = new Map<string, Binding>()
  /** Of each queue, when what this process has delayed comes to it, and how much. */
  readonly #delayed = new Map<string, Map<number, number>>()
  /** Since the bus is being closed: where it was not confirmed. */
  #stuck: Set<string> | undefined
  #closed: Promise<void> | undefined

  constructor(inward: Link, outward: Link, prefix: string, clock: Clock) {
    super()
    this.#inward = inward
    this.#outward = outward
    this.#topology = new Topology(inward, prefix)
    this.#publisher = new Publisher(outward, this.#topology)
    this.#clock = clock
    const told = (queue: string, what: Told) => {
      if (what === 'keyed') this.#lines.get(queue)?.partition()
      else this.#lines.get(queue)?.share()
    }
    const lost = () => {
      for (const line of this.#lines.values()) line.findAgain()
    }
    this.#discovery = new Discovery(inward, this.#topology, told, lost)
    inward.onUp = () => this.#topology.renew()
    this.capabilities = capabilities(inward.version >= 4 ? LARGEST_4 : LARGEST)
  }

  #check(call: string): void {
    if (this.#closed !== undefined) throw new QueueError('ERR_MQ_CLOSED', { syscall: call })
  }

  async declare(queue: string): Promise<void> {
    this.#check('declare')
    await this.#topology.queue(queue)
  }

  /** A posting to a queue, or to what is bound to a topic: at once, or when it is due. */
  #posting(to: { queue: string } | { topic: string }, message: Outgoing, past: Past): Posting {
    const now = this.#clock.now()
    const delay = message.due - now
    const content = bytesOf(message.body)
    const options = toOptions(message, past, now)
    const topology = this.#topology
    const queue = 'queue' in to ? to.queue : undefined
    const isKeyed = queue !== undefined && message.key !== undefined && !queue.startsWith(BORROWED)
    const place = isKeyed ? partitionOf(queue, message.key) : queue
    const make = () => {
      if (queue === undefined) return topology.base()
      if (isKeyed) return topology.knownKeys(queue, () => this.#tell(queue, 'keyed'))
      // Nobody makes a queue that somebody else has borrowed.
      return queue.startsWith(BORROWED) && !topology.isBorrowed(queue) ? undefined : topology.queue(queue)
    }
    if (delay <= 0) {
      const exchange = queue === undefined ? topology.topics : ''
      const key = 'topic' in to ? topicKey(to.topic) : topology.nameOf(place as string)
      // Borrowed queues are many, and for a short time; no majority of servers is waited for there.
      const lane = queue === undefined ? exchange : queue.startsWith(BORROWED) ? BORROWED : key
      return { exchange, key, content, options, lane, prepare: make }
    }
    if (queue !== undefined) this.#count(queue, now + rounded(delay))
    const key = 'topic' in to ? topicKey(to.topic) : `q.${place}`
    // Its own time would be over in the queue that delays it.
    const { expiration: _, ...kept } = options
    const exchange = topology.delayOf(delay)
    return {
      exchange,
      key,
      content,
      options: kept,
      lane: exchange,
      prepare: () => make()?.then(() => topology.delay(delay)) ?? topology.delay(delay),
    }
  }

  #count(queue: string, due: number): void {
    const own = this.#delayed.get(queue) ?? new Map<number, number>()
    this.#delayed.set(queue, own.set(due, (own.get(due) ?? 0) + 1))
    if (own.size % 1000 === 0) this.#countDelayed(queue)
  }

  #countDelayed(queue: string): number {
    const own = this.#delayed.get(queue)
    if (own === undefined) return 0
    const now = this.#clock.now()
    let count = 0
    for (const [due, some] of own) {
      if (due > now) count += some
      else own.delete(due)
    }
    if (count === 0) this.#delayed.delete(queue)
    return count
  }

  async #publish(call: string, postings: readonly Posting[], { overflow, signal }: SendOptions): Promise<Posting[]> {
    const unroutable: Posting[] = []
    for (let left = postings; ; ) {
      const outcome = await this.#publisher.publish(call, left, signal)
      unroutable.push(...outcome.unroutable)
      left = outcome.refused
      if (left.length === 0) return unroutable
      const isGivenUp = call === 'settle' && this.#stuck !== undefined
      if (overflow !== 'wait' || isGivenUp) {
        const full = new QueueError('ERR_BUS_QUEUE_FULL', { syscall: call, path: left[0]?.key })
        throw Object.assign(full, { retryAfter: FULL, sent: postings.length - left.length })
      }
      await sleep(FULL, undefined, { signal }).catch(() => checkSignal(signal))
    }
  }

  /** To queues, which are made again if they have vanished. */
  async #deliver(
    call: string,
    postings: readonly (Posting & { readonly queue: string })[],
    options: SendOptions,
  ): Promise<void> {
    for (let tries = 0, left = postings; ; tries++) {
      const returned = await this.#publish(call, left, options)
      if (returned.length === 0) return
      const unroutable = new Set(returned)
      // Whoever borrowed a queue may have gone, and what was for him with him.
      left = left.filter(
        (posting) =>
          unroutable.has(posting) && (!posting.queue.startsWith(BORROWED) || this.#topology.isBorrowed(posting.queue)),
      )
      if (left.length === 0) return
      const path = (left[0] as { queue: string }).queue
      if (tries === 3) {
        const hint = 'somebody removes it again and again'
        throw new QueueError('ENOENT', { syscall: call, path, hint })
      }
      // Its delay may have gone, or the queue itself.
      this.#topology.forget()
    }
  }

  async send(batch: readonly Addressed[], options: SendOptions): Promise<Receipt[]> {
    this.#check('send')
    checkInteger('number of messages', batch.length, 1, BUS_BATCH)
    await this.#deliver('send', this.#postings(batch), options)
    return batch.map(({ message }) => ({ id: message.id, duplicate: false }))
  }

  #postings(batch: readonly Addressed[]) {
    const past = { sentAt: this.#clock.now() }
    return batch.map(({ queue, message }) => ({ ...this.#posting({ queue }, message, past), queue }))
  }

  #line(queue: string): Line {
    let line = this.#lines.get(queue)
    if (line === undefined) {
      const again = (held: Held, due: number, counted = false) => this.#again(queue, held, due, counted)
      const isKeyed = (name: string) => this.#discovery.isKeyed(name)
      const tell = (name: string, what: Told) => this.#tell(name, what)
      const note = (held: Held, partition: string, notes: string) => this.#note(held, partition, notes)
      const context = { link: this.#inward, topology: this.#topology, clock: this.#clock, again, isKeyed, tell, note }
      line = new Line(queue, context)
      this.#lines.set(queue, line)
    }
    return line
  }

  async receive(queue: string, options: ReceiveOptions): Promise<Delivery[]> {
    this.#check('receive')
    checkInteger('"max" option', options.max, 1, BUS_BATCH)
    const held = await this.#line(queue).receive(options)
    return held.map(toDelivery)
  }

  /** What is sent before something is acknowledged is confirmed by itself, if at all. */
  isApart(settlement: Settlement): boolean {
    return settlement.outcome === 'ack' ? settlement.send !== undefined : !this.#isRelease(settlement)
  }

  #isRelease(settlement: Settlement): boolean {
    return settlement.outcome === 'retry' && !settlement.counted && settlement.due <= this.#clock.now()
  }

  async settle(batch: readonly Settlement[]): Promise<boolean[]> {
    const settled = new Array<boolean | Promise<boolean>>(batch.length)
    const done = new Map<Holder, number[]>()
    const releases = new Map<Holder, Held[]>()
    for (const [at, settlement] of batch.entries()) {
      const held = settlement.token as Held
      if (held.isGone) settled[at] = false
      else if (settlement.outcome === 'ack' && settlement.send === undefined) {
        const own = done.get(held.line)
        if (own === undefined) done.set(held.line, [at])
        else own.push(at)
      } else if (this.#isRelease(settlement)) {
        releases.set(held.line, [...(releases.get(held.line) ?? []), held])
        settled[at] = true
      } else settled[at] = this.#settle(held, settlement)
    }
    for (const [line, own] of done) {
      const acknowledged = line.acknowledge(own.map((at) => batch[at]?.token as Held))
      for (const [index, at] of own.entries()) settled[at] = acknowledged[index] as boolean
    }
    if (releases.size === 0 && settled.every((one) => typeof one === 'boolean')) return settled
    // A server that says nothing has them again when it goes on, or without their connection.
    const released = [...releases].map(([line, held]) => this.#inward.ends(line.giveBack(held)))
    const all = await this.#inward.hold.during(() => Promise.allSettled([...settled, ...released]))
    const failed = all.find(({ status }) => status === 'rejected') as PromiseRejectedResult | undefined
    if (failed !== undefined) throw failed.reason
    return all.slice(0, batch.length).map((one) => (one as PromiseFulfilledResult<boolean>).value)
  }

  #settle(held: Held, settlement: Settlement): boolean | Promise<boolean> {
    switch (settlement.outcome) {
      case 'ack':
        return this.#sendAndAck(held, settlement.send ?? [])
      case 'retry':
        return held.line.retry(held, settlement.due, settlement.counted)
      case 'dead':
        return this.#bury(held, settlement.queue, settlement.headers)
      case 'begin':
        return held.line.begun(held)
      default:
        held.line.limit(held, settlement.until - this.#clock.now())
        return true
    }
  }

  /** First what goes out: it may go out twice, but never gets lost. */
  async #sendAndAck(held: Held, send: readonly Addressed[]): Promise<boolean> {
    return this.#move(held, this.#postings(send))
  }

  /** A copy with the same id first, then the one that was received goes. */
  async #again(queue: string, held: Held, due: number, counted: boolean): Promise<boolean> {
    const { read: known, losses, message } = held
    const attempts = known.attempts + (counted ? 1 : 0)
    const copy = { ...known, body: message.content, due, dedup: 0 }
    const past = { sentAt: known.sentAt, attempts, losses }
    return this.#move(held, [{ ...this.#posting({ queue }, copy, past), queue }])
  }

  async #bury(held: Held, queue: string, headers: Readonly<Record<string, string>>): Promise<boolean> {
    const { read: known, message } = held
    const error = headers[DEAD.error]?.slice(0, LONGEST_ERROR)
    const about = error === undefined ? headers : { ...headers, [DEAD.error]: error }
    const letter: Outgoing = {
      ...known,
      body: message.content,
      headers: about,
      key: undefined,
      due: 0,
      expires: 0,
      dedup: 0,
    }
    return this.#move(held, [{ ...this.#posting({ queue }, letter, { sentAt: known.sentAt }), queue }])
  }

  /** As long as it is ours, however long that takes: what is lost meanwhile the server hands out again. */
  async #move(held: Held, postings: readonly (Posting & { readonly queue: string })[]): Promise<boolean> {
    return (await this.#deliverOf(held, postings)) && (acknowledge(held) || true)
  }

  /** Of those who hear it; perhaps nobody does. */
  async #tell(queue: string, what: Told): Promise<void> {
    const topology = this.#topology
    const exchange = topology.keyed
    const posting = { exchange, key: queue, content: Buffer.from(what), options: {}, lane: exchange }
    await this.#publisher.publish('send', [{ ...posting, prepare: () => topology.base() }])
  }

  /** What is known of the messages of a partition. */
  #note(held: Held, partition: string, notes: string): Promise<boolean> {
    const queue = notesOf(partition)
    const key = this.#topology.nameOf(queue)
    const options = { messageId: randomUUID(), mandatory: true, persistent: true }
    const prepare = () => this.#topology.keys(held.line.queue)
    return this.#deliverOf(held, [
      { exchange: '', key, content: Buffer.from(notes), options, lane: key, prepare, queue },
    ])
  }

  /** False if the message is no longer ours. */
  async #deliverOf(held: Held, postings: readonly (Posting & { readonly queue: string })[]): Promise<boolean> {
    const owned = postings.map((posting) => ({
      ...posting,
      prepare: () => {
        if (held.isGone) throw new QueueError('ERR_BUS_LEASE_LOST', { syscall: 'settle', path: posting.queue })
        return posting.prepare()
      },
    }))
    for (;;) {
      // Of what waits its turn, each would have to be waited for.
      if (owned.some(({ lane }) => this.#stuck?.has(lane))) throw this.#outward.late('settle')
      try {
        await this.#deliver('settle', owned, WAITING)
        return true
      } catch (error) {
        if (held.isGone) return false
        if (!PASSING.includes((error as QueueError).code)) throw error
        if (this.#stuck === undefined) continue
        for (const { lane } of owned) this.#stuck.add(lane)
        throw error
      }
    }
  }

  end(): void {
    this.#stuck ??= new Set()
  }

  /** What this process has, and what waits for all; what others have, or have delayed, the server tells nobody. */
  async stats(queue: string): Promise<TransportStats> {
    this.#check('stats')
    const line = this.#line(queue)
    const count = async () => {
      await line.resting
      return this.#countReady(queue)
    }
    const messages = await this.#inTime('stats', count)
    const { ready, leased, delayed, held } = line.counts
    return { ...NOTHING, ready: messages + ready, leased, delayed: delayed + this.#countDelayed(queue), held }
  }

  /** Asking makes no queue. */
  async #countReady(queue: string): Promise<number> {
    const name = this.#topology.nameOf(queue)
    const deadline = this.#inward.patience()
    for (;;) {
      const channel = await this.#inward.channel('stats', deadline)
      try {
        const { messageCount } = await channel.checkQueue(name)
        const keyed = await this.#countKeyed(queue, channel, deadline)
        await channel.close().catch(() => {})
        return messageCount + keyed
      } catch (error) {
        const why = refused(error, 'stats', queue)
        if ((why as QueueError).code === 'ENOENT') return 0
        if (why instanceof QueueError) throw why
        this.#check('stats')
        if (performance.now() > deadline) throw this.#inward.explain(error, 'stats')
      }
    }
  }

  #inTime<R>(call: string, work: () => Promise<R>): Promise<R> {
    const link = this.#inward
    return link.hold.during(() => link.inTime(call, link.patience(), work()))
  }

  async #countKeyed(queue: string, channel: Channel, deadline: number): Promise<number> {
    const line = this.#line(queue)
    const found = new Waiter<void>(deadline, undefined, (ended) => ended.resolve())
    line.find().then(
      () => found.resolve(),
      (error: unknown) => found.reject(error),
    )
    await found.promise
    if (!line.isKeyed) return 0
    const names = Array.from({ length: PARTITIONS }, (_, at) => this.#topology.nameOf(partitionName(queue, at)))
    try {
      const partitions = await Promise.all(names.map((name) => channel.checkQueue(name)))
      return partitions.reduce((sum, { messageCount }) => sum + messageCount, 0)
    } catch (error) {
      // Somebody has removed them, whoever knew of them.
      if (refusalOf(error) === 404) return 0
      throw error
    }
  }

  /** Those that this process has used: AMQP has no list of them. */
  async queues(): Promise<string[]> {
    this.#check('queues')
    return this.#topology.queues()
  }

  /** Dead letters are taken for a moment, all up to the end of the page, and put back. */
  override async browse(queue: string, { max, after }: { max: number; after: string | undefined }): Promise<Page> {
    this.#check('browse')
    if (!queue.endsWith('/dead')) throw unsupported('browse', 'browse')
    const from = Number(after ?? 0)
    const name = this.#topology.nameOf(queue)
    return this.#inTime('browse', async () => {
      const before = await this.#countReady(queue)
      if (before === 0) return { deliveries: [], next: undefined }
      const channel = await this.#inward.channel('browse', this.#inward.patience())
      const taken: GetMessage[] = []
      try {
        while (taken.length <= from + max) {
          const message = await channel.get(name)
          if (message === false) break
          taken.push(message)
        }
      } catch (error) {
        const why = refused(error, 'browse', queue)
        throw why instanceof QueueError ? why : this.#inward.explain(why, 'browse')
      } finally {
        // With it they go back, in their order.
        await channel.close().catch(() => {})
      }
      for (let look = 0; look < LOOKS && (await this.#countReady(queue)) < before; look++) await sleep(LOOK_AGAIN)
      const next = taken.length > from + max ? String(from + max) : undefined
      return { deliveries: taken.slice(from, from + max).map(toLetter), next }
    })
  }

  async bind(binding: Binding): Promise<void> {
    this.#check('bind')
    await this.#topology.bind(binding)
    this.#bindings.set(JSON.stringify(binding), binding)
  }

  async unbind(binding: Binding): Promise<void> {
    this.#check('unbind')
    this.#bindings.delete(JSON.stringify(binding))
    await this.#topology.unbind(binding)
  }

  /** How many queues there are at least: those of other processes the server does not count for us. */
  async publish(topic: string, message: Outgoing, options: SendOptions): Promise<(string | undefined)[]> {
    this.#check('publish')
    // Who is bound nobody knows here, and so not of whom partitions are to be made.
    if (message.key !== undefined) throw unsupported('order', 'publish')
    const posting = this.#posting({ topic }, message, { sentAt: this.#clock.now() })
    const unroutable = await this.#publish('publish', [posting], options)
    if (unroutable.length > 0) return []
    const { headers = {} } = message
    const bound = [...this.#bindings.values()].filter((binding) => isBound(binding, topic, headers))
    return bound.length === 0 ? [undefined] : [...new Set(bound.map(({ queue }) => queue))]
  }

  async borrow(prefix = ''): Promise<string> {
    this.#check('borrow')
    const queue = `${BORROWED}${prefix}${randomUUID()}`
    await this.#topology.borrow(queue)
    return queue
  }

  async drop(queue: string): Promise<void> {
    this.#check('drop')
    for (const [name, binding] of this.#bindings) if (binding.queue === queue) this.#bindings.delete(name)
    this.#delayed.delete(queue)
    const line = this.#lines.get(queue)
    this.#lines.delete(queue)
    await this.#inTime('drop', async () => {
      await line?.close(new QueueError('ERR_MQ_CLOSED', { syscall: 'receive', path: queue }))
      await this.#topology.drop(queue)
    })
  }

  close(): Promise<void> {
    this.#closed ??= this.#inward.hold.during(() => this.#close())
    return this.#closed
  }

  async #close(): Promise<void> {
    const error = new QueueError('ERR_MQ_CLOSED', { syscall: 'receive' })
    const finish = async () => {
      await Promise.allSettled([...this.#lines.values()].map((line) => line.close(error)))
      await this.#topology.close()
    }
    await this.#inward.ends(finish())
    await Promise.all([this.#outward.close(), this.#inward.close()])
  }
}

const acknowledge = (held: Held): boolean => held.line.acknowledge([held])[0] as boolean

function toLetter(message: GetMessage): Delivery {
  return { ...read(message), token: undefined, body: message.content, suspect: false, damage: undefined }
}

function toDelivery(held: Held): Delivery {
  const { losses, message } = held
  const { id, format, key, priority, headers, sentAt, attempts } = held.read
  const suspect = countOf(message) > 0
  // Copying all that is known would take as long as all else that is done with a message here.
  const place = { token: held, body: message.content, suspect, damage: undefined }
  return { id, format, key, priority, headers, sentAt, attempts, losses, ...place }
}
