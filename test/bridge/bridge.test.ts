// A bridge between queues of buses and of the kernel, by its API.
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { dirname, join } from 'node:path'
import { PosixQueue, SysvQueue } from 'kernelmq'
import { type BridgeConfig, bridge, checkConfig } from 'kernelmq/bridge'
import { type Bus, connect, encrypt } from 'kernelmq/bus'
import { describe, expect, onTestFinished, test } from 'vitest'
import type { KernelEndpoint } from '../../dist/bridge/endpoint.js'
import { KernelQueue } from '../../dist/bridge/kernel.js'
import { DatabaseSync } from '../bus/sqlite.mjs'
import { newBus, openBus, temporaryDirectory } from '../bus/support.ts'
import { startKmq } from '../cli/support.ts'
import { failureOf, isPending, openQueue, uniqueName } from '../support.ts'
import { openSysv, uniqueKey } from '../sysv-support.ts'
import { isEmpty, newLocal, sendingBy, startBridge, takeMessages, until } from './support.ts'

const numbers = (count: number, from = 0) => Array.from({ length: count }, (_, at) => from + at)
const hex = (key: number) => `0x${key.toString(16)}`

/** A route from one new bus to another. */
async function newRoute() {
  const [near, far] = [await newLocal(), await newLocal()]
  return {
    near,
    far,
    from: near.bus.queue('in'),
    to: far.bus.queue('out'),
    route: { from: `${near.url}#queue=in`, to: `${far.url}#queue=out` },
  }
}

describe('from bus to bus', () => {
  test('a message is the same at the other end, and gone from its own', async () => {
    const { from, to, route } = await newRoute()
    await from.sendMany([
      { body: 'text', id: 'a', headers: { level: 'info' }, priority: 7 },
      { body: Buffer.from([0, 255]), id: 'b', key: 'k' },
      { body: { json: [1] }, id: 'c', correlationId: 'order-1' },
      { body: 'no id of its own' },
    ])
    const { bridge } = await startBridge({ routes: [route] })
    const [a, b, c, d] = await takeMessages(to, 4)
    expect(a).toMatchObject({ body: 'text', id: 'a', headers: { level: 'info' }, priority: 7 })
    expect(b).toMatchObject({ body: Buffer.from([0, 255]), id: 'b', key: 'k', priority: 0, headers: {} })
    expect(c).toMatchObject({ body: { json: [1] }, headers: { 'correlation-id': 'order-1' } })
    expect(d?.id).toMatch(/^[\da-f-]{36}$/)
    await until(() => isEmpty(from))
    expect(bridge.routes).toMatchObject([{ up: true, inHand: 0, counters: { received: 4, sent: 4, duplicates: 0 } }])
  })

  test('in order, in batches, and what was sent before is not sent again', async () => {
    const { from, to, route } = await newRoute()
    await to.send('sent before the last bridge was killed', { id: 'n-3' })
    await from.sendMany(numbers(500).map((body) => ({ body, id: `n-${body}` })))
    const { bridge } = await startBridge({ routes: [{ ...route, batch: 7 }] })
    const bodies = (await takeMessages(to, 500)).map(({ body }) => body)
    expect(bodies.slice(1)).toEqual(numbers(500).filter((number) => number !== 3))
    await until(() => isEmpty(from))
    expect(bridge.routes[0]?.counters).toMatchObject({ sent: 500, duplicates: 1 })
  })

  test('several batches at a time keep the order of each key, that of a mapped one, too', async () => {
    const { from, to, route } = await newRoute()
    const items = numbers(300).map((body) => ({ body, headers: { customer: `c${body % 5}` } }))
    await from.sendMany(items)
    await startBridge({ routes: [{ ...route, batch: 4, concurrency: 8, key: { header: 'customer' } }] })
    const messages = await takeMessages(to, 300)
    for (const customer of numbers(5)) {
      const own = messages.filter(({ key }) => key === `c${customer}`).map(({ body }) => body)
      expect(own).toEqual(numbers(60).map((number) => number * 5 + customer))
    }
  })

  test('a topic to a topic', async () => {
    const [near, far] = [await newLocal(), await newLocal()]
    await far.bus.topic('all.#').bind('left')
    await far.bus.topic('all.orders').bind('right')
    const { seen } = await startBridge({
      routes: [{ from: `${near.url}#topic=orders.*,queue=mirror`, to: `${far.url}#topic=all.orders` }],
    })
    await seen('up', 'source')
    expect(await near.bus.topic('orders.eu').publish({ order: 1 }, { id: 'o-1' })).toBe(1)
    expect(await near.bus.topic('elsewhere').publish('not this')).toBe(0)
    for (const queue of ['left', 'right']) {
      expect(await takeMessages(far.bus.queue(queue), 1)).toMatchObject([{ body: { order: 1 }, id: 'o-1' }])
    }
    await until(() => isEmpty(near.bus.queue('mirror')))
  })

  test('a bus in the kernel: what it has no place for is in headers', async () => {
    const { from, route } = await newRoute()
    const to = await newBus('mq')
    await from.send('x', { id: 'i', key: 'k', priority: 9 })
    await startBridge({ routes: [{ ...route, to: `${to.url}#queue=out` }] })
    const [message] = await takeMessages(to.queue('out'), 1)
    expect(message).toMatchObject({ id: 'i', priority: 9, headers: { 'bridge-key': 'k' } })
  })

  test('from a bus in the kernel, by an outbox', async () => {
    const { to, far } = await newRoute()
    const from = await newBus('mq')
    await from
      .queue('in', { dedup: 0 })
      .sendMany(numbers(30).map((body) => ({ body, id: `m-${body}`, headers: { n: 'x' } })))
    const routes = [{ from: `${from.url}#queue=in`, to: `${far.url}#queue=out` }]
    expect(await failureOf(() => bridge({ routes }))).toMatchObject({ at: 'outbox' })
    const outbox = { directory: join(temporaryDirectory(), 'outbox') }
    const { bridge: running } = await startBridge({ routes, outbox })
    const messages = await takeMessages(to, 30)
    expect(messages.map(({ body }) => body)).toEqual(numbers(30))
    expect(messages[7]).toMatchObject({ id: 'm-7', headers: { n: 'x' } })
    expect(running.routes[0]?.counters).toMatchObject({ collected: 30 })
  })

  test('from a bus in the kernel, with a priority that only another program could give: it holds up nobody', async () => {
    const { to, far } = await newRoute()
    const from = await newBus('mq')
    await from.queue('in').send('makes the queue')
    const queues = join(decodeURIComponent(new URL(from.url).pathname), 'mq', 'queues')
    const theirs = PosixQueue.open(`/${readdirSync(queues)[0]}`)
    theirs.trySend('from C', { priority: 1000 })
    const routes = [{ from: `${from.url}#queue=in`, to: `${far.url}#queue=out` }]
    await startBridge({ routes, outbox: { directory: join(temporaryDirectory(), 'outbox') } })
    const messages = await takeMessages(to, 2)
    expect(messages.map(({ body, priority }) => [String(body), priority]).sort()).toEqual([
      ['from C', 255],
      ['makes the queue', 0],
    ])
    await theirs.close()
  })

  test('from a bus in the kernel, into a full outbox: what came in one pack is in a file, and outlives the bridge', async () => {
    const from = await newBus('mq')
    for (const number of numbers(30)) from.queue('in').post(number)
    await from.queue('in').flush()
    const to = uniqueName()
    const [directory, config] = [join(temporaryDirectory(), 'outbox'), join(temporaryDirectory(), 'bridge.json')]
    const routes = [{ from: `${from.url}#queue=in`, to: `posix:${to}` }]
    writeFileSync(config, JSON.stringify({ routes, outbox: { directory, maxMessages: 5 } }))
    const child = startKmq(['bridge', '--config', config])
    const taken = () => {
      const [name] = existsSync(directory) ? readdirSync(directory).filter((name) => name.endsWith('.taken')) : []
      return name === undefined ? [] : readFileSync(join(directory, name), 'utf8').trimEnd().split('\n')
    }
    await until(() => taken().length === 30)
    process.kill(child.pid, 'SIGKILL')
    await child.outcome
    const end = PosixQueue.open(to, { create: true, maxMessages: 10, messageSize: 8 })
    startKmq(['bridge', '--config', config])
    const arrived = new Set<string>()
    while (arrived.size < 30) arrived.add((await end.receive()).text())
    expect([...arrived]).toEqual(numbers(30).map(String))
    await end.close()
  })

  test('from a bus in the kernel, into a full outbox: what came in another pack stays where it is', async () => {
    const from = await newBus('mq')
    const queue = from.queue('in')
    for (const number of numbers(6)) await queue.send(number)
    const routes = [{ from: `${from.url}#queue=in`, to: `posix:${uniqueName()}` }]
    const outbox = { directory: join(temporaryDirectory(), 'outbox'), maxMessages: 2 }
    const { bridge: running } = await startBridge({ routes, outbox })
    await until(() => running.routes[0]?.counters.collected === 2)
    expect((await queue.stats()).ready).toBe(4)
  })

  test('from a bus in the kernel: what is in the outbox when there was no room for the rest is sent once', async () => {
    const from = await newBus('mq')
    for (const number of numbers(6)) from.queue('in').post(number)
    await from.queue('in').flush()
    const to = uniqueName()
    const outbox = { directory: join(temporaryDirectory(), 'outbox'), maxMessages: 2 }
    const config = { routes: [{ from: `${from.url}#queue=in`, to: `posix:${to}` }], outbox }
    const { bridge: first } = await startBridge(config)
    await until(() => first.routes[0]?.counters.collected === 2)
    await first.close({ patience: 0 })
    const end = PosixQueue.open(to, { create: true, maxMessages: 1, messageSize: 8 })
    await startBridge(config)
    const arrived: string[] = []
    while (arrived.length < 6) arrived.push((await end.receive()).text())
    expect(arrived).toEqual(numbers(6).map(String))
    await end.close()
  })

  test('a request loses the address of its reply, and its sender is told nothing', async () => {
    const { from, to, route } = await newRoute()
    await startBridge({ routes: [route] })
    const controller = new AbortController()
    const reply = from.request('a question', { signal: controller.signal, correlationId: 'c' })
    const settled = reply.catch((error: Error) => error.name)
    const [message] = await takeMessages(to, 1)
    expect(message).toMatchObject({ body: 'a question', headers: { 'correlation-id': 'c' } })
    expect(Object.keys(message?.headers ?? {})).toEqual(['correlation-id'])
    expect(await isPending(reply)).toBe(true)
    controller.abort()
    expect(await settled).toBe('AbortError')
  })

  test('connect opens the buses, for codecs', async () => {
    const { near, far, route } = await newRoute()
    const codecs = [encrypt({ keys: { one: randomBytes(32) }, current: 'one' })]
    await (await openBus(near.url, { codecs })).queue('in').send({ secret: 1 })
    await startBridge({ routes: [route] }, { connect: (url) => connect(url, url === near.url ? { codecs } : {}) })
    expect(await takeMessages(far.bus.queue('out'), 1)).toMatchObject([{ body: { secret: 1 } }])
  })
})

