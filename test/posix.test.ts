import { execFileSync } from 'node:child_process'
import { closeSync, fstatSync, openSync, readFileSync } from 'node:fs'
import { constants } from 'node:os'
import { inspect } from 'node:util'
import { runInNewContext } from 'node:vm'
import { AbortError, type PosixMessage, PosixQueue, QueueError } from 'kernelmq'
import { mqClose, mqGetattr, mqOpen, O_NONBLOCK, O_RDONLY, O_RDWR } from 'kernelmq/syscalls'
import { describe, expect, onTestFinished, test } from 'vitest'
import {
  canUnshare,
  failureOf,
  fixture,
  inNamespace,
  isPending,
  isRoot,
  openQueue,
  overhead,
  start,
  startFixture,
  stranger,
  turns,
  uniqueName,
} from './support.ts'

const sysctl = (name: string) => Number(readFileSync(`/proc/sys/fs/mqueue/${name}`, 'utf8'))

const permissions = (queue: PosixQueue) => fstatSync(queue.fd).mode & 0o7777

/** Another handle of the same queue. */
function reopen(queue: PosixQueue, options: Parameters<typeof PosixQueue.open>[1] = {}): PosixQueue {
  const other = PosixQueue.open(queue.path ?? '', options)
  onTestFinished(() => other.close())
  return other
}

/** Fills a queue of four with messages "1" to "4". */
function fill(queue: PosixQueue): void {
  expect(queue.trySendMany(['1', '2', '3', '4'])).toBe(4)
}

/** Everything that is in the queue, as text. */
const drain = (queue: PosixQueue) => queue.tryReceiveMany().map((message) => message.text())

describe('open', () => {
  test('creates a queue of the size that is asked for', () => {
    const queue = openQueue({ maxMessages: 3, messageSize: 77 })
    expect(queue.attributes).toEqual({ maxMessages: 3, messageSize: 77, messages: 0 })
    expect(mqGetattr(queue.fd)).toMatchObject({ maxmsg: 3, msgsize: 77, curmsgs: 0 })
  })

  test('creates nothing unless it is told to', () => {
    const name = uniqueName()
    expect(() => PosixQueue.open(name)).toThrow(expect.objectContaining({ code: 'ENOENT' }))
    expect(() => PosixQueue.open(name, { maxMessages: 2 })).toThrow(expect.objectContaining({ code: 'ENOENT' }))
  })

  test('with create, opens the queue that is there as it is', () => {
    const queue = openQueue({ maxMessages: 3, messageSize: 32 })
    queue.trySend('kept')
    const again = reopen(queue, { create: true, maxMessages: 2, messageSize: 16, mode: 0o666 })
    expect(again.attributes).toEqual({ maxMessages: 3, messageSize: 32, messages: 1 })
    expect(permissions(again)).toBe(0o600)
  })

  test('with exclusive, creates a queue and refuses one that is there', () => {
    const name = uniqueName()
    const queue = PosixQueue.open(name, { exclusive: true, maxMessages: 1, messageSize: 1 })
    onTestFinished(() => queue.close())
    expect(() => PosixQueue.open(name, { exclusive: true })).toThrow(expect.objectContaining({ code: 'EEXIST' }))
    expect(() => PosixQueue.open(name, { create: true, exclusive: true })).toThrow(
      expect.objectContaining({ code: 'EEXIST' }),
    )
  })

  test('with access read, receives but does not send', async () => {
    const queue = openQueue()
    queue.trySend('x')
    const reader = reopen(queue, { access: 'read' })
    const bad = expect.objectContaining({ name: 'QueueError', code: 'EBADF', errno: -constants.errno.EBADF })
    expect(() => reader.trySend('y')).toThrow(bad)
    expect(() => reader.sendSync('y')).toThrow(bad)
    expect(() => reader.trySendMany(['y'])).toThrow(bad)
    await expect(reader.send('y')).rejects.toEqual(bad)
    await expect(reader.sendMany(['y'])).rejects.toEqual(bad)
    expect(reader.tryReceive()?.text()).toBe('x')
  })

  test('with access write, sends but does not receive', async () => {
    const queue = openQueue()
    const writer = reopen(queue, { access: 'write' })
    writer.trySend('x')
    const bad = expect.objectContaining({ name: 'QueueError', code: 'EBADF' })
    expect(() => writer.tryReceive()).toThrow(bad)
    expect(() => writer.receiveSync()).toThrow(bad)
    expect(() => writer.tryReceiveMany()).toThrow(bad)
    expect(() => writer.tryReceiveInto(Buffer.alloc(64))).toThrow(bad)
    expect(() => writer.receiveIntoSync(Buffer.alloc(64))).toThrow(bad)
    await expect(writer.receive()).rejects.toEqual(bad)
    await expect(writer.receiveMany()).rejects.toEqual(bad)
    await expect(writer.messages().next()).rejects.toEqual(bad)
    await expect(writer.batches().next()).rejects.toEqual(bad)
    expect(queue.tryReceive()?.text()).toBe('x')
  })

  test('gives the queue its mode, 0o600 by default', () => {
    const umask = process.umask(0)
    onTestFinished(() => void process.umask(umask))
    expect(permissions(openQueue())).toBe(0o600)
    expect(permissions(openQueue({ mode: 0o640 }))).toBe(0o640)
    expect(permissions(openQueue({ mode: 0o777 }))).toBe(0o777)
    expect(permissions(openQueue({ mode: 0 }))).toBe(0)
  })

  test('lets the umask reduce the mode', () => {
    const umask = process.umask(0o027)
    onTestFinished(() => void process.umask(umask))
    expect(permissions(openQueue({ mode: 0o666 }))).toBe(0o640)
  })

  test('leaves what is absent to the kernel', () => {
    const maxMessages = Math.min(sysctl('msg_default'), sysctl('msg_max'))
    const messageSize = Math.min(sysctl('msgsize_default'), sysctl('msgsize_max'))
    const given = (size: { maxMessages?: number; messageSize?: number }) => {
      const queue = PosixQueue.open(uniqueName(), { create: true, ...size })
      const { attributes } = queue
      queue.close()
      return attributes
    }
    expect(given({})).toMatchObject({ maxMessages, messageSize })
    expect(given({ maxMessages: 2 })).toMatchObject({ maxMessages: 2, messageSize })
    expect(given({ messageSize: 16 })).toMatchObject({ maxMessages, messageSize: 16 })
  })

  test('takes any name of up to 255 bytes', () => {
    const name = uniqueName()
    for (const long of [`${name}-${'x'.repeat(254 - name.length)}`, `${name}-ü € 😀 \n "' (deleted)`]) {
      const queue = PosixQueue.open(long, { create: true, maxMessages: 1, messageSize: 1 })
      onTestFinished(() => queue.close())
      expect(queue.path).toBe(long)
      expect(() => PosixQueue.open(long, { exclusive: true })).toThrow(expect.objectContaining({ code: 'EEXIST' }))
      PosixQueue.unlink(long)
    }
  })

  test.each<[string, unknown, string]>([
    ['name of another type', [7], 'ERR_INVALID_ARG_TYPE'],
    ['name with a null character', ['/a\0b'], 'ERR_INVALID_ARG_VALUE'],
    ['unknown access', ['/x', { access: 'rw' }], 'ERR_INVALID_ARG_VALUE'],
    ['inherited access', ['/x', { access: 'constructor' }], 'ERR_INVALID_ARG_VALUE'],
    ['mode as text', ['/x', { create: true, mode: '0600' }], 'ERR_INVALID_ARG_TYPE'],
    ['negative mode', ['/x', { create: true, mode: -1 }], 'ERR_OUT_OF_RANGE'],
    ['mode beyond 0o777', ['/x', { create: true, mode: 0o10000 }], 'ERR_OUT_OF_RANGE'],
    ['no messages', ['/x', { create: true, maxMessages: 0 }], 'ERR_OUT_OF_RANGE'],
    ['half a message', ['/x', { create: true, maxMessages: 1.5 }], 'ERR_OUT_OF_RANGE'],
    ['maxMessages as text', ['/x', { create: true, maxMessages: '4' }], 'ERR_INVALID_ARG_TYPE'],
    ['negative messageSize', ['/x', { create: true, messageSize: -1 }], 'ERR_OUT_OF_RANGE'],
    ['messageSize that is not a number', ['/x', { create: true, messageSize: Number.NaN }], 'ERR_OUT_OF_RANGE'],
  ])('refuses %s', (_, args, code) => {
    expect(() => PosixQueue.open(...(args as [string]))).toThrow(expect.objectContaining({ code }))
  })
})

