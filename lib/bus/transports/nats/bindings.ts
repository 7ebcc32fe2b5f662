// What is bound to which topics: one record, which all processes of a bus change.
import { setTimeout as sleep } from 'node:timers/promises'
import type { Binding } from '../../transport.ts'
import type { Ledger } from './ledger.ts'

const SUBJECT = 'bindings'

export class Bindings {
  readonly #ledger: Ledger
  /** What was read last. */
  #last: { value: string; list: readonly Binding[] } = { value: '[]', list: [] }

  constructor(ledger: Ledger) {
    this.#ledger = ledger
  }

  /** What is bound now. */
  async list(): Promise<readonly Binding[]> {
    const { list } = await this.#read()
    return list
  }

  /** Those that are not there yet. */
  add(bindings: readonly Binding[]): Promise<void> {
    return this.#change((list) => [...list, ...bindings.filter((one) => !list.some((other) => isSame(other, one)))])
  }

  remove(binding: Binding): Promise<void> {
    return this.#change((list) => list.filter((one) => !isSame(one, binding)))
  }

  /** All of these queues. */
  removeAll(queues: ReadonlySet<string>): Promise<void> {
    return this.#change((list) => list.filter(({ queue }) => !queues.has(queue)))
  }

  /** One after the other: whoever comes second does it again. */
  async #change(work: (list: readonly Binding[]) => readonly Binding[]): Promise<void> {
    for (;;) {
      const { list, sequence } = await this.#read()
      const changed = work(list)
      if (changed.length === list.length) return
      if ((await this.#ledger.put('bind', SUBJECT, JSON.stringify(changed), sequence)) !== undefined) return
      await sleep(Math.random() * 20)
    }
  }

  async #read(): Promise<{ sequence: number; list: readonly Binding[] }> {
    const entry = await this.#ledger.get(SUBJECT)
    if (entry === undefined) return { sequence: 0, list: [] }
    const { value, sequence } = entry
    // Not by its sequence: if somebody has removed the stream, that begins anew.
    if (value !== this.#last.value) this.#last = { value, list: JSON.parse(value) as Binding[] }
    return { sequence, list: this.#last.list }
  }
}

const isSame = (a: Binding, b: Binding): boolean =>
  a.queue === b.queue && a.pattern === b.pattern && JSON.stringify(a.headers) === JSON.stringify(b.headers)
