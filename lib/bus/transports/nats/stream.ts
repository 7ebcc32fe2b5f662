// A queue as a stream of JetStream, and what this process has of it.
import { setTimeout as sleep } from 'node:timers/promises'
import { AbortError, QueueError } from '../../../errors.ts'
import type { Cancel, Clock } from '../../clock.ts'
import type { Delivery, Outgoing, Page, Receipt, ReceiveOptions, TransportStats } from '../../transport.ts'
import { Holding } from '../engine/holding.ts'
import type { Read } from '../engine/wire.ts'
import { fieldsOf, type Place, parse, placeOf, read, toHeaders } from './envelope.ts'
import { type Ledger, NAME_IN_USE, NO_MESSAGE, NO_STREAM, type PubAck } from './ledger.ts'
import { Line } from './line.ts'
import { ApiError, type Link, type Msg } from './link.ts'
import { filterOf, isLane, type LaneName, laneOf, nameOf } from './names.ts'

/** What the streams and consumers of a bus are to be. */
export interface StreamSettings {
  readonly link: Link
  readonly clock: Clock
  readonly prefix: string
  /** Attempts and losses of messages that were handed out before. */
  readonly notes: Ledger
  /** Milliseconds after which the server takes a message away from a process that says nothing. */
  readonly lease: number
  readonly replicas: number
}

/** What is known of a message beside what it was sent with. */
interface Note {
  readonly attempts: number
  readonly losses: number
  /** Its handler has begun: whoever gets it next knows that it was lost. */
  readonly begun?: boolean
  readonly due?: number
}

/** What this process has given back. */
interface Returned {
  readonly count: number
  readonly attempts: number
  readonly losses: number
  readonly due: number
  readonly note: number | undefined
  /** It was sent with a delay. */
  readonly isDelayed: boolean
}

/** How many of those are remembered. */
const MOST_RETURNED = 10_000
/** Nanoseconds in a millisecond. */
const NANOS = 1_000_000
/** Milliseconds for which a pull waits at the server. */
const PULL = 30_000
/** Milliseconds for an answer to a look; of a lane whose one message somebody has there is none, nor of none. */
const LOOK = 2000
const TAKEN = 30
/** Milliseconds for which somebody may still come for what arrives when nobody waits. */
const STASHED = 10
/** Milliseconds between looks for lanes that others have made, and for pulls that were forgotten. */
const REFRESH = 2000
/** Milliseconds after which nobody seems to want messages any more. */
const RESTING = 60_000
/** In how many looks a lane has to have more than its consumer knows of. */
const CERTAIN = 3
/** Milliseconds between beats, by which a process knows that it was stopped; at most a part of the lease. */
const BEAT = 500
/** The part of a lease for which it is sure that it is ours. */
const SAFE = 0.9

const [ACK, WORKING] = ['+ACK', '+WPI']

/** Statuses of a pull: there is no such consumer; it was removed. */
const GONE = 503
const DELETED = 409

/** What JetStream answers, by the numbers of its documentation. */
const NO_CONSUMER = 10014
/** Limits of the account, memory, disk. */
const NO_ROOM: readonly number[] = [10_002, 10_023, 10_028, 10_047, 10_077]

/** A message in the hands of this process. */
export class Held {
  readonly lane: Lane
  readonly fields: Read
  readonly body: Uint8Array
  readonly reply: string
  readonly sequence: number
  readonly count: number
  /** The point of performance.now() after which it may be somebody else's. */
  safe: number
  /** The sequence of its note. */
  note: number | undefined
  attempts: number
  losses: number
  due: number
  begun = false
  cancel: Cancel | undefined

  constructor(lane: Lane, message: Msg, place: Place, before: Returned | undefined, safe: number) {
    const { sequence, count, time } = place
    this.lane = lane
    this.fields = read(fieldsOf(message), time)
    this.body = message.data
    this.reply = message.reply as string
    this.sequence = sequence
    this.count = count
    this.safe = safe
    this.attempts = before?.attempts ?? 0
    this.losses = before?.losses ?? 0
    this.note = before?.note
    this.due = before?.due ?? 0
  }

  get stream(): Stream {
    return this.lane.stream
  }

