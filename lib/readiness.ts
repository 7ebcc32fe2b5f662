// Waiting for a descriptor on the loop of this thread: first come, first served.
import type { AbortError } from './errors.ts'
import { type Descriptor, UV_READABLE, UV_WRITABLE } from './native.ts'
import { type Pending, Waiter } from './waiting.ts'

/** Those who wait, in the order they came, with their attempts. */
type Line = Map<Pending, () => boolean>

export type Direction = 'read' | 'write'

/** How many messages may pass before the loop gets a turn. */
const TURN = 256

/** Errors that only the owner can word. */
export interface ReadinessErrors {
  timeout: (direction: Direction) => Error
  /** `errno` is negative; undefined: closed. */
  failure: (direction: Direction, errno?: number) => Error
}

/** Owns a descriptor, and serves those who wait for it. */
export class Readiness {
  readonly #descriptor: Descriptor
  readonly #errors: ReadinessErrors
  readonly #lines: Record<Direction, Line> = { read: new Map(), write: new Map() }
  /** Those that are served in the next turn of the loop. */
  readonly #later = new Set<Line>()
  #turn = TURN
  #refed = true
  #watched = 0

  constructor(descriptor: Descriptor, errors: ReadinessErrors) {
    this.#descriptor = descriptor
    this.#descriptor.onready = (events) => this.#onready(events)
    this.#errors = errors
  }

  /** Whether nobody waits in this direction. */
  idle(direction: Direction): boolean {
    return this.#lines[direction].size === 0
  }

  /**
   * Whether one more message may pass at once. If not, it has to wait for a
   * turn of the loop.
   */
  admit(direction: Direction): boolean {
    return this.#lines[direction].size === 0 && this.#turn-- > 0
  }

  /** Counts messages that passed together. */
  spend(messages: number): void {
    this.#turn -= messages
  }

  /** Attempts when the descriptor is ready, until one brings something. */
  wait<T>(
    direction: Direction,
    attempt: () => T | undefined,
    deadline: number,
    signal: AbortSignal | undefined,
  ): Waiter<T> {
    const line = this.#lines[direction]
    const leave = (waiter: Waiter<T>, reason: 'timeout' | AbortError) => {
      // What is there is not refused, though the loop has not heard of it; those before it come first.
      if (reason === 'timeout') this.#serve(line, waiter)
      if (line.delete(waiter)) waiter.reject(reason === 'timeout' ? this.#errors.timeout(direction) : reason)
      this.#watch()
    }
    const waiter = new Waiter<T>(deadline, signal, leave)
    const serve = () => {
      try {
        const value = attempt()
        if (value === undefined) return false
        waiter.resolve(value)
      } catch (error) {
        waiter.reject(error)
      }
      return true
    }
    const first = line.size === 0
    line.set(waiter, serve)
    if (deadline <= performance.now()) leave(waiter, 'timeout')
    // One that was not admitted has not been attempted: no event may ever come for what can only fail.
    else if (first && this.#turn <= 0) this.#serveLater(line)
    else this.#watch()
    return waiter
  }

  /** Whether waiting holds the loop. It does at first. */
  set refed(refed: boolean) {
    this.#refed = refed
    this.#watch(true)
  }

  close(): void {
    this.#descriptor.close()
    this.#watched = 0 // what comes to wait now has to hear that it is closed
    this.#fail('read')
    this.#fail('write')
  }

  #onready(events: number): void {
    if (events < 0) {
      this.#fail('read', events)
      this.#fail('write', events)
    } else {
      // A turn for each, or one direction could keep the other waiting for ever.
      this.#turn = TURN
      if (events & UV_READABLE) this.#serve(this.#lines.read)
      if (events & UV_WRITABLE) {
        this.#turn = TURN
        this.#serve(this.#lines.write)
      }
    }
    this.#watch()
  }

  #serveLater(line: Line): void {
    if (this.#later.has(line)) return
    this.#later.add(line)
    // Held although what waits may be unreferenced: it is one turn of the loop.
    setImmediate(() => {
      this.#later.delete(line)
      this.#turn = TURN
      this.#serve(line)
      this.#watch()
    })
  }

  /** In order, as many as one turn of the loop allows; or all up to `last`. */
  #serve(line: Line, last?: Pending): void {
    for (const [waiter, serve] of line) {
      if (this.#turn-- <= 0 && last === undefined) {
        // It has not been attempted, either.
        this.#serveLater(line)
        return
      }
      if (!serve()) return
      line.delete(waiter)
      if (waiter === last) return
    }
  }

  #watch(always = false): void {
    const { read, write } = this.#lines
    const wanted = (read.size > 0 ? UV_READABLE : 0) | (write.size > 0 ? UV_WRITABLE : 0)
    if (wanted === this.#watched && !always) return
    this.#watched = wanted
    const errno = this.#descriptor.watch(wanted, this.#refed)
    if (errno >= 0 || wanted === 0) return
    this.#watched = 0
    this.#fail('read', errno)
    this.#fail('write', errno)
  }

  #fail(direction: Direction, errno?: number): void {
    const line = this.#lines[direction]
    const waiters = [...line.keys()]
    line.clear()
    for (const waiter of waiters) waiter.reject(this.#errors.failure(direction, errno))
  }
}
