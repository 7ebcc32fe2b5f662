#!/usr/bin/env node
// Kills processes of a bus at random moments, and judges by what they had written down.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, openSync, readdirSync, readFileSync, rmSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { LocalTransport } from '../../dist/bus/transports/local/local.js'
import { countOf } from './families.mjs'

const help = `npm run chaos:bus -- [--kills <count>] [--processes <count>]

Processes send to one queue of a bus and receive from it; one after another is killed (SIGKILL) at a random moment and
replaced, --kills times (default 200; k is thousands). Each writes down what it has sent, once the send has returned,
and what it received, before it acknowledges. In the end every message whose send had returned must have been received,
whole, in the order of its key, and nothing may be left. It ends with code 1 if anything was wrong.`

const QUEUE = 'chaos'

const any = (list) => list[Math.floor(Math.random() * list.length)]

/** A body says what it is, so that a torn or a foreign one shows. */
const bodyOf = (id) => Buffer.from(id.padEnd(64, id))

const message = (id, key) => ({
  id,
  body: bodyOf(id),
  dedup: 0,
  key,
  priority: 0,
  due: key === undefined && Math.random() < 0.1 ? Date.now() + Math.random() * 20 : 0,
  expires: 0,
  headers: undefined,
})

async function work(directory, source, log) {
  const bus = await LocalTransport.open(join(directory, 'bus'))
  process.stdout.write('.')
  const file = openSync(log, 'a')
  let number = 0
  const send = async () => {
    for (;;) {
      const batch = Array.from({ length: any([1, 1, 1, 8]) }, () => {
        const kind = any(['k', 'f'])
        return message(`${kind}-${source}-${number++}`, kind === 'k' ? `key ${source}` : undefined)
      })
      await bus.send(QUEUE, batch)
      writeSync(file, batch.map(({ id }) => `sent ${id}\n`).join(''))
      // The receivers are to keep up, mostly.
      await sleep(Math.random() * 4)
    }
  }
  const receive = async () => {
    for (;;) await take(bus, file, any([1, 4, 32]), Number.POSITIVE_INFINITY)
  }
  await Promise.all([send(), receive(), receive()])
}

async function take(bus, file, max, deadline) {
  const deliveries = await bus.receive(QUEUE, { max, deadline, signal: undefined })
  for (const { id, body, token } of deliveries) {
    const whole = bodyOf(id).equals(body)
    writeSync(file, `${whole ? 'got' : 'torn'} ${id} ${process.hrtime.bigint()}\n`)
    const again = Math.random() < 0.05
    await bus.settle([
      again ? { token, outcome: 'retry', due: Date.now() + 5, counted: true } : { token, outcome: 'ack' },
    ])
    if (again) writeSync(file, `again ${id} ${process.hrtime.bigint()}\n`)
  }
  return deliveries.length
}

/** What is wrong, in words, with what the logs tell. */
export function judge(lines) {
  const wrong = []
  const sent = new Set()
  const got = []
  for (const line of lines) {
    const [what, id, at] = line.split(' ')
    if (what === 'sent') sent.add(id)
    else if (what === 'got') got.push({ id, at: BigInt(at) })
    else if (what === 'torn') wrong.push(`${id} was torn`)
  }
  got.sort((a, b) => (a.at < b.at ? -1 : 1))
  const seen = new Set()
  const last = new Map()
  for (const { id } of got) {
    if (seen.has(id)) continue
    seen.add(id)
    const [kind, source, number] = id.split('-')
    if (kind !== 'k') continue
    if (Number(number) < (last.get(source) ?? -1)) wrong.push(`${id} came after ${last.get(source)}`)
    last.set(source, Number(number))
  }
  for (const id of sent) if (!seen.has(id)) wrong.push(`${id} is lost`)
  return { wrong, sent: sent.size, got: seen.size, again: got.length - seen.size }
}

async function chaos(kills, count) {
  const directory = mkdtempSync(join(tmpdir(), 'kernelmq-chaos-bus-'))
  const logs = join(directory, 'logs')
  const processes = new Set()
  let source = 0
  const start = () => {
    const log = join(directory, `${source}.log`)
    const child = spawn(process.execPath, [fileURLToPath(import.meta.url), 'work', directory, String(source++), log], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    const one = { child, started: once(child.stdout, 'data'), ended: once(child, 'close') }
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
  const alive = Array.from({ length: count }, start)
  for (let i = 0; i < kills; i++) {
    const at = Math.floor(Math.random() * count)
    // Some die while they open the store.
    if (Math.random() < 0.8) await Promise.race([alive[at].started, alive[at].ended])
    await sleep(Math.random() * 30)
    await kill(alive[at])
    alive[at] = start()
  }
  await Promise.all(alive.map(kill))
  const bus = await LocalTransport.open(join(directory, 'bus'))
  const file = openSync(`${logs}.log`, 'a')
  while ((await take(bus, file, 32, performance.now() + 500)) > 0);
  const stats = await bus.stats(QUEUE)
  await bus.close()
  const lines = readdirSync(directory)
    .filter((name) => name.endsWith('.log'))
    // The last line may have been cut off.
    .flatMap((name) => readFileSync(join(directory, name), 'latin1').split('\n').slice(0, -1))
  const { wrong, sent, got, again } = judge(lines)
  for (const [what, left] of Object.entries(stats)) if (left !== 0) wrong.push(`${left} ${what} are left`)
  for (const line of wrong.slice(0, 10)) console.log(line)
  console.log(`${kills} kills, ${sent} confirmed, ${got} received, ${again} again, ${wrong.length} wrong`)
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
