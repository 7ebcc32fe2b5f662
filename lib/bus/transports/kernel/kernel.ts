// A transport that is nothing but queues of the kernel: volatile, at most once, fast.
import { outOfRange, QueueError } from '../../../errors.ts'
import type { Clock } from '../../clock.ts'
import { isBound } from '../../topic-pattern.ts'
import {
  type Addressed,
  type Binding,
  BORROWED,
  type Capabilities,
  type Outgoing,
  type Outlet,
  type Receipt,
  type ReceiveOptions,
  Refusals,
  type SendOptions,
  type Settlement,
  type Transport,
  type TransportStats,
} from '../../transport.ts'
import type { Directory } from './directory.ts'
import { grouped, type Handle, Lane } from './lane.ts'
import { Lasting } from './lasting.ts'
import { LEAST, type Packed } from './pack.ts'
import { isAlive } from './process.ts'

const capabilities: Capabilities = {
  persist: false,
  delay: false,
  priority: 'native',
  dedup: false,
  order: false,
  lease: false,
  deadLetter: false,
  transaction: false,
  browse: false,
  fanout: 'emulated',
  bounds: false,
  replay: false,
  start: false,
  quotas: false,
  records: false,
  maxBytes: 2 ** 30,
}

/** Milliseconds after which a queue of somebody else is let go, if nothing was sent to it. */
const IDLE = 1000

const WAITING: SendOptions = { overflow: 'wait', disk: false, signal: undefined }

const NOTHING: TransportStats = { ready: 0, leased: 0, delayed: 0, held: 0, bytes: 0, oldest: undefined }

/** Opens a queue of the kernel by its name there; `isBorrowed` ones are small; undefined if there is none. */
export type OpenHandle = (object: string, options: { create: boolean; isBorrowed: boolean }) => Handle | undefined

export class Kernel extends Refusals implements Transport {
  readonly capabilities: Capabilities = capabilities
  readonly overflow = 'wait'
  readonly #directory: Directory
  readonly #openHandle: OpenHandle
  readonly #clock: Clock
  /** With those that this process has borrowed. */
  readonly #lanes = new Map<string, Lane>()
  /** Queues that others have borrowed, and whether they were used lately. */
  readonly #foreign = new Map<string, { lane: Lane; isUsed: boolean }>()
  #letGo: NodeJS.Timeout | undefined
  #closed: Promise<void> | undefined

