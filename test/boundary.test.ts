import { type PosixQueue, QueueError, type SysvQueue } from 'kernelmq'
import { describe, expect, test } from 'vitest'
import { failureOf, openQueue } from './support.ts'
import { openSysv } from './sysv-support.ts'

const families: [string, () => PosixQueue | SysvQueue][] = [
  ['POSIX', () => openQueue()],
  ['System V', () => openSysv()],
]

describe.each(families)('a %s queue', (_, open) => {
  test('refuses what only looks like a signal, and no timer is left to fail later', async () => {
    const queue = open()
    const signal = { aborted: false } as AbortSignal
    expect(await failureOf(() => queue.receive({ timeout: 5, signal }))).toBeInstanceOf(TypeError)
    // An uncaught exception in the meantime would fail this test.
    expect(await failureOf(() => queue.receive({ timeout: 30 }))).toHaveProperty('code', 'ETIMEDOUT')
  })

  test('delivers what it took, though the signal does not let itself be left', async () => {
    const queue = open()
    const removeEventListener = () => {
      throw new Error('not now')
    }
    const signal = { aborted: false, addEventListener() {}, removeEventListener }
    const received = queue.receive({ signal: signal as unknown as AbortSignal })
    queue.trySend('kept')
    expect((await received).text()).toBe('kept')
  })

  test('rejects what comes after the close, though the loop is due for a turn', async () => {
    const queue = open()
    const other = { type: 5 } // what is sent meanwhile is not for it
    const waiting = failureOf(() => queue.receive(other))
    for (let sent = 0; sent < 300; sent++) {
      queue.trySend('x')
      queue.tryReceiveMany()
    }
    queue.close()
    for (const error of [await waiting, await failureOf(() => queue.receive(other))]) {
      expect(error).toHaveProperty('code', 'ERR_MQ_CLOSED')
    }
  })
})
