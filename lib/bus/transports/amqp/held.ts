// A message of RabbitMQ's in hand, and what those need who have some.
import type { Channel, ConsumeMessage } from 'amqplib'
import type { Cancel, Clock } from '../../clock.ts'
import type { Read } from '../engine/wire.ts'
import type { Link } from './link.ts'
import type { Topology } from './topology.ts'

/**
 * Milliseconds without a message after which a consumer begins anew, on a new channel: RabbitMQ 3.10 does not always say
 * that a queue is gone, and what it sends to the first consumer of one that was just made again may get lost on the way,
 * until the channel is closed.
 */
export const QUIET = 5000

/** What processes tell each other: a queue has come to have partitions; one waits, and has nothing of them. */
export type Told = 'keyed' | 'idle'

/** Who has a message in hand. */
export interface Holder {
  readonly queue: string
  /** False for each that is gone. */
  acknowledge(held: readonly Held[]): boolean[]
  /** To be handed out again from `due` on; false if it is gone. */
  retry(held: Held, due: number, counted: boolean): Promise<boolean>
  /** They go back uncounted. */
  giveBack(held: readonly Held[]): Promise<void>
  /** It is taken away after so many milliseconds. */
  limit(held: Held, ms: number): void
  /** The handler of one that was lost before begins; false if it is gone. */
  begun(held: Held): boolean | Promise<boolean>
}

export interface Held {
  readonly line: Holder
  readonly channel: Channel
  readonly message: ConsumeMessage
  readonly read: Read
  /** How often the queue handed it out before, not counting what we gave back ourselves. */
  losses: number
  /** It is the queue's again. */
  isGone: boolean
  /** Of a lease with a limit. */
  cancel: Cancel | undefined
}

export interface LineContext {
  readonly link: Link
  readonly topology: Topology
  readonly clock: Clock
  /** Sends it again, as it was, and acknowledges it; from `due` on. */
  again(held: Held, due: number, counted?: boolean): Promise<boolean>
  /** Whether a queue has come to have partitions, for messages with a key. */
  isKeyed(queue: string): Promise<boolean>
  /** Tells all who wait for messages of a queue. */
  tell(queue: string, what: Told): Promise<unknown>
  /** Replaces what is kept beside a partition; false if the message is no longer ours. */
  note(held: Held, partition: string, notes: string): Promise<boolean>
}
