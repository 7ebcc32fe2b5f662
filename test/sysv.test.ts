import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync, statSync } from 'node:fs'
import { constants } from 'node:os'
import { Transform } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import fc from 'fast-check'
import { AbortError, QueueError, SysvMessage, SysvQueue, type SysvReceiveOptions, type SysvType } from 'kernelmq'
import { describe, expect, onTestFinished, test } from 'vitest'
import { canUnshare, failureOf, fixture, isPending, isRoot, start, stranger, turns } from './support.ts'
import {
  attemptSysv,
  blocking,
  compile,
  drain,
  hasCompiler,
  openSysv,
  type Received,
  removeAfter,
  reopen,
  senders,
  tries,
  uniqueKey,
  waits,
} from './sysv-support.ts'

const { errno } = constants

const sysctl = (name: string) => Number(readFileSync(`/proc/sys/kernel/${name}`, 'utf8'))

/** As ipcs(1) shows a key. */
const hex = (key: number) => `0x${(key >>> 0).toString(16).padStart(8, '0')}`

const numbers = (count: number) => Array.from({ length: count }, (_, index) => String(index))

/** A failure of a call on this queue. */
const failing = (code: string, queue: { id: number }) =>
  expect.objectContaining({ name: 'QueueError', code, errno: -constants.errno[code as 'EIDRM'], id: queue.id })

const closed = (queue: { id: number }) =>
  expect.objectContaining({ name: 'QueueError', code: 'ERR_MQ_CLOSED', id: queue.id })

/** Fills a queue of 40 bytes with messages "1" to "4", and type 1. */
function fullQueue(): SysvQueue {
  const queue = openSysv({ maxBytes: 4 })
  expect(queue.trySendMany(['1', '2', '3', '4'])).toBe(4)
  return queue
}

/** Every call that receives, in one form or another. */
const receivers = [...tries, ...blocking, ...waits]

describe('open', () => {
  test("with 'private' creates a queue each time, which has no key", () => {
    const [one, other] = [openSysv(), openSysv()]
    expect(one.id).not.toBe(other.id)
    expect(one.stat().key).toBe('0x00000000')
    one.trySend('x')
    expect(other.tryReceive()).toBeUndefined()
  })

  test('creates nothing unless it is told to', () => {
    const key = uniqueKey()
    const missing = expect.objectContaining({ name: 'QueueError', code: 'ENOENT', syscall: 'msgget', path: hex(key) })
    expect(() => SysvQueue.open(key)).toThrow(missing)
    expect(() => SysvQueue.open(key, { mode: 0o666, maxBytes: 10 })).toThrow(missing)
  })

  test('with create, opens the queue that is there as it is', () => {
    const key = uniqueKey()
    const queue = SysvQueue.open(key, { create: true, maxBytes: 100 })
    queue.trySend('kept', { type: 7 })
    const again = SysvQueue.open(key, { create: true, maxBytes: 200, mode: 0o600 })
    expect(again.id).toBe(queue.id)
    expect(again.stat()).toMatchObject({ key: hex(key), maxBytes: 100, messages: 1, mode: 0o600 })
    expect(SysvQueue.open(key).tryReceive()).toMatchObject({ type: 7, data: Buffer.from('kept') })
  })

  test('with exclusive, creates a queue and refuses one that is there', () => {
    const key = uniqueKey()
    const queue = SysvQueue.open(key, { exclusive: true })
    for (const options of [{ exclusive: true }, { create: true, exclusive: true, maxBytes: 10 }]) {
      expect(() => SysvQueue.open(key, options)).toThrow(
        expect.objectContaining({ code: 'EEXIST', errno: -errno.EEXIST, syscall: 'msgget', path: hex(key) }),
      )
    }
    expect(queue.stat().maxBytes).toBe(sysctl('msgmnb'))
  })

  test('finds a queue by its key signed, unsigned, and in hexadecimal digits', () => {
    for (const key of [uniqueKey(), uniqueKey()]) {
      const { id } = SysvQueue.open(key, { create: true })
      for (const same of [key | 0, key >>> 0, hex(key), hex(key).toUpperCase(), `0x${(key >>> 0).toString(16)}`]) {
        expect(SysvQueue.open(same).id).toBe(id)
      }
      expect(SysvQueue.fromId(id).stat().key).toBe(hex(key))
    }
    // Few digits, and other ones than those of another run.
    const key = 1 + (process.pid % 0xfffe)
    const small = SysvQueue.open(`0x${key.toString(16)}`, { create: true })
    removeAfter(small.id)
    expect(SysvQueue.open(key).id).toBe(small.id)
    expect(small.stat().key).toBe(`0x0000${key.toString(16).padStart(4, '0')}`)
  })

  test('gives the queue its mode, 0o600 by default, whatever the umask', () => {
    const umask = process.umask(0o077)
    onTestFinished(() => void process.umask(umask))
    expect(openSysv().stat().mode).toBe(0o600)
    for (const mode of [0o666, 0o622, 0o777, 0]) {
      const id = SysvQueue.open('private', { mode }).id
      removeAfter(id)
      const row = readFileSync('/proc/sysvipc/msg', 'utf8').match(new RegExp(`^\\s*0\\s+${id}\\s+(\\d+)`, 'm'))
      expect(row?.[1]).toBe(mode.toString(8))
    }
  })

  test('lets the queue hold maxBytes, and kernel.msgmnb by default', () => {
    expect(openSysv().stat().maxBytes).toBe(sysctl('msgmnb'))
    const queue = openSysv({ maxBytes: 10 })
    expect(queue.stat().maxBytes).toBe(10)
    expect([queue.trySend('12345'), queue.trySend('67890'), queue.trySend('x')]).toEqual([true, true, false])
    expect(openSysv({ maxBytes: 0 }).trySend('')).toBe(false)
  })

  test('with more than kernel.msgmnb fails without the privilege, and leaves nothing behind', async () => {
    const key = uniqueKey()
    const maxBytes = sysctl('msgmnb') + 1
    const uid = isRoot ? stranger : undefined
    const [attempted] = await attemptSysv([['open', key, { create: true, maxBytes }]], { uid })
    expect(attempted?.error).toMatchObject({ name: 'QueueError', code: 'EPERM', syscall: 'msgctl' })
    expect(attempted?.error?.hint).toContain(`${sysctl('msgmnb')}`)
    expect(attempted?.error?.hint).toContain('kernel.msgmnb')
    expect(() => SysvQueue.open(key)).toThrow(expect.objectContaining({ code: 'ENOENT' }))
  })

  test('with create, opens the queue of another user as without, for each call to be granted or refused', async ({
    skip,
  }) => {
    skip(!isRoot, 'only root can become another user')
    const [secret, letterbox] = [uniqueKey(), uniqueKey()]
    SysvQueue.open(secret, { create: true })
    const queue = SysvQueue.open(letterbox, { create: true, mode: 0o622 })
    const [refused, found, , sent, received] = await attemptSysv(
      [
        ['open', secret, { create: true }],
        ['open', secret],
        ['open', letterbox, { create: true }],
        ['trySend', null, 'theirs'],
        ['tryReceive', null],
      ],
      { uid: stranger },
    )
    // What is refused is stat(), in which this ends.
    for (const attempted of [refused, found]) {
      expect(attempted?.error).toMatchObject({ code: 'EACCES', syscall: 'msgctl' })
      expect(attempted?.error?.hint).toContain('ipcs -q')
    }
    expect(sent).toEqual({ value: true })
    expect(received?.error).toMatchObject({ code: 'EACCES', syscall: 'msgrcv' })
    expect(queue.tryReceive()?.text()).toBe('theirs')
  })

  test('when there are as many queues as there may be, says so', async ({ skip }) => {
    skip(!canUnshare, 'needs an IPC namespace of its own, which root can make')
    const [, , refused] = await attemptSysv(
      [
        ['sysctl', 'msgmni', 1],
        ['open', 'private'],
        ['open', 'private'],
      ],
      { through: ['unshare', '--ipc'] },
    )
    expect(refused?.error).toMatchObject({ code: 'ENOSPC', syscall: 'msgget' })
    expect(refused?.error?.hint).toMatch(/\b1 queues.*ipcrm.*kernel\.msgmni/)
  })

  test.each<[string, unknown[], string]>([
    ['no key', [], 'ERR_INVALID_ARG_TYPE'],
    ['a key that is another word', ['public'], 'ERR_INVALID_ARG_TYPE'],
    ['a key in decimal digits', ['42'], 'ERR_INVALID_ARG_TYPE'],
    ['a key of nine digits', ['0x123456789'], 'ERR_INVALID_ARG_TYPE'],
    ['a bigint', [42n], 'ERR_INVALID_ARG_TYPE'],
    ['the key 0, which is no key', [0], 'ERR_OUT_OF_RANGE'],
    ['the key 0x0', ['0x0'], 'ERR_OUT_OF_RANGE'],
    ['a key beyond 32 bits', [2 ** 32], 'ERR_OUT_OF_RANGE'],
    ['a key below 32 bits', [-(2 ** 31) - 1], 'ERR_OUT_OF_RANGE'],
    ['half a key', [1.5], 'ERR_OUT_OF_RANGE'],
    ['a key that is not a number', [Number.NaN], 'ERR_OUT_OF_RANGE'],
    ['a mode as text', ['private', { mode: '0600' }], 'ERR_INVALID_ARG_TYPE'],
    ['a negative mode', ['private', { mode: -1 }], 'ERR_OUT_OF_RANGE'],
    ['a mode beyond 0o777', ['private', { mode: 0o1000 }], 'ERR_OUT_OF_RANGE'],
    ['negative maxBytes', ['private', { maxBytes: -1 }], 'ERR_OUT_OF_RANGE'],
    ['half a byte', ['private', { maxBytes: 0.5 }], 'ERR_OUT_OF_RANGE'],
    ['maxBytes that the kernel would cut to 0', ['private', { maxBytes: 2 ** 32 }], 'ERR_OUT_OF_RANGE'],
    ['maxBytes as text', ['private', { maxBytes: '10' }], 'ERR_INVALID_ARG_TYPE'],
  ])('refuses %s', async (_, args, code) => {
    const idsOf = async () => (await SysvQueue.list()).map(({ id }) => id)
    const before = await idsOf()
    expect(() => SysvQueue.open(...(args as [number]))).toThrow(expect.objectContaining({ code }))
    // Those of others come and go.
    const more = (await idsOf()).filter((id) => !before.includes(id))
    await expect.poll(async () => (await idsOf()).filter((id) => more.includes(id))).toEqual([])
  })
})