describe('from and to the kernel', () => {
  const outbox = () => ({ directory: join(temporaryDirectory(), 'outbox') })

  test('POSIX to a bus and back: bytes and priorities', async () => {
    const { bus, url } = await newLocal()
    const [from, to] = [openQueue(), openQueue()]
    from.sendMany([
      { data: 'low', priority: 1 },
      { data: 'high', priority: 30_000 },
    ])
    const { bridge } = await startBridge({
      routes: [{ from: `posix:${from.path}`, to: `${url}#queue=q` }],
      outbox: outbox(),
    })
    const messages = await takeMessages(bus.queue('q'), 2)
    expect(messages).toMatchObject([
      { body: Buffer.from('high'), priority: 255, headers: { 'posix-priority': '30000' } },
      { body: Buffer.from('low'), priority: 1, headers: {} },
    ])
    await until(() => bridge.routes[0]?.inHand === 0)
    await bridge.reload({ routes: [{ from: `${url}#queue=q`, to: `posix:${to.path}` }] })
    for (const { body, headers, priority } of messages) await bus.queue('q').send(body, { headers, priority })
    expect((await to.receive()).priority).toBe(30_000)
    expect(await to.receive()).toMatchObject({ priority: 1, data: Buffer.from('low') })
  })

  test('System V to POSIX and back: types', async () => {
    const key = uniqueKey()
    const sysv = SysvQueue.open(key, { create: true })
    const name = uniqueName()
    const posix = PosixQueue.open(name, { create: true, maxMessages: 4, messageSize: 64 })
    sysv.sendMany(['one', { data: 'two', type: 2n ** 60n }])
    const { bridge } = await startBridge({
      routes: [{ from: `sysv:${hex(key)}`, to: `posix:${name}` }],
      outbox: outbox(),
    })
    expect((await posix.receive()).text()).toBe('one')
    expect((await posix.receive()).text()).toBe('two')
    const { url, bus } = await newLocal()
    await bridge.reload({ routes: [{ from: `${url}#queue=q`, to: `sysv:${hex(key)}` }] })
    const headersOf = (type: bigint) => ({ 'sysv-type': String(type) })
    await bus
      .queue('q')
      .sendMany([
        { body: { json: 1 } },
        { body: 'x', headers: headersOf(2n ** 59n) },
        { body: 'the highest', headers: headersOf(2n ** 63n - 1n) },
        { body: 'none', headers: headersOf(2n ** 63n) },
      ])
    expect(await sysv.receive()).toMatchObject({ type: 1, data: Buffer.from('{"json":1}') })
    expect(await sysv.receive()).toMatchObject({ type: 2n ** 59n, data: Buffer.from('x') })
    expect(await sysv.receive()).toMatchObject({ type: 2n ** 63n - 1n, data: Buffer.from('the highest') })
    expect(await sysv.receive()).toMatchObject({ type: 1, data: Buffer.from('none') })
    await Promise.all([sysv.close(), posix.close()])
  })

  test('more than a queue of the kernel holds: it waits for room, in order, with little in hand', async () => {
    const { bus, url } = await newLocal()
    const to = openQueue()
    await bus.queue('q').sendMany(numbers(400).map((number) => ({ body: String(number) })))
    const { bridge } = await startBridge({ routes: [{ from: `${url}#queue=q`, to: `posix:${to.path}`, batch: 10 }] })
    await until(() => to.attributes.messages === 4)
    expect(bridge.routes[0]?.inHand).toBeLessThanOrEqual(20)
    for (const number of numbers(400)) expect((await to.receive()).text()).toBe(String(number))
    await until(() => isEmpty(bus.queue('q')))
  })

  test('a full outbox takes nothing from the kernel', async () => {
    const from = openQueue()
    const directory = join(temporaryDirectory(), 'outbox')
    // Where nobody is: it cannot be sent.
    const config = {
      routes: [{ from: `posix:${from.path}`, to: `posix:${uniqueName()}` }],
      outbox: { directory, maxMessages: 3 },
    }
    const { bridge, seen } = await startBridge(config)
    await from.sendMany(numbers(7).map(String))
    await until(() => from.attributes.messages === 4)
    expect((await seen('down', 'target')) as object).toMatchObject({ error: { code: 'ENOENT' } })
    expect(bridge.routes[0]).toMatchObject({ up: false, counters: { collected: 3, sent: 0 } })
    expect(from.trySend('no room')).toBe(false)
    const to = openQueue({ maxMessages: 10 })
    await bridge.reload({ ...config, routes: [{ from: `posix:${from.path}`, to: `posix:${to.path}` }] })
    for (const number of numbers(7)) expect((await to.receive()).text()).toBe(String(number))
  })

  describe('what is taken and cannot be committed', () => {
    /** A bridge by the command, whose outbox somebody else writes to: what it takes waits to be committed. */
    async function stuck() {
      const { bus, url } = await newLocal()
      const from = openQueue()
      const directory = join(temporaryDirectory(), 'outbox')
      const config = { routes: [{ from: `posix:${from.path}`, to: `${url}#queue=q` }], outbox: { directory } }
      const left = () => readdirSync(directory).filter((name) => name.endsWith('.taken'))
      const lock = () => {
        const database = new DatabaseSync(join(directory, 'bus.db'))
        onTestFinished(() => {
          if (database.isOpen) database.close()
        })
        database.exec('PRAGMA busy_timeout = 60000')
        database.exec('BEGIN IMMEDIATE')
        return database
      }
      const isTaken = () => left().some((name) => statSync(join(directory, name)).size > 0)
      return { from, queue: bus.queue('q'), config, directory, left, lock, isTaken }
    }

    test('outlives a bridge that is killed', async () => {
      const { from, queue, config, directory, left, lock, isTaken } = await stuck()
      const [route] = config.routes as [BridgeConfig['routes'][number]]
      const child = startKmq(['bridge', route.from, route.to, '--outbox', directory, '--json'])
      while (!(await child.line()).includes('"end":"source"'));
      const database = lock()
      from.trySend('a')
      await until(isTaken)
      process.kill(child.pid, 'SIGKILL')
      await child.outcome
      expect(from.attributes.messages).toBe(0)
      database.close()
      const { bridge } = await startBridge(config)
      expect(await takeMessages(queue, 1)).toMatchObject([{ body: Buffer.from('a') }])
      await bridge.close()
      expect(left()).toEqual([])
    })

    test('outlives one that has to end', async () => {
      const { from, queue, config, directory, left, isTaken } = await stuck()
      // The outbox takes nothing, until it is told that there is no time left.
      const full = {
        stats: async () => ({ ready: 0, leased: 0, delayed: 0, held: 0 }),
        receive: () => new Promise(() => {}),
        sendMany: (_: unknown, { signal }: { signal: AbortSignal }) =>
          once(signal, 'abort').then(() => signal.throwIfAborted()),
      }
      const outbox = { queue: (name: string) => ({ ...full, name }), close: async () => {} } as unknown as Bus
      const connectTo = async (url: string) => (url === `local:${directory}` ? outbox : connect(url))
      mkdirSync(directory)
      const first = await startBridge(config, { connect: connectTo })
      await first.seen('up', 'source')
      from.trySend('a')
      await until(isTaken)
      await first.bridge.close({ patience: 0 })
      expect(left()).toMatchObject([expect.stringContaining('.left-')])
      await startBridge(config)
      expect(await takeMessages(queue, 1)).toMatchObject([{ body: Buffer.from('a') }])
    })
  })

  describe('beside the outbox', () => {
    /** Where to look for what is on its way into it, and the name of its queue. */
    async function outboxOf() {
      const { bus, url } = await newLocal()
      const from = openQueue()
      const directory = join(temporaryDirectory(), 'outbox')
      const config = { routes: [{ from: `posix:${from.path}`, to: `${url}#queue=q` }], outbox: { directory } }
      const { bridge, seen } = await startBridge(config)
      await seen('up', 'source')
      const [name = ''] = readdirSync(directory).filter((name) => name.endsWith('.taken'))
      await bridge.close()
      return { from, queue: bus.queue('q'), config, directory, name: name.replace(/\.\d+-\d+-\d+\.taken$/, '') }
    }

    test('a file that is damaged stops nobody: what can be read is sent, and it is set aside', async () => {
      const { from, queue, config, directory, name } = await outboxOf()
      const line = (id: string) => JSON.stringify({ id, priority: 0, base64: Buffer.from(id).toString('base64') })
      const path = join(directory, `${name}.1-1-0.taken`)
      writeFileSync(path, `${line('a')}\n\0\0\0{"id":\n${line('b')}\n${line('not to its end').slice(0, 9)}`)
      const { seen } = await startBridge(config)
      from.trySend('c')
      expect((await takeMessages(queue, 3)).map(({ body }) => String(body))).toEqual(['a', 'b', 'c'])
      expect(await seen('down', 'outbox')).toMatchObject({ error: { message: expect.stringContaining('.damaged') } })
      const files = readdirSync(directory)
      expect([files.includes(`${name}.1-1-0.taken`), files.includes(`${name}.1-1-0.taken.damaged`)]).toEqual([
        false,
        true,
      ])
    })

    test.each([
      ['{}'],
      ['5'],
      ['{"id":"","priority":0,"body":"x"}'],
      ['{"id":"x","priority":256,"body":"x"}'],
      ['{"id":"x","priority":0,"body":"x","headers":{"a":1}}'],
      ['{"id":"x","priority":0,"body":"x","headers":{"kmq-stop":""}}'],
      ['{"id":"x","priority":0,"base64":1}'],
    ])('a line that no outbox would take is damaged, too: %s', async (line) => {
      const { from, queue, config, directory, name } = await outboxOf()
      const path = join(directory, `${name}.1-1-0.taken`)
      writeFileSync(path, `${line}\n{"id":"a","priority":0,"body":"a"}\n`)
      await startBridge(config)
      from.trySend('b')
      expect((await takeMessages(queue, 2)).map(({ body }) => String(body))).toEqual(['a', 'b'])
      expect(readdirSync(directory)).toContain(`${name}.1-1-0.taken.damaged`)
    })

    test('what else a line says is no matter', async () => {
      const { from, queue, config, directory, name } = await outboxOf()
      const path = join(directory, `${name}.1-1-0.taken`)
      writeFileSync(path, '{"id":"a","priority":0,"body":"a","delay":-1}\n')
      await startBridge(config)
      from.trySend('b')
      expect((await takeMessages(queue, 2)).map(({ body }) => String(body))).toEqual(['a', 'b'])
      expect(existsSync(path)).toBe(false)
    })

    test('more than the outbox may hold by now: it goes there part by part', async () => {
      const { from, queue, config, directory, name } = await outboxOf()
      const lines = numbers(10).map((id) => `{"id":"${id}","priority":0,"body":${id}}\n`)
      writeFileSync(join(directory, `${name}.1-1-0.taken`), lines.join(''))
      await startBridge({ ...config, outbox: { directory, maxMessages: 4 } })
      from.trySend('last')
      expect((await takeMessages(queue, 11)).map(({ body }) => String(body))).toEqual([
        ...numbers(10).map(String),
        'last',
      ])
    })

    test.each([
      ['whole', '', false],
      ['damaged', 'no JSON\n', true],
    ])('more than there is room for before it ends: what is in the outbox is sent once, %s', async (_, more, isSet) => {
      const { from, config, directory, name } = await outboxOf()
      const to = uniqueName()
      const routes = [{ from: `posix:${from.path}`, to: `posix:${to}` }]
      const lines = numbers(6).map((id) => `{"id":"${id}","priority":0,"body":"${id}"}\n`)
      const path = join(directory, `${name}.1-1-0.taken`)
      writeFileSync(path, `${lines.join('')}${more}`)
      const { bridge: first } = await startBridge({ ...config, routes, outbox: { directory, maxMessages: 2 } })
      await until(() => first.routes[0]?.counters.collected === 2)
      await first.close({ patience: 0 })
      expect(existsSync(`${path}.damaged`)).toBe(isSet)
      const end = PosixQueue.open(to, { create: true, maxMessages: 1, messageSize: 8 })
      await startBridge({ ...config, routes })
      const arrived: string[] = []
      while (arrived.length < 6) arrived.push((await end.receive()).text())
      expect(arrived).toEqual(numbers(6).map(String))
      await end.close()
    })

    test('no room on the disk: what is taken goes into the outbox all the same', async () => {
      const { from, queue, config, directory, name } = await outboxOf()
      // Where the next files of this process are to be.
      const { self } = await import('../../dist/bus/transports/kernel/process.js')
      for (const number of numbers(100)) symlinkSync('/dev/full', join(directory, `${name}.${self}-${number}.taken`))
      await from.sendMany(['a', 'b', 'c'])
      const { seen } = await startBridge(config)
      expect((await takeMessages(queue, 3)).map(({ body }) => String(body))).toEqual(['a', 'b', 'c'])
      expect(await seen('down', 'outbox')).toMatchObject({ error: { code: 'ENOSPC' } })
    })

    test('a directory that cannot be written to is tried again', async () => {
      const { from, queue, config, directory, name } = await outboxOf()
      const { self } = await import('../../dist/bus/transports/kernel/process.js')
      const inTheWay = numbers(100).map((number) => join(directory, `${name}.${self}-${number}.taken`))
      for (const path of inTheWay) mkdirSync(path)
      const { seen } = await startBridge(config)
      expect(await seen('down', 'outbox')).toMatchObject({ error: { code: 'EISDIR' } })
      from.trySend('a')
      for (const path of inTheWay) rmSync(path, { recursive: true })
      expect(await takeMessages(queue, 1)).toMatchObject([{ body: Buffer.from('a') }])
    })
  })

  test.each(['posix', 'sysv'] as const)('%s: one is put before the next is taken, until it is enough', async (kind) => {
    const key = uniqueKey()
    const queue = kind === 'posix' ? openQueue() : SysvQueue.open(key, { create: true })
    const waiting = () => (queue instanceof SysvQueue ? queue.stat().messages : queue.attributes.messages)
    const endpoint = queue instanceof SysvQueue ? { kind, key } : { kind, name: queue.path }
    const end = new KernelQueue({ ...endpoint, shown: '' } as KernelEndpoint, 'read')
    const { signal } = new AbortController()
    const left: number[] = []
    const put = () => left.push(waiting()) < 5
    // Who waits takes nothing: the first comes when somebody waits already.
    const receiving = end.receive(3, signal, put)
    await queue.sendMany(['a', 'b', 'c', 'd'])
    await receiving
    while (left.length < 3) await end.receive(3 - left.length, signal, put)
    expect(left).toEqual([3, 2, 1])
    await queue.sendMany(['e', 'f'])
    await end.receive(10, signal, put)
    expect(left).toEqual([3, 2, 1, 2, 1])
    end.close()
    await queue.close()
  })

  test('a message that is too long is a dead letter, and holds up nobody', async () => {
    const { bus, url } = await newLocal()
    const to = openQueue()
    const queue = bus.queue('q')
    await queue.sendMany(['a', 'b'.repeat(65), 'c'].map((body, at) => ({ body, id: `m-${at}` })))
    const { seen } = await startBridge({ routes: [{ from: `${url}#queue=q`, to: `posix:${to.path}` }] })
    expect((await to.receive()).text()).toBe('a')
    expect((await to.receive()).text()).toBe('c')
    expect(await seen('dead')).toMatchObject({ id: 'm-1', error: { code: 'EMSGSIZE' } })
    await until(async () => (await queue.stats()).dead === 1)
    const { letters } = await queue.dead.list()
    expect(letters).toMatchObject([{ id: 'm-1', reason: expect.stringContaining('cannot send it') }])
  })
})

