// What a connection to redis: lives through: cut in the midst, gone silent, a server that is not the one it was.
import { readFileSync } from 'node:fs'
import { Redis } from 'ioredis'
import { connect } from 'kernelmq/bus'
import { expect, onTestFinished, test } from 'vitest'
import { wireTo } from './engine-chaos.ts'
import { startServer } from './servers.ts'
import { deferred, describeEngine, nothing, one, openBus, startBus, take } from './support.ts'

await describeEngine('redis', (_, server) => {
  let count = 0
  /** A bus by a wire, and one that goes to the server itself. */
  const openBoth = async (parameters = '', user = '', database = '') => {
    const wire = await wireTo(server.port)
    onTestFinished(() => wire.close())
    const rest = `${database}?prefix=wire-${++count}`
    const bus = await openBus(`redis://${user}127.0.0.1:${wire.port}${rest}${parameters}`)
    // Its patience is its own.
    return { wire, bus, direct: await openBus(server.url + rest + parameters.replace(/&timeout=\d+/, '')) }
  }
  const client = (port: number) => {
    const made = new Redis(port)
    onTestFinished(() => made.disconnect())
    return made
  }

  test('cut while acknowledgements and claims are under way it keeps what it has', async () => {
    const { wire, bus, direct } = await openBoth('&lease=60000')
    for (const name of ['a', 'b']) await direct.queue(name).send(name)
    const held = [await one(bus.queue('a')), await one(bus.queue('b'))]
    const coming = one(bus.queue('c'))
    await expect.poll(() => client(server.port).pubsub('NUMSUB', `wire-${count}:bell:c`)).toMatchObject([{}, 1])
    wire.swallow()
    const acknowledged = Promise.all(held.map((message) => message.ack()))
    // The claim goes the same way once the bell has rung.
    await direct.queue('c').send('c')
    await new Promise((resolve) => setTimeout(resolve, 50))
    wire.cut()
    wire.mend()
    await acknowledged
    await (await coming).ack()
    for (const name of ['a', 'b', 'c']) expect(await direct.queue(name).stats()).toMatchObject({ ready: 0, leased: 0 })
  })

  test('what was handed out when the connection was lost goes back, even if that was refused', async () => {
    const admin = client(server.port)
    await admin.acl('SETUSER', 'ada', 'on', '>secret', '~*', '&*', '+@all')
    const { wire, bus, direct } = await openBoth('&lease=1500', 'ada:secret@')
    await bus.queue('q').receive(nothing)
    await direct.queue('q').send('x')
    wire.mute()
    const lost = bus.queue('q').receive()
    await expect.poll(() => direct.queue('q').stats()).toMatchObject({ leased: 1 })
    await admin.acl('SETUSER', 'ada', '-set')
    wire.cut()
    wire.mend()
    await expect(lost).rejects.toThrow(/permissions|can't run this command/)
    await admin.acl('LOG', 'RESET')
    // Its sign of life, too.
    await expect.poll(async () => JSON.stringify(await admin.acl('LOG'))).toContain('ada')
    await admin.acl('SETUSER', 'ada', '+set')
    expect((await one(direct.queue('q'))).body).toBe('x')
  })

  test('whoever has something says that it lives as soon as its connection is there again', async () => {
    // Not for another 200 s by itself.
    const { wire, bus, direct } = await openBoth('&lease=600000')
    await direct.queue('q').send('x')
    const message = await one(bus.queue('q'))
    const admin = client(server.port)
    const alive = () => admin.zrange(`wire-${count}:alive`, '0', '-1')
    const before = await alive()
    wire.cut()
    wire.mend()
    // What was lost with a connection is found out under another name.
    await expect.poll(alive).not.toEqual(before)
    await message.ack()
  })

  test('a server that says nothing is given up, however much it is asked', async () => {
    const { wire, bus } = await openBoth('&timeout=2000')
    const queue = bus.queue('q')
    await queue.send('x')
    wire.swallow()
    const first = queue.send('first')
    const asking = setInterval(() => void queue.send('more').catch(() => {}), 50)
    onTestFinished(() => clearInterval(asking))
    await expect(first).rejects.toMatchObject({ code: 'ERR_BUS_CONNECTION' })
  })

  test('a server that takes its time to read its data is used as soon as it has', async () => {
    const slow = await startServer('redis', ['--auto-aof-rewrite-percentage', '0'])
    onTestFinished(() => slow.close())
    const queue = (await openBus(`${slow.url}?timeout=100000`)).queue('q')
    await queue.send('x')
    await client(slow.port).eval("for i = 1, 1000000 do redis.call('SET', 'k' .. i % 1000, i) end", 0)
    await slow.kill()
    await slow.start()
    // It will believe that it needs very long.
    slow.pause()
    const sent = queue.send('y').then(() => 'sent')
    await new Promise((resolve) => setTimeout(resolve, 2500))
    slow.resume()
    const loaded = new Redis(slow.port, { enableReadyCheck: false })
    onTestFinished(() => loaded.disconnect())
    await expect.poll(() => loaded.get('k1').catch(() => undefined)).not.toBe(undefined)
    // A client that believes it asks again after 10 s.
    const late = new Promise((resolve) => setTimeout(() => resolve('late'), 9000))
    expect(await Promise.race([sent, late])).toBe('sent')
  })

  test('a database that is not there is said by its number, and no other is used', async () => {
    const refused = (database: number) => ({
      code: 'ERR_BUS_ACCESS',
      message: expect.stringContaining(`database ${database}:`),
      hint: expect.stringContaining('"databases"'),
    })
    await expect(connect(`${server.url}/99?prefix=wire`)).rejects.toMatchObject(refused(99))
    const smaller = await startServer('redis', ['--databases', '1'])
    onTestFinished(() => smaller.close())
    const { wire, bus } = await openBoth('&timeout=2000', '', '/1')
    const queue = bus.queue('q')
    await queue.send('before')
    wire.turn(smaller.port)
    wire.cut()
    wire.mend()
    // It may take its time to be there.
    await expect.poll(() => queue.send('after').catch((error: unknown) => error)).toMatchObject(refused(1))
    expect(await client(smaller.port).dbsize()).toBe(0)
  })

  test('the rights in docs/transports.md are enough, without a warning', async () => {
    const docs = readFileSync(new URL('../../docs/transports.md', import.meta.url), 'utf8')
    const rights = /\*\*Rights\.\*\* `([^`]+)`/.exec(docs)?.[1]?.split(/\s+/) ?? []
    expect(rights).toContain('+eval')
    await client(server.port).acl('SETUSER', 'eve', 'on', '>secret', '~kmq:*', '&kmq:*', ...rights)
    const url = `redis://eve:secret@127.0.0.1:${server.port}/1`
    const child = startBus(url, 'leave', { count: 1 })
    expect(await child.line()).toBe('1')
    expect(await child.outcome).toMatchObject({ code: 0, stderr: '' })
    const queue = (await openBus(url)).queue('q')
    await queue.send('keyed', { key: 'k', priority: 1, delay: 1 })
    expect(await take(queue, 2)).toHaveLength(2)
    await client(server.port).acl('SETUSER', 'eve', '-xadd')
    await expect(queue.send('x')).rejects.toMatchObject({ code: 'ERR_BUS_ACCESS' })
    await client(server.port).acl('SETUSER', 'eve', '-select')
    const refused = { code: 'ERR_BUS_ACCESS', message: expect.stringContaining('database 1:') }
    await expect(connect(url)).rejects.toMatchObject(refused)
  })

  test.each([
    [
      'NOREPLICAS',
      (at: Redis) => at.config('SET', 'min-replicas-to-write', 1),
      (at: Redis) => at.config('SET', 'min-replicas-to-write', 0),
    ],
    ['READONLY', (at: Redis) => at.replicaof('127.0.0.1', 1), (at: Redis) => at.replicaof('NO', 'ONE')],
  ])('a server that says %s is asked again, by consumers until it is another', async (word, begin, end) => {
    const own = await startServer('redis')
    onTestFinished(() => own.close())
    const bus = await openBus(`${own.url}?timeout=2000`)
    const queue = bus.queue('q')
    await queue.send('before')
    const other = bus.queue('other')
    await other.send('held')
    const message = await one(other)
    await begin(client(own.port))
    const refused = {
      code: 'ERR_BUS_CONNECTION',
      message: expect.stringContaining(word),
      hint: expect.stringContaining('refuses'),
    }
    await expect(message.ack()).rejects.toMatchObject(refused)
    await expect(queue.send('x')).rejects.toMatchObject(refused)
    await expect(queue.receive(nothing)).rejects.toMatchObject(refused)
    const handled = deferred<unknown>()
    queue.consume(({ body }) => handled.resolve(body))
    await end(client(own.port))
    expect(await handled.promise).toBe('before')
    // It was not known whether that was done.
    expect(await take(other, 1)).toEqual(['held'])
  })

  test('what waits to know what is held is given up in time, where the server refuses to tell', async () => {
    const own = await startServer('redis')
    onTestFinished(() => own.close())
    const bus = await openBus(`${own.url}?timeout=2000`)
    await bus.queue('mine').send('x')
    const message = await one(bus.queue('mine'))
    const admin = client(own.port)
    await admin.config('SET', 'min-replicas-to-write', 1)
    await admin.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes')
    const refused = { code: 'ERR_BUS_CONNECTION', message: expect.stringContaining('NOREPLICAS') }
    // It is to find out first what it was handed when the connection was lost, and may not.
    await expect
      .poll(() =>
        bus
          .queue('mine')
          .receive(nothing)
          .catch(({ code }) => code),
      )
      .toBe('ERR_BUS_CONNECTION')
    await expect(message.ack()).rejects.toMatchObject(refused)
    await expect(bus.topic('t').subscribe(undefined, () => {})).rejects.toMatchObject(refused)
  })

  test('a connection that hears nothing any more holds up nobody who has another that is well', async () => {
    const { wire, bus, direct } = await openBoth('&timeout=3000')
    const waiting = one(bus.queue('a'))
    await expect.poll(() => client(server.port).pubsub('NUMSUB', `wire-${count}:bell:a`)).toMatchObject([{}, 1])
    wire.swallow(1)
    const asking = setInterval(
      () =>
        void bus
          .queue('c')
          .stats()
          .catch(() => {}),
      50,
    )
    onTestFinished(() => clearInterval(asking))
    const second = one(bus.queue('b'))
    // It has looked, and is about to listen.
    await expect.poll(() => client(server.port).exists(`wire-${count}:q:b:s0`)).toBe(1)
    await direct.queue('b').send('b')
    expect((await second).body).toBe('b')
    await direct.queue('a').send('a')
    expect((await waiting).body).toBe('a')
  })

  test('a connection on which nothing is heard any more is made again, though nobody asks anything of it', async () => {
    const { wire, bus } = await openBoth('&timeout=3000&lease=1500')
    const admin = client(server.port)
    const heard = async () => JSON.stringify(await admin.call('CLIENT', 'LIST', 'TYPE', 'pubsub')).match(/id=\d+/g)
    const none = await heard()
    const waiting = one(bus.queue('q'))
    await expect.poll(heard).not.toEqual(none)
    const before = await heard()
    wire.swallow(1)
    wire.mute(1)
    await expect.poll(heard).not.toEqual(before)
    await expect.poll(() => admin.pubsub('NUMSUB', `wire-${count}:bell:q`)).toMatchObject([{}, 1])
    await bus.queue('q').send('x')
    await (await waiting).ack()
  })

  test('a subscription that has ended is dropped when its server is there again', async () => {
    const { wire, bus, direct } = await openBoth('&timeout=2000')
    const topic = bus.topic('t')
    const consumer = await topic.subscribe(undefined, () => {})
    expect(await direct.topic('t').publish('x')).toBe(1)
    wire.cut()
    await consumer.close()
    // Its queue could not be dropped then.
    await expect(bus.queue('q').send('x')).rejects.toMatchObject({ code: 'ERR_BUS_CONNECTION' })
    await expect(bus.queue('q').send('x')).rejects.toMatchObject({ code: 'ERR_BUS_CONNECTION' })
    wire.mend()
    await expect.poll(() => direct.topic('t').publish('x')).toBe(0)
  })

  test('who has waited once gets what is larger than a server has in store for who has subscribed', async () => {
    const { bus, direct } = await openBoth()
    const admin = client(server.port)
    // 32 MiB, unless it is told otherwise.
    await admin.config('SET', 'client-output-buffer-limit', 'pubsub 1mb 0 0')
    onTestFinished(async () => void (await admin.config('SET', 'client-output-buffer-limit', 'pubsub 32mb 8mb 60')))
    const queue = bus.queue('q')
    const waiting = one(queue)
    await expect.poll(() => admin.pubsub('NUMSUB', `wire-${count}:bell:q`)).toMatchObject([{}, 1])
    await direct.queue('q').send(Buffer.alloc(2 ** 23, 1))
    const message = await waiting
    expect(message.data).toHaveLength(2 ** 23)
    await message.ack()
    await direct.queue('q').sendMany(Array.from({ length: 80 }, () => ({ body: Buffer.alloc(2 ** 16) })))
    const again = await queue.receive({ max: 80 })
    await Promise.all(again.map((one) => one.ack()))
    expect(await queue.stats()).toMatchObject({ ready: 0, leased: 0 })
  })

  test('a server that became a copy of another is left for that one', async () => {
    const { wire, bus } = await openBoth()
    const next = await startServer('redis')
    onTestFinished(() => next.close())
    const queue = bus.queue('q')
    await queue.send('before')
    await (await one(queue)).ack()
    wire.turn(next.port)
    await client(server.port).replicaof('127.0.0.1', next.port)
    onTestFinished(async () => void (await client(server.port).replicaof('no', 'one')))
    await queue.send('after')
    expect((await one(queue)).body).toBe('after')
  })
})
