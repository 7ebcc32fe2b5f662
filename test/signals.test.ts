import { spawnSync } from 'node:child_process'
import { setTimeout as after } from 'node:timers/promises'
import type { PosixQueue } from 'kernelmq'
import { describe, expect, onTestFinished, test } from 'vitest'
import { fixture, openQueue, type Running, signalUntilEnded, start, startFixture } from './support.ts'

const interrupted = `waiting\nQueueError EINTR -4\nlistener\n`

/** Empty for those who receive, full for those who send. */
function prepare(what: string): PosixQueue {
  const queue = openQueue()
  if (what === 'sendSync') queue.trySendMany(['1', '2', '3', '4'])
  return queue
}

/** Lets the wait end as it should. */
const release = (queue: PosixQueue, what: string) => (what === 'sendSync' ? queue.tryReceive() : queue.trySend('came'))

/** Sends signals while the child waits, then lets the wait end. */
async function signalThenRelease(child: Running, queue: PosixQueue, what: string): Promise<void> {
  await child.line()
  for (let count = 0; count < 10; count++) {
    process.kill(child.pid, 'SIGUSR2')
    await after(10)
  }
  release(queue, what)
}

describe.each(['receiveSync', 'receiveIntoSync', 'sendSync'])('%s', (what) => {
  test.each([
    ['', []],
    [' with a timeout', ['timeout']],
  ])('is ended by a signal that JavaScript listens for%s, and the listener runs', async (_, flags) => {
    const queue = prepare(what)
    const child = startFixture('signals.mjs', [queue.path ?? '', what, ...flags])
    await signalUntilEnded(child)
    expect(await child.outcome).toMatchObject({ stdout: interrupted, stderr: '', code: 0 })
  })

  test('with restart goes on, and the listener runs after', async () => {
    const queue = prepare(what)
    const child = startFixture('signals.mjs', [queue.path ?? '', what, 'restart'])
    await signalThenRelease(child, queue, what)
    const { stdout } = await child.outcome
    expect(stdout).toBe(`waiting\n${what === 'sendSync' ? 'sent' : 'came'}\nlistener\n`)
  })

  test('with restart keeps its deadline', async () => {
    const queue = prepare(what)
    const child = startFixture('signals.mjs', [queue.path ?? '', what, 'restart', 'timeout'])
    // Signals come faster than the deadline: one that began anew would never end.
    await signalUntilEnded(child)
    expect((await child.outcome).stdout).toBe('waiting\nQueueError ETIMEDOUT -110\nlistener\n')
  })

  test('is not ended by children of the process, when nothing listens for signals', async () => {
    const queue = prepare(what)
    const child = startFixture('signals.mjs', [queue.path ?? '', what, 'deaf', 'children', 'timeout'])
    expect((await child.outcome).stdout).toBe('waiting\nQueueError ETIMEDOUT -110\n')
  })

  test('is not ended by children of the process, when only Node.js listens, for the size of a terminal', async (ctx) => {
    ctx.skip(spawnSync('script', ['--version']).status !== 0, 'needs script(1)')
    const queue = prepare(what)
    const args = [fixture('signals.mjs'), queue.path ?? '', what, 'deaf', 'stdout', 'children', 'timeout']
    const command = [process.execPath, ...args].map((arg) => `'${arg}'`).join(' ')
    const child = start('script', ['--quiet', '--command', command, '/dev/null'])
    expect((await child.outcome).stdout).toBe('waiting\r\nQueueError ETIMEDOUT -110\r\n')
  })

  test('that nothing listens for ends the process', async () => {
    const queue = prepare(what)
    const child = startFixture('signals.mjs', [queue.path ?? '', what, 'deaf'])
    await child.line()
    process.kill(child.pid, 'SIGUSR2')
    expect(await child.outcome).toMatchObject({ code: null, signal: 'SIGUSR2' })
  })
})

test.each(['receiveSync', 'receiveIntoSync'])('%s is ended by a signal that comes while it spins', async (what) => {
  const queue = openQueue()
  const child = startFixture('signals.mjs', [queue.path ?? '', what, 'spin'])
  await child.line()
  process.kill(child.pid, 'SIGUSR2')
  // What goes on waiting gets a message in the end, and has missed its signal.
  await Promise.race([child.outcome, after(2000)])
  queue.trySend('missed')
  expect((await child.outcome).stdout).toBe(interrupted)
})

test('an asynchronous wait never sees a signal', async () => {
  const queue = openQueue()
  const child = startFixture('signals.mjs', [queue.path ?? '', 'receive'])
  await child.line()
  process.kill(child.pid, 'SIGUSR2')
  expect(await child.line()).toBe('listener')
  queue.trySend('came')
  expect((await child.outcome).stdout).toBe('waiting\nlistener\ncame\n')
})

test('a worker that waits is left alone by signals that the main thread listens for', async () => {
  const queue = openQueue()
  const child = startFixture('signals.mjs', [queue.path ?? '', 'worker'])
  await child.line()
  for (let count = 0; count < 10; count++) {
    process.kill(child.pid, 'SIGUSR2')
    await after(20)
  }
  expect(await child.line()).toBe('listener')
  queue.trySend('came')
  expect((await child.outcome).stdout).toBe('waiting\nlistener\ncame\n')
})

test('nothing is lost when signals and messages come together', async () => {
  const there = openQueue({ maxMessages: 1 })
  const back = openQueue({ maxMessages: 1 })
  const child = startFixture('interrupted.mjs', [there.path ?? '', back.path ?? ''])
  expect(await child.line()).toBe('waiting')
  const timer = setInterval(() => process.kill(child.pid, 'SIGUSR2'), 1)
  onTestFinished(() => clearInterval(timer))
  expect(await child.line()).toBe('interrupted')
  const numbers = Array.from({ length: 500 }, (_, index) => String(index))
  const sent = there.sendMany([...numbers, 'end'])
  const received: string[] = []
  for await (const message of back) {
    if (message.text() === 'end') break
    received.push(message.text())
  }
  clearInterval(timer)
  await sent
  const { code } = await child.outcome
  expect(received).toEqual(numbers)
  expect(code).toBe(0)
})
