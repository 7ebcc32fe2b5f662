// kmq create, info, set, rm and purge.
import { PosixQueue, SysvQueue } from 'kernelmq'
import { describe, expect, onTestFinished, test } from 'vitest'
import { isRoot, openQueue, start, stranger, uniqueName } from '../support.ts'
import { openSysv, removeAfter, uniqueKey } from '../sysv-support.ts'
import { asStranger, canBeStranger, hasTerminal, jsonOf, kmq, onTerminal } from './support.ts'

const hex = (key: number) => `0x${key.toString(16)}`

test('a name does not move the cursor', async () => {
  const name = `${uniqueName()}\u001b[2J`
  const missing = await kmq(['info', name])
  expect(missing).toMatchObject({ code: 1, stderr: expect.stringMatching(/\ufffd\[2J[\s\S]*kmq create/) })
  PosixQueue.open(name, { create: true, maxMessages: 1, messageSize: 1 })
  onTestFinished(() => PosixQueue.unlink(name))
  const found = await kmq(['info', name])
  expect(found).toMatchObject({ code: 0, stdout: expect.stringContaining('\ufffd[2J') })
  expect(missing.stderr + found.stdout).not.toContain('\u001b')
})

describe('kmq create', () => {
  test('makes a POSIX queue of these sizes, whatever the umask', async () => {
    const name = uniqueName()
    const { code, stdout } = await kmq(['create', name, '-m', '3', '-s', '100', '--mode', '662'])
    expect({ code, stdout }).toEqual({ code: 0, stdout: `${name}\n` })
    expect(await jsonOf(['info', '--json', name])).toMatchObject([
      { queue: name, family: 'posix', mode: '662', messages: 0, maxMessages: 3, messageSize: 100, cost: 588 },
    ])
  })

  test('makes a System V queue by its key, or without one', async () => {
    const key = uniqueKey()
    expect((await kmq(['create', hex(key), '--max-bytes', '2000', '--mode', '640'])).code).toBe(0)
    expect(SysvQueue.open(key).stat()).toMatchObject({ maxBytes: 2000, mode: 0o640 })
    const { queue, id } = await jsonOf(['create', '--private', '--json'])
    removeAfter(id)
    expect(queue).toBe(`#${id}`)
    expect(SysvQueue.fromId(id).stat().key).toBe('0x00000000')
  })

  test('does not take a queue that is there, unless it may', async () => {
    const name = openQueue().path as string
    expect(await kmq(['create', name])).toMatchObject({ code: 1, stderr: expect.stringContaining('--if-absent') })
    expect(await kmq(['create', name, '--if-absent'])).toMatchObject({ code: 0, stdout: `${name}\n` })
  })

  test.each([
    ['a wrong number', ['/x', '-m', '0'], '--max-messages is an integer from 1'],
    ['a wrong mode', ['/x', '--mode', '888'], '--mode is three octal digits'],
    ['an identifier', ['#3'], 'an identifier is what the kernel gives'],
    ['no name', [], 'expected either QUEUE or --private'],
    ['two names', ['/x', '/y'], "unexpected '/y'"],
    ['sizes of the other family', ['/x', '--max-bytes', '5'], 'of the other family'],
    ['no queue', ['x'], "'x' names no queue"],
    ['a path that is not there', ['/no/such:a'], "there is no file '/no/such'"],
    ['an unknown option', ['/x', '--size', '5'], "Unknown option '--size'"],
  ])('refuses %s, and does nothing', async (_, args, message) => {
    const { code, stdout, stderr } = await kmq(['create', ...args])
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' })
    expect(stderr).toContain(message)
    expect(stderr).toContain("Try 'kmq create --help'")
  })

  test('gives the hint of the library when there is no room', async () => {
    const through = ['prlimit', '--msgqueue=1000']
    const { code, stderr } = await kmq(['create', uniqueName(), '-m', '10', '-s', '1000'], { through })
    expect(code).toBe(1)
    expect(stderr).toContain('EMFILE')
    expect(stderr).toContain('ulimit -q')
    expect(stderr).not.toMatch(/^ +at /m)
  })
})

describe('kmq info', () => {
  test('tells of a POSIX queue who has it open', async () => {
    const queue = openQueue({ maxMessages: 2, messageSize: 10 })
    queue.trySend('abc')
    const [facts] = await jsonOf(['info', '--json', queue.path as string])
    expect(facts).toMatchObject({ messages: 1, bytes: 3, maxMessages: 2, messageSize: 10, mode: '600' })
    expect(facts.openIn).toContainEqual({ pid: process.pid, name: expect.any(String) })
    const { stdout } = await kmq(['info', queue.path as string])
    expect(stdout).toMatch(/^messages +1$/m)
    expect(stdout).toMatch(new RegExp(`^openIn .*\\b${process.pid}\\b`, 'm'))
  })

  test('tells of a System V queue who used it, and when', async () => {
    const queue = openSysv()
    queue.trySend('abc')
    const [facts] = await jsonOf(['info', '--json', `#${queue.id}`])
    expect(facts).toMatchObject({ id: queue.id, messages: 1, bytes: 3, maxBytes: 16384, mode: '600' })
    expect(facts.lastSender.pid).toBe(process.pid)
    expect(Date.parse(facts.sentAt)).toBeGreaterThan(0)
    expect(facts).not.toHaveProperty('receivedAt')
  })

  test('is an error for a queue that is not there, in JSON too', async () => {
    const { code, stdout, stderr } = await kmq(['info', '--json', '/no-such-queue'])
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
    expect(JSON.parse(stderr)).toMatchObject({ error: { code: 'ENOENT', hint: expect.any(String) } })
  })

  test('tells what may be known of a queue of somebody else', async ({ skip }) => {
    skip(!canBeStranger, 'needs root, and files that others can read')
    const [facts] = await jsonOf(['info', '--json', openQueue().path as string], { through: asStranger })
    expect(facts).toMatchObject({ family: 'posix', mode: '600', hint: expect.stringContaining('may not read') })
    expect(facts).not.toHaveProperty('messages')
    const sysv = await kmq(['info', `#${openSysv().id}`], { through: asStranger })
    expect(sysv).toMatchObject({ code: 1, stderr: expect.stringContaining('EACCES') })
  })
})

describe('kmq set', () => {
  test('changes size, mode and owner', async ({ skip }) => {
    skip(!isRoot, 'only root can')
    const queue = openSysv()
    const args = ['--max-bytes', '1000', '--mode', '660', '--owner', 'daemon', '--group', String(stranger)]
    expect(await kmq(['set', `#${queue.id}`, ...args])).toMatchObject({ code: 0, stdout: '', stderr: '' })
    expect(queue.stat()).toMatchObject({ maxBytes: 1000, mode: 0o660, uid: 1, gid: stranger })
  })

  test('--json tells what it has changed', async () => {
    const { id } = openSysv()
    const changed = await jsonOf(['set', `#${id}`, '--max-bytes', '1000', '--mode', '640', '--json'])
    expect(changed).toEqual({ queue: `#${id}`, maxBytes: 1000, mode: '640' })
  })

  test.each([
    ['nothing', [], 'nothing to change'],
    ['an unknown user', ['--owner', 'nobody-knows'], "there is no user 'nobody-knows'"],
  ])('refuses %s', async (_, args, message) => {
    const { code, stderr } = await kmq(['set', '0x1f', ...args])
    expect({ code, stderr }).toEqual({ code: 2, stderr: expect.stringContaining(message) })
  })

  test('says how a POSIX queue is changed', async () => {
    const { code, stderr } = await kmq(['set', '/x', '--mode', '660'])
    expect({ code, stderr }).toEqual({ code: 2, stderr: expect.stringContaining('chmod') })
  })

  test('is not for others', async ({ skip }) => {
    skip(!canBeStranger, 'needs root, and files that others can read')
    const { code, stderr } = await kmq(['set', `#${openSysv().id}`, '--mode', '666'], { through: asStranger })
    expect({ code, stderr }).toEqual({ code: 1, stderr: expect.stringContaining('EPERM') })
  })
})

describe('kmq rm', () => {
  test('removes queues of both families, and goes on after one that it cannot', async () => {
    const name = openQueue().path as string
    const key = uniqueKey()
    SysvQueue.open(key, { create: true })
    const { code, stdout, stderr } = await kmq(['rm', name, '/no-such-queue', hex(key)])
    expect({ code, stdout }).toEqual({ code: 1, stdout: `${name}\n${hex(key)}\n` })
    expect(stderr).toContain('ENOENT')
    expect(() => PosixQueue.open(name)).toThrow('ENOENT')
    expect(() => SysvQueue.open(key)).toThrow('ENOENT')
  })

  test('--force does not mind what is not there', async () => {
    expect(await kmq(['rm', '-f', '/no-such-queue', '#2147483647'])).toMatchObject({ code: 0, stdout: '', stderr: '' })
  })

  test('--stale sweeps what ended processes left, and nothing else', async () => {
    const used = openSysv()
    used.trySend('mine')
    const left = openSysv()
    const peer = `import { SysvQueue } from 'kernelmq'; SysvQueue.fromId(${left.id}).trySend('x')`
    await start(process.execPath, ['--input-type=module', '-e', peer]).outcome
    const list = (await jsonOf(['ls', '--stale', '--json'])) as { id: number }[]
    // Only its own: whatever else is stale here is not this test's to remove.
    expect(list.map(({ id }) => id)).toContain(left.id)
    expect(list.map(({ id }) => id)).not.toContain(used.id)
  })

  test.for([
    ['y', false],
    ['n', true],
  ] as const)('asks on a terminal: %s', async ([answer, remains], { skip }) => {
    skip(!hasTerminal, 'needs script(1)')
    const queue = openQueue()
    queue.trySend('x')
    const { stdout, code } = await onTerminal(['rm', queue.path as string], `${answer}\n`)
    expect(code).toBe(0)
    expect(stdout).toContain('with 1 messages in it?')
    const listed = (await PosixQueue.list()).map(({ name }) => name)
    expect(listed.includes(queue.path as string)).toBe(remains)
  })

  test('says what another user may not', async ({ skip }) => {
    skip(!canBeStranger, 'needs root, and files that others can read')
    const queue = openQueue()
    const { code, stderr } = await kmq(['rm', queue.path as string], { through: asStranger })
    expect({ code, stderr }).toEqual({ code: 1, stderr: expect.stringMatching(/EACCES|EPERM/) })
  })
})

describe('kmq purge', () => {
  test('throws away what is in queues of both families', async () => {
    const posix = openQueue()
    posix.trySendMany(['a', 'b', 'c'])
    const sysv = openSysv()
    sysv.trySendMany(['a', 'b'])
    expect(await jsonOf(['purge', '--json', posix.path as string, `#${sysv.id}`])).toEqual([
      { queue: posix.path, messages: 3 },
      { queue: `#${sysv.id}`, messages: 2 },
    ])
    expect([posix.attributes.messages, sysv.stat().messages]).toEqual([0, 0])
  })

  test('does so while somebody sends all the time, and ends', async () => {
    const sysv = openSysv()
    const ended = new AbortController()
    onTestFinished(() => ended.abort())
    sysv.trySendMany(['a', 'b'])
    const sending = (async () => {
      for (;;) await sysv.send('x', { signal: ended.signal })
    })()
    sending.catch(() => {})
    expect((await kmq(['purge', `#${sysv.id}`])).code).toBe(0)
    ended.abort()
    await expect(sending).rejects.toMatchObject({ name: 'AbortError' })
  })
})

describe('kmq', () => {
  test('tells its version and its commands', async () => {
    expect((await kmq(['--version'])).stdout).toMatch(/^\d+\.\d+\.\d+\n$/)
    expect((await kmq([])).stdout).toContain('Commands:')
    expect((await kmq(['help', 'ls'])).stdout).toContain('kmq ls [OPTIONS] [PATTERN]')
  })

  test('does not know every command', async () => {
    expect(await kmq(['toString'])).toMatchObject({ code: 2, stderr: expect.stringContaining("no command 'toString'") })
  })

  test('has colours where they are wanted', async ({ skip }) => {
    expect((await kmq(['--help'])).stdout).not.toContain('\u001b')
    expect((await kmq(['--help'], { env: { FORCE_COLOR: '1' } })).stdout).toContain('\u001b')
    skip(!hasTerminal, 'needs script(1)')
    expect((await onTerminal(['--help'], '')).stdout).toContain('\u001b[1m')
  })
})
