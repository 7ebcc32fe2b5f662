import { isUtf8 } from 'node:buffer'
import { constants as fs, fstatSync, readlinkSync } from 'node:fs'
import { constants as os } from 'node:os'
import { basename } from 'node:path'
import { isUint8Array } from 'node:util/types'
import { checkAttached, checkInteger, checkOptions, invalidType, invalidValue, QueueError } from './errors.ts'
import { aligned, type Descriptor, keep, MAX_BATCH, native, pollSync, received, reserve } from './native.ts'
import { Registration } from './notifications.ts'
import { BATCH_BYTES, type Data, type Packing, type Tag } from './outbox.ts'
import { Message, Queue, type Sending } from './queue.ts'
import { type Direction, Readiness, type ReadinessErrors } from './readiness.ts'
import {
  DESCRIPTOR_HINT,
  listPosix,
  nameHint,
  openHint,
  type PosixLimits,
  type PosixQueueInfo,
  posixCost,
  posixLimits,
  type QueueEvent,
  type QueueSize,
  waitForPosix,
  watchPosix,
} from './system.ts'
import {
  checkSignal,
  checkSpin,
  deadlineOf,
  isInterruptible,
  Puller,
  type SyncOptions,
  type SyncReceiveOptions,
  type Waiter,
  type WaitOptions,
} from './waiting.ts'

const { send, sendBatch, receive, receiveInto, receiveBatch, receiveSpinning } = native

const EAGAIN = -os.errno.EAGAIN
const EBADF = -os.errno.EBADF
const EMSGSIZE = -os.errno.EMSGSIZE
const POLLIN = 1
const POLLOUT = 4
const MAX_PRIORITY = 32767

export interface PosixOpenOptions {
  /** Create the queue if there is none. Default: false. */
  create?: boolean | undefined
  /** Create it, and fail with EEXIST if there is one. Default: false. */
  exclusive?: boolean | undefined
  /** Default: `'readwrite'`. */
  access?: 'read' | 'write' | 'readwrite' | undefined
  /** Permission bits of a created queue, reduced by the umask. Default: 0o600. */
  mode?: number | undefined
  /** Messages that a created queue holds. Default: the kernel's, usually 10. */
  maxMessages?: number | undefined
  /** Bytes that a message of a created queue may have. Default: the kernel's, usually 8192. */
  messageSize?: number | undefined
}

export interface PosixSendOptions {
  /** 0 to 32767; the highest is received first. Default: 0. */
  priority?: number | undefined
}

/** A message to send, with its priority. */
export interface PosixOutgoing extends PosixSendOptions {
  data: Data
}

/** What mq_getattr(3) tells. */
export interface PosixAttributes extends QueueSize {
  /** Messages in the queue. */
  messages: number
}

/** A message of a POSIX queue. */
export class PosixMessage extends Message {
  /** 0 to 32767 */
  readonly priority: number

  constructor(memory: Buffer, priority: number, start?: number, end?: number) {
    super(memory, start, end)
    this.priority = priority
  }
}

function checkName(name: string, syscall: string): void {
  if (typeof name !== 'string') throw invalidType('"name" argument', 'a string', name)
  if (name.includes('\0') || !name.isWellFormed()) {
    throw invalidValue('"name" argument', 'a string without null characters and lone surrogates', name)
  }
  if (name.startsWith('/')) return
  const hint = name === '' ? "A name looks like '/orders'." : `The name needs a leading slash: '/${name}'.`
  throw new QueueError(-os.errno.EINVAL, { syscall, path: name, hint })
}

/** Batches hold (length, priority) for each message. */
const packing: Omit<Packing<PosixSendOptions>, 'send'> = {
  words: 2,
  tagOf(options) {
    checkOptions(options)
    const priority = options?.priority
    if (priority === undefined) return 0
    checkInteger('"priority" option', priority, 0, MAX_PRIORITY)
    return priority
  },
  setTag(table, at, tag) {
    table[at] = Number(tag)
  },
  getTag: (table, at) => table[at] ?? 0,
}

