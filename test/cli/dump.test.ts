import { randomBytes } from 'node:crypto'
import { SysvQueue } from 'kernelmq'
import { describe, expect, test } from 'vitest'
import { openQueue, start, uniqueName } from '../support.ts'
import { openSysv, uniqueKey } from '../sysv-support.ts'
import {
  canBecome,
  drain,
  drainTagged,
  expectFailure,
  kmqAsStranger,
  kmqUnread,
  nameOf,
  needsStranger,
} from './moving.ts'
import { command, kmq } from './support.ts'

const linesOf = (text: string) =>
  text
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line))

describe('kmq dump', () => {
  test('System V: a copy, with all that restore needs', async () => {
    const key = uniqueKey()
    const queue = SysvQueue.open(key, { create: true, maxBytes: 1000, mode: 0o640 })
    const binary = randomBytes(9)
    queue.trySend(binary, { type: 2n ** 60n })
    queue.trySend('', { type: 3 })
    const { code, stdout, stderr } = await kmq(['dump', `#${queue.id}`])
    expect({ code, stderr }).toEqual({ code: 0, stderr: `2 messages of #${queue.id}\n` })
    expect(linesOf(stdout)).toEqual([
      {
        format: 'kmq-dump',
        version: 1,
        queue: `0x${key.toString(16).padStart(8, '0')}`,
        family: 'sysv',
        attributes: { mode: '640', uid: process.getuid?.(), gid: process.getgid?.(), maxBytes: 1000 },
        dumpedAt: expect.stringMatching(/Z$/),
      },
      { type: String(2n ** 60n), base64: binary.toString('base64') },
      { type: 3, base64: '' },
      { end: true, messages: 2 },
    ])
    expect(queue.stat().messages).toBe(2)
    await kmq(['dump', `#${queue.id}`, '--drain'])
    expect(queue.stat().messages).toBe(0)
    queue.close()
  })

  test('POSIX: not by surprise', async () => {
    const queue = openQueue()
    queue.trySend('x')
    expectFailure(await kmq(['dump', nameOf(queue)]), 2, /--drain takes them out of .*, --keep puts them back/)
    expectFailure(await kmq(['dump', nameOf(queue), '--drain', '--keep']), 2, /exclude each other/)
    expect(drain(queue)).toEqual(['x'])
  })

  test('POSIX: --keep leaves all in order, --drain takes them', async () => {
    const queue = openQueue()
    const messages = [
      ['a', 1],
      ['b', 7],
      ['c', 1],
      ['d', 7],
    ] as const
    for (const [data, priority] of messages) queue.trySend(data, { priority })
    const inOrder = [
      ['b', 7],
      ['d', 7],
      ['a', 1],
      ['c', 1],
    ]
    const rows = inOrder.map(([text, priority]) => ({ priority, base64: Buffer.from(String(text)).toString('base64') }))
    const kept = linesOf((await kmq(['dump', nameOf(queue), '--keep'])).stdout)
    expect(kept[0]).toMatchObject({
      queue: nameOf(queue),
      attributes: { maxMessages: 4, messageSize: 64, mode: '600' },
    })
    expect(kept.slice(1, -1)).toEqual(rows)
    const again = linesOf((await kmq(['dump', nameOf(queue), '--keep'])).stdout)
    expect(again.slice(1)).toEqual(kept.slice(1))
    const drained = linesOf((await kmq(['dump', nameOf(queue), '--drain'])).stdout)
    expect(drained.slice(1)).toEqual(kept.slice(1))
    expect(drain(queue)).toEqual([])
  })

  test('an empty queue', async () => {
    const { stdout } = await kmq(['dump', nameOf(openQueue()), '--drain'])
    expect(linesOf(stdout).slice(1)).toEqual([{ end: true, messages: 0 }])
  })

  test.each(['a broken pipe', 'a full disk'])('%s: what was taken is put back', async (what) => {
    const queue = openQueue()
    queue.trySend('low', { priority: 1 })
    queue.trySend('high', { priority: 2 })
    const args = ['dump', nameOf(queue), '--drain']
    const outcome =
      what === 'a broken pipe'
        ? await kmqUnread(args)
        : await start('sh', ['-c', 'exec "$@" > /dev/full', 'sh', process.execPath, command, ...args]).outcome
    expectFailure(outcome, what === 'a broken pipe' ? 141 : 1, /put back 2 messages/)
    expect(drainTagged(queue)).toEqual([
      ['high', 2],
      ['low', 1],
    ])
  })

  test('no queue, no permission', async ({ skip }) => {
    expectFailure(await kmq(['dump', uniqueName(), '--keep']), 1, /ENOENT/)
    const { stderr } = await kmq(['dump', '/kmq-nowhere', '--keep', '--json'])
    expect(JSON.parse(stderr).error).toMatchObject({ code: 'ENOENT' })
    skip(!canBecome, needsStranger)
    const queue = openSysv()
    queue.trySend('x')
    expectFailure(await kmqAsStranger(['dump', nameOf(queue)]), 1, /EACCES/)
    expect(drain(queue)).toEqual(['x'])
  })
})
