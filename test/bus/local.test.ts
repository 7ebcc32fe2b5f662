// What `local:` has to do beyond the conformance of all transports: processes, files, disks, users.
import { spawnSync } from 'node:child_process'
import { chmodSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { connect, ManualClock } from 'kernelmq/bus'
import { describe, expect, onTestFinished, test } from 'vitest'
import { judge, judgeTicks } from '../reliability/chaos-bus.mjs'
import { canUnshare, fixture, isRoot, overhead, start, stranger, turns } from '../support.ts'
import { DatabaseSync } from './sqlite.mjs'
import { deferred, newBus, nothing, one, openBus, startBus, take, temporaryDirectory } from './support.ts'

const newUrl = () => `local:${join(temporaryDirectory(), 'bus')}`
const directoryOf = (url: string) => url.slice('local:'.length)

const heard = async (child: ReturnType<typeof startBus>) => JSON.parse(await child.line())

test('processes share the queues of a directory, and what is in them outlives them all', async () => {
  const url = newUrl()
  const child = startBus(url, 'send', [{ body: 'a' }, { body: { b: 1 }, key: 'k', delay: 1, priority: 3 }])
  expect((await child.outcome).code).toBe(0)
  const queue = (await openBus(url)).queue('q')
  expect(await take(queue, 2)).toEqual(expect.arrayContaining(['a', { b: 1 }]))
})

test.each([
  ['by itself', { count: 1100 }, 0],
  ['by process.exit()', { count: 1501, exit: true }, 7],
])('a process with an open bus that waits for nothing ends, %s', async (_, argument, expected) => {
  const child = startBus(newUrl(), 'leave', argument)
  const { code, stdout, stderr } = await child.outcome
  expect({ code, stdout, stderr }).toEqual({ code: expected, stdout: `${argument.count}\n`, stderr: '' })
})

test('what a killed process had goes to one that waits, at once', async () => {
  const url = newUrl()
  const queue = (await openBus(url)).queue('q')
  const times: number[] = []
  for (let i = 0; i < 5; i++) {
    await queue.send(i)
    const holder = startBus(url, 'hold', { max: 1 })
    expect(await heard(holder)).toEqual([i])
    const waiting = one(queue)
    const killed = performance.now()
    holder.kill('SIGKILL')
    const message = await waiting
    times.push(performance.now() - killed)
    expect(message).toMatchObject({ body: i, attempts: 0, losses: 1 })
    await message.ack()
  }
  // No timer has to expire; a busy machine is slow nevertheless.
  expect(Math.min(...times)).toBeLessThan(500)
})

describe('a process that has no descriptor for those who connect', () => {
  test('is told when it has of what came for it meanwhile', async () => {
    const url = newUrl()
    const names = Array.from({ length: 10 }, (_, i) => `q${i}`)
    const child = startBus(url, 'crowd', names, ['sh', '-c', 'ulimit -n 60 && exec "$@"', 'sh'])
    expect(await heard(child)).toBe('EMFILE')
    const bus = await openBus(url)
    for (const name of names) {
      await bus.queue(name).send(name)
      await sleep(2)
    }
    child.kill('SIGUSR2')
    const said = []
    while (said.length < names.length) said.push(await heard(child))
    expect(said.sort()).toEqual(names)
    child.kill('SIGKILL')
  })

  test('is not connected to again and again without a pause', async () => {
    const url = newUrl()
    await (await openBus(url)).close()
    const database = new DatabaseSync(join(directoryOf(url), 'bus.db'))
    database.exec("INSERT INTO processes (pid, socket) VALUES (1, 'crowded')")
    database.close()
    const heardOf: string[] = []
    const enough = deferred()
    const server = createServer((socket) => {
      socket.setEncoding('latin1').once('data', (text: string) => {
        socket.destroy()
        if (heardOf.push(text) === 5) enough.resolve()
      })
    })
    server.listen(join(directoryOf(url), 'peers/crowded'))
    onTestFinished(() => void server.close())
    const began = performance.now()
    await openBus(url)
    await enough.promise
    expect(performance.now() - began).toBeGreaterThan(2000)
    expect(heardOf).toEqual([expect.stringMatching(/^\d+\n$/), ...Array(4).fill(expect.stringMatching(/^\d+\n0\n$/))])
  })
})

test('who knew when a message is due tells the next when he gives up, also if he looks once more', async () => {
  const url = newUrl()
  const clock = new ManualClock()
  const [a, b] = [(await openBus(url, { clock })).queue('q'), (await openBus(url, { clock })).queue('q')]
  for (const queue of [a, b]) await queue.stats()
  const given = new AbortController()
  const first = a.receive({ signal: given.signal })
  await a.stats()
  const next = b.receive()
  await b.stats()
  await a.send('x', { delay: 10 })
  given.abort()
  expect(await a.receive(nothing)).toEqual([])
  await expect(first).rejects.toMatchObject({ name: 'AbortError' })
  clock.advance(10)
  expect(await next).toMatchObject([{ body: 'x' }])
})

test('a message that kills its consumers is dead-lettered, and its neighbours are not', async () => {
  const url = newUrl()
  const queue = (await openBus(url)).queue('q', { retry: { losses: 2 } })
  await queue.sendMany(['first', 'die', 'behind', 'further behind'].map((body) => ({ body })))
  const bodies: unknown[] = []
  for (let i = 0; i < 4; i++) {
    const child = startBus(url, 'consume', { prefetch: 10 })
    const outcome = await child.outcome
    expect(outcome.signal).toBe('SIGKILL')
    bodies.push(
      ...outcome.stdout
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line).body),
    )
  }
  const left = await queue.receive({ max: 10 })
  expect(left.map(({ body, losses }) => [body, losses])).toEqual([
    ['behind', 0],
    ['further behind', 0],
  ])
  expect((await queue.dead.list()).letters).toMatchObject([{ body: 'die', losses: 3 }])
  expect(bodies.filter((body) => body === 'die')).toHaveLength(4)
})

