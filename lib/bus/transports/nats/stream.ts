// A queue as a stream of JetStream: made, sent to and received from.
import { setTimeout as sleep } from 'node:timers/promises'
import { QueueError } from '../../../errors.ts'
import { checkSignal, Waiter } from '../../../waiting.ts'
import type { Delivery, Outgoing, Page, Receipt, ReceiveOptions, TransportStats } from '../../transport.ts'
import { toHeaders } from './envelope.ts'
import type { Held, Means } from './hands.ts'
import { Lane, type LaneOf, PULL } from './lane.ts'
import { NAME_IN_USE, NO_STREAM, type PubAck } from './ledger.ts'
import { Line } from './line.ts'
import { ApiError } from './link.ts'
import { filterOf, isLane, type LaneName, laneAt, laneOf, nameOf } from './names.ts'
import { browse, consumersOf, heldOf, statsOf, unless } from './state.ts'

/** What the streams and consumers of a bus are to be. */
export interface StreamSettings extends Means {
  readonly prefix: string
  /** Milliseconds after which the server takes a message away from a process that says nothing. */
  readonly lease: number
  readonly replicas: number
}

/** Nanoseconds in a millisecond. */
const NANOS = 1_000_000
/** Milliseconds for a server to remove something. */
const REMOVED = 250
/** Milliseconds for which somebody may still come for what arrives when nobody waits. */
const STASHED = 10
/** Milliseconds for what is on its way to somebody who gives up. */
const COMING = 1000
/** Milliseconds between looks for lanes that others have made, and for pulls that were forgotten. */
const REFRESH = 2000
/** Milliseconds between searches for what a server has forgotten that was killed behind a connection that there is. */
const SEARCH = 60_000
/** Milliseconds after which nobody seems to want messages any more. */
const RESTING = 60_000
/** Milliseconds between beats, by which a process knows that it was stopped; at most a part of the lease. */
const BEAT = 500
/** What JetStream answers to a message that is larger than its stream allows. */
const TOO_LONG = 10_054
/** What JetStream answers when the account, its memory or the disk has no room. */
const NO_ROOM: readonly number[] = [10_002, 10_023, 10_028, 10_047, 10_077]

const closed = (): QueueError => new QueueError('ERR_MQ_CLOSED', { syscall: 'receive' })

const isUnreachable = (error: unknown): boolean => (error as QueueError).code === 'ERR_BUS_CONNECTION'

/** By priority, then by age. */
function inOrder(a: Delivery, b: Delivery): number {
  return b.priority - a.priority || (a.token as Held).sequence - (b.token as Held).sequence
}

export class Stream {
  readonly queue: string
  readonly name: string
  readonly #root: string
  readonly #settings: StreamSettings
  readonly #of: LaneOf
  readonly #lanes = new Map<LaneName, Promise<Lane>>()
  /** Those that are there. */
  #open: Lane[] = []
  #made: Promise<void> | undefined
  #isMade = false
  #mending: Promise<void> | undefined
  /** Milliseconds for which the stream knows an id. */
  #window = 0
  #receives: Promise<void> | undefined
  readonly #line = new Line<Delivery>()
  #stash: Delivery[] = []
  #turn = 0
  #refresh: NodeJS.Timeout | undefined
  /** From this point of performance.now() on the server may have been killed. */
  #suspicious = 0
  #searching: Promise<void> | undefined
  /** When somebody last wanted a message, as performance.now() says. */
  #received = 0
  #stashed: NodeJS.Timeout | undefined
  #isClosed = false
  /** Of the beats before, so that a process that was stopped knows. */
  #beats: [before: number, last: number]
  #beat: NodeJS.Timeout | undefined
  #detach: (() => void) | undefined

