// Consumers that begin when enough waits for them.
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { ManualClock, type Queue, type StartOptions } from 'kernelmq/bus'
import { describe, expect, test } from 'vitest'
import { fixture, start } from '../support.ts'
import { deferred, newBus, openBus, temporaryDirectory } from './support.ts'

/** A consumer, and what it has handled; `got(n)` resolves when that are so many. */
function consumeFrom(queue: Queue, options: object) {
  const bodies: unknown[] = []
  let heard = deferred()
  const consumer = queue.consume(({ body }) => {
    bodies.push(body)
    heard.resolve()
    heard = deferred()
  }, options)
  const got = async (count: number) => {
    while (bodies.length < count) await heard.promise
    return bodies
  }
  return { consumer, bodies, got }
}

/** When nobody has anything to do any more: a few transactions later. */
async function quiet(queue: Queue) {
  for (let i = 0; i < 5; i++) {
    await queue.stats()
    await sleep(2)
  }
}

const items = (count: number, options: object = {}) =>
  Array.from({ length: count }, (_, i) => ({ body: i, ...options }))

describe.each(['memory', 'local'] as const)('%s: with "start"', (scheme) => {
  test('a consumer begins when enough is there, takes all there is, and waits again', async () => {
    const queue = (await newBus(scheme)).queue('q')
    const { got, bodies } = consumeFrom(queue, { start: { messages: 3 } })
    await queue.sendMany(items(2))
    await quiet(queue)
    expect(bodies).toEqual([])
    expect(await queue.stats()).toMatchObject({ ready: 2, leased: 0 })
    await queue.send(2)
    expect(await got(3)).toEqual([0, 1, 2])
    await quiet(queue)
    await queue.sendMany(items(2))
    await quiet(queue)
    expect(bodies).toHaveLength(3)
    await queue.send(2)
    await got(6)
  })

  test('it takes more than the number it waits for, of all priorities, whatever it fetches at a time', async () => {
    const queue = (await newBus(scheme)).queue('q')
    await queue.sendMany([...items(30), ...items(30, { priority: 9 })])
    const { got } = consumeFrom(queue, { start: { messages: 40 }, prefetch: 0 })
    expect(await got(60)).toHaveLength(60)
  })

  test('only messages of its priority count', async () => {
    const queue = (await newBus(scheme)).queue('q')
    const { got, bodies } = consumeFrom(queue, { start: { messages: 2, priority: 5 } })
    await queue.sendMany([...items(10, { priority: 4 }), { body: 'high', priority: 5 }])
    await quiet(queue)
    expect(bodies).toEqual([])
    await queue.send('higher', { priority: 200 })
    expect((await got(12)).slice(0, 2)).toEqual(['higher', 'high'])
  })

  test('messages count when they are due', async () => {
    const clock = new ManualClock()
    const queue = (await newBus(scheme, { clock })).queue('q')
    const { got, bodies } = consumeFrom(queue, { start: { messages: 3 } })
    await queue.send('now')
    await queue.send('later', { delay: 1000 })
    await queue.send('latest', { delay: 2000 })
    await quiet(queue)
    clock.advance(1000)
    await quiet(queue)
    expect(bodies).toEqual([])
    clock.advance(1000)
    expect(await got(3)).toEqual(['now', 'later', 'latest'])
  })

  test('what was held behind its key is taken before it waits', async () => {
    const queue = (await newBus(scheme)).queue('q')
    const { got } = consumeFrom(queue, { start: { messages: 4 }, concurrency: 4 })
    await queue.sendMany(items(4, { key: 'k' }))
    expect(await got(4)).toEqual([0, 1, 2, 3])
  })

  test('what nobody can handle does not keep it from the rest', async () => {
    const bus = await newBus(scheme)
    await bus.queue('q', { version: '1' }).sendMany(items(3))
    const queue = bus.queue('q', { version: '2' })
    await queue.send('new')
    const { got } = consumeFrom(queue, { start: { messages: 4 }, prefetch: 0 })
    expect(await got(1)).toEqual(['new'])
    expect(await queue.stats()).toMatchObject({ dead: 3 })
  })

  test('a consumer without it does not starve behind it', async () => {
    const queue = (await newBus(scheme)).queue('q')
    const waiting = consumeFrom(queue, { start: { messages: 100 } })
    await quiet(queue)
    const plain = consumeFrom(queue, {})
    for (let i = 0; i < 5; i++) {
      await queue.send(i)
      await plain.got(i + 1)
    }
    expect(waiting.bodies).toEqual([])
    await plain.consumer.close()
    await queue.sendMany(items(100))
    await waiting.got(100)
  })

  test('of two each is told of its own number', async () => {
    const queue = (await newBus(scheme)).queue('q')
    const many = consumeFrom(queue, { start: { messages: 4 } })
    await quiet(queue)
    const few = consumeFrom(queue, { start: { messages: 2 } })
    await queue.sendMany(items(2))
    await few.got(2)
    await quiet(queue)
    expect(many.bodies).toEqual([])
    await few.consumer.close()
    await queue.sendMany(items(4))
    await many.got(4)
  })

  test('it ends while it waits, and leaves what is there to others', async () => {
    const queue = (await newBus(scheme)).queue('q')
    const { consumer } = consumeFrom(queue, { start: { messages: 9 } })
    await queue.send('x')
    await consumer.close()
    expect(await consumeFrom(queue, {}).got(1)).toEqual(['x'])
  })

  test.each([
    [7, /"start" option must be an object/],
    [{}, /"start.messages" option must be an integer/],
    [{ messages: 0 }, /"start.messages" option must be/],
    [{ messages: 501 }, /"start.messages" option must be/],
    [{ messages: 1, priority: 256 }, /"start.priority" option must be an integer from 0 to 255/],
  ])('%j is refused', async (option, message) => {
    const queue = (await newBus(scheme)).queue('q')
    expect(() => queue.consume(() => {}, { start: option as StartOptions })).toThrow(message)
  })
})

