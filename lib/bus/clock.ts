// What the bus takes the time from: the system's clock, or one that a test turns by hand.
import { MAX_TIMER } from '../waiting.ts'

/** Gives a timer up. */
export type Cancel = () => void

export interface Clock {
  /** Milliseconds since the epoch, as `Date.now()`. */
  now(): number
  /** Calls back once, `ms` from now; the timer holds the process only if `hold` says so. */
  after(ms: number, callback: () => void, hold?: boolean): Cancel
}

export const systemClock: Clock = {
  now: Date.now,
  after(ms, callback, hold = false) {
    let timer: NodeJS.Timeout
    const arm = (left: number): void => {
      const end = left > MAX_TIMER ? () => arm(left - MAX_TIMER) : callback
      timer = setTimeout(end, Math.min(Math.max(left, 0), MAX_TIMER))
      if (!hold) timer.unref()
    }
    arm(Math.ceil(ms))
    return () => clearTimeout(timer)
  },
}

/** A clock that stands still until it is told how much time has passed. For tests, with `memory:`. */
export class ManualClock implements Clock {
  #now: number
  readonly #timers = new Set<{ at: number; callback: () => void }>()

  /** @param now milliseconds since the epoch */
  constructor(now = 0) {
    this.#now = now
  }

  now(): number {
    return this.#now
  }

  after(ms: number, callback: () => void): Cancel {
    const timer = { at: this.#now + Math.max(ms, 0), callback }
    this.#timers.add(timer)
    return () => this.#timers.delete(timer)
  }

  /** Lets `ms` milliseconds pass; timers that fall due are called in their order. */
  advance(ms: number): void {
    const end = this.#now + ms
    for (;;) {
      const next = [...this.#timers].filter(({ at }) => at <= end).sort((a, b) => a.at - b.at)[0]
      if (next === undefined) break
      this.#timers.delete(next)
      this.#now = Math.max(this.#now, next.at)
      next.callback()
    }
    this.#now = end
  }
}