describe('a message that the other side refuses', () => {
  test.each(['EMSGSIZE', 'ERR_BUS_INVALID_BODY', 'ERR_INVALID_ARG_TYPE', 'ERR_INVALID_ARG_VALUE', 'ERR_OUT_OF_RANGE'])(
    'by %s is a dead letter, and those before and behind it arrive',
    async (code) => {
      const { far, from, to, route } = await newRoute()
      await from.sendMany(numbers(9).map((body) => ({ body, id: `n-${body}` })))
      const connectTo = sendingBy(far.url, async (send, items, options) => {
        if ([...items].some(({ id }) => id === 'n-4')) throw Object.assign(new Error('not this one'), { code })
        return send(items, options)
      })
      const { bridge, events } = await startBridge({ routes: [route] }, { connect: connectTo })
      expect((await takeMessages(to, 8)).map(({ body }) => body)).toEqual([0, 1, 2, 3, 5, 6, 7, 8])
      await until(() => isEmpty(from))
      const { letters } = await from.dead.list()
      expect(letters).toMatchObject([{ id: 'n-4', body: 4, reason: expect.stringContaining('cannot send it') }])
      expect(events.filter(({ event }) => event !== 'up')).toMatchObject([
        { event: 'dead', id: 'n-4', error: { code } },
      ])
      expect(bridge.routes[0]?.counters).toMatchObject({ sent: 8, dead: 1, failures: 0 })
    },
  )

  test('since no message of the kernel may be so long is a dead letter', async () => {
    const { from, route } = await newRoute()
    const key = uniqueKey()
    const to = SysvQueue.open(key, { create: true })
    const tooLong = 'x'.repeat(SysvQueue.limits().messageSize + 1)
    await from.sendMany(['a', tooLong, 'c'].map((body, at) => ({ body, id: `m-${at}` })))
    const { seen } = await startBridge({ routes: [{ ...route, to: `sysv:${hex(key)}` }] })
    expect([(await to.receive()).text(), (await to.receive()).text()]).toEqual(['a', 'c'])
    expect(await seen('dead')).toMatchObject({ id: 'm-1', error: { code: 'EMSGSIZE' } })
    await to.close()
  })

  test('is none if the other side cannot even be opened: it waits', async () => {
    const { from, to, route } = await newRoute()
    await from.sendMany(numbers(3).map((body) => ({ body })))
    const { bridge, seen } = await startBridge({ routes: [{ ...route, to: `local:/nowhere?colour=red#queue=out` }] })
    expect(await seen('down', 'target')).toMatchObject({ error: { code: 'ERR_INVALID_ARG_VALUE' } })
    await until(() => bridge.routes[0]?.inHand === 3 && bridge.routes[0].counters.failures > 5)
    expect(bridge.routes[0]?.counters).toMatchObject({ dead: 0 })
    await bridge.reload({ routes: [route] })
    expect((await takeMessages(to, 3)).map(({ body }) => body)).toEqual(numbers(3))
  })
})

