// Loads the addon and says what it holds. The casts of the tree are here.
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'
import { markAsUntransferable } from 'node:worker_threads'
import type findAddon from 'bindings'

// An import would first look through it for the names that it exports, which takes longer than loading it.
const bindings = createRequire(import.meta.url)('bindings') as typeof findAddon

/** One descriptor and its registration with the loop of this thread. */
export interface Descriptor {
  /** Make the descriptor, which is owned from then on; see native/exports.h. */
  open: Native['open']
  reopen(fd: number, flags: number): number
  duplicate(fd: number): number
  notifySocket(): number
  /** Called with the ready events, or with a negative errno. */
  onready: (events: number) => void
  /** Wants `UV_READABLE | UV_WRITABLE`, or nothing (0); negative errno on failure. */
  watch(events: number, keepAlive: boolean): number
  close(): void
}

/** One msgsnd(2) or msgrcv(2) on a thread of its own. */
export interface BlockedCall {
  /** Called with what it came to, and the data of a receive. */
  onsettled: (result: number, data: Buffer | undefined) => void
  start(keepAlive: boolean): number
  hold(keepAlive: boolean): void
  cancel(): void
}

/** `struct msqid_ds` */
export interface MsqidDs {
  id: number
  key: number
  uid: number
  gid: number
  cuid: number
  cgid: number
  mode: number
  stime: number
  rtime: number
  ctime: number
  cbytes: number
  qnum: number
  qbytes: number
  lspid: number
  lrpid: number
}

/** `struct msginfo`, and the index of the last queue. */
export interface Msginfo {
  index: number
  pool: number
  map: number
  max: number
  mnb: number
  mni: number
  ssz: number
  tql: number
  seg: number
}

export interface MqAttributes {
  flags: number
  maxmsg: number
  msgsize: number
  curmsgs: number
}

export interface Timespec {
  sec: number
  nsec: number
}

/**
 * The addon's functions; each is described where it is defined, in native/.
 * They return a value or a negative errno.
 */
export interface Native {
  /** The version of Node-API that it needs. */
  readonly nodeApi: number
  readonly Descriptor: new () => Descriptor
  /**
   * For each message that the last receive brought: its length, then its
   * priority (POSIX) or both halves of its type, the low one first (System V).
   */
  readonly received: Uint32Array
  /** Where receives put their bytes; the next call overwrites it. */
  readonly area: Buffer
  /** What {@link reserve} keeps of it. */
  view?: { area: Buffer; words: Uint32Array }
  /** Makes the area hold at least that many bytes; see the function of this name. */
  reserve(bytes: number): void

  send(fd: number, bytes: Uint8Array, priority: number, shared: boolean): number
  sendBatch(fd: number, bytes: Uint8Array, pairs: Uint32Array, from: number, to: number, shared: boolean): number
  receive(fd: number, shared: boolean): number
  receiveInto(fd: number, bytes: Uint8Array, shared: boolean): number
  receiveSpinning(fd: number, bytes: Uint8Array | undefined, microseconds: number, shared: boolean): number
  receiveBatch(fd: number, max: number, messageSize: number, shared: boolean): number

  timedSend(fd: number, bytes: Uint8Array, priority: number, deadline: Timespec | undefined): number
  timedReceive(fd: number, bytes: Uint8Array, deadline: Timespec | undefined): number
  open(name: string, flags: number, mode: number, maxmsg?: number, msgsize?: number): number
  unlink(name: string): number
  close(fd: number): number
  getSetAttributes(fd: number, flags?: number): number | MqAttributes
  notify(fd: number, kind?: number, signalOrSocket?: number, value?: number): number
  notifyRead(socket: number): number
  accessMode(fd: number): number
  setCloseOnExec(fd: number): number

  readonly BlockedCall: new (
    id: number,
    type: number | bigint,
    flags: number,
    bytesOrSize: Uint8Array | number,
  ) => BlockedCall
  msgSend(id: number, type: number | bigint, bytes: Uint8Array, flags: number): number
  msgSendBatch(id: number, bytes: Uint8Array, triples: Uint32Array, from: number, to: number): number
  msgReceive(id: number, type: number | bigint, sizeOrBytes: number | Uint8Array, flags: number): number
  msgReceiveBatch(id: number, type: number | bigint, size: number, flags: number, max: number): number
  msgReceiveSpinning(
    id: number,
    type: number | bigint,
    sizeOrBytes: number | Uint8Array,
    flags: number,
    microseconds: number,
  ): number
  msgSendBlocking(
    id: number,
    type: number | bigint,
    bytes: Uint8Array,
    milliseconds: number,
    interruptible: boolean,
    noop: () => void,
  ): number
  msgReceiveBlocking(
    id: number,
    type: number | bigint,
    sizeOrBytes: number | Uint8Array,
    flags: number,
    milliseconds: number,
    interruptible: boolean,
    noop: () => void,
  ): number
  msgGet(key: number, flags: number): number
  msgLimit(id: number, index: number): number
  msgStat(idOrIndex: number, command: number): number | MsqidDs
  msgSet(id: number, uid: number, gid: number, mode: number, qbytes: number): number
  msgControl(id: number, command: number): number
  msgInfo(command: number): number | Msginfo

  poll(fd: number, events: number, milliseconds: number, interruptible: boolean, noop: () => void): number
}

