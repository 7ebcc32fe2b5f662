import * as fc from 'fast-check'
import { type PosixMessage, PosixQueue, type SysvMessage, SysvQueue } from 'kernelmq'
import { expect, test } from 'vitest'
import { uniqueName } from './support.ts'

const DEPTH = 4

/** What is sent: some bytes, and a priority or a type. */
const message = fc.record({ data: fc.uint8Array({ maxLength: 16 }), rank: fc.integer({ min: 1, max: 3 }) })
type Sent = { data: Uint8Array; rank: number }

const operation = fc.oneof(
  fc.record({ call: fc.constant('send' as const), message }),
  fc.record({ call: fc.constant('sendMany' as const), messages: fc.array(message, { maxLength: 6 }) }),
  fc.record({ call: fc.constant('receive' as const) }),
  fc.record({ call: fc.constant('receiveMany' as const), max: fc.integer({ min: 1, max: 5 }) }),
)

type Operation = typeof operation extends fc.Arbitrary<infer T> ? T : never

const shown = ({ data, rank }: Sent) => `${rank}:${Buffer.from(data).toString('hex')}`

/** Plays the operations against the queue and against an array that says what must come. */
function play(operations: Operation[], queue: Subject): void {
  const model: Sent[] = []
  const takeFromModel = () => model.splice(queue.nextOf(model), 1).map(shown)
  for (const step of operations) {
    if (step.call === 'send') {
      const fits = model.length < DEPTH
      expect(queue.send(step.message)).toBe(fits)
      if (fits) model.push(step.message)
    } else if (step.call === 'sendMany') {
      const fitting = step.messages.slice(0, DEPTH - model.length)
      expect(queue.sendMany(step.messages)).toBe(fitting.length)
      model.push(...fitting)
    } else if (step.call === 'receive') {
      expect(queue.receive().map(shown)).toEqual(model.length > 0 ? takeFromModel() : [])
    } else {
      const count = Math.min(step.max, model.length)
      expect(queue.receiveMany(step.max).map(shown)).toEqual(Array.from({ length: count }, takeFromModel).flat())
    }
    expect(queue.depth()).toBe(model.length)
  }
}

interface Subject {
  send(message: Sent): boolean
  sendMany(messages: Sent[]): number
  receive(): Sent[]
  receiveMany(max: number): Sent[]
  depth(): number
  /** Which of those in the queue is received next. */
  nextOf(model: Sent[]): number
}

test('a POSIX queue behaves as the model: the highest priority first, then the oldest', () => {
  const name = uniqueName()
  const posix = PosixQueue.open(name, { create: true, maxMessages: DEPTH, messageSize: 16 })
  const sent = (message: PosixMessage) => ({ data: message.data, rank: message.priority })
  const subject: Subject = {
    send: ({ data, rank }) => posix.trySend(data, { priority: rank }),
    sendMany: (messages) => posix.trySendMany(messages.map(({ data, rank }) => ({ data, priority: rank }))),
    receive: () => [posix.tryReceive()].filter((message) => message !== undefined).map(sent),
    receiveMany: (max) => posix.tryReceiveMany(max).map(sent),
    depth: () => posix.attributes.messages,
    nextOf: (model) => model.findIndex(({ rank }) => rank === Math.max(...model.map((one) => one.rank))),
  }
  try {
    fc.assert(
      fc.property(fc.array(operation), (operations) => {
        posix.tryReceiveMany()
        play(operations, subject)
      }),
    )
  } finally {
    posix.close()
  }
})

test('a System V queue behaves as the model: the oldest first, or the lowest type up to a bound', () => {
  const sysv = SysvQueue.open('private', { maxBytes: DEPTH })
  const sent = (message: SysvMessage) => ({ data: message.data, rank: Number(message.type) })
  const subject = (selection: { type: number }, nextOf: Subject['nextOf']): Subject => ({
    // A queue of so many bytes takes so many empty messages.
    send: ({ rank }) => sysv.trySend('', { type: rank }),
    sendMany: (messages) => sysv.trySendMany(messages.map(({ rank }) => ({ data: '', type: rank }))),
    receive: () => [sysv.tryReceive(selection)].filter((message) => message !== undefined).map(sent),
    receiveMany: (max) => sysv.tryReceiveMany(max, selection).map(sent),
    depth: () => sysv.stat().messages,
    nextOf,
  })
  const oldest = subject({ type: 0 }, () => 0)
  const lowest = subject({ type: -3 }, (model) =>
    model.findIndex(({ rank }) => rank === Math.min(...model.map((one) => one.rank))),
  )
  const empty = (operations: Operation[]) =>
    operations.map((step) => {
      if (step.call === 'send') return { ...step, message: { ...step.message, data: new Uint8Array() } }
      if (step.call !== 'sendMany') return step
      return { ...step, messages: step.messages.map((one) => ({ ...one, data: new Uint8Array() })) }
    })
  try {
    fc.assert(
      fc.property(fc.array(operation), fc.constantFrom(oldest, lowest), (operations, one) => {
        sysv.tryReceiveMany()
        play(empty(operations), one)
      }),
    )
  } finally {
    sysv.remove()
  }
})
