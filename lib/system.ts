// What the system says about its queues: limits, names, comings and goings; and
// what its errors mean.
import {
  existsSync,
  type FSWatcher,
  constants as fs,
  readdirSync,
  readFileSync,
  readlinkSync,
  statSync,
  watch,
} from 'node:fs'
import { open, readdir, stat } from 'node:fs/promises'
import { constants } from 'node:os'
import { checkInteger, QueueError } from './errors.ts'
import { type MqAttributes, type MsqidDs, native } from './native.ts'
import { IPC_INFO, IPC_NOWAIT, IPC_STAT, MSG_COPY, MSG_INFO, MSG_STAT_ANY } from './syscalls.ts'
import { checkSignal, deadlineOf, Puller, Waiter, type WaitOptions } from './waiting.ts'

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
  /** With its slash; U+FFFD stands for what is no UTF-8. */
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
  /** When a message was last sent or received, to the second; if none ever was, when it was created. */
  usedAt: Date
  /** Who is registered for notification (mq_notify), if anybody. */
  notify: { pid: number; method: 'signal' | 'none' | 'thread'; signal: number } | undefined
}

export interface QueueEvent {
  type: 'created' | 'removed'
  /** With its slash; U+FFFD stands for what is no UTF-8. */
  name: string
}

function sysctl(name: string): number {
  try {
    return Number(readFileSync(`/proc/sys/fs/mqueue/${name}`, 'utf8'))
  } catch (error) {
    const { code, errno } = error as NodeJS.ErrnoException
    if (code !== 'ENOENT' && errno !== undefined) {
      const hint = code === 'EMFILE' ? DESCRIPTOR_HINT : undefined
      throw new QueueError(errno, { syscall: 'open', path: `/proc/sys/fs/mqueue/${name}`, hint })
    }
    const hint = 'The kernel is built without CONFIG_POSIX_MQUEUE, or /proc is not mounted.'
    throw new QueueError('ENOSYS', { syscall: 'open', path: `/proc/sys/fs/mqueue/${name}`, hint })
  }
}

/** A limit of this process, in bytes or as a number; Infinity if there is none. @see getrlimit(2) */
export function resourceLimit(name: 'Max msgqueue size' | 'Max open files'): { soft: number; hard: number } {
  const line = new RegExp(`^${name}\\s+(\\S+)\\s+(\\S+)`, 'm').exec(readFileSync('/proc/self/limits', 'utf8'))
  const [soft = Number.NaN, hard = Number.NaN] = (line ?? [])
    .slice(1)
    .map((value) => (value === 'unlimited' ? Number.POSITIVE_INFINITY : Number(value)))
  return { soft, hard }
}

export function posixLimits(): PosixLimits {
  return {
    queues: sysctl('queues_max'),
    maxMessages: sysctl('msg_max'),
    messageSize: sysctl('msgsize_max'),
    defaultMaxMessages: Math.min(sysctl('msg_default'), sysctl('msg_max')),
    defaultMessageSize: Math.min(sysctl('msgsize_default'), sysctl('msgsize_max')),
    bytes: resourceLimit('Max msgqueue size').soft,
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
export const CEILING: QueueSize = { maxMessages: 65536, messageSize: 16777216 }

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
export function mountPoint(): string {
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

/** What the file of a queue says, and its attributes; undefined if it may not be read. */
async function readQueue(path: Buffer): Promise<[text: string, attributes: MqAttributes] | undefined> {
  const file = await open(path, fs.O_RDONLY | fs.O_NONBLOCK).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'EMFILE' || error.code === 'ENFILE') throw error
  })
  try {
    const attributes = file && native.getSetAttributes(file.fd)
    return typeof attributes === 'object' ? [(await file?.readFile('utf8')) ?? '', attributes] : undefined
  } finally {
    await file?.close()
  }
}

const pathOf = (directory: string, name: Buffer) => Buffer.concat([Buffer.from(`${directory}/`), name])

