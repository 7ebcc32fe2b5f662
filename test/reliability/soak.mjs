#!/usr/bin/env node
// Sends very many messages from one process to another, in all ways, and verifies each.
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync } from 'node:fs'
import { setImmediate as turn } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { countOf, families, familiesOf, TAGS } from './families.mjs'
import { LONGEST, read, write } from './numbered.mjs'

const help = `npm run soak -- [--messages <count>] [--family posix|sysv|both]

One process sends --messages messages (default 1m; k and m are thousands and millions) through a queue of each family
to another one: sizes of 12 to ${LONGEST - 1} bytes, ${TAGS} priorities or types, in all ways to send and to receive, in turn. Each is
verified: nothing is lost, doubled, changed, or out of order within its priority or type. What both processes use at the
end is compared with what they used after the first 100,000 messages. It ends with code 1 if anything was wrong.`

const FIRST = 100_000
/** Messages that pass before the next way has its turn. */
const SHIFT = 5000
/** Bytes that JavaScript may use more at the end than after the first messages. */
const MORE = 4 * 2 ** 20
/** The same for what is resident outside V8's heap: what the addon allocates is there, and what a sanitizer keeps. */
const MORE_OUTSIDE = 64 * 2 ** 20 * Number(process.env.TEST_OVERHEAD ?? 1)

async function usage() {
  for (let i = 0; i < 3; i++) {
    globalThis.gc()
    await turn()
  }
  const { rss, heapTotal, heapUsed, external } = process.memoryUsage()
  const count = (directory) => readdirSync(directory).length
  return {
    used: heapUsed + external,
    rss,
    outside: rss - heapTotal,
    descriptors: count('/proc/self/fd'),
    threads: count('/proc/self/task'),
  }
}

async function sender(family, name, total) {
  const { open, optionsOf } = families[family]
  const queue = open(name)
  const buffer = Buffer.alloc(LONGEST)
  const numbers = Array(TAGS).fill(0)
  let sent = 0
  const next = () => {
    const tag = (sent++ * 7) % TAGS
    return { data: write(buffer, tag, numbers[tag]++), ...optionsOf(tag) }
  }
  function* some(count) {
    for (let i = 0; i < count; i++) yield next()
  }
  const one = (call) => async (count) => {
    for (const { data, ...options } of some(count)) await call(data, options)
  }
  const ways = [
    (count) => queue.sendMany(some(count)),
    one((data, options) => queue.send(data, options)),
    one((data, options) => queue.sendSync(data, options)),
    one((data, options) => queue.trySend(data, options) || queue.send(data, options)),
  ]
  let first
  for (let shift = 0; sent < total; shift++) {
    await ways[shift % ways.length](Math.min(SHIFT, total - sent))
    if (first === undefined && sent >= Math.min(FIRST, total)) first = await usage()
  }
  queue.close()
  process.send({ first, last: await usage() })
}

