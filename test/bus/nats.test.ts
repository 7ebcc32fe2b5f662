// What is particular to nats:, on real servers.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createConnection, createServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { connect as connectTo, headers as newHeaders } from '@nats-io/transport-node'
import { connect } from 'kernelmq/bus'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import { systemClock } from '../../lib/bus/clock.ts'
import { addressOf } from '../../lib/bus/transports/engine/address.ts'
import { fieldsOf, placeOf } from '../../lib/bus/transports/nats/envelope.ts'
import { Hands, type HandsOf } from '../../lib/bus/transports/nats/hands.ts'
import { Lane, type LaneOf } from '../../lib/bus/transports/nats/lane.ts'
import { ApiError, Link, type Msg } from '../../lib/bus/transports/nats/link.ts'
import type { LaneName } from '../../lib/bus/transports/nats/names.ts'
import { consumerOf, consumersOf } from '../../lib/bus/transports/nats/state.ts'
import { Stream, type StreamSettings } from '../../lib/bus/transports/nats/stream.ts'
import { wireTo } from './engine-chaos.ts'
import { startServer } from './servers.ts'
import { deferred, describeEngine, gather, nothing, one, openBus, startBus, take } from './support.ts'

/** A server as it is when nobody asks for JetStream; its URL. */
async function startPlain(): Promise<string> {
  const directory = mkdtempSync(join(tmpdir(), 'kernelmq-nats-'))
  const child: ChildProcess = spawn('nats-server', ['-a', '127.0.0.1', '-p', '-1', '--ports_file_dir', directory], {
    stdio: 'ignore',
    env: { ...process.env, PATH: `${process.env.PATH}:/usr/sbin` },
  })
  onTestFinished(async () => {
    child.kill()
    await once(child, 'exit')
    rmSync(directory, { recursive: true, force: true })
  })
  for (;;) {
    const [file] = readdirSync(directory)
    const text = file === undefined ? '' : readFileSync(join(directory, file), 'utf8')
    if (text !== '') return (JSON.parse(text) as { nats: string[] }).nats[0] as string
    await sleep(10)
  }
}

