// Who waits for messages of a queue in this process: first come, first served.
import { checkSignal, Waiter } from '../../../waiting.ts'
import type { Delivery } from '../../transport.ts'

export class Line<D extends Delivery> {
  readonly #waiters = new Set<Waiter<D[]>>()
  /** The latest point of performance.now() that anybody waits for. */
  #latest = 0

  get isEmpty(): boolean {
    return this.#waiters.size === 0
  }

  get latest(): number {
    return this.#latest
  }

  /** Nothing when the time is over. */
  wait(deadline: number, signal: AbortSignal | undefined): Promise<D[]> {
    checkSignal(signal)
    const waiter: Waiter<D[]> = new Waiter<D[]>(deadline, signal, (ended, reason) => {
      this.#waiters.delete(waiter)
      if (reason === 'timeout') ended.resolve([])
      else ended.reject(reason)
    })
    this.#latest = this.isEmpty ? deadline : Math.max(this.#latest, deadline)
    this.#waiters.add(waiter)
    return waiter.promise
  }

  /** False if nobody waits. */
  hand(delivery: D): boolean {
    const [first] = this.#waiters
    if (first === undefined) return false
    this.#waiters.delete(first)
    first.resolve([delivery])
    return true
  }

  /** Has the first, or all, look for themselves. */
  wake(): void {
    for (const waiter of this.#waiters) waiter.resolve([])
    this.#waiters.clear()
  }

  fail(error: unknown): void {
    for (const waiter of this.#waiters) waiter.reject(error)
    this.#waiters.clear()
  }
}
