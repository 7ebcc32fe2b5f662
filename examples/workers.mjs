// Workers that share a queue: each opens it by name, and each message goes to
// one of them. It works the same between processes.
import { once } from 'node:events'
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads'
import { PosixQueue } from 'kernelmq'

const name = `/example-${process.pid}`

async function work() {
  const queue = PosixQueue.open(name, { access: 'read' })
  let count = 0
  let sum = 0
  try {
    for await (const message of queue) {
      const number = Number(message.text())
      if (number < 0) break // the end
      count++
      sum += number
    }
  } finally {
    queue.close()
  }
  parentPort.postMessage({ worker: workerData, count, sum })
}

async function main() {
  const queue = PosixQueue.open(name, { create: true, maxMessages: 10, messageSize: 16 })
  try {
    const workers = [1, 2].map((number) => new Worker(new URL(import.meta.url), { workerData: number }))
    const results = workers.map((worker) => once(worker, 'message'))
    await queue.sendMany(Array.from({ length: 10_000 }, (_, index) => `${index + 1}`))
    await queue.sendMany(workers.map(() => '-1'))
    let sum = 0
    for await (const [result] of results) {
      console.log(`worker ${result.worker} took ${result.count} messages`)
      sum += result.sum
    }
    console.log('the sum of all:', sum)
  } finally {
    queue.close()
    PosixQueue.unlink(name)
  }
}

await (isMainThread ? main() : work())