describe('fromId', () => {
  test('opens a queue by the number that all processes know it by', () => {
    const queue = openSysv()
    queue.trySend('x')
    const other = reopen(queue)
    expect(other).toBeInstanceOf(SysvQueue)
    expect(other.id).toBe(queue.id)
    expect(other.tryReceive()?.text()).toBe('x')
  })

  test('says that there is none', () => {
    const queue = openSysv()
    queue.remove()
    expect(() => SysvQueue.fromId(queue.id)).toThrow(
      expect.objectContaining({ code: 'EIDRM', errno: -errno.EIDRM, id: queue.id, hint: expect.any(String) }),
    )
  })

  test.each([-1, 2 ** 31, 0.5, Number.NaN])('refuses %s', (id) => {
    expect(() => SysvQueue.fromId(id)).toThrow(RangeError)
  })

  test.each(['1', undefined, null, 1n])('refuses %o', (id) => {
    expect(() => SysvQueue.fromId(id as never)).toThrow(TypeError)
  })
})

describe('ftok', () => {
  test('makes a key of file and number, that opens', () => {
    const path = '/'
    const { ino, dev } = statSync(path, { bigint: true })
    const low = Number(((dev & 0xffn) << 16n) | (ino & 0xffffn))
    expect(SysvQueue.ftok(path, 0x5a) >>> 0).toBe(0x5a000000 + low)
    expect(SysvQueue.ftok(path, 0xa5) >>> 0).toBe(0xa5000000 + low)
    const key = SysvQueue.ftok('/proc/self/exe', 200 + (process.pid % 50))
    const queue = SysvQueue.open(key, { create: true })
    removeAfter(queue.id)
    expect(queue.stat().key).toBe(hex(key))
  })

  test('counts the low 8 bits of the number', () => {
    expect(SysvQueue.ftok('/', 0x15a)).toBe(SysvQueue.ftok('/', 0x5a))
    expect(SysvQueue.ftok('/', -1)).toBe(SysvQueue.ftok('/', 0xff))
    expect(SysvQueue.ftok('/', 1)).not.toBe(SysvQueue.ftok('/', 2))
  })

  test('says that there is no such file', () => {
    expect(() => SysvQueue.ftok('/no/such/file', 1)).toThrow(
      expect.objectContaining({ name: 'QueueError', code: 'ENOENT', path: '/no/such/file' }),
    )
    expect(() => SysvQueue.ftok('/etc/passwd/x', 1)).toThrow(expect.objectContaining({ code: 'ENOTDIR' }))
  })

  test('refuses other types', () => {
    expect(() => SysvQueue.ftok(7 as never, 1)).toThrow(TypeError)
    expect(() => SysvQueue.ftok('/', '1' as never)).toThrow(TypeError)
    expect(() => SysvQueue.ftok('/', 1.5)).toThrow(RangeError)
  })
})

describe.each(senders)('%s', (_, send) => {
  test('sends with every type from 1 to 2^63-1, 1 by default', async () => {
    const queue = openSysv()
    const types: SysvType[] = [
      1,
      2,
      2 ** 31,
      2 ** 32,
      2 ** 32 + 1,
      2 ** 53 - 1,
      2n ** 53n,
      2n ** 62n + 3n,
      2n ** 63n - 1n,
    ]
    for (const type of types) await send(queue, 'x', type)
    await send(queue, 'x')
    await send(queue, 'x', 5n)
    expect(queue.tryReceiveMany().map(({ type }) => type)).toEqual([...types, 1, 5])
  })

  test('sends text, bytes and nothing as they are', async () => {
    const queue = openSysv()
    const all = Buffer.from(Array.from({ length: 256 }, (_, byte) => byte))
    const words = new Uint16Array([0x1234, 0xfffe])
    await send(queue, 'grüße\0 😀')
    await send(queue, all)
    await send(queue, words.subarray(1))
    await send(queue, all.buffer.slice(all.byteOffset, all.byteOffset + 3))
    await send(queue, '')
    expect(queue.tryReceiveMany().map(({ data }) => data)).toEqual([
      Buffer.from('grüße\0 😀'),
      all,
      Buffer.from([0xfe, 0xff]),
      Buffer.from([0, 1, 2]),
      Buffer.alloc(0),
    ])
  })

  test('sends what the data is at the time of the call', async () => {
    const queue = openSysv()
    const data = Buffer.from('before')
    const sent = send(queue, data)
    data.fill('x')
    await sent
    expect(drain(queue)).toEqual(['before'])
  })

  test('sends as much as kernel.msgmax allows, and says what more is too much', async () => {
    const queue = openSysv()
    const most = sysctl('msgmax')
    await send(queue, Buffer.alloc(most, 1))
    expect(queue.tryReceive()?.data).toEqual(Buffer.alloc(most, 1))
    const error = (await failureOf(() => send(queue, Buffer.alloc(most + 1)))) as QueueError
    expect(error).toEqual(failing('EINVAL', queue))
    expect(error.message).toBe(`EINVAL: invalid argument, msgsnd #${queue.id} (${most + 1} > ${most} bytes)`)
    expect(error.hint).toContain(`kernel.msgmax=${most + 1}`)
    expect(drain(queue)).toEqual([])
  })

  test.each<[unknown, string]>([
    [0, 'ERR_OUT_OF_RANGE'],
    [-1, 'ERR_OUT_OF_RANGE'],
    [1.5, 'ERR_OUT_OF_RANGE'],
    [Number.NaN, 'ERR_OUT_OF_RANGE'],
    [Number.POSITIVE_INFINITY, 'ERR_OUT_OF_RANGE'],
    [2 ** 53, 'ERR_OUT_OF_RANGE'],
    [0n, 'ERR_OUT_OF_RANGE'],
    [-1n, 'ERR_OUT_OF_RANGE'],
    [2n ** 63n, 'ERR_OUT_OF_RANGE'],
    [2n ** 64n + 1n, 'ERR_OUT_OF_RANGE'],
    ['1', 'ERR_INVALID_ARG_TYPE'],
    [null, 'ERR_INVALID_ARG_TYPE'],
    [{}, 'ERR_INVALID_ARG_TYPE'],
  ])('refuses the type %s', async (type, code) => {
    const queue = openSysv()
    expect(await failureOf(() => send(queue, 'x', type as number))).toMatchObject({ code })
    expect(drain(queue)).toEqual([])
  })

  test.each([7, null, undefined, {}, Symbol('x')])('refuses data such as %s', async (data) => {
    const queue = openSysv()
    expect(await failureOf(() => send(queue, data as never))).toMatchObject({ code: 'ERR_INVALID_ARG_TYPE' })
    expect(drain(queue)).toEqual([])
  })
})

/** What a queue of these types holds, by the rules of msgrcv(2). */
function chosen(types: readonly number[], { type = 0, except = false }: { type?: number; except?: boolean }): number {
  if (type === 0) return types.length > 0 ? 0 : -1
  if (type > 0) return types.findIndex((candidate) => (candidate === type) !== except)
  const lowest = Math.min(...types)
  return lowest <= -type ? types.indexOf(lowest) : -1
}

describe.each(receivers)('%s', (_, receive) => {
  const types = [4, 2, 3, 2, 1]

  test.each<[SysvReceiveOptions, number | undefined]>([
    [{}, 0],
    [{ type: 0 }, 0],
    [{ type: 0n }, 0],
    [{ type: 2 }, 1],
    [{ type: 3n }, 2],
    [{ type: -2 }, 4],
    [{ type: -(2n ** 63n) }, 4],
    [{ type: 4, except: true }, 1],
    [{ type: 5, except: true }, 0],
    [{ type: 2, except: false }, 1],
  ])('takes by %o what msgrcv(2) says', async (options, index) => {
    const queue = openSysv()
    queue.trySendMany(types.map((type, place) => ({ data: String(place), type })))
    const message = await receive(queue, options)
    expect([message?.data.toString(), message?.type]).toEqual([String(index), types[index ?? -1]])
    expect(drain(queue)).toEqual(types.map((_, place) => String(place)).filter((place) => place !== String(index)))
  })

  test('takes large types apart', async () => {
    const queue = openSysv()
    const large: SysvType[] = [2n ** 63n - 1n, 2 ** 53 - 1, 2n ** 53n, 2 ** 32 + 1, 1]
    queue.trySendMany(large.map((type) => ({ data: String(type), type })))
    for (const type of [...large].reverse()) {
      expect(await receive(queue, { type })).toMatchObject({ type, data: Buffer.from(String(type)) })
    }
  })

  test.each([
    [0, ''],
    [3, 'mes'],
    [7, 'message'],
    [8, 'message'],
    [8192, 'message'],
    [50_000, 'message'],
    [100_000, 'message'],
    [10_000_000, 'message'],
  ])('with size: %d and truncate keeps so much of a message, and loses the rest', async (size, kept) => {
    const queue = openSysv()
    queue.trySendMany([{ data: 'message', type: 3 }, 'next'])
    expect(await receive(queue, { size, truncate: true })).toMatchObject({ data: Buffer.from(kept), type: 3 })
    expect(drain(queue)).toEqual(['next'])
  })

  test.each([0, 6])('with size: %d alone leaves a longer message in the queue', async (size) => {
    const queue = openSysv()
    queue.trySendMany(['message', 'next'])
    const error = await failureOf(() => receive(queue, { size }))
    expect(error).toEqual(failing('E2BIG', queue))
    expect((error as QueueError).hint).toContain('truncate')
    expect(drain(queue)).toEqual(['message', 'next'])
  })

  test('with size takes a message that is not longer, and with truncate alone all of it', async () => {
    const queue = openSysv()
    const long = Buffer.alloc(sysctl('msgmax'), 1)
    queue.trySendMany(['message', long])
    expect((await receive(queue, { size: 7 }))?.data.toString()).toBe('message')
    expect((await receive(queue, { truncate: true }))?.data).toEqual(long)
  })

  test('brings a message of kernel.msgmax bytes, and one of none', async () => {
    const queue = openSysv()
    const data = Buffer.from(Array.from({ length: Math.min(sysctl('msgmax'), 8192) }, (_, index) => index % 251))
    queue.trySendMany([data, ''])
    expect((await receive(queue))?.data).toEqual(data)
    expect((await receive(queue))?.data).toEqual(Buffer.alloc(0))
  })

  test.each<[string, unknown, string]>([
    ['a type beyond 2^53 as a number', { type: 2 ** 53 }, 'ERR_OUT_OF_RANGE'],
    ['a type beyond 64 bits', { type: 2n ** 63n }, 'ERR_OUT_OF_RANGE'],
    ['half a type', { type: 0.5 }, 'ERR_OUT_OF_RANGE'],
    ['a type as text', { type: '1' }, 'ERR_INVALID_ARG_TYPE'],
    ['a negative size', { size: -1 }, 'ERR_OUT_OF_RANGE'],
    ['half a byte', { size: 0.5 }, 'ERR_OUT_OF_RANGE'],
    ['a size beyond 31 bits', { size: 2 ** 31 }, 'ERR_OUT_OF_RANGE'],
    ['a size as text', { size: '1' }, 'ERR_INVALID_ARG_TYPE'],
  ])('refuses %s, and takes nothing', async (_, options, code) => {
    const queue = openSysv()
    queue.trySend('x')
    expect(await failureOf(() => receive(queue, options as never))).toMatchObject({ code })
    expect(drain(queue)).toEqual(['x'])
  })
})