/** Whoever creates a queue chooses its name, which need not be UTF-8. */
async function describe(directory: string, name: Buffer): Promise<PosixQueueInfo | undefined> {
  const path = pathOf(directory, name)
  const status = await stat(path).catch(() => undefined)
  if (status === undefined) return undefined // It is gone by now.
  const { uid, gid, mode, mtime } = status
  const [text, attributes] = (await readQueue(path)) ?? ['']
  const field = (key: string) => {
    const value = new RegExp(`\\b${key}:(\\d+)`).exec(text)?.[1]
    return value === undefined ? undefined : Number(value)
  }
  const pid = field('NOTIFY_PID')
  const method = (['signal', 'none', 'thread'] as const)[field('NOTIFY') ?? 0] ?? 'none'
  return {
    name: `/${name.toString('utf8')}`,
    uid,
    gid,
    mode: mode & 0o7777,
    bytes: field('QSIZE'),
    messages: attributes?.curmsgs,
    maxMessages: attributes?.maxmsg,
    messageSize: attributes?.msgsize,
    usedAt: mtime,
    notify: pid === undefined || pid === 0 ? undefined : { pid, method, signal: field('SIGNO') ?? 0 },
  }
}

export async function listPosix(): Promise<PosixQueueInfo[]> {
  const directory = mountPoint()
  const names = (await readdir(directory, { encoding: 'buffer' })).sort(Buffer.compare)
  const rows: PosixQueueInfo[] = []
  // One by one: each takes a descriptor, of which the process may have few.
  for (const name of names) {
    const row = await describe(directory, name)
    if (row !== undefined) rows.push(row)
  }
  return rows
}

/** The queue's identity; undefined if there is none. */
function inodeOf(directory: string, name: Buffer): number | undefined {
  return statSync(pathOf(directory, name), { throwIfNoEntry: false })?.ino
}

/** A watch that nobody can ask any more would gather events for ever. */
const dropped = new FinalizationRegistry<FSWatcher>((watcher) => watcher.close())

/**
 * Events up to a deadline, at which a request is rejected with what `timeout` makes. What is `wanted` is looked for
 * whatever event comes: of those that the kernel has no room for, it tells nothing.
 */
export function watchPosix(
  options: Pick<WaitOptions, 'signal'>,
  deadline: number = Number.POSITIVE_INFINITY,
  timeout?: () => Error,
  wanted?: Buffer,
): AsyncIterableIterator<QueueEvent, undefined> {
  const { signal } = options
  checkSignal(signal)
  const directory = mountPoint()
  // From now on, not from the first next(); but only a request holds the loop.
  const watcher = watch(directory, 'buffer').unref()
  // By their bytes: names that are no UTF-8 would look alike, and be longer than a name may be.
  const keyOf = (name: Buffer) => name.toString('latin1')
  const names = readdirSync(directory, 'buffer')
  const known = new Map(names.map((name) => [keyOf(name), inodeOf(directory, name)]))
  const events: QueueEvent[] = []
  const waiters = new Set<Waiter<QueueEvent>>()
  const leave = (waiter: Waiter<QueueEvent>) => {
    waiters.delete(waiter)
    if (waiters.size === 0) watcher.unref()
  }
  const tell = (type: QueueEvent['type'], file: Buffer) => {
    const event = { type, name: `/${file}` }
    const [waiter] = waiters
    if (waiter === undefined) {
      events.push(event)
    } else {
      leave(waiter)
      waiter.resolve(event)
    }
  }
  const look = (file: Buffer) => {
    const key = keyOf(file)
    const before = known.get(key)
    const now = inodeOf(directory, file)
    if (before === now) return
    known.delete(key)
    if (before !== undefined) tell('removed', file)
    if (now === undefined) return
    known.set(key, now)
    tell('created', file)
  }
  watcher.on('change', (_, file) => {
    look(Buffer.from(file))
    if (wanted !== undefined) look(wanted)
  })
  watcher.on('error', (error) => {
    for (const waiter of waiters) waiter.reject(error)
    waiters.clear()
  })
  const iterator = new Puller(
    () => {
      checkSignal(signal)
      const event = events.shift()
      if (event !== undefined) return event
      watcher.ref()
      const waiter = new Waiter<QueueEvent>(deadline, signal, (waiter, reason) => {
        leave(waiter)
        waiter.reject(reason === 'timeout' ? timeout?.() : reason)
      })
      waiters.add(waiter)
      return waiter
    },
    () => watcher.close(),
  )
  dropped.register(iterator, watcher)
  return iterator
}