describe('the other side is down', () => {
  test('a bus that is not there yet', async () => {
    const { near, route } = await newRoute()
    const path = join(temporaryDirectory(), 'far')
    writeFileSync(path, 'in the way')
    await near.bus.queue('in').sendMany(numbers(50).map((body) => ({ body })))
    const { bridge, seen } = await startBridge({ routes: [{ ...route, to: `local:${path}#queue=out`, batch: 5 }] })
    expect(await seen('down', 'target')).toMatchObject({ error: { code: 'ERR_BUS_DIRECTORY' } })
    expect(bridge.routes[0]).toMatchObject({ up: false, errors: { target: { code: 'ERR_BUS_DIRECTORY' } } })
    rmSync(path)
    const far = (await openBus(`local:${path}`)).queue('out')
    expect((await takeMessages(far, 50)).map(({ body }) => body)).toEqual(numbers(50))
    expect(await seen('up', 'target')).toBeTruthy()
  })

  test('a settlement that had to be repeated leaves its end up, though no other message comes', async () => {
    const { near, from, to, route } = await newRoute()
    let busy = 1
    const connectTo = async (url: string) => {
      const bus = await connect(url)
      if (url !== near.url) return bus
      const open = bus.queue.bind(bus)
      const queue = (...of: Parameters<typeof open>) => {
        const opened = open(...of)
        const receive = opened.receive.bind(opened)
        const refusing = async (...call: Parameters<typeof receive>) => {
          const messages = await receive(...call)
          for (const message of messages) {
            const ack = message.ack.bind(message)
            message.ack = async () => {
              if (busy-- > 0) throw new Error('busy')
              await ack()
            }
          }
          return messages
        }
        return Object.assign(opened, { receive: refusing })
      }
      return Object.assign(bus, { queue })
    }
    const { bridge, seen } = await startBridge({ routes: [route] }, { connect: connectTo })
    await from.send('x')
    expect(await seen('down', 'source')).toMatchObject({ error: { message: 'busy' } })
    await until(() => isEmpty(from))
    await until(() => bridge.routes[0]?.up === true)
    expect(await takeMessages(to, 1)).toMatchObject([{ body: 'x' }])
  })

  test('a full queue, whose bounds are smaller than a batch', async () => {
    const { far, from, route } = await newRoute()
    const to = far.bus.queue('out', { maxMessages: 8 })
    await to.stats()
    await to.sendMany(numbers(8).map((body) => ({ body })))
    await from.sendMany(numbers(92, 8).map((body) => ({ body })))
    await startBridge({ routes: [route] })
    expect((await takeMessages(to, 100)).map(({ body }) => body)).toEqual(numbers(100))
  })

  test('a full topic', async () => {
    const { far, from, route } = await newRoute()
    const to = far.bus.queue('out', { maxMessages: 2 })
    await to.send('first')
    await far.bus.topic('t').bind('out')
    await from.sendMany(numbers(9).map((body) => ({ body })))
    const { seen } = await startBridge({ routes: [{ ...route, to: `${far.url}#topic=t` }] })
    expect(await seen('down', 'target')).toMatchObject({ error: { code: 'ERR_BUS_QUEUE_FULL' } })
    expect((await takeMessages(to, 10)).map(({ body }) => body)).toEqual(['first', ...numbers(9)])
  })

  test('a POSIX queue that is unlinked and made again', async () => {
    const { from, route } = await newRoute()
    const name = uniqueName()
    const make = () => PosixQueue.open(name, { create: true, maxMessages: 4, messageSize: 64 })
    let to = make()
    const { seen, events } = await startBridge({ routes: [{ ...route, to: `posix:${name}` }] })
    await from.send('before')
    expect((await to.receive()).text()).toBe('before')
    PosixQueue.unlink(name)
    await to.close()
    await from.sendMany(numbers(9).map((number) => ({ body: String(number) })))
    expect(await seen('down', 'target')).toMatchObject({ error: { code: 'ENOENT' } })
    to = make()
    for (const number of numbers(9)) expect((await to.receive()).text()).toBe(String(number))
    await until(() => isEmpty(from))
    expect(events.filter(({ event }) => event === 'dead')).toEqual([])
    await to.close()
  })

  test('a POSIX queue to take from that is unlinked and made again', async () => {
    const { bus, url } = await newLocal()
    const name = uniqueName()
    const make = () => PosixQueue.open(name, { create: true, maxMessages: 4, messageSize: 64 })
    await make().close()
    const outbox = { directory: join(temporaryDirectory(), 'outbox') }
    const { seen } = await startBridge({ routes: [{ from: `posix:${name}`, to: `${url}#queue=q` }], outbox })
    await seen('up', 'source')
    PosixQueue.unlink(name)
    await seen('down', 'source')
    const again = make()
    await again.send('here')
    expect(await takeMessages(bus.queue('q'), 1)).toMatchObject([{ body: Buffer.from('here') }])
    await again.close()
  })

  test('a System V queue that is removed while the bridge waits for room in it, and made again', async () => {
    const { from, route } = await newRoute()
    const key = uniqueKey()
    const first = SysvQueue.open(key, { create: true, maxBytes: 16 })
    const { bridge, seen } = await startBridge({ routes: [{ ...route, to: `sysv:${hex(key)}` }] })
    await from.sendMany(numbers(40).map((number) => ({ body: String(number).padStart(8) })))
    await until(() => first.stat().messages === 2 && bridge.routes[0]?.inHand === 40)
    first.remove()
    await seen('down', 'target')
    const second = SysvQueue.open(key, { create: true })
    // What was in the first went with it, by the hand of whoever removed it; it was not acknowledged.
    const last = async () => Number((await second.receive()).text())
    let number = await last()
    expect(number).toBeLessThanOrEqual(2)
    while (number < 39) expect(await last()).toBe(++number)
    await Promise.all([first.close(), second.close()])
  })
})

