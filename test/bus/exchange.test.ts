// Topics, requests, schedules and codecs, on the transports of one machine, and what is theirs alone.
import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { createHistogram } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import { queryObjects } from 'node:v8'
import { compress, encrypt, sign } from 'kernelmq/bus'
import { describe, expect, test } from 'vitest'
import { exchange } from './exchange.ts'
import { DatabaseSync } from './sqlite.mjs'
import { deferred, newBus, nothing, one, openBus, schemes, take, temporaryDirectory } from './support.ts'

describe.each(schemes)('%s:', exchange)

test.each(['memory', 'local'] as const)(
  '%s: a request for which there is no room in time rejects, and is not sent when there is',
  async (scheme) => {
    const queue = (await newBus(scheme)).queue('q', { maxMessages: 1, overflow: 'wait' })
    await queue.send('before')
    await expect(queue.request('late', { timeout: 20 })).rejects.toMatchObject({ code: 'ETIMEDOUT' })
    expect(await take(queue, 1)).toEqual(['before'])
    expect(await queue.stats()).toMatchObject({ ready: 0, totals: { sent: 1 } })
  },
)

describe.each(['memory', 'local'] as const)('%s: a request', (scheme) => {
  const closed = { code: 'ERR_MQ_CLOSED' }
  const long = { timeout: 60_000 }

  test('that is asked for in the turn in which its bus is closed rejects', async () => {
    const bus = await newBus(scheme)
    const request = expect(bus.queue('q').request('x', long)).rejects.toMatchObject(closed)
    await bus.close()
    await request
  })

  test('of a handler whose end the closing waits for rejects', async () => {
    const bus = await newBus(scheme)
    const [begun, closing, asked] = [deferred(), deferred(), deferred()]
    bus.queue('q').consume(async () => {
      begun.resolve()
      await closing.promise
      await expect(bus.queue('other').request('x', long)).rejects.toMatchObject(closed)
      asked.resolve()
    })
    await bus.queue('q').send('x')
    await begun.promise
    const end = bus.close()
    closing.resolve()
    await asked.promise
    await end
  })
})

/** Of what nobody may ask for by its name. */
const withStore = async <R>(
  directory: string,
  work: (database: InstanceType<typeof DatabaseSync>) => R,
): Promise<Awaited<R>> => {
  const database = new DatabaseSync(join(directory, 'bus.db'))
  try {
    return await work(database)
  } finally {
    database.close()
  }
}

