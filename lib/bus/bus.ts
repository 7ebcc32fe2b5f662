// A bus: queues at a URL, whose scheme says which transport carries them.
import { constants } from 'node:os'
import { isAbsolute } from 'node:path'
import { fileURLToPath } from 'node:url'
import { checkInteger, checkOptions, invalidType, invalidValue } from '../errors.ts'
import { Cancellations } from './cancellations.ts'
import { type Clock, systemClock } from './clock.ts'
import { type Codec, Codecs } from './codecs.ts'
import { Consumers } from './consumer.ts'
import { Settler } from './message.ts'
import { Meters } from './meter.ts'
import { Namespace, type NamespaceOptions } from './namespace.ts'
import { Gatherings } from './outlet.ts'
import { toPrometheus } from './prometheus.ts'
import {
  type Context,
  checkChoice,
  checkQueueName,
  checkTime,
  type Durability,
  Queue,
  type QueueOptions,
  type SendOptions,
} from './queue.ts'
import { Replies } from './replies.ts'
import { Schedules } from './schedules.ts'
import { shown } from './secrets.ts'
import { Topic } from './topic.ts'
import { Tracing } from './tracing.ts'
import type { Capabilities, Transport } from './transport.ts'

/** Milliseconds. */
const DAY = 86_400_000

/** Names of queues that users have given, in a namespace or none: not those of dead letters, or of the bus itself. */
const OWN = /^(?:@[^/]+\/)?[^@/]+$/

export interface ConnectOptions {
  /**
   * `process`: what was sent outlives any process; `disk`: the power of the machine, too, and a send takes as long as
   * the disk. Default: `process`.
   */
  durability?: Durability | undefined
  /** Of `local:`, `mq:` and `sysv:`, whether the bus is made if there is none. Default: true. */
  create?: boolean | undefined
  /** Of `local:`, `mq:` and `sysv:`, the permissions of a directory that is not there yet. Default: 0o700. */
  mode?: number | undefined
  /** Of `local:`, milliseconds to wait for other processes that write. Default: 10000. */
  busyTimeout?: number | undefined
  /** Closes the bus on these signals; when all buses of the process that have one are closed, it does what it would have done. */
  signals?: readonly NodeJS.Signals[] | undefined
  /** Applied to bodies in this order, and undone in reverse: {@link compress}, {@link encrypt}, {@link sign}. */
  codecs?: readonly Codec[] | undefined
  /** Spans of OpenTelemetry for what is sent and handled; needs `@opentelemetry/api`. Default: false. */
  telemetry?: boolean | undefined
  /** What to take the time from; for tests. */
  clock?: Clock | undefined
}

/** Buses of this process that are being closed and listen for a signal, and whether it has come. */
const endings = new Map<NodeJS.Signals, { closing: Set<Bus>; hasCome: boolean }>()

function endingOf(signal: NodeJS.Signals): { closing: Set<Bus>; hasCome: boolean } {
  const ending = endings.get(signal) ?? { closing: new Set(), hasCome: false }
  endings.set(signal, ending)
  return ending
}

function checkCatchable(signal: NodeJS.Signals): void {
  const isCatchable = Object.hasOwn(constants.signals, signal) && signal !== 'SIGKILL' && signal !== 'SIGSTOP'
  if (!isCatchable) throw invalidValue('"signals" option', "names of signals that can be caught, as 'SIGTERM'", signal)
}

interface Settings {
  readonly create: boolean
  readonly mode: number
  readonly busyTimeout: number
  readonly clock: Clock
}

type OpenTransport = (url: URL, settings: Settings) => Promise<Transport>

async function openRedis(url: URL, { clock }: Settings): Promise<Transport> {
  const { openRedis } = await import('./transports/redis/redis.ts')
  return openRedis(url, clock)
}

const openNats: OpenTransport = async (url, settings) => {
  const { openNats: open } = await import('./transports/nats/nats.ts')
  return open(url, settings)
}

async function openAmqp(url: URL, { clock }: Settings): Promise<Transport> {
  const { openAmqp } = await import('./transports/amqp/amqp.ts')
  return openAmqp(url, clock)
}

/** Loaded when their URL is used. */
const transports: Record<string, OpenTransport> = {
  'local:': async (url, { clock, mode, busyTimeout, create }) => {
    const { openLocal } = await import('./transports/local/local.ts')
    return openLocal(directoryOf(url), clock, { mode, create, patience: busyTimeout })
  },
  'mq:': async (url, { clock, mode, create }) => {
    const { openMq } = await import('./transports/mq.ts')
    return openMq(directoryOf(url, ['maxMessages', 'messageSize']), sizesOf(url), clock, { mode, create })
  },
  'sysv:': async (url, { clock, mode, create }) => {
    const { openSysv } = await import('./transports/sysv.ts')
    return openSysv(directoryOf(url, ['maxBytes']), sizesOf(url), clock, { mode, create })
  },
  'redis:': openRedis,
  'rediss:': openRedis,
  'nats:': openNats,
  'tls:': openNats,
  'amqp:': openAmqp,
  'amqps:': openAmqp,
  'memory:': async (_, { clock }) => {
    const { openMemory } = await import('./transports/memory.ts')
    return openMemory(clock)
  },
}