describe('filters, mapping, rates', () => {
  test('what a filter does not want is a dead letter, or dropped', async () => {
    const { from, to, route } = await newRoute()
    const config = (unmatched: 'dead' | 'drop'): BridgeConfig => ({
      routes: [
        {
          ...route,
          unmatched,
          filter: { headers: { level: ['warn*', 'error'], test: null }, key: 'eu-*', priority: { min: 2, max: 5 } },
        },
      ],
    })
    const right = { body: 'right', key: 'eu-1', priority: 3, headers: { level: 'warning' } }
    const items = [
      { ...right, body: 'its key', key: 'us-1' },
      { ...right, body: 'no key', key: undefined },
      { ...right, body: 'too low', priority: 1 },
      { ...right, body: 'too high', priority: 6 },
      { ...right, body: 'its level', headers: { level: 'info' } },
      { ...right, body: 'a test', headers: { level: 'error', test: '' } },
    ]
    await from.sendMany([...items, right])
    const { bridge } = await startBridge({ routes: config('dead').routes })
    expect(await takeMessages(to, 1)).toMatchObject([{ body: 'right' }])
    await until(() => isEmpty(from))
    const { letters } = await from.dead.list()
    expect(letters.map(({ body }) => body).sort()).toEqual(items.map(({ body }) => body).sort())
    await bridge.reload(config('drop'))
    await from.sendMany([...items, { ...right, key: 'eu-2', headers: { level: 'error' } }])
    expect(await takeMessages(to, 1)).toMatchObject([{ key: 'eu-2' }])
    await until(() => isEmpty(from))
    expect((await from.stats()).dead).toBe(items.length)
    expect(bridge.routes[0]?.counters.unmatched).toBe(items.length)
  })

  test('headers, key and priority are mapped', async () => {
    const { from, to, route } = await newRoute()
    const headers = { region: { header: 'r' }, r: null, secret: null, source: 'edge-7', gone: { header: 'nothing' } }
    await from.send('x', { key: 'old', headers: { r: 'eu', secret: 's', stays: 'yes', gone: 'y' } })
    await startBridge({ routes: [{ ...route, headers, key: { header: 'stays' }, priority: 200 }] })
    const [message] = await takeMessages(to, 1)
    expect(message).toMatchObject({ key: 'yes', priority: 200 })
    expect(message?.headers).toEqual({ region: 'eu', stays: 'yes', source: 'edge-7' })
  })

  test('a rate', async () => {
    const { from, to, route } = await newRoute()
    await from.sendMany(numbers(30).map((body) => ({ body })))
    const begin = performance.now()
    await startBridge({ routes: [{ ...route, rate: 100 }] })
    await takeMessages(to, 30)
    // Those of a tenth of a second go at once. A timer may be a little early.
    expect(performance.now() - begin).toBeGreaterThan(150)
  })
})

