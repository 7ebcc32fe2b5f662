// A queue of a bus: sending to it, and consuming from it.
import { randomUUID } from 'node:crypto'
import { AbortError, checkInteger, checkOptions, invalidType, invalidValue, outOfRange, QueueError } from '../errors.ts'
import { deadlineOf } from '../waiting.ts'
import { decode, encode } from './body.ts'
import type { Cancellations } from './cancellations.ts'
import type { Clock } from './clock.ts'
import { type Codecs, ENCODING } from './codecs.ts'
import {
  type ConsumeOptions,
  Consumer,
  type Consumers,
  type Handler,
  type Source,
  type StartOptions,
} from './consumer.ts'
import { bodyOf, DeadLetters } from './dead-letters.ts'
import { History } from './history.ts'
import {
  CORRELATION,
  deadOf,
  isAway,
  isPassing,
  MAX_TIME,
  Message,
  type Origin,
  type Settler,
  STOP,
  textOf,
  UNREAD,
} from './message.ts'
import type { Event, Latencies, Meters } from './meter.ts'
import { Gathering, type Gatherings } from './outlet.ts'
import { type Replies, type RequestOptions, RPC } from './replies.ts'
import { type StandardSchema, validate, validateNow } from './schema.ts'
import type { Carry, Tracing } from './tracing.ts'
import {
  type Addressed,
  BORROWED,
  type Bounds,
  BUS_BATCH,
  type Delivery,
  demand,
  type Keep,
  MAX_NAME,
  MAX_PRIORITY,
  NO_HEADERS,
  type Outgoing,
  type Outlet,
  type Overflow,
  OWN_HEADER,
  type Receipt,
  type Transport,
  type ReceiveOptions as TransportReceiveOptions,
  type SendOptions as TransportSendOptions,
  type TransportStats,
  withoutOwn,
} from './transport.ts'

/** How often and when what has failed is tried again; milliseconds. */
export interface RetryOptions {
  /** How often at most; then it is a dead letter. Default: 5. */
  max?: number | undefined
  /** The mean wait before the first retry is half of it, then doubles: full jitter. Default: 200. */
  base?: number | undefined
  /** What the wait never exceeds. Default: 60000. */
  cap?: number | undefined
  /** How many consumers may die over a message; then it is a dead letter. Default: 3. */
  losses?: number | undefined
}

export interface QueueOptions<T = unknown> {
  /** Checks each body, when it is sent and when it is received: https://standardschema.dev */
  schema?: StandardSchema<unknown, T> | undefined
  /** What kind of body this is; sent in a header. A consumer with another version dead-letters it. */
  version?: string | undefined
  retry?: RetryOptions | undefined
  /** Milliseconds for which an `id` that was given is sent once only. Default: 300000. */
  dedup?: number | undefined
  /**
   * The most messages in the queue, for all who use it. With neither bound: what was set before; who names one only removes
   * the other.
   */
  maxMessages?: number | undefined
  /** The most bytes of bodies in the queue; see `maxMessages`. */
  maxBytes?: number | undefined
  /** What a send to a full queue does. Default: `reject`, of `mq:` and `sysv:` `wait`. */
  overflow?: Overflow | undefined
  /** How much of what was acknowledged is kept, by all who use the queue. Default: nothing, or what was set before. */
  history?: HistoryOptions | undefined
  /** `disk`: a send resolves when it would outlive the power of the machine, too. Default: that of the bus. */
  durability?: Durability | undefined
}

/** With neither of them nothing is kept. */
export interface HistoryOptions {
  /** The last so many messages. Default: any number. */
  maxMessages?: number | undefined
  /** Milliseconds. Default: for ever. */
  maxAge?: number | undefined
}

export type Durability = 'process' | 'disk'

export interface SendOptions {
  /** What is sent again with the same `id` within the queue's `dedup` is a duplicate. Default: a new one. */
  id?: string | undefined
  /** Messages of one key are handled one after the other, in their order. */
  key?: string | undefined
  /** 0 to 255, the highest first. Default: 0. */
  priority?: number | undefined
  /** Milliseconds before it may be received. */
  delay?: number | undefined
  /** When it may be received. */
  at?: Date | undefined
  /** Milliseconds after which nobody wants it any more. */
  ttl?: number | undefined
  headers?: Readonly<Record<string, string>> | undefined
  correlationId?: string | undefined
  durability?: Durability | undefined
  /** Gives up waiting for room. */
  signal?: AbortSignal | undefined
}

export interface Item<T = unknown> extends Omit<SendOptions, 'durability' | 'signal'> {
  body: T
}

export interface ReceiveOptions {
  /** Default: 1. */
  max?: number | undefined
  /** Milliseconds to wait for the first. Default: for ever. */
  wait?: number | undefined
  signal?: AbortSignal | undefined
  /** Milliseconds after which the peers take away what was not settled. Default: never, while the process lives. */
  lease?: number | undefined
}

/** A message that waits in a queue, or is in the hands of a consumer. */
export interface QueuedMessage {
  readonly id: string
  /** What was sent; undefined if that cannot be read. */
  readonly body: unknown
  readonly key: string | undefined
  readonly priority: number
  readonly headers: Readonly<Record<string, string>>
  readonly sentAt: Date
  /** How often it was handled before, and failed. */
  readonly attempts: number
  /** How often its consumer died over it. */
  readonly losses: number
}

