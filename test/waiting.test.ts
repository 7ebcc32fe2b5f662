import { getEventListeners } from 'node:events'
import { AbortError, type PosixQueue } from 'kernelmq'
import { afterEach, describe, expect, onTestFinished, test, vi } from 'vitest'
import { failureOf, isPending, openQueue, turns } from './support.ts'

/** Collects what Node.js warns of until the test ends. */
function warnings(): string[] {
  const names: string[] = []
  const collect = ({ name }: Error) => names.push(name)
  process.on('warning', collect)
  onTestFinished(() => {
    process.off('warning', collect)
  })
  return names
}

function openFull(): PosixQueue {
  const queue = openQueue({ maxMessages: 1 })
  queue.trySend('full')
  return queue
}

const waits: [string, () => PosixQueue, (queue: PosixQueue, signal: AbortSignal) => Promise<unknown>][] = [
  ['receive', openQueue, (queue, signal) => queue.receive({ signal })],
  ['receiveMany', openQueue, (queue, signal) => queue.receiveMany({ signal })],
  ['messages', openQueue, (queue, signal) => queue.messages({ signal }).next()],
  ['batches', openQueue, (queue, signal) => queue.batches({ signal }).next()],
  ['waitReadable', openQueue, (queue, signal) => queue.waitReadable({ signal })],
  ['notifications', openQueue, (queue, signal) => queue.notifications({ signal }).next()],
  ['consume', openQueue, (queue, signal) => queue.consume(() => {}, { signal })],
  ['send', openFull, (queue, signal) => queue.send('x', { signal })],
  ['sendMany', openFull, (queue, signal) => queue.sendMany(['x'], { signal })],
  ['waitWritable', openFull, (queue, signal) => queue.waitWritable({ signal })],
]

describe.each(waits)('%s', (_, open, wait) => {
  test('is given up by its signal, with the reason as cause', async () => {
    const queue = open()
    const controller = new AbortController()
    const failure = failureOf(() => wait(queue, controller.signal))
    await turns()
    const reason = new Error('the user left')
    controller.abort(reason)
    const error = await failure
    expect(error).toBeInstanceOf(AbortError)
    expect(error).toMatchObject({ name: 'AbortError', code: 'ABORT_ERR' })
    expect((error as AbortError).cause).toBe(reason)
  })

  test('is given up at once by a signal that has aborted', async () => {
    const queue = open()
    const { messages } = queue.attributes
    const error = await failureOf(() => wait(queue, AbortSignal.abort('before')))
    expect(error).toMatchObject({ name: 'AbortError', code: 'ABORT_ERR', cause: 'before' })
    expect(queue.attributes.messages).toBe(messages)
  })

  test('leaves nothing on the signal, however it ends', async () => {
    const queue = open()
    const { signal } = new AbortController()
    const settled = Promise.allSettled([wait(queue, signal)])
    await turns()
    queue.close()
    await settled
    expect(getEventListeners(signal, 'abort')).toHaveLength(0)
  })

  test('refuses what is not a signal', async () => {
    const queue = open()
    for (const signal of ['abort', 1, null, {}, new AbortController()]) {
      expect(await failureOf(() => wait(queue, signal as never))).toMatchObject({
        name: 'TypeError',
        code: 'ERR_INVALID_ARG_TYPE',
      })
    }
  })
})

test('a signal that has aborted comes before what is there', async () => {
  const queue = openQueue()
  queue.trySend('x')
  const signal = AbortSignal.abort()
  for (const call of [
    () => queue.receive({ signal }),
    () => queue.receiveMany({ signal }),
    () => queue.send('y', { signal }),
    () => queue.sendMany(['y'], { signal }),
    () => queue.waitReadable({ signal }),
  ]) {
    await expect(call()).rejects.toBeInstanceOf(AbortError)
  }
  expect(queue.tryReceiveMany().map((message) => message.text())).toEqual(['x'])
})

test('AbortSignal.timeout gives up with its reason', async () => {
  const queue = openQueue()
  const error = await failureOf(() => queue.receive({ signal: AbortSignal.timeout(1) }))
  expect(error).toMatchObject({ name: 'AbortError', cause: { name: 'TimeoutError' } })
})

test('fifty waits with one signal put one listener on it, and all are given up', async () => {
  const queue = openQueue()
  const full = openFull()
  const warned = warnings()
  const controller = new AbortController()
  const { signal } = controller
  const failures = [
    ...Array.from({ length: 50 }, () => failureOf(() => queue.receive({ signal }))),
    ...Array.from({ length: 50 }, () => failureOf(() => full.send('x', { signal }))),
  ]
  expect(getEventListeners(signal, 'abort').length).toBeLessThanOrEqual(2)
  await turns()
  controller.abort()
  for (const failure of failures) expect(await failure).toBeInstanceOf(AbortError)
  expect(getEventListeners(signal, 'abort')).toHaveLength(0)
  expect(warned).toEqual([])
  queue.trySend('nobody waits')
  await turns()
  expect(queue.attributes.messages).toBe(1)
})

