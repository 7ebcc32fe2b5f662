import { constants as os } from 'node:os'
import { isUint8Array } from 'node:util/types'
import { checkAttached, checkInteger, checkOptions, invalidType, outOfRange, QueueError } from './errors.ts'
import { aligned, keep, MAX_BATCH, msgReceiveSync, msgSendSync, native, received, reserve, typeAt } from './native.ts'
import { BATCH_BYTES, type Data, type Packing, type Tag } from './outbox.ts'
import { Message, Queue, type Sending } from './queue.ts'
import {
  ftok,
  IPC_CREAT,
  IPC_EXCL,
  IPC_NOWAIT,
  IPC_PRIVATE,
  IPC_RMID,
  MSG_COPY,
  MSG_EXCEPT,
  MSG_NOERROR,
} from './syscalls.ts'
import {
  formatKey,
  listSysv,
  maxBytesOf,
  type SysvLimits,
  type SysvQueueInfo,
  type SysvStat,
  statSysv,
  sysvHint,
  sysvLimits,
} from './system.ts'
import { Threads } from './threads.ts'
import {
  checkSpin,
  deadlineOf,
  isInterruptible,
  type SyncOptions,
  type SyncReceiveOptions,
  type Waiter,
  type WaitOptions,
} from './waiting.ts'

const { E2BIG, EAGAIN, EEXIST, EIDRM, EINVAL, EMSGSIZE, ENOENT, ENOMSG, ETIMEDOUT } = os.errno

const { msgSend, msgSendBatch, msgReceive, msgReceiveBatch, msgReceiveSpinning } = native

/** A message of a queue begins with its type. */
const HEADER = 8

const MAX_TYPE = 2n ** 63n - 1n
/** The kernel takes an `int`, and cuts what is more. */
const MAX_BYTES = 2 ** 31 - 1

/** A type: 1 to 2^63-1, a bigint beyond 2^53-1. */
export type SysvType = number | bigint

/** What msgget(2) finds a queue by. */
export type SysvKey = number | string | 'private'

export interface SysvOpenOptions {
  /** Create the queue if there is none. Default: false. */
  create?: boolean | undefined
  /** Create it, and fail with EEXIST if there is one. Default: false. */
  exclusive?: boolean | undefined
  /** Permission bits of a created queue; the umask does not touch them. Default: 0o600. */
  mode?: number | undefined
  /**
   * Bytes that a created queue holds, up to 2^31-1; a longer message is EMSGSIZE.
   * Default: the kernel's (kernel.msgmnb), usually 16384.
   */
  maxBytes?: number | undefined
}

export interface SysvSendOptions {
  /** 1 to 2^63-1; a receiver may ask for it. Default: 1. */
  type?: SysvType | undefined
}

export interface SysvReceiveOptions {
  /**
   * 0: the oldest message. n > 0: the oldest of type n. n < 0: the oldest of the
   * lowest type that is not above -n; -3 takes 1 before 2 before 3, and leaves 4.
   * Default: 0.
   */
  type?: SysvType | undefined
  /** The oldest of any type but `type`, which is positive. Default: false. */
  except?: boolean | undefined
  /**
   * The most bytes to take; a longer message stays in the queue, and the call
   * fails with E2BIG. Default: whatever its length, or that of the buffer.
   */
  size?: number | undefined
  /** Take a message that is longer all the same, and lose the rest of it. Default: false. */
  truncate?: boolean | undefined
}

/** A message to send, with its type. */
export interface SysvOutgoing extends SysvSendOptions {
  data: Data
}

/** A message of a System V queue. */
export class SysvMessage extends Message {
  /** 1 to 2^63-1, a bigint beyond 2^53-1 */
  readonly type: SysvType

  constructor(memory: Buffer, type: SysvType, start?: number, end?: number) {
    super(memory, start, end)
    this.type = type
  }
}

/** Batches hold the length and both halves of the type for each message. */
const packing: Omit<Packing<SysvSendOptions>, 'send'> = {
  words: 3,
  tagOf(options) {
    checkOptions(options)
    const type = options?.type
    return type === undefined ? 1 : checkType(type, 1n)
  },
  setTag(table, at, tag) {
    const type = BigInt(tag)
    table[at] = Number(type & 0xffffffffn)
    table[at + 1] = Number(type >> 32n)
  },
  getTag: (table, at) => (BigInt(table[at + 1] ?? 0) << 32n) | BigInt(table[at] ?? 0),
}

