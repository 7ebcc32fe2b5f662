// What this process has in its hands of a lane, and what it has given back.
import type { Cancel, Clock } from '../../clock.ts'
import type { Delivery, Outgoing } from '../../transport.ts'
import { Holding } from '../engine/holding.ts'
import type { Read } from '../engine/wire.ts'
import { fieldsOf, type Place, placeOf, read } from './envelope.ts'
import type { Ledger } from './ledger.ts'
import type { Link, Msg } from './link.ts'
import { type LaneName, nameOf } from './names.ts'

/** What a bus has for all of its queues. */
export interface Means {
  readonly link: Link
  readonly clock: Clock
  /** Attempts and losses of messages that were handed out before. */
  readonly notes: Ledger
}

/** Whose hands they are. */
export interface HandsOf extends Means {
  readonly queue: string
  /** The name of its stream. */
  readonly stream: string
  /** Sends again what was delayed and has a key. */
  join(message: Outgoing, messageId: string, sentAt: number): Promise<unknown>
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
}

/** How many of those are remembered. */
const MOST_RETURNED = 10_000
/** Nanoseconds in a millisecond. */
const NANOS = 1_000_000
/** The part of a lease for which it is sure that it is ours. */
const SAFE = 0.9

const [ACK, WORKING, LATER] = ['+ACK', '+WPI', `-NAK {"delay": ${1000 * NANOS}}`]

/** A message in the hands of this process. */
export class Held {
  readonly hands: Hands
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
  /** Another message may have its sequence since it came. */
  isDoubtful = false
  cancel: Cancel | undefined

  constructor(hands: Hands, message: Msg, place: Place, before: Returned | undefined, safe: number) {
    const { sequence, count, time } = place
    this.hands = hands
    this.fields = read(fieldsOf(message), time, hands.stream, sequence)
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

export class Hands {
  readonly lane: LaneName
  /** The name of its stream. */
  readonly stream: string
  /** Milliseconds for which the server waits for a word of who has a message; the first process has said so. */
  readonly lease: number
  readonly #of: HandsOf
  readonly #holding: Holding<Held>
  readonly #returned = new Map<number, Returned>()

  constructor(lane: LaneName, lease: number, of: HandsOf) {
    this.lane = lane
    this.stream = of.stream
    this.lease = lease
    this.#of = of
    this.#holding = new Holding(lease / 3, (held) => this.#keep(held))
  }

  get all(): Held[] {
    return this.#holding.all
  }

  get isEmpty(): boolean {
    return this.#holding.size === 0
  }

  /** What was given back, and until when that waits; what has become of it since is not known. */
  get dues(): number[] {
    return Array.from(this.#returned.values(), ({ due }) => due)
  }

  /**
   * Makes it one of those that this process has; undefined if nobody is to have it now. It cannot have come before the
   * point `since` of performance.now().
   */
  admit(message: Msg, since: number): Promise<Delivery | undefined> | Delivery | undefined {
    const place = placeOf(message)
    const { sequence, count } = place
    const before = this.#returned.get(sequence)
    this.#returned.delete(sequence)
    const isKnown = count === 1 || before?.count === count - 1
    // Kept alive from here on, while it is found out what it has been through.
    const held = new Held(this, message, place, isKnown ? before : undefined, since + this.lease * SAFE)
    this.#holding.add(held)
    if (isKnown) return this.#admitKnown(held, false)
    return this.#recall(held).then(
      () => this.#admitKnown(held, true),
      () => {
        // It comes again in a moment; if the server does not hear of it, when its time is over.
        if (this.take(held)) this.#of.link.tell(held.reply, LATER)
        return undefined
      },
    )
  }

  #admitKnown(held: Held, suspect: boolean): Promise<undefined> | Delivery | undefined {
    const { clock, link, notes } = this.#of
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
      this.return(held, now + wait)
      return undefined
    }
    return this.lane === 'd' && key !== undefined ? this.#join(held) : held.toDelivery(suspect)
  }

  /** What others have written down of it. */
  async #recall(held: Held): Promise<void> {
    const entry = await this.#of.notes.get(this.#noteOf(held))
    if (entry === undefined) return
    const { attempts, losses, begun = false, due = 0 } = JSON.parse(entry.value) as Note
    held.note = entry.sequence
    held.attempts = attempts
    held.losses = losses + (begun ? 1 : 0)
    held.due = due
    if (begun) await this.write(held, { losses: held.losses })
  }

  #noteOf({ sequence }: Held): string {
    return `${nameOf(this.#of.queue)}.${sequence}`
  }

  /** For all who get the message after this process. */
  async write(held: Held, change: Partial<Note> = {}): Promise<void> {
    const { attempts, losses } = held
    const note: Note = { attempts, losses, ...change }
    held.note = await this.#of.notes.put('settle', this.#noteOf(held), JSON.stringify(note))
  }

  /** What was delayed and has a key is behind others of its key now. */
  async #join(held: Held): Promise<undefined> {
    const { body, fields, sequence } = held
    try {
      await this.#of.join({ ...fields, body, due: 0, dedup: 0 }, `${sequence}~due`, fields.sentAt)
    } catch {
      // It comes again.
      return undefined
    } finally {
      this.#remove(held)
    }
    this.#of.link.tell(held.reply, ACK)
    return undefined
  }

  /** False if it was not ours any more. */
  #remove(held: Held): boolean {
    held.cancel?.()
    return this.#holding.delete(held)
  }

  /** Whether this process may still do something with it. */
  has(held: Held): boolean {
    if (performance.now() < held.safe) return this.#holding.has(held)
    this.#remove(held)
    return false
  }

  /** Takes it out of the hands of this process; false if it was not there any more. */
  take(held: Held): boolean {
    return this.has(held) && this.#remove(held)
  }

  /** Tells the server that all of them are in good hands. */
  async keep(): Promise<void> {
    await this.#keep(this.all)
  }

  async #keep(all: readonly Held[]): Promise<void> {
    const kept = all.filter((held) => this.has(held))
    if (kept.length === 0) return
    const { link } = this.#of
    const now = performance.now()
    for (const { reply } of kept) link.tell(reply, WORKING)
    await link.flush()
    for (const held of kept) held.safe = now + this.lease * SAFE
  }

  extend(held: Held, until: number): void {
    const { clock } = this.#of
    held.cancel?.()
    held.cancel = clock.after(until - clock.now(), () => void this.#expire(held))
  }

  /** Its time is over: somebody else may have it. */
  async #expire(held: Held): Promise<void> {
    if (!this.take(held)) return
    held.losses++
    // Unless it can be told, it is known by the time that the server waits.
    await this.write(held).then(
      () => this.return(held, 0),
      () => {},
    )
  }

  /** What the server is told of one that is given back. */
  nak({ sequence, count, attempts, losses, note }: Held, due: number): string {
    this.#returned.set(sequence, { count, attempts, losses, note, due })
    if (this.#returned.size > MOST_RETURNED) this.#returned.delete(this.#returned.keys().next().value as number)
    const wait = due - this.#of.clock.now()
    return wait > 0 ? `-NAK {"delay": ${Math.ceil(wait) * NANOS}}` : '-NAK'
  }

  return(held: Held, due: number): void {
    this.#remove(held)
    this.#of.link.tell(held.reply, this.nak(held, due))
  }

  /** The stream may be another than it was. */
  doubt(): void {
    for (const held of this.all) held.isDoubtful = true
  }

  /** The server has begun to count anew: what it has handed out is nobody's. */
  forget(): void {
    for (const held of this.all) this.#remove(held)
    this.#returned.clear()
  }
}
