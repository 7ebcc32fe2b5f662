import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Bus } from 'kernelmq/bus'
import { beforeEach, describe, expect, onTestFinished, test } from 'vitest'
import { openBus, startBus, take, temporaryDirectory } from '../bus/support.ts'
import { isRoot, start, stranger, unlimited } from '../support.ts'
import { command, kmq, startKmq } from './support.ts'

/** A bus with a URL, in a directory of the test's own. */
async function makeBus(scheme = 'local'): Promise<{ bus: Bus; url: string; directory: string }> {
  const directory = join(temporaryDirectory(), 'bus')
  const url = `${scheme}:${directory}${scheme === 'mq' ? '?maxMessages=10&messageSize=1024' : ''}`
  // Its queues go with its directory, when it is closed.
  if (scheme !== 'local') onTestFinished(async () => (await openBus(url)).close())
  const bus = await openBus(url)
  if (scheme !== 'local') onTestFinished(() => rmSync(directory, { recursive: true, force: true }))
  return { bus, url, directory }
}

/** What a successful command prints, parsed. */
async function json(...args: string[]) {
  const { code, stdout, stderr } = await kmq(['bus', ...args, '--json'])
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
  return JSON.parse(stdout)
}

const errorOf = (stderr: string) => JSON.parse(stderr.split('\n')[0] as string).error

const lines = (text: string) => text.trimEnd().split('\n')

const time = expect.stringMatching(/^\d{4}-\d\d-\d\dT[\d:.]+Z$/)

/** Makes dead letters of so many messages. */
async function kill(bus: Bus, name: string, count: number): Promise<void> {
  const queue = bus.queue(name)
  for (let i = 0; i < count; i++) await queue.send({ n: i }, { id: `d${i}`, key: 'k', headers: { h: 'v' } })
  for (let i = 0; i < count; i++) {
    const [message] = await queue.receive()
    await message?.dead('no such address', new Error('550 unknown'))
  }
}

