// local:/directory: durable, shared by any number of processes, without a daemon.

import { once } from 'node:events'
import {
  accessSync,
  chmodSync,
  closeSync,
  constants,
  existsSync,
  fchmodSync,
  mkdirSync,
  openSync,
  statSync,
} from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { Worker } from 'node:worker_threads'
import { QueueError } from '../../../errors.ts'
import type { Clock } from '../../clock.ts'
import { notFound } from '../../transport.ts'
import { Bodies, LARGE } from './bodies.ts'
import { Engine, engineCapabilities, type Surroundings } from './engine.ts'
import { writerOf } from './lock.ts'
import { Peers } from './peers.ts'
import { Reserve } from './reserve.ts'
import { explainDamage, isBusy, isFailure, isFull, isNoDatabase, isReadOnly } from './sqlite.ts'
import { type Process, Store } from './store.ts'

/** Free pages of the store that are room enough for what comes: 4 MB. */
const FREE_PAGES = 1000

/** Transactions of this process; each is a few pages. */
const CHECKPOINT_EVERY = 500

/** Milliseconds for a checkpoint that is being made when the process ends. */
const PATIENCE = 2000

/** Milliseconds. */
const CHECK_AGAIN = 1000

const working = new Set<Int32Array>()

/** The package that stands in for SQLite aborts the process if a thread ends while it is in there. */
function finish(): void {
  for (const busy of working) Atomics.wait(busy, 0, 1, PATIENCE)
}

export interface LocalOptions {
  /** The permissions of the directory, when it is made; its files have those of them that files can have. */
  mode: number
  /** Whether it is made. */
  create: boolean
  /** Milliseconds to wait for other processes that write. */
  patience: number
}

/** Opens the bus in a directory, and makes it if there is none. */
export async function openLocal(directory: string, clock: Clock, options: LocalOptions): Promise<Engine> {
  const path = join(directory, 'bus.db')
  const mode = prepare(directory, path, options)
  const store = await openStore(path, clock, options.patience)
  const surroundings = new Local(directory, path, store, mode)
  const engine = new Engine(store, clock, surroundings, engineCapabilities, options.patience)
  try {
    await surroundings.enter(engine)
  } catch (error) {
    await surroundings.close().finally(() => store.close())
    throw error
  }
  return engine
}

/** Makes what is not there, with permissions that no umask takes away; returns those of files. */
function prepare(directory: string, path: string, options: LocalOptions): number {
  try {
    if (!options.create) statSync(path)
    makeDirectory(directory, options.mode)
    // Whoever made it has decided.
    const mode = statSync(directory).mode & 0o777
    makeDirectory(join(directory, 'peers'), mode)
    makeDirectory(join(directory, 'bodies'), mode)
    if (!existsSync(path)) {
      // The other files of the store get the permissions of this one.
      const file = openSync(path, 'a')
      fchmodSync(file, mode & 0o666)
      closeSync(file)
    }
    accessSync(directory, constants.W_OK | constants.X_OK)
    return mode & 0o666
  } catch (error) {
    const { code = 'EACCES', syscall } = error as NodeJS.ErrnoException
    if (code === 'ENOENT' && !options.create) throw notFound(directory, `there is no ${path}`)
    const hint = 'the directory of a bus has to be one that this user can write to'
    const details = { syscall: 'connect', path: directory, detail: `${syscall} ${code}`, hint }
    throw Object.assign(new QueueError('ERR_BUS_DIRECTORY', details), { cause: error })
  }
}

function makeDirectory(path: string, mode: number): void {
  if (mkdirSync(path, { recursive: true }) !== undefined) chmodSync(path, mode)
}

/** Two processes that open a new store at once are in each other's way. */
async function openStore(path: string, clock: Clock, patience: number): Promise<Store> {
  const end = performance.now() + patience
  for (;;) {
    try {
      return new Store(path, clock)
    } catch (error) {
      if (isBusy(error) && performance.now() < end)
        await new Promise((resolve) => setTimeout(resolve, 1 + Math.random() * 4))
      else throw explain(error, path)
    }
  }
}

