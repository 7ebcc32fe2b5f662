// Waiting for what has no descriptor: the first in a line has a thread that does
// the blocking call; the others wait behind it.
import { constants } from 'node:os'
import type { AbortError } from './errors.ts'
import type { BlockedCall } from './native.ts'
import { type Pending, Waiter } from './waiting.ts'

const ECANCELED = -constants.errno.ECANCELED

const TURN = 256

/** One who waits. */
interface Entry {
  /** True once settled; false if it would block. */
  attempt(): boolean
  /** The call that blocks. */
  call(): BlockedCall
  /** What the call brought, or its errno; then as {@link attempt}. */
  answer(result: number, data: Buffer | undefined): boolean
  reject(error: unknown): void
}

/** What a wait needs to be put into a line. */
export interface Blocking<T> {
  /** Whether it must not come before those that wait already. */
  ordered: boolean
  /** The result, undefined if it would block. */
  attempt(): T | undefined
  call(): BlockedCall
  /** What the call brought; undefined to go on waiting. A negative errno throws. */
  answer(result: number, data: Buffer | undefined): T | undefined
}

export interface BlockingErrors {
  timeout: () => Error
  closed: () => Error
  failure: (errno: number) => Error
}

/** What all lines of a queue share. */
interface Shared {
  /** How many messages may pass before the loop gets a turn. */
  turn: number
  refed: boolean
}

/** Those who wait for the same, in the order they came. */
class Line {
  readonly #shared: Shared
  readonly #errors: BlockingErrors
  readonly #entries = new Map<Pending, Entry>()
  /** The call of the first, while its thread runs. */
  #call: BlockedCall | undefined
  /** Why that call was cancelled. */
  #reason: Error | undefined
  readonly #onidle: () => void

  constructor(shared: Shared, errors: BlockingErrors, onidle: () => void) {
    this.#shared = shared
    this.#errors = errors
    this.#onidle = onidle
  }