  toDelivery(suspect: boolean): Delivery {
    const { id, format, key, priority, headers, sentAt } = this.fields
    const { body, attempts, losses } = this
    return {
      token: this,
      id,
      body,
      format,
      key,
      priority,
      headers,
      sentAt,
      attempts,
      losses,
      suspect,
      damage: undefined,
    }
  }
}

interface Look {
  readonly batch: number
  readonly messages: Msg[]
  /** What there is, is there. */
  end(status?: number): void
}

/** A part of a queue, with a consumer of its own that all processes share. */
class Lane {
  readonly stream: Stream
  readonly name: LaneName
  /** Where its messages come to, of this connection. */
  inbox: string | undefined
  look: Look | undefined
  looking: Promise<unknown> = Promise.resolve()
  /** Until this point of performance.now() a pull waits at the server. */
  stands = 0
  /** When it was sent there. */
  asked = 0
  /** Milliseconds for which the server waits for a word of who has a message; the first process has said so. */
  readonly lease: number
  readonly holding: Holding<Held>
  /** When its consumer was made, and how often there was more than that knows of. */
  created = ''
  strays = 0

  constructor(stream: Stream, name: LaneName, lease: number, keep: (held: readonly Held[]) => Promise<void>) {
    this.stream = stream
    this.name = name
    this.lease = lease
    this.holding = new Holding(lease / 3, keep)
  }

  /** The highest is looked into first. */
  get rank(): number {
    return this.name.startsWith('p') ? Number(this.name.slice(1)) : 0
  }

  /** One message at a time. */
  get isSerial(): boolean {
    return this.name.startsWith('k')
  }
}

interface StreamInfo {
  readonly config: { readonly duplicate_window: number }
  readonly state: {
    readonly messages: number
    readonly bytes: number
    readonly first_ts: string
    readonly last_seq: number
    readonly subjects?: Readonly<Record<string, number>>
  }
}

interface ConsumerInfo {
  readonly name: string
  readonly num_pending: number
  readonly num_ack_pending: number
  readonly created: string
}

const closed = (): QueueError => new QueueError('ERR_MQ_CLOSED', { syscall: 'receive' })

const isUnreachable = (error: unknown): boolean => (error as QueueError).code === 'ERR_BUS_CONNECTION'

/** What says why there are no messages. */
const isStatus = ({ reply }: Msg): boolean => reply === undefined || reply === ''

const isPromise = (value: unknown): value is Promise<unknown> => value instanceof Promise

/** By priority, then by age. */
function inOrder(a: Delivery, b: Delivery): number {
  return b.priority - a.priority || (a.token as Held).sequence - (b.token as Held).sequence
}

/** Nothing, of a stream or a consumer that is not there. */
const unless =
  <T>(nothing: T) =>
  (error: unknown): T => {
    if (error instanceof ApiError && (error.number === NO_STREAM || error.number === NO_MESSAGE)) return nothing
    throw error
  }

