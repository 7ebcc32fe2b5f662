import { execFileSync } from 'node:child_process'
import { getEventListeners } from 'node:events'
import { readdirSync, readFileSync } from 'node:fs'
import { constants } from 'node:os'
import { AbortError, PosixQueue, type PosixQueueInfo, type QueueEvent } from 'kernelmq'
import { mqNotify, SIGEV_NONE, SIGEV_SIGNAL } from 'kernelmq/syscalls'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import {
  attempt,
  canUnshare,
  failureOf,
  inNamespace,
  isMounted,
  isPending,
  isRoot,
  openQueue,
  stranger,
  turns,
  uniqueName,
} from './support.ts'

const notMounted = 'the mqueue file system is not mounted, which root can do'
const small = { create: true, maxMessages: 2, messageSize: 16 }

async function rowOf(name: string | undefined): Promise<PosixQueueInfo | undefined> {
  return (await PosixQueue.list()).find((row) => row.name === name)
}

/** The next event of this queue: others come and go meanwhile. */
async function nextOf(events: AsyncIterator<QueueEvent, undefined>, name: string): Promise<QueueEvent | undefined> {
  for (;;) {
    const { value } = await events.next()
    if (value === undefined || value.name === name) return value
  }
}

describe('list', () => {
  test('tells name, owner, mode, size and what is in a queue', async ({ skip }) => {
    skip(!isMounted, notMounted)
    const umask = process.umask(0)
    onTestFinished(() => void process.umask(umask))
    const queue = openQueue({ maxMessages: 3, messageSize: 32, mode: 0o640 })
    queue.trySendMany(['four', '', 'sixsix'])
    expect(await rowOf(queue.path)).toEqual({
      name: queue.path,
      uid: process.getuid?.(),
      gid: process.getgid?.(),
      mode: 0o640,
      bytes: 10,
      messages: 3,
      maxMessages: 3,
      messageSize: 32,
      usedAt: expect.any(Date),
      notify: undefined,
    })
    queue.tryReceive()
    expect(await rowOf(queue.path)).toMatchObject({ bytes: 6, messages: 2 })
  })

  test('tells when a message was last sent or received; that it was listed does not count', async ({ skip }) => {
    skip(!isMounted, notMounted)
    const queue = openQueue()
    const usedAt = async () => (await rowOf(queue.path))?.usedAt.getTime() ?? 0
    const created = await usedAt()
    // Until a second is over.
    while ((await usedAt()) === created) {
      queue.trySend('one')
      queue.tryReceive()
    }
    const used = await usedAt()
    expect(used).toBeGreaterThan(created)
    expect(await usedAt()).toBe(used)
  })

  test('tells of queues from when they are created until they are unlinked', async ({ skip }) => {
    skip(!isMounted, notMounted)
    const name = uniqueName()
    expect(await rowOf(name)).toBeUndefined()
    const queue = PosixQueue.open(name, small)
    queue.close()
    expect(await rowOf(name)).toMatchObject({ name, messages: 0, bytes: 0 })
    PosixQueue.unlink(name)
    expect(await rowOf(name)).toBeUndefined()
  })

  test('is sorted by name', async ({ skip }) => {
    skip(!isMounted, notMounted)
    const names = [uniqueName(), uniqueName(), uniqueName()].map((name, index) => `${name}-${'cab'[index]}`)
    for (const name of names) {
      PosixQueue.open(name, small).close()
      onTestFinished(() => PosixQueue.unlink(name))
    }
    const listed = (await PosixQueue.list()).map((row) => row.name)
    expect(listed).toEqual([...listed].sort())
    expect(listed).toEqual(expect.arrayContaining(names))
  })

  test('takes no message and sends none', async ({ skip }) => {
    skip(!isMounted, notMounted)
    const queue = openQueue()
    queue.trySend('kept', { priority: 4 })
    await PosixQueue.list()
    await PosixQueue.list()
    expect(queue.tryReceiveMany().map((message) => [message.text(), message.priority])).toEqual([['kept', 4]])
  })

  test.for<['signal' | 'none', number, number]>([
    ['signal', SIGEV_SIGNAL, constants.signals.SIGUSR2],
    ['none', SIGEV_NONE, 0],
  ])('tells who is registered for notification by %s', async ([method, notify, signo], { skip }) => {
    skip(!isMounted, notMounted)
    const queue = openQueue()
    expect(mqNotify(queue.fd, { notify, signo })).toBe(0)
    expect((await rowOf(queue.path))?.notify).toEqual({ pid: process.pid, method, signal: signo })
    mqNotify(queue.fd)
    expect((await rowOf(queue.path))?.notify).toBeUndefined()
  })

  test('tells who iterates over notifications, and disturbs nobody', async ({ skip }) => {
    skip(!isMounted, notMounted)
    const queue = openQueue()
    const notifications = queue.notifications()
    const next = notifications.next()
    for (let round = 0; round < 3; round++) {
      expect((await rowOf(queue.path))?.notify).toMatchObject({ pid: process.pid, method: 'thread' })
      expect(await isPending(next)).toBe(true)
    }
    queue.trySend('x')
    expect(await next).toEqual({ value: true, done: false })
    await notifications.return?.()
    expect((await rowOf(queue.path))?.notify).toBeUndefined()
  })

  test('leaves out what this process may not read', async ({ skip }) => {
    skip(!isMounted, notMounted)
    skip(!isRoot, 'only root can become another user')
    const queue = openQueue({ mode: 0o600 })
    queue.trySend('secret')
    const [result] = await attempt([['list']], { uid: stranger })
    const rows: PosixQueueInfo[] = result?.value
    const row = rows.find(({ name }) => name === queue.path)
    expect(row).toEqual({ name: queue.path, uid: 0, gid: 0, mode: 0o600, usedAt: expect.any(String) })
  })

  test('takes few descriptors, however many queues there are', async ({ skip }) => {
    skip(!isMounted, notMounted)
    const names = Array.from({ length: 60 }, uniqueName)
    for (const name of names) {
      PosixQueue.open(name, { create: true, maxMessages: 1, messageSize: 1 }).close()
      onTestFinished(() => PosixQueue.unlink(name))
    }
    const [result] = await attempt([['list']], { through: ['prlimit', '--nofile=64:64'] })
    const all: PosixQueueInfo[] = result?.value
    const rows = all.filter(({ name }) => names.includes(name))
    expect(rows.map(({ messages }) => messages)).toEqual(names.map(() => 0))
  })

  test('loses its way neither to queues that go nor to queues that come', async ({ skip }) => {
    skip(!isMounted, notMounted)
    const queue = openQueue()
    const name = uniqueName()
    for (let round = 0; round < 30; round++) {
      const rows = PosixQueue.list()
      PosixQueue.open(name, small).close()
      PosixQueue.unlink(name)
      expect((await rows).map((row) => row.name)).toContain(queue.path)
    }
  })
})

