// A part of a bus: its own names of queues and topics, and bounds for all that is in it.
import { checkInteger, checkOptions } from '../errors.ts'
import { type Context, checkQueueName, Queue, type QueueOptions, type Scope } from './queue.ts'
import { Topic } from './topic.ts'
import { demand, prefixOf, type Quota, type Usage } from './transport.ts'

export interface NamespaceOptions {
  /** The most messages in all its queues, dead letters included. Default: no bound, or what was set before. */
  maxMessages?: number | undefined
  /** The most bytes of bodies in all its queues. */
  maxBytes?: number | undefined
  /** The most queues; those of dead letters do not count. */
  maxQueues?: number | undefined
}

export class Namespace {
  readonly name: string
  readonly #context: Context & { readonly scope: Scope }
  /** Of all topics of the bus. */
  readonly #publisher: Queue
  readonly #quota: Quota | undefined
  #declared: Promise<unknown> | undefined

  /** @internal */
  constructor(name: string, options: NamespaceOptions, context: Context, publisher: Queue) {
    checkOptions(options)
    const { maxMessages = 0, maxBytes = 0, maxQueues = 0 } = options
    const quota = { maxMessages, maxBytes, maxQueues }
    for (const [what, most] of Object.entries(quota)) {
      checkInteger(`"${what}" option`, most, 0, Number.MAX_SAFE_INTEGER)
    }
    if (Object.values(options).some((most) => most !== undefined)) this.#quota = quota
    this.name = checkQueueName(name, 'namespace')
    demand(context.transport, 'quotas', 'namespace')
    const scope = { prefix: prefixOf(name), declare: () => this.#declare() }
    this.#context = { ...context, scope }
    this.#publisher = publisher
  }

  /** Sets the quota, once; whatever is done next comes after it. */
  #declare(): Promise<unknown> | undefined {
    if (this.#quota === undefined) return undefined
    this.#declared ??= this.#context.transport.allot(this.name, this.#quota).catch((error: unknown) => {
      this.#declared = undefined
      throw error
    })
    return this.#declared
  }

  /** @param name as of {@link Bus.queue}; those of other namespaces, and of none, are others */
  queue<T = unknown>(name: string, options: QueueOptions<T> = {}): Queue<T> {
    return new Queue(this.#context.scope.prefix + checkQueueName(name), options, this.#context)
  }

  /** @param name as of {@link Bus.topic} */
  topic<T = unknown>(name: string): Topic<T> {
    const context = this.#context
    return new Topic(name, {
      transport: context.transport,
      settler: context.settler,
      scope: context.scope,
      queue: (full, options) => new Queue(full, options, context),
      // Asked for first, done first; and what is published is copied at once.
      publish: async (topic, body, options) =>
        (await Promise.all([this.#declare(), this.#publisher.publish(topic, body, options)]))[1],
    })
  }

  /** What is in all its queues together, and its quota, in which 0 is no bound. */
  async stats(): Promise<Usage> {
    await this.#declare()
    return this.#context.transport.allot(this.name)
  }
}
