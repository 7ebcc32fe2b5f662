/**
 * The system calls as they are: a value, or a negative errno. They never throw
 * for an errno, only for arguments of the wrong type.
 *
 * A call on a descriptor opened without `O_NONBLOCK` blocks the thread inside
 * the kernel, where neither `worker.terminate()` nor a signal listener reaches
 * it; the classes never do that.
 *
 * @see mq_overview(7), sysvipc(7)
 * @module kernelmq/syscalls
 */
import { constants as fs, statSync } from 'node:fs'
import { isUint8Array } from 'node:util/types'
import { checkAttached, invalidType, invalidValue, outOfRange } from './errors.ts'
import {
  type MqAttributes,
  type Msginfo,
  type MsqidDs,
  native,
  pollSync,
  received,
  type Timespec,
  typeAt,
} from './native.ts'

export const O_RDONLY: number = fs.O_RDONLY
export const O_WRONLY: number = fs.O_WRONLY
export const O_RDWR: number = fs.O_RDWR
export const O_CREAT: number = fs.O_CREAT
export const O_EXCL: number = fs.O_EXCL
export const O_NONBLOCK: number = fs.O_NONBLOCK
/** Priorities are below this. */
export const MQ_PRIO_MAX = 32768
/** {@link mqNotify}: a signal. */
export const SIGEV_SIGNAL = 0
/** {@link mqNotify}: be registered, but hear nothing. */
export const SIGEV_NONE = 1
export const POLLIN = 1
export const POLLOUT = 4
export const POLLERR = 8
export const POLLHUP = 16
export const POLLNVAL = 32

export const IPC_PRIVATE = 0
export const IPC_CREAT = 0o1000
export const IPC_EXCL = 0o2000
export const IPC_NOWAIT = 0o4000
export const MSG_NOERROR = 0o10000
export const MSG_EXCEPT = 0o20000
export const MSG_COPY = 0o40000
export const IPC_RMID = 0
export const IPC_SET = 1
export const IPC_STAT = 2
export const IPC_INFO = 3
export const MSG_STAT = 11
export const MSG_INFO = 12
export const MSG_STAT_ANY = 13

const EINVAL = -22

/** `struct mq_attr`; sizes in bytes. */
export type MqAttr = MqAttributes

/** `struct timespec`: a point of CLOCK_REALTIME, seconds and nanoseconds. */
export type { Timespec }

/** `struct sigevent`, as far as mq_notify(3) uses it. */
export interface Sigevent {
  /** {@link SIGEV_SIGNAL} or {@link SIGEV_NONE} */
  notify: number
  signo?: number
  value?: number
}

export type { Msginfo, MsqidDs }

function checkNumber(name: string, value: unknown): asserts value is number {
  if (typeof value !== 'number') throw invalidType(name, 'a number', value)
}

// Node-API cuts numbers to 32 bits, and NaN to 0: nothing must become another call.
const isInt32 = (value: number): boolean => (value | 0) === value
const isInt16 = (value: number): boolean => (value << 16) >> 16 === value
const isUint32 = (value: number): boolean => value >>> 0 === value

/** What is no descriptor or identifier becomes one that there cannot be. */
function checkHandle(name: string, value: unknown): number {
  checkNumber(name, value)
  return isInt32(value) ? value : -1
}

const checkDescriptor = (fd: unknown): number => checkHandle('"fd" argument', fd)
const checkId = (id: unknown): number => checkHandle('"id" argument', id)

function checkBytes(value: unknown): asserts value is Uint8Array {
  if (!isUint8Array(value)) throw invalidType('"data" argument', 'a Uint8Array or Buffer', value)
  checkAttached('"data" argument', value)
}

const NO_TIME: Timespec = { sec: -1, nsec: -1 }

/** A copy: while C++ holds the buffer of a message, no getter may run, which could detach that. */
function checkTimespec(value: unknown): Timespec | undefined {
  if (value === undefined || value === null) return undefined
  const { sec, nsec } = value as Partial<Timespec>
  if (typeof value !== 'object' || typeof sec !== 'number' || typeof nsec !== 'number') {
    throw invalidType('"deadline" argument', '{ sec, nsec } or undefined', value)
  }
  // The kernel says what it says of every such time: EINVAL.
  return Number.isSafeInteger(sec) && Number.isSafeInteger(nsec) ? { sec, nsec } : NO_TIME
}