describe('kmq bus', () => {
  test('helps, with all and with one', async () => {
    const all = await kmq(['bus', '--help'])
    expect(all).toMatchObject({ code: 0, stderr: '' })
    for (const name of ['ls', 'stats', 'peek', 'send', 'tail', 'dlq', 'redrive', 'purge', 'schedules'])
      expect(all.stdout).toMatch(new RegExp(`^  ${name} `, 'm'))
    const helps = await Promise.all(
      [
        ['bus', 'send', '--help'],
        ['bus', 'local:/x', 'send', '--help'],
        ['help', 'bus', 'send'],
      ].map((args) => kmq(args)),
    )
    for (const { code, stdout } of helps) {
      expect(code).toBe(0)
      expect(stdout).toBe(helps[0]?.stdout)
    }
    expect(helps[0]?.stdout).toMatch(/^Usage: kmq bus URL send \[OPTIONS\] QUEUE \[TEXT\|@FILE\|-\]\n/)
  })

  test.each([
    [['bus'], 'expected URL and one of ls,'],
    [['bus', 'local:/nowhere'], 'expected URL and one of ls,'],
    [['bus', 'ls', 'local:/nowhere'], 'the URL comes first'],
    [['bus', 'local:/nowhere', 'nope'], "there is no command 'nope'"],
    [['bus', 'local:/nowhere', 'ls', '--nope'], "Unknown option '--nope'"],
    [['bus', 'local:/nowhere', 'peek'], 'expected QUEUE\n'],
    [['bus', 'local:nowhere', 'ls'], 'local: and an absolute path'],
    [['bus', '/nowhere', 'ls'], 'one that begins with local:'],
    [['bus', 'local:/nowhere', 'stats', '--watch', '--interval', '30d'], '--interval is 25d at most'],
    [['bus', 'local:/nowhere', 'tail', 'q', '--interval', '1'], '--interval is 10 milliseconds or more'],
    [['ls', '--watch', '--interval', '0'], '--interval is 10 milliseconds or more'],
    [['bus', 'memory:', 'ls'], 'memory: is a bus within one process'],
    [['bus', 'local:/nowhere', 'send', 'q', 'x', '--priority', '256'], '--priority is an integer from 0 to 255'],
    [['bus', 'local:/nowhere', 'send', 'q', 'x', '--delay', 'soon'], '--delay is a time such as'],
    [['bus', 'local:/nowhere', 'send', 'q', 'x', '--header', '=v'], '--header is NAME=VALUE'],
    [['bus', 'local:/nowhere', 'send', 'q', 'x', '--lines', '--id', 'i'], '--id is that of one message'],
    [['bus', 'local:/nowhere', 'redrive', 'q'], 'one of --id, --max and --all'],
    [['bus', 'local:/nowhere', 'tail'], 'expected a QUEUE, or --topic'],
    [['bus', 'local:/nowhere', 'tail', '-t', 't', '--all'], '--all and --interval are for a QUEUE'],
    [['bus', 'local:/nowhere', 'stats', '--prometheus', '--json'], '--prometheus stands alone'],
    [['bus', 'local:/nowhere', 'schedules', 'remove'], 'expected the NAME'],
  ])('%j is not understood', async (args, message) => {
    const { code, stdout, stderr } = await kmq(args)
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' })
    expect(stderr).toContain(message)
    expect(stderr).not.toMatch(/^ +at /m)
  })

  test.each(['local', 'mq', 'sysv'])('%s: what is not there is not made, and said', async (scheme) => {
    const parent = temporaryDirectory()
    mkdirSync(join(parent, 'empty'))
    const commands = [['ls'], ['stats'], ['peek', 'q'], ['send', 'q', 'x'], ['tail', '-t', 't'], ['schedules']]
    await Promise.all(
      commands.map(async (args, at) => {
        const directory = join(parent, at % 2 === 0 ? 'nowhere' : 'empty')
        const { code, stdout, stderr } = await kmq(['bus', `${scheme}:${directory}`, ...args, '--json'])
        expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
        const hint = `there is no ${join(directory, scheme === 'local' ? 'bus.db' : `${scheme}/id`)}`
        expect(errorOf(stderr)).toMatchObject({ code: 'ERR_BUS_NOT_FOUND', hint })
      }),
    )
    expect(readdirSync(parent)).toEqual(['empty'])
    expect(readdirSync(join(parent, 'empty'))).toEqual([])
  })

  test('a queue that is not there is not made, and the others are named', async () => {
    const { bus, url } = await makeBus()
    await bus.queue('mail').send('x')
    for (const args of [
      ['stats', 'mial'],
      ['peek', 'mial'],
      ['dlq', 'mial'],
      ['purge', 'mial', '-f'],
      ['tail', 'mial'],
    ]) {
      const { code, stderr } = await kmq(['bus', url, ...args])
      expect(code).toBe(1)
      expect(stderr).toContain("there is no queue 'mial' in this bus\n  it has mail\n")
    }
    expect(await bus.queues()).toEqual(['mail'])
  })

  test.each([
    'redis://user:hunter2@localhost:1/0',
    'redis://hunter2@localhost:1',
    'local://user:hunter2@host/x',
    'nonsense://user:hunter2@host:port:port/@x',
    'redis://user:hun ter2@localhost:1',
    'local:/nowhere?password=hunter2',
    'amqp://user:h%75nter2@localhost:1',
  ])('nothing is printed of the secret in %s', async (url) => {
    const commands = [
      ['bus', url, 'ls'],
      ['bus', 'ls', url],
      ['bus', 'mail', url, 'send'],
      ['send', url, 'mail'],
      ['info', `${url}:1`],
      [url, 'ls'],
      ['bus', url, 'ls', '--json'],
    ]
    for (const { code, stdout, stderr } of await Promise.all(commands.map((args) => kmq(args)))) {
      // What is right but for the server fails.
      expect([1, 2]).toContain(code)
      expect(stdout + stderr).not.toMatch(/hun ?ter2|h%75nter2/)
    }
  })

  test('what belongs to another user is refused', async (context) => {
    const { bus, url, directory } = await makeBus()
    await bus.queue('q').send('x')
    const through = ['setpriv', `--reuid=${stranger}`, `--regid=${stranger}`, '--clear-groups', process.execPath]
    const canBecome = isRoot && spawnSync('setpriv', [...through.slice(1), command, '--version']).status === 0
    context.skip(!canBecome, 'only root can become another user, who has to be able to read these files')
    const { code, stdout, stderr } = await start(through[0] as string, [
      ...through.slice(1),
      ...[command, 'bus', url, 'ls', '--json'],
    ]).outcome
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
    expect(errorOf(stderr)).toMatchObject({ code: 'ERR_BUS_DIRECTORY', hint: expect.stringContaining('write') })
    expect(existsSync(join(directory, 'bus.db'))).toBe(true)
  })

  test('what is no bus is left as it is', async () => {
    const directory = temporaryDirectory()
    writeFileSync(join(directory, 'bus.db'), 'something else, and long enough to be no header of a store'.repeat(20))
    const { code, stderr } = await kmq(['bus', `local:${directory}`, 'ls', '--json'])
    expect({ code, error: errorOf(stderr).code }).toEqual({ code: 1, error: 'ERR_BUS_NOT_A_BUS' })
  })
})

