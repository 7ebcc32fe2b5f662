import { once } from 'node:events'
import { Worker } from 'node:worker_threads'
import { describe, expect, test } from 'vitest'
import { families, groupsOf, kinds, newQueue } from './families.ts'
import { endings, endsOf } from './fixtures/endings.mjs'
import { open } from './fixtures/operations.mjs'
import { openQueue, runFixture } from './support.ts'
import { openSysv } from './sysv-support.ts'

test('a worker has handles of its own, and its end leaves those of others alone', async () => {
  const queue = openQueue()
  const worker = new Worker(new URL('fixtures/ping-worker.mjs', import.meta.url), { workerData: queue.path })
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

describe.each(families)('workers with a %s, the addon in them only,', (family) => {
  test('50 at once, answer every message once', async () => {
    const names = [newQueue(family), newQueue(family)] as const
    const [requests, replies] = [open(names[0]), open(names[1])]
    const fixture = runFixture('echo-workers.mjs', ['50', ...names])
    const sent = Array.from({ length: 2000 }, (_, index) => ({ data: `message ${index}`, tag: 1 + (index % 5) }))
    const sending = requests.sendMany(sent.map(({ data, tag }) => ({ data, priority: tag, type: tag })))
    const received: string[] = []
    for await (const message of replies) {
      received.push(`${message.text()}, ${'type' in message ? message.type : message.priority}`)
      if (received.length === sent.length) break
    }
    await sending
    await requests.sendMany(Array.from({ length: 50 }, () => ''))
    const { code, signal, stdout, stderr } = await fixture
    expect({ code, signal, stdout, stderr }).toEqual({ code: 0, signal: null, stdout: 'exit codes: 0\n', stderr: '' })
    expect(received.sort()).toEqual(sent.map(({ data, tag }) => `${data}, ${tag}`).sort())
    expect(replies.tryReceive()).toBeUndefined()
    await Promise.all([requests.close(), replies.close()])
  })

  test('terminated at random instants, neither crash the process nor leave anything', async () => {
    const { code, signal, stdout, stderr } = await runFixture('terminate-storm.mjs', ['100', newQueue(family)])
    expect({ code, signal, stderr }).toEqual({ code: 0, signal: null, stderr: '' })
    expect(JSON.parse(stdout)).toEqual({ descriptors: 0, threads: 0 })
  })

  const ends = Object.keys(endings).filter((end) => !end.startsWith('SIG'))

  test.each(ends)('have their exit code within 30 seconds, and leave nothing, at the end "%s"', async (end) => {
    const groups = kinds
      .filter((kind) => endsOf(kind, 'worker').includes(end))
      .flatMap((kind) => groupsOf(family, kind, end, /throw in a callback/))
    const outcome = await runFixture('worker-ends.mjs', [end, newQueue(family), ...groups], ['--expose-gc'])
    expect(outcome).toMatchObject({ code: 0, signal: null, stderr: '' })
    const { wrong, leaked } = JSON.parse(outcome.stdout)
    expect(wrong).toEqual({})
    expect(leaked).toEqual({ descriptors: 0, threads: 0 })
  })
})

test('signals that come late, to an addon that only workers loaded, do no harm', async () => {
  const { code, signal, stdout, stderr } = await runFixture('late-signal.mjs', [String(openSysv().id)])
  const expected = { code: 0, signal: null, stdout: '1 signal, survived\n', stderr: '' }
  expect({ code, signal, stdout, stderr }).toEqual(expected)
})
