// Room that is kept for a full disk: with it what is in a bus can still be received and acknowledged.
import { closeSync, existsSync, openSync, renameSync, rmSync, writeFileSync, writeSync } from 'node:fs'
import { join } from 'node:path'

/** More than a write-ahead log of 2500 pages: as far as it has not grown to that, what is in it makes the store grow. */
const BYTES = 12 * 2 ** 20
const CHUNK = new Uint8Array(2 ** 20)

export class Reserve {
  readonly #path: string

  readonly #mode: number

  constructor(directory: string, mode: number) {
    this.#mode = mode
    this.#path = join(directory, 'reserve')
  }

  /** False while there is no room for it: then nothing may be sent. */
  restore(): boolean {
    if (existsSync(this.#path)) return true
    const part = `${this.#path}.${process.pid}`
    try {
      const file = openSync(part, 'w', this.#mode)
      try {
        for (let written = 0; written < BYTES; ) written += writeSync(file, CHUNK)
      } finally {
        closeSync(file)
      }
    } catch {
      rmSync(part, { force: true })
      return false
    }
    renameSync(part, this.#path)
    return true
  }

  /** Whether the disk has no room for a part of it. */
  isNeeded(): boolean {
    const part = `${this.#path}.${process.pid}`
    try {
      writeFileSync(part, CHUNK, { mode: this.#mode })
      return false
    } catch (error) {
      return ['ENOSPC', 'EDQUOT'].includes((error as NodeJS.ErrnoException).code ?? '')
    } finally {
      rmSync(part, { force: true })
    }
  }

  /** False if it was used up before. */
  release(): boolean {
    const there = existsSync(this.#path)
    rmSync(this.#path, { force: true })
    return there
  }
}
