// A queue must do what a few lines of arrays do, however it is called. More runs: MODEL_RUNS=20000; a failure tells the
// seed, for MODEL_SEED.
import * as fc from 'fast-check'
import { AbortError, type Message, PosixQueue, type QueueError, SysvQueue, type SysvReceiveOptions } from 'kernelmq'
import { describe, expect, test } from 'vitest'
import { uniqueName } from './support.ts'

const { MODEL_RUNS = '150', MODEL_SEED } = process.env

/** What is sent: some bytes, and a priority or a type. */
interface Sent {
  data: string
  tag: number
}

type Selection = { [Key in keyof SysvReceiveOptions]: SysvReceiveOptions[Key] }

/** What came of a call. */
interface Outcome {
  sent?: number
  received?: string[]
  error?: string
  ended?: boolean
}

type AnyQueue = PosixQueue | SysvQueue

/** What differs between the families. */
interface Family {
  /** Handles of one new queue. */
  open(): AnyQueue[]
  another(of: AnyQueue, index: number): AnyQueue
  options(tag: number): object
  tagOf(message: Message): number
  lastTag(queue: AnyQueue): number
  depth(queue: AnyQueue): number
  fits(queued: Sent[], next: Sent): boolean
  /** Which is received next, -1 if none is. */
  choose(queued: Sent[], selection: Selection): number
  /** What a handle may not do. */
  refused(index: number, action: 'send' | 'receive'): boolean
  remove(queue: AnyQueue): void
  /** What a handle says after that; undefined if it goes on as before. */
  afterRemoval: string | undefined
  /** How long the buffers are. */
  room(selection: Selection): number
  selects: boolean
}

const DEPTH = 4
const SIZE = 8
const HANDLES = 3

const posixFamily = (): Family => {
  const name = uniqueName()
  const access = ['readwrite', 'read', 'write'] as const
  const size = { create: true, maxMessages: DEPTH, messageSize: SIZE }
  return {
    open: () => access.map((one) => PosixQueue.open(name, { ...size, access: one })),
    another: (_, index) => PosixQueue.open(name, { access: access[index] }),
    options: (priority) => ({ priority }),
    tagOf: (message) => (message as Message & { priority: number }).priority,
    lastTag: (queue) => (queue as PosixQueue).lastPriority,
    depth: (queue) => (queue as PosixQueue).attributes.messages,
    fits: (queued) => queued.length < DEPTH,
    choose: (queued) => queued.findIndex(({ tag }) => tag === Math.max(...queued.map((one) => one.tag))),
    refused: (index, action) => index === (action === 'send' ? 1 : 2),
    remove: () => PosixQueue.unlink(name),
    afterRemoval: undefined,
    room: () => SIZE,
    selects: false,
  }
}

const MAX_BYTES = 16

const sysvFamily: Family = {
  open: () => {
    const queue = SysvQueue.open('private', { maxBytes: MAX_BYTES })
    return Array.from({ length: HANDLES }, (_, index) => (index === 0 ? queue : SysvQueue.fromId(queue.id)))
  },
  another: (of) => SysvQueue.fromId((of as SysvQueue).id),
  options: (type) => ({ type }),
  tagOf: (message) => Number((message as Message & { type: number }).type),
  lastTag: (queue) => Number((queue as SysvQueue).lastType),
  depth: (queue) => (queue as SysvQueue).stat().messages,
  fits: (queued, { data }) => queued.reduce((sum, one) => sum + one.data.length, data.length) <= MAX_BYTES,
  choose: (queued, { type = 0, except }) => {
    const wanted = Number(type)
    if (wanted > 0) return queued.findIndex(({ tag }) => (tag === wanted) !== Boolean(except))
    if (wanted === 0) return queued.length > 0 ? 0 : -1
    const lowest = Math.min(...queued.map(({ tag }) => tag))
    return lowest <= -wanted ? queued.findIndex(({ tag }) => tag === lowest) : -1
  },
  refused: () => false,
  remove: (queue) => (queue as SysvQueue).remove(),
  afterRemoval: 'EIDRM',
  room: ({ size = SIZE }) => Math.min(size, SIZE),
  selects: true,
}