/** What the file system has, or cannot have, though no queue has such a name; as mq_open(3) fails. */
function checkFileName(name: string): void {
  const { ENOENT, EACCES, ENAMETOOLONG } = constants.errno
  const file = name.slice(1)
  const errno =
    file === ''
      ? ENOENT
      : file === '.' || file === '..' || file.includes('/')
        ? EACCES
        : Buffer.byteLength(file) > 255
          ? ENAMETOOLONG
          : undefined
  if (errno === undefined) return
  throw new QueueError(-errno, { syscall: 'mq_open', path: name, hint: (code) => nameHint(code, name) })
}

export async function waitForPosix(name: string, options: WaitOptions): Promise<void> {
  const deadline = deadlineOf(options)
  checkFileName(name)
  const timeout = () => new QueueError(-constants.errno.ETIMEDOUT, { syscall: 'mq_open', path: name })
  const file = Buffer.from(name.slice(1))
  const events = watchPosix(options, deadline, timeout, file)
  try {
    // Events tell when to look: what is no UTF-8 may look like this name.
    do {
      if (inodeOf(mountPoint(), file) !== undefined) return
    } while (!(await events.next()).done)
  } finally {
    events.return?.()
  }
}

/** The limits of System V queues. Sizes are in bytes. @see sysvipc(7) */
export interface SysvLimits {
  /** Most queues in this IPC namespace (kernel.msgmni). */
  queues: number
  /** Most bytes of one message (kernel.msgmax). */
  messageSize: number
  /** Bytes that a queue holds, unless changed (kernel.msgmnb). */
  maxBytes: number
}

/** What a System V queue tells of itself. @see msgctl(2), struct msqid_ds */
export interface SysvStat {
  /** As ipcs(1) shows it: `0x0000002a`, or `0x00000000` without a key. */
  key: string
  /** Messages in the queue. */
  messages: number
  /** Bytes of the messages in the queue. */
  bytes: number
  /** Bytes that the queue may hold. */
  maxBytes: number
  /** Process that sent or received last; undefined if none has. */
  lastSender: number | undefined
  lastReceiver: number | undefined
  /** Times of the last send, receive and change, to the second. */
  sentAt: Date | undefined
  receivedAt: Date | undefined
  changedAt: Date
  uid: number
  gid: number
  creatorUid: number
  creatorGid: number
  /** The permission bits. */
  mode: number
}

/** A queue as `SysvQueue.list()` finds it. */
export interface SysvQueueInfo extends SysvStat {
  id: number
}

export function sysvLimits(): SysvLimits {
  const info = native.msgInfo(IPC_INFO)
  if (typeof info === 'number') throw new QueueError(info, { syscall: 'msgctl', hint: sysvHint('ENOSYS', 'msgctl') })
  return { queues: info.mni, messageSize: info.max, maxBytes: info.mnb }
}

/** As ipcs(1) shows it. */
export function formatKey(key: number): string {
  return `0x${(key >>> 0).toString(16).padStart(8, '0')}`
}

function describeSysv(queue: MsqidDs): SysvQueueInfo {
  const dateOf = (seconds: number) => (seconds === 0 ? undefined : new Date(seconds * 1000))
  return {
    id: queue.id,
    key: formatKey(queue.key),
    messages: queue.qnum,
    bytes: queue.cbytes,
    maxBytes: queue.qbytes,
    lastSender: queue.lspid || undefined,
    lastReceiver: queue.lrpid || undefined,
    sentAt: dateOf(queue.stime),
    receivedAt: dateOf(queue.rtime),
    changedAt: new Date(queue.ctime * 1000),
    uid: queue.uid,
    gid: queue.gid,
    creatorUid: queue.cuid,
    creatorGid: queue.cgid,
    mode: queue.mode & 0o777,
  }
}

