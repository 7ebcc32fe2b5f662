#!/usr/bin/env node
// Kills senders and receivers of a queue at random moments, and judges by what they had written down.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  appendFileSync,
  closeSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { countOf, families, familiesOf } from './families.mjs'
import { judge } from './ledger.mjs'
import { LONGEST, read, write } from './numbered.mjs'

const help = `npm run chaos -- [--kills <count>] [--family posix|sysv|both] [--of senders|all|both]

Two senders and two receivers, each in a process and in a way of its own, work on one queue of each family; one after
another is killed (SIGKILL) at a random moment and replaced, --kills times (default 200; k is thousands), first only
of the senders, then of all. Each writes down what it has sent, once the send has returned, or received. Nothing may be
doubled, torn or out of order; nothing may be lost where only senders are killed, and no more than the killed receivers
held where all are; and the queue has to work at the end. It ends with code 1 if anything was wrong.`

/** At most so many messages at once, in ways that take several. */
const BATCH = 4

const sending = {
  async send(queue, next, done) {
    for (;;) {
      await queue.send(next())
      done(1)
    }
  },
  async sendMany(queue, next, done) {
    for (;;) {
      await queue.sendMany(Array.from({ length: BATCH }, () => Buffer.from(next())))
      done(BATCH)
    }
  },
  sendSync(queue, next, done) {
    for (;;) {
      queue.sendSync(next())
      done(1)
    }
  },
}

/** How each way receives, and how many messages it may hold that it has not passed on. */
const receiving = {
  'for await': {
    holds: 1,
    async run(queue, take) {
      for await (const message of queue) take(message)
    },
  },
  receiveSync: {
    holds: 1,
    run(queue, take) {
      for (;;) take(queue.receiveSync())
    },
  },
  consume: { holds: 1, run: (queue, take) => queue.consume(take) },
  receiveMany: {
    holds: BATCH,
    async run(queue, take) {
      for (;;) for (const message of await queue.receiveMany({ max: BATCH })) take(message)
    },
  },
  batches: {
    holds: BATCH,
    async run(queue, take) {
      for await (const batch of queue.batches({ max: BATCH })) for (const message of batch) take(message)
    },
  },
  stream: {
    holds: 2 * BATCH,
    async run(queue, take) {
      for await (const message of queue.createReadStream({ highWaterMark: BATCH })) take(message)
    },
  },
}

const any = (list) => list[Math.floor(Math.random() * list.length)]

async function send(queue, way, source, log) {
  const buffer = Buffer.alloc(LONGEST)
  let number = 0
  let confirmed = 0
  await sending[way](
    queue,
    () => write(buffer, source, number++),
    (count) => {
      let lines = ''
      for (let i = 0; i < count; i++) lines += `${confirmed++}\n`
      writeSync(log, lines)
    },
  )
}

const receive = (queue, way, log) =>
  receiving[way].run(queue, (message) => {
    const found = read(message.data)
    writeSync(log, found === undefined ? 'torn\n' : `${found.source} ${found.number}\n`)
  })

/** Whole lines: the last one may have been cut off. */
const linesOf = (path) => readFileSync(path, 'latin1').split('\n').slice(0, -1)

const messageOf = (line) => {
  const [source, number] = line.split(' ').map(Number)
  return line === 'torn' ? undefined : { source, number }
}

/** Resolves when nothing is lost, or the receivers have written nothing down for ten seconds. */
async function drained(directory, judged) {
  const size = () => readdirSync(directory).reduce((sum, name) => sum + statSync(join(directory, name)).size, 0)
  for (let quiet = 0, before = size(); judged().lost > 0 && quiet < 100; ) {
    await sleep(100)
    const now = size()
    quiet = now === before ? quiet + 1 : 0
    before = now
  }
}

