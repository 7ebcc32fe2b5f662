import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { SysvQueue } from 'kernelmq'
import { describe, expect, test } from 'vitest'
import { canUnshare, inNamespace, isMounted, start } from '../support.ts'
import { command, kmq, startKmq } from './support.ts'
import { TerminalOf } from './terminal.ts'

/** The process that was started with this queue. What the kernel has for the last receiver may be a thread of it. */
function peerOf(id: number): number {
  const isIt = (pid: string) => {
    try {
      const args = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0')
      return args.some((arg) => arg.endsWith('bench-peer.js')) && args.some((arg) => arg.startsWith(`[${id},`))
    } catch {
      // It has ended.
      return false
    }
  }
  const pid = readdirSync('/proc').find(isIt)
  if (pid === undefined) throw new Error('there is no other process')
  return Number(pid)
}

/** One that does not end by itself, as soon as it measures; a queue of it, and the other process. */
async function measuring(args: string[] = []) {
  const child = startKmq(['bench', '--only', 'ping-pong', '--only', 'sysv', '--duration', '1m', ...args])
  const used = async () =>
    (await SysvQueue.list()).find(
      ({ lastSender, lastReceiver }) => lastSender === child.pid && lastReceiver !== undefined,
    )
  await expect.poll(used).toBeDefined()
  const id = (await used())?.id ?? 0
  return { child, id, peer: peerOf(id) }
}

async function expectNothingLeft({ id, peer }: { id: number; peer: number }) {
  await expect.poll(() => existsSync(`/proc/${peer}`)).toBe(false)
  const left = async () => (await SysvQueue.list()).filter((row) => row.id === id || row.lastSender === peer)
  await expect.poll(left).toEqual([])
  const names = () => readdirSync('/dev/mqueue').filter((name) => name.startsWith('kmq-bench-'))
  // Those of somebody else are there for a moment.
  if (isMounted) await expect.poll(names).toEqual([])
}

