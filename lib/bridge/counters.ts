// What a route has done and how it is, and who is told.
import { setTimeout as sleep } from 'node:timers/promises'
import { hide } from '../bus/secrets.ts'
import type { Retry } from './config.ts'

export interface RouteCounters {
  /** Taken from where it begins; of a kernel queue, from its outbox. */
  received: number
  /** Confirmed by where it ends; `duplicates` were there before. */
  sent: number
  duplicates: number
  /** What the filter did not want. */
  unmatched: number
  /** What cannot be sent, because of what it is. */
  dead: number
  /** Sent, but taken away before it could be acknowledged: it comes again. */
  again: number
  /** Of a kernel queue: what is in the outbox since the bridge has begun. */
  collected: number
  /** Attempts that went wrong, and were repeated. */
  failures: number
}

export type End = 'source' | 'target' | 'outbox'

export type BridgeEvent =
  | { readonly route: string; readonly event: 'up'; readonly end: End }
  | { readonly route: string; readonly event: 'down'; readonly end: End; readonly error: Error }
  /** A message that cannot be sent is in the dead letters of its queue. */
  | { readonly route: string; readonly event: 'dead'; readonly id: string; readonly error: Error }

export class Reporter {
  readonly counters: RouteCounters = {
    received: 0,
    sent: 0,
    duplicates: 0,
    unmatched: 0,
    dead: 0,
    again: 0,
    collected: 0,
    failures: 0,
  }
  readonly #route: string
  readonly #tell: (event: BridgeEvent) => void
  /** Of each end: true if it works, or what is wrong; undefined if it was not tried yet. */
  readonly ends: { [E in End]?: true | Error } = {}

  constructor(route: string, tell: (event: BridgeEvent) => void) {
    this.#route = route
    this.#tell = tell
  }

  up(end: End): void {
    if (this.ends[end] === true) return
    this.ends[end] = true
    this.#tell({ route: this.#route, event: 'up', end })
  }

  /** Says so once, not with each attempt. */
  down(end: End, error: unknown): void {
    this.counters.failures++
    const what = redacted(error)
    const before = this.ends[end]
    this.ends[end] = what
    if (before instanceof Error && before.message === what.message) return
    this.#tell({ route: this.#route, event: 'down', end, error: what })
  }

  dead(id: string, error: unknown): void {
    this.counters.dead++
    this.#tell({ route: this.#route, event: 'dead', id, error: redacted(error) })
  }
}

/** What may be said of an error: others may have put a URL into it. */
function redacted(error: unknown): Error {
  const known = error instanceof Error ? error : new Error(String(error))
  const { code, hint = '' } = known as { code?: string; hint?: string }
  const [message, advice] = [hide(known.message), hide(hint)]
  if (message === known.message && advice === hint) return known
  return Object.assign(new Error(message), {
    name: known.name,
    ...(code !== undefined && { code }),
    ...(hint !== '' && { hint: advice }),
  })
}

/** Waits as long as the queues of a bus do before they retry; less if the signal is aborted. */
export async function backOff(attempts: number, { base, cap }: Retry, signal: AbortSignal): Promise<void> {
  const delay = Math.random() * Math.min(cap, base * 2 ** Math.min(attempts - 1, 30))
  await sleep(delay, undefined, { signal }).catch(() => {})
}