/** A queue has one registration in the system: an iterator that is dropped must not keep it. */
const dropped = new FinalizationRegistry<() => void>((finish) => finish())

const accessModes = { read: fs.O_RDONLY, write: fs.O_WRONLY, readwrite: fs.O_RDWR }

const closed = Promise.resolve()

/**
 * A POSIX message queue, see mq_overview(7).
 *
 * Every queue is open in non-blocking mode; how to wait is chosen at each call.
 * A queue that is dropped without `close()` is closed when it is collected.
 */
export class PosixQueue extends Queue<PosixMessage, PosixSendOptions, unknown> {
  /** The name, with its slash; undefined if it came as a descriptor without one. */
  readonly path: string | undefined
  #fd: number
  readonly #size: QueueSize
  readonly #readiness: Readiness
  readonly #registrations = new Set<Registration>()
  readonly #errors: ReadinessErrors
  protected override readonly packing: Packing<PosixSendOptions>
  #lastPriority = 0
  /** Whether others may have the open file, and clear its O_NONBLOCK. */
  #shared = false
  #refed = true

  private constructor(descriptor: Descriptor, fd: number, path: string | undefined, size: QueueSize) {
    // JavaScript does not know that it is private.
    if (!(descriptor instanceof native.Descriptor)) {
      throw invalidType('"descriptor" argument', 'made by PosixQueue.open or fromFd', descriptor)
    }
    super()
    this.#fd = fd
    this.path = path
    this.#size = size
    this.#errors = {
      timeout: (direction) => this.#error(-os.errno.ETIMEDOUT, syscallOf(direction)),
      failure: (direction, errno) => this.#error(errno ?? EBADF, syscallOf(direction)),
    }
    this.#readiness = new Readiness(descriptor, this.#errors)
    this.packing = {
      ...packing,
      send: (bytes, table, from, to) => sendBatch(this.#fd, bytes, table, from, to, this.#shared),
    }
    reserve(Math.max(size.messageSize, BATCH_BYTES))
  }