describe('kmq bench', () => {
  test('measures both families, in all ways', async () => {
    const { code, stdout, stderr } = await kmq(['bench', '--quick', '--json'])
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    const { machine, duration, results, skipped } = JSON.parse(stdout)
    expect(machine).toEqual({
      node: process.version,
      kernel: expect.any(String),
      cpu: expect.any(String),
      cpus: expect.any(Number),
    })
    expect({ duration, skipped }).toEqual({ duration: 50, skipped: [] })
    const figure = { count: expect.any(Number), perSecond: expect.any(Number) }
    const times = { p50: expect.any(Number), p99: expect.any(Number) }
    expect(results).toEqual(
      ['pair', 'ping-pong', 'stream'].flatMap((workload) =>
        ['posix', 'sysv'].flatMap((family) =>
          [64, 1024, 8192].map((size) => ({
            workload,
            family,
            size,
            ...figure,
            ...(workload === 'ping-pong' && times),
          })),
        ),
      ),
    )
    for (const { count, perSecond, p50 = 0, p99 = 0 } of results) {
      expect(count).toBeGreaterThan(0)
      expect(perSecond).toBeGreaterThan(0)
      expect(p99).toBeGreaterThanOrEqual(p50)
    }
  })

  test('draws a table with bars of those that are wanted', async () => {
    const { code, stdout, stderr } = await kmq([
      'bench',
      '-q',
      '--only',
      '64',
      '--only',
      'ping-pong',
      '--only',
      'stream',
    ])
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    const lines = stdout.trimEnd().split('\n')
    expect(lines[0]).toMatch(/^ +FAMILY +SIZE +PER SECOND +p50 +p99$/)
    expect(lines.slice(1, 5)).toEqual([
      expect.stringMatching(/^ping-pong +posix +64 B +[\d,]+ +[\d.]+ µs +[\d.]+ µs +█+$/),
      expect.stringMatching(/^ +sysv +64 B +[\d,]+ +[\d.]+ µs +[\d.]+ µs +█+$/),
      expect.stringMatching(/^stream +posix +64 B +[\d,]+ +█+$/),
      expect.stringMatching(/^ +sysv +64 B +[\d,]+ +█+$/),
    ])
    expect(lines.slice(5)).toEqual(['', expect.stringContaining(process.version)])
    // The most of a workload has the longest bar.
    for (const pair of [lines.slice(1, 3), lines.slice(3, 5)]) {
      expect(Math.max(...pair.map((line) => line.split('█').length - 1))).toBe(20)
    }
  })

  test('shows on a terminal how far it is, and takes that away', async () => {
    const terminal = new TerminalOf([process.execPath, command, 'bench', '--quick', '--only', 'pair', '--only', '64'])
    const ended = await terminal.report('code')
    expect(ended).toMatchObject({ code: 0, after: ended.before })
    expect(terminal.transcript).toContain('measuring [')
    expect(terminal.text).not.toContain('measuring')
    expect(terminal.text).toContain('PER SECOND')
  })

  test.each(['SIGINT', 'SIGTERM', 'SIGHUP'] as const)('%s ends it; nothing is left', async (signal) => {
    const running = await measuring()
    process.kill(running.child.pid, signal)
    expect(await running.child.outcome).toMatchObject({ code: null, signal, stdout: '', stderr: '' })
    await expectNothingLeft(running)
  })

  test('Ctrl-C ends both processes; nothing is left', async () => {
    const terminal = new TerminalOf([process.execPath, command, 'bench', '--duration', '1m'])
    await terminal.until(({ text }) => text.includes('measuring ['))
    terminal.type('\x03')
    const ended = await terminal.report('code')
    expect(ended).toMatchObject({ code: null, signal: 'SIGINT', after: ended.before })
    expect(terminal.text).not.toMatch(/error|ended/)
  })

  test('Ctrl-C is not taken for a failure of the other process, which it reaches while that is being made', async ({
    skip,
  }) => {
    skip(spawnSync('strace', ['-V']).error !== undefined, 'needs strace')
    const slowly = ['strace', '-f', '-qqq', '-o', '/dev/null', '-e', 'inject=setsid:delay_enter=1000000']
    const terminal = new TerminalOf([...slowly, process.execPath, command, 'bench', '--duration', '1m'])
    const { started } = await terminal.report('started')
    const childOf = (pid: number | undefined) => Number(readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8'))
    await terminal.until(({ text }) => text.includes('measuring ['))
    await expect.poll(() => childOf(childOf(started))).toBeGreaterThan(0)
    terminal.type('\x03')
    expect(await terminal.report('code')).toMatchObject({ code: null, signal: 'SIGINT' })
    expect(terminal.text).not.toMatch(/error|ended/)
  })

  test('what is killed leaves nothing: the other process removes the queues, and ends', async () => {
    const running = await measuring()
    process.kill(running.child.pid, 'SIGKILL')
    await running.child.outcome
    await expectNothingLeft(running)
  })

  test('says so when the other process ends', async () => {
    const running = await measuring()
    process.kill(running.peer, 'SIGKILL')
    const { code, stdout, stderr } = await running.child.outcome
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
    expect(stderr).toBe('kmq bench: the other process of the benchmark has ended\n')
    await expectNothingLeft(running)
  })

  test('says so when a queue is removed underneath', async () => {
    const running = await measuring(['--json'])
    SysvQueue.fromId(running.id).remove()
    const { code, stdout, stderr } = await running.child.outcome
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
    expect(JSON.parse(stderr).error).toMatchObject({
      message: expect.stringContaining('EIDRM'),
      hint: expect.any(String),
    })
    await expectNothingLeft(running)
  })

  test('nobody reads what it found', async () => {
    const child = start('sh', [
      '-c',
      '"$@" | true; echo done',
      'sh',
      process.execPath,
      command,
      'bench',
      '-q',
      '--only',
      'pair',
    ])
    expect(await child.outcome).toMatchObject({ code: 0, stdout: 'done\n', stderr: '' })
  })

  test('where a user may have no more queues, the hint says what to do', async () => {
    const { code, stdout, stderr } = await kmq(['bench', '--quick'], { through: ['prlimit', '--msgqueue=1000'] })
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
    expect(stderr).toMatch(/^kmq bench: EMFILE: .*\n.*RLIMIT_MSGQUEUE.*ulimit -q/)
    expect(stderr.trimEnd().split('\n')).toHaveLength(2)
  })

  test('leaves out sizes that the limits forbid, and says so', async ({ skip }) => {
    skip(!canUnshare, 'needs namespaces of its own, which root can make')
    const through = inNamespace('msgsize_max=1024')
    const small = (...args: string[]) => kmq(['bench', '--quick', '--only', 'pair', ...args], { through })
    const { code, stdout, stderr } = await small('--json')
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    const { results, skipped } = JSON.parse(stdout)
    expect(skipped).toEqual([{ family: 'posix', size: 8192, messageSize: 1024 }])
    expect(results.map(({ family, size }: { family: string; size: number }) => `${family} ${size}`)).toEqual([
      'posix 64',
      'posix 1024',
      'sysv 64',
      'sysv 1024',
      'sysv 8192',
    ])
    expect((await small()).stderr).toMatch(/^posix, 8192 B: left out, a message may have 1024 bytes here/)
    const nothing = await small('--only', 'posix', '--only', '8192')
    expect(nothing).toMatchObject({
      code: 1,
      stdout: '',
      stderr: expect.stringMatching(/^kmq bench: a message may have 1024 bytes/),
    })
  })

  test.each([
    [['--only', 'pipe'], "--only is one of posix, sysv, pair, ping-pong, stream, 64, 1024, 8192, not 'pipe'"],
    [['--duration', '2h'], '--duration is from 1ms to 1m'],
    [['now'], "unexpected 'now'"],
  ])('does not take %j', async (args, message) => {
    const { code, stdout, stderr } = await kmq(['bench', ...args])
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' })
    expect(stderr).toContain(message)
  })
})
