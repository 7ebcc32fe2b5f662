// kmq bridge, the real command: its ends, its file, signals, readiness, errors.
import { spawnSync } from 'node:child_process'
import { chownSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { type PosixMessage, PosixQueue } from 'kernelmq'
import { describe, expect, onTestFinished, test } from 'vitest'
import { isEmpty, newLocal, takeMessages, until } from '../bridge/support.ts'
import { DatabaseSync } from '../bus/sqlite.mjs'
import { openBus, temporaryDirectory } from '../bus/support.ts'
import { openQueue, type Running, start, stranger, uniqueName } from '../support.ts'
import { asStranger, canBeStranger, command, kmq, startKmq } from './support.ts'

const numbers = (count: number) => Array.from({ length: count }, (_, at) => at)

/** Lines up to the first that has such an event; its object. */
async function eventOf(child: Running, event: string, end?: string) {
  for (;;) {
    const told = JSON.parse(await child.line())
    if (told.event === event && (end === undefined || told.end === end)) return told
  }
}

function write(config: unknown, path = join(temporaryDirectory(), 'bridge.json')): string {
  writeFileSync(path, typeof config === 'string' ? config : JSON.stringify(config, undefined, 2))
  return path
}

describe('kmq bridge FROM TO', () => {
  test('carries what a C program might send, until SIGTERM, and says what it does', async () => {
    const { bus, url } = await newLocal()
    const from = openQueue()
    const child = startKmq([
      'bridge',
      `posix:${from.path}`,
      `${url}#queue=q`,
      '--outbox',
      join(temporaryDirectory(), 'o'),
    ])
    await from.sendMany(numbers(20).map(String))
    const messages = await takeMessages(bus.queue('q'), 20)
    expect(messages.map(({ body }) => String(body))).toEqual(numbers(20).map(String))
    process.kill(child.pid, 'SIGTERM')
    const { signal, stdout, stderr } = await child.outcome
    expect({ signal, stdout }).toEqual({ signal: 'SIGTERM', stdout: '' })
    expect(stderr).toContain(`posix:${from.path}: 'target' works\n`)
    expect(stderr).toMatch(/one route\n[\s\S]*finishing what is on its way\n$/)
  })

  test('SIGINT: what is on its way is delivered or given back', async () => {
    const { bus, url } = await newLocal()
    const to = openQueue()
    const queue = bus.queue('q')
    await queue.sendMany(numbers(50).map((number) => ({ body: String(number) })))
    const child = startKmq(['bridge', `${url}#queue=q`, `posix:${to.path}`, '--batch', '5', '--json'])
    await until(() => to.attributes.messages === 4)
    process.kill(child.pid, 'SIGINT')
    await eventOf(child, 'stopping')
    const taken: PosixMessage[] = []
    const done = child.outcome.then(() => true)
    // Who waits for room goes on for a while; what is taken out makes some.
    while (!(await Promise.race([done, sleep(1, false)]))) taken.push(...to.tryReceiveMany())
    taken.push(...to.tryReceiveMany())
    expect((await child.outcome).signal).toBe('SIGINT')
    const { ready, leased } = await queue.stats()
    expect({ all: taken.length + ready, leased }).toEqual({ all: 50, leased: 0 })
  })

  test('killed with messages in hand: the next one has them all', async () => {
    const { bus, url } = await newLocal()
    const to = openQueue()
    const queue = bus.queue('q')
    await queue.sendMany(numbers(50).map((number) => ({ body: String(number) })))
    const args = ['bridge', `${url}#queue=q`, `posix:${to.path}`]
    for (let kills = 0; kills < 5; kills++) {
      const child = startKmq(args)
      await until(async () => to.attributes.messages === 4 && (await queue.stats()).leased === 50)
      process.kill(child.pid, 'SIGKILL')
      await child.outcome
      await until(async () => (await queue.stats()).ready === 50)
      // Nothing of the batch was acknowledged: what was in the queue comes again.
      while (to.tryReceive() !== undefined);
    }
    const last = startKmq(args)
    for (const number of numbers(50)) expect((await to.receive()).text()).toBe(String(number))
    await until(() => isEmpty(queue))
    process.kill(last.pid, 'SIGTERM')
    await last.outcome
    expect((await queue.stats()).dead).toBe(0)
  })

  test('--json tells what happens, one object a line', async () => {
    const { url } = await newLocal()
    const missing = uniqueName()
    const child = startKmq(['bridge', `${url}#queue=q`, `posix:${missing}`, '--json', '--listen', '0'])
    expect(await eventOf(child, 'down', 'target')).toMatchObject({
      at: expect.stringMatching(/^\d{4}-/),
      route: `${url}#queue=q`,
      error: { code: 'ENOENT', message: expect.stringContaining(missing) },
    })
    const { routes, url: address } = await eventOf(child, 'started')
    expect(routes).toEqual([`${url}#queue=q`])
    const answer = await fetch(`${address}/readyz`)
    expect([answer.status, await answer.text()]).toEqual([503, expect.stringContaining('ENOENT')])
    expect((await fetch(`${address}/healthz`)).status).toBe(200)
    process.kill(child.pid, 'SIGTERM')
    await child.outcome
  })

  test('with --json, it ends when nobody reads what happens', async () => {
    const { url } = await newLocal()
    const name = uniqueName()
    const args = [process.execPath, command, 'bridge', `${url}#queue=q`, `posix:${name}`, '--json']
    const child = start('sh', ['-c', '("$@"; echo "ended with $?" >&2) | head -n 2', 'sh', ...args])
    await child.line()
    await child.line()
    // The next that happens nobody reads.
    const queue = PosixQueue.open(name, { create: true, maxMessages: 1, messageSize: 8 })
    expect((await child.outcome).stderr).toBe('ended with 141\n')
    await queue.close()
  })

  test('the id of a message cannot move the cursor', async () => {
    const { bus, url } = await newLocal()
    const to = openQueue({ messageSize: 8 })
    await bus.queue('q').send('it is too long', { id: 'id\u001b[2J' })
    const child = startKmq(['bridge', `${url}#queue=q`, `posix:${to.path}`])
    await until(async () => (await bus.queue('q').stats()).dead === 1)
    process.kill(child.pid, 'SIGTERM')
    expect((await child.outcome).stderr).toContain('message id\ufffd[2J is a dead letter')
  })

  test('with --json, a full disk for what it tells stops nothing', async () => {
    const { bus, url } = await newLocal()
    const { url: far, bus: other } = await newLocal()
    const args = [process.execPath, command, 'bridge', `${url}#queue=q`, `${far}#queue=q`, '--json']
    const child = start('sh', ['-c', 'exec "$@" > /dev/full', 'sh', ...args])
    await bus.queue('q').send('x')
    expect(await takeMessages(other.queue('q'), 1)).toMatchObject([{ body: 'x' }])
    process.kill(child.pid, 'SIGTERM')
    expect(await child.outcome).toMatchObject({ signal: 'SIGTERM', stderr: expect.stringContaining('ENOSPC') })
  })

  test.each<[string[], RegExp]>([
    [[], /expected FROM TO, or --config FILE/],
    [['posix:/a'], /expected FROM TO/],
    [['posix:a', 'posix:/b'], /FROM must be posix:\/NAME, sysv:0xKEY/],
    [['posix:/a', 'mysql://u:secret@h#queue=a'], /TO must be a URL that begins with local:.*mysql:\/\/u:\*\*\*@h/],
    [['posix:/a', 'posix:/b'], /--outbox must be/],
    [['posix:/a', 'posix:/b', '--outbox', 'here'], /--outbox must be an absolute path/],
    [['posix:/a', 'posix:/b', '--batch', '0'], /--batch is an integer from 1 to 500/],
    [['posix:/a', 'posix:/b', '--rate', 'fast'], /--rate is a number > 0/],
    [['posix:/a', 'posix:/b', '--listen', 'here'], /--listen is a port/],
    [['--config', 'x', '--batch', '1'], /--config FILE says all: no --batch/],
    [['--config', 'x', 'posix:/a'], /no FROM and TO beside it/],
  ])('%j is refused', async (args, expected) => {
    const { code, stdout, stderr } = await kmq(['bridge', ...args])
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' })
    expect(stderr).toMatch(expected)
    expect(stderr).not.toContain('secret')
  })

  test('an outbox that cannot be made, and a port that is taken', async () => {
    const path = write('a file')
    const failed = await kmq(['bridge', 'posix:/a', 'posix:/b', '--outbox', path, '--json'])
    expect(failed.code).toBe(1)
    expect(JSON.parse(failed.stderr)).toMatchObject({ error: { code: 'ERR_BUS_DIRECTORY' } })
  })

  test('what this user may not open is tried again, and said', async ({ skip }) => {
    skip(!canBeStranger, 'only root can become another user')
    const directory = temporaryDirectory()
    chownSync(directory, stranger, stranger)
    const to = openQueue()
    const child = startKmq(['bridge', `local:${directory}/bus#queue=q`, `posix:${to.path}`, '--json'], {
      through: asStranger,
    })
    const down = await eventOf(child, 'down', 'target')
    expect(down.error).toMatchObject({ code: 'EACCES', hint: expect.any(String) })
    process.kill(child.pid, 'SIGTERM')
    expect((await child.outcome).signal).toBe('SIGTERM')
  })
})

describe('kmq bridge --config', () => {
  test.each<[string, string, number, RegExp]>([
    ['no JSON', '{\n  "routes": [\n    }\n', 3, /no JSON: /],
    ['an end of the file', '{\n  "routes": [', 2, /no JSON: /],
    [
      'a wrong value',
      '{\n "routes": [{\n  "from": "posix:/a",\n  "to": "posix:/b",\n  "batch": 0 }],\n "outbox": {"directory": "/o"}}',
      5,
      /"routes\[0\]\.batch" of the bridge must be an integer from 1 to 500\. Received 0/,
    ],
    [
      'something that is missing',
      '{\n "routes": [\n  {"from": "posix:/a", "to": "posix:/b"},\n  {"from": "posix:/c"}],\n "outbox": {"directory": "/o"}}',
      4,
      /"routes\[1\]\.to"/,
    ],
    ['nothing to do', '{\n "routes": []}', 2, /at least one route/],
    [
      'something unknown',
      '{\n "routes": [], // none\n "colour": [1,\n 2],}',
      3,
      /what is known here is routes, outbox/,
    ],
    [
      'something unknown, deep',
      '{"routes": [{"from": "posix:/a", "to": "posix:/b",\n "filter": {"headers": {"a.b": "x",\n "c": 7}}}], "outbox": {"directory": "/o"}}',
      3,
      /"routes\[0\]\.filter\.headers\.c"/,
    ],
  ])('%s: which line it is', async (_, text, line, expected) => {
    const file = write(text)
    const { code, stderr } = await kmq(['bridge', '--config', file, '--check'])
    expect(code).toBe(2)
    expect(stderr).toContain(`${file}:${line}: `)
    expect(stderr).toMatch(expected)
  })

  test('--check of a right one says nothing; of one that is not there, what is wrong', async () => {
    const file = write({ routes: [{ from: 'posix:/a', to: 'posix:/b' }], outbox: { directory: '/nowhere' } })
    expect(await kmq(['bridge', '--config', file, '--check'])).toMatchObject({ code: 0, stdout: '', stderr: '' })
    expect(await kmq(['bridge', '--config', `${file}x`])).toMatchObject({
      code: 1,
      stderr: expect.stringContaining('ENOENT'),
    })
  })

  test('SIGHUP before it runs: it reads it again as soon as it does', async () => {
    const { url } = await newLocal()
    const directory = join(temporaryDirectory(), 'outbox')
    await (await openBus(`local:${directory}`)).close()
    const route = (name: string) => ({ from: `posix:${uniqueName()}`, to: `${url}#queue=q`, name })
    const config = (...names: string[]) => ({ routes: names.map(route), outbox: { directory } })
    const file = write(config('a'))
    // It cannot begin while somebody else writes to its outbox.
    const database = new DatabaseSync(join(directory, 'bus.db'))
    database.exec('BEGIN EXCLUSIVE')
    const child = startKmq(['bridge', '--config', file, '--json'])
    const isHeard = () => /^SigCgt:\s*[\da-f]*[13579bdf]$/m.test(readFileSync(`/proc/${child.pid}/status`, 'utf8'))
    await until(isHeard)
    write(config('b'), file)
    process.kill(child.pid, 'SIGHUP')
    database.close()
    expect(await eventOf(child, 'started')).toMatchObject({ routes: ['a'] })
    expect(await eventOf(child, 'reloaded')).toMatchObject({ started: ['b'], stopped: ['a'] })
    process.kill(child.pid, 'SIGTERM')
    await child.outcome
  })

  test('SIGHUP reads it again: what is the same goes on, a broken one changes nothing', async () => {
    const [near, far] = [await newLocal(), await newLocal()]
    const route = (name: string, to = name) => ({
      from: `${near.url}#queue=${name}`,
      to: `${far.url}#queue=${to}`,
      name,
    })
    const file = write({ routes: [route('a'), route('b')] })
    const child = startKmq(['bridge', '--config', file, '--json'])
    await eventOf(child, 'started')
    write({ routes: [route('a'), route('b', 'b2'), route('c')] }, file)
    process.kill(child.pid, 'SIGHUP')
    const told = await eventOf(child, 'reloaded')
    expect(told).toMatchObject({ kept: ['a'], started: ['b', 'c'], stopped: ['b'] })
    for (const name of ['a', 'b', 'c']) await near.bus.queue(name).send(name)
    for (const name of ['a', 'b2', 'c']) await takeMessages(far.bus.queue(name), 1)
    write('{ "routes": [ }', file)
    process.kill(child.pid, 'SIGHUP')
    await eventOf(child, 'refused')
    await near.bus.queue('b').send('still')
    expect(await takeMessages(far.bus.queue('b2'), 1)).toMatchObject([{ body: 'still' }])
    process.kill(child.pid, 'SIGTERM')
    const { signal, stderr } = await child.outcome
    expect(signal).toBe('SIGTERM')
    expect(JSON.parse(stderr).error.message).toContain(`${file}:1: no JSON`)
    for (const name of ['a', 'b', 'c']) expect(await isEmpty(near.bus.queue(name))).toBe(true)
  })
})

test('whatever many routes tell at a time, systemd is told once: the watchdog comes behind that', async () => {
  const { url } = await newLocal()
  const directory = temporaryDirectory()
  const log = join(directory, 'log')
  const routes = numbers(30).map((number) => ({ from: `${url}#queue=q${number}`, to: `posix:${uniqueName()}` }))
  writeFileSync(join(directory, 'systemd-notify'), `#!/bin/sh\necho "$@" >> ${log}; /bin/sleep 0.1\n`, { mode: 0o755 })
  const env = { NOTIFY_SOCKET: '/nowhere', PATH: directory }
  const child = startKmq(['bridge', '--config', write({ routes }), '--json'], { env })
  for (const _ of routes) await eventOf(child, 'up', 'source')
  process.kill(child.pid, 'SIGTERM')
  await child.outcome
  const told = readFileSync(log, 'utf8').match(/STATUS=/g) ?? []
  expect(told.length).toBeLessThan(routes.length / 2)
})

const hasNotify = spawnSync('systemd-notify', ['--version']).status === 0

describe.skipIf(!hasNotify)('as a service (needs systemd-notify, of the package systemd)', () => {
  /** What systemd would hear, datagram by datagram. */
  async function listen(): Promise<{ env: NodeJS.ProcessEnv; heard(pattern: RegExp): Promise<string> }> {
    const path = join(temporaryDirectory(), 'notify')
    const code = `import socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind(sys.argv[1])
print('bound', flush=True)
while True: print(s.recv(4096).decode().replace('\\n', ' '), flush=True)`
    const child = start('/usr/bin/python3', ['-c', code, path])
    onTestFinished(() => void process.kill(child.pid, 'SIGKILL'))
    expect(await child.line()).toBe('bound')
    const heard = async (pattern: RegExp) => {
      for (;;) {
        const line = await child.line()
        if (pattern.test(line)) return line
      }
    }
    return { env: { NOTIFY_SOCKET: path }, heard }
  }

  test('it says when it is ready, how it is, that it reloads, and that it stops', async () => {
    const { env, heard } = await listen()
    const { url } = await newLocal()
    const file = write({ routes: [{ from: `${url}#queue=a`, to: `${url}#queue=b` }] })
    const child = startKmq(['bridge', '--config', file], { env })
    expect(await heard(/READY=1/)).toMatch(/STATUS=[01] of 1 routes up/)
    process.kill(child.pid, 'SIGHUP')
    await heard(/RELOADING=1/)
    await heard(/READY=1/)
    process.kill(child.pid, 'SIGTERM')
    await heard(/STOPPING=1/)
    expect((await child.outcome).signal).toBe('SIGTERM')
  })

  test('the watchdog hears of it', async () => {
    const { env, heard } = await listen()
    const { url } = await newLocal()
    const child = startKmq(['bridge', `${url}#queue=a`, `${url}#queue=b`], { env: { ...env, WATCHDOG_USEC: '200000' } })
    await heard(/WATCHDOG=1/)
    await heard(/WATCHDOG=1/)
    process.kill(child.pid, 'SIGTERM')
    await child.outcome
  })

  test('without systemd-notify it says so once, and works', async () => {
    const { bus, url } = await newLocal()
    await bus.queue('a').send('x')
    const env = { NOTIFY_SOCKET: '/nowhere', PATH: '/nowhere', WATCHDOG_USEC: '20000' }
    const child = startKmq(['bridge', `${url}#queue=a`, `${url}#queue=b`], { env })
    await takeMessages(bus.queue('b'), 1)
    process.kill(child.pid, 'SIGTERM')
    const { stderr } = await child.outcome
    expect(stderr.match(/systemd-notify/g)).toHaveLength(1)
  })
})
