// A part of a queue: its consumer, which all processes share, how that is asked, and what it has forgotten.
import { setTimeout as sleep } from 'node:timers/promises'
import type { Delivery } from '../../transport.ts'
import { Hands, type HandsOf } from './hands.ts'
import { ApiError, type Msg } from './link.ts'
import { filterOf, type LaneName } from './names.ts'
import { type ConsumerInfo, consumerOf, firstOf, NO_CONSUMER, type StreamInfo } from './state.ts'

/** What it is a part of. */
export interface LaneOf extends HandsOf {
  /** What the subjects of the stream begin with. */
  readonly root: string
  /** The subject by which others hear of a consumer that is new. */
  readonly news: string
  /** Milliseconds after which the server takes a message away from a process that says nothing. */
  readonly lease: number
  readonly receiver: Receiver
}

/** Who receives from it. */
interface Receiver {
  /** A point of performance.now() at which this process was not stopped, shortly before now. */
  beat(): number
  /** For what nobody has looked for. */
  came(delivery: Delivery): void
  /** Has each lane tell of the next message, if somebody waits. */
  stand(): void
  /** Makes what somebody has removed; it takes its time, so that what is gone is not asked again and again. */
  mend(): Promise<void>
}

/** Milliseconds for which a pull waits at the server. */
export const PULL = 30_000
/** Milliseconds for an answer to a look, and after which it is asked what is wrong. */
const LOOK = 2000
const SILENT = 300
/** Milliseconds beside its way after which there will be none, because somebody has the one message of a lane. */
const TAKEN = 30
/** In how many looks the same has to be wrong with a lane. */
const CERTAIN = 3
/** Milliseconds between those who see it. */
const APART = 500
/** Milliseconds for a consumer to be made while others remove it, and after which it is tried again. */
const MAKING = 5000
const AGAIN = 50
/** It is not wrong for certain. */
const UNCERTAIN = ''
/** Nanoseconds in a millisecond. */
const NANOS = 1_000_000

/** Statuses of a pull: there is no such consumer; it was removed. */
const GONE = 503
const DELETED = 409
/** What JetStream answers when its files could not be made. */
const NOT_MADE = 10_012

interface Look {
  /** Where its status comes to. */
  readonly reply: string
  readonly batch: number
  readonly messages: Msg[]
  /** What there is, is there. */
  end(status?: number): void
}

/** What says why there are no messages. */
const isStatus = ({ reply }: Msg): boolean => reply === undefined || reply === ''

const isPromise = (value: unknown): value is Promise<unknown> => value instanceof Promise

export class Lane {
  readonly name: LaneName
  readonly hands: Hands
  readonly #of: LaneOf
  /** Where its messages come to, of this connection. */
  #inbox: string | undefined
  #look: Look | undefined
  #looking: Promise<unknown> = Promise.resolve()
  /** Until this point of performance.now() a pull waits at the server. */
  #stands = 0
  /** When it was sent there, and where its status comes to. */
  #asked = 0
  #standing = ''
  #pulls = 0
  /** What was wrong with it in the last look, and in how many of them. */
  #wrongBefore: string | undefined
  #seen = 0

  private constructor(name: LaneName, lease: number, of: LaneOf) {
    this.name = name
    this.#of = of
    this.hands = new Hands(name, lease, of)
  }

  /** Makes its consumer, unless that is there. */
  static async open(name: LaneName, of: LaneOf): Promise<Lane> {
    const { isNew, lease } = await makeConsumer(name, of.lease, of)
    // Who receives from the queue has to know.
    if (isNew) of.link.tell(of.news, name)
    return new Lane(name, lease, of)
  }

