import { spawnSync } from 'node:child_process'
import { PosixQueue, SysvQueue } from 'kernelmq'
import { describe, expect, test } from 'vitest'
import { canUnshare, isMounted, openQueue, overhead } from '../support.ts'
import { openSysv } from '../sysv-support.ts'
import { jsonOf, kmq } from './support.ts'

const namespaces = 'needs namespaces of its own, which root can make'

interface Row {
  id: string
  name: string
  value: number | null
  used: number | null
}

async function rowsOf(through: string[] = []): Promise<Record<string, Row>> {
  const rows: Row[] = await jsonOf(['limits', '--json'], { through })
  return Object.fromEntries(rows.map((row) => [row.name, row]))
}

const names = [
  'RLIMIT_NOFILE',
  'RLIMIT_MSGQUEUE',
  'fs.mqueue.queues_max',
  'fs.mqueue.msg_max',
  'fs.mqueue.msgsize_max',
  'fs.mqueue.msg_default',
  'fs.mqueue.msgsize_default',
  'kernel.msgmni',
  'kernel.msgmnb',
  'kernel.msgmax',
]

describe('kmq limits', () => {
  test('is a table of all of them, aligned', async () => {
    const { code, stdout, stderr } = await kmq(['limits'])
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    const [head = '', ...rows] = stdout.trimEnd().split('\n')
    expect(head).toMatch(/^LIMIT +VALUE +IN USE +UNIT +RAISING IT COSTS$/)
    expect(rows.map((row) => row.split(' ')[0])).toEqual(names)
    const column = head.indexOf('RAISING')
    for (const row of rows) expect(row.slice(column - 2, column + 1)).toMatch(/^ {2}\S$/)
    const { messageSize } = SysvQueue.limits()
    expect(rows.at(-1)).toMatch(new RegExp(`^kernel\\.msgmax +${messageSize} +- +bytes +\\S`))
  })

  test('--json has the values that hold, what is in use, and how to raise each', async () => {
    const [queue, sysv] = [openQueue(), openSysv()]
    sysv.trySend('x'.repeat(2000))
    const { code, stdout } = await kmq(['limits', '--json'])
    expect(code).toBe(0)
    const rows = JSON.parse(stdout)
    expect(rows.map(({ name }: Row) => name)).toEqual(names)
    for (const row of rows) {
      expect(row).toEqual({
        id: expect.stringMatching(/^(posix|sysv|process)\.\w+$/),
        name: row.name,
        unit: expect.stringMatching(/^(bytes|messages|queues|descriptors)$/),
        value: row.value === null ? null : expect.any(Number),
        used: row.used === null ? null : expect.any(Number),
        isLowerBound: row.name === 'RLIMIT_MSGQUEUE',
        status: expect.stringMatching(/^(ok|warning|problem|unknown)$/),
        cost: expect.any(String),
        raise: expect.any(Array),
      })
    }
    const byName = Object.fromEntries(rows.map((row: Row) => [row.name, row]))
    const posix = PosixQueue.limits()
    expect(byName['fs.mqueue.queues_max'].value).toBe(posix.queues)
    expect(byName['fs.mqueue.msg_max'].value).toBe(posix.maxMessages)
    expect(byName['kernel.msgmnb'].value).toBe(SysvQueue.limits().maxBytes)
    expect(byName['kernel.msgmnb'].used).toBeGreaterThanOrEqual(2000)
    if (isMounted) {
      expect(byName.RLIMIT_MSGQUEUE.used).toBeGreaterThanOrEqual(PosixQueue.cost(queue.attributes))
    }
  })

  test('tells a limit of its own process', async () => {
    expect((await rowsOf(['prlimit', '--msgqueue=12345'])).RLIMIT_MSGQUEUE?.value).toBe(12345)
  })

  test('tells that there is none', async ({ skip }) => {
    const through = ['prlimit', '--msgqueue=unlimited']
    skip(
      spawnSync('prlimit', [...through.slice(1), 'true']).status !== 0,
      'only root with CAP_SYS_RESOURCE lifts a limit',
    )
    expect((await rowsOf(through)).RLIMIT_MSGQUEUE).toMatchObject({ value: null, status: 'ok', raise: [] })
    expect((await kmq(['limits'], { through })).stdout).toMatch(/^RLIMIT_MSGQUEUE +unlimited /m)
  })

  test('without the mqueue file system tells what it can', async ({ skip }) => {
    skip(!canUnshare, namespaces)
    const rows = await rowsOf(['unshare', '--mount', 'sh', '-c', 'umount --all --types mqueue; exec "$@"', 'sh'])
    expect(rows.RLIMIT_MSGQUEUE).toMatchObject({ value: expect.any(Number), used: null, status: 'unknown' })
    expect(rows['fs.mqueue.queues_max']).toMatchObject({ value: expect.any(Number), used: null })
    expect(rows['kernel.msgmni']?.used).toEqual(expect.any(Number))
  })

  test('without /proc says what cannot be read, ends with 1, and tells the rest', async ({ skip }) => {
    skip(!canUnshare, namespaces)
    skip(overhead > 1, 'a sanitizer says that there is no /proc, too')
    const through = ['unshare', '--mount', 'sh', '-c', 'umount -l /proc; exec "$@"', 'sh']
    const { code, stdout, stderr } = await kmq(['limits'], { through })
    expect(code).toBe(1)
    expect(stdout).toMatch(/^kernel\.msgmni +\d/m)
    expect(stdout).not.toContain('RLIMIT_MSGQUEUE')
    expect(stderr).toMatch(/^kmq limits: process\.descriptors, posix\.bytes: ENOENT/m)
    expect(stderr).not.toMatch(/^ +at /m)
    const json = await kmq(['limits', '--json'], { through })
    expect(
      json.stderr
        .trimEnd()
        .split('\n')
        .map((line) => Object.keys(JSON.parse(line))),
    ).toEqual([['error'], ['error']])
  })

  test('takes no operands', async () => {
    const { code, stdout } = await kmq(['limits', '/orders'])
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' })
  })
})