describe('keys', () => {
  const [a, b] = [randomBytes(32), randomBytes(32)]
  const two = async (first: object, second: object) => {
    const url = `local:${temporaryDirectory()}`
    return [(await openBus(url, first)).queue('q'), (await openBus(url, second)).queue('q')] as const
  }

  test('are rotated: what was sent with an old one is read as long as it is there', async () => {
    const [old, renewed] = await two(
      { codecs: [encrypt({ keys: { a, b }, current: 'a' })] },
      { codecs: [encrypt({ keys: { a, b }, current: 'b' })] },
    )
    await old.send('old')
    await renewed.send('new')
    expect(await take(old, 2)).toEqual(['old', 'new'])
  })

  test.each([
    [
      'has another key',
      [encrypt({ keys: { a: b }, current: 'a' })],
      [encrypt({ keys: { a }, current: 'a' })],
      /authenticate/,
    ],
    [
      'has not the key',
      [encrypt({ keys: { b }, current: 'b' })],
      [encrypt({ keys: { a }, current: 'a' })],
      /no key "b"/,
    ],
    ['does not encrypt', [], [encrypt({ keys: { a }, current: 'a' })], /has no "aes256gcm"/],
    ['does not sign', [], [sign({ keys: { a }, current: 'a' })], /has no "hmac"/],
    [
      'signs with another key',
      [sign({ keys: { a: b }, current: 'a' })],
      [sign({ keys: { a }, current: 'a' })],
      /signature is not right/,
    ],
    [
      'encrypts for one that does not',
      [encrypt({ keys: { a }, current: 'a' })],
      [],
      /has "aes256gcm", which this bus has not/,
    ],
  ])('of a sender who %s make its message a dead letter', async (_, sender, receiver, error) => {
    const [from, to] = await two({ codecs: sender }, { codecs: receiver })
    await from.send('secret')
    expect(await to.receive(nothing)).toEqual([])
    const { letters } = await to.dead.list()
    expect(letters).toMatchObject([{ reason: 'unreadable' }])
    expect(letters[0]?.error).toMatch(error)
  })

  test('that nobody has do not open the store: there is no text in it', async () => {
    const bus = await newBus('local', { codecs: [encrypt({ keys: { a }, current: 'a' })] })
    const queue = bus.queue('q')
    await queue.send('a secret')
    const message = await one(queue)
    expect(message.body).toBe('a secret')
    expect(message.data.includes('a secret')).toBe(false)
  })

  test.each([
    ['the body', "body = x'78'", false],
    ['that it is text', 'format = 0', false],
    ['the id', "id = 'another'", true],
    ['the time', 'sent = 1', true],
  ])('are needed to change what they cover: %s', async (_, change, isRead) => {
    for (const codec of [encrypt, sign]) {
      const directory = temporaryDirectory()
      const queue = (await openBus(`local:${directory}`, { codecs: [codec({ keys: { a }, current: 'a' })] })).queue('q')
      await queue.send('pay 10')
      await withStore(directory, (database) => database.exec(`UPDATE messages SET ${change}`))
      expect((await queue.receive(nothing)).map(({ body }) => body)).toEqual(isRead ? ['pay 10'] : [])
      expect((await queue.stats()).dead).toBe(isRead ? 0 : 1)
    }
  })

  test('are needed to change what was done to a body before', async () => {
    for (const codec of [encrypt, sign]) {
      const directory = temporaryDirectory()
      const codecs = [compress(), codec({ keys: { a }, current: 'a' })]
      const queue = (await openBus(`local:${directory}`, { codecs })).queue('q')
      await queue.send(Buffer.alloc(5000))
      await withStore(directory, (database) =>
        database.exec("UPDATE messages SET headers = replace(headers, 'gzip ', '')"),
      )
      expect(await queue.receive(nothing)).toEqual([])
      expect((await queue.dead.list()).letters).toMatchObject([{ reason: 'unreadable' }])
    }
  })

  test.each([
    [{ keys: { a: 'short' }, current: 'a' }, 'key "a" must be 32 bytes'],
    [{ keys: { a }, current: 'b' }, '"current" option must be the name of one of the keys'],
    [{ keys: { 'a b': a }, current: 'a b' }, 'name of the key'],
  ])('that cannot be are refused', (options, message) => {
    expect(() => encrypt(options as never)).toThrow(message)
  })
})

