// Consuming one queue of RabbitMQ, on a channel of its own: who waits here, and what this process has of it.
import { setImmediate as nextTurn } from 'node:timers/promises'
import type { Channel, ConsumeMessage } from 'amqplib'
import { checkSignal, Waiter } from '../../../waiting.ts'
import type { ReceiveOptions } from '../../transport.ts'
import { type Held, type Holder, type LineContext, QUIET } from './held.ts'
import { Keyed } from './keyed.ts'
import { passes, refusalOf } from './link.ts'
import { refused } from './topology.ts'
import { countOf, read } from './wire.ts'

/** Milliseconds for which the server goes on to send to consumers that are busy. */
export const LINGER = 100

/** How many of those that were given back are remembered: it was no loss. */
const REMEMBERED = 10_000

/** How often, and after how many milliseconds, to look whether what was given back is there again. */
export const LOOKS = 20
export const LOOK_AGAIN = 3

/** How much more the server may send to a consumer. */
interface Credit {
  left: number
  /** Nothing has come for {@link QUIET}, nor was anything settled since: nothing is under way. */
  isQuiet: boolean
}

/** One without a key. */
interface Plain extends Held {
  readonly line: Line
  /** Of a consumer that stays. */
  readonly credit: Credit | undefined
}

interface Receiver {
  readonly options: ReceiveOptions
  readonly waiter: Waiter<Held[]>
}

const NONE = { ready: 0, leased: 0, delayed: 0, held: 0 }

const tagOf = (held: Held | undefined): number => held?.message.fields.deliveryTag ?? Number.POSITIVE_INFINITY

export class Line implements Holder {
  readonly queue: string
  readonly #name: string
  readonly #context: LineContext
  #channel: Promise<Channel> | undefined
  /** What begins and ends consumers, one after the other. */
  #turn: Promise<unknown> = Promise.resolve()
  readonly #held = new Set<Plain>()
  readonly #released = new Set<string>()
  /** What came by the consumer that stays, for whoever asks next. */
  #buffer: Plain[] = []
  readonly #receivers: Receiver[] = []
  /** Of calls that have a consumer of their own. */
  readonly #waiters = new Set<Waiter<void>>()
  readonly #looks = new Set<Waiter<void>>()
  #tag: string | undefined
  /** How much the server sends to the consumer that stays, of what is not settled. */
  #prefetch = 0
  #credit: Credit = { left: 0, isQuiet: false }
  /** What it is to send. */
  #asked = 0
  /** To be given back. */
  #returns: Plain[] = []
  /** They go back as copies, which takes as long as the server takes nothing. */
  readonly #copies = new Map<Plain, Promise<unknown>>()
  #tuning: Promise<void> | undefined
  #quiet: NodeJS.Timeout | undefined
  /** The point of performance.now() at which something came or was settled last, or the consumer was begun. */
  #heard = 0
  #linger: NodeJS.Timeout | undefined
  #serving = false
  readonly #signals = new WeakSet<AbortSignal>()
  #closed: { readonly error: unknown } | undefined
  /** How many calls wait for messages. */
  #users = 0
  /** Those with a key, if there have been some. */
  #keyed: Keyed | undefined
  #finding: Promise<void> | undefined
  #isTurnOfKeys = true

  constructor(queue: string, context: LineContext) {
    this.queue = queue
    this.#name = context.topology.nameOf(queue)
    this.#context = context
  }

