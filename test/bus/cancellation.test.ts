// Requests that their senders give up: their handlers hear of it, wherever they run.
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Bus, type BusEvent, type HandlerContext, ManualClock, type Message } from 'kernelmq/bus'
import { describe, expect, onTestFinished, test } from 'vitest'
import { Cancellations } from '../../lib/bus/cancellations.ts'
import type { Transport } from '../../lib/bus/transport.ts'
import { openMemory } from '../../lib/bus/transports/memory.ts'
import { fixture, start } from '../support.ts'
import { deferred, newBus, openBus, temporaryDirectory } from './support.ts'

const aborted = (signal: AbortSignal) =>
  new Promise<unknown>((resolve) => {
    if (signal.aborted) resolve(signal.reason)
    else signal.addEventListener('abort', () => resolve(signal.reason))
  })

const CANCELLED = { name: 'QueueError', code: 'ERR_BUS_CANCELLED' }

/** Nothing is left of a message of `q`: neither to be received, nor to be tried again, nor dead. */
async function gone(bus: Bus): Promise<void> {
  for (;;) {
    const { ready, leased, delayed, held, dead, totals } = await bus.queue('q').stats()
    expect({ dead, retried: totals.retried }).toEqual({ dead: 0, retried: 0 })
    if (ready + leased + delayed + held === 0) return
    await sleep(1)
  }
}

/** Where the handler is, and where the requester: the same bus, or two of one directory. */
const places: [string, () => Promise<{ asker: Bus; worker: Bus }>][] = [
  [
    'memory:',
    async () => {
      const bus = await newBus('memory')
      return { asker: bus, worker: bus }
    },
  ],
  [
    'local:, on two buses',
    async () => {
      const url = `local:${temporaryDirectory()}`
      return { asker: await openBus(url), worker: await openBus(url) }
    },
  ],
]

