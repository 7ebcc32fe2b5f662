// What was taken from a queue that forgets it, on its way into the outbox. A file outlives its process from the moment
// it is written to, which is at once; a commit may have to wait for others, and for the disk.
import {
  closeSync,
  copyFileSync,
  ftruncateSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { MAX_NAME, MAX_PRIORITY, OWN_HEADER } from '../bus/transport.ts'
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
  #isTorn = false

  /** @param queue that of the outbox which what is taken goes into */
  constructor(directory: string, queue: string) {
    this.#directory = directory
    this.#queue = queue
    this.#path = join(directory, `${queue}.${self}-${count++}${END}`)
    this.#file = openSync(this.#path, 'a', 0o600)
  }

  /** All of it, though the disk takes it in parts; what an earlier attempt has left of a line ends there. */
  write(parcel: Parcel): void {
    this.#isEmpty = false
    const line = toLine(parcel)
    const text = this.#isTorn ? `\n${line}` : line
    this.#isTorn = true
    writeFileSync(this.#file, text)
    this.#isTorn = false
  }

  /** All of it is in the outbox. */
  clear(): void {
    if (this.#isEmpty) return
    ftruncateSync(this.#file)
    this.#isEmpty = true
    this.#isTorn = false
  }

  /** All but these is in the outbox. It is written to no more. */
  replace(parcels: readonly Parcel[]): void {
    replace(this.#path, parcels)
  }

  /** What is still in it somebody else will find. */
  close(): void {
    closeSync(this.#file)
    const left = join(this.#directory, `${this.#queue}.left-${self}-${count++}${END}`)
    ifThere(() => (this.#isEmpty ? unlinkSync(this.#path) : renameSync(this.#path, left)))
  }
}

/** What a journal has in it whose owner is no more, or could not reach the outbox. */
export interface Left {
  readonly parcels: readonly Parcel[]
  /** Set aside, since there are lines in it that nobody can read; else undefined. */
  readonly damaged: string | undefined
  /** All that can be read is in the outbox, but for the rest. */
  done(rest: readonly Parcel[]): void
}

export function* leftIn(directory: string, queue: string): Generator<Left> {
  const begin = `${queue}.`
  for (const name of readdirSync(directory)) {
    if (!name.startsWith(begin) || !name.endsWith(END) || isAlive(name.slice(begin.length, -END.length))) continue
    const path = join(directory, name)
    const { parcels, isWhole } = readAll(path)
    const damaged = isWhole ? undefined : `${path}.damaged`
    yield {
      parcels,
      damaged,
      done: (rest) =>
        ifThere(() => {
          if (rest.length === 0) return damaged === undefined ? unlinkSync(path) : renameSync(path, damaged)
          if (damaged !== undefined) copyFileSync(path, damaged)
          return replace(path, rest)
        }),
    }
  }
}

/** At no moment there is less in the file than these. */
function replace(path: string, parcels: readonly Parcel[]): void {
  const own = `${path}.new`
  try {
    writeFileSync(own, parcels.map(toLine).join(''), { mode: 0o600 })
    renameSync(own, path)
  } catch (error) {
    rmSync(own, { force: true })
    throw error
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

function readAll(path: string): { parcels: Parcel[]; isWhole: boolean } {
  // What is behind the last end of a line was not written to its end: nobody has seen it.
  const lines = (ifThere(() => readFileSync(path, 'utf8')) ?? '').split('\n').slice(0, -1)
  const parcels = lines.map(parcelIn).filter((parcel) => parcel !== undefined)
  return { parcels, isWhole: parcels.length === lines.length }
}

/** Undefined if it is damaged: power may fail, and the disk be full. */
function parcelIn(text: string): Parcel | undefined {
  try {
    const line: unknown = JSON.parse(text)
    if (!isLine(line)) return undefined
    const { id, priority, key, headers, body, base64 } = line
    return { id, priority, key, headers, body: base64 === undefined ? body : Buffer.from(base64, 'base64') }
  } catch {
    return undefined
  }
}

/** What an outbox would refuse would keep what is behind it from getting there. */
function isLine(value: unknown): value is Line {
  if (typeof value !== 'object' || value === null) return false
  const { id, priority, key = 'key', headers = {}, body, base64 } = value as Record<string, unknown>
  const areTexts = [id, key].every((one) => typeof one === 'string' && one.length > 0 && one.length <= MAX_NAME)
  const isPriority = Number.isInteger(priority) && Number(priority) >= 0 && Number(priority) <= MAX_PRIORITY
  const hasBody = base64 === undefined ? body !== undefined : typeof base64 === 'string'
  return areTexts && isPriority && hasBody && areHeaders(headers)
}

const areHeaders = (value: unknown): boolean =>
  typeof value === 'object' &&
  value !== null &&
  Object.entries(value).every(([name, text]) => typeof text === 'string' && !name.startsWith(OWN_HEADER))

/** Another bridge may have been faster. */
function ifThere<T>(use: () => T): T | undefined {
  try {
    return use()
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw error
  }
}
