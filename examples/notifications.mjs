// notifications(): the kernel tells when a message comes to the empty queue, by
// mq_notify(3). Nobody has to wait in a receive call for that. A queue has one
// registration in the whole system.
import { PosixQueue } from 'kernelmq'

const name = `/example-${process.pid}`
const queue = PosixQueue.open(name, { create: true, maxMessages: 4, messageSize: 64 })
const sender = PosixQueue.open(name, { access: 'write' })
try {
  let round = 0
  const timer = setInterval(() => {
    round++
    for (const item of ['a', 'b', 'c']) sender.trySend(`${round}${item}`)
  }, 20)

  for await (const _ of queue.notifications()) {
    // One event for any number of messages: take all that are there.
    const messages = queue.tryReceiveMany()
    console.log('told of:', messages.map((message) => message.text()).join(' '))
    if (round === 3) break // gives the registration back
  }
  clearInterval(timer)

  // Somebody else's registration is an error that says so.
  const mine = queue.notifications()
  try {
    sender.notifications()
  } catch (error) {
    console.log(`${error.code}: ${error.hint}`)
  }
  await mine.return()
} finally {
  queue.close()
  sender.close()
  PosixQueue.unlink(name)
}