export class Stream {
  readonly queue: string
  readonly name: string
  readonly #root: string
  readonly #news: string
  readonly #settings: StreamSettings
  readonly #lanes = new Map<LaneName, Promise<Lane>>()
  /** Those that are there. */
  #open: Lane[] = []
  #made: Promise<void> | undefined
  #isMade = false
  /** Milliseconds for which the stream knows an id. */
  #window = 0
  #receives: Promise<void> | undefined
  readonly #line = new Line<Delivery>()
  #stash: Delivery[] = []
  readonly #returned = new Map<number, Returned>()
  #turn = 0
  #refresh: NodeJS.Timeout | undefined
  /** The server may have been killed. */
  #isSuspicious = true
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
    this.#news = `${settings.prefix}~lanes.${name}`
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
  async #mend(): Promise<void> {
    this.#made = undefined
    this.#isMade = false
    await this.#make()
    const lanes = await Promise.all(this.#lanes.values())
    await Promise.all(lanes.map((lane) => this.#mendLane(lane)))
    this.#stand()
  }

  async #mendLane(lane: Lane): Promise<void> {
    const { isNew } = await this.#makeConsumer(lane.name, lane.lease)
    if (!isNew) return
    // The pull that waited went with it, and so did its numbers.
    lane.stands = 0
    for (const held of lane.holding.all) this.#remove(held)
    this.#returned.clear()
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
    const { isNew, lease } = await this.#makeConsumer(name)
    const lane = new Lane(this, name, lease, (held) => this.#keep(held))
    this.#open = [...this.#open, lane].sort((a, b) => b.rank - a.rank)
    // Who receives from the queue has to know.
    if (isNew) this.#settings.link.tell(this.#news, name)
    return lane
  }

  /** @param wanted milliseconds, if it is not there */
  async #makeConsumer(
    name: LaneName,
    wanted: number = this.#settings.lease,
  ): Promise<{ isNew: boolean; lease: number }> {
    const { link } = this.#settings
    const call = `${this.name}.${name}`
    try {
      const { config } = await link.api<{ config: { ack_wait: number } }>(`CONSUMER.INFO.${call}`)
      return { isNew: false, lease: config.ack_wait / NANOS }
    } catch (error) {
      if (!(error instanceof ApiError && error.number === NO_CONSUMER)) throw error
    }
    const config = {
      durable_name: name,
      filter_subject: `${this.#root}.${filterOf(name)}`,
      deliver_policy: 'all',
      ack_policy: 'explicit',
      ack_wait: wanted * NANOS,
      max_deliver: -1,
      max_ack_pending: name.startsWith('k') ? 1 : -1,
      max_waiting: 4096,
      replay_policy: 'instant',
    }
    await link.api(`CONSUMER.DURABLE.CREATE.${call}`, { stream_name: this.name, config })
    return { isNew: true, lease: wanted }
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
    const { link } = this.#settings
    if (signal?.aborted) throw new AbortError(signal.reason)
    this.#received = performance.now()
    this.#receives ??= this.#begin().catch((error: unknown) => {
      this.#receives = undefined
      throw error
    })
    await this.#receives
    for (;;) {
      const waits = performance.now() < deadline
      if (!waits) await link.ready('receive')
      const taken = await this.#take(max, waits)
      if (this.#isClosed) {
        this.#giveBack(taken)
        throw closed()
      }
      if (taken.length > 0 || !waits) return this.#grant(taken, lease)
      const waiting = this.#line.wait(deadline, signal)
      this.#stand()
      const handed = await waiting
      if (handed.length > 0 || performance.now() >= deadline) return this.#grant(handed, lease)
    }
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
    const names = (await this.#consumers()).map(({ name }) => name)
    if (this.#open.some(({ name }) => !names.includes(name))) await this.#mend()
    await Promise.all(names.filter(isLane).map((name) => this.#lane(name)))
  }

  /** Whether there are new lanes, whether those who wait are waited for, and what the server has forgotten. */
  async #look(): Promise<void> {
    if (this.#line.isEmpty && performance.now() > this.#received + RESTING) return
    await this.#findLanes()
    this.#stand()
    if (this.#isSuspicious) await this.#search()
  }

  /** There is a new lane, or a consumer was made anew, and with the one before went the pulls that waited. */
  async #onNews(name: string): Promise<void> {
    for (const lane of this.#open) if (lane.name === name) lane.stands = 0
    await this.#look()
  }

  /**
   * A server that was killed may come back with messages that it will never hand out: its consumers believe that they
   * are done, or have forgotten who had them. What can be seen is that there are more than a consumer knows of.
   */
  async #search(): Promise<void> {
    const clean: boolean[] = []
    for (const lane of this.#open) clean.push(await this.#searchLane(lane))
    this.#isSuspicious = clean.includes(false)
  }

  /** Whether there is nothing that its consumer does not know. */
  async #searchLane(lane: Lane): Promise<boolean> {
    const call = `CONSUMER.INFO.${this.name}.${lane.name}`
    const before = await this.#count(lane)
    const { created, num_pending, num_ack_pending } = await this.#settings.link.api<ConsumerInfo>(call)
    const after = await this.#count(lane)
    const known = num_pending + num_ack_pending
    const sent = after.last - before.last
    if (before.messages + sent <= known) {
      lane.strays = 0
      return true
    }
    // An acknowledgement takes a moment.
    const isCertain = after.messages - sent > known
    lane.strays = isCertain ? (lane.created === created ? lane.strays : 0) + 1 : 0
    lane.created = created
    if (lane.strays >= CERTAIN) await this.#reset(lane)
    return false
  }

  async #count(lane: Lane): Promise<{ messages: number; last: number }> {
    const filter = { subjects_filter: `${this.#root}.${filterOf(lane.name)}` }
    const { state } = await this.#settings.link.api<StreamInfo>(`STREAM.INFO.${this.name}`, filter)
    const messages = Object.values(state.subjects ?? {}).reduce((sum, count) => sum + count, 0)
    return { messages, last: state.last_seq }
  }

  /** All that is in a lane is handed out again, also what somebody has: twice rather than never. */
  async #reset(lane: Lane): Promise<void> {
    const { link } = this.#settings
    await link.api(`CONSUMER.DELETE.${this.name}.${lane.name}`)
    await this.#makeConsumer(lane.name, lane.lease)
    link.tell(this.#news, lane.name)
  }

  /** All that was asked for on the connection before is forgotten. */
  #connected(): void {
    this.#settings.link.subscribe(this.#news, (news) => void this.#onNews(news.string()).catch(() => {}))
    for (const lane of this.#open) {
      lane.inbox = undefined
      lane.stands = 0
      lane.look?.end()
    }
    this.#isSuspicious = true
    // They look for themselves; there may be more now than there was.
    this.#line.wake()
    void this.#keep(this.#all).catch(() => {})
  }

  /** What is there, or has come for nobody. */
  async #take(max: number, waits: boolean): Promise<Delivery[]> {
    if (this.#stash.length > 0) return this.#stash.sort(inOrder).splice(0, max)
    const now = performance.now()
    const found: Delivery[] = []
    // Where a pull waits there is nothing.
    const lanes = this.#open.filter((lane) => !(waits && lane.stands > now))
    const high = lanes.filter(({ rank }) => rank > 0)
    const rest = lanes.filter(({ rank }) => rank === 0)
    const first = this.#turn++ % Math.max(rest.length, 1)
    for (const lane of [...high, ...rest.slice(first), ...rest.slice(0, first)]) {
      if (found.length >= max) break
      found.push(...(await this.#lookInto(lane, max - found.length)))
    }
    return found.length > 1 ? found.sort(inOrder) : found
  }

  /** One look after the other. */
  #lookInto(lane: Lane, max: number): Promise<Delivery[]> {
    const looked = lane.looking.then(() => this.#lookNow(lane, max))
    lane.looking = looked.catch(() => {})
    return looked
  }

  async #lookNow(lane: Lane, max: number): Promise<Delivery[]> {
    for (;;) {
      // It has one at a time, which is here, or will come.
      if (lane.isSerial && (lane.holding.all.length > 0 || lane.stands > performance.now())) return []
      const asked = performance.now()
      const messages = await this.#pull(lane, lane.isSerial ? 1 : max)
      if (messages === undefined) {
        await this.#mend()
        continue
      }
      const admitted = messages.map((message) => this.#admit(lane, message, asked))
      // Most have been through nothing that is to be found out.
      const found = (
        admitted.some(isPromise) ? await Promise.all(admitted) : (admitted as (Delivery | undefined)[])
      ).filter((one) => one !== undefined)
      // There may be more behind what is not due, or nobody wants any more.
      if (found.length > 0 || messages.length === 0) return found
    }
  }

  /** What a lane has now; undefined if it is not there. */
  #pull(lane: Lane, batch: number): Promise<Msg[] | undefined> {
    const inbox = this.#inboxOf(lane)
    if (inbox === undefined) return Promise.resolve([])
    const messages: Msg[] = []
    return new Promise((resolve) => {
      const end = (status?: number) => {
        clearTimeout(timer)
        lane.look = undefined
        resolve(status === GONE && messages.length === 0 ? undefined : messages)
      }
      const late = () => {
        if (!lane.isSerial) {
          end(GONE)
          return
        }
        // Somebody else has its one message, and ours is still asked for.
        lane.asked = performance.now()
        lane.stands = lane.asked + PULL
        end()
      }
      const timer = setTimeout(late, lane.isSerial ? TAKEN : LOOK)
      lane.look = { batch, messages, end }
      this.#ask(lane, { batch, no_wait: true }, inbox)
    })
  }

  #ask(lane: Lane, request: object, reply: string): void {
    this.#settings.link.tell(`$JS.API.CONSUMER.MSG.NEXT.${this.name}.${lane.name}`, JSON.stringify(request), reply)
  }

  /** Where messages of a lane come to; undefined if there is no connection. */
  #inboxOf(lane: Lane): string | undefined {
    if (lane.inbox !== undefined) return lane.inbox
    const { link } = this.#settings
    const inbox = link.client.createInbox()
    const subscriptions = [
      link.subscribe(inbox, (message) => this.#onLook(lane, message)),
      link.subscribe(`${inbox}.stand`, (message) => this.#onStand(lane, message)),
    ]
    if (subscriptions.includes(undefined)) return undefined
    lane.inbox = inbox
    return inbox
  }

  #onLook(lane: Lane, message: Msg): void {
    const { look } = lane
    if (isStatus(message)) look?.end(message.headers?.code)
    else if (look === undefined) void this.#came(lane, message)
    else if (look.messages.push(message) >= look.batch) look.end()
  }

  /** Has each lane tell of the next message, as long as somebody waits. */
  #stand(): void {
    if (this.#line.isEmpty) return
    const now = performance.now()
    const left = Math.min(Math.max(this.#line.latest - now, 1), PULL)
    for (const lane of this.#open) {
      if (lane.stands > now) continue
      const inbox = this.#inboxOf(lane)
      if (inbox === undefined) return
      lane.stands = now + left + LOOK
      lane.asked = now
      this.#ask(lane, { batch: 1, expires: Math.ceil(left) * NANOS }, `${inbox}.stand`)
    }
  }

  #onStand(lane: Lane, message: Msg): void {
    if (!isStatus(message)) {
      void this.#came(lane, message)
      return
    }
    lane.stands = 0
    const code = message.headers?.code
    const isGone = code === GONE || code === DELETED
    // What is gone is not asked again and again.
    const again = isGone ? this.#mend().then(() => sleep(STASHED, undefined, { ref: false })) : Promise.resolve()
    again.then(
      () => this.#stand(),
      () => {},
    )
  }

  /** One that nobody has looked for. */
  async #came(lane: Lane, message: Msg): Promise<void> {
    lane.stands = 0
    const delivery = await this.#admit(lane, message, lane.asked)
    if (delivery === undefined) this.#stand()
    else if (this.#isClosed) this.#giveBack([delivery])
    else if (this.#line.hand(delivery)) this.#stand()
    else {
      this.#stash.push(delivery)
      this.#stashed ??= setTimeout(() => {
        this.#stashed = undefined
        this.#giveBack(this.#stash.splice(0))
      }, STASHED)
    }
  }

  /**
   * Makes it one of those that this process has; undefined if nobody is to have it now. It cannot have come before it
   * was `asked` for; but long ago, if the process was stopped since.
   */
  #admit(lane: Lane, message: Msg, asked: number): Promise<Delivery | undefined> | Delivery | undefined {
    const place = placeOf(message)
    const { sequence, count } = place
    const before = this.#returned.get(sequence)
    this.#returned.delete(sequence)
    const isKnown = count === 1 || before?.count === count - 1
    // Kept alive from here on, while it is found out what it has been through.
    const held = new Held(
      lane,
      message,
      place,
      isKnown ? before : undefined,
      Math.max(this.#beats[0], asked) + lane.lease * SAFE,
    )
    lane.holding.add(held)
    if (isKnown) return this.#admitKnown(held, false)
    return this.#recall(held).then(
      () => this.#admitKnown(held, true),
      () => {
        // It comes again.
        this.#remove(held)
        return undefined
      },
    )
  }

