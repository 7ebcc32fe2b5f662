/**
 * The system calls as they are: a value, or a negative errno. They never throw
 * for an errno, only for arguments of the wrong type.
 *
 * A call on a descriptor opened without `O_NONBLOCK` blocks the thread inside
 * the kernel, where neither `worker.terminate()` nor a signal listener reaches
 * it; the classes never do that.
 *
 * @see mq_overview(7)
 * @module kernelmq/syscalls
 */
import { constants as fs } from 'node:fs'
import { invalidType, invalidValue } from './errors.ts'
import { type MqAttributes, native, pollSync, type Timespec } from './native.ts'

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

function checkNumber(name: string, value: unknown): asserts value is number {
  if (typeof value !== 'number') throw invalidType(name, 'a number', value)
}

function checkBytes(value: unknown): asserts value is Uint8Array {
  if (!(value instanceof Uint8Array)) throw invalidType('"data" argument', 'a Uint8Array or Buffer', value)
}

function checkTimespec(value: unknown): asserts value is Timespec | undefined {
  if (value === undefined || value === null) return
  const time = value as Partial<Timespec>
  if (typeof value !== 'object' || typeof time.sec !== 'number' || typeof time.nsec !== 'number') {
    throw invalidType('"deadline" argument', '{ sec, nsec } or undefined', value)
  }
}

/** The kernel's calls take the name without its slash; `undefined` if it has none. */
function kernelName(name: unknown): string | undefined {
  if (typeof name !== 'string') throw invalidType('"name" argument', 'a string', name)
  if (name.includes('\0')) throw invalidValue('"name" argument', 'a string without null characters', name)
  return name.startsWith('/') ? name.slice(1) : undefined
}

function priorityOf(result: number, priority: Uint32Array | undefined): number {
  if (result >= 0 && priority !== undefined) priority[0] = native.received[1] as number
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
  if (path === undefined) return EINVAL
  if (attr === undefined || attr === null) return native.open(path, flags, mode)
  checkNumber('"attr.maxmsg" property', attr.maxmsg)
  checkNumber('"attr.msgsize" property', attr.msgsize)
  return native.open(path, flags, mode, attr.maxmsg, attr.msgsize)
}

/**
 * @returns 0, -EBADF if it is not a queue, or -EBUSY if an open `PosixQueue`
 * owns it: close that
 * @see mq_close(3)
 */
export function mqClose(fd: number): number {
  checkNumber('"fd" argument', fd)
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
  checkNumber('"fd" argument', fd)
  checkBytes(data)
  checkNumber('"priority" argument', priority)
  checkTimespec(deadline)
  if (!Number.isInteger(priority)) return EINVAL
  return native.timedSend(fd, data, priority, deadline)
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
  checkNumber('"fd" argument', fd)
  checkBytes(data)
  checkPriorityOut(priority)
  checkTimespec(deadline)
  return priorityOf(native.timedReceive(fd, data, deadline), priority)
}

/**
 * @returns the attributes, or -EBADF
 * @see mq_getattr(3)
 */
export function mqGetattr(fd: number): MqAttr | number {
  checkNumber('"fd" argument', fd)
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
  checkNumber('"fd" argument', fd)
  checkNumber('"attr.flags" property', attr?.flags)
  return native.getSetAttributes(fd, attr.flags)
}

/**
 * Registers this process to hear, once, when a message comes to the empty
 * queue; without an event, takes the registration back.
 *
 * @returns 0, -EBADF, -EBUSY (one registration a queue), -EINVAL
 * @see mq_notify(3)
 */
export function mqNotify(fd: number, event?: Sigevent | null): number {
  checkNumber('"fd" argument', fd)
  if (event === undefined || event === null) return native.notify(fd)
  checkNumber('"event.notify" property', event.notify)
  return native.notify(fd, event.notify, event.signo ?? 0, event.value ?? 0)
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
  checkNumber('"fd" argument', fd)
  checkNumber('"events" argument', events)
  checkNumber('"timeout" argument', timeout)
  return pollSync(fd, events, timeout < 0 ? Number.POSITIVE_INFINITY : timeout, true)
}