describe('kmq bus URL ls, stats', () => {
  test('tell what is in queues, whoever has it', async () => {
    const { bus, url } = await makeBus()
    await kill(bus, 'mail', 1)
    await bus.queue('mail').sendMany([{ body: 'four' }, { body: 'x', delay: 60_000 }])
    await bus.namespace('acme').queue('mail').send('x')
    await bus.queue('q').sendMany([{ body: 1, key: 'k' }, { body: 2 }, { body: 3 }])
    expect(await startBus(url, 'hold', { max: 2 }).line()).toBe('[1,2]')
    const mail = { queue: 'mail', ready: 1, leased: 0, delayed: 1, held: 0, dead: 1, bytes: 5, oldest: time }
    const q = { queue: 'q', ready: 1, leased: 2, delayed: 0, held: 0, dead: 0, bytes: 3, oldest: time }
    const age = expect.any(Number)
    expect(await json(url, 'ls')).toEqual([
      expect.objectContaining({ queue: '@acme/mail' }),
      { ...mail, age },
      { ...q, age },
    ])
    expect(await json(url, 'stats')).toEqual(
      await json(url, 'ls').then((all) =>
        all.map(({ queue }: { queue: string }) => expect.objectContaining({ queue })),
      ),
    )
    expect(await json(url, 'stats', 'mail')).toEqual({ ...mail, age })
    expect(await json(url, 'stats', '@acme/mail')).toMatchObject({ queue: '@acme/mail', ready: 1 })
    expect(await json(url, 'ls', 'mai*')).toMatchObject([{ queue: 'mail' }])
    const { stdout } = await kmq(['bus', url, 'ls'])
    expect(lines(stdout)[0]).toMatch(/^QUEUE +READY +LEASED +DELAYED +HELD +DEAD +BYTES +OLDEST$/)
    expect(stdout).toMatch(/^q +1 +2 +0 +0 +0 +3 +\d+\w+$/m)
    expect((await kmq(['bus', url, 'stats', 'mail'])).stdout).toMatch(/^mail\n {2}ready +1\n/)
    expect((await kmq(['bus', url, 'stats', '--prometheus'])).stdout).toContain(
      'kernelmq_messages{queue="q",state="leased"} 2\n',
    )
  })

  test('an empty bus has an empty list', async () => {
    const { url } = await makeBus()
    expect(await json(url, 'ls')).toEqual([])
    expect(await json(url, 'stats')).toEqual([])
  })

  test('of a queue without messages nothing is the oldest', async () => {
    const { bus, url } = await makeBus()
    await bus.queue('q').purge()
    expect(await json(url, 'stats', 'q')).toMatchObject({ ready: 0, oldest: null, age: null })
  })

  test.each(['local', 'mq', 'sysv'])('%s: what goes on ends when the bus is removed underneath', async (scheme) => {
    const { bus, url, directory } = await makeBus(scheme)
    await bus.queue('q').send('x')
    const watching = startKmq(['bus', url, 'stats', 'q', '--watch', '--json'])
    const tailing = startKmq(['bus', url, 'tail', '--topic', 't'])
    await watching.line()
    while ((await bus.topic('t').publish('x')) === 0);
    await tailing.line()
    // They may make a file meanwhile.
    rmSync(directory, { recursive: true, maxRetries: 20 })
    // Whoever opens a bus removes the queues of those that are gone.
    await makeBus(scheme)
    for (const { outcome } of [watching, tailing]) {
      const { code, stderr } = await outcome
      expect(code).toBe(1)
      expect(stderr).toContain('is gone')
    }
    expect(existsSync(directory)).toBe(false)
  })

  test('--watch goes on until Ctrl-C', async () => {
    const { bus, url } = await makeBus()
    await bus.queue('q').send('x')
    const watching = startKmq(['bus', url, 'stats', 'q', '--watch', '--interval', '10ms', '--json'])
    expect(JSON.parse(await watching.line())).toMatchObject({ ready: 1 })
    await bus.queue('q').send('y')
    while (JSON.parse(await watching.line()).ready < 2);
    process.kill(watching.pid, 'SIGINT')
    expect(await watching.outcome).toMatchObject({ code: null, signal: 'SIGINT', stderr: '' })
  })

  test('mq: has its own, and refuses by name what it cannot do', async () => {
    const { bus, url } = await makeBus('mq')
    await bus.queue('q').send('x')
    expect(await json(url, 'ls')).toMatchObject([{ queue: 'q', ready: 1 }])
    for (const [args, capability] of [
      [['peek', 'q'], 'browse'],
      [['tail', 'q'], 'browse'],
      [['dlq', 'q'], 'deadLetter'],
      [['redrive', 'q', '--all'], 'deadLetter'],
      [['schedules'], 'records'],
      [['send', 'q', 'x', '--key', 'k'], 'order'],
      [['send', 'q', 'x', '--delay', '1s'], 'delay'],
    ] as const) {
      const { code, stdout, stderr } = await kmq(['bus', url, ...args, '--json'])
      expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
      const message = expect.stringContaining(`it has no "${capability}"`)
      expect(errorOf(stderr)).toMatchObject({ code: 'ERR_BUS_UNSUPPORTED', message })
    }
    expect((await kmq(['bus', url, 'send', 'q', 'more'])).code).toBe(0)
    expect(await take(bus.queue('q'), 2)).toEqual(['x', 'more'])
  })
})

