#!/usr/bin/env node
// Kills processes of a bus, at random moments and at named points, and judges by what they had written down.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, openSync, readdirSync, readFileSync, rmSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { connect } from 'kernelmq/bus'
import { Bodies } from '../../dist/bus/transports/local/bodies.js'
import { Peers } from '../../dist/bus/transports/local/peers.js'
import { Store } from '../../dist/bus/transports/local/store.js'
import { countOf } from './families.mjs'

const help = `npm run chaos:bus -- [--kills <count>] [--processes <count>]

Processes send to a queue of a bus, consume it and send on from it; one after another is killed (SIGKILL) and replaced,
--kills times (default 200; k is thousands): half at a random moment, half by itself at a named point, such as between
the commit of a send and the bell. Each writes down what it has sent, once the send has returned, and what it handles,
when its handler begins. In the end every message whose send had returned must have been handled, whole and in the order
of its key; what was sent on with an acknowledgement must be there exactly once; each time of a schedule must have made one
message; and nothing may be left. It ends with code 1 if anything was wrong.`

const any = (list) => list[Math.floor(Math.random() * list.length)]

/** A body says what it is, so that a torn or a foreign one shows; some are too large for the store. */
const bodyOf = (id) => id.padEnd(id.startsWith('l') ? 80_000 : 64, id)

/** The queue of the ticks of schedules, and the milliseconds from one to the next. */
const TICKS = 'bus/schedules'
const EVERY = 20

/** Where a process may die by its own hand; `at` is the one it is to die at, sooner or later. */
function plant(at, die) {
  let left = Math.floor(Math.random() * (rare.includes(at) ? 4 : 40))
  const point = (name) => {
    if (name === at && left-- <= 0) die(name)
  }
  const around = (prototype, name, before, after) => {
    const original = prototype[name]
    prototype[name] = function (...args) {
      point(before)
      const result = original.apply(this, args)
      point(after)
      return result
    }
  }
  const { transact } = Store.prototype
  Store.prototype.transact = function (work) {
    const result = transact.call(this, () => {
      const value = work()
      point('before the commit')
      return value
    })
    if (result.bells.length > 0) point('after the commit, before the bell')
    return result
  }
  around(Peers.prototype, 'ring', '', 'after the bell')
  around(Store.prototype, 'claim', 'before the claim', 'in the claim')
  let settling = false
  const { settle, send } = Store.prototype
  Store.prototype.settle = function (...args) {
    settling = true
    try {
      return settle.apply(this, args)
    } finally {
      settling = false
    }
  }
  // Acknowledged, and what goes with that is not sent yet.
  Store.prototype.send = function (batch, ...args) {
    if (settling && batch.some(({ queue }) => queue === TICKS)) point('in the transaction of a schedule')
    if (settling && batch.some(({ queue }) => queue === 'first')) point('in redriving a dead letter')
    return send.call(this, batch, ...args)
  }
  around(Store.prototype, 'settle', '', 'in the settling')
  around(Store.prototype, 'reap', '', 'in giving back what another held')
  const { write } = Bodies.prototype
  Bodies.prototype.write = async function (...args) {
    setImmediate(point, 'in writing a large body')
    const name = await write.apply(this, args)
    point('after a large body was written')
    return name
  }
  return point
}

const rare = ['in the transaction of a schedule', 'in redriving a dead letter']
const points = [
  ...rare,
  'before the commit',
  'after the commit, before the bell',
  'after the bell',
  'before the claim',
  'in the claim',
  'with the message in hand',
  'after the work, before the settling',
  'in the settling',
  'in giving back what another held',
  'in writing a large body',
  'after a large body was written',
]

const retry = { max: 1, base: 5, losses: 1e6 }

async function work(directory, source, path, suicide) {
  const log = openSync(path, 'a')
  const write = (text) => writeSync(log, text)
  const point = plant(suicide === '' ? undefined : suicide, (name) => {
    write(`died ${name}\n`)
    process.kill(process.pid, 'SIGKILL')
  })
  const bus = await connect(`local:${join(directory, 'bus')}`)
  process.stdout.write('.')
  const [first, second, ticked] = queuesOf(bus)
  consume(first, second, ticked, write, point)
  await schedule(bus, ticked)
  let number = 0
  for (;;) {
    const items = Array.from({ length: any([1, 1, 1, 8]) }, () => {
      const kind = any(Math.random() < 0.05 ? ['l', 'd'] : ['k', 'f', 't'])
      const id = `${kind}-${source}-${number++}`
      const delay = kind === 'f' && Math.random() < 0.1 ? Math.random() * 20 : 0
      return { body: bodyOf(id), id, delay, ...(kind === 'k' && { key: `key ${source}` }) }
    })
    await first.sendMany(items)
    write(items.map(({ id }) => `sent ${id}\n`).join(''))
    if (Math.random() < 0.02) await first.dead.redrive()
    // The consumers are to keep up, mostly.
    await sleep(Math.random() * 4)
  }
}