describe('its end and its changes', () => {
  test('what cannot be sent before the end is given back, uncounted', async () => {
    const { from, route } = await newRoute()
    const to = openQueue()
    await from.sendMany(numbers(30).map((number) => ({ body: String(number), id: `n-${number}` })))
    const { bridge } = await startBridge({ routes: [{ ...route, to: `posix:${to.path}` }] })
    await until(() => to.attributes.messages === 4)
    await bridge.close({ patience: 0 })
    const messages = await takeMessages(from, 26)
    expect(messages.map(({ body }) => body)).toEqual(numbers(26, 4).map(String))
    expect(messages.every(({ attempts, losses }) => attempts === 0 && losses === 0)).toBe(true)
    await expect(bridge.reload({ routes: [route] })).rejects.toMatchObject({ code: 'ERR_MQ_CLOSED' })
  })

  test('a batch that fails when it is to end is given back, and what follows it, too: the order stays', async () => {
    const { far, from, to, route } = await newRoute()
    await from.sendMany(numbers(6).map((body) => ({ body })))
    let fail = () => {}
    const failing = new Promise<never>((_, reject) => {
      fail = () => reject(new Error('the other side is away for a moment'))
    })
    let sends = 0
    const connectTo = sendingBy(far.url, (send, ...call) => (sends++ === 0 ? failing : send(...call)))
    const { bridge } = await startBridge({ routes: [{ ...route, batch: 2 }] }, { connect: connectTo })
    // The first batch is on its way, and the second waits behind it.
    await until(() => sends === 1 && bridge.routes[0]?.inHand === 4)
    const closed = bridge.close()
    fail()
    await closed
    await startBridge({ routes: [route] })
    expect((await takeMessages(to, 6)).map(({ body }) => body)).toEqual(numbers(6))
  })

  test('an end that answers nothing any more does not keep it from ending, and what was for it is given back', async () => {
    const { near, from, route } = await newRoute()
    const never = () => new Promise<never>(() => {})
    const mute = {
      capabilities: near.bus.capabilities,
      queue: () => ({ sendMany: never, receive: never, stats: never }),
      metrics: never,
      close: never,
    } as unknown as Bus
    const routes = [
      { ...route, to: 'local:/mute#queue=there' },
      { name: 'back', from: 'local:/mute#queue=here', to: `${near.url}#queue=back` },
    ]
    const connectTo = async (url: string) => (url === 'local:/mute' ? mute : connect(url))
    await from.send('x')
    const { bridge } = await startBridge({ routes }, { connect: connectTo })
    await until(() => bridge.routes[0]?.inHand === 1)
    await bridge.close({ patience: 0 })
    expect(await takeMessages(from, 1)).toMatchObject([{ body: 'x', attempts: 0, losses: 0 }])
  })

  test('another configuration keeps what is the same; a broken one changes nothing', async () => {
    const { near, far, to, route } = await newRoute()
    const other = { from: `${near.url}#queue=other`, to: `${far.url}#queue=out` }
    const { bridge, events } = await startBridge({ routes: [route] })
    await until(() => bridge.routes[0]?.up === true)
    const retry = { base: 5, cap: 20 }
    const reloaded = await bridge.reload({ retry, routes: [route, { ...other, name: 'other' }] })
    expect(reloaded).toEqual({ kept: [route.from], started: ['other'], stopped: [] })
    const broken = { routes: [{ ...other, batch: 0 }] }
    await expect(bridge.reload(broken)).rejects.toMatchObject({ at: 'routes[0].batch' })
    expect(bridge.routes.map(({ name }) => name)).toEqual([route.from, 'other'])
    await near.bus.queue('other').send(1)
    await near.bus.queue('in').send(2)
    await takeMessages(to, 2)
    expect(await bridge.reload({ retry, routes: [{ ...other, name: 'other' }] })).toMatchObject({
      kept: ['other'],
      stopped: [route.from],
    })
    expect(events.filter((event) => event.route === route.from && event.event === 'up')).toHaveLength(2)
    await near.bus.queue('in').send('nobody comes')
    await near.bus.queue('other').send(3)
    expect(await takeMessages(to, 1)).toMatchObject([{ body: 3 }])
    expect((await near.bus.queue('in').stats()).ready).toBe(1)
  })

  test('an outbox that was opened for a configuration that is refused is closed again', async () => {
    const { route } = await newRoute()
    const port = createServer().listen(0, '127.0.0.1')
    await once(port, 'listening')
    onTestFinished(() => void port.close())
    const open = new Set<string>()
    const connectTo = async (url: string) => {
      const bus = await connect(url)
      open.add(url)
      const close = bus.close.bind(bus)
      return Object.assign(bus, { close: () => close().then(() => void open.delete(url)) })
    }
    const { bridge, seen } = await startBridge({ routes: [route] }, { connect: connectTo })
    await Promise.all([seen('up', 'source'), seen('up', 'target')])
    const before = [...open]
    const refused = {
      routes: [{ from: `posix:${uniqueName()}`, to: route.to }],
      outbox: { directory: join(temporaryDirectory(), 'outbox') },
      listen: { port: (port.address() as { port: number }).port },
    }
    expect(await failureOf(() => bridge.reload(refused))).toMatchObject({ code: 'EADDRINUSE' })
    expect([...open]).toEqual(before)
  })

  test('an outbox that cannot be, or a port that is taken, is said at once', async () => {
    const path = join(temporaryDirectory(), 'file')
    writeFileSync(path, '')
    const { route } = await newRoute()
    const routes = [{ from: 'posix:/x', to: route.to }]
    expect(await failureOf(() => bridge({ routes, outbox: { directory: path } }))).toMatchObject({
      code: 'ERR_BUS_DIRECTORY',
    })
    const first = await startBridge({ routes: [route], listen: { port: 0 } })
    const port = Number(new URL(first.bridge.url as string).port)
    expect(await failureOf(() => bridge({ routes: [route], listen: { port } }))).toMatchObject({ code: 'EADDRINUSE' })
  })
})

