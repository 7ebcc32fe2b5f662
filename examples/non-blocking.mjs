// Non-blocking send and receive: a full or an empty queue is an answer, not an
// error. For loops that have other things to do, and for pollers.
import { PosixQueue } from 'kernelmq'

const name = `/example-${process.pid}`
const queue = PosixQueue.open(name, { create: true, maxMessages: 3, messageSize: 64 })
try {
  console.log('empty:', queue.tryReceive())

  let sent = 0
  while (queue.trySend(`reading ${sent}`)) sent++
  console.log(`full after ${sent} messages`)

  const message = queue.tryReceive()
  console.log('first out:', message.text())

  // Into a buffer of one's own, for the sake of speed: nothing is allocated.
  const buffer = Buffer.alloc(queue.attributes.messageSize)
  let length = queue.tryReceiveInto(buffer)
  while (length >= 0) {
    console.log(`into a buffer: '${buffer.toString('utf8', 0, length)}', priority ${queue.lastPriority}`)
    length = queue.tryReceiveInto(buffer)
  }

  // Bare readiness, for those who want to be told and then try by themselves.
  setTimeout(() => queue.trySend('the late one'), 20)
  await queue.waitReadable()
  console.log('readable:', queue.tryReceive().text())
} finally {
  queue.close()
  PosixQueue.unlink(name)
}