describe('kmq bus URL send', () => {
  test('sends text, values and bytes, with what goes with them', async () => {
    const { bus, url, directory } = await makeBus()
    const queue = bus.queue('q')
    const { code, stdout, stderr } = await kmq(['bus', url, 'send', 'q', 'hello'])
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    const options = ['--id', 'i', '-k', 'k', '-p', '7', '-H', 'a=b=c', '-H', 'd=', '--ttl', '1h', '--json-body']
    expect(await json(url, 'send', 'q', '{"n":1}', ...options)).toEqual({ id: 'i', duplicate: false })
    const file = join(directory, '../file')
    writeFileSync(file, Buffer.from([0xff, 0]))
    await json(url, 'send', 'q', `@${file}`)
    expect((await kmq(['bus', url, 'send', 'q', '-'], { input: 'grüße\n' })).code).toBe(0)
    expect((await kmq(['bus', url, 'send', 'q', '--bytes'], { input: 'b' })).code).toBe(0)
    await json(url, 'send', 'q', 'later', '--delay', '1h')
    const messages = await queue.receive({ max: 10 })
    expect(messages.map(({ body }) => body)).toEqual([
      { n: 1 },
      'hello',
      Buffer.from([0xff, 0]),
      'grüße\n',
      Buffer.from('b'),
    ])
    expect(messages[0]).toMatchObject({ id: 'i', key: 'k', priority: 7, headers: { a: 'b=c', d: '' } })
    expect(`${messages[1]?.id}\n`).toBe(stdout)
    expect((await queue.stats()).delayed).toBe(1)
  })

  test('says of a duplicate that it is one', async () => {
    const { url } = await makeBus()
    await kmq(['bus', url, 'send', 'q', 'x', '--id', 'i'])
    const { code, stdout, stderr } = await kmq(['bus', url, 'send', 'q', 'x', '--id', 'i'])
    expect({ code, stdout, stderr }).toEqual({
      code: 0,
      stdout: 'i\n',
      stderr: "'i' was sent before: nothing was sent now\n",
    })
    expect(await json(url, 'send', 'q', 'x', '--id', 'i')).toEqual({ id: 'i', duplicate: true })
  })

  test('makes a bus only if it is told to', async () => {
    const directory = join(temporaryDirectory(), 'new')
    expect((await kmq(['bus', `local:${directory}`, 'send', 'q', 'x', '--create'])).code).toBe(0)
    expect(await take((await openBus(`local:${directory}`)).queue('q'), 1)).toEqual(['x'])
  })

  test('sends nothing of what is no JSON, and no file', async () => {
    const { bus, url } = await makeBus()
    for (const args of [['{', '--json-body'], ['@/nowhere/file'], ['@/nowhere/file', '--lines']]) {
      const { code, stdout, stderr } = await kmq(['bus', url, 'send', 'q', ...args])
      expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
      expect(stderr).toMatch(/no JSON|no such file/)
    }
    expect(await bus.queues()).toEqual([])
  })

  test('input that goes on and on does not fill the memory', async (ctx) => {
    ctx.skip(unlimited !== undefined, unlimited)
    const { bus, url } = await makeBus()
    const line = 'head -c 4000000000 /dev/zero | prlimit --as=5000000000 "$@"'
    const child = start('sh', ['-c', line, 'sh', process.execPath, command, 'bus', url, 'send', 'q'])
    const { code, stderr } = await child.outcome
    expect(stderr).toMatch(/EMSGSIZE: message too long, .* more than 1073741824 bytes/)
    expect(code).toBe(1)
    expect(await bus.queues()).toEqual([])
  })

  test('--lines sends each, in order, as they come', async () => {
    const { bus, url } = await makeBus()
    const input = Array.from({ length: 1200 }, (_, i) => `{"n":${i}}`).join('\n')
    const { code, stdout, stderr } = await kmq(['bus', url, 'send', 'q', '--lines', '--json-body'], { input })
    expect({ code, stderr, count: lines(stdout).length }).toEqual({ code: 0, stderr: '', count: 1200 })
    expect(await take(bus.queue('q'), 1200)).toEqual(Array.from({ length: 1200 }, (_, n) => ({ n })))
    const wrong = await kmq(['bus', url, 'send', 'q', '--lines', '--json-body'], { input: '1\n2\nthree\n4\n' })
    expect(wrong).toMatchObject({ code: 1, stderr: expect.stringContaining('line 3; 2 sent before') })
    expect(lines(wrong.stdout)).toHaveLength(2)
    expect(await take(bus.queue('q'), 2)).toEqual([1, 2])
  })

  test.each(['local', 'mq'])('%s: a full queue is 3, and what was printed is there', async (scheme) => {
    const { bus, url } = await makeBus(scheme)
    const queue = bus.queue('q', scheme === 'local' ? { maxMessages: 100 } : {})
    await queue.send('first')
    const input = 'x\n'.repeat(10_000)
    const { code, stdout, stderr } = await kmq(['bus', url, 'send', 'q', '--lines', '--json'], { input })
    const sent = lines(stdout).map((line) => JSON.parse(line))
    expect(code).toBe(3)
    expect(errorOf(stderr)).toMatchObject({
      code: 'ERR_BUS_QUEUE_FULL',
      sent: sent.length,
      retryAfter: expect.any(Number),
    })
    if (scheme === 'local') expect(sent).toHaveLength(99)
    expect(await queue.purge()).toBe(sent.length + 1)
  })

  test('--wait waits for room, and Ctrl-C ends that', async () => {
    const { bus, url } = await makeBus()
    const queue = bus.queue('q', { maxMessages: 1 })
    await queue.send('first')
    const sending = startKmq(['bus', url, 'send', 'q', '--lines', '--wait'])
    sending.end('1\n2\n3\n')
    expect(await take(queue, 2)).toEqual(['first', '1'])
    await sending.line()
    await sending.line()
    process.kill(sending.pid, 'SIGINT')
    expect(await sending.outcome).toMatchObject({ signal: 'SIGINT', stderr: '2 sent before\n' })
    expect(await take(queue, 1)).toEqual(['2'])
    expect((await queue.stats()).ready).toBe(0)
  })
})

