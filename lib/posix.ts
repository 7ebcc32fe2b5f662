import { constants as fs, readlinkSync } from 'node:fs'
import { constants as os } from 'node:os'
import { basename } from 'node:path'
import { isMainThread } from 'node:worker_threads'
import { checkInteger, invalidType, invalidValue, outOfRange, QueueError } from './errors.ts'
import { copyArea, MAX_BATCH, native, pollSync } from './native.ts'
import { Registration } from './notifications.ts'
import { type Data, Message, Queue, toBytes } from './queue.ts'
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
import { checkSignal, deadlineOf, Puller, type Waiter, type WaitOptions } from './waiting.ts'

const { send, sendBatch, receive, receiveInto, receiveBatch, receiveSpinning } = native

const EAGAIN = -os.errno.EAGAIN
const EBADF = -os.errno.EBADF
const EMSGSIZE = -os.errno.EMSGSIZE
const POLLIN = 1
const POLLOUT = 4
const MAX_PRIORITY = 32767

/** The bytes that one batch call moves, unless messages are larger. */
const BATCH_BYTES = 65536

/** Microseconds. Nothing interrupts a spin, so that it has to be short. */
const MAX_SPIN = 50_000

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

export interface SyncOptions {
  /** Milliseconds, fractions allowed; 0 does not wait. Absent or `Infinity`: for ever. */
  timeout?: number | undefined
  /**
   * Go on after a signal that JavaScript listens for. Its listener runs only
   * when the call has ended. Default: false, such a signal ends the call with EINTR.
   */
  restart?: boolean | undefined
}

export interface SyncReceiveOptions extends SyncOptions {
  /**
   * Microseconds, 0 to 50000, to try again and again before going to sleep: saves
   * the time of a wake-up, costs a core. Default: 0.
   */
  spin?: number | undefined
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