function load(): { native: Native; file: string } {
  if (process.platform !== 'linux') {
    throw new Error(
      `kernelmq needs Linux: it is made of the Linux kernel's message queues (this is ${process.platform})`,
    )
  }
  const root = fileURLToPath(new URL('..', import.meta.url))
  const candidates = [
    ['build', 'Release', 'kernelmq.node'],
    ['build', 'Debug', 'kernelmq.node'],
    ['prebuilds', `${process.platform}-${process.arch}`, 'kernelmq.glibc.node'],
  ]
  const failures: string[] = []
  for (const path of candidates) {
    // One call each: given several, bindings gives up at the first that exists
    // but cannot be loaded.
    try {
      const native = bindings({
        bindings: 'kernelmq.node',
        module_root: root,
        try: [['module_root', ...path]],
      }) as unknown as Native
      return { native, file: root + path.join('/') }
    } catch (error) {
      const found = !('tries' in (error as object)) // bindings' own list, where there is no such file
      failures.push(`  ${root}${path.join('/')}: ${found ? (error as Error).message : 'not there'}`)
    }
  }
  throw new Error(
    `kernelmq: no addon for Node.js ${process.version} on ${process.platform}-${process.arch}. Tried:\n${failures.join('\n')}\n` +
      `To build it (needs g++, make and python3): cd ${root} && npx -p node-gyp@12 -p node-addon-api@8 node-gyp rebuild`,
  )
}

const loaded = load()

export const native: Native = loaded.native

/** Where it was found. */
export const addonFile: string = loaded.file

/** The addon's, where to find it takes no time: its exports are a dictionary. */
export const received: Uint32Array = native.received

/** With the addon: this module may be loaded twice in one thread, and either copy makes the area larger. */
native.view ??= { area: Buffer.alloc(0), words: new Uint32Array(0) }
const { view } = native

/** Makes the area hold at least that many bytes. */
export function reserve(bytes: number): void {
  if (bytes <= view.area.length) return
  native.reserve(aligned(bytes))
  const { area } = native
  view.area = area
  view.words = new Uint32Array(area.buffer, area.byteOffset, area.length >>> 2)
}

/** Where the next message begins in the area. */
export const aligned = (offset: number): number => offset + 7 - ((offset + 7) % 8)

// Small messages share memory, as those of Buffer.allocUnsafe() do: a buffer of
// its own costs more than receiving it.
const POOL = 8192
const POOLED = POOL / 4
const COPIED_BY_WORDS = 128
let pool: Buffer = Buffer.alloc(0)
let poolWords: Uint32Array = new Uint32Array(0)
let used = 0

function newPool(): void {
  pool = Buffer.allocUnsafeSlow(POOL)
  markAsUntransferable(pool.buffer)
  poolWords = new Uint32Array(pool.buffer)
  used = 0
}

type MessageClass<M, T> = new (memory: Buffer, tag: T, start?: number, end?: number) => M

/** A message of what a receive put into the area from `start`, which is aligned, to `end`; in memory that stays. */
export function keep<M, T>(Class: MessageClass<M, T>, start: number, end: number, tag: T): M {
  const length = end - start
  if (length > POOLED) return new Class(Uint8Array.prototype.slice.call(view.area, start, end) as Buffer, tag)
  if (used + length > pool.length) newPool() // it is full, or somebody detached it
  const from = used
  const to = from + length
  used = aligned(to)
  if (length <= COPIED_BY_WORDS) {
    // A loop over so few is quicker than a call of set().
    const { words } = view
    for (let i = start / 4, j = from / 4; 4 * i < end; i++, j++) poolWords[j] = words[i] as number
  } else {
    pool.set(view.area.subarray(start, end), from)
  }
  return new Class(pool, tag, from, to)
}

/** `uv_poll_event`, what `Descriptor` speaks. */
export const UV_READABLE = 1
export const UV_WRITABLE = 2

/** The most messages of one batch call (`kMaxBatch`). */
export const MAX_BATCH = 256

const TERMINATED = -100_000
const noop = (): void => {}

/** Ends the JavaScript of a worker whose termination a blocking call met. */
function orTerminated(result: number): number {
  if (result === TERMINATED) {
    // V8 looks for termination when a function is entered: a loop around native
    // calls alone would spin for ever.
    noop()
    throw new Error('the worker was terminated')
  }
  return result
}

/**
 * The type of a message, from its place in `received`: a bigint if it is not a
 * safe integer.
 */
export function typeAt(at: number): number | bigint {
  const low = received[at] ?? 0
  const high = received[at + 1] ?? 0
  if (high === 0) return low
  if (high < 2 ** 21) return high * 2 ** 32 + low
  return (BigInt(high) << 32n) | BigInt(low)
}

/**
 * poll(2) on this thread: the events that are there, 0 after the time, or a
 * negative errno. `worker.terminate()` ends it.
 */
export function pollSync(fd: number, events: number, milliseconds: number, interruptible: boolean): number {
  return orTerminated(native.poll(fd, events, milliseconds, interruptible, noop))
}

/** msgsnd(2) that waits on this thread; 0, or a negative errno. */
export function msgSendSync(
  id: number,
  type: number | bigint,
  bytes: Uint8Array,
  milliseconds: number,
  interruptible: boolean,
): number {
  return orTerminated(native.msgSendBlocking(id, type, bytes, milliseconds, interruptible, noop))
}

/** msgrcv(2) that waits on this thread; the length, or a negative errno. */
export function msgReceiveSync(
  id: number,
  type: number | bigint,
  sizeOrBytes: number | Uint8Array,
  flags: number,
  milliseconds: number,
  interruptible: boolean,
): number {
  return orTerminated(native.msgReceiveBlocking(id, type, sizeOrBytes, flags, milliseconds, interruptible, noop))
}