describe('kmq bus URL peek', () => {
  test('shows what is there, and leaves it', async () => {
    const { bus, url } = await makeBus()
    const queue = bus.queue('q')
    await queue.send('plain\u001b[31m\n', { id: 'a' })
    await queue.send({ n: 1 }, { id: 'b', key: 'k', priority: 9, headers: { h: 'v' } })
    await queue.send(Buffer.from([255]), { id: 'c' })
    const common = { key: null, priority: 0, headers: {}, sentAt: time, attempts: 0, losses: 0 }
    expect(await json(url, 'peek', 'q')).toEqual([
      { ...common, id: 'b', key: 'k', priority: 9, headers: { h: 'v' }, format: 'json', body: { n: 1 } },
      { ...common, id: 'a', format: 'text', body: 'plain\u001b[31m\n' },
      { ...common, id: 'c', format: 'base64', body: '/w==' },
    ])
    expect(await json(url, 'peek', 'q', '-n1')).toMatchObject([{ id: 'b' }])
    const { stdout } = await kmq(['bus', url, 'peek', 'q'])
    expect(stdout).toContain('plain\\u001b[31m\\n')
    expect(stdout).not.toContain('\u001b')
    await queue.send('later', { delay: 60_000 })
    expect((await kmq(['bus', url, 'peek', 'q'])).stderr).toContain('not shown: 1 that are not due yet')
    expect(await queue.stats()).toMatchObject({ ready: 3, leased: 0 })
  })

  test('goes over more than one page', async () => {
    const { bus, url } = await makeBus()
    await bus.queue('q').sendMany(Array.from({ length: 250 }, (_, body) => ({ body })))
    const all = await json(url, 'peek', 'q', '-n', '210')
    expect(all.map(({ body }: { body: number }) => body)).toEqual(Array.from({ length: 210 }, (_, i) => i))
  })
})

