// Blocking send and receive: the thread sleeps, or spins, until the call is done.
// This is the fastest way to answer, and one for worker threads: the event loop
// of the thread stands still meanwhile.
import { once } from 'node:events'
import { isMainThread, Worker, workerData } from 'node:worker_threads'
import { PosixQueue } from 'kernelmq'

const requestName = `/example-${process.pid}-requests`
const replyName = `/example-${process.pid}-replies`
const size = { create: true, maxMessages: 4, messageSize: 64 }

/** The worker: replies to each request until an empty one comes. */
function serve({ spin }) {
  const requests = PosixQueue.open(requestName, { access: 'read' })
  const replies = PosixQueue.open(replyName, { access: 'write' })
  try {
    for (;;) {
      const request = requests.receiveSync({ spin }).text()
      if (request === '') return
      replies.sendSync(request.toUpperCase())
    }
  } finally {
    requests.close()
    replies.close()
  }
}

/** Microseconds from request to reply, the median of many. */
function measure(requests, replies, spin) {
  const rounds = 2000
  const times = Array.from({ length: rounds }, () => {
    const start = performance.now()
    requests.sendSync('ping')
    replies.receiveSync({ spin })
    return performance.now() - start
  })
  return 1000 * times.sort((a, b) => a - b)[rounds / 2]
}

async function main() {
  const requests = PosixQueue.open(requestName, size)
  const replies = PosixQueue.open(replyName, size)
  try {
    // With `spin` a receiver tries again for so many microseconds before it
    // sleeps: that saves the time of waking up, and costs a core.
    for (const spin of [0, 100]) {
      const worker = new Worker(new URL(import.meta.url), { workerData: { spin } })
      await once(worker, 'online')
      requests.sendSync('hello')
      console.log('the worker replied:', replies.receiveSync({ timeout: 60_000 }).text())
      console.log(`spin ${spin}: a round trip takes ${measure(requests, replies, spin).toFixed(1)} microseconds`)
      requests.sendSync('')
      await once(worker, 'exit')
    }

    try {
      replies.receiveSync({ timeout: 50 })
    } catch (error) {
      console.log('nothing for 50 ms:', error.code)
    }
  } finally {
    requests.close()
    replies.close()
    PosixQueue.unlink(requestName)
    PosixQueue.unlink(replyName)
  }
}

if (isMainThread) await main()
else serve(workerData)
