// What garbage collection may take, and what it must leave alone.
import { setImmediate as turn } from 'node:timers/promises'
import { PosixQueue } from 'kernelmq'
import { describe, expect, test } from 'vitest'
import { families, newQueue } from './families.ts'
import { drain, open, prepare } from './fixtures/operations.mjs'
import { countDescriptors, openQueue, overhead, runFixture } from './support.ts'

const { gc } = globalThis as { gc?: () => void }

/** Finalizers run in a turn of the loop after the collection. */
async function collect(rounds: number): Promise<void> {
  if (gc === undefined) throw new Error('these tests need --expose-gc')
  for (let i = 0; i < rounds; i++) {
    gc()
    await turn()
  }
}

function fill(queue: PosixQueue): void {
  while (queue.trySend('fill'));
}

/** Another handle of the same queue, which nobody keeps. */
const anotherHandle = (queue: PosixQueue): PosixQueue => PosixQueue.open(queue.path as string)

describe('a queue that is dropped without close()', () => {
  const uses: Record<string, (queue: PosixQueue) => unknown> = {
    'was only opened': () => {},
    'has received': async (queue) => {
      const received = queue.receive()
      queue.trySend('a message')
      await received
    },
    'has given up waiting': (queue) => queue.receive({ timeout: 1 }).catch(() => {}),
    'has iterated': async (queue) => {
      queue.trySend('a message')
      for await (const _ of queue) break
    },
    'has asked for notifications': async (queue) => {
      queue.notifications()
      await collect(5) // there is one registration for all
    },
    'has had a notification': async (queue) => {
      queue.trySend('a message')
      await queue.notifications().next()
      queue.tryReceive()
    },
    'has had a stream': async (queue) => {
      queue.trySend('a message')
      for await (const _ of queue.createReadStream()) break
    },
  }

  test.each(Object.keys(uses))('and %s, is closed within five collections', async (name) => {
    const queue = openQueue()
    await collect(5)
    const before = countDescriptors()
    for (let i = 0; i < 20; i++) await uses[name]?.(anotherHandle(queue))
    await collect(5)
    expect(countDescriptors()).toBe(before)
  })

  test('goes with its last descriptor, if it was unlinked', async () => {
    // Together these would exceed the 256 queues and the 819,200 bytes of a user.
    for (let i = 0; i < 300; i++) {
      const name = `/kmq-test-${process.pid}-dropped`
      PosixQueue.open(name, { create: true, exclusive: true, maxMessages: 4, messageSize: 2048 })
      PosixQueue.unlink(name)
      if (i % 20 === 0) await collect(2)
    }
  })
})

test('a dropped iterator of notifications gives up its registration, while its queue lives on', async () => {
  const queue = openQueue()
  await collect(5)
  const before = countDescriptors()
  queue.notifications()
  await collect(5)
  expect(countDescriptors()).toBe(before)
  await queue.notifications().return?.()
})

describe.each(families)('the data of a pending send to a %s', (family) => {
  async function sentAfter(data: Uint8Array<ArrayBuffer> | ArrayBuffer, change: () => void): Promise<string> {
    const name = newQueue(family)
    prepare('send', name)
    const queue = open(name)
    const sent = queue.send(data)
    change()
    await collect(3)
    const texts = drain(name)
    await sent
    await queue.close()
    return [...texts, ...drain(name)].filter((text) => text !== 'fill').join()
  }

  test('is that of the call, if the buffer is written to', async () => {
    const data = Buffer.from('at the call')
    expect(await sentAfter(data, () => data.fill('x'))).toBe('at the call')
  })

  test('is that of the call, if the buffer is transferred', async () => {
    const data = new TextEncoder().encode('at the call')
    const transfer = () => structuredClone(data.buffer, { transfer: [data.buffer] })
    expect(await sentAfter(data, transfer)).toBe('at the call')
    expect(data.length).toBe(0)
  })

  test('is that of the call, if the array buffer is transferred', async () => {
    const data = new TextEncoder().encode('at the call').buffer
    expect(await sentAfter(data, () => structuredClone(data, { transfer: [data] }))).toBe('at the call')
  })

  test('is refused, if the buffer is gone already', async () => {
    const name = newQueue(family)
    const queue = open(name)
    const data = new TextEncoder().encode('gone')
    structuredClone(data.buffer, { transfer: [data.buffer] })
    await expect(queue.send(data)).rejects.toThrow(TypeError)
    await expect(queue.send(data.buffer)).rejects.toThrow(TypeError)
    await expect(queue.sendMany([data])).rejects.toThrow(TypeError)
    expect(drain(name)).toEqual([])
  })
})

test('messages are collected when nobody has them any more', async () => {
  const queue = openQueue()
  const references: WeakRef<object>[] = []
  const memory = new Set<WeakRef<object>>()
  const take = (message: { data: Buffer }) => {
    references.push(new WeakRef(message), new WeakRef(message.data))
    memory.add(new WeakRef(message.data.buffer))
  }
  async function receiveInEveryWay(): Promise<void> {
    fill(queue)
    take(queue.receiveSync())
    take(await queue.receive())
    for (const message of queue.tryReceiveMany()) take(message)
    const received = queue.receive()
    fill(queue)
    take(await received)
    for await (const message of queue) {
      take(message)
      if (queue.attributes.messages === 0) break
    }
    const batch = queue.receiveMany()
    fill(queue)
    for (const message of await batch) take(message)
  }
  for (let i = 0; i < 20; i++) await receiveInEveryWay()
  await collect(5)
  const alive = (all: Iterable<WeakRef<object>>) =>
    new Set([...all].map((reference) => reference.deref()).filter((object) => object !== undefined))
  expect(alive(references).size).toBe(0)
  // The next small message goes there.
  expect(alive(memory).size).toBeLessThanOrEqual(1)
})

test('hundreds of thousands of messages leave the memory as it was', async () => {
  const { code, stdout, stderr } = await runFixture('memory.mjs', [openQueue().path as string], ['--expose-gc'])
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
  const grown = JSON.parse(stdout)
  // One byte kept of every message would be a third of a megabyte.
  expect(grown.heapUsed).toBeLessThan(2e6)
  expect(grown.external).toBeLessThan(0.3e6)
  // The young generation may have grown to its full size, which is larger in newer versions of Node.js.
  expect(grown.rss).toBeLessThan(32e6 * overhead)
})
