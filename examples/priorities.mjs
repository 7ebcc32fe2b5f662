// Priorities: the highest is received first; within one priority, the oldest.
import { PosixQueue } from 'kernelmq'

const name = `/example-${process.pid}`
const queue = PosixQueue.open(name, { create: true, maxMessages: 6, messageSize: 64 })
try {
  await queue.send('write the report')
  await queue.send('water the plants')
  await queue.send('answer the phone', { priority: 10 })
  await queue.send('put out the fire', { priority: PosixQueue.limits().maxPriority })
  await queue.send('answer the door', { priority: 10 })

  for (const message of queue.tryReceiveMany()) {
    console.log(`${message.priority}`.padStart(5), message.text())
  }
} finally {
  queue.close()
  PosixQueue.unlink(name)
}