function checkType(type: SysvType, min: bigint): SysvType {
  if (typeof type === 'number' && Number.isSafeInteger(type) && type >= min) return type
  if (typeof type === 'bigint' && type >= min && type <= MAX_TYPE) return type
  const name = '"type" option'
  const expected = `an integer from ${min} to 2^63-1, a bigint beyond 2^53-1`
  if (typeof type !== 'number' && typeof type !== 'bigint') throw invalidType(name, expected, type)
  throw outOfRange(name, expected, type)
}

/** What a receive asks for, as the calls take it. */
interface Selection {
  type: SysvType
  flags: number
  /** The most bytes to take. */
  size: number
}

const ANY: Selection = { type: 0, flags: 0, size: Number.POSITIVE_INFINITY }

function selectionOf(options: SysvReceiveOptions | undefined, buffer?: Uint8Array): Selection {
  if (options === undefined && buffer === undefined) return ANY
  checkOptions(options)
  const type = options?.type
  const most = options?.size
  if (most !== undefined) checkInteger('"size" option', most, 0, 2 ** 31 - 1)
  const size = Math.min(most ?? Number.POSITIVE_INFINITY, buffer ? lengthOf(buffer) : Number.POSITIVE_INFINITY)
  const flags = (options?.except ? MSG_EXCEPT : 0) | (options?.truncate ? MSG_NOERROR : 0)
  return { type: type === undefined ? 0 : checkType(type, -(2n ** 63n)), flags, size }
}

/**
 * What one call asks for: not more than a message can have, so that a generous
 * size costs nothing. A message that is longer all the same is E2BIG then; see
 * {@link grow}.
 */
const roomOf = ({ size }: Selection): number => Math.min(size, longest)
const flagsOf = ({ flags, size }: Selection): number => (size <= longest ? flags : flags & ~MSG_NOERROR)

const lineOf = ({ type, flags, size }: Selection): string => `${type} ${flags} ${size}`

const SEND = 'send'

/** The longest message that can be; it grows when the kernel says so. */
let longest = 0

function reserveMessage(size: number): void {
  const wanted = Math.max(size, longest, 1)
  reserve(Math.max(HEADER + wanted, BATCH_BYTES))
  longest = wanted
}

/** Before there is a queue, which a failure would leave behind. */
function reserveFirst(): void {
  if (longest === 0) reserveMessage(sysvLimits().messageSize)
}

/** Whether it helps to try again: kernel.msgmax was raised since, or was higher when it was sent. */
function grow(errno: number, room: number, { size }: Selection): boolean {
  if (errno !== -E2BIG || room >= size) return false
  if (room === longest) reserveMessage(2 * longest)
  return true
}

/**
 * A System V message queue, see sysvipc(7).
 *
 * The queue lives on when it is closed, and when every process that used it has
 * ended: only `remove()` destroys it.
 */
export class SysvQueue extends Queue<SysvMessage, SysvSendOptions, SysvReceiveOptions> {
  /** The identifier, valid in all processes of this IPC namespace. */
  readonly id: number
  readonly #threads: Threads
  protected override readonly packing: Packing<SysvSendOptions>
  #closed: Promise<void> | undefined
  #lastType: SysvType = 0