/** An identifier is the queue's index, plus a multiple of this (ipc/util.h). */
const INDEXES = 32768

/**
 * What a queue tells, or a negative errno. `always`: also one that this process
 * may not read.
 */
export function statSysv(id: number, always = false): SysvStat | number {
  let queue = native.msgStat(id, IPC_STAT)
  if (queue === -constants.errno.EACCES && always) {
    const any = native.msgStat(id % INDEXES, MSG_STAT_ANY)
    if (typeof any !== 'number' && any.id === id) queue = any
  }
  if (typeof queue === 'number') return queue
  const { id: _, ...stat } = describeSysv({ ...queue, id })
  return stat
}

/** The most bytes that a queue holds, or a negative errno; also of one that may not be read. */
export function maxBytesOf(id: number): number {
  return native.msgLimit(id, id % INDEXES)
}

export async function listSysv(): Promise<SysvQueueInfo[]> {
  const info = native.msgInfo(MSG_INFO)
  if (typeof info === 'number') throw new QueueError(info, { syscall: 'msgctl', hint: sysvHint('ENOSYS', 'msgctl') })
  const rows: SysvQueueInfo[] = []
  for (let index = 0; index <= info.index; index++) {
    const queue = native.msgStat(index, MSG_STAT_ANY)
    if (typeof queue !== 'number') rows.push(describeSysv(queue))
  }
  return rows
}

/** Why a call on a System V queue failed, and what mends it. */
export function sysvHint(code: string, syscall: string): string | undefined {
  switch (code) {
    case 'EACCES':
      return 'The queue belongs to another user, or its mode does not allow this (ipcs -q).'
    case 'EAGAIN':
      return 'To wait takes a thread or, in a blocking call, a timer: ulimit -u or ulimit -i (signals pending) of this user allows no more.'
    case 'EEXIST':
      return 'Leave exclusive out to open the queue that is there.'
    case 'EIDRM':
      return 'Somebody removed it (remove(), ipcrm -q), or it never was in this IPC namespace: open it anew by its key.'
    case 'ENOENT':
      return 'Nobody has created it in this IPC namespace: pass create: true.'
    case 'ENOSPC':
      return `There may be ${sysvLimits().queues} queues. Remove one (ipcs -q, ipcrm -q <id>), or as root: sysctl kernel.msgmni=<more>`
    case 'EPERM':
      return `Only its owner may do this; and only root with CAP_SYS_RESOURCE may raise maxBytes above ${sysvLimits().maxBytes} (sysctl kernel.msgmnb).`
    case 'EMSGSIZE':
      return 'The queue never holds so much (maxBytes): send less, or let its owner raise that with set({ maxBytes }).'
    case 'E2BIG':
      return 'The message stays in the queue: pass a longer buffer, or truncate.'
    case 'ENOSYS':
      return syscall === 'msgrcv'
        ? 'Looking without taking needs a kernel with CONFIG_CHECKPOINT_RESTORE.'
        : 'The kernel is built without CONFIG_SYSVIPC, or a sandbox forbids the call.'
    default:
      return undefined
  }
}

/** What a family of calls is made of, as far as this kernel and its sandboxes let this process make it. */
export interface Support {
  /** The calls that fail as they do nowhere else, and with what; negative errnos. */
  missing: { syscall: string; errno: number }[]
  /** The kernel has them, for its settings are there; undefined if that cannot be known. */
  inKernel: boolean | undefined
}

const { EACCES, EBADF, EIDRM, EINVAL, ENOENT } = constants.errno
const NO_BYTES = new Uint8Array(1)
/** An identifier that no queue has. */
const NOBODY = 2 ** 31 - 1

