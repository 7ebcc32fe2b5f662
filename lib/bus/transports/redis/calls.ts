// What a bus has the server do, from the time when it is opened until it is closed.
import { QueueError } from '../../../errors.ts'
import { type Clock, systemClock } from '../../clock.ts'
import type { Args, Connection } from './connection.ts'
import type { ScriptName } from './scripts.ts'

export class Calls {
  readonly connection: Connection
  readonly clock: Clock
  /** What all keys begin with. */
  readonly prefix: string
  readonly #running = new Set<Promise<unknown>>()
  #isClosed = false

  constructor(connection: Connection, prefix: string, clock: Clock) {
    this.connection = connection
    this.prefix = prefix
    this.clock = clock
  }

  check(call: string): void {
    if (this.#isClosed) throw new QueueError('ERR_MQ_CLOSED', { syscall: call })
  }

  /** Nothing more begins. */
  close(): void {
    this.#isClosed = true
  }

  /** What every script begins with. */
  begin(): Args {
    return [this.prefix, this.clock.now(), this.clock === systemClock ? 1 : 0]
  }

  run<T>(script: ScriptName, call: string, ...args: Args): Promise<T> {
    this.check(call)
    return this.track(this.connection.run<T>(script, call, () => [...this.begin(), ...args]))
  }

  /** What is asked for before it is closed is done before. */
  track<T>(promise: Promise<T>): Promise<T> {
    this.#running.add(promise)
    const done = () => void this.#running.delete(promise)
    promise.then(done, done)
    return promise
  }

  /** Resolves when all that runs is done, or there is no connection that could do it. */
  async finish(): Promise<void> {
    while (this.#running.size > 0 && this.connection.failure === undefined) await Promise.allSettled([...this.#running])
  }
}
