import { setImmediate as turn } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { Settler } from '../../lib/bus/message.ts'
import type { Settlement, Transport } from '../../lib/bus/transport.ts'
import { deferred } from './support.ts'

const retry: Settlement = { token: 'retry', outcome: 'retry', due: 0, counted: true }
const ack = (token: unknown): Settlement => ({ token, outcome: 'ack' })

test('what waits for an answer of its own holds up nothing else; the rest goes together', async () => {
  const answer = deferred()
  const batches: unknown[][] = []
  const settle = async (batch: readonly Settlement[]) => {
    batches.push(batch.map(({ token }) => token))
    if (batch.some(({ outcome }) => outcome === 'retry')) await answer.promise
    return batch.map(() => true)
  }
  const isApart = ({ outcome }: Settlement) => outcome === 'retry'
  const settler = new Settler({ settle, isApart } as unknown as Transport)
  let isRetried = false
  const retried = settler.add(retry, true).then(() => {
    isRetried = true
  })
  expect(await Promise.all([settler.add(ack('a'), true), settler.add(ack('b'), true)])).toEqual([true, true])
  await turn()
  expect([isRetried, batches]).toEqual([false, [['retry'], ['a', 'b']]])
  answer.resolve()
  await retried
})