test('any sequence of sends and receives does what msgrcv(2) says', () => {
  const type = fc.integer({ min: 1, max: 5 })
  const selection = fc.record({ type: fc.integer({ min: -6, max: 6 }), except: fc.boolean() })
  const step = fc.oneof(
    fc.record({ send: type }),
    fc.record({ take: selection }),
    fc.record({ many: selection, max: fc.integer({ min: 1, max: 3 }) }),
    fc.record({ peek: fc.nat(4) }),
  )
  const queue = openSysv()
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      drain(queue)
      const model: { type: number; text: string }[] = []
      const take = (options: { type: number; except: boolean }) => {
        const index = chosen(
          model.map((message) => message.type),
          options,
        )
        return index === -1 ? [] : model.splice(index, 1)
      }
      const shown = (messages: Iterable<SysvMessage>) =>
        Array.from(messages, (message) => ({ type: message.type, text: message.text() }))
      for (const [place, action] of steps.entries()) {
        if ('send' in action) {
          const message = { type: action.send, text: String(place) }
          queue.trySend(message.text, message)
          model.push(message)
        } else if ('take' in action) {
          const message = queue.tryReceive(action.take)
          expect(shown(message ? [message] : [])).toEqual(take(action.take))
        } else if ('many' in action) {
          const expected = Array.from({ length: action.max }, () => take(action.many)).flat()
          expect(shown(queue.tryReceiveMany(action.max, action.many))).toEqual(expected)
        } else {
          expect(queue.peek(action.peek)?.text()).toBe(model[action.peek]?.text)
        }
        expect(queue.stat().messages).toBe(model.length)
      }
      expect(shown(queue.browse())).toEqual(model)
    }),
    { numRuns: 200 },
  )
})

describe.each(tries)('%s', (_, receive) => {
  test('brings undefined when nothing is there that it asks for', () => {
    const queue = openSysv()
    expect(receive(queue)).toBeUndefined()
    queue.trySend('x', { type: 3 })
    for (const options of [{ type: 2 }, { type: -2 }, { type: 3, except: true }]) {
      expect(receive(queue, options)).toBeUndefined()
    }
    expect(receive(queue)?.type).toBe(3)
  })
})

describe('a message', () => {
  test('owns its memory, and reads as text and JSON', async () => {
    const queue = openSysv()
    queue.trySendMany([JSON.stringify({ a: 1 }), 'second'])
    const first = queue.tryReceive()
    queue.tryReceive()
    expect(first).toBeInstanceOf(SysvMessage)
    expect(first?.text()).toBe('{"a":1}')
    expect(first?.json()).toEqual({ a: 1 })
    const waited = queue.receive()
    queue.trySend('third')
    expect(await waited).toBeInstanceOf(SysvMessage)
    expect((await waited).data.buffer.byteLength).toBeLessThan(1024)
  })
})

describe('receiving into a buffer', () => {
  test('writes no further than the message, and tells its type', () => {
    const queue = openSysv()
    const buffer = Buffer.alloc(10, 'z')
    queue.trySendMany([
      { data: 'abc', type: 2n ** 60n },
      { data: '', type: 9 },
    ])
    expect(queue.tryReceiveInto(buffer)).toBe(3)
    expect(queue.lastType).toBe(2n ** 60n)
    expect(queue.receiveIntoSync(buffer)).toBe(0)
    expect(queue.lastType).toBe(9)
    expect(buffer.toString()).toBe('abczzzzzzz')
    expect(queue.tryReceiveInto(buffer)).toBe(-1)
    expect(queue.lastType).toBe(9)
  })

  test('leaves a message that is longer than the buffer in the queue', () => {
    const queue = openSysv()
    queue.trySend('abcdef', { type: 4 })
    const short = new Uint8Array(5)
    for (const receive of [() => queue.tryReceiveInto(short), () => queue.receiveIntoSync(short)]) {
      expect(receive).toThrow(failing('E2BIG', queue))
      expect(receive).toThrow(expect.objectContaining({ syscall: 'msgrcv', hint: expect.stringContaining('truncate') }))
      expect(receive).toThrow(/\(room for 5 bytes\)$/)
    }
    expect(queue.tryReceiveInto(short, { size: 100, truncate: true })).toBe(5)
    expect(Buffer.from(short).toString()).toBe('abcde')
    expect(queue.stat().messages).toBe(0)
  })

  test('takes no more than size, and leaves the rest of the buffer alone', () => {
    const queue = openSysv()
    const buffer = Buffer.alloc(6, 'z')
    queue.trySendMany(['abcdef', 'ghijklm'])
    expect(() => queue.tryReceiveInto(buffer, { size: 2 })).toThrow(failing('E2BIG', queue))
    expect(queue.tryReceiveInto(buffer, { size: 2, truncate: true })).toBe(2)
    expect(buffer.toString()).toBe('abzzzz')
    expect(queue.receiveIntoSync(buffer, { truncate: true })).toBe(6)
    expect(buffer.toString()).toBe('ghijkl')
  })

  test('takes a part of a buffer, one of none, and one of megabytes', () => {
    const queue = openSysv()
    const whole = Buffer.alloc(8, 'z')
    queue.trySendMany(['ab', '', 'cd'])
    expect(queue.tryReceiveInto(whole.subarray(3, 6))).toBe(2)
    expect(whole.toString()).toBe('zzzabzzz')
    expect(queue.tryReceiveInto(new Uint8Array(0))).toBe(0)
    const large = Buffer.alloc(4 * 2 ** 20)
    expect(queue.tryReceiveInto(large)).toBe(2)
    expect(large.toString('utf8', 0, 2)).toBe('cd')
  })

  test('refuses other types', () => {
    const queue = openSysv()
    for (const buffer of [undefined, 'x', [1], new Uint16Array(4), new ArrayBuffer(4)]) {
      expect(() => queue.tryReceiveInto(buffer as never)).toThrow(TypeError)
      expect(() => queue.receiveIntoSync(buffer as never)).toThrow(TypeError)
    }
  })
})

