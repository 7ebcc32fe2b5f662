// A queue of the kernel that is made again, with handles that play it.
import { QueueError } from 'kernelmq'
import { expect, test } from 'vitest'
import type { Handle } from '../../lib/bus/transports/kernel/lane.ts'
import { Lasting } from '../../lib/bus/transports/kernel/lasting.ts'
import { failureOf } from '../support.ts'

/** A queue with room that is removed when it is told to. */
class Played implements Handle {
  readonly size: number
  readonly sent: string[] = []
  isRemoved = false
  isClosed = false
  holds = true

  constructor(size = 16) {
    this.size = size
  }

  #check(): void {
    if (this.isRemoved) throw new QueueError('EIDRM', { syscall: 'msgsnd', id: 3 })
  }

  trySend(bytes: Uint8Array): boolean {
    this.#check()
    return this.sent.push(Buffer.from(bytes).toString()) > 0
  }

  async send(bytes: Uint8Array): Promise<void> {
    this.trySend(bytes)
  }

  tryReceive(): undefined {
    this.#check()
  }

  receive(): never {
    throw new Error('nobody receives')
  }

  fits(): boolean {
    return true
  }

  mayFit(): boolean {
    return true
  }

  stats() {
    return { messages: 0, bytes: 0 }
  }

  hold(on: boolean): void {
    this.holds = on
  }

  async close(): Promise<void> {
    this.isClosed = true
  }
}

test('what has failed goes to the new queue, and the old one is closed', async () => {
  const [old, fresh] = [new Played(), new Played()]
  const lasting = new Lasting(old, () => fresh)
  lasting.trySend(Buffer.from('a'), 0)
  old.isRemoved = true
  await lasting.send(Buffer.from('b'), 0, new AbortController().signal)
  expect([old.sent, old.isClosed, fresh.sent, fresh.isClosed]).toEqual([['a'], true, ['b'], false])
})

test.each([true, false])('the new one holds the process if the old one did: %s', (holds) => {
  const [old, fresh] = [new Played(), new Played()]
  const lasting = new Lasting(old, () => fresh)
  lasting.hold(holds)
  old.isRemoved = true
  lasting.tryReceive()
  expect(fresh.holds).toBe(holds)
})

test('one with shorter messages is not taken: what is packed may not go in', () => {
  const [old, fresh] = [new Played(16), new Played(15)]
  const lasting = new Lasting(old, () => fresh)
  old.isRemoved = true
  const cause = expect.objectContaining({ message: expect.stringContaining('at least 16 bytes. Received 15') })
  expect(() => lasting.tryReceive()).toThrow(expect.objectContaining({ code: 'EIDRM', id: 3, cause }))
  expect(fresh.isClosed).toBe(true)
})

test('where it cannot be made again, each caller has an error of his own, until it can', async () => {
  const [old, fresh] = [new Played(), new Played()]
  const makes: (() => Handle | undefined)[] = [
    () => {
      throw new QueueError('EMFILE', { syscall: 'mq_open' })
    },
    () => undefined,
    () => fresh,
  ]
  const lasting = new Lasting(old, () => makes.shift()?.())
  old.isRemoved = true
  const send = () => lasting.send(Buffer.from('a'), 0, new AbortController().signal)
  const failures = [await failureOf(send), await failureOf(send)]
  expect(failures).toMatchObject([{ code: 'EIDRM', cause: { code: 'EMFILE' } }, { code: 'EIDRM' }])
  expect(failures[1]).not.toHaveProperty('cause')
  await send()
  expect(fresh.sent).toEqual(['a'])
})

test('looking after it does not keep what nobody has any more', async () => {
  const dropped = (() =>
    new WeakRef(new Lasting(Object.assign(new Played(), { checkIsThere() {} }), () => undefined)))()
  // Not what is left of it: a poll keeps what it has seen last.
  const isCollected = () => {
    globalThis.gc?.()
    return dropped.deref() === undefined
  }
  await expect.poll(isCollected).toBe(true)
})
