import { PosixQueue, SysvQueue } from 'kernelmq'
import { describe, expect, onTestFinished, test } from 'vitest'
import { isRoot, openQueue, start, stranger, uniqueName, unlimited } from '../support.ts'
import { openSysv, removeAfter, uniqueKey } from '../sysv-support.ts'
import {
  canBecome,
  depthIs,
  drain,
  drainTagged,
  expectFailure,
  families,
  kmqAsStranger,
  nameOf,
  needsStranger,
} from './moving.ts'
import { command, kmq, startKmq } from './support.ts'

/** A dump with so many messages of a length. */
function dumpOf(queue: string, count: number, length = 50): string {
  const family = queue.startsWith('/') ? 'posix' : 'sysv'
  const attributes = {
    mode: '666',
    uid: 0,
    gid: 0,
    ...(family === 'posix' ? { maxMessages: 3, messageSize: 60 } : { maxBytes: 500 }),
  }
  const lines: object[] = [{ format: 'kmq-dump', version: 1, queue, family, attributes }]
  for (let index = 0; index < count; index++) {
    const base64 = Buffer.from(String(index).padEnd(length)).toString('base64')
    lines.push({ ...(family === 'posix' ? { priority: count - index } : { type: index + 1 }), base64 })
  }
  return [...lines, { end: true, messages: count }].map((line) => `${JSON.stringify(line)}\n`).join('')
}

