// Promises that time or a signal may give up, and iterating over them.
import { isMainThread } from 'node:worker_threads'
import { AbortError, checkOptions, invalidType, isClosed, outOfRange } from './errors.ts'

/** How long to wait. */
export interface WaitOptions {
  /** Milliseconds, fractions allowed; 0 does not wait. Absent or `Infinity`: for ever. */
  timeout?: number | undefined
  /** Gives the wait up. What was received before is never dropped. */
  signal?: AbortSignal | undefined
}

/** How a blocking call waits. */
export interface SyncOptions {
  /** Milliseconds, fractions allowed; 0 does not wait. Absent or `Infinity`: for ever. */
  timeout?: number | undefined
  /**
   * Go on after a signal that JavaScript listens for. Its listener runs only
   * when the call has ended. Default: false, such a signal ends the call with EINTR
   * (but not SIGWINCH).
   */
  restart?: boolean | undefined
}

export interface SyncReceiveOptions extends SyncOptions {
  /**
   * Microseconds, 0 to 50000, to try again and again before going to sleep: saves
   * the time of a wake-up, costs a core. Default: 0.
   */
  spin?: number | undefined
}

/** Microseconds. Nothing interrupts a spin, so that it has to be short. */
const MAX_SPIN = 50_000

export function checkSpin(spin: number | undefined): number {
  if (spin === undefined) return 0
  if (typeof spin !== 'number') throw invalidType('"spin" option', 'a number of microseconds', spin)
  if (!(spin >= 0 && spin <= MAX_SPIN)) throw outOfRange('"spin" option', `0 to ${MAX_SPIN} microseconds`, spin)
  return spin
}

/** Whether a signal has to end a blocking call, for its listener to run. */
export function isInterruptible(options: SyncOptions | undefined): boolean {
  if (options?.restart || !isMainThread) return false
  // Node.js itself listens for SIGWINCH, once it has used a terminal as stdout.
  return process.eventNames().some((name) => typeof name === 'string' && name.startsWith('SIG') && name !== 'SIGWINCH')
}

/** Checks the options; the point of performance.now() up to which to wait. */
export function deadlineOf(options: WaitOptions | undefined): number {
  checkOptions(options)
  const timeout = options?.timeout
  if (timeout === undefined) return Number.POSITIVE_INFINITY
  if (typeof timeout !== 'number') throw invalidType('"timeout" option', 'a number of milliseconds', timeout)
  if (!(timeout >= 0)) throw outOfRange('"timeout" option', 'a number of milliseconds >= 0', timeout)
  return performance.now() + timeout
}

export function checkSignal(signal: AbortSignal | undefined): void {
  if (signal === undefined) return
  if (typeof signal !== 'object' || signal === null || !('aborted' in signal)) {
    throw invalidType('"signal" option', 'an AbortSignal', signal)
  }
  if (signal.aborted) throw new AbortError(signal.reason)
}

/** What can end early; see {@link Waiter}. */
export interface Pending {
  abort(reason: unknown): void
  reject(error: unknown): void
}

const pendingOf = new WeakMap<AbortSignal, Set<Pending>>()

function onAbort(this: AbortSignal): void {
  for (const pending of pendingOf.get(this) ?? []) pending.abort(this.reason)
}

/** setTimeout() takes longer times for 1 ms. */
export const MAX_TIMER: number = 2 ** 31 - 1

/**
 * A promise that time or a signal may give up. Whoever made it learns of that
 * first, and settles it.
 */
export class Waiter<T> implements Pending {
  readonly promise: Promise<T>
  readonly #giveUp: (waiter: Waiter<T>, reason: 'timeout' | AbortError) => void
  #settle!: [resolve: (value: T) => void, reject: (error: unknown) => void]
  #timer: NodeJS.Timeout | undefined
  #signal: AbortSignal | undefined

  constructor(
    deadline: number,
    signal: AbortSignal | undefined,
    giveUp: (waiter: Waiter<T>, reason: 'timeout' | AbortError) => void,
  ) {
    this.promise = new Promise((resolve, reject) => {
      this.#settle = [resolve, reject]
    })
    this.#giveUp = giveUp
    // First what may throw: nobody has a waiter that was not made, nor may its timer fire.
    if (signal !== undefined) this.#listen(signal)
    if (deadline !== Number.POSITIVE_INFINITY) this.#arm(deadline)
  }

  resolve(value: T): void {
    this.#settle[0](value)
    this.#rest()
  }

  reject(error: unknown): void {
    this.#settle[1](error)
    this.#rest()
  }

  abort(reason: unknown): void {
    this.#giveUp(this, new AbortError(reason))
  }

  // The timer never holds the loop: what is waited for does.
  #arm(deadline: number): void {
    const left = Math.ceil(deadline - performance.now())
    this.#timer = setTimeout(
      () => {
        // It may fire a little early, and does so by design when it was capped.
        if (performance.now() < deadline) this.#arm(deadline)
        else this.#giveUp(this, 'timeout')
      },
      Math.min(Math.max(left, 0), MAX_TIMER),
    ).unref()
  }

  // One listener a signal, however many wait: Node.js warns of a leak at eleven.
  #listen(signal: AbortSignal): void {
    this.#signal = signal
    let pending = pendingOf.get(signal)
    if (pending === undefined) {
      pending = new Set()
      pendingOf.set(signal, pending)
    }
    if (pending.size === 0) signal.addEventListener('abort', onAbort)
    pending.add(this)
  }

  #rest(): void {
    if (this.#timer !== undefined) clearTimeout(this.#timer)
    const signal = this.#signal
    if (signal === undefined) return
    this.#signal = undefined
    const pending = pendingOf.get(signal)
    pending?.delete(this)
    if (pending?.size !== 0) return
    try {
      signal.removeEventListener('abort', onAbort)
    } catch {
      // A signal that somebody made himself; others still wait to hear how it ended.
    }
  }
}

type Step<T> = IteratorResult<T, undefined>

const RETURNED = Symbol('the iterator was returned')

/** An iterator that asks for one thing at a time and holds nothing. */
export class Puller<T> implements AsyncIterableIterator<T, undefined> {
  readonly #pull: () => T | Waiter<T>
  readonly #finish: () => void
  readonly #pending = new Set<Pending>()
  #ended = false

  constructor(pull: () => T | Waiter<T>, finish = (): void => {}) {
    this.#pull = pull
    this.#finish = finish
  }

  next(): Promise<Step<T>> {
    if (this.#ended) return Promise.resolve({ value: undefined, done: true })
    try {
      const value = this.#pull()
      return value instanceof Waiter ? this.#await(value) : Promise.resolve({ value, done: false })
    } catch (error) {
      return this.#end(error)
    }
  }

  async #await(waiter: Waiter<T>): Promise<Step<T>> {
    this.#pending.add(waiter)
    try {
      return { value: await waiter.promise, done: false }
    } catch (error) {
      return this.#end(error)
    } finally {
      this.#pending.delete(waiter)
    }
  }

  #end(error: unknown): Promise<Step<T>> {
    this.#ended = true
    this.#finish()
    const expected = isClosed(error) || (error instanceof AbortError && error.cause === RETURNED)
    return expected ? Promise.resolve({ value: undefined, done: true }) : Promise.reject(error)
  }

  return(): Promise<Step<T>> {
    this.#ended = true
    for (const pending of this.#pending) pending.abort(RETURNED)
    this.#finish()
    return Promise.resolve({ value: undefined, done: true })
  }

  [Symbol.asyncIterator](): this {
    return this
  }
}
