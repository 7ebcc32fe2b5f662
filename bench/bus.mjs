// The bus against BullMQ on a local Redis: the same work on both sides, in turns, each result as a ratio in one run.
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { connect } from 'kernelmq/bus'
import { countOf } from '../test/reliability/families.mjs'
import { installPeers, requirePeer } from './peers.mjs'
import { Program } from './program.mjs'

const help = `npm run bench:bus -- [--quick] [--durability process|disk|none] [--waiting <count>]

Sends and handles messages of 64 bytes through local: and through BullMQ on a Redis that is started for it (Debian:
redis-server; with "disk" it has appendfsync always), in several rounds, taking turns. Medians, and ratios to BullMQ.
"none": the same messages through mq: and sysv:, a Unix socket with framing, and ZeroMQ; each end on a core of its own.
"--waiting": local: alone, with so many messages in the queue (10m are ten million) against an empty one, in turns.`

const BODY = 'x'.repeat(64)
const BULK = 500
const CONCURRENCY = 50

/** What both sides can do; a target is a connection to one queue of one of them. */
const sides = {
  async kernelmq({ url, durability }, name) {
    const bus = await connect(url, { durability })
    const queue = bus.queue(name)
    return {
      send: (body) => queue.send(body),
      sendMany: (bodies) => queue.sendMany(bodies.map((body) => ({ body }))),
      async consume(handler, concurrency) {
        queue.consume(({ body }) => handler(body), { concurrency, prefetch: concurrency > 1 ? 200 : 1 })
      },
      close: () => bus.close(),
    }
  },
  async bullmq({ port }, name) {
    const { Queue, Worker } = requirePeer('bullmq')
    const options = { connection: { host: '127.0.0.1', port, maxRetriesPerRequest: null } }
    const once = { removeOnComplete: true, removeOnFail: true }
    const queue = new Queue(name, options)
    await queue.waitUntilReady()
    const workers = []
    return {
      send: (body) => queue.add('job', { body }, once),
      sendMany: (bodies) => queue.addBulk(bodies.map((body) => ({ name: 'job', data: { body }, opts: once }))),
      async consume(handler, concurrency) {
        const worker = new Worker(name, async ({ data }) => handler(data.body), { ...options, concurrency })
        workers.push(worker)
        await worker.waitUntilReady()
      },
      async close() {
        for (const worker of workers) await worker.close(true)
        await queue.close()
      },
    }
  },
}

const rate = (count, from) => (count * 1000) / (performance.now() - from)

async function sendEach(target, count) {
  const from = performance.now()
  for (let i = 0; i < count; i++) await target.send(BODY)
  return rate(count, from)
}

/** How long from a send to its handler, in ms, of messages that come to an idle consumer. */
async function latencies(target, count) {
  const times = []
  for (let i = 0; i < count; i++) {
    await target.send(String(process.hrtime.bigint()))
    await sleep(3)
  }
  return times
}

const now = () => Number(process.hrtime.bigint())

/** What a process does; it answers by a message. */
const roles = {
  async send(target, { count }) {
    return sendEach(target, count)
  },
  async inFlight(target, { count }) {
    const from = performance.now()
    let left = count
    const chain = async () => {
      while (left-- > 0) await target.send(BODY)
    }
    await Promise.all(Array.from({ length: 50 }, chain))
    return rate(count, from)
  },
  async bulk(target, { count }) {
    const from = performance.now()
    const bodies = Array(BULK).fill(BODY)
    for (let i = 0; i < count; i += BULK) await target.sendMany(bodies)
    return rate(count, from)
  },
  /** Handles so many that are there already. */
  async handle(target, { count }) {
    for (let i = 0; i < count; i += BULK) await target.sendMany(Array(BULK).fill(BODY))
    const from = performance.now()
    let left = count
    await new Promise((resolve) => void target.consume(() => void (--left === 0 && resolve()), CONCURRENCY))
    return rate(count, from)
  },
  /** Tells how long each message took that somebody sends, or it itself. */
  async idle(target, { count, own }) {
    const times = []
    const all = new Promise((resolve) => {
      void target.consume((sent) => {
        times.push((now() - Number(sent)) / 1e6)
        if (times.length === count) resolve()
      }, 1)
    })
    await sleep(300)
    if (own) await latencies(target, count)
    else process.send('ready')
    await all
    times.sort((a, b) => a - b)
    return [times[Math.floor(count / 2)], times[Math.floor(count * 0.99)]]
  },
  latencies: (target, { count }) => latencies(target, count),
  /** What the process has, in bytes, after it has sent and handled so many. */
  async memory(target, { count }) {
    await sendEach(target, count)
    let left = count
    await new Promise((resolve) => void target.consume(() => void (--left === 0 && resolve()), CONCURRENCY))
    return process.memoryUsage.rss()
  },
  /** How many it handles in a while, ten at a time, each by 50 us of work or a wait of 1 ms. */
  async share(target, { works, time }) {
    const work = works
      ? () => {
          for (const end = performance.now() + 0.05; performance.now() < end; );
        }
      : () => sleep(1)
    let handled = 0
    void target.consume(() => {
      handled++
      return work()
    }, 10)
    await sleep(time)
    return handled
  },
}

