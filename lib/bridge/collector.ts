// Brings messages of what forgets what it hands out, such as a queue of the kernel, into an outbox, which does not.
import { randomUUID } from 'node:crypto'
import type { Queue } from '../bus/index.ts'
import { BUS_BATCH } from '../bus/transport.ts'
import type { Outbox, Route } from './config.ts'
import { backOff, type End, type Reporter } from './counters.ts'
import { Journal, leftIn } from './journal.ts'
import type { Parcel } from './mapping.ts'
import type { Fount, Taking } from './source.ts'

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
    const journal = await this.#begin(stop, over)
    if (journal === undefined) return
    await this.#collect(journal, stop, over)
    this.#fount.close()
    this.#managed(() => journal.close())
  }

  /** What others have left goes first. Undefined if it is to stop before it can begin. */
  async #begin(stop: AbortSignal, over: AbortSignal): Promise<Journal | undefined> {
    const { directory } = this.#kept
    for (let attempts = 1; !stop.aborted; attempts++) {
      try {
        for (const { parcels, damaged, done } of leftIn(directory, this.#outbox.name)) {
          const rest = await this.#keep(parcels, over)
          done(rest)
          if (damaged !== undefined) this.#reporter.down('outbox', new Error(`there are damaged lines in '${damaged}'`))
          if (rest.length > 0) return undefined
        }
        return new Journal(directory, this.#outbox.name)
      } catch (error) {
        this.#reporter.down('outbox', error)
        await backOff(attempts, this.#route.retry, stop)
      }
    }
    return undefined
  }

  async #collect(journal: Journal, stop: AbortSignal, over: AbortSignal): Promise<void> {
    const { batch, retry } = this.#route
    for (let attempts = 0; !stop.aborted; ) {
      const taken: Parcel[] = []
      const unwritten: Parcel[] = []
      let end: End = 'outbox'
      let id = randomUUID()
      const put = (one: Taking): boolean => {
        const parcel = { id, priority: 0, ...one }
        taken.push(parcel)
        if (!this.#managed(() => journal.write(parcel))) unwritten.push(parcel)
        id = randomUUID()
        return unwritten.length === 0
      }
      try {
        const room = await this.#makeSure(stop)
        if (stop.aborted) break
        end = 'source'
        await this.#fount.open(stop)
        this.#reporter.up('source')
        await this.#fount.receive(Math.min(batch, room), stop, put)
        attempts = 0
      } catch (error) {
        attempts++
        if (!stop.aborted) this.#reporter.down(end, error)
      }
      const rest = await this.#keep(taken, over)
      if (rest.length === 0) this.#managed(() => journal.clear())
      else if (
        !this.#managed(() => journal.replace(rest)) &&
        !unwritten.every((parcel) => this.#managed(() => journal.write(parcel)))
      ) {
        const error = new Error(`up to ${unwritten.length} messages are lost: there was no way to write them down`)
        this.#reporter.down('outbox', error)
      }
      if (attempts > 0) await backOff(attempts, retry, stop)
    }
  }

  /** False if the journal fails: what cannot be written is in memory alone until it is in the outbox. */
  #managed(use: () => void): boolean {
    try {
      use()
      return true
    } catch (error) {
      this.#reporter.down('outbox', error)
      return false
    }
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

  /** Part by part: an outbox that has become smaller never has room for all at once. What there was no time for. */
  async #keep(parcels: readonly Parcel[], over: AbortSignal): Promise<readonly Parcel[]> {
    const most = Math.min(this.#kept.maxMessages, BUS_BATCH)
    for (let at = 0; at < parcels.length; at += most) {
      if (!(await this.#keepTogether(parcels.slice(at, at + most), over))) return parcels.slice(at)
    }
    return []
  }

  /** False if there was no time for it. */
  async #keepTogether(parcels: readonly Parcel[], over: AbortSignal): Promise<boolean> {
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
