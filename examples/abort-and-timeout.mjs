// Giving up: by time, by an AbortSignal, or by closing the queue. What has been
// received is never lost by that.
import { PosixQueue } from 'kernelmq'

const name = `/example-${process.pid}`
const queue = PosixQueue.open(name, { create: true, maxMessages: 1, messageSize: 64 })
try {
  await queue.receive({ timeout: 50 }).catch((error) => console.log('nothing for 50 ms:', error.code))

  const stop = new AbortController()
  setTimeout(() => stop.abort('no longer needed'), 20)
  await queue.receive({ signal: stop.signal }).catch((error) => {
    console.log(`abort: ${error.name}, ${error.code}, because: ${error.cause}`)
  })

  // Sending gives up in the same way, here because the queue is full.
  await queue.send('the only one that fits')
  await queue.send('one too many', { timeout: 20 }).catch((error) => console.log('full:', error.code))

  // sendMany() says how far it came.
  queue.tryReceive()
  await queue.sendMany(['first', 'second', 'third'], { timeout: 20 }).catch((error) => {
    console.log(`${error.code} after ${error.sent} of 3`)
  })
  queue.tryReceive()

  // One signal may end many waits, and an iteration.
  const all = new AbortController()
  const waits = [queue.receive({ signal: all.signal }), queue.receive({ signal: all.signal })]
  all.abort()
  console.log('together:', (await Promise.allSettled(waits)).map(({ reason }) => reason.name).join(', '))

  // Closing rejects who waits, and simply ends an iteration.
  const waiting = queue.receive()
  setTimeout(() => queue.close(), 20)
  await waiting.catch((error) => console.log('closed:', error.code))
  for await (const message of queue) console.log('never seen', message)
  console.log('the iteration ended')
} finally {
  queue.close()
  PosixQueue.unlink(name)
}
