// Messages with a key, of one queue: hashed into partitions, each a queue with a single active consumer. What it has of a
// partition it hands out key by key; only together does it go back.
import { createHash } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Channel, ConsumeMessage } from 'amqplib'
import type { Read } from '../engine/wire.ts'
import { type Held, type Holder, type LineContext, QUIET } from './held.ts'
import { passes, refusalOf } from './link.ts'
import { notesOf, PARTITIONS, partitionName, refused } from './topology.ts'
import { countOf, read } from './wire.ts'

/**
 * How many messages of a partition its active consumer has. RabbitMQ puts what comes back behind what came back before:
 * that keeps their order only as long as whoever comes next takes all of it at once. Never fewer than another version of
 * this has.
 */
const IN_HAND = 32

/** Milliseconds after which what nobody here waits for is another process's. */
const LINGER = 100

/** What is known of a message beside what it says itself. */
interface Note {
  readonly attempts: number
  readonly losses: number
  readonly due: number
}

interface KeyedHeld extends Held {
  readonly line: Partition
  readonly key: string
  /** Somebody has it. */
  isOut: boolean
  /** It is not due yet. */
  isWaiting: boolean
}

interface KeyedContext extends LineContext {
  readonly queue: string
  /** Somebody waits for messages. */
  isWanted(): boolean
  /** There is something to hand out. */
  onReady(): void
  onFailure(error: unknown): void
}

/** Somebody had it before. */
const isBack = (message: ConsumeMessage): boolean => message.fields.redelivered || countOf(message) > 0

/** Which of them a key is in. */
export function partitionOf(queue: string, key: string): string {
  return partitionName(queue, createHash('sha1').update(key).digest().readUInt32BE(0) % PARTITIONS)
}

export class Keyed {
  readonly #context: KeyedContext
  readonly #partitions: readonly Partition[]
  readonly #free = new Set<KeyedHeld>()
  #linger: NodeJS.Timeout | undefined
  #asking: NodeJS.Timeout | undefined

  constructor(context: KeyedContext) {
    this.#context = context
    const free = (held: KeyedHeld) => {
      this.#free.add(held)
      if (context.isWanted()) context.onReady()
    }
    const idle = () => this.rest()
    this.#partitions = Array.from({ length: PARTITIONS }, (_, at) => new Partition(context, at, free, idle))
  }

  get isReady(): boolean {
    return this.#free.size > 0
  }

