import { setTimeout as after, setImmediate as turn } from 'node:timers/promises'
import { PosixQueue, type QueueError } from 'kernelmq'
import { describe, expect, onTestFinished, test } from 'vitest'
import { failureOf, isPending, openQueue, startFixture, turns } from './support.ts'

describe('waitReadable', () => {
  test('resolves when there is a message, and takes none', async () => {
    const queue = openQueue()
    const ready = queue.waitReadable()
    expect(await isPending(ready)).toBe(true)
    queue.trySend('x')
    expect(await ready).toBeUndefined()
    expect(await queue.waitReadable()).toBeUndefined()
    expect(queue.attributes.messages).toBe(1)
  })

  test('resolves for all who wait', async () => {
    const queue = openQueue()
    const ready = Promise.all([queue.waitReadable(), queue.waitReadable(), queue.waitReadable()])
    queue.trySend('x')
    await ready
    expect(queue.attributes.messages).toBe(1)
  })

  test('waits behind those who receive', async () => {
    const queue = openQueue()
    const received = queue.receive()
    const ready = queue.waitReadable()
    queue.trySend('1')
    expect((await received).text()).toBe('1')
    expect(await isPending(ready)).toBe(true)
    queue.trySend('2')
    await ready
    expect(queue.tryReceive()?.text()).toBe('2')
  })
})

describe('waitWritable', () => {
  test('resolves when there is room, and takes none', async () => {
    const queue = openQueue({ maxMessages: 1 })
    expect(await queue.waitWritable()).toBeUndefined()
    queue.trySend('full')
    const ready = queue.waitWritable()
    expect(await isPending(ready)).toBe(true)
    queue.tryReceive()
    expect(await ready).toBeUndefined()
    expect(queue.trySend('x')).toBe(true)
  })

  test('and waitReadable wait on one queue at once', async () => {
    const queue = openQueue({ maxMessages: 1 })
    const readable = queue.waitReadable()
    queue.trySend('1')
    await readable
    const writable = queue.waitWritable()
    expect(await isPending(writable)).toBe(true)
    queue.tryReceive()
    await writable
    const received = queue.receive()
    await queue.send('2')
    expect((await received).text()).toBe('2')
  })
})

test('sending and receiving wait on one queue at once', async () => {
  const queue = openQueue({ maxMessages: 1 })
  const received: string[] = []
  const reading = (async () => {
    for await (const message of queue) if (received.push(message.text()) === 500) break
  })()
  for (let index = 0; index < 500; index++) await queue.send(String(index))
  await reading
  expect(received).toEqual(Array.from({ length: 500 }, (_, index) => String(index)))
})

test('two handles of one queue wait each for itself', async () => {
  const one = openQueue({ maxMessages: 1 })
  const other = PosixQueue.open(one.path ?? '')
  onTestFinished(() => other.close())
  const received = [one.receive(), other.receive()]
  one.trySend('a')
  await Promise.race(received)
  expect(one.trySend('b')).toBe(true)
  const texts = (await Promise.all(received)).map((message) => message.text())
  expect(texts.sort()).toEqual(['a', 'b'])
})

test('a queue that another process empties first is waited for again', async () => {
  const queue = openQueue()
  const thief = PosixQueue.open(queue.path ?? '')
  onTestFinished(() => thief.close())
  const received = queue.receive()
  for (let round = 0; round < 20; round++) {
    thief.trySend('stolen')
    thief.tryReceive()
    await turn()
  }
  expect(await isPending(received)).toBe(true)
  thief.trySend('left')
  expect((await received).text()).toBe('left')
})