describe.each(places)('%s', (_, open) => {
  describe('a request that is given up', () => {
    test('aborts its handler, is not tried again, and gets no reply', async () => {
      const { asker, worker } = await open()
      const controller = new AbortController()
      const [begun, heard] = [deferred(), deferred<unknown>()]
      let calls = 0
      worker.queue('q', { retry: { base: 1 } }).consume(async (_, { signal }) => {
        calls++
        begun.resolve()
        const reason = await aborted(signal)
        heard.resolve(reason)
        throw reason
      })
      const request = asker.queue('q').request('x', { signal: controller.signal })
      await begun.promise
      controller.abort('enough')
      await expect(request).rejects.toMatchObject({ code: 'ABORT_ERR', cause: 'enough' })
      expect(await heard.promise).toMatchObject(CANCELLED)
      await gone(worker)
      expect(calls).toBe(1)
    })

    test('whose handler does not care is acknowledged when that has ended, and its result goes nowhere', async () => {
      const { asker, worker } = await open()
      const controller = new AbortController()
      const [begun, heard, go, signal] = [deferred(), deferred(), deferred(), deferred<AbortSignal>()]
      const replies: string[] = []
      const onReceived = (event: unknown) => {
        const { queue } = event as BusEvent
        if (queue.startsWith('borrowed/')) replies.push(queue)
      }
      subscribe('kernelmq:bus:received', onReceived)
      onTestFinished(() => void unsubscribe('kernelmq:bus:received', onReceived))
      const handler = async ({ body }: Message, context: HandlerContext) => {
        if (body === 'attentive') {
          begun.resolve()
          await aborted(context.signal)
          return heard.resolve()
        }
        await go.promise
        signal.resolve(context.signal)
        return 'late'
      }
      const consumer = worker.queue('q').consume(handler, { concurrency: 2 })
      const options = { signal: controller.signal }
      const requests = ['careless', 'attentive'].map((body) => asker.queue('q').request(body, options))
      const settled = Promise.allSettled(requests)
      await begun.promise
      controller.abort()
      expect((await settled).map(({ status }) => status)).toEqual(['rejected', 'rejected'])
      await heard.promise
      // Before it has ended its message is nobody else's.
      while ((await worker.queue('q').stats()).totals.acknowledged === 0) await sleep(1)
      expect((await worker.queue('q').stats()).leased).toBe(1)
      go.resolve()
      // Who asks for it only now is told all the same.
      expect((await signal.promise).reason).toMatchObject(CANCELLED)
      await gone(worker)
      await consumer.close()
      worker.queue('other').consume(() => 'pong')
      expect(await asker.queue('other').request('ping')).toBe('pong')
      expect(replies).toHaveLength(1)
    })

    test('while it waits in its queue has no handler called, even if nobody had listened', async () => {
      const { asker, worker } = await open()
      const controller = new AbortController()
      const given = asker.queue('q').request('given up', { signal: controller.signal })
      while ((await asker.queue('q').stats()).ready === 0) await sleep(1)
      controller.abort()
      await expect(given).rejects.toMatchObject({ code: 'ABORT_ERR' })
      const wanted = asker.queue('q').request('wanted')
      const bodies: unknown[] = []
      worker.queue('q').consume(({ body }) => void bodies.push(body))
      expect(await wanted).toBe(null)
      expect(bodies).toEqual(['wanted'])
      await gone(worker)
    })

    test('is taken out of a batch', async () => {
      const { asker, worker } = await open()
      const controller = new AbortController()
      const given = asker.queue('q').request('given up', { signal: controller.signal })
      const wanted = asker.queue('q').request('wanted')
      while ((await asker.queue('q').stats()).ready < 2) await sleep(1)
      controller.abort()
      await expect(given).rejects.toMatchObject({ code: 'ABORT_ERR' })
      const bodies: unknown[] = []
      const handler = (messages: Message[]) => void bodies.push(...messages.map(({ body }) => body))
      worker.queue('q').consume(handler, { batch: 10 })
      expect(await wanted).toBe(null)
      expect(bodies).toEqual(['wanted'])
    })

    test('is one of a thousand of one signal, of which each handler hears', async () => {
      const { asker, worker } = await open()
      const controller = new AbortController()
      const [queue, begun, ended] = [worker.queue('q'), deferred(), deferred()]
      let [running, heard] = [0, 0]
      const handler = async (_: unknown, { signal }: HandlerContext) => {
        if (++running === 100) begun.resolve()
        expect(await aborted(signal)).toMatchObject(CANCELLED)
        if (++heard === 100) ended.resolve()
      }
      const consumer = queue.consume(handler, { concurrency: 100, prefetch: 0 })
      const requests = Array.from({ length: 1000 }, () => asker.queue('q').request('x', { signal: controller.signal }))
      const settled = Promise.allSettled(requests)
      await begun.promise
      while ((await queue.stats()).ready < 900) await sleep(1)
      controller.abort()
      expect(new Set((await settled).map(({ status }) => status))).toEqual(new Set(['rejected']))
      await ended.promise
      await gone(worker)
      expect([running, heard]).toEqual([100, 100])
      await consumer.close()
    })

    test('before it is sent does not stop others', async () => {
      const { asker, worker } = await open()
      const controller = new AbortController()
      const given = asker.queue('q').request('given up', { signal: controller.signal })
      controller.abort('at once')
      await expect(given).rejects.toMatchObject({ cause: 'at once' })
      worker.queue('q').consume(({ body }) => body)
      expect(await asker.queue('q').request('wanted')).toBe('wanted')
      await gone(worker)
    })
  })

  test('a handler that settled its message itself is told, and nothing is settled twice', async () => {
    const { asker, worker } = await open()
    const controller = new AbortController()
    const [begun, heard] = [deferred(), deferred<unknown>()]
    const consumer = worker.queue('q').consume(async (message, { signal }) => {
      await message.ack()
      begun.resolve()
      heard.resolve(await aborted(signal))
    })
    const request = asker.queue('q').request('x', { signal: controller.signal })
    await begun.promise
    controller.abort()
    await expect(request).rejects.toMatchObject({ code: 'ABORT_ERR' })
    expect(await heard.promise).toMatchObject(CANCELLED)
    await consumer.close()
  })

  test('a request in a namespace is answered and cancelled like any other, also where its quota is used up', async () => {
    const { asker, worker } = await open()
    const queue = asker.namespace('n', { maxMessages: 1 }).queue('q')
    const controller = new AbortController()
    const heard = deferred<unknown>()
    const everything: unknown[] = []
    await worker
      .namespace('n')
      .topic('#')
      .subscribe(undefined, ({ body }) => void everything.push(body))
    const begun = deferred()
    worker
      .namespace('n')
      .queue('q')
      .consume(async ({ body }, { signal }) => {
        if (body === 'quick') return body
        begun.resolve()
        return heard.resolve(await aborted(signal))
      })
    expect(await queue.request('quick')).toBe('quick')
    while ((await asker.namespace('n').stats()).messages > 0) await sleep(1)
    const request = queue.request('slow', { signal: controller.signal, correlationId: 'mine' })
    await begun.promise
    controller.abort()
    await expect(request).rejects.toMatchObject({ code: 'ABORT_ERR' })
    expect(await heard.promise).toMatchObject(CANCELLED)
    while ((await asker.namespace('n').stats()).messages > 0) await sleep(1)
    expect(everything).toEqual([])
  })

  test('a request whose bus is closed is cancelled, too', async () => {
    const { asker, worker } = await open()
    const [begun, heard] = [deferred(), deferred<unknown>()]
    worker.queue('q').consume(async (_, { signal }) => {
      begun.resolve()
      heard.resolve(await aborted(signal))
    })
    const request = expect(asker.queue('q').request('x')).rejects.toMatchObject({ code: 'ERR_MQ_CLOSED' })
    await begun.promise
    await asker.close()
    await request
    expect(await heard.promise).toMatchObject(CANCELLED)
  })

  test('nobody hears of cancellations who subscribes to everything', async () => {
    const { asker, worker } = await open()
    const controller = new AbortController()
    const [begun, heard, published] = [deferred(), deferred(), deferred()]
    const bodies: unknown[] = []
    const hear = ({ body }: Message) => {
      bodies.push(body)
      if (body === 'last') published.resolve()
    }
    await worker.topic('#').subscribe('all', hear)
    await worker.topic('*').subscribe(undefined, hear)
    worker.queue('q').consume(async (_, { signal }) => {
      begun.resolve()
      await aborted(signal)
      heard.resolve()
    })
    const request = asker.queue('q').request('x', { signal: controller.signal })
    await begun.promise
    controller.abort()
    await expect(request).rejects.toMatchObject({ code: 'ABORT_ERR' })
    await heard.promise
    expect(await asker.topic('t').publish('last')).toBe(2)
    await published.promise
    expect(new Set(bodies)).toEqual(new Set(['last']))
  })
})