  constructor(queue: string, settings: StreamSettings) {
    this.queue = queue
    this.#settings = settings
    const name = nameOf(queue)
    this.name = `${settings.prefix}=${name}`
    this.#root = `${settings.prefix}.${name}`
    this.#of = {
      ...settings,
      queue,
      stream: this.name,
      root: this.#root,
      news: `${settings.prefix}~lanes.${name}`,
      join: (message, messageId, sentAt) => this.send('receive', message, messageId, sentAt),
      receiver: {
        beat: () => this.#beats[0],
        came: (delivery) => this.#came(delivery),
        stand: () => this.#stand(),
        mend: () => this.#mend(),
      },
    }
    const now = performance.now()
    this.#beats = [now, now]
  }

  // The stream and its consumers.

  #make(): Promise<void> {
    this.#made ??= this.#findOrMake().then(
      () => {
        this.#isMade = true
      },
      (error: unknown) => {
        this.#made = undefined
        throw error
      },
    )
    return this.#made
  }

  async #findOrMake(window = 300_000): Promise<void> {
    const { link, replicas } = this.#settings
    for (;;) {
      try {
        const { config } = await link.api<{ config: { duplicate_window: number } }>(`STREAM.INFO.${this.name}`)
        this.#window = config.duplicate_window / NANOS
        return
      } catch (error) {
        if (!(error instanceof ApiError && error.number === NO_STREAM)) throw error
      }
      try {
        const config = {
          name: this.name,
          description: this.queue,
          subjects: [`${this.#root}.>`],
          retention: 'workqueue',
          storage: 'file',
          num_replicas: replicas,
          duplicate_window: window * NANOS,
          discard: 'old',
        }
        await link.api(`STREAM.CREATE.${this.name}`, config)
        this.#window = window
        return
      } catch (error) {
        // Somebody else did at the same time.
        if (!(error instanceof ApiError && error.number === NAME_IN_USE)) throw error
      }
    }
  }

  /** Ids are known for so long, at least. */
  async #widen(window: number): Promise<void> {
    const { link } = this.#settings
    if (this.#made === undefined) {
      // The first who asks for one says how long it is.
      this.#made = this.#findOrMake(Math.max(window, 100)).then(() => {
        this.#isMade = true
      })
      this.#made.catch(() => {
        this.#made = undefined
      })
    }
    await this.#made
    if (window <= this.#window) return
    const { config } = await link.api<{ config: object }>(`STREAM.INFO.${this.name}`)
    await link.api(`STREAM.UPDATE.${this.name}`, { ...config, duplicate_window: Math.ceil(window) * NANOS })
    this.#window = window
  }

  /** Somebody has removed the stream, or a consumer: what was ours to make is made again. */
  #mend(): Promise<void> {
    this.#mending ??= this.#mendAll().finally(() => {
      this.#mending = undefined
    })
    return this.#mending
  }

  async #mendAll(): Promise<void> {
    // A server says so before it has removed the files; with them go those of what is made at once under that name.
    await sleep(REMOVED, undefined, { ref: false })
    this.#made = undefined
    this.#isMade = false
    await this.#make()
    const lanes = await Promise.all(this.#lanes.values())
    await Promise.all(lanes.map((lane) => lane.mend()))
    this.#stand()
  }

  #lane(name: LaneName): Promise<Lane> {
    let lane = this.#lanes.get(name)
    if (lane === undefined) {
      lane = this.#openLane(name)
      this.#lanes.set(name, lane)
      lane.catch(() => this.#lanes.delete(name))
    }
    return lane
  }

  async #openLane(name: LaneName): Promise<Lane> {
    await this.#make()
    const lane = await Lane.open(name, this.#of)
    this.#open = [...this.#open, lane].sort((a, b) => b.rank - a.rank)
    return lane
  }

  // Sending.

  /** @param messageId by which the server knows that it has it; the message's own, if that is to be sent once */
  async send(
    call: string,
    message: Outgoing,
    messageId: string,
    sentAt: number = this.#settings.clock.now(),
  ): Promise<Receipt> {
    const { link, clock } = this.#settings
    const now = clock.now()
    if (message.dedup > this.#window || !this.#isMade)
      await (message.dedup > 0 ? this.#widen(message.dedup) : this.#make())
    const lane = laneOf(message, now)
    // One that nobody receives from yet is made by those who do; of the others they have to hear.
    if (lane !== 'p0') await this.#lane(lane)
    const subject = lane === 'd' ? `${this.#root}.d.${Math.ceil(message.due)}` : `${this.#root}.${filterOf(lane)}`
    const headers = toHeaders(link.client, message, { sentAt }, messageId)
    const answer = await link.request(call, subject, message.body, { headers, mend: () => this.#mend() })
    const { duplicate = false, error } = answer.message.json<PubAck>()
    if (error !== undefined) throw this.#refused(call, error)
    // One that had to be sent again is the duplicate of itself.
    return { id: message.id, duplicate: duplicate && answer.attempts === 1 }
  }

  #refused(call: string, { err_code, description }: NonNullable<PubAck['error']>): Error {
    if (err_code === TOO_LONG) {
      const hint = "what a message has beside its body counts, too: see the stream's max_msg_size: nats stream info"
      return new QueueError('EMSGSIZE', { syscall: call, path: this.queue, detail: description, hint })
    }
    const isFull = /maximum (?:messages|bytes)/.test(description)
    if (!isFull && !NO_ROOM.includes(err_code)) return new ApiError({ err_code, description })
    const code = isFull ? 'ERR_BUS_QUEUE_FULL' : 'ERR_BUS_DISK_FULL'
    const hint = 'see the limits of the stream and of the account: nats stream info, nats account info'
    return new QueueError(code, { syscall: call, path: this.queue, detail: description, hint })
  }

  // Receiving.

  async receive(options: ReceiveOptions): Promise<Delivery[]> {
    const { link } = this.#settings
    const { deadline, background } = options
    if (background !== true) link.hold(true)
    try {
      for (;;) {
        try {
          return await this.#receive(options)
        } catch (error) {
          // Who waits for ever also waits for the server, and a consumer that looks ahead will.
          if (!isUnreachable(error) || (deadline !== Number.POSITIVE_INFINITY && deadline !== 0)) throw error
          if (deadline === 0) return []
        }
      }
    } finally {
      if (background !== true) link.hold(false)
    }
  }

  async #receive({ max, deadline, signal, lease }: ReceiveOptions): Promise<Delivery[]> {
    this.#received = performance.now()
    for (;;) {
      checkSignal(signal)
      const waits = performance.now() < deadline
      const taken = await unlessAborted(this.#takeBegun(max, waits), signal)
      if (taken.length > 0 || !waits) return this.#grant(taken, lease)
      const waiting = this.#line.wait(deadline, signal)
      this.#stand()
      const handed = await waiting
      if (handed.length > 0 || performance.now() >= deadline) return this.#grant(handed, lease)
    }
  }

  async #takeBegun(max: number, waits: boolean): Promise<Delivery[]> {
    this.#receives ??= this.#begin().catch((error: unknown) => {
      this.#receives = undefined
      throw error
    })
    await this.#receives
    if (!waits) await this.#settings.link.ready('receive')
    const taken = await this.#take(max, waits)
    if (!this.#isClosed) return taken
    giveBack(taken)
    throw closed()
  }

  async #begin(): Promise<void> {
    await this.#lane('p0')
    await this.#findLanes()
    if (this.#isClosed) throw closed()
    const now = performance.now()
    this.#beats = [now, now]
    this.#beat ??= setInterval(
      () => {
        this.#beats = [this.#beats[1], performance.now()]
      },
      Math.min(BEAT, this.#settings.lease / 10),
    ).unref()
    this.#refresh ??= setInterval(() => void this.#look().catch(() => {}), REFRESH).unref()
    this.#detach ??= this.#settings.link.onConnection(() => this.#connected())
  }

  async #findLanes(): Promise<void> {
    const asked = performance.now()
    const consumers = await consumersOf(this.name, this.#settings.link)
    const names = consumers.map(({ name }) => name)
    if (this.#open.some(({ name }) => !names.includes(name))) await this.#mend()
    await Promise.all(names.filter(isLane).map((name) => this.#lane(name)))
    for (const lane of this.#open) lane.check(consumers, asked)
  }

  /** Who sends believes in a consumer that was there: when somebody removes it, who receives has to make it. */
  async #findHeld(): Promise<void> {
    const held = await heldOf(this.#of)
    await Promise.all(
      held
        .map(laneAt)
        .filter((name) => name !== undefined)
        .map((name) => this.#lane(name)),
    )
  }

  /** Whether there are new lanes, whether those who wait are waited for, and what the server has forgotten. */
  async #look(): Promise<void> {
    // Asking would hold the process until there is a connection again.
    if (!this.#settings.link.isConnected) return
    if (this.#line.isEmpty && performance.now() > this.#received + RESTING) return
    await this.#findLanes()
    this.#stand()
    if (performance.now() >= this.#suspicious) await this.#search()
  }

  /** There is a new lane, or a consumer was made anew, and with the one before went the pulls that waited. */
  async #onNews(name: string): Promise<void> {
    this.#open.find((lane) => lane.name === name)?.anew()
    await this.#look()
  }

  /** What a server that was killed has forgotten. */
  #search(): Promise<void> {
    // Two at a time would each count what the other has seen.
    this.#searching ??= this.#searchAll().finally(() => {
      this.#searching = undefined
    })
    return this.#searching
  }

  async #searchAll(): Promise<void> {
    // Before it begins: a connection that is made meanwhile asks for another one, after it.
    this.#suspicious = performance.now() + SEARCH
    let isClean = false
    try {
      const clean: boolean[] = []
      for (const lane of this.#open) clean.push(await lane.search())
      await this.#findHeld()
      isClean = !clean.includes(false)
    } finally {
      if (!isClean) this.#suspicious = 0
    }
  }

  /** All that was asked for on the connection before is forgotten. */
  #connected(): void {
    this.#settings.link.subscribe(this.#of.news, (news) => void this.#onNews(news.string()).catch(() => {}))
    for (const lane of this.#open) lane.connected()
    this.#suspicious = 0
    // They look for themselves; there may be more now than there was.
    this.#line.wake()
  }

  /** What is there, or has come for nobody. */
  async #take(max: number, waits: boolean): Promise<Delivery[]> {
    if (this.#stash.length > 0) return this.#stash.sort(inOrder).splice(0, max)
    const found: Delivery[] = []
    // Where a pull waits there is nothing.
    const lanes = this.#open.filter((lane) => !(waits && lane.stands))
    const high = lanes.filter(({ rank }) => rank > 0)
    const rest = lanes.filter(({ rank }) => rank === 0)
    const first = this.#turn++ % Math.max(rest.length, 1)
    for (const lane of [...high, ...rest.slice(first), ...rest.slice(0, first)]) {
      if (found.length >= max) break
      try {
        found.push(...(await lane.take(max - found.length)))
      } catch (error) {
        // What was found before is in our hands, and kept alive there.
        if (found.length === 0) throw error
        break
      }
    }
    return found.length > 1 ? found.sort(inOrder) : found
  }

  /** Has each lane tell of the next message, as long as somebody waits. */
  #stand(): void {
    if (this.#line.isEmpty) return
    const left = Math.min(Math.max(this.#line.latest - performance.now(), 1), PULL)
    for (const lane of this.#open) lane.stand(left)
  }

  /** One that nobody has looked for. */
  #came(delivery: Delivery): void {
    if (this.#isClosed) giveBack([delivery])
    else if (this.#line.hand(delivery)) this.#stand()
    else {
      this.#stash.push(delivery)
      this.#stashed ??= setTimeout(() => {
        this.#stashed = undefined
        giveBack(this.#stash.splice(0))
      }, STASHED)
    }
  }

  #grant(deliveries: Delivery[], lease: number): Delivery[] {
    if (lease !== Number.POSITIVE_INFINITY) {
      const until = this.#settings.clock.now() + lease
      for (const { token } of deliveries) (token as Held).hands.extend(token as Held, until)
    }
    return deliveries
  }

  // What there is.

  async stats(): Promise<TransportStats> {
    const own = { hands: this.#open.map(({ hands }) => hands), stashed: this.#stash.length }
    return statsOf(this.#of, this.#settings.clock.now(), own)
  }

  /** The messages behind the place `after`. */
  async browse(max: number, after: string | undefined): Promise<Page> {
    return browse(this.#of, max, after)
  }

  /** Removes it, with all that is in it. */
  async drop(): Promise<void> {
    this.close(new QueueError('ERR_MQ_CLOSED', { syscall: 'drop' }))
    await this.#settings.link.api(`STREAM.DELETE.${this.name}`).catch(unless(undefined))
    await this.#settings.notes.purge(`${nameOf(this.queue)}.>`)
  }

  /** Gives back what it holds. */
  close(reason: Error = closed()): void {
    this.#isClosed = true
    this.#detach?.()
    for (const timer of [this.#beat, this.#refresh, this.#stashed]) clearInterval(timer)
    this.#line.fail(reason)
    for (const lane of this.#open) lane.endLook()
    const all = this.#open.flatMap(({ hands }) => hands.all)
    for (const held of all.sort((a, b) => a.sequence - b.sequence)) if (held.hands.has(held)) held.hands.return(held, 0)
  }
}

/** What is on its way to somebody who gives up still comes to him, unless its server is away; then it goes back. */
function unlessAborted(taking: Promise<Delivery[]>, signal: AbortSignal | undefined): Promise<Delivery[]> {
  if (signal === undefined) return taking
  let late: NodeJS.Timeout | undefined
  const waiter: Waiter<Delivery[]> = new Waiter<Delivery[]>(Number.POSITIVE_INFINITY, signal, (ended, reason) => {
    late = setTimeout(() => {
      taking.then(giveBack, () => {})
      ended.reject(reason)
    }, COMING)
  })
  taking
    .then(
      (taken) => waiter.resolve(taken),
      (error: unknown) => waiter.reject(error),
    )
    .finally(() => clearTimeout(late))
  return waiter.promise
}

/** In the order in which they are to come again. */
function giveBack(deliveries: readonly Delivery[]): void {
  for (const { token } of [...deliveries].sort(inOrder)) {
    const held = token as Held
    if (held.hands.take(held)) held.hands.return(held, 0)
  }
}