describe('unlink', () => {
  test('removes the name at once, and the queue when it is closed', () => {
    const queue = openQueue()
    const name = queue.path ?? ''
    PosixQueue.unlink(name)
    expect(() => PosixQueue.open(name)).toThrow(expect.objectContaining({ code: 'ENOENT' }))
    expect(queue.trySend('still here')).toBe(true)
    expect(drain(queue)).toEqual(['still here'])
    const fresh = PosixQueue.open(name, { exclusive: true, maxMessages: 1, messageSize: 1 })
    expect(fresh.attributes.messages).toBe(0)
    fresh.close()
  })

  test('fails when there is no such queue', () => {
    expect(() => PosixQueue.unlink(uniqueName())).toThrow(
      expect.objectContaining({ code: 'ENOENT', syscall: 'mq_unlink' }),
    )
    expect(() => PosixQueue.unlink(7 as never)).toThrow(TypeError)
  })
})

describe('a handle', () => {
  test('tells name, descriptor and attributes', () => {
    const queue = openQueue({ maxMessages: 4, messageSize: 64 })
    expect(queue.path).toMatch(/^\/kmq-test-/)
    expect(Number.isInteger(queue.fd)).toBe(true)
    fill(queue)
    expect(queue.attributes).toEqual({ maxMessages: 4, messageSize: 64, messages: 4 })
    queue.tryReceive()
    expect(queue.attributes.messages).toBe(3)
  })

  test('of a closed queue still tells its name, and nothing else', () => {
    const queue = openQueue()
    const { path, fd } = queue
    queue.close()
    expect(queue.path).toBe(path)
    expect(queue.fd).toBe(-1)
    expect(mqGetattr(fd)).toBe(-constants.errno.EBADF)
    expect(() => queue.attributes).toThrow(expect.objectContaining({ code: 'ERR_MQ_CLOSED' }))
  })

  test('is closed by exec, however it was opened', () => {
    const queue = openQueue()
    const adopted = PosixQueue.fromFd(queue.fd)
    onTestFinished(() => adopted.close())
    const inChild = execFileSync('sh', ['-c', 'readlink /proc/$$/fd/*; true'], { encoding: 'utf8' })
    expect(inChild.split('\n').length).toBeGreaterThan(3)
    expect(inChild).not.toContain(queue.path)
  })
})

describe('fromFd', () => {
  test('makes a queue of its own, that knows its name', () => {
    const queue = openQueue()
    queue.trySend('x')
    const adopted = PosixQueue.fromFd(queue.fd)
    expect(adopted.path).toBe(queue.path)
    expect(adopted.fd).not.toBe(queue.fd)
    expect(adopted.attributes).toEqual(queue.attributes)
    expect(adopted.tryReceive()?.text()).toBe('x')
    adopted.close()
    expect(queue.trySend('the first is open still')).toBe(true)
  })

  test('adopts a queue that has no name any more', () => {
    const queue = openQueue()
    PosixQueue.unlink(queue.path ?? '')
    const adopted = PosixQueue.fromFd(queue.fd)
    onTestFinished(() => adopted.close())
    queue.trySend('x')
    expect(adopted.tryReceive()?.text()).toBe('x')
  })

  test('keeps the access mode', () => {
    const queue = openQueue()
    const reader = PosixQueue.fromFd(reopen(queue, { access: 'read' }).fd)
    const writer = PosixQueue.fromFd(reopen(queue, { access: 'write' }).fd)
    onTestFinished(() => reader.close())
    onTestFinished(() => writer.close())
    expect(() => reader.trySend('x')).toThrow(expect.objectContaining({ code: 'EBADF' }))
    expect(() => writer.tryReceive()).toThrow(expect.objectContaining({ code: 'EBADF' }))
    writer.trySend('x')
    expect(reader.tryReceive()?.text()).toBe('x')
  })

  test('never blocks, and leaves the flags of the descriptor as they are', () => {
    const queue = openQueue()
    const blocking = mqOpen(queue.path ?? '', O_RDWR)
    onTestFinished(() => void mqClose(blocking))
    const adopted = PosixQueue.fromFd(blocking)
    onTestFinished(() => adopted.close())
    expect(adopted.tryReceive()).toBeUndefined()
    expect(mqGetattr(blocking)).toMatchObject({ flags: 0 })
    expect(mqGetattr(adopted.fd)).toMatchObject({ flags: O_NONBLOCK })
  })

  test('refuses what is not a queue', () => {
    const file = openSync('/dev/null', 'r')
    onTestFinished(() => closeSync(file))
    for (const fd of [file, 2 ** 31 - 1]) {
      expect(() => PosixQueue.fromFd(fd)).toThrow(
        expect.objectContaining({ name: 'QueueError', code: 'EBADF', hint: expect.stringContaining(String(fd)) }),
      )
    }
    expect(fstatSync(file).isCharacterDevice()).toBe(true)
    for (const fd of [-1, 0.5, Number.NaN]) expect(() => PosixQueue.fromFd(fd)).toThrow(RangeError)
    for (const fd of ['3', undefined, null, 3n]) expect(() => PosixQueue.fromFd(fd as never)).toThrow(TypeError)
  })

  test('takes a descriptor that a parent passed through stdio', async () => {
    const queue = openQueue()
    queue.trySend('ping')
    const { stdout, stderr } = await startFixture('adopt.mjs', [], { descriptors: [queue.fd] }).outcome
    expect(stderr).toBe('')
    expect(JSON.parse(stdout)).toMatchObject({
      path: queue.path,
      text: 'ping',
      warnings: [],
      closedByExec: true,
      attributes: { maxMessages: 4, messageSize: 64, messages: 1 },
      given: { maxmsg: 4 },
    })
    expect(queue.tryReceive()).toMatchObject({ priority: 9, data: Buffer.from('pong') })
  })

  test('where opening anew is refused, shares the descriptor and warns', async ({ skip }) => {
    skip(!isRoot, 'only root can become another user')
    const queue = openQueue({ mode: 0o600 })
    queue.trySend('ping')
    const blocking = mqOpen(queue.path ?? '', O_RDWR)
    onTestFinished(() => void mqClose(blocking))
    const { stdout, code } = await startFixture('adopt.mjs', ['3', '65534'], { descriptors: [blocking] }).outcome
    expect(code).toBe(0)
    expect(JSON.parse(stdout)).toMatchObject({
      path: queue.path,
      text: 'ping',
      warnings: ['KERNELMQ_SHARED_DESCRIPTOR'],
      closedByExec: true,
      given: { flags: O_NONBLOCK },
    })
    expect(queue.tryReceive()?.text()).toBe('pong')
  })

  test('a queue that was a child’s standard input does not block its owner after', async () => {
    const queue = openQueue()
    const child = startFixture('stdin.mjs', [queue.path ?? ''])
    expect(JSON.parse(await child.line())).toEqual({ status: 0, empty: true })
    expect((await child.outcome).code).toBe(0)
  })
})