test('a request that was given up is forgotten when its time is over', async () => {
  const clock = new ManualClock(0)
  const bus = await newBus('memory', { clock })
  const queue = bus.queue('q')
  const controller = new AbortController()
  const given = queue.request('x', { signal: controller.signal, timeout: 60_000 })
  while ((await queue.stats()).ready === 0) await sleep(1)
  controller.abort()
  await expect(given).rejects.toMatchObject({ code: 'ABORT_ERR' })
  clock.advance(60_001)
  queue.consume(({ body }) => body)
  expect(await queue.request('y')).toBe('y')
  expect(await queue.stats()).toMatchObject({ ready: 0, totals: { received: 1 } })
})

describe('a process', () => {
  const startBus = (url: string, what: string, argument: unknown = null) =>
    start(process.execPath, [fixture('bus.mjs'), url, what, JSON.stringify(argument)])

  test('hears of the cancellation of what it handles, and ends when it is through', async () => {
    const url = `local:${temporaryDirectory()}`
    const queue = (await openBus(url)).queue('q')
    const child = startBus(url, 'answer')
    expect(await child.line()).toBe('"consumes"')
    expect(await queue.request('quick')).toBe('quick')
    const controller = new AbortController()
    const request = queue.request('slow', { signal: controller.signal })
    expect([await child.line(), await child.line()]).toEqual(['"quick"', '"slow"'])
    controller.abort()
    await expect(request).rejects.toMatchObject({ code: 'ABORT_ERR' })
    expect(await child.line()).toBe('"ERR_BUS_CANCELLED"')
    expect(await child.outcome).toMatchObject({ code: 0, stderr: '' })
  })

  test('is held by a request that waits, and ends by itself when all are answered', async () => {
    const url = `local:${temporaryDirectory()}`
    const queue = (await openBus(url)).queue('q')
    const begun = deferred()
    const [ended, go] = [deferred<unknown>(), deferred()]
    queue.consume(async ({ body }) => {
      begun.resolve()
      await go.promise
      return body
    })
    const child = startBus(url, 'ask', 'x')
    void child.outcome.then(ended.resolve)
    await begun.promise
    // Nothing tells that a process goes on waiting.
    const first = await Promise.race([ended.promise, sleep(300, 'waits')])
    go.resolve()
    expect(first).toBe('waits')
    expect(await child.outcome).toMatchObject({ code: 0, stdout: '"x"\n', stderr: '' })
  })

  test('that is ended in good order cancels what it waits for', async () => {
    const url = `local:${temporaryDirectory()}`
    const bus = await openBus(url)
    const [begun, heard] = [deferred(), deferred<unknown>()]
    bus.queue('q').consume(async (_, { signal }) => {
      begun.resolve()
      heard.resolve(await aborted(signal))
    })
    const child = startBus(url, 'ask', 'x')
    await begun.promise
    process.kill(child.pid, 'SIGTERM')
    expect(await heard.promise).toMatchObject(CANCELLED)
    expect(await child.outcome).toMatchObject({ signal: 'SIGTERM', stdout: '"ERR_MQ_CLOSED"\n' })
    await gone(bus)
  })
})