describe('kmq bus URL tail', () => {
  test('of a topic shows what is published, takes nothing away, and leaves nothing behind', async () => {
    const { bus, url } = await makeBus()
    await bus.topic('orders.*').bind('billing')
    const tailing = startKmq(['bus', url, 'tail', '--topic', 'orders.#', '--json'])
    const publish = (n: number) => bus.topic('orders.eu').publish({ n }, { headers: { h: 'v' } })
    while ((await publish(0)) < 2);
    expect(JSON.parse(await tailing.line())).toEqual({
      ...{ id: expect.any(String), key: null, priority: 0, headers: { h: 'v' }, sentAt: time },
      ...{ format: 'json', body: { n: 0 } },
    })
    await publish(1)
    expect(JSON.parse(await tailing.line())).toMatchObject({ body: { n: 1 } })
    process.kill(tailing.pid, 'SIGINT')
    expect(await tailing.outcome).toMatchObject({ code: null, signal: 'SIGINT', stderr: '' })
    expect(await publish(2)).toBe(1)
    const { ready } = await bus.queue('billing').stats()
    expect((await take(bus.queue('billing'), ready)).slice(-2)).toEqual([{ n: 1 }, { n: 2 }])
  })

  test('of a topic ends after so many, and when there is no room for what it shows', async () => {
    const { bus, url } = await makeBus()
    const publish = () => bus.topic('t').publish('x')
    const args = ['bus', url, 'tail', '--topic', 't', '-n', '2']
    const tailing = startKmq(args)
    while ((await publish()) < 1);
    await publish()
    const { code, stdout, stderr } = await tailing.outcome
    expect({ code, stderr, count: lines(stdout).length }).toEqual({ code: 0, stderr: '', count: 2 })
    const full = start('sh', ['-c', 'exec "$@" > /dev/full', 'sh', process.execPath, command, ...args])
    while ((await publish()) < 1);
    expect(await full.outcome).toMatchObject({ code: 1, stderr: expect.stringContaining('ENOSPC') })
  })

  test('of a queue shows what is there and what comes, once each, and ends after so many', async () => {
    const { bus, url } = await makeBus()
    const queue = bus.queue('q')
    await queue.send('one', { id: '1', key: 'k' })
    const tailing = startKmq(['bus', url, 'tail', 'q', '--all', '--interval', '10ms', '-n', '3'])
    expect(await tailing.line()).toMatch(/^\S+Z 1 \[k\] one$/)
    await queue.send('two', { id: '2', priority: 9 })
    expect(await tailing.line()).toMatch(/ 2 two$/)
    await queue.send('three', { id: '3' })
    const { code, stdout, stderr } = await tailing.outcome
    expect({ code, stderr, count: lines(stdout).length }).toEqual({ code: 0, stderr: '', count: 3 })
    expect(await queue.stats()).toMatchObject({ ready: 3, leased: 0 })
  })

  test('of a queue with a history shows what was handled at once, too', async () => {
    const { bus, url } = await makeBus()
    const queue = bus.queue('q', { history: { maxMessages: 1000 } })
    await queue.send('before')
    expect(await take(queue, 1)).toEqual(['before'])
    await queue.send('there')
    const tailing = startKmq(['bus', url, 'tail', 'q', '--all', '--interval', '10ms', '--json'])
    expect(JSON.parse(await tailing.line())).toMatchObject({ body: 'there' })
    expect(await take(queue, 1)).toEqual(['there'])
    for (let i = 0; i < 150; i++) {
      await queue.send(i)
      await take(queue, 1)
    }
    for (let i = 0; i < 150; i++) expect(JSON.parse(await tailing.line()).body).toBe(i)
    process.kill(tailing.pid, 'SIGTERM')
    expect(await tailing.outcome).toMatchObject({ signal: 'SIGTERM', stderr: '' })
  })

  test('whose reader goes away ends, and takes nothing along', async () => {
    const { bus, url } = await makeBus()
    const queue = bus.queue('q')
    await queue.sendMany(Array.from({ length: 300 }, () => ({ body: 'x'.repeat(2000) })))
    const pipe = `"$0" "$1" bus "$2" tail q --all | head -n 1 | wc -l; echo \${PIPESTATUS[0]}`
    const { stdout, stderr } = await start('bash', ['-c', pipe, process.execPath, command, url]).outcome
    expect({ stdout, stderr }).toEqual({ stdout: '1\n141\n', stderr: '' })
    expect(await queue.stats()).toMatchObject({ ready: 300, leased: 0 })
  })
})