const senders: [string, (queue: PosixQueue, data: never, priority?: number) => unknown][] = [
  ['send', (queue, data, priority) => queue.send(data, { priority, timeout: 5000 })],
  ['sendSync', (queue, data, priority) => queue.sendSync(data, { priority, timeout: 5000 })],
  ['trySend', (queue, data, priority) => queue.trySend(data, { priority })],
  ['sendMany', (queue, data, priority) => queue.sendMany([{ data, priority }], { timeout: 5000 })],
  ['trySendMany', (queue, data, priority) => queue.trySendMany([{ data, priority }])],
]

describe.each(senders)('%s', (_, send) => {
  const data = (value: unknown) => value as never

  test('sends with every priority from 0 to 32767, the highest first', async () => {
    const queue = openQueue()
    for (const priority of [0, 32767, 1, 32766]) await send(queue, data(`p${priority}`), priority)
    const received = queue.tryReceiveMany().map((message) => [message.text(), message.priority])
    expect(received).toEqual([
      ['p32767', 32767],
      ['p32766', 32766],
      ['p1', 1],
      ['p0', 0],
    ])
  })

  test('sends with priority 0 by default, and in order within a priority', async () => {
    const queue = openQueue()
    for (const text of ['a', 'b', 'c']) await send(queue, data(text))
    const received = queue.tryReceiveMany()
    expect(received.map((message) => message.text())).toEqual(['a', 'b', 'c'])
    expect(received.map((message) => message.priority)).toEqual([0, 0, 0])
  })

  test('sends empty messages, and messages as long as the queue allows', async () => {
    const queue = openQueue({ messageSize: 32 })
    for (const text of ['', '\0'.repeat(32), 'é'.repeat(16)]) await send(queue, data(text), 1)
    expect(drain(queue)).toEqual(['', '\0'.repeat(32), 'é'.repeat(16)])
  })

  test('refuses a message that is too long', async () => {
    const queue = openQueue({ messageSize: 32 })
    for (const long of ['x'.repeat(33), 'é'.repeat(17), Buffer.alloc(5000)]) {
      expect(await failureOf(() => send(queue, data(long)))).toMatchObject({ name: 'QueueError', code: 'EMSGSIZE' })
    }
    expect(queue.attributes.messages).toBe(0)
  })

  test('refuses what is not a priority', async () => {
    const queue = openQueue()
    for (const priority of [-1, 32768, 2 ** 32, 0.5, Number.NaN, Number.POSITIVE_INFINITY]) {
      const error = await failureOf(() => send(queue, data('x'), priority))
      expect(error).toBeInstanceOf(RangeError)
      expect(error).toHaveProperty('code', 'ERR_OUT_OF_RANGE')
    }
    for (const priority of ['1', null, 1n, true]) {
      const error = await failureOf(() => send(queue, data('x'), priority as never))
      expect(error).toBeInstanceOf(TypeError)
      expect(error).toHaveProperty('code', 'ERR_INVALID_ARG_TYPE')
    }
    expect(queue.attributes.messages).toBe(0)
  })

  const bytes = Uint8Array.from({ length: 32 }, (_, index) => 255 - index)
  const shared = new SharedArrayBuffer(32)
  new Uint8Array(shared).set(bytes)

  test.each<[string, unknown, Uint8Array]>([
    ['a string', 'žluťoučký 🐎', Buffer.from('žluťoučký 🐎')],
    ['a Buffer', Buffer.from(bytes), bytes],
    ['a slice of a Buffer', Buffer.from(bytes).subarray(3, 9), bytes.subarray(3, 9)],
    ['a Uint8Array', bytes, bytes],
    ['a part of a Uint8Array', bytes.subarray(5, 7), bytes.subarray(5, 7)],
    ['an empty Uint8Array', new Uint8Array(0), new Uint8Array(0)],
    ['a Uint8ClampedArray', new Uint8ClampedArray(bytes.buffer, 2, 8), bytes.subarray(2, 10)],
    ['an Int16Array', new Int16Array(bytes.buffer, 2, 3), bytes.subarray(2, 8)],
    ['a Float64Array', new Float64Array(bytes.buffer, 8), bytes.subarray(8)],
    ['a BigUint64Array', new BigUint64Array(bytes.buffer, 16, 1), bytes.subarray(16, 24)],
    ['a DataView', new DataView(bytes.buffer, 1, 4), bytes.subarray(1, 5)],
    ['an ArrayBuffer', bytes.buffer, bytes],
    ['an empty ArrayBuffer', new ArrayBuffer(0), new Uint8Array(0)],
    ['a SharedArrayBuffer', shared, bytes],
    ['a view of a SharedArrayBuffer', new Uint8Array(shared, 4, 4), bytes.subarray(4, 8)],
    ['an ArrayBuffer of another realm', runInNewContext('new Uint8Array([1, 2, 3]).buffer'), Buffer.from([1, 2, 3])],
    ['a Uint8Array of another realm', runInNewContext('new Uint8Array([1, 2, 3])'), Buffer.from([1, 2, 3])],
  ])('sends the bytes of %s', async (_, value, expected) => {
    const queue = openQueue()
    await send(queue, data(value), 3)
    const message = queue.tryReceive()
    expect(message?.data.equals(expected)).toBe(true)
    expect(message?.priority).toBe(3)
  })

  test('refuses a buffer that is detached', async () => {
    const queue = openQueue()
    const detached = () => {
      const buffer = new ArrayBuffer(8)
      const views = [buffer, new Uint8Array(buffer), new DataView(buffer), new Uint16Array(buffer)]
      structuredClone(buffer, { transfer: [buffer] })
      return views
    }
    for (const value of detached()) {
      const error = await failureOf(() => send(queue, data(value)))
      expect(error).toBeInstanceOf(TypeError)
      expect(error).toHaveProperty('code', 'ERR_INVALID_ARG_VALUE')
    }
    expect(queue.attributes.messages).toBe(0)
  })

  test('refuses what is not data', async () => {
    const queue = openQueue()
    for (const value of [undefined, null, 7, true, 7n, Symbol('s'), {}, ['x'], () => 'x', new Date()]) {
      const error = await failureOf(() => send(queue, data(value)))
      expect(error).toBeInstanceOf(TypeError)
      expect(error).toHaveProperty('code', 'ERR_INVALID_ARG_TYPE')
    }
    expect(queue.attributes.messages).toBe(0)
  })

  test(`fails on a closed queue`, async () => {
    const queue = openQueue()
    queue.close()
    expect(await failureOf(() => send(queue, data('x')))).toMatchObject({
      name: 'QueueError',
      code: 'ERR_MQ_CLOSED',
      path: queue.path,
    })
  })
})

