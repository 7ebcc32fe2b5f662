import { once } from 'node:events'
import { Worker } from 'node:worker_threads'
import { describe, expect, test } from 'vitest'
import { countDescriptors, openQueue, runFixture, runToEnd } from './support.ts'

const nameOfQueue = (): string => openQueue().path as string

const startWorker = (fixture: string, workerData: unknown): Worker =>
  new Worker(new URL(`fixtures/${fixture}`, import.meta.url), { workerData })

test('a worker has handles of its own, and its end leaves those of others alone', async () => {
  const queue = openQueue()
  const worker = startWorker('ping-worker.mjs', queue.path)
  const messages: { fd: number; text: string }[] = []
  worker.on('message', (message) => messages.push(message))
  await queue.send('for the worker')
  expect(await once(worker, 'exit')).toEqual([0])
  expect(messages).toEqual([{ fd: expect.any(Number), text: 'for the worker' }])
  expect(messages[0]?.fd).not.toBe(queue.fd)
  const received = queue.receive()
  await queue.send('for the main thread')
  expect((await received).text()).toBe('for the main thread')
})

test('50 workers at once, the addon in them only, answer every message once', async () => {
  const [requests, replies] = [openQueue(), openQueue()]
  const fixture = runFixture('echo-workers.mjs', ['50', requests.path as string, replies.path as string])
  const sent = Array.from({ length: 2000 }, (_, index) => ({ data: `message ${index}`, priority: index % 5 }))
  const sending = requests.sendMany(sent)
  const received: typeof sent = []
  for await (const message of replies) {
    received.push({ data: message.text(), priority: message.priority })
    if (received.length === sent.length) break
  }
  await sending
  await requests.sendMany(Array.from({ length: 50 }, () => ''))
  const { code, signal, stdout, stderr } = await fixture
  expect({ code, signal, stdout, stderr }).toEqual({ code: 0, signal: null, stdout: 'exit codes: 0\n', stderr: '' })
  const byNumber = (a: { data: string }, b: { data: string }) => a.data.localeCompare(b.data)
  expect(received.sort(byNumber)).toEqual(sent.sort(byNumber))
  expect(replies.tryReceive()).toBeUndefined()
})

test('workers terminated at random instants neither crash the process nor leave descriptors', async () => {
  const { code, signal, stdout, stderr } = await runFixture('terminate-storm.mjs', ['200', nameOfQueue()])
  expect({ code, signal, stderr }).toEqual({ code: 0, signal: null, stderr: '' })
  expect(stdout).toBe('0 descriptors leaked\n')
})

test('100 workers that come and go leave no descriptor', async () => {
  const queue = openQueue()
  const comeAndGo = async () => {
    const exits = Array.from({ length: 4 }, () => once(startWorker('ping-worker.mjs', queue.path), 'exit'))
    for (let i = 0; i < exits.length; i++) await queue.send('for a worker')
    await Promise.all(exits)
  }
  await comeAndGo()
  const before = countDescriptors()
  for (let i = 0; i < 25; i++) await comeAndGo()
  expect(countDescriptors()).toBe(before)
})

const blockingCalls = [
  'receiveSync',
  'receiveIntoSync',
  'sendSync',
  'spin',
  'tryCatch',
  'tryCatchSend',
  'shortTimeouts',
  'noTimeout',
  'spinning',
]

describe.each(blockingCalls)('workers that block in "%s"', (call) => {
  test('are terminated in less than a second', async () => {
    const outcome = await runToEnd('blocked.mjs', [call, nameOfQueue(), 'terminate'])
    expect(outcome).toMatchObject({ code: 0, signal: null, stderr: '' })
    expect(outcome.stdout).toContain('workers exited with 1,1,1,1\n')
    expect(outcome.took).toBeLessThan(1000)
  })

  test('do not hold process.exit() for a second', async () => {
    const outcome = await runToEnd('blocked.mjs', [call, nameOfQueue(), 'exit'])
    expect(outcome).toMatchObject({ code: 3, signal: null, stderr: '' })
    expect(outcome.took).toBeLessThan(1000)
  })
})

test.each([
  ['process.exit', 'worker exited with 5\n'],
  ['process.exit in a callback', 'worker exited with 5\n'],
  ['process.exit in an exit listener', 'worker exited with 5\n'],
  ['throw', 'thrown in a worker\nworker exited with 1\n'],
  ['reject', 'thrown in a worker\nworker exited with 1\n'],
  ['terminate', 'worker exited with 1\n'],
])('a worker with live handles, the addon in it only, survives "%s"', async (end, expected) => {
  const { code, signal, stdout, stderr } = await runFixture('worker-ends.mjs', [end, nameOfQueue()], ['--expose-gc'])
  expect({ code, signal, stderr }).toEqual({ code: 0, signal: null, stderr: '' })
  expect(stdout).toBe(expected.repeat(2))
})
