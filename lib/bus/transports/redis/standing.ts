// What this process has bound, bounded and borrowed: said again to a server that has lost it.
import { randomUUID } from 'node:crypto'
import { type Binding, BORROWED, type Bounds } from '../../transport.ts'
import type { Calls } from './calls.ts'
import type { Args } from './connection.ts'
import type { Member } from './member.ts'

interface Standing {
  readonly script: 'declare' | 'bind'
  readonly queue: string
  readonly args: Args
}

export class Standings {
  readonly #calls: Calls
  readonly #member: Member
  readonly #standing = new Map<string, Standing>()
  readonly #borrowed = new Set<string>()
  /** By which a server is known that has not lost it. */
  #mark: string | undefined
  readonly #every: number
  #looking: NodeJS.Timeout | undefined

  /** @param every milliseconds: a server may be emptied without anybody losing his connection */
  constructor(calls: Calls, member: Member, every: number) {
    this.#calls = calls
    this.#member = member
    this.#every = every
  }

  async declare(queue: string, { maxMessages, maxBytes }: Bounds): Promise<void> {
    await this.#stand(queue, { script: 'declare', queue, args: [maxMessages, maxBytes] })
  }

  async bind(binding: Binding): Promise<void> {
    const text = textOf(binding)
    await this.#stand(text, { script: 'bind', queue: binding.queue, args: [text] })
  }

  async unbind(binding: Binding): Promise<void> {
    const text = textOf(binding)
    this.#standing.delete(text)
    await this.#calls.run('unbind', 'unbind', text)
  }

  async bindings(): Promise<Binding[]> {
    return (await this.#calls.run<Buffer[]>('bindings', 'publish')).map(toBinding)
  }

  /** Has it done now, and again by a server that has lost it. */
  async #stand(name: string, standing: Standing): Promise<void> {
    const mark = await this.#say(standing)
    this.#standing.set(name, standing)
    this.#looking ??= setInterval(() => this.up(), this.#every).unref()
    this.#look(mark)
  }

  #say({ script, queue, args }: Standing): Promise<Buffer> {
    return this.#calls.run<Buffer>(script, script, queue, ...args, randomUUID())
  }

  /** It looks no more. */
  rest(): void {
    clearInterval(this.#looking)
  }

  /** The server is there: has it what it had? */
  up(): void {
    if (this.#standing.size === 0) return
    const args = () => [...this.#calls.begin(), randomUUID()]
    this.#calls.connection.run<Buffer>('mark', 'connect', args, { background: true }).then(
      (mark) => this.#look(mark),
      () => {},
    )
  }

  #look(seen: Buffer): void {
    const mark = String(seen)
    const isOther = this.#mark !== undefined && this.#mark !== mark
    this.#mark = mark
    if (!isOther) return
    this.#restore(() => true).catch(() => {
      // What could not be said now is said when it is seen again.
      this.#mark = ''
    })
  }

  async #restore(isMeant: (queue: string) => boolean): Promise<void> {
    for (const queue of this.#borrowed) if (isMeant(queue)) await this.#borrow(queue)
    for (const standing of this.#standing.values()) if (isMeant(standing.queue)) await this.#say(standing)
  }

  /** Borrows a queue again, with what it was bound to; false if it was not borrowed by this process. */
  async restore(queue: string): Promise<boolean> {
    if (!this.#borrowed.has(queue)) return false
    await this.#restore((one) => one === queue)
    return true
  }

  async borrow(prefix: string): Promise<string> {
    const queue = `${BORROWED}${prefix}${randomUUID()}`
    await this.#borrow(queue)
    this.#borrowed.add(queue)
    return queue
  }

  async #borrow(queue: string): Promise<void> {
    for (;;) {
      this.#calls.check('borrow')
      let name = ''
      const args = async () => {
        await this.#member.ready(false)
        name = this.#member.name
        return [...this.#calls.begin(), queue, name]
      }
      if ((await this.#calls.track(this.#calls.connection.run<number>('borrow', 'borrow', args))) === 1) return
      this.#member.die(name)
    }
  }

  async drop(queue: string): Promise<void> {
    this.#borrowed.delete(queue)
    for (const [name, standing] of this.#standing) if (standing.queue === queue) this.#standing.delete(name)
    await this.#calls.run('drop', 'drop', queue, this.#member.name)
  }
}

function textOf({ pattern, queue, headers }: Binding): string {
  return JSON.stringify([pattern, queue, Object.entries(headers).sort()])
}

function toBinding(text: Buffer): Binding {
  const [pattern, queue, headers] = JSON.parse(String(text)) as [string, string, [string, string][]]
  return { pattern, queue, headers: Object.fromEntries(headers) }
}
