// One queue of the kernel, as one process uses it: packs on their way in, messages on their way out.
import { cpus } from 'node:os'
import { AbortError, isClosed, outOfRange, QueueError } from '../../../errors.ts'
import { checkSignal, Waiter } from '../../../waiting.ts'
import { encode } from '../../body.ts'
import type { Cancel, Clock } from '../../clock.ts'
import { BORROWED, type Outgoing, type Outlet, type Overflow, type ReceiveOptions } from '../../transport.ts'
import { checkLength, type Files, type Packable, type Packed, Packer, type Sealed, unpack } from './pack.ts'

/** A message of the kernel. */
export interface KernelMessage {
  readonly bytes: Buffer
  readonly priority: number
}

/** A queue of either family; the lowest priority is 0. */
export interface Handle {
  /** The most bytes of a message. */
  readonly size: number
  /** False if there is no room. */
  trySend(bytes: Uint8Array, priority: number): boolean
  send(bytes: Uint8Array, priority: number, signal: AbortSignal): Promise<void>
  tryReceive(): KernelMessage | undefined
  receive(signal: AbortSignal): Promise<KernelMessage>
  /** Whether these have room now. */
  fits(packs: readonly Uint8Array[]): boolean
  /** Whether they would have, if there were nothing else. */
  mayFit(packs: readonly Uint8Array[]): boolean
  /** Whether waiting here holds the process; it does at first. */
  hold(on: boolean): void
  /** Throws EIDRM if it was removed; where that is told by every call, there is no need to look. */
  checkIsThere?(): void
  /** What is in it: messages of the kernel, and their bytes. */
  stats(): { messages: number; bytes: number }
  close(): Promise<void>
}

/** For all who sent with one pack. */
class Ticket {
  readonly promise: Promise<void>
  resolve!: () => void
  reject!: (error: unknown) => void

  constructor() {
    this.promise = new Promise((resolve, reject) => {
      this.resolve = resolve
      this.reject = reject
    })
    // Who asked for it looks at it later, perhaps after it was rejected.
    this.promise.catch(() => {})
  }
}

interface Settling {
  resolve(value?: undefined): void
  reject(error: unknown): void
}

/** A pack that takes messages. */
interface Open {
  readonly priority: number
  readonly packer: Packer
  /** If somebody waits for it. */
  ticket: Ticket | undefined
  /** Messages of which nobody does. */
  posted: number
}

/** Packs that belong together, and have no room yet. */
interface Waiting {
  readonly priority: number
  /** Those that are not sent yet. */
  readonly packs: Sealed[]
  readonly posted: number
  readonly ticket: Settling | undefined
  /** Gives up, unless the first of them is sent. */
  readonly signal: AbortSignal | undefined
}

interface Receiver {
  readonly options: ReceiveOptions
  readonly waiter: Waiter<Packed[]>
}

/** From how many packs that wait for room on who posts is told to wait. */
const PLENTY = 8
/** How many messages are received before the loop gets a turn. */
const TURN = 512
/** Milliseconds; with one processor the other side cannot be at work meanwhile. */
const SOON = cpus().length > 1 ? 0.1 : 0
/** How often that may be in vain before some waits are slept through, and how many of them at most. */
const FAILURES = 4
const SLEEPY = 64
/** Milliseconds in which a receiver whose time was over comes back. */
const SOON_AGAIN = 10
/** Milliseconds without room after which closing gives up what has none. */
const LINGER = 1000

/** Waits awake for what comes in no time; where that was in vain, and again, more and more seldom. */
class Vigil {
  #asleep = 0
  #failures = 0

  /** What `attempt` brings; undefined if that takes longer. */
  async keep<T>(attempt: () => T | undefined): Promise<T | undefined> {
    if (this.#asleep > 0) {
      this.#asleep--
      return attempt()
    }
    for (const end = performance.now() + SOON; ; await new Promise<void>((resolve) => setImmediate(resolve))) {
      const result = attempt()
      if (result !== undefined) this.#failures = 0
      else if (performance.now() < end) continue
      else this.#asleep = Math.floor(Math.min(2 ** (++this.#failures - FAILURES), SLEEPY))
      return result
    }
  }
}