test.each(senders.filter(([name]) => name === 'send' || name === 'sendMany'))(
  '%s rejects, and never throws',
  async (_, send) => {
    const queue = openQueue()
    for (const value of [7, 'x'.repeat(65)]) {
      const promise = send(queue, value as never)
      expect(promise).toBeInstanceOf(Promise)
      await expect(promise).rejects.toThrow()
    }
  },
)

interface Received {
  bytes: Uint8Array
  priority: number
}

const whole = (message: PosixMessage | undefined): Received | undefined =>
  message && { bytes: message.data, priority: message.priority }

/** Receives one message each. */
const receivers: [string, (queue: PosixQueue) => Promise<Received | undefined> | Received | undefined][] = [
  ['receive', async (queue) => whole(await queue.receive())],
  ['receiveSync', (queue) => whole(queue.receiveSync())],
  ['receiveSync with spin', (queue) => whole(queue.receiveSync({ spin: 100 }))],
  ['tryReceive', (queue) => whole(queue.tryReceive())],
  ['receiveMany', async (queue) => whole((await queue.receiveMany({ max: 1 }))[0])],
  ['tryReceiveMany', (queue) => whole(queue.tryReceiveMany(1)[0])],
  ['messages', async (queue) => whole((await queue.messages().next()).value)],
  [
    'for await',
    async (queue) => {
      for await (const message of queue) return whole(message)
      return undefined
    },
  ],
  ['batches', async (queue) => whole((await queue.batches({ max: 1 }).next()).value?.[0])],
  [
    'tryReceiveInto',
    (queue) => {
      const buffer = Buffer.alloc(64)
      const length = queue.tryReceiveInto(buffer)
      return { bytes: buffer.subarray(0, length), priority: queue.lastPriority }
    },
  ],
  [
    'receiveIntoSync',
    (queue) => {
      const buffer = new Uint8Array(100)
      const length = queue.receiveIntoSync(buffer)
      return { bytes: buffer.subarray(0, length), priority: queue.lastPriority }
    },
  ],
]

describe.each(receivers)('%s', (_, receive) => {
  test('brings bytes and priority as they were sent, the highest priority first', async () => {
    const queue = openQueue()
    const bytes = Uint8Array.from({ length: 64 }, (_, index) => 4 * index)
    queue.trySend('low')
    queue.trySend(bytes, { priority: 32767 })
    queue.trySend('', { priority: 5 })
    queue.trySend('low as well')
    const read = async () => {
      const received = await receive(queue)
      return [received?.priority, Buffer.from(received?.bytes ?? []).toString('latin1')]
    }
    expect(await read()).toEqual([32767, Buffer.from(bytes).toString('latin1')])
    expect(await read()).toEqual([5, ''])
    expect(await read()).toEqual([0, 'low'])
    expect(queue.attributes.messages).toBe(1)
    expect(await read()).toEqual([0, 'low as well'])
  })

  test('brings what belongs to the receiver alone', async () => {
    const queue = openQueue()
    queue.trySendMany(['first', 'second'])
    const first = await receive(queue)
    const second = await receive(queue)
    second?.bytes.fill(0)
    queue.trySend('third')
    await receive(queue)
    expect(Buffer.from(first?.bytes ?? []).toString()).toBe('first')
  })

  test('fails on a closed queue, unless it iterates', async () => {
    const queue = openQueue()
    queue.trySend('x')
    queue.close()
    const result = await Promise.resolve()
      .then(() => receive(queue))
      .catch((error) => error)
    expect(result === undefined || result.code === 'ERR_MQ_CLOSED').toBe(true)
  })
})

describe('a message', () => {
  test('gives data, text and JSON', () => {
    const queue = openQueue()
    queue.trySendMany([JSON.stringify({ id: 7 }), 'no json', 'ü'])
    const [json, text, unicode] = queue.tryReceiveMany()
    expect(json?.json<{ id: number }>().id).toBe(7)
    expect(json?.data).toBeInstanceOf(Buffer)
    expect(() => text?.json()).toThrow(SyntaxError)
    expect(unicode?.text()).toBe('ü')
    expect(unicode?.data).toEqual(Buffer.from('ü'))
  })

  test('keeps its bytes in memory that no other message is written to', () => {
    const queue = openQueue({ messageSize: 4096 })
    const sizes = [0, 1, 7, 8, 9, 127, 128, 129, 500, 2047, 2048, 2049, 4096]
    const sent = Array.from({ length: 40 }, (_, round) => sizes.map((size) => Buffer.alloc(size, size + round + 1)))
    const messages = sent.flat().map((bytes, index) => {
      queue.trySend(bytes, { priority: index })
      return index % 2 === 0 ? queue.receiveSync() : (queue.tryReceiveMany()[0] ?? expect.unreachable())
    })
    for (const [index, bytes] of sent.flat().entries()) {
      expect(messages[index]?.data).toEqual(bytes)
      expect(messages[index]?.text()).toBe(bytes.toString())
      expect(messages[index]?.priority).toBe(index)
    }
  })

  test('holds 8 KiB if it is small, and otherwise no more memory than its own', () => {
    const queue = openQueue({ messageSize: 4096 })
    for (const [size, memory] of [
      [5, 8192],
      [2048, 8192],
      [2049, 2049],
      [4096, 4096],
    ] as const) {
      queue.trySend(Buffer.alloc(size))
      expect(queue.receiveSync().data.buffer.byteLength).toBe(memory)
    }
  })

  test('is not lost when the memory of an earlier one was given away', () => {
    const queue = openQueue()
    queue.trySendMany(['first', 'second'])
    const { data } = queue.receiveSync()
    // What cannot be transferred is cloned, or refused, depending on the version of Node.js.
    try {
      structuredClone(data, { transfer: [data.buffer] as ArrayBuffer[] })
    } catch {}
    expect(data.toString()).toBe('first')
    try {
      ;(data.buffer as ArrayBuffer & { transfer?: () => void }).transfer?.()
    } catch {}
    expect(queue.receiveSync().text()).toBe('second')
  })

  test('shows its data', () => {
    const queue = openQueue()
    queue.trySend('x', { priority: 3 })
    const message = queue.receiveSync()
    expect(inspect(message)).toBe('PosixMessage { priority: 3, data: <Buffer 78> }')
    expect(JSON.parse(JSON.stringify(message))).toEqual({ priority: 3, data: { type: 'Buffer', data: [120] } })
  })
})

