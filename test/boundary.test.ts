import { constants } from 'node:os'
import { PosixQueue, SysvQueue } from 'kernelmq'
import * as syscalls from 'kernelmq/syscalls'
import { describe, expect, onTestFinished, test } from 'vitest'
import { failureOf, openQueue, uniqueName } from './support.ts'
import { openSysv } from './sysv-support.ts'

const families: [string, () => PosixQueue | SysvQueue][] = [
  ['POSIX', () => openQueue()],
  ['System V', () => openSysv()],
]

describe.each(families)('a %s queue', (_, open) => {
  test('refuses what only looks like a signal, and no timer is left to fail later', async () => {
    const queue = open()
    const signal = { aborted: false } as AbortSignal
    expect(await failureOf(() => queue.receive({ timeout: 5, signal }))).toBeInstanceOf(TypeError)
    // An uncaught exception in the meantime would fail this test.
    expect(await failureOf(() => queue.receive({ timeout: 30 }))).toHaveProperty('code', 'ETIMEDOUT')
  })

  test('sends and closes as ever after a signal that it refused', async () => {
    const queue = open()
    while (queue.trySend(Buffer.alloc(64)));
    const signal = { aborted: false } as AbortSignal
    expect(await failureOf(() => queue.send('x', { signal }))).toBeInstanceOf(TypeError)
    queue.tryReceiveMany()
    expect(queue.trySend('x')).toBe(true)
    await queue.close()
  })

  test('delivers what it took, though the signal does not let itself be left', async () => {
    const queue = open()
    const removeEventListener = () => {
      throw new Error('not now')
    }
    const signal = { aborted: false, addEventListener() {}, removeEventListener }
    const received = queue.receive({ signal: signal as unknown as AbortSignal })
    queue.trySend('kept')
    expect((await received).text()).toBe('kept')
    const others = [1, 2].map(() => failureOf(() => queue.receive({ signal: signal as unknown as AbortSignal })))
    queue.close()
    for (const error of await Promise.all(others)) expect(error).toHaveProperty('code', 'ERR_MQ_CLOSED')
  })

  test('makes no stream that ends with what only looks like a signal', () => {
    const queue = open()
    const signal = { aborted: false, addEventListener() {} } as unknown as AbortSignal
    for (const make of [() => queue.createReadStream({ signal }), () => queue.createWriteStream({ signal })]) {
      expect(make).toThrow(TypeError)
    }
  })

  test('rejects what comes after the close, though the loop is due for a turn', async () => {
    const queue = open()
    const other = { type: 5 } // what is sent meanwhile is not for it
    const waiting = failureOf(() => queue.receive(other))
    for (let sent = 0; sent < 300; sent++) {
      queue.trySend('x')
      queue.tryReceiveMany()
    }
    queue.close()
    for (const error of [await waiting, await failureOf(() => queue.receive(other))]) {
      expect(error).toHaveProperty('code', 'ERR_MQ_CLOSED')
    }
  })
})

/** Newer than the types that the library is compiled against. */
function resizable(length: number): ArrayBuffer & { resize(length: number): void } {
  return Reflect.construct(ArrayBuffer, [length, { maxByteLength: length }])
}