const queuesOf = (bus) => ['first', 'second', 'ticked'].map((name) => bus.queue(name, { retry }))

/** The same in all processes: who comes later changes nothing. */
const schedule = (bus, ticked) => bus.schedules.set('chaos', ticked, 'tick', { every: EVERY })

/** Handles one in a process, and where it says so (t) sends on; those to die (d) are handled the third time only. */
function consume(first, second, ticked, write, point) {
  const see = ({ id, body }) => {
    write(`${body === bodyOf(id) ? 'got' : 'torn'} ${id} ${process.hrtime.bigint()}\n`)
    point('with the message in hand')
  }
  const consumers = [
    first.consume(
      async (message) => {
        see(message)
        const { id } = message
        if (Math.random() < 0.05) throw new Error('once more')
        if (id.startsWith('d') && Math.random() < 0.7) throw new Error('not today')
        point('after the work, before the settling')
        if (id.startsWith('t')) await message.ack({ send: [await second.prepare(id)] })
      },
      { concurrency: any([1, 4]), prefetch: any([0, 8]) },
    ),
    second.consume(
      ({ id, body }) => {
        write(`on ${body} ${id}\n`)
        point('with the message in hand')
      },
      { concurrency: any([1, 16]) },
    ),
    ticked.consume(({ id }) => {
      write(`tick ${id}\n`)
      point('with the message in hand')
    }),
  ]
  for (const consumer of consumers) {
    consumer.closed.catch((error) => {
      write(`failed ${String(error.stack).replaceAll('\n', ' ')}\n`)
    })
  }
  return consumers
}

/** What is wrong, in words, with what the logs tell. */
export function judge(lines) {
  const wrong = []
  const died = new Map()
  const sent = new Set()
  const got = []
  const on = new Map()
  const ticks = new Set()
  for (const line of lines) {
    const [what, id, value] = line.split(' ')
    if (what === 'sent') sent.add(id)
    else if (what === 'got') got.push({ id, at: BigInt(value) })
    else if (what === 'on') on.set(id, (on.get(id) ?? new Set()).add(value))
    else if (what === 'tick') ticks.add(id)
    else if (what === 'died') died.set(line.slice(5), (died.get(line.slice(5)) ?? 0) + 1)
    else wrong.push(line)
  }
  got.sort((a, b) => (a.at < b.at ? -1 : 1))
  const seen = new Set()
  const last = new Map()
  for (const { id } of got) {
    if (seen.has(id)) continue
    seen.add(id)
    const [kind, source, number] = id.split('-')
    if (kind === 't' && on.get(id)?.size !== 1) wrong.push(`${id} was sent on ${on.get(id)?.size ?? 0} times`)
    if (kind !== 'k') continue
    if (Number(number) < (last.get(source) ?? -1)) wrong.push(`${id} came after ${last.get(source)}`)
    last.set(source, Number(number))
  }
  for (const id of sent) if (!seen.has(id)) wrong.push(`${id} is lost`)
  return { wrong, died, sent: sent.size, got: seen.size, again: got.length - seen.size, ticks: ticks.size }
}

/** What is wrong with a schedule: `dues` are the times that were acknowledged, `made` is how many messages came of them. */
export function judgeTicks(dues, made, pending) {
  const wrong = dues.flatMap((due, at) => {
    const step = due - (dues[at - 1] ?? due - EVERY)
    return step > 0 && step % EVERY === 0 ? [] : [`the time ${due} came ${step} ms after the one before`]
  })
  if (made !== dues.length) wrong.push(`${dues.length} times made ${made} messages`)
  if (pending !== 1) wrong.push(`${pending} times are to come, instead of one`)
  return wrong
}

/** The history of the ticks tells what times there were. */
function withStore(directory, work) {
  const store = new Store(join(directory, 'bus/bus.db'), Date)
  try {
    return store.transact(() => work(store)).result
  } finally {
    store.close()
  }
}

function ticksOf(directory) {
  return withStore(directory, (store) => {
    const { deliveries } = store.history(TICKS, 1e9)
    const { ready, leased, delayed, held } = store.stats(TICKS)
    const dues = deliveries.map(({ body }) => JSON.parse(Buffer.from(body).toString()).due)
    return { dues, pending: ready + leased + delayed + held }
  })
}