describe('watch', () => {
  test('tells what is created and removed, from when it is called', async ({ skip }) => {
    skip(!isMounted, notMounted)
    const before = openQueue()
    const events = PosixQueue.watch()
    const name = uniqueName()
    PosixQueue.open(name, small).close()
    expect(await nextOf(events, name)).toEqual({ type: 'created', name })
    PosixQueue.unlink(name)
    expect(await nextOf(events, name)).toEqual({ type: 'removed', name })
    const next = nextOf(events, before.path ?? '')
    expect(await isPending(next)).toBe(true)
    PosixQueue.unlink(before.path ?? '')
    expect(await next).toEqual({ type: 'removed', name: before.path })
    await events.return?.()
  })

  test('does not take sending, receiving or opening for news', async ({ skip }) => {
    skip(!isMounted, notMounted)
    const queue = openQueue()
    const name = queue.path ?? ''
    const events = PosixQueue.watch()
    queue.trySend('x')
    queue.tryReceive()
    PosixQueue.open(name).close()
    await PosixQueue.list()
    PosixQueue.unlink(name)
    expect(await nextOf(events, name)).toEqual({ type: 'removed', name })
    await events.return?.()
  })

  test('tells of a queue that took the place of another', async ({ skip }) => {
    skip(!isMounted, notMounted)
    const queue = openQueue()
    const name = queue.path ?? ''
    const events = PosixQueue.watch()
    PosixQueue.unlink(name)
    PosixQueue.open(name, small).close()
    await turns()
    PosixQueue.unlink(name)
    await turns()
    PosixQueue.open(name, { ...small, mode: 0o644 }).close()
    const types = ['removed', 'created', 'removed', 'created']
    for (const type of types) expect(await nextOf(events, name)).toEqual({ type, name })
    const next = nextOf(events, name)
    expect(await isPending(next)).toBe(true)
    await events.return?.()
    expect(await next).toBeUndefined()
  })

  test('is given up by its signal', async ({ skip }) => {
    skip(!isMounted, notMounted)
    const controller = new AbortController()
    const events = PosixQueue.watch({ signal: controller.signal })
    const next = failureOf(() => nextOf(events, '/never'))
    controller.abort('enough')
    expect(await next).toMatchObject({ name: 'AbortError', code: 'ABORT_ERR', cause: 'enough' })
    expect(() => PosixQueue.watch({ signal: controller.signal })).toThrow(AbortError)
  })

  test('returned, ends also what waits', async ({ skip }) => {
    skip(!isMounted, notMounted)
    const events = PosixQueue.watch()
    const next = nextOf(events, '/never')
    // At once: not with the next event, which may never come.
    expect(await isPending(Promise.resolve(events.return?.()))).toBe(false)
    expect(await next).toBeUndefined()
  })

  test('leaves nothing on its signal when it ends', async ({ skip }) => {
    skip(!isMounted, notMounted)
    const { signal } = new AbortController()
    const events = PosixQueue.watch({ signal })
    const name = uniqueName()
    PosixQueue.open(name, small).close()
    await nextOf(events, name)
    await events.return?.()
    await PosixQueue.watch({ signal }).return?.()
    expect(getEventListeners(signal, 'abort')).toHaveLength(0)
  })

  test('ends with nothing left watched', async ({ skip }) => {
    skip(!isMounted, notMounted)
    const isWatching = () =>
      readdirSync('/proc/self/fdinfo').some((fd) => {
        try {
          return readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8').includes('inotify wd:')
        } catch {
          return false // the descriptor that read the directory
        }
      })
    const events = PosixQueue.watch()
    expect(isWatching()).toBe(true)
    await events.return?.()
    // What an event ends is let go of when the event is over.
    await turns()
    expect(isWatching()).toBe(false)
  })
})

