import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { PosixQueue, SysvQueue } from 'kernelmq'
import { describe, expect, onTestFailed, onTestFinished, test } from 'vitest'
import { anyBus, isMounted } from './support.ts'

const root = fileURLToPath(new URL('..', import.meta.url))
const examples = join(root, 'examples')
const hasCompiler = spawnSync('cc', ['--version']).status === 0

/** What each example must print. */
const expected: Record<string, RegExp> = {
  'abort-and-timeout.mjs': /ETIMEDOUT after 1 of 3[\s\S]*closed: ERR_MQ_CLOSED\nthe iteration ended/,
  'any-bus.mjs': anyBus,
  'async.mjs': /receiver 1 got a, receiver 2 got b, receiver 3 got c\nin the queue: 4\nin the end: 0/,
  'batches.mjs': /20000 messages in \d+ batches\nurgent \(5\), plain \(0\), bytes \(0\)\n8 of 100 had room/,
  'blocking.mjs': /spin 0: a round trip takes [\d.]+[\s\S]*spin 100: a round trip[\s\S]*ETIMEDOUT/,
  'bridge.mjs':
    /^a bridge was killed\n200 of 200 orders arrived, the last one is order 199\nthe bridge ended by SIGTERM\n$/,
  'bus-kernel.mjs': /^the sum of all: 500000500000\n$/,
  'bus.mjs':
    /was killed over its work, and did \d+ of them\n[\s\S]*handled: 300 of 300, [01] of them twice; left: 0, dead letters: 0\n/,
  'c-peer/c-peer.mjs': /JavaScript: -40 squared is 1600, with priority 1\n[\s\S]*the peer ended with exit code 0/,
  'consume.mjs': /40 done[\s\S]*at most 4 handlers[\s\S]*still in the queue: never seen\nclosed: undefined/,
  'discovery.mjs': isMounted
    ? /seen: created [\s\S]*messages: 1,[\s\S]*seen: removed /
    : /ERR_MQ_NOT_MOUNTED[\s\S]*mount -t mqueue/,
  'errors.mjs': /leading slash: '\/orders'[\s\S]*EMSGSIZE[\s\S]*ERR_MQ_CLOSED/,
  'non-blocking.mjs': /empty: undefined\nfull after 3 messages\n[\s\S]*readable: the late one/,
  'notifications.mjs': /told of: 1a 1b 1c\n[\s\S]*told of: 3a 3b 3c\nEBUSY: /,
  'pass-to-child.mjs': /child: got 'three'\nparent: the child ended with exit code 0/,
  'priorities.mjs':
    /32767 put out the fire\n +10 answer the phone\n +10 answer the door\n +0 write the report\n +0 water/,
  'request-reply.mjs': /(\d squared is \d\n){4}the server stops: ABORT_ERR\n/,
  'streams.mjs': /the same words: true/,
  'syscalls.mjs': /priority 32767\n[\s\S]*-EAGAIN\? true\n[\s\S]*close: 0\nunlink: 0/,
  'system-v.mjs':
    /lowest first: call chat\n[\s\S]*all but type 3: call chat\nwaited for: for 7 and for 8\n[\s\S]*mode: 660\nlisted: true/,
  'systemd.mjs': /queue 'jobs' is handed over, with: the message[\s\S]*exit code 0/,
  'workers.mjs': /worker 2 took \d+ messages\nthe sum of all: 50005000/,
}

const files = readdirSync(examples, { recursive: true, encoding: 'utf8' })
  .filter((file) => file.endsWith('.mjs') && !/^transfer\b/.test(file))
  .sort()

/** A folder that is gone when the test has ended. */
function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'kernelmq-test-'))
  onTestFinished(() => rmSync(folder, { recursive: true }))
  return folder
}

/** The queues that a process has left behind; without discovery, as far as their names can be guessed. */
async function queuesOf(pid: number | undefined): Promise<string[]> {
  const sysv = (await SysvQueue.list()).filter(({ lastSender, lastReceiver }) =>
    [lastSender, lastReceiver].includes(pid),
  )
  return [...(await posixQueuesOf(pid)), ...sysv.map(({ id }) => `#${id}`)]
}

async function posixQueuesOf(pid: number | undefined): Promise<string[]> {
  if (isMounted) {
    const rows = await PosixQueue.list()
    return rows.map(({ name }) => name).filter((name) => new RegExp(`^/(example|transfer)-${pid}(-|$)`).test(name))
  }
  return [`/example-${pid}`, `/transfer-${pid}`].filter((name) => {
    try {
      PosixQueue.open(name).close()
      return true
    } catch {
      return false
    }
  })
}

interface Run {
  process: ChildProcess
  /** Resolves with the match as soon as the output so far matches. */
  printed(pattern: RegExp): Promise<RegExpExecArray>
  ended: Promise<{ code: number | null; signal: NodeJS.Signals | null; stdout: string; stderr: string }>
}