function explain(error: unknown, path: string): unknown {
  const details = { syscall: 'connect', path }
  const wrap = (code: string, hint: string) =>
    Object.assign(new QueueError(code, { ...details, hint }), { cause: error })
  if (isBusy(error)) return wrap('ERR_BUS_BUSY', `look at process ${writerOf(path)}: is it stopped?`)
  if (isReadOnly(error)) return wrap('ERR_BUS_DIRECTORY', 'this user has to be able to write to the files of the bus')
  if (isNoDatabase(error)) return wrap('ERR_BUS_NOT_A_BUS', 'a bus needs a directory of its own')
  const noRoom = isFull(error) || (isFailure(error) && new Reserve(dirname(path), 0o600).isNeeded())
  if (noRoom) return wrap('ERR_BUS_DISK_FULL', 'a bus needs some megabytes of its own')
  return explainDamage(error, 'connect', path)
}

/** The other processes of the directory, and its files. */
class Local implements Surroundings {
  readonly large = LARGE
  readonly #path: string
  readonly #store: Store
  readonly #bodies: Bodies
  readonly #reserve: Reserve
  readonly #peers: Peers
  #engine!: Engine
  #full = false
  #log: Promise<FileHandle> | undefined
  #syncing: Promise<void> | undefined
  #next: Promise<void> | undefined
  #checking = false
  #checkAgain = false
  #transactions = 0
  #checkpointer: Worker | undefined
  /** 1 while the thread is at work, which the end of the process must not cut short. */
  readonly #busy = new Int32Array(new SharedArrayBuffer(4))
  #later: NodeJS.Timeout | undefined
  #closed = false

