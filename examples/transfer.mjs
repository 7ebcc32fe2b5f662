// Sends every line of a real text through a POSIX queue to another process, and
// proves that all of it arrived, unchanged and in order.
//
//   node examples/transfer.mjs [--megabytes 8] [--timeout 120] [--keep]
//
// --megabytes  how much text to send, at least
// --timeout    seconds after which to give up
// --keep       do not delete the text that was sent and what the receiver wrote
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { constants, tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { SingleBar } from 'cli-progress'
import { PosixQueue } from 'kernelmq'
import { toMessages } from './transfer/messages.mjs'
import { collectText } from './transfer/text.mjs'
import { checkOrder, checkText } from './transfer/verify.mjs'

const here = (path) => fileURLToPath(new URL(path, import.meta.url))
const count = (number) => Math.round(number).toLocaleString('en-US')

/** Sends the text to a child process that writes it to `received` and the order of arrival to `log`. */
async function transfer(text, received, log, stop) {
  const { signal } = stop
  const queue = PosixQueue.open(`/transfer-${process.pid}`, { exclusive: true, maxMessages: 10, messageSize: 256 })
  // The child gets the descriptor, so nobody needs the name: without it the
  // queue goes with its last user, however these two processes end.
  PosixQueue.unlink(queue.path)
  const child = spawn(process.execPath, [here('transfer/receiver.mjs'), received, log], {
    stdio: ['ignore', 'inherit', 'inherit', queue.fd, 'ipc'],
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

  const priorities = []
  let position = 0
  function* messages() {
    for (const message of toMessages(text, queue.attributes.messageSize)) {
      priorities.push(message.priority)
      position = message.position
      yield message
    }
    priorities.pop() // the last message is the end mark
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
  try {
    await once(child, 'message', { signal }) // it is ready
    console.log(`receiver: process ${child.pid}`)
    bar.start(text.length, 0)
    await queue.sendMany(messages(), { signal })
    const [report] = await once(child, 'message', { signal })
    bar.update(position)
    const code = await closed
    if (code !== 0) throw new Error(`the receiver ended with exit code ${code}`)
    return { ...report, priorities }
  } catch (error) {
    throw signal.aborted ? signal.reason : error
  } finally {
    clearInterval(timer)
    bar.stop()
    stop.abort() // kills the child if it is still there
    await closed
    queue.close()
  }
}

function positive(name, text) {
  const value = Number(text)
  if (value > 0 && value < 1e6) return value
  throw new Error(`--${name} must be a positive number, not '${text}'`)
}

async function main(stop) {
  const { values } = parseArgs({
    options: {
      megabytes: { type: 'string', default: '8' },
      timeout: { type: 'string', default: '120' },
      keep: { type: 'boolean', default: false },
    },
  })
  const bytes = positive('megabytes', values.megabytes) * 1e6
  const timeout = positive('timeout', values.timeout)
  const timer = setTimeout(() => stop.abort(new Error(`not done after ${timeout} s`)), timeout * 1000)
  const folder = mkdtempSync(join(tmpdir(), 'kernelmq-transfer-'))
  const [source, received, log] = ['source.txt', 'received.txt', 'arrivals.txt'].map((name) => join(folder, name))
  try {
    const { text, origin } = collectText(here('..'), bytes)
    writeFileSync(source, text)
    console.log(`text: ${count(text.length)} bytes, of ${origin}`)
    const { messages, seconds, latency, priorities } = await transfer(text, received, log, stop)

    const digest = checkText(readFileSync(received), text)
    const order = checkOrder(readFileSync(log, 'utf8'), priorities)
    console.log(`text: the same, SHA-256 ${digest}`)
    console.log(
      `order: as sent within each of ${order.priorities} priorities; ${count(order.overtaking)} messages overtook others`,
    )
    console.log(
      `${count(messages)} messages in ${seconds.toFixed(2)} s: ` +
        `${count(messages / seconds)} messages/s, ${(text.length / 1e6 / seconds).toFixed(1)} MB/s`,
    )
    const times = Object.entries(latency).map(([name, time]) => `${name} ${count(time)}`)
    console.log(`latency under this load, from sendMany() to arrival, in microseconds: ${times.join(', ')}`)
  } finally {
    clearTimeout(timer)
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
  await main(stop)
  exitCode = 0
} catch (error) {
  console.error(`transfer failed: ${error.message}`)
}
process.exitCode = exitCode
