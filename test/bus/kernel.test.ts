// What is particular to buses that are nothing but queues of the kernel.
import { existsSync, readdirSync, renameSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { PosixQueue, SysvQueue } from 'kernelmq'
import { type Bus, compress, connect, ManualClock, type Message, type Queue } from 'kernelmq/bus'
import { describe, expect, onTestFinished, test } from 'vitest'
import { Gathering, Gatherings } from '../../lib/bus/outlet.ts'
import type { Outgoing } from '../../lib/bus/transport.ts'
import { turns } from '../support.ts'
import { deferred, newBus, nothing, one, openBus, startBus, take, temporaryDirectory } from './support.ts'

/** The warnings of the process, from now on. */
function warnings(): string[] {
  const heard: string[] = []
  const listen = ({ message }: Error) => void heard.push(message)
  process.on('warning', listen)
  onTestFinished(() => void process.off('warning', listen))
  return heard
}

const range = (length: number) => Array.from({ length }, (_, i) => i)

describe.each(['mq', 'sysv'] as const)('%s:', (scheme) => {
  const small = scheme === 'mq' ? '?maxMessages=2&messageSize=512' : '?maxBytes=1024'
  /** With room for two packs of 512 bytes in each queue; removed in the end. */
  const newSmall = async (options = {}): Promise<{ bus: Bus; directory: string; url: string }> => {
    const directory = join(temporaryDirectory(), 'bus')
    const url = `${scheme}:${directory}${small}`
    onTestFinished(async () => {
      rmSync(directory, { recursive: true, force: true })
      const bus = await connect(url)
      rmSync(directory, { recursive: true })
      await bus.close()
    })
    return { bus: await openBus(url, options), directory, url }
  }
  /** Fills a queue, as far as the kernel lets it. */
  const fill = async (queue: Queue): Promise<number> => {
    let count = 0
    try {
      for (;;) {
        await queue.send('x'.repeat(420))
        count++
      }
    } catch (error) {
      expect(error).toMatchObject({ code: 'ERR_BUS_QUEUE_FULL', retryAfter: expect.any(Number) })
    }
    return count
  }

  /** Names of its queues of the kernel. */
  const objectsOf = (directory: string) => readdirSync(join(directory, scheme, 'queues'))
  /** The only queue of a bus, as another program has it. */
  const theirsIn = (directory: string) => {
    const [object = ''] = objectsOf(directory)
    return scheme === 'mq' ? PosixQueue.open(`/${object}`) : SysvQueue.open(object)
  }
  const exists = (object: string): boolean => {
    try {
      if (scheme === 'sysv') return SysvQueue.open(object).id >= 0
      void PosixQueue.open(`/${object}`).close()
      return true
    } catch {
      return false
    }
  }

  describe('what is posted', () => {
    test('what is given back is counted at once', async () => {
      const queue = (await newBus(scheme)).queue('q')
      await queue.send('x')
      const message = await one(queue)
      await message.release()
      expect((await queue.stats()).ready).toBe(1)
    })

    test('comes in its order, whatever it is, and packed', async () => {
      const bus = await newBus(scheme)
      const queue = bus.queue('q')
      const bodies = [Buffer.from([0, 255]), 'text', { json: [1] }, '', Buffer.alloc(0), 'é'.repeat(100), 7, null]
      for (const body of bodies) queue.post(body)
      await queue.flush()
      expect((await queue.stats()).ready).toBe(1)
      const received = await queue.receive({ max: 10 })
      expect(received.map(({ body }) => body)).toEqual(bodies)
      expect(new Set(received.map(({ id }) => id)).size).toBe(bodies.length)
      expect(received[0]?.sentAt.getTime()).toBeGreaterThan(Date.now() - 60_000)
    })

    test('goes out at the end of the turn, also if nobody looks', async () => {
      const bus = await newBus(scheme)
      const waiting = one(bus.queue('q'))
      bus.queue('q').post('x')
      expect((await waiting).body).toBe('x')
    })

    test('waits for room, tells so, and loses nothing', async () => {
      const { bus, url } = await newSmall()
      const other = await openBus(url)
      const queue = bus.queue('q')
      const got = take(other.queue('q'), 3000)
      let waits = 0
      for (let i = 0; i < 3000; i++) {
        if (queue.post(i)) continue
        waits++
        await queue.flush()
      }
      await queue.flush()
      expect(await got).toEqual(range(3000))
      expect(waits).toBeGreaterThan(0)
    })

    test('has priorities, headers and ids of its own', async () => {
      const bus = await newBus(scheme)
      const queue = bus.queue('q', { dedup: 0 })
      queue.post('late')
      queue.post('first', { priority: 9, headers: { a: 'b' }, id: 'i' })
      await queue.flush()
      expect(await one(queue)).toMatchObject({ body: 'first', priority: 9, headers: { a: 'b' }, id: 'i' })
      expect(await take(queue, 1)).toEqual(['late'])
    })

    test('is refused if it cannot be, at once', async () => {
      const bus = await newBus(scheme)
      expect(() => bus.queue('q').post(undefined)).toThrow('body must be')
      expect(() => bus.queue('q').post('x', { key: 'k' })).toThrow('it has no "order"')
      await bus.close()
      expect(() => bus.queue('q').post('x')).toThrow(expect.objectContaining({ code: 'ERR_MQ_CLOSED' }))
    })
  })

  describe('what others could do wrong', () => {
    test('one who takes one message at a time has them in their order', async () => {
      const { bus, url } = await newSmall()
      const other = await openBus(url)
      const bodies: unknown[] = []
      const iterated = (async () => {
        for await (const { body } of bus.queue('q')) {
          bodies.push(body)
          if (bodies.length === 9) return
        }
      })()
      for (let first = 1; first < 9; first += 3) {
        await other.queue('q').sendMany([first, first + 1, first + 2].map((body) => ({ body })))
      }
      await iterated
      expect(bodies).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9])
    })

    test('one who has had his share of the turn still hears that he is to give up', async () => {
      const { bus } = await newSmall()
      const queue = bus.queue('q')
      const received = take(queue, 600)
      for (let i = 0; i < 600; i++) if (!queue.post(i)) await queue.flush()
      await received
      const controller = new AbortController()
      const given = queue.receive({ signal: controller.signal })
      queueMicrotask(() => controller.abort('enough'))
      await expect(given).rejects.toMatchObject({ cause: 'enough' })
    })

    test('long headers come back from a retry, too; longer ones are refused', async () => {
      const { bus } = await newSmall()
      const queue = bus.queue('q')
      let length = 400
      while (
        await queue.send('x', { headers: { a: 'x'.repeat(length) } }).then(
          () => false,
          () => true,
        )
      )
        length -= 5
      await (await one(queue)).retry(20)
      await sleep(30)
      expect(await one(queue)).toMatchObject({ attempts: 1, headers: { a: 'x'.repeat(length) } })
    })

    test('a large body alone needs room for one pack', async () => {
      const { bus } = await newSmall()
      const queue = bus.queue('q')
      queue.post('x'.repeat(5000))
      await queue.flush()
      expect((await queue.stats()).ready).toBe(1)
      expect(await take(queue, 1)).toEqual(['x'.repeat(5000)])
    })

    test('flush() is of the queue, whoever posted, and rejects when that is lost', async () => {
      const heard = warnings()
      const { bus, directory } = await newSmall()
      for (let i = 0; i < 20; i++) bus.queue('q').post('x'.repeat(1000))
      const flushed = expect(bus.queue('q').flush()).rejects.toMatchObject({ code: 'ERR_MQ_CLOSED' })
      await bus.close()
      await flushed
      await sleep(0)
      expect(heard).toHaveLength(1)
      const left = readdirSync(join(directory, scheme, 'bodies')).length
      expect(left).toBeGreaterThan(0)
      expect(left).toBeLessThan(20)
    })

    test('messages that can never have room together are refused as such', async () => {
      const { bus } = await newSmall()
      const queue = bus.queue('q', { overflow: 'reject' })
      const many = range(100).map((body) => ({ body }))
      await expect(queue.sendMany(many)).rejects.toThrow('sent together must be what the queue has room for')
      const some = [
        { body: 'a', priority: 1 },
        { body: 'b', headers: { a: 'x'.repeat(600) } },
      ]
      await expect(queue.sendMany(some)).rejects.toThrow('headers must be at most')
      expect(await queue.receive(nothing)).toEqual([])
    })

    test('a queue of messages too small for packs is refused', async () => {
      const bus = await newBus(scheme)
      const tiny = new URL(bus.url)
      tiny.search = scheme === 'mq' ? '?maxMessages=2&messageSize=64' : '?maxBytes=128'
      const other = await openBus(tiny.href)
      expect(() => other.queue('tiny').post('x')).toThrow('must be at least 256 bytes')
    })

    test('a requester hears of a long error, too', async () => {
      const bus = await newBus(scheme)
      const queue = bus.queue('q', { retry: { max: 0 } })
      queue.consume(() => {
        throw new Error('x'.repeat(5000))
      })
      await expect(queue.request('x')).rejects.toMatchObject({ code: 'ERR_BUS_REPLY', message: 'x'.repeat(500) })
    })
  })

  describe('a large body', () => {
    test('goes in a file, which is gone when it is received', async () => {
      const { bus, directory } = await newSmall()
      const queue = bus.queue('q')
      const bodies = ['x'.repeat(2000), Buffer.alloc(3000, 7), { long: 'y'.repeat(600) }, 'short']
      await Promise.all(bodies.map((body) => queue.send(body)))
      expect(readdirSync(join(directory, scheme, 'bodies'))).toHaveLength(3)
      expect(await take(queue, 4)).toEqual(bodies)
      expect(readdirSync(join(directory, scheme, 'bodies'))).toEqual([])
    })

    test('whose file is gone is reported as damaged, and those beside it are not', async () => {
      const { bus, directory } = await newSmall()
      const queue = bus.queue('q')
      await queue.sendMany([{ body: 'x'.repeat(2000) }, { body: 'whole' }])
      for (const name of readdirSync(join(directory, scheme, 'bodies'))) rmSync(join(directory, scheme, 'bodies', name))
      expect(await take(queue, 1)).toEqual(['whole'])
      expect((await queue.stats()).totals.dead).toBe(1)
    })

    test('that was sent keeps its file when others of its batch are given up', async () => {
      const { bus, url } = await newSmall()
      const other = await openBus(url)
      const bodies = range(50).map((number) => `${number}`.repeat(1000))
      const { signal } = new AbortController()
      const sent = bus.queue('q').sendMany(
        bodies.map((body) => ({ body })),
        { signal },
      )
      const refused = expect(sent).rejects.toMatchObject({ code: 'ERR_MQ_CLOSED' })
      await expect.poll(async () => (await other.queue('q').stats()).ready).toBeGreaterThan(0)
      await bus.close()
      await refused
      const received = await other.queue('q').receive({ max: 50, wait: 0 })
      expect(received.length).toBeGreaterThan(0)
      expect(received.map(({ body }) => body)).toEqual(bodies.slice(0, received.length))
    })

    test.each([
      ['alone', { lengths: [100_000], isPatient: true }],
      ['behind others', { lengths: [8000, 8000, 100_000], isPatient: true }],
      ['behind others, without a signal', { lengths: [100, 8000, 100_000], isPatient: false }],
    ])('that has no room on the disk leaves no file, and nothing else, %s', async (_, what) => {
      const { bus, directory, url } = await newSmall()
      const { outcome } = startBus(url, 'sendTogether', what, ['prlimit', '--fsize=32768:'])
      expect((await outcome).stdout).toContain('EFBIG')
      expect(readdirSync(join(directory, scheme, 'bodies'))).toEqual([])
      expect(await bus.queue('q').receive(nothing)).toEqual([])
    })

    test('that is refused leaves no file', async () => {
      const { bus, directory } = await newSmall()
      const queue = bus.queue('q', { overflow: 'reject' })
      await fill(queue)
      await expect(queue.send('x'.repeat(2000))).rejects.toMatchObject({ code: 'ERR_BUS_QUEUE_FULL' })
      expect(readdirSync(join(directory, scheme, 'bodies'))).toEqual([])
      await expect(queue.send('x', { headers: { long: 'y'.repeat(600) } })).rejects.toThrow('headers must be')
    })
  })

  describe('a full queue', () => {
    test('refuses where it is told to', async () => {
      const { bus } = await newSmall()
      const queue = bus.queue('q', { overflow: 'reject' })
      expect(await fill(queue)).toBe(2)
      await take(queue, 1)
      await queue.send('again')
    })

    test('makes senders wait in their order, and those who are told may give up', async () => {
      const { bus } = await newSmall()
      const queue = bus.queue('q')
      await fill(bus.queue('q', { overflow: 'reject' }))
      const controller = new AbortController()
      const { signal } = controller
      const given = [1, 2].map((body) =>
        expect(queue.send(body, { signal })).rejects.toMatchObject({ cause: 'enough' }),
      )
      const sent = queue.send('last')
      await sleep(20)
      controller.abort('enough')
      await Promise.all(given)
      expect((await take(queue, 3)).at(-1)).toBe('last')
      await sent
      expect(await queue.receive(nothing)).toEqual([])
    })

    test('loses what is left when the bus is closed, and says so', async () => {
      const heard = warnings()
      const { bus } = await newSmall()
      const queue = bus.queue('q')
      await fill(bus.queue('q', { overflow: 'reject' }))
      for (const body of [1, 2, 3]) queue.post(body)
      const refused = expect(queue.send('promised')).rejects.toMatchObject({ code: 'ERR_MQ_CLOSED' })
      await bus.close()
      await refused
      await sleep(0)
      expect(heard).toEqual([expect.stringMatching(/^\d messages for the queue "q" are lost: it was full/)])
    })
  })

  describe('a message', () => {
    test('that fails is tried again later, by whom it failed, and in the end dropped', async () => {
      const clock = new ManualClock(0)
      const bus = await newBus(scheme, { clock })
      const queue = bus.queue('q', { retry: { max: 1, base: 100 } })
      const seen: [unknown, number, string][] = []
      const consumer = queue.consume(({ body, attempts, id }) => {
        seen.push([body, attempts, id])
        throw new Error('no')
      })
      const { id } = await queue.send('x')
      while ((await queue.stats()).delayed === 0) await sleep(1)
      clock.advance(100)
      while ((await queue.stats()).totals.dead === 0) await sleep(1)
      expect(seen).toEqual([
        ['x', 0, id],
        ['x', 1, id],
      ])
      await expect(queue.dead.list()).rejects.toMatchObject({ code: 'ERR_BUS_UNSUPPORTED' })
      await consumer.close()
    })

    test('that is not begun goes back when its consumer pauses or closes, for others to have', async () => {
      const { bus, url } = await newSmall()
      const other = await openBus(url)
      const begun = deferred()
      const end = deferred()
      const consumer = bus.queue('q').consume(() => {
        begun.resolve()
        return end.promise
      })
      await bus.queue('q').sendMany(range(4).map((body) => ({ body })))
      await begun.promise
      consumer.pause()
      expect(await take(other.queue('q'), 3)).toEqual([1, 2, 3])
      end.resolve()
    })

    test('that waits for its retry goes back when the bus is closed', async () => {
      const { bus, url } = await newSmall()
      const other = await openBus(url)
      await bus.queue('q').sendMany([{ body: 'a' }, { body: 'b' }])
      await (await one(bus.queue('q'))).retry(60_000)
      await bus.close()
      const left: Message[] = []
      while (left.length < 2) left.push(...(await other.queue('q').receive({ max: 2 })))
      expect(left.map(({ body, attempts }) => [body, attempts]).sort()).toEqual([
        ['a', 1],
        ['b', 0],
      ])
    })

    test('of another program is one of bytes', async () => {
      const { bus, directory } = await newSmall()
      const queue = bus.queue('q')
      await queue.send('makes the queue')
      await take(queue, 1)
      const theirs = theirsIn(directory)
      theirs.trySend('from C')
      const message = await one(queue)
      expect([message.body, message.priority, message.attempts]).toEqual([
        Buffer.from('from C'),
        scheme === 'mq' ? 0 : 255,
        0,
      ])
      await theirs.close()
    })

    test('of another program is received, whatever its priority or type, and has one of the bus', async () => {
      const { bus, directory } = await newSmall()
      const queue = bus.queue('q', { retry: { base: 0 } })
      await queue.send('makes the queue')
      await take(queue, 1)
      const theirs = theirsIn(directory)
      const priority = scheme === 'mq' ? 255 : 0
      theirs.trySend('a', { priority: 32_767, type: 2n ** 62n })
      // One that waits in vain would wait for ever.
      const [message] = await queue.receive({ wait: 10_000 })
      expect(message).toMatchObject({ body: Buffer.from('a'), priority })
      await message?.retry(0)
      expect(await one(queue)).toMatchObject({ body: Buffer.from('a'), priority, attempts: 1 })
      await theirs.close()
    })

    test('with properties that no bus would send is reported as damaged', async () => {
      const { bus, directory } = await newSmall()
      const queue = bus.queue('q')
      await queue.send('x', { headers: { a: 'b' } })
      const theirs = theirsIn(directory)
      const { data } = theirs.tryReceive() as { data: Buffer }
      const broken = ['{"i":""}', '{"k":""}', '{"s":1e300}', '{"s":-1}', '{"a":-1}', '{"x":1e999}']
      for (const properties of broken) {
        const { length } = properties
        const head = Buffer.from([0b0101, length + 3, 0, length, 0])
        theirs.trySend(Buffer.concat([data.subarray(0, 24), head, Buffer.from(`${properties}x`)]))
        expect(await queue.receive(nothing)).toEqual([])
      }
      expect((await queue.stats()).totals.dead).toBe(broken.length)
      await theirs.close()
    })

    test('that is made to harm is reported as damaged', async () => {
      const { bus, directory } = await newSmall()
      const queue = bus.queue('q')
      await queue.send('x', { headers: { a: 'b' } })
      const theirs = theirsIn(directory)
      const { data } = theirs.tryReceive() as { data: Buffer }
      const broken = [
        data.subarray(0, -1),
        Buffer.from(data).fill(0xff, 24, 25),
        Buffer.from(data).fill(0xff, 27, 29),
        Buffer.from(data).fill(0x7b, 29),
        Buffer.concat([data, Buffer.from([1, 200, 0])]),
      ]
      for (const bytes of broken) {
        theirs.trySend(bytes)
        for (const message of await queue.receive({ max: 5, wait: 0 })) await message.ack()
      }
      expect((await queue.stats()).totals.dead).toBe(broken.length)
      theirs.trySend(
        Buffer.concat([data.subarray(0, 24), Buffer.from([0b1100, 4 + 15, 0, 2, 0]), Buffer.from('{}../../../../id')]),
      )
      expect(await queue.receive(nothing)).toEqual([])
      expect(existsSync(join(directory, scheme, 'id'))).toBe(true)
      await theirs.close()
    })
  })

  describe('its queues', () => {
    test('have names that say whose they are, and those of a bus whose directory is gone are removed', async () => {
      const { bus, directory, url } = await newSmall()
      await bus.queue('mail').send('x')
      const [object = ''] = objectsOf(directory)
      expect(object).toMatch(scheme === 'mq' ? /^kmq\.bus-[0-9a-f]{8}\.mail$/ : /^0x[0-9a-f]+$/)
      expect(exists(object)).toBe(true)
      await bus.close()
      expect(exists(object)).toBe(true)
      rmSync(directory, { recursive: true })
      await openBus(url)
      expect(exists(object)).toBe(false)
    })

    test('are removed when a bus is closed whose directory is gone', async () => {
      const { bus, directory } = await newSmall()
      await bus.queue('q').send('x')
      const [object = ''] = objectsOf(directory)
      rmSync(directory, { recursive: true })
      await bus.close()
      expect(exists(object)).toBe(false)
    })

    test('that a killed process had borrowed are removed by the next', async () => {
      const { bus, directory, url } = await newSmall()
      const child = startBus(url, 'request', null)
      await one(bus.queue('q'))
      const borrowed = objectsOf(directory).length
      child.kill('SIGKILL')
      await child.outcome
      expect(borrowed).toBe(2)
      await openBus(url)
      expect(objectsOf(directory)).toHaveLength(1)
    })

    test('are open to those that the mode of the directory names', async () => {
      const directory = join(temporaryDirectory(), 'bus')
      const bus = await openBus(`${scheme}:${directory}`, { mode: 0o770 })
      await bus.queue('q').send('x')
      const [object = ''] = objectsOf(directory)
      const info = scheme === 'mq' ? (await PosixQueue.list()).find(({ name }) => name === `/${object}`) : undefined
      expect((info ?? SysvQueue.open(object).stat()).mode).toBe(0o660)
      rmSync(directory, { recursive: true })
    })
  })

  describe('a queue that somebody removes', () => {
    const removeAll = (directory: string) => {
      for (const object of objectsOf(directory)) {
        try {
          if (scheme === 'mq') PosixQueue.unlink(`/${object}`)
          else SysvQueue.open(object).remove()
        } catch (error) {
          // Whoever opens a bus removes what belongs to none.
          expect(['ENOENT', 'EIDRM']).toContain((error as NodeJS.ErrnoException).code)
        }
      }
    }

    test('is made again by those who wait for messages, and those who send', async () => {
      const { bus, directory, url } = await newSmall()
      const [sender, late] = [await openBus(url), await openBus(url)]
      const heard: unknown[] = []
      const consumer = bus.queue('q').consume(({ body }) => void heard.push(body))
      await sender.queue('q').send('before')
      await expect.poll(() => heard).toEqual(['before'])
      removeAll(directory)
      await late.queue('q').send('after')
      await expect.poll(() => heard).toEqual(['before', 'after'])
      // For a moment it may still send to the one that is removed.
      await expect
        .poll(() =>
          sender
            .queue('q')
            .send('again')
            .then(() => heard.includes('again')),
        )
        .toBe(true)
      await consumer.close()
    })

    test('takes along what is in it; who waited for room sends to the new one', async () => {
      const { bus, directory, url } = await newSmall()
      const queue = bus.queue('q', { overflow: 'reject' })
      await fill(queue)
      const waiting = bus.queue('q').send('waits')
      await turns()
      removeAll(directory)
      await waiting
      expect(await take((await openBus(url)).queue('q'), 1)).toEqual(['waits'])
    })

    test('is made again for replies', async () => {
      const { bus, directory, url } = await newSmall()
      const consumer = (await openBus(url)).queue('q').consume(({ body }) => body)
      const queue = bus.queue('q')
      expect(await queue.request('a')).toBe('a')
      removeAll(directory)
      await expect.poll(() => queue.request('b', { timeout: 1000 }).catch(({ code }) => code)).toBe('b')
      await consumer.close()
    })

    test.each([true, false])(
      'is made again for a private subscription, known to who publishes: %s',
      async (isKnown) => {
        const { bus, directory, url } = await newSmall()
        const other = await openBus(url)
        const heard = new Set<unknown>()
        const consumer = await bus.topic('t').subscribe(undefined, ({ body }) => void heard.add(body))
        if (isKnown) expect(await other.topic('t').publish('before')).toBe(1)
        removeAll(directory)
        let count = 0
        const publish = () => other.topic('t').publish(++count)
        // What is published meanwhile may be lost.
        await expect.poll(() => publish().then(() => objectsOf(directory).filter(exists))).toHaveLength(1)
        await expect.poll(() => publish().then((queues) => [queues, heard.has(count - 1)])).toEqual([1, true])
        await consumer.close()
      },
    )

    test('is not made again when the directory of its bus is gone: those who wait are told', async () => {
      const { bus, directory } = await newSmall()
      const waiting = bus.queue('q').receive()
      const full = bus.queue('full', { overflow: 'reject' })
      await fill(full)
      const sending = bus.queue('full').send('waits')
      const objects = objectsOf(directory)
      const told = { code: 'EIDRM' }
      const all = Promise.all([
        expect(waiting).rejects.toMatchObject(told),
        expect(sending).rejects.toMatchObject(told),
      ])
      renameSync(directory, `${directory}-gone`)
      removeAll(`${directory}-gone`)
      await all
      await expect(full.send('x')).rejects.toMatchObject(told)
      expect(objects.filter(exists)).toEqual([])
      renameSync(`${directory}-gone`, directory)
      await full.send('there again')
      expect(await take(bus.queue('full'), 1)).toEqual(['there again'])
    })
  })

  test('what one process sends another gets, all of it and in order', async () => {
    const { bus, url } = await newSmall()
    const child = startBus(url, 'count', 20_000)
    const queue = bus.queue('q')
    for (let i = 0; i < 20_000; i++) if (!queue.post(i)) await queue.flush()
    await queue.flush()
    expect(await child.outcome).toMatchObject({ code: 0, stdout: '"in order"\n', stderr: '' })
  })

  test('a killed receiver loses what it had at most, and the queue goes on', async () => {
    const { bus, url } = await newSmall()
    const queue = bus.queue('q')
    const child = startBus(url, 'hold', { max: 1 })
    await queue.sendMany(range(5).map((body) => ({ body })))
    expect(JSON.parse(await child.line())).toEqual([0])
    child.kill('SIGKILL')
    await child.outcome
    await queue.send('after')
    expect((await take(queue, 1))[0]).toBe('after')
  })

  test('a process that waits for nothing ends, and what it posted is there', async () => {
    const { bus, url } = await newSmall()
    expect(await startBus(url, 'post', 'x').outcome).toMatchObject({ code: 0, stdout: '', stderr: '' })
    expect(await take(bus.queue('q'), 1)).toEqual(['x'])
  })

  test('a topic does not wait for one who listens slowly', async () => {
    const { bus } = await newSmall()
    const end = deferred()
    await bus.topic('t').subscribe(undefined, () => end.promise)
    const counts: number[] = []
    // As many as he takes before he hears the first, which is a matter of luck, and then as many as there is room for.
    while (counts.length < 100 && counts.at(-1) !== 0) counts.push(await bus.topic('t').publish('x'.repeat(300)))
    expect(counts[0]).toBe(1)
    expect(counts.at(-1)).toBe(0)
    end.resolve()
  })

  test('what cannot be published does not end the subscriptions of others', async () => {
    const { bus, url } = await newSmall()
    const other = await openBus(url)
    const heard: unknown[] = []
    const consumer = await other.topic('t').subscribe(undefined, ({ body }) => void heard.push(body))
    const topic = bus.topic('t')
    expect(await topic.publish('a')).toBe(1)
    await expect(topic.publish('b', { signal: AbortSignal.abort() })).rejects.toMatchObject({ name: 'AbortError' })
    const long = { long: 'x'.repeat(3000) }
    await expect(topic.publish('c', { headers: long })).rejects.toMatchObject({ code: 'ERR_OUT_OF_RANGE' })
    expect(await topic.publish('d')).toBe(1)
    await expect.poll(() => heard).toEqual(['a', 'd'])
    await consumer.close()
  })

  test('an id that is too long is refused before others of its batch are taken', async () => {
    const queue = (await newSmall()).bus.queue('q', { dedup: 0 })
    const sent = queue.sendMany([{ body: 1 }, { body: 2, id: 'x'.repeat(450) }, { body: 3 }])
    await expect(sent).rejects.toMatchObject({ code: 'ERR_OUT_OF_RANGE' })
    await queue.flush()
    expect(await queue.receive(nothing)).toEqual([])
  })

  // Of System V all queues are of one size.
  if (scheme === 'mq') {
    test('headers that one subscriber has no room for nobody gets', async () => {
      const { url } = await newSmall()
      const bus = await openBus(url.replace('512', '8192'))
      const topic = bus.topic('t')
      await topic.bind('named')
      const consumer = await topic.subscribe(undefined, () => {})
      const headers = { long: 'x'.repeat(3000) }
      await expect(topic.publish('x', { headers })).rejects.toMatchObject({ code: 'ERR_OUT_OF_RANGE' })
      await bus.queue('named').flush()
      expect(await bus.queue('named').receive(nothing)).toEqual([])
      await consumer.close()
    })
  }

  test('codecs work', async () => {
    const bus = await newBus(scheme, { codecs: [compress({ threshold: 0 })] })
    bus.queue('q').post('x'.repeat(5000))
    expect(await take(bus.queue('q'), 1)).toEqual(['x'.repeat(5000)])
  })

  test.each([
    [`${scheme}:relative`, /an absolute path/],
    [`${scheme}:///dev/null/x`, /ERR_BUS_DIRECTORY/],
    [`${scheme}:/tmp/x?size=1`, /nothing behind "\?" but max/],
    [`${scheme}:/tmp/x?${scheme === 'mq' ? 'maxMessages' : 'maxBytes'}=many`, /is a number/],
  ])('%s is refused', async (url, message) => {
    await expect(connect(url)).rejects.toThrow(message)
  })
})