describe('health and metrics', () => {
  describe('another host at the same port', () => {
    async function listening() {
      const { route } = await newRoute()
      const { bridge } = await startBridge({ routes: [route], listen: { port: 0 } })
      const first = bridge.url as string
      const listen = { host: '0.0.0.0', port: Number(new URL(first).port) }
      const reload = () => bridge.reload({ routes: [route], listen })
      const health = async () => (await fetch(`${first}/healthz`)).text()
      return { bridge, first, listen, reload, health }
    }

    test('is answered at', async () => {
      const { bridge, listen, reload, health } = await listening()
      await reload()
      expect(bridge.url).toBe(`http://0.0.0.0:${listen.port}`)
      expect(await health()).toBe('ok\n')
    })

    test('is refused if somebody else has it, and the old one answers', async () => {
      const { bridge, first, listen, reload, health } = await listening()
      const other = createServer().listen({ host: '127.0.0.2', port: listen.port })
      onTestFinished(() => void other.close())
      await once(other, 'listening')
      await expect(reload()).rejects.toMatchObject({ code: 'EADDRINUSE' })
      expect([bridge.url, await health()]).toEqual([first, 'ok\n'])
      other.close()
      await reload()
      expect(bridge.url).toBe(`http://0.0.0.0:${listen.port}`)
    })
  })

  test('are told on the loopback interface', async () => {
    const { from, to, route } = await newRoute()
    const missing = uniqueName()
    const { bridge } = await startBridge({
      routes: [{ ...route, name: 'a "name"' }],
      listen: { port: 0 },
    })
    await from.send(1)
    await takeMessages(to, 1)
    await until(() => isEmpty(from))
    const get = async (path: string, method = 'GET') => {
      const response = await fetch(`${bridge.url}${path}`, { method })
      return { status: response.status, text: await response.text() }
    }
    expect(new URL(bridge.url as string).hostname).toBe('127.0.0.1')
    expect(await get('/healthz')).toEqual({ status: 200, text: 'ok\n' })
    expect(await get('/readyz')).toEqual({ status: 200, text: 'ready\n' })
    expect(await get('/secret')).toMatchObject({ status: 404 })
    expect(await get('/metrics', 'POST')).toMatchObject({ status: 405 })
    const { text } = await get('/metrics')
    expect(text).toContain('kernelmq_bridge_events_total{route="a \\"name\\"",event="sent"} 1\n')
    expect(text).toContain('kernelmq_bridge_lag_messages{route="a \\"name\\""} 0\n')
    expect(text).toMatch(/kernelmq_messages\{bus="local:[^"]*",queue="out",state="ready"\} 0\n/)
    const helps = text.match(/^# HELP \S+/gm) ?? []
    expect(new Set(helps).size).toBe(helps.length)
    await bridge.reload({ routes: [{ ...route, to: `posix:${missing}` }], listen: { port: 0 }, retry: { base: 5 } })
    await until(async () => (await get('/readyz')).text.includes('ENOENT'))
    expect(await get('/readyz')).toMatchObject({ status: 503 })
    await from.sendMany(numbers(3).map((body) => ({ body })))
    await until(async () =>
      (await get('/metrics')).text.includes(`kernelmq_bridge_lag_messages{route="${route.from}"} 3`),
    )
  })
})

describe('a configuration', () => {
  const local = 'local:/tmp/nowhere'
  const route = { from: `${local}#queue=a`, to: `${local}#queue=b` }

  test.each<[at: string, expected: RegExp, config: unknown]>([
    ['', /must be an object/, undefined],
    ['routes', /at least one route/, { routes: [] }],
    ['colour', /absent: what is known here is routes, outbox/, { routes: [route], colour: 1 }],
    ['routes[0].from', /must be a string/, { routes: [{ to: route.to }] }],
    ['routes[0].from', /posix:\/NAME, sysv:0xKEY, URL#queue=NAME/, { routes: [{ ...route, from: local }] }],
    ['routes[0].from', /posix:\/NAME/, { routes: [{ ...route, from: 'posix:orders' }] }],
    ['routes[0].from', /posix:\/NAME/, { routes: [{ ...route, from: 'sysv:0' }] }],
    ['routes[0].from', /begins with local: or mq:/, { routes: [{ ...route, from: 'smtp://x#queue=a' }] }],
    ['routes[0].from', /#topic=PATTERN,queue=NAME/, { routes: [{ ...route, from: `${local}#topic=a.*` }] }],
    ['routes[0].from', /#queue=NAME/, { routes: [{ ...route, from: `${local}#queue=a/dead` }] }],
    ['routes[0].to', /one topic/, { routes: [{ ...route, to: `${local}#topic=a.*` }] }],
    ['routes[0].to', /somewhere else/, { routes: [{ ...route, to: route.from }] }],
    ['outbox', /forgets what it hands out/, { routes: [{ ...route, from: 'posix:/a' }] }],
    ['outbox.directory', /absolute path/, { routes: [route], outbox: { directory: 'here' } }],
    ['outbox.maxMessages', /from 1 to/, { routes: [route], outbox: { directory: '/here', maxMessages: 0 } }],
    ['routes[1].from', /no other route takes from/, { routes: [route, { ...route, name: 'second' }] }],
    [
      'routes[1].name',
      /no other route has/,
      { routes: [route, { ...route, from: 'posix:/a', name: route.from }], outbox: { directory: '/o' } },
    ],
    ['routes[0].batch', /an integer from 1 to 500/, { routes: [{ ...route, batch: 501 }] }],
    ['routes[0].rate', /a number from/, { routes: [{ ...route, rate: -1 }] }],
    ['routes[0].unmatched', /'dead' or 'drop'/, { routes: [{ ...route, unmatched: 'keep' }] }],
    ['routes[0].filter.colour', /absent/, { routes: [{ ...route, filter: { colour: 1 } }] }],
    ['routes[0].filter.headers.a', /any characters/, { routes: [{ ...route, filter: { headers: { a: 1 } } }] }],
    ['routes[0].filter.priority.min', /integer/, { routes: [{ ...route, filter: { priority: { min: 'x' } } }] }],
    ['routes[0].headers', /do not begin with "kmq-"/, { routes: [{ ...route, headers: { 'kmq-stop': '' } }] }],
    ['routes[0].headers.a', /\{ "header": NAME \}/, { routes: [{ ...route, headers: { a: 7 } }] }],
    ['routes[0].key.header', /not empty/, { routes: [{ ...route, key: { header: '' } }] }],
    ['listen.port', /0 to 65535/, { routes: [route], listen: { port: 70_000 } }],
    ['retry.cap', /integer/, { routes: [route], retry: { cap: 'long' } }],
    ['durability', /'process' or 'disk'/, { routes: [route], durability: 'tape' }],
  ])('is refused for "%s": %s', async (at, expected, config) => {
    const error = await failureOf(() => bridge(config as BridgeConfig))
    expect(error).toMatchObject({ at, message: expect.stringMatching(expected) })
  })

  const outbox = { directory: '/o' }
  test.each([
    [`${local}#topic=t,queue=a`, `${local}#queue=a`],
    [`${local}#queue=a`, 'local:///tmp/../tmp//nowhere/#queue=a'],
    ['redis://h#queue=a', 'rediss://user:pass@H:6379/0?prefix=kmq&timeout=500#queue=a'],
    ['nats://localhost#queue=a', 'nats://127.0.0.1:4222?replicas=3#queue=a'],
    ['amqp://h#queue=a', 'amqps://user:pass@h:5671/%2F#queue=a'],
    ['sysv:0xab', 'sysv:0x00AB'],
  ])('knows one place by two spellings: %s is %s', async (from, to) => {
    const loop = await failureOf(() => checkConfig({ routes: [{ from, to }], outbox }))
    expect(loop).toMatchObject({ at: 'routes[0].to', message: expect.stringContaining('somewhere else') })
    const twice = [from, to].map((one) => ({ from: one, to: 'posix:/there' }))
    const error = await failureOf(() => checkConfig({ routes: twice, outbox }))
    expect(error).toMatchObject({ at: 'routes[1].from', message: expect.stringContaining('no other route takes from') })
  })

  const a = (end: string) => `local:/tmp/a#${end}`
  const b = (end: string) => `local:/tmp/b#${end}`
  const [there, back] = [
    { from: a('topic=t.#,queue=x'), to: b('topic=t.a'), name: 'there' },
    { from: b('topic=t.#,queue=y'), to: a('topic=t.b'), name: 'back' },
  ]

  test.each<[string, BridgeConfig['routes'], at?: string]>([
    ['a queue and back', [route, { from: route.to, to: route.from }]],
    ['topics and back', [there, back]],
    ['a topic that its own pattern means', [{ from: a('topic=t.#,queue=x'), to: a('topic=t.a') }], 'routes[0].to'],
    [
      'a topic into its own queue',
      [
        { from: a('queue=x'), to: b('topic=t.a') },
        { ...back, to: a('queue=x') },
      ],
    ],
    [
      'a way by the kernel',
      [
        { from: a('queue=x'), to: 'posix:/p' },
        { from: 'posix:/p', to: 'sysv:0xa' },
        { from: 'sysv:0x0A', to: a('queue=x') },
      ],
      'routes[2].to',
    ],
    ['what every filter wants', [there, back].map((one) => ({ ...one, filter: { headers: { level: 'error' } } }))],
    [
      'one without a filter beside one with it',
      [
        { from: a('topic=t,queue=x'), to: b('topic=t'), name: 'there' },
        { from: b('topic=t,queue=y'), to: a('topic=t'), name: 'back', filter: { priority: { min: 5 } } },
        { from: b('topic=t,queue=z'), to: a('topic=t'), name: 'back, too' },
      ],
      'routes[2].to',
    ],
  ])('that goes round for ever is refused: %s', async (_, routes, at = 'routes[1].to') => {
    const error = await failureOf(() => checkConfig({ routes, outbox }))
    expect(error).toMatchObject({ at, message: expect.stringContaining('lead back to "from"') })
  })

  const marked = (via: string) => ({ headers: { via }, filter: { headers: { via: null } }, unmatched: 'drop' as const })
  test.each<[string, BridgeConfig['routes']]>([
    [
      'other queues',
      [
        { from: a('queue=out'), to: b('queue=in') },
        { from: b('queue=out'), to: a('queue=in') },
      ],
    ],
    ['other topics', [{ ...there, from: a('topic=t,queue=x') }, back]],
    [
      'what came from there is not taken',
      [
        { ...there, ...marked('a') },
        { ...back, ...marked('b') },
      ],
    ],
    [
      'one way marks, the other looks',
      [
        { ...there, headers: { via: 'a' } },
        { ...back, filter: { headers: { via: null } } },
      ],
    ],
    [
      'each wants another',
      [
        { ...there, filter: { headers: { dest: 'b' } } },
        { ...back, filter: { headers: { dest: 'a' } } },
      ],
    ],
    [
      'keys',
      [
        { ...there, filter: { key: 'b-*' } },
        { ...back, filter: { key: 'a-*' } },
      ],
    ],
    [
      'other databases',
      ['0', '1'].map((n) => ({ from: `redis://h/${n}#queue=a`, to: `redis://h/${2 + Number(n)}#queue=a` })),
    ],
    ['other prefixes', [{ from: 'nats://h?prefix=a#queue=q', to: 'nats://h?prefix=b#queue=q' }]],
    ['other accounts', [{ from: 'nats://a:p@h#queue=q', to: 'nats://b:p@h#queue=q' }]],
    ['other virtual hosts', [{ from: 'amqp://h/a#queue=q', to: 'amqp://h/b#queue=q' }]],
    [
      'a chain',
      [
        { from: a('queue=1'), to: a('queue=2') },
        { from: a('queue=2'), to: a('queue=3') },
      ],
    ],
  ])('that comes to an end is taken: %s', (_, routes) => {
    expect(() => checkConfig({ routes })).not.toThrow()
  })

  test.each([
    ['amqp://user:p@ss/w@host/?token=t0ken#nothing', '//user:***@host', /ss\/w|t0ken/],
    ['nats://t0ken@host#nothing', '//***@host', /t0ken/],
    ["redis://:it's@host#nothing", '//:***@host', /it's/],
  ])('that is wrong does not show its password: %s', async (from, shown, secret) => {
    const error = (await failureOf(() => bridge({ routes: [{ ...route, from }] }))) as Error
    expect(error.message).toContain(shown)
    expect(error.message).not.toMatch(secret)
  })
})

test('a directory that is made for the outbox is the only thing that it makes', async () => {
  const directory = join(temporaryDirectory(), 'outbox')
  mkdirSync(dirname(directory), { recursive: true })
  const from = openSysv()
  expect(from.id).toBeGreaterThanOrEqual(0)
  const { bridge, seen } = await startBridge({
    routes: [{ from: 'sysv:0x7fff0001', to: `posix:${uniqueName()}` }],
    outbox: { directory },
  })
  expect(await seen('down', 'source')).toMatchObject({ error: { code: 'ENOENT' } })
  await bridge.close()
})