// Each call on what cannot exist, so that nothing comes of it; and how a kernel that has the call then fails.
const calls: Record<'posix' | 'sysv' | 'peek', [syscall: string, call: () => unknown, ...errnos: number[]][]> = {
  posix: [
    ['mq_open', () => native.open('', 0, 0), ENOENT],
    ['mq_unlink', () => native.unlink(''), ENOENT],
    ['mq_timedsend', () => native.timedSend(-1, NO_BYTES, 0, undefined), EBADF],
    ['mq_timedreceive', () => native.timedReceive(-1, NO_BYTES, undefined), EBADF],
    ['mq_getsetattr', () => native.getSetAttributes(-1), EBADF],
    ['mq_notify', () => native.notify(-1), EBADF],
  ],
  sysv: [
    ['msgget', () => native.msgGet(NOBODY, 0), ENOENT, EACCES],
    ['msgsnd', () => native.msgSend(NOBODY, 1, NO_BYTES, IPC_NOWAIT), EINVAL, EIDRM],
    ['msgrcv', () => native.msgReceive(NOBODY, 0, NO_BYTES, IPC_NOWAIT), EINVAL, EIDRM],
    ['msgctl', () => native.msgInfo(IPC_INFO)],
  ],
  peek: [['msgrcv', () => native.msgReceive(NOBODY, 0, NO_BYTES, IPC_NOWAIT | MSG_COPY), EINVAL, EIDRM]],
}

export function supportOf(what: keyof typeof calls): Support {
  const missing = calls[what].flatMap(([syscall, call, ...expected]) => {
    const result = call()
    if (typeof result !== 'number' || result >= 0 || expected.includes(-result)) return []
    return [{ syscall, errno: result }]
  })
  const settings = what === 'posix' ? '/proc/sys/fs/mqueue' : '/proc/sys/kernel/msgmni'
  return { missing, inKernel: existsSync('/proc/sys/kernel') ? existsSync(settings) : undefined }
}

/** What the kernel holds of this process's rights. @see proc_pid_status(5) */
export function credentials(): { capabilities: Set<string>; isFiltered: boolean } {
  const status = readFileSync('/proc/self/status', 'utf8')
  const effective = BigInt(`0x${/^CapEff:\s*(\S+)/m.exec(status)?.[1]}`)
  const capabilities = Object.entries(CAPABILITIES).filter(([, bit]) => (effective >> BigInt(bit)) & 1n)
  return {
    capabilities: new Set(capabilities.map(([name]) => name)),
    isFiltered: /^Seccomp:\s*2/m.test(status),
  }
}

/** Those that matter to queues. @see capabilities(7) */
const CAPABILITIES = {
  CAP_DAC_OVERRIDE: 1,
  CAP_FOWNER: 3,
  CAP_IPC_OWNER: 15,
  CAP_SYS_ADMIN: 21,
  CAP_SYS_RESOURCE: 24,
}

// The kernel's first namespaces have these for ever (include/linux/proc_ns.h).
const FIRST = { ipc: 'ipc:[4026531839]', user: 'user:[4026531837]' }

/** The namespace of a process, and whether it is the one that the system started with. */
export function namespaceOf(
  kind: 'ipc' | 'user' | 'mnt',
  pid: number | 'self' = 'self',
): { id: string; isFirst: boolean } {
  const id = readlinkSync(`/proc/${pid}/ns/${kind}`)
  return { id, isFirst: Object.values(FIRST).includes(id) }
}

/** What this process is contained in, by the signs that it has; undefined if there are none. */
export function container(): string | undefined {
  if (process.env.KUBERNETES_SERVICE_HOST !== undefined) return 'kubernetes'
  // What systemd and podman say, and LXC has its first process say.
  const said = process.env.container || contentOf('/run/systemd/container')?.trim()
  if (said) return said
  if (existsSync('/run/.containerenv')) return 'podman'
  if (existsSync('/.dockerenv')) return 'docker'
  const groups = `${contentOf('/proc/self/cgroup')}${contentOf('/proc/1/cgroup')}`
  const [sign] = /kubepods|docker|libpod|lxc/.exec(groups) ?? []
  return sign === undefined ? undefined : ({ kubepods: 'kubernetes', libpod: 'podman' }[sign] ?? sign)
}

function contentOf(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return undefined
  }
}