const show = ({ data, tag }: Sent) => `${tag}:${data}`

/** All ways to send, without waiting: how many went, or how it failed. */
const sends: Record<string, (queue: AnyQueue, messages: Sent[], family: Family, signal?: AbortSignal) => unknown> = {
  trySend: (queue, [one], family) => Number(queue.trySend(one?.data ?? '', family.options(one?.tag ?? 1))),
  sendSync: (queue, [one], family) => queue.sendSync(one?.data ?? '', { ...family.options(one?.tag ?? 1), timeout: 0 }),
  send: (queue, [one], family, signal) =>
    queue.send(one?.data ?? '', { ...family.options(one?.tag ?? 1), timeout: 0, signal }),
  trySendMany: (queue, messages, family) =>
    queue.trySendMany(messages.map(({ data, tag }) => ({ data, ...family.options(tag) }))),
  sendMany: (queue, messages, family, signal) =>
    queue.sendMany(
      messages.map(({ data, tag }) => ({ data, ...family.options(tag) })),
      { timeout: 0, signal },
    ),
}

type Brought = Message | Message[] | IteratorResult<Message | Message[], undefined> | undefined

const isStep = (brought: object): brought is IteratorResult<Message | Message[], undefined> => 'done' in brought

/** All ways to receive, without waiting. */
const receives: Record<
  string,
  (queue: AnyQueue, selection: Selection & { max: number; signal?: AbortSignal }) => Brought | Promise<Brought>
> = {
  tryReceive: (queue, selection) => queue.tryReceive(selection),
  receiveSync: (queue, selection) => queue.receiveSync({ ...selection, timeout: 0 }),
  receive: (queue, selection) => queue.receive({ ...selection, timeout: 0 }),
  tryReceiveMany: (queue, selection) => queue.tryReceiveMany(selection.max, selection),
  receiveMany: (queue, selection) => queue.receiveMany({ ...selection, timeout: 0 }),
  messages: (queue, selection) => queue.messages({ ...selection, timeout: 0 }).next(),
  batches: (queue, selection) => queue.batches({ ...selection, timeout: 0 }).next(),
}

/** And those into a buffer: the length, -1 if there is none. */
const intoBuffer: Record<string, (queue: AnyQueue, buffer: Buffer, selection: Selection) => number> = {
  tryReceiveInto: (queue, buffer, selection) => (queue as SysvQueue).tryReceiveInto(buffer, selection),
  receiveIntoSync: (queue, buffer, selection) =>
    (queue as SysvQueue).receiveIntoSync(buffer, { ...selection, timeout: 0 }),
}

const isAsync = (how: string) => /^(send|sendMany|receive|receiveMany|messages|batches)$/.test(how)
const takesMany = (how: string) => /Many|batches/.test(how)
const isTry = (how: string) => how.startsWith('try')

async function outcomeOf(call: () => Outcome | Promise<Outcome>): Promise<Outcome> {
  try {
    return await call()
  } catch (error) {
    if (error instanceof AbortError) return { error: 'ABORT_ERR' }
    const { code, sent } = error as QueueError
    return { error: code, ...(sent !== undefined && { sent }) }
  }
}

/** The queue as the kernel should have it, and its handles. */
class Model {
  queued: Sent[] = []
  readonly closed = new Set<number>()
  removed = false
  readonly family: Family

  constructor(family: Family) {
    this.family = family
  }