  constructor(directory: string, path: string, store: Store, mode: number) {
    this.#path = path
    this.#store = store
    this.#bodies = new Bodies(join(directory, 'bodies'), mode)
    this.#reserve = new Reserve(directory, mode)
    this.#peers = new Peers(join(directory, 'peers'), mode, {
      ring: (queue) => this.#engine.rung(queue),
      missed: () => this.#engine.ringAll(),
      lost: () => void this.#check(),
    })
  }

  /** In this order: who finds us in the store can reach us, and whom we did not find there reaches us. */
  async enter(engine: Engine): Promise<void> {
    this.#engine = engine
    this.#full = !this.#reserve.restore()
    await this.#peers.listen()
    const { owner, others } = await engine.transact(() => this.#store.enter(process.pid, this.#peers.name))
    this.#peers.owner = owner
    engine.owner = owner
    await Promise.all(others.map((other) => this.#meet(other)))
    await this.#sweep()
  }

  async #sweep(): Promise<void> {
    // In this order: whoever wrote one of these has entered before.
    const names = await this.#bodies.names()
    const alive = new Set((await this.#processes()).map(({ owner }) => owner))
    const left = names.filter((name) => !alive.has(Number.parseInt(name, 10)))
    if (left.length === 0) return
    await this.#bodies.remove(await this.#engine.transact(() => this.#store.withoutMessage(left)))
  }

  #processes(): Promise<Process[]> {
    return this.#engine.transact(() => this.#store.processes())
  }

  ring(owner: number, queue: number): void {
    this.#peers.ring(owner, queue)
  }

  hold(on: boolean): void {
    this.#peers.ref(on)
  }

  writeBody(owner: number, body: Uint8Array, disk: boolean): Promise<string> {
    return this.#bodies.write(owner, body, disk)
  }

  readBody(name: string): Promise<Uint8Array> {
    return this.#bodies.read(name)
  }

  removeBodies(names: readonly string[]): void {
    void this.#bodies.remove(names)
  }

  /** One sync serves all who came before it began. */
  sync(): Promise<void> {
    this.#next ??= (this.#syncing ?? Promise.resolve())
      .catch(() => {})
      .then(() => {
        this.#syncing = this.#next
        this.#next = undefined
        return this.#syncLog()
      })
    return this.#next
  }

  async #syncLog(): Promise<void> {
    this.#log ??= open(`${this.#path}-wal`, 'r').catch((error: unknown) => {
      this.#log = undefined
      throw error
    })
    await (await this.#log).datasync()
  }

  committed(): void {
    const isBusy = Atomics.load(this.#busy, 0) === 1
    if (++this.#transactions < CHECKPOINT_EVERY || isBusy || this.#closed) return
    this.#transactions = 0
    try {
      Atomics.store(this.#busy, 0, 1)
      this.#checkpointer ??= this.#startCheckpointer()
      this.#checkpointer.postMessage('checkpoint')
    } catch {
      // There is no thread to be had: the next transaction that finds the log too long does the work.
    }
  }

  #startCheckpointer(): Worker {
    const worker = new Worker(new URL('./checkpointer.js', import.meta.url), {
      workerData: { path: this.#path, busy: this.#busy },
      // Nobody else's business: neither the arguments of this process nor its output.
      argv: [],
      execArgv: [],
    })
    const forget = () => working.delete(this.#busy)
    if (!process.listeners('exit').includes(finish)) process.on('exit', finish)
    working.add(this.#busy)
    worker.on('exit', forget)
    // As if there were no thread to be had.
    worker.on('error', () => {
      forget()
      this.#checkpointer = undefined
    })
    // Last: a listener holds the loop.
    worker.unref()
    return worker
  }

  hasRoom(): boolean {
    if (this.#full) this.#full = !this.#reserve.restore()
    // The file of the store never shrinks: what was received makes room in it.
    return !this.#full || this.#store.freePages() > FREE_PAGES
  }

  isFull(error: unknown): boolean {
    return isFull(error) || (isFailure(error) && this.#reserve.isNeeded())
  }

  makeRoom(): boolean {
    this.#full = true
    return this.#reserve.release()
  }

  writer(): number | undefined {
    return writerOf(this.#path)
  }

  /** Looks who is no more, gives back what they held, and looks what there is: a bell may have died with its ringer. */
  async #check(): Promise<void> {
    this.#checkAgain = true
    if (this.#checking) return
    this.#checking = true
    while (this.#checkAgain && !this.#closed) {
      this.#checkAgain = false
      try {
        const others = (await this.#processes()).filter(({ owner }) => owner !== this.#engine.owner)
        this.#peers.keep(others.map(({ owner }) => owner))
        await Promise.all(others.map((other) => this.#meet(other)))
      } catch {
        // The store is not to be had: somebody is stopped while he writes, or the disk fails. It may be later.
        this.#checkLater()
      }
      if (!this.#closed) this.#engine.ringAll()
    }
    this.#checking = false
  }

  #checkLater(): void {
    if (this.#closed) return
    const check = () => {
      this.#later = undefined
      void this.#check()
    }
    this.#later ??= setTimeout(check, CHECK_AGAIN).unref()
  }

  async #meet({ owner, socket }: Process): Promise<void> {
    const met = await this.#peers.connect(owner, socket)
    // Out of descriptors, or it has more to welcome than it can: its bells wait.
    if (met === 'unknown') this.#checkLater()
    if (met !== 'gone') return
    await this.#engine.reap(owner, true)
    this.#peers.forget(owner, socket)
  }

  async close(): Promise<void> {
    this.#closed = true
    clearTimeout(this.#later)
    if (this.#checkpointer !== undefined) {
      // It ends by itself: terminate() would not wait for what it is doing.
      const ended = once(this.#checkpointer, 'exit').catch(() => {})
      this.#checkpointer.ref()
      this.#checkpointer.postMessage('close')
      await ended
    }
    await this.#peers.close()
    await (await this.#log?.catch(() => {}))?.close()
  }
}