  /** Somebody may have removed its consumer. */
  async mend(): Promise<void> {
    const { isNew } = await makeConsumer(this.name, this.hands.lease, this.#of)
    this.hands.doubt()
    if (!isNew) return
    this.#of.link.tell(this.#of.news, this.name)
    // The pulls that waited went with it, and so did its numbers.
    this.#stands = 0
    this.#look?.end(GONE)
    this.hands.forget()
  }

  /** The highest is looked into first. */
  get rank(): number {
    return this.name.startsWith('p') ? Number(this.name.slice(1)) : 0
  }

  /** One message at a time. */
  get isSerial(): boolean {
    return this.name.startsWith('k')
  }

  /** Whether a pull waits at the server, so that there is nothing. */
  get stands(): boolean {
    return this.#stands > performance.now()
  }

  // Looking: what is there now.

  /** One look after the other. */
  take(max: number): Promise<Delivery[]> {
    const looked = this.#looking.then(() => this.#take(max))
    this.#looking = looked.catch(() => {})
    return looked
  }

  async #take(max: number): Promise<Delivery[]> {
    for (let isMended = false; ; ) {
      // It has one at a time, which is here, or will come.
      if (this.isSerial && (!this.hands.isEmpty || this.stands)) return []
      const asked = performance.now()
      const messages = await this.#pull(this.isSerial ? 1 : max)
      if (messages === undefined) {
        // A server that still says nothing must not keep us from the other lanes.
        if (isMended) return []
        await this.#of.receiver.mend()
        isMended = true
        continue
      }
      const admitted = messages.map((message) => this.#admit(message, asked))
      // Most have been through nothing that is to be found out.
      const found = (
        admitted.some(isPromise) ? await Promise.all(admitted) : (admitted as (Delivery | undefined)[])
      ).filter((one) => one !== undefined)
      // There may be more behind what is not due, or nobody wants any more.
      if (found.length > 0 || messages.length === 0) return found
    }
  }

  /** It cannot have come before it was `asked` for; but long ago, if the process was stopped since. */
  #admit(message: Msg, asked: number): Promise<Delivery | undefined> | Delivery | undefined {
    return this.hands.admit(message, Math.max(this.#of.receiver.beat(), asked))
  }

  /** Undefined if there is no consumer. */
  #pull(batch: number): Promise<Msg[] | undefined> {
    const inbox = this.#inboxOf()
    if (inbox === undefined) return Promise.resolve([])
    // One that comes late is not of the next look.
    const reply = `${inbox}.look.${++this.#pulls}`
    const asked = performance.now()
    return new Promise((resolve) => {
      const messages: Msg[] = []
      const end = (status?: number) => {
        clearTimeout(timer)
        if (this.#look !== look) return
        this.#look = undefined
        resolve(status === GONE && messages.length === 0 ? undefined : messages)
      }
      const look = { reply, batch, messages, end }
      const taken = () => {
        // Somebody else has its one message, and ours is still asked for; unless the answer is only slow.
        this.#asked = asked
        this.#stands = asked + PULL
        this.#standing = reply
        end()
      }
      let timer = this.isSerial
        ? setTimeout(taken, TAKEN + Math.min(this.#of.link.roundTrip, SILENT))
        : setTimeout(() => {
            timer = setTimeout(end, LOOK, GONE)
            // Nobody answers for a consumer that is gone, either.
            this.#info().catch((error: unknown) => {
              if (error instanceof ApiError) end(GONE)
            })
          }, SILENT)
      this.#look = look
      this.#ask({ batch, no_wait: true }, reply)
    })
  }

  #info(): Promise<ConsumerInfo> {
    const { link, stream } = this.#of
    return consumerOf(stream, this.name, link)
  }

  #ask(request: object, reply: string): void {
    const { link, stream } = this.#of
    link.tell(`$JS.API.CONSUMER.MSG.NEXT.${stream}.${this.name}`, JSON.stringify(request), reply)
  }

