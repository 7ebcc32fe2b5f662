// Where the messages of a route come from.
import type { Bus, Message, Queue } from '../bus/index.ts'
import type { Taken } from './config.ts'
import type { Links } from './links.ts'
import { type Parcel, parcelOf } from './mapping.ts'

/** Of how many consumers a message is lost says nothing about it: a bridge does not look into what it carries. */
export const NEVER_SUSPECT = { losses: 1e9 } as const

/** The queue of a bus to take from, which is bound to its topic. */
export async function fromBus(bus: Bus, endpoint: Taken): Promise<Queue> {
  if (endpoint.kind === 'topic') await bus.topic(endpoint.topic).bind(endpoint.queue)
  return bus.queue(endpoint.queue, { retry: NEVER_SUSPECT })
}

/** Without an id if it had none. */
export type Taking = Omit<Parcel, 'id' | 'priority'> & Partial<Pick<Parcel, 'id' | 'priority'>>

/** What forgets what it hands out. */
export interface Fount {
  /** @throws if it is not there */
  open(signal: AbortSignal): unknown
  /**
   * Waits until there is something, then takes what is there, `max` at most, or what came together. `put` has each before
   * the next is taken, and ends it by false. There may be nothing after all.
   */
  receive(max: number, signal: AbortSignal, put: (one: Taking) => boolean): Promise<void>
  /** How many wait in it. */
  messages(): number | Promise<number>
  close(): void
}

/** A queue of a bus that keeps nothing for a consumer that dies, such as `mq:`. */
export class VolatileQueue implements Fount {
  readonly #links: Links
  readonly #endpoint: Taken
  #queue: Queue | undefined

  constructor(links: Links, endpoint: Taken) {
    this.#links = links
    this.#endpoint = endpoint
  }

  async open(signal: AbortSignal): Promise<Queue> {
    this.#queue ??= await fromBus(await this.#links.use(this.#endpoint.url, signal), this.#endpoint)
    return this.#queue
  }

  async receive(max: number, signal: AbortSignal, put: (one: Parcel) => boolean): Promise<void> {
    const queue = await this.open(signal)
    const messages = await queue.receive({ max, signal })
    this.#put(messages, put)
    // There may be more in their pack, which is in memory alone until then.
    this.#put(await queue.receiveRest(), put)
  }

  /** They are taken already, whatever becomes of the first. */
  #put(messages: readonly Message[], put: (one: Parcel) => boolean): void {
    for (const message of messages) put(parcelOf(message))
    for (const message of messages) void message.ack()
  }

  async messages(): Promise<number> {
    return (await this.#queue?.stats())?.ready ?? 0
  }

  close(): void {}
}
