import { lookup } from 'node:dns/promises'
import { readFile } from 'node:fs/promises'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { runToEnd } from './support.ts'
import { countThreads, openSysv } from './sysv-support.ts'

test('16 pending receives delay neither files nor look-ups nor the loop, and each gets its message', async () => {
  const queues = Array.from({ length: 16 }, () => openSysv())
  const before = countThreads()
  const receives = queues.map((queue) => queue.receive())
  expect(countThreads()).toBe(before + 16)
  const lag = monitorEventLoopDelay({ resolution: 1 })
  lag.enable()
  // All of libuv's pool, and more: with one waiting there, these would not end.
  await Promise.all(
    Array.from({ length: 8 }, () => [readFile(fileURLToPath(import.meta.url)), lookup('localhost')]).flat(),
  )
  await sleep(100)
  lag.disable()
  expect(lag.percentile(50) / 1e6).toBeLessThan(20)
  for (const [index, queue] of queues.entries()) queue.trySend(`${index}`)
  const messages = await Promise.all(receives)
  expect(messages.map((message) => message.text())).toEqual(queues.map((_, index) => `${index}`))
  expect(countThreads()).toBe(before)
})

test('a wait that is given up leaves no thread behind', async () => {
  const queue = openSysv()
  const before = countThreads()
  const stop = new AbortController()
  const waits = Array.from({ length: 8 }, (_, type) => queue.receive({ type: type + 1, signal: stop.signal }))
  expect(countThreads()).toBe(before + 8)
  const settled = Promise.allSettled(waits)
  stop.abort('enough')
  for (const outcome of await settled) {
    expect(outcome).toMatchObject({ status: 'rejected', reason: { code: 'ABORT_ERR', cause: 'enough' } })
  }
  expect(countThreads()).toBe(before)
})

const ends: Record<string, { code: number | null; signal: string | null; stderr?: RegExp }> = {
  exit: { code: 3, signal: null },
  natural: { code: 0, signal: null },
  uncaught: { code: 1, signal: null, stderr: /nobody catches this/ },
  SIGTERM: { code: null, signal: 'SIGTERM' },
  'worker-terminate': { code: 0, signal: null },
  'worker-exit': { code: 0, signal: null },
}
const stages = ['receive', 'send', 'cancelling', 'blocked', 'tryCatch']

test.each(stages.flatMap((stage) => Object.keys(ends).map((end) => [stage, end] as const)))(
  'in the stage "%s", the end "%s" takes less than a second and has its exit code',
  async (stage, end) => {
    const { stderr = /^$/, ...expected } = ends[end] ?? { code: -1, signal: null }
    const queue = openSysv()
    const outcome = await runToEnd('sysv-lifetime.mjs', [String(queue.id), stage, end])
    expect(outcome).toMatchObject(expected)
    expect(outcome.stderr).toMatch(stderr)
    expect(outcome.took).toBeLessThan(1000)
  },
)
