// Brings messages of what forgets what it hands out, such as a queue of the kernel, into an outbox, which does not.
import type { Item, Queue } from '../bus/index.ts'
import type { Outbox, Route } from './config.ts'
import { backOff, type Reporter } from './counters.ts'
import type { Fount } from './source.ts'

/** Milliseconds after which somebody else may have made room. */
const LOOK = 1000

export class Collector {
  readonly #fount: Fount
  readonly #outbox: Queue
  readonly #route: Route
  readonly #most: number
  readonly #reporter: Reporter
  #room = 0
  #roomMade = () => {}

  constructor(fount: Fount, outbox: Queue, route: Route & { readonly outbox: Outbox }, reporter: Reporter) {
    this.#fount = fount
    this.#outbox = outbox
    this.#route = route
    this.#most = route.outbox.maxMessages
    this.#reporter = reporter
  }

  /** @param stop takes no more; @param over gives up what cannot be kept */
  async run(stop: AbortSignal, over: AbortSignal): Promise<void> {
    const { take, retry } = this.#route
    for (let attempts = 0; !stop.aborted; ) {
      try {
        const room = await this.#makeSure(stop)
        if (stop.aborted) break
        await this.#fount.open(stop)
        this.#reporter.up('source')
        const items = await this.#fount.receive(Math.min(take, room), stop)
        // From here until it is committed is the only time at which a kill loses something.
        await this.#keep(items, over)
        attempts = 0
      } catch (error) {
        if (stop.aborted) break
        this.#reporter.down('source', error)
        await backOff(++attempts, retry, stop)
      }
    }
    this.#fount.close()
  }

  /** How many messages have room in the outbox, at least one: what is not kept is better left where it is. */
  async #makeSure(stop: AbortSignal): Promise<number> {
    while (this.#room <= 0 && !stop.aborted) {
      const made = new Promise<void>((resolve) => {
        this.#roomMade = resolve
      })
      const { ready, leased, delayed, held } = await this.#outbox.stats()
      this.#room = this.#most - (ready + leased + delayed + held)
      if (this.#room > 0) break
      let timer: NodeJS.Timeout | undefined
      const late = new Promise<void>((resolve) => {
        timer = setTimeout(resolve, LOOK)
      })
      await Promise.race([made, late])
      clearTimeout(timer)
    }
    return this.#room
  }

  /** Something has left the outbox, or the collector is to stop. */
  wake(): void {
    this.#roomMade()
  }

  async #keep(items: readonly Item[], over: AbortSignal): Promise<void> {
    for (let attempts = 1; ; attempts++) {
      try {
        await this.#outbox.sendMany(items, { signal: over })
        this.#room -= items.length
        this.#reporter.counters.collected += items.length
        this.#reporter.up('outbox')
        return
      } catch (error) {
        if (over.aborted) {
          this.#reporter.lost(items.length)
          return
        }
        this.#reporter.down('outbox', error)
        await backOff(attempts, this.#route.retry, over)
      }
    }
  }
}
