import { cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { doctor, type Finding } from 'kernelmq'
import { describe, expect, onTestFinished, test } from 'vitest'
import { canUnshare, start } from '../support.ts'
import { command, kmq, startKmq } from './support.ts'

const namespaces = 'needs namespaces of its own, which root can make'
const withoutMount = ['unshare', '--mount', 'sh', '-c', 'umount --all --types mqueue; exec "$@"', 'sh']

const low = ['prlimit', '--msgqueue=1000']

describe('kmq doctor', () => {
  test('with nothing wrong ends with 0, and groups what it found', async ({ skip }) => {
    skip(!canUnshare, namespaces)
    const fresh = 'umount --all --types mqueue; mkdir -p /dev/mqueue; mount -t mqueue none /dev/mqueue; exec "$@"'
    const { code, stdout, stderr } = await kmq(['doctor'], {
      through: ['unshare', '--ipc', '--mount', 'sh', '-c', fresh, 'sh'],
    })
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    const titles = stdout.split('\n').filter((line) => /^\S/.test(line))
    expect(titles.slice(0, -1)).toEqual(['Package', 'System', 'This process', 'POSIX queues', 'System V queues'])
    const marks = stdout.split('\n').filter((line) => /^ {2}\S/.test(line))
    expect(marks.length).toBe((await doctor()).length)
    // Names begin below each other, and so does what was seen.
    expect(new Set(marks.map((line) => /^ {2}[✓!] \w+ +/.exec(line)?.[0].length)).size).toBe(1)
    expect(stdout).toMatch(/\n {2}✓ bytes +at least 0 of \d+ bytes, by 0 queues of user 0 /)
  })

  test('with a problem ends with 1, and says what it means and what mends it', async () => {
    const { code, stdout, stderr } = await kmq(['doctor'], { through: low })
    expect({ code, stderr }).toEqual({ code: 1, stderr: '' })
    expect(stdout).toMatch(/ {2}✗ bytes +at least \d+ of 1000 bytes/)
    expect(stdout).toMatch(/EMFILE/)
    expect(stdout).toMatch(/: (.*msgqueue=|LimitMSGQUEUE=|ulimit .*-q |lxc\.prlimit)/)
    expect(stdout.trimEnd().split('\n').at(-1)).toMatch(/^\d+ problems?/)
  })

  test('with a warning ends with 0', async ({ skip }) => {
    skip(!canUnshare, namespaces)
    const script =
      'echo 500 > /proc/sys/kernel/msgmnb; umount --all --types mqueue; mkdir -p /dev/mqueue; mount -t mqueue none /dev/mqueue; exec "$@"'
    const { code, stdout } = await kmq(['doctor'], {
      through: ['unshare', '--ipc', '--mount', 'sh', '-c', script, 'sh'],
    })
    expect(code).toBe(0)
    expect(stdout).toMatch(/ {2}! maxBytes +500 bytes a queue/)
    expect(stdout).toMatch(/kernel\.msgmnb=8192/)
    expect(stdout).toMatch(/\n\d warnings?$/m)
  })

  test('says why the file system is missing, and what it cannot know without', async ({ skip }) => {
    skip(!canUnshare, namespaces)
    const { code, stdout } = await kmq(['doctor'], { through: withoutMount })
    expect(code).toBe(1)
    expect(stdout).toContain('as root: mkdir -p /dev/mqueue && mount -t mqueue none /dev/mqueue\n')
    expect(stdout).toMatch(/ {2}\? bytes /)
    expect(stdout).toMatch(/1 problem, (1 warning, )?2 could not be seen$/m)
  })

  test('--json is what doctor() gives, with the same exit code', async () => {
    const { code, stdout, stderr } = await kmq(['doctor', '--json'], { through: low })
    expect({ code, stderr }).toEqual({ code: 1, stderr: '' })
    const findings: Finding[] = JSON.parse(stdout)
    expect(findings.map(({ id }) => id)).toEqual((await doctor()).map(({ id }) => id))
    for (const finding of findings) {
      expect(finding).toEqual({
        id: expect.any(String),
        status: expect.stringMatching(/^(ok|warning|problem|unknown)$/),
        seen: expect.any(String),
        why: expect.any(String),
        mend: expect.any(Array),
        ...(finding.limit && {
          limit: expect.objectContaining({ name: expect.any(String), cost: expect.any(String) }),
        }),
      })
    }
    const bytes = findings.find(({ id }) => id === 'posix.bytes')
    expect(bytes).toMatchObject({ status: 'problem', limit: { value: 1000, unit: 'bytes', isLowerBound: true } })
  })

  test('what is not known is null in JSON', async ({ skip }) => {
    skip(!canUnshare, namespaces)
    const { stdout } = await kmq(['doctor', '--json'], { through: withoutMount })
    const findings: Finding[] = JSON.parse(stdout)
    expect(findings.find(({ id }) => id === 'posix.queues')).toMatchObject({ status: 'unknown', limit: { used: null } })
  })

  test('--all tells also of what is right what it means', async () => {
    const [short, all] = await Promise.all([kmq(['doctor']), kmq(['doctor', '--all'])])
    const why = 'A bus of local: keeps its messages in SQLite'
    expect(all.stdout).toContain(why)
    if (/✓ sqlite/.test(short.stdout)) expect(short.stdout).not.toContain(why)
  })

  test('is coloured only where that is wanted', async () => {
    const { stdout } = await kmq(['doctor'], { env: { FORCE_COLOR: '1' } })
    expect(stdout).toContain('\u001b[32m✓\u001b[39m')
    expect((await kmq(['doctor'])).stdout).not.toContain('\u001b')
    expect((await kmq(['doctor'], { env: { NO_COLOR: '1' } })).stdout).not.toContain('\u001b')
  })

  test('takes no operands and no other options', async () => {
    for (const args of [
      ['doctor', '/orders'],
      ['doctor', '--fix'],
    ]) {
      const { code, stdout, stderr } = await kmq(args)
      expect({ code, stdout }).toEqual({ code: 2, stdout: '' })
      expect(stderr).toContain("Try 'kmq doctor --help'.")
    }
  })

  test('ends quietly when nobody reads', async () => {
    const { stderr } = await start('bash', [
      '-c',
      'set -o pipefail; "$@" | true; echo $? >&2',
      'bash',
      process.execPath,
      command,
      'doctor',
    ]).outcome
    expect(stderr.trim()).toMatch(/^(0|1|141)$/)
  })

  test('ends by the signal that interrupts it', async () => {
    const child = startKmq(['doctor'])
    process.kill(child.pid, 'SIGINT')
    expect((await child.outcome).signal).toBe('SIGINT')
  })
})

describe('kmq doctor, with no addon,', () => {
  const root = fileURLToPath(new URL('../..', import.meta.url))

  function install(): string {
    const folder = mkdtempSync(join(tmpdir(), 'kernelmq-doctor-'))
    onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
    for (const name of ['dist', 'package.json']) cpSync(join(root, name), join(folder, name), { recursive: true })
    symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'))
    return folder
  }

  const kmqIn = (folder: string, ...args: string[]) =>
    start(process.execPath, [join(folder, 'dist/cli/kmq.js'), ...args], { env: { FORCE_COLOR: undefined } }).outcome

  test('says which files it tried, and how to build one', async () => {
    const folder = install()
    const { code, stdout, stderr } = await kmqIn(folder, 'doctor')
    expect({ code, stderr }).toEqual({ code: 1, stderr: '' })
    expect(stdout).toContain('✗ addon')
    expect(stdout).toContain(`${folder}/build/Release/kernelmq.node: not there`)
    expect(stdout).toContain(
      `needs g++, make and python3: cd ${folder}/ && npx -p node-gyp@12 -p node-addon-api@8 node-gyp rebuild\n`,
    )
    expect(stdout.trimEnd()).toMatch(/\n1 problem, 1 could not be seen$/)
  })

  test('says why one that is there cannot be loaded', async () => {
    const folder = install()
    const prebuilt = join(folder, `prebuilds/linux-${process.arch}`)
    mkdirSync(prebuilt, { recursive: true })
    writeFileSync(join(prebuilt, 'kernelmq.glibc.node'), '')
    const { code, stdout } = await kmqIn(folder, 'doctor', '--json')
    expect(code).toBe(1)
    const [addon] = JSON.parse(stdout) as Finding[]
    expect(addon).toMatchObject({
      id: 'package.addon',
      status: 'problem',
      seen: expect.stringContaining('file too short'),
      mend: [{ command: expect.stringMatching(/^cd .* && npx /) }],
    })
  })
})