function start(side, settings, name, role, options) {
  const argument = JSON.stringify({ side, settings, name, role, options })
  const child = spawn(process.execPath, [fileURLToPath(import.meta.url), argument], {
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  })
  const answers = []
  const waiting = []
  child.on('message', (answer) => {
    const next = waiting.shift()
    if (next === undefined) answers.push(answer)
    else next(answer)
  })
  child.once('exit', (code) => {
    if (code !== 0) throw new Error(`${side}, ${role}: it ended with ${code}`)
  })
  return {
    next: () => (answers.length > 0 ? answers.shift() : new Promise((resolve) => waiting.push(resolve))),
    go: () => child.send('go'),
    ended: once(child, 'exit'),
  }
}

/** One measurement: so many processes of a role begin at once; the sum of their rates. */
async function measure(side, settings, name, role, options, processes = 1) {
  const results = await measureEach(side, settings, name, role, options, processes)
  return results.length === 1 ? results[0] : results.reduce((sum, one) => sum + one, 0)
}

async function measureEach(side, settings, name, role, options, processes) {
  const children = Array.from({ length: processes }, () => start(side, settings, name, role, options))
  await Promise.all(children.map((child) => child.next()))
  for (const child of children) child.go()
  const results = await Promise.all(children.map((child) => child.next()))
  await Promise.all(children.map(({ ended }) => ended))
  return results
}

async function measureLatency(side, settings, name, count) {
  const consumer = start(side, settings, name, 'idle', { count })
  await consumer.next()
  consumer.go()
  await consumer.next()
  await measure(side, settings, name, 'latencies', { count })
  const result = await consumer.next()
  await consumer.ended
  return result
}

async function startRedis(directory, durability) {
  if (spawnSync('redis-server', ['--version']).status !== 0)
    throw new Error('redis-server is not installed (Debian: apt install redis-server)')
  const probe = createServer().listen(0, '127.0.0.1')
  await once(probe, 'listening')
  const { port } = probe.address()
  await new Promise((resolve) => probe.close(resolve))
  const append =
    durability === 'disk'
      ? ['--appendonly', 'yes', '--appendfsync', 'always']
      : ['--appendonly', 'yes', '--appendfsync', 'everysec']
  const child = spawn(
    'redis-server',
    [
      '--bind',
      '127.0.0.1',
      '--port',
      String(port),
      '--dir',
      directory,
      '--save',
      '',
      '--maxmemory-policy',
      'noeviction',
      ...append,
    ],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  )
  for await (const chunk of child.stdout) if (String(chunk).includes('Ready to accept connections')) break
  return { port, stop: () => child.kill() }
}

const median = (values) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)]

/** With so many processes the sum has to grow, and none may get under half of its share. */
async function compareShares(url, quick) {
  const { send, close } = await toMany(url)
  const time = quick ? 500 : 3000
  for (const works of [true, false]) {
    const name = works ? 'handlers of 50 us' : 'handlers that wait 1 ms'
    const counts = {}
    for (const processes of [1, 4]) {
      const queue = `shares-${works}-${processes}`
      await send(queue, (works ? 25 : 50) * time)
      counts[processes] = await measureEach('kernelmq', { url }, queue, 'share', { works, time }, processes)
    }
    const [[alone], four] = [counts[1], counts[4]]
    const sum = four.reduce((total, count) => total + count)
    const least = Math.min(...four) / (sum / 4)
    const isMet = sum > alone && least >= 0.5
    console.log(
      `${isMet ? 'met    ' : 'NOT MET'}  ${name}, one process and four: ${alone} and ${sum} handled in ${time} ms, the least ${least.toFixed(2)} of its share, wanted more, and at least 0.5`,
    )
  }
  await close()
}

async function toMany(url) {
  const bus = await connect(url)
  return {
    async send(name, count) {
      const bodies = Array(BULK).fill({ body: BODY })
      for (let i = 0; i < count; i += BULK) await bus.queue(name).sendMany(bodies)
    },
    close: () => bus.close(),
  }
}

