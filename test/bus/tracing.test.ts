// Spans: what is sent and what is handled is one trace, over buses.
import Module from 'node:module'
import { context, propagation, SpanKind, SpanStatusCode, trace } from '@opentelemetry/api'
import { AsyncLocalStorageContextManager } from '@opentelemetry/context-async-hooks'
import { CompositePropagator, W3CBaggagePropagator, W3CTraceContextPropagator } from '@opentelemetry/core'
import {
  BasicTracerProvider,
  InMemorySpanExporter,
  type ReadableSpan,
  SimpleSpanProcessor,
} from '@opentelemetry/sdk-trace-base'
import { connect, type Message } from 'kernelmq/bus'
import { afterAll, beforeEach, describe, expect, test, vi } from 'vitest'
import { deferred, newBus, one, openBus, temporaryDirectory } from './support.ts'

const exporter = new InMemorySpanExporter()
const waiting = new Set<() => void>()
const notify = {
  forceFlush: async () => {},
  shutdown: async () => {},
  onStart() {},
  onEnd: () => waiting.forEach((look) => void look()),
}
trace.setGlobalTracerProvider(new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter), notify] }))
context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable())
propagation.setGlobalPropagator(
  new CompositePropagator({ propagators: [new W3CTraceContextPropagator(), new W3CBaggagePropagator()] }),
)

beforeEach(() => exporter.reset())
afterAll(() => {
  trace.disable()
  context.disable()
  propagation.disable()
})

/** The span of a name, as soon as it has ended. */
function span(name: string): Promise<ReadableSpan> {
  return new Promise((resolve) => {
    const look = () => {
      const found = exporter.getFinishedSpans().find((one) => one.name === name)
      if (found === undefined) return
      waiting.delete(look)
      resolve(found)
    }
    waiting.add(look)
    look()
  })
}

const names = () => exporter.getFinishedSpans().map(({ name }) => name)
const telemetry = { telemetry: true } as const

async function inSpan<R>(work: () => Promise<R>): Promise<R> {
  return trace.getTracer('test').startActiveSpan('caller', async (caller) => {
    try {
      return await work()
    } finally {
      caller.end()
    }
  })
}

test('sending and handling are one trace, over two buses, and what the handler does belongs to it', async () => {
  const url = `local:${temporaryDirectory()}`
  const [from, to] = [await openBus(url, telemetry), await openBus(url, telemetry)]
  const baggage = deferred<string | undefined>()
  to.queue('a').consume(async () => {
    baggage.resolve(propagation.getActiveBaggage()?.getEntry('tenant')?.value)
    trace.getTracer('test').startSpan('inner').end()
    await to.queue('b').send('on')
  })
  to.queue('b').consume(() => {})
  const tenant = propagation.createBaggage({ tenant: { value: 't1' } })
  await inSpan(() =>
    context.with(propagation.setBaggage(context.active(), tenant), () => from.queue('a').send('hello', { id: 'm1' })),
  )
  const [caller, send, process, inner, on, last] = await Promise.all(
    ['caller', 'send a', 'process a', 'inner', 'send b', 'process b'].map(span),
  )
  const chain = [caller, send, process, on, last]
  for (const [at, child] of chain.slice(1).entries()) {
    expect(child?.parentSpanContext?.spanId, child?.name).toBe(chain[at]?.spanContext().spanId)
    expect(child?.spanContext().traceId).toBe(caller?.spanContext().traceId)
  }
  expect(inner?.parentSpanContext?.spanId).toBe(process?.spanContext().spanId)
  expect(await baggage.promise).toBe('t1')
  const common = { 'messaging.system': 'kernelmq', 'messaging.destination.name': 'a', 'messaging.message.id': 'm1' }
  expect(send).toMatchObject({ kind: SpanKind.PRODUCER, status: { code: SpanStatusCode.UNSET } })
  expect(send?.attributes).toEqual({
    ...common,
    'messaging.operation.name': 'send',
    'messaging.operation.type': 'send',
    'messaging.message.body.size': 5,
  })
  expect(process).toMatchObject({ kind: SpanKind.CONSUMER, status: { code: SpanStatusCode.UNSET } })
  expect(process?.attributes).toEqual({
    ...common,
    'messaging.operation.name': 'process',
    'messaging.operation.type': 'process',
    'messaging.message.body.size': 5,
  })
})