describe('many at once', () => {
  test('tryReceiveMany brings what is there of what it asks for, up to max', () => {
    const queue = openSysv()
    queue.trySendMany(numbers(600).map((data, index) => ({ data, type: 1 + (index % 2) })))
    expect(queue.tryReceiveMany(7, { type: 2 }).map((message) => message.text())).toEqual(
      numbers(14).filter((_, index) => index % 2 === 1),
    )
    expect(queue.tryReceiveMany()).toHaveLength(256)
    expect(queue.tryReceiveMany(1000)).toHaveLength(600 - 7 - 256)
    expect(queue.tryReceiveMany()).toEqual([])
    for (const max of [0, -1, 1.5, Number.NaN]) expect(() => queue.tryReceiveMany(max)).toThrow(RangeError)
  })

  test('tryReceiveMany brings long messages among short ones', () => {
    const queue = openSysv()
    const lengths = [1, 4000, 0, 8000, 2, 3000]
    for (const length of lengths) queue.trySend(Buffer.alloc(length, length % 256))
    expect(queue.tryReceiveMany().map(({ data }) => data)).toEqual(
      lengths.map((length) => Buffer.alloc(length, length % 256)),
    )
  })

  test('tryReceiveMany with truncate cuts each', () => {
    const queue = openSysv()
    queue.trySendMany(['abc', 'd', '', 'efgh'])
    expect(drain(queue, { size: 2, truncate: true })).toEqual(['ab', 'd', '', 'ef'])
  })

  test('receiveMany waits for the first, then takes what is there of its kind', async () => {
    const queue = openSysv()
    const received = queue.receiveMany({ type: 2, max: 3 })
    expect(await isPending(received)).toBe(true)
    queue.trySend('other')
    queue.trySendMany(numbers(5).map((data) => ({ data, type: 2 })))
    expect((await received).map((message) => message.text())).toEqual(['0', '1', '2'])
    expect(drain(queue)).toEqual(['other', '3', '4'])
  })

  test('trySendMany sends what there is room for', () => {
    const queue = openSysv({ maxBytes: 5 })
    expect(queue.trySendMany(numbers(8))).toBe(5)
    expect(queue.trySendMany(['x'])).toBe(0)
    expect(queue.trySendMany([])).toBe(0)
    expect(drain(queue)).toEqual(numbers(5))
  })

  test.each(senders)('%s says that a message is longer than the queue ever holds, full or not', async (_, send) => {
    const queue = openSysv({ maxBytes: 4 })
    for (const held of [[], ['1'], ['1', '2', '3', '4']]) {
      queue.trySendMany(held)
      const error = await failureOf(() => send(queue, '12345'))
      expect(error).toMatchObject({ name: 'QueueError', code: 'EMSGSIZE', syscall: 'msgsnd', id: queue.id })
      expect(error).toMatchObject({ message: expect.stringContaining('(5 > 4 bytes)') })
      expect(error).toMatchObject({ hint: expect.stringContaining('set({ maxBytes })') })
      expect(drain(queue)).toEqual(held)
    }
    queue.set({ maxBytes: 5 })
    await send(queue, '12345')
    expect(drain(queue)).toEqual(['12345'])
  })

  test('such a message among others ends sendMany and trySendMany there', async () => {
    const queue = openSysv({ maxBytes: 4 })
    const messages = ['1', '2', '12345', '3']
    expect(() => queue.trySendMany(messages)).toThrow(expect.objectContaining({ code: 'EMSGSIZE', sent: 2 }))
    expect(drain(queue)).toEqual(['1', '2'])
    await expect(queue.sendMany(messages)).rejects.toMatchObject({ code: 'EMSGSIZE', sent: 2 })
    expect(drain(queue)).toEqual(['1', '2'])
  })

  test('such a message is refused when its turn comes, and those behind it are sent', async () => {
    const queue = fullQueue()
    const sends = ['5', '12345', '6'].map((data) => failureOf(() => queue.send(data).then(() => Promise.reject(data))))
    expect(queue.tryReceive()?.text()).toBe('1')
    expect(queue.receiveSync({ timeout: 5000 }).text()).toBe('2')
    expect(await Promise.all(sends)).toEqual(['5', expect.objectContaining({ code: 'EMSGSIZE' }), '6'])
    expect(drain(queue)).toEqual(['3', '4', '5', '6'])
  })

  test('one who may only send hears of it too', async ({ skip }) => {
    skip(!isRoot, 'only root can become another user')
    const queue = openSysv({ maxBytes: 4, mode: 0o622 })
    const [attempted] = await attemptSysv([['send', queue.id, '12345']], { uid: stranger })
    expect(attempted?.error).toMatchObject({ code: 'EMSGSIZE', syscall: 'msgsnd' })
  })

  test('trySendMany tells in its error how many went before', () => {
    const queue = openSysv()
    const messages = ['1', '2', Buffer.alloc(sysctl('msgmax') + 1), '3']
    expect(() => queue.trySendMany(messages)).toThrow(expect.objectContaining({ code: 'EINVAL', sent: 2 }))
    expect(drain(queue)).toEqual(['1', '2'])
  })

  test('sendMany sends all, in order, each with its type, though the queue holds few', async () => {
    const queue = openSysv({ maxBytes: 40 })
    const count = 2000
    const sent = queue.sendMany(numbers(count).map((data, index) => ({ data, type: 1 + (index % 3) })))
    const received: Received[] = []
    for await (const message of queue) if (received.push(message) === count) break
    await sent
    expect(received.map(({ data }) => data.toString())).toEqual(numbers(count))
    expect(received.map(({ type }) => type)).toEqual(numbers(count).map((index) => 1 + (Number(index) % 3)))
  })

  test('a closed queue says so, though a send that waited has not ended yet', async () => {
    const queue = fullQueue()
    const pending = failureOf(() => queue.send('5'))
    const ended = queue.close()
    expect(() => queue.trySend('6')).toThrow(closed(queue))
    expect(() => queue.trySendMany(['6'])).toThrow(closed(queue))
    await ended
    expect(await pending).toEqual(closed(queue))
  })

  test('sendMany tells how many went, whatever ended it', async () => {
    const ends: [string, (queue: SysvQueue, signal: AbortController) => void][] = [
      ['ABORT_ERR', (_, controller) => controller.abort()],
      ['ETIMEDOUT', () => {}],
      ['ERR_MQ_CLOSED', (queue) => void queue.close()],
      ['EIDRM', (queue) => queue.remove()],
    ]
    for (const [code, end] of ends) {
      const queue = openSysv({ maxBytes: 7 })
      const other = reopen(queue)
      const controller = new AbortController()
      const options = code === 'ETIMEDOUT' ? { timeout: 10_000 } : { signal: controller.signal }
      const sent = queue.sendMany(numbers(10), options)
      const failed = failureOf(() => sent)
      await turns()
      expect(other.tryReceiveMany(2).map((message) => message.text())).toEqual(['0', '1'])
      await expect.poll(() => other.stat().messages).toBe(7)
      end(queue, controller)
      expect(await failed).toMatchObject({ code, sent: 9 })
      if (code !== 'EIDRM') expect(drain(other)).toEqual(numbers(9).slice(2))
    }
  })

  test('sendMany that its own messages abort as they are first asked for, rejects', async () => {
    const queue = fullQueue()
    const controller = new AbortController()
    function* messages() {
      yield 'a'
      controller.abort('enough')
      yield 'b'
    }
    const sent = queue.sendMany(messages(), { signal: controller.signal })
    await expect(sent).rejects.toMatchObject({ code: 'ABORT_ERR', cause: 'enough', sent: 0 })
    expect(drain(queue)).toEqual(['1', '2', '3', '4'])
  })

  test('sendMany that its own messages abort sends nothing after it has rejected', async () => {
    const queue = openSysv({ maxBytes: 100 })
    const controller = new AbortController()
    function* messages() {
      for (let count = 0; count < 512; count++) yield Buffer.alloc(50, 'a')
      controller.abort()
      for (let count = 0; count < 512; count++) yield Buffer.alloc(50, 'b')
    }
    let error: { sent?: number } | undefined
    const ended = queue.sendMany(messages(), { signal: controller.signal }).catch((reason) => {
      error = reason
    })
    let received = 0
    while (error === undefined) {
      received += queue.tryReceiveMany().length
      await turns(1)
    }
    await ended
    expect(error).toMatchObject({ name: 'AbortError' })
    // Whatever waited, would come now.
    for (let round = 0; round < 100; round++) {
      received += queue.tryReceiveMany().length
      await new Promise((resolve) => setTimeout(resolve, 1))
    }
    expect(error?.sent).toBe(received)
  })

  test('what the messages of a sendMany send on their part is sent, though its time is over', async () => {
    const queue = openSysv()
    const inner: Promise<void>[] = []
    function* messages() {
      // More than it takes at once: the rest is asked for when it waits.
      for (let count = 0; count < 320; count++) {
        if (count === 300) inner.push(queue.send('inner'), queue.sendMany(['inner', 'too']))
        yield 'x'
      }
    }
    // It has to wait: so many have passed that the loop is to have its turn.
    for (let count = 0; count < 256; count++) {
      void queue.send('x')
      queue.tryReceive()
    }
    await queue.sendMany(messages(), { timeout: 0 })
    await Promise.all(inner)
    await queue.send('works')
    expect(drain(queue).slice(-4)).toEqual(['inner', 'inner', 'too', 'works'])
  })
})

describe('a waiting receive', () => {
  test.each(waits)('as %s is served by what comes', async (_, receive) => {
    const queue = openSysv()
    const received = receive(queue, { type: 2n ** 40n })
    expect(await isPending(received)).toBe(true)
    queue.trySend('other')
    expect(await isPending(received)).toBe(true)
    queue.trySend('mine', { type: 2 ** 40 })
    expect(await received).toMatchObject({ type: 2 ** 40, data: Buffer.from('mine') })
    expect(drain(queue)).toEqual(['other'])
  })

  test.each(waits)('as %s truncates what comes', async (_, receive) => {
    const queue = openSysv()
    const received = receive(queue, { size: 2, truncate: true })
    expect(await isPending(received)).toBe(true)
    queue.trySend('message')
    expect((await received)?.data.toString()).toBe('me')
  })

  test.each(waits)('as %s leaves what comes and is longer than its size', async (_, receive) => {
    const queue = openSysv()
    const failed = failureOf(() => receive(queue, { size: 2 }))
    expect(await isPending(failed)).toBe(true)
    queue.trySend('message')
    expect(await failed).toEqual(failing('E2BIG', queue))
    expect(drain(queue)).toEqual(['message'])
  })

  test('of the same kind as others is served in the order of the calls', async () => {
    const queue = openSysv()
    const received = numbers(10).map(() => queue.receive({ type: -5 }))
    const order: number[] = []
    for (const [index, promise] of received.entries()) promise.then(() => order.push(index))
    for (const data of numbers(10)) queue.trySend(data, { type: 5 })
    expect((await Promise.all(received)).map((message) => message.text())).toEqual(numbers(10))
    expect(order).toEqual(numbers(10).map(Number))
  })

  test('is not held up by those that wait for other types', async () => {
    const queue = openSysv()
    const received = [{ type: 10 }, { type: 20 }, { type: -4 }].map((options) => queue.receive(options))
    const never = failureOf(() => queue.receive({ type: 9 }))
    for (const [index, type] of [
      [1, 20],
      [2, 3],
      [0, 10],
    ] as const) {
      queue.trySend('mine', { type })
      expect(await received[index]).toMatchObject({ type })
    }
    const rest = queue.receive({ type: 9, except: true })
    queue.trySend('rest', { type: 8 })
    expect((await rest).text()).toBe('rest')
    expect(await isPending(never)).toBe(true)
    queue.close()
    expect(await never).toEqual(closed(queue))
  })

  test('keeps its place when one before it is given up', async () => {
    const queue = openSysv()
    const controllers = numbers(6).map(() => new AbortController())
    const outcomes = controllers.map(({ signal }, index) =>
      queue.receive({ signal, ...(index === 4 && { timeout: 5 }) }).then(
        (message) => message.text(),
        (error) => error.code,
      ),
    )
    controllers[0]?.abort()
    controllers[2]?.abort()
    expect(await outcomes[4]).toBe('ETIMEDOUT')
    expect([await outcomes[0], await outcomes[2]]).toEqual(['ABORT_ERR', 'ABORT_ERR'])
    queue.trySendMany(['a', 'b', 'c', 'd'])
    expect(await Promise.all(outcomes)).toEqual(['ABORT_ERR', 'a', 'ABORT_ERR', 'b', 'ETIMEDOUT', 'c'])
    expect(drain(queue)).toEqual(['d'])
  })

  test('is served before its time is over, though the loop was busy until after', async () => {
    const queue = openSysv()
    const received = numbers(3).map(() => queue.receive({ timeout: 3000 }))
    const outcomes = received.map((promise) =>
      promise.then(
        (message) => message.text(),
        (error) => error.code,
      ),
    )
    await turns(2)
    queue.trySendMany(['a', 'b', 'c'])
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 3100)
    expect(await Promise.all(outcomes)).toEqual(['a', 'b', 'c'])
  })

  test('asks for what it was told at the time of the call', async () => {
    const queue = openSysv()
    const options = { type: 3 }
    const received = [queue.receive(options), queue.receive(options), queue.receive(options)]
    options.type = 4
    queue.trySend('other', { type: 4 })
    queue.trySendMany(['a', 'b', 'c'].map((data) => ({ data, type: 3 })))
    expect((await Promise.all(received)).map((message) => message.text())).toEqual(['a', 'b', 'c'])
    expect(drain(queue)).toEqual(['other'])
  })

  test('gets what a blocking call does not ask for', async () => {
    const queue = openSysv()
    const waiting = queue.receive({ type: 1 })
    queue.trySendMany([
      { data: 'two', type: 2 },
      { data: 'one', type: 1 },
    ])
    expect(queue.receiveSync({ type: 2 }).text()).toBe('two')
    expect((await waiting).text()).toBe('one')
  })
})

