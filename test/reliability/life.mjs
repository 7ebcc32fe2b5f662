#!/usr/bin/env node
// Ends processes and workers while something is pending, for as long as wanted. The tables and the programs that end
// are those of the suite: test/fixtures/operations.mjs, endings.mjs, lifetime.mjs.
import { spawnSync } from 'node:child_process'
import { lookup } from 'node:dns/promises'
import { readFile } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { PosixQueue, SysvQueue } from 'kernelmq'
import { endProcess, endsOf, endWorker } from '../fixtures/endings.mjs'
import { canMeet, familyOf, open, operations, sends } from '../fixtures/operations.mjs'
import { leaked, resources } from '../fixtures/resources.mjs'

const help = `npm run life -- [--part <part>]... [--rounds <rounds>] [--messages <messages>] [--seconds <seconds>]

Ends processes and workers while queues are waited for, and tells what was wrong. Parts, all of them by default:

  rounds   random operations of both families meet a random end, --rounds times (default 200), one in ten in a process
           of its own, the others in a worker
  settle   what is pending is closed, closed in its own callback, or forgotten and collected
  matrix   each operation meets each end, alone, in a process and in a worker
  storm    workers that call everything are terminated at random instants, --rounds times for each family
  memory   --messages messages (default 1m) are received, and dropped, in each family
  loop     16 receives of each family are pending for --seconds seconds (default 10): timers, files and look-ups

Counts take k and m for thousands and millions. It ends with code 1 if anything was wrong.`

const parts = { rounds, settle, matrix, storm, memory, loop }

const { values } = parseArgs({
  options: {
    part: { type: 'string', multiple: true, default: Object.keys(parts) },
    rounds: { type: 'string', default: '200' },
    messages: { type: 'string', default: '1m' },
    seconds: { type: 'string', default: '10' },
    help: { type: 'boolean', short: 'h', default: false },
  },
})

const count = (text) => Number.parseFloat(text) * ({ k: 1e3, m: 1e6 }[text.at(-1)] ?? 1)

const any = (list) => list[Math.floor(Math.random() * list.length)]

/** A sanitizer keeps what is freed. */
const overhead = Number(process.env.TEST_OVERHEAD ?? 1)

let failures = 0

function fail(what) {
  failures++
  console.log(`WRONG: ${what}`)
}

/** What removes the queues that are there, by their names or identifiers. */
const removals = new Map()

process.on('exit', () => {
  for (const remove of removals.values()) remove()
})
for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => process.exit(1))

let made = 0

/** A small queue. */
function create(family) {
  if (family === 'SysvQueue') {
    const queue = SysvQueue.open('private', { maxBytes: 20 })
    removals.set(String(queue.id), () => queue.remove())
    return String(queue.id)
  }
  const name = `/kmq-life-${process.pid}-${made++}`
  PosixQueue.open(name, { create: true, maxMessages: 4, messageSize: 64 }).close()
  removals.set(name, () => PosixQueue.unlink(name))
  return name
}

/** Queues of these families, for as long as they are used. */
async function withQueues(families, use) {
  const names = families.map(create)
  try {
    await use(...names)
  } finally {
    for (const name of names) {
      removals.get(name)()
      removals.delete(name)
    }
  }
}

/** All of one family's ends. */
const cellsOf = (family) =>
  ['process', 'worker'].flatMap((where) =>
    Object.entries(operations[family]).flatMap(([kind, table]) =>
      endsOf(kind, where).flatMap((end) =>
        Object.keys(table)
          .filter((operation) => canMeet(operation, end))
          .map((operation) => ({ where, kind, end, operation })),
      ),
    ),
  )

/** How often each end was met, and the longest that it took. */
class Tally {
  #rows = new Map()

  async meet(name, { where, end }, group) {
    const { wrong, took } = await (where === 'process' ? endProcess : endWorker)(end, name, group)
    if (wrong !== undefined) fail(`${familyOf(name)}, ${where}, ${group}: ${wrong}`)
    const key = `${end} (${where})`
    const row = this.#rows.get(key) ?? { met: 0, slowest: 0 }
    this.#rows.set(key, { met: row.met + 1, slowest: Math.max(row.slowest, Math.round(took)) })
  }

