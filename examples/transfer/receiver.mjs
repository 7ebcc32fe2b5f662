// The child of transfer.mjs: writes the text to one file and the order in which
// messages arrived to another.
import { createWriteStream } from 'node:fs'
import { createHistogram } from 'node:perf_hooks'
import { finished, pipeline } from 'node:stream/promises'
import { families } from './families.mjs'
import { decode, END, Reassembly } from './messages.mjs'

const CHUNK = 65536

const latency = createHistogram()
let firstSentAt
let lastReceivedAt

/** The text as far as it is complete, in chunks. */
async function* receiveText(queue, log) {
  const reassembly = new Reassembly()
  let pieces = []
  let length = 0
  for await (const batch of batches(queue)) {
    lastReceivedAt = process.hrtime.bigint()
    for (const received of batch) {
      const message = decode(received.data)
      if (message.kind === END) {
        yield Buffer.concat(pieces)
        return
      }
      if (message.sequence === 0) firstSentAt = message.sentAt
      latency.record(lastReceivedAt - message.sentAt)
      const rank = rankOf(received)
      log.write(`${message.sequence} ${rank}\n`)
      for (const piece of reassembly.add(message)) {
        pieces.push(piece)
        length += piece.length
      }
    }
    if (length < CHUNK) continue
    yield Buffer.concat(pieces)
    pieces = []
    length = 0
  }
}

const [, , textPath, logPath, family, id] = process.argv
const { connect, batches, rankOf, discard } = families[family]
const queue = connect(id)

// Without its parent it would wait for ever, and nobody would remove the queue.
const leave = () => {
  discard(queue)
  process.exit(1)
}
process.once('disconnect', leave)
if (!process.connected) leave()
// Sending fails when the parent is gone; 'disconnect' tells of that.
const tell = (message) => process.send(message, () => {})

const log = createWriteStream(logPath)
tell('ready')
await pipeline(receiveText(queue, log), createWriteStream(textPath))
await finished(log.end())
await discard(queue) // all of it has come, so it does not take the parent for that

const microseconds = (percentile) => latency.percentile(percentile) / 1000
tell({
  messages: latency.count,
  seconds: Number(lastReceivedAt - firstSentAt) / 1e9,
  latency: {
    p50: microseconds(50),
    p90: microseconds(90),
    p99: microseconds(99),
    'p99.9': microseconds(99.9),
    max: microseconds(100),
  },
})
process.removeAllListeners('disconnect').disconnect()
