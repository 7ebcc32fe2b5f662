import { spawnSync } from 'node:child_process'
import { closeSync, cpSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { systemdQueues } from 'kernelmq'
import { describe, expect, onTestFinished, test } from 'vitest'
import { fixture, openQueue, start } from './support.ts'

const O_CLOEXEC = 0o2000000

/** Runs a service as systemd does: with its own process id in LISTEN_PID. */
async function serve(
  descriptors: number[],
  env: Record<string, string>,
  pid = '$$',
): Promise<{ queues: object[]; again: string[]; environmentKept: boolean; flags: number[] }> {
  const script = `LISTEN_PID=${pid} exec "$@"`
  const args = ['-c', script, 'sh', process.execPath, fixture('systemd.mjs'), String(descriptors.length)]
  const { stdout, stderr } = await start('sh', args, { descriptors, env }).outcome
  expect(stderr).toBe('')
  return JSON.parse(stdout)
}

test('queues of a socket unit are adopted under their names, in their order', async () => {
  const [orders, mails] = [openQueue(), openQueue()]
  orders.trySend('an order')
  mails.trySend('a mail')
  const { queues, environmentKept } = await serve([orders.fd, mails.fd], {
    LISTEN_FDS: '2',
    LISTEN_FDNAMES: 'orders:mails',
  })
  expect(queues).toEqual([
    { name: 'orders', path: orders.path, text: 'an order' },
    { name: 'mails', path: mails.path, text: 'a mail' },
  ])
  expect(environmentKept).toBe(true)
})

test('descriptors of other kinds are passed over', async () => {
  const [first, last] = [openQueue(), openQueue()]
  const file = openSync('/dev/null', 'r')
  onTestFinished(() => closeSync(file))
  const { queues } = await serve([first.fd, file, last.fd], { LISTEN_FDS: '3', LISTEN_FDNAMES: 'a:file:b' })
  expect(queues).toEqual([
    { name: 'a', path: first.path },
    { name: 'b', path: last.path },
  ])
})

test('queues without names are unknown, as of sd_listen_fds_with_names(3)', async () => {
  const [first, second] = [openQueue(), openQueue()]
  const { queues } = await serve([first.fd, second.fd], { LISTEN_FDS: '2' })
  expect(queues).toMatchObject([{ name: 'unknown' }, { name: 'unknown' }])
})

test('what was handed over stays open, is closed by exec from then on, and can be adopted again', async () => {
  const [first, second] = [openQueue(), openQueue()]
  const { again, flags } = await serve([first.fd, second.fd], { LISTEN_FDS: '2', LISTEN_FDNAMES: 'a:b' })
  expect(again).toEqual(['a', 'b'])
  expect(flags.map((flag) => flag & O_CLOEXEC)).toEqual([O_CLOEXEC, O_CLOEXEC])
})

test('no more are taken than LISTEN_FDS says', async () => {
  const [first, second] = [openQueue(), openQueue()]
  const { queues } = await serve([first.fd, second.fd], { LISTEN_FDS: '1', LISTEN_FDNAMES: 'a:b' })
  expect(queues).toMatchObject([{ name: 'a' }])
})

test('a count beyond what was handed over ends where the descriptors do', async () => {
  const queue = openQueue()
  for (const LISTEN_FDS of ['1000000000', 'Infinity', '0x7fffffff']) {
    const { queues } = await serve([queue.fd], { LISTEN_FDS, LISTEN_FDNAMES: 'a' })
    expect(queues).toEqual([{ name: 'a', path: queue.path }])
  }
})

test('what was handed to another process is left alone', async () => {
  const queue = openQueue()
  queue.trySend('not for it')
  const env = { LISTEN_FDS: '1', LISTEN_FDNAMES: 'a' }
  expect((await serve([queue.fd], env, '1')).queues).toEqual([])
  expect((await serve([queue.fd], env, '')).queues).toEqual([])
  expect(queue.tryReceive()?.text()).toBe('not for it')
})

test('a count that is missing or none means none', async () => {
  const queue = openQueue()
  for (const LISTEN_FDS of ['0', '', '-1', 'many']) expect((await serve([queue.fd], { LISTEN_FDS })).queues).toEqual([])
  expect((await serve([queue.fd], {})).queues).toEqual([])
})

test('a process that systemd did not start has none', () => {
  expect(systemdQueues()).toEqual([])
})

describe('the units of examples/systemd', () => {
  const units = fileURLToPath(new URL('../examples/systemd/', import.meta.url))
  const names = readdirSync(units)
  const hasSystemd = spawnSync('systemd-analyze', ['--version']).status === 0
  const noSystemd = 'systemd-analyze is not installed'

  /** What systemd says of a unit beside all the others, one of which may be another. */
  async function verify(unit: string, replaced: Record<string, string> = {}) {
    const directory = mkdtempSync(join(tmpdir(), 'kernelmq-units-'))
    onTestFinished(() => rmSync(directory, { recursive: true }))
    for (const name of names) cpSync(join(units, name), join(directory, name.replace('@.', '@orders-eu.')))
    for (const [name, text] of Object.entries(replaced)) writeFileSync(join(directory, name), text)
    // Manual pages may be missing, and other units of the machine may be wrong.
    const args = ['verify', '--man=no', '--recursive-errors=no', join(directory, unit.replace('@.', '@orders-eu.'))]
    const { code, stderr } = await start('systemd-analyze', args).outcome
    return { code, stderr }
  }

  test.for(names)('%s is accepted', async (unit, { skip }) => {
    skip(!hasSystemd, noSystemd)
    expect(await verify(unit)).toEqual({ code: 0, stderr: '' })
  })

  test('would be refused with a mistake in them', async ({ skip }) => {
    skip(!hasSystemd, noSystemd)
    const text = readFileSync(join(units, 'orders.socket'), 'utf8').replace('ListenMessageQueue', 'ListenMessageQueues')
    const { code, stderr } = await verify('orders.socket', { 'orders.socket': text })
    expect(code).not.toBe(0)
    expect(stderr).toContain("Unknown key 'ListenMessageQueues'")
  })
})
