// What this process is among the consumers: one of them, by a name, as long as it is not thought dead; and what it has.
import { randomUUID } from 'node:crypto'
import type { Calls } from './calls.ts'
import type { Taken } from './entry.ts'

export class Member {
  readonly #calls: Calls
  readonly #ttl: number
  readonly #heard: () => void
  readonly held: Set<Taken> = new Set()
  /** Its name; there is a promise of {@link #entered} as long as it is one. */
  #name = ''
  #entered: Promise<void> | undefined
  /** {@link #entered} has resolved. */
  #isIn = false
  /** What was handed out may not have come here: being found out. */
  #doubt: Promise<void> | undefined
  /** It has to be found out. */
  #unsure = false
  #beat: NodeJS.Timeout | undefined
  /** It was thought dead so often, and had nothing any more. */
  life = 0
  /** How often all went back, or to others, that was not known to be here. */
  turns = 0

  /** @param heard the server has answered a sign of life */
  constructor(calls: Calls, ttl: number, heard: () => void) {
    this.#calls = calls
    this.#ttl = ttl
    this.#heard = heard
  }

  get name(): string {
    return this.#name
  }

  /** Undefined if it is certain what it has; else resolves when it is. */
  get certainty(): Promise<void> | undefined {
    return this.#doubt
  }

  /** Undefined if it is one of the consumers, certain of what it has; else resolves when it is. */
  ready(background: boolean): Promise<void> | undefined {
    if (!this.#unsure && this.#doubt === undefined && this.#isIn) return undefined
    return this.#settle(background)
  }

  async #settle(background: boolean): Promise<void> {
    if (this.#unsure) await this.renew()
    await this.#doubt
    await this.#enter(background)
  }

  /** It is not known any more what became of these. */
  lose(lost: Iterable<Taken>): void {
    for (const one of lost) this.held.delete(one)
    this.wonder()
  }

  /** It may have been handed what it does not know of: that goes back before it asks for more, or gives a sign of life. */
  wonder(): void {
    this.#unsure = true
  }

  /** Becomes one of the consumers, for as long as it says so again and again. */
  #enter(background: boolean): Promise<void> {
    this.#entered ??= this.#enterNow(background).catch((error: unknown) => {
      this.#entered = undefined
      throw error
    })
    return this.#entered
  }

  async #enterNow(background: boolean): Promise<void> {
    const name = randomUUID()
    const args = () => [...this.#calls.begin(), name, this.#ttl, 1]
    const how = { patience: Number.POSITIVE_INFINITY, background }
    await this.#calls.connection.run('beat', 'receive', args, how)
    this.#name = name
    this.#isIn = true
    this.#beat ??= setInterval(() => void this.sayAlive(), this.#ttl / 3).unref()
  }

  /** If it is one of the consumers; never rejects. */
  async sayAlive(): Promise<void> {
    if (!this.#isIn || this.#doubt !== undefined) return
    try {
      if (this.#unsure) await this.renew()
      let name = ''
      const args = async () => {
        // Under a name that it has no more it would be told that it is dead.
        await this.#doubt
        name = this.#name
        return [...this.#calls.begin(), name, this.#ttl, 0]
      }
      const how = { patience: this.#ttl, background: true }
      const isAlive = await this.#calls.connection.run<number>('beat', 'receive', args, how)
      if (isAlive === 0) this.die(name)
      this.#heard()
    } catch {
      // Without a connection; when it is there again it will be seen whether that was too long.
    }
  }

  /** It was thought dead: others have what it had. */
  die(name: string): void {
    if (this.#name !== name || !this.#isIn) return
    this.#entered = undefined
    this.#isIn = false
    this.life++
    this.turns++
    this.held.clear()
  }

  /** Something may have been handed out whose answer was lost: all that is not known to be here goes back. */
  renew(): Promise<void> {
    this.#doubt ??= this.#renewNow()
      .catch((error: unknown) => {
        // It is still to be found out.
        this.wonder()
        throw error
      })
      .finally(() => {
        this.#doubt = undefined
      })
    return this.#doubt
  }

  async #renewNow(): Promise<void> {
    this.#unsure = false
    if (!this.#isIn) return
    // What is already on its way in the name that it has now gets there before.
    await new Promise(setImmediate)
    this.turns++
    const [name, heir] = [this.#name, randomUUID()]
    const held = Object.fromEntries(
      [...this.held].map(({ chunk, entry }) => [`${chunk.queue}/${chunk.rank}:${entry}`, 1]),
    )
    const args = () => [...this.#calls.begin(), name, heir, this.#ttl, JSON.stringify(held)]
    const how = { patience: Number.POSITIVE_INFINITY, background: true }
    const isAlive = await this.#calls.connection.run<number>('renew', 'receive', args, how)
    if (isAlive === 0) this.die(name)
    else this.#name = heir
  }

  /** It says nothing more. */
  rest(): void {
    clearInterval(this.#beat)
  }

  /** Gives back what it has. */
  async leave(): Promise<void> {
    // It may be about to have another name.
    await this.#doubt?.catch(() => {})
    if (this.#name === '') return
    const args = () => [...this.#calls.begin(), this.#name, '', this.#ttl, '']
    await this.#calls.connection.run('renew', 'close', args, { patience: 0 }).catch(() => {})
  }
}