await describeEngine('nats', (_, server) => {
  let count = 0
  /** The client's own is a second. */
  const patient = { timeout: 60_000 }
  /** Of a bus that nobody else has. */
  const newUrl = (more = '') => `${server.url}?prefix=own-${++count}${more}`
  const prefixOf = (url: string) => new URL(url).searchParams.get('prefix') as string

  /** The server without a bus. */
  async function bare() {
    const connection = await connectTo({ servers: `127.0.0.1:${server.port}` })
    onTestFinished(() => connection.close())
    const api = async (call: string, body?: object) => {
      const answer = await connection.request(
        `$JS.API.${call}`,
        body === undefined ? '' : JSON.stringify(body),
        patient,
      )
      return answer.json<Record<string, unknown>>()
    }
    return { connection, api }
  }

  describe('a URL', () => {
    test('of nobody is told to be refused, where, and what to do', async () => {
      await expect(connect('nats://127.0.0.1:1')).rejects.toMatchObject({
        code: 'ERR_BUS_CONNECTION',
        path: '127.0.0.1:1',
        hint: expect.stringContaining('is the server up'),
      })
    })

    test('of a server that says nothing is given up, with its connection', async () => {
      const silent = createServer().listen(0, '127.0.0.1')
      onTestFinished(() => void silent.close())
      await once(silent, 'listening')
      const accepted = once(silent, 'connection')
      const { port } = silent.address() as { port: number }
      await expect(connect(`nats://127.0.0.1:${port}?timeout=50`)).rejects.toMatchObject({ code: 'ERR_BUS_CONNECTION' })
      const [socket] = (await accepted) as [Socket]
      socket.resume()
      await once(socket, 'close')
    })

    test('with a wrong password is told so, without the password', async () => {
      const guarded = await startServer('nats', ['--user', 'me', '--pass', 'right'])
      onTestFinished(() => guarded.close())
      const url = new URL(guarded.url)
      url.username = 'me'
      url.password = 'wr0ng'
      const error = await connect(url).catch((refused: Error) => refused)
      expect(error).toMatchObject({ code: 'ERR_BUS_ACCESS', hint: expect.stringContaining('user "me"') })
      expect(JSON.stringify([error, String(error), (error as Error).stack])).not.toContain('wr0ng')
      url.password = 'right'
      const bus = await openBus(url.href)
      expect(bus.url).not.toContain('right')
      await bus.queue('q').send('x')
      expect(await take(bus.queue('q'), 1)).toEqual(['x'])
    })

    test('has the token that its server wants in place of a user', async () => {
      const guarded = await startServer('nats', ['--auth', 't0ken'])
      onTestFinished(() => guarded.close())
      const urlOf = (token: string) => guarded.url.replace('//', `//${token}@`)
      const error = await connect(urlOf('wr0ng')).catch((refused: Error) => refused)
      expect(error).toMatchObject({ code: 'ERR_BUS_ACCESS', hint: expect.stringContaining('the right token') })
      expect(JSON.stringify([error, String(error), (error as Error).stack])).not.toContain('wr0ng')
      await expect(connect(guarded.url)).rejects.toMatchObject({ code: 'ERR_BUS_ACCESS' })
      const bus = await openBus(urlOf('t0ken'))
      expect(bus.url).not.toContain('t0ken')
      await bus.queue('q').send('x')
      expect(await take(bus.queue('q'), 1)).toEqual(['x'])
    })

    test('of a server without JetStream is told so', async () => {
      await expect(connect(await startPlain())).rejects.toMatchObject({
        code: 'ERR_BUS_CONNECTION',
        message: expect.stringContaining('it has no JetStream'),
        hint: expect.stringContaining('nats-server -js'),
      })
    })

    test('with a parameter that is not known is refused', async () => {
      await expect(connect(newUrl('&lesae=5'))).rejects.toThrow('not "lesae"')
    })
  })

  test('a send that the power of the machine must not undo is refused', async () => {
    const bus = await openBus(newUrl())
    const refused = bus.queue('q').send('x', { durability: 'disk' })
    await expect(refused).rejects.toMatchObject({
      code: 'ERR_BUS_UNSUPPORTED',
      message: expect.stringMatching('persist'),
    })
  })

  test('a stream that somebody has removed is made again, for those who send and those who wait', async () => {
    const url = newUrl()
    const bus = await openBus(url)
    const { api } = await bare()
    const queue = bus.queue('q')
    await queue.send('before')
    expect(await take(queue, 1)).toEqual(['before'])
    const waiting = take(queue, 1)
    await api(`STREAM.DELETE.${prefixOf(url)}=q`)
    await queue.send('after')
    expect(await waiting).toEqual(['after'])
    // Who waits for longer hears of it before the files are gone.
    const standing = take(queue, 1)
    await sleep(20)
    await api(`STREAM.DELETE.${prefixOf(url)}=q`)
    await queue.send('again')
    expect(await standing).toEqual(['again'])
  })

  test('what is sent as a wait ends is there for the next', async () => {
    const url = newUrl()
    const [queue, other] = [(await openBus(url)).queue('q'), (await openBus(url)).queue('q')]
    await other.send('first')
    expect(await take(queue, 1)).toEqual(['first'])
    let missed = 0
    for (let round = 0; round < 200; round++) {
      const waiting = queue.receive({ wait: 10 })
      const at = performance.now() + 7 + 5 * Math.random()
      while (performance.now() < at) await new Promise(setImmediate)
      await other.send('x')
      let got = await waiting
      if (got.length === 0) got = await queue.receive({ wait: 2000 })
      // A server that stands still for so long is seen once or twice.
      if (got.length === 0) missed++
      while (got.length === 0) got = await queue.receive()
      await got[0]?.ack()
    }
    expect(missed).toBeLessThan(3)
  })

  test.each([0, 1])(
    'what is acknowledged of a stream that somebody has removed is no message of the one made since: by %i',
    async (maker) => {
      const url = newUrl()
      const queues = [(await openBus(url)).queue('q'), (await openBus(url)).queue('q')] as const
      const [queue, other] = queues
      await other.send('first')
      // The other has a consumer to make, or to make again.
      expect(await take(queues[maker] as typeof queue, 1)).toEqual(['first'])
      await other.send('old')
      const old = await one(queue)
      const { api } = await bare()
      await api(`STREAM.DELETE.${prefixOf(url)}=q`)
      await other.send('second')
      expect(await take(other, 1)).toEqual(['second'])
      await other.send('new')
      // What was told before has come with this answer.
      expect((await queue.browse()).messages).toMatchObject([{ body: 'new' }])
      await old.ack()
      expect((await other.browse()).messages).toMatchObject([{ body: 'new' }])
    },
  )

  test('large messages are looked at before they are acknowledged a few at a time', async () => {
    const url = newUrl()
    const queue = (await openBus(url)).queue('q')
    await queue.sendMany(Array.from({ length: 5 }, () => ({ body: Buffer.alloc(900_000) })))
    const messages = await gather(queue, 5)
    const { connection } = await bare()
    connection.publish(`${prefixOf(url)}~lanes.q`, 'p0')
    await connection.flush()
    // What was told before has come with this answer.
    await queue.stats()
    const seen: string[] = []
    const callback = (_: unknown, message: Msg) => {
      // Searching asks for the first of a subject, and what is held is kept alive.
      if (!/next_by_subj|WPI/.test(message.string())) seen.push(message.subject.split('.')[1] as string)
    }
    connection.subscribe(`$JS.ACK.${prefixOf(url)}=q.>`, { callback })
    connection.subscribe(`$JS.API.STREAM.MSG.GET.${prefixOf(url)}=q`, { callback })
    await connection.flush()
    await Promise.all(messages.map((message) => message?.ack()))
    await connection.flush()
    expect(seen.join(' ')).toBe('API API ACK ACK API API ACK ACK API ACK')
  })

  test('a consumer that somebody has removed is made again, and nothing is lost', async () => {
    const url = newUrl()
    const bus = await openBus(url)
    const { api } = await bare()
    const queue = bus.queue('q')
    await queue.send(1)
    expect(await take(queue, 1)).toEqual([1])
    await api(`CONSUMER.DELETE.${prefixOf(url)}=q.p0`)
    await queue.send(2)
    expect(await take(queue, 1)).toEqual([2])
    const waiting = take(queue, 1)
    await sleep(20)
    await api(`CONSUMER.DELETE.${prefixOf(url)}=q.p0`)
    await queue.send(3)
    expect(await waiting).toEqual([3])
  })

  test.each([{ priority: 3 }, { key: 'k' }, { delay: 1 }])(
    'a consumer that somebody has removed while nobody received is made by who does: %o',
    async (options) => {
      const url = newUrl()
      const from = (await openBus(url)).queue('q')
      await from.send('before', options)
      const { api } = await bare()
      const { consumers } = await api(`CONSUMER.LIST.${prefixOf(url)}=q`)
      for (const { name } of consumers as { name: string }[]) await api(`CONSUMER.DELETE.${prefixOf(url)}=q.${name}`)
      await from.send('after', options)
      const bodies = await take((await openBus(url)).queue('q'), 2)
      expect(bodies.sort()).toEqual(['after', 'before'])
    },
  )

  test('an acknowledgement does not wait for a retry that is settled with it and cannot be written down', async () => {
    const url = newUrl('&lease=600000&timeout=600000')
    const name = `${prefixOf(url)}~notes`
    const { api } = await bare()
    await api(`STREAM.CREATE.${name}`, { name, subjects: [`${name}.>`], no_ack: true })
    const queue = (await openBus(url)).queue('q')
    await queue.sendMany(['retried', 'done'].map((body) => ({ body })))
    const [retried, done] = await gather(queue, 2)
    // Until the bus is closed.
    retried?.retry(0).catch(() => {})
    await done?.ack()
  })

  test('bindings that somebody has removed are not remembered by those who publish', async () => {
    const url = newUrl()
    const [bus, other] = [await openBus(url), await openBus(url)]
    await bus.topic('t').bind('one')
    expect(await bus.topic('t').publish('x')).toBe(1)
    const { api } = await bare()
    await api(`STREAM.DELETE.${prefixOf(url)}~records`)
    await other.topic('t').bind('two')
    expect(await bus.topic('t').publish('y')).toBe(1)
    expect(await take(other.queue('two'), 1)).toEqual(['y'])
  })

  test('who subscribes and was taken for gone when he was back is bound again by himself', async () => {
    const url = newUrl()
    const [bus, other] = [await openBus(url), await openBus(url)]
    const heard = deferred<unknown>()
    await bus.topic('t').subscribe(undefined, ({ body }) => heard.resolve(body))
    // Who publishes removes what is bound when nobody has answered, which may arrive late.
    const { connection } = await bare()
    await connection.request(`${prefixOf(url)}~records.bindings`, '[]', patient)
    expect(await other.topic('t').publish('missed')).toBe(0)
    while ((await other.topic('t').publish('heard')) === 0) await sleep(100)
    expect(await heard.promise).toBe('heard')
  })

  test('a queue in which every priority and every partition is used is received from in full', async () => {
    const url = newUrl()
    const queue = (await openBus(url)).queue('q')
    const bodies = [...Array(256).keys()]
    const keys = [...Array(64).keys()].map((key) => queue.send(-1, { key: String(key) }))
    await Promise.all([...keys, ...bodies.map((body) => queue.send(body, { priority: body }))])
    const other = (await openBus(url)).queue<number>('q')
    expect(await other.stats()).toMatchObject({ ready: 256 + 64 })
    const seen = (await take(other, 256 + 64)).filter((body) => body !== -1)
    expect(seen.sort((a, b) => Number(a) - Number(b))).toEqual(bodies)
  })

  test('what somebody else has put there comes as bytes, with his id and his headers', async () => {
    const url = newUrl()
    const bus = await openBus(url)
    const queue = bus.queue('q')
    expect(await queue.receive(nothing)).toEqual([])
    const { connection } = await bare()
    const headers = newHeaders()
    headers.set('Nats-Msg-Id', 'his')
    headers.set('kind', 'odd % one')
    headers.set('when', '10:30')
    headers.set('none', '')
    headers.append('who', 'é')
    headers.append('who', 'the second of a name')
    await connection.request(`${prefixOf(url)}.q.p.0`, 'hello', { headers, ...patient })
    const his = { id: 'his', headers: { kind: 'odd % one', when: '10:30', none: '', who: 'é' } }
    expect((await queue.browse()).messages).toMatchObject([his])
    const message = await one(queue)
    expect(message).toMatchObject({ ...his, attempts: 0 })
    expect(message.body).toEqual(Buffer.from('hello'))
    await message.ack()
    // Where he gives none, its place is the id, however often it is handed out.
    await connection.request(`${prefixOf(url)}.q.p.0`, 'bare', patient)
    const [browsed] = (await queue.browse()).messages
    const nameless = await one(queue)
    expect(nameless).toMatchObject({ id: browsed?.id, attempts: 0, body: Buffer.from('bare') })
    await nameless.retry(0)
    expect(await one(queue)).toMatchObject({ id: browsed?.id, attempts: 1 })
  })

  test('a message that is too long for its stream is refused as such', async () => {
    const url = newUrl()
    const queue = (await openBus(url)).queue('q')
    await queue.send('x')
    const { api } = await bare()
    const { config } = await api(`STREAM.INFO.${prefixOf(url)}=q`)
    await api(`STREAM.UPDATE.${prefixOf(url)}=q`, { ...(config as object), max_msg_size: 1000 })
    await expect(queue.send('x'.repeat(1000))).rejects.toMatchObject({
      code: 'EMSGSIZE',
      path: 'q',
      hint: expect.stringContaining('max_msg_size'),
    })
    await queue.send('short')
  })

  test('what was found is received, when another part of the queue cannot be asked', async () => {
    const url = newUrl()
    const name = `${prefixOf(url)}=q`
    const { api } = await bare()
    const subjects = [`${prefixOf(url)}.q.>`]
    await api(`STREAM.CREATE.${name}`, { name, subjects, retention: 'workqueue', max_consumers: 2 })
    const queue = (await openBus(url)).queue('q')
    await queue.send('high', { priority: 9 })
    expect(await take(queue, 1)).toEqual(['high'])
    await queue.send('higher', { priority: 9 })
    await api(`CONSUMER.DELETE.${name}.p0`)
    const other = { durable_name: 'other', filter_subject: `${prefixOf(url)}.q.x`, ack_policy: 'explicit' }
    await api(`CONSUMER.DURABLE.CREATE.${name}.other`, { stream_name: name, config: other })
    expect(await queue.receive({ max: 2, wait: 0 })).toMatchObject([{ body: 'higher' }])
  })

  test.each(['plain', 'with.dots:and_more-', 'X'.repeat(128), '.'.repeat(128)])(
    'a queue is called %s',
    async (name) => {
      const bus = await openBus(newUrl())
      await bus.queue(name).send(name)
      expect(await take(bus.queue(name), 1)).toEqual([name])
      expect(await bus.metrics()).toContain(`"${name}"`)
    },
  )

  test.each(['ü€', ' a b ', 'a\r\nb: c', '100%', '%41', '\ud83d\ude00'])(
    'texts are kept as they are: %j',
    async (text) => {
      const bus = await openBus(newUrl())
      const queue = bus.queue('q')
      await queue.send('x', { id: text, key: text, headers: { [text]: text } })
      expect(await one(queue)).toMatchObject({ id: text, key: text, headers: { [text]: text } })
      expect(await queue.send('x', { id: text })).toEqual({ id: text, duplicate: true })
    },
  )

  test('who waits hears of priorities, keys and delays that others use first', async () => {
    const url = newUrl()
    const [from, to] = [await openBus(url), await openBus(url)]
    for (const options of [{}, { priority: 9 }, { key: 'k' }, { delay: 30 }]) {
      const waiting = one(to.queue('q'))
      await sleep(20)
      await from.queue('q').send('x', options)
      await (await waiting).ack()
    }
    expect(await from.queue('q').stats()).toMatchObject({ ready: 0, leased: 0, delayed: 0, held: 0 })
  })

  test('a key has one consumer at a time, wherever it is, also while it is tried again', async () => {
    const url = newUrl()
    const [a, b] = [(await openBus(url)).queue('q'), (await openBus(url)).queue('q')]
    for (const body of [1, 2, 3]) await a.send(body, { key: 'k' })
    const first = await one(a)
    expect(await b.receive(nothing)).toEqual([])
    const waiting = one(b)
    await first.retry(50)
    const again = await waiting
    expect(again).toMatchObject({ body: 1, attempts: 1 })
    expect(await a.receive(nothing)).toEqual([])
    await again.ack()
    expect(await take(a, 2)).toEqual([2, 3])
  })

  test('a message with a key is found by who asks now and then, from far away', async () => {
    const url = newUrl()
    // Every word takes 40 ms.
    const wire = createServer((near) => {
      const far = createConnection(server.port, '127.0.0.1')
      near.on('data', (data) => setTimeout(() => far.write(data), 40))
      far.on('data', (data) => setTimeout(() => near.write(data), 40))
      for (const [socket, other] of [
        [near, far],
        [far, near],
      ] as const) {
        socket.on('error', () => {})
        socket.on('close', () => other.destroy())
      }
    }).listen(0, '127.0.0.1')
    onTestFinished(() => void wire.close())
    await once(wire, 'listening')
    const away = new URL(url)
    away.port = String((wire.address() as { port: number }).port)
    const queue = (await openBus(away.href)).queue('q')
    await (await openBus(url)).queue('q').send('x', { key: 'k' })
    let found = await queue.receive(nothing)
    for (; found.length === 0; found = await queue.receive(nothing)) await sleep(200)
    expect(found).toMatchObject([{ body: 'x' }])
  })

  test('what was delayed and has a key is behind others of its key', async () => {
    const bus = await openBus(newUrl())
    const queue = bus.queue('q')
    await queue.send('late', { key: 'k', delay: 3000 })
    await queue.send('first', { key: 'k' })
    const first = await one(queue)
    expect(first.body).toBe('first')
    await sleep(3100)
    expect(await queue.receive(nothing)).toEqual([])
    await first.ack()
    expect(await one(queue)).toMatchObject({ body: 'late', key: 'k' })
  })

  test('attempts are known to those who come later', async () => {
    const url = newUrl()
    const bus = await openBus(url)
    await bus.queue('q').send('x')
    await (await one(bus.queue('q'))).retry(0)
    await (await one(bus.queue('q'))).retry(0)
    await bus.close()
    const other = await openBus(url)
    const message = await one(other.queue('q'))
    expect(message).toMatchObject({ attempts: 2, losses: 0 })
    await message.ack()
  })

  test('a handler may take longer than the server waits', async () => {
    const bus = await openBus(newUrl('&lease=4000'))
    const queue = bus.queue('q')
    await queue.send('slow')
    const done = deferred()
    let calls = 0
    const consumer = queue.consume(async () => {
      calls++
      await sleep(9000)
      done.resolve()
    })
    await done.promise
    await consumer.close()
    expect(calls).toBe(1)
    expect(await queue.stats()).toMatchObject({ ready: 0, leased: 0, dead: 0 })
  })

  test('a process that says nothing for too long has lost its message, and knows', async () => {
    const url = newUrl('&lease=400')
    const bus = await openBus(url)
    await bus.queue('q').send('x')
    const message = await one(bus.queue('q'))
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1000)
    await expect(message.ack()).rejects.toMatchObject({ code: 'ERR_BUS_LEASE_LOST' })
    expect(await take(bus.queue('q'), 1)).toEqual(['x'])
  })

  test('a message that kills its consumers is known for it, and dies in the end', async () => {
    const url = newUrl('&lease=300')
    const bus = await openBus(url)
    const queue = bus.queue('q')
    await queue.send('die')
    const losses: unknown[] = []
    while ((await queue.stats()).dead === 0) {
      const worker = startBus(url, 'consume', {})
      for (;;) {
        const line = await worker.line().catch(() => undefined)
        if (line === undefined) break
        const said = JSON.parse(line) as { losses?: number } | string
        if (typeof said === 'object') losses.push(said.losses)
        // It was buried before it could do harm.
        if (said === 'consumes' && losses.length > 4) {
          while ((await queue.stats()).dead === 0) await sleep(20)
          worker.kill('SIGKILL')
        }
      }
    }
    expect(losses).toEqual([0, 0, 1, 2, 3])
    const { letters } = await queue.dead.list()
    expect(letters).toMatchObject([{ body: 'die', reason: '4 consumers were lost over it', losses: 4 }])
  })

  test('a process that waits for nothing ends, with its bus open', async () => {
    const url = newUrl()
    expect(await startBus(url, 'leave', { count: 3, exit: false }).outcome).toMatchObject({ code: 0, stdout: '3\n' })
    expect(await startBus(url, 'post', 'posted').outcome).toMatchObject({ code: 0 })
    const bus = await openBus(url)
    expect(await take(bus.queue('q'), 4)).toEqual(['x', 'x', 'x', 'posted'])
  })

  test('a process ends when nobody waits any more, also while its server is away', async () => {
    const away = await startServer('nats')
    onTestFinished(() => away.close())
    // Longer than it takes to look again.
    const child = startBus(away.url, 'leave', { count: 1, receives: true, after: 3000 })
    expect(await child.line()).toBe('1')
    await away.kill()
    const late = new Promise((resolve) => setTimeout(() => resolve('does not end'), 20_000))
    expect(await Promise.race([child.outcome, late])).toMatchObject({ code: 0 })
  })

  test('a bus is closed although its server says nothing', async () => {
    const silent = await startServer('nats')
    onTestFinished(() => silent.close())
    const bus = await openBus(silent.url)
    await bus.queue('q').send('x')
    silent.pause()
    onTestFinished(() => silent.resume())
    expect(await Promise.race([bus.close(), sleep(10_000, 'does not end')])).toBe(undefined)
  })

  test('who waits until the server has heard all hears that the connection was lost before', async () => {
    const wire = await wireTo(server.port)
    onTestFinished(() => wire.close())
    const url = new URL(`nats://127.0.0.1:${wire.port}`)
    const link = await Link.open(url, addressOf(url))
    onTestFinished(() => link.close())
    wire.mute()
    const flushed = link.flush()
    wire.cut()
    await expect(flushed).rejects.toThrow('the connection was lost')
  })

  test.each([
    ['CONSUMER.INFO', 'has just begun'],
    ['CONSUMER.MSG.NEXT', 'asks for more'],
  ])('a consumer is closed that waits for an answer to %s', async (call, when) => {
    const wire = await wireTo(server.port)
    onTestFinished(() => wire.close())
    const url = new URL(newUrl('&timeout=600000'))
    url.port = String(wire.port)
    const queue = (await openBus(url.href)).queue('q')
    await queue.send('x')
    if (when === 'asks for more') expect(await take(queue, 1)).toEqual(['x'])
    const { connection } = await bare()
    const asked = connection.subscribe(`$JS.API.${call}.${prefixOf(url.href)}=q.>`, { max: 1 })
    await connection.flush()
    wire.mute()
    // Nobody listens there.
    wire.turn(1)
    const consumer = queue.consume(() => {})
    for await (const _ of asked) break
    await consumer.close()
  })

  test('a request is answered by another process, and what a killed one had borrowed goes with it', async () => {
    const url = newUrl()
    const bus = await openBus(url)
    bus.queue('q').consume(({ body }) => `re: ${body}`)
    expect(await startBus(url, 'request', 'hello').outcome).toMatchObject({ stdout: '"re: hello"\n' })
    const other = await openBus(url)
    await other.topic('t').subscribe(undefined, () => {})
    expect(await bus.topic('t').publish('x')).toBe(1)
    await other.close()
    expect(await bus.topic('t').publish('x')).toBe(0)
  })
})

