import { expect, test } from 'vitest'
import { openQueue } from './support.ts'

test('a message comes out as it went in', () => {
  const queue = openQueue()
  expect(queue.trySend('hello', { priority: 7 })).toBe(true)
  const message = queue.tryReceive()
  expect(message?.text()).toBe('hello')
  expect(message?.priority).toBe(7)
})
