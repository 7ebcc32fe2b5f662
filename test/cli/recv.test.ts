import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { chownSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { setTimeout as sleep } from 'node:timers/promises'
import { PosixQueue } from 'kernelmq'
import { describe, expect, onTestFinished, test } from 'vitest'
import { openQueue, start, stranger, uniqueName } from '../support.ts'
import { openSysv } from '../sysv-support.ts'
import {
  canBecome,
  directory,
  drain,
  drainTagged,
  expectFailure,
  families,
  kmqAsStranger,
  kmqUnread,
  nameOf,
  needsStranger,
} from './moving.ts'
import { command, kmq, startKmq } from './support.ts'
import { TerminalOf } from './terminal.ts'

describe('kmq recv', () => {
  test.each(families)('prints one message and a newline, or so many, %s', async (_, open) => {
    const queue = open()
    for (const text of ['one', '', 'three\n', 'four']) queue.trySend(text)
    expect(await kmq(['recv', nameOf(queue)])).toMatchObject({ code: 0, stdout: 'one\n', stderr: '' })
    expect(await kmq(['recv', nameOf(queue), '-n', '2'])).toMatchObject({ code: 0, stdout: '\nthree\n\n' })
    expect(drain(queue)).toEqual(['four'])
  })

  test('waits for it', async () => {
    const queue = openQueue()
    const child = startKmq(['recv', nameOf(queue), '-n', '2'])
    await queue.send('first')
    expect(await child.line()).toBe('first')
    await queue.send('second')
    expect(await child.line()).toBe('second')
    expect((await child.outcome).code).toBe(0)
  })

  test('--raw, --null', async () => {
    const queue = openQueue()
    for (const text of ['a', 'b', 'c\n', 'd']) queue.trySend(text)
    expect((await kmq(['recv', nameOf(queue), '-n', '2', '--raw'])).stdout).toBe('ab')
    expect((await kmq(['recv', nameOf(queue), '-n', '2', '--null'])).stdout).toBe('c\n\0d\0')
  })

  test('--json: text or base64, priority or type, time', async () => {
    const posix = openQueue()
    const binary = randomBytes(16).fill(0xff, 0, 1)
    posix.trySend('"ü"\n', { priority: 5 })
    posix.trySend(binary)
    const { stdout } = await kmq(['recv', nameOf(posix), '-n', '2', '--json'])
    const receivedAt = expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/)
    expect(
      stdout
        .trimEnd()
        .split('\n')
        .map((line) => JSON.parse(line)),
    ).toEqual([
      { text: '"ü"\n', bytes: 5, priority: 5, receivedAt },
      { base64: binary.toString('base64'), bytes: 16, priority: 0, receivedAt },
    ])
    const sysv = openSysv()
    sysv.trySend('', { type: 2n ** 60n })
    const message = JSON.parse((await kmq(['recv', nameOf(sysv), '--json'])).stdout)
    expect(message).toEqual({ text: '', bytes: 0, type: String(2n ** 60n), receivedAt })
  })

  test('--type and --except choose, System V', async () => {
    const queue = openSysv()
    for (const type of [5, 3, 1, 3, 7]) queue.trySend(`type ${type}`, { type })
    expect((await kmq(['recv', nameOf(queue), '--type', '3'])).stdout).toBe('type 3\n')
    expect((await kmq(['recv', nameOf(queue), '--type=-4', '-n', '2'])).stdout).toBe('type 1\ntype 3\n')
    expect((await kmq(['recv', nameOf(queue), '--type', '5', '--except'])).stdout).toBe('type 7\n')
    expect((await kmq(['recv', nameOf(queue), '--type', '9', '--timeout', '0'])).code).toBe(3)
    expect(drain(queue)).toEqual(['type 5'])
  })

  test.each(families)('code 3 when nothing came, or not so many, %s', async (_, open) => {
    const queue = open()
    expectFailure(await kmq(['recv', nameOf(queue), '--timeout', '0']), 3, /no message in /)
    const { code, stderr } = await kmq(['recv', nameOf(queue), '--timeout', '1ms', '--json'])
    expect(code).toBe(3)
    expect(JSON.parse(stderr)).toEqual({ error: { message: expect.stringContaining('in 1 ms'), code: 'ETIMEDOUT' } })
    queue.trySend('lonely')
    const few = await kmq(['recv', nameOf(queue), '-n', '2', '--timeout', '1'])
    expectFailure(few, 3, /only 1 message came/)
    expect(few.stdout).toBe('lonely\n')
  })

  test.each(families)('--follow --timeout 0 takes what is there, %s', async (_, open) => {
    const queue = open()
    queue.trySend('one')
    queue.trySend('two')
    expect(await kmq(['recv', nameOf(queue), '--follow', '--timeout', '0'])).toMatchObject({
      code: 0,
      stdout: 'one\ntwo\n',
    })
    expect((await kmq(['recv', nameOf(queue), '--follow', '--timeout', '0'])).code).toBe(3)
  })

  test.each(families)('--follow until Ctrl-C, %s', async (_, open) => {
    const queue = open()
    const child = startKmq(['recv', nameOf(queue), '--follow'])
    await queue.send('one')
    expect(await child.line()).toBe('one')
    process.kill(child.pid, 'SIGINT')
    expect(await child.outcome).toMatchObject({ signal: 'SIGINT', stderr: '' })
    queue.trySend('two')
    expect(drain(queue)).toEqual(['two'])
  })

  test.each(families)('a broken pipe: what was taken is back, with its priority or type, %s', async (_, open) => {
    const queue = open()
    queue.trySend('low', { priority: 1, type: 4 })
    queue.trySend('high', { priority: 9, type: 2 })
    const outcome = await kmqUnread(['recv', nameOf(queue), '--follow'])
    expectFailure(outcome, 141, /put back 2 messages to .*: they are now behind/)
    expect(drainTagged(queue)).toEqual(
      'id' in queue
        ? [
            ['low', 4],
            ['high', 2],
          ]
        : [
            ['high', 9],
            ['low', 1],
          ],
    )
  })

  test.each(families)('a full disk: the same, %s', async (_, open) => {
    const queue = open()
    queue.trySend('kept', { priority: 3, type: 3 })
    const child = start('sh', ['-c', 'exec "$@" > /dev/full', 'sh', process.execPath, command, 'recv', nameOf(queue)])
    expectFailure(await child.outcome, 1, /put back 1 message .*: it is now behind [\s\S]*ENOSPC/)
    expect(drainTagged(queue)).toEqual([['kept', 3]])
  })

  test('what may not be put back is in a file, which restore takes', async ({ skip }) => {
    skip(!canBecome, needsStranger)
    const queue = openSysv({ mode: 0o604 })
    queue.trySend('a', { type: 7 })
    queue.trySend('b')
    const cwd = directory()
    chownSync(cwd, stranger, stranger)
    const outcome = await kmqUnread(['recv', nameOf(queue), '-n', '2'], { cwd, uid: stranger })
    expectFailure(outcome, 141, /2 messages could not be put back .*EACCES.* and are in .*kmq-rescued/)
    const [file = '', ...others] = readdirSync(cwd)
    expect(others).toEqual([])
    const restored = await kmq(['restore', nameOf(queue)], { input: readFileSync(join(cwd, file), 'utf8') })
    expect(restored.code).toBe(0)
    expect(drainTagged(queue)).toEqual([
      ['a', 7],
      ['b', 1],
    ])
  })

  test.each([1, 2])('Ctrl-C while nobody reads: what was not written is kept, %i times', async (times) => {
    const queue = openQueue({ maxMessages: 10, messageSize: 8192 })
    const cwd = directory()
    const child = spawn(process.execPath, [command, 'recv', nameOf(queue), '--follow'], {
      stdio: ['ignore', 'pipe', 'pipe'],
      cwd,
    })
    onTestFinished(() => void child.kill('SIGKILL'))
    const stderr = text(child.stderr)
    const ended = new Promise<string>((resolve) => {
      child.once('exit', (_, signal) => void text(child.stdout).then((stdout) => resolve(`${signal}\n${stdout}`)))
    })
    // Until it takes no more. If that is only because it is slow, what is expected below holds as well.
    let sent = 0
    let refused = 0
    while (refused < 40) {
      if (queue.trySend(`${sent} ${'x'.repeat(8000)}`)) {
        sent++
        refused = 0
      } else {
        if (sent > 20) refused++
        await sleep(5)
      }
    }
    child.kill('SIGINT')
    // Two that come at the same time are one.
    const again = times === 2 ? setInterval(() => child.kill('SIGINT'), 20) : undefined
    void child.once('exit', () => clearInterval(again))
    const [signal, ...printed] = (await ended).split('\n')
    expect(signal).toBe(times === 2 ? 'null' : 'SIGINT')
    // The queue was full again, so that they could not go back.
    const files = readdirSync(cwd)
    expect(files).toHaveLength((await stderr).includes('could not be put back') ? 1 : 0)
    const rescued = files.flatMap((file) => readFileSync(join(cwd, file), 'utf8').split('\n').slice(1, -2))
    const bodies = rescued.map((line) => Buffer.from(JSON.parse(line).base64, 'base64').toString())
    const whole = [...printed, ...drain(queue), ...bodies].filter((line) => line.length > 8000)
    const numbers = new Set(whole.map((line) => Number.parseInt(line, 10)))
    expect(numbers.size).toBe(sent)
  })

  test('its terminal is gone: the message is put back', async () => {
    const queue = openQueue()
    const terminal = new TerminalOf([process.execPath, command, 'recv', nameOf(queue), '--follow'])
    await queue.send('shown')
    await terminal.until(({ text }) => text.includes('shown'))
    terminal.tell({ hangUp: true })
    await terminal.report('hungUp')
    await queue.send('kept')
    expect(await terminal.report('code')).toMatchObject({ code: null, signal: 'SIGHUP' })
    expect(drain(queue)).toEqual(['kept'])
  })

  test.each(families)('the queue is removed, %s', async (_, open) => {
    const queue = open()
    const child = startKmq(['recv', nameOf(queue), '--follow'])
    await queue.send('there')
    await child.line()
    if ('id' in queue) queue.remove()
    else PosixQueue.unlink(nameOf(queue))
    expectFailure(await child.outcome, 1, /removed/)
  })

  test('bad input takes nothing', async () => {
    const posix = openQueue()
    const sysv = openSysv()
    posix.trySend('x')
    sysv.trySend('x')
    const cases: [args: string[], words: RegExp][] = [
      [[], /expected QUEUE/],
      [[nameOf(posix), '--raw', '--json'], /exclude each other/],
      [[nameOf(posix), '-n', '0'], /--count is an integer from 1/],
      [[nameOf(posix), '-n', '1', '--follow'], /exclude each other/],
      [[nameOf(posix), '--type', '3'], /is a POSIX queue/],
      [[nameOf(sysv), '--except'], /--except goes with a --type/],
      [[nameOf(sysv), '--type', 'x'], /--type is an integer/],
    ]
    for (const [args, words] of cases) expectFailure(await kmq(['recv', ...args]), 2, words)
    expectFailure(await kmq(['recv', uniqueName()]), 1, /ENOENT/)
    expect([drain(posix), drain(sysv)]).toEqual([['x'], ['x']])
  })

  test('without permission', async ({ skip }) => {
    skip(!canBecome, needsStranger)
    for (const queue of [openQueue(), openSysv()])
      expectFailure(await kmqAsStranger(['recv', nameOf(queue)]), 1, /EACCES/)
  })
})