  private constructor(id: number) {
    checkInteger('"id" argument', id, 0, 2 ** 31 - 1)
    super()
    this.id = id
    this.packing = {
      ...packing,
      send: (bytes, table, from, to) => {
        const result = msgSendBatch(this.#live, bytes, table, from, to)
        return this.#unlessTooLong(result, table[packing.words * from] ?? 0)
      },
    }
    this.#threads = new Threads((line) => {
      const syscall = line === SEND ? 'msgsnd' : 'msgrcv'
      return {
        timeout: () => this.#error(-ETIMEDOUT, syscall),
        closed: () => new QueueError('ERR_MQ_CLOSED', { syscall, id }),
        failure: (errno) => this.#error(errno, 'pthread_create'),
      }
    })
  }

  /**
   * Opens a queue, or creates it with `create`. `mode` and `maxBytes` count only
   * then.
   *
   * @param key a number or hexadecimal string of 32 bits, {@link ftok}'s result,
   * or `'private'` for a new queue without a key
   * @throws QueueError EEXIST, ENOENT, ENOMEM, ENOSPC (kernel.msgmni);
   * EPERM (`maxBytes` above kernel.msgmnb)
   * @see msgget(2)
   */
  static open(key: SysvKey, options: SysvOpenOptions = {}): SysvQueue {
    const number = keyOf(key)
    checkOptions(options)
    const { create = false, exclusive = false, mode = 0o600, maxBytes } = options
    checkInteger('"mode" option', mode, 0, 0o777)
    if (maxBytes !== undefined) checkInteger('"maxBytes" option', maxBytes, 0, MAX_BYTES)
    const creating = create || exclusive || number === IPC_PRIVATE
    const hint = (code: string) => sysvHint(code, 'msgget')
    reserveFirst()
    let id: number
    do {
      id = native.msgGet(number, creating ? IPC_CREAT | IPC_EXCL | mode : 0)
      if (id >= 0 && creating && maxBytes !== undefined) SysvQueue.#limit(id, maxBytes)
      // Opens what is there, and asks for no permission, as the bits of mode would: if it is gone by now,
      // it begins again.
      if (id === -EEXIST && !exclusive) id = native.msgGet(number, 0)
    } while (id === -ENOENT && creating)
    if (id < 0) throw new QueueError(id, { syscall: 'msgget', path: formatKey(number), hint })
    return new SysvQueue(id)
  }

  /** Of a queue that has just been created: it is not left half-done. */
  static #limit(id: number, maxBytes: number): void {
    try {
      new SysvQueue(id).set({ maxBytes })
    } catch (error) {
      native.msgControl(id, IPC_RMID)
      throw error
    }
  }

  /**
   * A queue by its identifier, as ipcs(1) shows it.
   *
   * @throws QueueError EIDRM (there is none)
   */
  static fromId(id: number): SysvQueue {
    checkInteger('"id" argument', id, 0, 2 ** 31 - 1) // or the number would be cut
    reserveFirst()
    const stat = statSysv(id)
    // A queue that may not be read is there nevertheless.
    if (stat === -EINVAL || stat === -EIDRM)
      throw new QueueError(-EIDRM, { syscall: 'msgctl', id, hint: sysvHint('EIDRM', 'msgctl') })
    return new SysvQueue(id)
  }

  /**
   * A key made of a file's identity and a number, the same in every program.
   *
   * @param project of which the low 8 bits count
   * @throws QueueError ENOENT and others of stat(2)
   * @see ftok(3)
   */
  static ftok(path: string, project: number): number {
    checkInteger('"project" argument', project, -(2 ** 31), 2 ** 31 - 1)
    const key = ftok(path, project)
    if (key < 0) throw new QueueError(key, { syscall: 'stat', path })
    return key
  }

  /**
   * The limits of this IPC namespace.
   *
   * @throws QueueError ENOSYS (a kernel without System V queues)
   * @see msgctl(2), IPC_INFO
   */
  static limits(): SysvLimits {
    return sysvLimits()
  }

  /**
   * The queues of this IPC namespace, those of others too.
   *
   * @throws QueueError ENOSYS (a kernel without System V queues)
   * @see msgctl(2), MSG_STAT_ANY
   */
  static list(): Promise<SysvQueueInfo[]> {
    return listSysv()
  }

  /** The identifier, unless closed. */
  get #live(): number {
    return this.#closed === undefined ? this.id : -1
  }

  /** The type of what `tryReceiveInto` or `receiveIntoSync` brought last. */
  get lastType(): SysvType {
    return this.#lastType
  }

  /**
   * @throws QueueError EACCES (no permission to read), EIDRM, ERR_MQ_CLOSED
   * @see msgctl(2), IPC_STAT
   */
  stat(): SysvStat {
    const stat = statSysv(this.#live)
    if (typeof stat === 'number') throw this.#error(stat, 'msgctl')
    return stat
  }

  /**
   * Changes the owner, the permission bits or what the queue holds.
   *
   * @throws QueueError EPERM (not the owner, or `maxBytes` above kernel.msgmnb),
   * EIDRM, ERR_MQ_CLOSED
   * @see msgctl(2), IPC_SET
   */
  set(changes: { uid?: number; gid?: number; mode?: number; maxBytes?: number }): void {
    const { uid, gid, mode, maxBytes } = changes
    if (uid !== undefined) checkInteger('"uid" option', uid, 0, 2 ** 32 - 2)
    if (gid !== undefined) checkInteger('"gid" option', gid, 0, 2 ** 32 - 2)
    if (mode !== undefined) checkInteger('"mode" option', mode, 0, 0o777)
    if (maxBytes !== undefined) checkInteger('"maxBytes" option', maxBytes, 0, MAX_BYTES)
    const present = statSysv(this.#live, true)
    if (typeof present === 'number') throw this.#error(present, 'msgctl')
    const errno = native.msgSet(
      this.#live,
      uid ?? present.uid,
      gid ?? present.gid,
      mode ?? present.mode,
      maxBytes ?? present.maxBytes,
    )
    if (errno < 0) throw this.#error(errno, 'msgctl')
  }

  /**
   * Destroys the queue and its messages. Whoever waits for it, in any process,
   * gets EIDRM.
   *
   * @throws QueueError EPERM (not the owner), EIDRM, ERR_MQ_CLOSED
   * @see msgctl(2), IPC_RMID
   */
  remove(): void {
    const errno = native.msgControl(this.#live, IPC_RMID)
    if (errno < 0) throw this.#error(errno, 'msgctl')
  }

  /**
   * The message at a place in the queue, counted from 0; it stays there.
   *
   * @returns undefined if there are not that many
   * @throws QueueError ENOSYS (a kernel without CONFIG_CHECKPOINT_RESTORE), EACCES,
   * EIDRM, ERR_MQ_CLOSED
   * @see msgrcv(2), MSG_COPY
   */
  peek(index = 0): SysvMessage | undefined {
    checkInteger('"index" argument', index, 0, Number.MAX_SAFE_INTEGER)
    const length = this.#take({ type: index, flags: MSG_COPY, size: Number.POSITIVE_INFINITY })
    if (length >= 0) return this.#message(0, length, 1)
    if (length === -ENOMSG) return undefined
    throw this.#error(length, 'msgrcv')
  }

  /**
   * Iterates over the messages that are in the queue, oldest first, and leaves
   * them there. Messages that others take meanwhile shift the rest.
   *
   * @throws as {@link peek}
   */
  *browse(): Generator<SysvMessage, void, undefined> {
    for (let index = 0; ; index++) {
      const message = this.peek(index)
      if (message === undefined) return
      yield message
    }
  }

  override tryReceive(options?: SysvReceiveOptions): SysvMessage | undefined {
    const selection = selectionOf(options)
    const length = this.#take(selection)
    if (length >= 0) return this.#message(0, length, 1)
    if (length === -ENOMSG) return undefined
    throw this.#receiveError(length, selection)
  }

  override tryReceiveMany(max: number = MAX_BATCH, options?: SysvReceiveOptions): SysvMessage[] {
    checkInteger('"max" argument', max, 1, Number.MAX_SAFE_INTEGER)
    const selection = selectionOf(options)
    const messages: SysvMessage[] = []
    while (messages.length < max) {
      const room = roomOf(selection)
      const count = msgReceiveBatch(this.#live, selection.type, room, flagsOf(selection), max - messages.length)
      if (grow(count, room, selection)) continue
      if (count < 0) {
        // What is in hand comes first; the next call meets the error again.
        if (count === -ENOMSG || messages.length > 0) break
        throw this.#receiveError(count, selection)
      }
      for (let index = 0, offset = 0; index < count; index++) {
        const length = received[3 * index] ?? 0
        messages.push(this.#message(offset, length, 3 * index + 1))
        offset = aligned(offset + HEADER + length)
      }
    }
    this.spend(messages.length)
    return messages
  }

  /**
   * Receives into a buffer, without waiting.
   *
   * @returns the length in bytes, or -1 if there is no message; see {@link lastType}
   * @throws QueueError E2BIG (the message is longer than the buffer, and stays in
   * the queue; see `truncate`), EACCES, EIDRM, ERR_MQ_CLOSED
   */
  tryReceiveInto(buffer: Uint8Array, options?: SysvReceiveOptions): number {
    const selection = selectionOf(options, checkBuffer(buffer))
    const length = this.#take(selection, buffer)
    return length === -ENOMSG ? -1 : this.#received(length, selection)
  }

  /**
   * Receives into a buffer; blocks the thread while there is no message.
   *
   * @returns the length in bytes; see {@link lastType}
   * @throws QueueError as {@link tryReceiveInto}; ETIMEDOUT, EINTR (see `restart`)
   */
  receiveIntoSync(buffer: Uint8Array, options?: SysvReceiveOptions & SyncReceiveOptions): number {
    const selection = selectionOf(options, checkBuffer(buffer))
    const deadline = deadlineOf(options)
    const spin = checkSpin(options?.spin)
    let length = this.#take(selection, buffer)
    if (length === -ENOMSG) length = this.#receiveBlocking(selection, deadline, spin, options, buffer)
    return this.#received(length, selection)
  }

  /**
   * Receives; blocks the thread while there is no message.
   *
   * @throws QueueError EACCES, EIDRM, ERR_MQ_CLOSED, ETIMEDOUT, EINTR (see `restart`)
   * @see msgrcv(2)
   */
  receiveSync(options?: SysvReceiveOptions & SyncReceiveOptions): SysvMessage {
    const selection = selectionOf(options)
    const deadline = deadlineOf(options)
    const spin = checkSpin(options?.spin)
    let length = this.#take(selection)
    if (length === -ENOMSG) length = this.#receiveBlocking(selection, deadline, spin, options)
    if (length < 0) throw this.#receiveError(length, selection)
    return this.#message(0, length, 1)
  }

  /** After there was no message; spins, then sleeps. */
  #receiveBlocking(
    selection: Selection,
    deadline: number,
    spin: number,
    options: SyncOptions | undefined,
    buffer?: Uint8Array,
  ): number {
    const { type } = selection
    for (;;) {
      const room = roomOf(selection)
      const flags = flagsOf(selection)
      const into = targetOf(room, buffer)
      const most = Math.min(spin, (deadline - performance.now()) * 1000)
      let length = most > 0 ? msgReceiveSpinning(this.#live, type, into, flags, most) : -ENOMSG
      if (length === -ENOMSG) {
        const left = deadline - performance.now()
        if (left <= 0) return -ETIMEDOUT
        length = msgReceiveSync(this.#live, type, into, flags, left, isInterruptible(options))
      }
      if (!grow(length, room, selection)) return length
    }
  }

  /** Takes a message into the area, and into the buffer if there is one. */
  #take(selection: Selection, buffer?: Uint8Array): number {
    for (;;) {
      const room = roomOf(selection)
      const into = targetOf(room, buffer)
      const length = msgReceive(this.#live, selection.type, into, flagsOf(selection) | IPC_NOWAIT)
      if (!grow(length, room, selection)) return length
    }
  }

  #message(offset: number, length: number, type: number): SysvMessage {
    return keep(SysvMessage, offset + HEADER, offset + HEADER + length, typeAt(type))
  }

  #received(length: number, selection: Selection): number {
    if (length < 0) throw this.#receiveError(length, selection)
    this.#lastType = typeAt(1)
    return length
  }

  protected override put(bytes: Uint8Array, type: Tag): boolean {
    const errno = this.#unlessTooLong(msgSend(this.#live, type, bytes, IPC_NOWAIT), bytes.length)
    if (errno === 0) return true
    if (errno === -EAGAIN) return false
    throw this.sendError(errno, bytes.length)
  }

  /** To the kernel the queue is full, too, for a message that no empty one has room for. */
  #unlessTooLong(result: number, length: number): number {
    if (result !== -EAGAIN) return result
    const maxBytes = maxBytesOf(this.#live)
    return maxBytes >= 0 && length > maxBytes ? -EMSGSIZE : result
  }

  protected override putBlocking(
    bytes: Uint8Array,
    type: Tag,
    deadline: number,
    options: SyncOptions | undefined,
  ): void {
    const left = deadline - performance.now()
    const errno = left > 0 ? msgSendSync(this.#live, type, bytes, left, isInterruptible(options)) : -ETIMEDOUT
    if (errno < 0) throw this.sendError(errno, bytes.length)
  }

  protected override sendError(errno: number, length: number): QueueError {
    return this.#error(errno, 'msgsnd', length)
  }

  #receiveError(errno: number, { size }: Selection): QueueError {
    return this.#error(errno, 'msgrcv', errno === -E2BIG ? size : undefined)
  }

  protected override get sendsWait(): boolean {
    return this.#closed === undefined && !this.#threads.idle(SEND)
  }

  protected override admitSend(): boolean {
    return this.#threads.admit(SEND)
  }

  protected override admitReceive(options: SysvReceiveOptions | undefined): boolean {
    return this.#threads.admit(lineOf(selectionOf(options)))
  }

  protected override spend(messages: number): void {
    this.#threads.spend(messages)
  }

  protected override waitToSend(sending: Sending, deadline: number, signal: AbortSignal | undefined): Waiter<true> {
    const blocking = {
      ordered: true,
      attempt: () => sending.attempt(),
      call: () => {
        const { bytes, tag } = sending.next
        return new native.BlockedCall(this.#live, tag, 0, bytes)
      },
      answer: (errno: number) => {
        if (errno < 0) throw this.sendError(errno, sending.next.bytes.length)
        return sending.advance()
      },
    }
    return this.#threads.wait(SEND, blocking, deadline, signal)
  }

  protected override waitToReceive<T>(
    take: (options: SysvReceiveOptions | undefined, first?: SysvMessage) => T | undefined,
    options: (SysvReceiveOptions & WaitOptions) | undefined,
    deadline: number,
  ): Waiter<T> {
    const { type, except, size, truncate }: SysvReceiveOptions = options ?? {}
    const given = { type, except, size, truncate } // the caller may use the object for another call
    const selection = selectionOf(given)
    let room = 0
    const blocking = {
      ordered: false,
      attempt: () => take(given),
      call: () => {
        room = roomOf(selection)
        return new native.BlockedCall(this.#live, selection.type, flagsOf(selection), room)
      },
      answer: (length: number, data: Buffer | undefined) => {
        if (grow(length, room, selection)) return undefined
        if (length < 0 || data === undefined) throw this.#receiveError(length, selection)
        return take(given, new SysvMessage(data, typeAt(1)))
      },
    }
    return this.#threads.wait(lineOf(selection), blocking, deadline, options?.signal)
  }

  /** Lets what waits here hold the process, which is how it begins. */
  ref(): this {
    this.#threads.refed = true
    return this
  }

  /** Lets the process exit although something waits here. */
  unref(): this {
    this.#threads.refed = false
    return this
  }

  /**
   * Lets go of the queue; see {@link remove} for destroying it. Whatever waits is
   * rejected with ERR_MQ_CLOSED, but for a receive that has its message by then;
   * iterations end. Resolves when nothing waits any more.
   */
  override close(): Promise<void> {
    this.#closed ??= this.#threads.close()
    return this.#closed
  }

  /** `length`: of the message to send, or of the room for one. */
  #error(errno: number, syscall: string, length?: number): QueueError {
    const { id } = this
    if (this.#closed !== undefined) return new QueueError('ERR_MQ_CLOSED', { syscall, id })
    const details = { syscall, id, hint: (code: string) => sysvHint(code, syscall) }
    if (errno === -EINVAL || errno === -EIDRM) {
      // The identifier was good when the queue was opened.
      const stat = statSysv(id)
      if (stat === -EINVAL || stat === -EIDRM) return new QueueError(-EIDRM, details)
      const { messageSize } = sysvLimits()
      if (length !== undefined && length > messageSize) {
        const hint = `Messages may have ${messageSize} bytes here; root raises that: sysctl kernel.msgmax=${length}`
        return new QueueError(errno, { ...details, detail: `${length} > ${messageSize} bytes`, hint })
      }
    }
    if (errno === -EMSGSIZE) {
      return new QueueError(errno, { ...details, detail: `${length} > ${Math.max(maxBytesOf(id), 0)} bytes` })
    }
    if (errno === -E2BIG && length !== undefined)
      return new QueueError(errno, { ...details, detail: `room for ${length} bytes` })
    return new QueueError(errno, details)
  }
}

function checkBuffer(buffer: Uint8Array): Uint8Array {
  if (!isUint8Array(buffer)) throw invalidType('"buffer" argument', 'a Buffer or Uint8Array', buffer)
  if (buffer.length === 0) checkAttached('"buffer" argument', buffer)
  return buffer
}

/** Its own, whatever a subclass says: {@link grow} must not believe that there is room. */
const lengthOf = (buffer: Uint8Array): number => ownLength?.call(buffer)

const ownLength = Object.getOwnPropertyDescriptor(Object.getPrototypeOf(Uint8Array.prototype), 'length')?.get

/** As much of the buffer as there may be in it; without one, the area. */
function targetOf(room: number, buffer: Uint8Array | undefined): Uint8Array | number {
  if (buffer === undefined) return room
  return room < buffer.length ? buffer.subarray(0, room) : buffer
}

function keyOf(key: SysvKey): number {
  if (key === 'private') return IPC_PRIVATE
  const number = typeof key === 'string' && /^0x[0-9a-f]{1,8}$/i.test(key) ? Number(key) : key
  const expected = "a number or a hexadecimal string ('0x2a') of 32 bits other than 0, or 'private'"
  if (typeof number !== 'number') throw invalidType('"key" argument', expected, key)
  if (!Number.isInteger(number) || number < -(2 ** 31) || number >= 2 ** 32 || number === 0) {
    throw outOfRange('"key" argument', expected, key)
  }
  return number | 0
}
