// The directory of a bus of kernel queues: who it is, what its queues are called in the kernel, what topics are bound to,
// and bodies that no pack has room for.
import { createHash, randomBytes } from 'node:crypto'
import {
  chmodSync,
  closeSync,
  constants,
  fchmodSync,
  fstatSync,
  linkSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  statSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs'
import { basename, join } from 'node:path'
import { QueueError } from '../../../errors.ts'
import { type Binding, BORROWED, notFound } from '../../transport.ts'
import type { Files } from './pack.ts'
import { isAlive, self } from './process.ts'
import { type Owner, remember, remove, type Scheme, sweep } from './remains.ts'

/** Milliseconds in which several changes of a directory may have one time. */
const GRAIN = 50
/** Keys that are tried for a name. */
const MOST = 100
/** Milliseconds after which a body whose sender is gone is nobody's, if no message is anywhere. */
const FORGOTTEN = 60_000

const hash = (text: string, length: number) => createHash('sha256').update(text).digest('hex').slice(0, length)

let count = 0
const unique = () => `${self}-${randomBytes(3).toString('hex')}${count++}`

/** If there is any doubt, it is. */
function isThere({ id, directory }: Pick<Owner, 'id' | 'directory'>): boolean {
  try {
    return readFileSync(join(directory, 'id'), 'utf8') === id
  } catch (error) {
    return !['ENOENT', 'ENOTDIR'].includes((error as NodeJS.ErrnoException).code ?? '')
  }
}

/** A file that was not there; nobody can have put a link in its place. All of it, or none: a part would take room. */
function create(path: string, data: string | Uint8Array, mode: number): void {
  const file = openSync(path, 'wx', mode)
  try {
    fchmodSync(file, mode)
    writeFileSync(file, data)
  } catch (error) {
    unlink(path)
    throw error
  } finally {
    closeSync(file)
  }
}

const unlink = (path: string): void => {
  try {
    unlinkSync(path)
  } catch {
    // Somebody else has.
  }
}

export class Directory implements Files {
  readonly path: string
  /** The permissions of queues and files. */
  readonly mode: number
  readonly #scheme: Scheme
  readonly #id: string
  #bindings: Binding[] = []
  #readAt = Number.NEGATIVE_INFINITY
  #changedAt = 0

  /** @param mode the permissions of the directory, when it is made */
  constructor(path: string, scheme: Scheme, { mode, create }: { mode: number; create: boolean }) {
    this.#scheme = scheme
    // One directory can be that of a bus of each kind.
    this.path = join(path, scheme)
    const id = join(this.path, 'id')
    try {
      if (!create) statSync(id)
      make(path, mode)
      const actual = statSync(path).mode & 0o777
      this.mode = actual & 0o666
      make(this.path, actual)
      for (const name of ['queues', 'bindings', 'bodies']) make(join(this.path, name), actual)
      this.#id = this.#identify()
    } catch (error) {
      const { code = 'EACCES', syscall } = error as NodeJS.ErrnoException
      if (code === 'ENOENT' && !create) throw notFound(path, `there is no ${id}`)
      const hint = 'the directory of a bus has to be one that this user can write to'
      const details = { syscall: 'connect', path, detail: `${syscall} ${code}`, hint }
      throw Object.assign(new QueueError('ERR_BUS_DIRECTORY', details), { cause: error })
    }
  }

  /** A new directory at an old place is another bus. */
  #identify(): string {
    const path = join(this.path, 'id')
    const own = `${path}.${unique()}`
    create(own, hash(unique(), 8), this.mode)
    try {
      linkSync(own, path)
    } catch {
      // There is one; or reading it says what is wrong.
    }
    unlinkSync(own)
    return readFileSync(path, 'utf8')
  }

  get isThere(): boolean {
    return isThere({ id: this.#id, directory: this.path })
  }

  /** What a queue is called in the kernel, by a name that says to whom it belongs. */
  objectOf(queue: string): string {
    for (let salt = 0; salt < MOST; salt++) {
      const object = this.#candidate(queue, salt)
      const entry = join(this.path, 'queues', object)
      try {
        symlinkSync(queue, entry)
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
        // Two names may have one key.
        if (readlinkSync(entry) !== queue) continue
      }
      remember(this.#scheme, object, { id: this.#id, queue, directory: this.path })
      return object
    }
    const details = { syscall: 'open', path: this.path, detail: `somebody has taken the names for "${queue}"` }
    throw new QueueError('ERR_BUS_DIRECTORY', details)
  }

  /** The same of a queue that is somebody else's; undefined if it is none any more. */
  findObject(queue: string): string | undefined {
    for (let salt = 0; salt < MOST; salt++) {
      const object = this.#candidate(queue, salt)
      try {
        if (readlinkSync(join(this.path, 'queues', object)) === queue) return object
      } catch {
        return undefined
      }
    }
    return undefined
  }

  #candidate(queue: string, salt: number): string {
    if (this.#scheme === 'sysv') return `0x${hash(`${this.#id}/${queue}/${salt}`, 8).replace(/^0{8}$/, '1')}`
    const bus = basename(join(this.path, '..'))
      .replaceAll(/[^\w-]/g, '')
      .slice(0, 32)
    return `kmq.${bus}-${this.#id}.${queue.replace('/', '@')}`
  }

  queues(): string[] {
    const entries = readdirSync(join(this.path, 'queues'))
    return entries.flatMap((entry) => {
      try {
        return [readlinkSync(join(this.path, 'queues', entry))]
      } catch {
        return [] // dropped meanwhile
      }
    })
  }

  /** A name for a queue that goes with this process. */
  newBorrowed(): string {
    return `${BORROWED}${unique()}`
  }

  drop(queue: string): void {
    const object = this.findObject(queue)
    if (object !== undefined) {
      remove(this.#scheme, object)
      unlink(join(this.path, 'queues', object))
    }
    for (const binding of this.bindings()) if (binding.queue === queue) this.unbind(binding)
  }

  /** Removes what nobody will come back for, of all buses of this user. */
  sweep(): void {
    for (const { object, owner } of sweep(isThere)) {
      unlink(join(owner.directory, 'queues', object))
      if (owner.directory === this.path)
        for (const binding of this.bindings()) if (binding.queue === owner.queue) this.unbind(binding)
    }
  }

  /** Removes bodies whose messages are gone, if no message is in any queue. */
  sweepBodies(isEmpty: () => boolean): void {
    const directory = join(this.path, 'bodies')
    const names = readdirSync(directory)
    if (names.length === 0 || !isEmpty()) return
    for (const name of names) {
      const path = join(directory, name)
      const { mtimeMs = Number.POSITIVE_INFINITY } = statSync(path, { throwIfNoEntry: false }) ?? {}
      if (!isAlive(name) && Date.now() - mtimeMs > FORGOTTEN) unlink(path)
    }
  }

  #bindingOf({ pattern, queue, headers }: Binding): { path: string; text: string } {
    const text = JSON.stringify({ pattern, queue, headers })
    return { path: join(this.path, 'bindings', hash(text, 32)), text }
  }

  bind(binding: Binding): void {
    const { path, text } = this.#bindingOf(binding)
    const own = `${path}.${unique()}`
    create(own, text, this.mode)
    renameSync(own, path)
  }

  unbind(binding: Binding): void {
    unlink(this.#bindingOf(binding).path)
  }

  bindings(): readonly Binding[] {
    const directory = join(this.path, 'bindings')
    const { mtimeMs } = statSync(directory, { throwIfNoEntry: false }) ?? {}
    if (mtimeMs === undefined) return [] // it is gone, and all with it
    if (mtimeMs === this.#changedAt && mtimeMs < this.#readAt - GRAIN) return this.#bindings
    this.#changedAt = mtimeMs
    this.#readAt = Date.now()
    const names = readdirSync(directory).filter((name) => !name.includes('.'))
    this.#bindings = names.flatMap((name) => {
      try {
        return [JSON.parse(readFileSync(join(directory, name), 'utf8')) as Binding]
      } catch {
        return [] // unbound meanwhile
      }
    })
    return this.#bindings
  }

  write(body: Uint8Array): string {
    const name = unique()
    create(join(this.path, 'bodies', name), body, this.mode)
    return name
  }

  remove(name: string): void {
    unlink(join(this.path, 'bodies', name))
  }

  take(name: string): Buffer {
    if (!/^[\w-]+$/.test(name)) throw new QueueError('ERR_BUS_DAMAGED', { syscall: 'receive', path: name })
    const path = join(this.path, 'bodies', name)
    try {
      const body = readPlain(path)
      unlink(path)
      return body
    } catch (cause) {
      const { code } = cause as NodeJS.ErrnoException
      throw Object.assign(new QueueError('ERR_BUS_DAMAGED', { syscall: 'receive', path, detail: code }), { cause })
    }
  }
}

/** A file: not a link, nor something that waits for a writer. */
function readPlain(path: string): Buffer {
  const file = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK)
  try {
    if (!fstatSync(file).isFile()) throw Object.assign(new Error('It is no file'), { code: 'EINVAL' })
    return readFileSync(file)
  } finally {
    closeSync(file)
  }
}

/** With permissions that no umask takes away. */
function make(path: string, mode: number): void {
  if (mkdirSync(path, { recursive: true }) !== undefined) chmodSync(path, mode)
}
