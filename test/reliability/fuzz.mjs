#!/usr/bin/env node
// Calls everything that is exported with hostile arguments, millions of times if wanted, in a child that may crash.
import { spawn } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { inspect, parseArgs } from 'node:util'
import * as kernelmq from 'kernelmq'
import * as syscalls from 'kernelmq/syscalls'
import { argumentsFor, generator, Hostile, spoil, tamper } from './hostile.mjs'

const help = `npm run fuzz -- [--runs <calls>] [--seed <number>] [--trace]

Calls every exported function, method, accessor and constructor with hostile arguments. Only JavaScript errors and
results may come of it. It runs in IPC and mount namespaces of its own, and needs to be allowed to make them.

  --runs   how many calls (default 100000); e.g. 10m
  --seed   of the first round; a failure tells its own. With --runs 1: only that round
  --trace  print each call before it is made`

const { values } = parseArgs({
  options: {
    runs: { type: 'string', default: '100k' },
    seed: { type: 'string', default: String(Date.now() % 2 ** 31) },
    trace: { type: 'boolean', default: false },
    inside: { type: 'string' }, // the namespace of the parent
    help: { type: 'boolean', short: 'h', default: false },
  },
})

const CALLS = 200
const PATIENCE = 60_000

const count = (text) => Number.parseFloat(text) * ({ k: 1e3, m: 1e6 }[text.at(-1).toLowerCase()] ?? 1)
const runs = count(values.runs)
const firstSeed = Number(values.seed)

const ipc = () => readlinkSync('/proc/self/ns/ipc')

// ---- the parent ----

/** In namespaces of its own: hostile identifiers reach no queue of others, and what is left behind goes with it. */
function namespace(directory) {
  const settings = 'msg_default=4 msgsize_default=128 msg_max=10 msgsize_max=1024'
  const script =
    `mount -t mqueue none "$0" || exit 125; for s in ${settings}; do echo "\${s#*=}" > "/proc/sys/fs/mqueue/\${s%=*}"; done; ` +
    'echo 500 > /proc/sys/kernel/msgmni; exec "$@"'
  const user = process.getuid() === 0 ? [] : ['--map-root-user']
  return ['unshare', ...user, '--ipc', '--mount', 'sh', '-c', script, directory]
}

/** What each thread of a process is in: its name, state, time of CPU, and system call. */
function whereabouts(pid) {
  const tasks = `/proc/${pid}/task`
  const read = (id, file) => readFileSync(`${tasks}/${id}/${file}`, 'utf8').trim()
  return readdirSync(tasks)
    .map((id) => `thread ${read(id, 'stat').split(' ').slice(1, 15).join(' ')}, in ${read(id, 'syscall')}`)
    .join('\n')
}

function runInside(args) {
  const directory = mkdtempSync(join(tmpdir(), 'kernelmq-fuzz-'))
  const [command, ...before] = namespace(directory)
  const node = [
    process.execPath,
    '--expose-gc',
    '--no-warnings',
    fileURLToPath(import.meta.url),
    '--inside',
    ipc(),
    ...args,
  ]
  const child = spawn(command, [...before, ...node], { stdio: ['ignore', 'pipe', 'inherit'] })
  // Told to end, it says how far it came.
  for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => child.kill('SIGKILL'))
  return new Promise((resolve) => {
    let output = ''
    let hung = false
    const watchdog = setTimeout(() => {
      hung = true
      output += `\n${whereabouts(child.pid)}\n`
      child.kill('SIGKILL')
    }, PATIENCE)
    child.stdout.setEncoding('utf8').on('data', (text) => {
      output = (output + text).slice(-1_000_000)
      watchdog.refresh()
    })
    child.on('close', (code, signal) => {
      clearTimeout(watchdog)
      rmSync(directory, { recursive: true })
      resolve({ code, signal, hung, output })
    })
  })
}