describe('kmq bus URL dlq, redrive', () => {
  test('show why they are dead, and send them back', async () => {
    const { bus, url } = await makeBus()
    await kill(bus, 'q', 3)
    const letter = {
      ...{ id: 'd0', key: 'k', headers: { h: 'v' }, sentAt: time, diedAt: time, reason: 'no such address' },
      ...{ error: expect.stringContaining('550 unknown\n'), attempts: 1, losses: 0, format: 'json', body: { n: 0 } },
    }
    expect(await json(url, 'dlq', 'q', '--id', 'd0')).toEqual(letter)
    expect(await json(url, 'dlq', 'q')).toEqual([
      letter,
      expect.objectContaining({ id: 'd1' }),
      expect.objectContaining({ id: 'd2' }),
    ])
    const table = await kmq(['bus', url, 'dlq', 'q', '-n', '2'])
    expect(table.stdout).toMatch(/^d0 +\S+Z +1 +no such address +\{"n":0\}$/m)
    expect(table.stderr).toContain('there are more than these 2')
    expect((await kmq(['bus', url, 'dlq', 'q', '--id', 'd1'])).stdout).toMatch(/^error +Error: 550 unknown$/m)
    expect(await kmq(['bus', url, 'dlq', 'q', '--id', 'none'])).toMatchObject({ code: 1, stdout: '' })

    expect(await json(url, 'redrive', 'q', '--id', 'd1')).toEqual({ redriven: 1 })
    const missing = await kmq(['bus', url, 'redrive', 'q', '--id', 'd1'])
    expect(missing).toMatchObject({ code: 1, stdout: '0\n', stderr: expect.stringContaining("no dead letters of 'q'") })
    expect(await json(url, 'redrive', 'q', '--max', '1')).toEqual({ redriven: 1 })
    expect(await json(url, 'redrive', 'q', '--all')).toEqual({ redriven: 1 })
    expect(await json(url, 'dlq', 'q')).toEqual([])
    expect(await take(bus.queue('q'), 3)).toEqual([{ n: 1 }, { n: 0 }, { n: 2 }])
  })

  test('Ctrl-C in the middle leaves each in one of the two', async () => {
    const { bus, url } = await makeBus()
    await kill(bus, 'q', 50)
    const redriving = startKmq(['bus', url, 'redrive', 'q', '--all', '--rate', '2'])
    while ((await bus.queue('q').stats()).ready + (await bus.queue('q').stats()).held === 0);
    process.kill(redriving.pid, 'SIGINT')
    expect(await redriving.outcome).toMatchObject({ code: null, signal: 'SIGINT', stdout: '', stderr: '' })
    const { ready, held, dead } = await bus.queue('q').stats()
    expect(ready + held + dead).toBe(50)
    expect(dead).toBeGreaterThan(0)
    expect((await bus.queue('q').dead.list({ max: 500 })).letters).toHaveLength(dead)
    expect(await bus.queue('q').dead.redrive()).toBe(dead)
  })
})

