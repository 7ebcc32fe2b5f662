// Streams, in object mode: a full queue holds the writing side back, a slow
// reader leaves messages in the queue.
import { Readable, Transform } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { PosixQueue } from 'kernelmq'

const name = `/example-${process.pid}`
const queue = PosixQueue.open(name, { create: true, maxMessages: 4, messageSize: 64 })
try {
  const words = 'the quick brown fox jumps over the lazy dog'.split(' ')
  const writing = pipeline(
    Readable.from(words),
    new Transform({
      objectMode: true,
      transform: (word, _encoding, callback) => callback(null, { data: word, priority: word.length }),
    }),
    queue.createWriteStream(),
  )

  const received = []
  // It ends when the queue is closed.
  await pipeline(queue.createReadStream({ highWaterMark: 4 }), async (messages) => {
    for await (const message of messages) {
      received.push(message.text())
      if (received.length === words.length) queue.close()
    }
  })
  await writing
  console.log('received:', received.join(' '))
  console.log('the same words:', received.toSorted().join() === words.toSorted().join())
} finally {
  queue.close()
  PosixQueue.unlink(name)
}