async function main() {
  const began = performance.now()
  const { code, signal, hung, output } = await runInside([...process.argv.slice(2), '--seed', String(firstSeed)])
  const lines = output.trimEnd().split('\n')
  if (code === 0) {
    console.log(`${lines.at(-1)} in ${((performance.now() - began) / 1000).toFixed(1)} s`)
    return
  }
  process.exitCode = code === 125 ? 125 : 1
  if (code === 125) {
    console.error('This needs IPC and mount namespaces of its own, and may not make them here.')
    return
  }
  const last = lines.findLast((line) => line.startsWith('seed ')) ?? `seed ${firstSeed}`
  console.error(lines.filter((line) => !line.startsWith('seed ')).join('\n'))
  console.error(`failed: ${hung ? 'it hangs' : (signal ?? `exit code ${code}`)}, ${last}`)
  console.error(`to play it again: npm run fuzz -- --runs 1 --trace --${last}`)
}

// ---- the child: what there is to call ----

const foreign = new Set([Object.prototype, Function.prototype, Error.prototype, Error, null])

/** Protected, and keeps what it is given to call it later: what that throws has no call to be the error of. */
const kept = new Set(['waitToSend', 'waitToReceive'])

/** Whatever can be called on an object by a name of its own or of its prototypes. */
function* membersOf(owner, label) {
  for (let level = owner; !foreign.has(level); level = Object.getPrototypeOf(level)) {
    for (const key of Reflect.ownKeys(level)) {
      if (key === 'constructor' || key === 'prototype' || kept.has(key)) continue
      const { value, get, set } = Object.getOwnPropertyDescriptor(level, key)
      const name = `${label}.${String(key)}`
      if (typeof value === 'function') yield { name, key, invoke: value }
      if (get !== undefined) yield { name: `get ${name}`, key, invoke: get }
      if (set !== undefined) yield { name: `set ${name}`, key, invoke: set }
    }
  }
}

const isClass = (value) => typeof value === 'function' && /^class\b/.test(Function.prototype.toString.call(value))

function* callables() {
  for (const exports of [kernelmq, syscalls]) {
    for (const [key, value] of Object.entries(exports)) {
      if (typeof value !== 'function') continue
      yield { name: isClass(value) ? `new ${key}` : key, key, invoke: value, isClass: isClass(value) }
      if (!isClass(value)) continue
      for (const member of membersOf(value, key)) yield { ...member, self: () => value }
      for (const member of membersOf(value.prototype, `${key}.prototype`)) yield { ...member, of: value }
    }
  }
  const iterator = Object.getPrototypeOf(kernelmq.PosixQueue.prototype.messages.call({}))
  for (const member of membersOf(iterator, 'iterator')) yield { ...member, of: iterator.constructor }
}

const all = [...callables()]

/** Protected, but for TypeScript only: garbage that comes this way may leave a queue of no use, and no more than that. */
const internal = /\.prototype\.(put|putBlocking|sendError|admitSend|admitReceive|spend|waitToSend|waitToReceive)$/
const open = all.filter(({ name }) => !internal.test(name))

// ---- the child: what to call it with ----

const { O_CREAT, O_NONBLOCK, O_RDONLY, O_RDWR, IPC_NOWAIT, IPC_RMID } = syscalls
const names = ['/fuzz-0', '/fuzz-1', '/fuzz-2', '/fuzz-é']
const odd = [
  '/',
  '/.',
  '/..',
  '/a/b',
  '//',
  'fuzz-0',
  '',
  '/a\0b',
  '/fuzz-0\0',
  '/\ud800',
  `/${'x'.repeat(256)}`,
  `/${'é'.repeat(1e5)}`,
]

/** They read files; a tenth of their share will do. */
const costly = new Set(['list', 'watch', 'waitFor'])