describe('waitFor', () => {
  test('resolves at once when there is such a queue', async ({ skip }) => {
    skip(!isMounted, notMounted)
    const queue = openQueue()
    expect(await PosixQueue.waitFor(queue.path ?? '')).toBeUndefined()
    expect(await PosixQueue.waitFor(queue.path ?? '', { timeout: 0 })).toBeUndefined()
  })

  test('resolves though the kernel had no room for the event that tells of it', async ({ skip }) => {
    skip(!isMounted, notMounted)
    const name = uniqueName()
    const waiting = PosixQueue.waitFor(name, { timeout: 30_000 })
    expect(await isPending(waiting)).toBe(true)
    // Two events at least for each, and all in one turn.
    const most = Number(readFileSync('/proc/sys/fs/inotify/max_queued_events', 'utf8'))
    for (let count = 0; count < most / 2 + 1; count++) {
      PosixQueue.open(`${name}-other`, small).close()
      PosixQueue.unlink(`${name}-other`)
    }
    const queue = PosixQueue.open(name, small)
    onTestFinished(() => {
      queue.close()
      PosixQueue.unlink(name)
    })
    await waiting
  })

  test('resolves when it is created, by another process too', async ({ skip }) => {
    skip(!isMounted, notMounted)
    const name = uniqueName()
    const waiting = PosixQueue.waitFor(name, { timeout: 30_000 })
    expect(await isPending(waiting)).toBe(true)
    PosixQueue.open(`${name}-other`, small).close()
    PosixQueue.unlink(`${name}-other`)
    expect(await isPending(waiting)).toBe(true)
    // Without create: what it creates outlives it.
    await attempt([['open', name, { ...small, create: false, exclusive: true }]])
    expect(await waiting).toBeUndefined()
  })

  test('gives up at its timeout', async ({ skip }) => {
    skip(!isMounted, notMounted)
    const name = uniqueName()
    for (const timeout of [0, 0.5, 20]) {
      const start = performance.now()
      await expect(PosixQueue.waitFor(name, { timeout })).rejects.toMatchObject({
        name: 'QueueError',
        code: 'ETIMEDOUT',
        errno: -constants.errno.ETIMEDOUT,
        path: name,
      })
      expect(performance.now() - start).toBeGreaterThanOrEqual(timeout)
    }
  })

  test('waits as long as setTimeout cannot', async ({ skip }) => {
    skip(!isMounted, notMounted)
    const name = uniqueName()
    const controller = new AbortController()
    const { signal } = controller
    const settled: number[] = []
    const timeouts = [2 ** 31 - 1, 2 ** 31 - 0.001, 2 ** 31, 2 ** 40, Number.POSITIVE_INFINITY]
    const waiting = timeouts.map((timeout) =>
      failureOf(() => PosixQueue.waitFor(name, { timeout, signal })).then(() => settled.push(timeout)),
    )
    // Longer than a timer that was cut to 1 ms.
    await failureOf(() => PosixQueue.waitFor(name, { timeout: 20 }))
    expect(settled).toEqual([])
    controller.abort()
    await Promise.all(waiting)
  })

  test('gives up after a time that setTimeout cannot take', async ({ skip }) => {
    skip(!isMounted, notMounted)
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] })
    onTestFinished(() => void vi.useRealTimers())
    const controller = new AbortController()
    const timeout = 2 ** 32
    let outcome: unknown
    const waiting = PosixQueue.waitFor(uniqueName(), { timeout, signal: controller.signal }).catch((error) => {
      outcome = error
    })
    await vi.advanceTimersByTimeAsync(timeout - 1)
    expect(outcome).toBeUndefined()
    await vi.advanceTimersByTimeAsync(2)
    await turns()
    controller.abort()
    await waiting
    expect(outcome).toMatchObject({ code: 'ETIMEDOUT' })
  })

  test('is given up by its signal, and leaves nothing on it', async ({ skip }) => {
    skip(!isMounted, notMounted)
    const controller = new AbortController()
    const { signal } = controller
    await expect(PosixQueue.waitFor(uniqueName(), { signal, timeout: 1 })).rejects.toMatchObject({ code: 'ETIMEDOUT' })
    expect(getEventListeners(signal, 'abort')).toHaveLength(0)
    const failure = failureOf(() => PosixQueue.waitFor(uniqueName(), { signal }))
    controller.abort('enough')
    expect(await failure).toMatchObject({ name: 'AbortError', code: 'ABORT_ERR', cause: 'enough' })
    await expect(PosixQueue.waitFor(openQueue().path ?? '', { signal })).rejects.toBeInstanceOf(AbortError)
  })

  test.for<[string, string, string]>([
    ['a slash alone', '/', 'ENOENT'],
    ['a dot', '/.', 'EACCES'],
    ['two dots', '/..', 'EACCES'],
    ['a way out', '/../..', 'EACCES'],
    ['a second slash', '/a/b', 'EACCES'],
    ['256 bytes', `/${'x'.repeat(256)}`, 'ENAMETOOLONG'],
  ])('refuses a name of %s, as open() does', async ([_, name, code], { skip }) => {
    skip(!isMounted, notMounted)
    const opened = await failureOf(() => PosixQueue.open(name, small))
    expect(opened).toMatchObject({ name: 'QueueError', code })
    expect(await failureOf(() => PosixQueue.waitFor(name, { timeout: 10 }))).toMatchObject({ name: 'QueueError', code })
  })

  test('refuses bad arguments', async ({ skip }) => {
    skip(!isMounted, notMounted)
    for (const timeout of [-1, Number.NaN]) {
      await expect(PosixQueue.waitFor('/x', { timeout })).rejects.toBeInstanceOf(RangeError)
    }
    await expect(PosixQueue.waitFor('/x', { timeout: '5' as never })).rejects.toBeInstanceOf(TypeError)
    await expect(PosixQueue.waitFor(7 as never)).rejects.toBeInstanceOf(TypeError)
  })
})