/** `better` is where the ratio to BullMQ has to go, and how far. */
const plan = {
  process: [
    { name: 'one by one, one process', role: 'send', count: 10_000, better: ['at least', 4] },
    { name: 'one by one, two processes', role: 'send', count: 8000, processes: 2, better: ['at least', 3] },
    { name: 'in bulk', role: 'bulk', count: 100_000, better: ['at least', 10] },
    { name: 'handled, 50 at a time', role: 'handle', count: 60_000, better: ['at least', 6] },
    { name: 'idle, send to handler, one process', role: 'idle', count: 300, own: true, better: ['at most', 0.4, 0.5] },
    { name: 'idle, send to handler, two processes', role: 'idle', count: 300, better: ['at most', 0.5, 0.5] },
  ],
  disk: [
    { name: 'one by one', role: 'send', count: 500, better: ['at least', 1.5] },
    { name: '50 in flight', role: 'inFlight', count: 5000, better: ['at least', 1.5] },
    { name: 'in bulk', role: 'bulk', count: 30_000, better: ['at least', 5] },
    { name: 'handled, 50 at a time', role: 'handle', count: 20_000, better: ['at least', 5] },
  ],
}

async function main({ quick, durability }) {
  const peers = installPeers({ quick: true })
  console.log(`BullMQ ${peers.bullmq.version}, durability ${durability}`)
  const rounds = quick ? 1 : 5
  const directory = mkdtempSync(join(tmpdir(), 'kernelmq-bench-bus-'))
  const redis = await startRedis(directory, durability)
  let number = 0
  try {
    for (const { name, role, count, processes, own, better } of plan[durability]) {
      const results = { kernelmq: [], bullmq: [] }
      for (let round = 0; round < rounds; round++) {
        for (const side of Object.keys(sides)) {
          const settings = { url: `local:${directory}/bus-${number}`, port: redis.port, durability }
          const queue = `q${number++}`
          const many = quick ? Math.max(count / 10, BULK) : count
          results[side].push(
            role === 'idle' && !own
              ? await measureLatency(side, settings, queue, many)
              : await measure(side, settings, queue, role, { count: many, own }, processes),
          )
        }
      }
      print(name, results, better)
    }
    if (durability === 'process') await compareShares(`local:${directory}/shares`, quick)
  } finally {
    redis.stop()
    rmSync(directory, { recursive: true, force: true })
  }
}

function print(name, { kernelmq, bullmq }, [word, ...limits]) {
  for (const [at, limit] of limits.entries()) {
    const of = (values) => median(values.map((value) => (Array.isArray(value) ? value[at] : value)))
    const [ours, theirs] = [of(kernelmq), of(bullmq)]
    const ratio = ours / theirs
    const isMet = word === 'at least' ? ratio >= limit : ratio <= limit
    const unit = Array.isArray(kernelmq[0]) ? ` ms, p${at === 0 ? 50 : 99}` : ' a second'
    const show = (value) => (value < 100 ? value.toFixed(3) : Math.round(value).toLocaleString('en-US'))
    console.log(
      `${isMet ? 'met    ' : 'NOT MET'}  ${name}: ${show(ours)} against ${show(theirs)}${unit}, ratio ${ratio.toFixed(2)}, wanted ${word} ${limit}`,
    )
  }
}

const routes = {
  'mq:': { route: 'bus', scheme: 'mq' },
  'sysv:': { route: 'bus', scheme: 'sysv' },
  'Unix socket': { route: 'unix-socket' },
  ZeroMQ: { route: 'zeromq' },
}

/** `to` are those to which a ratio is wanted. */
const volatilePlan = [
  {
    name: 'stream',
    workload: 'stream',
    count: 3_000_000,
    warm: 200_000,
    better: ['at least', 10],
    to: ['Unix socket', 'ZeroMQ'],
    show: (nanoseconds) => `${(1000 / nanoseconds).toFixed(2)} million a second`,
  },
  {
    name: 'request and reply',
    workload: 'ping-pong',
    count: 10_000,
    warm: 5000,
    better: ['at most', 0.8],
    to: ['ZeroMQ'],
    show: (nanoseconds) => `${(nanoseconds / 1000).toFixed(1)} us`,
  },
]

/** Nanoseconds for each message, or for there and back. */
async function runRoute(route, { workload, count, warm }, path) {
  const way = workload === 'stream' ? 'push/pull' : 'req/rep'
  const config = { ...route, way, workload, path, size: 64, cores: [0, 1] }
  const end = fileURLToPath(new URL('end.mjs', import.meta.url))
  const program = Program.start(0, [process.execPath, '--expose-gc', end, JSON.stringify(config)])
  try {
    return (await program.run({ count, warm })).nanoseconds
  } finally {
    program.kill()
  }
}