/** What the URL of a bus may begin with. */
export const SCHEMES: readonly string[] = Object.keys(transports)

function directoryOf(url: URL, parameters: readonly string[] = []): string {
  const { protocol, host, pathname, searchParams } = url
  const isKnown = [...searchParams.keys()].every((name) => parameters.includes(name))
  if (host === '' && isAbsolute(pathname) && isKnown) return fileURLToPath(`file://${pathname}`)
  const query = parameters.length === 0 ? '' : `, and nothing behind "?" but ${parameters.join(', ')}`
  throw invalidValue('URL', `${protocol} and an absolute path, such as ${protocol}///var/lib/app${query}`, url.href)
}

/** The numbers behind the "?". */
function sizesOf({ href, searchParams }: URL): Record<string, number> {
  const sizes = [...searchParams].map(([name, value]) => [name, Number(value)] as const)
  for (const [name, size] of sizes) {
    if (!(Number.isSafeInteger(size) && size > 0)) throw invalidValue('URL', `one whose ${name} is a number`, href)
  }
  return Object.fromEntries(sizes)
}

/**
 * Opens the bus at a URL, and makes it if there is none, unless `create` is false.
 *
 * @throws {QueueError} ERR_BUS_DIRECTORY, ERR_BUS_NOT_FOUND, ERR_BUS_NOT_A_BUS, ERR_BUS_VERSION, ERR_BUS_BUSY, ERR_BUS_DISK_FULL,
 * ERR_BUS_DAMAGED, ERR_BUS_NO_SQLITE, ERR_BUS_NO_TELEMETRY, ERR_BUS_NO_CLIENT, ERR_BUS_CONNECTION, ERR_BUS_ACCESS
 */
export async function connect(url: string | URL, options: ConnectOptions = {}): Promise<Bus> {
  if (typeof url !== 'string' && !(url instanceof URL)) throw invalidType('URL', 'a string or a URL', url)
  checkOptions(options)
  const {
    durability = 'process',
    create = true,
    mode = 0o700,
    busyTimeout = 10_000,
    signals = [],
    codecs = [],
    telemetry = false,
    clock = systemClock,
  } = options
  checkChoice('durability', durability, ['process', 'disk'])
  if (typeof create !== 'boolean') throw invalidType('"create" option', 'true or false', create)
  checkInteger('"mode" option', mode, 0, 0o777)
  checkInteger('"busyTimeout" option', busyTimeout, 0, 2 ** 31 - 1)
  const parsed = URL.canParse(String(url)) ? new URL(url) : undefined
  const open = parsed === undefined ? undefined : transports[parsed.protocol]
  if (parsed === undefined || open === undefined) {
    throw invalidValue(
      'URL',
      `one that begins with ${Object.keys(transports).join(' or ')}`,
      parsed === undefined ? String(url) : shown(parsed),
    )
  }
  if (typeof telemetry !== 'boolean') throw invalidType('"telemetry" option', 'true or false', telemetry)
  if (typeof clock?.now !== 'function' || typeof clock.after !== 'function') {
    throw invalidType('"clock" option', 'a clock', clock)
  }
  if (!Array.isArray(codecs)) throw invalidType('"codecs" option', 'an array of codecs', codecs)
  if (!Array.isArray(signals)) throw invalidType('"signals" option', 'an array of names of signals', signals)
  for (const signal of signals) checkCatchable(signal)
  const tracing = telemetry ? new Tracing() : undefined
  const transport = await open(parsed, { create, mode, busyTimeout, clock })
  return new Bus(shown(parsed), transport, durability, clock, new Codecs(codecs), signals, tracing)
}

export class Bus {
  readonly url: string
  /** Messages that are sent again and again. */
  readonly schedules: Schedules
  readonly #context: Context
  readonly #signals: readonly NodeJS.Signals[]
  /** Of all topics: one of them would be kept for each name. */
  readonly #publisher: Queue
  #closed: Promise<void> | undefined