describe('two buses of one directory, one with "start"', () => {
  async function makeTwo(options?: object) {
    const url = `local:${join(temporaryDirectory(), 'bus')}`
    return [await openBus(url, options), await openBus(url, options)] as const
  }

  test.each([
    ['first', true],
    ['last', false],
  ])('the one without it gets what comes, where it stands %s in line', async (_, isFirst) => {
    const [a, b] = (await makeTwo()).map((bus) => bus.queue('q')) as [Queue, Queue]
    const plainFirst = isFirst ? consumeFrom(b, {}) : undefined
    await quiet(b)
    const waiting = consumeFrom(a, { start: { messages: 50 } })
    await quiet(a)
    const plain = plainFirst ?? consumeFrom(b, {})
    for (let i = 0; i < 10; i++) {
      await (i % 2 === 0 ? a : b).send(i)
      await plain.got(i + 1)
    }
    expect(waiting.bodies).toEqual([])
    await plain.consumer.close()
    await b.sendMany(items(50))
    await waiting.got(50)
  })

  test('a delayed message reaches the one without it, by the timer of the other', async () => {
    const clock = new ManualClock()
    const [a, b] = (await makeTwo({ clock })).map((bus) => bus.queue('q')) as [Queue, Queue]
    const waiting = consumeFrom(a, { start: { messages: 2 } })
    await quiet(a)
    const plain = consumeFrom(b, {})
    await quiet(b)
    await b.send('x', { delay: 10 })
    await quiet(a)
    clock.advance(10)
    await plain.got(1)
    expect(waiting.bodies).toEqual([])
  })

  test('a delayed message that makes enough is told of, whoever knew when it is due', async () => {
    const clock = new ManualClock()
    const [a, b] = (await makeTwo({ clock })).map((bus) => bus.queue('q')) as [Queue, Queue]
    const plain = consumeFrom(b, { start: { messages: 400 } })
    await quiet(b)
    const waiting = consumeFrom(a, { start: { messages: 2 } })
    await quiet(a)
    await b.sendMany([{ body: 1 }, { body: 2, delay: 10 }])
    await quiet(a)
    await plain.consumer.close()
    await quiet(a)
    clock.advance(10)
    await waiting.got(2)
  })

  test('what a killed process had counts again, and wakes it', async () => {
    const url = `local:${join(temporaryDirectory(), 'bus')}`
    const child = start(process.execPath, [fixture('bus.mjs'), url, 'hold', '{"max":5}'])
    const queue = (await openBus(url)).queue('q')
    const waiting = consumeFrom(queue, { start: { messages: 3 } })
    await queue.sendMany(items(2))
    expect(JSON.parse(await child.line())).toEqual([0, 1])
    await queue.send(2)
    await quiet(queue)
    expect(waiting.bodies).toEqual([])
    process.kill(child.pid, 'SIGKILL')
    expect(await waiting.got(3)).toEqual([0, 1, 2])
  })
})