test.each([
  ['fetched behind it', {}, 'q'],
  ['another connection of the process has from another queue', { second: 'other' }, 'other'],
])('what is %s is not blamed for a message that kills its consumers', async (_, options, name) => {
  const url = newUrl()
  const bus = await openBus(url)
  const queue = bus.queue('q', { retry: { losses: 2 } })
  await queue.send('die')
  await bus.queue(name).send('neighbour')
  for (let i = 0; i < 4; i++) expect((await startBus(url, 'consumeMore', options).outcome).signal).toBe('SIGKILL')
  const { body, losses } = await one(name === 'q' ? queue : bus.queue(name))
  expect({ body, losses }).toEqual({ body: 'neighbour', losses: 0 })
  // Each connection of a process that has ended is noticed by itself.
  const rest = async () => [await queue.receive(nothing), (await queue.dead.list()).letters]
  await expect.poll(rest).toMatchObject([[], [{ body: 'die', losses: 3 }]])
})

test('a message that kills those who receive it by hand is dead-lettered, though each has another in its hands', async () => {
  const url = newUrl()
  const bus = await openBus(url)
  const queue = bus.queue('q', { retry: { losses: 1 } })
  await queue.send('die')
  await bus.queue('other').send('neighbour')
  for (let i = 0; i < 3; i++) {
    const child = startBus(url, 'holdTwo')
    expect(await heard(child)).toBe('die')
    child.kill('SIGKILL')
    await child.outcome
  }
  await expect
    .poll(async () => [await queue.receive(nothing), (await queue.dead.list()).letters])
    .toMatchObject([[], [{ body: 'die', losses: 2 }]])
})

test('a consumer whose event loop is blocked keeps its message', async () => {
  const url = newUrl()
  const queue = (await openBus(url)).queue('q')
  await queue.send('x')
  const child = startBus(url, 'block', 1500)
  expect(await heard(child)).toBe('x')
  expect(await queue.receive({ wait: 1000 })).toEqual([])
  expect(await heard(child)).toBe('settled')
  expect(await queue.stats()).toMatchObject({ ready: 0, leased: 0 })
})

test('a consumer that hangs loses its message when its lease has a limit', async () => {
  const url = newUrl()
  const queue = (await openBus(url)).queue('q')
  await queue.send('x')
  const child = startBus(url, 'hold', { max: 1, lease: 100 })
  expect(await heard(child)).toEqual(['x'])
  expect(await one(queue)).toMatchObject({ body: 'x', losses: 1 })
})

