// What every transport has to do, through the public API alone; a suite for one of them.
import { setTimeout as sleep } from 'node:timers/promises'
import type { Message, StandardSchema } from 'kernelmq/bus'
import { describe, expect, test } from 'vitest'
import {
  can,
  deferred,
  gather,
  hasPlaces,
  isPassing,
  isSlow,
  newBus,
  newClock,
  nothing,
  one,
  type Scheme,
  take,
  testOf,
} from './support.ts'

export const conformance = (scheme: Scheme): void => {
  /** Whether it counts messages, and knows who has them; a queue of the kernel counts packs. */
  const counts = can(scheme, 'lease')
  const make = async (name = 'q', options = {}) => (await newBus(scheme)).queue(name, options)
  /** With a clock that stands still until it is told, where the engine goes by it. */
  const makeTimed = async (options = {}) => {
    const clock = newClock(scheme, Date.UTC(2026, 0, 1))
    const bus = await newBus(scheme, { clock })
    const begun = performance.now()
    /** Whether so much time may have passed by itself, on a machine that stood still. */
    const isOver = (ms: number): boolean => isSlow(scheme) && performance.now() - begun >= ms
    return { clock, start: clock.now(), bus, queue: bus.queue('q', options), isOver }
  }

  describe('a message', () => {
    test.each([
      ['text', 'héllo', 'héllo'],
      ['an empty text', '', ''],
      ['bytes', new Uint8Array([0, 255, 128]), Buffer.from([0, 255, 128])],
      ['a part of a buffer', Buffer.from('abcdef').subarray(2, 4), Buffer.from('cd')],
      ['an ArrayBuffer', new Uint8Array([7]).buffer, Buffer.from([7])],
      ['an object', { a: [1, null, 'x'] }, { a: [1, null, 'x'] }],
      ['null', null, null],
      ['a number', 0, 0],
      ['a large text', 'x'.repeat(300_000), 'x'.repeat(300_000)],
    ])('of %s comes as it was sent', async (_, body, expected) => {
      const queue = await make()
      await queue.send(body)
      const message = await one(queue)
      expect(message.body).toEqual(expected)
      expect(message.headers).toEqual({})
    })

    test('is copied when it is sent', async () => {
      const queue = await make()
      const body = Buffer.from('before')
      const sent = queue.send(body)
      body.fill('x')
      await sent
      expect(await take(queue, 1)).toEqual([Buffer.from('before')])
    })

    test('has what it was sent with', async () => {
      const { queue, clock, start } = await makeTimed({ dedup: 0 })
      const ordered = can(scheme, 'order') ? { key: 'k' } : {}
      const priority = can(scheme, 'priority') ? 7 : 0
      await queue.send('x', { id: 'an id', ...ordered, priority, headers: { a: 'b' }, correlationId: 'c' })
      const sent = clock.now()
      await clock.advance(5)
      const message = await one(queue)
      const { id, key, headers, sentAt, attempts, losses, settled } = message
      expect(sentAt.getTime()).toBeGreaterThanOrEqual(start)
      expect(sentAt.getTime()).toBeLessThanOrEqual(sent)
      expect({ id, key, priority: message.priority, headers, attempts, losses, settled }).toEqual({
        id: 'an id',
        key: ordered.key,
        priority,
        headers: { a: 'b', 'correlation-id': 'c' },
        attempts: 0,
        losses: 0,
        settled: false,
      })
    })

    test.each([
      ['a body', undefined, {}, /body must be bytes, a string, or a value that JSON has/],
      ['a body', () => {}, {}, /body must be/],
      ['an id', 'x', { id: '' }, /"id" option must be 1 to 512 characters/],
      ['a key', 'x', { key: 3 }, /"key" option must be a string/],
      ['a priority', 'x', { priority: 256 }, /"priority" option must be an integer from 0 to 255/],
      ['a delay', 'x', { delay: -1 }, /"delay" option must be 0 to/],
      ['a delay', 'x', { delay: Number.NaN }, /"delay" option must be/],
      ['a time', 'x', { at: new Date('no') }, /"at" option must be a valid Date/],
      ['two times', 'x', { at: new Date(), delay: 5 }, /"delay" option must be absent where "at" is given/],
      ['a header', 'x', { headers: { a: 1 } }, /header "a" must be a string/],
      ['a header of the bus', 'x', { headers: { 'kmq-stop': '' } }, /names that do not begin with "kmq-"/],
      ['options', 'x', 7, /"options" argument must be an object/],
    ])('with %s that cannot be is refused, and nothing is sent', async (_, body, options, message) => {
      const queue = await make()
      await expect(queue.send(body, options as object)).rejects.toThrow(message)
      expect((await queue.stats()).ready).toBe(0)
    })
  })

  describe('order', () => {
    test('is that of sending', async () => {
      const queue = await make()
      await Promise.all(Array.from({ length: 100 }, (_, i) => queue.send(i)))
      expect(await take(queue, 100)).toEqual(Array.from({ length: 100 }, (_, i) => i))
    })

    testOf(scheme, 'priority')('is by priority first', async () => {
      const queue = await make()
      for (const priority of [0, 255, 7, 0, 255]) await queue.send(priority, { priority })
      expect(await take(queue, 5)).toEqual([255, 255, 7, 0, 0])
    })

    testOf(scheme, 'order')('of a key holds its followers until it is settled, and no other key', async () => {
      const bus = await newBus(scheme)
      const queue = bus.queue('q')
      for (const body of ['a1', 'a2', 'b1', 'free']) await queue.send(body, body === 'free' ? {} : { key: body[0] })
      const messages = await gather(queue, 3)
      // Partitions are asked one by one, and each answers when it can.
      if (bus.capabilities.partitions !== undefined) messages.sort((a, b) => (String(a.body) < String(b.body) ? -1 : 1))
      expect(messages.map(({ body }) => body)).toEqual(['a1', 'b1', 'free'])
      expect(await queue.stats()).toMatchObject({ leased: 3, held: 1, ready: 0 })
      expect(await queue.receive(nothing)).toEqual([])
      await messages[0]?.ack()
      expect((await one(queue)).body).toBe('a2')
    })

    testOf(scheme, 'order')('of a key is kept while one of it is retried, and free when that one is dead', async () => {
      const { queue, clock } = await makeTimed()
      await queue.sendMany(['1', '2', '3'].map((body) => ({ body, key: 'k' })))
      const delay = isSlow(scheme) ? 4000 : 1000
      await (await one(queue)).retry(delay)
      expect(await queue.receive(nothing)).toEqual([])
      await clock.advance(delay)
      const first = await one(queue)
      expect(first.body).toBe('1')
      await first.dead('enough')
      expect(await take(queue, 2)).toEqual(['2', '3'])
    })
  })

  describe('time', () => {
    testOf(scheme, 'delay')('a delayed message comes when it is due, not before', async () => {
      const { queue, clock, start, isOver } = await makeTimed()
      const delay = isSlow(scheme) ? 4000 : 1000
      await queue.send('late', { delay })
      await queue.send('later', { at: new Date(start + 2 * delay) })
      const stats = await queue.stats()
      if (!isOver(delay)) expect(stats).toMatchObject({ delayed: 2, ready: 0 })
      await clock.advance(clock.before(delay))
      const early = await queue.receive(nothing)
      if (!isOver(delay)) expect(early).toEqual([])
      await clock.advance(delay - clock.before(delay))
      const late = early[0] ?? (await one(queue))
      expect(late.body).toBe('late')
      await late.ack()
      const waiting = take(queue, 1)
      await sleep(10)
      await clock.advance(delay)
      expect(await waiting).toEqual(['later'])
    })

    testOf(scheme, 'delay')('an earlier one wakes a receiver that waits for a later one', async () => {
      const queue = await make()
      await queue.send('late', { delay: 60_000 })
      const waiting = take(queue, 1)
      await sleep(10)
      await queue.send('soon', { delay: 20 })
      expect(await waiting).toEqual(['soon'])
    })

    test('what nobody wants any more does not come', async () => {
      const { queue, clock } = await makeTimed()
      await queue.send('old', { ttl: 1000 })
      await queue.send('new')
      await clock.advance(1001)
      expect(await take(queue, 1)).toEqual(['new'])
      expect(await queue.stats()).toMatchObject({ ready: 0 })
    })

    testOf(scheme, 'order')('what nobody wants any more frees its key', async () => {
      const { queue, clock } = await makeTimed()
      await queue.send('old', { ttl: 1000, key: 'k' })
      await queue.send('new', { key: 'k' })
      await clock.advance(1001)
      expect(await take(queue, 1)).toEqual(['new'])
      expect(await queue.stats()).toMatchObject({ ready: 0, held: 0, dead: 0 })
    })

    testOf(scheme, 'lease')('a lease with a limit is taken away, and extended', async () => {
      const { queue, clock } = await makeTimed()
      await queue.send('x')
      // A machine with much else to do may take a second for what is done within it.
      const lease = isSlow(scheme) ? 8000 : 1000
      const [message] = await queue.receive({ lease })
      await clock.advance(clock.before(lease))
      await message?.extend(lease)
      await clock.advance(clock.before(lease))
      expect(await queue.receive(nothing)).toEqual([])
      const waiting = queue.receive()
      await sleep(10)
      await clock.advance(lease - clock.before(lease))
      const [again] = await waiting
      expect(again).toMatchObject({ body: 'x', attempts: 0, losses: 1 })
      await expect(message?.ack()).rejects.toMatchObject({ code: 'ERR_BUS_LEASE_LOST' })
      await again?.ack()
      expect(await queue.stats()).toMatchObject({ ready: 0, leased: 0 })
    })
  })

  describe('an id', () => {
    testOf(scheme, 'dedup')('that was sent is a duplicate within its window, and new after it', async () => {
      const window = isSlow(scheme) ? 8000 : 1000
      const { queue, clock } = await makeTimed({ dedup: window })
      expect(await queue.send('a', { id: 'i' })).toEqual({ id: 'i', duplicate: false })
      await clock.advance(clock.before(window))
      expect(await queue.send('b', { id: 'i' })).toEqual({ id: 'i', duplicate: true })
      await clock.advance(window - clock.before(window))
      // The server's clock may be late.
      if (isSlow(scheme)) await clock.advance(500)
      expect(await queue.send('c', { id: 'i' })).toEqual({ id: 'i', duplicate: false })
      expect(await take(queue, 2)).toEqual(['a', 'c'])
    })

    testOf(scheme, 'dedup')('is that of one queue, and of each message of a batch', async () => {
      const bus = await newBus(scheme)
      await bus.queue('one').send('x', { id: 'i' })
      const receipts = await bus.queue('two').sendMany(['i', 'j', 'i'].map((id) => ({ body: id, id })))
      expect(receipts.map(({ duplicate }) => duplicate)).toEqual([false, false, true])
      expect(await bus.queue('two').stats()).toMatchObject({ ready: 2 })
    })
  })

  describe('sendMany', () => {
    test('sends all or nothing', async () => {
      const queue = await make()
      await expect(queue.sendMany([{ body: 'a' }, { body: 'b', priority: -1 }])).rejects.toThrow('"priority"')
      expect(await queue.stats()).toMatchObject({ ready: 0 })
      expect(await queue.sendMany([])).toEqual([])
      await expect(queue.sendMany(Array.from({ length: 501 }, (_, body) => ({ body })))).rejects.toThrow('at most 500')
      const sent = queue.sendMany(Array.from({ length: 500 }, (_, body) => ({ body })))
      // A queue of the kernel has no room for all of them.
      if (counts) {
        await sent
        expect(await queue.stats()).toMatchObject({ ready: 500 })
      }
      expect(await take(queue, 500)).toEqual(Array.from({ length: 500 }, (_, body) => body))
      expect(await sent).toHaveLength(500)
    })
  })

  describe('receive', () => {
    test('waits no longer than it is told, takes no more than it is told, and may be given up', async () => {
      const queue = await make()
      expect(await queue.receive({ wait: 10 })).toEqual([])
      const controller = new AbortController()
      const given = queue.receive({ signal: controller.signal })
      controller.abort('enough')
      await expect(given).rejects.toMatchObject({ code: 'ABORT_ERR', cause: 'enough' })
      await queue.sendMany([1, 2, 3].map((body) => ({ body })))
      const two = await queue.receive({ max: 2 })
      if (two.length === 1) two.push(...(await queue.receive()))
      expect(two.map(({ body }) => body)).toEqual([1, 2])
      await expect(queue.receive({ max: 501 })).rejects.toThrow('"max" option must be an integer from 1 to 500')
      await expect(queue.receive({ wait: -1 })).rejects.toThrow('"timeout" option')
    })

    test('hands each message to one receiver, in the order in which they came', async () => {
      const queue = await make()
      const receivers = [1, 2, 3].map(() => one(queue))
      for (const body of ['a', 'b', 'c']) await queue.send(body)
      expect((await Promise.all(receivers)).map(({ body }) => body)).toEqual(['a', 'b', 'c'])
    })

    test('as an iteration gives one message at a time, and ends with the bus', async () => {
      const bus = await newBus(scheme)
      const queue = bus.queue('q')
      await queue.sendMany(['a', 'b'].map((body) => ({ body })))
      const bodies: unknown[] = []
      for await (const message of queue) {
        bodies.push(message.body)
        await message.ack()
        if (bodies.length === 2) void bus.close()
      }
      expect(bodies).toEqual(['a', 'b'])
    })
  })

  describe('settling', () => {
    test('is once: each way a second time is refused', async () => {
      const queue = await make()
      for (const [first, second] of [
        ['ack', 'retry'],
        ['retry', 'dead'],
        ['release', 'ack'],
        ['dead', 'ack'],
      ] as const) {
        await queue.send('x')
        const message = await one(queue)
        await (first === 'dead' ? message.dead('enough') : first === 'retry' ? message.retry(0) : message[first]())
        await expect(second === 'dead' ? message.dead('') : message[second]()).rejects.toMatchObject({
          code: 'ERR_BUS_SETTLED',
        })
        for (const left of await queue.receive(nothing)) await left.ack()
      }
    })

    test('a retry counts as an attempt, a release does not; both go to their old place, if there are places', async () => {
      const queue = await make()
      await queue.sendMany(['a', 'b', 'c'].map((body) => ({ body })))
      const [a, b] = await gather(queue, 2)
      await b?.release()
      await a?.retry(0)
      const again: Message[] = []
      while (again.length < 3) again.push(...(await queue.receive({ max: 3 })))
      const bodies = again.map(({ body, attempts }) => [body, attempts])
      expect(hasPlaces(scheme) ? bodies : bodies.sort()).toEqual([
        ['a', 1],
        ['b', 0],
        ['c', 0],
      ])
    })

    testOf(scheme, 'bounds')('sends in the same transaction what goes with it, or does neither', async () => {
      const bus = await newBus(scheme)
      const [from, to] = [bus.queue('from'), bus.queue('to', { maxMessages: 2 })]
      await from.send('work')
      const message = await one(from)
      const three = await Promise.all(['a', 'b', 'c'].map((body) => to.prepare(body)))
      await expect(message.ack({ send: three })).rejects.toMatchObject({ code: 'ERR_BUS_QUEUE_FULL' })
      expect([await from.stats(), await to.stats()]).toMatchObject([{ leased: 1 }, { ready: 0 }])
      await message.ack({ send: three.slice(1) })
      expect([await from.stats(), await to.stats()]).toMatchObject([{ leased: 0 }, { ready: 2 }])
      expect(await take(to, 2)).toEqual(['b', 'c'])
    })
  })

  describe('sending in the same transaction', () => {
    testOf(scheme, 'transaction')('is for those that have one', async () => {
      const queue = await make()
      await queue.send('work')
      const message = await one(queue)
      await message.ack({ send: [await queue.prepare('more')] })
      expect(await take(queue, 1)).toEqual(['more'])
    })
  })

  describe('consume', () => {
    test('acknowledges when the handler returns', async () => {
      const queue = await make()
      const bodies: unknown[] = []
      const all = deferred()
      const consumer = queue.consume(({ body }) => {
        bodies.push(body)
        if (bodies.length === 3) all.resolve()
      })
      for (const body of [1, 2, 3]) await queue.send(body)
      await all.promise
      await consumer.close()
      expect(bodies).toEqual([1, 2, 3])
      expect(await queue.stats()).toMatchObject({ ready: 0, leased: 0 })
    })

    testOf(scheme, 'deadLetter')(
      'retries what throws, with growing waits, then dead-letters it with the error',
      async () => {
        const { queue, clock, start, bus } = await makeTimed({ retry: { max: 3, base: 100, cap: 250 } })
        expect((await queue.dead.list()).letters).toEqual([])
        const seen: number[] = []
        let next = deferred()
        queue.consume(({ attempts }) => {
          seen.push(attempts)
          queueMicrotask(next.resolve)
          throw new Error(`no, ${attempts}`)
        })
        const step = next.promise
        const ordered = can(scheme, 'order') ? { key: 'k' } : {}
        await queue.send('x', { headers: { a: 'b' }, ...ordered })
        await step
        // Where time passes by itself, waits are too short to be seen.
        if (isPassing(clock)) while (seen.length < 4) await sleep(5)
        else
          for (const most of [100, 200, 250]) {
            next = deferred()
            const again = next.promise
            while ((await queue.stats()).delayed === 0) await sleep(1)
            await clock.advance(most)
            await again
          }
        while ((await queue.stats()).dead === 0) await sleep(1)
        expect(seen).toEqual([0, 1, 2, 3])
        const { letters } = await queue.dead.list()
        expect(letters).toMatchObject([
          { body: 'x', ...ordered, headers: { a: 'b' }, reason: 'failed 4 times', attempts: 4, losses: 0 },
        ])
        expect(letters[0]?.error).toMatch(/^Error: no, 3\n/)
        expect(letters[0]?.diedAt.getTime()).toBeGreaterThan(start)
        await bus.close()
      },
    )

    test('runs as many handlers at a time as it is told, and no more', async () => {
      const queue = await make()
      await queue.sendMany(Array.from({ length: 20 }, (_, body) => ({ body })))
      let [running, most, done] = [0, 0, 0]
      const all = deferred()
      queue.consume(
        async () => {
          most = Math.max(most, ++running)
          await sleep(2)
          running--
          if (++done === 20) all.resolve()
        },
        { concurrency: 4 },
      )
      await all.promise
      expect(most).toBe(4)
    })

    test('does not fetch ahead where it is told not to', async () => {
      const queue = await make()
      await queue.sendMany([1, 2, 3].map((body) => ({ body })))
      const [begun, end] = [deferred(), deferred()]
      queue.consume(
        () => {
          begun.resolve()
          return end.promise
        },
        { prefetch: 0 },
      )
      await begun.promise
      if (counts) expect(await queue.stats()).toMatchObject({ leased: 1, ready: 2 })
      end.resolve()
    })

    test('aborts a handler whose time is over, and tries again', async () => {
      const { queue, clock } = await makeTimed({ retry: { base: 0 } })
      const [begun, aborted, again] = [deferred(), deferred<unknown>(), deferred<number>()]
      queue.consume(
        ({ attempts }, { signal }) => {
          if (attempts > 0) return again.resolve(attempts)
          signal.addEventListener('abort', () => aborted.resolve(signal.reason))
          begun.resolve()
          return new Promise(() => {})
        },
        { timeout: 50 },
      )
      await queue.send('x')
      await begun.promise
      await clock.advance(50)
      expect(await aborted.promise).toMatchObject({ code: 'ETIMEDOUT' })
      expect(await again.promise).toBe(1)
    })

    test('begins no more messages a second than it is told', async () => {
      const { queue, clock } = await makeTimed()
      await queue.sendMany(Array.from({ length: 10 }, (_, body) => ({ body })))
      const times: number[] = []
      const first = clock.now()
      queue.consume(() => void times.push(clock.now()), { rate: 2, concurrency: 10 })
      for (const expected of [1, 2, 3]) {
        while (times.length < expected) await sleep(1)
        // What would begin too early does so now.
        await sleep(5)
        await clock.advance(500)
      }
      // A timer may fire a millisecond early.
      expect(times.filter((time, at) => time - first < 499 * at)).toEqual([])
    })

    test('paused begins nothing and keeps nothing; resumed it goes on', async () => {
      const queue = await make()
      const [first, second] = [deferred(), deferred()]
      let handled = 0
      const consumer = queue.consume(() => (++handled === 1 ? first.resolve() : second.resolve()), { prefetch: 5 })
      await queue.send(1)
      await first.promise
      consumer.pause()
      await queue.sendMany([2, 3].map((body) => ({ body })))
      await sleep(20)
      expect(handled).toBe(1)
      while ((await queue.stats()).ready < (counts ? 2 : 1)) await sleep(1)
      consumer.resume()
      await second.promise
    })

    test('may be closed, paused and resumed by its handler', async () => {
      const queue = await make()
      const bodies: unknown[] = []
      const all = deferred()
      let [running, most] = [0, 0]
      const consumer = queue.consume(({ body }) => {
        most = Math.max(most, ++running)
        bodies.push(body)
        if (body === 1) {
          consumer.pause()
          setTimeout(() => consumer.resume(), 5)
        }
        if (body === 2) consumer.resume()
        if (body === 4) {
          all.resolve()
          void consumer.close()
        }
        running--
      })
      await queue.sendMany([1, 2, 3, 4, 5].map((body) => ({ body })))
      await all.promise
      await consumer.closed
      // What was given back to a queue of the kernel is behind the others.
      expect(counts ? bodies : [bodies.length > 2]).toEqual(counts ? [1, 2, 3, 4] : [true])
      expect(most).toBe(1)
    })

    test('is not closed before a handler that closed it has ended', async () => {
      const queue = await make()
      const end = deferred()
      const begun = deferred()
      let closed = false
      const consumer = queue.consume(async () => {
        void consumer.close().then(() => {
          closed = true
        })
        begun.resolve()
        await end.promise
      })
      await queue.send('x')
      await begun.promise
      await sleep(20)
      expect(closed).toBe(false)
      end.resolve()
      await consumer.closed
    })

    test('closed waits for its handlers, and gives back the rest', async () => {
      const queue = await make()
      await queue.sendMany([1, 2, 3].map((body) => ({ body })))
      const [begun, end] = [deferred(), deferred()]
      const consumer = queue.consume(
        () => {
          begun.resolve()
          return end.promise
        },
        { prefetch: 2 },
      )
      await begun.promise
      let closed = false
      const closing = consumer.close().then(() => {
        closed = true
      })
      await sleep(20)
      expect(closed).toBe(false)
      end.resolve()
      await closing
      expect(await queue.stats()).toMatchObject({ ready: counts ? 2 : 1, leased: 0 })
      expect(await take(queue, 2)).toEqual([2, 3])
    })

    test('ends by its signal, and by a stop message that one of them gets', async () => {
      const queue = await make()
      const controller = new AbortController()
      const aborted = queue.consume(() => {}, { signal: controller.signal })
      controller.abort('enough')
      await expect(aborted.closed).rejects.toMatchObject({ code: 'ABORT_ERR', cause: 'enough' })
      const stopped = [queue.consume(() => {}), queue.consume(() => {})]
      await queue.stopOne()
      await Promise.race(stopped.map(({ closed }) => closed))
      await queue.send('x')
      while ((await queue.stats()).ready + (await queue.stats()).leased > 0) await sleep(1)
      await queue.stopOne()
      await Promise.all(stopped.map(({ closed }) => closed))
    })

    test('handles what has headers of any name, and gives back these alone', async () => {
      const queue = await make('q', { retry: { max: 0 } })
      const headers = { stop: 'bus line 7', encoding: 'utf-8', deadline: '17', 'reply-to': 'me', error: 'none' }
      const handled = deferred<unknown>()
      const consumer = queue.consume((message) => handled.resolve([message.body, message.headers]))
      const ended = consumer.closed.then(() => 'ended')
      await queue.send('x', { headers })
      expect(await Promise.race([handled.promise, ended])).toEqual(['x', headers])
      while ((await queue.stats()).totals.acknowledged === 0) await sleep(1)
    })

    test('takes several at a time where it is told to, and settles them together', async () => {
      const queue = await make('q', { retry: { max: 0 } })
      await queue.sendMany(Array.from({ length: 7 }, (_, body) => ({ body })))
      const batches: unknown[][] = []
      const all = deferred()
      queue.consume(
        async (messages) => {
          const bodies = messages.map(({ body }) => body)
          batches.push(bodies)
          if (batches.flat().length === 7) all.resolve()
          if (bodies.includes(6)) throw new Error('the last')
          await messages[0]?.dead('the first')
        },
        { batch: 3 },
      )
      await all.promise
      // An engine that pushes may not have sent all of them when the first are there.
      if (scheme === 'amqp')
        expect([batches.flat(), batches.every(({ length }) => length <= 3)]).toEqual([[0, 1, 2, 3, 4, 5, 6], true])
      else expect(batches).toEqual([[0, 1, 2], [3, 4, 5], [6]])
      if (!can(scheme, 'deadLetter')) return
      const expected = batches.flatMap((batch) =>
        batch.includes(6) ? batch.map((body) => [body, 'failed 1 times']) : [[batch[0], 'the first']],
      )
      while ((await queue.stats()).dead < expected.length) await sleep(1)
      const { letters } = await queue.dead.list()
      expect(letters.map(({ body, reason }) => [body, reason])).toEqual(expected)
      expect(await queue.stats()).toMatchObject({ ready: 0, leased: 0 })
      await queue.stopOne()
      expect(() => queue.consume(() => {}, { batch: 0 })).toThrow('"batch" option')
    })

    test('goes on after what is thrown cannot be turned into text, and what is returned cannot be looked at', async () => {
      const queue = await make('q', { retry: { max: 1, base: 1 } })
      const handled: unknown[] = []
      const last = deferred()
      queue.consume(({ body }) => {
        handled.push(body)
        if (body === 'odd') throw Object.create(null)
        if (body === 'last') last.resolve()
        return new Proxy({}, { has: () => handled.length === 3 && Object.create(null).none() })
      })
      await queue.send('odd')
      while (handled.length < 2) await sleep(1)
      await queue.send('last')
      await last.promise
      while ((await queue.stats()).totals.acknowledged === 0) await sleep(1)
      expect(handled).toEqual(['odd', 'odd', 'last', 'last'])
      if (!can(scheme, 'deadLetter')) return
      while ((await queue.stats()).dead === 0) await sleep(1)
      const { letters } = await queue.dead.list()
      expect(letters).toMatchObject([{ body: 'odd', reason: 'failed 2 times', error: expect.any(String) }])
    })

    test('refuses what it cannot do', async () => {
      const queue = await make()
      expect(() => queue.consume('x' as never)).toThrow('handler must be a function')
      expect(() => queue.consume(() => {}, { concurrency: 0 })).toThrow('"concurrency" option')
      expect(() => queue.consume(() => {}, { rate: 0 })).toThrow('"rate" option')
      const lookalike = { aborted: false, addEventListener() {}, removeEventListener() {} }
      expect(() => queue.consume(() => {}, { signal: lookalike as never })).toThrow('"signal" option')
    })
  })

  describe('dead letters', () => {
    const withDead = async (count: number) => {
      const queue = await make('q', { dedup: 0 })
      await queue.sendMany(Array.from({ length: count }, (_, i) => ({ body: i, id: `i${i}` })))
      for (const message of await gather(queue, count)) await message.dead(`reason ${message.body}`)
      return queue
    }

    testOf(scheme, 'deadLetter')('are listed in pages, without being touched', async () => {
      const queue = await withDead(5)
      const first = await queue.dead.list({ max: 3 })
      const second = await queue.dead.list({ max: 3, after: first.next as string })
      expect([...first.letters, ...second.letters].map(({ body, reason }) => [body, reason])).toEqual(
        [0, 1, 2, 3, 4].map((i) => [i, `reason ${i}`]),
      )
      expect(second.next).toBe(undefined)
      expect(await queue.stats()).toMatchObject({ dead: 5, ready: 0 })
    })

    testOf(scheme, 'deadLetter')('are sent back as new, all or some', async () => {
      const queue = await withDead(5)
      expect(await queue.dead.redrive({ ids: ['i1', 'i3'] })).toBe(2)
      expect(await take(queue, 2)).toEqual([1, 3])
      expect(await queue.dead.redrive({ filter: ({ body }) => body === 4 })).toBe(1)
      expect(await one(queue)).toMatchObject({ body: 4, attempts: 0, headers: {}, id: 'i4' })
      expect((await queue.dead.list()).letters.map(({ body }) => body)).toEqual([0, 2])
      expect(await queue.dead.redrive()).toBe(2)
      expect(await queue.stats()).toMatchObject({ dead: 0, ready: 2 })
    })

    testOf(scheme, 'deadLetter')('are dropped, all or some', async () => {
      const queue = await withDead(3)
      expect(await queue.dead.discard({ ids: ['i0', 'unknown'] })).toBe(1)
      expect(await queue.stats()).toMatchObject({ dead: 2 })
      expect(await queue.dead.discard()).toBe(2)
      expect(await queue.stats()).toMatchObject({ dead: 0, ready: 0 })
    })
  })

  describe('a bound', () => {
    testOf(scheme, 'bounds')('on messages refuses what goes beyond it, and says when to come again', async () => {
      const queue = await make('q', { maxMessages: 2 })
      await queue.sendMany([{ body: 1 }, { body: 2 }])
      const refused = queue.send(3)
      await expect(refused).rejects.toMatchObject({ code: 'ERR_BUS_QUEUE_FULL', retryAfter: expect.any(Number) })
      await expect(refused).rejects.toThrow("the queue is full, send 'q' (3 > 2 messages)")
      await take(queue, 1)
      await queue.send(3)
      expect(await take(queue, 2)).toEqual([2, 3])
    })

    testOf(scheme, 'bounds')('on bytes counts bodies, also those in files', async () => {
      const queue = await make('q', { maxBytes: 100_000 })
      await queue.send('x'.repeat(90_000))
      await expect(queue.send('x'.repeat(10_001))).rejects.toThrow('(100001 > 100000 bytes)')
      await queue.send('x'.repeat(10_000))
      expect(await queue.stats()).toMatchObject({ bytes: 100_000, ready: 2 })
    })

    testOf(scheme, 'bounds')('makes senders wait until there is room, in the order in which they came', async () => {
      const queue = await make('q', { maxMessages: 1, overflow: 'wait' })
      await queue.send(1)
      const sent: number[] = []
      const sends = [2, 3].map((body) => queue.send(body).then(() => sent.push(body)))
      await sleep(20)
      expect(sent).toEqual([])
      expect(await take(queue, 3)).toHaveLength(3)
      await Promise.all(sends)
      const controller = new AbortController()
      await queue.send(4)
      const given = queue.send(5, { signal: controller.signal })
      await sleep(5)
      controller.abort()
      await expect(given).rejects.toMatchObject({ code: 'ABORT_ERR' })
      await expect(queue.sendMany([{ body: 6 }, { body: 7 }])).rejects.toMatchObject({ code: 'ERR_BUS_QUEUE_FULL' })
      expect(await take(queue, 1)).toEqual([4])
    })

    testOf(scheme, 'bounds')('drops the oldest of the lowest priority', async () => {
      const queue = await make('q', { maxMessages: 3, overflow: 'drop-oldest' })
      for (const [body, priority] of [
        ['a', 1],
        ['b', 0],
        ['c', 0],
        ['d', 0],
        ['e', 0],
      ] as const) {
        await queue.send(body, { priority })
      }
      expect(await take(queue, 3)).toEqual(['a', 'd', 'e'])
      expect(await queue.stats()).toMatchObject({ ready: 0, bytes: 0 })
    })

    testOf(scheme, 'bounds')('drops what was given back like any other', async () => {
      const queue = await make('q', { maxMessages: 3, overflow: 'drop-oldest' })
      await queue.sendMany(['a', 'b', 'c'].map((body) => ({ body })))
      for (const message of await gather(queue, 3)) await message.release()
      await queue.send('d')
      expect((await take(queue, 3)).sort()).toEqual(['b', 'c', 'd'])
      expect(await queue.stats()).toMatchObject({ ready: 0, leased: 0, bytes: 0 })
    })

    testOf(scheme, 'bounds')('never drops what somebody has', async () => {
      const queue = await make('q', { maxMessages: 1, overflow: 'drop-oldest' })
      await queue.send('x')
      const message = await one(queue)
      await expect(queue.send('y')).rejects.toMatchObject({ code: 'ERR_BUS_QUEUE_FULL' })
      await message.ack()
    })
  })

  describe('a schema', () => {
    /** A number in text, made a number. */
    const schema: StandardSchema<unknown, number> = {
      '~standard': {
        version: 1,
        vendor: 'test',
        validate: (value) =>
          Number.isNaN(Number(value))
            ? { issues: [{ message: 'not a number', path: ['n'] }] }
            : { value: Number(value) },
      },
    }

    test('refuses what is sent, and dead-letters what is received, if it does not fit', async () => {
      const bus = await newBus(scheme)
      const [checked, unchecked] = [bus.queue('q', { schema }), bus.queue('q')]
      await expect(checked.send('x' as never)).rejects.toMatchObject({
        code: 'ERR_BUS_INVALID_BODY',
        message: expect.stringContaining('(n: not a number)'),
      })
      await unchecked.send('nobody checks')
      await unchecked.send('42')
      expect((await one(checked)).body).toBe(42)
      if (!can(scheme, 'deadLetter')) return
      expect((await checked.dead.list()).letters).toMatchObject([
        { body: 'nobody checks', reason: 'invalid body: n: not a number' },
      ])
    })

    test('has a version, and others are dead-lettered', async () => {
      const bus = await newBus(scheme)
      await bus.queue('q', { version: '1' }).send('old')
      await bus.queue('q', { version: '2' }).send('new')
      const queue = bus.queue('q', { version: '2' })
      expect(await one(queue)).toMatchObject({ body: 'new', headers: { version: '2' } })
      if (!can(scheme, 'deadLetter')) return
      expect((await queue.dead.list()).letters).toMatchObject([
        { body: 'old', reason: 'its version is 1, that of the consumer 2' },
      ])
    })
  })

  describe('a bus', () => {
    test('closed gives back what it holds, refuses what comes, and is closed once', async () => {
      const bus = await newBus(scheme)
      const queue = bus.queue('q')
      const waiting = queue.receive()
      const closing = bus.close()
      expect(bus.close()).toBe(closing)
      await expect(waiting).rejects.toMatchObject({ code: 'ERR_MQ_CLOSED' })
      await closing
      await expect(queue.send('x')).rejects.toMatchObject({ code: 'ERR_MQ_CLOSED' })
      await expect(queue.receive()).rejects.toMatchObject({ code: 'ERR_MQ_CLOSED' })
      await expect(queue.stats()).rejects.toMatchObject({ code: 'ERR_MQ_CLOSED' })
    })

    test.each(['', 'a/b', 'a b', 'x'.repeat(129), 7])('refuses a queue named %j', async (name) => {
      const bus = await newBus(scheme)
      expect(() => bus.queue(name as string)).toThrow('name of the queue')
    })
  })
}
