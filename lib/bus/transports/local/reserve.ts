// Room that is kept for a full disk: with it what is in a bus can still be received and acknowledged.
import { randomUUID } from 'node:crypto'
import { closeSync, existsSync, openSync, renameSync, rmSync, writeFileSync, writeSync } from 'node:fs'
import { join } from 'node:path'

/** More than a write-ahead log of 2500 pages: as far as it has not grown to that, what is in it makes the store grow. */
const BYTES = 12 * 2 ** 20
const CHUNK = new Uint8Array(2 ** 20)

export class Reserve {
  readonly #path: string

  /** Nobody else's: threads have the same number of a process, and so may processes of two containers. */
  readonly #part: string

  readonly #mode: number

  constructor(directory: string, mode: number) {
    this.#mode = mode
    this.#path = join(directory, 'reserve')
    this.#part = `${this.#path}.${randomUUID()}`
  }

  /** False while there is no room for it: then nothing may be sent. */
  restore(): boolean {
    if (existsSync(this.#path)) return true
    try {
      const file = openSync(this.#part, 'w', this.#mode)
      try {
        for (let written = 0; written < BYTES; ) written += writeSync(file, CHUNK)
      } finally {
        closeSync(file)
      }
    } catch {
      rmSync(this.#part, { force: true })
      return false
    }
    renameSync(this.#part, this.#path)
    return true
  }

  /** Whether the disk has no room for a part of it. */
  isNeeded(): boolean {
    try {
      writeFileSync(this.#part, CHUNK, { mode: this.#mode })
      return false
    } catch (error) {
      return ['ENOSPC', 'EDQUOT'].includes((error as NodeJS.ErrnoException).code ?? '')
    } finally {
      rmSync(this.#part, { force: true })
    }
  }

  /** False if it was used up before. */
  release(): boolean {
    const there = existsSync(this.#path)
    rmSync(this.#path, { force: true })
    return there
  }
}