/** Queues of both families, in states that differ, and what can be done to them while arguments are read. */
function openWorld(random) {
  const { chance, pick } = random
  const { PosixQueue, SysvQueue } = kernelmq
  const size = { create: true, maxMessages: 4, messageSize: 64 }
  const posix = PosixQueue.open(names[0], size)
  const reader = PosixQueue.open(names[0], { access: 'read' })
  const other = PosixQueue.open(names[1], size)
  const raw = syscalls.mqOpen(names[1], O_RDWR | O_NONBLOCK)
  const sysv = SysvQueue.open('private', { maxBytes: 256 })
  const sysvAgain = SysvQueue.fromId(sysv.id)
  const queues = [posix, reader, other, sysv, sysvAgain]
  for (let left = random.below(4); left > 0; left--) {
    for (const queue of [posix, other, sysv]) queue.trySend('something')
  }
  const message = new kernelmq.PosixMessage(Buffer.from('{}'), 1)
  const buffers = []
  const disposables = []
  const acts = [
    () => pick([reader, sysvAgain, other]).close(),
    () => pick(queues).tryReceive(),
    () => pick(queues).trySend('meanwhile'),
    () => spoil(pick(buffers)),
    () => spoil(pick(buffers)),
    () => globalThis.gc(),
    () => sysv.remove(),
    () => {
      throw new Hostile('thrown while arguments are read')
    },
  ]
  /** What it throws, such as that a queue is closed, is not the error of who called it. */
  const act = () => {
    try {
      pick(acts.slice(chance(0.1) ? 0 : 1, chance(0.05) ? acts.length : 5))()
    } catch {}
  }
  const data = () => pick(['', 'text', Buffer.alloc(8), new Uint8Array(64), new ArrayBuffer(8), Buffer.alloc(65)])
  const options = {
    data,
    priority: () => pick([0, 1, 32767]),
    type: () => pick([0, 1, 2, -2, 3n, 2n ** 60n]),
    timeout: () => pick([0, 0.5, 1]),
    signal: () => pick([AbortSignal.abort(), new AbortController().signal, undefined]),
    max: () => pick([1, 3, 256]),
    size: () => pick([0, 8, 64]),
    access: () => pick(['read', 'write', 'readwrite']),
    mode: () => 0o600,
    maxMessages: () => 4,
    messageSize: () => 64,
    maxBytes: () => 256,
    spin: () => pick([0, 10]),
    sec: () => pick([0, 1]),
    nsec: () => 0,
    notify: () => pick([0, 1]),
    signo: () => 10,
    maxmsg: () => 4,
    msgsize: () => 64,
    qbytes: () => 256,
    highWaterMark: () => 3,
  }
  const things = [
    ...queues,
    message,
    ...names,
    ...odd,
    raw,
    posix.fd,
    other.fd,
    sysv.id,
    O_CREAT | O_RDWR,
    O_RDONLY,
    IPC_NOWAIT,
  ]
  things.push(posix.messages(), sysv.browse(), 'private', '0x2a', 0x1234, '/etc/passwd')
  const plausible = (key) => (Object.hasOwn(options, key) ? options[key]() : undefined)
  return { random, queues, posix, sysv, raw, message, buffers, disposables, things, plausible, data, act, pending: [] }
}

/** Nothing may wait for ever on this thread; the rest of the options is what it was. */
function neverWaits(options, { pick }) {
  const timeout = pick([0, 0, 0, -0, 0.5, -1, Number.NaN, '', 1n, null, Symbol('timeout')])
  const given = (typeof options === 'object' && options !== null) || typeof options === 'function' ? options : {}
  return Object.create(given, { timeout: { value: timeout } })
}

const noWait = (flags) => (Number.isInteger(flags) ? flags | IPC_NOWAIT : (flags ?? IPC_NOWAIT))
/** No time to come; an object may turn into any. */
const past = (time) => (Object(time) === time || time > 1 ? 0 : time)