/**
 * Runs an example in a folder of its own. However it ends, it must leave no queue;
 * with `tidy`, which is the rule, no file either.
 */
function run(path: string, args: string[] = [], { env = {}, tidy = true } = {}): Run {
  const folder = temporaryFolder()
  const child = spawn(process.execPath, [path, ...args], {
    cwd: folder,
    env: { ...process.env, TMPDIR: folder, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  onTestFinished(() => void child.kill('SIGKILL'))
  const output = { stdout: '', stderr: '' }
  child.stdout.setEncoding('utf8').on('data', (text) => (output.stdout += text))
  child.stderr.setEncoding('utf8').on('data', (text) => (output.stderr += text))
  const ended = new Promise<Awaited<Run['ended']>>((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (code, signal) => resolve({ code, signal, ...output }))
  }).then(async (outcome) => {
    const left = await queuesOf(child.pid)
    for (const name of left) PosixQueue.unlink(name)
    expect(left).toEqual([])
    if (tidy) expect(readdirSync(folder)).toEqual([])
    return outcome
  })
  const printed = (pattern: RegExp) =>
    new Promise<RegExpExecArray>((resolve, reject) => {
      const look = () => {
        const match = pattern.exec(output.stdout)
        if (match) resolve(match)
      }
      child.stdout.on('data', look)
      child.on('close', () => reject(new Error(`ended without printing ${pattern}:\n${output.stdout}${output.stderr}`)))
      look()
    })
  return { process: child, printed, ended }
}

describe('the examples', () => {
  test.for(files)('%s runs to its end and leaves nothing behind', async (file, ctx) => {
    ctx.skip(file.startsWith('c-peer') && !hasCompiler, 'no C compiler')
    const { code, stdout, stderr } = await run(join(examples, file)).ended
    expect(stderr).toBe('')
    expect(stdout).toMatch(expected[file] ?? /this file is not known to the test/)
    expect(code).toBe(0)
  })

  test('the index names them all', () => {
    const index = readFileSync(join(examples, 'README.md'), 'utf8')
    const linked = [...index.matchAll(/^\| \[.*?\]\((.*?)\)/gm)].map(([, path]) => path)
    const others = ['transfer.mjs', 'systemd']
    expect(linked.toSorted()).toEqual([...others, ...files.map((file) => file.replace(/\/.*/, ''))].toSorted())
  })
})

describe('the transfer', () => {
  const transfer = join(examples, 'transfer.mjs')
  const receiverPid = async ({ printed }: Run) => {
    const pid = Number((await printed(/receiver: process (\d+)/))[1])
    onTestFailed(() => {
      if (isAlive(pid)) process.kill(pid, 'SIGKILL')
    })
    return pid
  }
  const families = ['posix', 'sysv']
  const halfway = ({ printed }: Run) => printed(/ [1-9]\d?% of/)

  function isAlive(pid: number): boolean {
    try {
      return process.kill(pid, 0)
    } catch {
      return false
    }
  }

  test('brings every line to the other process, and says how fast', async () => {
    const { code, stdout, stderr } = await run(transfer, ['--megabytes', '1']).ended
    expect(stderr).toBe('')
    expect(code).toBe(0)
    const bytes = Number(/^text: ([\d,]+) bytes, of \d+ file/.exec(stdout)?.[1]?.replaceAll(',', ''))
    expect(bytes).toBeGreaterThanOrEqual(1e6)
    expect(stdout).not.toContain('\x1b')
    const [, ...families] = stdout.split(/^through a .* queue\n/m)
    expect(families).toHaveLength(2)
    for (const said of families) {
      expect(said).toMatch(/^\[=+\] 100% of \d/m)
      expect(said).toMatch(/^text: the same, SHA-256 [0-9a-f]{64}\norder: as sent within each of [23] ranks; /m)
      expect(said).toMatch(/^[\d,]+ messages in [\d.]+ s: [\d,]+ messages\/s, [\d.]+ MB\/s$/m)
      expect(said).toMatch(/p50 [\d,]+, p90 [\d,]+, p99 [\d,]+, p99\.9 [\d,]+, max [\d,]+$/m)
    }
  })

  test('writes the text it sent, line by line, where it is kept', async () => {
    const { code, stdout } = await run(transfer, ['--megabytes', '0.5', '--keep'], { tidy: false }).ended
    expect(code).toBe(0)
    const folder = /^kept: (.*)$/m.exec(stdout)?.[1] ?? ''
    onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
    const source = readFileSync(join(folder, 'source.txt'))
    expect(readFileSync(join(folder, 'received.txt')).equals(source)).toBe(true)
    const arrivals = readFileSync(join(folder, 'arrivals.txt'), 'utf8').trimEnd().split('\n')
    // One for each line, and more for those that are longer than a message.
    expect(arrivals.length).toBeGreaterThanOrEqual(source.toString('latin1').split('\n').length - 1)
  })

  test('takes the same text each time, and other text without git', async () => {
    const text = async (env = {}) => {
      const { stdout } = await run(transfer, ['--megabytes', '0.1'], { env }).ended
      return /^text: .*? of (.*)\n[\s\S]*SHA-256 (.*)$/m.exec(stdout)?.slice(1)
    }
    const [first, second, bare] = [await text(), await text(), await text({ PATH: '' })]
    expect(first).toHaveLength(2)
    expect(second).toEqual(first)
    expect(bare?.[0]).toMatch(/files of the package/)
  })

  test.each(families)('fails when the receiver is killed halfway, through %s', async (family) => {
    const running = run(transfer, ['--family', family, '--megabytes', '15'])
    const pid = await receiverPid(running)
    await halfway(running)
    process.kill(pid, 'SIGKILL')
    const { code, stdout, stderr } = await running.ended
    expect(stderr).toBe('transfer failed: the receiver ended too early, with SIGKILL\n')
    expect(code).toBe(1)
    expect(stdout).not.toMatch(/100%|the same/)
  })

  test.each(families)('fails when the receiver stands still, and takes it along, through %s', async (family) => {
    const running = run(transfer, ['--family', family, '--megabytes', '15', '--timeout', '40'])
    const pid = await receiverPid(running)
    process.kill(pid, 'SIGSTOP')
    const { code, stderr } = await running.ended
    expect(stderr).toBe('transfer failed: not done after 40 s\n')
    expect(code).toBe(1)
    expect(isAlive(pid)).toBe(false)
  })

  test.each([
    ['SIGINT', 130, 'posix'],
    ['SIGINT', 130, 'sysv'],
    ['SIGTERM', 143, 'sysv'],
  ] as const)('cleans up on %s', async (signal, exitCode, family) => {
    const running = run(transfer, ['--family', family, '--megabytes', '15'])
    const pid = await receiverPid(running)
    await halfway(running)
    running.process.kill(signal)
    const { code, stderr } = await running.ended
    expect(stderr).toBe(`transfer failed: interrupted by ${signal}\n`)
    expect(code).toBe(exitCode)
    expect(isAlive(pid)).toBe(false)
  })

  test.each(families)('leaves neither queue nor receiver when it is killed itself, through %s', async (family) => {
    const running = run(transfer, ['--family', family, '--megabytes', '15'], { tidy: false })
    await halfway(running)
    running.process.kill('SIGKILL')
    // The receiver holds the same pipes: only when both are gone have they ended.
    expect((await running.ended).signal).toBe('SIGKILL')
    expect(await queuesOf(running.process.pid)).toEqual([])
  })

  test('refuses options that make no sense', async () => {
    const { code, stderr } = await run(transfer, ['--megabytes', '0']).ended
    expect(stderr).toBe("transfer failed: --megabytes must be a positive number, not '0'\n")
    expect(code).toBe(1)
  })

  /** A copy of the transfer in which its receiver does something else. */
  function sabotaged(original: string, replacement: string): string {
    const folder = temporaryFolder()
    cpSync(examples, join(folder, 'examples'), { recursive: true })
    mkdirSync(join(folder, 'node_modules'))
    symlinkSync(root, join(folder, 'node_modules/kernelmq'))
    symlinkSync(join(root, 'node_modules/cli-progress'), join(folder, 'node_modules/cli-progress'))
    const receiver = join(folder, 'examples/transfer/receiver.mjs')
    const source = readFileSync(receiver, 'utf8')
    expect(source).toContain(original)
    writeFileSync(
      receiver,
      source.replace(original, () => replacement),
    )
    return join(folder, 'examples/transfer.mjs')
  }

  const write = 'log.write('

  test.each([
    ['nothing where nothing is wrong', write, write, undefined],
    ['a changed byte', '(piece)', "(message.sequence === 50 ? Buffer.from('x') : piece)", /differ from line \d+ on/],
    ['another order', 'sequence} ', 'sequence ^ 1} ', /of rank \d, message \d+ came where \d+ was sent/],
    ['another priority', '{rank}', '{message.sequence === 50 ? 1 : rank}', /of rank \d, message/],
    ['a duplicate', write, `if (message.sequence === 50) log.write('50 0\\n')\n${write}`, /of rank \d, message/],
    [
      'a quiet death',
      write,
      `if (message.sequence === 50) process.exit(0)\n${write}`,
      /ended too early, with exit code 0/,
    ],
  ])('notices %s', async (_what, original, replacement, error) => {
    const { code, stdout, stderr } = await run(sabotaged(original, replacement)).ended
    if (error === undefined) {
      expect(stderr).toBe('')
      expect(code).toBe(0)
    } else {
      expect(stderr).toMatch(error)
      expect(code).toBe(1)
      expect(stdout).not.toContain('messages/s')
    }
  })
})