describe.each(['memory', 'local'] as const)('a lease with a limit, of %s:', (scheme) => {
  test('is not made shorter by extending it, nor that of what was claimed with it', async () => {
    const clock = new ManualClock()
    const queue = (await newBus(scheme, { clock })).queue('q')
    await queue.sendMany([{ body: 'a' }, { body: 'b' }])
    const [a, b] = await queue.receive({ max: 2, lease: 60_000 })
    await a?.extend(10)
    clock.advance(59_999)
    expect(await queue.receive(nothing)).toEqual([])
    await b?.extend(10)
    clock.advance(9)
    expect(await queue.receive(nothing)).toEqual([])
    clock.advance(1)
    expect(await queue.receive({ max: 2, wait: 0 })).toHaveLength(2)
  })

  /** Handlers that end when they are told to. */
  const makeConsumer = async (count: number) => {
    const clock = new ManualClock()
    const queue = (await newBus(scheme, { clock })).queue<number>('q')
    await queue.sendMany(Array.from({ length: count }, (_, body) => ({ body })))
    const calls = Array.from({ length: count }, () => ({ begun: deferred(), ended: deferred() }))
    const handled: number[] = []
    const handler = async ({ body }: { body: number }) => {
      handled.push(body)
      calls[body]?.begun.resolve()
      await calls[body]?.ended.promise
    }
    queue.consume(handler, { prefetch: 5, lease: 500 })
    return { clock, queue, calls, handled }
  }

  test('is not over for what is fetched ahead while the handlers before it go on', async () => {
    const { clock, queue, calls, handled } = await makeConsumer(9)
    for (const [at, { begun, ended }] of calls.entries()) {
      await begun.promise
      // What is settled and extended goes out in the next turn, and is done before it is counted.
      await turns(2)
      // From the fourth on there is nothing but what was fetched.
      while ((await queue.stats()).ready > 0 && at === 4) await sleep(1)
      clock.advance(300)
      if (at > 4) expect(await queue.receive({ max: 10, wait: 0 }), `during ${at}`).toEqual([])
      ended.resolve()
    }
    while ((await queue.stats()).leased > 0) await sleep(1)
    expect(handled).toEqual(calls.map((_, at) => at))
  })

  test('is all there for what was fetched ahead when its handler begins', async () => {
    const { clock, queue, calls } = await makeConsumer(2)
    await calls[0]?.begun.promise
    while ((await queue.stats()).leased < 2) await sleep(1)
    clock.advance(400)
    calls[0]?.ended.resolve()
    await calls[1]?.begun.promise
    clock.advance(499)
    expect(await queue.receive(nothing)).toEqual([])
    clock.advance(1)
    expect(await queue.receive(nothing)).toMatchObject([{ id: expect.any(String) }])
    calls[1]?.ended.resolve()
  })

  test('takes what is fetched ahead from a consumer that hangs, whose handler for it does not begin any more', async () => {
    const { clock, queue, calls, handled } = await makeConsumer(3)
    await calls[0]?.begun.promise
    while ((await queue.stats()).leased < 3) await sleep(1)
    clock.advance(500)
    const taken = await queue.receive({ max: 3 })
    expect(taken.map(({ body }) => body)).toEqual([0, 1, 2])
    calls[0]?.ended.resolve()
    await taken[0]?.release()
    // It comes behind what was fetched ahead.
    while (handled.length < 2) await sleep(1)
    await Promise.all(taken.slice(1).map((message) => message.ack()))
    expect(handled).toEqual([0, 0])
  })
})

test.each([
  ['a process', 'drain'],
  ['a process with another bus', 'drainTwo'],
])('at SIGTERM %s ends what it does, and gives back the rest', async (_, what) => {
  const url = newUrl()
  const queue = (await openBus(url)).queue('q')
  await queue.sendMany(['a', 'b', 'c'].map((body) => ({ body })))
  const child = startBus(url, what)
  expect(await heard(child)).toBe('a')
  child.kill('SIGTERM')
  const { signal, stdout } = await child.outcome
  expect({ signal, stdout }).toEqual({ signal: 'SIGTERM', stdout: '"a"\n"handled"\n' })
  expect((await queue.receive({ max: 3, wait: 0 })).map(({ body }) => body)).toEqual(['b', 'c'])
})

