// A topic: what is published goes to every queue that is bound to it.
import { checkOptions, invalidType, invalidValue } from '../errors.ts'
import type { ConsumeOptions, Consumer, Handler } from './consumer.ts'
import { isAway, type Message, type Settler } from './message.ts'
import { checkQueueName, type Queue, type QueueOptions, type Scope, type SendOptions } from './queue.ts'
import type { Binding, Transport } from './transport.ts'

export interface SubscribeOptions<T = unknown> extends ConsumeOptions {
  /** Only what has these headers. */
  headers?: Readonly<Record<string, string>> | undefined
  /** The options of its queue. */
  queue?: QueueOptions<T> | undefined
}

/** What a topic needs of its bus. */
export interface TopicContext {
  readonly transport: Transport
  readonly settler: Settler
  readonly scope?: Scope
  queue<T>(name: string, options: QueueOptions<T>): Queue<T>
  publish(topic: string, body: unknown, options: SendOptions): Promise<number>
}

const WORD = /^[\w:-]+$/

export class Topic<T = unknown> {
  readonly name: string
  readonly #context: TopicContext
  readonly #isPattern: boolean

  /** @internal */
  constructor(name: string, context: TopicContext) {
    if (typeof name !== 'string') throw invalidType('name of the topic', 'a string', name)
    const words = name.split('.')
    this.#isPattern = words.some((word) => word === '*' || word === '#')
    if (name.length > 128 || !words.every((word) => word === '*' || word === '#' || WORD.test(word))) {
      throw invalidValue('name of the topic', 'words of letters, digits, ":", "_", "-", with dots between them', name)
    }
    this.name = name
    this.#context = context
  }

  /**
   * Sends a copy to every queue that is bound to the topic, all or none (of `mq:`, `sysv:`, `nats:` and `amqp:` some, if it
   * fails); resolves to how many these are.
   *
   * @throws {QueueError} as {@link Queue.send}
   */
  async publish(body: T, options: SendOptions = {}): Promise<number> {
    if (this.#isPattern) throw invalidValue('name of the topic', 'one topic, to publish to it', this.name)
    return this.#context.publish(this.#full, body, options)
  }

  /** Has what is published from now on sent to a queue, too. It lasts until {@link unbind}. */
  async bind(queue: string, options: Pick<SubscribeOptions, 'headers'> = {}): Promise<void> {
    const binding = this.#binding(queue, options)
    await this.#context.scope?.declare()
    await this.#context.transport.bind(binding)
  }

  async unbind(queue: string, options: Pick<SubscribeOptions, 'headers'> = {}): Promise<void> {
    await this.#context.transport.unbind(this.#binding(queue, options))
  }

  #binding(queue: string, options: Pick<SubscribeOptions, 'headers'>): Binding {
    checkOptions(options)
    const headers = Object.fromEntries(Object.entries(options.headers ?? {}).sort(([a], [b]) => (a < b ? -1 : 1)))
    return { pattern: this.#full, queue: this.#prefix + checkQueueName(queue), headers }
  }

  get #prefix(): string {
    return this.#context.scope?.prefix ?? ''
  }

  /** What it is called in the transport: the namespace is a word by itself. */
  get #full(): string {
    return this.#prefix === '' ? this.name : `${this.#prefix}.${this.name}`
  }

  /**
   * Binds a queue of that name and consumes it: all who subscribe by one name share what comes. It keeps what is
   * published while nobody consumes. Without a name it is this process's own, and ends with its consumer.
   */
  async subscribe(
    name: string | undefined,
    handler: Handler<Message<T>>,
    options: SubscribeOptions<T> = {},
  ): Promise<Consumer<Message<T>>> {
    checkOptions(options)
    const { queue: queueOptions = {}, headers = {}, ...consumeOptions } = options
    const { transport, settler } = this.#context
    if (name !== undefined) {
      const queue = this.#context.queue(this.#prefix + checkQueueName(name), queueOptions)
      // The binding lasts: it is not to be there if nobody has consumed it.
      queue.checkConsume(handler, consumeOptions)
      await this.bind(name, { headers })
      return queue.consume(handler, consumeOptions)
    }
    await this.#context.scope?.declare()
    const own = await transport.borrow(this.#prefix)
    const remove = () => transport.drop(own)
    // As long as it is there it is sent to, and nobody takes anything out of it.
    const drop = () => remove().catch(() => void settler.persist(remove, { background: true }, isAway).catch(() => {}))
    try {
      await transport.bind({ ...this.#binding('q', { headers }), queue: own })
      const consumer = this.#context.queue(own, queueOptions).consume(handler, consumeOptions)
      void consumer.ended.then(drop)
      return consumer
    } catch (error) {
      await drop()
      throw error
    }
  }
}