await describeEngine('nats', (_, server) => {
  test('a server that says nothing is waited for no longer than the URL says', async () => {
    const silent = await startServer('nats')
    onTestFinished(() => silent.close())
    const queue = (await openBus(`${silent.url}?timeout=2000`)).queue('q')
    await queue.send('x')
    silent.pause()
    onTestFinished(() => silent.resume())
    const first = queue.send('y').catch(({ code }) => code)
    // One answer is waited for 5 s.
    expect(await Promise.race([first, sleep(4500)])).toBe('ERR_BUS_CONNECTION')
  })

  test('a message is not ours any more that cannot be acknowledged for as long as the URL says', async () => {
    const wire = await wireTo(server.port)
    onTestFinished(() => wire.close())
    const patient = await openBus(`${server.url}?prefix=patience`)
    for (const absent of [wire.cut, wire.mute]) {
      const bus = await openBus(`nats://127.0.0.1:${wire.port}?prefix=patience&lease=600000&timeout=2000`)
      await patient.queue('q').send('x')
      const message = await one(bus.queue('q'))
      absent()
      await expect(message.ack()).rejects.toMatchObject({ code: 'ERR_BUS_LEASE_LOST' })
      await bus.close()
      wire.mend()
    }
  })

  test('a server that is away is waited for, and not for ever', async () => {
    const bus = await openBus(`${server.url}?timeout=2000`)
    const patient = await openBus(server.url)
    const queue = bus.queue('q')
    const seen: unknown[] = []
    const all = deferred()
    const consumer = patient.queue('q').consume(({ body }) => {
      seen.push(body)
      // What a killed server had handed out comes again when it is missed, which may be after what was sent later.
      if (seen.includes('before') && seen.includes('after')) all.resolve()
    })
    const heard = deferred<unknown>()
    await patient.topic('t').subscribe(undefined, ({ body }) => heard.resolve(body))
    await patient.queue('q').send('before')
    await queue.stats()
    await server.kill()
    const waiting = patient.queue('other').send('waited')
    await expect(queue.send('x')).rejects.toMatchObject({
      code: 'ERR_BUS_CONNECTION',
      path: `127.0.0.1:${server.port}`,
    })
    await server.start()
    await waiting
    await patient.queue('q').send('after')
    await all.promise
    await consumer.close()
    while ((await patient.topic('t').publish('still there')) === 0) await sleep(10)
    expect(await heard.promise).toBe('still there')
    expect(await take(patient.queue('other'), 1)).toEqual(['waited'])
  })
})

