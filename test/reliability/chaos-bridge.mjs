#!/usr/bin/env node
// Sends numbered messages over a bridge to another bus and over a second one back, kills whoever takes part at random,
// and judges by what sender and receiver had written down.
import { spawn } from 'node:child_process'
import {
  appendFileSync,
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { PosixQueue } from 'kernelmq'
import { connect } from 'kernelmq/bus'
import { countOf } from './families.mjs'
import { LONGEST, read, write } from './numbered.mjs'

const help = `npm run chaos:bridge -- [--messages <count>] [--far local|redis|nats|amqp] [--from local|posix] [--every <ms>]

One process sends --messages (default 20000; k is thousands) to a local: bus, or with --from posix to a queue of the
kernel; one kmq bridge carries them to --far (default local), another one back; a fourth process receives them. About
every --every milliseconds (default 300) one of the four is killed (SIGKILL) and started again; of an engine, its server,
too. In the end every message whose send had returned must have been received, whole, again only with the same id, and
from a local: bus over a local: bus in order. From a queue of the kernel each bridge that is
killed may lose the one message that it has just taken, and each sender double the one that it has not written down.
It ends with code 1 if anything was wrong.`

const BATCH = 100
/** Milliseconds without progress after which what is missing is lost. */
const PATIENCE = 60_000

/** The same, when no more is missing than may be lost. */
const LAST = 5000

const self = fileURLToPath(import.meta.url)
const kmq = fileURLToPath(new URL('../../dist/cli/kmq.js', import.meta.url))
const any = (list) => list[Math.floor(Math.random() * list.length)]

async function send(url, log, messages) {
  // What was not confirmed is sent again, under its id.
  let next = Math.max(0, ...linesOf(log).map((line) => Number(line) + 1))
  const buffer = Buffer.alloc(LONGEST)
  const bytesOf = (number) => Buffer.from(write(buffer, 1, number))
  if (url.startsWith('posix:')) {
    const queue = PosixQueue.open(url.slice('posix:'.length))
    for (; next < messages; next++) {
      await queue.send(bytesOf(next))
      appendFileSync(log, `${next}\n`)
    }
    await queue.close()
    return
  }
  const bus = await connect(url)
  const queue = bus.queue('in', { maxMessages: 2000, overflow: 'wait' })
  for (; next < messages; next += BATCH) {
    const numbers = Array.from({ length: Math.min(BATCH, messages - next) }, (_, at) => next + at)
    await queue.sendMany(numbers.map((number) => ({ body: bytesOf(number), id: `m-${number}` })))
    appendFileSync(log, `${numbers.at(-1)}\n`)
  }
  await bus.close()
}

async function receive(url, log) {
  const bus = await connect(url)
  const queue = bus.queue('back', { retry: { losses: 1e6 } })
  const consumer = queue.consume(
    (messages) => {
      appendFileSync(log, messages.map(({ id, body }) => `${read(body)?.number ?? 'torn'} ${id}\n`).join(''))
    },
    { batch: 50 },
  )
  await consumer.closed
}

/** The whole lines of a file that may not be there, whose last may have been cut off. */
function linesOf(path) {
  try {
    return readFileSync(path, 'latin1').split('\n').slice(0, -1)
  } catch {
    return []
  }
}

/** What was added to a file since the last call, in whole lines. */
function follow(path) {
  const file = openSync(path, 'a+')
  const buffer = Buffer.alloc(1 << 16)
  let rest = ''
  let at = 0
  const take = () => {
    const lines = []
    for (let length = readSync(file, buffer, 0, buffer.length, at); length > 0; ) {
      at += length
      const parts = (rest + buffer.toString('latin1', 0, length)).split('\n')
      rest = parts.pop()
      lines.push(...parts)
      length = readSync(file, buffer, 0, buffer.length, at)
    }
    return lines
  }
  return { take, close: () => closeSync(file) }
}

/** What is wrong with what was received, line by line: `<number> <id>`. */
export class Judge {
  wrong = []
  /** What came under two ids. */
  doubled = []
  again = 0
  outOfOrder = 0
  #ids = new Map()
  #last = -1

  add(line) {
    const [what, id] = line.split(' ')
    const number = Number(what)
    if (!Number.isInteger(number)) return void this.wrong.push(`a torn message, ${id}`)
    const before = this.#ids.get(number)
    if (before === undefined) {
      this.#ids.set(number, id)
      if (number < this.#last) this.outOfOrder++
      this.#last = Math.max(this.#last, number)
      return
    }
    this.again++
    if (before !== id) this.doubled.push(`message ${number} came as ${before} and as ${id}`)
  }

  get seen() {
    return this.#ids.size
  }

  /** Those of the first `count` that are missing. */
  missing(count) {
    return Array.from({ length: count }, (_, number) => number).filter((number) => !this.#ids.has(number))
  }
}

/** Where the messages go and come back from. */
async function openFar(far, directory) {
  if (far === 'local') return { url: `local:${directory}/far`, close: async () => {} }
  const servers = new URL('servers.mjs', import.meta.url)
  const { DURABLE, startServer } = await import(servers.href)
  const server = await startServer(far === 'amqp' ? 'rabbitmq' : far, DURABLE[far])
  return { url: `${server.url}?prefix=chaos`, server, close: () => server.close() }
}

async function chaos({ messages, far, from, every }) {
  const directory = mkdtempSync(join(tmpdir(), 'kernelmq-chaos-bridge-'))
  const near = `local:${directory}/near`
  const name = `/kmq-chaos-bridge-${process.pid}`
  const path = (file) => join(directory, file)
  const { url, server, close } = await openFar(far, directory)
  const start = from === 'posix' ? `posix:${name}` : `${near}#queue=in`
  const retry = { base: 20, cap: 500 }
  const config = (file, route) => {
    const outbox = { directory: path('outbox'), maxMessages: 2000 }
    writeFileSync(path(file), JSON.stringify({ routes: [{ ...route, batch: BATCH }], outbox, retry }))
  }
  config('there.json', { from: start, to: `${url}#queue=far` })
  config('back.json', { from: `${url}#queue=far`, to: `${near}#queue=back` })
  const queue =
    from === 'posix' ? PosixQueue.open(name, { create: true, maxMessages: 10, messageSize: LONGEST }) : undefined
  mkdirSync(path('near'), { mode: 0o700 })
  const commands = {
    sender: [self, 'send', from === 'posix' ? start : near, path('sent'), String(messages)],
    receiver: [self, 'receive', near, path('received')],
    there: [kmq, 'bridge', '--config', path('there.json')],
    back: [kmq, 'bridge', '--config', path('back.json')],
  }
  const running = new Map()
  const kills = { sender: 0, receiver: 0, there: 0, back: 0, server: 0 }
  const failures = []
  let ending = false
  const begin = (role) => {
    const child = spawn(process.execPath, commands[role], { stdio: ['ignore', 'ignore', 'pipe'] })
    let said = ''
    child.stderr.on('data', (text) => {
      said = `${said}${text}`.slice(-2000)
    })
    const ended = new Promise((resolve) => child.on('close', (code, signal) => resolve({ code, signal })))
    void ended.then(({ code, signal }) => {
      running.delete(role)
      const isRight = signal === 'SIGKILL' || ending || (role === 'sender' && code === 0)
      if (!isRight) failures.push(`${role} ended by itself, with ${code ?? signal}: ${said}`)
    })
    running.set(role, { child, ended })
  }
  const clean = () => {
    ending = true
    for (const { child } of running.values()) child.kill('SIGKILL')
    if (queue !== undefined) PosixQueue.unlink(name)
    rmSync(directory, { recursive: true, force: true, maxRetries: 5 })
  }
  process.once('exit', clean)
  const [sent, received] = ['sent', 'received'].map((file) => follow(path(file)))
  const judge = new Judge()
  let confirmed = 0
  let progress = performance.now()
  let largest = 0
  const look = () => {
    const before = confirmed + judge.seen
    for (const line of sent.take()) confirmed = Math.max(confirmed, Number(line) + 1)
    for (const line of received.take()) judge.add(line)
    if (confirmed + judge.seen > before) progress = performance.now()
    for (const role of ['there', 'back']) largest = Math.max(largest, memoryOf(running.get(role)?.child.pid))
  }
  const began = performance.now()
  for (const role of Object.keys(commands)) begin(role)
  const isGoing = (patience) =>
    judge.seen < messages && failures.length === 0 && performance.now() - progress < patience
  // What is left in the end has time to come, without more kills.
  while (isGoing(PATIENCE) && judge.seen < messages * 0.98) {
    await sleep(Math.random() * 2 * every)
    look()
    const role = any(confirmed === messages ? ['receiver', 'there', 'back'] : ['sender', 'receiver', 'there', 'back'])
    if (server !== undefined && Math.random() < 0.05) {
      kills.server++
      await server.kill()
      await sleep(Math.random() * every)
      await server.start()
    } else if (running.has(role)) {
      kills[role]++
      const { child, ended } = running.get(role)
      child.kill('SIGKILL')
      await ended
      begin(role)
    }
  }
  progress = performance.now()
  const mayBeLost = () => from === 'posix' && confirmed === messages && messages - judge.seen <= kills.there
  while (isGoing(mayBeLost() ? LAST : PATIENCE)) {
    await sleep(50)
    look()
  }
  // Whatever is on its way again has time to come.
  await sleep(500)
  look()
  const seconds = (performance.now() - began) / 1000
  const missing = judge.missing(confirmed)
  // The kernel gives no ids: a bridge may be killed with one message in hand, a sender before it has written one down.
  const [most, twice] = from === 'posix' ? [kills.there, kills.sender] : [0, 0]
  const wrong = [...failures, ...judge.wrong, ...(judge.doubled.length > twice ? judge.doubled : [])]
  if (missing.length > most) wrong.push(`${missing.length} are lost, such as ${missing.slice(0, 5).join(', ')}`)
  if (confirmed < messages) wrong.push(`only ${confirmed} of ${messages} were sent`)
  if (far === 'local' && from === 'local' && judge.outOfOrder > 0) wrong.push(`${judge.outOfOrder} came out of order`)
  for (const line of wrong.slice(0, 10)) console.log(line)
  const times = Object.entries(kills).map(([role, count]) => `${role} ${count}`)
  console.log(`killed: ${times.join(', ')}; a bridge had ${Math.round(largest / 1024)} MB at most`)
  const rate = Math.round(judge.seen / seconds)
  console.log(
    `${confirmed} confirmed, ${judge.seen} received (${rate}/s there and back), ${judge.again} again, ` +
      `${judge.outOfOrder} out of order, ${missing.length} lost, ${wrong.length} wrong`,
  )
  ending = true
  for (const { child } of running.values()) child.kill('SIGKILL')
  await Promise.all([...running.values()].map(({ ended }) => ended))
  for (const file of [sent, received]) file.close()
  await close()
  await queue?.close()
  process.exitCode = wrong.length > 0 ? 1 : 0
}

/** The resident memory of a process, in KiB. */
function memoryOf(pid) {
  try {
    return Number(/VmRSS:\s*(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1] ?? 0)
  } catch {
    return 0
  }
}

const [what, ...rest] = process.argv.slice(2)
if (what === 'send') await send(rest[0], rest[1], Number(rest[2]))
else if (what === 'receive') await receive(rest[0], rest[1])
else if (process.argv[1] === self) {
  const { values } = parseArgs({
    options: {
      messages: { type: 'string', default: '20000' },
      far: { type: 'string', default: 'local' },
      from: { type: 'string', default: 'local' },
      every: { type: 'string', default: '300' },
      help: { type: 'boolean', default: false },
    },
  })
  const { far, from } = values
  if (values.help) console.log(help)
  else if (!['local', 'redis', 'nats', 'amqp'].includes(far) || !['local', 'posix'].includes(from)) {
    console.error(help)
    process.exitCode = 2
  } else await chaos({ messages: countOf(values.messages), far, from, every: countOf(values.every) })
}