test('what is ready while nobody waits does not keep the loop turning', async () => {
  const queue = openQueue()
  const received = queue.receive()
  await turns()
  queue.trySendMany(['1', '2', '3', '4'])
  expect((await received).text()).toBe('1')
  const sent = queue.send('5').then(() => queue.send('6'))
  expect(await isPending(sent)).toBe(true)
  queue.tryReceiveMany(3)
  await sent
  const { loopCount } = performance.nodeTiming.uvMetricsInfo
  await after(100)
  expect(performance.nodeTiming.uvMetricsInfo.loopCount - loopCount).toBeLessThan(1000)
})

test('what can only fail fails, though so many have passed that it has to wait for a turn of the loop', async () => {
  const queue = openQueue({ maxMessages: 2, messageSize: 8 })
  const codes: unknown[] = []
  const fail = async (access: 'read' | 'write', call: (one: PosixQueue) => Promise<unknown>) => {
    const one = PosixQueue.open(queue.path ?? '', { access })
    onTestFinished(() => void one.close())
    for (let count = 0; count < 256; count++) {
      if (access === 'read') queue.trySend('x')
      void (access === 'read' ? one.receive() : one.send('x'))
      if (access === 'write') queue.tryReceive()
    }
    // Nor does it become writable.
    queue.trySendMany(['full', 'full'])
    codes.push(await failureOf(() => call(one)))
    queue.tryReceiveMany()
  }
  await fail('write', (writer) => writer.receive())
  await fail('read', (reader) => reader.send('x'))
  await fail('write', (writer) => writer.send('too long.'))
  expect(codes).toMatchObject([{ code: 'EBADF' }, { code: 'EBADF' }, { code: 'EMSGSIZE' }])
})

test('what can only fail fails, however many of it there is', async () => {
  const queue = openQueue({ maxMessages: 1, messageSize: 8 })
  const writer = PosixQueue.open(queue.path ?? '', { access: 'write' })
  onTestFinished(() => void writer.close())
  const codesOf = async (call: () => Promise<unknown>) =>
    new Set(await Promise.all(Array.from({ length: 1000 }, async () => ((await failureOf(call)) as QueueError).code)))
  expect(await codesOf(() => writer.receive())).toEqual(new Set(['EBADF']))
  queue.trySend('full')
  expect(await codesOf(() => queue.send('too long.'))).toEqual(new Set(['EMSGSIZE']))
})