describe('a waiting send', () => {
  test.each(['send', 'sendMany'] as const)('by %s goes as soon as there is room', async (name) => {
    const queue = fullQueue()
    const sent =
      name === 'send' ? queue.send('5', { type: 2n ** 62n }) : queue.sendMany([{ data: '5', type: 2n ** 62n }])
    expect(await isPending(sent)).toBe(true)
    expect(queue.tryReceive()?.text()).toBe('1')
    await sent
    expect(queue.tryReceiveMany().map(({ type }) => type)).toEqual([1, 1, 1, 2n ** 62n])
  })

  test('copies its data at the time of the call', async () => {
    const queue = fullQueue()
    const data = Buffer.from('5')
    const sent = [queue.send(data), queue.send(data)]
    data.fill('x')
    expect(queue.tryReceiveMany(2)).toHaveLength(2)
    await Promise.all(sent)
    expect(drain(queue)).toEqual(['3', '4', '5', '5'])
  })

  test('keeps the order of calls that nobody awaits, whatever their types', async () => {
    const queue = openSysv({ maxBytes: 20 })
    const sent = numbers(300).map((data, index) => queue.send(data, { type: 1 + (index % 5) }))
    const received: string[] = []
    for await (const message of queue) if (received.push(message.text()) === 300) break
    await Promise.all(sent)
    expect(received).toEqual(numbers(300))
  })

  test('is not overtaken by trySend and trySendMany', async () => {
    const queue = fullQueue()
    const sent = queue.send('5')
    expect(queue.tryReceiveMany(3)).toHaveLength(3)
    // There is room now, and the first has not heard yet that it went.
    expect([queue.trySend('6'), queue.trySendMany(['7'])]).toEqual([false, 0])
    await sent
    expect(queue.trySend('6')).toBe(true)
    expect(drain(queue)).toEqual(['4', '5', '6'])
  })

  test('goes when set() lets the queue hold more', async () => {
    const queue = fullQueue()
    const sent = queue.send('5')
    expect(await isPending(sent)).toBe(true)
    queue.set({ maxBytes: 5 })
    await sent
    expect(drain(queue)).toEqual(['1', '2', '3', '4', '5'])
  })

  test('that is given up was not sent, and those behind it go on', async () => {
    const queue = fullQueue()
    const controller = new AbortController()
    const outcomes = [
      queue.send('a', { signal: controller.signal }),
      queue.send('b'),
      queue.send('c', { timeout: 5 }),
      queue.send('d'),
    ].map((sent) => sent.catch((error) => error.code))
    expect(await outcomes[2]).toBe('ETIMEDOUT')
    controller.abort()
    expect(await outcomes[0]).toBe('ABORT_ERR')
    expect(queue.tryReceiveMany(2)).toHaveLength(2)
    expect(await Promise.all(outcomes)).toEqual(['ABORT_ERR', undefined, 'ETIMEDOUT', undefined])
    expect(drain(queue)).toEqual(['3', '4', 'b', 'd'])
  })

  test('does not hold up those that receive', async () => {
    const queue = fullQueue()
    const sent = queue.send('5')
    const received = queue.receive({ type: 2 })
    expect((await queue.receive()).text()).toBe('1')
    await sent
    queue.tryReceive()
    await queue.send('6', { type: 2 })
    expect((await received).text()).toBe('6')
  })
})

const givenUp: [string, (queue: SysvQueue, options: { timeout?: never; signal?: never }) => unknown][] = [
  ['receive', (queue, options) => queue.receive({ type: 2, ...options })],
  ['receiveMany', (queue, options) => queue.receiveMany({ type: 2, ...options })],
  ['messages', (queue, options) => queue.messages({ type: 2, ...options }).next()],
  ['batches', (queue, options) => queue.batches({ type: 2, ...options }).next()],
  ['send', (queue, options) => queue.send('x', options)],
  ['sendMany', (queue, options) => queue.sendMany(['x'], options)],
]

describe.each([
  ...givenUp,
  ['receiveSync', (queue, options) => queue.receiveSync({ type: 2, ...options })],
  ['receiveIntoSync', (queue, options) => queue.receiveIntoSync(Buffer.alloc(9), { type: 2, ...options })],
  ['sendSync', (queue, options) => queue.sendSync('x', options)],
] as typeof givenUp)('the timeout of %s', (_, call) => {
  test.each([0, 0.2, 1, 30])('of %d ms ends it with ETIMEDOUT, not before', async (timeout) => {
    const queue = fullQueue()
    const start = performance.now()
    const error = await failureOf(() => call(queue, { timeout: timeout as never }))
    expect(performance.now() - start).toBeGreaterThanOrEqual(timeout)
    expect(error).toEqual(failing('ETIMEDOUT', queue))
    expect(drain(queue)).toEqual(['1', '2', '3', '4'])
  })

  test.each<[unknown, string]>([
    [-1, 'ERR_OUT_OF_RANGE'],
    [Number.NaN, 'ERR_OUT_OF_RANGE'],
    [Number.NEGATIVE_INFINITY, 'ERR_OUT_OF_RANGE'],
    ['10', 'ERR_INVALID_ARG_TYPE'],
    [10n, 'ERR_INVALID_ARG_TYPE'],
    [null, 'ERR_INVALID_ARG_TYPE'],
  ])('may not be %s', async (timeout, code) => {
    expect(await failureOf(() => call(fullQueue(), { timeout: timeout as never }))).toMatchObject({ code })
  })
})

describe.each(givenUp)('the signal of %s', (_, call) => {
  test('ends it with its reason', async () => {
    const queue = fullQueue()
    const controller = new AbortController()
    const ended = failureOf(() => call(queue, { signal: controller.signal as never }))
    expect(await isPending(ended)).toBe(true)
    controller.abort('enough')
    const error = await ended
    expect(error).toBeInstanceOf(AbortError)
    expect(error).toMatchObject({ name: 'AbortError', code: 'ABORT_ERR', cause: 'enough' })
    expect(drain(queue)).toEqual(['1', '2', '3', '4'])
  })

  test('that is aborted already keeps it from beginning', async () => {
    const queue = openSysv()
    queue.trySend('here', { type: 2 })
    const signal = AbortSignal.abort('early')
    expect(await failureOf(() => call(queue, { signal: signal as never }))).toMatchObject({ cause: 'early' })
    expect(drain(queue)).toEqual(['here'])
  })

  test('may not be something else', async () => {
    expect(await failureOf(() => call(fullQueue(), { signal: {} as never }))).toMatchObject({
      code: 'ERR_INVALID_ARG_TYPE',
    })
  })
})

describe('waiting', () => {
  test('with a timeout that setTimeout() cannot take, waits', async () => {
    const queue = openSysv()
    for (const timeout of [2 ** 31, 2 ** 53, Number.POSITIVE_INFINITY]) {
      const received = queue.receive({ timeout })
      expect(await isPending(received)).toBe(true)
      queue.trySend('x')
      expect((await received).text()).toBe('x')
    }
    queue.trySendMany(['a', 'b'])
    expect(queue.receiveSync({ timeout: Number.POSITIVE_INFINITY }).text()).toBe('a')
    expect(queue.receiveSync({ timeout: 2 ** 53 }).text()).toBe('b')
  })

  test('with timeout 0 takes what is there', async () => {
    const queue = openSysv()
    queue.trySendMany(['a', 'b', 'c'])
    expect((await queue.receive({ timeout: 0 })).text()).toBe('a')
    expect(queue.receiveSync({ timeout: 0 }).text()).toBe('b')
    expect(await queue.receiveMany({ timeout: 0 })).toHaveLength(1)
  })

  test('with timeout 0 takes what is there, after those who asked before', async () => {
    const queue = openSysv()
    const other = reopen(queue)
    const before = [queue.receive(), queue.receive()]
    await turns()
    // The thread of the first has one, of which the loop has not heard yet.
    other.trySend('1')
    while (other.stat().messages > 0);
    other.trySendMany(['2', '3'])
    const last = queue.receive({ timeout: 0 })
    const received = await Promise.all([...before, last])
    expect(received.map((message) => message.text())).toEqual(['1', '2', '3'])
  })

  test('with one signal many times over adds one listener, and leaves none', async () => {
    const warnings: Error[] = []
    const listener = (warning: Error) => warnings.push(warning)
    process.on('warning', listener)
    onTestFinished(() => void process.off('warning', listener))
    const queue = openSysv()
    const controller = new AbortController()
    const { signal } = controller
    const ended = numbers(30).map((type) => failureOf(() => queue.receive({ type: Number(type) % 7, signal })))
    await turns()
    controller.abort()
    for (const error of await Promise.all(ended)) expect(error).toMatchObject({ code: 'ABORT_ERR' })
    expect(warnings).toEqual([])
  })

  test('gives the loop its turns, though messages never end', async () => {
    const queue = openSysv()
    const feed = () => {
      while (queue.trySend('x'));
    }
    let turnsTaken = 0
    const turn = () => {
      turnsTaken++
      immediate = setImmediate(turn)
    }
    let immediate = setImmediate(turn)
    feed()
    let received = 0
    for await (const _ of queue) {
      if (received++ % 1000 === 0) feed()
      if (received === 20_000) break
    }
    clearImmediate(immediate)
    expect(turnsTaken).toBeGreaterThan(20)
  })
})

describe('for await', () => {
  test('of one type leaves the others, and ends when the queue is closed', async () => {
    const queue = openSysv()
    const received: string[] = []
    const loop = (async () => {
      for await (const message of queue.messages({ type: 3 })) {
        expect(message.type).toBe(3)
        received.push(message.text())
      }
    })()
    for (const data of numbers(30)) await queue.send(data, { type: 1 + (Number(data) % 3) })
    await expect.poll(() => received).toEqual(numbers(30).filter((data) => Number(data) % 3 === 2))
    const other = reopen(queue)
    queue.close()
    await loop
    expect(other.stat().messages).toBe(20)
  })

  test('takes a message only when it is asked for one, and loses none when it is left', async () => {
    const queue = openSysv()
    queue.trySendMany(['1', '2', '3'])
    for await (const message of queue) {
      expect(message.text()).toBe('1')
      await turns()
      expect(queue.stat().messages).toBe(2)
      break
    }
    const failure = new Error('of the body')
    const loop = async () => {
      for await (const _ of queue) throw failure
    }
    await expect(loop()).rejects.toBe(failure)
    expect(drain(queue)).toEqual(['3'])
  })

  test('several at once share what comes', async () => {
    const queue = openSysv()
    const seen: string[] = []
    const loops = [{}, { type: 1 }, { type: 2 }, {}].map(async (options) => {
      for await (const message of queue.messages(options)) seen.push(message.text())
    })
    for (const data of numbers(200)) await queue.send(data, { type: 1 + (Number(data) % 2) })
    await expect.poll(() => seen.length).toBe(200)
    queue.close()
    await Promise.all(loops)
    expect(new Set(seen).size).toBe(200)
  })

  test('an iterator that is returned while it waits, ends and takes nothing', async () => {
    const queue = openSysv()
    const iterator = queue.messages()
    const requests = [iterator.next(), iterator.next()]
    await iterator.return?.()
    for (const request of requests) expect(await request).toEqual({ value: undefined, done: true })
    queue.trySend('x')
    await turns()
    expect(drain(queue)).toEqual(['x'])
  })

  test('batches of one type bring what is there', async () => {
    const queue = openSysv()
    queue.trySendMany(numbers(6).map((data) => ({ data, type: 1 + (Number(data) % 2) })))
    const iterator = queue.batches({ type: 2, max: 2 })
    const texts = async () => (await iterator.next()).value?.map((message) => message.text())
    expect([await texts(), await texts()]).toEqual([['1', '3'], ['5']])
    const next = texts()
    queue.trySend('7', { type: 2 })
    expect(await next).toEqual(['7'])
  })
})

