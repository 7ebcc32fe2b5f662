// Parts of a bus with names of their own, and quotas.
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Namespace, type NamespaceOptions, type Queue, QueueError } from 'kernelmq/bus'
import { describe, expect, test } from 'vitest'
import { fixture, start } from '../support.ts'
import { deferred, newBus, one, openBus, take, temporaryDirectory } from './support.ts'

const items = (count: number, body: unknown = 'x') => Array.from({ length: count }, () => ({ body }))
const full = { code: 'ERR_BUS_QUEUE_FULL' }

describe.each(['memory', 'local'] as const)('%s: a namespace', (scheme) => {
  const make = async (options: NamespaceOptions = {}) => {
    const bus = await newBus(scheme)
    return { bus, tenant: bus.namespace('tenant', options) }
  }

  test('has queues of its own, with dead letters and histories', async () => {
    const { bus, tenant } = await make()
    const queues = [bus.queue('mail'), tenant.queue('mail'), bus.namespace('other').queue('mail')]
    for (const [i, queue] of queues.entries()) await queue.send(i)
    for (const [i, queue] of queues.entries()) expect((await one(queue)).body).toBe(i)
    await tenant.queue('mail').send('bad')
    await (await one(tenant.queue('mail'))).dead('no')
    expect((await tenant.queue('mail').dead.list()).letters).toHaveLength(1)
    expect((await bus.queue('mail').dead.list()).letters).toEqual([])
    expect(await tenant.queue('mail').dead.redrive()).toBe(1)
    expect(await take(tenant.queue('mail'), 1)).toEqual(['bad'])
    const kept = tenant.queue('kept', { history: { maxMessages: 5 } })
    await kept.send('past')
    await take(kept, 1)
    await kept.history.replay({ queue: 'mail' })
    expect(await take(tenant.queue('mail'), 1)).toEqual(['past'])
    expect((await bus.queue('mail').stats()).ready).toBe(0)
  })

  test('has topics of its own', async () => {
    const bus = await newBus(scheme)
    const heard: string[] = []
    const hear = async (where: string, of: { topic: Namespace['topic'] }) => {
      await of.topic('#').subscribe(undefined, ({ body }) => void heard.push(`${where} # ${body}`))
      await of.topic('*.b').subscribe('audit', ({ body }) => void heard.push(`${where} * ${body}`))
    }
    const [a, ab, none] = [
      bus.namespace('a'),
      bus.namespace('a.b'),
      { topic: bus.topic.bind(bus) as Namespace['topic'] },
    ]
    await hear('a', a)
    await hear('ab', ab)
    await hear('none', none)
    expect(await a.topic('b.b').publish(1)).toBe(2)
    expect(await ab.topic('b').publish(2)).toBe(1)
    expect(await none.topic('a.b').publish(3)).toBe(2)
    while (heard.length < 5) await sleep(1)
    expect(heard.sort()).toEqual(['a # 1', 'a * 1', 'ab # 2', 'none # 3', 'none * 3'])
    await a.topic('x').bind('bound')
    await a.topic('x').publish('to it')
    expect(await take(a.queue('bound'), 1)).toEqual(['to it'])
    await a.topic('x').unbind('bound')
    expect(await a.topic('x').publish('to #')).toBe(1)
  })

  test('answers requests, and is sent to by schedules', async () => {
    const { bus, tenant } = await make({ maxMessages: 5 })
    const queue = tenant.queue('squares')
    queue.consume(({ body }) => (body as number) ** 2)
    expect(await queue.request(5, { timeout: 60_000 })).toBe(25)
    const scheduled = tenant.queue('scheduled')
    await bus.schedules.set('pulse', scheduled, 'tick', { every: 5 })
    expect((await one(scheduled)).body).toBe('tick')
    await bus.schedules.remove('pulse')
  })

  test('tells what it holds, dead letters included', async () => {
    const { bus, tenant } = await make({ maxMessages: 10, maxBytes: 1000, maxQueues: 3 })
    await tenant.queue('a').sendMany(items(3, 'four'))
    await tenant.queue('dead').send('12345678', { delay: 100_000 })
    await (await one(tenant.queue('a'))).dead('no')
    await (await one(tenant.queue('a'))).ack()
    await bus.queue('a').send('not its own')
    const expected = { messages: 3, bytes: 16, queues: 2, quota: { maxMessages: 10, maxBytes: 1000, maxQueues: 3 } }
    expect(await tenant.stats()).toEqual(expected)
    expect(await bus.namespace('tenant').stats()).toEqual(expected)
    await tenant.queue('a').dead.discard()
    expect(await tenant.stats()).toMatchObject({ messages: 2, bytes: 12 })
    expect(await bus.namespace('empty').stats()).toEqual({
      messages: 0,
      bytes: 0,
      queues: 0,
      quota: { maxMessages: 0, maxBytes: 0, maxQueues: 0 },
    })
  })

  test('refuses what goes beyond its quota, and says which', async () => {
    const { bus, tenant } = await make({ maxMessages: 3 })
    await tenant.queue('a').sendMany(items(2))
    const error = await tenant
      .queue('b')
      .sendMany(items(2))
      .catch((reason) => reason)
    expect(error).toBeInstanceOf(QueueError)
    expect(error).toMatchObject({
      ...full,
      message: expect.stringContaining("(namespace 'tenant': 4 > 3 messages)"),
      hint: "the quota of namespace 'tenant' is 3 messages in all its queues, dead letters included",
      retryAfter: expect.any(Number),
    })
    await tenant.queue('b').send('x')
    await bus.namespace('other').queue('a').sendMany(items(9))
    await (await one(tenant.queue('a'))).dead('counts')
    await expect(tenant.queue('a').send('x')).rejects.toMatchObject(full)
    await tenant.queue('a').dead.discard()
    await tenant.queue('a').send('x')
  })

  test('refuses too many bytes, and too many queues', async () => {
    const { tenant } = await make({ maxBytes: 10, maxQueues: 2 })
    await tenant.queue('a').send('12345678')
    await expect(tenant.queue('b').send('123')).rejects.toThrow("(namespace 'tenant': 11 > 10 bytes)")
    await tenant.queue('b').send('12')
    await expect(tenant.queue('c', { overflow: 'wait' }).send('')).rejects.toMatchObject({
      ...full,
      message: expect.stringContaining("(namespace 'tenant': 3 > 2 queues)"),
      hint: "the quota of namespace 'tenant' is 2 queues",
    })
    await (await one(tenant.queue('a'))).dead('no queue more')
    expect(await tenant.stats()).toMatchObject({ queues: 2 })
  })

  test('at its quota, a message can be acknowledged with another, dead-lettered and redriven', async () => {
    const { tenant } = await make({ maxMessages: 1 })
    const [a, b] = [tenant.queue('a'), tenant.queue('b')]
    await a.send('x')
    await (await one(a)).ack({ send: [await b.prepare('y')] })
    await (await one(b)).dead('no')
    await b.dead.redrive()
    const message = await one(b)
    const two = [await a.prepare('1'), await a.prepare('2')]
    await expect(message.ack({ send: two })).rejects.toMatchObject(full)
    await message.ack()
    expect(await tenant.stats()).toMatchObject({ messages: 0, bytes: 0 })
  })

  test('with overflow "wait" a send waits for room anywhere in it', async () => {
    const { tenant } = await make({ maxMessages: 2 })
    const [a, b] = [tenant.queue('a'), tenant.queue('b', { overflow: 'wait' })]
    await a.sendMany(items(2))
    let sent = 0
    const sends = [1, 2].map((body) => b.send(body).then(() => sent++))
    await a.stats()
    await sleep(20)
    expect(sent).toBe(0)
    await take(a, 1)
    await Promise.race(sends)
    expect(await tenant.stats()).toMatchObject({ messages: 2 })
    await take(a, 1)
    await Promise.all(sends)
    expect((await take(b, 2)).sort()).toEqual([1, 2])
    const controller = new AbortController()
    await a.sendMany(items(2))
    const aborted = b.send('x', { signal: controller.signal })
    await sleep(5)
    controller.abort()
    await expect(aborted).rejects.toThrow(/abort/i)
    await expect(b.sendMany(items(3))).rejects.toMatchObject(full)
  })

  test('with overflow "wait" a send waits for a larger quota', async () => {
    const { bus, tenant } = await make({ maxMessages: 1 })
    const queue = tenant.queue('a', { overflow: 'wait' })
    await queue.send(1)
    const sending = queue.send(2)
    await sleep(20)
    expect((await bus.namespace('tenant', { maxMessages: 2 }).stats()).quota.maxMessages).toBe(2)
    await sending
  })

  test('with overflow "drop-oldest" those of the same queue make room, or nothing is lost', async () => {
    const { tenant } = await make({ maxMessages: 3 })
    const [a, b] = [tenant.queue('a', { overflow: 'drop-oldest' }), tenant.queue('b')]
    await b.send('b')
    await a.sendMany([{ body: 1 }, { body: 2 }])
    await a.send(3)
    await expect(a.sendMany(items(3))).rejects.toMatchObject(full)
    expect(await tenant.stats()).toMatchObject({ messages: 3 })
    expect(await take(a, 2)).toEqual([2, 3])
  })

  test('a publication that would go beyond it reaches nobody', async () => {
    const { tenant } = await make({ maxMessages: 1 })
    for (const name of ['a', 'b']) await tenant.topic('t').bind(name)
    await expect(tenant.topic('t').publish('x')).rejects.toMatchObject(full)
    expect(await tenant.stats()).toMatchObject({ messages: 0 })
  })

  test('a private subscription counts while it is there', async () => {
    const { tenant } = await make({ maxMessages: 5, maxQueues: 1 })
    const [busy, go] = [deferred(), deferred()]
    const handler = async () => {
      busy.resolve()
      await go.promise
    }
    const consumer = await tenant.topic('t').subscribe(undefined, handler, { prefetch: 0 })
    for (let i = 0; i < 3; i++) await tenant.topic('t').publish(i)
    await busy.promise
    expect(await tenant.stats()).toMatchObject({ messages: 3, queues: 1 })
    await expect(tenant.queue('a').send('x')).rejects.toMatchObject(full)
    consumer.close()
    go.resolve()
    await consumer.closed
    while ((await tenant.stats()).queues > 0) await sleep(1)
    expect(await tenant.stats()).toMatchObject({ messages: 0, bytes: 0 })
  })

  test('shows in the metrics under full names', async () => {
    const { bus, tenant } = await make()
    await tenant.queue('mail').send('x')
    await bus.queue('mail').send('x')
    const text = await bus.metrics()
    expect(text).toContain('kernelmq_messages{queue="@tenant/mail",state="ready"} 1\n')
    expect(text).toContain('kernelmq_messages{queue="mail",state="ready"} 1\n')
    expect(text).not.toMatch(/queue="[^"]*\/dead"/)
  })

  test.each([
    ['', {}, /name of the namespace must be 1 to 128 letters/],
    ['a/b', {}, /name of the namespace must be/],
    [7, {}, /name of the namespace must be a string/],
    ['ok', 7, /"options" argument must be an object/],
    ['ok', { maxMessages: -1 }, /"maxMessages" option must be/],
    ['ok', { maxBytes: 1.5 }, /"maxBytes" option must be/],
    ['ok', { maxQueues: '1' }, /"maxQueues" option must be/],
  ])('namespace(%j, %j) is refused', async (name, options, message) => {
    const bus = await newBus(scheme)
    expect(() => bus.namespace(name as string, options as NamespaceOptions)).toThrow(message)
  })

  test.each(['@x/y', 'a/b', ''])('a queue or a topic named %j is refused', async (name) => {
    const { bus, tenant } = await make()
    for (const call of [
      bus.queue.bind(bus),
      tenant.queue.bind(tenant),
      bus.topic.bind(bus),
      tenant.topic.bind(tenant),
    ]) {
      expect(() => call(name)).toThrow(/name of the/)
    }
    expect(bus.capabilities.quotas).toBe('native')
  })
})

