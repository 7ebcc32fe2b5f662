// A transport on the tables of a store: transactions, who waits in this process, bells.
import { randomUUID } from 'node:crypto'
import { checkInteger, QueueError } from '../../../errors.ts'
import { checkSignal, Waiter } from '../../../waiting.ts'
import type { Cancel, Clock } from '../../clock.ts'
import { isBound } from '../../topic-pattern.ts'
import {
  type Addressed,
  type Binding,
  BORROWED,
  type Bounds,
  BUS_BATCH,
  type Capabilities,
  type Delivery,
  type Keep,
  type Outgoing,
  type Page,
  type PastPage,
  type PutOptions,
  type Quota,
  type Receipt,
  type ReceiveOptions,
  type SendOptions,
  type Settlement,
  type Transport,
  type TransportStats,
  type Usage,
} from '../../transport.ts'
import { explainDamage, isBusy } from './sqlite.ts'
import { type Bell, type Claimed, MESSAGES, ROOM, type Store, type Token } from './store.ts'

export const engineCapabilities: Capabilities = {
  persist: 'disk',
  delay: 'native',
  priority: 'native',
  dedup: 'native',
  order: 'native',
  lease: 'alive',
  deadLetter: 'native',
  transaction: 'native',
  browse: 'native',
  fanout: 'native',
  replay: 'native',
  start: 'native',
  quotas: 'native',
  bounds: 'native',
  records: 'native',
  maxBytes: 2 ** 30,
}

/** What a store has around it: other processes, files, a disk that may be full. */
export interface Surroundings {
  /** Tells another process that there is something for it in a queue. */
  ring(owner: number, queue: number): void
  /** Holds the event loop, while somebody waits. */
  hold(on: boolean): void
  /** Bodies beside the store; those too large for it. */
  writeBody?(owner: number, body: Uint8Array, disk: boolean): Promise<string>
  readBody?(name: string): Promise<Uint8Array>
  removeBodies?(names: readonly string[]): void
  readonly large: number
  /** Resolves when everything that was committed before is on the disk. */
  sync(): Promise<void>
  /** A transaction was committed. */
  committed(): void
  /** Whether there is room on the disk for more messages. */
  hasRoom(): boolean
  /** Whether that went wrong because the disk is full. */
  isFull(error: unknown): boolean
  /** Makes room on a full disk for what makes room; false if there is none. */
  makeRoom(): boolean
  /** Who is in the way. */
  writer(): number | undefined
  close(): Promise<void>
}

interface Receiver {
  readonly options: ReceiveOptions
  readonly waiter: Waiter<Delivery[]>
  /** The store was asked for him, and had nothing. */
  looked: boolean
  /** His time is over. */
  late: boolean
}

/** Those of this process who wait for one queue; the process has one place in the store's line for all of them. */
interface Line {
  readonly name: string
  readonly receivers: Receiver[]
  readonly senders: Set<() => void>
  cancel: Cancel | undefined
  serving: boolean
  again: boolean
}

/** What was claimed for one who waited, in the transaction that has brought it. */
interface Answer extends Claimed {
  readonly line: Line
  readonly asked: Receiver
}

/** A part of the next transaction. */
interface Work<T> {
  readonly run: () => T
  readonly weight: number
  /** Makes room rather than taking it: goes on when the disk is full. */
  readonly vital: boolean
  readonly since: number
  readonly resolve: (value: T) => void
  readonly reject: (error: unknown) => void
}

interface Committed {
  result: unknown[]
  bells: Bell[]
  files: string[]
}

/** Between two attempts to write while another process does, in milliseconds. */
const RETRY = 1

/** A timer does not know that the clock was put forward: who waits for what is due looks again after so many milliseconds. */
const LOOK = 60_000

/** Before what could not be passed on is, in milliseconds. */
const LATER = 1000

export class Engine implements Transport {
  readonly capabilities: Capabilities
  readonly overflow = 'reject'
  readonly #store: Store
  readonly #clock: Clock
  readonly #around: Surroundings
  readonly #patience: number
  readonly #lines = new Map<number, Line>()
  #works: Work<unknown>[] = []
  #flushing = false
  /** How many of the works are to be run one by one, since together they failed. */
  #alone = 0
  #waiting = 0
  #closed: Promise<void> | undefined
  /** The store is closed. */
  #over = false
  owner = 0

