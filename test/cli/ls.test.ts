import { spawnSync } from 'node:child_process'
import { PosixQueue } from 'kernelmq'
import { describe, expect, onTestFinished, test } from 'vitest'
import type { QueueRow } from '../../lib/cli/queues.ts'
import { canUnshare, openQueue, uniqueName } from '../support.ts'
import { openSysv } from '../sysv-support.ts'
import { command, jsonOf, kmq, startKmq } from './support.ts'

describe('kmq ls', () => {
  test('lists both families, aligned', async () => {
    const queue = openQueue({ maxMessages: 3, messageSize: 50 })
    queue.trySend('hello')
    const sysv = openSysv()
    const { code, stdout, stderr } = await kmq(['ls'])
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    const [header = '', ...lines] = stdout.trimEnd().split('\n')
    expect(header).toMatch(/^QUEUE +MESSAGES +MAX +BYTES +LIMIT +OWNER +MODE +LAST SENDER +LAST RECEIVER$/)
    const row = lines.find((line) => line.startsWith(`${queue.path} `)) ?? ''
    expect(row.trim().split(/ +/).slice(1, 7)).toEqual(['1', '3', '5', '150', expect.any(String), '600'])
    expect(row.indexOf('600')).toBe(header.indexOf('MODE'))
    expect(stdout).toContain(`#${sysv.id} `)
  })

  test('tells who sent and received last, and what is stale', async () => {
    const used = openSysv()
    used.trySend('mine')
    const left = openSysv()
    const peer = `import { SysvQueue } from 'kernelmq'; SysvQueue.fromId(${left.id}).trySend('x')`
    spawnSync(process.execPath, ['--input-type=module', '-e', peer])
    const rows: QueueRow[] = await jsonOf(['ls', '--json'])
    const find = (id: number) => rows.find((row) => row.id === id)
    expect(find(used.id)).toMatchObject({ stale: false, lastSender: { pid: process.pid, name: expect.any(String) } })
    expect(find(left.id)).toMatchObject({ stale: true, messages: 1, bytes: 1, lastSender: { pid: expect.any(Number) } })
    const stale: QueueRow[] = await jsonOf(['ls', '--json', '--stale'])
    expect(stale.map(({ id }) => id)).toContain(left.id)
    expect(stale.map(({ id }) => id)).not.toContain(used.id)
    expect((await kmq(['ls', `#${left.id}`])).stdout).toMatch(/\(ended\).*stale/)
  })

  test('a queue that somebody waits for is not stale, though the thread that received last has ended', async () => {
    const queue = openSysv()
    const waiting = queue.receive()
    const peer = `import { SysvQueue } from 'kernelmq'; await SysvQueue.fromId(${queue.id}).send('x')`
    spawnSync(process.execPath, ['--input-type=module', '-e', peer])
    await waiting
    const again = queue.receive()
    const rows: QueueRow[] = await jsonOf(['ls', '--json', `#${queue.id}`])
    expect(rows).toMatchObject([{ stale: false }])
    queue.trySend('the end')
    await again
  })

  test('takes a part of the name, or a glob', async () => {
    const path = openQueue().path as string
    openQueue()
    const named = async (pattern: string) =>
      ((await jsonOf(['ls', '--json', pattern])) as QueueRow[]).map(({ queue }) => queue)
    expect(await named(path.slice(3))).toEqual([path])
    expect(await named(`${path.slice(0, -1)}?`)).toContain(path)
    expect(await named('/no-such-*')).toEqual([])
  })

  test('--watch shows it again when it has changed, until Ctrl-C', async () => {
    const queue = openQueue()
    const child = startKmq(['ls', '--watch', '--interval', '10', '--json', queue.path as string])
    const first = async () => (JSON.parse(await child.line()) as { messages: number }[])[0]?.messages
    expect(await first()).toBe(0)
    queue.trySend('x')
    while ((await first()) !== 1);
    process.kill(child.pid, 'SIGINT')
    expect(await child.outcome).toMatchObject({ signal: 'SIGINT', stderr: '' })
  })

  test('ends quietly when nobody reads', () => {
    const { stdout, stderr } = spawnSync(
      'bash',
      ['-c', `"$0" "$1" ls --watch --interval 10 | head -n 1; echo "\${PIPESTATUS[0]}"`, process.execPath, command],
      { encoding: 'utf8' },
    )
    expect(stdout.trimEnd().split('\n').at(-1)).toBe('141')
    expect(stderr).toBe('')
  })

  test('shows System V queues where POSIX ones cannot be seen, and says so', async ({ skip }) => {
    skip(!canUnshare, 'needs a mount namespace of its own, which root can make')
    const through = ['unshare', '--mount', 'sh', '-c', 'umount -a -t mqueue; exec "$@"', 'sh']
    const { id } = openSysv()
    const { code, stdout, stderr } = await kmq(['ls'], { through })
    expect(code).toBe(1)
    expect(stdout).toContain(`#${id} `)
    expect(stderr).toContain('ERR_MQ_NOT_MOUNTED')
    expect(stderr).toContain('mount -t mqueue')
  })

  test('a name does not move the cursor', async () => {
    const name = `${uniqueName()}-\x1b[2J\n`
    const queue = PosixQueue.open(name, { create: true, maxMessages: 1, messageSize: 8 })
    onTestFinished(() => {
      queue.close()
      PosixQueue.unlink(name)
    })
    const { stdout } = await kmq(['ls'])
    expect(stdout).toContain(`${name.slice(0, -5)}${'\ufffd'}[2J${'\ufffd'} `)
    expect(stdout).not.toContain('\x1b')
  })
})