/** Handles what is left, dead letters too. */
async function finish(directory, path) {
  const bus = await connect(`local:${join(directory, 'bus')}`)
  const log = openSync(path, 'a')
  const queues = queuesOf(bus)
  const consumers = consume(
    ...queues,
    (text) => writeSync(log, text),
    () => {},
  )
  const left = async () => {
    const stats = await Promise.all(queues.map((queue) => queue.stats()))
    return stats.reduce(
      (sum, { ready, leased, delayed, held, dead }) => sum + ready + leased + delayed + held + dead,
      0,
    )
  }
  const end = performance.now() + 60_000
  while ((await left()) > 0 && performance.now() < end) {
    await queues[0].dead.redrive()
    await sleep(20)
  }
  const wrong = []
  if ((await left()) > 0)
    wrong.push(`something is left: ${JSON.stringify(await Promise.all(queues.map((queue) => queue.stats())))}`)
  await Promise.all(consumers.map((consumer) => consumer.close()))
  await bus.close()
  const bodies = readdirSync(join(directory, 'bus/bodies'))
  // Those that nobody refers to go when a bus is opened.
  const last = await connect(`local:${join(directory, 'bus')}`)
  await last.close()
  const orphans = readdirSync(join(directory, 'bus/bodies'))
  if (orphans.length > 0) wrong.push(`${orphans.length} of ${bodies.length} bodies are left: ${orphans[0]}`)
  return wrong
}

async function chaos(kills, count) {
  const directory = mkdtempSync(join(tmpdir(), 'kernelmq-chaos-bus-'))
  const processes = new Set()
  let source = 0
  const start = () => {
    const log = join(directory, `${source}.log`)
    const suicide = Math.random() < 0.5 ? any(points) : ''
    const args = ['work', directory, String(source++), log, suicide]
    const child = spawn(process.execPath, [fileURLToPath(import.meta.url), ...args], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    const one = { child, suicide, started: once(child.stdout, 'data'), ended: once(child, 'close') }
    processes.add(one)
    return one
  }
  const clean = () => {
    for (const { child } of processes) child.kill('SIGKILL')
    rmSync(directory, { recursive: true, force: true })
  }
  const kill = async (one) => {
    one.child.kill('SIGKILL')
    const [code, signal] = await one.ended
    processes.delete(one)
    if (signal !== 'SIGKILL') throw new Error(`a process ended by itself, with ${code ?? signal}`)
  }
  process.once('exit', clean)
  const bus = await connect(`local:${join(directory, 'bus')}`)
  withStore(directory, (store) => store.declare(TICKS, undefined, { maxMessages: 1e9, maxAge: 0 }))
  await schedule(bus, bus.queue('ticked'))
  await bus.close()
  const alive = Array.from({ length: count }, start)
  for (let i = 0; i < kills; i++) {
    const at = Math.floor(Math.random() * count)
    const one = alive[at]
    // Some die while they open the store.
    if (Math.random() < 0.8) await Promise.race([one.started, one.ended])
    await Promise.race([sleep(one.suicide === '' ? Math.random() * 30 : 1000), one.ended])
    await kill(one)
    alive[at] = start()
  }
  await Promise.all(alive.map(kill))
  const left = await finish(directory, join(directory, 'last.log'))
  const lines = readdirSync(directory)
    .filter((name) => name.endsWith('.log'))
    // The last line may have been cut off.
    .flatMap((name) => readFileSync(join(directory, name), 'latin1').split('\n').slice(0, -1))
  const { wrong, died, sent, got, again, ticks } = judge(lines)
  const { dues, pending } = ticksOf(directory)
  wrong.push(...left, ...judgeTicks(dues, ticks, pending))
  if (sent === 0) wrong.push('nothing was sent')
  for (const line of wrong.slice(0, 10)) console.log(line)
  for (const [point, times] of [...died].sort()) console.log(`  died ${point}: ${times}`)
  console.log(
    `${kills} kills, ${sent} confirmed, ${got} handled, ${again} again, ${ticks} ticks, ${wrong.length} wrong`,
  )
  process.exitCode = wrong.length > 0 ? 1 : 0
}

if (process.argv[2] === 'work') await work(...process.argv.slice(3))
else if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { values } = parseArgs({
    options: {
      kills: { type: 'string', default: '200' },
      processes: { type: 'string', default: '4' },
      help: { type: 'boolean', default: false },
    },
  })
  if (values.help) console.log(help)
  else await chaos(countOf(values.kills), countOf(values.processes))
}
