// Brings messages of what forgets what it hands out, such as a queue of the kernel, into an outbox, which does not.
import { randomUUID } from 'node:crypto'
import type { Queue } from '../bus/index.ts'
import type { Outbox, Route } from './config.ts'
import { backOff, type Reporter } from './counters.ts'
import { Journal } from './journal.ts'
import type { Parcel } from './mapping.ts'
import type { Fount } from './source.ts'

/** Milliseconds after which somebody else may have made room. */
const LOOK = 1000

export class Collector {
  readonly #fount: Fount
  readonly #outbox: Queue
  readonly #route: Route
  readonly #kept: Outbox
  readonly #reporter: Reporter
  #room = 0
  #roomMade = () => {}

  constructor(fount: Fount, outbox: Queue, route: Route & { readonly outbox: Outbox }, reporter: Reporter) {
    this.#fount = fount
    this.#outbox = outbox
    this.#route = route
    this.#kept = route.outbox
    this.#reporter = reporter
  }

  /** @param stop takes no more; @param over leaves what cannot be kept in the journal */
  async run(stop: AbortSignal, over: AbortSignal): Promise<void> {
    const journal = new Journal(this.#kept.directory, this.#outbox.name)
    for (const { parcels, remove } of journal.left()) {
      if (parcels.length === 0 || (await this.#keep(parcels, over))) remove()
    }
    await this.#collect(journal, stop, over)
    journal.close()
  }

  async #collect(journal: Journal, stop: AbortSignal, over: AbortSignal): Promise<void> {
    const { batch, retry } = this.#route
    for (let attempts = 0; !stop.aborted; ) {
      try {
        const room = await this.#makeSure(stop)
        if (stop.aborted) break
        await this.#fount.open(stop)
        this.#reporter.up('source')
        // From the taking until it is in the journal is the only time at which a kill loses something.
        const taken = await this.#fount.receive(Math.min(batch, room), stop)
        const parcels = taken.map((one) => ({ id: randomUUID(), priority: 0, ...one }))
        journal.write(parcels)
        if (await this.#keep(parcels, over)) journal.clear()
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
      this.#room = this.#kept.maxMessages - (ready + leased + delayed + held)
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

  /** False if there was no time for it. */
  async #keep(parcels: readonly Parcel[], over: AbortSignal): Promise<boolean> {
    for (let attempts = 1; ; attempts++) {
      try {
        await this.#outbox.sendMany(parcels, { signal: over })
        this.#room -= parcels.length
        this.#reporter.counters.collected += parcels.length
        this.#reporter.up('outbox')
        return true
      } catch (error) {
        if (over.aborted) return false
        this.#reporter.down('outbox', error)
        await backOff(attempts, this.#route.retry, over)
      }
    }
  }
}