  #admitKnown(held: Held, suspect: boolean): Promise<undefined> | Delivery | undefined {
    const { clock, link, notes } = this.#settings
    const now = clock.now()
    const { due, expires, key } = held.fields
    const wait = Math.max(due, held.due) - now
    if (expires > 0 && expires <= now) {
      this.#remove(held)
      link.tell(held.reply, ACK)
      if (held.note !== undefined) void notes.remove(held.note).catch(() => {})
      return undefined
    }
    if (wait > 0) {
      this.#return(held, now + wait)
      return undefined
    }
    return held.lane.name === 'd' && key !== undefined ? this.#join(held) : held.toDelivery(suspect)
  }

  /** What others have written down of it. */
  async #recall(held: Held): Promise<void> {
    const entry = await this.#settings.notes.get(this.#noteOf(held))
    if (entry === undefined) return
    const { attempts, losses, begun = false, due = 0 } = JSON.parse(entry.value) as Note
    held.note = entry.sequence
    held.attempts = attempts
    held.losses = losses + (begun ? 1 : 0)
    held.due = due
    if (begun) await this.write(held, { losses: held.losses })
  }

  #noteOf({ sequence }: Held): string {
    return `${nameOf(this.queue)}.${sequence}`
  }

  /** For all who get the message after this process. */
  async write(held: Held, change: Partial<Note> = {}): Promise<void> {
    const { attempts, losses } = held
    const note: Note = { attempts, losses, ...change }
    held.note = await this.#settings.notes.put('settle', this.#noteOf(held), JSON.stringify(note))
  }

  /** What was delayed and has a key is behind others of its key now. */
  async #join(held: Held): Promise<undefined> {
    const { body, fields, sequence } = held
    const message: Outgoing = { ...fields, body, due: 0, dedup: 0 }
    try {
      await this.send('receive', message, `${sequence}~due`, fields.sentAt)
    } catch {
      // It comes again.
      return undefined
    } finally {
      this.#remove(held)
    }
    this.#settings.link.tell(held.reply, ACK)
    return undefined
  }

  /** False if it was not ours any more. */
  #remove(held: Held): boolean {
    held.cancel?.()
    return held.lane.holding.delete(held)
  }

  #grant(deliveries: Delivery[], lease: number): Delivery[] {
    if (lease !== Number.POSITIVE_INFINITY) {
      for (const { token } of deliveries) this.extend(token as Held, this.#settings.clock.now() + lease)
    }
    return deliveries
  }

  get #all(): Held[] {
    return this.#open.flatMap(({ holding }) => holding.all)
  }

  // Settling.

  /** Whether this process may still do something with it. */
  has(held: Held): boolean {
    if (performance.now() < held.safe) return held.lane.holding.has(held)
    this.#remove(held)
    return false
  }

  /** Takes it out of the hands of this process; false if it was not there any more. */
  take(held: Held): boolean {
    return this.has(held) && this.#remove(held)
  }

  /** Tells the server, every so often, that they are in good hands. */
  async #keep(all: readonly Held[]): Promise<void> {
    const kept = all.filter((held) => this.has(held))
    if (kept.length === 0) return
    const { link } = this.#settings
    const now = performance.now()
    for (const { reply } of kept) link.tell(reply, WORKING)
    await link.flush()
    for (const held of kept) held.safe = now + held.lane.lease * SAFE
  }

  extend(held: Held, until: number): void {
    const { clock } = this.#settings
    held.cancel?.()
    held.cancel = clock.after(until - clock.now(), () => void this.#expire(held))
  }

  /** Its time is over: somebody else may have it. */
  async #expire(held: Held): Promise<void> {
    if (!this.take(held)) return
    held.losses++
    // Unless it can be told, it is known by the time that the server waits.
    await this.write(held).then(
      () => this.#return(held, 0),
      () => {},
    )
  }

  /** What the server is told of one that is given back. */
  nak(held: Held, due: number): string {
    const { clock } = this.#settings
    const { sequence, count, attempts, losses, note } = held
    this.#returned.set(sequence, { count, attempts, losses, note, due, isDelayed: held.lane.name === 'd' })
    if (this.#returned.size > MOST_RETURNED) this.#returned.delete(this.#returned.keys().next().value as number)
    const wait = due - clock.now()
    return wait > 0 ? `-NAK {"delay": ${Math.ceil(wait) * NANOS}}` : '-NAK'
  }

  #return(held: Held, due: number): void {
    this.#remove(held)
    this.#settings.link.tell(held.reply, this.nak(held, due))
  }

  #giveBack(deliveries: readonly Delivery[]): void {
    for (const { token } of [...deliveries].sort(inOrder)) if (this.take(token as Held)) this.#return(token as Held, 0)
  }

  // What there is.

  async stats(): Promise<TransportStats> {
    const [info, consumers] = await Promise.all([this.#info(), this.#consumers()])
    const stats = { ready: 0, leased: 0, delayed: 0, held: 0, bytes: info?.bytes ?? 0, oldest: undefined }
    if (info === undefined) return stats
    const now = this.#settings.clock.now()
    // What was delayed says by its subject until when.
    const dues = Object.entries(info.subjects ?? {}).map(([subject, count]) => [dueOf(subject), count] as const)
    const delayed = dues.reduce((sum, [due, count]) => (due > now ? sum + count : sum), 0)
    let [ready, held, taken] = [0, 0, 0]
    for (const { name, num_pending, num_ack_pending } of consumers) {
      if (name === 'd') continue
      if (name.startsWith('k') && num_ack_pending > 0) held += num_pending
      else ready += num_pending
      taken += num_ack_pending
    }
    const total = dues.reduce((sum, [, count]) => sum + count, 0)
    const own = this.#all.filter(({ lane }) => lane.name === 'd').length
    // A lane that nobody has ever received from has no consumer yet.
    const isNew = consumers.every(({ name }) => name !== 'p0')
    const unseen = isNew ? Math.max(info.messages - total - ready - held - taken, 0) : 0
    const due = Math.max(total - delayed - own, 0)
    // The server counts what was given back as taken; this process knows what it gave back, not what became of that.
    const others = Math.max(taken - (this.#all.length - own), 0)
    const returned = [...this.#returned.values()].filter(({ isDelayed }) => !isDelayed)
    const waiting = Math.min(returned.filter((one) => one.due > now).length, others)
    const back = Math.min(returned.filter((one) => one.due <= now).length, others - waiting) + this.#stash.length
    const all = ready + unseen + due + back
    const oldest = all > 0 ? Date.parse(info.first_ts) : undefined
    return {
      ready: all,
      leased: Math.max(taken - waiting - back + own, 0),
      delayed: delayed + waiting,
      held,
      bytes: info.bytes,
      oldest,
    }
  }

  async #info(): Promise<StreamInfo['state'] | undefined> {
    const filter = { subjects_filter: `${this.#root}.d.>` }
    const info = await this.#settings.link.api<StreamInfo>(`STREAM.INFO.${this.name}`, filter).catch(unless(undefined))
    return info?.state
  }

  async #consumers(): Promise<readonly ConsumerInfo[]> {
    const all: ConsumerInfo[] = []
    for (;;) {
      // It tells of 256 at a time, and there may be more.
      const { consumers, total } = await this.#settings.link
        .api<{ consumers: ConsumerInfo[] | null; total: number }>(`CONSUMER.LIST.${this.name}`, { offset: all.length })
        .catch(unless({ consumers: null, total: 0 }))
      all.push(...(consumers ?? []))
      if (consumers === null || consumers.length === 0 || all.length >= total) return all
    }
  }

  /** The messages behind the place `after`, wherever they are. */
  async browse(max: number, after: string | undefined): Promise<Page> {
    const deliveries: Delivery[] = []
    let next = Number(after ?? 0) + 1
    while (deliveries.length <= max) {
      const stored = await this.#stored(next)
      if (stored === undefined) return { deliveries, next: undefined }
      if (deliveries.length === max) break
      const { seq, time, hdrs = '', data = '' } = stored
      const fields = parse(Buffer.from(hdrs, 'base64').toString())
      const { id, format, key, priority, headers, sentAt } = read(fields, Date.parse(time))
      const body = Buffer.from(data, 'base64')
      const past = { attempts: 0, losses: 0, suspect: false, damage: undefined }
      deliveries.push({ token: undefined, id, body, format, key, priority, headers, sentAt, ...past })
      next = seq + 1
    }
    return { deliveries, next: String(next - 1) }
  }

  async #stored(sequence: number): Promise<StoredMessage | undefined> {
    const query = { seq: sequence, next_by_subj: `${this.#root}.>` }
    const answer = await this.#settings.link
      .api<{ message: StoredMessage }>(`STREAM.MSG.GET.${this.name}`, query)
      .catch(unless(undefined))
    return answer?.message
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
    for (const { look } of this.#open) look?.end()
    const all = this.#all.filter((held) => this.has(held))
    for (const held of all.sort((a, b) => a.sequence - b.sequence)) this.#return(held, 0)
  }
}

interface StoredMessage {
  readonly seq: number
  readonly time: string
  readonly hdrs?: string
  readonly data?: string
}

const dueOf = (subject: string): number => Number(subject.slice(subject.lastIndexOf('.') + 1))