export interface QueueStats extends TransportStats {
  /** Dead letters. */
  dead: number
  /** What this process has done with messages of the queue since it has opened the bus. */
  totals: Readonly<Record<Event, number>>
  /** The same for a second, over the last minute. */
  rates: Readonly<Record<Event, number>>
  /** How long messages waited until this process received them the first time, in milliseconds; a delay counts. */
  latency: Latencies | undefined
}

/** What a queue needs of its bus. */
export interface Context {
  readonly transport: Transport
  readonly clock: Clock
  readonly settler: Settler
  readonly durability: Durability
  readonly codecs: Codecs
  readonly replies: Replies
  readonly cancellations: Cancellations
  readonly tracing: Tracing | undefined
  readonly meters: Meters
  readonly consumers: Consumers
  readonly gatherings: Gatherings
  /** Of a namespace. */
  readonly scope?: Scope
  /** That it waits for messages does not hold the process. */
  readonly background?: boolean
}

/** The namespace that queues and topics belong to. */
export interface Scope {
  /** What their names begin with in the transport. */
  readonly prefix: string
  /** Sets its quota. */
  declare(): Promise<unknown> | undefined
}

/** Bytes of what is told of an error in a header of its reply. */
const LONGEST_ERROR = 500

/** With fewer any wait has come to its cap. */
const MOST_DOUBLINGS = 100

const NAME = /^[\w.:-]{1,128}$/
const VERSION = 'version'
/** The most messages received together of which each is measured. */
const MEASURED = 16

export class Queue<T = unknown> {
  readonly name: string
  /** What could not be handled. */
  readonly dead: DeadLetters
  /** What was acknowledged, as far as the option `history` has it kept. */
  readonly history: History
  readonly #context: Context
  readonly #schema: StandardSchema<unknown, T> | undefined
  readonly #version: string | undefined
  readonly #retry: Required<{ [K in keyof RetryOptions]: number }>
  readonly #dedup: number
  readonly #overflow: Overflow
  readonly #durability: Durability
  readonly #bounds: Bounds | undefined
  readonly #keep: Keep | undefined
  readonly #origin: Origin
  /** Whether a body alone is all that a message has. */
  readonly #plain: boolean
  #outlet: Outlet | undefined
  #declared: Promise<void> | undefined

  /** @internal */
  constructor(name: string, options: QueueOptions<T>, context: Context) {
    checkOptions(options)
    const { schema, version, retry = {}, dedup = 300_000, maxMessages, maxBytes } = options
    const { transport } = context
    const { overflow = transport.overflow } = options
    const { max = 5, base = 200, cap = 60_000, losses = 3 } = retry
    for (const [what, count] of Object.entries({ max, losses })) checkInteger(`"retry.${what}" option`, count, 0, 1e9)
    for (const [what, time] of Object.entries({ 'retry.base': base, 'retry.cap': cap, dedup })) checkTime(what, time)
    checkChoice('overflow', overflow, ['reject', 'wait', 'drop-oldest'])
    if (overflow === 'drop-oldest') demand(transport, 'bounds', 'queue')
    this.#durability = checkChoice('durability', options.durability ?? context.durability, ['process', 'disk'])
    if (maxMessages !== undefined || maxBytes !== undefined) {
      checkInteger('"maxMessages" option', maxMessages ?? 0, 0, Number.MAX_SAFE_INTEGER)
      checkInteger('"maxBytes" option', maxBytes ?? 0, 0, Number.MAX_SAFE_INTEGER)
      demand(transport, 'bounds', 'queue')
      this.#bounds = { maxMessages: maxMessages ?? 0, maxBytes: maxBytes ?? 0 }
    }
    if (options.history !== undefined) {
      demand(transport, 'replay', 'queue')
      this.#keep = toKeep(options.history)
    }
    this.name = name
    this.#context = context
    this.#schema = schema
    this.#version = version
    this.#retry = { max, base, cap, losses }
    this.#dedup = dedup
    this.#overflow = overflow
    this.#origin = {
      name,
      settler: context.settler,
      transport,
      meter: context.meters.of(name),
      meters: context.meters,
      now: () => context.clock.now(),
      backoff: (attempts) => this.#backoff(attempts),
    }
    this.#plain = schema === undefined && version === undefined && context.codecs.isEmpty
    this.dead = new DeadLetters(name, context)
    this.history = new History(name, {
      transport: context.transport,
      codecs: context.codecs,
      send: { overflow, disk: this.#durability === 'disk', signal: undefined },
      nameOf: (queue) => (context.scope?.prefix ?? '') + checkQueueName(queue),
      declare: () => this.#declare(),
    })
  }