async function receiver(family, name, total) {
  const { open, tagOf } = families[family]
  const queue = open(name)
  const numbers = Array(TAGS).fill(0)
  let received = 0
  const take = (message) => {
    const found = read(message.data)
    if (found === undefined) throw new Error(`message ${received} is changed`)
    const tag = tagOf(message)
    if (found.source !== tag) throw new Error(`message ${received} was sent with ${found.source}, came with ${tag}`)
    if (found.number !== numbers[tag]) {
      throw new Error(
        `number ${found.number} came where ${numbers[tag]} of ${tag} was due: lost, doubled or out of order`,
      )
    }
    numbers[tag]++
    received++
  }
  const until = (end, step) => async () => {
    while (received < end()) await step(end() - received)
  }
  let limit = 0
  const end = () => limit
  const ways = [
    async () => {
      for await (const message of queue) {
        take(message)
        if (received === limit) break
      }
    },
    async () => {
      for await (const batch of queue.batches({ max: 7 })) {
        batch.forEach(take)
        if (received + 7 > limit) break
      }
    },
    until(end, async () => take(await queue.receive())),
    until(end, async (max) => (await queue.receiveMany({ max })).forEach(take)),
    until(end, () => take(queue.receiveSync())),
    until(end, async (max) => {
      const messages = queue.tryReceiveMany(max)
      messages.forEach(take)
      if (messages.length === 0) take(await queue.receive())
    }),
    async () => {
      const stop = new AbortController()
      const ended = queue.consume(
        (message) => {
          take(message)
          if (received === limit) stop.abort()
        },
        { signal: stop.signal },
      )
      await ended.catch((error) => {
        if (error.name !== 'AbortError') throw error
      })
    },
  ]
  let first
  for (let shift = 0; received < total; shift++) {
    limit = Math.min(total, received + SHIFT)
    await ways[shift % ways.length]()
    if (first === undefined && received >= Math.min(FIRST, total)) first = await usage()
    if (received % 1e6 < SHIFT) process.send({ received })
  }
  if (queue.tryReceive() !== undefined) throw new Error('there are more messages than were sent')
  queue.close()
  process.send({ received, first, last: await usage() })
}

const mib = (bytes) => `${(bytes / 2 ** 20).toFixed(1)} MiB`

function judge(role, { first, last }) {
  console.log(
    `  ${role}: in use ${mib(first.used)}, then ${mib(last.used)}; resident ${mib(first.rss)}, then ${mib(last.rss)}; ` +
      `outside V8's heap ${mib(first.outside)}, then ${mib(last.outside)}; ` +
      `descriptors ${first.descriptors}, then ${last.descriptors}; threads ${first.threads}, then ${last.threads}`,
  )
  const flat = last.used <= first.used + MORE && last.outside <= first.outside + MORE_OUTSIDE
  return flat && last.descriptors <= first.descriptors && last.threads <= first.threads
}

async function soak(family, total) {
  const queue = families[family].make(10, LONGEST)
  const children = []
  const start = performance.now()
  const clean = () => {
    for (const child of children) child.kill('SIGKILL')
    queue.remove()
  }
  process.once('exit', clean)
  try {
    const run = async (role) => {
      const child = fork(fileURLToPath(import.meta.url), [role, family, queue.name, total], {
        execArgv: ['--expose-gc'],
      })
      children.push(child)
      let result
      child.on('message', (message) => {
        result = message
        if (message.last === undefined) {
          const rate = Math.round(message.received / ((performance.now() - start) / 1000))
          console.log(
            `  ${message.received.toLocaleString('en-US')} messages, ${rate.toLocaleString('en-US')} a second`,
          )
        }
      })
      const [code, signal] = await once(child, 'close')
      if (code !== 0) throw new Error(`the ${role} ended with ${code ?? signal}`)
      return result
    }
    const [sent, received] = await Promise.all([run('sender'), run('receiver')])
    const seconds = (performance.now() - start) / 1000
    console.log(
      `${family}: ${received.received.toLocaleString('en-US')} messages in ${seconds.toFixed(1)} s, all in order`,
    )
    const flat = [judge('sender', sent), judge('receiver', received)].every(Boolean)
    if (!flat) console.log('  NOT FLAT')
    return flat
  } finally {
    process.off('exit', clean)
    clean()
  }
}

const [role, family, name, total] = process.argv.slice(2)
if (role === 'sender') await sender(family, name, Number(total))
else if (role === 'receiver') await receiver(family, name, Number(total))
else {
  const { values } = parseArgs({
    options: {
      messages: { type: 'string', default: '1m' },
      family: { type: 'string', default: 'both' },
      help: { type: 'boolean', short: 'h', default: false },
    },
  })
  if (values.help) console.log(help)
  else {
    for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => process.exit(1))
    for (const one of familiesOf(values.family)) {
      if (!(await soak(one, countOf(values.messages)))) process.exitCode = 1
    }
  }
}
