// The ends of life while operations are pending: exit code, signal and time are the result. Several are pending at
// once here; each alone, with each end: npm run life -- --part matrix.
import { describe, expect, test } from 'vitest'
import { families, groupsOf, kinds, newQueue } from './families.ts'
import { endProcess, endsOf } from './fixtures/endings.mjs'
import { operations } from './fixtures/operations.mjs'
import { runFixture, runToEnd } from './support.ts'

describe.each(families)('a process with a %s', (family) => {
  const joined = /SIGKILL|^throw$|reject|exit in a callback/
  const cells = kinds.flatMap((kind) =>
    endsOf(kind, 'process').flatMap((end) => groupsOf(family, kind, end, joined).map((group) => [end, group] as const)),
  )

  test.each(cells)('has its exit code within 30 seconds of the end "%s" while there is %s', async (end, group) => {
    expect((await endProcess(end, newQueue(family), group)).wrong).toBeUndefined()
  })

  test.each([
    ['settles, each within 20 seconds, all that is pending when its queue is closed, twice', 'closed twice'],
    ['may close a queue in the callback of whatever was pending', 'closed in its callback'],
    ['gets what is pending done after 100 collections in which nobody had the queue', 'collected'],
  ])('%s', async (_, way) => {
    const { receiving, sending } = operations[family]
    const queues = Object.fromEntries(Object.keys({ ...receiving, ...sending }).map((name) => [name, newQueue(family)]))
    const outcome = await runFixture('settling.mjs', [way, JSON.stringify(queues)], ['--expose-gc'])
    expect(outcome).toMatchObject({ code: 0, signal: null, stderr: '' })
    expect(JSON.parse(outcome.stdout)).toEqual({ wrong: {}, leaked: { descriptors: 0, threads: 0 } })
  })

  test('is held by what is pending until unref(), and never by an idle queue', async () => {
    const { code, stdout, stderr } = await runFixture('refs.mjs', [newQueue(family)])
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    const { receiving, sending } = operations[family]
    // At first, after unref(), and before it.
    const pending = Object.fromEntries(
      Object.keys({ ...receiving, ...sending }).map((name) => [name, 'holds,ends,ends']),
    )
    expect(JSON.parse(stdout)).toEqual({
      ...pending,
      idle: 'ends',
      'idle after a receive': 'ends',
      closed: 'ends',
      'receive, timed out': 'ends',
      'receive, aborted': 'ends',
      'unref, receive, aborted': 'ends',
      'receive, closed': 'ends',
      'unref, receive, closed': 'ends',
      'iteration, returned': 'ends',
      'stream, destroyed': 'ends',
      'receive behind one that is aborted': 'holds',
      'unref, ref, receive': 'holds',
      'receive, unref, ref': 'holds',
    })
  })

  test('runs every operation, or fails cleanly, in "exit" and "beforeExit" listeners', async () => {
    const { code, signal, stdout, stderr } = await runFixture('exit-listeners.mjs', [newQueue(family)])
    expect({ code, signal, stderr }).toEqual({ code: 0, signal: null, stderr: '' })
    expect(stdout).toBe('beforeExit: \nexit: \nclosed: ERR_MQ_CLOSED\n')
  })

  test.each(['nextTick', 'abort', 'iterator'])(
    'ends with code 1 at an exception in the callback "%s"',
    async (where) => {
      const outcome = await runToEnd('throws.mjs', [where, 'uncaught', newQueue(family)])
      expect(outcome).toMatchObject({ code: 1, signal: null })
      expect(outcome.stderr).toContain('thrown in a callback')
      expect(outcome.took).toBeLessThan(20_000)
    },
  )

  test.each(['receive', 'nextTick', 'consume', 'data', 'written', 'drained', 'ended', 'abort', 'iterator'])(
    'that catches an exception of the callback "%s" as uncaught, goes on working',
    async (where) => {
      const { code, signal, stdout, stderr } = await runFixture('throws.mjs', [where, 'caught', newQueue(family)])
      expect({ code, signal, stderr }).toEqual({ code: 0, signal: null, stderr: '' })
      expect(stdout).toMatch(/caught 1\nworks\n$/)
    },
  )
})

test.each(families)('an unreferenced %s goes on with what need not wait', async (family) => {
  const { code, stdout } = await runFixture('unreferenced.mjs', [newQueue(family)])
  expect({ code, stdout }).toEqual({ code: 0, stdout: '1500 sent' })
})

test('a queue that has the number of a standard stream never blocks, though children share it', async () => {
  const { code, stdout } = await runFixture('standard-stream.mjs', [newQueue('PosixQueue')])
  expect({ code, stdout }).toEqual({ code: 0, stdout: 'descriptor 0: undefined' })
})

test('random operations that meet random ends leave nothing behind: npm run life, briefly', async () => {
  const brief = ['--part', 'rounds', '--rounds', '20', '--part', 'memory', '--messages', '50k']
  const { code, stdout, stderr } = await runFixture('../reliability/life.mjs', brief, ['--expose-gc'])
  expect({ code, stderr }, stdout).toEqual({ code: 0, stderr: '' })
  expect(stdout).toMatch(/left behind: \{"descriptors":0,"threads":0\}\nnothing was wrong\n$/)
})
