import { describe, expect, test } from 'vitest'
import { openQueue } from '../support.ts'
import { openSysv, reopen } from '../sysv-support.ts'
import { canBecome, drain, expectFailure, kmqAsStranger, kmqUnread, nameOf } from './moving.ts'
import { kmq } from './support.ts'

function openFilled() {
  const queue = openSysv()
  for (const [index, type] of [4, 2, 4, 1].entries()) queue.trySend(`m${index}`, { type })
  return queue
}

describe('kmq peek', () => {
  test('prints what is there, and leaves it', async () => {
    const queue = openFilled()
    const name = nameOf(queue)
    expect(await kmq(['peek', name])).toMatchObject({ code: 0, stdout: 'm0\n', stderr: '' })
    expect((await kmq(['peek', name, '-n', '2', '--skip', '1', '--raw'])).stdout).toBe('m1m2')
    expect((await kmq(['peek', name, '--all', '--type', '4', '--null'])).stdout).toBe('m0\0m2\0')
    expect((await kmq(['peek', name, '--all', '--type', '4', '--except'])).stdout).toBe('m1\nm3\n')
    const { stdout } = await kmq(['peek', name, '--all', '--json'])
    const rows = stdout.trimEnd().split('\n')
    expect(rows.map((row) => JSON.parse(row))).toEqual([
      { text: 'm0', bytes: 2, type: 4, index: 0 },
      { text: 'm1', bytes: 2, type: 2, index: 1 },
      { text: 'm2', bytes: 2, type: 4, index: 2 },
      { text: 'm3', bytes: 2, type: 1, index: 3 },
    ])
    expect(drain(queue)).toEqual(['m0', 'm1', 'm2', 'm3'])
  })

  test('code 3 if there is none', async () => {
    const queue = openFilled()
    expectFailure(await kmq(['peek', nameOf(queue), '--type', '9']), 3, /no such message/)
    drain(queue)
    const { code, stderr } = await kmq(['peek', nameOf(queue), '--json'])
    expect(code).toBe(3)
    expect(JSON.parse(stderr)).toEqual({ error: { code: 'ENOMSG', message: expect.any(String) } })
  })

  test('a broken pipe', async () => {
    const queue = openFilled()
    expect(await kmqUnread(['peek', nameOf(queue), '--all'])).toMatchObject({ code: 141, stderr: '' })
    expect(drain(queue)).toHaveLength(4)
  })

  test('a POSIX queue: why not, and what else', async () => {
    const queue = openQueue()
    queue.trySend('x')
    const outcome = await kmq(['peek', nameOf(queue)])
    expectFailure(outcome, 1, /is a POSIX queue: the kernel gives .* only to who takes them\n.*kmq dump --keep/)
    expect(drain(queue)).toEqual(['x'])
  })

  test('bad input, a queue that is gone, no permission', async () => {
    const queue = openFilled()
    const name = nameOf(queue)
    for (const args of [[], [name, '--type=-3'], [name, '-n', '0'], [name, '-n', '1', '--all'], [name, '--skip', 'x']])
      expectFailure(await kmq(['peek', ...args]), 2, /kmq peek: /)
    if (canBecome) expectFailure(await kmqAsStranger(['peek', name]), 1, /EACCES/)
    reopen(queue).remove()
    expectFailure(await kmq(['peek', name]), 1, /EIDRM/)
  })
})