function checkType(value: unknown): asserts value is number | bigint {
  if (typeof value === 'number' ? !Number.isSafeInteger(value) : typeof value !== 'bigint') {
    throw invalidType('"type" argument', 'a safe integer or a bigint', value)
  }
  if (typeof value === 'bigint' && BigInt.asIntN(64, value) !== value) {
    throw outOfRange('"type" argument', 'a number of 64 bits', value)
  }
}

/** The kernel's calls take the name without its slash; `undefined` if it has none. */
function kernelName(name: unknown): string | undefined {
  if (typeof name !== 'string') throw invalidType('"name" argument', 'a string', name)
  if (name.includes('\0') || !name.isWellFormed()) {
    throw invalidValue('"name" argument', 'a string without null characters and lone surrogates', name)
  }
  return name.startsWith('/') ? name.slice(1) : undefined
}

function priorityOf(result: number, priority: Uint32Array | undefined): number {
  if (result >= 0 && priority !== undefined) priority[0] = received[1] as number
  return result
}

function checkPriorityOut(value: unknown): asserts value is Uint32Array | undefined {
  if (value !== undefined && !(value instanceof Uint32Array)) {
    throw invalidType('"priority" argument', 'a Uint32Array or undefined', value)
  }
}

/**
 * Opens or creates a queue; the descriptor is always close-on-exec.
 *
 * @param name begins with a slash; without one the result is -EINVAL, as of libc
 * @param attr `maxmsg` and `msgsize` count; absent: the kernel's defaults
 * @returns a descriptor, or -EACCES, -EEXIST, -EINVAL, -EMFILE, -ENAMETOOLONG,
 * -ENFILE, -ENOENT, -ENOMEM, -ENOSPC
 * @see mq_open(3)
 */
export function mqOpen(name: string, flags: number, mode = 0o600, attr?: Pick<MqAttr, 'maxmsg' | 'msgsize'>): number {
  const path = kernelName(name)
  checkNumber('"flags" argument', flags)
  checkNumber('"mode" argument', mode)
  if (path === undefined || !isInt32(flags) || !isInt32(mode)) return EINVAL
  if (attr === undefined || attr === null) return native.open(path, flags, mode)
  const { maxmsg, msgsize } = attr
  checkNumber('"attr.maxmsg" property', maxmsg)
  checkNumber('"attr.msgsize" property', msgsize)
  if (!Number.isSafeInteger(maxmsg) || !Number.isSafeInteger(msgsize)) return EINVAL
  return native.open(path, flags, mode, maxmsg, msgsize)
}

/**
 * @returns 0, -EBADF if it is not a queue, or -EBUSY if an open `PosixQueue`
 * owns it: close that
 * @see mq_close(3)
 */
export function mqClose(fd: number): number {
  fd = checkDescriptor(fd)
  return native.close(fd)
}

/**
 * @returns 0, -EACCES, -EINVAL (no slash), -ENAMETOOLONG, -ENOENT, -EPERM
 * @see mq_unlink(3)
 */
export function mqUnlink(name: string): number {
  const path = kernelName(name)
  return path === undefined ? EINVAL : native.unlink(path)
}

/**
 * @param priority 0 to {@link MQ_PRIO_MAX} - 1
 * @returns 0, -EAGAIN (full and O_NONBLOCK), -EBADF, -EINTR, -EINVAL, -EMSGSIZE
 * @see mq_send(3)
 */
export function mqSend(fd: number, data: Uint8Array, priority = 0): number {
  return mqTimedsend(fd, data, priority)
}

/**
 * {@link mqSend} that waits until a point in time at most.
 *
 * @returns also -ETIMEDOUT, and -EINVAL for a malformed deadline
 * @see mq_timedsend(3)
 */
export function mqTimedsend(fd: number, data: Uint8Array, priority: number, deadline?: Timespec): number {
  fd = checkDescriptor(fd)
  const time = checkTimespec(deadline)
  checkBytes(data)
  checkNumber('"priority" argument', priority)
  if (!Number.isInteger(priority) || priority < 0 || priority >= MQ_PRIO_MAX) return EINVAL
  return native.timedSend(fd, data, priority, time)
}

