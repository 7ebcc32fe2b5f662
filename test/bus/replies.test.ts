// What becomes of requests when their replies cannot be received any more.
import { expect, test } from 'vitest'
import { Cancellations } from '../../lib/bus/cancellations.ts'
import { systemClock } from '../../lib/bus/clock.ts'
import { Replies } from '../../lib/bus/replies.ts'
import { openMemory } from '../../lib/bus/transports/memory.ts'

test('requests that wait reject when the consumer of their replies stops, and the next one begins anew', async () => {
  const transport = openMemory(systemClock)
  const stops: ((error: Error) => void)[] = []
  const consume = () => new Promise<void>((_, reject) => void stops.push(reject))
  const replies = new Replies(transport, new Cancellations(transport, systemClock), consume)
  const sent: string[] = []
  const request = () =>
    replies.request(
      async (headers) => {
        sent.push(headers['kmq-reply-to'] as string)
        stops.at(-1)?.(new Error('no store'))
      },
      Date.now(),
      { timeout: 60_000 },
    )
  await expect(request()).rejects.toThrow('no store')
  await expect(request()).rejects.toThrow('no store')
  expect(new Set(sent).size).toBe(2)
  await transport.close()
})

test('a request ends in its time when the queue of its replies is not made, and nobody is told that it was given up', async () => {
  const transport = openMemory(systemClock)
  transport.borrow = () => new Promise(() => {})
  const cancellations = new Cancellations(transport, systemClock)
  const told: string[] = []
  cancellations.cancel = (id) => void told.push(id)
  const replies = new Replies(transport, cancellations, () => new Promise(() => {}))
  const request = (options: { timeout?: number; signal?: AbortSignal }) =>
    replies.request(() => Promise.reject(new Error('it is sent')), Date.now(), options)
  await expect(request({ timeout: 20 })).rejects.toMatchObject({ code: 'ETIMEDOUT' })
  const controller = new AbortController()
  const given = request({ signal: controller.signal })
  controller.abort()
  await expect(given).rejects.toMatchObject({ name: 'AbortError' })
  expect(told).toEqual([])
  await transport.close()
})

test('who could not be bound to hear of cancellations leaves no queue behind', async () => {
  const transport = openMemory(systemClock)
  const queues: Record<'borrowed' | 'dropped', string[]> = { borrowed: [], dropped: [] }
  const { borrow, drop } = transport
  transport.borrow = async () => {
    const queue = await borrow.call(transport)
    queues.borrowed.push(queue)
    return queue
  }
  transport.drop = async (queue) => {
    queues.dropped.push(queue)
    await drop.call(transport, queue)
  }
  transport.bind = () => Promise.reject(new Error('no connection'))
  const cancellations = new Cancellations(transport, systemClock)
  await cancellations.listen()
  await cancellations.listen()
  expect(queues.borrowed).toHaveLength(2)
  expect(queues.dropped).toEqual(queues.borrowed)
  await transport.close()
})