describe('the loop gets its turn while', () => {
  const MANY = 100_000

  /**
   * Runs `step` until a timer and an immediate have fired, which they must
   * before so many steps are over.
   */
  async function turnsWhile(step: () => Promise<unknown>): Promise<void> {
    let left = 2
    setTimeout(() => left--, 1)
    setImmediate(() => left--)
    let steps = 0
    for (; left > 0 && steps < MANY; steps++) await step()
    expect(left).toBe(0)
  }

  test.each<[string, (queue: PosixQueue) => void, (queue: PosixQueue) => Promise<unknown>]>([
    ['send', (queue) => queue.tryReceive(), (queue) => queue.send('x')],
    ['receive', (queue) => queue.trySend('x'), (queue) => queue.receive()],
    ['send and receive', () => {}, (queue) => queue.send('x').then(() => queue.receive())],
    ['sendMany', (queue) => queue.tryReceiveMany(), (queue) => queue.sendMany(['x', 'y'])],
    ['receiveMany', (queue) => queue.trySendMany(['x', 'y']), (queue) => queue.receiveMany()],
    ['waitReadable', (queue) => queue.trySend(queue.tryReceive()?.data ?? 'x'), (queue) => queue.waitReadable()],
    ['waitWritable', (queue) => queue.trySend('x') && queue.tryReceive(), (queue) => queue.waitWritable()],
  ])('%s runs at full speed', async (_, prepare, step) => {
    const queue = openQueue()
    await turnsWhile(() => {
      prepare(queue)
      return step(queue)
    })
  })

  test.each<[string, (queue: PosixQueue) => AsyncIterableIterator<unknown>]>([
    ['for await', (queue) => queue.messages()],
    ['batches', (queue) => queue.batches()],
    ['notifications', (queue) => queue.notifications()],
  ])('%s runs at full speed', async (_, iterate) => {
    const queue = openQueue()
    const iterator = iterate(queue)
    onTestFinished(() => void iterator.return?.())
    await turnsWhile(async () => {
      queue.tryReceiveMany()
      queue.trySend('x')
      await iterator.next()
    })
  })

  test('consume runs at full speed', async () => {
    const queue = openQueue()
    let step = () => {}
    const consumed = queue.consume(() => {
      if (queue.fd !== -1) queue.trySend('x')
      step()
    })
    queue.trySend('x')
    await turnsWhile(
      () =>
        new Promise<void>((resolve) => {
          step = resolve
        }),
    )
    queue.close()
    await consumed
  })

  test('a read stream runs at full speed', async () => {
    const queue = openQueue()
    const stream = queue.createReadStream()
    const iterator = stream[Symbol.asyncIterator]()
    await turnsWhile(async () => {
      queue.trySend('x')
      await iterator.next()
    })
    stream.destroy()
  })

  test('a writer and a reader feed each other', async () => {
    const queue = openQueue()
    let left = 2
    setTimeout(() => left--, 1)
    setImmediate(() => left--)
    let received = 0
    const reading = (async () => {
      for await (const _ of queue) if (++received === MANY || left === 0) break
    })()
    const writing = (async () => {
      for (let sent = 0; sent < MANY && left > 0; sent++) await queue.send('x', { timeout: 1000 })
    })()
    await reading
    queue.close()
    await failureOf(() => writing.then(() => Promise.reject(new Error('the writer has ended'))))
    expect(left).toBe(0)
  })

  test('thousands of parallel sends and receives are served, in order', async () => {
    const queue = openQueue()
    const received = Promise.all(Array.from({ length: 2000 }, () => queue.receive()))
    const sent = Promise.all(Array.from({ length: 2000 }, (_, index) => queue.send(String(index))))
    await sent
    expect((await received).map((message) => Number(message.text()))).toEqual(
      Array.from({ length: 2000 }, (_, index) => index),
    )
  })
})

describe('a process', () => {
  test.each([
    ['receive', ''],
    ['receive', 'ref again'],
    ['receive', 'ref after'],
    ['receive with timeout', ''],
    ['messages', ''],
    ['consume', ''],
    ['stream', ''],
    ['waitReadable', ''],
    ['notifications', ''],
    ['notifications', 'ref after'],
  ])('is held by %s (%s)', async (what, how) => {
    const queue = openQueue()
    const child = startFixture('hold.mjs', [queue.path ?? '', what, how])
    expect(await child.line()).toBe('waiting')
    queue.trySend('held')
    const { stdout, stderr, code } = await child.outcome
    expect([stdout, stderr, code]).toEqual(['waiting\nheld\n', '', 0])
  })

  test.each([
    ['receive', 'unref before'],
    ['receive', 'unref after'],
    ['receive with timeout', 'unref after'],
    ['messages', 'unref before'],
    ['consume', 'unref before'],
    ['stream', 'unref after'],
    ['waitReadable', 'unref after'],
    ['notifications', 'unref before'],
    ['notifications', 'unref after'],
    ['idle notifications', ''],
    ['settled', ''],
    ['timed out', ''],
    ['aborted', ''],
    ['left by break', ''],
    ['nothing', ''],
  ])('is not held by %s (%s)', async (what, how) => {
    const queue = openQueue()
    const { stdout, stderr, code } = await startFixture('hold.mjs', [queue.path ?? '', what, how]).outcome
    expect([stdout, stderr, code]).toEqual(['waiting\n', '', 0])
  })

  test('whose wait is unreferenced still gets what comes while it runs', async () => {
    const queue = openQueue().unref()
    const received = queue.receive()
    await turns()
    queue.trySend('x')
    expect((await received).text()).toBe('x')
  })
})