  get counts(): { ready: number; leased: number; delayed: number; held: number } {
    let [all, leased, delayed] = [0, 0, 0]
    for (const { counts } of this.#partitions) {
      all += counts.all
      leased += counts.out
      delayed += counts.waiting
    }
    const ready = [...this.#free].filter(({ isGone }) => !isGone).length
    return { ready, leased, delayed, held: all - ready - leased - delayed }
  }

  /** Up to so many that no other of their key holds, the oldest first. */
  take(max: number): KeyedHeld[] {
    const taken: KeyedHeld[] = []
    // What nobody wants any more frees its followers.
    while (this.#free.size > 0 && taken.length < max) {
      const offered = [...this.#free].sort((a, b) => a.read.sentAt - b.read.sentAt)
      for (const held of offered) {
        if (taken.length === max) break
        this.#free.delete(held)
        if (held.line.handOut(held)) taken.push(held)
      }
    }
    return taken
  }

  /** Somebody waits. */
  want(): void {
    clearTimeout(this.#linger)
    this.#linger = undefined
    for (const partition of this.#partitions) partition.begin()
    this.#asking ??= setInterval(() => this.#ask(), QUIET).unref()
  }

  /** The first who waits is the active consumer of all partitions, and would remain it. */
  #ask(): void {
    if (!this.#context.isWanted()) {
      clearInterval(this.#asking)
      this.#asking = undefined
    } else if (this.#context.link.isUp && this.#partitions.every(({ counts }) => counts.all === 0)) {
      void this.#context.tell(this.#context.queue, 'idle').catch(() => {})
    }
  }

  /** Leaves half of what it has to do to another process. */
  share(): void {
    const busy = this.#partitions.filter(({ counts }) => counts.all > 0)
    for (const partition of busy.slice(0, busy.length / 2)) partition.leave()
  }

  /** Resolves when all has come that there is for us. */
  async look(): Promise<void> {
    await Promise.all(this.#partitions.map((partition) => partition.look()))
  }

  /** Nobody waits, perhaps. */
  rest(): void {
    if (this.#context.isWanted()) return
    this.#linger ??= setTimeout(() => {
      this.#linger = undefined
      if (this.#context.isWanted()) return
      for (const partition of this.#partitions) partition.rest()
    }, LINGER).unref()
  }

  async close(): Promise<void> {
    clearTimeout(this.#linger)
    clearInterval(this.#asking)
    await Promise.all(this.#partitions.map((partition) => partition.close()))
  }
}

class Partition implements Holder {
  readonly queue: string
  readonly #partition: string
  readonly #name: string
  readonly #context: KeyedContext
  readonly #free: (held: KeyedHeld) => void
  readonly #idle: () => void
  #channel: Channel | undefined
  #beginning: Promise<void> | undefined
  /** In their order. */
  readonly #keys = new Map<string, KeyedHeld[]>()
  readonly #counts = { all: 0, out: 0, waiting: 0 }
  /** Undefined until they are read, which they are when there may be some. */
  #notes: Map<string, Note> | undefined
  #reading: Promise<void> | undefined
  /** What has come meanwhile. */
  #arrived: ConsumeMessage[] = []
  #writing: Promise<unknown> = Promise.resolve()
  /** What went back last, by ourselves: that was no loss. */
  #returned: ReadonlySet<string> = new Set()
  #quiet: NodeJS.Timeout | undefined
  /** Nothing more of it is handed out: it is to be another's. */
  #isLeaving = false
  #closed = false

  constructor(context: KeyedContext, at: number, free: (held: KeyedHeld) => void, idle: () => void) {
    this.queue = context.queue
    this.#partition = partitionName(this.queue, at)
    this.#name = context.topology.nameOf(this.#partition)
    this.#context = context
    this.#free = free
    this.#idle = idle
  }

  get counts(): Readonly<{ all: number; out: number; waiting: number }> {
    return this.#counts
  }

  begin(): void {
    this.#begin().catch((error: unknown) => this.#context.onFailure(error))
  }

  #begin(): Promise<void> {
    if (this.#channel !== undefined || this.#closed || !this.#context.isWanted()) return Promise.resolve()
    this.#beginning ??= this.#consume()
    return this.#beginning
  }

  async #consume(): Promise<void> {
    const { link, topology } = this.#context
    try {
      while (!this.#closed && this.#context.isWanted()) {
        try {
          await link.up('receive', Number.POSITIVE_INFINITY)
          await topology.keys(this.queue)
          const channel = await link.channel('receive', Number.POSITIVE_INFINITY)
          channel.on('close', () => this.#lost(channel))
          if (this.#closed) return void (await channel.close())
          this.#channel = channel
          await channel.prefetch(IN_HAND)
          await channel.consume(this.#name, (message) => {
            if (message !== null) this.#arrive(channel, message)
            // The queue was removed.
            else this.#vanished(channel)
          })
          // It may have gone with the answer.
          if (this.#channel !== channel) continue
          this.#quiet ??= setInterval(() => this.#refresh(), QUIET).unref()
          return
        } catch (error) {
          this.#channel = undefined
          if (this.#closed) return
          if (refusalOf(error) === 404) topology.forget(this.queue)
          if (!passes(error)) throw refused(error, 'receive', this.queue)
          link.check('receive')
          await sleep(LINGER, undefined, { ref: false })
        }
      }
    } finally {
      // At once: who begins to wait a moment after it was found that nobody does begins another time.
      this.#beginning = undefined
    }
  }

  #vanished(channel: Channel): void {
    this.#context.topology.forget(this.queue)
    void channel.close().catch(() => {})
  }

  /** See QUIET. */
  #refresh(): void {
    if (this.#counts.all === 0 && this.#arrived.length === 0) void this.#giveUp()
  }

  /** Resolves when all has come that the server has for us. */
  async look(): Promise<void> {
    const { link } = this.#context
    try {
      await this.#begin()
      await this.#channel?.checkQueue(this.#name)
      await this.#reading
    } catch (error) {
      if (!passes(error)) throw refused(error, 'receive', this.queue)
      link.check('receive')
    }
  }

  /** Nobody here waits: what nobody has goes back, to whoever is next. */
  rest(): void {
    if (this.#counts.all > 0 && this.#counts.out === 0) void this.#giveUp()
  }

  /** What somebody here has is settled first. */
  leave(): void {
    this.#isLeaving = true
    void this.#giveUp()
  }

  /** With its channel all goes back at once, before the next consumer is the active one. */
  async #giveUp(): Promise<void> {
    const channel = this.#channel
    if (channel === undefined || this.#counts.out > 0) return
    this.#lost(channel)
    await channel.close().catch(() => {})
  }

  #lost(channel: Channel): void {
    if (this.#channel !== channel) return
    this.#channel = undefined
    clearInterval(this.#quiet)
    this.#quiet = undefined
    const returned = new Set<string>()
    for (const chain of this.#keys.values()) {
      for (const held of chain) {
        if (!held.isOut) returned.add(held.read.id)
        held.isGone = true
        held.cancel?.()
      }
    }
    this.#returned = returned
    this.#keys.clear()
    Object.assign(this.#counts, { all: 0, out: 0, waiting: 0 })
    this.#notes = undefined
    this.#arrived = []
    this.#isLeaving = false
    this.begin()
  }

  #arrive(channel: Channel, message: ConsumeMessage): void {
    if (this.#channel !== channel) return
    this.#quiet?.refresh()
    if (this.#reading === undefined && !(isBack(message) && this.#notes === undefined)) this.#accept(channel, message)
    else {
      this.#arrived.push(message)
      this.#reading ??= this.#read(channel)
    }
  }

  async #read(channel: Channel): Promise<void> {
    await this.#readNotes(channel)
    // What has come on another channel meanwhile has notes of its own.
    const isOther = this.#channel !== undefined && this.#channel !== channel && this.#arrived.length > 0
    this.#reading = isOther ? this.#read(this.#channel as Channel) : undefined
  }

  async #readNotes(channel: Channel): Promise<void> {
    const notes = await this.#askNotes()
    if (this.#channel !== channel) return
    this.#notes = notes
    for (const message of this.#arrived.splice(0)) this.#accept(channel, message)
  }

  async #askNotes(): Promise<Map<string, Note>> {
    const { link, topology } = this.#context
    for (;;) {
      const channel = await link.channel('receive', Number.POSITIVE_INFINITY).catch(() => undefined)
      // Then all is lost, too.
      if (channel === undefined) return new Map()
      try {
        const message = await channel.get(topology.nameOf(notesOf(this.#partition)))
        if (message === false) return new Map()
        channel.nack(message)
        return new Map(Object.entries(JSON.parse(String(message.content)) as Record<string, Note>))
      } catch (error) {
        if (!passes(error) || refusalOf(error) === 404) return new Map()
      } finally {
        await channel.close().catch(() => {})
      }
    }
  }

  #accept(channel: Channel, message: ConsumeMessage): void {
    const known = read(message)
    // Another of the same id may have been settled since that was written.
    const note = isBack(message) ? this.#notes?.get(known.id) : undefined
    const isLost = countOf(message) > 0 && !this.#returned.has(known.id)
    const losses = note?.losses ?? known.losses + (isLost ? 1 : 0)
    const now = this.#context.clock.now()
    const held = this.#newHeld(channel, message, { ...known, attempts: note?.attempts ?? known.attempts }, losses)
    const chain = this.#keys.get(held.key)
    this.#counts.all++
    if (chain === undefined) this.#keys.set(held.key, [held])
    else chain.push(held)
    // It waits for longer than a queue delays it, and is nobody's before.
    if (known.due > now) void this.#context.again(held, known.due).catch(() => {})
    if (chain === undefined) this.#offer(held, note?.due ?? 0)
  }

  #newHeld(channel: Channel, message: ConsumeMessage, known: Read, losses: number): KeyedHeld {
    const key = known.key ?? ''
    const state = { isGone: false, cancel: undefined, isOut: false, isWaiting: false }
    return { line: this, channel, message, read: known, losses, key, ...state }
  }

  /** It is the first of its key: somebody may have it, when it is due. */
  #offer(held: KeyedHeld, due: number): void {
    const { clock } = this.#context
    const wait = Math.max(due, held.read.due) - clock.now()
    if (wait > 0) {
      held.isWaiting = true
      this.#counts.waiting++
      held.cancel = clock.after(wait, () => {
        this.#letGo(held)
        this.#free(held)
        this.#idle()
      })
    } else this.#free(held)
    this.#idle()
  }

  /** Nobody has it, and nothing is waited for. */
  #letGo(held: KeyedHeld): void {
    if (held.isOut) this.#counts.out--
    if (held.isWaiting) this.#counts.waiting--
    held.isOut = false
    held.isWaiting = false
    held.cancel?.()
    held.cancel = undefined
  }

  /** False if nobody wants it any more. */
  handOut(held: KeyedHeld): boolean {
    if (held.isGone || this.#isLeaving) return false
    const { expires } = held.read
    if (expires > 0 && expires <= this.#context.clock.now()) {
      this.acknowledge([held])
      return false
    }
    held.isOut = true
    this.#counts.out++
    return true
  }

  /** It is out of the way of its followers. */
  #remove(held: KeyedHeld): void {
    const chain = this.#keys.get(held.key) as KeyedHeld[]
    const at = chain.indexOf(held)
    chain.splice(at, 1)
    this.#counts.all--
    this.#letGo(held)
    held.isGone = true
    this.#notes?.delete(held.read.id)
    if (chain.length === 0) this.#keys.delete(held.key)
    else if (at === 0) this.#offerFirst(chain)
    this.#rested()
  }

  /** Perhaps nobody here has any of it now. */
  #rested(): void {
    if (this.#isLeaving) void this.#giveUp()
    this.#idle()
  }

  #offerFirst([first]: readonly KeyedHeld[]): void {
    if (first !== undefined) this.#offer(first, this.#notes?.get(first.read.id)?.due ?? 0)
  }

  acknowledge(all: readonly Held[]): boolean[] {
    return all.map((one) => {
      const held = one as KeyedHeld
      if (held.isGone) return false
      try {
        held.channel.ack(held.message)
      } catch {
        // Its channel has just gone.
        return false
      }
      this.#remove(held)
      return true
    })
  }

  /** The first of its key again, as another: whoever had it has it no more. */
  #replace(held: KeyedHeld, known: Read, losses: number, due: number): void {
    const chain = this.#keys.get(held.key) as KeyedHeld[]
    const next = this.#newHeld(held.channel, held.message, known, losses)
    chain[chain.indexOf(held)] = next
    this.#letGo(held)
    held.isGone = true
    this.#offer(next, due)
    this.#rested()
  }

  /** It stays in hand, and holds its followers, until it is due; what it was is noted for whoever comes after us. */
  async retry(one: Held, due: number, counted: boolean): Promise<boolean> {
    const held = one as KeyedHeld
    if (held.isGone) return false
    const { read: known, losses } = held
    const attempts = known.attempts + (counted ? 1 : 0)
    if (!(await this.#note(held, { attempts, losses, due }))) return false
    this.#replace(held, { ...known, attempts }, losses, due)
    return true
  }

  async giveBack(all: readonly Held[]): Promise<void> {
    const back = async (held: KeyedHeld) => {
      const { read: known, losses } = held
      // That its handler began was noted, as if it was lost over it.
      if (this.#notes?.has(known.id)) {
        await this.#note(held, { attempts: known.attempts, losses, due: 0 }).catch(() => {})
      }
      if (!held.isGone) this.#replace(held, known, losses, 0)
    }
    await Promise.all((all as readonly KeyedHeld[]).map(back))
  }

  limit(one: Held, ms: number): void {
    const held = one as KeyedHeld
    held.cancel?.()
    held.cancel = this.#context.clock.after(ms, () => {
      if (!held.isGone) this.#replace(held, held.read, held.losses + 1, 0)
    })
  }

  /** Of one that was lost before: the next loss is its own. */
  begun(one: Held): Promise<boolean> {
    const { read: known, losses } = one
    return this.#note(one as KeyedHeld, { attempts: known.attempts, losses: losses + 1, due: 0 })
  }

  /** One after the other: the last that is written is the last that was said. */
  async #note(held: KeyedHeld, note: Note): Promise<boolean> {
    if (held.isGone) return false
    this.#notes ??= new Map()
    this.#notes.set(held.read.id, note)
    const write = () => {
      if (held.isGone) return false
      this.#forget()
      return this.#context.note(held, this.#partition, JSON.stringify(Object.fromEntries(this.#notes ?? [])))
    }
    const written = this.#writing.then(write)
    this.#writing = written.catch(() => {})
    return (await written) && !held.isGone
  }

  /** What was noted of messages that never came again: their time was over. */
  #forget(): void {
    if (this.#notes === undefined || this.#notes.size <= 2 * IN_HAND) return
    const here = new Set([...this.#keys.values()].flatMap((chain) => chain.map((held) => held.read.id)))
    for (const id of this.#notes.keys()) if (!here.has(id)) this.#notes.delete(id)
  }

  async close(): Promise<void> {
    this.#closed = true
    const channel = this.#channel
    if (channel === undefined) return
    this.#lost(channel)
    await channel.close().catch(() => {})
  }
}
