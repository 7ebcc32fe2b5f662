// consume() calls a handler for each message, several at once if wanted, until
// the queue is closed, a signal aborts or a handler fails.
import { setTimeout as sleep } from 'node:timers/promises'
import { PosixQueue } from 'kernelmq'

const name = `/example-${process.pid}`
const queue = PosixQueue.open(name, { create: true, maxMessages: 10, messageSize: 64 })
try {
  let running = 0
  let most = 0
  let done = 0
  const stop = new AbortController()
  const consuming = queue.consume(
    async (message) => {
      most = Math.max(most, ++running)
      await sleep(10) // the work
      running--
      if (++done === 40) stop.abort()
      if (done % 10 === 0) console.log(`${done} done, the last is '${message.text()}'`)
    },
    { concurrency: 4, signal: stop.signal },
  )
  await queue.sendMany(Array.from({ length: 40 }, (_, index) => `job ${index}`))
  await consuming.catch((error) => console.log(`stopped: ${error.name}; at most ${most} handlers ran at once`))

  // A handler that fails ends it; what was not taken stays in the queue.
  await queue.sendMany(['good', 'bad', 'never seen'])
  try {
    await queue.consume((message) => {
      if (message.text() === 'bad') throw new Error('cannot handle this')
    })
  } catch (error) {
    console.log(`failed: ${error.message}; still in the queue: ${queue.tryReceive().text()}`)
  }

  // Closing ends it without an error.
  const idle = queue.consume(() => {})
  queue.close()
  console.log('closed:', await idle)
} finally {
  queue.close()
  PosixQueue.unlink(name)
}
