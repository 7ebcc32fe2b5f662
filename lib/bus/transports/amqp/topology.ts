// What a bus has in RabbitMQ: queues, exchanges, bindings, and what it takes for a delay. Made when it is used, and
// made again when it is found to be gone.
import { createHash, randomUUID } from 'node:crypto'
import type { Channel, Options } from 'amqplib'
import { invalidValue, QueueError } from '../../../errors.ts'
import { type Binding, BORROWED } from '../../transport.ts'
import { type Link, refusalOf } from './link.ts'
import { isFilterable, LONGEST_DELAY } from './wire.ts'

/** What a loss counts is for the bus to say; RabbitMQ 4 would drop a message after 20. */
const UNLIMITED = 1_000_000_000

const QUORUM = { 'x-queue-type': 'quorum' }

/** Milliseconds that a borrowed queue outlives its process, and how often this one says that it is there. */
const OUTLIVES = 60_000
const SAYS = 20_000

/** Delays are rounded up to multiples of this, in milliseconds; long ones to an eighth of the power of two below. */
const STEP = 16
const EIGHTH = 3

/** How long a message waits that is to wait for so many milliseconds: not shorter, and few different ones. */
export function rounded(ms: number): number {
  const step = Math.max(STEP, 2 ** (Math.floor(Math.log2(ms)) - EIGHTH))
  return Math.min(Math.ceil(ms / step) * step, LONGEST_DELAY)
}

/** Into how many partitions keys are hashed. It must be the same for all who use a queue. */
export const PARTITIONS = 8

export const partitionName = (queue: string, at: number): string => `${queue}/k${at}`
/** One message: what is known of those in a partition. */
export const notesOf = (partition: string): string => `${partition}/notes`

const queueKey = (queue: string): string => `q.${queue}`
/** What the bus tells itself begins with `$`, and no pattern of a user means it. */
export const topicKey = (topic: string): string => `${topic.startsWith('$') ? 's' : 't'}.${topic}`

export class Topology {
  readonly #link: Link
  readonly #prefix: string
  /** What is there, or being made. */
  readonly #made = new Map<string, true | Promise<unknown>>()
  readonly #borrowed = new Map<string, Map<string, Binding>>()
  #keepAlive: NodeJS.Timeout | undefined
  #write: Promise<unknown> = Promise.resolve()
  #nextWrite: Promise<unknown> | undefined

  constructor(link: Link, prefix: string) {
    this.#link = link
    this.#prefix = prefix
  }

  nameOf(what: string): string {
    return `${this.#prefix}/${what}`
  }

  get topics(): string {
    return this.nameOf('$topics')
  }

