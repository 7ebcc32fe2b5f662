// What is particular to redis:, beside what every transport does.
import { Redis } from 'ioredis'
import { connect, type Message } from 'kernelmq/bus'
import { expect, onTestFinished, test, vi } from 'vitest'
import { startServer } from './servers.ts'
import { deferred, describeEngine, nothing, one, openBus, startBus, take } from './support.ts'

await describeEngine('redis', (_, server) => {
  let count = 0
  /** A bus of its own, by its URL; what was taken from it comes back within a moment. */
  const newUrl = (parameters = 'lease=900') => `${server.url}?prefix=own-${++count}&${parameters}`
  const prefixOf = (url: string) => new URL(url).searchParams.get('prefix')
  const newClient = (url = server.url): Redis => {
    const client = new Redis(url)
    onTestFinished(() => client.disconnect())
    return client
  }
  const queueOf = async (url: string) => (await openBus(url)).queue('q')

  test('what a killed process had comes back, and of several it is not known which was to blame', async () => {
    const url = newUrl()
    const queue = await queueOf(url)
    await queue.sendMany([{ body: 'a' }, { body: 'b' }])
    const child = startBus(url, 'hold', { max: 2 })
    expect(await child.line()).toBe('["a","b"]')
    expect(await queue.stats()).toMatchObject({ leased: 2, ready: 0 })
    child.kill('SIGKILL')
    const first = await one(queue)
    expect(first).toMatchObject({ body: 'a', losses: 0 })
    await first.ack()
    expect(await take(queue, 1)).toEqual(['b'])
    expect(await queue.stats()).toMatchObject({ leased: 0, ready: 0, bytes: 0 })
  })

  test('a message whose consumer dies over it again and again is dead in the end', async () => {
    const url = newUrl('lease=400')
    const queue = await queueOf(url)
    await queue.send('die')
    for (let losses = 0; losses <= 3; losses++) {
      const child = startBus(url, 'consume', {})
      let line = await child.line()
      if (line === '"consumes"') line = await child.line()
      expect(JSON.parse(line)).toEqual({ body: 'die', losses, attempts: 0 })
      await child.outcome
    }
    queue.consume(() => {})
    await vi.waitFor(async () => expect((await queue.stats()).dead).toBe(1), 100_000)
    expect((await queue.dead.list()).letters).toMatchObject([{ reason: '4 consumers were lost over it', losses: 4 }])
  })

  test('what another process sends wakes one that waits', async () => {
    const url = newUrl()
    const waiting = one(await queueOf(url))
    await (await queueOf(url)).send('x')
    expect((await waiting).body).toBe('x')
  })

  test('a long handler keeps its message longer than a lease', async () => {
    const url = newUrl('lease=300')
    const [queue, other] = [await queueOf(url), await queueOf(url)]
    await queue.send('slow')
    const message = await one(queue)
    expect(await other.receive({ wait: 1200 })).toEqual([])
    await message.ack()
  })

  test('one that was thought dead has lost what it had, and goes on', async () => {
    const url = newUrl('lease=400')
    const [queue, other] = [await queueOf(url), await queueOf(url)]
    await queue.send('x')
    const message = await one(queue)
    // Nobody hears of it any more, whatever it says: as if its loop had been blocked.
    const [client, consumer] = [newClient(), await consumerOf(url)]
    const unheard = setInterval(() => void client.zadd(`${prefixOf(url)}:alive`, 'XX', 0, consumer), 10)
    onTestFinished(() => clearInterval(unheard))
    expect(await one(other)).toMatchObject({ body: 'x', losses: 1 })
    await expect(message.ack()).rejects.toMatchObject({ code: 'ERR_BUS_LEASE_LOST' })
    await queue.send('y')
    expect((await one(queue)).body).toBe('y')
  })

  /** The only one that has something. */
  const consumerOf = async (url: string): Promise<string> => {
    const client = newClient()
    const groups = (await client.xpending(`${prefixOf(url)}:q:q:s0`, 'kmq')) as [
      number,
      string,
      string,
      [string, string][],
    ]
    return groups[3][0]?.[0] as string
  }

  test('a connection that is cut again and again loses nothing, and doubles only what has the same id', async () => {
    const url = newUrl()
    const [queue, other] = [await queueOf(url), await queueOf(url)]
    const killer = newClient()
    const seen = new Map<unknown, string>()
    const all = deferred()
    const total = 2000
    const consumer = other.consume(
      ({ body, id }: Message) => {
        expect(seen.get(body) ?? id).toBe(id)
        seen.set(body, id)
        if (seen.size === total) all.resolve()
      },
      { concurrency: 20, prefetch: 20 },
    )
    for (let body = 0; body < total; body += 20) {
      const sent = Array.from({ length: 20 }, (_, at) => queue.send(body + at))
      // Somewhere in the midst of it.
      if (body % 100 === 0)
        void setTimeout(() => void killer.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes'), body % 7)
      await Promise.all(sent)
    }
    await all.promise
    await consumer.close()
    await vi.waitFor(async () => {
      // What came twice is still to be handled.
      for (const message of await other.receive({ max: 100, wait: 0 })) await message.ack()
      expect(await other.stats()).toMatchObject({ ready: 0, leased: 0, held: 0, delayed: 0 })
    }, 100_000)
  })

  test('killed and started again it goes on where it was; paused it is waited for', async () => {
    // What it has confirmed it may not have written yet, otherwise, while its disk is slow.
    await newClient().config('SET', 'appendfsync', 'always')
    const queue = await queueOf(newUrl())
    await queue.send('before')
    const message = await one(queue)
    const waiting = take(queue, 1)
    await server.kill()
    const late = queue.send('while it is away')
    await server.start()
    await late
    expect(await waiting).toEqual(['while it is away'])
    await message.ack()
    server.pause()
    const paused = queue.send('while it is paused')
    server.resume()
    await paused
    expect(await take(queue, 1)).toEqual(['while it is paused'])
    expect(await queue.stats()).toMatchObject({ ready: 0, leased: 0 })
  })

  test('away for longer than anybody waits, it is said where it was looked for', async () => {
    const queue = await queueOf(newUrl('timeout=2000'))
    await server.kill()
    onTestFinished(() => server.start())
    const gone = {
      code: 'ERR_BUS_CONNECTION',
      path: `127.0.0.1:${server.port}`,
      hint: expect.stringContaining('is the server up'),
    }
    await expect(queue.send('x')).rejects.toMatchObject(gone)
    await expect(queue.receive({ wait: 10 })).rejects.toMatchObject(gone)
    await expect(connect(`${server.url}?prefix=x`)).rejects.toMatchObject(gone)
  })

  /** One that holds the only message there may be, and another bus that has waited for room once. */
  const fullQueue = async () => {
    const url = newUrl()
    const sender = (await openBus(url)).queue('q', { maxMessages: 1, overflow: 'wait' })
    const queue = await queueOf(url)
    await sender.send('first')
    const first = await one(queue)
    const waiting = sender.send('second')
    await expect.poll(() => newClient().pubsub('NUMSUB', `${prefixOf(url)}:room:q`)).toMatchObject([{}, 1])
    await first.ack()
    await waiting
    return { sender, queue, message: await one(queue) }
  }

  test('room that comes together with the answer that there is none is not missed', async () => {
    const { sender, queue, message } = await fullQueue()
    server.pause()
    const sent = sender.send('third')
    await new Promise((resolve) => setTimeout(resolve, 50))
    const done = message.ack()
    await new Promise((resolve) => setTimeout(resolve, 50))
    server.resume()
    await Promise.all([sent, done])
    expect(await take(queue, 1)).toEqual(['third'])
  })

  test('who waits for room in a queue that somebody removes goes on', async () => {
    const { sender, queue } = await fullQueue()
    const sent = sender.send('third')
    await new Promise((resolve) => setTimeout(resolve, 50))
    await newClient().flushall()
    await sent
    expect(await take(queue, 1)).toEqual(['third'])
  })

  test('what others have added comes as bytes, with its other fields as headers', async () => {
    const url = newUrl()
    const queue = await queueOf(url)
    await queue.send('ours')
    const stream = `${prefixOf(url)}:q:q:s0`
    const client = newClient()
    const id = await client.xadd(stream, '*', 'kind', 'theirs', 'body', 'bytes')
    await client.xadd(stream, '*', 'kmq', 'neither')
    expect(await take(queue, 1)).toEqual(['ours'])
    const theirs = await one(queue)
    expect(theirs).toMatchObject({ id, body: Buffer.from('bytes'), headers: { kind: 'theirs' } })
    await theirs.dead('enough')
    expect((await queue.dead.list()).letters).toMatchObject([{ id, body: Buffer.from('bytes'), reason: 'enough' }])
    expect(await take(queue, 1)).toEqual([Buffer.alloc(0)])
  })

  test('a queue that somebody removed is there again', async () => {
    const url = newUrl()
    const queue = await queueOf(url)
    await queue.send('x')
    await newClient().del(`${prefixOf(url)}:q:q:s0`)
    expect(await queue.receive(nothing)).toEqual([])
    await queue.send('y')
    expect(await take(queue, 1)).toEqual(['y'])
    await newClient().flushall()
    await queue.send('z')
    expect(await take(queue, 1)).toEqual(['z'])
  })

  test('what somebody removed holds nothing up: keys, retries, leases, bounds', async () => {
    const url = newUrl()
    const bus = await openBus(url)
    const client = newClient()
    const remove = (name: string) => client.del(`${prefixOf(url)}:q:${name}:s0`)
    const keyed = bus.queue('keyed')
    for (const body of ['a', 'b']) await keyed.send(body, { key: 'k' })
    await remove('keyed')
    await keyed.send('c', { key: 'k' })
    expect(await take(keyed, 2)).toEqual(['b', 'c'])
    expect(await keyed.stats()).toMatchObject({ ready: 0, held: 0, bytes: 0 })
    const late = bus.queue('late')
    await late.sendMany([{ body: 'retried' }, { body: 'leased' }])
    await (await one(late)).retry(200)
    await late.receive({ lease: 200 })
    await remove('late')
    await new Promise((resolve) => setTimeout(resolve, 300))
    await late.send('new')
    expect(await take(late, 1)).toEqual(['new'])
    const bounded = bus.queue('bounded', { maxBytes: 8, overflow: 'drop-oldest' })
    await bounded.send('12345678')
    await remove('bounded')
    for (const body of ['one', 'two', 'three']) await bounded.send(body)
    expect(await take(bounded, 2)).toEqual(['two', 'three'])
    expect(await bounded.stats()).toMatchObject({ ready: 0, bytes: 0 })
    const left = await client.keys(`${prefixOf(url)}:q:*`)
    expect(left.filter((key) => /:(?:wear|keys|retry|lease)$/.test(key))).toEqual([])
  })

  test('a wrong password is told from a missing one, and never shown', async () => {
    const admin = newClient()
    await admin.acl('SETUSER', 'ada', 'on', '>secret', '~*', '&*', '+@all')
    const url = new URL(newUrl())
    url.username = 'ada'
    url.password = 'wrong-one'
    const denied = await connect(url).catch((error: unknown) => error)
    expect(denied).toMatchObject({ code: 'ERR_BUS_ACCESS', hint: expect.stringContaining('user "ada"') })
    const { inspect } = await import('node:util')
    expect(inspect(denied, { depth: 10 })).not.toContain('wrong-one')
    url.password = 'secret'
    const bus = await openBus(url.href)
    expect(bus.url).not.toContain('secret')
    await bus.queue('q').send('x')
    await admin.acl('SETUSER', 'ada', '-evalsha', '-eval')
    await expect(bus.queue('q').send('x')).rejects.toMatchObject({ code: 'ERR_BUS_ACCESS' })
  })

  test.each([
    ['?colour=red', /nothing behind "\?" but prefix, timeout, lease/],
    ['?prefix=a/b', /prefix is 1 to 64 letters/],
    ['?timeout=soon', /timeout is a number/],
    ['?lease=0', /lease is a number/],
    ['/first', /database is a number/],
  ])('a URL that ends with %s is refused', async (end, message) => {
    const url = server.url.replace('//', '//ada:secret@') + end
    const refused = await connect(url).catch((error: Error) => error)
    expect(refused).toMatchObject({ code: 'ERR_INVALID_ARG_VALUE', message: expect.stringMatching(message) })
    expect(String(refused)).not.toContain('secret')
  })

  test('messages and the bus of each prefix and each database are their own', async () => {
    const [a, b] = [newUrl(), newUrl()]
    await (await queueOf(a)).send('a')
    expect(await (await queueOf(b)).receive(nothing)).toEqual([])
    const other = await queueOf(a.replace('?', '/1?'))
    expect(await other.receive(nothing)).toEqual([])
    expect(await take(await queueOf(a), 1)).toEqual(['a'])
  })

  test('is as safe as the server: on the disk only with appendfsync always', async () => {
    const url = newUrl()
    const bus = await openBus(url)
    expect(bus.capabilities.persist).toBe('process')
    const refused = { code: 'ERR_BUS_UNSUPPORTED', message: expect.stringContaining('persist') }
    await expect(bus.queue('q').send('x', { durability: 'disk' })).rejects.toMatchObject(refused)
    const client = newClient()
    await client.config('SET', 'appendfsync', 'always')
    onTestFinished(() => client.config('SET', 'appendfsync', 'everysec').then(() => {}))
    const safe = await openBus(url)
    expect(safe.capabilities.persist).toBe('disk')
    await safe.queue('q').send('x', { durability: 'disk' })
  })

  test('a process ends when nobody waits any more, with its bus open', async () => {
    const url = newUrl()
    const child = startBus(url, 'leave', { count: 3 })
    expect(await child.line()).toBe('3')
    expect(await child.outcome).toMatchObject({ code: 0, stderr: '' })
    expect(await (await queueOf(url)).stats()).toMatchObject({ ready: 3 })
  })

  test('a process ends when nobody waits any more, also while its server is away', async () => {
    const away = await startServer('redis')
    onTestFinished(() => away.close())
    const child = startBus(away.url, 'leave', { count: 1, after: 1000 })
    expect(await child.line()).toBe('1')
    await away.kill()
    const late = new Promise((resolve) => setTimeout(() => resolve('does not end'), 15_000))
    expect(await Promise.race([child.outcome, late])).toMatchObject({ code: 0 })
  })

  test('what was sent and acknowledged at once is done once', async () => {
    const url = newUrl()
    const bus = await openBus(url)
    const [from, to] = [bus.queue('from'), bus.queue('to')]
    await from.send('work')
    const message = await one(from)
    await message.ack({ send: [await to.prepare('more', { key: 'k', id: 'i', priority: 3, delay: 1 })] })
    expect(await take(to, 1)).toEqual(['more'])
    expect((await from.stats()).leased + (await to.stats()).ready).toBe(0)
  })

  test('what a process had borrowed goes with it', async () => {
    const url = newUrl('lease=400')
    const bus = await openBus(url)
    const child = startBus(url, 'listen', 't')
    expect(await child.line()).toBe('"listens"')
    expect(await bus.topic('t').publish('x')).toBe(1)
    child.kill('SIGKILL')
    const consumer = bus.queue('q').consume(() => {})
    await vi.waitFor(async () => expect(await bus.topic('t').publish('y')).toBe(0), 100_000)
    await consumer.close()
  })

  test('a subscription of a process that was thought dead is there again', async () => {
    const url = newUrl('lease=400')
    const [bus, other] = [await openBus(url), await openBus(url)]
    const heard = deferred<unknown>()
    await bus.topic('t').subscribe(undefined, ({ body }: Message) => heard.resolve(body))
    expect(await other.topic('t').publish('before')).toBe(1)
    expect(await heard.promise).toBe('before')
    const again = deferred<unknown>()
    await bus.topic('u').subscribe(undefined, ({ body }: Message) => again.resolve(body))
    const client = newClient()
    for (const consumer of await client.zrange(`${prefixOf(url)}:alive`, '0', '-1'))
      await client.zadd(`${prefixOf(url)}:alive`, 0, consumer)
    // Somebody who lives sees it.
    void other.queue('q').consume(() => {})
    await expect.poll(() => client.zrangebyscore(`${prefixOf(url)}:alive`, 0, 0)).toEqual([])
    await expect.poll(() => other.topic('u').publish('after')).toBe(1)
    expect(await again.promise).toBe('after')
  })

  test('a server that has lost all is told again what is bound and bounded', async () => {
    const forgetful = await startServer('redis', ['--appendonly', 'no'])
    onTestFinished(() => forgetful.close())
    const [bus, other] = [await openBus(forgetful.url), await openBus(forgetful.url)]
    const heard: unknown[] = []
    const handler = ({ body }: Message) => void heard.push(body)
    await bus.topic('t').subscribe('named', handler)
    await bus.topic('t').subscribe(undefined, handler)
    const bounded = other.queue('bounded', { maxMessages: 1 })
    await bounded.send('x')
    await forgetful.kill()
    await forgetful.start()
    await expect.poll(() => other.topic('t').publish('x')).toBe(2)
    await expect.poll(() => heard.length).toBeGreaterThanOrEqual(2)
    await expect.poll(() => bounded.send('x').catch(({ code }) => code)).toBe('ERR_BUS_QUEUE_FULL')
  })

  test('a server that was emptied is told again what is bound and bounded, as soon as it lets that be done', async () => {
    const admin = newClient()
    await admin.acl('SETUSER', 'bea', 'on', '>secret', '~*', '&*', '+@all')
    const bus = await openBus(newUrl('lease=600').replace('//', '//bea:secret@'))
    await bus.topic('t').subscribe('named', () => {})
    const bounded = bus.queue('bounded', { maxMessages: 1 })
    await bounded.send('x')
    await admin.flushall()
    await expect.poll(() => bus.topic('t').publish('x')).toBe(1)
    // Bounds cannot be said again, for now.
    await admin.acl('SETUSER', 'bea', '-hset')
    await admin.acl('LOG', 'RESET')
    await admin.flushall()
    await expect.poll(async () => JSON.stringify(await admin.acl('LOG'))).toContain('"hset"')
    await admin.acl('SETUSER', 'bea', '+hset')
    await expect.poll(() => bounded.send('x').catch(({ code }) => code)).toBe('ERR_BUS_QUEUE_FULL')
  })

  test('a server that was emptied is told again what is bound and bounded by a process that takes nothing', async () => {
    const bus = await openBus(newUrl('lease=600'))
    await bus.topic('t').bind('q')
    const bounded = bus.queue('bounded', { maxMessages: 1 })
    await bounded.send('x')
    await newClient().flushall()
    await expect.poll(() => bus.topic('t').publish('x')).toBe(1)
    await expect.poll(() => bounded.send('x').catch(({ code }) => code)).toBe('ERR_BUS_QUEUE_FULL')
  })

  test('what a server has forgotten was acknowledged is not leased for ever by who acknowledged it', async () => {
    const forgetful = await startServer('redis', ['--appendonly', 'no'])
    onTestFinished(() => forgetful.close())
    const url = `${forgetful.url}?prefix=forgetful&lease=600`
    const [queue, other] = [await queueOf(url), await queueOf(url)]
    await queue.send('x')
    const message = await one(queue)
    // Its last word on the disk; what comes after is lost with it, as is the tail of an append-only file.
    await newClient(forgetful.url).save()
    await message.ack()
    await forgetful.kill()
    await forgetful.start()
    expect((await one(other)).body).toBe('x')
  })

  test('what is acknowledged together is gone, even if the server has forgotten of some that they were handed out', async () => {
    const url = newUrl()
    const queue = await queueOf(url)
    await queue.sendMany([{ body: 'a' }, { body: 'b' }])
    const messages = await queue.receive({ max: 2 })
    const client = newClient()
    const stream = `${prefixOf(url)}:q:q:s0`
    const [[id] = []] = await client.xrange(stream, '-', '+')
    await client.xack(stream, 'kmq', id as string)
    await Promise.all(messages.map((message) => message.ack()))
    expect(await queue.stats()).toMatchObject({ ready: 0, leased: 0 })
  })

  test('what is acknowledged while its lease is extended leaves nothing behind', async () => {
    const url = newUrl()
    const queue = await queueOf(url)
    await queue.send('x')
    const message = await one(queue)
    server.pause()
    const extended = message.extend(1)
    // Not together with it.
    await new Promise(setImmediate)
    const done = message.ack()
    await new Promise(setImmediate)
    server.resume()
    await Promise.all([extended, done])
    expect(await queue.receive({ wait: 20 })).toEqual([])
    const left = await newClient().keys(`${prefixOf(url)}:q:q:*`)
    expect(left.filter((key) => /:(?:lease|wear)$/.test(key))).toEqual([])
  })

  test('a name among the consumers goes with its process, also where it has taken nothing', async () => {
    const url = newUrl()
    const bus = await openBus(url)
    await bus.queue('q').receive(nothing)
    const client = newClient()
    const stream = `${prefixOf(url)}:q:q:s0`
    const [name = ''] = await client.zrange(`${prefixOf(url)}:alive`, '0', '-1')
    // What a server does by itself since 7.2.
    await client.xgroup('CREATECONSUMER', stream, 'kmq', name)
    await bus.close()
    expect(await client.xinfo('CONSUMERS', stream, 'kmq')).toEqual([])
  })

  test('what a process had goes back when it is closed while it gets another name', async () => {
    const url = newUrl('lease=3000')
    const [bus, client] = [await openBus(url), newClient()]
    await bus.queue('q').send('x')
    await one(bus.queue('q'))
    await client.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes')
    await bus.queue('other').stats()
    server.pause()
    // It says that it lives, and before, because its connection was lost, that it has another name.
    await new Promise((resolve) => setTimeout(resolve, 1200))
    const closed = bus.close()
    await new Promise(setImmediate)
    server.resume()
    await closed
    expect(await client.zcard(`${prefixOf(url)}:alive`)).toBe(0)
  })

  test('processes that are there only for a moment get what a dead one had at the fourth visit', async () => {
    const lease = 60_000
    const url = newUrl(`lease=${lease}`)
    const first = await connect(url)
    await first.queue('q').send('x')
    const child = startBus(url, 'hold', { max: 1 })
    expect(await child.line()).toBe('["x"]')
    child.kill('SIGKILL')
    await child.outcome
    await first.close()
    const [client, prefix] = [newClient(), prefixOf(url)]
    const [name = ''] = await client.zrange(`${prefix}:alive`, '0', '-1')
    const visits: unknown[][] = []
    while (visits.length < 4) {
      // Somewhat longer than a lease ago.
      await client
        .multi()
        .decrby(`${prefix}:beat`, lease + 1000)
        .zincrby(`${prefix}:alive`, -lease - 1000, name)
        .exec()
      const bus = await connect(url)
      visits.push((await bus.queue('q').receive(nothing)).map(({ body }) => body))
      await bus.close()
    }
    expect(visits).toEqual([[], [], [], ['x']])
  })

  test('what a dead process had comes back in time, also when the clock of the server is set back', async () => {
    const url = newUrl()
    const queue = await queueOf(url)
    await queue.send('x')
    const child = startBus(url, 'hold', { max: 1 })
    expect(await child.line()).toBe('["x"]')
    child.kill('SIGKILL')
    await child.outcome
    // It went an hour ahead until now.
    const [client, prefix, hour] = [newClient(), prefixOf(url), 3_600_000]
    const [name = ''] = await client.zrange(`${prefix}:alive`, '0', '-1')
    await client.multi().incrby(`${prefix}:beat`, hour).zincrby(`${prefix}:alive`, hour, name).exec()
    expect((await one(queue)).body).toBe('x')
  })

  test('a server that is paused again and again costs nobody a lease', async () => {
    const url = newUrl('lease=600')
    const [queue, other] = [await queueOf(url), await queueOf(url)]
    await queue.send('x')
    const message = await one(queue)
    const got = other.receive({ wait: 60_000 })
    const client = newClient()
    for (let n = 0; n < 5; n++) {
      server.pause()
      await new Promise((resolve) => setTimeout(resolve, 900))
      server.resume()
      // Both have been heard again.
      await expect.poll(() => client.hlen(`${prefixOf(url)}:spared`)).toBe(0)
    }
    await message.ack()
    await queue.send('y')
    expect((await got).map(({ body }) => body)).toEqual(['y'])
  })

  test('at maxmemory nothing is sent, and who begins then gets all that is there', async () => {
    const full = await startServer('redis')
    onTestFinished(() => full.close())
    const url = `${full.url}?lease=600`
    const queue = await queueOf(url)
    await queue.send('of a dead one')
    const child = startBus(url, 'hold', { max: 1 })
    expect(await child.line()).toBe('["of a dead one"]')
    await queue.sendMany([{ body: 'done' }, { body: 'again' }, { body: 'later' }, { body: 'dead' }])
    child.kill('SIGKILL')
    const client = newClient(full.url)
    await client.config('SET', 'maxmemory', '1')
    await expect(queue.send('more')).rejects.toMatchObject({ code: 'ERR_BUS_QUEUE_FULL' })
    const bus = await openBus(url)
    const handled: unknown[] = []
    const consumer = bus.queue('q').consume(async (message: Message) => {
      handled.push(message.body)
      if (message.body === 'dead') await message.dead('enough')
      else if (message.attempts === 0 && message.body === 'again') await message.retry()
      else if (message.attempts === 0 && message.body === 'later') await message.retry(1)
    })
    // What is new there is there, too.
    const others = ['new', 'bounded'].map((name) =>
      bus.queue(name, name === 'new' ? {} : { maxMessages: 1 }).consume(() => {}),
    )
    for (const name of ['named', undefined]) await (await bus.topic('t').subscribe(name, () => {})).close()
    const dead = bus.queue('q').dead
    await vi.waitFor(async () => {
      expect(await bus.queue('q').stats()).toMatchObject({ ready: 0, leased: 0, delayed: 0 })
      expect((await dead.list()).letters).toMatchObject([{ body: 'dead' }])
    }, 100_000)
    expect(handled.sort()).toEqual(['again', 'again', 'dead', 'done', 'later', 'later', 'of a dead one'])
    for (const one of [consumer, ...others]) await one.close()
  })

  test('leaves nothing behind of a queue that is dropped, nor of a message that is done', async () => {
    const url = newUrl()
    const bus = await openBus(url)
    const queue = bus.queue('q', { dedup: 1 })
    for (let i = 0; i < 20; i++) await queue.send('x', { id: `i${i}`, key: `k${i % 3}`, priority: i % 2, delay: i % 5 })
    const all = await take(queue, 20)
    expect(all).toHaveLength(20)
    const left = (await newClient().keys(`${prefixOf(url)}:*`)).map((key) => key.replace(`${prefixOf(url)}:`, ''))
    expect(left.filter((key) => /:(?:key|keys|parked|later|retry|lease|wear)/.test(key))).toEqual([])
    for (let i = 0; i < 3; i++) await (await bus.topic('t').subscribe(undefined, () => {})).close()
    await expect.poll(() => newClient().keys(`${prefixOf(url)}:*borrowed*`)).toEqual([])
    expect(await newClient().keys(`${prefixOf(url)}:b:*`)).toEqual([])
  })
})
