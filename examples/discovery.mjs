// What queues there are, what they cost, and who comes and goes. Names are read
// from the mqueue file system; where it is not mounted, only these calls fail.
import { PosixQueue } from 'kernelmq'

const name = `/example-${process.pid}`
const size = { maxMessages: 4, messageSize: 64 }

async function follow(events) {
  for await (const event of events) {
    if (event.name !== name) continue // somebody else's
    console.log('seen:', event.type, event.name)
    if (event.type === 'removed') return
  }
}

async function discover() {
  const watching = follow(PosixQueue.watch())
  const appeared = PosixQueue.waitFor(name, { timeout: 5000 })

  const queue = PosixQueue.open(name, { create: true, ...size })
  try {
    await appeared
    console.log('it is there:', name)
    await queue.send('hello')
    console.log((await PosixQueue.list()).find((row) => row.name === name))
  } finally {
    queue.close()
    PosixQueue.unlink(name)
  }
  await watching
}

console.log('limits:', PosixQueue.limits())
console.log(`a queue of 4 messages of 64 bytes costs ${PosixQueue.cost(size)} bytes`)
try {
  await discover()
} catch (error) {
  if (error.code !== 'ERR_MQ_NOT_MOUNTED') throw error
  console.log(`${error.message}\n${error.hint}`)
}
