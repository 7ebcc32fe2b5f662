// Sends every line of a real text to another process, through a POSIX queue and
// then through a System V queue, and proves that all of it arrived, unchanged and
// in order.
//
//   node examples/transfer.mjs [--family posix|sysv] [--megabytes 8] [--timeout 120] [--keep]
//
// --family     which of the two; both if it is missing
// --megabytes  how much text to send, at least
// --timeout    seconds after which to give up, for each
// --keep       do not delete the text that was sent and what the receiver wrote
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { constants, tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { SingleBar } from 'cli-progress'
import { families } from './transfer/families.mjs'
import { toMessages } from './transfer/messages.mjs'
import { collectText } from './transfer/text.mjs'
import { checkOrder, checkText } from './transfer/verify.mjs'

const here = (path) => fileURLToPath(new URL(path, import.meta.url))
const count = (number) => Math.round(number).toLocaleString('en-US')

/** Sends the text to a child process that writes it to `received` and the order of arrival to `log`. */
async function transfer(family, text, received, log, { signal: interrupted, timeout }) {
  const stop = new AbortController()
  const signal = AbortSignal.any([interrupted, stop.signal])
  const { messageSize, open, descriptor, outgoing, discard } = families[family]
  const queue = open()
  const child = spawn(process.execPath, [here('transfer/receiver.mjs'), received, log, family, String(queue.id)], {
    stdio: ['ignore', 'inherit', 'inherit', descriptor(queue), 'ipc'],
    signal,
    killSignal: 'SIGKILL',
  })
  const closed = new Promise((resolve) => {
    child.on('error', (error) => {
      stop.abort(error)
      if (child.pid === undefined) resolve() // it never ran, so that it does not close either
    })
    child.on('close', (code, killed) => {
      resolve(code)
      stop.abort(new Error(`the receiver ended too early, with ${killed ?? `exit code ${code}`}`))
    })
  })

  const ranks = []
  let position = 0
  function* messages() {
    for (const message of toMessages(text, messageSize)) {
      ranks.push(message.rank)
      position = message.position
      yield outgoing(message)
    }
    ranks.pop() // the last message is the end mark
  }

  const bar = new SingleBar({
    format: '[{bar}] {percentage}% of {total} MB, {duration_formatted}',
    formatValue: (value, _options, type) => (type === 'total' ? (value / 1e6).toFixed(1) : value),
    stream: process.stdout,
    hideCursor: true,
    clearOnComplete: !process.stdout.isTTY, // there it would add an empty line
    noTTYOutput: true,
    notTTYSchedule: 200,
  })
  const timer = setInterval(() => bar.update(position), 50)
  const limit = setTimeout(() => stop.abort(new Error(`not done after ${timeout} s`)), timeout * 1000)
  try {
    await once(child, 'message', { signal }) // it is ready
    console.log(`receiver: process ${child.pid}`)
    bar.start(text.length, 0)
    await queue.sendMany(messages(), { signal })
    const [report] = await once(child, 'message', { signal })
    bar.update(position)
    const code = await closed
    if (code !== 0) throw new Error(`the receiver ended with exit code ${code}`)
    return { ...report, ranks }
  } catch (error) {
    throw signal.aborted ? signal.reason : error
  } finally {
    clearInterval(timer)
    clearTimeout(limit)
    bar.stop()
    stop.abort() // kills the child if it is still there
    await closed
    await discard(queue)
  }
}

function positive(name, text) {
  const value = Number(text)
  if (value > 0 && value < 1e6) return value
  throw new Error(`--${name} must be a positive number, not '${text}'`)
}

function wanted(family) {
  if (family === undefined) return Object.keys(families)
  if (Object.hasOwn(families, family)) return [family]
  throw new Error(`--family must be ${Object.keys(families).join(' or ')}, not '${family}'`)
}

/** Checks what arrived, and says how fast it was. */
function verify(text, received, log, { messages, seconds, latency, ranks }) {
  const digest = checkText(received, text)
  const order = checkOrder(log, ranks)
  console.log(`text: the same, SHA-256 ${digest}`)
  console.log(`order: as sent within each of ${order.ranks} ranks; ${count(order.overtaking)} messages overtook others`)
  console.log(
    `${count(messages)} messages in ${seconds.toFixed(2)} s: ` +
      `${count(messages / seconds)} messages/s, ${(text.length / 1e6 / seconds).toFixed(1)} MB/s`,
  )
  const times = Object.entries(latency).map(([name, time]) => `${name} ${count(time)}`)
  console.log(`latency under this load, from sendMany() to arrival, in microseconds: ${times.join(', ')}`)
}

async function main(signal) {
  const { values } = parseArgs({
    options: {
      family: { type: 'string' },
      megabytes: { type: 'string', default: '8' },
      timeout: { type: 'string', default: '120' },
      keep: { type: 'boolean', default: false },
    },
  })
  const list = wanted(values.family)
  const bytes = positive('megabytes', values.megabytes) * 1e6
  const timeout = positive('timeout', values.timeout)
  const folder = mkdtempSync(join(tmpdir(), 'kernelmq-transfer-'))
  const [source, received, log] = ['source.txt', 'received.txt', 'arrivals.txt'].map((name) => join(folder, name))
  try {
    const { text, origin } = collectText(here('..'), bytes)
    writeFileSync(source, text)
    console.log(`text: ${count(text.length)} bytes, of ${origin}`)
    for (const family of list) {
      console.log(`through a ${families[family].title} queue`)
      const outcome = await transfer(family, text, received, log, { signal, timeout })
      verify(text, readFileSync(received), readFileSync(log, 'utf8'), outcome)
    }
  } finally {
    if (values.keep) console.log(`kept: ${folder}`)
    else rmSync(folder, { recursive: true })
  }
}

const stop = new AbortController()
let exitCode = 1
for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
  process.once(name, () => {
    exitCode = 128 + constants.signals[name]
    stop.abort(new Error(`interrupted by ${name}`))
  })
}
try {
  await main(stop.signal)
  exitCode = 0
} catch (error) {
  console.error(`transfer failed: ${error.message}`)
}
process.exitCode = exitCode