describe.each(families)('a %s queue', (_, open) => {
  test.each<[string, (queue: PosixQueue | SysvQueue, options: never) => unknown]>([
    ['receive', (queue, options) => queue.receive(options)],
    ['receiveSync', (queue, options) => queue.receiveSync(options)],
    ['send', (queue, options) => queue.send('x', options)],
    ['sendSync', (queue, options) => queue.sendSync('x', options)],
    ['trySend', (queue, options) => queue.trySend('x', options)],
    ['sendMany', (queue, options) => queue.sendMany(['x'], options)],
    ['receiveMany', (queue, options) => queue.receiveMany(options)],
    ['messages', (queue, options) => queue.messages(options).next()],
  ])('%s takes no options but objects', async (_call, call) => {
    const queue = open()
    for (const options of [100, '100', true, Symbol('100')]) {
      expect(await failureOf(() => call(queue, options as never))).toHaveProperty('code', 'ERR_INVALID_ARG_TYPE')
    }
    expect(queue.tryReceive()).toBeUndefined()
  })

  test('refuses a view that a shrunk or detached buffer has left without bytes', async () => {
    const queue = open()
    const views = (buffer: ArrayBuffer) => [
      new Uint8Array(buffer, 8),
      new Uint8Array(buffer, 8, 8),
      new Uint16Array(buffer, 8),
      new DataView(buffer, 8),
    ]
    const shrunk = resizable(16)
    const detached = new ArrayBuffer(16)
    const all = [...views(shrunk), ...views(detached)]
    shrunk.resize(4)
    structuredClone(detached, { transfer: [detached] })
    for (const view of all) {
      for (const call of [() => queue.trySend(view), () => queue.send(view), () => queue.trySendMany([view])]) {
        expect(await failureOf(call)).toHaveProperty('code', 'ERR_INVALID_ARG_VALUE')
      }
    }
    expect(queue.tryReceive()).toBeUndefined()
    queue.trySend('')
    for (const view of all.filter((one) => one instanceof Uint8Array)) {
      expect(await failureOf(() => queue.tryReceiveInto(view))).toHaveProperty('code', 'ERR_INVALID_ARG_VALUE')
    }
    expect(queue.tryReceive()?.data).toHaveLength(0)
  })

  test.each(['mutated', 'shrunk', 'transferred', 'collected'])(
    'sends what the bytes were when it was called, though they are %s while it waits',
    async (fate) => {
      const queue = open()
      while (queue.trySend(Buffer.alloc(64)));
      const buffer = resizable(16)
      const bytes = new Uint8Array(buffer).fill(7)
      const pending = [
        queue.send(bytes),
        queue.send(buffer),
        queue.send(new DataView(buffer)),
        queue.sendMany([bytes, { data: buffer }]),
      ]
      if (fate === 'mutated') bytes.fill(9)
      else if (fate === 'shrunk') buffer.resize(0)
      else if (fate === 'transferred') structuredClone(buffer, { transfer: [buffer] })
      else globalThis.gc?.()
      const received: Buffer[] = []
      while (received.length < 5) {
        const { data } = await queue.receive()
        if (data.length < 64) received.push(data)
      }
      await Promise.all(pending)
      expect(received).toEqual(Array.from({ length: 5 }, () => Buffer.alloc(16, 7)))
    },
  )

  test('tells why it did not send, though the iterator fails to end', async () => {
    const queue = open()
    const messages = {
      [Symbol.iterator]: () => ({
        next: () => ({ value: 7 as never, done: false as const }),
        return: () => {
          throw new Error('the iterator')
        },
      }),
    }
    const error = await failureOf(() => queue.sendMany(messages))
    expect(error).toMatchObject({ code: 'ERR_INVALID_ARG_TYPE', sent: 0 })
  })
})

describe('System V', () => {
  test.each<[string, (queue: SysvQueue) => unknown]>([
    ['tryReceive', (queue) => queue.tryReceive({ size: 2 })],
    ['tryReceiveMany', (queue) => queue.tryReceiveMany(3, { size: 2 })],
    ['tryReceiveInto', (queue) => queue.tryReceiveInto(Buffer.alloc(9), { size: 2 })],
    ['receiveSync', (queue) => queue.receiveSync({ size: 2 })],
    ['receive', (queue) => queue.receive({ size: 2 })],
  ])('%s says how much it had room for', async (_, receive) => {
    const queue = openSysv()
    queue.trySend('abc')
    expect(String(await failureOf(() => receive(queue)))).toMatch(/E2BIG: .* \(room for 2 bytes\)$/)
  })
})

describe('a queue that came as a descriptor', () => {
  test('has its name, whatever that ends in', () => {
    const name = `${uniqueName()} (deleted)`
    const queue = PosixQueue.open(name, { create: true, maxMessages: 1, messageSize: 1 })
    onTestFinished(() => queue.close())
    try {
      expect(adoptedPath(queue)).toBe(name)
    } finally {
      PosixQueue.unlink(name)
    }
    expect(adoptedPath(queue)).toBe(name)
  })

  function adoptedPath({ fd }: PosixQueue): string | undefined {
    const adopted = PosixQueue.fromFd(fd)
    adopted.close()
    return adopted.path
  }
})

describe('a constructor that is private', () => {
  test('is so for JavaScript too', () => {
    const Posix = PosixQueue as unknown as new (...args: unknown[]) => PosixQueue
    const Sysv = SysvQueue as unknown as new (...args: unknown[]) => SysvQueue
    const size = { maxMessages: 1, messageSize: 2 ** 45 }
    expect(() => new Posix({}, 0, '/name', size)).toThrow(TypeError)
    class Sub extends Posix {}
    expect(() => new Sub({}, 0, '/name', size)).toThrow(TypeError)
    for (const id of [undefined, 'x', {}, 0.5, -1, 2 ** 32]) {
      expect(() => new Sysv(id)).toThrow(expect.objectContaining({ code: expect.stringMatching(/^ERR_/) }))
    }
  })
})

