// What moves through a queue. The kernel counts no messages: what is known comes from looking again and again.
import type { QueueRow } from './queues.ts'

/** Rates are of the looks of so many milliseconds. */
const WINDOW = 5000

/** At a look, and what must have moved since the first one. */
interface Look {
  readonly at: number
  readonly messages: number
  readonly in: number
  readonly out: number
}

type Seen = Pick<QueueRow, 'messages' | 'sentAt' | 'receivedAt' | 'usedAt'>

export interface Rates {
  /** By how many messages a second the queue grows. */
  readonly net: number
  /** The least that must have gone in and out in a second; it may have been far more. */
  readonly in: number
  readonly out: number
}

export class Flow {
  #looks: Look[] = []
  #last: Seen | undefined
  #waitingSince: number | undefined

  /** Times are in milliseconds: `at` of a clock that is steady, `now` as of Date. */
  look(seen: Seen, at: number, now: number): void {
    const { messages } = seen
    if (messages === undefined) return
    const before = this.#looks.at(-1)
    const moved = before === undefined ? { in: 0, out: 0 } : leastMoved(this.#last, seen, messages - before.messages)
    this.#looks.push({ at, messages, in: (before?.in ?? 0) + moved.in, out: (before?.out ?? 0) + moved.out })
    const first = this.#looks.findLastIndex((look) => at - look.at >= WINDOW)
    if (first > 0) this.#looks.splice(0, first)
    this.#last = seen
    // What is in it now has been there since it was used last.
    if (messages === 0) this.#waitingSince = undefined
    else this.#waitingSince ??= Math.min(seen.usedAt?.getTime() ?? now, now)
  }

  /** Undefined until there are two looks. */
  get rates(): Rates | undefined {
    const [first] = this.#looks
    const last = this.#looks.at(-1)
    if (first === undefined || last === undefined || last === first) return undefined
    const seconds = (last.at - first.at) / 1000
    return {
      net: (last.messages - first.messages) / seconds,
      in: (last.in - first.in) / seconds,
      out: (last.out - first.out) / seconds,
    }
  }

  /** Since when there have been messages at every look, in milliseconds as of Date; undefined if there are none. */
  get waitingSince(): number | undefined {
    return this.#waitingSince
  }
}

/** Times are to the second, but one that is another now was set between the looks. */
function leastMoved(before: Seen | undefined, seen: Seen, growth: number): { in: number; out: number } {
  const isLater = (name: 'sentAt' | 'receivedAt' | 'usedAt') => Number(seen[name] ?? 0) > Number(before?.[name] ?? 0)
  const isBoth = growth === 0 && isLater('usedAt')
  const came = Math.max(growth, isLater('sentAt') || isBoth ? 1 : 0, 0)
  const went = Math.max(came - growth, isLater('receivedAt') || isBoth ? 1 : 0)
  return { in: went + growth, out: went }
}
