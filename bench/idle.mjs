// Prints how much CPU time a process uses that does nothing, in microseconds a second.
//
//   node idle.mjs 'posix, waiting' SECONDS
import { setTimeout as sleep } from 'node:timers/promises'
import { PosixQueue, SysvQueue } from 'kernelmq'

const [state, seconds] = process.argv.slice(2)
const name = `/kernelmq-bench-idle-${process.pid}`

function open() {
  if (state.startsWith('posix')) {
    const queue = PosixQueue.open(name, { create: true, maxMessages: 10, messageSize: 64 })
    PosixQueue.unlink(name)
    return { queue, end: () => queue.close() }
  }
  if (!state.startsWith('sysv')) return undefined
  const queue = SysvQueue.open('private')
  return { queue, end: () => queue.remove() }
}

const opened = open()
const waiting = state.endsWith('waiting') ? opened.queue.receive().catch(() => {}) : undefined
try {
  await sleep(300) // until it is idle
  const before = process.cpuUsage()
  await sleep(seconds * 1000)
  const { user, system } = process.cpuUsage(before)
  console.log((user + system) / seconds)
} finally {
  await opened?.end()
  await waiting
}