  #refusal(index: number, action: 'send' | 'receive', aborted: boolean): string | undefined {
    if (aborted) return 'ABORT_ERR'
    if (this.closed.has(index)) return 'ERR_MQ_CLOSED'
    if (this.family.refused(index, action)) return 'EBADF'
    return this.removed ? this.family.afterRemoval : undefined
  }

  send(how: string, index: number, messages: Sent[], aborted: boolean): Outcome {
    const error = this.#refusal(index, 'send', aborted)
    if (error !== undefined) return error !== 'ABORT_ERR' && takesMany(how) ? { error, sent: 0 } : { error }
    let sent = 0
    for (const message of messages) {
      if (!this.family.fits(this.queued, message)) break
      this.queued.push(message)
      sent++
    }
    if (sent === messages.length || isTry(how)) return { sent }
    return takesMany(how) ? { error: 'ETIMEDOUT', sent } : { error: 'ETIMEDOUT' }
  }

  receive(how: string, index: number, selection: Selection, max: number, aborted: boolean): Outcome {
    const error = this.#refusal(index, 'receive', aborted)
    if (error === 'ERR_MQ_CLOSED' && /messages|batches/.test(how)) return { ended: true }
    if (error !== undefined) return { error }
    const room = how in intoBuffer ? this.family.room(selection) : (selection.size ?? SIZE)
    const received: string[] = []
    while (received.length < (takesMany(how) ? max : 1)) {
      const next = this.queued[this.family.choose(this.queued, selection)]
      if (next === undefined) break
      const tooLong = this.family.selects && next.data.length > room
      if (tooLong && !selection.truncate) {
        if (received.length === 0) return { error: 'E2BIG' }
        break
      }
      this.queued.splice(this.queued.indexOf(next), 1)
      received.push(show({ ...next, data: tooLong ? next.data.slice(0, room) : next.data }))
    }
    return received.length > 0 || isTry(how) ? { received } : { error: 'ETIMEDOUT' }
  }
}

const message = fc.record({
  data: fc.string({ unit: 'binary-ascii', maxLength: SIZE }),
  tag: fc.integer({ min: 1, max: 4 }),
})

const handle = fc.nat({ max: HANDLES - 1 })

const operation = fc.oneof(
  {
    weight: 5,
    arbitrary: fc.record({
      call: fc.constant('send' as const),
      how: fc.constantFrom(...Object.keys(sends)),
      handle,
      messages: fc.array(message, { minLength: 1, maxLength: 6 }),
      aborted: fc.nat({ max: 9 }).map((n) => n === 0),
    }),
  },
  {
    weight: 5,
    arbitrary: fc.record({
      call: fc.constant('receive' as const),
      how: fc.constantFrom(...Object.keys(receives), ...Object.keys(intoBuffer)),
      handle,
      max: fc.integer({ min: 1, max: 5 }),
      selection: fc.record(
        {
          type: fc.integer({ min: -4, max: 4 }),
          except: fc.boolean(),
          truncate: fc.boolean(),
          size: fc.nat({ max: SIZE }),
        },
        { requiredKeys: [] },
      ),
      aborted: fc.nat({ max: 9 }).map((n) => n === 0),
    }),
  },
  { weight: 1, arbitrary: fc.record({ call: fc.constantFrom('close' as const, 'reopen' as const), handle }) },
  { weight: 1, arbitrary: fc.record({ call: fc.constantFrom('remove' as const, 'look' as const) }) },
)

type Operation = typeof operation extends fc.Arbitrary<infer T> ? T : never