test.each(['memory', 'local'] as const)('%s: what is posted is sent together, in order', async (scheme) => {
  const bus = await newBus(scheme)
  const queue = bus.queue('q')
  for (let i = 0; i < 1200; i++) queue.post(i)
  await queue.flush()
  expect(await take(queue, 1200)).toEqual(range(1200))
  const full = bus.queue('full', { maxMessages: 1 })
  full.post(1)
  full.post(2)
  await expect(full.flush()).rejects.toMatchObject({ code: 'ERR_BUS_QUEUE_FULL' })
  await full.flush()
  const other = bus.queue('q')
  queue.post('of the same name')
  await other.flush()
  expect((await queue.stats()).ready).toBe(1)
  await bus.close()
  expect(() => queue.post('late')).toThrow(expect.objectContaining({ code: 'ERR_MQ_CLOSED' }))
})

test('what was posted is given up once it has failed for long, not batch after batch', async () => {
  const heard = warnings()
  const all = new Gatherings()
  let batches = 0
  const gathering = new Gathering('q', all, (_, signal) => {
    batches++
    return new Promise((_, reject) => {
      const fail = () => reject(new Error('no server'))
      if (signal.aborted) fail()
      else signal.addEventListener('abort', fail)
    })
  })
  for (let i = 0; i < 3000; i++) gathering.post({} as Outgoing)
  await all.close()
  expect(batches).toBe(1)
  await expect.poll(() => heard).toEqual(['no server'])
})