  wait<T>(blocking: Blocking<T>, deadline: number, signal: AbortSignal | undefined): Waiter<T> {
    const leave = (pending: Waiter<T>, reason: 'timeout' | AbortError) => {
      const error = reason === 'timeout' ? this.#errors.timeout() : reason
      const first = this.#entries.keys().next().value === pending
      if (first && this.#call !== undefined) {
        this.#cancel(error)
        return
      }
      // What is there is not refused, though the loop has not heard of it; those before it come first.
      if (reason === 'timeout') this.#serveUpTo(pending, blocking.ordered)
      if (this.#entries.delete(pending)) pending.reject(error)
      this.checkIdle()
    }
    const waiter = new Waiter<T>(deadline, signal, leave)
    const settle = (bring: () => T | undefined) => {
      try {
        const value = bring()
        if (value === undefined) return false
        waiter.resolve(value)
      } catch (error) {
        waiter.reject(error)
      }
      return true
    }
    const entry: Entry = {
      attempt: () => settle(() => blocking.attempt()),
      answer: (result, data) => settle(() => blocking.answer(result, data)),
      call: () => blocking.call(),
      reject: (error) => waiter.reject(error),
    }
    const first = this.#entries.size === 0
    this.#entries.set(waiter, entry)
    if (deadline <= performance.now()) {
      leave(waiter, 'timeout')
      // Its attempt may have run an iterable that had others come behind it, who rely on the first.
      if (first && this.#entries.size > 0) this.#serveLater()
    }
    // One that was not admitted waits for its turn, the others for a message.
    else if (first && this.#shared.turn > 0) this.#serve()
    else if (first) this.#serveLater()
    return waiter
  }

  hold(): void {
    this.#call?.hold(this.#shared.refed)
  }

  close(): void {
    const [first, ...behind] = this.#entries
    for (const [pending, entry] of behind) {
      this.#entries.delete(pending)
      entry.reject(this.#errors.closed())
    }
    if (first === undefined) return
    if (this.#call !== undefined) {
      this.#cancel(this.#errors.closed())
      return
    }
    this.#entries.delete(first[0])
    first[1].reject(this.#errors.closed())
    this.checkIdle()
  }

  checkIdle(): void {
    if (this.#entries.size === 0) this.#onidle()
  }

  #cancel(reason: Error): void {
    this.#reason ??= reason
    this.#call?.cancel()
  }

  #serveLater(): void {
    // Held although what waits may be unreferenced: it is one turn of the loop.
    setImmediate(() => {
      this.#shared.turn = TURN
      this.#serve()
    })
  }

  #serve(): void {
    if (this.#call !== undefined) return
    for (const [pending, entry] of this.#entries) {
      if (this.#shared.turn-- <= 0) {
        this.#serveLater()
        return
      }
      const served = entry.attempt()
      // An attempt runs the iterable of a sendMany(), which may give it up.
      if (!served && this.#entries.has(pending)) {
        this.#block(pending, entry)
        return
      }
      this.#entries.delete(pending)
    }
    this.checkIdle()
  }

  /** Attempts in order, but for one that has a thread. */
  #serveUpTo(last: Pending, ordered: boolean): void {
    const entries = this.#entries.entries()
    if (this.#call !== undefined) {
      if (ordered) return
      entries.next()
    }
    for (const [pending, entry] of entries) {
      if (!entry.attempt()) return
      this.#entries.delete(pending)
      if (pending === last) return
    }
  }

  #block(pending: Pending, entry: Entry): void {
    let call: BlockedCall
    try {
      call = entry.call()
    } catch (error) {
      this.#entries.delete(pending)
      entry.reject(error)
      this.#serve()
      return
    }
    call.onsettled = (result, data) => {
      const reason = this.#reason
      this.#call = this.#reason = undefined
      this.#shared.turn = TURN
      // Cancelled or not, what the thread brought is what happened.
      if (result === ECANCELED && reason !== undefined) entry.reject(reason)
      else if (!entry.answer(result, data)) {
        // More to send, and it blocks again; but not if it was given up, now or before.
        if (reason === undefined && this.#entries.has(pending)) return this.#block(pending, entry)
        entry.reject(reason)
      }
      this.#entries.delete(pending)
      this.#serve()
    }
    const errno = call.start(this.#shared.refed)
    if (errno === 0) {
      this.#call = call
      return
    }
    this.#entries.delete(pending)
    entry.reject(this.#errors.failure(errno))
    this.#serve()
  }
}

/** The lines of one queue, each by what it waits for. */
export class Threads {
  readonly #errors: (line: string) => BlockingErrors
  readonly #lines = new Map<string, Line>()
  readonly #shared: Shared = { turn: TURN, refed: true }
  #onclosed: (() => void) | undefined

  constructor(errors: (line: string) => BlockingErrors) {
    this.#errors = errors
  }

  /** Whether nobody waits in this line. */
  idle(name: string): boolean {
    return !this.#lines.has(name)
  }

  /** Whether one more message may pass at once; else it waits for a turn of the loop. */
  admit(name: string): boolean {
    return !this.#lines.has(name) && this.#shared.turn-- > 0
  }

  /** Counts messages that passed together. */
  spend(messages: number): void {
    this.#shared.turn -= messages
  }

  wait<T>(name: string, blocking: Blocking<T>, deadline: number, signal: AbortSignal | undefined): Waiter<T> {
    let line = this.#lines.get(name)
    if (line === undefined) {
      const created = new Line(this.#shared, this.#errors(name), () => {
        if (this.#lines.get(name) === created) this.#lines.delete(name)
        if (this.#lines.size === 0) this.#onclosed?.()
      })
      this.#lines.set(name, created)
      line = created
    }
    try {
      return line.wait(blocking, deadline, signal)
    } catch (error) {
      line.checkIdle() // or a signal that cannot be listened to leaves an empty line behind
      throw error
    }
  }

  /** Whether waiting holds the loop. It does at first. */
  set refed(refed: boolean) {
    this.#shared.refed = refed
    for (const line of this.#lines.values()) line.hold()
  }

  /** Resolves when no thread runs any more. */
  close(): Promise<void> {
    return new Promise((resolve) => {
      this.#onclosed = resolve
      for (const line of this.#lines.values()) line.close()
      if (this.#lines.size === 0) resolve()
    })
  }
}