  constructor(directory: Directory, openHandle: OpenHandle, clock: Clock) {
    super()
    this.#directory = directory
    this.#openHandle = openHandle
    this.#clock = clock
    directory.sweep()
    directory.sweepBodies(() => this.#isEmpty())
  }

  /** False also if that cannot be known. */
  #isEmpty(): boolean {
    try {
      return this.#directory.queues().every((queue) => {
        const handle = this.#find(queue)
        const messages = handle?.stats().messages ?? 0
        void handle?.close()
        return messages === 0
      })
    } catch {
      return false
    }
  }

  /** Opens a queue that is there. */
  #find(name: string): Handle | undefined {
    const object = this.#directory.findObject(name)
    return object === undefined ? undefined : this.#openHandle(object, { create: false, isBorrowed: true })
  }

  #check(call: string): void {
    if (this.#closed !== undefined) throw new QueueError('ERR_MQ_CLOSED', { syscall: call })
  }

  #newLane(name: string, handle: Handle): Lane {
    if (handle.size < LEAST) {
      void handle.close()
      throw outOfRange(`size of messages of queue "${name}"`, `at least ${LEAST} bytes`, handle.size)
    }
    // Of one that is somebody else's: the one that he has made again.
    const lasting = new Lasting(handle, () => (this.#isOurs(name) ? this.#create(name) : this.#find(name)))
    return new Lane(name, lasting, this.#directory, this.#clock)
  }

  /** Whether it is for us to make it again. */
  #isOurs(name: string): boolean {
    return this.#closed === undefined && this.#lanes.has(name) && this.#directory.isThere
  }

  #lane(name: string): Lane {
    let lane = this.#lanes.get(name)
    if (lane === undefined) {
      lane = this.#newLane(name, this.#create(name))
      this.#lanes.set(name, lane)
    }
    return lane
  }

  #create(name: string): Handle {
    const object = this.#directory.objectOf(name)
    const options = { create: true, isBorrowed: name.startsWith(BORROWED) }
    try {
      return this.#openHandle(object, options) as Handle
    } catch (error) {
      // What others have left behind may be all that is in the way.
      if (!['EMFILE', 'ENOSPC'].includes((error as QueueError).code)) throw error
      this.#directory.sweep()
      return this.#openHandle(object, options) as Handle
    }
  }

  /** Of a queue that somebody may have borrowed; undefined if it is gone. */
  #laneTo(name: string): Lane | undefined {
    if (!name.startsWith(BORROWED) || this.#lanes.has(name)) return this.#lane(name)
    const known = this.#foreign.get(name)
    if (known !== undefined) {
      known.isUsed = true
      return known.lane
    }
    if (!isAlive(name.slice(BORROWED.length))) return undefined
    const handle = this.#find(name)
    if (handle === undefined) return undefined
    const lane = this.#newLane(name, handle)
    this.#foreign.set(name, { lane, isUsed: true })
    this.#letGo ??= setInterval(() => this.#letGoOfIdle(), IDLE).unref()
    return lane
  }

  /** As long as it is open here it takes room, though its owner be gone. */
  #letGoOfIdle(): void {
    for (const [name, entry] of this.#foreign) {
      const isWanted = entry.isUsed || entry.lane.isWaiting
      if (!isWanted || !isAlive(name.slice(BORROWED.length))) this.#forget(name)
      entry.isUsed = false
    }
    if (this.#foreign.size > 0) return
    clearInterval(this.#letGo)
    this.#letGo = undefined
  }

  #forget(name: string): void {
    const entry = this.#foreign.get(name)
    this.#foreign.delete(name)
    void entry?.lane.close().catch(() => {})
  }

  #forgetIfGone(queue: string, error: unknown): boolean {
    const isGone = (error as QueueError).code === 'EIDRM'
    if (isGone) this.#forget(queue)
    return isGone
  }

  async declare(): Promise<void> {}

  outlet(queue: string): Outlet {
    this.#check('post')
    return this.#lane(queue)
  }

  async send(batch: readonly Addressed[], { overflow, signal }: SendOptions): Promise<Receipt[]> {
    this.#check('send')
    const sent = [...grouped(batch, ({ queue }) => queue)].map(([queue, own]) => {
      const messages = own.map(({ message }) => message)
      return this.#sendTo(queue, messages, overflow, signal)
    })
    await Promise.all(sent)
    return batch.map(({ message }) => ({ id: message.id, duplicate: false }))
  }

  async #sendTo(
    queue: string,
    messages: Outgoing[],
    overflow: SendOptions['overflow'],
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const sent = this.#laneTo(queue)?.send(messages, overflow, signal)
    // Whoever borrowed a queue may have gone, and what was for him with him.
    if (!queue.startsWith(BORROWED)) await sent
    else await sent?.catch((error: unknown) => this.#forgetIfGone(queue, error))
  }

  async receive(queue: string, options: ReceiveOptions): Promise<Packed[]> {
    this.#check('receive')
    return this.#lane(queue).receive(options)
  }

  /** Whoever took a message has it: there is nothing to be settled but what comes back. */
  async settle(batch: readonly Settlement[]): Promise<boolean[]> {
    const settled = await Promise.allSettled(batch.map((settlement) => this.#settle(settlement)))
    const failed = settled.find(({ status }) => status === 'rejected') as PromiseRejectedResult | undefined
    if (failed !== undefined) throw failed.reason
    return batch.map(() => true)
  }

  async #settle(settlement: Settlement): Promise<void> {
    if (settlement.outcome === 'ack' && settlement.send !== undefined) await this.send(settlement.send, WAITING)
    if (settlement.outcome !== 'retry') return
    this.#check('settle')
    const message = settlement.token as Packed
    this.#lane(message.queue).again(message, settlement.due, settlement.counted)
  }

  async stats(queue: string): Promise<TransportStats> {
    this.#check('stats')
    // Asking makes no queue.
    if (!this.#lanes.has(queue) && this.#directory.findObject(queue) === undefined) return NOTHING
    const { messages, bytes, held } = this.#lane(queue).stats()
    return { ready: messages, leased: 0, delayed: held, held: 0, bytes, oldest: undefined }
  }

  async queues(): Promise<string[]> {
    this.#check('queues')
    return this.#directory.queues()
  }

  async bind(binding: Binding): Promise<void> {
    this.#check('bind')
    this.#directory.bind(binding)
  }

  async unbind(binding: Binding): Promise<void> {
    this.#check('unbind')
    this.#directory.unbind(binding)
  }

  /** To each by itself; a subscriber's own queue that is full misses it. */
  async publish(topic: string, message: Outgoing, options: SendOptions): Promise<string[]> {
    this.#check('publish')
    const bound = this.#directory.bindings().filter((binding) => isBound(binding, topic, message.headers ?? {}))
    const queues = [...new Set(bound.map(({ queue }) => queue))]
    // What one has no room for nobody gets: who publishes it again would bring it to the others twice.
    for (const queue of queues) this.#laneTo(queue)?.checkLength(message)
    const sent = await Promise.all(queues.map((queue) => this.#publishTo(queue, message, options)))
    return queues.filter((_, at) => sent[at])
  }

  async #publishTo(queue: string, message: Outgoing, options: SendOptions): Promise<boolean> {
    const isBorrowed = queue.startsWith(BORROWED)
    const lane = this.#laneTo(queue)
    if (lane === undefined) {
      this.#dropIfOver(queue)
      return false
    }
    try {
      await lane.send([message], isBorrowed ? 'reject' : options.overflow, options.signal)
      return true
    } catch (error) {
      const { code } = error as QueueError
      // What is wrong with the message, or was given up, is no reason to end who listens.
      if (!isBorrowed || (code !== 'ERR_BUS_QUEUE_FULL' && code !== 'EIDRM')) throw error
      // Slow, or gone: then with its queue.
      if (this.#forgetIfGone(queue, error)) this.#dropIfOver(queue)
      return false
    }
  }

  /** One whose owner lives is his: he drops it, or makes it again. */
  #dropIfOver(queue: string): void {
    if (!isAlive(queue.slice(BORROWED.length))) this.#directory.drop(queue)
  }

  async borrow(): Promise<string> {
    this.#check('borrow')
    const name = this.#directory.newBorrowed()
    this.#lane(name)
    return name
  }

  async drop(queue: string): Promise<void> {
    const lane = this.#lanes.get(queue)
    this.#lanes.delete(queue)
    this.#directory.drop(queue)
    await lane?.close()
  }

  close(): Promise<void> {
    this.#closed ??= this.#close()
    return this.#closed
  }

  async #close(): Promise<void> {
    clearInterval(this.#letGo)
    // First, so that nobody sends to them any more.
    for (const queue of this.#lanes.keys()) if (queue.startsWith(BORROWED)) this.#directory.drop(queue)
    const lanes = [...this.#lanes.values(), ...[...this.#foreign.values()].map(({ lane }) => lane)]
    await Promise.all(lanes.map((lane) => lane.close()))
    if (!this.#directory.isThere) this.#directory.sweep()
  }
}