async function chaos(family, kills, victims) {
  const queue = families[family].make(8, LONGEST)
  const directory = mkdtempSync(join(tmpdir(), 'kernelmq-chaos-'))
  const processes = []
  const start = (role) => {
    const index = processes.length
    const way = any(Object.keys(role === 'sender' ? sending : receiving))
    const path = join(directory, String(index))
    appendFileSync(path, '')
    const child = spawn(
      process.execPath,
      [fileURLToPath(import.meta.url), role, family, queue.name, way, index, path],
      {
        stdio: ['ignore', 'pipe', 'inherit'],
      },
    )
    const one = { role, way, path, child, index, started: once(child.stdout, 'data'), ended: once(child, 'close') }
    processes.push(one)
    return one
  }
  const kill = async ({ child, ended }) => {
    child.kill('SIGKILL')
    const [code, signal] = await ended
    if (signal !== 'SIGKILL') throw new Error(`a process ended by itself, with ${code ?? signal}`)
  }
  const clean = () => {
    for (const { child } of processes) child.kill('SIGKILL')
    rmSync(directory, { recursive: true, force: true })
    queue.remove()
  }
  process.once('exit', clean)
  try {
    const alive = ['sender', 'receiver', 'sender', 'receiver'].map(start)
    const mortal = [...alive.keys()].filter((at) => victims === 'all' || alive[at].role === 'sender')
    for (let i = 0; i < kills; i++) {
      const at = any(mortal)
      await alive[at].started
      await sleep(Math.random() * 10)
      await kill(alive[at])
      alive[at] = start(alive[at].role)
    }
    const of = (role) => processes.filter((one) => one.role === role)
    const last = []
    const ledger = () => ({
      confirmed: new Map(of('sender').map(({ index, path }) => [index, linesOf(path).map(Number)])),
      received: [...of('receiver').map(({ path }) => linesOf(path).map(messageOf)), last],
      inHand: of('receiver').map(({ way }) => (victims === 'senders' ? 0 : receiving[way].holds)),
    })
    for (const one of alive) if (one.role === 'sender') await kill(one)
    if (victims === 'senders') await drained(directory, () => judge(ledger()))
    for (const one of alive) if (one.role === 'receiver') await kill(one)
    const rest = families[family].open(queue.name)
    for (let message = rest.tryReceive(); message !== undefined; message = rest.tryReceive())
      last.push(read(message.data))
    rest.sendSync('works')
    if (rest.receiveSync().text() !== 'works') throw new Error('the queue does not work any more')
    await rest.close()
    const { confirmed, received, inHand } = ledger()
    const { wrong, lost } = judge({ confirmed, received, inHand })
    const count = (lists) => [...lists].reduce((sum, list) => sum + list.length, 0).toLocaleString('en-US')
    if (received.every((messages) => messages.length === 0)) wrong.push('nothing was received')
    const held = inHand.reduce((sum, most) => sum + most, 0)
    console.log(
      `${family}: ${kills} kills of ${victims}, ${of('sender').length} senders and ${inHand.length} receivers in all; ` +
        `${count(confirmed.values())} messages confirmed, ${count(received)} received, ` +
        `${lost} lost with receivers that held up to ${held}; ${wrong.length} wrong`,
    )
    for (const what of wrong.slice(0, 20)) console.log(`  WRONG: ${what}`)
    return wrong.length === 0
  } finally {
    process.off('exit', clean)
    clean()
  }
}

const [role, family, name, way, index, path] = process.argv.slice(2)
if (role === 'sender' || role === 'receiver') {
  const queue = families[family].open(name)
  const log = openSync(path, 'a')
  writeSync(1, 'started')
  if (role === 'sender') await send(queue, way, Number(index), log)
  else await receive(queue, way, log)
  closeSync(log)
} else {
  const { values } = parseArgs({
    options: {
      kills: { type: 'string', default: '200' },
      family: { type: 'string', default: 'both' },
      of: { type: 'string', default: 'both' },
      help: { type: 'boolean', short: 'h', default: false },
    },
  })
  if (values.help) console.log(help)
  else {
    for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => process.exit(1))
    const rounds = { senders: ['senders'], all: ['all'], both: ['senders', 'all'] }[values.of]
    if (rounds === undefined) throw new RangeError(`--of is one of senders, all and both, not ${values.of}`)
    for (const one of familiesOf(values.family)) {
      for (const victims of rounds) {
        if (!(await chaos(one, countOf(values.kills), victims))) process.exitCode = 1
      }
    }
  }
}