await describeEngine('nats', () => {
  test('a consumer that waits for a message that is gone, because its server was killed, is made anew', async () => {
    const directory = mkdtempSync(join(tmpdir(), 'kernelmq-nats-'))
    const server = await startServer('nats', ['-sd', directory])
    onTestFinished(async () => {
      await server.close()
      rmSync(directory, { recursive: true, force: true })
    })
    const files = join(directory, 'jetstream', '$G', 'streams', 'kmq=q')
    const bus = await openBus(server.url)
    const queue = bus.queue('q')
    // The server forgets what it waits for only where nothing older is left.
    await queue.send('old', { delay: 3_600_000 })
    await queue.send(1, { key: 'k' })
    const [lane = ''] = readdirSync(join(files, 'obs')).filter((name) => name.startsWith('k'))
    const state = join(files, 'obs', lane, 'o.dat')
    const read = () => (existsSync(state) ? readFileSync(state) : Buffer.alloc(0))
    const before = read()
    const first = await one(queue)
    expect(first.body).toBe(1)
    let waiting = before
    while (waiting.length === 0 || waiting.equals(before)) {
      await sleep(10)
      waiting = read()
    }
    await first.ack()
    // What it knows is on its disk then; a killed one may know that the message is gone, and still wait for it.
    await server.kill('SIGTERM')
    writeFileSync(state, waiting)
    await server.start()
    await queue.send(2, { key: 'k' })
    // Of what was acknowledged last some comes again.
    while (!(await take(queue, 1)).includes(2)) {}
  })
})

