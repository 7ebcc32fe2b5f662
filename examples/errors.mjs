// Errors have a code to act on, and most have a hint that says what to do.
import { PosixQueue } from 'kernelmq'

const name = `/example-${process.pid}`
const queue = PosixQueue.open(name, { create: true, maxMessages: 2, messageSize: 64 })

async function show(what, attempt) {
  try {
    await attempt()
  } catch (error) {
    console.log(`${what}\n  ${error.name}: ${error.message}\n  ${error.hint ?? `code: ${error.code}`}`)
  }
}

try {
  await show('a name without its slash', () => PosixQueue.open('orders'))
  await show('a queue that is not there', () => PosixQueue.open(`${name}-other`))
  await show('a queue that is there', () => PosixQueue.open(name, { exclusive: true }))
  await show('a message that is too long', () => queue.send('x'.repeat(65)))
  await show('a queue that is too large', () => {
    PosixQueue.open(`${name}-other`, { create: true, maxMessages: 10_000_000, messageSize: 8192 })
  })
  await show('a priority that is too high', () => queue.send('x', { priority: 32_768 }))
  await show('no message in time', () => queue.receive({ timeout: 0 }))
  await show('sending with a reader', async () => {
    const reader = PosixQueue.open(name, { access: 'read' })
    try {
      await reader.send('x')
    } finally {
      reader.close()
    }
  })
  queue.close()
  await show('a queue that is closed', () => queue.send('x'))
} finally {
  queue.close()
  PosixQueue.unlink(name)
}
