// What an operator asks of a bus: which queues there are, what is in them, and that it goes away.
import { existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type ConnectOptions, connect, encrypt } from 'kernelmq/bus'
import { describe, expect, test } from 'vitest'
import { newBus, nothing, one, openBus, schemes, take, temporaryDirectory, testOf } from './support.ts'

describe.each(schemes)('%s: a bus', (scheme) => {
  test('names its queues, sorted, and nothing of its own', async () => {
    const bus = await newBus(scheme)
    expect(await bus.queues()).toEqual([])
    await bus.queue('b').send('x')
    await bus.queue('a').send('x')
    await bus.topic('t').subscribe(undefined, () => {})
    expect(await bus.queues()).toEqual(['a', 'b'])
  })

  test('drops what can be received, and tells how many there were', async () => {
    const bus = await newBus(scheme)
    const queue = bus.queue('q')
    expect(await queue.purge()).toBe(0)
    for (let i = 0; i < 3; i++) queue.post(i)
    await queue.flush()
    expect(await queue.purge()).toBe(3)
    expect(await queue.receive(nothing)).toEqual([])
  })

  testOf(scheme, 'quotas')('names the queues of namespaces, too', async () => {
    const bus = await newBus(scheme)
    await bus.namespace('acme').queue('mail').send('x')
    await (await one(bus.namespace('acme').queue('mail'))).dead('no')
    expect(await bus.queues()).toEqual(['@acme/mail'])
  })

  testOf(
    scheme,
    'order',
    'delay',
  )('drops those behind their key, not those of others nor of later', async () => {
    const queue = (await newBus(scheme)).queue('q')
    await queue.send('taken')
    const taken = await one(queue)
    await queue.sendMany(Array.from({ length: 499 }, (_, i) => ({ body: i, key: i < 20 ? 'k' : `k${i}` })))
    for (let i = 0; i < 3; i++) await queue.send('and so on')
    // Who looks finds those that have to wait for others.
    for (const message of await queue.receive({ max: 500 })) await message.release()
    expect((await queue.stats()).held).toBe(19)
    await queue.send('later', { delay: 60_000 })
    expect(await queue.purge()).toBe(502)
    expect(await queue.stats()).toMatchObject({ ready: 0, leased: 1, delayed: 1, held: 0, dead: 0 })
    await taken.ack()
  })

  testOf(scheme, 'delay')('stops dropping when it is told to, and has lost nothing', async () => {
    const queue = (await newBus(scheme)).queue('q')
    await queue.send('x', { delay: 0 })
    await queue.send('later', { delay: 60_000 })
    await expect(queue.purge({ signal: AbortSignal.abort() })).rejects.toMatchObject({ name: 'AbortError' })
    expect(await queue.stats()).toMatchObject({ ready: 1, delayed: 1 })
  })

  testOf(
    scheme,
    'browse',
    'dedup',
    'order',
    'delay',
  )('shows what is in a queue, a page at a time, and leaves it there', async () => {
    const queue = (await newBus(scheme)).queue('q')
    await queue.send({ n: 1 }, { id: 'a', key: 'k', headers: { h: 'v' } })
    await queue.send('first', { id: 'b', priority: 3 })
    await queue.send(Buffer.from([1]), { id: 'c' })
    await queue.send('later', { delay: 60_000 })
    const { messages, next } = await queue.browse({ max: 2 })
    expect(messages).toEqual([
      about({ id: 'b', body: 'first', priority: 3 }),
      about({ id: 'a', body: { n: 1 }, key: 'k', headers: { h: 'v' } }),
    ])
    const rest = await queue.browse({ after: next as string })
    expect(rest).toEqual({ messages: [about({ id: 'c', body: Buffer.from([1]) })], next: undefined })
    expect(await take(queue, 3)).toEqual(['first', { n: 1 }, Buffer.from([1])])
    expect(await queue.browse()).toEqual({ messages: [], next: undefined })
  })
})

const about = (what: object) => ({
  key: undefined,
  priority: 0,
  headers: {},
  sentAt: expect.any(Date),
  attempts: 0,
  losses: 0,
  ...what,
})

test('what cannot be read is shown without its body, and dropped, not buried', async () => {
  const url = `local:${join(temporaryDirectory(), 'bus')}`
  const codecs = [encrypt({ keys: { k: Buffer.alloc(32, 1) }, current: 'k' })]
  await (await openBus(url, { codecs })).queue('q').send('secret', { id: 's' })
  const queue = (await openBus(url)).queue('q')
  expect((await queue.browse()).messages).toMatchObject([{ id: 's', body: undefined }])
  expect(await queue.purge()).toBe(1)
  expect(await queue.stats()).toMatchObject({ ready: 0, dead: 0 })
})

test('options of these are checked', async () => {
  const queue = (await newBus('memory')).queue('q')
  await expect(queue.browse({ max: 0 })).rejects.toMatchObject({ code: 'ERR_OUT_OF_RANGE' })
  await expect(queue.browse(5 as never)).rejects.toMatchObject({ code: 'ERR_INVALID_ARG_TYPE' })
  await expect(connect('memory:', { create: 1 as never })).rejects.toMatchObject({ code: 'ERR_INVALID_ARG_TYPE' })
})

describe.each(['local', 'mq', 'sysv'])('%s: a bus that is not to be made', (scheme) => {
  const file = scheme === 'local' ? 'bus.db' : `${scheme}/id`

  test('is not found, and not made', async () => {
    const parent = temporaryDirectory()
    const directory = join(parent, 'bus')
    const refused = {
      code: 'ERR_BUS_NOT_FOUND',
      path: directory,
      hint: `there is no ${join(directory, file)}`,
    }
    await expect(connect(`${scheme}:${directory}`, { create: false })).rejects.toMatchObject(refused)
    expect(existsSync(directory)).toBe(false)
    mkdirSync(directory)
    await expect(connect(`${scheme}:${directory}`, { create: false })).rejects.toMatchObject(refused)
    expect(readdirSync(directory)).toEqual([])
    writeFileSync(join(parent, 'file'), '')
    const beyond = connect(`${scheme}:${join(parent, 'file/bus')}`, { create: false })
    await expect(beyond).rejects.toMatchObject({ code: 'ERR_BUS_DIRECTORY' })
  })

  test.each<[string, ConnectOptions]>([
    ['signals', { signals: ['SIGTERM', 'SIGKILL'] }],
    ['signals', { signals: ['SIGNOT' as never] }],
    ['signals', { signals: 5 as never }],
    ['codecs', { codecs: 5 as never }],
    ['clock', { clock: {} as never }],
  ])('is not opened where its %s are wrong', async (what, options) => {
    const directory = join(temporaryDirectory(), 'bus')
    const listeners = process.listenerCount('SIGTERM')
    await expect(connect(`${scheme}:${directory}`, options)).rejects.toThrow(`"${what}" option`)
    expect(existsSync(directory)).toBe(false)
    expect(process.listenerCount('SIGTERM')).toBe(listeners)
  })

  test('is opened if it is there', async () => {
    const url = `${scheme}:${join(temporaryDirectory(), 'bus')}`
    await (await connect(url)).close()
    expect(await (await openBus(url, { create: false })).queues()).toEqual([])
  })
})