  #backoff(attempts: number): number {
    const { base, cap } = this.#retry
    // Without end it would be Infinity, and 0 times that is no number.
    return Math.random() * Math.min(cap, base * 2 ** Math.min(attempts - 1, MOST_DOUBLINGS))
  }

  /** Sets the bounds of the queue, once; whatever is done next comes after it. */
  #declare(): Promise<unknown> | undefined {
    const scoped = this.#context.scope?.declare()
    if (this.#bounds === undefined && this.#keep === undefined) return scoped
    this.#declared ??= this.#set(scoped).catch((error: unknown) => {
      this.#declared = undefined
      throw error
    })
    return this.#declared
  }

  async #set(scoped: Promise<unknown> | undefined): Promise<void> {
    if (scoped !== undefined) await scoped
    await this.#context.transport.declare(this.name, this.#bounds, this.#keep)
  }

  /**
   * Resolves when the message is in the queue, as safe as `durability` says. A string goes as text, bytes as bytes,
   * anything else as JSON.
   *
   * @throws {QueueError} ERR_BUS_QUEUE_FULL, with `retryAfter` (milliseconds); ERR_BUS_INVALID_BODY; ERR_BUS_DISK_FULL;
   * ERR_BUS_BUSY; ERR_MQ_CLOSED
   */
  send(body: T, options: SendOptions = {}): Promise<Receipt> {
    return this.#traced('send', (carry) => this.#sendOne(body, options, carry))
  }

  #traced<R>(
    operation: 'send' | 'publish' | 'request' | 'create',
    work: (carry?: Carry) => Promise<R>,
    destination: string = this.name,
  ): Promise<R> {
    const { tracing } = this.#context
    return tracing === undefined ? work() : tracing.produce(operation, destination, work)
  }

  async #sendOne(body: T, options: SendOptions, carry: Carry | undefined, own?: Outgoing['headers']): Promise<Receipt> {
    // At once: the caller may reuse his bytes.
    const message = this.#outgoing(body, options, own)
    if (this.#schema !== undefined) await this.#check(body)
    const [receipt] = await this.#send([message], options, carry)
    return receipt as Receipt
  }

  /** Sends up to 500 messages: all of them, or none (of `mq:`, `sysv:`, `nats:` and `amqp:` a part, if it fails). */
  sendMany(items: Iterable<Item<T>>, options: Pick<SendOptions, 'durability' | 'signal'> = {}): Promise<Receipt[]> {
    return this.#traced('send', (carry) => this.#sendMany(items, options, carry))
  }

  async #sendMany(
    items: Iterable<Item<T>>,
    options: Pick<SendOptions, 'durability' | 'signal'>,
    carry: Carry | undefined,
  ): Promise<Receipt[]> {
    const messages: Outgoing[] = []
    const bodies: T[] = []
    for (const item of items) {
      messages.push(this.#outgoing(item.body, item))
      bodies.push(item.body)
    }
    if (messages.length > BUS_BATCH) throw outOfRange('number of messages', `at most ${BUS_BATCH}`, messages.length)
    if (this.#schema !== undefined) for (const body of bodies) await this.#check(body)
    return messages.length === 0 ? [] : this.#send(messages, options, carry)
  }

  /**
   * Sends without a receipt, in order, with what else is posted in this turn of the loop: the fastest way. Returns false
   * when so much waits that the caller should await {@link flush}, which also tells what went wrong.
   *
   * @throws {QueueError} ERR_BUS_INVALID_BODY, ERR_MQ_CLOSED
   */
  post(body: T, options?: Omit<SendOptions, 'durability' | 'signal'>): boolean {
    const { meter } = this.#origin
    this.#outlet ??= this.#context.transport.outlet?.(this.name) ?? this.#gathering()
    const outlet = this.#outlet
    // Those that are sent together are counted there.
    if (outlet instanceof Gathering) return outlet.post(this.#posted(body, options))
    if (options === undefined && this.#plain && outlet.postBody !== undefined && !meter.isWatched('sent')) {
      const hasRoom = outlet.postBody(body)
      meter.tally('sent', 1)
      return hasRoom
    }
    const message = this.#posted(body, options)
    const hasRoom = outlet.post(message)
    meter.count('sent', [message])
    return hasRoom
  }

  #gathering(): Gathering {
    return new Gathering(this.name, this.#context.gatherings, (batch, signal) => this.#send(batch, { signal }))
  }

  #posted(body: T, options: Omit<SendOptions, 'durability' | 'signal'> = {}): Outgoing {
    const wrong = this.#schema === undefined ? undefined : validateNow(this.#schema, body)
    if (wrong !== undefined) throw this.#invalid('post', wrong)
    return this.#outgoing(body, options)
  }

  /** Resolves when all that was posted is in the queue; rejects with what first went wrong since it was called last. */
  async flush(): Promise<void> {
    const { transport, gatherings } = this.#context
    await (transport.outlet?.(this.name).flush() ?? gatherings.flush(this.name))
  }

  /** What {@link Message.ack} can send together with its acknowledgement. */
  prepare(body: T, options: Omit<SendOptions, 'durability' | 'signal'> = {}): Promise<Addressed> {
    return this.#traced('create', async (carry) => {
      const message = this.#outgoing(body, options)
      await this.#check(body)
      await this.#declare()
      return { queue: this.name, message: carry?.([message])[0] ?? message }
    })
  }

  /** @internal To a topic: what this queue is called does not matter. */
  publish(topic: string, body: T, options: SendOptions): Promise<number> {
    const publish = async (carry?: Carry) => {
      const message = this.#outgoing(body, options)
      const disk = (options.durability ?? this.#durability) === 'disk'
      const sent = { overflow: this.#overflow, disk, signal: options.signal }
      const queues = await this.#context.transport.publish(topic, carry?.([message])[0] ?? message, sent)
      this.#context.meters.sent(queues.flatMap((queue) => (queue === undefined ? [] : [{ queue, message }])))
      return queues.length
    }
    return this.#traced('publish', publish, topic)
  }

  async #send(
    messages: Outgoing[],
    { durability = this.#durability, signal }: Pick<SendOptions, 'durability' | 'signal'>,
    carry?: Carry,
  ): Promise<Receipt[]> {
    checkChoice('durability', durability, ['process', 'disk'])
    const declared = this.#declare()
    if (declared !== undefined) await declared
    const options: TransportSendOptions = { overflow: this.#overflow, disk: durability === 'disk', signal }
    const batch = (carry?.(messages) ?? messages).map((message) => ({ queue: this.name, message }))
    const receipts = await this.#context.transport.send(batch, options)
    this.#origin.meter.count('sent', receipts)
    return receipts
  }

  /** What was given goes out: the schema is applied again where it is received. */
  async #check(body: unknown): Promise<void> {
    if (this.#schema === undefined) return
    const result = await validate(this.#schema, body)
    if ('wrong' in result) throw this.#invalid('send', result.wrong)
  }

  #invalid(call: string, detail: string): QueueError {
    return new QueueError('ERR_BUS_INVALID_BODY', { syscall: call, path: this.name, detail })
  }

  /** @param own headers of the bus */
  #outgoing(body: unknown, options: Omit<SendOptions, 'durability' | 'signal'>, own?: Outgoing['headers']): Outgoing {
    checkOptions(options)
    const { id, key, priority = 0, delay = 0, at, ttl, headers, correlationId } = options
    if (id !== undefined) checkText('id', id)
    if (key !== undefined) checkText('key', key)
    checkInteger('"priority" option', priority, 0, MAX_PRIORITY)
    checkTime('delay', delay)
    if (at !== undefined && !(at instanceof Date && !Number.isNaN(at.getTime())))
      throw invalidType('"at" option', 'a valid Date', at)
    if (at !== undefined && delay > 0) throw invalidValue('"delay" option', 'absent where "at" is given', delay)
    if (ttl !== undefined) checkTime('ttl', ttl)
    this.#demand(options)
    const now = this.#context.clock.now()
    const { bytes: plain, format } = encode(body)
    const { body: bytes, headers: encoding } = this.#context.codecs.encode(plain, format)
    const { maxBytes } = this.#context.transport.capabilities
    if (bytes.byteLength > maxBytes) throw outOfRange('body', `at most ${maxBytes} bytes`, bytes.byteLength)
    return {
      id: id ?? randomUUID(),
      body: bytes,
      format,
      dedup: id === undefined ? 0 : this.#dedup,
      key,
      priority,
      due: at === undefined ? (delay > 0 ? now + delay : 0) : at.getTime(),
      expires: ttl === undefined ? 0 : Math.ceil(now + ttl),
      headers: this.#headers(headers, correlationId, own === undefined ? encoding : { ...own, ...encoding }),
    }
  }

  /** What the transport has to be able to do for these options. */
  #demand({ id, key, priority = 0, delay = 0, at }: SendOptions): void {
    const { transport } = this.#context
    if (id !== undefined && this.#dedup > 0) demand(transport, 'dedup', 'send')
    if (key !== undefined) demand(transport, 'order', 'send')
    if (priority > 0) demand(transport, 'priority', 'send')
    if (delay > 0 || at !== undefined) demand(transport, 'delay', 'send')
  }

  #headers(
    headers: SendOptions['headers'],
    correlationId: string | undefined,
    own: Outgoing['headers'],
  ): Outgoing['headers'] {
    const { length } = [headers, correlationId, this.#version, own].filter((one) => one !== undefined)
    if (length === 0) return undefined
    const all: Record<string, string> = {}
    if (headers !== undefined && (typeof headers !== 'object' || headers === null))
      throw invalidType('"headers" option', 'an object', headers)
    for (const [name, value] of Object.entries(headers ?? {})) {
      if (typeof value !== 'string') throw invalidType(`header "${name}"`, 'a string', value)
      if (name.startsWith(OWN_HEADER))
        throw invalidValue('"headers" option', `names that do not begin with "${OWN_HEADER}"`, name)
      all[name] = value
    }
    if (correlationId !== undefined) all[CORRELATION] = checkText('correlationId', correlationId)
    if (this.#version !== undefined) all[VERSION] = this.#version
    return Object.assign(all, own)
  }

  /**
   * Sends a message and waits for what its handler returns. The time is the handler's, too: its signal is aborted when
   * nobody waits any more, because it is over, `signal` was aborted or the bus was closed.
   *
   * @throws {QueueError} ETIMEDOUT; {@link ReplyError} what the handler threw, after its last retry; AbortError
   */
  request<R = unknown>(body: T, options: SendOptions & RequestOptions = {}): Promise<R> {
    checkOptions(options)
    const { timeout, signal, ...rest } = options
    const { replies, clock } = this.#context
    return this.#traced('request', (carry) => {
      const send = (headers: Record<string, string>, ttl: number, over: AbortSignal) =>
        this.#sendOne(body, { ...rest, ttl, signal: over }, carry, headers)
      return replies.request(send, clock.now(), { timeout, signal }) as Promise<R>
    })
  }

  /** Ends one consumer, whichever gets to it: cleanly, after what it is doing. */
  async stopOne(options: Pick<SendOptions, 'priority' | 'delay'> = {}): Promise<void> {
    await this.#send([this.#outgoing('', options, { [STOP]: '' })], {})
  }

  /**
   * Waits for the first message, then takes what is there, up to `max`; none when the time is over. Each is the caller's
   * until it is settled, or the process ends.
   */
  async receive(options: ReceiveOptions = {}): Promise<Message<T>[]> {
    checkOptions(options)
    const { max = 1, wait, signal, lease } = options
    checkInteger('"max" option', max, 1, BUS_BATCH)
    this.#checkLease(lease)
    const deadline = deadlineOf({ timeout: wait })
    for (;;) {
      const messages = await this.#receive({
        max,
        deadline,
        signal,
        lease: lease ?? Number.POSITIVE_INFINITY,
        together: false,
      })
      // Of several it is not known which of them is begun.
      const isOurs = max > 1 || messages.length === 0 || (await messages[0]?.begin())
      if ((isOurs && messages.length > 0) || performance.now() >= deadline) return isOurs ? messages : []
    }
  }

  /** @internal All that this process has in hand already, since it came with what was received; nothing else. */
  receiveRest(): Promise<Message<T>[]> {
    const lease = Number.POSITIVE_INFINITY
    return this.#receive({ max: 0, deadline: performance.now(), signal: undefined, lease, together: true })
  }

  #checkLease(lease: number | undefined): void {
    if (lease === undefined) return
    checkTime('lease', lease)
    demand(this.#context.transport, 'lease', 'receive')
  }

  async #receive(options: TransportReceiveOptions): Promise<Message<T>[]> {
    const declared = this.#declare()
    if (declared !== undefined) await declared
    const { transport, background } = this.#context
    const deliveries = await transport.receive(this.name, background === true ? { ...options, background } : options)
    const messages: Message<T>[] = []
    this.#measure(deliveries)
    for (const delivery of deliveries) {
      try {
        const opened = this.#open(delivery)
        const message = opened instanceof Promise ? await opened : opened
        if (message !== undefined) messages.push(message)
      } catch (error) {
        // Taken away meanwhile: somebody else's.
        if ((error as QueueError).code === 'ERR_BUS_LEASE_LOST') continue
        await this.#context.settler.giveBack(deliveries)
        throw error
      }
    }
    // There may be more behind what nobody can handle.
    if (messages.length > 0 || deliveries.length === 0) return messages
    return this.#receive({ ...options, deadline: options.start === undefined ? options.deadline : 0 })
  }

  #measure(deliveries: readonly Delivery[]): void {
    const { meter } = this.#origin
    meter.count('received', deliveries)
    const now = this.#context.clock.now()
    // Of many, some are enough.
    const step = Math.ceil(deliveries.length / MEASURED)
    for (let at = 0; at < deliveries.length; at += step) {
      const { attempts, losses, sentAt } = deliveries[at] as Delivery
      if (attempts === 0 && losses === 0) meter.waited(now - sentAt)
    }
  }

  /** What nobody can handle is dead at once. */
  #open(delivery: Delivery): Message<T> | Promise<Message<T> | undefined> {
    const { headers, damage } = delivery
    const isPlain = this.#plain && damage === undefined && delivery.losses === 0 && headers === NO_HEADERS
    // Of most, reading the body is all there is to do, and that can wait until somebody asks for it.
    if (isPlain && delivery.format !== 'json') return new Message<T>(delivery, UNREAD, this.#origin)
    return this.#openWith(delivery)
  }

  async #openWith(delivery: Delivery): Promise<Message<T> | undefined> {
    const bury = async (reason: string, error?: Error) => {
      await new Message(delivery, undefined, this.#origin).dead(reason, error)
      return undefined
    }
    const { losses } = this.#retry
    // It goes back, and is read when it can be.
    if (isPassing(delivery.damage)) throw delivery.damage
    if (delivery.damage !== undefined) return bury('damaged', delivery.damage)
    if (delivery.losses > losses) return bury(`${delivery.losses} consumers were lost over it`)
    if (delivery.headers[STOP] !== undefined) return new Message(delivery, '' as T, this.#origin)
    const version = delivery.headers[VERSION]
    if (this.#version !== undefined && version !== this.#version) {
      return bury(`its version is ${version ?? 'unknown'}, that of the consumer ${this.#version}`)
    }
    let body: unknown
    try {
      body = this.#decode(delivery)
    } catch (error) {
      return bury('unreadable', error as Error)
    }
    if (this.#schema === undefined) return new Message(delivery, body as T, this.#origin)
    let result: { value: T } | { wrong: string }
    try {
      result = await validate(this.#schema, body)
    } catch (error) {
      await this.#failed(new Message(delivery, undefined as T, this.#origin), error)
      return undefined
    }
    return 'wrong' in result ? bury(`invalid body: ${result.wrong}`) : new Message(delivery, result.value, this.#origin)
  }

  #decode(delivery: Delivery): unknown {
    const { codecs } = this.#context
    const { body, format, headers } = delivery
    if (codecs.isEmpty && headers[ENCODING] === undefined) return decode(body, format)
    return decode(codecs.decode(body, headers, format), format)
  }

  /** One message after the other, each to be settled by hand; ends when the bus is closed. */
  async *messages(options: Omit<ReceiveOptions, 'max' | 'wait'> = {}): AsyncGenerator<Message<T>, void> {
    for (;;) {
      const [message] = await this.receive({ ...options, max: 1 }).catch((error: unknown) => {
        if ((error as QueueError).code === 'ERR_MQ_CLOSED') return []
        throw error
      })
      if (message === undefined) return
      yield message
    }
  }

  [Symbol.asyncIterator](): AsyncGenerator<Message<T>, void> {
    return this.messages()
  }

  /**
   * Calls `handler` for each message. When it returns, or its promise resolves, the message is acknowledged; when it
   * throws, the message is retried later, and in the end dead-lettered. With `batch` it is called with up to so many
   * messages at a time: all that it has not settled itself are acknowledged together, or retried.
   */
  consume(handler: Handler<Message<T>[]>, options: ConsumeOptions & { batch: number }): Consumer<Message<T>[]>
  consume(handler: Handler<Message<T>>, options?: ConsumeOptions): Consumer<Message<T>>
  consume(
    handler: Handler<Message<T>> | Handler<Message<T>[]>,
    options: ConsumeOptions & { batch?: number } = {},
  ): Consumer<Message<T>> | Consumer<Message<T>[]> {
    this.checkConsume(handler, options)
    const { batch, lease } = options
    if (batch === undefined) return this.#consume(this.#source(lease), handler as Handler<Message<T>>, options)
    return this.#consume(inBatches(this.#source(lease), batch), handler as Handler<Message<T>[]>, options)
  }

  /** @internal Throws what {@link consume} would throw: who has to do something before it asks first. */
  checkConsume(handler: unknown, options: ConsumeOptions & { batch?: number }): void {
    if (typeof handler !== 'function') throw invalidType('handler', 'a function', handler)
    checkOptions(options)
    const { concurrency = 1, prefetch = concurrency, batch, timeout, lease, rate, signal, start } = options
    checkInteger('"concurrency" option', concurrency, 1, BUS_BATCH)
    checkInteger('"prefetch" option', prefetch, 0, BUS_BATCH)
    if (timeout !== undefined) checkTime('timeout', timeout)
    this.#checkLease(lease)
    if (rate !== undefined && !(rate > 0)) throw outOfRange('"rate" option', 'a number of messages a second > 0', rate)
    // What only looks like one may throw when the consumer leaves it, and nothing would end then.
    if (signal !== undefined && !(signal instanceof AbortSignal)) {
      throw invalidType('"signal" option', 'an AbortSignal', signal)
    }
    if (start !== undefined) {
      checkStart(start)
      demand(this.#context.transport, 'start', 'consume')
    }
    if (batch !== undefined) checkInteger('"batch" option', batch, 1, BUS_BATCH)
  }

  #consume<M>(source: Source<M>, handler: Handler<M>, options: ConsumeOptions): Consumer<M> {
    const { consumers, clock, tracing } = this.#context
    const traced = tracing?.handler(this.name, handler) ?? handler
    const consumer = new Consumer(source, traced, options, clock, (ended, failure) => {
      consumers.delete(ended)
      if (failure === undefined) return
      const detail = textOf(failure.error, 'stack')
      process.emitWarning(`a consumer of '${this.name}' has ended`, { code: 'KERNELMQ_BUS_CONSUMER', detail })
    })
    consumers.add(consumer)
    return consumer
  }

  #source(lease: number = Number.POSITIVE_INFINITY): Source<Message<T>> & Together<Message<T>> {
    const { clock, settler, background } = this.#context
    const ahead = lease === Number.POSITIVE_INFINITY ? undefined : new Ahead<T>(lease, clock)
    // Those who wait for replies are told that there is no connection, and what is left of them holds no process.
    const left = (message: Message<T>) => (background === true ? message : message.left())
    const succeeded = (message: Message<T>, result?: unknown) => {
      if (message.settled) return undefined
      return requestOf(message) === undefined || this.#isCancelled(message)
        ? left(message).done()
        : this.#answer(message, result)
    }
    return {
      receive: (max, wait, signal, start) => {
        const deadline = wait ? Number.POSITIVE_INFINITY : 0
        const receive = () => this.#receive({ max, deadline, signal, lease, start, together: true })
        const received = settler.persist(receive, { signal, background }, background === true ? isPassing : isAway)
        return ahead === undefined ? received : received.then((messages) => ahead.add(messages))
      },
      succeeded,
      succeededAll: (messages) => {
        const requests = messages.filter((message) => requestOf(message) !== undefined)
        const others = messages.filter((message) => !message.settled && requestOf(message) === undefined)
        return Promise.all([Message.doneAll(others), ...requests.map((message) => succeeded(message))])
      },
      timeLeft: (message) => this.#timeLeft(message),
      failed: (message, error) => this.#failed(left(message), error),
      release(message) {
        ahead?.begin(message)
        return left(message).release()
      },
      begin: (message) => {
        ahead?.begin(message)
        return requestOf(message) === undefined ? message.begin() : this.#beginRequest(message)
      },
      watch: (message, abort) => {
        const id = requestOf(message)
        return id === undefined ? undefined : this.#context.cancellations.watch(id, abort)
      },
      isStop: (message) => message.allHeaders[STOP] !== undefined,
    }
  }

  /** Of one that was cancelled no handler begins. */
  async #beginRequest(message: Message<T>): Promise<boolean> {
    await this.#context.cancellations.listen()
    if (!this.#isCancelled(message)) return message.begin()
    try {
      await message.left().ack()
    } catch (error) {
      // Taken away meanwhile: whoever has it drops it. The others of a batch are ours.
      if ((error as QueueError).code !== 'ERR_BUS_LEASE_LOST') throw error
    }
    return false
  }

  #timeLeft(message: Message<T>): number | undefined {
    const deadline = requestOf(message) === undefined ? undefined : message.allHeaders[RPC.deadline]
    return deadline === undefined ? undefined : Number(deadline) - this.#context.clock.now()
  }

  #isCancelled(message: Message<T>): boolean {
    const id = requestOf(message)
    return id !== undefined && this.#context.cancellations.has(id)
  }

  async #failed(message: Message<T>, error: unknown): Promise<void> {
    if (message.settled) return
    if (this.#isCancelled(message)) return message.ack()
    if (message.attempts < this.#retry.max) return message.retry()
    if (requestOf(message) !== undefined) await this.#refuse(message, textOf(error, 'message'))
    await message.dead(`failed ${message.attempts + 1} times`, error)
  }

  /** A result that cannot be sent is a failure of the handler. */
  async #answer(message: Message<T>, result: unknown): Promise<void> {
    const reply = () => (this.#isLate(message) ? message.ack() : message.reply([this.#reply(message, result)]))
    try {
      await this.#context.settler.persist(reply)
    } catch (error) {
      if (error instanceof QueueError) throw error
      await this.#failed(message.left(), error)
    }
  }

  /** Nobody waits for the reply any more. */
  #isLate(message: Message<T>): boolean {
    return (this.#timeLeft(message) ?? 1) <= 0
  }

  async #refuse(message: Message<T>, error: string): Promise<void> {
    const { transport, settler, meters } = this.#context
    const options: TransportSendOptions = { overflow: transport.overflow, disk: false, signal: undefined }
    try {
      const reply = [this.#reply(message, null, error)]
      const send = () => transport.send(reply, options).then(() => meters.sent(reply))
      await settler.persist(async () => this.#isLate(message) || send())
    } catch (failure) {
      // A codec that does not even take this: then the time of the request says it.
      if (failure instanceof QueueError) throw failure
    }
  }

  #reply(message: Message<T>, result: unknown, error?: string): Addressed {
    const queue = message.allHeaders[RPC.replyTo] as string
    const about = {
      [RPC.replyId]: requestOf(message) as string,
      ...(error !== undefined && { [RPC.error]: shortened(error) }),
    }
    return { queue, message: this.#outgoing(result ?? null, {}, about) }
  }

  /**
   * A page of what is in the queue, without taking it, in the order in which it is received; `after` is the `next` of the
   * page before. What consumers have in hand is there, too; what stats() counts as `delayed` or `held` is not (`redis:` shows
   * what waits for a retry, `nats:` all, in the order of sending).
   *
   * @throws {QueueError} ERR_BUS_UNSUPPORTED
   */
  async browse(
    options: { max?: number; after?: string } = {},
  ): Promise<{ messages: QueuedMessage[]; next: string | undefined }> {
    checkOptions(options)
    const { max = 100, after } = options
    checkInteger('"max" option', max, 1, BUS_BATCH)
    const { transport, codecs } = this.#context
    demand(transport, 'browse', 'browse')
    const { deliveries, next } = await transport.browse(this.name, { max, after })
    const messages = deliveries.map((delivery) => {
      const { id, key, priority, headers, sentAt, attempts, losses } = delivery
      const about = { headers: withoutOwn(headers), sentAt: new Date(sentAt), attempts, losses }
      return { id, body: bodyOf(delivery, codecs), key, priority, ...about }
    })
    return { messages, next }
  }

  /**
   * Drops what can be received, read or not, as if it was acknowledged; what consumers have in hand and what is not due yet
   * stays. Of what comes meanwhile about as much as was there may go, too; of `mq:` and `sysv:`, all until it is empty.
   * Resolves to how many there were.
   */
  async purge({ signal }: { signal?: AbortSignal | undefined } = {}): Promise<number> {
    const { transport, settler } = this.#context
    // Who takes from a queue of the kernel does not know how many messages are in its packs.
    const isCounted = transport.capabilities.lease !== false
    const { ready, held } = await transport.stats(this.name)
    const most = isCounted ? ready + held : Number.POSITIVE_INFINITY
    let count = 0
    while (count < most) {
      if (signal?.aborted) throw new AbortError(signal.reason)
      const deliveries = await transport.receive(this.name, {
        max: Math.min(most - count, BUS_BATCH),
        deadline: performance.now(),
        signal: undefined,
        lease: Number.POSITIVE_INFINITY,
        together: false,
      })
      if (deliveries.length === 0) break
      const acks = deliveries.map(({ token }) => ({ token, outcome: 'ack' }) as const)
      const settled = await transport.settle(acks).catch(async (error: unknown) => {
        await settler.giveBack(deliveries)
        throw error
      })
      count += settled.filter((held) => held).length
    }
    return count
  }

  async stats(): Promise<QueueStats> {
    const [own, dead] = await Promise.all(
      [this.name, deadOf(this.name)].map((name) => this.#context.transport.stats(name)),
    )
    const { ready, leased, delayed, held } = dead as TransportStats
    const { totals, rates, latency } = this.#origin.meter
    return { ...(own as TransportStats), dead: ready + leased + delayed + held, totals, rates, latency }
  }
}

/** Of a request; to a queue that is nobody's any more no reply is sent. */
function requestOf({ allHeaders: headers }: Message): string | undefined {
  return headers[RPC.replyTo]?.startsWith(BORROWED) === true ? (headers[RPC.replyId] ?? '') : undefined
}

/** What a consumer has fetched ahead, with a lease that has a limit: as long as its handlers go on, none of it is over. */
class Ahead<T> {
  readonly #lease: number
  readonly #clock: Clock
  /** When the lease of each was extended. */
  readonly #messages = new Map<Message<T>, number>()

  constructor(lease: number, clock: Clock) {
    this.#lease = lease
    this.#clock = clock
  }

  add(messages: Message<T>[]): Message<T>[] {
    for (const message of messages) this.#messages.set(message, this.#clock.now())
    return messages
  }

  /** One of them waits no more. */
  begin(begun: Message<T>): void {
    this.#messages.delete(begun)
    const now = this.#clock.now()
    for (const [message, since] of this.#messages) {
      if (now - since < this.#lease / 2) continue
      this.#messages.set(message, now)
      // Whether it is ours its own handler asks.
      message.extend(this.#lease).catch(() => {})
    }
  }
}

/** Its first bytes: a message of the kernel may have little room for headers. */
function shortened(error: string): string {
  const bytes = Buffer.from(error.slice(0, LONGEST_ERROR)).subarray(0, LONGEST_ERROR)
  // Without a part of a character at the end.
  return new TextDecoder().decode(bytes, { stream: true })
}

/** What is done with messages that were handled together. */
interface Together<M> {
  succeededAll(messages: readonly M[]): Promise<unknown>
}

/** A source of arrays of up to `size`; one that stops a consumer is alone. */
function inBatches<M>(source: Source<M> & Together<M>, size: number): Source<M[]> {
  const all = (messages: M[], work: (message: M) => Promise<void>) => Promise.all(messages.map(work)).then(() => {})
  return {
    most: Math.floor(BUS_BATCH / size),
    async receive(max, wait, signal, start) {
      const messages = await source.receive(max * size, wait, signal, start)
      const batches: M[][] = []
      for (const message of messages) {
        const last = batches.at(-1)
        const joins =
          last !== undefined && last.length < size && !source.isStop(message) && !source.isStop(last[0] as M)
        if (joins) last.push(message)
        else batches.push([message])
      }
      return batches
    },
    async succeeded(messages) {
      await source.succeededAll(messages)
    },
    failed: (messages, error) => all(messages, (message) => source.failed(message, error)),
    release: (messages) => all(messages, (message) => source.release(message)),
    begin(messages) {
      const begun = messages.map((message) => source.begin(message))
      if (begun.every((one) => one === true)) return true
      return Promise.all(begun).then((held) => {
        // What was taken away meanwhile is somebody else's.
        messages.splice(0, messages.length, ...messages.filter((_, at) => held[at]))
        return messages.length > 0
      })
    },
    timeLeft: () => undefined,
    isStop: ([first]) => first !== undefined && source.isStop(first),
  }
}

export function checkQueueName(name: string, of = 'queue'): string {
  if (typeof name !== 'string') throw invalidType(`name of the ${of}`, 'a string', name)
  if (NAME.test(name)) return name
  throw invalidValue(`name of the ${of}`, '1 to 128 letters, digits or ".", ":", "_", "-"', name)
}

function checkText(name: string, text: unknown): string {
  if (typeof text !== 'string') throw invalidType(`"${name}" option`, 'a string', text)
  if (text.length === 0 || text.length > MAX_NAME)
    throw outOfRange(`"${name}" option`, `1 to ${MAX_NAME} characters`, text.length)
  return text
}

function toKeep(history: HistoryOptions): Keep {
  if (typeof history !== 'object' || history === null) throw invalidType('"history" option', 'an object', history)
  const { maxMessages = 0, maxAge = 0 } = history
  checkInteger('"history.maxMessages" option', maxMessages, 0, Number.MAX_SAFE_INTEGER)
  checkTime('history.maxAge', maxAge)
  return { maxMessages, maxAge }
}

function checkStart(start: StartOptions): void {
  if (typeof start !== 'object' || start === null) throw invalidType('"start" option', 'an object', start)
  checkInteger('"start.messages" option', start.messages, 1, BUS_BATCH)
  checkInteger('"start.priority" option', start.priority ?? 0, 0, MAX_PRIORITY)
}

export function checkTime(name: string, ms: unknown): void {
  if (typeof ms !== 'number') throw invalidType(`"${name}" option`, 'a number of milliseconds', ms)
  if (!(ms >= 0 && ms <= MAX_TIME)) throw outOfRange(`"${name}" option`, `0 to ${MAX_TIME} milliseconds`, ms)
}

export function checkChoice<const C extends string>(name: string, value: unknown, choices: readonly C[]): C {
  if (choices.includes(value as C)) return value as C
  throw invalidValue(`"${name}" option`, choices.map((choice) => `'${choice}'`).join(' or '), value)
}