describe('a process that holds the lock of the store and is stopped', () => {
  test('leaves the loops of others running; in the end their calls fail and name it', async () => {
    const url = newUrl()
    const queue = (await openBus(url, { busyTimeout: 2000 })).queue('q')
    await queue.send('before')
    const holder = startBus(url, 'lock')
    const pid = await heard(holder)
    holder.kill('SIGSTOP')
    let turns = 0
    const timer = setInterval(() => turns++, 5)
    const sending = Promise.allSettled([queue.send('a'), queue.send('b'), queue.receive()])
    const results = await sending
    clearInterval(timer)
    expect(turns).toBeGreaterThan(10)
    for (const result of results) {
      expect(result).toMatchObject({
        status: 'rejected',
        reason: { code: 'ERR_BUS_BUSY', hint: `look at process ${pid}: is it stopped?` },
      })
    }
    holder.kill('SIGKILL')
    await holder.outcome
    await queue.send('after')
    expect(await take(queue, 2)).toEqual(['before', 'after'])
  })

  test('delays sends, which keep their order', async () => {
    const url = newUrl()
    const queue = (await openBus(url)).queue('q')
    const holder = startBus(url, 'lock')
    await heard(holder)
    const sends = Array.from({ length: 20 }, (_, i) => queue.send(i))
    await sleep(50)
    holder.kill('SIGKILL')
    await Promise.all(sends)
    expect(await take(queue, 20)).toEqual(Array.from({ length: 20 }, (_, i) => i))
  })
})

describe('a large body', () => {
  const large = 'x'.repeat(70_000)
  const bodiesOf = (url: string) => readdirSync(join(directoryOf(url), 'bodies'))

  test('is a file, which goes with its message', async () => {
    const url = newUrl()
    const queue = (await openBus(url)).queue('q')
    await queue.send(large)
    expect(bodiesOf(url)).toHaveLength(1)
    expect(await take(queue, 1)).toEqual([large])
    while (bodiesOf(url).length > 0) await sleep(1)
  })

  test('stays with a dead letter, and is not kept of a send that is refused', async () => {
    const url = newUrl()
    const queue = (await openBus(url)).queue('q', { maxMessages: 1 })
    await queue.send(large)
    await expect(queue.send(large)).rejects.toMatchObject({ code: 'ERR_BUS_QUEUE_FULL' })
    await (await one(queue)).dead('no')
    while (bodiesOf(url).length > 1) await sleep(1)
    await queue.dead.redrive()
    expect(await take(queue, 1)).toEqual([large])
    while (bodiesOf(url).length > 0) await sleep(1)
  })

  test.each([
    ['cut', (path: string) => truncateSync(path, 10), /its bytes are not those that were sent/],
    ['gone', (path: string) => rmSync(path), /ENOENT/],
  ])(
    'that is %s makes its message a dead letter, with a clear error, and the next is handled',
    async (_, damage, error) => {
      const url = newUrl()
      const queue = (await openBus(url)).queue('q')
      await queue.send(large)
      damage(join(directoryOf(url), 'bodies', bodiesOf(url)[0] as string))
      await queue.send('next')
      expect(await take(queue, 1)).toEqual(['next'])
      const { letters } = await queue.dead.list()
      expect(letters).toMatchObject([{ reason: 'damaged', error: expect.stringMatching(/ERR_BUS_DAMAGED/) }])
      expect(letters[0]?.error).toMatch(error)
    },
  )

  test('that cannot be read for want of a descriptor goes back, and is no dead letter', async () => {
    const few = ['sh', '-c', 'ulimit -n 60 && exec "$@"', 'sh']
    expect(await heard(startBus(newUrl(), 'receiveCrowded', large, few))).toMatchObject({
      refused: { code: 'ERR_BUS_BUSY' },
      body: large,
      stats: { ready: 0, leased: 1, dead: 0 },
    })
  })

  test('is not passed over where it is to be sent again and cannot be read for want of a descriptor', async () => {
    const few = ['sh', '-c', 'ulimit -n 60 && exec "$@"', 'sh']
    const refused = { code: 'ERR_BUS_BUSY' }
    expect(await heard(startBus(newUrl(), 'resendCrowded', large, few))).toMatchObject({
      crowded: [refused, refused],
      later: [1, 1],
      stats: { ready: 2, dead: 0 },
    })
  })

  test('is read although more are received at once than files may be open', async () => {
    const few = ['sh', '-c', 'ulimit -n 60 && exec "$@"', 'sh']
    expect(await heard(startBus(newUrl(), 'receiveMany', { body: large, count: 200 }, few))).toBe(200)
  })

  test('whose sender died before the commit is swept when a bus is opened', async () => {
    const url = newUrl()
    await (await openBus(url)).close()
    writeFileSync(join(directoryOf(url), 'bodies/77-left'), 'x')
    await openBus(url)
    expect(bodiesOf(url)).toEqual([])
  })
})

