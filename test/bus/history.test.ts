// What was acknowledged, kept and sent again.
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { type HistoryOptions, ManualClock, type Queue, type ReplayOptions } from 'kernelmq/bus'
import { describe, expect, test } from 'vitest'
import { fixture, start } from '../support.ts'
import { DatabaseSync } from './sqlite.mjs'
import { newBus, one, openBus, take, temporaryDirectory } from './support.ts'

const bodiesOf = async (queue: Queue) => (await queue.history.list({ max: 500 })).entries.map(({ body }) => body)
const items = (...bodies: unknown[]) => bodies.map((body) => ({ body }))

describe.each(['memory', 'local'] as const)('%s: the history of a queue', (scheme) => {
  const make = async (history?: HistoryOptions, options = {}) => {
    const bus = await newBus(scheme, options)
    return { bus, queue: bus.queue('q', { history }) }
  }

  test('has what was acknowledged, in that order, with all about it', async () => {
    const clock = new ManualClock(1000)
    const { queue } = await make({ maxMessages: 10 }, { clock })
    await queue.send({ n: 1 }, { id: 'a', key: 'k', priority: 3, headers: { h: 'v' } })
    await queue.send('two')
    await queue.send('dead')
    const [first, second, third] = await queue.receive({ max: 3 })
    clock.advance(500)
    await second?.ack()
    await third?.dead('no')
    clock.advance(500)
    await first?.ack()
    const { entries, next } = await queue.history.list()
    expect(entries.map(({ body }) => body)).toEqual(['two', { n: 1 }])
    expect(entries[1]).toEqual({
      id: 'a',
      body: { n: 1 },
      key: 'k',
      priority: 3,
      headers: { h: 'v' },
      sentAt: new Date(1000),
      acknowledgedAt: new Date(2000),
    })
    expect(next).toBeUndefined()
  })

  test('is empty unless it is asked for', async () => {
    const { queue } = await make()
    await queue.send('x')
    await take(queue, 1)
    expect(await bodiesOf(queue)).toEqual([])
  })

  test('is kept for all who use the queue, whoever asked for it, and goes when nobody wants it', async () => {
    const { bus, queue } = await make({ maxMessages: 500 })
    await queue.sendMany(items(1, 2))
    await take(bus.queue('q'), 2)
    expect(await bodiesOf(bus.queue('q'))).toEqual([1, 2])
    expect(await bodiesOf(bus.queue('q', { history: {} }))).toEqual([])
    await queue.send(3)
    await take(bus.queue('q'), 1)
    expect(await bodiesOf(bus.queue('q', { history: { maxMessages: 500 } }))).toEqual([])
  })

  test('has what a handler and ack({ send }) acknowledged', async () => {
    const { bus, queue } = await make({ maxMessages: 10 })
    await queue.sendMany(items('a', 'b'))
    const message = await one(queue)
    await message.ack({ send: [await bus.queue('next').prepare('on')] })
    const consumer = queue.consume(() => {})
    while ((await bodiesOf(queue)).length < 2) await sleep(1)
    await consumer.close()
    expect(await bodiesOf(queue)).toEqual(['a', 'b'])
  })

  test('has no more than its number, and what is taken away is not in it', async () => {
    const { queue } = await make({ maxMessages: 3 })
    for (let i = 0; i < 10; i++) await queue.send(i)
    await take(queue, 10)
    expect(await bodiesOf(queue)).toEqual([7, 8, 9])
    await queue.send('lost')
    const [message] = await queue.receive({ lease: 1 })
    await sleep(5)
    expect(await take(queue, 1)).toEqual(['lost'])
    await expect(message?.ack()).rejects.toMatchObject({ code: 'ERR_BUS_LEASE_LOST' })
    expect(await bodiesOf(queue)).toEqual([8, 9, 'lost'])
    expect(await queue.stats()).toMatchObject({ ready: 0, leased: 0, bytes: 0 })
  })

  test('has nothing older than its age', async () => {
    const clock = new ManualClock(0)
    const { queue } = await make({ maxAge: 1000 }, { clock })
    for (let i = 0; i < 3; i++) {
      await queue.send(i)
      await take(queue, 1)
      clock.advance(500)
    }
    expect(await bodiesOf(queue)).toEqual([2])
    clock.advance(500)
    expect(await bodiesOf(queue)).toEqual([])
  })

  test('of a bound that is lowered lets thousands go', async () => {
    const { bus, queue } = await make({ maxMessages: 1e6 })
    for (let i = 0; i < 4; i++) {
      await queue.sendMany(Array.from({ length: 500 }, (_, n) => ({ body: i * 500 + n })))
      const messages = await queue.receive({ max: 500 })
      await Promise.all(messages.map((message) => message.ack()))
    }
    expect(await bodiesOf(bus.queue('q', { history: { maxMessages: 2 } }))).toEqual([1998, 1999])
  })

  test('comes in pages', async () => {
    const { queue } = await make({ maxMessages: 10 })
    await queue.sendMany(items(1, 2, 3))
    await take(queue, 3)
    const first = await queue.history.list({ max: 2 })
    expect(first.entries.map(({ body }) => body)).toEqual([1, 2])
    const second = await queue.history.list({ max: 2, after: first.next as string })
    expect(second.entries.map(({ body }) => body)).toEqual([3])
    expect(second.next).toBeUndefined()
    await expect(queue.history.list({ max: 501 })).rejects.toThrow(/"max" option must be an integer from 1 to 500/)
  })

  test('is sent again as new messages, once each', async () => {
    const { queue } = await make({ maxMessages: 1000 })
    await queue.sendMany([{ body: { a: 1 }, id: 'one', key: 'k', priority: 4, headers: { h: 'v' } }, ...items('two')])
    await take(queue, 2)
    // What is acknowledged meanwhile must not come again.
    const consumer = queue.consume(() => {})
    expect(await queue.history.replay()).toBe(2)
    while ((await queue.history.list()).entries.length < 4) await sleep(1)
    await consumer.close()
    const { entries } = await queue.history.list()
    const again = entries.slice(2).find(({ key }) => key === 'k')
    expect(again).toMatchObject({ body: { a: 1 }, priority: 4, headers: { h: 'v', 'replay-of': 'one' } })
    expect(again?.id).not.toBe('one')
    expect(await queue.stats()).toMatchObject({ ready: 0, leased: 0 })
  })

  test('is sent again over many pages, while a consumer acknowledges', async () => {
    const { queue } = await make({ maxMessages: 200 })
    await queue.sendMany(items(...Array.from({ length: 200 }, (_, i) => i)))
    await Promise.all((await queue.receive({ max: 200 })).map((message) => message.ack()))
    const seen: unknown[] = []
    const consumer = queue.consume(({ body }) => void seen.push(body))
    expect(await queue.history.replay()).toBe(200)
    while (seen.length < 200) await sleep(1)
    await consumer.close()
    expect(seen).toEqual(Array.from({ length: 200 }, (_, i) => i))
  })

  test('is sent again by ids, by a filter, by time, and to another queue', async () => {
    const clock = new ManualClock(0)
    const { bus, queue } = await make({ maxMessages: 100 }, { clock })
    for (const id of ['a', 'b', 'c', 'd']) {
      await queue.send(`body of ${id}`, { id })
      clock.advance(1000)
      await take(queue, 1)
    }
    const other = bus.queue('other')
    const replay = async (options: ReplayOptions) => {
      const count = await queue.history.replay({ ...options, queue: 'other' })
      return (await take(other, count)).map((body) => String(body).at(-1))
    }
    expect(await replay({})).toEqual(['a', 'b', 'c', 'd'])
    expect(await replay({ ids: ['d', 'b', 'x'] })).toEqual(['b', 'd'])
    expect(await replay({ filter: ({ body, id }) => body === 'body of c' && id === 'c' })).toEqual(['c'])
    expect(await replay({ from: new Date(2000), to: new Date(3000) })).toEqual(['b', 'c'])
    expect(await replay({ ids: ['a', 'b'], from: new Date(2000), rate: 1000 })).toEqual(['b'])
    expect(await queue.stats()).toMatchObject({ ready: 0 })
  })

  test('a message that stopped a consumer, or asked for a reply, does not do so again', async () => {
    const { queue } = await make({ maxMessages: 100 })
    const consumer = queue.consume(() => 'reply')
    await queue.request('question', { timeout: 60_000, correlationId: 'c' })
    await queue.stopOne()
    await consumer.closed
    expect(await queue.history.replay()).toBe(1)
    const message = await one(queue)
    expect(message.body).toBe('question')
    expect(Object.keys(message.headers).sort()).toEqual(['correlation-id', 'replay-of'])
  })

  test('a replay that finds its queue full says so', async () => {
    const { bus, queue } = await make({ maxMessages: 100 })
    await queue.sendMany(items(1, 2))
    await take(queue, 2)
    await bus.queue('small', { maxMessages: 1 }).send('x')
    await expect(queue.history.replay({ queue: 'small' })).rejects.toMatchObject({ code: 'ERR_BUS_QUEUE_FULL' })
  })

  test.each([
    [{ rate: 0 }, /"rate" option must be/],
    [{ from: 5 }, /"from" option must be a valid Date/],
    [{ to: new Date('no') }, /"to" option must be a valid Date/],
    [{ queue: 'no name' }, /name of the queue must be/],
    [7, /"options" argument must be an object/],
  ])('replay(%j) is refused', async (options, message) => {
    const { queue } = await make({ maxMessages: 100 })
    await expect(queue.history.replay(options as ReplayOptions)).rejects.toThrow(message)
  })

  test.each([
    [7, /"history" option must be an object/],
    [{ maxMessages: -1 }, /"history.maxMessages" option must be/],
    [{ maxAge: Number.NaN }, /"history.maxAge" option must be/],
  ])('the option %j is refused', async (history, message) => {
    const bus = await newBus(scheme)
    expect(() => bus.queue('q', { history: history as HistoryOptions })).toThrow(message)
  })

  test('the bus says that it can', async () => {
    expect((await newBus(scheme)).capabilities.replay).toBe('native')
  })
})