describe('consume', () => {
  test('hands out messages of its kind, and resolves when the queue is closed', async () => {
    const queue = openSysv()
    const seen: string[] = []
    const consumed = queue.consume((message) => seen.push(message.text()), { type: -2 })
    queue.trySendMany(numbers(6).map((data) => ({ data, type: 1 + (Number(data) % 3) })))
    await expect.poll(() => [...seen].sort()).toEqual(['0', '1', '3', '4'])
    const other = reopen(queue)
    queue.close()
    await consumed
    expect(drain(other)).toEqual(['2', '5'])
  })

  test('runs no more handlers at once than it is told', async () => {
    const queue = openSysv()
    let running = 0
    let most = 0
    let done = 0
    const consumed = queue.consume(
      async () => {
        most = Math.max(most, ++running)
        await turns(3)
        running--
        done++
      },
      { concurrency: 3 },
    )
    queue.trySendMany(numbers(30))
    await expect.poll(() => done).toBe(30)
    expect(most).toBe(3)
    queue.close()
    await consumed
  })

  test('rejects with the error of a handler, and takes no more', async () => {
    const queue = openSysv()
    const failure = new Error('of the handler')
    const consumed = queue.consume(
      (message) => {
        if (message.text() === '2') throw failure
      },
      { concurrency: 2 },
    )
    queue.trySendMany(['1', '2'])
    await expect(consumed).rejects.toBe(failure)
    queue.trySend('3')
    await turns()
    expect(drain(queue)).toEqual(['3'])
  })

  test('stops at its signal, and what it took is handled', async () => {
    const queue = openSysv()
    const controller = new AbortController()
    const seen: string[] = []
    const consumed = queue.consume((message) => seen.push(message.text()), { signal: controller.signal })
    queue.trySend('1')
    await expect.poll(() => seen).toEqual(['1'])
    controller.abort('enough')
    await expect(consumed).rejects.toMatchObject({ code: 'ABORT_ERR', cause: 'enough' })
    queue.trySend('2')
    await turns()
    expect([...seen, ...drain(queue)]).toEqual(['1', '2'])
  })
})

describe('streams', () => {
  test('carry messages with their types through a pipeline', async () => {
    const [there, back] = [openSysv({ maxBytes: 20 }), openSysv({ maxBytes: 20 })]
    const reply = new Transform({
      objectMode: true,
      transform: (message: SysvMessage, _, callback) =>
        callback(null, { data: `re: ${message.text()}`, type: 10 + Number(message.type) }),
    })
    const piped = pipeline(there.createReadStream(), reply, back.createWriteStream())
    const sent = there.sendMany(numbers(200).map((data) => ({ data, type: 1 + (Number(data) % 4) })))
    const received: [string, SysvType][] = []
    for await (const message of back) if (received.push([message.text(), message.type]) === 200) break
    await sent
    there.close()
    await piped
    expect(received).toEqual(numbers(200).map((data) => [`re: ${data}`, 11 + (Number(data) % 4)]))
  })

  test('of one type bring that type', async () => {
    const queue = openSysv()
    queue.trySendMany(numbers(9).map((data) => ({ data, type: 1 + (Number(data) % 3) })))
    const stream = queue.createReadStream({ type: 3 })
    const seen: string[] = []
    stream.on('data', (message: SysvMessage) => seen.push(message.text()))
    await expect.poll(() => seen).toEqual(['2', '5', '8'])
    stream.destroy()
    await once(stream, 'close')
    expect(drain(queue)).toEqual(['0', '1', '3', '4', '6', '7'])
  })

  test('destroyed while they wait, take and send nothing after', async () => {
    const queue = fullQueue()
    const writable = queue.createWriteStream()
    const readable = queue.createReadStream({ type: 2 })
    readable.resume()
    writable.write('5')
    await turns()
    for (const stream of [readable, writable]) {
      stream.destroy()
      await once(stream, 'close')
    }
    expect(drain(queue)).toEqual(['1', '2', '3', '4'])
    await turns()
    queue.trySend('x', { type: 2 })
    await turns()
    expect(drain(queue)).toEqual(['x'])
  })

  test('end, or fail, when the queue is removed', async () => {
    const queue = openSysv()
    const stream = queue.createReadStream().resume()
    const failed = once(stream, 'error')
    await turns()
    queue.remove()
    expect(await failed).toEqual([failing('EIDRM', queue)])
  })
})

describe('peek and browse', () => {
  test('show what is in the queue, and remove nothing', () => {
    const queue = openSysv()
    queue.trySendMany([
      { data: 'a', type: 5 },
      { data: '', type: 2n ** 60n },
      { data: Buffer.alloc(3000, 1), type: 1 },
    ])
    const before = queue.stat()
    for (let round = 0; round < 2; round++) {
      expect(queue.peek()).toMatchObject({ type: 5, data: Buffer.from('a') })
      expect(queue.peek(1)).toMatchObject({ type: 2n ** 60n, data: Buffer.alloc(0) })
      expect(queue.peek(2)).toMatchObject({ type: 1, data: Buffer.alloc(3000, 1) })
      expect(queue.peek(3)).toBeUndefined()
      expect(queue.peek(Number.MAX_SAFE_INTEGER)).toBeUndefined()
      expect([...queue.browse()].map((message) => message.type)).toEqual([5, 2n ** 60n, 1])
    }
    expect(queue.peek()).toBeInstanceOf(SysvMessage)
    expect(queue.stat()).toEqual(before)
  })

  test('show nothing in an empty queue', () => {
    const queue = openSysv()
    expect(queue.peek()).toBeUndefined()
    expect([...queue.browse()]).toEqual([])
  })

  test('may be used while messages are taken', () => {
    const queue = openSysv()
    queue.trySendMany(numbers(10))
    const seen: string[] = []
    for (const message of queue.browse()) {
      seen.push(message.text())
      if (seen.length === 3) queue.tryReceiveMany(5)
    }
    expect(seen).toEqual(['0', '1', '2', '8', '9'])
  })

  test.each([-1, 0.5, Number.NaN])('peek refuses %s', (index) => {
    expect(() => openSysv().peek(index)).toThrow(RangeError)
  })

  test.each(['0', null, 0n])('peek refuses %o', (index) => {
    expect(() => openSysv().peek(index as never)).toThrow(TypeError)
  })
})

describe('stat', () => {
  /** A time that the kernel is not behind: it counts whole seconds, and not before its next tick. */
  const lastSecond = () => Math.floor(Date.now() / 1000) * 1000 - 1000

  test('tells everything of a queue that has just been created', () => {
    const key = uniqueKey()
    const before = lastSecond()
    const stat = SysvQueue.open(key, { create: true, mode: 0o640, maxBytes: 1000 }).stat()
    const { changedAt, ...rest } = stat
    expect(rest).toStrictEqual({
      key: hex(key),
      messages: 0,
      bytes: 0,
      maxBytes: 1000,
      lastSender: undefined,
      lastReceiver: undefined,
      sentAt: undefined,
      receivedAt: undefined,
      uid: process.geteuid?.(),
      gid: process.getegid?.(),
      creatorUid: process.geteuid?.(),
      creatorGid: process.getegid?.(),
      mode: 0o640,
    })
    expect(changedAt.getTime()).toBeGreaterThanOrEqual(before)
    expect(changedAt.getTime()).toBeLessThanOrEqual(Date.now())
  })

  test('tells who sent and received last, and when', async () => {
    const queue = openSysv({ mode: 0o666 })
    const before = lastSecond()
    await attemptSysv([['trySend', queue.id, 'abc']])
    const sent = queue.stat()
    expect(sent).toMatchObject({ messages: 1, bytes: 3, lastReceiver: undefined, receivedAt: undefined })
    expect(sent.lastSender).not.toBe(process.pid)
    expect(sent.sentAt?.getTime()).toBeGreaterThanOrEqual(before)
    expect(sent.sentAt?.getTime()).toBeLessThanOrEqual(Date.now())
    queue.trySend('d')
    queue.tryReceive()
    const received = queue.stat()
    expect(received).toMatchObject({ messages: 1, bytes: 1, lastSender: process.pid, lastReceiver: process.pid })
    expect(received.receivedAt?.getTime()).toBeGreaterThanOrEqual(before)
  })

  test('counts what a waiting receive took', async () => {
    const queue = openSysv()
    const received = queue.receive()
    await turns()
    queue.trySend('x')
    await received
    // The kernel names the thread that waited, which need not be there any more.
    expect(queue.stat()).toMatchObject({ messages: 0, lastReceiver: expect.any(Number), lastSender: process.pid })
  })
})