export class Lane implements Outlet {
  readonly #name: string
  readonly #handle: Handle
  readonly #files: Files
  readonly #clock: Clock
  readonly #opens: Open[] = []
  readonly #plain: Open
  #scheduled = false
  readonly #waiting: Waiting[] = []
  #draining: Promise<void> | undefined
  /** Of what was posted. */
  #failure: { error: unknown } | undefined
  #inbox: Packed[] = []
  readonly #receivers: Receiver[] = []
  #pumping: Promise<void> | undefined
  readonly #sending = new Vigil()
  readonly #receiving = new Vigil()
  #holds = true
  /** Ends the wait for a message of the kernel. */
  #nobody = new AbortController()
  #turn = TURN
  #next: Promise<void> | undefined
  /** What is to be received again later. */
  readonly #held = new Map<Packed, Cancel>()
  /** Ends the wait for room. */
  readonly #over = new AbortController()
  #patience: NodeJS.Timeout | undefined
  #closed: Promise<void> | undefined

  constructor(name: string, handle: Handle, files: Files, clock: Clock) {
    this.#name = name
    this.#handle = handle
    this.#files = files
    this.#clock = clock
    this.#plain = this.#openOf(0)
  }

  #check(call: string): void {
    if (this.#closed !== undefined) throw this.#closedError(call)
  }