/** The calls that would wait, and how they do not. */
const tamed = {
  sendSync: (args, random) => (args[1] = neverWaits(args[1], random)),
  receiveSync: (args, random) => (args[0] = neverWaits(args[0], random)),
  receiveIntoSync: (args, random) => (args[1] = neverWaits(args[1], random)),
  waitFor: (args, random) => (args[1] = neverWaits(args[1], random)),
  putBlocking: (args, random) => {
    args[2] = typeof args[2] === 'symbol' ? args[2] : past(args[2])
    args[3] = neverWaits(args[3], random)
  },
  poll: (args) => (args[2] = typeof args[2] === 'number' ? Math.min(Math.max(args[2], 0), 1) : (args[2] ?? 0)),
  msgsnd: (args) => (args[3] = noWait(args[3])),
  msgrcv: (args) => (args[3] = noWait(args[3])),
}

/** What a call leaves behind that nobody else takes back. */
const undone = {
  mqOpen: (fd) => syscalls.mqClose(fd),
  msgget: (id, _, world) => id !== world.sysv.id && syscalls.msgctl(id, IPC_RMID),
  // Or the next message kills this process with a signal.
  mqNotify: (_, [fd]) => syscalls.mqNotify(fd),
  mqSetattr: (_, [fd]) => syscalls.mqSetattr(fd, { flags: O_NONBLOCK }),
}

function receiverFor(callable, world) {
  const { chance, pick } = world.random
  if (callable.self !== undefined && chance(0.9)) return callable.self()
  if (callable.of !== undefined && chance(0.9)) {
    const fitting = world.things.filter((thing) => thing instanceof callable.of)
    if (fitting.length > 0) return pick(fitting)
  }
  return world.any()
}

// ---- the child: the calls ----

const expected = [TypeError, RangeError, SyntaxError, Hostile, kernelmq.QueueError, kernelmq.AbortError]
let failures = 0
let broken = false

function fail(what, context) {
  failures++
  process.exitCode = 1
  writeSync(1, `${what}: ${context}\n`)
}

function judge(error, context) {
  if (expected.some((type) => error instanceof type) || error?.name === 'AbortError') return
  fail(`unexpected ${inspect(error)}`, context)
}

/** Follows a result to where its faults may be, and sees to it that it is taken back. */
function absorb(result, context, world) {
  if (result === null || typeof result !== 'object' || world.things.includes(result)) return
  if (result instanceof Promise || result.promise instanceof Promise) {
    const promise = result.promise ?? result
    const entry = { context, settled: false }
    world.pending.push(entry)
    entry.promise = promise
      .then(
        (value) => absorb(value, context, world),
        (error) => judge(error, context),
      )
      .then(() => {
        entry.settled = true
      })
  } else if (result instanceof kernelmq.SysvQueue || result instanceof kernelmq.PosixQueue) {
    world.disposables.push(() => {
      result.close()
      if (result instanceof kernelmq.SysvQueue && result.id !== world.sysv.id) result.remove()
    })
  } else if (typeof result.destroy === 'function') {
    result.on('error', (error) => judge(error, context))
    if (typeof result.write === 'function') result.write(world.any() ?? 'text')
    else result.read(0)
    world.disposables.push(() => result.destroy())
  } else if (typeof result.next === 'function') {
    world.disposables.push(() => result.return?.())
    absorb(result.next(), context, world)
  }
}

function shown(value) {
  try {
    return inspect(value, { depth: 1, customInspect: false, breakLength: Number.POSITIVE_INFINITY }).slice(0, 100)
  } catch (error) {
    return `(cannot be shown: ${error.message})`
  }
}