  static #adopt(descriptor: Descriptor, fd: number, path: string | undefined): PosixQueue {
    const attributes = native.getSetAttributes(fd)
    if (typeof attributes === 'number') {
      descriptor.close()
      throw new QueueError(attributes, { syscall: 'mq_getattr', path })
    }
    const queue = new PosixQueue(descriptor, fd, path, {
      maxMessages: attributes.maxmsg,
      messageSize: attributes.msgsize,
    })
    // Somebody closed a standard stream, and children inherit what has its number.
    queue.#shared = fd <= 2
    return queue
  }

  /**
   * Opens a queue, or creates it with `create`. `maxMessages`, `messageSize` and
   * `mode` count only then.
   *
   * @param name `'/name'`: one slash, then up to 255 bytes
   * @throws QueueError EACCES, EEXIST, EINVAL, EMFILE (usually RLIMIT_MSGQUEUE),
   * ENAMETOOLONG, ENFILE, ENOENT, ENOMEM, ENOSPC, ENOSYS; see its `hint`
   * @see mq_open(3)
   */
  static open(name: string, options: PosixOpenOptions = {}): PosixQueue {
    checkName(name, 'mq_open')
    checkOptions(options)
    const { create = false, exclusive = false, access = 'readwrite', mode = 0o600, maxMessages, messageSize } = options
    if (!Object.hasOwn(accessModes, access)) {
      throw invalidValue('"access" option', "'read', 'write' or 'readwrite'", access)
    }
    checkInteger('"mode" option', mode, 0, 0o777)
    if (maxMessages !== undefined) checkInteger('"maxMessages" option', maxMessages, 1, Number.MAX_SAFE_INTEGER)
    if (messageSize !== undefined) checkInteger('"messageSize" option', messageSize, 1, Number.MAX_SAFE_INTEGER)
    const flags =
      accessModes[access] | fs.O_NONBLOCK | (create || exclusive ? fs.O_CREAT : 0) | (exclusive ? fs.O_EXCL : 0)
    const size: [number, number] | [] =
      maxMessages === undefined && messageSize === undefined
        ? []
        : [maxMessages ?? posixLimits().defaultMaxMessages, messageSize ?? posixLimits().defaultMessageSize]
    const descriptor = new native.Descriptor()
    const fd = descriptor.open(name.slice(1), flags, mode, ...size)
    if (fd < 0) {
      const hint = (code: string) => openHint(code, name, create || exclusive, { maxMessages, messageSize })
      throw new QueueError(fd, { syscall: 'mq_open', path: name, hint })
    }
    return PosixQueue.#adopt(descriptor, fd, name)
  }

  /**
   * Makes a queue of a descriptor that was handed over, such as one that a
   * parent passed through `stdio`. The descriptor stays the caller's: the queue
   * opens it anew, with flags of its own. Where that is refused it is duplicated
   * instead, and a warning says so: then O_NONBLOCK is set for all who share it.
   *
   * @throws QueueError EBADF (not open, or not a message queue), EMFILE, ENFILE
   */
  static fromFd(fd: number): PosixQueue {
    checkInteger('"fd" argument', fd, 0, 2 ** 31 - 1)
    const attributes = native.getSetAttributes(fd)
    if (typeof attributes === 'number') {
      const hint = attributes === EBADF ? `Descriptor ${fd} is not a POSIX message queue.` : undefined
      throw new QueueError(attributes, { syscall: 'mq_getattr', hint })
    }
    const path = nameOf(fd)
    const descriptor = new native.Descriptor()
    let own = descriptor.reopen(fd, native.accessMode(fd) | fs.O_NONBLOCK)
    const shared = own < 0
    if (shared) {
      const refused = new QueueError(own, { syscall: 'open', path: `/proc/self/fd/${fd}` })
      own = descriptor.duplicate(fd)
      if (own < 0) throw new QueueError(own, { syscall: 'fcntl', path, hint: DESCRIPTOR_HINT })
      const before = native.getSetAttributes(own, fs.O_NONBLOCK)
      if (typeof before !== 'number' && before.flags !== fs.O_NONBLOCK) {
        process.emitWarning(`descriptor ${fd} is now non-blocking for all who share it (${refused.message})`, {
          code: 'KERNELMQ_SHARED_DESCRIPTOR',
        })
      }
    }
    const queue = PosixQueue.#adopt(descriptor, own, path)
    queue.#shared ||= shared
    return queue
  }

  /**
   * Removes the name. The queue itself, and what it costs, goes when the last
   * descriptor is closed.
   *
   * @throws QueueError EACCES, ENAMETOOLONG, ENOENT, EPERM (another user's)
   * @see mq_unlink(3)
   */
  static unlink(name: string): void {
    checkName(name, 'mq_unlink')
    const errno = native.unlink(name.slice(1))
    if (errno < 0) {
      throw new QueueError(errno, { syscall: 'mq_unlink', path: name, hint: (code) => nameHint(code, name) })
    }
  }

  /**
   * The limits of this system and process.
   *
   * @throws QueueError ENOSYS (a kernel without POSIX queues)
   */
  static limits(): PosixLimits {
    return posixLimits()
  }

  /** What a queue of this size counts, in bytes, against `limits().bytes`. */
  static cost(size: QueueSize): number {
    return posixCost(size)
  }

  /**
   * The queues of this IPC namespace. It opens each for a moment, which takes
   * back a registration that this process made with `mqNotify`.
   *
   * @throws QueueError ERR_MQ_NOT_MOUNTED
   * @throws Error EMFILE, ENFILE: no descriptor is left for that
   */
  static list(): Promise<PosixQueueInfo[]> {
    return listPosix()
  }

  /**
   * Tells of queues that are created and removed, from now on; not of one that is
   * gone again before the loop turns.
   *
   * @throws QueueError ERR_MQ_NOT_MOUNTED
   */
  static watch(options: Pick<WaitOptions, 'signal'> = {}): AsyncIterableIterator<QueueEvent, undefined> {
    return watchPosix(options)
  }

  /**
   * Resolves when there is a queue of this name.
   *
   * @throws QueueError ETIMEDOUT, ERR_MQ_NOT_MOUNTED
   * @throws AbortError
   */
  static async waitFor(name: string, options: WaitOptions = {}): Promise<void> {
    checkName(name, 'mq_open')
    await waitForPosix(name, options)
  }

  /**
   * The descriptor, to pass to a child or to poll; -1 once closed. The queue owns it: whoever closes it by other means
   * than {@link close} while something waits makes libuv abort the process.
   */
  get fd(): number {
    this.#shared = true
    return this.#fd
  }

  /**
   * @throws QueueError ERR_MQ_CLOSED
   * @see mq_getattr(3)
   */
  get attributes(): PosixAttributes {
    const attributes = native.getSetAttributes(this.#fd)
    if (typeof attributes === 'number') throw this.#error(attributes, 'mq_getattr')
    return { ...this.#size, messages: attributes.curmsgs }
  }

  /** The priority of what `tryReceiveInto` or `receiveIntoSync` brought last. */
  get lastPriority(): number {
    return this.#lastPriority
  }

  protected override get sendsWait(): boolean {
    return !this.#readiness.idle('write')
  }

  protected override admitSend(): boolean {
    return this.#readiness.admit('write')
  }

  protected override admitReceive(): boolean {
    return this.#readiness.admit('read')
  }

  protected override spend(messages: number): void {
    this.#readiness.spend(messages)
  }

  protected override waitToSend(sending: Sending, deadline: number, signal: AbortSignal | undefined): Waiter<true> {
    return this.#readiness.wait('write', () => sending.attempt(), deadline, signal)
  }

  protected override waitToReceive<T>(
    take: (options: unknown) => T | undefined,
    options: WaitOptions | undefined,
    deadline: number,
  ): Waiter<T> {
    return this.#readiness.wait('read', () => take(options), deadline, options?.signal)
  }

  protected override put(bytes: Uint8Array, priority: Tag): boolean {
    const errno = send(this.#fd, bytes, priority as number, this.#shared)
    if (errno === 0) return true
    if (errno === EAGAIN) return false
    throw this.sendError(errno, bytes.length)
  }

  protected override putBlocking(
    bytes: Uint8Array,
    priority: Tag,
    deadline: number,
    options: SyncOptions | undefined,
  ): void {
    do this.#block(POLLOUT, deadline, options)
    while (!this.put(bytes, priority))
  }

  protected override sendError(errno: number, length: number): QueueError {
    return this.#error(errno, 'mq_timedsend', length)
  }

  override tryReceive(): PosixMessage | undefined {
    const length = receive(this.#fd, this.#shared)
    if (length >= 0) return this.#message(0, length, 1)
    if (length === EAGAIN) return undefined
    throw this.#error(length, 'mq_timedreceive')
  }

  override tryReceiveMany(max: number = MAX_BATCH): PosixMessage[] {
    checkInteger('"max" argument', max, 1, Number.MAX_SAFE_INTEGER)
    const messages: PosixMessage[] = []
    while (messages.length < max) {
      const count = receiveBatch(this.#fd, max - messages.length, this.#size.messageSize, this.#shared)
      if (count < 0) {
        // What is in hand comes first; the next call meets the error again.
        if (count === EAGAIN || messages.length > 0) break
        throw this.#error(count, 'mq_timedreceive')
      }
      for (let index = 0, offset = 0; index < count; index++) {
        const length = received[2 * index] ?? 0
        messages.push(this.#message(offset, length, 2 * index + 1))
        offset = aligned(offset + length)
      }
    }
    this.spend(messages.length)
    return messages
  }

  /**
   * Receives into a buffer of at least `messageSize` bytes, without waiting.
   *
   * @returns the length in bytes, or -1 if there is no message; see {@link lastPriority}
   * @throws QueueError EBADF, EMSGSIZE (the buffer is too short), ERR_MQ_CLOSED
   */
  tryReceiveInto(buffer: Uint8Array): number {
    const length = receiveInto(this.#fd, checkBuffer(buffer), this.#shared)
    if (length === EAGAIN) return -1
    return this.#received(length, buffer)
  }

  /**
   * Receives into a buffer of at least `messageSize` bytes; blocks the thread
   * while there is no message.
   *
   * @returns the length in bytes; see {@link lastPriority}
   * @throws QueueError as {@link tryReceiveInto}; ETIMEDOUT, EINTR (see `restart`)
   */
  receiveIntoSync(buffer: Uint8Array, options?: SyncReceiveOptions): number {
    const deadline = deadlineOf(options)
    const spin = checkSpin(options?.spin)
    checkBuffer(buffer)
    let length = receiveInto(this.#fd, buffer, this.#shared)
    while (length === EAGAIN) length = this.#receiveLater(buffer, deadline, spin, options)
    return this.#received(length, buffer)
  }

  /**
   * Receives; blocks the thread while there is no message.
   *
   * @throws QueueError EBADF (opened for writing only), ERR_MQ_CLOSED, ETIMEDOUT,
   * EINTR (see `restart`)
   * @see mq_timedreceive(3)
   */
  receiveSync(options?: SyncReceiveOptions): PosixMessage {
    const deadline = deadlineOf(options)
    const spin = checkSpin(options?.spin)
    let length = receive(this.#fd, this.#shared)
    while (length === EAGAIN) length = this.#receiveLater(undefined, deadline, spin, options)
    if (length < 0) throw this.#error(length, 'mq_timedreceive')
    return this.#message(0, length, 1)
  }

  /** One more attempt, after spinning or sleeping. */
  #receiveLater(
    buffer: Uint8Array | undefined,
    deadline: number,
    spin: number,
    options: SyncOptions | undefined,
  ): number {
    const most = Math.min(spin, (deadline - performance.now()) * 1000)
    if (most > 0) {
      const length = receiveSpinning(this.#fd, buffer, most, this.#shared)
      if (length !== EAGAIN) return length
    }
    this.#block(POLLIN, deadline, options)
    return buffer === undefined ? receive(this.#fd, this.#shared) : receiveInto(this.#fd, buffer, this.#shared)
  }

  /** Sleeps until the queue is ready. */
  #block(events: number, deadline: number, options: SyncOptions | undefined): void {
    const syscall = syscallOf(events === POLLIN ? 'read' : 'write')
    const left = deadline - performance.now()
    const ready = left > 0 ? pollSync(this.#fd, events, left, isInterruptible(options)) : 0
    if (ready <= 0) throw this.#error(ready === 0 ? -os.errno.ETIMEDOUT : ready, syscall)
  }

  #message(offset: number, length: number, priority: number): PosixMessage {
    return keep(PosixMessage, offset, offset + length, received[priority] ?? 0)
  }

  #received(length: number, buffer: Uint8Array): number {
    if (length < 0) throw this.#error(length, 'mq_timedreceive', buffer.length)
    this.#lastPriority = received[1] ?? 0
    return length
  }

  /**
   * Resolves when there is a message; somebody else may take it first.
   *
   * @throws QueueError ETIMEDOUT, ERR_MQ_CLOSED
   * @throws AbortError
   */
  waitReadable(options?: WaitOptions): Promise<void> {
    return this.#ready('read', POLLIN, options)
  }

  /** Resolves when there is room; somebody else may fill it first. Otherwise as {@link waitReadable}. */
  waitWritable(options?: WaitOptions): Promise<void> {
    return this.#ready('write', POLLOUT, options)
  }

  async #ready(direction: Direction, events: number, options: WaitOptions | undefined): Promise<void> {
    const deadline = deadlineOf(options)
    checkSignal(options?.signal)
    const check = () => {
      const ready = pollSync(this.#fd, events, 0, false)
      if (this.#fd === -1 || ready < 0) throw this.#error(Math.min(ready, 0), 'poll')
      return ready > 0 || undefined
    }
    if (this.#readiness.admit(direction) && check()) return
    await this.#readiness.wait(direction, check, deadline, options?.signal).promise
  }

  /**
   * Iterates over moments at which messages came to the empty queue, by
   * mq_notify(3); the first is at once if there are messages. Receive until
   * there is none at each: nothing that comes meanwhile goes unnoticed. Ends
   * when the queue is closed.
   *
   * A queue has one registration in the whole system.
   *
   * @throws QueueError EBUSY (somebody else is registered), ERR_MQ_CLOSED
   * @throws AbortError
   */
  notifications(options?: WaitOptions): AsyncIterableIterator<true, undefined> {
    const registration = new Registration(this.#fd, {
      ...this.#errors,
      failure: (_, errno) => this.#error(errno ?? EBADF, 'mq_notify'),
    })
    registration.readiness.refed = this.#refed
    this.#registrations.add(registration)
    const finish = () => {
      if (this.#registrations.delete(registration)) registration.close()
    }
    const iterator = new Puller(() => {
      const deadline = deadlineOf(options)
      checkSignal(options?.signal)
      return registration.next(deadline, options?.signal)
    }, finish)
    dropped.register(iterator, finish)
    return iterator
  }

  /** Lets what waits here hold the process, which is how it begins. */
  ref(): this {
    return this.#hold(true)
  }

  /** Lets the process exit although something waits here. */
  unref(): this {
    return this.#hold(false)
  }

  #hold(refed: boolean): this {
    this.#refed = refed
    if (this.#fd === -1) return this
    this.#readiness.refed = refed
    for (const { readiness } of this.#registrations) readiness.refed = refed
    return this
  }

  override close(): Promise<void> {
    if (this.#fd !== -1) {
      this.#fd = -1
      for (const registration of this.#registrations) registration.close()
      this.#registrations.clear()
      this.#readiness.close()
    }
    return closed
  }

  #error(errno: number, syscall: string, length?: number): QueueError {
    const { path } = this
    if (this.#fd === -1) return new QueueError('ERR_MQ_CLOSED', { syscall, path })
    const { messageSize } = this.#size
    if (errno === EMSGSIZE && length !== undefined) {
      return syscall === 'mq_timedsend'
        ? new QueueError(errno, {
            syscall,
            path,
            detail: `${length} > ${messageSize} bytes`,
            hint: 'The size is fixed when the queue is created: send less, or create a queue with a larger messageSize.',
          })
        : new QueueError(errno, {
            syscall,
            path,
            detail: `buffer of ${length} < ${messageSize} bytes`,
            hint: `Pass a buffer of attributes.messageSize (${messageSize}) bytes, however short the messages are.`,
          })
    }
    const hints: Record<string, string> = {
      EBADF: `It was opened for ${syscall === 'mq_timedsend' ? 'reading' : 'writing'} only: see the access option of open().`,
      EMFILE: DESCRIPTOR_HINT,
      EBUSY: 'One process may be registered for notification, and one is: see notify in PosixQueue.list().',
    }
    return new QueueError(errno, { syscall, path, hint: (code) => hints[code] })
  }
}

/** The name of a queue that came as a descriptor; the kernel shows it as a path. */
function nameOf(fd: number): string | undefined {
  try {
    const target = readlinkSync(`/proc/self/fd/${fd}`, 'buffer')
    if (!isUtf8(target)) return undefined // there is no string for it
    const name = `/${basename(target.toString('utf8'))}`
    // The kernel adds a word to the name of one that is unlinked, but a name may end like that.
    return fstatSync(fd).nlink === 0 ? name.replace(/ \(deleted\)$/, '') : name
  } catch {
    return undefined // no /proc
  }
}

const syscallOf = (direction: Direction): string => (direction === 'read' ? 'mq_timedreceive' : 'mq_timedsend')

function checkBuffer(buffer: Uint8Array): Uint8Array {
  if (!isUint8Array(buffer)) throw invalidType('"buffer" argument', 'a Buffer or Uint8Array', buffer)
  if (buffer.length === 0) checkAttached('"buffer" argument', buffer)
  return buffer
}