/** Plays the operations against a queue and against the model. */
async function play(operations: Operation[], family: Family): Promise<void> {
  let handles = family.open()
  let model = new Model(family)
  const begin = handles
  const opened = [...handles]
  const queueOf = (index: number) => handles[index] as AnyQueue
  const start = () => {
    handles = family.open()
    opened.push(...handles)
    model = new Model(family)
  }
  const receivedBy = (brought: Brought): Outcome => {
    if (brought !== undefined && isStep(brought)) return brought.done ? { ended: true } : receivedBy(brought.value)
    const messages = brought === undefined ? [] : [brought].flat()
    return { received: messages.map((one) => show({ data: one.text(), tag: family.tagOf(one) })) }
  }
  try {
    for (const step of operations) {
      if (step.call === 'send') {
        const { how, handle, aborted } = step
        const messages = takesMany(how) ? step.messages : step.messages.slice(0, 1)
        const signal = aborted && isAsync(how) ? AbortSignal.abort() : undefined
        const outcome = await outcomeOf(async () => ({
          sent: ((await sends[how]?.(queueOf(handle), messages, family, signal)) as number) ?? messages.length,
        }))
        expect(outcome).toEqual(model.send(how, handle, messages, signal !== undefined))
      } else if (step.call === 'receive') {
        const { how, handle, max, aborted } = step
        const selection = family.selects ? step.selection : {}
        const signal = aborted && isAsync(how) ? AbortSignal.abort() : undefined
        const queue = queueOf(handle)
        const outcome = await outcomeOf(async () => {
          if (receives[how] !== undefined) {
            return receivedBy(await receives[how](queue, { ...selection, max, ...(signal && { signal }) }))
          }
          const buffer = Buffer.alloc(SIZE)
          const length = intoBuffer[how]?.(queue, buffer, selection) ?? -1
          if (length < 0) return { received: [] }
          return { received: [show({ data: buffer.toString('utf8', 0, length), tag: family.lastTag(queue) })] }
        })
        expect(outcome).toEqual(model.receive(how, handle, selection, max, signal !== undefined))
      } else if (step.call === 'close') {
        await queueOf(step.handle).close()
        model.closed.add(step.handle)
      } else if (step.call === 'reopen') {
        if (model.removed) start()
        else if (model.closed.delete(step.handle)) {
          handles[step.handle] = family.another(queueOf(step.handle), step.handle)
          opened.push(queueOf(step.handle))
        }
      } else if (step.call === 'remove') {
        if (model.removed) start()
        else if (family.afterRemoval === undefined || !model.closed.has(0)) {
          family.remove(queueOf(0))
          model.removed = true
        }
      } else if (family.selects && !model.removed && !model.closed.has(0)) {
        const queue = queueOf(0) as SysvQueue
        expect([...queue.browse()].map((one) => show({ data: one.text(), tag: Number(one.type) }))).toEqual(
          model.queued.map(show),
        )
        expect(queue.peek(model.queued.length)).toBeUndefined()
        expect(queue.stat().bytes).toBe(model.queued.reduce((sum, { data }) => sum + data.length, 0))
        queue.set({ maxBytes: MAX_BYTES, mode: 0o640 })
        expect(queue.stat()).toMatchObject({ maxBytes: MAX_BYTES, mode: 0o640 })
      }
      const live = [0, 1, 2].find((index) => !model.closed.has(index))
      const gone = model.removed && family.afterRemoval !== undefined
      if (live !== undefined && !gone) expect(family.depth(queueOf(live))).toBe(model.queued.length)
    }
  } finally {
    for (const queue of opened) await queue.close()
    for (const queue of new Set([begin, handles].flat())) {
      try {
        family.remove(family.selects ? SysvQueue.fromId((queue as SysvQueue).id) : queue)
      } catch {} // it is gone
    }
  }
}

describe.each<[string, () => Family]>([
  ['a POSIX queue', posixFamily],
  ['a System V queue', () => sysvFamily],
])('%s behaves as the model', (_, makeFamily) => {
  test('through several handles, in all ways to send and to receive', async () => {
    const family = makeFamily()
    await fc.assert(
      fc.asyncProperty(fc.array(operation, { maxLength: 40, size: 'max' }), (operations) => play(operations, family)),
      { numRuns: Number(MODEL_RUNS), ...(MODEL_SEED !== undefined && { seed: Number(MODEL_SEED) }) },
    )
  }, 3_600_000)
})
