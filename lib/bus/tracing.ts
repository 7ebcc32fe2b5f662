// Spans of OpenTelemetry, with the names and attributes of its conventions for messaging.
import { createRequire } from 'node:module'
import type * as api from '@opentelemetry/api'
import { QueueError } from '../errors.ts'
import type { Handler } from './consumer.ts'
import { CORRELATION, type Message } from './message.ts'
import { RPC } from './replies.ts'
import { BORROWED, type Outgoing } from './transport.ts'

type Api = typeof api

const PACKAGE = '@opentelemetry/api'

/** Notes messages in the span of their sending, and gives them the headers by which that is found again. */
export type Carry = (messages: readonly Outgoing[]) => Outgoing[]

function load(): Api {
  try {
    return createRequire(import.meta.url)(PACKAGE) as Api
  } catch (error) {
    const hint = `npm install ${PACKAGE}@1`
    throw Object.assign(new QueueError('ERR_BUS_NO_TELEMETRY', { syscall: 'connect', hint }), { cause: error })
  }
}

export class Tracing {
  readonly #api: Api
  readonly #tracer: api.Tracer

  /** @throws {QueueError} ERR_BUS_NO_TELEMETRY */
  constructor() {
    this.#api = load()
    this.#tracer = this.#api.trace.getTracer('kernelmq')
  }

  /** Calls `work` at once; the span ends with its promise. */
  async produce<R>(
    operation: 'send' | 'publish' | 'request' | 'create',
    destination: string,
    work: (carry: Carry) => Promise<R>,
  ): Promise<R> {
    const { SpanKind, context, propagation, trace } = this.#api
    const attributes = attributesOf(operation, operation === 'create' ? 'create' : 'send', destination)
    const span = this.#tracer.startSpan(`${operation} ${destination}`, { kind: SpanKind.PRODUCER, attributes })
    const within = trace.setSpan(context.active(), span)
    const carry: Carry = (messages) => {
      span.setAttributes(attributesOfMessages(messages))
      const headers = {}
      propagation.inject(within, headers)
      return messages.map((message) => ({ ...message, headers: { ...message.headers, ...headers } }))
    }
    try {
      return await work(carry)
    } catch (error) {
      this.#fail(span, error)
      throw error
    } finally {
      span.end()
    }
  }

  /** A handler within a span: of one message, in the trace of its sending; of a batch, with links to all of theirs. */
  handler<M>(queue: string, handler: Handler<M>): Handler<M> {
    const { ROOT_CONTEXT, SpanKind, context, propagation, trace } = this.#api
    const isOwn = queue.startsWith(BORROWED)
    const name = `process ${isOwn ? '(anonymous)' : queue}`
    const kind = SpanKind.CONSUMER
    const general = attributesOf('process', 'process', queue)
    if (isOwn)
      Object.assign(general, { 'messaging.destination.anonymous': true, 'messaging.destination.temporary': true })
    return async (received, handling) => {
      const isBatch = Array.isArray(received)
      const messages = (isBatch ? received : [received]) as Message[]
      const contexts = messages.map(({ headers }) => propagation.extract(ROOT_CONTEXT, headers))
      const parent = isBatch ? ROOT_CONTEXT : (contexts[0] ?? ROOT_CONTEXT)
      const links = isBatch ? contexts.flatMap((one) => trace.getSpanContext(one) ?? []) : []
      const attributes = {
        ...general,
        ...attributesOfMessages(messages.map(({ id, allHeaders, data }) => ({ id, headers: allHeaders, body: data }))),
        ...(isBatch && { 'messaging.batch.message_count': messages.length }),
      }
      const options = { kind, attributes, links: links.map((one) => ({ context: one })) }
      const span = this.#tracer.startSpan(name, options, parent)
      const { signal } = handling
      // Its time is over, or nobody waits for it: whatever it goes on to do is not of this attempt.
      const onAbort = () => {
        this.#fail(span, signal.reason)
        span.end()
      }
      if (signal.aborted) onAbort()
      else signal.addEventListener('abort', onAbort)
      try {
        return await context.with(trace.setSpan(parent, span), handler, undefined, received, handling)
      } catch (error) {
        this.#fail(span, error)
        throw error
      } finally {
        signal.removeEventListener('abort', onAbort)
        if (span.isRecording()) span.end()
      }
    }
  }

  #fail(span: api.Span, error: unknown): void {
    if (!span.isRecording()) return
    const {
      name,
      code = name,
      message = String(error),
    } = error instanceof Error ? (error as NodeJS.ErrnoException) : {}
    span.recordException(error instanceof Error ? error : message)
    span.setAttribute('error.type', code ?? '_OTHER')
    span.setStatus({ code: this.#api.SpanStatusCode.ERROR, message })
  }
}

function attributesOf(operation: string, type: string, destination: string): api.Attributes {
  return {
    'messaging.system': 'kernelmq',
    'messaging.operation.name': operation,
    'messaging.operation.type': type,
    'messaging.destination.name': destination,
  }
}

function attributesOfMessages(messages: readonly Pick<Outgoing, 'id' | 'headers' | 'body'>[]): api.Attributes {
  const [first] = messages
  if (first === undefined || messages.length > 1) return { 'messaging.batch.message_count': messages.length }
  const conversation = first.headers?.[CORRELATION] ?? first.headers?.[RPC.replyId]
  return {
    'messaging.message.id': first.id,
    'messaging.message.body.size': first.body.byteLength,
    ...(conversation !== undefined && { 'messaging.message.conversation_id': conversation }),
  }
}
