import { PosixQueue } from 'kernelmq'
import { mqNotify, SIGEV_NONE } from 'kernelmq/syscalls'
import { describe, expect, onTestFinished, test } from 'vitest'
import { failureOf, isPending, openQueue, startFixture, turns } from './support.ts'

const heard = { value: true, done: false }
const ended = { value: undefined, done: true }

function reopen(queue: PosixQueue): PosixQueue {
  const other = PosixQueue.open(queue.path ?? '')
  onTestFinished(() => other.close())
  return other
}

const drain = (queue: PosixQueue) => queue.tryReceiveMany().map((message) => message.text())

/** Whether somebody could register now; leaves nobody registered. */
function isFree(queue: PosixQueue): boolean {
  const free = mqNotify(queue.fd, { notify: SIGEV_NONE }) === 0
  if (free) mqNotify(queue.fd)
  return free
}

test('tell when a message comes to the empty queue', async () => {
  const queue = openQueue()
  const notifications = queue.notifications()
  const next = notifications.next()
  expect(await isPending(next)).toBe(true)
  queue.trySend('x')
  expect(await next).toEqual(heard)
  expect(drain(queue)).toEqual(['x'])
})

test('tell when a message comes from another process', async () => {
  const queue = openQueue()
  const replies = queue.notifications()
  const next = replies.next()
  const requests = openQueue()
  const child = startFixture('echo.mjs', [requests.path ?? '', queue.path ?? ''])
  requests.trySend('ping')
  expect(await next).toEqual(heard)
  expect(drain(queue)).toEqual(['ping'])
  requests.trySend('')
  expect((await child.outcome).code).toBe(0)
})

test('do not tell when a message comes to others', async () => {
  const queue = openQueue()
  const notifications = queue.notifications()
  queue.trySend('1')
  expect(await notifications.next()).toEqual(heard)
  const next = notifications.next()
  queue.trySend('2')
  expect(await isPending(next)).toBe(true)
  expect(drain(queue)).toEqual(['1', '2'])
  expect(await isPending(next)).toBe(true)
  queue.trySend('3')
  expect(await next).toEqual(heard)
})

test('begin at once when there are messages already', async () => {
  const queue = openQueue()
  queue.trySend('x')
  const notifications = queue.notifications()
  expect(await notifications.next()).toEqual(heard)
  expect(await isPending(notifications.next())).toBe(true)
})

test('are armed again before the queue is drained', async () => {
  const queue = openQueue()
  const notifications = queue.notifications()
  queue.trySend('1')
  await notifications.next()
  // Nobody asks for the next while the queue runs empty and fills again.
  expect(drain(queue)).toEqual(['1'])
  queue.trySend('2')
  expect(await notifications.next()).toEqual(heard)
  expect(drain(queue)).toEqual(['2'])
})

test('lose no message of a fast sender whose receiver drains at each', async () => {
  const queue = openQueue({ maxMessages: 2 })
  const sender = reopen(queue)
  const numbers = Array.from({ length: 500 }, (_, index) => String(index))
  const sent = sender.sendMany(numbers)
  const received: string[] = []
  for await (const _ of queue.notifications()) {
    for (let message = queue.tryReceive(); message !== undefined; message = queue.tryReceive()) {
      received.push(message.text())
    }
    if (received.length === numbers.length) break
  }
  await sent
  expect(received).toEqual(numbers)
})

test('are for one registrant in the whole system', async () => {
  const queue = openQueue()
  const other = reopen(queue)
  const first = queue.notifications()
  const busy = expect.objectContaining({
    name: 'QueueError',
    code: 'EBUSY',
    syscall: 'mq_notify',
    path: queue.path,
    hint: expect.stringContaining('list()'),
  })
  expect(() => other.notifications()).toThrow(busy)
  expect(() => queue.notifications()).toThrow(busy)
  // The first is none the worse for it.
  const next = first.next()
  queue.trySend('x')
  expect(await next).toEqual(heard)
})

