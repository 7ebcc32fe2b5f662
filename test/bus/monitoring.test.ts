import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { type BusEvent, ManualClock } from 'kernelmq/bus'
import { expect, onTestFinished, test } from 'vitest'
import { newBus, one } from './support.ts'

test('the statistics tell what is in a queue, and what this process has done', async () => {
  const clock = new ManualClock(1000)
  const queue = (await newBus('memory', { clock })).queue('q')
  await queue.sendMany([
    { body: 1 },
    { body: 2 },
    { body: 3, delay: 5000 },
    { body: 4, key: 'k' },
    { body: 5, key: 'k' },
  ])
  clock.advance(250)
  const messages = await queue.receive({ max: 10 })
  await messages[0]?.ack()
  await messages[1]?.dead('enough')
  expect(await queue.stats()).toEqual({
    ready: 0,
    leased: 1,
    delayed: 1,
    held: 1,
    bytes: 3,
    oldest: undefined,
    dead: 1,
    totals: { sent: 5, received: 3, acknowledged: 1, retried: 0, dead: 1 },
    rates: { sent: 5 / 60, received: 3 / 60, acknowledged: 1 / 60, retried: 0, dead: 1 / 60 },
    latency: {
      p50: expect.closeTo(250, 0),
      p90: expect.closeTo(250, 0),
      p99: expect.closeTo(250, 0),
      max: expect.closeTo(250, 0),
    },
  })
  await messages[2]?.release()
  expect(await queue.stats()).toMatchObject({ ready: 1, oldest: 1000 })
})

test('channels tell of each message', async () => {
  const events: unknown[] = []
  for (const name of ['sent', 'received', 'acknowledged', 'retried', 'dead']) {
    const hear = (event: unknown) => void events.push({ name, ...(event as object) })
    subscribe(`kernelmq:bus:${name}`, hear)
    onTestFinished(() => void unsubscribe(`kernelmq:bus:${name}`, hear))
  }
  const queue = (await newBus('memory')).queue('q')
  await queue.send('x', { id: 'i' })
  await (await one(queue)).retry(0)
  await (await one(queue)).dead('enough')
  await queue.dead.redrive()
  await (await one(queue)).ack()
  const about = { queue: 'q', ids: ['i'] }
  expect(events).toEqual([
    { name: 'sent', ...about },
    { name: 'received', ...about },
    { name: 'retried', ...about },
    { name: 'received', ...about },
    { name: 'dead', ...about, reason: 'enough' },
    { name: 'received', ...about },
    { name: 'acknowledged', ...about },
  ])
})

test.each(['memory', 'local', 'mq', 'sysv'] as const)(
  '%s: what is published counts for each queue, a reply is told',
  async (scheme) => {
    const bus = await newBus(scheme)
    const [a, b] = [bus.queue('a'), bus.queue('b')]
    const sent: BusEvent[] = []
    const hear = (event: unknown) => void sent.push(event as BusEvent)
    subscribe('kernelmq:bus:sent', hear)
    onTestFinished(() => void unsubscribe('kernelmq:bus:sent', hear))
    for (const queue of ['a', 'b']) await bus.topic('t').bind(queue)
    await bus.topic('t').subscribe(undefined, () => {})
    await bus.topic('t').publish('x', { headers: {} })
    const totals = async () => [(await a.stats()).totals.sent, (await b.stats()).totals.sent]
    expect(await totals()).toEqual([1, 1])
    expect(sent.map(({ queue }) => queue)).toEqual(
      expect.arrayContaining(['a', 'b', expect.stringMatching(/^borrowed/)]),
    )
    const [id] = (sent[0] as BusEvent).ids
    expect(sent.map(({ ids }) => ids)).toEqual([[id], [id], [id]])
    await (await one(a)).ack()
    a.consume(() => 'pong')
    sent.length = 0
    expect(await a.request('ping')).toBe('pong')
    await expect.poll(() => sent.map(({ queue }) => queue.split('/')[0])).toEqual(['a', 'borrowed'])
    const failing = bus.queue('failing', { retry: { max: 0 } })
    failing.consume(() => Promise.reject(new Error('no')))
    sent.length = 0
    await expect(failing.request('ping')).rejects.toThrow('no')
    await expect.poll(() => sent.map(({ queue }) => queue.split('/')[0])).toEqual(['failing', 'borrowed'])
  },
)

test.each(['memory', 'local'] as const)('%s: what is sent with an acknowledgement counts as sent', async (scheme) => {
  const bus = await newBus(scheme)
  const [a, b] = [bus.queue('a'), bus.queue('b')]
  await a.send('x')
  await (await one(a)).ack({ send: [await b.prepare('y'), await b.prepare('z')] })
  expect((await b.stats()).totals).toMatchObject({ sent: 2 })
  expect((await a.stats()).totals).toMatchObject({ sent: 1, acknowledged: 1 })
})

test('the metrics are those of all queues, as Prometheus reads them', async () => {
  const clock = new ManualClock(0)
  const bus = await newBus('memory', { clock })
  await bus.queue('a').send('four')
  await bus.queue('b').send('x', { delay: 1 })
  clock.advance(1500)
  const text = await bus.metrics()
  expect(text.split('\n').filter((line) => line.startsWith('#'))).toHaveLength(8)
  expect(text).toContain('# TYPE kernelmq_messages gauge\nkernelmq_messages{queue="a",state="ready"} 1\n')
  for (const line of [
    'kernelmq_messages{queue="b",state="delayed"} 1',
    'kernelmq_bytes{queue="a"} 4',
    'kernelmq_oldest_seconds{queue="a"} 1.5',
    'kernelmq_oldest_seconds{queue="b"} 0',
    'kernelmq_events_total{queue="a",event="sent"} 1',
  ]) {
    expect(text.split('\n')).toContain(line)
  }
  for (const line of text.trimEnd().split('\n')) expect(line).toMatch(/^(#|\w+\{[^}]*\} [\d.]+$)/)
})