describe('when there is nothing, or no room', () => {
  test('what does not wait says so without an exception', () => {
    const queue = openQueue()
    expect(queue.tryReceive()).toBeUndefined()
    expect(queue.tryReceiveMany()).toEqual([])
    expect(queue.tryReceiveInto(Buffer.alloc(64))).toBe(-1)
    fill(queue)
    expect(queue.trySend('5')).toBe(false)
    expect(queue.trySendMany(['5', '6'])).toBe(0)
    expect(drain(queue)).toEqual(['1', '2', '3', '4'])
  })

  test('trySendMany takes as many as there is room for', () => {
    const queue = openQueue()
    expect(queue.trySendMany([])).toBe(0)
    expect(queue.trySendMany(['1', { data: '2' }, Buffer.from('3')])).toBe(3)
    expect(queue.trySendMany(['4', '5', '6'])).toBe(1)
    expect(drain(queue)).toEqual(['1', '2', '3', '4'])
  })

  test('asynchronous waits go on until there is', async () => {
    const queue = openQueue()
    const received = queue.receive()
    expect(await isPending(received)).toBe(true)
    queue.trySend('x', { priority: 3 })
    expect(await received).toMatchObject({ priority: 3 })
    fill(queue)
    const sent = queue.send('5')
    expect(await isPending(sent)).toBe(true)
    queue.tryReceive()
    await sent
    expect(drain(queue)).toEqual(['2', '3', '4', '5'])
  })

  test.each([
    ['', {}],
    [' with spin', { spin: 200 }],
    [' with a fraction of spin', { spin: 0.5 }],
    [' with a timeout', { timeout: 30_000 * overhead }],
    [' with timeout Infinity', { timeout: Number.POSITIVE_INFINITY }],
  ])('blocking waits%s go on until another process sends or receives', async (_, options) => {
    const there = openQueue({ maxMessages: 1 })
    const back = openQueue({ maxMessages: 1 })
    const child = startFixture('echo.mjs', [there.path ?? '', back.path ?? ''])
    const buffer = Buffer.alloc(64)
    // Up to three are on their way in queues of one: both sides wait often.
    for (let round = 0; round < 300; round += 3) {
      for (let ahead = 0; ahead < 3; ahead++) there.sendSync(`round ${round + ahead}`, { priority: round, ...options })
      expect(back.receiveSync(options)).toMatchObject({ data: Buffer.from(`round ${round}`), priority: round })
      const length = back.receiveIntoSync(buffer, options)
      expect(buffer.toString('utf8', 0, length)).toBe(`round ${round + 1}`)
      expect(back.lastPriority).toBe(round)
      expect(back.receiveSync(options).text()).toBe(`round ${round + 2}`)
    }
    there.sendSync('')
    expect((await child.outcome).code).toBe(0)
  })
})

describe('receiving into a buffer', () => {
  test('touches nothing beyond the message', () => {
    const queue = openQueue({ messageSize: 16 })
    const buffer = Buffer.alloc(32, 0xaa)
    queue.trySend('abc', { priority: 12 })
    expect(queue.tryReceiveInto(buffer.subarray(8, 24))).toBe(3)
    expect(buffer.toString('latin1')).toBe(`${'\xaa'.repeat(8)}abc${'\xaa'.repeat(21)}`)
    expect(queue.lastPriority).toBe(12)
  })

  test('tells an empty message from none', () => {
    const queue = openQueue()
    queue.trySend('', { priority: 2 })
    expect(queue.tryReceiveInto(Buffer.alloc(64))).toBe(0)
    expect(queue.lastPriority).toBe(2)
    expect(queue.tryReceiveInto(Buffer.alloc(64))).toBe(-1)
    queue.trySend('')
    expect(queue.receiveIntoSync(Buffer.alloc(64))).toBe(0)
    expect(queue.lastPriority).toBe(0)
  })

  test('refuses a buffer that is too short, and leaves the message', () => {
    const queue = openQueue({ messageSize: 16 })
    queue.trySend('abc')
    for (const call of [() => queue.tryReceiveInto(Buffer.alloc(15)), () => queue.receiveIntoSync(Buffer.alloc(0))]) {
      expect(call).toThrow(expect.objectContaining({ name: 'QueueError', code: 'EMSGSIZE' }))
    }
    expect(drain(queue)).toEqual(['abc'])
  })

  test('refuses what is not bytes', () => {
    const queue = openQueue()
    queue.trySend('abc')
    for (const buffer of [undefined, null, 'text', 64, new ArrayBuffer(64), new Uint16Array(64), new Uint32Array(64)]) {
      for (const call of [() => queue.tryReceiveInto(buffer as never), () => queue.receiveIntoSync(buffer as never)]) {
        expect(call).toThrow(expect.objectContaining({ name: 'TypeError', code: 'ERR_INVALID_ARG_TYPE' }))
      }
    }
    expect(drain(queue)).toEqual(['abc'])
  })

  test('tells the priority of each queue by itself', () => {
    const [one, other] = [openQueue(), openQueue()]
    expect(one.lastPriority).toBe(0)
    one.trySend('a', { priority: 1 })
    other.trySend('b', { priority: 2 })
    one.tryReceiveInto(Buffer.alloc(64))
    other.tryReceiveInto(Buffer.alloc(64))
    expect([one.lastPriority, other.lastPriority]).toEqual([1, 2])
  })
})

