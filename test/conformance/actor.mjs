// One actor of a conformance case: a request a line on standard input, its reply
// a line on standard output. ACTOR_MODE says whether sending and receiving go
// through the blocking (sync) or the asynchronous (async) methods of the classes.
import {
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  readSync,
  statSync,
  unlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { constants } from 'node:os'
import { createInterface } from 'node:readline'
import { PosixQueue, QueueError, SysvQueue } from 'kernelmq'
import * as sys from 'kernelmq/syscalls'
import { loadHarness } from '../fixtures/harness/harness.mjs'

const asynchronous = process.env.ACTOR_MODE === 'async'
const mqueue = process.env.ACTOR_MQUEUE ?? '/dev/mqueue'

const NOTIFY_SIGNAL = constants.signals.SIGUSR2
// RLIMIT_* of asm-generic/resource.h
const limits = { nofile: 7, msgqueue: 12 }
const openFlags = {
  RDONLY: sys.O_RDONLY,
  WRONLY: sys.O_WRONLY,
  RDWR: sys.O_RDWR,
  ACC3: 3,
  CREAT: sys.O_CREAT,
  EXCL: sys.O_EXCL,
  NONBLOCK: sys.O_NONBLOCK,
}
const pollEvents = {
  in: sys.POLLIN,
  out: sys.POLLOUT,
  err: sys.POLLERR,
  hup: sys.POLLHUP,
  nval: sys.POLLNVAL,
}

const errnoNames = new Map()
for (const [name, errno] of Object.entries(constants.errno)) {
  // The first of two names for one number is the usual one: EAGAIN, EWOULDBLOCK.
  if (!errnoNames.has(errno)) errnoNames.set(errno, name)
}

/** The operation failed in the way that its reply tells. */
class Failure extends Error {
  constructor(errno) {
    super(errno)
    this.reply = { errno }
  }
}

/** The result of a system call, unless it is an errno. */
function check(result) {
  if (typeof result === 'number' && result < 0) throw new Failure(errnoNames.get(-result))
  return result
}

let loaded
function harness() {
  loaded ??= loadHarness()
  return loaded
}

/** What requests call by name: descriptors. */
const named = new Map()
/** Descriptors to the PosixQueue made of them. Each has a descriptor of its own, which lives as long. */
const queues = new Map()
/** Whether signals let waiting go on, as with a handler of SA_RESTART. */
let restart = false

function descriptor({ q = 'q' }) {
  const fd = typeof q === 'number' ? q : named.get(q)
  if (fd === undefined) throw new Error(`nothing is called ${q}`)
  return fd
}

function queueOf(fd) {
  let queue = queues.get(fd)
  if (queue === undefined) {
    queue = PosixQueue.fromFd(fd)
    queues.set(fd, queue)
  }
  return queue
}

/** The descriptor's queue; how it waits is up to the descriptor's O_NONBLOCK. */
function target(request) {
  const fd = descriptor(request)
  const { flags } = check(sys.mqGetattr(fd))
  return { queue: queueOf(fd), nonblocking: (flags & sys.O_NONBLOCK) !== 0 }
}

/**
 * The classes take how long to wait, cases also a point of CLOCK_REALTIME. A
 * malformed one becomes NaN, which is as malformed to the classes.
 */
function timeoutOf({ timeoutMs, deadline }) {
  if (timeoutMs !== undefined) return timeoutMs
  if (deadline === undefined) return undefined
  const { relSec, nsec = 0 } = deadline
  const sec = relSec === undefined ? (deadline.sec ?? 0) : Math.floor(Date.now() / 1000) + relSec
  if (sec < 0 || nsec < 0 || nsec >= 1e9) return Number.NaN
  return Math.max(sec * 1000 + nsec / 1e6 - Date.now(), 0)
}

function payload({ data, b64, pattern, size = 1 }) {
  if (data !== undefined) return Buffer.from(data)
  if (b64 !== undefined) return Buffer.from(b64, 'base64')
  if (pattern === 'allbytes') return Buffer.from(Array.from({ length: 256 }, (_, byte) => byte))
  return Buffer.alloc(size, 'x')
}

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

function textOf(bytes) {
  try {
    return utf8.decode(bytes)
  } catch {
    return null
  }
}

function describe(bytes) {
  return {
    len: bytes.length,
    data: bytes.length < 300 ? textOf(bytes) : null,
    b64: bytes.length <= 300 ? bytes.toString('base64') : null,
  }
}

async function send(request) {
  const { queue, nonblocking } = target(request)
  const bytes = payload(request)
  const priority = request.prio ?? 0
  const timeout = timeoutOf(request)
  for (let count = request.count ?? 1; count > 0; count--) {
    if (nonblocking && !Number.isNaN(timeout)) {
      if (!queue.trySend(bytes, { priority })) throw new Failure('EAGAIN')
    } else if (asynchronous) {
      await queue.send(bytes, { priority, timeout })
    } else {
      queue.sendSync(bytes, { priority, timeout, restart })
    }
  }
  return {}
}

async function receive(request) {
  const { queue, nonblocking } = target(request)
  const timeout = timeoutOf(request)
  const waits = !nonblocking || Number.isNaN(timeout)
  if (request.bufsize !== undefined) return receiveInto(queue, Buffer.alloc(request.bufsize), waits, timeout)
  let message
  if (!waits) message = queue.tryReceive()
  else if (asynchronous) message = await queue.receive({ timeout })
  else message = queue.receiveSync({ timeout, restart })
  if (message === undefined) throw new Failure('EAGAIN')
  return { prio: message.priority, ...describe(message.data) }
}

async function receiveInto(queue, buffer, waits, timeout) {
  let length = waits && !asynchronous ? queue.receiveIntoSync(buffer, { timeout, restart }) : -1
  const end = timeout === undefined ? Number.POSITIVE_INFINITY : performance.now() + timeout
  while (length === -1) {
    length = queue.tryReceiveInto(buffer)
    if (length !== -1) break
    if (!waits) throw new Failure('EAGAIN')
    await queue.waitReadable({ timeout: Math.max(end - performance.now(), 0) })
  }
  return { prio: queue.lastPriority, ...describe(buffer.subarray(0, length)) }
}

const ipcFlags = { CREAT: sys.IPC_CREAT, EXCL: sys.IPC_EXCL }
const messageFlags = {
  NOWAIT: sys.IPC_NOWAIT,
  NOERROR: sys.MSG_NOERROR,
  EXCEPT: sys.MSG_EXCEPT,
  COPY: sys.MSG_COPY,
}
const allFlags = (flags, table) => (flags ?? []).reduce((all, flag) => all | table[flag], 0)

/** Types beyond 2^53 come as decimal strings. */
const typeOf = (type) => (typeof type === 'string' ? BigInt(type) : type)

const identifier = ({ q = 'q' }) => (typeof q === 'number' ? q : named.get(q))

/** A queue of the class; undefined for an identifier that has none, which only a system call takes. */
function sysvQueueOf(id) {
  try {
    return SysvQueue.fromId(id)
  } catch {
    return undefined
  }
}

// Calls that do not wait, or are malformed, are system calls. SA_RESTART makes
// no difference to those that wait, see signal(7).
async function snd(request) {
  const id = identifier(request)
  const bytes = payload(request)
  if ((request.rawsize ?? 0) < 0) throw new Failure('EINVAL') // no Buffer has that length
  const flags = allFlags(request.flags, messageFlags)
  const type = typeOf(request.type ?? 1)
  const queue = flags === 0 ? sysvQueueOf(id) : undefined
  for (let count = request.count ?? 1; count > 0; count--) {
    if (queue === undefined) check(sys.msgsnd(id, type, bytes, flags))
    else if (asynchronous) await queue.send(bytes, { type })
    else queue.sendSync(bytes, { type })
  }
  return {}
}

async function rcv(request) {
  const { size = 8192 } = request
  if (size < 0) throw new Failure('EINVAL')
  const id = identifier(request)
  const type = typeOf(request.type ?? 0)
  const flags = allFlags(request.flags, messageFlags)
  const queue = flags & (sys.IPC_NOWAIT | sys.MSG_COPY) ? undefined : sysvQueueOf(id)
  if (queue === undefined) {
    const buffer = Buffer.alloc(size)
    const typeOut = new BigInt64Array(1)
    const length = check(sys.msgrcv(id, buffer, type, flags, typeOut))
    return { type: String(typeOut[0]), ...describe(buffer.subarray(0, length)) }
  }
  const except = (flags & sys.MSG_EXCEPT) !== 0
  const truncate = (flags & sys.MSG_NOERROR) !== 0
  const options = { type, except, truncate, size }
  const message = asynchronous ? await queue.receive(options) : queue.receiveSync(options)
  return { type: String(message.type), ...describe(message.data) }
}

/** Repeats until the operation fails; what it brought, and how it ended. */
async function untilFailure(operation, request) {
  const replies = []
  for (;;) {
    try {
      replies.push(await operation(request))
    } catch (error) {
      return { replies, stop: failureOf(error).errno }
    }
  }
}

function attributes({ flags, ...sizes }) {
  return { nonblock: (flags & sys.O_NONBLOCK) !== 0, ...sizes }
}

const queueFile = ({ name }) => mqueue + name
const octal = (mode) => mode.toString(8).padStart(4, '0')
const openDescriptors = () => readdirSync('/proc/self/fd').map(Number)

function isOpen(fd) {
  try {
    // The descriptor that lists /proc/self/fd is among those listed.
    return !readlinkSync(`/proc/self/fd/${fd}`).startsWith('/proc')
  } catch {
    return false
  }
}

/** Leaves no descriptor free. */
function exhaustDescriptors() {
  // The queues open theirs before, as they do when they are opened by name.
  for (const fd of named.values()) if (typeof sys.mqGetattr(fd) !== 'number') queueOf(fd)
  check(harness().setLimit(limits.nofile, Math.max(...openDescriptors()) + 1))
  try {
    for (;;) openSync('/dev/null')
  } catch (error) {
    if (error.code !== 'EMFILE') throw error
  }
}

// What a request may ask for. An operation returns the fields of its reply or
// throws; one that is not here answers ENOSYS.
const operations = {
  open(request) {
    const flags = request.flags.reduce((all, flag) => all | openFlags[flag], 0)
    const fd = check(sys.mqOpen(request.name, flags, Number.parseInt(request.mode ?? '0600', 8), request.attr))
    named.set(request.as ?? 'q', fd)
    return { fd }
  },
  close(request) {
    const fd = descriptor(request)
    check(sys.mqClose(fd))
    queues.get(fd)?.close()
    queues.delete(fd)
  },
  unlink({ name }) {
    check(sys.mqUnlink(name))
  },
  send,
  receive,
  async fill(request) {
    const { replies, stop } = await untilFailure(send, request)
    return { count: replies.length, stop }
  },
  async drain(request) {
    const { replies, stop } = await untilFailure(receive, request)
    return { count: replies.length, items: replies.map(({ data, prio }) => [data, prio]), stop }
  },
  getattr: (request) => attributes(check(sys.mqGetattr(descriptor(request)))),
  setattr(request) {
    const flags = (request.nonblock ? sys.O_NONBLOCK : 0) | (request.rawflags ?? 0)
    return attributes(check(sys.mqSetattr(descriptor(request), { flags })))
  },
  notify(request) {
    const { how = 'event', value = 42 } = request
    const fd = descriptor(request)
    if (how === 'cancel') {
      check(sys.mqNotify(fd))
      return
    }
    check(harness().catchSignal(NOTIFY_SIGNAL))
    const notify = { event: sys.SIGEV_SIGNAL, badsig: sys.SIGEV_SIGNAL, none: sys.SIGEV_NONE, badkind: 99 }[how]
    check(sys.mqNotify(fd, { notify, signo: how === 'badsig' ? 99 : NOTIFY_SIGNAL, value }))
  },
  notified({ ms = 150 }) {
    const pid = harness().awaitSignal(ms)
    return { fired: pid >= 0, pid: pid >= 0 ? pid : null }
  },
  poll(request) {
    const { events = ['in', 'out'], ms = 0 } = request
    const wanted = events.reduce((all, event) => all | pollEvents[event], 0)
    const ready = check(sys.poll(descriptor(request), wanted, ms))
    return { ready: Object.keys(pollEvents).filter((event) => ready & pollEvents[event]) }
  },
  statfile(request) {
    const { mode, uid, gid } = statSync(queueFile(request))
    return { mode: octal(mode & 0o7777), uid, gid }
  },
  status(request) {
    const text = readFileSync(queueFile(request), 'utf8')
    const field = (name) => Number(new RegExp(`\\b${name}:(\\d+)`).exec(text)[1])
    return {
      qsize: field('QSIZE'),
      notify: field('NOTIFY'),
      signo: field('SIGNO'),
      notifyPid: field('NOTIFY_PID'),
    }
  },
  readfd(request) {
    const buffer = Buffer.alloc(79)
    const text = buffer.toString('utf8', 0, readSync(descriptor(request), buffer))
    return { text: text.slice(0, 12).trim(), len: text.length }
  },
  ls: () => ({ names: readdirSync(mqueue).sort() }),
  fsopen(request) {
    const flags = openFlags[request.acc ?? 'RDONLY']
    named.set(request.as ?? 'f', openSync(request.path ?? queueFile(request), flags))
  },
  fsunlink(request) {
    unlinkSync(queueFile(request))
  },
  cloexec(request) {
    const flags = /^flags:\s*(\d+)/m.exec(readFileSync(`/proc/self/fdinfo/${descriptor(request)}`, 'utf8'))[1]
    return { cloexec: (Number.parseInt(flags, 8) & 0o2000000) !== 0 }
  },
  fdcount: () => ({ count: openDescriptors().filter(isOpen).length }),
  umask({ mask }) {
    process.umask(mask)
  },
  rlimit({ res, cur }) {
    if (res === 'nofile' && cur === 'tight') exhaustDescriptors()
    else check(harness().setLimit(limits[res], cur))
  },
  handler(request) {
    restart = request.restart ?? false
    process.on(request.sig, () => {})
  },
  whoami: () => ({ pid: process.pid, uid: process.geteuid(), gid: process.getegid() }),
  unshareIpc() {
    check(harness().unshareIpc())
  },
  sysctl({ path, value }) {
    writeFileSync(`/proc/sys/${path}`, String(value))
  },
  readsysctl: ({ path }) => ({ value: Number(readFileSync(`/proc/sys/${path}`, 'utf8')) }),
  get(request) {
    const { key = 'private', mode = '0600' } = request
    const flags = allFlags(request.flags, ipcFlags) | Number.parseInt(mode, 8)
    const id = check(sys.msgget(key === 'private' ? sys.IPC_PRIVATE : key, flags))
    named.set(request.as ?? 'q', id)
    return { id }
  },
  snd,
  rcv,
  async sfill(request) {
    const { replies, stop } = await untilFailure(snd, { ...request, type: 1, flags: ['NOWAIT'] })
    return { count: replies.length, stop }
  },
  async sdrain(request) {
    const flags = [...(request.flags ?? []), 'NOWAIT']
    const { replies, stop } = await untilFailure(rcv, { ...request, flags })
    return { count: replies.length, items: replies.map(({ data, type }) => [data, type]), stop }
  },
  stat: (request) => sysvStat(check(sys.msgctl(identifier(request), sys.IPC_STAT))),
  set(request) {
    const id = identifier(request)
    const present = sys.msgctl(id, sys.IPC_STAT)
    const { mode, uid = 0, gid = 0, qbytes = 0 } = typeof present === 'number' ? {} : present
    const settings = {
      uid: request.uid ?? uid,
      gid: request.gid ?? gid,
      mode: request.mode === undefined ? (mode ?? 0) : Number.parseInt(request.mode, 8),
      qbytes: request.qbytes ?? qbytes,
    }
    if (present !== -constants.errno.EACCES) check(typeof present === 'number' ? present : 0)
    check(sys.msgctl(id, sys.IPC_SET, settings))
  },
  rmid(request) {
    check(sys.msgctl(identifier(request), sys.IPC_RMID))
  },
  badctl(request) {
    check(sys.msgctl(identifier(request), 1234))
  },
  info: ({ used }) => check(sys.msgctl(0, used ? sys.MSG_INFO : sys.IPC_INFO)),
  statidx: ({ index }) => ({ id: check(sys.msgctl(index, sys.MSG_STAT)).id }),
  ftok: ({ path, proj }) => ({ key: check(sys.ftok(path, proj)) }),
  procsysv() {
    const rows = readFileSync('/proc/sysvipc/msg', 'utf8').trim().split('\n').slice(1)
    return { ids: rows.map((row) => Number(row.trim().split(/\s+/)[1])), n: rows.length }
  },
  // The loops of the crash tests end by SIGKILL: what they did is in the log.
  async loopsend(request) {
    const put = request.sysv ? snd : send
    const log = openSync(request.log, 'a', 0o666)
    for (let count = 0; ; count++) {
      const number = String(count).padStart(8, '0')
      await put({ ...request, type: 1, data: number.repeat(4) })
      writeSync(log, `${number}\n`)
    }
  },
  async looprecv(request) {
    const take = request.sysv ? rcv : receive
    const log = openSync(request.log, 'a', 0o666)
    for (;;) writeSync(log, `${(await take(request)).data.slice(0, 8)}\n`)
  },
}

function sysvStat({ mode, ...queue }) {
  return { ...queue, mode: octal(mode & 0o777) }
}

function failureOf(error) {
  if (error instanceof Failure) return error.reply
  // What the kernel calls EBADF is to a class its own closed descriptor.
  if (error.code === 'ERR_MQ_CLOSED') return { errno: 'EBADF' }
  if (error instanceof QueueError) return { errno: error.code }
  // The classes refuse bad arguments before the kernel can.
  if (/^ERR_(INVALID_ARG_TYPE|INVALID_ARG_VALUE|OUT_OF_RANGE)$/.test(error.code)) return { errno: 'EINVAL' }
  if (error.code in constants.errno) return { errno: error.code }
  return { exc: String(error?.stack ?? error) }
}

async function answer(request) {
  if (!Object.hasOwn(operations, request.op)) return { errno: 'ENOSYS' }
  try {
    return { ok: true, ...(await operations[request.op](request)) }
  } catch (error) {
    return failureOf(error)
  }
}

const requests = createInterface({ input: process.stdin, crlfDelay: Number.POSITIVE_INFINITY })
for await (const line of requests) {
  const request = JSON.parse(line)
  const start = performance.now()
  const reply = await answer(request)
  const ms = Math.round((performance.now() - start) * 10) / 10
  process.stdout.write(`${JSON.stringify({ ...reply, ms })}\n`)
}