describe('a directory', () => {
  test('that is new is opened by threads of one process at once', async () => {
    const urls = Array.from({ length: 5 }, newUrl)
    expect(await start(process.execPath, [fixture('bus-threads.mjs'), ...urls]).outcome).toMatchObject({
      code: 0,
      stdout: '',
    })
  })

  test('of a long path works', async () => {
    const directory = join(temporaryDirectory(), 'a'.repeat(120), 'b'.repeat(120))
    const [bus, other] = [await openBus(`local:${directory}`), await openBus(`local:${directory}`)]
    const waiting = one(bus.queue('q'))
    await other.queue('q').send('x')
    expect((await waiting).body).toBe('x')
  })

  test('keeps everything when the machine starts anew', async () => {
    const url = newUrl()
    const child = startBus(url, 'hold', { max: 2 })
    const bus = await openBus(url)
    await bus.queue('q').sendMany([{ body: 'a' }, { body: 'b' }, { body: 'c', delay: 1 }])
    await heard(child)
    child.kill('SIGKILL')
    await child.outcome
    await bus.close()
    // What lives in the kernel is gone: sockets, and the index of the write-ahead log.
    for (const name of readdirSync(join(directoryOf(url), 'peers'))) rmSync(join(directoryOf(url), 'peers', name))
    rmSync(join(directoryOf(url), 'bus.db-shm'), { force: true })
    const again = (await openBus(url)).queue('q')
    expect((await take(again, 3)).sort()).toEqual(['a', 'b', 'c'])
  })

  test('that holds a store of another version is left as it is', async () => {
    const url = newUrl()
    await (await openBus(url)).close()
    const path = join(directoryOf(url), 'bus.db')
    const database = new DatabaseSync(path)
    database.exec('PRAGMA user_version = 99')
    database.close()
    const before = readFileSync(path)
    await expect(connect(url)).rejects.toMatchObject({
      code: 'ERR_BUS_VERSION',
      message: expect.stringContaining('(version 99, this library reads 2)'),
    })
    expect(readFileSync(path)).toEqual(before)
  })

  test('that holds something else under the name of the store is left as it is', async () => {
    const directory = temporaryDirectory()
    const database = new DatabaseSync(join(directory, 'bus.db'))
    database.exec('CREATE TABLE mine (x)')
    database.close()
    const before = readFileSync(join(directory, 'bus.db'))
    await expect(connect(`local:${directory}`)).rejects.toMatchObject({ code: 'ERR_BUS_NOT_A_BUS' })
    expect(readFileSync(join(directory, 'bus.db'))).toEqual(before)
    const text = 'no database at all, but longer than the header of one'.repeat(20)
    writeFileSync(join(directory, 'bus.db'), text)
    await expect(connect(`local:${directory}`)).rejects.toMatchObject({ code: 'ERR_BUS_NOT_A_BUS' })
    expect(readFileSync(join(directory, 'bus.db'), 'utf8')).toBe(text)
  })

  test('whose store is damaged says so when it is opened, or what is damaged is used', async () => {
    const url = newUrl()
    const bus = await connect(url)
    for (let i = 0; i < 20; i++) {
      await bus.queue('q').sendMany(Array.from({ length: 100 }, () => ({ body: 'x'.repeat(500) })))
    }
    await bus.close()
    const path = join(directoryOf(url), 'bus.db')
    const bytes = readFileSync(path)
    for (let page = 8; page * 4096 < bytes.length; page++) bytes.fill(255, page * 4096, page * 4096 + 200)
    writeFileSync(path, bytes)
    const use = async () => {
      const damaged = await openBus(url)
      await damaged.queue('q').stats()
      await take(damaged.queue('q'), 2000)
    }
    const error = { name: 'QueueError', code: 'ERR_BUS_DAMAGED', path, message: expect.stringContaining('malformed') }
    await expect(use()).rejects.toMatchObject(error)
  })

  test('that a user cannot write to is refused to him, and so is one that is not his', async ({ skip }) => {
    skip(!isRoot, 'only root can become another user')
    const url = newUrl()
    await (await openBus(url, { mode: 0o755 })).queue('q').send('mine')
    chmodSync(join(directoryOf(url), '..'), 0o755)
    const child = startBus(url, 'send', [{ body: 'x' }], ['setpriv', `--reuid=${stranger}`, '--clear-groups'])
    expect(await heard(child)).toMatchObject({ code: 'ERR_BUS_DIRECTORY', hint: expect.stringContaining('write') })
    expect(await take((await openBus(url)).queue('q'), 1)).toEqual(['mine'])
  })

  test('is its owner’s alone, unless it is said otherwise', async () => {
    for (const [options, directoryMode, fileMode] of [
      [{}, 0o700, 0o600],
      [{ mode: 0o770 }, 0o770, 0o660],
    ] as const) {
      const url = newUrl()
      await (await openBus(url, options)).queue('q').send('x'.repeat(70_000))
      const modeOf = (name: string) => statSync(join(directoryOf(url), name)).mode & 0o777
      for (const name of ['', 'peers', 'bodies']) expect(modeOf(name), name).toBe(directoryMode)
      const inFolder = (name: string) => `${name}/${readdirSync(join(directoryOf(url), name))[0]}`
      for (const name of ['bus.db', 'bus.db-wal', 'bus.db-shm', inFolder('bodies'), inFolder('peers')]) {
        expect(modeOf(name), name).toBe(fileMode)
      }
    }
  })

  test('on a full disk refuses sends, and what is there is received and acknowledged', async ({ skip }) => {
    skip(!canUnshare, 'needs a mount namespace of its own, which root can make')
    const directory = temporaryDirectory()
    mkdirSync(join(directory, 'disk'))
    const mount = `mount -t tmpfs -o size=32m none ${join(directory, 'disk')} && exec "$@"`
    const child = startBus(`local:${join(directory, 'disk/bus')}`, 'fill', 8000, [
      'unshare',
      '--mount',
      'sh',
      '-c',
      mount,
      'sh',
    ])
    const { stdout } = await child.outcome
    const [refused, received, again] = stdout
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line))
    expect(refused).toMatchObject({ code: 'ERR_BUS_DISK_FULL', hint: expect.stringContaining('can be received') })
    expect(refused.sent).toBeGreaterThan(100)
    expect(received).toEqual({ received: refused.sent })
    expect(again).toMatchObject({ duplicate: false })
  })
})