await describeEngine('nats', () => {
  /** A server with an own directory, and what of it is a queue's stream. */
  async function startStored() {
    const directory = mkdtempSync(join(tmpdir(), 'kernelmq-nats-'))
    const server = await startServer('nats', ['-sd', directory])
    onTestFinished(async () => {
      await server.close()
      rmSync(directory, { recursive: true, force: true })
    })
    /** It comes back without the messages of the queue, and gives their sequences to others: so may one that was killed. */
    const regress = async () => {
      await server.kill('SIGTERM')
      const messages = join(directory, 'jetstream', '$G', 'streams', 'kmq=q', 'msgs')
      for (const name of readdirSync(messages)) rmSync(join(messages, name))
      await server.start()
    }
    return { server, regress }
  }

  test('an acknowledgement that is told again removes no message that has the sequence of a forgotten one', async () => {
    const { server, regress } = await startStored()
    const wire = await wireTo(server.port)
    onTestFinished(() => wire.close())
    const queue = (await openBus(`nats://127.0.0.1:${wire.port}?lease=300000&timeout=300000`)).queue('q')
    const other = (await openBus(server.url)).queue('q')
    await other.send('done')
    const message = await one(queue)
    wire.mute()
    const acknowledged = message.ack()
    while ((await other.browse()).messages.length > 0) await sleep(10)
    wire.cut()
    await regress()
    await other.send('new')
    wire.mend()
    await acknowledged
    expect((await other.browse()).messages).toMatchObject([{ body: 'new' }])
  })

  test.each([{}, { key: 'k' }])(
    'a consumer that has handed out more than its stream ever had is made anew before anything is sent: %o',
    async (options) => {
      const { server, regress } = await startStored()
      const queue = (await openBus(server.url)).queue('q')
      const connection = await connectTo({ servers: server.url, waitOnFirstConnect: true, maxReconnectAttempts: -1 })
      onTestFinished(() => connection.close())
      /** The sequence of what its consumer has handed out last. */
      const delivered = async () => {
        const asked = await connection.request('$JS.API.CONSUMER.LIST.kmq=q').catch(() => undefined)
        const { consumers } = asked?.json<{ consumers?: { name: string; delivered: { stream_seq: number } }[] }>() ?? {}
        return consumers?.find(({ name }) => name.startsWith('key' in options ? 'k' : 'p'))?.delivered.stream_seq
      }
      await queue.send('before', options)
      expect(await take(queue, 1)).toEqual(['before'])
      await regress()
      const coming = take(queue, 1)
      while ((await delivered()) !== 0) await sleep(50)
      await queue.send('after', options)
      expect(await coming).toEqual(['after'])
    },
  )
})

