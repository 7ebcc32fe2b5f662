// What the system says about its queues: limits, names, comings and goings.
import { EventEmitter, on } from 'node:events'
import { constants as fs, readdirSync, readFileSync, statSync, watch } from 'node:fs'
import { readdir, readFile, stat } from 'node:fs/promises'
import { constants } from 'node:os'
import { AbortError, checkInteger, QueueError } from './errors.ts'
import { type MqAttributes, native } from './native.ts'
import { checkSignal, deadlineOf, type WaitOptions } from './waiting.ts'

/** The limits of POSIX queues. Sizes are in bytes. @see mq_overview(7) */
export interface PosixLimits {
  /** Most queues in this IPC namespace (fs.mqueue.queues_max). */
  queues: number
  /** Most `maxMessages` of an unprivileged process (fs.mqueue.msg_max). */
  maxMessages: number
  /** Most `messageSize` of an unprivileged process (fs.mqueue.msgsize_max). */
  messageSize: number
  /** `maxMessages` of a queue that is created without (fs.mqueue.msg_default). */
  defaultMaxMessages: number
  /** `messageSize` of a queue that is created without (fs.mqueue.msgsize_default). */
  defaultMessageSize: number
  /** What all queues of this user may cost together (RLIMIT_MSGQUEUE); see `cost`. */
  bytes: number
  /** Priorities go from 0 to this. */
  maxPriority: number
}

export interface QueueSize {
  /** Messages. */
  maxMessages: number
  /** Bytes. */
  messageSize: number
}

type WantedSize = { [Key in keyof QueueSize]?: QueueSize[Key] | undefined }

/** A queue as `PosixQueue.list()` finds it. */
export interface PosixQueueInfo {
  /** With its slash. */
  name: string
  uid: number
  gid: number
  /** The permission bits. */
  mode: number
  /** Bytes of the messages in the queue; undefined if this process may not read it. */
  bytes: number | undefined
  /** Messages in the queue, and what it may hold; undefined as above. */
  messages: number | undefined
  maxMessages: number | undefined
  messageSize: number | undefined
  /** Who is registered for notification (mq_notify), if anybody. */
  notify: { pid: number; method: 'signal' | 'none' | 'thread'; signal: number } | undefined
}

export interface QueueEvent {
  type: 'created' | 'removed'
  /** With its slash. */
  name: string
}

function sysctl(name: string): number {
  try {
    return Number(readFileSync(`/proc/sys/fs/mqueue/${name}`, 'utf8'))
  } catch {
    const hint = 'The kernel is built without CONFIG_POSIX_MQUEUE, or /proc is not mounted.'
    throw new QueueError('ENOSYS', { syscall: 'open', path: `/proc/sys/fs/mqueue/${name}`, hint })
  }
}

/** RLIMIT_MSGQUEUE as this process has it, in bytes. */
function msgqueueLimit(): number {
  const soft = /^Max msgqueue size\s+(\S+)/m.exec(readFileSync('/proc/self/limits', 'utf8'))?.[1]
  return soft === 'unlimited' ? Number.POSITIVE_INFINITY : Number(soft)
}

export function posixLimits(): PosixLimits {
  return {
    queues: sysctl('queues_max'),
    maxMessages: sysctl('msg_max'),
    messageSize: sysctl('msgsize_max'),
    defaultMaxMessages: Math.min(sysctl('msg_default'), sysctl('msg_max')),
    defaultMessageSize: Math.min(sysctl('msgsize_default'), sysctl('msgsize_max')),
    bytes: msgqueueLimit(),
    maxPriority: 32767,
  }
}

// The kernel charges a queue when it is created, as if it were full of the
// longest messages and every one had a priority of its own (ipc/mqueue.c).
const MESSAGE_HEADER = 48
const PRIORITY_NODE = 48
const PRIORITIES = 32768

export function posixCost({ maxMessages, messageSize }: QueueSize): number {
  checkInteger('"maxMessages" option', maxMessages, 1, Number.MAX_SAFE_INTEGER)
  checkInteger('"messageSize" option', messageSize, 1, Number.MAX_SAFE_INTEGER)
  return maxMessages * MESSAGE_HEADER + Math.min(maxMessages, PRIORITIES) * PRIORITY_NODE + maxMessages * messageSize
}