function callOne(world) {
  const { random } = world
  let callable = random.pick(world.broken ? all : open)
  if (costly.has(callable.key) && random.chance(0.9)) callable = random.pick(open)
  const self = receiverFor(callable, world)
  const args = Array.from({ length: random.below(5) }, () => (random.chance(0.3) ? world.bag() : world.any()))
  if (args.length > 0 && random.chance(0.2)) args[0] = world.data()
  tamed[callable.key]?.(args, random)
  const context = callable.name
  if (values.trace) writeSync(1, `${context}(${args.map(shown).join(', ')}) on ${shown(self)}\n`)
  const mend = world.broken && random.chance(0.2) ? tamper(random) : undefined
  let result
  let thrown
  let threw = false
  try {
    result =
      callable.isClass && random.chance(0.9)
        ? Reflect.construct(callable.invoke, args)
        : Reflect.apply(callable.invoke, self, args)
  } catch (error) {
    thrown = error
    threw = true
  }
  mend?.()
  if (threw) {
    // A foreign `this` brings its own members, and what an internal call throws is of their making.
    const isForeign = internal.test(context) && !world.things.includes(self)
    return isForeign ? undefined : judge(thrown, context)
  }
  if (typeof result === 'number') {
    if (result >= 0 && undone[callable.key] !== undefined) undone[callable.key](result, args, world)
  } else if (callable.key === 'mqSetattr') undone.mqSetattr(result, args)
  try {
    absorb(result, context, world)
  } catch (error) {
    judge(error, `result of ${context}`)
  }
}

async function playRound(seed) {
  const random = generator(seed)
  const world = openWorld(random)
  Object.assign(world, argumentsFor(random, world))
  world.broken = broken = random.chance(0.1)
  for (let call = 0; call < CALLS; call++) {
    callOne(world)
    if (random.chance(0.02)) await new Promise((resolve) => setImmediate(resolve))
  }
  for (const dispose of world.disposables) {
    try {
      dispose()
    } catch {}
  }
  const closed = world.queues.map((queue) => queue.close())
  syscalls.mqClose(world.raw)
  syscalls.msgctl(world.sysv.id, IPC_RMID)
  for (const name of names) syscalls.mqUnlink(name)
  await new Promise((resolve) => setImmediate(resolve))
  if (broken) {
    // Who waits may wait for ever; but what a thread still answers is of this round.
    await Promise.race([Promise.allSettled(closed), new Promise((resolve) => setTimeout(resolve, 100))])
    return
  }
  let timer
  const late = new Promise((resolve) => {
    timer = setTimeout(resolve, 20_000)
  })
  await Promise.race([late, Promise.all(world.pending.map(({ promise }) => promise))])
  clearTimeout(timer)
  for (const { settled, context } of world.pending) if (!settled) fail('never settled', context)
}

/** What is open, by number and name. */
function descriptors() {
  return readdirSync('/proc/self/fd').flatMap((fd) => {
    try {
      return [`${fd} ${readlinkSync(`/proc/self/fd/${fd}`)}`]
    } catch {
      return [] // that of the directory
    }
  })
}

async function inside() {
  if (ipc() === values.inside) throw new Error('hostile calls would reach the queues of others')
  let context = ''
  // Faults of this program end it; those of the library are counted.
  // What an argument itself throws while nobody calls, Node.js reports: a stream leaves a signal, for example.
  process.on(
    'uncaughtException',
    (error) => broken || error instanceof Hostile || fail(`uncaught ${inspect(error)}`, context),
  )
  process.on('unhandledRejection', (error) => broken || fail(`unhandled ${inspect(error)}`, context))
  if (!values.trace) Error.stackTraceLimit = 0 // it is most of the time that a call takes
  let made = 0
  let before = []
  let tampered = 0
  for (let seed = firstSeed; made < runs && failures === 0; seed++, made += CALLS) {
    context = `seed ${seed}`
    writeSync(1, `${context}\n`)
    try {
      await playRound(seed)
    } catch (error) {
      fail(`this program: ${inspect(error)}`, context)
    }
    if (made === 0) before = descriptors()
    if (broken) tampered++
  }
  for (let round = 0; round < 5; round++) {
    globalThis.gc()
    await new Promise((resolve) => setImmediate(resolve))
  }
  const left = descriptors().filter((name) => !before.includes(name))
  // One in hundreds of the rounds that tamper with prototypes breaks a close() for good.
  if (left.length > 2 + tampered / 200) fail('descriptors leak', left.join(', '))
  console.log(`${made} calls of ${all.length} functions, seed ${firstSeed}: ${failures} failures`)
  process.exit(failures > 0 ? 1 : 0)
}

if (values.help) console.log(help)
else if (values.inside !== undefined) await inside()
else await main()