describe('kmq restore', () => {
  test('POSIX: makes the queue again as it was', async () => {
    const name = uniqueName()
    const before = PosixQueue.open(name, { create: true, maxMessages: 3, messageSize: 60 })
    const { fchmodSync, fchownSync } = await import('node:fs')
    fchmodSync(before.fd, 0o666)
    if (isRoot) fchownSync(before.fd, stranger, stranger)
    for (const [data, priority] of [
      ['a', 1],
      ['b', 9],
      ['c', 1],
    ] as const)
      before.trySend(data, { priority })
    const { stdout: dump } = await kmq(['dump', name, '--drain'])
    PosixQueue.unlink(name)
    before.close()
    const { code, stdout } = await kmq(['restore'], { input: dump })
    expect({ code, stdout }).toEqual({ code: 0, stdout: `3 messages restored to ${name}, which was created\n` })
    const queue = PosixQueue.open(name)
    onTestFinished(() => void queue.close())
    expect(queue.attributes).toEqual({ maxMessages: 3, messageSize: 60, messages: 3 })
    const again = (await kmq(['dump', name, '--keep'])).stdout.split('\n')
    expect(again.slice(1)).toEqual(dump.split('\n').slice(1))
    expect(JSON.parse(again[0] ?? '').attributes).toEqual(JSON.parse(dump.split('\n')[0] ?? '').attributes)
    expect(drainTagged(queue)).toEqual([
      ['b', 9],
      ['a', 1],
      ['c', 1],
    ])
  })

  test('System V: the same', async () => {
    const key = uniqueKey()
    const before = SysvQueue.open(key, { create: true, maxBytes: 777, mode: 0o622 })
    if (isRoot) before.set({ uid: stranger, gid: stranger })
    before.trySend('x', { type: 2n ** 62n })
    before.trySend(Buffer.from([0xff, 0]), { type: 2 })
    const { stdout: dump } = await kmq(['dump', `#${before.id}`])
    before.remove()
    const { stdout } = await kmq(['restore', '--json'], { input: dump })
    expect(JSON.parse(stdout)).toEqual({ queue: expect.any(String), created: true, restored: 2, bytes: 3 })
    const queue = SysvQueue.open(key)
    removeAfter(queue.id)
    expect(queue.stat()).toMatchObject({ maxBytes: 777, mode: 0o622, uid: isRoot ? stranger : process.getuid?.() })
    expect(queue.tryReceiveMany().map(({ data, type }) => [data.toString('hex'), type])).toEqual([
      ['78', 2n ** 62n],
      ['ff00', 2],
    ])
  })

  test('to another queue, of the other family too', async () => {
    const [posix, sysv] = [openQueue(), openSysv()]
    await kmq(['restore', nameOf(sysv)], { input: dumpOf('/other', 3, 1) })
    expect(drainTagged(sysv)).toEqual([
      ['0', 4],
      ['1', 3],
      ['2', 2],
    ])
    await kmq(['restore', nameOf(posix)], { input: dumpOf('0x2a', 2, 1) })
    expect(drainTagged(posix)).toEqual([
      ['1', 1],
      ['0', 0],
    ])
    expectFailure(
      await kmq(['restore', uniqueName()], { input: dumpOf('0x2a', 2, 1) }),
      1,
      /there is no queue .*\n.*kmq create/,
    )
  })

  test.each(families)('what does not fit is refused whole, or waits, %s', async (_, open) => {
    const queue = open()
    queue.trySend('x'.repeat(60))
    const input = dumpOf(nameOf(queue), 4)
    const refused = await kmq(['restore', nameOf(queue)], { input })
    expectFailure(refused, 3, /4 messages of 200 bytes do not fit into .*; nothing was restored\n.*--wait/)
    expect(drain(queue)).toHaveLength(1)
    while (queue.trySend('x'.repeat(60)));
    const child = startKmq(['restore', nameOf(queue), '--wait'])
    child.end(input)
    const received: string[] = []
    while (received.filter((text) => !text.startsWith('x')).length < 4) received.push((await queue.receive()).text())
    expect((await child.outcome).code).toBe(0)
  })

  test.each(families)('stopped half-way it says how far it came, and goes on there, %s', async (_, open) => {
    const queue = open()
    const input = dumpOf(nameOf(queue), 9)
    const child = startKmq(['restore', nameOf(queue), '--wait'])
    child.end(input)
    const room = 'id' in queue ? 5 : 4
    await depthIs(queue, room)
    process.kill(child.pid, 'SIGINT')
    const { signal, stderr } = await child.outcome
    expect(signal).toBe('SIGINT')
    expect(stderr).toMatch(new RegExp(`interrupted; ${room} of 9 messages restored .*--skip ${room} goes on`))
    const before = drain(queue)
    const timedOut = await kmq(['restore', nameOf(queue), '--timeout', '1', '--skip', '3', '--json'], { input })
    expect(timedOut.code).toBe(3)
    expect(JSON.parse(timedOut.stderr).error).toMatchObject({
      code: 'ETIMEDOUT',
      sent: room,
      hint: expect.stringContaining(`--skip ${3 + room}`),
    })
    expect(before.length + drain(queue).length).toBe(2 * room)
    const rest = await kmq(['restore', nameOf(queue), '--skip', String(room)], {
      input: dumpOf(nameOf(queue), room + 2),
    })
    expect(rest.code).toBe(0)
    expect(drain(queue).map((text) => text.trim())).toEqual([String(room), String(room + 1)])
  })

  test.each(families)('a message that is too long for the queue: nothing is done, %s', async (_, open) => {
    const queue = open()
    const outcome = await kmq(['restore', nameOf(queue)], { input: dumpOf(nameOf(queue), 2, 300) })
    expectFailure(outcome, 1, /message 1 has 300 bytes, and .* takes (64|256); nothing was restored/)
    expect(drain(queue)).toEqual([])
  })

  test('input that goes on and on does not fill the memory', async (ctx) => {
    ctx.skip(unlimited !== undefined, unlimited)
    const line = 'head -c 2000000000 /dev/zero | prlimit --as=4000000000 "$@"'
    const child = start('sh', ['-c', line, 'sh', process.execPath, command, 'restore'])
    expectFailure(await child.outcome, 1, /the input has more than \d+ bytes\n.*Longer dumps cannot be read/)
  })

  test('a queue that was created for nothing is gone again', async () => {
    const name = uniqueName()
    expectFailure(await kmq(['restore', name], { input: dumpOf('/x', 1, 61) }), 1, /61 bytes, and .* takes 60/)
    expectFailure(await kmq(['restore', name], { input: dumpOf('/x', 4) }), 3, /do not fit/)
    expect(() => PosixQueue.open(name)).toThrow(/ENOENT/)
  })

  test('the name in a dump cannot move the cursor', async () => {
    const queue = openQueue()
    const name = `${uniqueName()}\u001b[2J`
    const input = dumpOf(nameOf(queue), 2).replace(JSON.stringify(nameOf(queue)), JSON.stringify(name))
    onTestFinished(() => void PosixQueue.unlink(name))
    const { code, stdout } = await kmq(['restore'], { input })
    expect({ code, stdout }).toEqual({
      code: 0,
      stdout: expect.stringMatching(/2 messages restored to .*\ufffd\[2J, which/),
    })
  })

  test('a damaged dump does nothing', async () => {
    const queue = openQueue()
    const whole = dumpOf(nameOf(queue), 2)
    const lines = whole.split('\n')
    const cases: [input: string, words: RegExp][] = [
      ['', /line 1 of the dump: this is no JSON/],
      ['{}', /this is no dump of kmq/],
      [whole.replace('"version":1', '"version":2'), /version 2, and this kmq reads version 1/],
      [lines.slice(0, 3).join('\n'), /not whole: its last line is not that of an end/],
      [[lines[0], lines[1], lines[3]].join('\n'), /not whole: it had 2 messages, and 1 are here/],
      [whole.replace('"base64":"', '"base64":"!'), /line 2 of the dump: "base64" is damaged/],
      [whole.replace('"priority":2', '"priority":-1'), /line 2 of the dump: "priority" is an integer/],
    ]
    for (const [input, words] of cases) expectFailure(await kmq(['restore', nameOf(queue)], { input }), 1, words)
    expect(drain(queue)).toEqual([])
  })

  test('bad input, no permission', async ({ skip }) => {
    expectFailure(await kmq(['restore', 'x']), 2, /names no queue/)
    expectFailure(await kmq(['restore', '--skip', '-']), 2, /--skip/)
    expectFailure(await kmq(['restore'], { input: dumpOf('#3', 1) }), 2, /without a key, #3/)
    skip(!canBecome, needsStranger)
    const queue = openQueue()
    expectFailure(await kmqAsStranger(['restore'], dumpOf(nameOf(queue), 1)), 1, /EACCES/)
    expect(drain(queue)).toEqual([])
  })
})