const CONTAINER = 'in Docker: --ulimit msgqueue=<bytes>, in systemd: LimitMSGQUEUE=<bytes>'

// Beyond these no sysctl goes (ipc/mqueue.c, HARD_MSGMAX and HARD_MSGSIZEMAX).
const CEILING: QueueSize = { maxMessages: 65536, messageSize: 16777216 }

/** Why mq_open(3) failed, and what mends it. */
export function openHint(code: string, name: string, create: boolean, size: WantedSize): string | undefined {
  switch (code) {
    case 'EMFILE':
      return tooManyHint(size)
    case 'EINVAL':
      return sizeHint(size)
    case 'ENOSPC':
      return `There may be ${posixLimits().queues} queues. Unlink one (ls /dev/mqueue), or as root: sysctl fs.mqueue.queues_max=<more>`
    case 'EEXIST':
      return 'Leave exclusive out to open the queue that is there.'
    case 'ENOENT':
      if (create || name === '/') return nameHint(code, name)
      return 'Nobody has created it in this IPC namespace: pass create: true, or see PosixQueue.waitFor().'
    default:
      return nameHint(code, name)
  }
}

/** Why a name cannot be opened or unlinked. */
export function nameHint(code: string, name: string): string | undefined {
  switch (code) {
    case 'EACCES':
      if (name === '/.' || name === '/..') return "A name may not be '.' or '..' after its slash."
      return name.includes('/', 1)
        ? `A name has one slash, at its start: '/${name.slice(1).replaceAll('/', '.')}'`
        : 'The queue belongs to another user, or its mode does not allow this (ls -l /dev/mqueue).'
    case 'EPERM':
      return 'The queue belongs to another user: only that user and root may unlink it.'
    case 'ENOENT':
      return name === '/'
        ? 'The name needs characters after its slash.'
        : 'There is none of that name in this IPC namespace.'
    case 'ENAMETOOLONG':
      return 'A name has at most 255 bytes after its slash.'
    case 'ENOSYS':
      return 'The kernel is built without CONFIG_POSIX_MQUEUE, or a sandbox forbids the call.'
    default:
      return undefined
  }
}

function sizeHint(size: WantedSize): string {
  const { maxMessages, messageSize } = posixLimits()
  const here = `maxMessages may be 1 to ${maxMessages} and messageSize 1 to ${messageSize} here`
  const wanted = {
    maxMessages: Math.max(size.maxMessages ?? 0, maxMessages),
    messageSize: Math.max(size.messageSize ?? 0, messageSize),
  }
  if (wanted.maxMessages > CEILING.maxMessages || wanted.messageSize > CEILING.messageSize) {
    return `${here}; no system allows more than ${CEILING.maxMessages} and ${CEILING.messageSize}.`
  }
  return (
    `${here}; root raises that: sysctl fs.mqueue.msg_max=${wanted.maxMessages} ` +
    `fs.mqueue.msgsize_max=${wanted.messageSize}`
  )
}

/** EMFILE of a call that makes no queue. */
export const DESCRIPTOR_HINT =
  'This process has no descriptor left: close some, or raise its limit (ulimit -n <number>).'

// EMFILE has two causes, and the usual one is not the one it is named for.
function tooManyHint(size: WantedSize): string {
  try {
    readdirSync('/proc/self/fd')
  } catch {
    return DESCRIPTOR_HINT
  }
  const limits = posixLimits()
  const { maxMessages = limits.defaultMaxMessages, messageSize = limits.defaultMessageSize } = size
  return (
    `This queue costs ${posixCost({ maxMessages, messageSize })} bytes, and all queues of this user may cost ${limits.bytes} ` +
    `(RLIMIT_MSGQUEUE). Unlink queues, use fewer or shorter messages, or raise it: ulimit -q <bytes>; ${CONTAINER}`
  )
}

/** Where the mqueue file system is mounted. */
function mountPoint(): string {
  for (const line of readFileSync('/proc/self/mounts', 'utf8').split('\n')) {
    const [, path, type] = line.split(' ')
    if (type === 'mqueue' && path !== undefined)
      return path.replace(/\\([0-7]{3})/g, (_, octal) => String.fromCharCode(Number.parseInt(octal, 8)))
  }
  throw new QueueError('ERR_MQ_NOT_MOUNTED', {
    syscall: 'open',
    path: '/dev/mqueue',
    hint: 'As root: mkdir -p /dev/mqueue && mount -t mqueue none /dev/mqueue. Sending and receiving work without it.',
  })
}