describe('what was cancelled', () => {
  test('is told to more processes than messages are sent together', async () => {
    const clock = new ManualClock(0)
    const transport = openMemory(clock)
    onTestFinished(() => transport.close())
    const [asker, worker] = [new Cancellations(transport, clock), new Cancellations(transport, clock)]
    await worker.listen()
    for (let i = 0; i < 600; i++) await transport.bind({ pattern: '$cancelled', queue: `q${i}`, headers: {} })
    const heard = deferred<unknown>()
    worker.watch('x', heard.resolve)
    asker.cancel('x', 3_600_000)
    expect(await heard.promise).toMatchObject(CANCELLED)
  })

  const nowhere = { put: async () => {}, publish: async () => [] } as unknown as Transport
  const HOUR = 3_600_000

  test('is forgotten when its time is over, unless a handler runs for it', async () => {
    const clock = new ManualClock(0)
    const cancellations = new Cancellations(nowhere, clock)
    const leave = cancellations.watch('runs', () => {})
    for (const id of ['runs', 'old']) cancellations.cancel(id, 1000)
    await cancellations.sent()
    clock.advance(1001)
    for (let i = 0; i < 3000; i++) cancellations.cancel(`new ${i}`, HOUR)
    await cancellations.sent()
    const known = () => ['runs', 'old', 'new 0', 'new 2999'].map((id) => cancellations.has(id))
    expect(known()).toEqual([true, false, true, true])
    leave()
    for (let i = 0; i < 6000; i++) cancellations.cancel(`newer ${i}`, HOUR)
    await cancellations.sent()
    expect(known()).toEqual([false, false, true, true])
  })

  test('is forgotten before its time, the first first, where there is too much of it', async () => {
    const cancellations = new Cancellations(nowhere, new ManualClock(0))
    for (let i = 0; i < 300_000; i++) cancellations.cancel(String(i), HOUR)
    await cancellations.sent()
    const remembered = Array.from({ length: 300_000 }, (_, i) => cancellations.has(String(i))).indexOf(true)
    expect(remembered).toBeGreaterThan(50_000)
    expect(remembered).toBeLessThanOrEqual(200_000)
  })

  test('before a handler is watched aborts it at once', async () => {
    const cancellations = new Cancellations(nowhere, new ManualClock(0))
    cancellations.cancel('x', HOUR)
    await cancellations.sent()
    const reasons: unknown[] = []
    cancellations.watch('x', (reason) => reasons.push(reason))
    expect(reasons).toMatchObject([CANCELLED])
  })
})