/**
 * Takes the oldest message of the highest priority.
 *
 * @param data at least `msgsize` bytes long, however short the message
 * @param priority where to put the message's priority, if anywhere
 * @returns the length in bytes, -EAGAIN (empty and O_NONBLOCK), -EBADF, -EINTR,
 * -EMSGSIZE (`data` is too short)
 * @see mq_receive(3)
 */
export function mqReceive(fd: number, data: Uint8Array, priority?: Uint32Array): number {
  return mqTimedreceive(fd, data, priority)
}

/**
 * {@link mqReceive} that waits until a point in time at most.
 *
 * @returns also -ETIMEDOUT, and -EINVAL for a malformed deadline
 * @see mq_timedreceive(3)
 */
export function mqTimedreceive(fd: number, data: Uint8Array, priority?: Uint32Array, deadline?: Timespec): number {
  fd = checkDescriptor(fd)
  const time = checkTimespec(deadline)
  checkBytes(data)
  checkPriorityOut(priority)
  return priorityOf(native.timedReceive(fd, data, time), priority)
}

/**
 * @returns the attributes, or -EBADF
 * @see mq_getattr(3)
 */
export function mqGetattr(fd: number): MqAttr | number {
  fd = checkDescriptor(fd)
  return native.getSetAttributes(fd)
}

/**
 * Sets the flags of this descriptor: `O_NONBLOCK` or 0. Nothing else of a queue
 * can be changed.
 *
 * @returns the attributes before, -EBADF, or -EINVAL for another flag
 * @see mq_setattr(3)
 */
export function mqSetattr(fd: number, attr: Pick<MqAttr, 'flags'>): MqAttr | number {
  fd = checkDescriptor(fd)
  const flags = attr?.flags
  checkNumber('"attr.flags" property', flags)
  return isInt32(flags) ? native.getSetAttributes(fd, flags) : EINVAL
}

/**
 * Registers this process to hear, once, when a message comes to the empty
 * queue; without an event, takes the registration back.
 *
 * @returns 0, -EBADF, -EBUSY (one registration a queue), -EINVAL
 * @see mq_notify(3)
 */
export function mqNotify(fd: number, event?: Sigevent | null): number {
  fd = checkDescriptor(fd)
  if (event === undefined || event === null) return native.notify(fd)
  const { notify, signo = 0, value = 0 } = event
  checkNumber('"event.notify" property', notify)
  checkNumber('"event.signo" property', signo)
  checkNumber('"event.value" property', value)
  return [notify, signo, value].every(isInt32) ? native.notify(fd, notify, signo, value) : EINVAL
}

/**
 * Waits until the descriptor is ready; blocks the thread meanwhile. A queue is
 * ready for what its messages allow, whatever the descriptor's access mode.
 *
 * @param events `POLLIN | POLLOUT`
 * @param timeout milliseconds; negative: for ever
 * @returns the events that are there, 0 after the time, -EINTR, -EINVAL
 * @see poll(2)
 */
export function poll(fd: number, events: number, timeout = -1): number {
  fd = checkDescriptor(fd)
  checkNumber('"events" argument', events)
  checkNumber('"timeout" argument', timeout)
  if (Number.isNaN(timeout) || !isInt16(events)) return EINVAL
  return pollSync(fd, events, timeout < 0 ? Number.POSITIVE_INFINITY : timeout, true)
}

/**
 * Finds or creates a queue.
 *
 * @param key 32 bits, signed or unsigned; {@link IPC_PRIVATE} for a new queue
 * @param flags {@link IPC_CREAT}, {@link IPC_EXCL} and permission bits
 * @returns an identifier, -EACCES, -EEXIST, -ENOENT, -ENOMEM, -ENOSPC
 * @see msgget(2)
 */
export function msgget(key: number, flags: number): number {
  checkNumber('"key" argument', key)
  checkNumber('"flags" argument', flags)
  if (!(isInt32(key) || isUint32(key)) || !isInt32(flags)) return EINVAL
  return native.msgGet(key | 0, flags)
}

/**
 * @param type at least 1; a bigint beyond 2^53-1
 * @param flags {@link IPC_NOWAIT}
 * @returns 0, -EACCES, -EAGAIN (full and IPC_NOWAIT), -EIDRM, -EINTR, -EINVAL,
 * -ENOMEM
 * @see msgsnd(2)
 */
