import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { PosixQueue } from 'kernelmq'
import { describe, expect, test } from 'vitest'
import { openQueue, start, uniqueName } from '../support.ts'
import { openSysv, reopen } from '../sysv-support.ts'
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
} from './moving.ts'
import { command, kmq, startKmq } from './support.ts'

describe('kmq pipe', () => {
  test('POSIX to POSIX: order and priorities', async () => {
    const [from, to] = [openQueue(), openQueue()]
    for (const [text, priority] of [
      ['a', 1],
      ['b', 9],
      ['c', 1],
      ['d', 32767],
    ] as const)
      from.trySend(text, { priority })
    expect(await kmq(['pipe', nameOf(from), nameOf(to)])).toMatchObject({
      code: 0,
      stdout: '4 messages moved\n',
      stderr: '',
    })
    expect(drainTagged(to)).toEqual([
      ['d', 32767],
      ['b', 9],
      ['a', 1],
      ['c', 1],
    ])
    expect(drain(from)).toEqual([])
  })

  test('System V to System V: order and types', async () => {
    const [from, to] = [openSysv(), openSysv()]
    for (const type of [3, 1, 2n ** 62n]) from.trySend(`t${type}`, { type })
    const { stdout } = await kmq(['pipe', nameOf(from), nameOf(to), '--json'])
    expect(JSON.parse(stdout)).toEqual({ from: nameOf(from), to: nameOf(to), moved: 3, bytes: 24 })
    expect(drainTagged(to)).toEqual([
      ['t3', 3],
      ['t1', 1],
      [`t${2n ** 62n}`, 2n ** 62n],
    ])
  })

  test('between the families: priority p is type p+1, or inverted 32768-p, and back', async () => {
    const [posix, sysv] = [openQueue(), openSysv()]
    const messages = [
      ['high', 32767],
      ['mid', 5],
      ['low', 0],
    ] as const
    for (const [text, priority] of messages) posix.trySend(text, { priority })
    await kmq(['pipe', nameOf(posix), nameOf(sysv)])
    expect([...sysv.browse()].map((m) => [m.text(), m.type])).toEqual([
      ['high', 32768],
      ['mid', 6],
      ['low', 1],
    ])
    await kmq(['pipe', nameOf(sysv), nameOf(posix)])
    await kmq(['pipe', nameOf(posix), nameOf(sysv), '--invert'])
    expect([...sysv.browse()].map((m) => [m.text(), m.type])).toEqual([
      ['high', 1],
      ['mid', 32763],
      ['low', 32768],
    ])
    await kmq(['pipe', nameOf(sysv), nameOf(posix), '--invert'])
    expect(drainTagged(posix)).toEqual(messages)
  })

  test('a type that is no priority stays, with all behind it', async () => {
    const [from, to] = [openSysv(), openQueue()]
    for (const type of [7, 40_000, 8]) from.trySend(`t${type}`, { type })
    const outcome = await kmq(['pipe', nameOf(from), nameOf(to)])
    expectFailure(
      outcome,
      1,
      /put back 2 messages [\s\S]*1 message moved before[\s\S]*type 40000 has no priority[\s\S]*--priority/,
    )
    expect(drainTagged(to)).toEqual([['t7', 6]])
    await kmq(['pipe', nameOf(from), nameOf(to), '--priority', '3'])
    expect(drainTagged(to)).toEqual([
      ['t40000', 3],
      ['t8', 3],
    ])
  })

  test('--count, --follow, and code 3 when there is nothing', async () => {
    const [from, to] = [openQueue(), openQueue()]
    expect((await kmq(['pipe', nameOf(from), nameOf(to)])).code).toBe(3)
    expect((await kmq(['pipe', nameOf(from), nameOf(to), '--follow', '--timeout', '1'])).code).toBe(3)
    for (const text of ['a', 'b', 'c']) from.trySend(text)
    await kmq(['pipe', nameOf(from), nameOf(to), '--count', '2'])
    expect([drain(from), drain(to)]).toEqual([['c'], ['a', 'b']])
    const child = startKmq(['pipe', nameOf(from), nameOf(to), '--follow', '-n', '2'])
    await from.send('d')
    expect((await to.receive()).text()).toBe('d')
    await from.send('e')
    expect((await to.receive()).text()).toBe('e')
    expect(await child.outcome).toMatchObject({ code: 0, stdout: '2 messages moved\n' })
  })

  const pairs = families.flatMap(([a, openA]) => families.map(([b, openB]) => [a, b, openA, openB] as const))

  test.each(pairs)('waits while the other is full; Ctrl-C loses nothing, %s to %s', async (_a, _b, openA, openB) => {
    const [from, to] = [openA(), openB()]
    const child = startKmq(['pipe', nameOf(from), nameOf(to), '--follow'])
    const texts = Array.from({ length: 8 }, (_, index) => `${index}${'x'.repeat(50)}`)
    for (const text of texts) await from.send(text)
    await depthIs(to, 'id' in to ? 5 : 4)
    const first = await to.receive()
    await depthIs(to, 'id' in to ? 5 : 4)
    // It takes nothing for which there is no room, as far as that can be known.
    if ('path' in to) await depthIs(from, 3)
    process.kill(child.pid, 'SIGTERM')
    const { signal, stderr } = await child.outcome
    expect(signal).toBe('SIGTERM')
    expect(stderr).toContain(`interrupted; ${'id' in to ? 6 : 5} messages moved`)
    expect([first.text(), ...drain(to), ...drain(from)].toSorted()).toEqual(texts)
  })

  test.each(pairs)('the other is removed meanwhile: the rest stays, %s to %s', async (_a, _b, openA, openB) => {
    const [from, to] = [openA(), openB()]
    const texts = Array.from({ length: 8 }, (_, index) => `${index}${'x'.repeat(50)}`)
    const child = startKmq(['pipe', nameOf(from), nameOf(to), '--follow'])
    for (const text of texts) await from.send(text)
    const room = 'id' in to ? 5 : 4
    await depthIs(to, room)
    if ('id' in to) to.remove()
    else PosixQueue.unlink(nameOf(to))
    expectFailure(await child.outcome, 1, new RegExp(`${room} messages moved before.*removed`, 's'))
    expect(drain(from).toSorted()).toEqual(texts.slice(room))
  })

  test('a message too long for the other stays', async () => {
    const [from, to] = [openQueue({ messageSize: 64 }), openQueue({ messageSize: 10 })]
    from.trySend('short', { priority: 3 })
    from.trySend('too long for it', { priority: 2 })
    const outcome = await kmq(['pipe', nameOf(from), nameOf(to)])
    expectFailure(outcome, 1, /put back 1 message .*[\s\S]*EMSGSIZE.*\(15 > 10 bytes\)/)
    expect(drainTagged(from)).toEqual([['too long for it', 2]])
    expect(drainTagged(to)).toEqual([['short', 3]])
  })

  test.each(families)(
    'ended at once while a message has left one queue and not reached the other, from %s',
    async (_, open) => {
      const [from, to] = [open(), openSysv({ maxBytes: 100 })]
      to.trySend('x'.repeat(60))
      const child = startKmq(['pipe', nameOf(from), nameOf(to), '--follow'])
      await from.send('y'.repeat(60))
      await depthIs(from, 0)
      // Both are there before it has given up the send.
      process.kill(child.pid, 'SIGINT')
      process.kill(child.pid, 'SIGTERM')
      expect((await child.outcome).stderr).toContain('put back 1 message')
      expect(drain(from)).toEqual(['y'.repeat(60)])
    },
  )

  test('ended at once while the rest waits for room: what is there already does not go back', async () => {
    const [from, to] = [openSysv(), openSysv({ maxBytes: 256 })]
    const texts = ['a', 'b', 'c', 'd', 'e', 'f'].map((letter) => letter.repeat(60))
    from.trySendMany(texts)
    const child = startKmq(['pipe', nameOf(from), nameOf(to)])
    await depthIs(to, 4)
    // Both are there before it has given up the send.
    process.kill(child.pid, 'SIGINT')
    process.kill(child.pid, 'SIGTERM')
    expect((await child.outcome).stderr).toContain('put back 2 messages')
    expect([drain(to), drain(from)]).toEqual([texts.slice(0, 4), texts.slice(4)])
  })

  test('both are gone: what was taken is in a file', async () => {
    const [from, to] = [openSysv(), openSysv({ maxBytes: 100 })]
    to.trySend('x'.repeat(60))
    const cwd = directory()
    const child = start('sh', [
      '-c',
      'cd "$0" && exec "$@"',
      cwd,
      process.execPath,
      command,
      'pipe',
      nameOf(from),
      nameOf(to),
      '--follow',
    ])
    // It is taken, since there is some room, and does not fit.
    await from.send('y'.repeat(60), { type: 5 })
    await depthIs(from, 0)
    reopen(from).remove()
    reopen(to).remove()
    expectFailure(await child.outcome, 1, /1 message could not be put back .* and is in .*kmq-rescued[\s\S]*EIDRM/)
    const lines = readFileSync(join(cwd, readdirSync(cwd)[0] ?? ''), 'utf8').split('\n')
    expect(JSON.parse(lines[1] ?? '')).toEqual({ type: 5, base64: Buffer.from('y'.repeat(60)).toString('base64') })
  })

  test('the other was removed while it waits for a message: that stays', async () => {
    const [from, to] = [openQueue(), openQueue()]
    const child = startKmq(['pipe', nameOf(from), nameOf(to), '--follow'])
    await from.send('a')
    await depthIs(to, 1)
    PosixQueue.unlink(nameOf(to))
    await from.send('b')
    expectFailure(await child.outcome, 1, /was removed/)
    expect([drain(from), drain(to)]).toEqual([['b'], ['a']])
  })

  test('--timeout while the other is full is code 3', async () => {
    const [from, to] = [openQueue(), openQueue({ maxMessages: 1 })]
    from.trySend('a')
    to.trySend('full')
    const { code, stderr } = await kmq(['pipe', nameOf(from), nameOf(to), '--timeout', '1', '--json'])
    expect(code).toBe(3)
    expect(JSON.parse(stderr)).toEqual({ error: { message: `${nameOf(to)} is full`, code: 'ETIMEDOUT', sent: 0 } })
    expect([drain(from), drain(to)]).toEqual([['a'], ['full']])
  })

  test('a line of progress on a terminal, and nothing of it afterwards', async () => {
    const [from, to] = [openQueue(), openQueue()]
    from.trySend('a')
    from.trySend('b')
    const line = [process.execPath, command, 'pipe', nameOf(from), nameOf(to)].map((word) => `'${word}'`).join(' ')
    const child = start('script', ['-qec', line, '/dev/null'])
    child.end()
    const { code, stdout } = await child.outcome
    expect(code).toBe(0)
    expect(stdout).toMatch(/\[[^\]]*\] \d+% /)
    expect(stdout.replaceAll('\u001b', '')).toMatch(/2 messages moved\s+(\[\?25h)?$/)
  })

  test('bad input moves nothing', async () => {
    const [from, to] = [openQueue(), openSysv()]
    from.trySend('x')
    const name = nameOf(from)
    const cases: [args: string[], words: RegExp][] = [
      [[name], /expected FROM TO/],
      [[name, name], /one and the same/],
      [[name, nameOf(to), '--priority', '3'], /is a System V queue/],
      [[name, nameOf(to), '-n', 'x'], /--count/],
    ]
    for (const [args, words] of cases) expectFailure(await kmq(['pipe', ...args]), 2, words)
    expectFailure(await kmq(['pipe', name, uniqueName()]), 1, /ENOENT/)
    if (canBecome) expectFailure(await kmqAsStranger(['pipe', name, nameOf(to)]), 1, /EACCES/)
    expect([drain(from), drain(to)]).toEqual([['x'], []])
  })
})
