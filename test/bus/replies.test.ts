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
