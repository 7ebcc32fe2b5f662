// The ends of life, each in a process of its own: exit code, signal and time are the result.
import { describe, expect, test } from 'vitest'
import { openQueue, runFixture, runToEnd } from './support.ts'

const nameOfQueue = (): string => openQueue().path as string

const stages = ['loaded', 'open', 'receiving', 'sending', 'notified', 'iterating', 'streaming', 'closing']

const ends: Record<string, { code: number | null; signal?: NodeJS.Signals; stdout?: string; stderr?: string }> = {
  natural: { code: 0 },
  exit: { code: 3 },
  uncaught: { code: 1, stderr: 'nobody catches this' },
  rejection: { code: 1, stderr: 'nobody catches this' },
  SIGTERM: { code: null, signal: 'SIGTERM' },
  'worker-end': { code: 0, stdout: 'worker exited with 0' },
  'worker-terminate': { code: 0, stdout: 'worker exited with 1' },
}

describe.each(stages)('in the stage "%s"', (stage) => {
  test.each(Object.keys(ends))('the end "%s" takes less than a second and has its exit code', async (end) => {
    const { code, signal = null, stdout = '', stderr = '' } = ends[end] ?? { code: -1 }
    const outcome = await runToEnd('lifetime.mjs', [stage, end, nameOfQueue()])
    expect(outcome).toMatchObject({ code, signal })
    expect(outcome.stdout).toContain(stdout)
    expect(outcome.stderr).toContain(stderr)
    if (stderr === '') expect(outcome.stderr).toBe('')
    expect(outcome.took).toBeLessThan(1000)
  })
})

test.each(['receiveSync', 'receiveIntoSync', 'sendSync', 'spin', 'tryCatch', 'noTimeout'])(
  'SIGTERM ends a main thread that blocks in "%s"',
  async (call) => {
    const outcome = await runToEnd('blocked.mjs', [call, nameOfQueue(), 'SIGTERM'])
    expect(outcome).toMatchObject({ code: null, signal: 'SIGTERM', stderr: '' })
    expect(outcome.took).toBeLessThan(1000)
  },
)

test('a pending wait holds the process until unref(), an idle queue never does', async () => {
  const { code, stdout, stderr } = await runFixture('refs.mjs', [nameOfQueue()])
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
  expect(JSON.parse(stdout)).toEqual({
    idle: 'ends',
    'idle after a receive': 'ends',
    closed: 'ends',
    receive: 'holds',
    send: 'holds',
    waitReadable: 'holds',
    iteration: 'holds',
    consume: 'holds',
    notifications: 'holds',
    stream: 'holds',
    'receive with a timeout': 'holds',
    'unref, then receive': 'ends',
    'receive, then unref': 'ends',
    'unref, then receive with a timeout': 'ends',
    'unref, then notifications': 'ends',
    'notifications, then unref': 'ends',
    'unref, ref, then receive': 'holds',
    'receive, unref, then ref': 'holds',
    'receive, then abort': 'ends',
    'receive, then close': 'ends',
    'iteration, then return': 'ends',
    'stream, then destroy': 'ends',
  })
})

test('operations work or fail cleanly in "exit" and "beforeExit" listeners', async () => {
  const { code, signal, stdout, stderr } = await runFixture('exit-listeners.mjs', [nameOfQueue()])
  expect({ code, signal, stderr }).toEqual({ code: 0, signal: null, stderr: '' })
  expect(stdout).toBe('beforeExit: \nexit: \nclosed: \n')
})

describe('an exception thrown', () => {
  test.each(['receive', 'nextTick', 'consume', 'data', 'abort', 'iterator'])(
    'in the callback "%s" ends the process with code 1',
    async (where) => {
      const outcome = await runToEnd('throws.mjs', [where, 'uncaught', nameOfQueue()])
      expect(outcome).toMatchObject({ code: 1, signal: null })
      expect(outcome.stderr).toContain('thrown in a callback')
      expect(outcome.took).toBeLessThan(1000)
    },
  )

  test.each(['receive', 'nextTick', 'consume', 'data', 'abort', 'iterator'])(
    'in the callback "%s" leaves the queue working where it is caught',
    async (where) => {
      const { code, signal, stdout, stderr } = await runFixture('throws.mjs', [where, 'caught', nameOfQueue()])
      expect({ code, signal, stderr }).toEqual({ code: 0, signal: null, stderr: '' })
      expect(stdout).toMatch(/caught 1\nworks\n$/)
    },
  )
})
