import { createHash, randomBytes } from 'node:crypto'
import { openSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { PosixQueue } from 'kernelmq'
import { describe, expect, test } from 'vitest'
import { openQueue, start, uniqueName } from '../support.ts'
import { openSysv } from '../sysv-support.ts'
import {
  canBecome,
  depthIs,
  directory,
  drain,
  drainTagged,
  expectFailure,
  families,
  kmqAsStranger,
  nameOf,
  needsStranger,
} from './moving.ts'
import { command, kmq, startKmq } from './support.ts'

describe('kmq send', () => {
  test('sends a text with its priority, or its type', async () => {
    const posix = openQueue()
    expect(await kmq(['send', nameOf(posix), 'hello', '--priority', '7'])).toMatchObject({
      code: 0,
      stdout: '',
      stderr: '',
    })
    expect(drainTagged(posix)).toEqual([['hello', 7]])
    const sysv = openSysv()
    await kmq(['send', nameOf(sysv), 'hello', '-t', '9007199254740993'])
    await kmq(['send', nameOf(sysv), 'plain'])
    expect(drainTagged(sysv)).toEqual([
      ['hello', 9007199254740993n],
      ['plain', 1],
    ])
  })

  test('sends a file, and standard input, as they are', async () => {
    const queue = openQueue()
    const path = join(directory(), 'body')
    writeFileSync(path, 'a\nb\n')
    await kmq(['send', nameOf(queue), `@${path}`])
    await kmq(['send', nameOf(queue), '-'], { input: 'from -\n' })
    await kmq(['send', nameOf(queue)], { input: 'from nothing' })
    await kmq(['send', nameOf(queue), ''])
    expect(drain(queue)).toEqual(['a\nb\n', 'from -\n', 'from nothing', ''])
  })

  test('--lines, --null: each is a message, empty ones and the last too', async () => {
    const queue = openQueue()
    await kmq(['send', nameOf(queue), '--lines'], { input: 'one\r\n\nthree' })
    expect(drain(queue)).toEqual(['one\r', '', 'three'])
    await kmq(['send', nameOf(queue), '--null', '--priority', '2'], { input: 'a\nb\0c\0' })
    expect(drainTagged(queue)).toEqual([
      ['a\nb', 2],
      ['c', 2],
    ])
  })

  test.each(families)('--json-lines sends what recv --json has printed, %s', async (_, open) => {
    const queue = open()
    const binary = randomBytes(20)
    queue.trySend(binary, { priority: 3, type: 2n ** 60n })
    queue.trySend('text "ü"', { priority: 2, type: 4 })
    const { stdout } = await kmq(['recv', nameOf(queue), '-n', '2', '--json'])
    expect((await kmq(['send', nameOf(queue), '--json-lines'], { input: stdout })).code).toBe(0)
    const again = queue.tryReceiveMany()
    expect(again.map(({ data }) => data)).toEqual([binary, Buffer.from('text "ü"')])
    expect(again.map((m) => ('priority' in m ? m.priority : m.type))).toEqual('id' in queue ? [2n ** 60n, 4] : [3, 2])
  })

  test('--json says how much was sent', async () => {
    const queue = openQueue()
    const { stdout } = await kmq(['send', nameOf(queue), '--lines', '--json'], { input: 'a\nbc\n' })
    expect(JSON.parse(stdout)).toEqual({ queue: nameOf(queue), sent: 2, bytes: 3 })
  })

  test.each(families)('a full queue is code 3, and what fitted was sent, %s', async (_, open) => {
    const queue = open()
    while (queue.trySend('x'.repeat(60)));
    queue.tryReceive()
    const input = `${'a'.repeat(60)}\n${'b'.repeat(60)}\n`
    expectFailure(await kmq(['send', nameOf(queue), '--lines'], { input }), 3, /is full; 1 message sent\n.*--wait/)
    queue.tryReceive()
    const { code, stderr } = await kmq(['send', nameOf(queue), '--lines', '--json', '--timeout', '1'], { input })
    expect(code).toBe(3)
    expect(JSON.parse(stderr)).toEqual({ error: { message: expect.any(String), code: 'ETIMEDOUT', sent: 1 } })
  })

  test.each(families)('--wait waits for room, and keeps the order, %s', async (_, open) => {
    const queue = open()
    const lines = Array.from({ length: 300 }, (_, index) => `line ${index}`)
    const child = startKmq(['send', nameOf(queue), '--lines', '--wait'])
    child.end(lines.join('\n'))
    const received: string[] = []
    while (received.length < lines.length) received.push((await queue.receive()).text())
    expect(received).toEqual(lines)
    expect((await child.outcome).code).toBe(0)
  })

  test('a message that is too long: which one, why, and what to do', async () => {
    const queue = openQueue()
    const input = `a\nb\n${'x'.repeat(65)}\nc\n`
    const outcome = await kmq(['send', nameOf(queue), '--lines'], { input })
    expectFailure(outcome, 1, /number 3: EMSGSIZE: .*\(65 > 64 bytes\)\n.*larger messageSize/)
    expect(drain(queue)).toEqual(['a', 'b'])
    const { stderr } = await kmq(['send', nameOf(queue), '--lines', '--json'], { input })
    expect(JSON.parse(stderr).error).toMatchObject({ code: 'EMSGSIZE', sent: 2 })
    expect(drain(queue)).toEqual(['a', 'b'])
    expectFailure(await kmq(['send', nameOf(queue)], { input: 'x'.repeat(70) }), 1, /EMSGSIZE.*70 > 64/)
  })

  test.each(['-', '--lines', '--null'])('input that goes on and on does not fill the memory: send %s', async (arg) => {
    const queue = openQueue()
    const child = start('sh', [
      '-c',
      'head -c 200000000 /dev/zero | tr "\\0" x | "$@"',
      'sh',
      process.execPath,
      command,
      'send',
      nameOf(queue),
      arg,
    ])
    expectFailure(await child.outcome, 1, /EMSGSIZE: message too long, .* more than 64 bytes/)
    expect(drain(queue)).toEqual([])
  })

  test('--rate sends no faster', async () => {
    const queue = openSysv()
    const lines = ['1', '2', '3', '4', '5', '6']
    const { milliseconds } = await kmq(['send', nameOf(queue), '--lines', '--rate', '3'], { input: lines.join('\n') })
    expect(drain(queue)).toEqual(lines)
    // Far more than it takes to start.
    expect(milliseconds).toBeGreaterThan(1660)
  })

  test.each(families)('Ctrl-C while it waits says how far it came, %s', async (_, open) => {
    const queue = open()
    const child = startKmq(['send', nameOf(queue), '--lines', '--wait'])
    child.end(`${'y'.repeat(50)}\n`.repeat(9))
    const room = 'id' in queue ? 5 : 4
    await depthIs(queue, room)
    process.kill(child.pid, 'SIGINT')
    const { signal, stderr } = await child.outcome
    expect({ signal, stderr }).toEqual({ signal: 'SIGINT', stderr: `interrupted; ${room} messages sent\n` })
  })

  test.each(families)('the queue is removed while it waits, %s', async (_, open) => {
    const queue = open()
    const child = startKmq(['send', nameOf(queue), '--lines', '--wait'])
    child.end('0123456789012345678901234567890\n'.repeat(99))
    await depthIs(queue, 'id' in queue ? 8 : 4)
    if ('id' in queue) queue.remove()
    else PosixQueue.unlink(nameOf(queue))
    expectFailure(await child.outcome, 1, /removed/)
  })

  test('bad input does nothing', async () => {
    const posix = openQueue()
    const sysv = openSysv()
    const name = nameOf(posix)
    const cases: [args: string[], words: RegExp][] = [
      [[], /expected QUEUE/],
      [['nowhere', 'x'], /names no queue/],
      [[name, 'x', '--type', '3'], /is a POSIX queue: it has priorities/],
      [[nameOf(sysv), 'x', '--priority', '3'], /is a System V queue: it has types/],
      [[nameOf(sysv), 'x', '--type', '0'], /--type is an integer from 1 to/],
      [[name, 'x', '--priority', '32768'], /--priority is an integer from 0 to 32767/],
      [[name, 'x', '--lines', '--null'], /exclude each other/],
      [[name, 'x', '--timeout', 'soon'], /--timeout is a time such as/],
      [[name, 'x', '--rate', '0'], /--rate/],
      [[name, 'x', 'y'], /unexpected 'y'/],
    ]
    for (const [args, words] of cases) expectFailure(await kmq(['send', ...args]), 2, words)
    expectFailure(await kmq(['send', name, '@/nowhere/file']), 1, /cannot read \/nowhere\/file/)
    expectFailure(await kmq(['send', uniqueName(), 'x']), 1, /ENOENT/)
    expectFailure(
      await kmq(['send', name, '{"text":"a"}\n{"text":1}', '--json-lines']),
      1,
      /number 2: expected an object/,
    )
    expect(drain(posix)).toEqual(['a'])
    expect(drain(sysv)).toEqual([])
  })

  test('without permission', async ({ skip }) => {
    skip(!canBecome, needsStranger)
    for (const queue of [openQueue(), openSysv()])
      expectFailure(await kmqAsStranger(['send', nameOf(queue), 'x']), 1, /EACCES/)
  })

  test.each(families)('a large file arrives as it was, %s', async (_, open) => {
    const queue = open()
    const path = join(directory(), 'lines')
    const lines = Array.from({ length: 60_000 }, (_, index) => `${index} ${'x'.repeat((index * 7919) % 50)}\n`)
    const text = lines.join('')
    writeFileSync(path, text)
    const output = join(directory(), 'output')
    const args = [process.execPath, command, 'recv', nameOf(queue), '-n', String(lines.length)]
    const receiver = start('sh', ['-c', 'exec "$@" > "$0"', output, ...args])
    const sender = startKmq(['send', nameOf(queue), '--lines', '--wait'], { stdin: openSync(path, 'r') })
    const [received, sent] = await Promise.all([receiver.outcome, sender.outcome])
    expect([sent.code, received.code]).toEqual([0, 0])
    const checksum = (what: string) => createHash('sha256').update(what).digest('hex')
    expect(checksum(readFileSync(output, 'utf8'))).toBe(checksum(text))
  })
})