describe('a send with durability "disk"', () => {
  const calls = 'trace=write,pwrite64,openat,rename,fsync,fdatasync'

  /** What a process that sends asks of the kernel, from when it says that it sends until it says that it has. */
  const trace = async (argument: object) => {
    const path = join(temporaryDirectory(), 'trace')
    const { code, stderr } = await startBus(newUrl(), 'confirm', argument, [
      'strace',
      '-f',
      '-y',
      '-o',
      path,
      '-e',
      calls,
    ]).outcome
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    const lines = readFileSync(path, 'latin1').split('\n')
    const at = (text: string) => lines.findIndex((line) => line.includes(`"\\"${text}\\"`))
    const each = [0, 1, 2].map((i) => lines.slice(at(`sends ${i}`), at(`sent ${i}`)))
    return { each, rest: lines.slice(at('sent 2')) }
  }
  /** It has ended. */
  const isSync = (line: string) => /\bfdatasync(\(\d+<[^>]*bus\.db-wal>| resumed>)\) += 0/.test(line)
  const isWrite = (line: string) => /\bpwrite64\(\d+<[^>]*bus\.db-wal>/.test(line)
  const skipUnlessTraced = (skip: (when: boolean, why: string) => void) => {
    skip(spawnSync('strace', ['-V']).error !== undefined, 'needs strace')
    skip(overhead > 1, 'a sanitizer cannot look for leaks in a process that is traced')
  }

  test('resolves after the log was synced that has it, many at once after few syncs', async ({ skip }) => {
    skipUnlessTraced(skip)
    const { each, rest } = await trace({ body: 'x', many: 50, durability: 'disk' })
    for (const lines of each)
      expect(lines.findLastIndex(isSync), lines.join('\n')).toBeGreaterThan(lines.findLastIndex(isWrite))
    const syncs = rest.filter(isSync)
    expect(syncs.length).toBeGreaterThan(0)
    expect(syncs.length).toBeLessThan(50)
  })

  test('resolves after its large body was synced, and the directory that names it', async ({ skip }) => {
    skipUnlessTraced(skip)
    const { each } = await trace({ body: 'x'.repeat(70_000), many: 0, durability: 'disk' })
    for (const lines of each) {
      const order = [
        /\bfsync\(\d+<.*\.part>/,
        /\brename\(.*\.part"/,
        /\bfsync\(\d+<.*\/bodies>/,
        /\bfdatasync\(.*bus\.db-wal>/,
      ]
      const places = order.map((call) => lines.findLastIndex((line) => call.test(line)))
      expect(places, lines.join('\n')).toEqual(places.filter((place) => place >= 0).sort((a, b) => a - b))
      expect(places).toHaveLength(order.length)
    }
  })

  test('of "process" none is synced', async ({ skip }) => {
    skipUnlessTraced(skip)
    const { each } = await trace({ body: 'x', many: 0, durability: 'process' })
    expect(each.flat().filter(isWrite).length).toBeGreaterThan(2)
    expect(each.flat().filter(isSync)).toEqual([])
  })
})

test('an idle consumer takes no time of the processor', async () => {
  const url = newUrl()
  const child = startBus(url, 'consume', {})
  await heard(child)
  const ticks = () => {
    const [user, system] = readFileSync(`/proc/${child.pid}/stat`, 'latin1').split(' ').slice(13, 15)
    return Number(user) + Number(system)
  }
  // Something of its start may be left to do.
  const inASecond = async () => {
    const before = ticks()
    await sleep(1000)
    return ticks() - before
  }
  await expect.poll(inASecond).toBeLessThanOrEqual(1)
})

test.each(['local:relative', 'local://host/x', 'http://x', 'nonsense', ''])('the URL %j is refused', async (url) => {
  await expect(connect(url)).rejects.toThrow(/URL must be/)
})

describe('the ledger of npm run chaos:bus', () => {
  test('tells of what is lost, torn, out of order or doubled, and allows what comes again', () => {
    const lines = ['sent f-1-0', 'sent k-1-1', 'got f-1-0 1', 'got k-1-1 2', 'got f-1-0 3', 'got t-1-2 4', 'on t-1-2 a']
    expect(judge(lines)).toMatchObject({ wrong: [], sent: 2, got: 3, again: 1 })
    expect(judge([...lines, 'sent f-1-3', 'torn f-1-4 5', 'got k-1-0 6', 'on t-1-2 b']).wrong).toEqual([
      'torn f-1-4 5',
      't-1-2 was sent on 2 times',
      'k-1-0 came after 1',
      'f-1-3 is lost',
    ])
  })

  test('tells of a time of a schedule that came twice, out of step, or made none or two messages', () => {
    expect(judgeTicks([1000, 1020, 1080], 3, 1)).toEqual([])
    expect(judgeTicks([1000, 1020, 1020], 3, 1)).toEqual(['the time 1020 came 0 ms after the one before'])
    expect(judgeTicks([1000, 1021], 3, 0)).toEqual([
      'the time 1021 came 21 ms after the one before',
      '2 times made 3 messages',
      '0 times are to come, instead of one',
    ])
  })

  test('nothing is lost by kills, briefly', async () => {
    const program = fileURLToPath(new URL('../reliability/chaos-bus.mjs', import.meta.url))
    const { code, stdout, stderr } = await start(process.execPath, [program, '--kills', '20']).outcome
    expect({ code, stderr }, stdout).toEqual({ code: 0, stderr: '' })
    expect(stdout).toMatch(/20 kills, .* 0 wrong\n$/)
  })
})