export function msgsnd(id: number, type: number | bigint, data: Uint8Array, flags = 0): number {
  id = checkId(id)
  checkType(type)
  checkBytes(data)
  checkNumber('"flags" argument', flags)
  if (!isInt32(flags)) return EINVAL
  return native.msgSend(id, type, data, flags)
}

/**
 * @param type see msgrcv(2); with {@link MSG_COPY} an index
 * @param flags {@link IPC_NOWAIT}, {@link MSG_NOERROR}, {@link MSG_EXCEPT},
 * {@link MSG_COPY}
 * @param typeOut where to put the message's type, if anywhere
 * @returns the length in bytes, -E2BIG, -EACCES, -EIDRM, -EINTR, -EINVAL, -ENOMSG
 * @see msgrcv(2)
 */
export function msgrcv(
  id: number,
  data: Uint8Array,
  type: number | bigint = 0,
  flags = 0,
  typeOut?: BigInt64Array,
): number {
  id = checkId(id)
  checkBytes(data)
  checkType(type)
  checkNumber('"flags" argument', flags)
  if (typeOut !== undefined && !(typeOut instanceof BigInt64Array)) {
    throw invalidType('"typeOut" argument', 'a BigInt64Array or undefined', typeOut)
  }
  if (!isInt32(flags)) return EINVAL
  const length = native.msgReceive(id, type, data, flags)
  if (length >= 0 && typeOut !== undefined) typeOut[0] = BigInt(typeAt(1))
  return length
}

/** What {@link IPC_SET} sets. */
export type MsgSettings = Pick<MsqidDs, 'uid' | 'gid' | 'mode' | 'qbytes'>

/**
 * @param id for {@link MSG_STAT} and {@link MSG_STAT_ANY} an index, for
 * {@link IPC_INFO} and {@link MSG_INFO} unused
 * @returns what the command gives, or a negative errno: -EACCES, -EIDRM, -EINVAL,
 * -EPERM
 * @see msgctl(2)
 */
export function msgctl(id: number, command: typeof IPC_STAT | typeof MSG_STAT | typeof MSG_STAT_ANY): MsqidDs | number
export function msgctl(id: number, command: typeof IPC_INFO | typeof MSG_INFO): Msginfo | number
export function msgctl(id: number, command: typeof IPC_SET, settings: MsgSettings): number
export function msgctl(id: number, command: number): number
export function msgctl(id: number, command: number, settings?: MsgSettings): MsqidDs | Msginfo | number {
  id = checkId(id)
  checkNumber('"command" argument', command)
  if (!isInt32(command)) return EINVAL
  switch (command) {
    case IPC_STAT:
    case MSG_STAT:
    case MSG_STAT_ANY:
      return native.msgStat(id, command)
    case IPC_INFO:
    case MSG_INFO:
      return native.msgInfo(command)
    case IPC_SET: {
      if (typeof settings !== 'object' || settings === null) {
        throw invalidType('"settings" argument', '{ uid, gid, mode, qbytes }', settings)
      }
      const { uid, gid, mode, qbytes } = settings
      checkNumber('"uid" property', uid)
      checkNumber('"gid" property', gid)
      checkNumber('"mode" property', mode)
      checkNumber('"qbytes" property', qbytes)
      // Of what C passes as `qbytes` the kernel takes 32 bits.
      if (![uid, gid, mode, qbytes].every(isUint32)) return EINVAL
      return native.msgSet(id, uid, gid, mode, qbytes)
    }
    default:
      return native.msgControl(id, command)
  }
}

/**
 * @param project of which the low 8 bits count
 * @returns a key, unsigned, -EINVAL for a project that is no `int`, or the negative errno of stat(2)
 * @see ftok(3)
 */
export function ftok(path: string, project: number): number {
  if (typeof path !== 'string') throw invalidType('"path" argument', 'a string', path)
  checkNumber('"project" argument', project)
  if (!isInt32(project)) return EINVAL
  try {
    const { ino, dev } = statSync(path, { bigint: true })
    return (((project & 0xff) << 24) | Number((dev & 0xffn) << 16n) | Number(ino & 0xffffn)) >>> 0
  } catch (error) {
    const { errno } = error as NodeJS.ErrnoException
    if (errno === undefined) throw error
    return errno
  }
}