describe('timeout', () => {
  /** Calls that find an empty queue. */
  const emptyWaits: [string, (queue: PosixQueue, timeout: never) => unknown][] = [
    ['receive', (queue, timeout) => queue.receive({ timeout })],
    ['receiveSync', (queue, timeout) => queue.receiveSync({ timeout })],
    ['receiveSync with spin', (queue, timeout) => queue.receiveSync({ timeout, spin: 50_000 })],
    ['receiveIntoSync', (queue, timeout) => queue.receiveIntoSync(Buffer.alloc(64), { timeout })],
    ['receiveMany', (queue, timeout) => queue.receiveMany({ timeout })],
    ['messages', (queue, timeout) => queue.messages({ timeout }).next()],
    ['batches', (queue, timeout) => queue.batches({ timeout }).next()],
    ['waitReadable', (queue, timeout) => queue.waitReadable({ timeout })],
  ]
  /** Calls that find a full queue. */
  const fullWaits: [string, (queue: PosixQueue, timeout: never) => unknown][] = [
    ['send', (queue, timeout) => queue.send('x', { timeout })],
    ['sendSync', (queue, timeout) => queue.sendSync('x', { timeout })],
    ['sendMany', (queue, timeout) => queue.sendMany(['x', 'y'], { timeout })],
    ['waitWritable', (queue, timeout) => queue.waitWritable({ timeout })],
  ]
  const waits = [
    ...emptyWaits.map(([name, wait]) => [name, wait, () => {}] as const),
    ...fullWaits.map(([name, wait]) => [name, wait, fill] as const),
  ]

  describe.each(waits)('of %s', (_, wait, prepare) => {
    const prepared = () => {
      const queue = openQueue()
      prepare(queue)
      return queue
    }

    test.each([0, 0.25, 1, 20.5])('gives up after %d ms, not before', async (timeout) => {
      const queue = prepared()
      const before = queue.attributes.messages
      const start = performance.now()
      const error = await failureOf(() => wait(queue, timeout as never))
      const waited = performance.now() - start
      expect(error).toBeInstanceOf(QueueError)
      expect(error).toMatchObject({ code: 'ETIMEDOUT', errno: -constants.errno.ETIMEDOUT, path: queue.path })
      expect(waited).toBeGreaterThanOrEqual(timeout)
      expect(waited).toBeLessThan(timeout + 10_000)
      expect(queue.attributes.messages).toBe(before)
    })

    test('must be a number of milliseconds', async () => {
      const queue = prepared()
      for (const timeout of [-1, -0.001, Number.NaN, Number.NEGATIVE_INFINITY]) {
        const error = await failureOf(() => wait(queue, timeout as never))
        expect(error).toBeInstanceOf(RangeError)
        expect(error).toHaveProperty('code', 'ERR_OUT_OF_RANGE')
      }
      for (const timeout of ['100', '', null, 10n, {}, true]) {
        const error = await failureOf(() => wait(queue, timeout as never))
        expect(error).toBeInstanceOf(TypeError)
        expect(error).toHaveProperty('code', 'ERR_INVALID_ARG_TYPE')
      }
    })
  })

  test.each([
    ['send', (queue: PosixQueue, timeout: never) => queue.send('x', { timeout })],
    ['sendMany', (queue: PosixQueue, timeout: never) => queue.sendMany(['x'], { timeout })],
    ['receive', (queue: PosixQueue, timeout: never) => queue.receive({ timeout })],
    ['receiveMany', (queue: PosixQueue, timeout: never) => queue.receiveMany({ timeout })],
    ['messages', (queue: PosixQueue, timeout: never) => queue.messages({ timeout }).next()],
    ['waitReadable', (queue: PosixQueue, timeout: never) => queue.waitReadable({ timeout })],
    ['waitWritable', (queue: PosixQueue, timeout: never) => queue.waitWritable({ timeout })],
  ])('that is wrong is rejected by %s, not thrown, and nothing is done', async (_, call) => {
    const queue = openQueue()
    queue.trySend('1')
    for (const timeout of [-1, Number.NaN, '100']) {
      const promise = call(queue, timeout as never)
      await expect(promise).rejects.toThrow(expect.objectContaining({ code: expect.stringMatching(/^ERR_/) }))
    }
    expect(drain(queue)).toEqual(['1'])
  })

  test('of 0 takes what is there', async () => {
    const queue = openQueue()
    const timeout = 0
    await queue.send('1', { timeout })
    queue.sendSync('2', { timeout })
    await queue.sendMany(['3', '4'], { timeout })
    expect((await queue.receive({ timeout })).text()).toBe('1')
    expect(queue.receiveSync({ timeout }).text()).toBe('2')
    expect(queue.receiveIntoSync(Buffer.alloc(64), { timeout })).toBe(1)
    expect((await queue.receiveMany({ timeout })).length).toBe(1)
    await queue.waitWritable({ timeout })
    queue.trySend('5')
    await queue.waitReadable({ timeout })
  })

  test('of 0 takes what is there, however much went before in this turn of the loop', async () => {
    const queue = openQueue()
    const timeout = 0
    for (let round = 0; round < 1000; round++) {
      await queue.send('x', { timeout })
      await queue.sendMany(['y', 'z'], { timeout })
      expect((await queue.receive({ timeout })).text()).toBe('x')
      expect(await queue.receiveMany({ timeout })).toHaveLength(2)
    }
  })

  test('of Infinity waits as without', async () => {
    const queue = openQueue()
    const received = queue.receive({ timeout: Number.POSITIVE_INFINITY })
    expect(await isPending(received)).toBe(true)
    await queue.send('x', { timeout: Number.POSITIVE_INFINITY })
    expect((await received).text()).toBe('x')
  })

  test('loses no message that comes later', async () => {
    const queue = openQueue()
    await expect(queue.receive({ timeout: 1 })).rejects.toMatchObject({ code: 'ETIMEDOUT' })
    queue.trySend('late')
    await turns()
    expect(drain(queue)).toEqual(['late'])
  })
})

describe('spin', () => {
  test('is a number of microseconds', () => {
    const queue = openQueue()
    for (const call of [
      (spin: never) => queue.receiveSync({ spin, timeout: 0 }),
      (spin: never) => queue.receiveIntoSync(Buffer.alloc(64), { spin, timeout: 0 }),
    ]) {
      for (const spin of [-1, 50_001, Number.NaN, Number.POSITIVE_INFINITY])
        expect(() => call(spin as never)).toThrow(RangeError)
      for (const spin of ['10', null, 10n]) expect(() => call(spin as never)).toThrow(TypeError)
    }
  })
})