  /** What this process has. */
  get counts(): { ready: number; leased: number; delayed: number; held: number } {
    const { ready, leased, delayed, held } = this.#keyed?.counts ?? NONE
    const buffered = this.#buffer.length
    return { ready: ready + buffered, leased: leased + this.#held.size - buffered, delayed, held }
  }

  /** Resolves when what nobody here wants is the server's again, as far as it takes it; undefined if somebody waits. */
  get resting(): Promise<void> | undefined {
    return this.#receivers.length === 0 ? this.#rested() : undefined
  }

  async #rested(): Promise<void> {
    await this.#tuning
    if (this.#copies.size > 0) await this.#context.link.ends(this.#copied())
  }

  async receive(options: ReceiveOptions): Promise<Held[]> {
    checkSignal(options.signal)
    const { hold } = this.#context.link
    if (!options.background) hold.take()
    this.#users++
    this.#keyed?.want()
    try {
      const held = await (options.together ? this.#receiveMore(options) : this.#receiveOnce(options))
      if (options.lease !== Number.POSITIVE_INFINITY) for (const one of held) one.line.limit(one, options.lease)
      return held
    } finally {
      this.#users--
      this.#keyed?.rest()
      if (!options.background) hold.release()
    }
  }

  get isKeyed(): boolean {
    return this.#keyed !== undefined
  }

  /** Looks whether there are messages with a key, once. */
  find(): Promise<void> {
    const { isKeyed } = this.#context
    this.#finding ??= isKeyed(this.queue).then(
      (found) => {
        if (found) this.partition()
      },
      (error: unknown) => {
        this.#finding = undefined
        if (!passes(error) && this.#closed === undefined) throw refused(error, 'receive', this.queue)
      },
    )
    return this.#finding
  }

  /** It may have come to have partitions unheard; of one that has them it is to be heard again who waits for some. */
  findAgain(): void {
    this.#finding = undefined
    if (this.#users > 0 || this.#keyed !== undefined) this.find().catch((error) => this.#fail(error))
  }

  /** There are messages with a key. */
  partition(): void {
    if (this.#closed !== undefined || this.#keyed !== undefined) return
    this.#keyed = new Keyed({
      ...this.#context,
      queue: this.queue,
      isWanted: () => this.#users > 0,
      onReady: () => {
        this.#soon()
        for (const waiter of [...this.#waiters]) waiter.resolve(undefined)
      },
      onFailure: (error) => this.#fail(error),
    })
    if (this.#users > 0) this.#keyed.want()
  }

  /** Another process waits, and has nothing of them. */
  share(): void {
    this.#keyed?.share()
  }

  retry(held: Held, due: number, counted: boolean): Promise<boolean> {
    return this.#context.again(held, due, counted)
  }

  begun(held: Held): boolean {
    return !held.isGone
  }

  limit(held: Held, ms: number): void {
    held.cancel?.()
    held.cancel = this.#context.clock.after(ms, () => this.#reject(held as Plain))
  }

  /** Back to the queue, if it is not gone. */
  #reject(held: Plain): void {
    if (!this.take(held)) return
    try {
      held.channel.nack(held.message)
    } catch {
      // Its channel is about to go, and what is not settled goes back with it.
    }
  }

  /** From now on nobody has it here; false if it was gone. */
  take(held: Plain): boolean {
    if (held.isGone) return false
    held.isGone = true
    held.cancel?.()
    this.#held.delete(held)
    if (held.credit === undefined) return true
    // Now the server may send another.
    held.credit.left++
    this.#hear(held.credit)
    if (this.#receivers.length === 0) this.#rest()
    return true
  }

  /** Together, as far as nothing before them is still in our hands; false for each that is gone. */
  acknowledge(all: readonly Held[]): boolean[] {
    const held = all as readonly Plain[]
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
    for (const waiter of [...this.#waiters, ...this.#looks]) waiter.resolve(undefined)
    this.#tune()
  }

  /** A consumer of the server's, which gets no more than so much that is not settled. */
  async #consume(
    prefetch: number,
    credit: Credit | undefined,
    take: (held?: Plain) => void,
    isWanted = () => true,
  ): Promise<[Channel, string]> {
    return this.#inTurn(async () => {
      const channel = await this.#open()
      if (!isWanted()) throw new Error('nobody waits any more')
      // Before it is there: messages may come with the answer. Not before its turn: the channel may be lost until then.
      if (credit !== undefined) [this.#prefetch, this.#credit] = [prefetch, credit]
      await channel.prefetch(prefetch)
      const { consumerTag } = await channel.consume(this.#name, (message) => {
        // The queue was removed.
        if (message === null) {
          this.#context.topology.forget(this.queue)
          if (credit !== undefined) [this.#tag, this.#prefetch] = [undefined, 0]
          take()
        } else this.#arrive(channel, message, credit, take)
      })
      return [channel, consumerTag]
    })
  }

  /** As soon as the server has answered what was asked before on this channel: what is asked then is written at once. */
  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#turn.then(work)
    this.#turn = done.catch(() => {})
    return done
  }

  #arrive(channel: Channel, message: ConsumeMessage, credit: Credit | undefined, take: (held: Plain) => void): void {
    const known = read(message)
    const count = countOf(message)
    const isReleased = count > 0 && this.#released.has(known.id)
    const losses = known.losses + count - (isReleased ? 1 : 0)
    const { clock } = this.#context
    const held: Plain = {
      line: this,
      channel,
      message,
      read: known,
      losses,
      isGone: false,
      cancel: undefined,
      credit,
    }
    this.#held.add(held)
    if (credit !== undefined) {
      this.#hear(credit)
      if (--credit.left === 0 && this.#receivers.length > 0) this.#tune()
    }
    const now = clock.now()
    if (known.expires > 0 && known.expires <= now) {
      if (this.take(held)) channel.ack(message)
    } else if (known.due > now) void this.#context.again(held, known.due).catch(() => {})
    else take(held)
  }

  /** By a consumer that ends as soon as it has something: nothing comes that nobody asked for. */
  async #receiveOnce(options: ReceiveOptions): Promise<Held[]> {
    const { max, deadline, signal } = options
    const { link } = this.#context
    for (;;) {
      // What came for those who are busy is older.
      if (this.#receivers.length === 0) {
        if (this.#buffer.length > 0 && this.#returns.length === 0) return this.#buffer.splice(0, max)
        if (this.#prefetch > 0 || this.#tuning !== undefined) {
          this.#stop()
          if (!(await this.#isTuned(options)) && performance.now() >= deadline) return []
        }
      }
      this.#check()
      const keyed = this.#takeKeyed(max)
      if (keyed.length === max) return keyed
      const got: Plain[] = []
      let [isQuiet, isSilent, isOver] = [false, false, false]
      let quiet: NodeJS.Timeout | undefined
      const waiter = this.#wait(options)
      let failure: { error: unknown } | undefined
      // It may be given up before it is waited for.
      waiter.promise.catch((error: unknown) => {
        failure = { error }
      })
      try {
        const take = (held?: Plain) => {
          if (held !== undefined) got.push(held)
          waiter.resolve()
        }
        const begun = this.#consume(max - keyed.length, undefined, take, () => !isOver)
        if (keyed.length > 0 || this.#keyed?.isReady) waiter.resolve()
        const end = async () => {
          const [channel, tag] = await begun
          await this.#inTurn(async () => {
            await channel.cancel(tag)
            // In turn, too: whoever asks something of a channel that is being closed asks in vain.
            if (isQuiet) await this.#leave(channel)
          })
        }
        /** What comes until it has ended is nobody's. */
        const abandon = (ending: Promise<void>) => {
          isQuiet = false
          isOver = true
          void ending.then(
            () => this.giveBack(got),
            () => {},
          )
        }
        try {
          await Promise.race([begun, waiter.promise])
          // Whoever does not wait looks all the same, if there is somebody to ask.
          if (link.isUp) isSilent = !(await this.#endOf(Promise.all([begun, this.#look()]), waiter))
          quiet = setTimeout(() => {
            isQuiet = true
            waiter.resolve()
          }, QUIET).unref()
          await waiter.promise
        } catch (error) {
          // What the server says is told below.
          if (failure === undefined) {
            abandon(end())
            throw error
          }
        }
        const ending = end()
        if (isSilent || !link.isUp || !(await link.ends(ending))) abandon(ending)
      } catch (error) {
        waiter.resolve()
        if (!this.#passes(error)) {
          for (const held of keyed) void held.line.giveBack([held])
          throw refused(error, 'receive', this.queue)
        }
        await nextTurn()
      } finally {
        clearTimeout(quiet)
        this.#waiters.delete(waiter)
      }
      const plain = got.splice(0).filter(({ isGone }) => !isGone)
      if (failure !== undefined || this.#closed !== undefined) {
        this.giveBack(plain)
        for (const held of keyed) void held.line.giveBack([held])
      }
      if (failure !== undefined) throw failure.error
      this.#check()
      const more = this.#keyed?.take(max - plain.length - keyed.length) ?? []
      const ours = [...keyed, ...more, ...plain].filter(({ isGone }) => !isGone)
      if (ours.length > 0 || performance.now() >= deadline) return ours
      checkSignal(signal)
    }
  }

  /** @throws what closed it */
  #check(): void {
    this.#context.link.check('receive')
    if (this.#closed !== undefined) throw this.#closed.error
  }

  /** Of a call that has a consumer of its own, up to its end. */
  #wait({ deadline, signal }: ReceiveOptions): Waiter<void> {
    const waiter = new Waiter<void>(deadline, signal, (ended, reason) => {
      if (reason === 'timeout') ended.resolve()
      else ended.reject(reason)
    })
    this.#waiters.add(waiter)
    return waiter
  }

  /** False if it takes longer than is waited for, and the server says nothing. */
  async #endOf(work: Promise<unknown>, waiter: Waiter<void>): Promise<boolean> {
    await Promise.race([work, waiter.promise])
    return this.#context.link.ends(work)
  }

  async #isTuned(options: ReceiveOptions): Promise<boolean> {
    const waiter = this.#wait(options)
    try {
      return await this.#endOf(this.#tune(), waiter)
    } finally {
      waiter.resolve()
      this.#waiters.delete(waiter)
    }
  }

  /** The channel or the queue is gone, and comes back. */
  #passes(error: unknown): boolean {
    if (refusalOf(error) === 404) this.#context.topology.forget(this.queue)
    return passes(error)
  }

  /** Resolves when all with a key has come that there is for us. */
  async #look(): Promise<void> {
    // It gives up with its channel.
    const looked = new Waiter<void>(Number.POSITIVE_INFINITY, undefined, () => {})
    this.#looks.add(looked)
    const look = async () => {
      await this.find()
      await this.#keyed?.look()
    }
    look().then(
      () => looked.resolve(),
      (error: unknown) => looked.reject(error),
    )
    try {
      await looked.promise
    } finally {
      this.#looks.delete(looked)
    }
  }

  /** Every second time those with a key come first. */
  #takeKeyed(max: number): Held[] {
    if (this.#keyed?.isReady !== true) return []
    this.#isTurnOfKeys = !this.#isTurnOfKeys
    return this.#isTurnOfKeys ? this.#keyed.take(max) : []
  }

  /** By the consumer that stays, for those who will be back. */
  async #receiveMore(options: ReceiveOptions): Promise<Held[]> {
    const waiting = this.#receivers.reduce((sum, receiver) => sum + receiver.options.max, 0)
    this.#asked = Math.max(this.#asked, this.#standing() + waiting + options.max)
    this.#stay()
    this.#listen(options.signal)
    if (this.#hasSome && this.#returns.length === 0 && this.#receivers.length === 0) {
      const held = [...(this.#keyed?.take(options.max) ?? []), ...this.#buffer]
      this.#buffer = []
      this.#rest()
      if (held.length > 0) return held
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

  get #hasSome(): boolean {
    return this.#buffer.length > 0 || this.#keyed?.isReady === true
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
    for (const held of this.#held) if (held.credit !== undefined && !this.#copies.has(held)) count++
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
      const isFull = this.#prefetch > 0 && this.#buffer.length === 0 && this.#standing() >= this.#prefetch
      if (this.#receivers.length === 0 && !isFull) this.#stop()
    }, LINGER).unref()
  }

  #stop(): void {
    this.#stay()
    this.#asked = 0
    this.#tune()
  }

  /** Has the consumer that stays be as it is to be. */
  #tune(): Promise<void> {
    this.#tuning ??= this.#tuneAll()
    return this.#tuning
  }

  get #isAskedFor(): boolean {
    return this.#closed === undefined && this.#asked > 0 && (this.#receivers.length > 0 || this.#linger !== undefined)
  }

