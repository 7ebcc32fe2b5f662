// What is so only on RabbitMQ: how it refuses, what others do to its queues, and what they see of our messages.
import { once } from 'node:events'
import { readFileSync, writeFileSync } from 'node:fs'
import { type AddressInfo, createServer, connect as dial, type Socket } from 'node:net'
import { join } from 'node:path'
import { type Readable, Transform } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Channel, connect as connectTo } from 'amqplib'
import { connect, type Queue } from 'kernelmq/bus'
import { describe, expect, onTestFinished, test } from 'vitest'
import { start } from '../support.ts'
import { wireTo } from './engine-chaos.ts'
import type { Server } from './servers.ts'
import { deferred, describeEngine, nothing, one, openBus, startBus, take, temporaryDirectory } from './support.ts'

let count = 0

await describeEngine('amqp', (_, server) => {
  const newPrefix = () => `own-${++count}`
  const open = (prefix: string) => openBus(`${server.url}?prefix=${prefix}`)

  describe('connect', () => {
    test.each([
      [
        'a wrong password',
        (url: URL) => Object.assign(url, { username: 'guest', password: 'secret' }),
        'ERR_BUS_ACCESS',
      ],
      ['nobody who listens', (url: URL) => Object.assign(url, { port: '1', password: 'secret' }), 'ERR_BUS_CONNECTION'],
      ['a virtual host that is not there', (url: URL) => Object.assign(url, { pathname: '/none' }), 'ERR_BUS_ACCESS'],
    ])('says so of %s, and what to do', async (_, change, code) => {
      const url = change(new URL(server.url))
      const error = await connect(url).catch((reason: unknown) => reason as Error & { hint: string })
      expect(error).toMatchObject({ code, hint: expect.any(String) })
      expect(`${(error as Error).message} ${(error as { hint: string }).hint}`).not.toContain('secret')
    })

    test.each(['?prefix=a/b', '?other=1', '?timeout=0'])('refuses %s', async (query) => {
      await expect(connect(server.url + query)).rejects.toThrow('URL must be one')
    })

    test('shows no password', async () => {
      const url = Object.assign(new URL(server.url), { username: 'guest', password: 'guest' })
      expect((await openBus(url.href)).url).not.toContain('guest:guest')
    })
  })

  test.each([
    ['priority', { priority: 1 }],
    ['dedup', { id: 'i' }],
  ])('refuses %s, by name', async (capability, options) => {
    const queue = (await open(newPrefix())).queue('q')
    const refused = { code: 'ERR_BUS_UNSUPPORTED', message: expect.stringContaining(`"${capability}"`) }
    await expect(queue.send('x', options)).rejects.toMatchObject(refused)
  })

  test('a queue that somebody made in another way is refused, and left as it is', async () => {
    const prefix = newPrefix()
    const channel = await bare(server)
    await channel.assertQueue(`${prefix}/q`, { durable: true })
    const queue = (await open(prefix)).queue('q')
    const refused = { code: 'ERR_BUS_OTHER_QUEUE', path: 'q', hint: expect.stringContaining('prefix') }
    await expect(queue.send('x')).rejects.toMatchObject(refused)
    await expect(queue.receive()).rejects.toMatchObject(refused)
    await expect(queue.consume(() => {}).closed).rejects.toMatchObject(refused)
    expect(await channel.checkQueue(`${prefix}/q`)).toMatchObject({ messageCount: 0 })
  })

  test('a queue that vanishes is made again, for who sends and for who waits', async () => {
    const prefix = newPrefix()
    const bus = await open(prefix)
    const [channel, queue] = [await bare(server), bus.queue('q')]
    const handled: unknown[] = []
    let next = deferred()
    queue.consume(({ body }) => {
      handled.push(body)
      next.resolve()
    })
    const waiting = one(bus.queue('other'))
    for (const body of [1, 2]) {
      next = deferred()
      await queue.send(body)
      await next.promise
      await channel.deleteQueue(`${prefix}/q`)
      // Removed while it is made it may never be made again.
      await hasConsumer(server, `${prefix}/other`)
      await channel.deleteQueue(`${prefix}/other`)
    }
    await bus.queue('other').send('there')
    expect((await waiting).body).toBe('there')
    expect(handled).toEqual([1, 2])
  })

  test.each([
    ['a queue', undefined, '/q'],
    ['a partition of a queue', 'k', '/q/k3'],
  ])('%s that vanishes while it is made is made, for who sends and for who waits', async (_, key, name) => {
    const [prefix, channel] = [newPrefix(), await bare(server)]
    let left = 3
    const remove = async () => {
      if (--left >= 0) await channel.deleteQueue(prefix + name)
    }
    const at = async () => `${await beforeBinding(server, prefix + name, remove)}?prefix=${prefix}`
    await (await openBus(await at())).queue('q').send('sent', { key })
    expect(left).toBeLessThan(0)
    for (const queue of ['/q', '/q/k7']) await channel.deleteQueue(prefix + queue)
    left = 3
    const handled = deferred<unknown>()
    const queue = (await openBus(await at())).queue('q')
    if (key !== undefined) await (await open(prefix)).queue('q').send('sent', { key })
    const consumer = queue.consume(({ body }) => handled.resolve(body))
    if (key === undefined) {
      while (left >= 0) await sleep(5)
      await (await open(prefix)).queue('q').send('sent')
    }
    await Promise.race([handled.promise, consumer.closed])
    expect(await handled.promise).toBe('sent')
    expect(left).toBeLessThan(0)
  })

  test('a queue that is removed again and again is said to be, and given up by a signal', async () => {
    const [prefix, channel] = [newPrefix(), await bare(server)]
    const url = await beforeBinding(server, `${prefix}/q`, () => channel.deleteQueue(`${prefix}/q`))
    const bus = await openBus(`${url}?prefix=${prefix}&timeout=5000`)
    const queue = bus.queue('q')
    await expect(queue.send('x')).rejects.toMatchObject({ code: 'ENOENT', path: 'q' })
    const controller = new AbortController()
    const given = queue.send('y', { signal: controller.signal })
    setTimeout(() => controller.abort(), 50)
    await expect(given).rejects.toMatchObject({ name: 'AbortError' })
  })

  test('what is left of a queue that was removed while it was made, and forbids to make it, is said to be', async ({
    skip,
  }) => {
    const [prefix, channel] = [newPrefix(), await bare(server)]
    // Two bare clients race in there, and neither may be answered.
    const left = await Promise.race([leaveRemains(server, channel, `${prefix}/q`), sleep(30_000, undefined)])
    if (left === undefined) return skip('this RabbitMQ has left nothing of them in 30 s')
    const bus = await open(prefix)
    const name = left.slice(prefix.length + 1)
    const refused = {
      code: 'ERR_BUS_OTHER_QUEUE',
      path: name,
      message: expect.stringContaining('cluster_not_formed'),
      hint: expect.stringContaining('start the server again'),
    }
    const consumer = bus.queue(name).consume(() => {})
    const closed = expect(consumer.closed).rejects.toMatchObject(refused)
    const sent = expect(bus.queue(name).send('x')).rejects.toMatchObject(refused)
    await bus.queue('healthy').send('y')
    expect(await take(bus.queue('healthy'), 1)).toEqual(['y'])
    await Promise.all([closed, sent])
  })

  test('what other clients send is received, and they see what we send', async () => {
    const prefix = newPrefix()
    const queue = (await open(prefix)).queue('q')
    await queue.send({ a: 1 }, { headers: { level: 'high', 'x-odd': 'kept' }, correlationId: 'c' })
    const channel = await bare(server)
    const seen = await channel.get(`${prefix}/q`, { noAck: true })
    expect(seen).toMatchObject({
      content: Buffer.from('{"a":1}'),
      properties: {
        contentType: 'application/json',
        deliveryMode: 2,
        messageId: expect.any(String),
        headers: { level: 'high', 'correlation-id': 'c' },
      },
    })
    const properties = { messageId: 'theirs', headers: { n: 7 }, contentType: 'text/plain', correlationId: 'x' }
    channel.sendToQueue(`${prefix}/q`, Buffer.from('hello'), properties)
    expect(await one(queue)).toMatchObject({
      id: 'theirs',
      body: 'hello',
      headers: { n: '7', 'correlation-id': 'x' },
      attempts: 0,
    })
    channel.sendToQueue(`${prefix}/q`, Buffer.from([1, 2]))
    expect(await take(queue, 1)).toEqual([Buffer.from([1, 2])])
    await queue.send('odd', { headers: { 'x-odd': 'kept', CC: 'not a route' } })
    expect((await one(queue)).headers).toEqual({ 'x-odd': 'kept', CC: 'not a route' })
  })

  test('what came back with its consumer was lost, what was given back was not', async () => {
    const prefix = newPrefix()
    const [bus, other] = [await open(prefix), await open(prefix)]
    const queue = bus.queue('q')
    await queue.send('x')
    await (await one(queue)).release()
    await (await one(queue)).release()
    await (await one(other.queue('q'))).release()
    expect(await one(queue)).toMatchObject({ losses: 0, attempts: 0 })
    await bus.close()
    await take(other.queue('q'), 1)
    await other.queue('q').send('y')
    const channel = await bare(server)
    await channel.get(`${prefix}/q`)
    await channel.close()
    const [again] = await other.queue('q').receive()
    expect(again).toMatchObject({ body: 'y', attempts: 0, losses: 1 })
    await again?.ack()
  })

  test('what one process after the other gives back never looks as if consumers were lost over it', async () => {
    const prefix = newPrefix()
    const queues = [await open(prefix), await open(prefix)].map((bus) => bus.queue('q'))
    await queues[0]?.send('x')
    for (let turns = 0; turns < 6; turns++) for (const queue of queues) await (await one(queue)).release()
    expect((await one(queues[0] as Queue)).losses).toBeLessThan(2)
  })

  test('delays do not wait for each other, and what is delayed for a queue that is gone holds up nobody', async () => {
    const bus = await open(newPrefix())
    const gone = await bus.topic('t').subscribe(undefined, () => {})
    for (let i = 0; i < 50; i++) await bus.topic('t').publish('for nobody', { delay: 100 })
    await gone.close()
    const queue = bus.queue('q')
    await queue.send('late', { delay: 60_000 })
    await queue.send('soon', { delay: 100 })
    expect(await take(queue, 1)).toEqual(['soon'])
    expect(await queue.stats()).toMatchObject({ delayed: 1, ready: 0 })
  })

  describe('a key', () => {
    const open2 = async () => {
      const prefix = newPrefix()
      return [await open(prefix), await open(prefix)] as const
    }

    test('has one consumer at a time, wherever it is, also while it is tried again or was given back', async () => {
      const [a, b] = (await open2()).map((bus) => bus.queue('q')) as [Queue, Queue]
      for (const body of [1, 2, 3]) await a.send(body, { key: 'k' })
      const first = await one(a)
      expect(await b.receive(nothing)).toEqual([])
      const waiting = one(b)
      await first.retry(50)
      const again = await waiting
      expect(again).toMatchObject({ body: 1, attempts: 1 })
      await again.release()
      expect(await one(b)).toMatchObject({ body: 1, attempts: 1, losses: again.losses })
      expect(await a.receive(nothing)).toEqual([])
    })

    test('that waits to be tried again keeps its attempts and its time when its process ends', async () => {
      const [bus, other] = await open2()
      const queue = other.queue('q')
      await queue.sendMany([1, 2].map((body) => ({ body, key: 'k' })))
      const due = Date.now() + 500
      await (await one(bus.queue('q'))).retry(500)
      await bus.close()
      const again = await one(queue)
      expect(Date.now()).toBeGreaterThanOrEqual(due)
      expect(again).toMatchObject({ body: 1, attempts: 1 })
      await again.ack()
      expect(await take(queue, 1)).toEqual([2])
      expect(await queue.stats()).toMatchObject({ ready: 0, leased: 0, delayed: 0, held: 0 })
    })

    test('comes to who waits already for messages without, and they do not hold it up', async () => {
      const [from, to] = await open2()
      const queue = to.queue('q')
      for (const options of [{}, { key: 'k' }, { key: 'l', delay: 30 }, {}]) {
        const waiting = one(queue)
        await sleep(20)
        await from.queue('q').send('x', options)
        await (await waiting).ack()
      }
      const handled: unknown[] = []
      const all = deferred()
      queue.consume(({ body }) => {
        handled.push(body)
        if (handled.length === 20) all.resolve()
      })
      for (let i = 0; i < 10; i++) await from.queue('q').sendMany([{ body: i, key: 'm' }, { body: -1 }])
      await all.promise
      expect(handled.filter((body) => body !== -1)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    })

    test('of what was delayed is behind others of its own', async () => {
      const queue = (await open(newPrefix())).queue('q')
      await queue.send('late', { key: 'k', delay: 3000 })
      await queue.send('first', { key: 'k' })
      const first = await one(queue)
      expect(first.body).toBe('first')
      await expect.poll(async () => (await queue.stats()).delayed).toBe(0)
      expect(await queue.receive(nothing)).toEqual([])
      await first.ack()
      expect(await one(queue)).toMatchObject({ body: 'late', key: 'k' })
    })

    test('is free again when one has killed its consumers and is dead', async () => {
      const prefix = newPrefix()
      const queue = (await open(prefix)).queue('q')
      await queue.sendMany(['die', 'next'].map((body) => ({ body, key: 'k' })))
      const losses: unknown[] = []
      for (let i = 0; i < 4; i++) {
        const worker = startBus(`${server.url}?prefix=${prefix}`, 'consume', {})
        await worker.line()
        losses.push(JSON.parse(await worker.line()).losses)
        await worker.outcome
      }
      expect(losses).toEqual([0, 1, 2, 3])
      expect(await take(queue, 1)).toEqual(['next'])
      expect((await queue.dead.list()).letters).toMatchObject([
        { body: 'die', key: 'k', reason: '4 consumers were lost over it' },
      ])
      expect(await queue.dead.redrive()).toBe(1)
      expect(await one(queue)).toMatchObject({ body: 'die', key: 'k', losses: 0 })
    })

    test('keeps its order when what fails is tried again and processes are killed', async () => {
      const prefix = newPrefix()
      const [url, file] = [`${server.url}?prefix=${prefix}`, join(temporaryDirectory(), 'log')]
      writeFileSync(file, '')
      const startWorker = () => startBus(url, 'work', { file, concurrency: 8 })
      const workers = [startWorker(), startWorker()]
      for (const worker of workers) await worker.line()
      const queue = (await open(prefix)).queue('q')
      const keys = Array.from({ length: 12 }, (_, i) => `k${i}`)
      const lines = () => readFileSync(file, 'utf8').trim().split('\n')
      for (let body = 0; body < 40; body++) {
        await queue.sendMany(keys.map((key) => ({ body, key })))
        if (body % 8 !== 7) continue
        // In the midst of it.
        while (new Set(lines()).size < (body - 4) * keys.length) await sleep(5)
        workers.shift()?.kill('SIGKILL')
        workers.push(startWorker())
      }
      while (new Set(lines()).size < 40 * keys.length) await sleep(20)
      for (const key of keys) {
        const bodies = lines().flatMap((line) => (line.startsWith(`${key} `) ? [Number(line.split(' ')[1])] : []))
        // What was handled, and not acknowledged yet, comes again, and nothing before it.
        const distinct = bodies.filter((body, at) => body !== bodies[at - 1])
        expect(distinct, key).toEqual(Array.from({ length: 40 }, (_, body) => body))
      }
    })

    test('goes to who waits and has none, when another has all', async () => {
      const [a, b] = await open2()
      const keyed = Array.from({ length: 100 }, (_, body) => ({ body, key: `k${body}` }))
      await a.queue('q').sendMany(keyed)
      const seen = deferred()
      a.queue('q').consume(() => sleep(20), { concurrency: 2 })
      b.queue('q').consume(() => seen.resolve())
      const feed = setInterval(
        () =>
          void a
            .queue('q')
            .sendMany(keyed)
            .catch(() => {}),
        300,
      )
      await seen.promise
      clearInterval(feed)
    })

    test('has partitions again after they were removed, for who sends and for who waits', async () => {
      const prefix = newPrefix()
      const queue = (await open(prefix)).queue('q')
      const channel = await bare(server)
      const handled: unknown[] = []
      let next = deferred()
      queue.consume(({ body }) => {
        handled.push(body)
        next.resolve()
      })
      for (const body of [1, 2]) {
        next = deferred()
        await queue.send(body, { key: 'k' })
        await next.promise
        for (let i = 0; i < 8; i++) await channel.deleteQueue(`${prefix}/q/k${i}`)
      }
      expect(handled).toEqual([1, 2])
    })

    test('is counted as it was although its partition was given up, released by who had begun', async () => {
      const prefix = newPrefix()
      const seen: number[] = []
      for (let i = 0; i < 4; i++) {
        const bus = await open(prefix)
        const queue = bus.queue('q')
        if (i === 0) await queue.send('x', { key: 'k' })
        const released = deferred()
        queue.consume(async (message) => {
          seen[i] = message.losses
          await message.release()
          released.resolve()
        })
        await released.promise
        await bus.close()
      }
      // That its process has ended may count, but not that its handler had begun.
      expect(Math.max(...seen)).toBeLessThanOrEqual(1)
    })

    test('has attempts of its own if another of its id was noted', async () => {
      const [a, b] = await open2()
      const queue = a.queue('q', { dedup: 0 })
      await queue.send('failing', { key: 'k', id: 'same' })
      await queue.send('next', { key: 'k' })
      await (await one(queue)).retry(0)
      await (await one(queue)).ack()
      await one(queue)
      await a.close()
      const other = b.queue('q', { dedup: 0 })
      // It was there before, and so the notes are read.
      await (await one(other)).ack()
      await other.send('new', { key: 'k', id: 'same' })
      expect(await one(other)).toMatchObject({ body: 'new', attempts: 0 })
    })

    test.each([
      // basic.get, basic.nack, channel.close
      ['as it was given back', () => cutAt(server, ['60.70', '60.120', '20.40'])],
      ['between the answer and what it was', () => cutBehind(server, '60.71')],
    ])('comes although the connection went while what was noted was read, %s', async (_, wire) => {
      const prefix = newPrefix()
      const queue = (await open(prefix)).queue('q')
      await queue.send('x', { key: 'k' })
      await (await one(queue)).retry(0)
      const message = one((await openBus(`${await wire()}?prefix=${prefix}`)).queue('q'))
      expect(await message).toMatchObject({ body: 'x', attempts: 1 })
    })

    test('is asked for, and that is heard again by who had lost its connection', async () => {
      const prefix = newPrefix()
      const wire = await wireTo(server.port)
      onTestFinished(wire.close)
      const bus = await openBus(`amqp://127.0.0.1:${wire.port}?prefix=${prefix}`)
      const handled = deferred()
      bus.queue('q').consume(() => handled.resolve())
      await (await open(prefix)).queue('q').send('x', { key: 'k' })
      await handled.promise
      const channel = await bare(server)
      const returns: unknown[] = []
      channel.on('return', (message) => returns.push(message))
      const isHeard = async () => {
        const before = returns.length
        channel.publish(`${prefix}/$keyed`, 'q', Buffer.from('idle'), { mandatory: true })
        await channel.checkExchange(`${prefix}/$keyed`)
        return returns.length === before
      }
      expect(await isHeard()).toBe(true)
      wire.cut()
      await expect.poll(isHeard).toBe(false)
      wire.mend()
      await expect.poll(isHeard).toBe(true)
    })

    test('is waited for again although the server does not know yet that the connection has gone', async () => {
      const prefix = newPrefix()
      const nears = new Set<Socket>()
      const fars = new Set<Socket>()
      const wire = createServer((near) => {
        const far = dial(server.port, '127.0.0.1')
        near
          .on('error', () => {})
          .pipe(
            far.on('error', () => {}),
            { end: false },
          )
        far.pipe(near)
        nears.add(near)
        fars.add(far)
      })
      wire.listen(0, '127.0.0.1')
      await once(wire, 'listening')
      onTestFinished(() => {
        wire.close()
        for (const far of fars) far.destroy()
      })
      const bus = await openBus(`amqp://127.0.0.1:${(wire.address() as AddressInfo).port}?prefix=${prefix}`)
      const handled = deferred<unknown>()
      const consumer = bus.queue('q').consume(({ body }) => handled.resolve(body))
      await bus.queue('other').receive(nothing)
      for (const near of nears) near.destroy()
      // Of this one the server knows.
      const again = bus.queue('again').consume(({ body }) => handled.resolve(body))
      await (await open(prefix)).queue('again').send('x', { key: 'k' })
      const failed = Promise.race([consumer.closed, again.closed]).then(() => 'closed')
      expect(await Promise.race([handled.promise, failed])).toBe('x')
    })

    test('is not counted where its partitions were removed', async () => {
      const prefix = newPrefix()
      const queue = (await open(prefix)).queue('q')
      await queue.send(1, { key: 'k' })
      await queue.send(2)
      expect(await queue.stats()).toMatchObject({ ready: 2 })
      const channel = await bare(server)
      for (let i = 0; i < 8; i++) await channel.deleteQueue(`${prefix}/q/k${i}`)
      expect(await queue.stats()).toMatchObject({ ready: 1 })
    })

    test('is refused where the queues are not known', async () => {
      const bus = await open(newPrefix())
      await bus.topic('t').bind('q')
      const refused = { code: 'ERR_BUS_UNSUPPORTED', message: expect.stringContaining('"order"') }
      await expect(bus.topic('t').publish('x', { key: 'k' })).rejects.toMatchObject(refused)
    })
  })

  test('a server that is short of memory takes nothing, and says so; who consumes goes on', async () => {
    const url = newPrefix()
    const queue = (await open(url)).queue('q')
    const impatient = (await open(`${url}&timeout=5000`)).queue('q')
    await queue.send(1)
    await impatient.stats()
    await server.control('set_vm_memory_high_watermark', '0')
    onTestFinished(() => server.control('set_vm_memory_high_watermark', '0.4'))
    const blocked = { code: 'ERR_BUS_DISK_FULL', hint: expect.stringContaining('memory') }
    await expect(impatient.send(2)).rejects.toMatchObject(blocked)
    await expect(impatient.send(3)).rejects.toMatchObject(blocked)
    expect(await take(queue, 1)).toEqual([1])
    await server.control('set_vm_memory_high_watermark', '0.4')
    // The second was on its way.
    expect(await take(queue, 1)).toEqual([2])
    await queue.send(4)
    expect(await take(queue, 1)).toEqual([4])
  }, 300_000)

  test('a bus is closed although the server does not take what is to be tried again, which comes again', async () => {
    const url = newPrefix()
    await (await open(url)).queue('q').send(1)
    const bus = await open(`${url}&timeout=2000`)
    await server.control('set_vm_memory_high_watermark', '0')
    onTestFinished(() => server.control('set_vm_memory_high_watermark', '0.4'))
    const failed = deferred()
    const consumer = bus.queue('q').consume(() => {
      failed.resolve()
      throw new Error('once more')
    })
    await failed.promise
    await bus.close()
    await consumer.closed
    await server.control('set_vm_memory_high_watermark', '0.4')
    expect(await take((await open(url)).queue('q'), 1)).toEqual([1])
  }, 300_000)

  describe('a message is refused', () => {
    test('if it is larger than the server takes, and another that is sent at the same time is not', async () => {
      // It is read from the one or, since 3.13, from the other.
      const set = (bytes: number) => {
        const [application, term] = [`application:set_env(rabbit, max_message_size, ${bytes})`, 'persistent_term:put']
        return server.control('eval', `${application}, ${term}(max_message_size, ${bytes}).`)
      }
      await set(1000)
      onTestFinished(() => set(2 ** 27))
      const queue = (await open(newPrefix())).queue('q')
      const large = queue.send('x'.repeat(2000))
      const small = queue.send('small')
      const refused = { name: 'QueueError', code: 'EMSGSIZE', message: expect.stringMatching(/> 1000 bytes/) }
      await expect(large).rejects.toMatchObject(refused)
      await small
      await expect(queue.sendMany(['y', 'x'.repeat(2000)].map((body) => ({ body })))).rejects.toMatchObject(refused)
      expect((await one(queue)).body).toBe('small')
    }, 300_000)

    test('if its sender may not publish', async () => {
      await server.control('add_user', 'reader', 'secret')
      onTestFinished(() => server.control('delete_user', 'reader'))
      // All but to send to the exchange that everybody has.
      await server.control('set_permissions', 'reader', '.*', '^own-', '.*')
      const url = Object.assign(new URL(server.url), { username: 'reader', password: 'secret' })
      const queue = (await openBus(`${url.href}?prefix=${newPrefix()}`)).queue('q')
      const refused = { name: 'QueueError', code: 'ERR_BUS_ACCESS', hint: expect.stringContaining('set_permissions') }
      await expect(queue.send('x')).rejects.toMatchObject(refused)
      await expect(queue.receive(nothing)).resolves.toEqual([])
    }, 300_000)
  })

  describe('a server that makes no queue that is neither durable nor exclusive', () => {
    test('has replies, subscriptions without a name and keys all the same', async () => {
      const url = await denyingAt(server, (isDurable, isExclusive) => !isDurable && !isExclusive)
      const bus = await openBus(`${url}?prefix=${newPrefix()}&timeout=5000`)
      const queue = bus.queue('q')
      queue.consume(({ body }) => body)
      expect(await queue.request('x')).toBe('x')
      const heard = deferred<unknown>()
      await bus.topic('t').subscribe(undefined, ({ body }) => heard.resolve(body))
      await bus.topic('t').publish('y')
      expect(await heard.promise).toBe('y')
      await bus.queue('keyed').send('z', { key: 'k' })
      expect(await take(bus.queue('keyed'), 1)).toEqual(['z'])
    })

    test('is not asked again and again for what it denies', async () => {
      const bus = await openBus(await denyingAt(server, () => true))
      const denied = { code: 'ERR_BUS_UNSUPPORTED', message: expect.stringContaining('is deprecated') }
      await expect(bus.queue('q').send('x')).rejects.toMatchObject(denied)
      await expect(bus.queue('q').consume(() => {}).closed).rejects.toMatchObject(denied)
    })
  })

  test('replies are there although their server was killed before they were heard', async () => {
    const prefix = newPrefix()
    const wire = await wireTo(server.port)
    onTestFinished(wire.close)
    const asking = await openBus(`amqp://127.0.0.1:${wire.port}?prefix=${prefix}`)
    const begun = deferred()
    const consumer = (await open(prefix)).queue('q').consume(async () => {
      begun.resolve()
      await isCut.promise
      return 'y'
    })
    const isCut = deferred()
    const reply = asking.queue('q').request('x', { timeout: 100_000 })
    await begun.promise
    wire.cut()
    isCut.resolve()
    // The reply is confirmed.
    await consumer.close()
    await server.kill()
    await server.start()
    wire.mend()
    expect(await reply).toBe('y')
  }, 400_000)

  test('what is held for longer than the server allows comes again', async () => {
    const set = (timeout: number, tick: number) =>
      server.control(
        'eval',
        `[application:set_env(rabbit, K, V) || {K, V} <-
        [{consumer_timeout, ${timeout}}, {channel_tick_interval, ${tick}}]].`,
      )
    await set(5000, 500)
    onTestFinished(() => set(1_800_000, 60_000))
    const queue = (await open(newPrefix())).queue('q')
    await queue.send('slow')
    const message = await one(queue)
    const again = await one(queue)
    expect(again).toMatchObject({ body: 'slow', id: message.id, losses: 1, attempts: 0 })
    await again.ack()
    await expect(message.ack()).rejects.toMatchObject({ code: 'ERR_BUS_LEASE_LOST' })
    expect(await queue.stats()).toMatchObject({ ready: 0, leased: 0 })
  }, 300_000)

  test.each([
    ['channel', '20.40'],
    ['connection', '10.50'],
  ])('is closed although the connection goes before the server has said so: of a %s', async (_, last) => {
    const bus = await connect(`${await cutAt(server, [last])}?prefix=${newPrefix()}`)
    await bus.queue('q').send('x')
    await one(bus.queue('q'))
    await bus.close()
  })

  test.each(['open', 'close'])('a process with nothing to wait for ends by itself: %s', async (last) => {
    const program = `
      import { connect } from 'kernelmq/bus'
      const bus = await connect(process.argv[1])
      const queue = bus.queue('q')
      await queue.send('x')
      console.log((await queue.receive())[0].body)
      if (process.argv[2] === 'close') await bus.close()`
    const url = `${server.url}?prefix=${newPrefix()}`
    const child = start(process.execPath, ['--input-type=module', '-e', program, url, last])
    expect(await child.outcome).toMatchObject({ code: 0, stdout: 'x\n' })
  })

  test('what is not confirmed in time is an error that says where to look, and is there when the server goes on', async () => {
    // Long enough to connect, and to make the queue, on a machine that has little time.
    const bus = await openBus(`${server.url}?prefix=${newPrefix()}&timeout=5000`)
    const queue = bus.queue('q')
    await queue.send(1)
    server.pause()
    try {
      await expect(queue.send(2)).rejects.toMatchObject({
        code: 'ERR_BUS_CONNECTION',
        hint: expect.stringContaining('list_unresponsive_queues'),
      })
    } finally {
      server.resume()
    }
    expect(await take(queue, 2)).toEqual([1, 2])
  })

  test('a server that stands still keeps nobody for longer than he asked', async () => {
    const prefix = newPrefix()
    // No heartbeat tells.
    const bus = await connect(`${server.url}?prefix=${prefix}&timeout=5000&heartbeat=3600`)
    onTestFinished(() => bus.close())
    const queue = bus.queue('q')
    const other = await open(prefix)
    await other.queue('q').send(1)
    await other.queue('busy').send(2)
    const held = await one(queue)
    const [isBusy, isPaused] = [deferred(), deferred()]
    const consumer = bus.queue('busy').consume(() => {
      isBusy.resolve()
      return isPaused.promise
    })
    await isBusy.promise
    const waiting = new AbortController()
    const received = queue.receive({ signal: waiting.signal })
    const gone = { code: 'ERR_BUS_CONNECTION', message: expect.stringContaining('does not answer') }
    server.pause()
    try {
      waiting.abort()
      await expect(received).rejects.toMatchObject({ name: 'AbortError' })
      expect(await queue.receive({ wait: 200 })).toEqual([])
      expect(await bus.queue('other').receive(nothing)).toEqual([])
      const aborted = bus.queue('other').receive({ signal: AbortSignal.timeout(100) })
      await expect(aborted).rejects.toMatchObject({ name: 'AbortError' })
      await expect(bus.queue('new').send(2)).rejects.toMatchObject(gone)
      await expect(bus.topic('t').bind('q')).rejects.toMatchObject(gone)
      await expect(queue.stats()).rejects.toMatchObject(gone)
      await held.release()
      isPaused.resolve()
      await bus.close()
      await consumer.closed
    } finally {
      server.resume()
      isPaused.resolve()
    }
    expect(await take(other.queue('q'), 1)).toEqual([1])
  })

  test('goes on when the server was away, and says so when it is away for too long', async () => {
    const url = `${server.url}?prefix=${newPrefix()}&timeout=5000`
    const bus = await openBus(url)
    const queue = bus.queue('q')
    await queue.send(1)
    const handled = deferred<unknown>()
    await take(queue, 1)
    queue.consume(({ body }) => {
      // The server may be gone before it reads that the first was acknowledged.
      if (body !== 1) handled.resolve(body)
    })
    await server.kill()
    const error = await queue.send(2).catch((reason: unknown) => reason)
    expect(error).toMatchObject({ code: 'ERR_BUS_CONNECTION', hint: expect.stringContaining(String(server.port)) })
    expect(await bus.queue('other').receive(nothing)).toEqual([])
    await server.start()
    for (;;) {
      const sent = await queue.send(3).catch(() => undefined)
      if (sent !== undefined) break
      await sleep(20)
    }
    expect([2, 3]).toContain(await handled.promise)
  }, 400_000)
})

/** Another client. */
async function bare(server: Server): Promise<Channel> {
  const connection = await connectTo(server.url)
  connection.on('error', () => {})
  onTestFinished(() => connection.close().catch(() => {}))
  const channel = await connection.createChannel()
  channel.on('error', () => {})
  return channel
}

/** The URL of a wire; what comes from `near` is for `attach` to pass on, which may say what goes back there. */
async function wireWith(
  { port }: Server,
  attach: (near: Socket, far: Socket) => Readable | undefined,
): Promise<string> {
  const wire = createServer((near) => {
    const far = dial(port, '127.0.0.1')
    for (const [socket, other] of [
      [near, far],
      [far, near],
    ] as const) {
      socket.on('error', () => {})
      socket.on('close', () => other.destroy())
    }
    const back = attach(near, far) ?? far
    back.pipe(near)
  })
  wire.listen(0, '127.0.0.1')
  await once(wire, 'listening')
  onTestFinished(() => void wire.close())
  return `amqp://127.0.0.1:${(wire.address() as AddressInfo).port}`
}

/** The URL of a wire to a server that closes the connection of who declares such a queue, as RabbitMQ 4.3 does. */
async function denyingAt(server: Server, isDenied: (isDurable: boolean, isExclusive: boolean) => boolean) {
  const text = 'INTERNAL_ERROR - Feature `transient_nonexcl_queues` is deprecated.\nBy default, it is not permitted.'
  // connection.close: 541, the text, and the class and the method that it is about.
  const said = Buffer.from([0, 10, 0, 50, 541 >> 8, 541 & 255, text.length, ...Buffer.from(text), 0, 50, 0, 10])
  const frame = Buffer.from([1, 0, 0, 0, 0, 0, said.length, ...said, 0xce])
  return wireWith(server, (near, far) => {
    near.on('data', (data) => {
      let isOver = false
      for (let at = 0; at + 11 < data.length && data[at] === 1; at += data.readUInt32BE(at + 3) + 8) {
        if (data.readUInt32BE(at + 7) !== 0x0032_000a) continue
        // Behind two bytes of nothing and the name.
        const flags = data[at + 14 + (data[at + 13] as number)] as number
        isOver ||= isDenied((flags & 2) > 0, (flags & 4) > 0)
      }
      if (isOver) near.write(frame)
      else if (far.writable) far.write(data)
    })
  })
}

/** The URL of a wire where `work` is done before a client binds this queue. */
async function beforeBinding(server: Server, queue: string, work: () => Promise<unknown>): Promise<string> {
  const name = Buffer.from(`\0\x32\0\x14\0\0${String.fromCharCode(queue.length)}${queue}`)
  return wireWith(server, (near, far) => {
    near.on('data', async (data) => {
      near.pause()
      if (data.includes(name)) await work()
      if (far.writable) far.write(data)
      near.resume()
    })
  })
}

/** The URL of a wire that is cut, once, when a client ends with these what it says on a channel. */
async function cutAt(server: Server, methods: readonly string[]): Promise<string> {
  let isCut = false
  return wireWith(server, (near, far) => {
    const said = new Map<number, string[]>()
    near.on('data', (data) => {
      // Frames come whole: a byte of type, the channel, the size, the class and the method, and a byte behind all.
      for (let at = 0; !isCut && at + 11 < data.length && data[at] === 1; at += data.readUInt32BE(at + 3) + 8) {
        const channel = data.readUInt16BE(at + 1)
        const last = [...(said.get(channel) ?? []), `${data.readUInt16BE(at + 7)}.${data.readUInt16BE(at + 9)}`]
        said.set(channel, last.slice(-methods.length))
        isCut = said.get(channel)?.join() === methods.join()
        if (isCut) near.destroy()
      }
      far.write(data)
    })
  })
}

/** The URL of a wire that is cut, once, behind this method of the server's: the content does not come. */
async function cutBehind(server: Server, method: string): Promise<string> {
  let isCut = false
  return wireWith(server, (near, far) => {
    near.pipe(far)
    const upTo = new Transform({
      transform(data: Buffer, _, done) {
        for (let at = 0; !isCut && at + 11 < data.length && data[at] === 1; ) {
          isCut = `${data.readUInt16BE(at + 7)}.${data.readUInt16BE(at + 9)}` === method
          at += data.readUInt32BE(at + 3) + 8
          if (!isCut) continue
          this.push(data.subarray(0, at))
          this.push(null)
          return
        }
        done(null, data)
      },
    })
    return far.pipe(upTo)
  })
}

async function hasConsumer(server: Server, queue: string): Promise<void> {
  for (;;) {
    const found = await (await bare(server)).checkQueue(queue).catch(() => undefined)
    if (found !== undefined && found.consumerCount > 0) return
    await sleep(10)
  }
}

/** The server is asked to remove queues, at many instants while it makes them, until it has one that is neither. */
async function leaveRemains(server: Server, remover: Channel, name: string): Promise<string | undefined> {
  for (let at = 0; at < 200; at++) {
    const queue = name + at
    const make = (channel: Channel) => channel.assertQueue(queue, { arguments: { 'x-queue-type': 'quorum' } })
    const making = make(await bare(server)).catch(() => {})
    await sleep((at % 10) / 1.25)
    await remover.deleteQueue(queue)
    await making
    const isMade = async () =>
      make(await bare(server)).then(
        () => true,
        () => false,
      )
    if (!(await isMade()) && !(await isMade())) return queue
    await remover.deleteQueue(queue)
  }
  return undefined
}
