// What this process has in its hands, of an engine that takes it away from those who say nothing for too long.

export class Holding<H> {
  readonly #every: number
  readonly #keep: (held: readonly H[]) => Promise<unknown>
  readonly #held = new Set<H>()
  #timer: NodeJS.Timeout | undefined

  /** @param keep tells the engine, every so many milliseconds, that these are still in good hands; may reject */
  constructor(every: number, keep: (held: readonly H[]) => Promise<unknown>) {
    this.#every = every
    this.#keep = keep
  }

  add(one: H): void {
    this.#held.add(one)
    // It does not hold the process.
    this.#timer ??= setInterval(() => void this.#keep([...this.#held]).catch(() => {}), this.#every).unref()
  }

  get all(): H[] {
    return [...this.#held]
  }

  get size(): number {
    return this.#held.size
  }

  has(one: H): boolean {
    return this.#held.has(one)
  }

  /** False if it was not held any more. */
  delete(one: H): boolean {
    const was = this.#held.delete(one)
    if (this.#held.size === 0) this.#rest()
    return was
  }

  /** Of none of them it is known any more whose they are; returns them. */
  lose(): H[] {
    const held = [...this.#held]
    this.#held.clear()
    this.#rest()
    return held
  }

  #rest(): void {
    clearInterval(this.#timer)
    this.#timer = undefined
  }
}