describe('set', () => {
  test('changes what it is given, and nothing else', () => {
    const queue = openSysv({ maxBytes: 1000 })
    const before = queue.stat()
    queue.set({ mode: 0o644 })
    expect(queue.stat()).toEqual({ ...before, mode: 0o644, changedAt: expect.any(Date) })
    queue.set({ maxBytes: 10 })
    expect(queue.stat()).toEqual({ ...before, mode: 0o644, maxBytes: 10, changedAt: expect.any(Date) })
    queue.set({})
    expect(queue.stat()).toEqual({ ...before, mode: 0o644, maxBytes: 10, changedAt: expect.any(Date) })
  })

  test('tells the time of the change', async () => {
    const queue = openSysv()
    const { changedAt } = queue.stat()
    // The kernel counts whole seconds.
    await expect
      .poll(() => {
        queue.set({ mode: 0o600 })
        return queue.stat().changedAt.getTime()
      })
      .toBeGreaterThan(changedAt.getTime())
  })

  test('gives the queue to another user, and its creator may take it back', async ({ skip }) => {
    skip(!isRoot, 'only root can become another user')
    const queue = openSysv()
    queue.set({ uid: stranger, gid: stranger + 1 })
    expect(queue.stat()).toMatchObject({ uid: stranger, gid: stranger + 1, creatorUid: 0, creatorGid: 0 })
    const [changed, sent] = await attemptSysv(
      [
        ['set', queue.id, { mode: 0o620 }],
        ['trySend', queue.id, 'theirs'],
      ],
      { uid: stranger },
    )
    expect([changed, sent]).toEqual([{ value: null }, { value: true }])
    expect(queue.stat()).toMatchObject({ mode: 0o620, uid: stranger, gid: stranger + 1, messages: 1 })
    queue.set({ uid: 0, gid: 0 })
    expect(queue.stat()).toMatchObject({ uid: 0, gid: 0, mode: 0o620 })
  })

  test('is refused to others, as is remove', async ({ skip }) => {
    skip(!isRoot, 'only root can become another user')
    const queue = openSysv({ mode: 0o666 })
    const attempted = await attemptSysv(
      [
        ['set', queue.id, { mode: 0o600 }],
        ['remove', queue.id],
      ],
      { uid: stranger },
    )
    for (const { error } of attempted) {
      expect(error).toMatchObject({ code: 'EPERM', errno: -errno.EPERM, syscall: 'msgctl', id: queue.id })
      expect(error?.hint).toContain('owner')
    }
    expect(queue.stat().mode).toBe(0o666)
  })

  test('changes a queue of one’s own that may not be read', async ({ skip }) => {
    skip(!isRoot, 'only root can become another user')
    const queue = openSysv({ mode: 0, maxBytes: 500 })
    queue.set({ uid: stranger })
    const [changed] = await attemptSysv([['set', queue.id, { maxBytes: 100 }]], { uid: stranger })
    expect(changed).toEqual({ value: null })
    expect(queue.stat()).toMatchObject({ maxBytes: 100, mode: 0, uid: stranger })
  })

  test('beyond kernel.msgmnb is refused without the privilege', async () => {
    const queue = openSysv()
    queue.set({ uid: isRoot ? stranger : (process.getuid?.() ?? 0) })
    const maxBytes = sysctl('msgmnb') + 1
    const [attempted] = await attemptSysv([['set', queue.id, { maxBytes }]], { uid: isRoot ? stranger : undefined })
    expect(attempted?.error).toMatchObject({ code: 'EPERM', id: queue.id })
    expect(attempted?.error?.hint).toContain('kernel.msgmnb')
    expect(queue.stat().maxBytes).toBe(sysctl('msgmnb'))
  })

  test.each<[string, object, string]>([
    ['a mode beyond 0o777', { mode: 0o1000 }, 'ERR_OUT_OF_RANGE'],
    ['negative maxBytes', { maxBytes: -1 }, 'ERR_OUT_OF_RANGE'],
    ['maxBytes that the kernel would cut to 100', { maxBytes: 2 ** 32 + 100 }, 'ERR_OUT_OF_RANGE'],
    ['maxBytes that are a negative int', { maxBytes: 2 ** 31 }, 'ERR_OUT_OF_RANGE'],
    ['the uid -1, which chown(2) takes for none', { uid: -1 }, 'ERR_OUT_OF_RANGE'],
    ['the uid 2^32-1', { uid: 2 ** 32 - 1 }, 'ERR_OUT_OF_RANGE'],
    ['half a gid', { gid: 0.5 }, 'ERR_OUT_OF_RANGE'],
    ['a gid as text', { gid: '0' }, 'ERR_INVALID_ARG_TYPE'],
  ])('refuses %s', (_, changes, code) => {
    const queue = openSysv()
    const before = queue.stat()
    expect(() => queue.set(changes)).toThrow(expect.objectContaining({ code }))
    expect(queue.stat()).toEqual(before)
  })
})

describe('list and limits', () => {
  test('list tells of each queue what stat tells, and its id', async () => {
    const key = uniqueKey()
    const queues = [openSysv(), SysvQueue.open(key, { create: true, mode: 0o604 }), openSysv({ maxBytes: 77 })]
    queues[1]?.trySend('abc')
    const rows = await SysvQueue.list()
    for (const queue of queues) {
      expect(rows.find(({ id }) => id === queue.id)).toEqual({ id: queue.id, ...queue.stat() })
    }
    queues[0]?.remove()
    expect((await SysvQueue.list()).map(({ id }) => id)).not.toContain(queues[0]?.id)
  })

  test('list agrees with /proc/sysvipc/msg', async ({ skip }) => {
    skip(!canUnshare, 'needs an IPC namespace of its own, which root can make, where no other test is busy')
    const [, , , listed, proc] = await attemptSysv(
      [
        ['open', '0x2a', { create: true, mode: 0o640 }],
        ['trySend', null, 'abc'],
        ['open', 'private'],
        ['list'],
        ['proc'],
      ],
      { through: ['unshare', '--ipc'] },
    )
    const rows = proc?.value.trim().split('\n').slice(1)
    expect(listed?.value).toHaveLength(2)
    const seconds = (date?: string) => (date === undefined ? 0 : Date.parse(date) / 1000)
    expect(
      listed?.value.map((row: Record<string, never>) =>
        [
          Number(row.key) | 0,
          row.id,
          Number(row.mode).toString(8),
          row.bytes,
          row.messages,
          row.lastSender ?? 0,
          row.lastReceiver ?? 0,
          row.uid,
          row.gid,
          row.creatorUid,
          row.creatorGid,
          seconds(row.sentAt),
          seconds(row.receivedAt),
          seconds(row.changedAt),
        ].join(' '),
      ),
    ).toEqual(rows?.map((row: string) => row.trim().split(/\s+/).join(' ')))
  })

  test('list shows queues of others, that may not be read', async ({ skip }) => {
    skip(!isRoot, 'only root can become another user')
    const queue = openSysv({ mode: 0, maxBytes: 99 })
    queue.trySend('secret')
    const [listed, stat, peeked] = await attemptSysv([['list'], ['stat', queue.id], ['peek', queue.id]], {
      uid: stranger,
    })
    expect(listed?.value.find(({ id }: { id: number }) => id === queue.id)).toMatchObject({
      messages: 1,
      bytes: 6,
      maxBytes: 99,
      uid: 0,
      mode: 0,
      lastSender: process.pid,
    })
    for (const refused of [stat, peeked]) expect(refused?.error).toMatchObject({ code: 'EACCES', id: queue.id })
  })

  test('list is empty where there is no queue', async ({ skip }) => {
    skip(!canUnshare, 'needs an IPC namespace of its own, which root can make')
    expect(await attemptSysv([['list']], { through: ['unshare', '--ipc'] })).toEqual([{ value: [] }])
  })

  test('limits are those of this IPC namespace', async ({ skip }) => {
    expect(SysvQueue.limits()).toEqual({
      queues: sysctl('msgmni'),
      messageSize: sysctl('msgmax'),
      maxBytes: sysctl('msgmnb'),
    })
    skip(!canUnshare, 'needs an IPC namespace of its own, which root can make')
    const [, , , limits] = await attemptSysv(
      [['sysctl', 'msgmni', 7], ['sysctl', 'msgmax', 70_000], ['sysctl', 'msgmnb', 100_000], ['limits']],
      { through: ['unshare', '--ipc'] },
    )
    expect(limits).toEqual({ value: { queues: 7, messageSize: 70_000, maxBytes: 100_000 } })
  })
})

describe('close', () => {
  test('lets go of the queue, which lives on with its messages', () => {
    const queue = openSysv()
    queue.trySend('kept')
    queue.close()
    expect(reopen(queue).tryReceive()?.text()).toBe('kept')
  })

  test('may be called again, and brings the same promise', async () => {
    const queue = openSysv()
    const first = queue.close()
    expect(queue.close()).toBe(first)
    expect(await first).toBeUndefined()
    expect(queue.close()).toBe(first)
  })

  test('leaves nothing but the id', async () => {
    const queue = openSysv()
    const { id } = queue
    const calls = [
      ...receivers
        .filter(([name]) => /^(try|receive)/.test(name))
        .map(
          ([, receive]) =>
            () =>
              receive(queue),
        ),
      ...senders.map(
        ([, send]) =>
          () =>
            send(queue, 'x'),
      ),
      () => queue.peek(),
      () => [...queue.browse()],
      () => queue.stat(),
      () => queue.set({ mode: 0o600 }),
      () => queue.remove(),
    ]
    await queue.close()
    for (const call of calls) expect(await failureOf(call)).toEqual(closed(queue))
    expect(queue.id).toBe(id)
    expect(reopen(queue).stat()).toMatchObject({ messages: 0, maxBytes: sysctl('msgmnb') })
    for await (const message of queue) expect.unreachable(message.text())
    for await (const batch of queue.batches()) expect.unreachable(String(batch.length))
    await queue.consume(() => {})
  })

  test('ends whatever waits, first and behind, and then nothing waits', async () => {
    const queue = fullQueue()
    const waiting = [
      ...numbers(3).map(() => queue.receive({ type: 5 })),
      ...numbers(3).map(() => queue.send('x')),
      queue.receiveMany({ type: 6 }),
      queue.sendMany(['x']),
    ]
    const iterations = [queue.messages({ type: 7 }).next(), queue.batches({ type: 8 }).next()]
    const consumed = queue.consume(() => {}, { type: 9, concurrency: 3 })
    const outcomes = waiting.map((promise) => failureOf(() => promise))
    await turns()
    let ended = 0
    for (const outcome of outcomes) outcome.then(() => ended++)
    await queue.close()
    await turns(1)
    expect(ended).toBe(outcomes.length)
    for (const outcome of outcomes) expect(await outcome).toEqual(closed(queue))
    for (const iteration of iterations) expect(await iteration).toEqual({ value: undefined, done: true })
    await consumed
    expect(drain(reopen(queue))).toEqual(['1', '2', '3', '4'])
  })

  test('ends what is asked for while it ends the rest', async () => {
    const queue = fullQueue()
    const waiting = [failureOf(() => queue.receive({ type: 5 })), failureOf(() => queue.send('x'))]
    const closing = queue.close()
    waiting.push(
      failureOf(() => queue.receive({ type: 5 })),
      failureOf(() => queue.receive({ type: 6 })),
      failureOf(() => queue.send('y')),
    )
    await closing
    for (const outcome of waiting) expect(await outcome).toEqual(closed(queue))
    expect(drain(reopen(queue))).toEqual(['1', '2', '3', '4'])
  })

  test('is what disposing does', async () => {
    const [one, other] = [openSysv(), openSysv()]
    const waiting = failureOf(() => one.receive())
    one[Symbol.dispose]()
    await other[Symbol.asyncDispose]()
    expect(await waiting).toEqual(closed(one))
    expect(() => other.tryReceive()).toThrow(closed(other))
    expect(reopen(one).stat().messages + reopen(other).stat().messages).toBe(0)
  })
})

