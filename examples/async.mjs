// Asynchronous send and receive: promises that wait on the event loop, so that
// everything else goes on meanwhile.
import { PosixQueue } from 'kernelmq'

const name = `/example-${process.pid}`
const queue = PosixQueue.open(name, { create: true, maxMessages: 4, messageSize: 128 })
try {
  const waiting = queue.receive() // nothing is there yet
  await queue.send('hello')
  console.log('a string:', (await waiting).text())

  await queue.send(JSON.stringify({ order: 17, items: ['tea', 'milk'] }))
  console.log('JSON:', (await queue.receive()).json())

  await queue.send(Buffer.of(0x6b, 0x6d, 0x71, 0x00))
  console.log('bytes:', (await queue.receive()).data)

  // Waiters are served in the order they came, and sends keep their order.
  const receivers = [1, 2, 3].map(async (number) => `receiver ${number} got ${(await queue.receive()).text()}`)
  await Promise.all(['a', 'b', 'c'].map((letter) => queue.send(letter)))
  console.log((await Promise.all(receivers)).join(', '))

  // Ten messages do not fit into a queue of four: the sends wait for room.
  const sent = Promise.all(Array.from({ length: 10 }, (_, index) => queue.send(`message ${index}`)))
  console.log('in the queue:', queue.attributes.messages)
  for (let index = 0; index < 10; index++) await queue.receive()
  await sent
  console.log('in the end:', queue.attributes.messages)
} finally {
  queue.close()
  PosixQueue.unlink(name)
}
