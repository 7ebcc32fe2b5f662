// Consuming one queue of RabbitMQ, on a channel of its own: who waits here, and what this process has of it.
import type { Channel, ConsumeMessage } from 'amqplib'
import type { QueueError } from '../../../errors.ts'
import { checkSignal, Waiter } from '../../../waiting.ts'
import type { Cancel, Clock } from '../../clock.ts'
import type { ReceiveOptions } from '../../transport.ts'
import type { Read } from '../engine/wire.ts'
import { isLoss, type Link, refusalOf } from './link.ts'
import { refused, type Topology } from './topology.ts'
import { countOf, read } from './wire.ts'

/** Milliseconds for which the server goes on to send to consumers that are busy. */
const LINGER = 100

/**
 * Milliseconds without a message after which a consumer begins anew, on a new channel: RabbitMQ 3.10 does not always say
 * that a queue is gone, and what it sends to the first consumer of one that was just made again may get lost on the way,
 * until the channel is closed.
 */
const QUIET = 5000

/** How many of those that were given back are remembered: it was no loss. */
const REMEMBERED = 10_000

/** How often, and after how many milliseconds, to look whether what was given back is there again. */
export const LOOKS = 20
export const LOOK_AGAIN = 3

export interface Held {
  readonly line: Line
  readonly channel: Channel
  readonly message: ConsumeMessage
  readonly read: Read
  /** How often the queue handed it out before, not counting what we gave back ourselves. */
  readonly losses: number
  /** It is the queue's again. */
  isGone: boolean
  /** Of a lease with a limit. */
  cancel: Cancel | undefined
  /** It came by the consumer that stays. */
  readonly isStanding: boolean
}

interface Receiver {
  readonly options: ReceiveOptions
  readonly waiter: Waiter<Held[]>
}

export interface LineContext {
  readonly link: Link
  readonly topology: Topology
  readonly clock: Clock
  /** Sends it again, as it was, and acknowledges it; from `due` on. */
  again(held: Held, due: number): Promise<unknown>
}

const tagOf = (held: Held | undefined): number => held?.message.fields.deliveryTag ?? Number.POSITIVE_INFINITY

export class Line {
  readonly queue: string
  readonly #name: string
  readonly #context: LineContext
  #channel: Promise<Channel> | undefined
  /** Calls that begin a consumer, one after the other: how much it gets is said before. */
  #begun: Promise<unknown> = Promise.resolve()
  readonly #held = new Set<Held>()
  readonly #released = new Set<string>()
  /** What came by the consumer that stays, for whoever asks next. */
  #buffer: Held[] = []
  readonly #receivers: Receiver[] = []
  /** Of calls that have a consumer of their own. */
  readonly #waiters = new Set<Waiter<unknown>>()
  #tag: string | undefined
  /** How much the server sends to the consumer that stays, of what is not settled. */
  #prefetch = 0
  /** What it is to send. */
  #asked = 0
  /** To be given back. */
  #returns: Held[] = []
  #tuning: Promise<void> | undefined
  #quiet: NodeJS.Timeout | undefined
  #isStale = false
  #linger: NodeJS.Timeout | undefined
  #serving = false
  readonly #signals = new WeakSet<AbortSignal>()
  #closed = false

  constructor(queue: string, context: LineContext) {
    this.queue = queue
    this.#name = context.topology.nameOf(queue)
    this.#context = context
  }

  /** In the hands of consumers. */
  get leased(): number {
    return this.#held.size - this.#buffer.length
  }

  get waiting(): number {
    return this.#buffer.length
  }

  /** Resolves when what nobody here wants is the server's again; undefined if there is nothing to wait for. */
  get resting(): Promise<void> | undefined {
    return this.#receivers.length === 0 ? this.#tuning : undefined
  }