describe('remove', () => {
  test('destroys the queue and its messages', async () => {
    const key = uniqueKey()
    const queue = SysvQueue.open(key, { create: true })
    queue.trySend('x')
    queue.remove()
    expect((await SysvQueue.list()).map(({ id }) => id)).not.toContain(queue.id)
    expect(() => SysvQueue.open(key)).toThrow(expect.objectContaining({ code: 'ENOENT' }))
    const fresh = SysvQueue.open(key, { create: true })
    expect(fresh.id).not.toBe(queue.id)
    expect(fresh.stat().messages).toBe(0)
    expect(await failureOf(() => queue.tryReceive())).toEqual(failing('EIDRM', queue))
  })

  test('makes every later call say that the queue is gone, in every handle', async () => {
    const queue = openSysv()
    const other = reopen(queue)
    other.remove()
    for (const handle of [queue, other]) {
      const calls = [
        ...receivers.map(
          ([, receive]) =>
            () =>
              receive(handle),
        ),
        ...senders.map(
          ([, send]) =>
            () =>
              send(handle, 'x'),
        ),
        // Too long as well: what is gone comes first.
        () => handle.send(Buffer.alloc(100_000)),
        () => handle.peek(),
        () => [...handle.browse()],
        () => handle.stat(),
        () => handle.set({ mode: 0o600 }),
        () => handle.remove(),
      ]
      for (const call of calls) {
        const error = await failureOf(call)
        expect(error).toEqual(failing('EIDRM', queue))
        expect(error).toMatchObject({ message: expect.stringMatching(/^EIDRM: the queue was removed, msg/) })
        expect((error as QueueError).hint).toContain('removed')
      }
    }
  })

  test('settles everything that waits, in every handle', async () => {
    const queue = fullQueue()
    const other = reopen(queue)
    const waiting = [queue, other].flatMap((handle) => [
      ...waits.map(([, receive], index) => failureOf(() => receive(handle, { type: 10 + index }))),
      ...numbers(3).map(() => failureOf(() => handle.receive({ type: 5 }))),
      failureOf(() => handle.send('x')),
      failureOf(() => handle.send('y')),
      failureOf(() => handle.sendMany(numbers(3))),
    ])
    await turns()
    queue.remove()
    for (const error of await Promise.all(waiting)) expect(error).toEqual(failing('EIDRM', queue))
    await Promise.all([queue.close(), other.close()])
  })
})

describe('an error', () => {
  test('says code, what it means, call, queue and figures', async () => {
    const queue = openSysv()
    queue.trySend('abc')
    const error = await failureOf(() => queue.tryReceiveInto(Buffer.alloc(2)))
    expect(error).toBeInstanceOf(QueueError)
    expect(String(error)).toBe(
      `QueueError: E2BIG: message longer than the buffer, msgrcv #${queue.id} (room for 2 bytes)`,
    )
    expect(error).not.toHaveProperty('path')
  })

  test('has a message of its form, and the number of its code', async () => {
    const queue = fullQueue()
    const key = uniqueKey()
    SysvQueue.open(key, { create: true })
    const gone = openSysv()
    gone.remove()
    const calls: [string, string, () => unknown][] = [
      ['ENOENT', 'msgget', () => SysvQueue.open(uniqueKey())],
      ['EEXIST', 'msgget', () => SysvQueue.open(key, { exclusive: true })],
      ['EIDRM', 'msgctl', () => SysvQueue.fromId(gone.id)],
      ['EIDRM', 'msgctl', () => gone.stat()],
      ['EIDRM', 'msgrcv', () => gone.receive()],
      ['EIDRM', 'msgsnd', () => gone.send('x')],
      ['ETIMEDOUT', 'msgrcv', () => queue.receive({ type: 2, timeout: 1 })],
      ['ETIMEDOUT', 'msgrcv', () => queue.receiveSync({ type: 2, timeout: 1 })],
      ['ETIMEDOUT', 'msgsnd', () => queue.send('x', { timeout: 1 })],
      ['ETIMEDOUT', 'msgsnd', () => queue.sendSync('x', { timeout: 1 })],
      ['EINVAL', 'msgsnd', () => queue.trySend(Buffer.alloc(sysctl('msgmax') + 1))],
      ['E2BIG', 'msgrcv', () => queue.tryReceiveInto(Buffer.alloc(0))],
      ['ENOENT', 'stat', () => SysvQueue.ftok('/no/such/file', 1)],
    ]
    for (const [code, syscall, call] of calls) {
      const error = await failureOf(call)
      expect(error).toMatchObject({ name: 'QueueError', code, errno: -errno[code as 'ENOENT'], syscall })
      const { message } = error as Error
      expect(message).toMatch(new RegExp(`^${code}: [a-z][a-z ]+, ${syscall} ('[^']+'|#\\d+)( \\(.+\\))?$`))
      expect(message).not.toContain('failed')
    }
  })

  test('of permission tells what the calls were', async ({ skip }) => {
    skip(!isRoot, 'only root can become another user')
    const [reading, writing] = [openSysv({ mode: 0o644 }), openSysv({ mode: 0o622 })]
    reading.trySend('x')
    const attempted = await attemptSysv(
      [
        ['trySend', reading.id, 'y'],
        ['send', reading.id, 'y'],
        ['sendMany', reading.id, ['y']],
        ['tryReceive', writing.id],
        ['receive', writing.id],
        ['receiveSync', writing.id],
        ['peek', writing.id],
        ['stat', writing.id],
        ['tryReceive', reading.id],
        ['trySend', writing.id, 'y'],
      ],
      { uid: stranger },
    )
    const refused = attempted.slice(0, -2)
    expect(refused.map(({ error }) => [error?.code, error?.syscall])).toEqual([
      ...Array(3).fill(['EACCES', 'msgsnd']),
      ...Array(4).fill(['EACCES', 'msgrcv']),
      ['EACCES', 'msgctl'],
    ])
    for (const { error } of refused) expect(error?.hint).toContain('mode')
    expect(attempted.slice(-2).map(({ error }) => error)).toEqual([undefined, undefined])
  })
})

test('a message longer than kernel.msgmax was when the queue was opened is received like any other', async ({
  skip,
}) => {
  skip(!canUnshare, 'needs an IPC namespace of its own, which root can make')
  const { stdout, stderr } = await start('unshare', ['--ipc', process.execPath, fixture('sysv-large.mjs')]).outcome
  expect(stderr).toBe('')
  const { sent, received, others, lowered, kept, refused } = JSON.parse(stdout)
  expect(received).toEqual(sent)
  for (const [expected, brought] of [...others, lowered, kept]) expect(brought).toBe(expected)
  expect(others).toHaveLength(8)
  expect(refused).toMatch(/^EINVAL: invalid argument, msgsnd #id \(101 > 100 bytes\); .*kernel\.msgmax=101/)
})

test('a read stream holds as many messages as it is told to', async ({ skip }) => {
  skip(!canUnshare, 'needs an IPC namespace of its own, which root can make')
  const code = `import { SysvQueue } from 'kernelmq'
    const count = 200_000
    const queue = SysvQueue.open('private', { maxBytes: count })
    await queue.sendMany(Array(count).fill('x'))
    let received = 0
    for await (const _ of queue.createReadStream({ highWaterMark: count })) if (++received === count) break
    console.log(received)`
  const shell = ['sh', '-c', 'echo 200000 > /proc/sys/kernel/msgmnb; exec "$@"', 'sh']
  const node = [process.execPath, '--input-type=module', '--eval', code]
  const { stdout, stderr } = await start('unshare', ['--ipc', ...shell, ...node]).outcome
  expect(stderr).toBe('')
  expect(stdout).toBe('200000\n')
})

describe.runIf(hasCompiler)('on a kernel that lacks', () => {
  const without = compile('without.c')
  const { ENOSYS } = errno

  async function attempts(lacks: string, list: Parameters<typeof attemptSysv>[0]) {
    const { status, stderr } = spawnSync(without, [lacks, String(ENOSYS), 'true'], { encoding: 'utf8' })
    return status === 0 ? attemptSysv(list, { through: [without, lacks, String(ENOSYS)] }) : stderr
  }

  test('MSG_COPY, peek and browse say so, and the rest works', async ({ skip }) => {
    const queue = openSysv()
    queue.trySendMany(['a', 'b'])
    const attempted = await attempts('MSG_COPY', [
      ['peek', queue.id],
      ['tryReceiveMany', queue.id],
      ['stat', queue.id],
    ])
    if (typeof attempted === 'string') return skip(`no seccomp here: ${attempted}`)
    const [peeked, received, stat] = attempted
    expect(peeked?.error).toMatchObject({ name: 'QueueError', code: 'ENOSYS', errno: -ENOSYS, syscall: 'msgrcv' })
    expect(peeked?.error?.hint).toContain('CONFIG_CHECKPOINT_RESTORE')
    expect(received?.value).toHaveLength(2)
    expect(stat?.value.messages).toBe(0)
  })

  test('System V queues, open says so', async ({ skip }) => {
    const attempted = await attempts('msgget', [
      ['open', 'private'],
      ['open', 42],
    ])
    if (typeof attempted === 'string') return skip(`no seccomp here: ${attempted}`)
    for (const { error } of attempted) {
      expect(error).toMatchObject({ name: 'QueueError', code: 'ENOSYS', errno: -ENOSYS, syscall: 'msgget' })
      expect(error?.hint).toContain('CONFIG_SYSVIPC')
    }
  })
})

test('nothing that the tests created outlives them', () => {
  // The others end before this one: whatever this process made is removed by now.
  const listed = spawnSync('ipcs', ['-q', '-p'], { encoding: 'utf8' }).stdout ?? ''
  const mine = listed.split('\n').filter((row) => row.trim().split(/\s+/).slice(2).includes(String(process.pid)))
  expect(mine).toEqual([])
})
