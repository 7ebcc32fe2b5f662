// Many messages at once: one crossing into C++ for many system calls.
import { PosixQueue } from 'kernelmq'

const name = `/example-${process.pid}`
const queue = PosixQueue.open(name, { create: true, maxMessages: 8, messageSize: 64 })
try {
  // Takes any iterable, a generator too, and waits whenever the queue is full.
  function* measurements() {
    for (let index = 0; index < 20_000; index++) yield `measurement ${index}`
  }
  const sending = queue.sendMany(measurements())

  let received = 0
  let batches = 0
  for await (const batch of queue.batches()) {
    received += batch.length
    batches++
    if (received === 20_000) break
  }
  await sending
  console.log(`${received} messages in ${batches} batches`)

  // Messages of a batch may have priorities of their own.
  await queue.sendMany(['plain', { data: 'urgent', priority: 5 }, Buffer.from('bytes')])
  const messages = await queue.receiveMany({ max: 10 }) // waits for the first only
  console.log(messages.map((message) => `${message.text()} (${message.priority})`).join(', '))

  // As many as there is room for, and as many as there are.
  const wanted = Array.from({ length: 100 }, (_, index) => `${index}`)
  console.log(`${queue.trySendMany(wanted)} of ${wanted.length} had room`)
  console.log(`${queue.tryReceiveMany(5).length} taken, ${queue.tryReceiveMany().length} more`)
} finally {
  queue.close()
  PosixQueue.unlink(name)
}