  /** Where its messages come to; undefined if there is no connection. */
  #inboxOf(): string | undefined {
    if (this.#inbox !== undefined) return this.#inbox
    const { link } = this.#of
    const inbox = link.client.createInbox()
    const subscriptions = [
      link.subscribe(`${inbox}.look.*`, (message) => this.#onLook(message)),
      link.subscribe(`${inbox}.stand.*`, (message) => this.#onStand(message)),
    ]
    if (subscriptions.includes(undefined)) return undefined
    this.#inbox = inbox
    return inbox
  }

  #onLook(message: Msg): void {
    const look = this.#look
    if (!isStatus(message)) {
      if (look === undefined) void this.#came(message)
      else if (look.messages.push(message) >= look.batch) look.end()
    } else if (message.subject === look?.reply) look.end(message.headers?.code)
    else this.#onStand(message)
  }

  /** Nobody waits for what a look finds any more. */
  endLook(): void {
    this.#look?.end()
  }

  // Standing: the next that comes.

  /** Has the server tell of the next message, for so many milliseconds. */
  stand(left: number): void {
    if (this.stands) return
    const inbox = this.#inboxOf()
    if (inbox === undefined) return
    this.#asked = performance.now()
    this.#stands = this.#asked + left
    this.#standing = `${inbox}.stand.${++this.#pulls}`
    this.#ask({ batch: 1, expires: Math.ceil(left) * NANOS }, this.#standing)
  }

  /** A server drops a pull without a word if a message comes as it expires: where one waits in vain there is none. */
  check(consumers: readonly ConsumerInfo[], asked: number): void {
    const own = consumers.find(({ name }) => name === this.name)
    if (own === undefined || this.#asked >= asked) return
    const isTaken = this.isSerial && own.num_ack_pending > 0
    if (own.num_pending > 0 && !isTaken) this.#stands = 0
  }

  /** Somebody has made its consumer, and maybe its stream: the pull that waited is gone. */
  anew(): void {
    this.#stands = 0
    this.hands.doubt()
  }

  #onStand(message: Msg): void {
    if (!isStatus(message)) {
      void this.#came(message)
      return
    }
    // Of one that is over nobody waits for its end.
    if (message.subject !== this.#standing) return
    this.#stands = 0
    const { receiver } = this.#of
    const code = message.headers?.code
    const isGone = code === GONE || code === DELETED
    const again = isGone ? receiver.mend() : Promise.resolve()
    again.then(
      () => receiver.stand(),
      () => {},
    )
  }

  /** One that nobody has looked for. */
  async #came(message: Msg): Promise<void> {
    this.#stands = 0
    const delivery = await this.#admit(message, this.#asked)
    if (delivery === undefined) this.#of.receiver.stand()
    else this.#of.receiver.came(delivery)
  }

  /** All that was asked for on the connection before is forgotten. */
  connected(): void {
    this.#inbox = undefined
    this.#stands = 0
    this.endLook()
    this.hands.doubt()
    void this.hands.keep().catch(() => {})
  }

  // Searching: what a server that was killed has forgotten.

  /**
   * A server that was killed may come back with messages that it will never hand out: its consumers believe that they
   * are done, have forgotten who had them, or wait for one that is gone already, which holds up a lane that has one at a
   * time. It knows of its messages and what its consumers have handed out at different times.
   *
   * Resolves to whether all is in order.
   */
  async search(): Promise<boolean> {
    const wrong = await this.#wrong()
    this.#seen = wrong !== undefined && wrong === this.#wrongBefore ? this.#seen + 1 : 1
    this.#wrongBefore = wrong
    if (wrong === undefined) return true
    // An acknowledgement takes a moment.
    if (wrong === UNCERTAIN || this.#seen < CERTAIN) return false
    // All who receive see it, at the same time if the server stood still: the first makes it anew.
    await sleep(Math.random() * APART, undefined, { ref: false })
    if ((await this.#wrong()) === wrong) await this.#reset()
    return false
  }

  /** What may be wrong, told apart from what else may be; undefined if all is in order. */
  async #wrong(): Promise<string | undefined> {
    const before = await this.#count()
    const { created, num_pending, num_ack_pending, delivered, ack_floor } = await this.#info()
    const after = await this.#count()
    // What is sent next has a sequence that it believes to be done; it is not there yet to be missed. In a cluster the
    // leader of a stream may be behind it for a moment, while it goes on.
    if (delivered.stream_seq > after.last) return `${created} >${delivered.stream_seq}`
    const first = await this.#first()
    // Up to here it has no business with any.
    const done = num_ack_pending > 0 ? ack_floor.stream_seq : delivered.stream_seq
    if (first <= done) return `${created} ${first}`
    if (num_ack_pending === 0) return undefined
    // It waits for one that is gone.
    if (this.isSerial) return first > delivered.stream_seq ? `${created} -${delivered.consumer_seq}` : undefined
    const known = num_pending + num_ack_pending
    const sent = after.last - before.last
    if (before.messages + sent <= known) return undefined
    return after.messages - sent > known ? created : UNCERTAIN
  }

  /** The sequence of the first message that is there. */
  async #first(): Promise<number> {
    const { link, stream, root } = this.#of
    return (await firstOf(stream, `${root}.${filterOf(this.name)}`, link))?.seq ?? Number.POSITIVE_INFINITY
  }

  async #count(): Promise<{ messages: number; last: number }> {
    const { link, stream, root } = this.#of
    const filter = { subjects_filter: `${root}.${filterOf(this.name)}` }
    const { state } = await link.api<StreamInfo>(`STREAM.INFO.${stream}`, filter)
    const messages = Object.values(state.subjects ?? {}).reduce((sum, count) => sum + count, 0)
    return { messages, last: state.last_seq }
  }

  /** All that is in it is handed out again, also what somebody has: twice rather than never. */
  async #reset(): Promise<void> {
    const { link, stream, news } = this.#of
    await link.api(`CONSUMER.DELETE.${stream}.${this.name}`).catch((error: unknown) => {
      // Somebody else does at the same time.
      if (!(error instanceof ApiError)) throw error
    })
    await makeConsumer(this.name, this.hands.lease, this.#of)
    link.tell(news, this.name)
  }
}

/** @param wanted milliseconds, if it is not there */
async function makeConsumer(
  name: LaneName,
  wanted: number,
  { link, stream, root }: LaneOf,
): Promise<{ isNew: boolean; lease: number }> {
  const config = {
    durable_name: name,
    filter_subject: `${root}.${filterOf(name)}`,
    deliver_policy: 'all',
    ack_policy: 'explicit',
    ack_wait: wanted * NANOS,
    max_deliver: -1,
    max_ack_pending: name.startsWith('k') ? 1 : -1,
    max_waiting: 4096,
    replay_policy: 'instant',
  }
  const until = performance.now() + MAKING
  for (;;) {
    try {
      const found = await consumerOf(stream, name, link)
      return { isNew: false, lease: found.config.ack_wait / NANOS }
    } catch (error) {
      if (!(error instanceof ApiError && error.number === NO_CONSUMER)) throw error
    }
    try {
      const request = { stream_name: stream, config }
      const made = await link.api<Partial<ConsumerInfo>>(`CONSUMER.DURABLE.CREATE.${stream}.${name}`, request)
      if (made.config !== undefined || performance.now() > until) return { isNew: true, lease: wanted }
    } catch (error) {
      if (!(error instanceof ApiError && error.number === NOT_MADE) || performance.now() > until) throw error
    }
    // Somebody removes it at this moment.
    await sleep(AGAIN)
  }
}