describe('namespaces of several buses in one directory', () => {
  const newUrl = () => `local:${join(temporaryDirectory(), 'bus')}`

  test('one makes room for a send that waits in another', async () => {
    const url = newUrl()
    const [a, b] = [await openBus(url), await openBus(url)]
    const tenant = a.namespace('tenant', { maxMessages: 1 })
    await tenant.queue('first').send(1)
    const sending = b.namespace('tenant').queue('second', { overflow: 'wait' }).send(2)
    await sleep(20)
    await take(tenant.queue('first'), 1)
    await sending
    await expect(b.namespace('tenant').queue('third').send(3)).rejects.toMatchObject(full)
  })

  test('many at once never go beyond the quota', async () => {
    const url = newUrl()
    const buses = [await openBus(url), await openBus(url)]
    await buses[0]?.namespace('tenant', { maxMessages: 20 }).stats()
    const queues = buses.flatMap((bus) => ['a', 'b'].map((name) => bus.namespace('tenant').queue(name) as Queue))
    const sends = queues.flatMap((queue) => Array.from({ length: 10 }, (_, i) => queue.send(i)))
    const results = await Promise.allSettled(sends)
    expect(results.filter(({ status }) => status === 'fulfilled')).toHaveLength(20)
    expect(await buses[1]?.namespace('tenant').stats()).toMatchObject({ messages: 20, queues: 2 })
  })

  test('what a killed process has had counts, and is there again', async () => {
    const url = newUrl()
    const bus = await openBus(url)
    const queue = bus.namespace('tenant', { maxMessages: 3 }).queue('q')
    await queue.sendMany(items(3))
    const child = start(process.execPath, [fixture('bus.mjs'), url, 'hold', '{"max":3,"namespace":"tenant"}'])
    expect(JSON.parse(await child.line())).toHaveLength(3)
    await expect(queue.send('x')).rejects.toMatchObject(full)
    process.kill(child.pid, 'SIGKILL')
    expect(await take(queue, 3)).toHaveLength(3)
    expect(await bus.namespace('tenant').stats()).toMatchObject({ messages: 0, bytes: 0 })
  })
})