test('a token that stands in place of a user is not shown', async () => {
  const url = 'nats://t0ken@localhost:1?prefix=a/b'
  await expect(connect(url)).rejects.toThrow("Received 'nats://***@localhost:1?prefix=a/b'")
})

test('headers are read, too, when the client does not show their bytes', () => {
  const headers = newHeaders()
  headers.append('kind', '%C3%A9')
  headers.append('kind', 'the second of a name')
  expect(fieldsOf({ headers } as Msg)).toEqual({ kind: 'é' })
  expect(fieldsOf({} as Msg)).toEqual({})
})

test('a server is asked again for consumers of which it only knows that they are there', async () => {
  const p0 = { name: 'p0', config: {} }
  const answers: unknown[] = [{ total: 2, consumers: [p0, null] }, { total: 1, consumers: [p0] }, { type: 'x' }, p0]
  const link = { api: async () => answers.shift() } as unknown as Link
  expect(await consumersOf('s', link)).toEqual([p0])
  expect(await consumerOf('s', 'p0', link)).toEqual(p0)
  expect(answers).toEqual([])
})

test('a consumer is made again while others remove it, until it is there', async () => {
  const gone = new ApiError({ err_code: 10_014, description: 'consumer not found' })
  const failed = new ApiError({ err_code: 10_012, description: 'open meta.inf: no such file or directory' })
  const answers: unknown[] = [gone, failed, gone, { type: 'x' }, gone, { config: {} }]
  const told: string[] = []
  const link = {
    api() {
      const answer = answers.shift()
      return answer instanceof Error ? Promise.reject(answer) : Promise.resolve(answer)
    },
    tell: (_: string, name: string) => told.push(name),
  }
  const lane = await Lane.open('p0', { link, stream: 's', root: 's', news: 'news', lease: 1000 } as unknown as LaneOf)
  expect(lane.hands.lease).toBe(1000)
  expect(told).toEqual(['p0'])
  expect(answers).toEqual([])
})