  constructor(data: Buffer, priority: number) {
    super(data)
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

function checkPriority(priority: number | undefined): number {
  if (priority === undefined) return 0
  checkInteger('"priority" option', priority, 0, MAX_PRIORITY)
  return priority
}

const accessModes = { read: fs.O_RDONLY, write: fs.O_WRONLY, readwrite: fs.O_RDWR }

/** Whether a signal has to end a blocking call, for its listener to run. */
function hasSignalListener(): boolean {
  return isMainThread && process.eventNames().some((name) => typeof name === 'string' && name.startsWith('SIG'))
}

function isOutgoing(message: Data | PosixOutgoing): message is PosixOutgoing {
  return (
    typeof message === 'object' &&
    message !== null &&
    !ArrayBuffer.isView(message) &&
    !(message instanceof ArrayBuffer) &&
    !(message instanceof SharedArrayBuffer)
  )
}

/** Messages on their way into a queue, packed so that one call sends many. */
class Outbox {
  readonly #messages: Iterator<Data | PosixOutgoing>
  readonly #pairs = new Uint32Array(2 * MAX_BATCH)
  #bytes: Uint8Array = new Uint8Array(0)
  #next = 0
  #count = 0
  sent = 0

  constructor(messages: Iterable<Data | PosixOutgoing>) {
    if (typeof messages !== 'object' || messages === null || typeof messages[Symbol.iterator] !== 'function') {
      throw invalidType('"messages" argument', 'an iterable of messages', messages)
    }
    this.#messages = messages[Symbol.iterator]()
  }

  /** 0 when all is sent; EAGAIN if the queue is full or `most` are sent; or another errno. */
  flush(fd: number, most: number): number {
    const end = this.sent + most
    while (this.#next < this.#count || this.#fill()) {
      if (this.sent >= end) return EAGAIN
      const result = sendBatch(fd, this.#bytes, this.#pairs, this.#next, this.#count)
      if (result < 0) return result
      this.#next += result
      this.sent += result
      // Full, as a rule; if not, the next attempt tells what it was.
      if (this.#next < this.#count) return EAGAIN
    }
    return 0
  }

  /** The length in bytes of the message that is next. */
  get nextLength(): number {
    return this.#pairs[2 * this.#next] ?? 0
  }

  // Copied one by one: a generator may use one buffer for all.
  #fill(): boolean {
    let count = 0
    let length = 0
    while (count < MAX_BATCH && length < BATCH_BYTES) {
      const { done, value } = this.#messages.next()
      if (done) break
      const [data, priority] = isOutgoing(value) ? [value.data, checkPriority(value.priority)] : [value, 0]
      const bytes = toBytes(data)
      this.#pairs[2 * count] = bytes.length
      this.#pairs[2 * count + 1] = priority
      this.#makeRoom(length, bytes.length)
      this.#bytes.set(bytes, length)
      length += bytes.length
      count++
    }
    this.#next = 0
    this.#count = count
    return count > 0
  }

  #makeRoom(used: number, more: number): void {
    if (used + more <= this.#bytes.length) return
    const larger = new Uint8Array(Math.max(2 * this.#bytes.length, used + more))
    larger.set(this.#bytes.subarray(0, used))
    this.#bytes = larger
  }

  close(): void {
    this.#messages.return?.()
  }
}

const closed = Promise.resolve()

/**
 * A POSIX message queue, see mq_overview(7).
 *
 * Every queue is open in non-blocking mode; how to wait is chosen at each call.
 * A queue that is dropped without `close()` is closed when it is collected.
 */
export class PosixQueue extends Queue<PosixMessage, PosixOutgoing> implements AsyncIterable<PosixMessage> {
  /** The name, with its slash; undefined if it came as a descriptor without one. */
  readonly path: string | undefined
  #fd: number
  readonly #size: QueueSize
  readonly #readiness: Readiness
  readonly #registrations = new Set<Registration>()
  readonly #errors: ReadinessErrors
  #lastPriority = 0
  #refed = true

  private constructor(fd: number, path: string | undefined, size: QueueSize) {
    super()
    this.#fd = fd
    this.path = path
    this.#size = size
    this.#errors = {
      timeout: (direction) => this.#error(-os.errno.ETIMEDOUT, syscallOf(direction)),
      failure: (direction, errno) => this.#error(errno ?? EBADF, syscallOf(direction)),
    }
    this.#readiness = new Readiness(fd, this.#errors)
    native.reserve(Math.max(size.messageSize, BATCH_BYTES))
  }

  static #adopt(fd: number, path: string | undefined): PosixQueue {
    const attributes = native.getSetAttributes(fd)
    if (typeof attributes === 'number') throw new QueueError(attributes, { syscall: 'mq_getattr', path })
    return new PosixQueue(fd, path, { maxMessages: attributes.maxmsg, messageSize: attributes.msgsize })
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
    const fd = native.open(name.slice(1), flags, mode, ...size)
    if (fd < 0) {
      const hint = (code: string) => openHint(code, name, create || exclusive, { maxMessages, messageSize })
      throw new QueueError(fd, { syscall: 'mq_open', path: name, hint })
    }
    return PosixQueue.#adopt(fd, name)
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
    if (typeof native.getSetAttributes(fd) === 'number') {
      throw new QueueError(EBADF, { syscall: 'mq_getattr', hint: `Descriptor ${fd} is not a POSIX message queue.` })
    }
    const path = nameOf(fd)
    let own = native.reopen(fd, native.accessMode(fd) | fs.O_NONBLOCK)
    if (own < 0) {
      const refused = new QueueError(own, { syscall: 'open', path: `/proc/self/fd/${fd}` })
      own = native.duplicate(fd)
      if (own < 0) throw new QueueError(own, { syscall: 'fcntl', path, hint: DESCRIPTOR_HINT })
      const before = native.getSetAttributes(own, fs.O_NONBLOCK)
      if (typeof before !== 'number' && before.flags !== fs.O_NONBLOCK) {
        process.emitWarning(`descriptor ${fd} is now non-blocking for all who share it (${refused.message})`, {
          code: 'KERNELMQ_SHARED_DESCRIPTOR',
        })
      }
    }
    return PosixQueue.#adopt(own, path)
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

  /** The limits of this system and process. */
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
   */
  static list(): Promise<PosixQueueInfo[]> {
    return listPosix()
  }

  /**
   * Tells of queues that are created and removed, from now on.
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

  /** The descriptor, to pass to a child or to poll; -1 once closed. The queue owns it. */
  get fd(): number {
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

  /**
   * Sends without waiting.
   *
   * @returns false if the queue is full, or if asynchronous sends wait before it
   * @throws QueueError EBADF (opened for reading only), EMSGSIZE, ERR_MQ_CLOSED
   * @see mq_send(3)
   */
  trySend(data: Data, options?: PosixSendOptions): boolean {
    const priority = checkPriority(options?.priority)
    const bytes = toBytes(data)
    return this.#readiness.idle('write') && this.#put(bytes, priority)
  }

  /**
   * Sends; blocks the thread while the queue is full.
   *
   * @throws QueueError as {@link trySend}; ETIMEDOUT, EINTR (see `restart`)
   * @see mq_timedsend(3)
   */
  sendSync(data: Data, options?: PosixSendOptions & SyncOptions): void {
    const priority = checkPriority(options?.priority)
    const deadline = deadlineOf(options)
    const bytes = toBytes(data)
    while (!this.#put(bytes, priority)) this.#block(POLLOUT, deadline, options?.restart)
  }

  /**
   * Sends as soon as there is room. Concurrent calls keep their order. The data
   * is copied before this returns, unless it is gone by then.
   *
   * @throws QueueError as {@link trySend}; ETIMEDOUT
   * @throws AbortError
   */
  send(data: Data, options?: PosixSendOptions & WaitOptions): Promise<void> {
    try {
      const priority = checkPriority(options?.priority)
      const deadline = deadlineOf(options)
      const signal = options?.signal
      checkSignal(signal)
      const bytes = toBytes(data)
      if (this.#readiness.admit('write') && this.#put(bytes, priority)) return closed
      const copy = Uint8Array.from(bytes)
      return this.#readiness
        .wait('write', () => this.#put(copy, priority) || undefined, deadline, signal)
        .promise.then(() => {})
    } catch (error) {
      return Promise.reject(error)
    }
  }

  /**
   * Sends as many as there is room for, in order, and without waiting.
   *
   * @returns how many were sent
   * @throws QueueError as {@link trySend}, with `sent`
   */
  trySendMany(messages: readonly (Data | PosixOutgoing)[]): number {
    if (!Array.isArray(messages)) throw invalidType('"messages" argument', 'an array of messages', messages)
    if (!this.#readiness.idle('write')) return 0
    const outbox = new Outbox(messages)
    try {
      for (;;) {
        const before = outbox.sent
        if (this.#flush(outbox, Number.POSITIVE_INFINITY) || outbox.sent === before) return outbox.sent
      }
    } catch (error) {
      throw withSent(error, outbox.sent)
    }
  }

  override async sendMany(messages: Iterable<Data | PosixOutgoing>, options?: WaitOptions): Promise<void> {
    const deadline = deadlineOf(options)
    const signal = options?.signal
    checkSignal(signal)
    const outbox = new Outbox(messages)
    // One batch a turn of the loop; but at the deadline there is no other turn.
    const most = () => (performance.now() < deadline ? MAX_BATCH : Number.POSITIVE_INFINITY)
    const flush = () => this.#flush(outbox, most()) || undefined
    try {
      if (this.#readiness.admit('write') && flush()) return
      await this.#readiness.wait('write', flush, deadline, signal).promise
    } catch (error) {
      outbox.close()
      throw withSent(error, outbox.sent)
    }
  }

  /** True when all is sent. */
  #flush(outbox: Outbox, most: number): boolean {
    const before = outbox.sent
    const errno = outbox.flush(this.#fd, most)
    this.#readiness.spend(outbox.sent - before)
    if (errno === 0 || errno === EAGAIN) return errno === 0
    throw this.#error(errno, 'mq_timedsend', outbox.nextLength)
  }

  /** False if the queue is full. */
  #put(bytes: Uint8Array, priority: number): boolean {
    const errno = send(this.#fd, bytes, priority)
    if (errno === 0) return true
    if (errno === EAGAIN) return false
    throw this.#error(errno, 'mq_timedsend', bytes.length)
  }

  override tryReceive(): PosixMessage | undefined {
    const length = receive(this.#fd)
    if (length >= 0) return this.#message(0, length, 1)
    if (length === EAGAIN) return undefined
    throw this.#error(length, 'mq_timedreceive')
  }

  override tryReceiveMany(max: number = MAX_BATCH): PosixMessage[] {
    checkInteger('"max" argument', max, 1, Number.MAX_SAFE_INTEGER)
    const messages: PosixMessage[] = []
    while (messages.length < max) {
      const count = receiveBatch(this.#fd, max - messages.length, this.#size.messageSize)
      if (count < 0) {
        // What is in hand comes first; the next call meets the error again.
        if (count === EAGAIN || messages.length > 0) break
        throw this.#error(count, 'mq_timedreceive')
      }
      for (let index = 0, offset = 0; index < count; index++) {
        const length = native.received[2 * index] ?? 0
        messages.push(this.#message(offset, length, 2 * index + 1))
        offset += length
      }
    }
    this.#readiness.spend(messages.length)
    return messages
  }

  /**
   * Receives into a buffer of at least `messageSize` bytes, without waiting.
   *
   * @returns the length in bytes, or -1 if there is no message; see {@link lastPriority}
   * @throws QueueError EBADF, EMSGSIZE (the buffer is too short), ERR_MQ_CLOSED
   */
  tryReceiveInto(buffer: Uint8Array): number {
    const length = receiveInto(this.#fd, checkBuffer(buffer))
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
    let length = receiveInto(this.#fd, buffer)
    while (length === EAGAIN) length = this.#receiveLater(buffer, deadline, spin, options?.restart)
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
    let length = receive(this.#fd)
    while (length === EAGAIN) length = this.#receiveLater(undefined, deadline, spin, options?.restart)
    if (length < 0) throw this.#error(length, 'mq_timedreceive')
    return this.#message(0, length, 1)
  }

  /** One more attempt, after spinning or sleeping. */
  #receiveLater(buffer: Uint8Array | undefined, deadline: number, spin: number, restart: boolean | undefined): number {
    const most = Math.min(spin, (deadline - performance.now()) * 1000)
    if (most > 0) {
      const length = receiveSpinning(this.#fd, buffer, most)
      if (length !== EAGAIN) return length
    }
    this.#block(POLLIN, deadline, restart)
    return buffer === undefined ? receive(this.#fd) : receiveInto(this.#fd, buffer)
  }

  /** Sleeps until the queue is ready. */
  #block(events: number, deadline: number, restart: boolean | undefined): void {
    const syscall = syscallOf(events === POLLIN ? 'read' : 'write')
    const left = deadline - performance.now()
    const ready = left > 0 ? pollSync(this.#fd, events, left, !restart && hasSignalListener()) : 0
    if (ready <= 0) throw this.#error(ready === 0 ? -os.errno.ETIMEDOUT : ready, syscall)
  }

  #message(offset: number, length: number, priority: number): PosixMessage {
    return new PosixMessage(copyArea(offset, offset + length), native.received[priority] ?? 0)
  }

  #received(length: number, buffer: Uint8Array): number {
    if (length < 0) throw this.#error(length, 'mq_timedreceive', buffer.length)
    this.#lastPriority = native.received[1] ?? 0
    return length
  }

  protected override mayReceiveNow(): boolean {
    return this.#readiness.admit('read')
  }

  protected override waitToReceive<T>(
    take: () => T | undefined,
    deadline: number,
    signal: AbortSignal | undefined,
  ): Waiter<T> {
    return this.#readiness.wait('read', take, deadline, signal)
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
    if (check()) return
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
    return new Puller(
      () => {
        const deadline = deadlineOf(options)
        checkSignal(options?.signal)
        return registration.next(deadline, options?.signal)
      },
      () => {
        if (this.#registrations.delete(registration)) registration.close()
      },
    )
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
    return `/${basename(readlinkSync(`/proc/self/fd/${fd}`).replace(/ \(deleted\)$/, ''))}`
  } catch {
    return undefined // no /proc
  }
}

const syscallOf = (direction: Direction): string => (direction === 'read' ? 'mq_timedreceive' : 'mq_timedsend')

/** Whatever went wrong, the caller has to know how far it went. */
function withSent(error: unknown, sent: number): unknown {
  return error instanceof Error && Object.isExtensible(error) ? Object.assign(error, { sent }) : error
}

function checkBuffer(buffer: Uint8Array): Uint8Array {
  if (!(buffer instanceof Uint8Array)) throw invalidType('"buffer" argument', 'a Buffer or Uint8Array', buffer)
  return buffer
}

function checkSpin(spin: number | undefined): number {
  if (spin === undefined) return 0
  if (typeof spin !== 'number') throw invalidType('"spin" option', 'a number of microseconds', spin)
  if (!(spin >= 0 && spin <= MAX_SPIN)) throw outOfRange('"spin" option', `0 to ${MAX_SPIN} microseconds`, spin)
  return spin
}