describe('sendMany', () => {
  test('sends more than the queue holds, in order, as there is room', async () => {
    const queue = openQueue()
    const numbers = Array.from({ length: 1000 }, (_, index) => String(index))
    const sent = queue.sendMany(numbers)
    const received: string[] = []
    for await (const message of queue) {
      received.push(message.text())
      if (received.length === numbers.length) break
    }
    await sent
    expect(received).toEqual(numbers)
  })

  test('takes any iterable, of data and of data with priority', async () => {
    const queue = openQueue()
    function* generate() {
      yield 'low'
      yield { data: Buffer.from('high'), priority: 7 }
      yield new Uint8Array([0x6d])
    }
    await queue.sendMany(generate())
    expect(drain(queue)).toEqual(['high', 'low', 'm'])
    await queue.sendMany(new Set(['a', 'b']))
    expect(drain(queue)).toEqual(['a', 'b'])
    await queue.sendMany([])
    expect(drain(queue)).toEqual([])
    for (const wrong of [undefined, null, 7, {}, 'text']) {
      await expect(queue.sendMany(wrong as never)).rejects.toBeInstanceOf(TypeError)
    }
    for (const wrong of [undefined, null, 7, {}, 'text', new Set(['a'])]) {
      expect(() => queue.trySendMany(wrong as never)).toThrow(TypeError)
    }
  })

  test.each<[string, (queue: PosixQueue) => Promise<unknown>, string]>([
    ['a timeout', (queue) => failureOf(() => queue.sendMany(['3', '4', '5', '6'], { timeout: 10 })), 'ETIMEDOUT'],
    [
      'an abort',
      (queue) => failureOf(() => queue.sendMany(['3', '4', '5', '6'], { signal: AbortSignal.timeout(10) })),
      'ABORT_ERR',
    ],
    [
      'closing',
      (queue) => {
        const failure = failureOf(() => queue.sendMany(['3', '4', '5', '6']))
        queue.close()
        return failure
      },
      'ERR_MQ_CLOSED',
    ],
    [
      'a message that is too long',
      (queue) => failureOf(() => queue.sendMany(['3', '4', 'x'.repeat(65), '6'], { timeout: 1000 })),
      'EMSGSIZE',
    ],
  ])('says with the error how many were sent before %s', async (_, provoke, code) => {
    const queue = openQueue({ maxMessages: 5 })
    const other = reopen(queue)
    const room = code === 'EMSGSIZE' ? 2 : 3
    queue.trySendMany(room === 3 ? ['1', '2'] : ['2'])
    const messages = room === 3 ? ['1', '2', '3', '4', '5'] : ['2', '3', '4']
    expect(await provoke(queue)).toMatchObject({ code, sent: room })
    expect(drain(other)).toEqual(messages)
  })

  test('says with every error how many were sent', async () => {
    const queue = openQueue()
    const long = 'x'.repeat(65)
    for (const wrong of [long, 7 as never, { data: 'x', priority: -1 }]) {
      const error = await failureOf(() => queue.sendMany(['1', '2', wrong, '4']))
      expect(error).toHaveProperty('sent', queue.attributes.messages)
      drain(queue)
      const other = await failureOf(() => queue.trySendMany(['1', '2', wrong, '4']))
      expect(other).toHaveProperty('sent', queue.attributes.messages)
      drain(queue)
    }
    expect(await failureOf(() => queue.sendMany([long]))).toHaveProperty('sent', 0)
  })

  test('lets an iterable clean up when it fails', async () => {
    const queue = openQueue()
    let cleaned = 0
    function* endless() {
      try {
        for (;;) yield 'x'
      } finally {
        cleaned++
      }
    }
    await expect(queue.sendMany(endless(), { timeout: 5 })).rejects.toMatchObject({ code: 'ETIMEDOUT', sent: 4 })
    expect(cleaned).toBe(1)
  })

  test('rejects with what failed, though the iterable fails to clean up', async () => {
    const queue = openQueue()
    const failing = {
      [Symbol.iterator]: () => ({
        next: () => ({ value: 7 as never }),
        return: () => {
          throw new Error('no way to clean up')
        },
      }),
    }
    await expect(queue.sendMany(failing)).rejects.toMatchObject({ code: 'ERR_INVALID_ARG_TYPE', sent: 0 })
  })

  test('rejects with what the iterable throws', async () => {
    const queue = openQueue()
    const failure = new Error('no more')
    function* failing() {
      yield 'x'
      throw failure
    }
    await expect(queue.sendMany(failing())).rejects.toBe(failure)
  })

  test('is not disturbed by sends of its iterable that do not wait', async () => {
    const queue = openQueue()
    fill(queue)
    const failures: Promise<unknown>[] = []
    const numbers = Array.from({ length: 600 }, (_, index) => String(index))
    function* sending() {
      for (const number of numbers) {
        failures.push(failureOf(() => queue.send('x', { timeout: 0 })))
        yield number
      }
    }
    const sent = queue.sendMany(sending())
    const received: string[] = []
    for await (const message of queue) if (received.push(message.text()) === 604) break
    await sent
    expect(received.slice(4)).toEqual(numbers)
    for (const failure of await Promise.all(failures)) expect(failure).toMatchObject({ code: 'ETIMEDOUT' })
  })

  test('sends nothing to another queue when its iterable closes this one', async () => {
    const queue = openQueue()
    const others: PosixQueue[] = []
    function* closing() {
      queue.close()
      // One of them gets the number that the closed descriptor had.
      others.push(openQueue(), openQueue())
      yield 'stray'
    }
    expect(await failureOf(() => queue.sendMany(closing()))).toMatchObject({ code: 'ERR_MQ_CLOSED', sent: 0 })
    expect(others.map(drain)).toEqual([[], []])
  })

  test('moves hundreds of messages in a deep queue', async ({ skip }) => {
    skip(!canUnshare, 'needs an IPC namespace of its own, which root can make')
    const through = inNamespace('msg_max=600')
    const child = start(through[0] ?? '', [...through.slice(1), process.execPath, fixture('deep.mjs')])
    const { stdout, stderr } = await child.outcome
    expect(stderr).toBe('')
    expect(JSON.parse(stdout)).toEqual({ taken: 600, many: 600, batches: 600, waited: 601, inOrder: true })
  })
})

test('messages larger than what many share at once come through every form', async ({ skip }) => {
  skip(!canUnshare, 'needs an IPC namespace of its own, which root can make')
  const through = inNamespace('msgsize_max=100000')
  const args = [...through.slice(1), process.execPath, fixture('large.mjs'), String(stranger)]
  const { stdout, stderr } = await start(through[0] ?? '', args).outcome
  expect(stderr).toBe('')
  expect(stdout).toBe('9 messages of 100000 bytes\n')
})

describe('receiveMany', () => {
  test('waits for the first, then takes what is there', async () => {
    const queue = openQueue()
    const received = queue.receiveMany()
    expect(await isPending(received)).toBe(true)
    fill(queue)
    expect((await received).map((message) => message.text())).toEqual(['1', '2', '3', '4'])
  })

  test('takes no more than max', async () => {
    const queue = openQueue()
    fill(queue)
    expect((await queue.receiveMany({ max: 3 })).length).toBe(3)
    expect(queue.tryReceiveMany(1).length).toBe(1)
    expect(queue.attributes.messages).toBe(0)
  })

  test('brings lengths, priorities and bytes of each, empty ones too', async () => {
    const queue = openQueue()
    queue.trySendMany([
      { data: 'longest of all', priority: 3 },
      { data: '', priority: 2 },
      { data: 'z', priority: 1 },
    ])
    const received = (await queue.receiveMany()).map((message) => [message.text(), message.priority])
    expect(received).toEqual([
      ['longest of all', 3],
      ['', 2],
      ['z', 1],
    ])
  })

  test('refuses a max that is none', async () => {
    const queue = openQueue()
    fill(queue)
    for (const max of [0, -1, 1.5, Number.NaN, '2', null]) {
      expect(() => queue.tryReceiveMany(max as never)).toThrow(/max/)
      await expect(queue.receiveMany({ max: max as never })).rejects.toThrow(/max/)
    }
    expect(queue.attributes.messages).toBe(4)
  })
})

