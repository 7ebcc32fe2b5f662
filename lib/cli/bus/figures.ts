// The figures of queues, as ls and stats tell them.
import type { Bus } from '../../bus/index.ts'
import { queueOf } from './connection.ts'

export interface Figures {
  readonly queue: string
  /** Can be received; of `mq:` and `sysv:` packs, with one message or more. */
  readonly ready: number
  readonly leased: number
  readonly delayed: number
  readonly held: number
  readonly dead: number
  readonly bytes: number
  /** When the first that is ready was sent, and how many milliseconds ago; null if that is not known. */
  readonly oldest: string | null
  readonly age: number | null
}

export function figuresOf(bus: Bus, names: readonly string[]): Promise<Figures[]> {
  return Promise.all(
    names.map(async (name) => {
      const { ready, leased, delayed, held, dead, bytes, oldest } = await queueOf(bus, name).stats()
      const isKnown = oldest !== undefined
      return {
        queue: name,
        ready,
        leased,
        delayed,
        held,
        dead,
        bytes,
        oldest: isKnown ? new Date(oldest).toISOString() : null,
        age: isKnown ? Math.max(Date.now() - oldest, 0) : null,
      }
    }),
  )
}