  /** @internal */
  constructor(
    url: string,
    transport: Transport,
    durability: Durability,
    clock: Clock,
    codecs: Codecs,
    signals: readonly NodeJS.Signals[],
    tracing: Tracing | undefined,
  ) {
    this.url = url
    const cancellations = new Cancellations(transport, clock)
    const replies = new Replies(
      transport,
      cancellations,
      (name, handler) => internal(name, true).consume(handler, { concurrency: 50 }).closed,
    )
    const settler = new Settler(transport)
    const meters = new Meters()
    const consumers = new Consumers()
    this.#context = {
      transport,
      clock,
      codecs,
      settler,
      durability,
      replies,
      cancellations,
      meters,
      consumers,
      gatherings: new Gatherings(),
      tracing,
    }
    // What the bus does for itself has no spans.
    const internal = (name: string, background = false) =>
      new Queue(name, {}, { ...this.#context, tracing: undefined, background })
    const ofSchedules = (name: string, options: QueueOptions = {}) =>
      new Queue(name, options, { ...this.#context, tracing: undefined })
    this.schedules = new Schedules({ transport, clock, queue: ofSchedules })
    // Nobody chooses for a topic how long ids are remembered: where they cannot be, an id is no more than a name.
    this.#publisher = this.#open('bus/topics', transport.capabilities.dedup === false ? { dedup: 0 } : {})
    this.#signals = signals
    for (const signal of signals) process.once(signal, this.#onSignal)
  }

  readonly #onSignal = (signal: NodeJS.Signals): void => {
    endingOf(signal).hasCome = true
    this.close().catch(() => {})
  }

  /** What the transport can do by itself, what is emulated, and what is not to be had. */
  get capabilities(): Capabilities {
    return this.#context.transport.capabilities
  }

  /** @param name 1 to 128 letters, digits or `.`, `:`, `_`, `-` */
  queue<T = unknown>(name: string, options: QueueOptions<T> = {}): Queue<T> {
    return this.#open(checkQueueName(name), options)
  }

  #open<T = unknown>(name: string, options: QueueOptions<T> = {}): Queue<T> {
    return new Queue(name, options, this.#context)
  }

  /** @param name words with dots between them; to subscribe, `*` is one word, `#` any number of them */
  topic<T = unknown>(name: string): Topic<T> {
    const { transport, settler } = this.#context
    const publish = (topic: string, body: unknown, options: SendOptions) =>
      this.#publisher.publish(topic, body, options)
    return new Topic(name, { transport, settler, queue: (queue, options) => this.#open(queue, options), publish })
  }

  /**
   * Queues and topics whose names are their own, with a quota for all of them together. Naming any bound sets the quota,
   * for all who use the bus.
   *
   * @param name 1 to 128 letters, digits or `.`, `:`, `_`, `-`
   */
  namespace(name: string, options: NamespaceOptions = {}): Namespace {
    return new Namespace(name, options, this.#context, this.#publisher)
  }

  /**
   * The result of `fn`, which is recorded under `id`: who asks again gets the record, in whatever process. It may run
   * again if the process ended, or it threw, before the record was there, and twice if two calls overlap, here or elsewhere.
   *
   * @param fn its result is kept as JSON
   */
  async once<R>(id: string, fn: () => R | Promise<R>, { ttl = DAY }: { ttl?: number } = {}): Promise<R> {
    if (typeof id !== 'string' || id === '') throw invalidType('id', 'a string', id)
    if (typeof fn !== 'function') throw invalidType('fn', 'a function', fn)
    checkTime('ttl', ttl)
    const { transport, clock } = this.#context
    const key = `once/${id}`
    const known = (await transport.entries(key)).find(([one]) => one === key)
    if (known !== undefined) return (JSON.parse(known[1]) as { result: R }).result
    const result = await fn()
    await transport.put(key, JSON.stringify({ result }), { until: clock.now() + ttl })
    return result
  }

  /**
   * The names of the queues that there are, sorted: those of a namespace as `@acme/mail`, subscriptions that have a name
   * included, those of dead letters not.
   */
  async queues(): Promise<string[]> {
    return (await this.#context.transport.queues()).filter((name) => OWN.test(name)).sort()
  }

  /** What there is in all queues, and what this process has done with it, as Prometheus reads it. */
  async metrics(): Promise<string> {
    const { clock } = this.#context
    const own = await this.queues()
    const stats = await Promise.all(own.map(async (name) => [name, await this.#open(name).stats()] as const))
    return toPrometheus(stats, clock.now())
  }

  /** Waits for the handlers that run, gives back what was not settled, and lets go. Idempotent. */
  close(): Promise<void> {
    this.#closed ??= this.#close()
    return this.#closed
  }

  async #close(): Promise<void> {
    for (const signal of this.#signals) {
      process.off(signal, this.#onSignal)
      endingOf(signal).closing.add(this)
    }
    try {
      await this.#drain()
    } finally {
      for (const signal of this.#signals) this.#end(signal)
    }
  }

  /** The last that has drained lets the signal do what it would have done. */
  #end(signal: NodeJS.Signals): void {
    const ending = endingOf(signal)
    ending.closing.delete(this)
    if (ending.closing.size > 0 || !ending.hasCome) return
    ending.hasCome = false
    process.kill(process.pid, signal)
  }

  async #drain(): Promise<void> {
    const { consumers, gatherings, replies, cancellations, settler, transport } = this.#context
    replies.close()
    settler.end()
    await consumers.close()
    await gatherings.close()
    await cancellations.sent()
    // What was asked for before is done before.
    settler.flush()
    await transport.close()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}