function attributesOf(name: string): MqAttributes | undefined {
  const fd = native.open(name, fs.O_RDONLY | fs.O_NONBLOCK, 0)
  if (fd < 0) return undefined
  const attributes = native.getSetAttributes(fd)
  native.close(fd)
  return typeof attributes === 'number' ? undefined : attributes
}

async function describe(directory: string, name: string): Promise<PosixQueueInfo> {
  const path = `${directory}/${name}`
  const { uid, gid, mode } = await stat(path)
  const text = await readFile(path, 'utf8').catch(() => '')
  const field = (key: string) => {
    const value = new RegExp(`\\b${key}:(\\d+)`).exec(text)?.[1]
    return value === undefined ? undefined : Number(value)
  }
  const attributes = attributesOf(name)
  const pid = field('NOTIFY_PID')
  const method = (['signal', 'none', 'thread'] as const)[field('NOTIFY') ?? 0] ?? 'none'
  return {
    name: `/${name}`,
    uid,
    gid,
    mode: mode & 0o7777,
    bytes: field('QSIZE'),
    messages: attributes?.curmsgs,
    maxMessages: attributes?.maxmsg,
    messageSize: attributes?.msgsize,
    notify: pid === undefined || pid === 0 ? undefined : { pid, method, signal: field('SIGNO') ?? 0 },
  }
}

export async function listPosix(): Promise<PosixQueueInfo[]> {
  const directory = mountPoint()
  const names = (await readdir(directory)).sort()
  const rows = await Promise.allSettled(names.map((name) => describe(directory, name)))
  // One that is gone by now is no row.
  return rows.flatMap((row) => (row.status === 'fulfilled' ? [row.value] : []))
}

/** The queue's identity; undefined if there is none. */
function inodeOf(directory: string, name: string): number | undefined {
  return statSync(`${directory}/${name}`, { throwIfNoEntry: false })?.ino
}

export function watchPosix(options: Pick<WaitOptions, 'signal'>): AsyncIterableIterator<QueueEvent, undefined> {
  const { signal } = options
  checkSignal(signal)
  const directory = mountPoint()
  // From now on, not from the first next(); but only the iteration holds the loop.
  const watcher = watch(directory).unref()
  const known = new Map(readdirSync(directory).map((name) => [name, inodeOf(directory, name)]))
  const emitter = new EventEmitter()
  const changes = on(emitter, 'change', { ...(signal && { signal }) })
  watcher.on('error', (error) => emitter.emit('error', error))
  watcher.on('change', (_, file) => {
    const name = String(file)
    const before = known.get(name)
    const now = inodeOf(directory, name)
    if (before === now) return
    if (before !== undefined) emitter.emit('change', { type: 'removed', name: `/${name}` })
    if (now !== undefined) emitter.emit('change', { type: 'created', name: `/${name}` })
    known.set(name, now)
  })
  signal?.addEventListener('abort', () => watcher.close(), { once: true })

  async function* events(): AsyncGenerator<QueueEvent, undefined> {
    watcher.ref()
    try {
      for await (const [event] of changes) yield event
    } catch (error) {
      throw signal?.aborted ? new AbortError(signal.reason) : error
    } finally {
      watcher.close()
    }
    return undefined
  }
  return events()
}

export async function waitForPosix(name: string, options: WaitOptions): Promise<void> {
  const deadline = deadlineOf(options)
  const { signal } = options
  checkSignal(signal)
  const stop = new AbortController()
  const events = watchPosix({ signal: signal === undefined ? stop.signal : AbortSignal.any([signal, stop.signal]) })
  const left = deadline - performance.now()
  const timer = left < 2 ** 31 ? setTimeout(() => stop.abort(), Math.max(left, 0)) : undefined
  try {
    if (inodeOf(mountPoint(), name.slice(1)) !== undefined) return
    for await (const event of events) {
      if (event.type === 'created' && event.name === name) return
    }
  } catch (error) {
    checkSignal(signal)
    if (!stop.signal.aborted) throw error
    throw new QueueError(-constants.errno.ETIMEDOUT, { syscall: 'mq_open', path: name })
  } finally {
    clearTimeout(timer)
    stop.abort()
  }
}