describe('asynchronous sends', () => {
  test('keep their order without being awaited', async () => {
    const queue = openQueue({ maxMessages: 2 })
    const numbers = Array.from({ length: 600 }, (_, index) => String(index))
    const sent = Promise.all(numbers.map((text) => queue.send(text)))
    const received: string[] = []
    while (received.length < numbers.length) received.push((await queue.receive()).text())
    await sent
    expect(received).toEqual(numbers)
  })

  test('keep their order among different methods', async () => {
    const queue = openQueue({ maxMessages: 2 })
    const sent = Promise.all([
      queue.send('1'),
      queue.sendMany(['2', '3', '4']),
      queue.send('5'),
      queue.sendMany(['6']),
      queue.send('7'),
    ])
    const received: string[] = []
    while (received.length < 7) received.push((await queue.receive()).text())
    await sent
    expect(received).toEqual(['1', '2', '3', '4', '5', '6', '7'])
  })

  test('are not overtaken by later ones that find room', async () => {
    const queue = openQueue({ maxMessages: 2 })
    await queue.sendMany(['1', '2'])
    const sent = [queue.send('3')]
    queue.tryReceiveMany()
    sent.push(queue.send('4'), queue.sendMany(['5', '6']))
    const received: string[] = []
    while (received.length < 4) received.push((await queue.receive()).text())
    await Promise.all(sent)
    expect(received).toEqual(['3', '4', '5', '6'])
  })

  test('are not overtaken by trySend', async () => {
    const queue = openQueue({ maxMessages: 1 })
    await queue.send('1')
    const second = queue.send('2')
    queue.tryReceive()
    expect(queue.trySend('3')).toBe(false)
    expect(queue.trySendMany(['3'])).toBe(0)
    await second
    expect(drain(queue)).toEqual(['2'])
  })

  test('send what the data was when they were called', async () => {
    const queue = openQueue({ maxMessages: 1 })
    await queue.send('full')
    const buffers = Array.from({ length: 4 }, () => Buffer.from('good'))
    const [one, two, three, four] = buffers as [Buffer, Buffer, Buffer, Buffer]
    const sent = [
      queue.send(one),
      queue.send(two.buffer.slice(two.byteOffset, two.byteOffset + 4)),
      queue.sendMany([three]),
    ]
    sent.push(queue.send(new DataView(four.buffer, four.byteOffset, 4)))
    for (const buffer of buffers) buffer.fill('!')
    const received: string[] = []
    while (received.length < 5) received.push((await queue.receive({ timeout: 1000 })).text())
    await Promise.all(sent)
    expect(received).toEqual(['full', 'good', 'good', 'good', 'good'])
  })

  test('that are too long fail although the queue is full', async () => {
    const queue = openQueue()
    fill(queue)
    await expect(queue.send('x'.repeat(65))).rejects.toMatchObject({ code: 'EMSGSIZE' })
  })
})

describe('concurrent waiters', () => {
  test('receive in the order in which they came', async () => {
    const queue = openQueue()
    const order: string[] = []
    const waiters = Array.from({ length: 20 }, (_, index) =>
      queue.receive().then((message) => order.push(`${index}:${message.text()}`)),
    )
    await queue.sendMany(Array.from({ length: 20 }, (_, index) => String(index)))
    await Promise.all(waiters)
    expect(order).toEqual(Array.from({ length: 20 }, (_, index) => `${index}:${index}`))
  })

  test('are not overtaken by later ones that find a message', async () => {
    const queue = openQueue()
    const first = queue.receive()
    queue.trySend('1')
    const second = queue.receive()
    const third = queue.receiveMany()
    queue.trySendMany(['2', '3'])
    expect((await first).text()).toBe('1')
    expect((await second).text()).toBe('2')
    expect((await third).map((message) => message.text())).toEqual(['3'])
  })

  test('that give up at once take what is there, after those before them', async () => {
    const queue = openQueue()
    const before = [queue.receive(), queue.receive()]
    queue.trySendMany(['1', '2', '3'])
    const last = queue.receive({ timeout: 0 })
    const none = failureOf(() => queue.receive({ timeout: 0 }))
    const received = await Promise.all([...before, last])
    expect(received.map((message) => message.text())).toEqual(['1', '2', '3'])
    expect(await none).toMatchObject({ code: 'ETIMEDOUT' })
  })

  test('of every kind share one line', async () => {
    const queue = openQueue()
    const waiters = [
      queue.receive().then((message) => message.text()),
      queue
        .messages()
        .next()
        .then(({ value }) => value?.text()),
      queue.receiveMany({ max: 1 }).then(([message]) => message?.text()),
      queue
        .batches({ max: 1 })
        .next()
        .then(({ value }) => value?.[0]?.text()),
    ]
    fill(queue)
    expect(await Promise.all(waiters)).toEqual(['1', '2', '3', '4'])
  })

  test('that gave up leave their place to the next', async () => {
    const queue = openQueue()
    const controller = new AbortController()
    const aborted = failureOf(() => queue.receive({ signal: controller.signal }))
    const expired = failureOf(() => queue.receive({ timeout: 1 }))
    const patient = [queue.receive(), queue.receive()]
    controller.abort()
    expect(await aborted).toBeInstanceOf(AbortError)
    expect(await expired).toMatchObject({ code: 'ETIMEDOUT' })
    queue.trySendMany(['1', '2'])
    expect((await Promise.all(patient)).map((message) => message.text())).toEqual(['1', '2'])
  })

  test('send in the order in which they came', async () => {
    const queue = openQueue()
    fill(queue)
    const order: number[] = []
    const waiters = Array.from({ length: 8 }, (_, index) => queue.send(`w${index}`).then(() => order.push(index)))
    const received: string[] = []
    while (received.length < 12) received.push((await queue.receive()).text())
    await Promise.all(waiters)
    expect(order).toEqual([0, 1, 2, 3, 4, 5, 6, 7])
    expect(received.slice(4)).toEqual(order.map((index) => `w${index}`))
  })

  test('are not served by a queue that stays readable for others only', async () => {
    const queue = openQueue()
    const writer = reopen(queue, { access: 'write' })
    fill(queue)
    const sent = writer.send('5')
    expect(await isPending(sent)).toBe(true)
    expect(queue.tryReceive()?.text()).toBe('1')
    await sent
    expect(mqGetattr(mqOpenForReading(queue))).toMatchObject({ curmsgs: 4 })
  })
})

function mqOpenForReading(queue: PosixQueue): number {
  const fd = mqOpen(queue.path ?? '', O_RDONLY)
  onTestFinished(() => void mqClose(fd))
  return fd
}