  print() {
    for (const [end, { met, slowest }] of [...this.#rows].sort()) {
      console.log(`  ${end.padEnd(30)} ${String(met).padStart(6)} times, ${String(slowest).padStart(4)} ms at most`)
    }
  }
}

/** One that ends everything in its callback, or blocks, is alone; others have company. */
function groupFor(family, { kind, end, operation }) {
  if (end.includes('callback') || kind === 'blocking' || kind === 'endless') return operation
  const fitting = Object.keys(operations[family][kind]).filter(
    (other) => other !== operation && sends(other) === sends(operation) && canMeet(other, end),
  )
  return [operation, ...fitting.filter(() => Math.random() < 0.3)].join('+')
}

async function rounds() {
  const tally = new Tally()
  let left = count(values.rounds)
  const lane = (family) =>
    withQueues([family], async (name) => {
      const cells = cellsOf(family)
      const inProcess = cells.filter(({ where }) => where === 'process')
      const inWorker = cells.filter(({ where }) => where === 'worker')
      while (left-- > 0) {
        const cell = any(Math.random() < 0.1 ? inProcess : inWorker)
        await tally.meet(name, cell, groupFor(family, cell))
      }
    })
  await Promise.all([...Object.keys(operations), ...Object.keys(operations)].map(lane))
  tally.print()
}

async function settle() {
  for (const family of Object.keys(operations)) {
    const { receiving, sending } = operations[family]
    const pending = Object.keys({ ...receiving, ...sending })
    for (const way of ['closed twice', 'closed in its callback', 'collected']) {
      await withQueues(Array(pending.length).fill(family), async (...names) => {
        const queues = Object.fromEntries(pending.map((operation, index) => [operation, names[index]]))
        run('settling.mjs', [way, JSON.stringify(queues)], { wrong: {}, leaked: { descriptors: 0, threads: 0 } })
      })
      console.log(`  ${way}: ${pending.length} operations of a ${family}`)
    }
  }
}

/** Runs a program that tells something as JSON. */
function run(program, args, expected) {
  const path = fileURLToPath(new URL(`../fixtures/${program}`, import.meta.url))
  const { status, signal, stdout, stderr } = spawnSync(process.execPath, ['--expose-gc', path, ...args], {
    encoding: 'utf8',
  })
  if (status !== 0 || stderr !== '' || stdout !== JSON.stringify(expected)) {
    fail(`${program} ${args.join(' ')}: ${JSON.stringify({ status, signal, stdout, stderr })}`)
  }
}

async function matrix() {
  const tally = new Tally()
  const lane = (family) =>
    withQueues([family], async (name) => {
      for (const cell of cellsOf(family)) await tally.meet(name, cell, cell.operation)
    })
  await Promise.all(Object.keys(operations).map(lane))
  tally.print()
}

async function storm() {
  for (const family of Object.keys(operations)) {
    await withQueues([family], async (name) => {
      run('terminate-storm.mjs', [String(count(values.rounds)), name], { descriptors: 0, threads: 0 })
    })
    console.log(`  ${count(values.rounds)} workers with a ${family} terminated, no descriptor and no thread left`)
  }
}

/** How much y grows with x: the slope of the line through the points, by least squares. */
function slopeOf(points) {
  const mean = (of) => points.reduce((sum, point) => sum + of(point), 0) / points.length
  const [x, y] = [mean(([a]) => a), mean(([, b]) => b)]
  const part = (of) => points.reduce((sum, point) => sum + of(point), 0)
  return part(([a, b]) => (a - x) * (b - y)) / part(([a]) => (a - x) ** 2)
}

async function memory() {
  const total = count(values.messages)
  for (const family of Object.keys(operations)) {
    await withQueues([family], async (name) => {
      const queue = open(name)
      const send = () => queue.trySend('0123456789')
      const sent = (receive) => () => {
        send()
        return receive()
      }
      const receives = [
        sent(() => queue.tryReceive()),
        sent(() => queue.receiveSync()),
        sent(() => queue.tryReceiveMany()),
        sent(() => queue.receive()),
        // Waits: in a thread, if of System V.
        () => {
          const received = queue.receive()
          send()
          return received
        },
      ]
      const points = []
      for (let received = 0; received < total; ) {
        for (const end = received + total / 100; received < end; received += 1) {
          const message = receives[received % receives.length]()
          if (message instanceof Promise) await message
        }
        gc()
        const { rss, heapTotal, heapUsed, external } = process.memoryUsage()
        points.push([received, rss, rss - heapTotal, heapUsed + external])
      }
      // What is compiled and what the heap grows to comes first.
      const settled = points.slice(points.length / 2)
      const slopes = [1, 2, 3].map((column) => slopeOf(settled.map((point) => [point[0], point[column]])))
      const [resident, outside, used] = slopes.map((slope) => slope.toFixed(2))
      console.log(`  ${total} receives from a ${family}; bytes for each more in the second half:`)
      console.log(`  ${resident} resident, ${outside} of them outside V8's heap; ${used} in use by JavaScript`)
      // V8 reserves more than it uses, and gives that back as it likes: that alone is no verdict.
      for (const slope of slopes.slice(1)) {
        if ((slope * total) / 2 > Math.max(5e6, total / 2) * overhead)
          fail(`memory grew with each receive from a ${family}`)
      }
      await queue.close()
    })
  }
}

const median = (times) => times.toSorted((a, b) => a - b)[times.length >> 1]

/** How late timers come, and how long files and look-ups take. */
async function pace(milliseconds) {
  const lags = []
  const pool = []
  const end = performance.now() + milliseconds
  const look = async () => {
    while (performance.now() < end) {
      const start = performance.now()
      await Promise.all([readFile(fileURLToPath(import.meta.url)), lookup('localhost')])
      pool.push(performance.now() - start)
      await sleep(20)
    }
  }
  const looking = look()
  while (performance.now() < end) {
    const start = performance.now()
    await sleep(1)
    lags.push(performance.now() - start - 1)
  }
  await looking
  return { lag: median(lags), longestLag: Math.max(...lags), pool: median(pool), longestPool: Math.max(...pool) }
}

async function loop() {
  const milliseconds = count(values.seconds) * 1000
  const print = (what, { lag, longestLag, pool, longestPool }) => {
    const [a, b, c, d] = [lag, longestLag, pool, longestPool].map((value) => value.toFixed(1))
    console.log(`  ${what}: timers ${a} ms late, ${b} at most; a file and a look-up take ${c} ms, ${d} at most`)
  }
  const idle = await pace(milliseconds)
  print('with nothing pending', idle)
  let pending
  await withQueues(
    Object.keys(operations).flatMap((family) => Array(16).fill(family)),
    async (...names) => {
      const queues = names.map(open)
      const waits = queues.map((queue) => queue.receive().catch(({ code }) => code))
      pending = await pace(milliseconds)
      await Promise.all(queues.map((queue) => queue.close()))
      for (const code of await Promise.all(waits)) if (code !== 'ERR_MQ_CLOSED') fail(`a wait came to ${code}`)
    },
  )
  print('with 32 receives pending', pending)
  // A busy machine is late with nothing pending too.
  for (const [what, bound] of [
    ['lag', 20],
    ['longestLag', 20],
    ['pool', 50],
    ['longestPool', 50],
  ]) {
    if (pending[what] >= bound && pending[what] >= 2 * idle[what]) fail(`${what}: ${pending[what]} ms`)
  }
}

async function main() {
  if (values.help) return console.log(help)
  const before = resources()
  for (const part of values.part) {
    if (!(part in parts)) throw new Error(`There is no part ${part}; see --help`)
    const start = performance.now()
    console.log(`${part}:`)
    await parts[part]()
    console.log(`  ${((performance.now() - start) / 1000).toFixed(1)} s`)
  }
  console.log(`left behind: ${JSON.stringify(await leaked(before))}`)
  console.log(failures === 0 ? 'nothing was wrong' : `${failures} wrong`)
  process.exitCode = failures === 0 ? 0 : 1
}

await main()