async function compareVolatile(quick) {
  const peers = installPeers({ quick: true })
  console.log(`64 bytes, without a store; ZeroMQ ${peers.zeromq.version}`)
  const directory = mkdtempSync(join(tmpdir(), 'kernelmq-bench-bus-'))
  let number = 0
  try {
    for (const { better, to, name, show, ...round } of volatilePlan) {
      const results = Object.fromEntries(Object.keys(routes).map((route) => [route, []]))
      for (let i = 0; i < (quick ? 1 : 5); i++) {
        for (const [route, config] of Object.entries(routes))
          results[route].push(await runRoute(config, round, join(directory, String(number++))))
      }
      const medians = Object.fromEntries(Object.entries(results).map(([route, values]) => [route, median(values)]))
      for (const [route, value] of Object.entries(medians)) console.log(`         ${name}, ${route}: ${show(value)}`)
      const [word, limit] = better
      for (const peer of to) {
        // Of times: a rate is the other way round.
        const ratio = word === 'at least' ? medians[peer] / medians['mq:'] : medians['mq:'] / medians[peer]
        const isMet = word === 'at least' ? ratio >= limit : ratio <= limit
        console.log(
          `${isMet ? 'met    ' : 'NOT MET'}  ${name}, mq: to ${peer}: ${ratio.toFixed(2)}, wanted ${word} ${limit}`,
        )
      }
    }
  } finally {
    rmSync(directory, { recursive: true, force: true })
    // The queues of a directory that is gone go with the next bus.
    for (const scheme of ['mq', 'sysv']) {
      const bus = await connect(`${scheme}:${directory}`)
      rmSync(directory, { recursive: true })
      await bus.close()
    }
  }
}

/** Microseconds for each of many calls, one after the other. */
async function timeEach(count, call) {
  const from = performance.now()
  for (let i = 0; i < count; i++) await call(i)
  return ((performance.now() - from) * 1000) / count
}

/** What a message costs, and its process, where many wait, and where none does. */
async function compareWaiting(waiting, quick) {
  const directory = mkdtempSync(join(tmpdir(), 'kernelmq-bench-bus-'))
  try {
    const fill = await connect(`local:${directory}/full`)
    const items = Array.from({ length: BULK }, () => ({ body: BODY }))
    const from = performance.now()
    for (let left = waiting; left > 0; left -= BULK) await fill.queue('q').sendMany(items.slice(0, left))
    console.log(`${waiting} messages sent, ${Math.round(rate(waiting, from))} a second`)
    await fill.close()
    const ends = []
    for (const name of ['empty', 'full']) {
      const bus = await connect(`local:${directory}/${name}`)
      ends.push({ name, bus, queue: bus.queue('q'), times: { send: [], claim: [], settle: [], stats: [] } })
    }
    const count = quick ? 100 : 1000
    for (let round = 0; round < (quick ? 1 : 9); round++) {
      for (const { queue, times } of ends) {
        times.send.push(await timeEach(count, () => queue.send(BODY)))
        const messages = []
        times.claim.push(await timeEach(count, async () => messages.push(...(await queue.receive()))))
        times.settle.push(await timeEach(count, (i) => messages[i].ack()))
        times.stats.push(await timeEach(10, () => queue.stats()))
      }
    }
    for (const { name, times } of ends) {
      const show = ([what, values]) => `${what} ${median(values).toFixed(1)} us`
      console.log(`${name}: ${Object.entries(times).map(show).join(', ')}`)
    }
    for (const { bus } of ends) await bus.close()
    for (const name of ['empty', 'full']) {
      const settings = { url: `local:${directory}/${name}`, durability: 'process' }
      const memory = await measure('kernelmq', settings, 'q', 'memory', { count: quick ? 100 : 20_000 }, 1)
      console.log(
        `${name}: a process has ${(memory / 2 ** 20).toFixed(1)} MB after as many sends, claims and acknowledgements`,
      )
    }
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}

if (process.argv[2]?.startsWith('{')) {
  const { side, settings, name, role, options } = JSON.parse(process.argv[2])
  const target = await sides[side](settings, name)
  process.send('there')
  await once(process, 'message')
  process.send(await roles[role](target, options))
  await target.close()
  process.disconnect()
} else {
  const { values } = parseArgs({
    options: {
      quick: { type: 'boolean', default: false },
      durability: { type: 'string', default: 'process' },
      waiting: { type: 'string' },
      help: { type: 'boolean', short: 'h', default: false },
    },
  })
  if (values.help) console.log(help)
  else if (values.waiting !== undefined) await compareWaiting(countOf(values.waiting), values.quick)
  else if (values.durability === 'none') await compareVolatile(values.quick)
  else await main(values)
}