describe('a schedule', () => {
  const [a, b] = [randomBytes(32), randomBytes(32)]
  test.each([
    ['', { keys: { a }, current: 'a' }],
    [' under another id, as it had before', { keys: { a }, current: 'a' }],
    [', which nobody can read any more', { keys: { b }, current: 'b' }],
  ])('whose next time is a dead letter%s goes on when it is set again', async (how, keys) => {
    const directory = temporaryDirectory()
    const url = `local:${directory}`
    const setting = await openBus(url, { codecs: [encrypt({ keys: { a }, current: 'a' })] })
    await setting.schedules.set('s', setting.queue('q'), 'tick', { every: 100 })
    await setting.schedules.set('other', setting.queue('others'), 'tick', { every: 86_400_000 })
    const other = (await setting.schedules.list())[0]?.next
    await setting.close()
    const unable = await openBus(url)
    unable.schedules.run()
    const deaths = () =>
      withStore(directory, (db) => db.prepare("SELECT * FROM messages WHERE headers LIKE '%dead-%'").all())
    while ((await deaths()).length === 0) await sleep(5)
    await unable.close()
    if (how.includes('id')) await withStore(directory, (db) => db.exec("UPDATE messages SET id = 'another'"))
    const bus = await openBus(url, { codecs: [encrypt(keys)] })
    await bus.schedules.set('s', bus.queue('q'), 'tick', { every: 100 })
    await bus.schedules.set('other', bus.queue('others'), 'tick', { every: 86_400_000 })
    expect((await bus.schedules.list())[0]?.next).toEqual(other)
    expect(await take(bus.queue('q'), 2)).toEqual(['tick', 'tick'])
  })

  test('goes on although many have died while they were at it', async () => {
    const directory = temporaryDirectory()
    const bus = await openBus(`local:${directory}`)
    await bus.schedules.set('s', bus.queue('q'), 'tick', { every: 100 })
    await withStore(directory, (database) => database.exec('UPDATE parked SET losses = 10'))
    expect(await take(bus.queue('q'), 2)).toEqual(['tick', 'tick'])
  })

  test('goes on when the store could not be had at its time', async () => {
    const directory = temporaryDirectory()
    const bus = await openBus(`local:${directory}`, { busyTimeout: 20 })
    await bus.schedules.set('s', bus.queue('q'), 'tick', { every: 50 })
    await withStore(directory, async (database) => {
      database.exec('BEGIN IMMEDIATE')
      await sleep(500)
      database.exec('ROLLBACK')
    })
    expect(await take(bus.queue('q'), 2)).toEqual(['tick', 'tick'])
  })
})

test.each(['memory', 'local'] as const)('%s: a topic goes to any number of queues, all or none', async (scheme) => {
  const bus = await newBus(scheme)
  const names = Array.from({ length: 1001 }, (_, at) => `q${at}`)
  await Promise.all(names.map((name) => bus.topic('t').bind(name)))
  const large = 'x'.repeat(100_000)
  expect(await bus.topic('t').publish(large)).toBe(names.length)
  for (const name of ['q0', 'q1000']) expect(await take(bus.queue(name), 1)).toEqual([large])
  const full = bus.queue('q700', { maxMessages: 1 })
  await expect(full.send('x')).rejects.toMatchObject({ code: 'ERR_BUS_QUEUE_FULL' })
  await expect(bus.topic('t').publish('one more')).rejects.toMatchObject({ code: 'ERR_BUS_QUEUE_FULL' })
  for (const name of ['q0', 'q1000']) expect((await bus.queue(name).stats()).ready).toBe(0)
})

test.each(['memory', 'local'] as const)(
  '%s: of subscriptions without a name that are closed nothing is kept',
  async (scheme) => {
    const bus = await newBus(scheme)
    const subscribeOnce = async () => {
      const received = deferred<unknown>()
      const consumer = await bus.topic('t').subscribe(undefined, ({ body }) => received.resolve(body))
      await bus.topic('t').publish('x')
      await received.promise
      await consumer.close()
      // What it had is dropped after it.
      while ((await bus.topic('t').publish('gone')) > 0);
    }
    // Each has latencies, and a set of those who wait for room.
    const histogram = createHistogram().constructor
    const count = () => [histogram, Set].map((type) => Number(queryObjects(type, { format: 'count' })))
    await subscribeOnce()
    const before = count()
    for (let i = 0; i < 100; i++) await subscribeOnce()
    const more = count().map((now, at) => now - (before[at] as number))
    expect(Math.max(...more)).toBeLessThan(30)
  },
)

test('what a killed process had borrowed goes with it', async () => {
  const url = `local:${temporaryDirectory()}`
  const [bus, other] = [await openBus(url), await openBus(url)]
  await bus.topic('t').subscribe(undefined, () => {})
  expect(await other.topic('t').publish('x')).toBe(1)
  await bus.close()
  expect(await other.topic('t').publish('x')).toBe(0)
})