test('an answer that comes when it is not waited for any more tells that nothing is asked for, and ends no other look', async () => {
  const subscribed: { subject: string; callback(message: Msg): void }[] = []
  const replies: string[] = []
  const stood: boolean[] = []
  const link = {
    client: { createInbox: () => 'inbox' },
    api: async () => ({ name: 'k1', config: { ack_wait: 30_000_000_000 } }),
    subscribe: (subject: string, callback: (message: Msg) => void) => subscribed.push({ subject, callback }),
    tell: (_: string, __: string, reply: string) => replies.push(reply),
    roundTrip: 0,
  }
  /** Tells what was asked for in this place; a message has a subject of its own. */
  const answer = (at: number, message: Partial<Msg>) => {
    const to = replies[at] as string
    const isOf = (subject: string) =>
      subject === to || (subject.endsWith('.*') && to.slice(0, to.lastIndexOf('.')) === subject.slice(0, -2))
    subscribed.find(({ subject }) => isOf(subject))?.callback({ subject: to, ...message } as Msg)
  }
  const none = { headers: { code: 404 } } as Partial<Msg>
  const receiver = { beat: () => 0, came() {}, stand: () => void stood.push(lane.stands), mend: async () => {} }
  const of = { link, stream: 's', root: 's', lease: 30_000, clock: systemClock, receiver }
  const lane = await Lane.open('k1' as LaneName, of as unknown as LaneOf)
  expect(await lane.take(1)).toEqual([])
  // Somebody else seems to have the one message.
  expect(lane.stands).toBe(true)
  answer(0, none)
  expect(lane.stands).toBe(false)
  await expect.poll(() => stood).toEqual([false])
  expect(await lane.take(1)).toEqual([])
  lane.anew()
  const looked = lane.take(1)
  await null
  answer(1, none)
  const reply = '$JS.ACK.s.k1.1.42.7.1767225600123456789.5'
  answer(2, { subject: 's.k.1', reply, data: Buffer.from('x') })
  expect(await looked).toMatchObject([{ body: Buffer.from('x') }])
  lane.hands.forget()
})

