// Topics, requests, schedules and codecs, on every transport.
import { randomBytes } from 'node:crypto'
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { setTimeout as sleep } from 'node:timers/promises'
import { compress, encrypt, ReplyError, sign, type Topic } from 'kernelmq/bus'
import { describe, expect, onTestFinished, test } from 'vitest'
import {
  deferred,
  gather,
  isSlow,
  newBus,
  newClock,
  one,
  type Scheme,
  type TestClock,
  take,
  testOf,
} from './support.ts'

export const exchange = (scheme: Scheme): void => {
  describe('a topic', () => {
    test.each([
      ['orders', ['orders'], ['orders.eu', 'order', '']],
      ['orders.*', ['orders.eu', 'orders.1'], ['orders', 'orders.eu.de', 'other.eu']],
      ['orders.#', ['orders', 'orders.eu', 'orders.eu.de'], ['other', 'xorders']],
      ['#', ['a', 'a.b.c'], []],
      ['*.eu.#', ['orders.eu', 'x.eu.de'], ['eu', 'orders.us']],
      ['a:b_c-d', ['a:b_c-d'], ['a.b_c-d']],
    ])('%s gets what is published to topics that it means, and no other', async (pattern, meant, others) => {
      const bus = await newBus(scheme)
      await bus.topic(pattern).bind('q')
      for (const name of meant) expect(await bus.topic(name).publish(name), name).toBe(1)
      for (const name of others.filter((other) => other !== ''))
        expect(await bus.topic(name).publish(name), name).toBe(0)
      expect(await take(bus.queue('q'), meant.length)).toEqual(meant)
    })

    test('goes to all that are bound, once each, and to those with the headers they want', async () => {
      const bus = await newBus(scheme)
      await bus.topic('a.*').bind('all')
      await bus.topic('#').bind('all')
      await bus.topic('a.*').bind('urgent', { headers: { level: 'high' } })
      expect(await bus.topic('a.b').publish(1, { headers: { level: 'high' } })).toBe(2)
      expect(await bus.topic('a.b').publish(2, { headers: { level: 'low' } })).toBe(1)
      expect(await take(bus.queue('all'), 2)).toEqual([1, 2])
      expect(await take(bus.queue('urgent'), 1)).toEqual([1])
      await bus.topic('a.*').unbind('urgent', { headers: { level: 'high' } })
      expect(await bus.topic('a.b').publish(3, { headers: { level: 'high' } })).toBe(1)
    })

    test('keeps the id that it was published with', async () => {
      const bus = await newBus(scheme)
      await bus.topic('t').bind('q')
      await bus.topic('t').publish('x', { id: 'mine' })
      expect(await one(bus.queue('q'))).toMatchObject({ body: 'x', id: 'mine' })
    })

    test('keeps for a subscription what is published while nobody is there; its consumers share it', async () => {
      const bus = await newBus(scheme)
      const topic = bus.topic('t')
      const seen: unknown[] = []
      const first = await topic.subscribe('s', ({ body }) => void seen.push(body))
      await first.close()
      await topic.publish(1)
      const all = deferred()
      const handler = ({ body }: { body: unknown }) => {
        seen.push(body)
        if (seen.length === 3) all.resolve()
      }
      await Promise.all([topic.subscribe('s', handler), topic.subscribe('s', handler)])
      await topic.publish(2)
      await topic.publish(3)
      await all.promise
      expect(seen.sort()).toEqual([1, 2, 3])
    })

    test('is heard without a subscription as long as one listens, and leaves nothing behind', async () => {
      const bus = await newBus(scheme)
      const heard = deferred<unknown>()
      const consumer = await bus.topic('t').subscribe(undefined, ({ body }) => heard.resolve(body))
      expect(await bus.topic('t').publish('x')).toBe(1)
      expect(await heard.promise).toBe('x')
      await consumer.close()
      while ((await bus.topic('t').publish('y')) > 0) await sleep(1)
    })

    test.each<[string, Parameters<Topic['subscribe']>]>([
      ['handler', ['s', 'x' as never]],
      ['handler', [undefined, 'x' as never]],
      ['"concurrency" option', ['s', () => {}, { concurrency: 0 }]],
      ['"concurrency" option', [undefined, () => {}, { concurrency: 0 }]],
      ['"dedup" option', ['s', () => {}, { queue: { dedup: -1 } }]],
      ['"dedup" option', [undefined, () => {}, { queue: { dedup: -1 } }]],
    ])('is not subscribed to with a wrong %s: %j', async (what, subscription) => {
      const bus = await newBus(scheme)
      await expect(bus.topic('t').subscribe(...subscription)).rejects.toThrow(what)
      expect(await bus.topic('t').publish('x')).toBe(0)
    })

    test.each(['', 'a..b', 'a b', 'a/b', '.', 'a.b*', '$a', '$cancelled'])('is not called %j', async (name) => {
      const bus = await newBus(scheme)
      expect(() => bus.topic(name)).toThrow('name of the topic must be words')
    })

    test('with a wildcard cannot be published to', async () => {
      const bus = await newBus(scheme)
      await expect(bus.topic('a.*').publish('x')).rejects.toThrow('one topic, to publish to it')
    })
  })

  describe('a request', () => {
    test('takes the correlation id and the headers of its sender to its handler, and gets its reply', async () => {
      const bus = await newBus(scheme)
      const queue = bus.queue('q')
      queue.consume(({ body, headers }) => [body, headers])
      const options = { timeout: 60_000, correlationId: 'order 17', headers: { a: 'b' } }
      const replies = await Promise.all([1, 2].map((n) => queue.request(n, options)))
      expect(replies).toEqual([1, 2].map((n) => [n, { a: 'b', 'correlation-id': 'order 17' }]))
    })

    test('gets what its handler returns', async () => {
      const bus = await newBus(scheme)
      const squares = bus.queue<number>('squares')
      squares.consume(({ body }) => body * body, { concurrency: 4 })
      const replies = await Promise.all([1, 2, 3].map((n) => squares.request(n)))
      expect(replies).toEqual([1, 4, 9])
      const quiet = bus.queue('quiet')
      quiet.consume(() => {})
      expect(await quiet.request('x')).toBe(null)
    })

    test('rejects with what its handler throws, after its retries', async () => {
      const bus = await newBus(scheme)
      const queue = bus.queue('q', { retry: { max: 1, base: 1 } })
      let calls = 0
      queue.consume(() => {
        calls++
        throw new Error('cannot')
      })
      const failed = queue.request('x')
      await expect(failed).rejects.toBeInstanceOf(ReplyError)
      await expect(failed).rejects.toMatchObject({ code: 'ERR_BUS_REPLY', message: 'cannot' })
      expect(calls).toBe(2)
    })

    test('rejects where what its handler returns or throws cannot be sent, and the next one is answered', async () => {
      const bus = await newBus(scheme)
      const queue = bus.queue('q', { retry: { max: 1, base: 1 } })
      const cycle: { self?: object } = {}
      cycle.self = cycle
      const asNothing = () => {
        throw new Error('not to be had')
      }
      const odd: Record<string, () => unknown> = {
        bigint: () => ({ count: 10n }),
        cycle: () => cycle,
        function: () => () => {},
        'does not say whether it is a promise': () => new Proxy({}, { get: asNothing, has: asNothing }),
        'without text': () => {
          throw Object.create(null)
        },
        'throws its text': () => {
          throw { toString: asNothing }
        },
        'a message that is none': () => {
          throw Object.assign(new Error(), { message: 7, stack: 8 })
        },
        'a long one': () => {
          throw new Error('€'.repeat(600))
        },
      }
      const consumer = queue.consume(({ body }) => odd[body as string]?.() ?? body)
      for (const name of Object.keys(odd)) {
        await expect(queue.request(name), name).rejects.toMatchObject({ code: 'ERR_BUS_REPLY' })
        expect(await queue.request('good')).toBe('good')
      }
      await consumer.close()
      expect(await queue.stats()).toMatchObject({ ready: 0, leased: 0 })
    })

    test('that nobody answers in time rejects, is not handled later, and its handler is told', async () => {
      const clock = newClock(scheme, 0)
      const queue = (await newBus(scheme, { clock })).queue('q')
      await expect(queue.request('late', { timeout: 20 })).rejects.toMatchObject({ code: 'ETIMEDOUT' })
      await clock.advance(21)
      const [begun, aborted] = [deferred<unknown>(), deferred<unknown>()]
      queue.consume(({ body }, { signal }) => {
        signal.addEventListener('abort', () => aborted.resolve(body))
        begun.resolve(body)
        return new Promise(() => {})
      })
      // Where it has to pass, the handler begins within it.
      const timeout = isSlow(scheme) ? 6000 : 50
      const slow = expect(queue.request('slow', { timeout })).rejects.toMatchObject({ code: 'ETIMEDOUT' })
      expect(await begun.promise).toBe('slow')
      await clock.advance(timeout)
      expect(await aborted.promise).toBe('slow')
      await slow
    })

    test('that waits when the bus is closed rejects', async () => {
      const bus = await newBus(scheme)
      const waiting = expect(bus.queue('q').request('x')).rejects.toMatchObject({ code: 'ERR_MQ_CLOSED' })
      while ((await bus.queue('q').stats()).ready === 0) await sleep(1)
      await bus.close()
      await waiting
    })

    test('may be given up', async () => {
      const bus = await newBus(scheme)
      const controller = new AbortController()
      const given = bus.queue('q').request('x', { signal: controller.signal })
      await sleep(5)
      controller.abort('enough')
      await expect(given).rejects.toMatchObject({ code: 'ABORT_ERR', cause: 'enough' })
    })
  })

  describe('a schedule', () => {
    const START = Date.UTC(2026, 0, 1, 12, 0, 30)
    const scheduled = async () => {
      const clock = newClock(scheme, START)
      const bus = await newBus(scheme, { clock })
      return { clock, bus, queue: bus.queue('q') }
    }

    /** Lets time pass, and waits until what it brings is there. */
    const pass = async (clock: TestClock, ms: number, ready: () => Promise<boolean>) => {
      await clock.advance(ms)
      while (!(await ready())) await sleep(1)
    }

    // A shorter one where it has to pass.
    const second = isSlow(scheme) ? 200 : 1000
    testOf(scheme, 'records')('every so often sends one message', async () => {
      const { clock, bus, queue } = await scheduled()
      await bus.schedules.set('s', queue, { tick: true }, { every: second, priority: 3 })
      expect(await bus.schedules.list()).toEqual([
        { name: 's', queue: 'q', body: { tick: true }, every: second, next: new Date(START + second) },
      ])
      for (let i = 1; i <= 3; i++) await pass(clock, second, async () => (await queue.stats()).ready >= i)
      const messages = await gather(queue, 3)
      expect(messages.map(({ body, priority }) => [body, priority])).toEqual(Array(3).fill([{ tick: true }, 3]))
      expect(await bus.schedules.remove('s')).toBe(true)
      expect(await bus.schedules.remove('s')).toBe(false)
      await clock.advance(1.5 * second)
      await sleep(20)
      expect((await queue.stats()).ready).toBe(0)
    })

    // Where time has to pass they would take hours, and how times are chosen is no transport's business.
    const testOfLong = isSlow(scheme) ? () => () => {} : testOf
    testOfLong(scheme, 'records')('goes by cron expressions, in a time zone', async () => {
      const { clock, bus, queue } = await scheduled()
      await bus.schedules.set('s', queue, 'x', { cron: '0 8 * * *', timezone: 'America/New_York' })
      expect((await bus.schedules.list())[0]?.next).toEqual(new Date(Date.UTC(2026, 0, 1, 13)))
      await pass(clock, 60 * 60_000, async () => (await queue.stats()).ready === 1)
      expect((await bus.schedules.list())[0]?.next).toEqual(new Date(Date.UTC(2026, 0, 2, 13)))
    })

    testOfLong(scheme, 'records')('sends one message for all the times that were missed, or none', async () => {
      const { clock, bus, queue } = await scheduled()
      await bus.schedules.set('once', queue, 'once', { every: 1000 })
      await bus.schedules.set('skip', queue, 'skip', { every: 1000, missed: 'skip' })
      await pass(clock, 100_000, async () => (await queue.stats()).ready === 1)
      await sleep(20)
      expect(await take(queue, 1)).toEqual(['once'])
      await pass(clock, 1000, async () => (await queue.stats()).ready === 2)
      expect((await take(queue, 2)).sort()).toEqual(['once', 'skip'])
    })

    testOf(scheme, 'records')('that is set again is replaced, unless it is the same', async () => {
      const { clock, bus, queue } = await scheduled()
      await bus.schedules.set('s', queue, 'old', { every: second })
      await clock.advance(second / 2)
      await bus.schedules.set('s', queue, 'old', { every: second })
      expect((await bus.schedules.list())[0]?.next).toEqual(new Date(START + second))
      await bus.schedules.set('s', queue, 'new', { every: 2 * second })
      await pass(clock, 2 * second, async () => (await queue.stats()).ready === 1)
      expect(await take(queue, 1)).toEqual(['new'])
    })

    testOfLong(
      scheme,
      'records',
      'bounds',
    )('waits for room in its queue, however long that takes, and goes on', async () => {
      const { clock, bus } = await scheduled()
      const queue = bus.queue('q', { maxMessages: 1 })
      await queue.send('in its way')
      let refused = 0
      const hear = () => void refused++
      subscribe('kernelmq:bus:retried', hear)
      onTestFinished(() => void unsubscribe('kernelmq:bus:retried', hear))
      await bus.schedules.set('s', queue, 'tick', { every: second })
      const turn = async () => {
        await clock.advance(second)
        await sleep(1)
      }
      while (refused < 10) await turn()
      expect(await take(queue, 1)).toEqual(['in its way'])
      for (let i = 0; i < 2; i++) {
        while ((await queue.stats()).ready === 0) await turn()
        expect(await take(queue, 1)).toEqual(['tick'])
      }
    })

    test('without a queue is refused', async () => {
      const bus = await newBus(scheme)
      const set = bus.schedules.set('s', 'q' as never, 'x', { every: 5 })
      await expect(set).rejects.toThrow('queue of the schedule must be a queue of the bus')
    })

    for (const [options, message] of [
      [{}, 'one of the two'],
      [{ every: 0 }, '"every" option must be a number of milliseconds >= 1'],
      [{ every: 5, cron: '* * * * *' }, 'one of the two'],
      [{ cron: 'no' }, /./],
      [{ every: 5, priority: 300 }, '"priority" option'],
    ] as const) {
      testOf(scheme, 'records')(`with ${JSON.stringify(options)} is refused`, async () => {
        const { bus, queue } = await scheduled()
        expect(await bus.schedules.list()).toEqual([])
        await expect(bus.schedules.set('s', queue, 'x', options)).rejects.toThrow(message)
        expect(await bus.schedules.list()).toEqual([])
      })
    }
  })

  describe('what is done once', () => {
    testOf(scheme, 'records')('is done once, has one result, and is forgotten in the end', async () => {
      const clock = newClock(scheme, 0)
      const bus = await newBus(scheme, { clock })
      let calls = 0
      const charge = () => bus.once('charge-7', async () => ({ call: ++calls }), { ttl: 1000 })
      expect([await charge(), await charge()]).toEqual([{ call: 1 }, { call: 1 }])
      expect(await bus.once('charge-70', () => undefined)).toBe(undefined)
      await clock.advance(1001)
      expect(await charge()).toEqual({ call: 2 })
    })

    test('is not begun where it is no function, or its time is wrong', async () => {
      const bus = await newBus(scheme)
      const never = () => expect.unreachable()
      await expect(bus.once('i', never, { ttl: 'x' as never })).rejects.toThrow('"ttl" option')
      await expect(bus.once('i', 5 as never)).rejects.toThrow('fn must be a function')
    })

    testOf(scheme, 'records')('that throws is not recorded', async () => {
      const bus = await newBus(scheme)
      await expect(
        bus.once('i', () => {
          throw new Error('no')
        }),
      ).rejects.toThrow('no')
      expect(await bus.once('i', () => 1)).toBe(1)
    })
  })

  describe('codecs', () => {
    const key = () => randomBytes(32).toString('base64')
    const bodies = ['', 'text', 'x'.repeat(5000), { a: ['x'.repeat(2000)] }, randomBytes(3000)]

    test.each([
      ['gzip', () => [compress()]],
      ['brotli', () => [compress({ algorithm: 'brotli', threshold: 0 })]],
      ['encryption', () => [encrypt({ keys: { a: key() }, current: 'a' })]],
      ['signatures', () => [sign({ keys: { a: key() }, current: 'a' })]],
      [
        'all of them',
        () => [compress(), encrypt({ keys: { a: key() }, current: 'a' }), sign({ keys: { b: key() }, current: 'b' })],
      ],
    ])('%s give back what was sent', async (_, make) => {
      const bus = await newBus(scheme, { codecs: make() })
      const queue = bus.queue('q')
      for (const body of bodies) await queue.send(body)
      expect(await take(queue, bodies.length)).toEqual(bodies)
    })

    test('make bodies smaller, where that is worth it', async () => {
      const bus = await newBus(scheme, { codecs: [compress()] })
      const queue = bus.queue('q')
      await queue.send('x'.repeat(10_000))
      // A queue of the kernel, and an engine, count what else a message has.
      expect((await queue.stats()).bytes).toBeLessThan(400)
      const noise = randomBytes(2000)
      await queue.send(noise)
      expect((await gather(queue, 2))[1]?.data.length).toBe(2000)
    })
  })
}