describe.each(['memory', 'local'] as const)('%s:', (scheme) => {
  test('a handler that throws, and a send that is refused, are spans with an error', async () => {
    const bus = await newBus(scheme, telemetry)
    const queue = bus.queue('q', { retry: { max: 0 }, maxMessages: 1 })
    await queue.send('x')
    await expect(queue.send('y')).rejects.toMatchObject({ code: 'ERR_BUS_QUEUE_FULL' })
    queue.consume(() => {
      throw new RangeError('too far')
    })
    const process = await span('process q')
    expect(process).toMatchObject({
      status: { code: SpanStatusCode.ERROR, message: 'too far' },
      attributes: { 'error.type': 'RangeError' },
      events: [{ name: 'exception', attributes: { 'exception.type': 'RangeError', 'exception.message': 'too far' } }],
    })
    const refused = exporter.getFinishedSpans().filter(({ name }) => name === 'send q')[1]
    expect(refused).toMatchObject({
      status: { code: SpanStatusCode.ERROR },
      attributes: { 'error.type': 'ERR_BUS_QUEUE_FULL' },
    })
    expect(refused?.events).toHaveLength(1)
  })

  test('the span of a handler whose time is over ends with that', async () => {
    const bus = await newBus(scheme, telemetry)
    await bus.queue('q').send('x')
    const consumer = bus.queue('q').consume(() => new Promise(() => {}), { timeout: 5 })
    expect(await span('process q')).toMatchObject({ attributes: { 'error.type': 'ETIMEDOUT' } })
    await consumer.close()
  })

  test('a batch is one span, with links to all who sent it', async () => {
    const bus = await newBus(scheme, telemetry)
    const queue = bus.queue('q')
    await inSpan(() => queue.sendMany([{ body: 1 }, { body: 2 }]))
    await queue.send(3)
    const got = deferred<Message[]>()
    const consumer = queue.consume((messages) => got.resolve(messages), { batch: 10 })
    expect(await got.promise).toHaveLength(3)
    const process = await span('process q')
    const [many, single] = exporter.getFinishedSpans().filter(({ name }) => name === 'send q')
    expect(many?.attributes).toMatchObject({ 'messaging.batch.message_count': 2 })
    expect(many?.attributes).not.toHaveProperty('messaging.message.id')
    const idOf = (one: ReadableSpan | undefined) => one?.spanContext().spanId
    expect(process.links.map((link) => link.context.spanId)).toEqual([many, many, single].map(idOf))
    expect(process.parentSpanContext).toBe(undefined)
    expect(process.attributes).toMatchObject({ 'messaging.batch.message_count': 3 })
    await consumer.close()
  })

  test('a request is a span until its reply; that of its handler lies within', async () => {
    const bus = await newBus(scheme, telemetry)
    const queue = bus.queue<number>('q', { retry: { max: 0 } })
    queue.consume(({ body }) => {
      if (body < 0) throw new Error('negative')
      return Math.sqrt(body)
    })
    expect(await inSpan(() => queue.request(9))).toBe(3)
    const [caller, request, process] = await Promise.all(['caller', 'request q', 'process q'].map(span))
    expect(request?.parentSpanContext?.spanId).toBe(caller?.spanContext().spanId)
    expect(process?.parentSpanContext?.spanId).toBe(request?.spanContext().spanId)
    expect(request).toMatchObject({ kind: SpanKind.PRODUCER, attributes: { 'messaging.operation.type': 'send' } })
    const conversation = request?.attributes['messaging.message.conversation_id']
    expect(conversation).toMatch(/^[0-9a-f-]{36}$/)
    expect(process?.attributes['messaging.message.conversation_id']).toBe(conversation)
    // What the bus does for itself is not seen.
    expect(names().sort()).toEqual(['caller', 'process q', 'request q'])
    exporter.reset()
    await expect(queue.request(-1)).rejects.toThrow('negative')
    expect(await span('request q')).toMatchObject({ attributes: { 'error.type': 'ERR_BUS_REPLY' } })
  })

  test('a request that is given up says so in both spans', async () => {
    const bus = await newBus(scheme, telemetry)
    const controller = new AbortController()
    bus.queue('q').consume((_, { signal }) => {
      queueMicrotask(() => controller.abort())
      return new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()))
    })
    await expect(bus.queue('q').request('x', { signal: controller.signal })).rejects.toThrow('aborted')
    expect(await span('request q')).toMatchObject({ attributes: { 'error.type': 'ABORT_ERR' } })
    expect(await span('process q')).toMatchObject({ attributes: { 'error.type': 'ERR_BUS_CANCELLED' } })
  })

  test('what is published is in the trace of each who has subscribed', async () => {
    const bus = await newBus(scheme, telemetry)
    await bus.topic('t.*').subscribe('s', () => {})
    await bus.topic('#').subscribe(undefined, () => {})
    await bus.topic('t.x').publish('news')
    const [publish, named, own] = await Promise.all(['publish t.x', 'process s', 'process (anonymous)'].map(span))
    expect(publish?.attributes).toMatchObject({
      'messaging.destination.name': 't.x',
      'messaging.operation.name': 'publish',
      'messaging.operation.type': 'send',
    })
    for (const process of [named, own]) expect(process?.parentSpanContext?.spanId).toBe(publish?.spanContext().spanId)
    expect(own?.attributes).toMatchObject({ 'messaging.destination.anonymous': true })
  })

  test('what is sent with an acknowledgement belongs to the trace of its handler', async () => {
    const bus = await newBus(scheme, telemetry)
    const [orders, invoices] = [bus.queue('orders'), bus.queue('invoices')]
    orders.consume(async (message) => message.ack({ send: [await invoices.prepare('an invoice')] }))
    invoices.consume(() => {})
    await orders.send('an order')
    const [handling, create, last] = await Promise.all(
      ['process orders', 'create invoices', 'process invoices'].map(span),
    )
    expect(create?.parentSpanContext?.spanId).toBe(handling?.spanContext().spanId)
    expect(create?.attributes).toMatchObject({ 'messaging.operation.type': 'create' })
    expect(last?.parentSpanContext?.spanId).toBe(create?.spanContext().spanId)
  })

  test('what is received without a handler has no span, but the header of its sending', async () => {
    const bus = await newBus(scheme, telemetry)
    await bus.queue('q').send('x', { headers: { mine: 'kept' } })
    const { traceId, spanId } = (await span('send q')).spanContext()
    const message = await one(bus.queue('q'))
    expect(message.headers).toEqual({ mine: 'kept', traceparent: `00-${traceId}-${spanId}-01` })
    await message.ack()
    expect(names()).toEqual(['send q'])
  })

  test('without the option there are no spans and no headers', async () => {
    const bus = await newBus(scheme)
    await inSpan(() => bus.queue('q').send('x'))
    expect((await one(bus.queue('q'))).headers).toEqual({})
    expect(names()).toEqual(['caller'])
  })
})

test('where the package is missing, the error says how to install it; without the option it is not looked for', async () => {
  const load = vi.spyOn(Module as never as { _load: (name: string) => unknown }, '_load')
  load.mockImplementation((name) => {
    throw new Error(`Cannot find module '${name}'`)
  })
  try {
    await expect(connect('memory:', telemetry)).rejects.toMatchObject({
      code: 'ERR_BUS_NO_TELEMETRY',
      hint: 'npm install @opentelemetry/api@1',
    })
    expect(load).toHaveBeenCalledTimes(1)
  } finally {
    load.mockRestore()
  }
})

test('what is no answer is refused', async () => {
  await expect(connect('memory:', { telemetry: 'yes' as never })).rejects.toThrow('"telemetry" option must be true')
})
