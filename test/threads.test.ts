// The threads that wait for System V queues: as few as can be, and gone when they have answered.
import { readFileSync } from 'node:fs'
import { setImmediate as turn } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { failureOf, isRoot, runFixture } from './support.ts'
import { countThreads, openSysv, threadsAre } from './sysv-support.ts'

test('threads are one for each kind of waiting, however many wait', async () => {
  const threads = countThreads()
  const [queue, full] = [openSysv(), openSysv({ maxBytes: 1 })]
  full.trySend('x')
  const codes = [
    ...Array.from({ length: 20 }, () => queue.receive({ type: 1 })),
    ...Array.from({ length: 20 }, () => queue.receive({ type: -2 })),
    ...Array.from({ length: 20 }, () => queue.receive({ type: 1, except: true })),
    ...Array.from({ length: 20 }, () => full.send('x')),
  ].map((wait) => wait.catch((error) => error.code))
  await turn()
  expect(countThreads()).toBe(threads + 4)
  await Promise.all([queue.close(), full.close()])
  await threadsAre(threads)
  expect(new Set(await Promise.all(codes))).toEqual(new Set(['ERR_MQ_CLOSED']))
})

test('threads are gone when what waited has settled, whatever settled it', async () => {
  const threads = countThreads()
  const queue = openSysv({ maxBytes: 10 })
  const ends: (() => Promise<unknown>)[] = [
    () => failureOf(() => queue.receive({ timeout: 1 })),
    () => failureOf(() => queue.receive({ signal: AbortSignal.timeout(1) })),
    () => failureOf(() => queue.send(Buffer.alloc(11), { timeout: 1 })),
    async () => {
      const received = queue.receive()
      await turn()
      queue.trySend('x')
      await received
    },
  ]
  for (let round = 0; round < 50; round++) {
    for (const end of ends) await end()
    await threadsAre(threads)
  }
  const removed = failureOf(() => queue.receive())
  await turn()
  queue.remove()
  expect(await removed).toMatchObject({ code: 'EIDRM' })
  await threadsAre(threads)
})

test('threads are joined: 200 waits leave no stacks behind', async () => {
  const queue = openSysv()
  const countMappings = () => readFileSync('/proc/self/maps', 'utf8').split('\n').length
  const wait = async () => {
    const received = queue.receive()
    queue.trySend('message')
    await received
  }
  for (let i = 0; i < 20; i++) await wait()
  const before = countMappings()
  for (let i = 0; i < 200; i++) await wait()
  expect(countMappings()).toBeLessThan(before + 100)
})

test('200 threads that are given up together end together, each with the reason', async () => {
  const threads = countThreads()
  const queue = openSysv()
  const stop = new AbortController()
  const errors = Array.from({ length: 200 }, (_, index) =>
    failureOf(() => queue.receive({ type: index + 1, signal: stop.signal })),
  )
  await turn()
  expect(countThreads()).toBe(threads + 200)
  const start = performance.now()
  stop.abort('enough')
  for (const error of await Promise.all(errors)) expect(error).toMatchObject({ code: 'ABORT_ERR', cause: 'enough' })
  expect(performance.now() - start).toBeLessThan(20_000)
  await threadsAre(threads)
})

test('a thread that cannot be had fails the wait, and only that', async ({ skip }) => {
  skip(!isRoot, 'only root can become a user without other threads')
  const { stdout, stderr } = await runFixture('no-threads.mjs', [String(openSysv({ mode: 0o666 }).id)])
  expect(stderr).toBe('')
  expect(JSON.parse(stdout)).toEqual({
    first: 'came',
    behind: Array(5).fill(['QueueError', 'EAGAIN', 'pthread_create']),
    later: ['QueueError', 'EAGAIN', 'pthread_create'],
    immediate: 'still works',
  })
})