  /** @param patience milliseconds to wait for other processes that write */
  constructor(store: Store, clock: Clock, around: Surroundings, capabilities: Capabilities, patience: number) {
    this.#store = store
    this.#clock = clock
    this.#around = around
    this.#patience = patience
    this.capabilities = capabilities
  }

  /** Makes `run` part of the next transaction, with all that is asked for in the same turn. */
  transact<T>(run: () => T, { weight = 1, vital = true }: { weight?: number; vital?: boolean } = {}): Promise<T> {
    if (this.#over) return Promise.reject(new QueueError('ERR_MQ_CLOSED', { syscall: 'transaction' }))
    return new Promise((resolve, reject) => {
      const since = performance.now()
      this.#works.push({ run, weight, vital, since, resolve, reject } as Work<unknown>)
      if (this.#flushing) return
      this.#flushing = true
      queueMicrotask(() => this.#flush())
    })
  }

  #flush(): void {
    while (this.#works.length > 0) {
      // Alone a work fails by itself, not by what is claimed with it.
      const isAlone = this.#alone > 0
      const works = this.#group()
      const answers: Answer[] = []
      const answer = (bell: Bell) => !isAlone && this.#answer(bell, answers)
      let done: Committed
      try {
        done = this.#store.transact(() => works.map(({ run }) => run()), answer)
      } catch (error) {
        this.#works.unshift(...works)
        if (isBusy(error)) {
          this.#giveUp(error)
          setTimeout(() => this.#flush(), RETRY * (0.5 + Math.random()))
          return
        }
        if (works.length > 1 || answers.length > 0) this.#alone = works.length
        else this.#fail(works[0] as Work<unknown>, error)
        continue
      }
      // Nothing of this may have the works run again: they are committed.
      for (const [at, { resolve }] of works.entries()) resolve(done.result[at])
      if (done.files.length > 0) this.#around.removeBodies?.(done.files)
      for (const given of answers) this.#give(given)
      for (const bell of done.bells) this.#ring(bell)
      this.#around.committed()
    }
    this.#flushing = false
  }

  #group(): Work<unknown>[] {
    let [count, weight] = [0, 0]
    const most = this.#alone > 0 ? 1 : this.#works.length
    if (this.#alone > 0) this.#alone--
    while (count < most && (count === 0 || weight + (this.#works[count] as Work<unknown>).weight <= BUS_BATCH)) {
      weight += (this.#works[count++] as Work<unknown>).weight
    }
    return this.#works.splice(0, count)
  }

  #fail(work: Work<unknown>, error: unknown): void {
    const isFull = this.#around.isFull(error)
    // It is still the first of the works: with more room it is tried again.
    if (isFull && work.vital && this.#around.makeRoom()) return
    this.#works.shift()
    work.reject(isFull ? this.#diskFull(error) : explainDamage(error, 'transaction', this.#store.path))
  }

  #diskFull(cause: unknown): QueueError {
    const hint = 'what is in the bus can be received; sending goes on when there is room'
    return Object.assign(new QueueError('ERR_BUS_DISK_FULL', { syscall: 'send', path: this.#store.path, hint }), {
      cause,
    })
  }

  /** Fails what has waited too long for another process. */
  #giveUp(cause: unknown): void {
    const end = performance.now() - this.#patience
    if ((this.#works[0] as Work<unknown>).since > end) return
    const pid = this.#around.writer()
    const detail = pid === undefined ? undefined : `process ${pid} is writing`
    const hint = pid === undefined ? undefined : `look at process ${pid}: is it stopped?`
    const error = new QueueError('ERR_BUS_BUSY', { syscall: 'transaction', path: this.#store.path, detail, hint })
    const late = this.#works.filter(({ since }) => since <= end)
    this.#works = this.#works.filter(({ since }) => since > end)
    for (const { reject } of late) reject(Object.assign(error, { cause }))
  }

  /** Claims for the first of this process who waits, where that is simple; false if it is not. */
  #answer({ owner, queue }: Bell, answers: Answer[]): boolean {
    const line = owner === this.owner ? this.#lines.get(queue) : undefined
    const [asked] = line?.receivers ?? []
    if (line === undefined || asked === undefined || line.serving) return false
    if (line.receivers.some(({ options }) => options.start !== undefined)) return false
    const given: Answer = { line, asked, deliveries: [], due: undefined }
    // Before it may fail: then the work that has rung for him is not to blame.
    answers.push(given)
    const { max, lease } = asked.options
    Object.assign(given, this.#store.claim({ name: line.name, owner, max, lease, stands: true }))
    return true
  }

  #give({ line, asked, deliveries, due }: Answer): void {
    line.cancel?.()
    line.again = deliveries.length > 0
    if (!line.again) this.#await(line, due)
    else {
      // As while he is served: he is out of the store's line.
      line.serving = true
      this.#drop(line, asked.waiter)
      line.serving = false
      asked.waiter.resolve(deliveries)
    }
    if (line.receivers.length > 0 && line.again) void this.#serve(line)
  }

  #ring({ owner, queue }: Bell): void {
    if (owner === this.owner) this.rung(queue)
    else this.#around.ring(owner, queue)
  }

  /** Somebody has put something into a queue, or taken something out. */
  rung(queue: number): void {
    const line = this.#lines.get(queue)
    if (line === undefined) return
    if (line.receivers.length > 0) void this.#serve(line)
    else void this.#leave(line)
    for (const sender of line.senders) sender()
  }

  /** A bell may have died with its ringer. */
  ringAll(): void {
    for (const queue of this.#lines.keys()) this.rung(queue)
  }

  #check(call: string): void {
    if (this.#closed !== undefined) throw new QueueError('ERR_MQ_CLOSED', { syscall: call })
  }

  async declare(queue: string, bounds?: Bounds, keep?: Keep): Promise<void> {
    this.#check('declare')
    await this.transact(() => this.#store.declare(queue, bounds, keep))
    if (keep !== undefined) while (await this.transact(() => this.#store.forget(queue)));
  }

  async allot(namespace: string, quota?: Quota): Promise<Usage> {
    this.#check('allot')
    return this.transact(() => this.#store.allot(namespace, quota))
  }

  async send(batch: readonly Addressed[], options: SendOptions): Promise<Receipt[]> {
    this.#check('send')
    checkInteger('number of messages', batch.length, 1, BUS_BATCH)
    return this.#sendAll(batch, options)
  }

  /** As many as there are, in one transaction. */
  async #sendAll(batch: readonly Addressed[], { overflow, disk, signal }: SendOptions): Promise<Receipt[]> {
    checkSignal(signal)
    const isLarge = batch.some(({ message }) => message.body.byteLength > this.#around.large)
    const files = isLarge ? await this.#writeBodies(batch, disk) : NO_FILES
    let receipts: Receipt[]
    try {
      receipts = await this.#send(batch, overflow, signal, files)
    } catch (error) {
      this.#around.removeBodies?.([...files.values()])
      throw error
    }
    // Now they are in the queue: whatever happens here, they keep their bodies.
    if (disk) await this.#around.sync()
    return receipts
  }

  async #writeBodies(batch: readonly Addressed[], disk: boolean): Promise<Map<Outgoing, string>> {
    const large = new Set(
      batch.map(({ message }) => message).filter(({ body }) => body.byteLength > this.#around.large),
    )
    if (large.size === 0) return NO_FILES
    const files = new Map<Outgoing, string>()
    const write = async (message: Outgoing) => {
      files.set(message, (await this.#around.writeBody?.(this.owner, message.body, disk)) ?? '')
    }
    const failed = (await Promise.allSettled([...large].map(write))).find(({ status }) => status === 'rejected')
    if (failed === undefined) return files
    this.#around.removeBodies?.([...files.values()])
    const { reason } = failed as PromiseRejectedResult
    throw ['ENOSPC', 'EDQUOT'].includes(reason?.code) ? this.#diskFull(reason) : reason
  }

  async #send(
    batch: readonly Addressed[],
    overflow: SendOptions['overflow'],
    signal: AbortSignal | undefined,
    files: ReadonlyMap<Outgoing, string>,
  ): Promise<Receipt[]> {
    const run = () => {
      if (!this.#around.hasRoom()) throw this.#diskFull(undefined)
      return this.#store.send(batch, overflow, files)
    }
    for (;;) {
      this.#check('send')
      try {
        return await this.transact(run, { weight: batch.length, vital: false })
      } catch (error) {
        const { code, path = '' } = error as QueueError
        if (overflow !== 'wait' || code !== 'ERR_BUS_QUEUE_FULL') throw error
        const own = batch.filter(({ queue }) => queue === path)
        const bytes = own.reduce((sum, { message }) => sum + message.body.byteLength, 0)
        await this.#room(path, own.length, bytes, error, signal)
      }
    }
  }

  /** Resolves when something has been taken out of a queue; throws `full` if so much never has room in it. */
  async #room(
    name: string,
    messages: number,
    bytes: number,
    full: unknown,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const queue = await this.transact(() => {
      // Made by the send that was refused, it was unmade with it.
      const queue = this.#store.declare(name)
      if (!this.#store.fits(name, messages, bytes)) throw full
      return queue
    })
    this.#check('send')
    const line = this.#lineOf(queue, name)
    checkSignal(signal)
    const waiter = new Waiter<void>(Number.POSITIVE_INFINITY, signal, (ended, reason) => ended.reject(reason))
    // It may be rejected before it is waited for.
    waiter.promise.catch(() => {})
    const tell = () => waiter.resolve()
    line.senders.add(tell)
    this.#hold(1)
    try {
      // Between the refusal and now there may have come room, of which nobody told us: whoever is told tries.
      await this.transact(() => {
        this.#store.stand(name, ROOM, this.owner)
        if (this.#store.hasRoom(name, messages, bytes)) tell()
      })
      await waiter.promise
    } finally {
      line.senders.delete(tell)
      this.#hold(-1)
      if (line.senders.size === 0 && this.#closed === undefined) {
        await this.transact(() => this.#store.leave(name, ROOM, this.owner))
      }
    }
  }

  #hold(change: number): void {
    const before = this.#waiting
    this.#waiting += change
    if (before === 0 || this.#waiting === 0) this.#around.hold(this.#waiting > 0)
  }

  async receive(name: string, options: ReceiveOptions): Promise<Delivery[]> {
    this.#check('receive')
    checkInteger('"max" option', options.max, 1, BUS_BATCH)
    const queue = this.#store.known(name) ?? (await this.transact(() => this.#store.declare(name)))
    this.#check('receive')
    checkSignal(options.signal)
    const line = this.#lineOf(queue, name)
    // Who takes only what is there needs no timer.
    const late = options.deadline <= performance.now()
    const deadline = late ? Number.POSITIVE_INFINITY : options.deadline
    const waiter: Waiter<Delivery[]> = new Waiter(deadline, options.signal, (ended, reason) => {
      receiver.late = true
      // Another process may have been in the way: what is there is to be found all the same.
      if (reason === 'timeout' && !receiver.looked) return
      this.#drop(line, ended)
      if (reason === 'timeout') ended.resolve([])
      else ended.reject(reason)
    })
    const receiver: Receiver = { options, waiter, looked: false, late }
    line.receivers.push(receiver)
    if (!options.background) this.#hold(1)
    void this.#serve(line)
    return this.#withBodies(await waiter.promise)
  }

  async #withBodies<D extends Delivery>(deliveries: D[]): Promise<D[]> {
    const read = async (delivery: D): Promise<D> => {
      const { file } = delivery.token as Token
      if (file === undefined) return delivery
      try {
        return { ...delivery, body: (await this.#around.readBody?.(file)) ?? delivery.body }
      } catch (damage) {
        return { ...delivery, damage: damage as Error }
      }
    }
    const hasFile = deliveries.some(({ token }) => (token as Token).file !== undefined)
    return hasFile ? Promise.all(deliveries.map(read)) : deliveries
  }

  #lineOf(queue: number, name: string): Line {
    let line = this.#lines.get(queue)
    if (line === undefined) {
      line = { name, receivers: [], senders: new Set(), cancel: undefined, serving: false, again: false }
      this.#lines.set(queue, line)
    }
    return line
  }

  #drop(line: Line, waiter: Waiter<Delivery[]>): void {
    const at = line.receivers.findIndex((receiver) => receiver.waiter === waiter)
    if (at < 0) return
    const [receiver] = line.receivers.splice(at, 1)
    if (!receiver?.options.background) this.#hold(-1)
    if (line.receivers.length === 0 && !line.serving) void this.#leave(line)
  }

  /** A bell that nobody answers goes to the next in line. */
  async #leave(line: Line): Promise<void> {
    line.cancel?.()
    if (this.#closed !== undefined) return
    const isIdle = () => line.receivers.every(({ late }) => late)
    try {
      await this.transact(() => {
        // Somebody may have come meanwhile; who only looks does not stand there.
        if (isIdle()) this.#store.leave(line.name, MESSAGES, this.owner)
      })
    } catch {
      // Still in line, or a bell was for nobody: it has to be passed on, when the store is to be had again.
      const again = () => (isIdle() ? this.#leave(line) : undefined)
      setTimeout(() => void again(), LATER).unref()
    }
  }

  async #serve(line: Line): Promise<void> {
    line.again = true
    if (line.serving) return
    line.serving = true
    let stood = false
    try {
      while (line.again && line.receivers[0] !== undefined) {
        line.again = false
        line.cancel?.()
        const present = [...line.receivers]
        const stands = present.some(({ late }) => !late)
        const { asked, deliveries, due } = await this.#claim(line, present, stands)
        // Who stood in line before, and has gone meanwhile, still does.
        stood = deliveries.length === 0 && (stands || stood)
        if (deliveries.length === 0) {
          this.#await(line, due)
          if (!line.again) this.#tellLate(line, present)
        } else {
          line.again = true
          await this.#hand(line, asked, deliveries)
        }
      }
    } catch (error) {
      // The bell that came with this may have been the only one.
      stood = true
      for (const { waiter } of [...line.receivers]) {
        this.#drop(line, waiter)
        waiter.reject(error)
      }
    } finally {
      line.serving = false
    }
    if (stood && line.receivers.length === 0) await this.#leave(line)
  }

  /** For the first who can have something. */
  #claim({ name }: Line, present: readonly Receiver[], stands: boolean): Promise<Claimed & { asked: Receiver }> {
    const { owner } = this
    const plain = present.find(({ options }) => options.start === undefined)
    const starts = present.flatMap(({ options }) => options.start ?? [])
    // After one who takes whatever there is nothing is left.
    const askers = plain === undefined ? present : present.slice(0, present.indexOf(plain) + 1)
    const run = () => {
      let claimed!: Claimed & { asked: Receiver }
      for (const asked of askers) {
        const { max, lease, start } = asked.options
        const claim = { name, owner, max, lease, stands, start, starts: plain === undefined ? starts : undefined }
        claimed = { ...this.#store.claim(claim), asked }
        if (claimed.deliveries.length > 0) break
      }
      return claimed
    }
    return this.transact(run, { weight: Math.max(...askers.map(({ options }) => options.max)) })
  }

  #await(line: Line, due: Claimed['due']): void {
    if (due === undefined) return
    // What was there was of no use, and there may be more.
    if (due <= this.#clock.now()) line.again = true
    else line.cancel = this.#clock.after(Math.min(due - this.#clock.now(), LOOK), () => void this.#serve(line))
  }

  #tellLate(line: Line, present: readonly Receiver[]): void {
    for (const receiver of present) {
      receiver.looked = true
      if (!receiver.late || !line.receivers.includes(receiver)) continue
      this.#drop(line, receiver.waiter)
      receiver.waiter.resolve([])
    }
  }

  /** Whoever asked may have given up meanwhile; then they are the next's who takes as many, and few, or go back. */
  async #hand(line: Line, asked: Receiver, deliveries: Delivery[]): Promise<void> {
    const { lease } = asked.options
    const fits = ({ options }: Receiver) =>
      options.max >= deliveries.length && options.lease === lease && options.start === undefined
    const taker = line.receivers.find((receiver) => receiver === asked) ?? line.receivers.find(fits)
    if (taker !== undefined) {
      this.#drop(line, taker.waiter)
      taker.waiter.resolve(deliveries)
      return
    }
    await this.#giveBack(deliveries)
  }

  /** Until it is done, or closing does it: nobody knows of them, and they would be this process's as long as it lives. */
  async #giveBack(deliveries: readonly Delivery[]): Promise<void> {
    try {
      await this.settle(deliveries.map(({ token }) => ({ token, outcome: 'retry', due: 0, counted: false }) as const))
    } catch {
      if (this.#closed === undefined) setTimeout(() => void this.#giveBack(deliveries), LATER).unref()
    }
  }

  async settle(batch: readonly Settlement[]): Promise<boolean[]> {
    const sent = batch.flatMap((settlement) => (settlement.outcome === 'ack' ? (settlement.send ?? []) : []))
    if (sent.length === 0) return this.transact(() => this.#store.settle(batch), { weight: batch.length })
    const files = await this.#writeBodies(sent, false)
    const work = { weight: batch.length + sent.length, vital: false }
    try {
      return await this.transact(() => this.#store.settle(batch, files), work)
    } catch (error) {
      this.#around.removeBodies?.([...files.values()])
      throw error
    }
  }

  async stats(queue: string): Promise<TransportStats> {
    this.#check('stats')
    const count = () => this.#store.stats(queue)
    // After what was asked for before; that takes a moment, counting may not.
    await this.transact(() => this.#store.declare(queue))
    if (this.#over) throw new QueueError('ERR_MQ_CLOSED', { syscall: 'stats' })
    try {
      return this.#store.read(count)
    } catch (error) {
      if (!isBusy(error)) throw explainDamage(error, 'stats', this.#store.path)
      return this.transact(count)
    }
  }

  async queues(): Promise<string[]> {
    this.#check('queues')
    return this.transact(() => this.#store.queues())
  }

  async browse(queue: string, { max, after }: { max: number; after: string | undefined }): Promise<Page> {
    this.#check('browse')
    const page = await this.transact(() => this.#store.browse(queue, max, after))
    return { ...page, deliveries: await this.#withBodies(page.deliveries) }
  }

  async history(
    queue: string,
    { max, after, until }: { max: number; after: string | undefined; until: string | undefined },
  ): Promise<PastPage> {
    this.#check('history')
    // First what is kept no longer goes, a part at a time.
    const read = () => (this.#store.forget(queue) ? undefined : this.#store.history(queue, max, after, until))
    for (;;) {
      const page = await this.transact(read)
      if (page !== undefined) return { ...page, deliveries: await this.#withBodies(page.deliveries) }
    }
  }

  async bind(binding: Binding): Promise<void> {
    this.#check('bind')
    await this.transact(() => this.#store.bind(binding), { vital: false })
  }

  async unbind(binding: Binding): Promise<void> {
    this.#check('unbind')
    await this.transact(() => this.#store.unbind(binding))
  }

  async publish(topic: string, message: Outgoing, options: SendOptions): Promise<string[]> {
    this.#check('publish')
    const { headers = {} } = message
    const bindings = await this.transact(() => this.#store.bindings())
    const bound = bindings.filter((binding) => isBound(binding, topic, headers)).map(({ queue }) => queue)
    const queues = [...new Set(bound)]
    if (queues.length > 0)
      await this.#sendAll(
        queues.map((queue) => ({ queue, message })),
        options,
      )
    return queues
  }

  async borrow(prefix = ''): Promise<string> {
    this.#check('borrow')
    const queue = `${BORROWED}${prefix}${randomUUID()}`
    await this.transact(() => this.#store.borrow(queue, this.owner), { vital: false })
    return queue
  }

  async drop(queue: string): Promise<void> {
    this.#check('drop')
    while (await this.transact(() => this.#store.drop(queue)));
    this.#forgetLine(queue)
  }

  /** Whoever waits there all the same is told when the bus is closed. */
  #forgetLine(queue: string): void {
    for (const [number, { name, receivers, senders }] of this.#lines) {
      if (name === queue && receivers.length === 0 && senders.size === 0) this.#lines.delete(number)
    }
  }

  async entries(prefix: string): Promise<[key: string, value: string][]> {
    this.#check('entries')
    return this.transact(() => this.#store.entries(prefix))
  }

  async put(key: string, value: string | undefined, { send = [], until = 0 }: PutOptions = {}): Promise<void> {
    this.#check('put')
    const files = await this.#writeBodies(send, false)
    const run = () => {
      this.#store.put(key, value, until)
      if (send.length > 0) this.#store.send(send, 'reject', files)
    }
    try {
      await this.transact(run, { weight: 1 + send.length, vital: false })
    } catch (error) {
      this.#around.removeBodies?.([...files.values()])
      throw error
    }
  }

  /** Gives back what a process that is no more held, one lease a transaction. */
  async reap(owner: number, lost: boolean): Promise<void> {
    while (await this.transact(() => this.#store.reap(owner, lost)));
  }

  close(): Promise<void> {
    this.#closed ??= this.#close()
    return this.#closed
  }

  async #close(): Promise<void> {
    const error = new QueueError('ERR_MQ_CLOSED', { syscall: 'receive' })
    for (const line of this.#lines.values()) {
      line.cancel?.()
      for (const { waiter } of [...line.receivers]) {
        this.#drop(line, waiter)
        waiter.reject(error)
      }
      for (const sender of line.senders) sender()
    }
    try {
      await this.reap(this.owner, false)
    } finally {
      await this.#around.close()
      this.#over = true
      for (const { reject } of this.#works.splice(0)) reject(error)
      this.#store.close()
    }
  }
}

const NO_FILES: Map<Outgoing, string> = new Map()