describe('a history in a directory', () => {
  const newUrl = () => `local:${join(temporaryDirectory(), 'bus')}`
  const filesOf = (url: string) => readdirSync(join(url.slice('local:'.length), 'bodies'))
  const large = (i: number) => `${i}`.repeat(70_000)

  test('has the files of large bodies, until it lets them go; a sweep leaves them', async () => {
    const url = newUrl()
    const bus = await openBus(url)
    const queue = bus.queue('q', { history: { maxMessages: 2 } })
    for (let i = 0; i < 4; i++) await queue.send(large(i))
    await take(queue, 4)
    while (filesOf(url).length > 2) await sleep(1)
    await bus.close()
    const again = (await openBus(url)).queue('q')
    expect(filesOf(url)).toHaveLength(2)
    expect(await bodiesOf(again)).toEqual([large(2), large(3)])
    expect(await again.history.replay({ filter: ({ body }) => body === large(3) })).toBe(1)
    expect(await take(again, 1)).toEqual([large(3)])
    expect(await bodiesOf(again)).toEqual([large(3), large(3)])
  })

  test('that a queue no longer keeps goes with its files', async () => {
    const url = newUrl()
    const bus = await openBus(url)
    const queue = bus.queue('q', { history: { maxAge: 60_000 } })
    await queue.send(large(1))
    await take(queue, 1)
    expect(await bodiesOf(queue)).toHaveLength(1)
    await bus.queue('q', { history: {} }).send('x')
    while (filesOf(url).length > 0) await sleep(1)
  })

  test('goes with its queue', async () => {
    const url = newUrl()
    const bus = await openBus(url)
    const consumer = await bus.topic('t').subscribe(undefined, () => {}, { queue: { history: { maxMessages: 9 } } })
    await bus.topic('t').publish(large(1))
    const database = new DatabaseSync(join(url.slice('local:'.length), 'bus.db'))
    const count = () => database.prepare('SELECT count(*) AS n FROM history').get()?.n
    while (count() !== 1) await sleep(1)
    expect(filesOf(url)).toHaveLength(1)
    await consumer.close()
    while (count() !== 0 || filesOf(url).length > 0) await sleep(1)
    database.close()
  })

  test('is one for several processes, and outlives them', async () => {
    const url = newUrl()
    const queue = (await openBus(url)).queue('q', { history: { maxMessages: 100 } })
    await queue.sendMany(items('a', 'b'))
    const child = start(process.execPath, [fixture('bus.mjs'), url, 'consume', '{}'])
    while ((await bodiesOf(queue)).length < 2) await sleep(1)
    process.kill(child.pid, 'SIGKILL')
    await child.outcome
    expect(await bodiesOf(queue)).toEqual(['a', 'b'])
    expect(await queue.history.replay()).toBe(2)
    expect(await take(queue, 2)).toEqual(['a', 'b'])
  })
})
