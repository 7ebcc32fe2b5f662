// What was taken from a queue that forgets it, on its way into the outbox. A file outlives its process from the moment
// it is written to, microseconds after the taking; a commit may have to wait for others, and for the disk.
import {
  closeSync,
  ftruncateSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  unlinkSync,
  writeSync,
} from 'node:fs'
import { join } from 'node:path'
import { isAlive, self } from '../bus/transports/kernel/process.ts'
import type { Parcel } from './mapping.ts'

const END = '.taken'

/** Journals of this process: a route may end and begin again. */
let count = 0

export class Journal {
  readonly #directory: string
  readonly #queue: string
  readonly #path: string
  readonly #file: number
  #isEmpty = true

  /** @param queue that of the outbox which what is taken goes into */
  constructor(directory: string, queue: string) {
    this.#directory = directory
    this.#queue = queue
    this.#path = join(directory, `${queue}.${self}-${count++}${END}`)
    this.#file = openSync(this.#path, 'a', 0o600)
  }

  write(parcels: readonly Parcel[]): void {
    this.#isEmpty = false
    writeSync(this.#file, parcels.map(toLine).join(''))
  }

  /** All of it is in the outbox. */
  clear(): void {
    ftruncateSync(this.#file)
    this.#isEmpty = true
  }

  /** What is still in it somebody else will find. */
  close(): void {
    closeSync(this.#file)
    if (this.#isEmpty) unlinkSync(this.#path)
    else renameSync(this.#path, join(this.#directory, `${this.#queue}.left-${self}-${count++}${END}`))
  }

  /** What others have left, who were killed, or could not reach the outbox. */
  left(): { parcels: Parcel[]; remove(): void }[] {
    const begin = `${this.#queue}.`
    const owner = (name: string) => name.slice(begin.length, -END.length)
    return readdirSync(this.#directory)
      .filter((name) => name.startsWith(begin) && name.endsWith(END) && !isAlive(owner(name)))
      .map((name) => {
        const path = join(this.#directory, name)
        return { parcels: readAll(path), remove: () => removeIfThere(path) }
      })
  }
}

/** Bytes are not JSON. */
interface Line extends Parcel {
  readonly base64?: string
}

function toLine(parcel: Parcel): string {
  const { body, ...rest } = parcel
  const line = body instanceof Uint8Array ? { ...rest, base64: Buffer.from(body).toString('base64') } : parcel
  return `${JSON.stringify(line)}\n`
}

function readAll(path: string): Parcel[] {
  // What is behind the last end of a line was not written to its end: nobody has seen it.
  const lines = textOf(path).split('\n').slice(0, -1)
  return lines.map((text) => {
    const { base64, ...parcel }: Line = JSON.parse(text)
    return base64 === undefined ? parcel : { ...parcel, body: Buffer.from(base64, 'base64') }
  })
}

/** Another bridge may have been faster. */
function textOf(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return ''
    throw error
  }
}

function removeIfThere(path: string): void {
  try {
    unlinkSync(path)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
  }
}
