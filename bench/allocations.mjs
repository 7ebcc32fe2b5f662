// Prints, for each way of receiving, how many allocations of the size of a message there are for each, and how many
// bytes of the heap it takes besides.
import { PosixQueue, SysvQueue } from 'kernelmq'

const SIZE = 8192
const MESSAGES = 400
const WARM_UP = 20_000

const name = `/kernelmq-bench-${process.pid}`
const bytes = Buffer.alloc(SIZE, 1)

/** Receive `total` messages, which are all kept, so that nothing is collected. */
const ways = {
  async receiveIntoSync(queue, total, keep) {
    const area = Buffer.alloc(SIZE)
    for (let i = 0; i < total; i++) {
      queue.sendSync(bytes)
      keep(queue.receiveIntoSync(area))
    }
  },
  async receiveSync(queue, total, keep) {
    for (let i = 0; i < total; i++) {
      queue.sendSync(bytes)
      keep(queue.receiveSync())
    }
  },
  async receive(queue, total, keep) {
    for (let i = 0; i < total; i++) {
      queue.sendSync(bytes)
      keep(await queue.receive())
    }
  },
  async 'for await'(queue, total, keep) {
    queue.sendSync(bytes)
    for await (const message of queue) {
      keep(message)
      if (--total === 0) break
      queue.sendSync(bytes)
    }
  },
  async batches(queue, total, keep) {
    queue.sendSync(bytes)
    for await (const [message] of queue.batches()) {
      keep(message)
      if (--total === 0) break
      queue.sendSync(bytes)
    }
  },
}

async function allocationsOf(queue, run) {
  await run(queue, WARM_UP, () => {})
  const kept = new Array(MESSAGES)
  let count = 0
  gc()
  await new Promise(setImmediate) // what is collected is freed in the background
  gc()
  const before = process.memoryUsage()
  await run(queue, MESSAGES, (message) => {
    kept[count++] = message
  })
  const after = process.memoryUsage()
  return {
    ofMessageSize: (after.arrayBuffers - before.arrayBuffers) / SIZE / kept.length,
    heapBytes: (after.heapUsed - before.heapUsed) / kept.length,
  }
}

const queues = {
  posix() {
    const queue = PosixQueue.open(name, { create: true, maxMessages: 1, messageSize: SIZE })
    PosixQueue.unlink(name)
    return { queue, remove: () => queue.close() }
  },
  sysv() {
    const queue = SysvQueue.open('private')
    return { queue, remove: () => queue.remove() }
  },
}

const found = []
for (const [family, open] of Object.entries(queues)) {
  for (const [way, run] of Object.entries(ways)) {
    const { queue, remove } = open()
    try {
      found.push({ family, way, ...(await allocationsOf(queue, run)) })
    } finally {
      remove()
    }
  }
}
console.log(JSON.stringify(found))