  async receive(options: ReceiveOptions): Promise<Held[]> {
    checkSignal(options.signal)
    const { hold } = this.#context.link
    if (!options.background) hold.take()
    try {
      const held = await (options.together ? this.#receiveMore(options) : this.#receiveOnce(options))
      if (options.lease !== Number.POSITIVE_INFINITY) for (const one of held) this.limit(one, options.lease)
      return held
    } finally {
      if (!options.background) hold.release()
    }
  }

  /** It is taken away after so many milliseconds. */
  limit(held: Held, ms: number): void {
    held.cancel?.()
    held.cancel = this.#context.clock.after(ms, () => {
      if (this.take(held)) held.channel.nack(held.message)
    })
  }

  /** From now on nobody has it here; false if it was gone. */
  take(held: Held): boolean {
    if (held.isGone) return false
    held.isGone = true
    held.cancel?.()
    this.#held.delete(held)
    // Now the server may send another.
    if (held.isStanding && this.#receivers.length === 0) this.#rest()
    return true
  }

  /** Together, as far as nothing before them is still in our hands; false for each that is gone. */
  acknowledge(held: readonly Held[]): boolean[] {
    const taken = held.map((one) => this.take(one))
    const ours = held.filter((_, at) => taken[at])
    if (ours.length === 0) return taken
    const first = tagOf(this.#held.values().next().value as Held | undefined)
    let last: Held | undefined
    try {
      for (const one of ours) {
        if (tagOf(one) > first) one.channel.ack(one.message)
        else if (last === undefined || tagOf(one) > tagOf(last)) last = one
      }
      if (last !== undefined) last.channel.ack(last.message, true)
      return taken
    } catch {
      // Their channel has just gone.
      return held.map(() => false)
    }
  }

  #open(): Promise<Channel> {
    if (this.#channel === undefined) {
      const opening = this.#openChannel()
      this.#channel = opening
      opening.catch(() => {
        if (this.#channel === opening) this.#channel = undefined
      })
    }
    return this.#channel
  }

  async #openChannel(): Promise<Channel> {
    const { link, topology } = this.#context
    await link.up('receive', Number.POSITIVE_INFINITY)
    await topology.queue(this.queue)
    const channel = await link.channel('receive', Number.POSITIVE_INFINITY)
    channel.on('error', (error) => {
      if (refusalOf(error) === 404) topology.forget(this.queue)
    })
    channel.on('close', () => this.#lost(channel))
    return channel
  }

  /** Everything that was not settled is the queue's again. */
  #lost(channel: Channel): void {
    for (const held of this.#held) {
      if (held.channel !== channel) continue
      held.isGone = true
      held.cancel?.()
      this.#held.delete(held)
    }
    this.#buffer = this.#buffer.filter(({ isGone }) => !isGone)
    this.#returns = this.#returns.filter(({ isGone }) => !isGone)
    this.#channel = undefined
    this.#tag = undefined
    this.#prefetch = 0
    for (const waiter of [...this.#waiters]) waiter.resolve(undefined)
    this.#tune()
  }

  /** A consumer of the server's, which gets no more than so much that is not settled. */
  async #consume(prefetch: number, isStanding: boolean, take: (held?: Held) => void): Promise<[Channel, string]> {
    const channel = await this.#open()
    const begin = async (): Promise<[Channel, string]> => {
      await channel.prefetch(prefetch)
      const { consumerTag } = await channel.consume(this.#name, (message) => {
        // The queue was removed.
        if (message === null) {
          this.#context.topology.forget(this.queue)
          if (isStanding) [this.#tag, this.#prefetch] = [undefined, 0]
          take()
        } else this.#arrive(channel, message, isStanding, take)
      })
      return [channel, consumerTag]
    }
    const begun = this.#begun.then(begin)
    this.#begun = begun.catch(() => {})
    return begun
  }

  #arrive(channel: Channel, message: ConsumeMessage, isStanding: boolean, take: (held: Held) => void): void {
    const known = read(message)
    const count = countOf(message)
    const isReleased = count > 0 && this.#released.has(known.id)
    const losses = known.losses + count - (isReleased ? 1 : 0)
    const { clock } = this.#context
    const held: Held = {
      line: this,
      channel,
      message,
      read: known,
      losses,
      isGone: false,
      cancel: undefined,
      isStanding,
    }
    this.#held.add(held)
    this.#quiet?.refresh()
    const now = clock.now()
    if (known.expires > 0 && known.expires <= now) {
      if (this.take(held)) channel.ack(message)
    } else if (known.due > now) void this.#context.again(held, known.due).catch(() => {})
    else take(held)
  }

  /** By a consumer that ends as soon as it has something: nothing comes that nobody asked for. */
  async #receiveOnce({ max, deadline, signal }: ReceiveOptions): Promise<Held[]> {
    const { link } = this.#context
    for (;;) {
      link.check('receive')
      // What came for those who are busy is older.
      if (this.#receivers.length === 0) {
        if (this.#buffer.length > 0 && this.#returns.length === 0) return this.#buffer.splice(0, max)
        if (this.#prefetch > 0 || this.#tuning !== undefined) {
          this.#stop()
          await this.#tune()
        }
      }
      const got: Held[] = []
      let isQuiet = false
      const waiter = new Waiter<void>(Math.min(deadline, performance.now() + QUIET), signal, (ended, reason) => {
        isQuiet = reason === 'timeout' && performance.now() < deadline
        if (reason === 'timeout') ended.resolve()
        else ended.reject(reason)
      })
      let failure: { error: unknown } | undefined
      // It may be given up before it is waited for.
      waiter.promise.catch((error: unknown) => {
        failure = { error }
      })
      this.#waiters.add(waiter as Waiter<unknown>)
      try {
        const take = (held?: Held) => {
          if (held !== undefined) got.push(held)
          waiter.resolve()
        }
        const begun = this.#consume(max, false, take)
        const end = async () => {
          const [channel, tag] = await begun
          await channel.cancel(tag)
          if (isQuiet) await this.#leave(channel)
        }
        try {
          await Promise.race([begun, waiter.promise])
          // Whoever does not wait looks all the same, if there is somebody to ask.
          if (link.isUp) await begun
          await waiter.promise
        } catch (error) {
          // What the server says is told below.
          if (failure === undefined) throw error
        }
        if (link.isUp) await end()
        else {
          void end().then(
            () => this.giveBack(got),
            () => {},
          )
          if (failure !== undefined) throw failure.error
          if (performance.now() >= deadline) return []
        }
      } catch (error) {
        waiter.resolve()
        if (!this.#passes(error)) throw refused(error, 'receive', this.queue)
      } finally {
        this.#waiters.delete(waiter as Waiter<unknown>)
      }
      const ours = got.filter(({ isGone }) => !isGone)
      if (failure !== undefined) {
        this.giveBack(ours)
        throw failure.error
      }
      if (this.#closed) this.giveBack(ours)
      link.check('receive')
      if (ours.length > 0 || performance.now() >= deadline) return ours
      checkSignal(signal)
    }
  }

  /** The channel or the queue is gone, and comes back. */
  #passes(error: unknown): boolean {
    const code = refusalOf(error)
    if (code === 404) this.#context.topology.forget(this.queue)
    // Whoever waits for messages waits for the server, too.
    return code === 404 || isLoss(error) || (error as QueueError).code === 'ERR_BUS_CONNECTION'
  }

  /** By the consumer that stays, for those who will be back. */
  async #receiveMore(options: ReceiveOptions): Promise<Held[]> {
    this.#asked = Math.max(this.#asked, this.#standing() + options.max)
    this.#stay()
    this.#listen(options.signal)
    if (this.#buffer.length > 0 && this.#returns.length === 0 && this.#receivers.length === 0) {
      const held = this.#buffer
      this.#buffer = []
      this.#rest()
      return held
    }
    if (performance.now() >= options.deadline) {
      this.#rest()
      return []
    }
    const waiter = new Waiter<Held[]>(options.deadline, options.signal, (ended, reason) => {
      const at = this.#receivers.findIndex((receiver) => receiver.waiter === ended)
      if (at >= 0) this.#receivers.splice(at, 1)
      if (reason === 'timeout') ended.resolve([])
      else ended.reject(reason)
      if (this.#receivers.length === 0) this.#stop()
    })
    this.#receivers.push({ options, waiter })
    this.#tune()
    return waiter.promise
  }

  /** Whoever is busy does not wait, and may be closed all the same. */
  #listen(signal: AbortSignal | undefined): void {
    if (signal === undefined || this.#signals.has(signal)) return
    this.#signals.add(signal)
    const stop = () => {
      if (this.#receivers.length === 0) this.#stop()
    }
    signal.addEventListener('abort', stop, { once: true })
  }

  /** Of those that are not settled, how many came by the consumer that stays. */
  #standing(): number {
    let count = 0
    for (const { isStanding } of this.#held) if (isStanding) count++
    return count
  }

  #stay(): void {
    clearTimeout(this.#linger)
    this.#linger = undefined
  }

  /** Nobody waits: those who are busy are given some time, before the server sends to others. */
  #rest(): void {
    if (this.#linger !== undefined) {
      this.#linger.refresh()
      return
    }
    this.#linger = setTimeout(() => {
      this.#linger = undefined
      // As long as all it may send is in our hands it sends nothing.
      if (this.#receivers.length === 0 && (this.#buffer.length > 0 || this.#standing() < this.#prefetch)) this.#stop()
    }, LINGER).unref()
  }

  #stop(): void {
    this.#stay()
    this.#asked = 0
    this.#tune()
  }

  /** Has the consumer that stays be as it is to be. */
  #tune(): Promise<void> {
    this.#tuning ??= this.#tuneAll().finally(() => {
      this.#tuning = undefined
    })
    return this.#tuning
  }

  get #isAskedFor(): boolean {
    return !this.#closed && this.#asked > 0 && (this.#receivers.length > 0 || this.#linger !== undefined)
  }

  async #tuneAll(): Promise<void> {
    for (;;) {
      try {
        const wanted = this.#isAskedFor ? Math.max(this.#asked, this.#prefetch) : 0
        if (this.#returns.length > 0 || wanted !== this.#prefetch || this.#isStale) {
          const isStale = this.#isStale
          this.#isStale = false
          await this.#end()
          if (isStale) await this.#leave(await this.#channel)
          // First what was there before.
          if (this.#returns.length > 0 || wanted === 0) await this.#return()
          if (wanted > 0 && this.#isAskedFor) await this.#begin(wanted)
        } else {
          this.#serve()
          return
        }
      } catch (error) {
        if (!this.#passes(error)) {
          this.#fail(refused(error, 'receive', this.queue))
          return
        }
      }
    }
  }

  #fail(error: unknown): void {
    this.#asked = 0
    for (const { waiter } of this.#receivers.splice(0)) waiter.reject(error)
  }

  async #begin(wanted: number): Promise<void> {
    // Before it is there: messages may come with the answer.
    this.#prefetch = wanted
    let isNew = true
    try {
      const [, tag] = await this.#consume(wanted, true, (held) => {
        if (held === undefined) isNew = false
        else this.#buffer.push(held)
        if (held === undefined) this.#tune()
        else this.#soon()
      })
      if (isNew) this.#tag = tag
      this.#quiet ??= setInterval(() => this.#refresh(), QUIET).unref()
    } catch (error) {
      this.#prefetch = 0
      throw error
    }
  }

  #refresh(): void {
    if (this.#prefetch === 0) {
      clearInterval(this.#quiet)
      this.#quiet = undefined
    } else if (this.#receivers.length > 0 && this.#standing() === 0) {
      this.#isStale = true
      this.#tune()
    }
  }

  /** Unless somebody has something of it. */
  async #leave(channel: Channel | undefined): Promise<void> {
    if (this.#held.size === 0) await channel?.close()
  }

  async #end(): Promise<void> {
    const tag = this.#tag
    this.#tag = undefined
    this.#prefetch = 0
    if (tag !== undefined) await (await this.#channel)?.cancel(tag)
  }

  /** What comes in one go is handed out together. */
  #soon(): void {
    if (this.#serving) return
    this.#serving = true
    setImmediate(() => {
      this.#serving = false
      this.#serve()
    })
  }

  #serve(): void {
    if (this.#returns.length > 0) return
    while (this.#receivers.length > 0 && this.#buffer.length > 0) {
      const { waiter, options } = this.#receivers.shift() as Receiver
      const held = this.#buffer.splice(0, this.#receivers.length === 0 ? this.#buffer.length : options.max)
      waiter.resolve(held)
    }
    if (this.#receivers.length === 0 && this.#prefetch > 0) this.#rest()
  }

  /** They go back uncounted, to their old place if they never came back before. */
  async giveBack(held: readonly Held[]): Promise<void> {
    this.#returns.push(...held)
    if (this.#receivers.length === 0) this.#stop()
    await this.#tune()
  }

  async #return(): Promise<void> {
    const all = [...this.#returns.splice(0), ...this.#buffer.splice(0)].filter(({ isGone }) => !isGone)
    if (all.length === 0) return
    all.sort((a, b) => a.message.fields.deliveryTag - b.message.fields.deliveryTag)
    const again: Held[] = []
    const back: Held[] = []
    // The server counts how often it came back, not why: more than once it would look as if consumers were lost over it.
    for (const held of all) (countOf(held.message) > 0 ? again : back).push(held)
    const channel = await this.#open()
    const before = back.length === 0 ? 0 : (await channel.checkQueue(this.#name)).messageCount
    for (const held of back) {
      if (!this.take(held)) continue
      this.#remember(held.read.id)
      held.channel.nack(held.message)
    }
    const send = (held: Held) =>
      this.#context.again(held, 0).catch(() => {
        if (this.take(held)) held.channel.nack(held.message)
      })
    await Promise.all(again.map(send))
    // Whoever asks next how many there are is told of these, too.
    for (let look = 0; back.length > 0 && look < LOOKS; look++) {
      if ((await channel.checkQueue(this.#name)).messageCount >= before + back.length) break
      await new Promise((resolve) => setTimeout(resolve, LOOK_AGAIN))
    }
  }

  #remember(id: string): void {
    this.#released.add(id)
    if (this.#released.size <= REMEMBERED) return
    for (const oldest of this.#released) {
      this.#released.delete(oldest)
      break
    }
  }

  /** Gives back all that is not settled; who waits is told. */
  async close(error: unknown): Promise<void> {
    this.#closed = true
    this.#stay()
    clearInterval(this.#quiet)
    for (const { waiter } of this.#receivers.splice(0)) waiter.reject(error)
    for (const waiter of [...this.#waiters]) waiter.reject(error)
    await this.giveBack([...this.#held].filter((held) => !this.#buffer.includes(held)))
    const channel = await this.#channel?.catch(() => undefined)
    await channel?.close().catch(() => {})
  }
}
