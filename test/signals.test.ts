import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, onTestFinished, test } from 'vitest'
import { type Family, families, newQueue } from './families.ts'
import { prepare, satisfy } from './fixtures/operations.mjs'
import { fixture, openQueue, type Running, signalUntilEnded, start, startFixture } from './support.ts'

const interrupted = `waiting\nQueueError EINTR -4\nlistener\n`

/** A queue that is empty for those who receive, full for those who send. */
function prepared(family: Family, what: string): string {
  const name = newQueue(family)
  prepare(what, name)
  return name
}

/** Sends signals while the child waits, then lets the wait end. */
async function signalThenRelease(child: Running, name: string, what: string): Promise<void> {
  await child.line()
  for (let count = 0; count < 10; count++) {
    process.kill(child.pid, 'SIGUSR2')
    await sleep(10)
  }
  satisfy(what, name)
}

describe.each(families)('with a %s,', (family) => {
  describe.each(['receiveSync', 'receiveIntoSync', 'sendSync'])('%s', (what) => {
    test.each([
      ['', []],
      [' with a timeout', ['patient']],
    ])('is ended by a signal that JavaScript listens for%s, and the listener runs', async (_, flags) => {
      const name = prepared(family, what)
      const child = startFixture('signals.mjs', [name, what, ...flags])
      await signalUntilEnded(child)
      expect(await child.outcome).toMatchObject({ stdout: interrupted, stderr: '', code: 0 })
    })

    test('with restart goes on, and the listener runs after', async () => {
      const name = prepared(family, what)
      const child = startFixture('signals.mjs', [name, what, 'restart'])
      await signalThenRelease(child, name, what)
      const { stdout } = await child.outcome
      expect(stdout).toBe(`waiting\n${what === 'sendSync' ? 'sent' : 'late'}\nlistener\n`)
    })

    test('with restart keeps its deadline', async () => {
      const name = prepared(family, what)
      const child = startFixture('signals.mjs', [name, what, 'restart', 'timeout'])
      // Signals come faster than the deadline: one that began anew would never end.
      await signalUntilEnded(child)
      expect((await child.outcome).stdout).toBe('waiting\nQueueError ETIMEDOUT -110\nlistener\n')
    })

    test('is not ended by children of the process, when nothing listens for signals', async () => {
      const name = prepared(family, what)
      const child = startFixture('signals.mjs', [name, what, 'deaf', 'children', 'timeout'])
      expect((await child.outcome).stdout).toBe('waiting\nQueueError ETIMEDOUT -110\n')
    })

    test('is not ended by children of the process, when only Node.js listens, for the size of a terminal', async (ctx) => {
      ctx.skip(spawnSync('script', ['--version']).status !== 0, 'needs script(1)')
      const name = prepared(family, what)
      const args = [fixture('signals.mjs'), name, what, 'deaf', 'stdout', 'children', 'timeout']
      const command = [process.execPath, ...args].map((arg) => `'${arg}'`).join(' ')
      const child = start('script', ['--quiet', '--command', command, '/dev/null'])
      expect((await child.outcome).stdout).toBe('waiting\r\nQueueError ETIMEDOUT -110\r\n')
    })

    test('is not ended by signals of the profiler, which are no business of the loop', async () => {
      const name = prepared(family, what)
      const directory = mkdtempSync(join(tmpdir(), 'kernelmq-profile-'))
      onTestFinished(() => rmSync(directory, { recursive: true, force: true }))
      const profiled = ['--cpu-prof', `--cpu-prof-dir=${directory}`]
      const child = start(process.execPath, [...profiled, fixture('signals.mjs'), name, what, 'timeout'])
      await child.line()
      expect(await child.line()).toBe('QueueError ETIMEDOUT -110')
      process.kill(child.pid, 'SIGUSR2')
      expect((await child.outcome).code).toBe(0)
    })

    test('that nothing listens for ends the process', async () => {
      const name = prepared(family, what)
      const child = startFixture('signals.mjs', [name, what, 'deaf'])
      await child.line()
      process.kill(child.pid, 'SIGUSR2')
      expect(await child.outcome).toMatchObject({ code: null, signal: 'SIGUSR2' })
    })
  })

  test.each(['receiveSync', 'receiveIntoSync'])('%s is ended by a signal that comes while it spins', async (what) => {
    const name = newQueue(family)
    const child = startFixture('signals.mjs', [name, what, 'spin'])
    await child.line()
    process.kill(child.pid, 'SIGUSR2')
    // What goes on waiting gets a message in the end, and has missed its signal.
    await Promise.race([child.outcome, sleep(20_000)])
    satisfy(what, name)
    expect((await child.outcome).stdout).toBe(interrupted)
  })

  test('an asynchronous wait never sees a signal', async () => {
    const name = newQueue(family)
    const child = startFixture('signals.mjs', [name, 'receive'])
    await child.line()
    process.kill(child.pid, 'SIGUSR2')
    expect(await child.line()).toBe('listener')
    satisfy('receive', name)
    expect((await child.outcome).stdout).toBe('waiting\nlistener\nlate\n')
  })

  test('a worker that waits is left alone by signals that the main thread listens for', async () => {
    const name = newQueue(family)
    const child = startFixture('signals.mjs', [name, 'worker'])
    await child.line()
    for (let count = 0; count < 10; count++) {
      process.kill(child.pid, 'SIGUSR2')
      await sleep(20)
    }
    expect(await child.line()).toBe('listener')
    satisfy('receive', name)
    expect((await child.outcome).stdout).toBe('waiting\nlistener\nlate\n')
  })
})

test('a wait for System V ends when the user may have no more signals pending', async () => {
  const name = newQueue('SysvQueue')
  const args = ['--sigpending=0', process.execPath, fixture('signals.mjs'), name, 'receive', 'deaf', 'timeout']
  const child = start('prlimit', args)
  expect(await child.outcome).toMatchObject({ stdout: 'waiting\nQueueError ETIMEDOUT -110\n', code: 0 })
})

test('nothing is lost when signals and messages come together', async () => {
  const there = openQueue({ maxMessages: 1 })
  const back = openQueue({ maxMessages: 1 })
  const child = startFixture('interrupted.mjs', [there.path ?? '', back.path ?? ''])
  expect(await child.line()).toBe('waiting')
  const timer = setInterval(() => child.kill('SIGUSR2'), 1)
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