  /** Where what was delayed comes to when it is due. */
  get #due(): string {
    return this.nameOf('$due')
  }

  delayOf(ms: number): string {
    return this.nameOf(`$delay/${rounded(ms)}`)
  }

  /** Those that this process has used. */
  queues(): string[] {
    const names = [...this.#made.keys()].filter((what) => what.startsWith('queue '))
    return names.map((what) => what.slice('queue '.length))
  }

  /** It may be gone, or what it needs. */
  forget(queue?: string): void {
    if (queue === undefined) this.#made.clear()
    else for (const what of ['base', `queue ${queue}`, `keys ${queue}`, `known ${queue}`]) this.#made.delete(what)
  }

  /** For who waits for what is made, no longer than that: it has a connection of its own, which says why it takes so long. */
  inTime<R>(call: string, deadline: number, making: Promise<R>, signal?: AbortSignal): Promise<R> {
    return this.#link.inTime(call, deadline, making, signal)
  }

  /** Undefined if it is there. */
  #make(what: string, work: () => Promise<unknown>): Promise<unknown> | undefined {
    const made = this.#made.get(what)
    if (made === true) return undefined
    if (made !== undefined) return made
    const making: Promise<unknown> = work().then(
      () => {
        if (this.#made.get(what) === making) this.#made.set(what, true)
      },
      (error: unknown) => {
        if (this.#made.get(what) === making) this.#made.delete(what)
        throw error
      },
    )
    this.#made.set(what, making)
    return making
  }

  base(): Promise<unknown> | undefined {
    return this.#make('base', () =>
      this.#declare('connect', this.topics, async (channel) => {
        const gone = this.nameOf('$gone')
        // What is due and whose queue was dropped meanwhile would come again and again: it goes to a queue of nothing.
        await channel.assertExchange(gone, 'fanout')
        await channel.assertQueue(gone, { arguments: { 'x-max-length': 0 } })
        await channel.bindQueue(gone, gone, '')
        await channel.assertExchange(this.#due, 'topic', { alternateExchange: gone })
        await channel.assertExchange(this.topics, 'topic')
        await channel.assertExchange(this.keyed, 'direct')
      }),
    )
  }

  queue(queue: string): Promise<unknown> | undefined {
    return this.#make(`queue ${queue}`, async () => {
      await this.base()
      const name = this.nameOf(queue)
      await this.#declare('declare', queue, async (channel) => {
        await channel.assertQueue(name, optionsOf(queue))
        await channel.bindQueue(name, this.#due, queueKey(queue))
      })
      if (!queue.startsWith(BORROWED)) await this.#written()
      for (const binding of this.#borrowed.get(queue)?.values() ?? []) await this.#bind(binding)
    })
  }

  /** Where processes tell each other of the partitions of queues, by their names. */
  get keyed(): string {
    return this.nameOf('$keyed')
  }

  /** A queue, its partitions and their notes: all at once, since a server that is killed soon after one is made may spoil it. */
  keys(queue: string): Promise<unknown> | undefined {
    return this.#make(`keys ${queue}`, async () => {
      await this.queue(queue)
      await this.#declare('declare', queue, async (channel) => {
        const options = { arguments: { ...optionsOf(queue).arguments, 'x-single-active-consumer': true } }
        const partitions = Array.from({ length: PARTITIONS }, (_, at) => partitionName(queue, at))
        const make = async (partition: string) => {
          await channel.assertQueue(this.nameOf(partition), options)
          await channel.bindQueue(this.nameOf(partition), this.#due, queueKey(partition))
          await channel.assertQueue(this.nameOf(notesOf(partition)), { ...optionsOf(queue), maxLength: 1 })
        }
        await Promise.all(partitions.map(make))
      })
      await this.#written()
    })
  }

  /** The same, and all know of it who may wait for messages. */
  knownKeys(queue: string, tell: () => Promise<unknown>): Promise<unknown> | undefined {
    return this.#make(`known ${queue}`, async () => {
      await this.keys(queue)
      await tell()
    })
  }

  /** A queue that keeps what it has for so long, and then sends it on; shared by all whose delay is about the same. */
  delay(ms: number): Promise<unknown> | undefined {
    const name = this.delayOf(ms)
    return this.#make(`delay ${name}`, async () => {
      await this.base()
      // It lets go of what it sends on when that is confirmed.
      const options: Options.AssertQueue = {
        messageTtl: rounded(ms),
        deadLetterExchange: this.#due,
        arguments: { ...QUORUM, 'x-dead-letter-strategy': 'at-least-once', 'x-overflow': 'reject-publish' },
      }
      await this.#declare('declare', name, async (channel) => {
        await channel.assertExchange(name, 'fanout')
        await channel.assertQueue(name, options)
        await channel.bindQueue(name, name, '')
      })
      await this.#written()
    })
  }

  /**
   * Resolves when the queues that are made now outlive a kill of the server. It writes the name of a new quorum queue's
   * log half a second later, or with the next one that is made; killed before, it begins an empty log that never has a
   * leader, and what the queue had confirmed is gone. So another one is made, and removed.
   */
  #written(): Promise<unknown> {
    // One that has begun may have come before.
    this.#nextWrite ??= this.#write.then(() => {
      this.#nextWrite = undefined
      const written = this.#declare('declare', '$made', async (channel) => {
        // Another each time: that of a connection that was lost may still be under way.
        const name = this.nameOf(`$made/${randomUUID()}`)
        await channel.assertQueue(name, { expires: OUTLIVES, arguments: QUORUM })
        await channel.deleteQueue(name)
      })
      this.#write = written.catch(() => {})
      return written
    })
    return this.#nextWrite
  }

  async #declare(call: string, path: string, work: (channel: Channel) => Promise<unknown>): Promise<void> {
    try {
      await this.#link.ask(call, work)
    } catch (error) {
      throw refused(error, call, path)
    }
  }

  async bind(binding: Binding): Promise<void> {
    const { queue, headers } = binding
    const strange = Object.keys(headers).find((name) => !isFilterable(name))
    if (strange !== undefined)
      throw invalidValue('"headers" option', 'names that do not begin with "x-" or "kmq-"', strange)
    await this.queue(queue)
    await this.#bind(binding)
    this.#borrowed.get(queue)?.set(keyOf(binding), binding)
  }

  async #bind(binding: Binding): Promise<void> {
    const { pattern, queue, headers } = binding
    const [name, key] = [this.nameOf(queue), topicKey(pattern)]
    await this.#declare('bind', queue, async (channel) => {
      const filters = Object.keys(headers).length > 0
      const filter = this.#filterOf(binding)
      if (filters) {
        await channel.assertExchange(filter, 'headers', { autoDelete: true })
        await channel.bindQueue(name, filter, '', { 'x-match': 'all', ...headers })
      }
      for (const exchange of [this.topics, this.#due]) {
        if (filters) await channel.bindExchange(filter, exchange, key)
        else await channel.bindQueue(name, exchange, key)
      }
    })
  }

  /** An exchange between the topics and a queue that looks at headers; it goes with its queue. */
  #filterOf(binding: Binding): string {
    return this.nameOf(`$filter/${createHash('sha256').update(keyOf(binding)).digest('hex').slice(0, 32)}`)
  }

  async unbind(binding: Binding): Promise<void> {
    const { pattern, queue, headers } = binding
    const [name, key] = [this.nameOf(queue), topicKey(pattern)]
    this.#borrowed.get(queue)?.delete(keyOf(binding))
    await this.queue(queue)
    await this.#declare('unbind', queue, async (channel) => {
      if (Object.keys(headers).length > 0) await channel.deleteExchange(this.#filterOf(binding))
      else for (const exchange of [this.topics, this.#due]) await channel.unbindQueue(name, exchange, key)
    })
  }

  async borrow(queue: string): Promise<void> {
    this.#borrowed.set(queue, new Map())
    await this.queue(queue)
    this.#keepAlive ??= setInterval(() => this.#sayThatWeAreThere(), SAYS).unref()
  }

  isBorrowed(queue: string): boolean {
    return this.#borrowed.has(queue)
  }

  #sayThatWeAreThere(): void {
    // Asking would hold the process until there is a connection again, which says so itself.
    if (!this.#link.isUp) return
    for (const queue of this.#borrowed.keys()) {
      // What it needs stays.
      this.#made.delete(`queue ${queue}`)
      this.queue(queue)?.catch(() => {})
    }
  }

  /** There is a connection again; the server may have lost what goes with it. */
  renew(): void {
    this.#sayThatWeAreThere()
  }

  async drop(queue: string): Promise<void> {
    this.#borrowed.delete(queue)
    this.forget(queue)
    const partitions = Array.from({ length: PARTITIONS }, (_, at) => partitionName(queue, at))
    const names = queue.startsWith(BORROWED) ? [queue] : [queue, ...partitions.flatMap((one) => [one, notesOf(one)])]
    await this.#declare('drop', queue, (channel) =>
      Promise.all(names.map((name) => channel.deleteQueue(this.nameOf(name)))),
    )
  }

  /** Removes what goes with this process. */
  async close(): Promise<void> {
    clearInterval(this.#keepAlive)
    // Without a connection they go by themselves.
    if (!this.#link.isUp) return
    const gone = [...this.#borrowed.keys()].map((queue) =>
      this.#link.ask('drop', (channel) => channel.deleteQueue(this.nameOf(queue))),
    )
    await Promise.allSettled(gone)
  }
}

const keyOf = ({ pattern, queue, headers }: Binding): string => JSON.stringify([pattern, queue, headers])

function optionsOf(queue: string): Options.AssertQueue {
  // Durable, since RabbitMQ 4.3 makes no others that may be had by more than one connection.
  if (queue.startsWith(BORROWED)) return { expires: OUTLIVES, arguments: { 'x-queue-type': 'classic' } }
  return { arguments: { ...QUORUM, 'x-delivery-limit': UNLIMITED } }
}

/** What RabbitMQ has against it, and what to do. */
export function refused(error: unknown, call: string, path: string): unknown {
  const code = refusalOf(error)
  if (code === undefined || error instanceof QueueError) return error
  const detail = (error as Error).message.replace(/^.*? with message /, '')
  const wrap = (name: string, hint: string) =>
    Object.assign(new QueueError(name, { syscall: call, path, detail, hint }), { cause: error })
  if (code === 403) return wrap('ERR_BUS_ACCESS', 'rabbitmqctl set_permissions: the user of the URL may not do that')
  if (code === 404) return wrap('ENOENT', 'somebody has removed it: connect again, or send again')
  return wrap('ERR_BUS_OTHER_QUEUE', 'somebody else made it, in another way: remove it, or give the URL another prefix')
}