describe('limits', () => {
  const sysctl = (name: string) => Number(readFileSync(`/proc/sys/fs/mqueue/${name}`, 'utf8'))

  test('are those of /proc', () => {
    expect(PosixQueue.limits()).toMatchObject({
      queues: sysctl('queues_max'),
      maxMessages: sysctl('msg_max'),
      messageSize: sysctl('msgsize_max'),
      maxPriority: 32767,
    })
  })

  test('tell RLIMIT_MSGQUEUE in bytes', async () => {
    const output = execFileSync('sh', ['-c', 'grep "^Max msgqueue" /proc/self/limits'], { encoding: 'utf8' })
    const soft = output.split(/\s{2,}/)[1]
    const expected = soft === 'unlimited' ? Number.POSITIVE_INFINITY : Number(soft)
    expect(PosixQueue.limits().bytes).toBe(expected)
    const [lowered] = await attempt([['limits']], { through: ['prlimit', '--msgqueue=5000:6000'] })
    expect(lowered?.value.bytes).toBe(5000)
  })

  test('tell the size that a queue gets without one', () => {
    const { defaultMaxMessages, defaultMessageSize } = PosixQueue.limits()
    const queue = PosixQueue.open(uniqueName(), { create: true })
    onTestFinished(() => queue.close())
    expect(queue.attributes).toMatchObject({ maxMessages: defaultMaxMessages, messageSize: defaultMessageSize })
  })

  test.for<[string, string[], [number, number]]>([
    ['below the limits', ['msg_default=3', 'msgsize_default=1000'], [3, 1000]],
    ['cut by the limits', ['msg_max=2', 'msgsize_max=500'], [2, 500]],
  ])('tell that size also where the defaults are %s', async ([_, sysctls, [maxMessages, messageSize]], { skip }) => {
    skip(!canUnshare, 'needs an IPC namespace of its own, which root can make')
    const name = uniqueName()
    const [limits, both, one, other] = await attempt(
      [
        ['limits'],
        ['open', name, { create: true }],
        ['open', `${name}-1`, { create: true, maxMessages: 1 }],
        ['open', `${name}-2`, { create: true, messageSize: 8 }],
      ],
      { through: inNamespace(...sysctls), uid: stranger },
    )
    expect(limits?.value).toMatchObject({ defaultMaxMessages: maxMessages, defaultMessageSize: messageSize })
    expect(both?.value).toMatchObject({ maxMessages, messageSize })
    expect(one?.value).toMatchObject({ maxMessages: 1, messageSize })
    expect(other?.value).toMatchObject({ maxMessages, messageSize: 8 })
  })
})