describe('survive that another descriptor of the queue is closed in this process', () => {
  test('with the message before the loop has turned', async () => {
    const queue = openQueue()
    const other = reopen(queue)
    const next = queue.notifications().next()
    other.close()
    queue.trySend('x')
    expect(await next).toEqual(heard)
  })

  test('with the message later', async () => {
    const queue = openQueue()
    const other = reopen(queue)
    const next = queue.notifications().next()
    other.close()
    expect(await isPending(next)).toBe(true)
    queue.trySend('x')
    expect(await next).toEqual(heard)
  })

  test('while nobody asks', async () => {
    const queue = openQueue()
    const notifications = queue.notifications()
    reopen(queue).close()
    await turns()
    queue.trySend('1')
    expect(await notifications.next()).toEqual(heard)
    drain(queue)
    reopen(queue).close()
    queue.trySend('2')
    expect(await notifications.next()).toEqual(heard)
  })

  test('again and again', async () => {
    const queue = openQueue()
    const notifications = queue.notifications()
    for (let round = 0; round < 20; round++) {
      const next = notifications.next()
      reopen(queue).close()
      PosixQueue.fromFd(queue.fd).close()
      if (round % 2 === 0) expect(await isPending(next)).toBe(true)
      queue.trySend('x')
      expect(await next).toEqual(heard)
      drain(queue)
    }
  })
})

test('fire although JavaScript waits for the message too', async () => {
  const queue = openQueue()
  const received = queue.receive()
  const next = queue.notifications().next()
  queue.trySend('x')
  expect((await received).text()).toBe('x')
  expect(await next).toEqual(heard)
})

test('end when the queue is closed, and free the registration', async () => {
  const queue = openQueue()
  const other = reopen(queue)
  const notifications = queue.notifications()
  const next = notifications.next()
  expect(await isPending(next)).toBe(true)
  expect(isFree(other)).toBe(false)
  queue.close()
  expect(await next).toEqual(ended)
  expect(await notifications.next()).toEqual(ended)
  expect(isFree(other)).toBe(true)
})

test('end by return, which frees the registration and ends what waits', async () => {
  const queue = openQueue()
  const notifications = queue.notifications()
  const next = notifications.next()
  expect(await notifications.return?.()).toEqual(ended)
  expect(await next).toEqual(ended)
  expect(isFree(queue)).toBe(true)
  const again = queue.notifications()
  queue.trySend('x')
  expect(await again.next()).toEqual(heard)
})

test('end by return before they were asked for anything', async () => {
  const queue = openQueue()
  await queue.notifications().return?.()
  expect(isFree(queue)).toBe(true)
})

test('end by break, which frees the registration', async () => {
  const queue = openQueue()
  queue.trySend('x')
  for await (const _ of queue.notifications()) break
  expect(isFree(queue)).toBe(true)
  expect(drain(queue)).toEqual(['x'])
})

test.each([
  ['an abort', 'AbortError', (queue: PosixQueue) => queue.notifications({ signal: AbortSignal.timeout(1) })],
  ['a timeout', 'QueueError', (queue: PosixQueue) => queue.notifications({ timeout: 1 })],
])('end by %s, which frees the registration', async (_, name, notify) => {
  const queue = openQueue()
  const notifications = notify(queue)
  expect(await failureOf(() => notifications.next())).toMatchObject({ name })
  expect(isFree(queue)).toBe(true)
  expect(await notifications.next()).toEqual(ended)
})

test('that were returned leave a later registration of this process alone', async () => {
  const queue = openQueue()
  const first = queue.notifications()
  await first.return?.()
  const second = queue.notifications()
  const next = second.next()
  await first.return?.()
  queue.trySend('x')
  expect(await next).toEqual(heard)
})

test('cannot be had from a closed queue', async () => {
  const queue = openQueue()
  queue.close()
  expect(await failureOf(() => queue.notifications())).toMatchObject({ code: 'ERR_MQ_CLOSED', path: queue.path })
})

test('idle when their queue is closed, touch no descriptor that has their number by then', async () => {
  const queue = openQueue()
  const idle = queue.notifications()
  queue.trySend('x')
  expect(await idle.next()).toEqual(heard)
  drain(queue)
  const path = queue.path ?? ''
  queue.close()
  const other = PosixQueue.open(path)
  onTestFinished(() => other.close())
  const next = other.notifications().next()
  other.trySend('y')
  expect(await idle.next()).toEqual(ended)
  expect(await next).toEqual(heard)
})
