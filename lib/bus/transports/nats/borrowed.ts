// A queue that goes with this process: a subscription, and what came by it. Whoever sends waits until it is here.
import type { Clock } from '../../clock.ts'
import { type Delivery, NO_HEADERS, type Outgoing, type ReceiveOptions, type TransportStats } from '../../transport.ts'
import { fieldsOf, read } from './envelope.ts'
import { Line } from './line.ts'
import type { Link, Msg } from './link.ts'

/** How many messages it has room for, and how many bytes of them. */
const ROOM = 10_000
const BYTES = 64 * 2 ** 20

/** What its sender is told: it is here, or there is no room for it. */
const TAKEN = '+OK'
export const FULL = '-FULL'

/** A message of it in somebody's hands. */
export class Lent {
  readonly borrowed: Borrowed
  readonly delivery: Delivery
  isHeld = false

  constructor(borrowed: Borrowed, message: Omit<Delivery, 'token'>) {
    this.borrowed = borrowed
    this.delivery = { ...message, token: this }
  }
}

export class Borrowed {
  readonly queue: string
  readonly #link: Link
  readonly #clock: Clock
  readonly #line = new Line<Delivery>()
  #lent: Lent[] = []
  #held = 0
  #bytes = 0
  readonly #detach: () => void
  #unsubscribe: (() => void) | undefined
  #isClosed = false

  constructor(queue: string, subject: string, link: Link, clock: Clock) {
    this.queue = queue
    this.#link = link
    this.#clock = clock
    this.#detach = link.onConnection(() => {
      const subscription = link.subscribe(subject, (message) => this.#came(message))
      this.#unsubscribe = () => subscription?.unsubscribe()
    })
  }

  #came(message: Msg): void {
    const isFull = this.#lent.length + this.#held >= ROOM || this.#bytes + message.data.length > BYTES
    message.respond(isFull ? FULL : TAKEN)
    if (isFull) return
    const { id, format, key, priority, headers, sentAt, expires, due } = read(fieldsOf(message), this.#clock.now())
    const now = this.#clock.now()
    if (expires > 0 && expires <= now) return
    const past = { attempts: 0, losses: 0, suspect: false, damage: undefined }
    const lent = new Lent(this, { id, body: message.data, format, key, priority, headers, sentAt, ...past })
    this.#bytes += message.data.length
    if (due > now) this.#clock.after(due - now, () => this.#add(lent))
    else this.#add(lent)
  }

  #add(lent: Lent): void {
    if (this.#isClosed) return
    if (this.#line.hand(lent.delivery)) {
      this.#hold(lent)
      return
    }
    const { priority } = lent.delivery
    const at = priority === 0 ? -1 : this.#lent.findIndex(({ delivery }) => delivery.priority < priority)
    if (at < 0) this.#lent.push(lent)
    else this.#lent.splice(at, 0, lent)
  }

  #hold(lent: Lent): void {
    lent.isHeld = true
    this.#held++
  }

  async receive({ max, deadline, signal, background }: ReceiveOptions): Promise<Delivery[]> {
    if (this.#lent.length > 0) {
      const lent = this.#lent.splice(0, max)
      for (const one of lent) this.#hold(one)
      return lent.map(({ delivery }) => delivery)
    }
    if (performance.now() >= deadline) return []
    if (background === true) return this.#line.wait(deadline, signal)
    this.#link.hold(true)
    try {
      return await this.#line.wait(deadline, signal)
    } finally {
      this.#link.hold(false)
    }
  }

  /** False if it was settled before. */
  done(lent: Lent): boolean {
    if (!lent.isHeld) return false
    lent.isHeld = false
    this.#held--
    this.#bytes -= lent.delivery.body.length
    return true
  }

  again(lent: Lent, due: number, isCounted: boolean): boolean {
    if (!this.done(lent)) return false
    const { attempts } = lent.delivery
    const again = new Lent(this, { ...lent.delivery, attempts: attempts + (isCounted ? 1 : 0) })
    this.#bytes += lent.delivery.body.length
    const wait = due - this.#clock.now()
    if (wait > 0) this.#clock.after(wait, () => this.#add(again))
    else this.#first(again)
    return true
  }

  /** Where it was. */
  #first(lent: Lent): void {
    if (this.#line.hand(lent.delivery)) this.#hold(lent)
    else this.#lent.unshift(lent)
  }

  stats(): TransportStats {
    const oldest = this.#lent[0]?.delivery.sentAt
    return { ready: this.#lent.length, leased: this.#held, delayed: 0, held: 0, bytes: this.#bytes, oldest }
  }

  close(reason: Error): void {
    this.#isClosed = true
    this.#detach()
    this.#unsubscribe?.()
    this.#lent = []
    this.#line.fail(reason)
  }
}

export const outgoing = ({ id, body, format, priority, headers }: Delivery): Outgoing => ({
  id,
  body,
  format,
  dedup: 0,
  key: undefined,
  priority,
  due: 0,
  expires: 0,
  headers: headers === NO_HEADERS ? undefined : headers,
})
