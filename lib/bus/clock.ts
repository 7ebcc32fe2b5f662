// What the bus takes the time from: the system's clock, or one that a test turns by hand.

/** Gives a timer up. */
export type Cancel = () => void

export interface Clock {
  /** Milliseconds since the epoch, as `Date.now()`. */
  now(): number
  /** Calls back once, `ms` from now; the timer holds the process only if `hold` says so. */
  after(ms: number, callback: () => void, hold?: boolean): Cancel
}

// setTimeout() takes longer times for 1 ms.
const MAX_TIMER = 2 ** 31 - 1

export const systemClock: Clock = {
  now: Date.now,
  after(ms, callback, hold = false) {
    const capped = Math.min(Math.max(Math.ceil(ms), 0), MAX_TIMER)
    const timer = setTimeout(callback, capped)
    if (!hold) timer.unref()
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