describe('kmq bus URL purge', () => {
  test('drops nothing without --force where nobody can be asked', async () => {
    const { bus, url } = await makeBus()
    const queue = bus.queue('q')
    await kill(bus, 'q', 2)
    await queue.send('x')
    for (const [args, what] of [
      [['purge', 'q'], "1 messages of 'q' would be dropped"],
      [['purge', 'q', '--dead'], "2 dead letters of 'q' would be dropped"],
    ] as const) {
      const { code, stdout, stderr } = await kmq(['bus', url, ...args])
      expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
      expect(stderr).toContain(what)
      expect(stderr).toContain('--force')
    }
    expect(await queue.stats()).toMatchObject({ ready: 1, dead: 2 })
    expect(await json(url, 'purge', 'q', '--dead', '--force')).toEqual({ purged: 2 })
    expect(await queue.stats()).toMatchObject({ ready: 1, dead: 0 })
    await queue.send('later', { delay: 60_000 })
    const { code, stdout, stderr } = await kmq(['bus', url, 'purge', 'q', '-f'])
    expect({ code, stdout, stderr }).toEqual({
      ...{ code: 0, stdout: '1\n' },
      stderr: 'left: 0 in the hands of consumers, 1 not due yet\n',
    })
    expect((await kmq(['bus', url, 'purge', 'q', '--dead'])).stdout).toBe('0\n')
  })

  describe('on a terminal', () => {
    beforeEach(({ skip }) => skip(spawnSync('script', ['--version']).status !== 0, 'it needs script'))

    test.each([
      ['n', 1],
      ['y', 0],
    ])('asks, and %s leaves %d', async (answer, left) => {
      const { bus, url } = await makeBus()
      await bus.queue('q').send('x')
      const line = [process.execPath, command, 'bus', url, 'purge', 'q'].map((word) => `'${word}'`).join(' ')
      const child = start('script', ['--quiet', '--return', '--command', line, '/dev/null'])
      child.end(`${answer}\n`)
      const { code, stdout } = await child.outcome
      expect(stdout).toContain("Drop 1 messages of 'q'?")
      expect(code).toBe(left)
      expect((await bus.queue('q').stats()).ready).toBe(left)
    })
  })
})

describe('kmq bus URL schedules', () => {
  test('lists them, and ends one', async () => {
    const { bus, url } = await makeBus()
    expect(await json(url, 'schedules')).toEqual([])
    await bus.schedules.set('daily', bus.queue('reports'), { kind: 'daily' }, { cron: '0 8 * * *', timezone: 'UTC' })
    await bus.schedules.set('pulse', bus.queue('reports'), 'beat', { every: 3_600_000 })
    const common = { queue: 'reports', next: time }
    const daily = { ...common, name: 'daily', every: null, cron: '0 8 * * *', timezone: 'UTC' }
    expect(await json(url, 'schedules')).toEqual([
      { ...daily, format: 'json', body: { kind: 'daily' } },
      { ...common, name: 'pulse', every: 3_600_000, cron: null, timezone: null, format: 'text', body: 'beat' },
    ])
    expect((await kmq(['bus', url, 'schedules'])).stdout).toMatch(/^pulse +reports +every 1h +\S+Z +beat$/m)
    expect(await json(url, 'schedules', 'remove', 'daily')).toEqual({ removed: 'daily' })
    expect(await kmq(['bus', url, 'schedules', 'remove', 'daily'])).toMatchObject({ code: 1, stdout: '' })
    expect(await bus.schedules.list()).toMatchObject([{ name: 'pulse' }])
  })
})
