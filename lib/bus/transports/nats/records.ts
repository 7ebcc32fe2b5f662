// Values by key, until they may be forgotten.
import { outOfRange } from '../../../errors.ts'
import type { Clock } from '../../clock.ts'
import type { Entry, Ledger } from './ledger.ts'
import { tokenOf } from './names.ts'

/** A record: what was put, and when it may be forgotten. */
interface Kept {
  readonly value: string
  readonly until: number
}

/** The longest key, in bytes of its subject. */
const LONGEST_KEY = 3000
/** Milliseconds between looks for records that may be forgotten, and how many are looked at. */
const SWEEP = 60_000
const SWEPT = 1000

export class Records {
  readonly #ledger: Ledger
  readonly #clock: Clock
  #swept = Number.NEGATIVE_INFINITY
  #sweepFrom = 0

  constructor(ledger: Ledger, clock: Clock) {
    this.#ledger = ledger
    this.#clock = clock
  }

  async entries(prefix: string): Promise<[key: string, value: string][]> {
    const found: [string, string][] = []
    const now = this.#clock.now()
    for await (const entry of this.#ledger.all(`${wordsOf(prefix)}.>`)) {
      const { value, until } = JSON.parse(entry.value) as Kept
      if (until === 0 || until > now) found.push([keyOf(entry), value])
      else await this.#ledger.remove(entry.sequence)
    }
    return found.sort(([a], [b]) => (a < b ? -1 : 1))
  }

  /** @param subject from {@link subjectOf} */
  async put(subject: string, value: string | undefined, until: number): Promise<void> {
    if (value === undefined) {
      const entry = await this.#ledger.get(subject)
      if (entry !== undefined) await this.#ledger.remove(entry.sequence)
      return
    }
    await this.#ledger.put('put', subject, JSON.stringify({ value, until } satisfies Kept))
    if (until > 0) this.#sweep()
  }

  /** Records whose time is over go, some at a time. */
  #sweep(): void {
    if (performance.now() < this.#swept + SWEEP) return
    this.#swept = performance.now()
    void this.#sweepSome().catch(() => {})
  }

  async #sweepSome(): Promise<void> {
    const now = this.#clock.now()
    let left = SWEPT
    for await (const entry of this.#ledger.all('k.>', this.#sweepFrom)) {
      this.#sweepFrom = entry.sequence
      const { until } = JSON.parse(entry.value) as Kept
      if (until > 0 && until <= now) await this.#ledger.remove(entry.sequence)
      if (--left === 0) return
    }
    this.#sweepFrom = 0
  }
}

/** @throws {RangeError} the key is too long */
export function subjectOf(key: string): string {
  const subject = `${wordsOf(key)}.$`
  if (subject.length > LONGEST_KEY) throw outOfRange('key', `at most ${LONGEST_KEY} bytes`, subject.length)
  return subject
}

/** A word for each character, so that a filter can mean what begins so. */
const wordsOf = (key: string): string => ['k', ...Array.from(key, tokenOf)].join('.')

function keyOf({ subject }: Entry): string {
  const words = subject.split('.').slice(1, -1)
  return decodeURIComponent(words.join('').replaceAll('=', '%'))
}