describe('kernelmq/syscalls', () => {
  const id = (): number => openSysv().id

  test.each<[string, (number: number) => unknown]>([
    ['mqOpen: maxmsg', (number) => syscalls.mqOpen('/none', 0, 0, { maxmsg: number, msgsize: 1 })],
    ['mqOpen: msgsize', (number) => syscalls.mqOpen('/none', 0, 0, { maxmsg: 1, msgsize: number })],
    ['mqNotify: notify', (number) => syscalls.mqNotify(-1, { notify: number })],
    ['mqNotify: signo', (number) => syscalls.mqNotify(-1, { notify: 1, signo: number })],
    ['poll: events', (number) => syscalls.poll(-1, number, 0)],
    ['poll: timeout', (number) => (number > 0 ? -constants.errno.EINVAL : syscalls.poll(openQueue().fd, 1, number))],
  ])('%s is not cut to what the call can take', (_, call) => {
    for (const number of [0.5, 2 ** 53, 1e300, Number.NaN, Number.POSITIVE_INFINITY]) {
      expect(call(number)).toBe(-constants.errno.EINVAL)
    }
  })

  test('refuses a buffer that is detached', () => {
    const { fd } = openQueue()
    const queue = id()
    const detached = new Uint8Array(8)
    structuredClone(detached.buffer, { transfer: [detached.buffer] })
    for (const call of [
      () => syscalls.mqSend(fd, detached),
      () => syscalls.mqReceive(fd, detached),
      () => syscalls.msgsnd(queue, 1, detached, syscalls.IPC_NOWAIT),
      () => syscalls.msgrcv(queue, detached, 0, syscalls.IPC_NOWAIT),
    ]) {
      expect(call).toThrow(expect.objectContaining({ code: 'ERR_INVALID_ARG_VALUE' }))
    }
    expect(syscalls.mqGetattr(fd)).toHaveProperty('curmsgs', 0)
  })

  test('receives into no memory but that of the buffer, though reading the deadline detaches it', () => {
    const queue = openQueue()
    queue.trySend('precious')
    const buffer = new Uint8Array(64)
    let reads = 0
    const deadline = {
      get sec() {
        if (++reads === 2) structuredClone(buffer.buffer, { transfer: [buffer.buffer] })
        return 0
      },
      nsec: 0,
    }
    expect(syscalls.mqTimedreceive(queue.fd, buffer, undefined, deadline)).toBe(8)
    expect(reads).toBe(1)
    expect(Buffer.from(buffer.subarray(0, 8)).toString()).toBe('precious')
  })

  test('believes no array that says it is longer than it is', () => {
    class Longer extends Uint8Array {
      override get length(): number {
        return 2 ** 45
      }
    }
    const queue = id()
    syscalls.msgsnd(queue, 1, new Longer(4), syscalls.IPC_NOWAIT)
    expect(syscalls.msgrcv(queue, new Longer(3), 0, syscalls.IPC_NOWAIT)).toBe(-constants.errno.E2BIG)
    expect(() => SysvQueue.fromId(queue).tryReceiveInto(new Longer(3))).toThrow(/E2BIG.*room for 3 bytes/)
    expect(syscalls.msgrcv(queue, new Longer(5), 0, syscalls.IPC_NOWAIT)).toBe(4)
  })
})

describe('a name', () => {
  const { length } = uniqueNameLike()
  const bad = ['\0', '\ud800', '\udc00\ud800'].flatMap((part) => [`/kmq${part}`, `/${part}`, `/kmq${part}x`])

  test.each(bad)('%j is rejected and never changed', async (name) => {
    const options = { create: true, maxMessages: 1, messageSize: 1 }
    for (const call of [
      () => PosixQueue.open(name, options),
      () => PosixQueue.unlink(name),
      () => PosixQueue.waitFor(name, { timeout: 0 }),
      () => syscalls.mqOpen(name, syscalls.O_CREAT),
      () => syscalls.mqUnlink(name),
    ]) {
      expect(await failureOf(call)).toHaveProperty('code', 'ERR_INVALID_ARG_VALUE')
    }
  })

  // What does not fit is not cut to what does: neither bytes nor a whole character.
  test.each(['x', 'é', '€', '😀'])('of more than 255 bytes is too long, also if it ends in %s', (last) => {
    for (let bytes = 250; bytes < 262; bytes++) {
      const fill = 'x'.repeat(bytes - length - Buffer.byteLength(last))
      const name = `${uniqueNameLike()}${fill}${last}`
      const fd = syscalls.mqOpen(name, syscalls.O_CREAT | syscalls.O_RDWR, 0o600, { maxmsg: 1, msgsize: 1 })
      const fits = Buffer.byteLength(name) - 1 <= 255
      expect(fd >= 0).toBe(fits)
      if (!fits) expect(fd).toBe(-constants.errno.ENAMETOOLONG)
      expect(syscalls.mqUnlink(name)).toBe(fits ? 0 : -constants.errno.ENAMETOOLONG)
      if (fits) syscalls.mqClose(fd)
    }
    const huge = `/${last.repeat(1e6)}`
    expect(syscalls.mqOpen(huge, syscalls.O_CREAT)).toBe(-constants.errno.ENAMETOOLONG)
    expect(syscalls.mqUnlink(huge)).toBe(-constants.errno.ENAMETOOLONG)
  })
})

/** No queue of this name outlives the call that makes it. */
function uniqueNameLike(): string {
  return `/kmq-long-${process.pid}-`
}