test('a consumer in a cluster that is some messages ahead of what the leader of its stream tells is left alone', async () => {
  let last = 0
  const asked: string[] = []
  const link = {
    async api(call: string) {
      asked.push(call.slice(0, call.indexOf('.s')))
      if (call.startsWith('STREAM.MSG')) throw new ApiError({ err_code: 10_037, description: 'no message found' })
      if (call.startsWith('STREAM')) return { state: { last_seq: ++last } }
      const delivered = { stream_seq: last + 20, consumer_seq: last + 20 }
      return {
        created: 'x',
        config: { ack_wait: 0 },
        num_pending: 0,
        num_ack_pending: 0,
        delivered,
        ack_floor: delivered,
      }
    },
    tell() {},
  }
  const lane = await Lane.open('p0', { link, stream: 's', root: 's', lease: 1000 } as unknown as LaneOf)
  for (let looks = 0; looks < 5; looks++) expect(await lane.search()).toBe(false)
  expect(asked).not.toContain('CONSUMER.DELETE')
})

test('a message of which cannot be found out what it has been through is given back, to come soon', async () => {
  const told: string[][] = []
  const link = { tell: (...words: string[]) => void told.push(words) }
  const notes = { get: () => Promise.reject(new Error('no answer')) }
  const hands = new Hands('p0', 30_000, { link, notes, queue: 'q', stream: 's' } as unknown as HandsOf)
  const reply = '$JS.ACK.s.p0.2.42.7.1767225600123456789.5'
  expect(await hands.admit({ reply, data: Buffer.from('x') } as unknown as Msg, performance.now())).toBe(undefined)
  expect(told).toEqual([[reply, '-NAK {"delay": 1000000000}']])
  expect(hands.isEmpty).toBe(true)
})

test('a server that may have forgotten something is searched once more if it is lost meanwhile, and now and then', async () => {
  vi.useFakeTimers({ toFake: ['setInterval', 'performance'] })
  onTestFinished(() => void vi.useRealTimers())
  const answers: Record<string, object> = {
    'STREAM.INFO': { config: { duplicate_window: 1 }, state: { messages: 0, last_seq: 0 } },
    'CONSUMER.LIST': { consumers: [{ name: 'p0' }], total: 1 },
    'CONSUMER.INFO': { config: {}, num_ack_pending: 0, delivered: { stream_seq: 0 }, ack_floor: { stream_seq: 0 } },
  }
  const subscriptions = new Map<string, (message: Msg) => void>()
  let connected = () => {}
  let searches = 0
  const link = {
    client: { createInbox: () => 'inbox' },
    isConnected: true,
    hold() {},
    subscribe: (subject: string, callback: (message: Msg) => void) => subscriptions.set(subject, callback),
    tell(_: string, body: string, reply = '') {
      if (body.includes('no_wait'))
        subscriptions.get(reply.replace(/\d+$/, '*'))?.({ subject: reply, headers: { code: 404 } } as Msg)
    },
    onConnection(callback: () => void) {
      connected = callback
      return () => {}
    },
    async api(call: string, query?: { next_by_subj?: string }) {
      const answer = answers[call.split('.', 2).join('.')]
      if (answer !== undefined) return answer
      // What was delayed is what a search asks for last.
      if (query?.next_by_subj === 'kmq.q.d.>' && ++searches === 1) connected()
      throw new ApiError({ err_code: 10_037, description: 'no message found' })
    },
  } as unknown as Link
  const settings = {
    prefix: 'kmq',
    lease: 30_000,
    replicas: 1,
    link,
    notes: {},
    clock: {},
  } as unknown as StreamSettings
  const stream = new Stream('q', settings)
  const options = { max: 1, deadline: Number.POSITIVE_INFINITY, signal: undefined, lease: 0, together: false }
  const waiting = stream.receive(options)
  const after: number[] = []
  for (const seconds of [3, 2, 30, 30, 2]) {
    await vi.advanceTimersByTimeAsync(seconds * 1000)
    after.push(searches)
  }
  expect(after).toEqual([1, 2, 2, 3, 3])
  stream.close()
  await expect(waiting).rejects.toMatchObject({ code: 'ERR_MQ_CLOSED' })
})

test.each([
  '$JS.ACK.kmq=q.p0.3.42.7.1767225600123456789.5',
  '$JS.ACK.hub.Xq7.kmq=q.p0.3.42.7.1767225600123456789.5.r4',
])('the place of a message is read from %s', (reply) => {
  expect(placeOf({ reply } as Msg)).toEqual({ count: 3, sequence: 42, time: 1_767_225_600_123 })
})