describe('cost', () => {
  test.for<[number, number]>([
    [1, 1],
    [1, 100],
    [4, 64],
    [7, 333],
    [10, 8192],
  ])(
    'of %d messages of %d bytes is what the kernel counts, to the byte',
    async ([maxMessages, messageSize], { skip }) => {
      skip(!isRoot, 'needs a user without other queues, which only root can become')
      const size = { maxMessages, messageSize }
      const cost = PosixQueue.cost(size)
      const create = (limit: number) =>
        attempt([['open', uniqueName(), { create: true, ...size }]], {
          through: ['prlimit', `--msgqueue=${limit}`],
          uid: stranger,
        })
      const [[refused], [taken]] = await Promise.all([create(cost - 1), create(cost)])
      expect(refused?.error).toMatchObject({ code: 'EMFILE' })
      expect(taken?.value).toEqual({ ...size, messages: 0 })
    },
  )

  test('adds up over the queues of a user', async ({ skip }) => {
    skip(!isRoot, 'needs a user without other queues, which only root can become')
    const size = { maxMessages: 2, messageSize: 50 }
    const results = await attempt(
      Array.from({ length: 4 }, () => ['open', uniqueName(), { create: true, ...size }]),
      { through: ['prlimit', `--msgqueue=${3 * PosixQueue.cost(size)}`], uid: stranger },
    )
    expect(results.map(({ error }) => error?.code)).toEqual([undefined, undefined, undefined, 'EMFILE'])
  })

  test('refuses sizes that are none', () => {
    for (const size of [
      { maxMessages: 0, messageSize: 1 },
      { maxMessages: 1, messageSize: 1.5 },
    ]) {
      expect(() => PosixQueue.cost(size)).toThrow(RangeError)
    }
    for (const size of [{}, { maxMessages: 1 }, { maxMessages: '1', messageSize: 1 }]) {
      expect(() => PosixQueue.cost(size as never)).toThrow(TypeError)
    }
  })
})

describe('where the mqueue file system is not mounted', () => {
  test('discovery alone fails, and says how to mount it', async ({ skip }) => {
    skip(!canUnshare, 'needs a mount namespace of its own, which root can make')
    const queue = openQueue()
    const [list, watch, waitFor, limits, exchange] = await attempt(
      [['list'], ['watch'], ['waitFor', queue.path], ['limits'], ['exchange', queue.path]],
      { through: ['unshare', '--mount', 'sh', '-c', 'umount --all --types mqueue; exec "$@"', 'sh'] },
    )
    for (const result of [list, watch, waitFor]) {
      expect(result?.error).toMatchObject({
        name: 'QueueError',
        code: 'ERR_MQ_NOT_MOUNTED',
        hint: expect.stringContaining('mount -t mqueue none /dev/mqueue'),
      })
    }
    expect(limits?.value).toMatchObject({ maxPriority: 32767 })
    expect(exchange?.value).toBe('hello')
  })
})
