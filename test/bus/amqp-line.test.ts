// What no server is needed for: at which moment something is asked for again.
import { EventEmitter } from 'node:events'
import { setImmediate as turn } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { systemClock } from '../../lib/bus/clock.ts'
import type { LineContext } from '../../lib/bus/transports/amqp/held.ts'
import { Line } from '../../lib/bus/transports/amqp/line.ts'
import { Hold } from '../../lib/bus/transports/engine/hold.ts'
import { deferred } from './support.ts'

test('who asks as the server says that the consumer before has ended gets one of his own', async () => {
  for (let hops = 0; hops < 40; hops++) {
    let consumers = 0
    let cancelled = deferred()
    const channel = Object.assign(new EventEmitter(), {
      prefetch: async () => {},
      consume: async () => ({ consumerTag: String(++consumers) }),
      cancel: () => cancelled.promise.then(() => void consumers--),
      close: async () => {},
      checkQueue: async () => ({ messageCount: 0 }),
    })
    const link = { hold: new Hold(), isUp: true, check: () => {}, up: async () => {}, channel: async () => channel }
    const topology = { nameOf: (name: string) => name, queue: async () => {}, forget: () => {} }
    const context = { link, topology, clock: systemClock, isKeyed: async () => false } as unknown as LineContext
    const line = new Line('q', context)
    const receive = (signal?: AbortSignal) =>
      line.receive({
        max: 1,
        deadline: Number.POSITIVE_INFINITY,
        lease: Number.POSITIVE_INFINITY,
        together: true,
        signal,
      })
    const first = new AbortController()
    const received = receive(first.signal)
    await turn()
    expect(consumers).toBe(1)
    first.abort()
    await expect(received).rejects.toMatchObject({ name: 'AbortError' })
    cancelled.resolve()
    for (let hop = 0; hop < hops; hop++) await undefined
    cancelled = deferred()
    const again = receive()
    await turn()
    expect(consumers, `${hops} hops later`).toBe(1)
    cancelled.resolve()
    await Promise.all([expect(again).rejects.toThrow('closed'), line.close(new Error('closed'))])
  }
})