  /**
   * It is to get more only when all that it may get has come: what the server is about to hand out to a consumer that is
   * cancelled it counts as handed out once more, and so as lost.
   */
  get #wanted(): number {
    if (!this.#isAskedFor) return 0
    const { left, isQuiet } = this.#credit
    return this.#prefetch === 0 || left === 0 || isQuiet ? Math.max(this.#asked, this.#prefetch) : this.#prefetch
  }

  /** What was sent to it, if anything, was lost on the way. */
  get #isStale(): boolean {
    return this.#prefetch > 0 && this.#credit.isQuiet && this.#standing() === 0
  }

  /** What nobody here wants is to go back also when its consumer has gone by itself. */
  get #isDue(): boolean {
    const wanted = this.#wanted
    const hasUnwanted = this.#returns.length > 0 || (wanted === 0 && this.#buffer.length > 0)
    return hasUnwanted || wanted !== this.#prefetch || this.#isStale
  }

  async #tuneAll(): Promise<void> {
    // Its end is told where it has looked last: who asks a moment later would be told that it is under way.
    await undefined
    for (;;) {
      try {
        if (this.#isDue) {
          if (!(await this.#inTurn(() => this.#end()))) continue
          // First what was there before.
          if (this.#returns.length > 0 || this.#wanted === 0) await this.#return()
          const wanted = this.#wanted
          if (wanted > 0) await this.#begin(wanted)
        } else {
          this.#serve()
          // Only now: those without a key do not wait for it.
          if (this.#users > 0 && this.#keyed === undefined) this.find().catch((error) => this.#fail(error))
          this.#tuning = undefined
          return
        }
      } catch (error) {
        if (!this.#passes(error)) {
          this.#fail(refused(error, 'receive', this.queue))
          this.#tuning = undefined
          return
        }
        // A channel refuses at once from the moment on at which it is being closed, which takes more than this turn.
        await nextTurn()
      }
    }
  }

  #fail(error: unknown): void {
    this.#asked = 0
    for (const { waiter } of this.#receivers.splice(0)) waiter.reject(error)
  }

  async #begin(wanted: number): Promise<void> {
    const credit = { left: wanted, isQuiet: false }
    let isNew = true
    try {
      const [, tag] = await this.#consume(wanted, credit, (held) => {
        if (held === undefined) isNew = false
        else this.#buffer.push(held)
        if (held === undefined) this.#tune()
        else this.#soon()
      })
      if (isNew) this.#tag = tag
      this.#hear(credit)
      if (this.#quiet === undefined) this.#watch(QUIET)
    } catch (error) {
      this.#prefetch = 0
      throw error
    }
  }

  #hear(credit: Credit): void {
    credit.isQuiet = false
    this.#heard = performance.now()
  }

  #watch(ms: number): void {
    this.#quiet = setTimeout(() => void this.#refresh(), ms).unref()
  }

  async #refresh(): Promise<void> {
    // What came while the loop was held is read in this turn.
    await nextTurn()
    this.#quiet = undefined
    if (this.#prefetch === 0 || this.#closed !== undefined) return
    const left = this.#heard + QUIET - performance.now()
    this.#watch(left > 0 ? left : QUIET)
    if (left > 0 || this.#receivers.length === 0) return
    this.#credit.isQuiet = true
    this.#tune()
  }

  /** Unless somebody has something of it. */
  async #leave(channel: Channel | undefined): Promise<void> {
    if (this.#held.size === 0) await channel?.close()
  }

  /** False if it is to stay as it is after all: something was acknowledged, and so more may be under way. */
  async #end(): Promise<boolean> {
    const channel = await this.#channel
    if (!this.#isDue) return false
    const [tag, isStale] = [this.#tag, this.#isStale]
    this.#tag = undefined
    this.#prefetch = 0
    if (tag !== undefined) await channel?.cancel(tag)
    if (isStale) await this.#leave(channel)
    return true
  }

  /** What comes in one go is handed out together, and with more, as long as that comes. */
  #soon(): void {
    if (this.#serving) return
    this.#serving = true
    this.#gather(1)
  }

  #gather(before: number): void {
    setImmediate(() => {
      const { length } = this.#buffer
      if (length > before && length < (this.#receivers[0]?.options.max ?? 0)) this.#gather(length)
      else {
        this.#serving = false
        this.#serve()
      }
    })
  }

  #serve(): void {
    if (this.#returns.length > 0) return
    while (this.#receivers.length > 0 && this.#hasSome) {
      const { waiter, options } = this.#receivers[0] as Receiver
      const keyed = this.#keyed?.take(options.max) ?? []
      const plain = this.#buffer.splice(0, this.#receivers.length === 1 ? this.#buffer.length : options.max)
      if (keyed.length + plain.length === 0) continue
      this.#receivers.shift()
      waiter.resolve(keyed.length === 0 ? plain : [...keyed, ...plain])
    }
    if (this.#receivers.length === 0 && this.#asked > 0) this.#rest()
  }

  /** They go back uncounted, to their old place if they never came back before. */
  async giveBack(held: readonly Held[]): Promise<void> {
    if (held.length === 0) return
    this.#returns.push(...(held as readonly Plain[]))
    if (this.#receivers.length === 0) this.#stop()
    await this.#tune()
    await this.#copied()
  }

  #copied(): Promise<unknown> {
    return Promise.all(this.#copies.values())
  }

  async #return(): Promise<void> {
    const isHere = (held: Plain) => !held.isGone && !this.#copies.has(held)
    const all = [...this.#returns.splice(0), ...this.#buffer.splice(0)].filter(isHere)
    if (all.length === 0) return
    all.sort((a, b) => a.message.fields.deliveryTag - b.message.fields.deliveryTag)
    const again: Plain[] = []
    const back: Plain[] = []
    // The server counts how often it came back, not why: more than once it would look as if consumers were lost over it.
    for (const held of all) (countOf(held.message) > 0 ? again : back).push(held)
    const channel = await this.#open()
    const before = back.length === 0 ? 0 : (await channel.checkQueue(this.#name)).messageCount
    for (const held of back) {
      if (!this.take(held)) continue
      this.#remember(held.read.id)
      held.channel.nack(held.message)
    }
    // Not waited for: a server that is short of room takes none until others have consumed what it has.
    for (const held of again) this.#copy(held)
    // Whoever asks next how many there are is told of these, too.
    for (let look = 0; back.length > 0 && look < LOOKS; look++) {
      if ((await channel.checkQueue(this.#name)).messageCount >= before + back.length) break
      await new Promise((resolve) => setTimeout(resolve, LOOK_AGAIN))
    }
  }

  #copy(held: Plain): void {
    // One of those times it was given back, perhaps by somebody else.
    held.losses = held.read.losses + countOf(held.message) - 1
    const copied = this.#context.again(held, 0).catch(() => this.#reject(held))
    this.#copies.set(
      held,
      copied.finally(() => this.#copies.delete(held)),
    )
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
    this.#closed = { error }
    this.#stay()
    clearTimeout(this.#quiet)
    for (const { waiter } of this.#receivers.splice(0)) waiter.reject(error)
    for (const waiter of [...this.#waiters]) waiter.reject(error)
    this.#returns.push(...[...this.#held].filter((held) => !this.#buffer.includes(held)))
    await this.#tune()
    await this.#copied()
    const channel = await this.#channel?.catch(() => undefined)
    await Promise.all([channel?.close().catch(() => {}), this.#keyed?.close()])
  }
}