test('one signal serves many rounds without piling up', async () => {
  const queue = openQueue()
  const warned = warnings()
  const { signal } = new AbortController()
  for (let round = 0; round < 50; round++) {
    const received = queue.receive({ signal, timeout: 60_000 })
    const consumed = failureOf(() => queue.receive({ signal, timeout: 0 }))
    queue.trySend('x')
    await received
    expect(await consumed).toMatchObject({ code: 'ETIMEDOUT' })
  }
  expect(getEventListeners(signal, 'abort')).toHaveLength(0)
  expect(warned).toEqual([])
})

test('aborting some leaves the others waiting', async () => {
  const queue = openQueue()
  const [one, other] = [new AbortController(), new AbortController()]
  const given = failureOf(() => queue.receive({ signal: one.signal }))
  const kept = queue.receive({ signal: other.signal })
  one.abort()
  expect(await given).toBeInstanceOf(AbortError)
  expect(await isPending(kept)).toBe(true)
  queue.trySend('x')
  expect((await kept).text()).toBe('x')
})

test('aborting after a wait has settled does nothing', async () => {
  const queue = openQueue()
  const controller = new AbortController()
  const { signal } = controller
  const received = queue.receive({ signal })
  queue.trySend('x')
  expect((await received).text()).toBe('x')
  await queue.send('y', { signal })
  await expect(queue.receiveMany({ signal })).resolves.toHaveLength(1)
  await expect(queue.receive({ signal, timeout: 1 })).rejects.toMatchObject({ code: 'ETIMEDOUT' })
  const closed = failureOf(() => queue.receive({ signal }))
  queue.close()
  expect(await closed).toMatchObject({ code: 'ERR_MQ_CLOSED' })
  controller.abort()
  await turns()
})

test('an abort that meets a message loses none: it is received, or is left', async () => {
  const queue = openQueue()
  const outcomes = new Set<string>()
  for (let round = 0; round < 200; round++) {
    const controller = new AbortController()
    const received = queue.receive({ signal: controller.signal }).then(
      (message) => message.text(),
      (error) => error.code,
    )
    queue.trySend(String(round))
    // Before, in and after the turn of the loop in which the message is taken.
    if (round % 3 === 0) controller.abort()
    else if (round % 3 === 1) setImmediate(() => controller.abort())
    else setTimeout(() => controller.abort(), 0)
    const outcome = await received
    const left = queue.tryReceiveMany().map((message) => message.text())
    expect(outcome === 'ABORT_ERR' ? left : [outcome]).toEqual([String(round)])
    outcomes.add(outcome === 'ABORT_ERR' ? 'left' : 'received')
  }
  expect(outcomes).toEqual(new Set(['left', 'received']))
})

test('an abort listener may start another wait with the same signal', async () => {
  const queue = openQueue()
  const controller = new AbortController()
  const { signal } = controller
  const outcomes: string[] = []
  const first = queue
    .receive({ signal })
    .catch(() => queue.receive({ signal }).catch((error) => outcomes.push(error.code)))
  const second = queue.receive({ signal }).catch((error) => outcomes.push(error.code))
  controller.abort()
  await Promise.all([first, second])
  expect(outcomes).toEqual(['ABORT_ERR', 'ABORT_ERR'])
})

describe('a timeout beyond what setTimeout takes', () => {
  afterEach(() => {
    vi.useRealTimers()
  })

  test.each([2 ** 31 - 1, 2 ** 31 - 0.5, 2 ** 31, 2 ** 33 + 7, Number.MAX_SAFE_INTEGER])(
    'of %d ms waits',
    async (timeout) => {
      const queue = openQueue()
      const warned = warnings()
      const received = queue.receive({ timeout })
      // Longer than a timer that was cut to 1 ms.
      await failureOf(() => queue.receive({ timeout: 20 }))
      expect(await isPending(received)).toBe(true)
      queue.trySend('x')
      expect((await received).text()).toBe('x')
      expect(warned).toEqual([])
    },
  )

  test('gives up when it has passed, not before', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] })
    const queue = openQueue()
    const timeout = 2 ** 32 + 1000
    let outcome: unknown
    queue.receive({ timeout }).catch((error) => {
      outcome = error
    })
    await vi.advanceTimersByTimeAsync(timeout - 1)
    expect(outcome).toBeUndefined()
    await vi.advanceTimersByTimeAsync(2)
    expect(outcome).toMatchObject({ code: 'ETIMEDOUT' })
  })
})

test('of two waits with deadlines the earlier gives up first, whatever their order', async () => {
  const queue = openQueue()
  const order: string[] = []
  const stop = new AbortController()
  await Promise.all([
    // The machine may stand still between the two.
    queue.receive({ timeout: 60_000, signal: stop.signal }).catch(({ code }) => order.push(`later: ${code}`)),
    queue.receive({ timeout: 5 }).catch(({ code }) => {
      order.push(`earlier: ${code}`)
      stop.abort()
    }),
  ])
  expect(order).toEqual(['earlier: ETIMEDOUT', 'later: ABORT_ERR'])
})

test('a timeout and a signal can go together', async () => {
  const queue = openQueue()
  const { signal } = new AbortController()
  await expect(queue.receive({ signal, timeout: 5 })).rejects.toMatchObject({ code: 'ETIMEDOUT' })
  const controller = new AbortController()
  const failure = failureOf(() => queue.receive({ signal: controller.signal, timeout: 60_000 }))
  controller.abort()
  expect(await failure).toBeInstanceOf(AbortError)
})