  #closedError(call: string): QueueError {
    return new QueueError('ERR_MQ_CLOSED', { syscall: call, path: this.#name })
  }

  #openOf(priority: number): Open {
    let open = this.#opens.find((one) => one.priority === priority)
    if (open === undefined) {
      open = { priority, packer: new Packer(this.#handle.size), ticket: undefined, posted: 0 }
      this.#opens.push(open)
    }
    return open
  }

  postBody(body: unknown): boolean {
    this.#check('post')
    const open = this.#plain
    if (!addBody(open.packer, body)) {
      if (open.packer.count > 0) this.#shut(open)
      if (!addBody(open.packer, body)) this.#append(outgoing(body))
    }
    open.posted++
    this.#schedule()
    return this.#waiting.length < PLENTY
  }

  post(message: Outgoing): boolean {
    this.#check('post')
    this.#append(message).posted++
    return this.#waiting.length < PLENTY
  }

  async flush(): Promise<void> {
    this.#shutAll()
    await this.#draining
    const failure = this.#failure
    this.#failure = undefined
    if (failure !== undefined) throw failure.error
  }

  /** Resolves when all of them are in the queue. */
  async send(messages: readonly Outgoing[], overflow: Overflow, signal: AbortSignal | undefined): Promise<void> {
    this.#check('send')
    // One that is wrong, or has no room on the disk, is refused before others are taken.
    const areSure = messages.length === 1 || messages.every((message) => this.checkLength(message))
    if (overflow === 'wait' && signal === undefined && areSure) {
      const tickets = new Set(messages.map((message) => this.#ticketOf(this.#append(message))))
      for (const { promise } of tickets) await promise
      return
    }
    await this.#sendApart(messages, overflow, signal)
  }

  /** As {@link checkLength} of a pack. */
  checkLength(message: Outgoing): boolean {
    return checkLength(message, this.#handle.size)
  }

  #ticketOf(open: Open): Ticket {
    open.ticket ??= new Ticket()
    return open.ticket
  }

  /** To a pack, which goes out when it is full, or at the end of this turn of the loop. */
  #append(message: Packable): Open {
    const open = this.#openOf(message.priority)
    if (!open.packer.add(message, this.#files)) {
      this.#shut(open)
      open.packer.add(message, this.#files)
    }
    this.#schedule()
    return open
  }

  #schedule(): void {
    if (this.#scheduled) return
    this.#scheduled = true
    setImmediate(() => {
      this.#scheduled = false
      this.#shutAll()
    })
  }

  #shutAll(): void {
    for (const open of this.#opens) if (open.packer.count > 0) this.#shut(open)
  }

  #shut(open: Open): void {
    const { priority, packer, ticket, posted } = open
    const pack = packer.seal(this.#clock.now())
    open.ticket = undefined
    open.posted = 0
    let went = true
    try {
      went = this.#waiting.length === 0 && this.#handle.trySend(pack.bytes, priority)
      if (went) ticket?.resolve()
    } catch (error) {
      this.#fail({ ticket, posted, packs: [pack] }, error)
    }
    packer.clear(!went)
    if (!went) this.#enqueue({ priority, packs: [pack], posted, ticket, signal: undefined })
  }

  #fail({ ticket, posted, packs }: Pick<Waiting, 'ticket' | 'posted' | 'packs'>, error: unknown): void {
    ticket?.reject(error)
    if (posted > 0) this.#failure ??= { error }
    this.#removeFiles(packs)
  }

  /** Of packs that were not sent. */
  #removeFiles(packs: readonly Sealed[]): void {
    for (const { files } of packs) for (const name of files) this.#files.remove(name)
  }

  /** In packs of their own: what shares its pack can neither be refused nor taken back. */
  async #sendApart(messages: readonly Outgoing[], overflow: Overflow, signal: AbortSignal | undefined): Promise<void> {
    checkSignal(signal)
    this.#shutAll()
    const groups: { priority: number; packs: Sealed[] }[] = []
    try {
      for (const [priority, own] of grouped(messages, (message) => message.priority)) {
        const packs: Sealed[] = []
        groups.push({ priority, packs })
        this.#pack(own, packs)
      }
      if (overflow === 'reject') this.#takeRoom(groups)
      for (const [at, { priority, packs }] of groups.entries()) {
        // When the first are sent the others follow.
        if (packs.length > 0) await this.#sendWaiting(priority, packs, at === 0 ? signal : undefined)
      }
    } catch (error) {
      for (const { packs } of groups) this.#removeFiles(packs)
      throw error
    }
  }

  /** Sends what has room at once; of several packs only what somebody else was faster with is left, and has to wait. */
  #takeRoom(groups: readonly { readonly priority: number; readonly packs: Sealed[] }[]): void {
    const all = groups.flatMap(({ packs }) => packs.map(({ bytes }) => bytes))
    if (!this.#handle.mayFit(all)) {
      const size = all.reduce((sum, pack) => sum + pack.byteLength, 0)
      throw outOfRange('messages that are sent together', 'what the queue has room for', `${size} bytes`)
    }
    if (this.#waiting.length > 0 || (all.length > 1 && !this.#handle.fits(all))) throw this.#full()
    let isFirst = true
    for (const { priority, packs } of groups) {
      for (let pack = packs[0]; pack !== undefined && this.#handle.trySend(pack.bytes, priority); pack = packs[0]) {
        packs.shift()
        isFirst = false
      }
      if (packs.length === 0) continue
      if (isFirst) throw this.#full()
      return
    }
  }

  #sendWaiting(priority: number, packs: Sealed[], signal: AbortSignal | undefined): Promise<undefined> {
    const ticket: Waiter<undefined> = new Waiter(Number.POSITIVE_INFINITY, signal, (_, reason) => {
      // The first of those that wait is in the hands of the queue, which hears of the signal, too.
      const at = this.#waiting.findIndex((one) => one.ticket === ticket)
      if (at > 0) for (const given of this.#waiting.splice(at, 1)) given.ticket?.reject(reason)
    })
    this.#enqueue({ priority, packs, posted: 0, ticket, signal })
    return ticket.promise
  }

  /** It holds as much as the kernel lets it; when there is room nobody knows. */
  #full(): QueueError {
    return Object.assign(new QueueError('ERR_BUS_QUEUE_FULL', { syscall: 'send', path: this.#name }), {
      retryAfter: 10,
    })
  }

  #pack(messages: readonly Outgoing[], packs: Sealed[]): void {
    const packer = new Packer(this.#handle.size)
    try {
      for (const message of messages) {
        if (packer.add(message, this.#files)) continue
        packs.push(packer.seal(this.#clock.now()))
        packer.clear(true)
        packer.add(message, this.#files)
      }
    } finally {
      // Also when one has failed: the files of those before it go with their packs.
      packs.push(packer.seal(this.#clock.now()))
    }
  }

  /** The highest priority first, but behind what is being sent. */
  #enqueue(entry: Waiting): void {
    const { priority } = entry
    let at = this.#waiting.length
    while (at > 1 && (this.#waiting[at - 1] as Waiting).priority < priority) at--
    this.#waiting.splice(at, 0, entry)
    this.#hold()
    this.#draining ??= this.#drain()
  }

  async #drain(): Promise<void> {
    for (let entry = this.#waiting[0]; entry !== undefined; entry = this.#waiting[0]) {
      const { packs, priority, ticket, signal } = entry
      try {
        let ends = signal === undefined ? this.#over.signal : AbortSignal.any([signal, this.#over.signal])
        for (let pack = packs[0]; pack !== undefined; pack = packs[0]) {
          if (!(await this.#sendSoon(pack.bytes, priority))) await this.#handle.send(pack.bytes, priority, ends)
          packs.shift()
          // When the first is sent the others follow.
          ends = this.#over.signal
          this.#patience?.refresh()
        }
        ticket?.resolve()
      } catch (error) {
        if (this.#over.signal.aborted) {
          this.#giveUp()
          break
        }
        this.#fail(entry, signal?.aborted ? new AbortError(signal.reason) : error)
      }
      this.#waiting.shift()
    }
    this.#draining = undefined
    this.#hold()
  }

  /** Room that comes in no time is waited for awake: the receiver would pay more for waking us than for the message. */
  async #sendSoon(pack: Buffer, priority: number): Promise<boolean> {
    return (await this.#sending.keep(() => this.#handle.trySend(pack, priority) || undefined)) ?? false
  }

  async receive(options: ReceiveOptions): Promise<Packed[]> {
    this.#check('receive')
    checkSignal(options.signal)
    if (this.#turn <= 0) await this.#nextTurn()
    this.#check('receive')
    checkSignal(options.signal)
    if (this.#receivers.length === 0) {
      if (this.#inbox.length > 0) return this.#takeUnpacked(options)
      if (options.deadline <= performance.now()) return this.#take(options)
    }
    const waiter: Waiter<Packed[]> = new Waiter(options.deadline, options.signal, (ended, reason) => {
      const at = this.#receivers.findIndex((one) => one.waiter === ended)
      if (at < 0) return
      this.#receivers.splice(at, 1)
      if (this.#receivers.length === 0) this.#nobody.abort()
      if (reason === 'timeout') ended.resolve([])
      else ended.reject(reason)
    })
    this.#receivers.push({ options, waiter })
    this.#hold()
    this.#pumping ??= this.#pump()
    return waiter.promise
  }

  #hold(): void {
    const holds = this.#waiting.length > 0 || this.#receivers.some(({ options }) => options.background !== true)
    if (holds === this.#holds || (!holds && this.#receivers.length === 0)) return
    this.#holds = holds
    this.#handle.hold(holds)
  }

  #nextTurn(): Promise<void> {
    this.#next ??= new Promise((resolve) => {
      setImmediate(() => {
        this.#next = undefined
        this.#turn = TURN
        resolve()
      })
    })
    return this.#next
  }

  /** What is there, without waiting. */
  #take(options: ReceiveOptions): Packed[] {
    while (this.#inbox.length < options.max) {
      const message = this.#handle.tryReceive()
      if (message === undefined) break
      this.#unpack(message)
    }
    return this.#takeUnpacked(options)
  }

  #takeUnpacked({ max, together }: ReceiveOptions): Packed[] {
    let messages = this.#inbox
    if (messages.length <= max || together) this.#inbox = []
    else messages = messages.splice(0, max)
    this.#turn -= messages.length
    return messages
  }

  #unpack({ bytes, priority }: KernelMessage): void {
    const messages = unpack(bytes, { queue: this.#name, priority }, this.#clock.now(), this.#files)
    this.#inbox = this.#inbox.length === 0 ? messages : this.#inbox.concat(messages)
  }

  /** While somebody waits. */
  async #pump(): Promise<void> {
    let isAsked = true
    while (this.#receivers.length > 0) {
      if (this.#nobody.signal.aborted) this.#nobody = new AbortController()
      isAsked = false
      try {
        const soon = await this.#receiving.keep(() =>
          this.#receivers.length > 0 ? this.#handle.tryReceive() : undefined,
        )
        this.#unpack(soon ?? (await this.#handle.receive(this.#nobody.signal)))
        for (let first = this.#receivers[0]; first !== undefined; first = this.#receivers[0]) {
          // Who is content with what came together comes again, which costs less than to look in vain.
          const messages = first.options.together ? this.#takeUnpacked(first.options) : this.#take(first.options)
          if (messages.length === 0) break
          isAsked = true
          this.#receivers.shift()
          first.waiter.resolve(messages)
        }
      } catch (error) {
        if (this.#nobody.signal.aborted) continue
        for (const { waiter } of this.#receivers.splice(0)) waiter.reject(error)
      }
    }
    this.#pumping = undefined
    // It came when they had gone, who may come again.
    if (!isAsked && this.#inbox.length > 0) setTimeout(() => this.#giveBackUnasked(), SOON_AGAIN)
  }

  #giveBackUnasked(): void {
    const isMine = this.#name.startsWith(BORROWED)
    if (this.#receivers.length === 0 && this.#closed === undefined && !isMine) this.#giveBack([])
  }

  /** To who waits here, else to whoever receives next, anywhere; with all that nobody has asked for here. */
  #giveBack(messages: readonly Packed[]): void {
    const first = this.#receivers[0]
    if (first !== undefined && this.#closed === undefined) {
      this.#inbox.push(...messages)
      this.#receivers.shift()
      first.waiter.resolve(this.#takeUnpacked(first.options))
      if (this.#receivers.length === 0) this.#nobody.abort()
      return
    }
    for (const message of [...messages, ...this.#inbox.splice(0)]) {
      // Damaged it would come back as something else.
      if (message.damage !== undefined) continue
      try {
        this.#append(message).posted++
      } catch (error) {
        this.#failure ??= { error }
      }
    }
  }

  /** It has failed, or was not wanted: to be received again. */
  again(message: Packed, due: number, counted: boolean): void {
    if (counted) message.fail()
    const left = due - this.#clock.now()
    if (left <= 0 || this.#closed !== undefined) {
      this.#giveBack([message])
      return
    }
    const back = () => {
      this.#held.delete(message)
      this.#giveBack([message])
    }
    this.#held.set(message, this.#clock.after(left, back, true))
  }

  /** Whether something has no room. */
  get isWaiting(): boolean {
    return this.#waiting.length > 0
  }

  stats(): { messages: number; bytes: number; held: number } {
    // What was sent or given back in this turn counts.
    this.#shutAll()
    const { messages, bytes } = this.#handle.stats()
    return { messages: messages + this.#inbox.length, bytes, held: this.#held.size }
  }

  close(): Promise<void> {
    this.#closed ??= this.#close()
    return this.#closed
  }

  async #close(): Promise<void> {
    for (const { waiter } of this.#receivers.splice(0)) waiter.reject(this.#closedError('receive'))
    this.#nobody.abort()
    await this.#pumping
    for (const cancel of this.#held.values()) cancel()
    // What was for this process alone is nobody's now.
    if (!this.#name.startsWith(BORROWED)) this.#giveBack([...this.#held.keys()])
    this.#held.clear()
    this.#shutAll()
    this.#patience = setTimeout(() => this.#over.abort(), LINGER)
    await this.#draining
    clearTimeout(this.#patience)
    // Unless somebody has heard of it by `flush()`, or it was said before.
    const { error } = this.#failure ?? {}
    if (error !== undefined && !isClosed(error)) process.emitWarning(error as Error)
    await this.#handle.close()
  }

  /** Those who wait hear it from their promises, the others here, and from {@link flush}. */
  #giveUp(): void {
    let lost = 0
    for (const entry of this.#waiting.splice(0)) {
      lost += entry.posted
      this.#fail(entry, this.#closedError('send'))
    }
    if (lost === 0) return
    const text = `${lost} messages for the queue "${this.#name}" are lost: it was full, and nobody received`
    process.emitWarning(text, { code: 'KERNELMQ_BUS_LOST' })
  }
}

function addBody(packer: Packer, body: unknown): boolean {
  if (typeof body === 'string') return packer.addText(body, 'text')
  if (body instanceof Uint8Array) return packer.addBytes(body)
  const { bytes, format } = encode(body)
  return format === 'bytes' ? packer.addBytes(bytes) : packer.addText(bytes.toString(), format)
}

function outgoing(body: unknown): Packable {
  const { bytes, format } = encode(body)
  return { id: '', key: undefined, priority: 0, body: bytes, format, headers: undefined, expires: 0 }
}

/** In their order, by what they have in common. */
export function grouped<T, K>(items: readonly T[], keyOf: (item: T) => K): Map<K, T[]> {
  const groups = new Map<K, T[]>()
  for (const item of items) {
    const own = groups.get(keyOf(item))
    if (own === undefined) groups.set(keyOf(item), [item])
    else own.push(item)
  }
  return groups
}
