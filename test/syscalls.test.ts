import { once } from 'node:events'
import { closeSync, constants as fs, fstatSync, openSync, readFileSync } from 'node:fs'
import { constants } from 'node:os'
import * as syscalls from 'kernelmq/syscalls'
import {
  ftok,
  IPC_NOWAIT,
  IPC_PRIVATE,
  IPC_RMID,
  IPC_SET,
  IPC_STAT,
  type MqAttr,
  mqClose,
  mqGetattr,
  mqNotify,
  mqOpen,
  mqReceive,
  mqSend,
  mqSetattr,
  mqTimedreceive,
  mqTimedsend,
  mqUnlink,
  msgctl,
  msgget,
  msgrcv,
  msgsnd,
  O_CREAT,
  O_EXCL,
  O_NONBLOCK,
  O_RDONLY,
  O_RDWR,
  O_WRONLY,
  POLLIN,
  POLLNVAL,
  POLLOUT,
  poll,
  SIGEV_NONE,
  SIGEV_SIGNAL,
} from 'kernelmq/syscalls'
import { describe, expect, onTestFinished, test } from 'vitest'
import { openQueue, signalUntilEnded, startFixture, turns, uniqueName } from './support.ts'

const { errno } = constants
const size = { maxmsg: 2, msgsize: 16 }
const bytes = (text: string) => Buffer.from(text)

/** Opens, and closes when the test ends. */
function open(name: string, flags: number, attr?: { maxmsg: number; msgsize: number }): number {
  const fd = mqOpen(name, flags, 0o600, attr)
  expect(fd).toBeGreaterThan(2)
  onTestFinished(() => void mqClose(fd))
  return fd
}

const create = (flags = O_RDWR | O_NONBLOCK) => open(uniqueName(), flags | O_CREAT | O_EXCL, size)

/** A descriptor of something else. */
function openFile(): number {
  const fd = openSync('/dev/null', 'r')
  onTestFinished(() => {
    try {
      closeSync(fd)
    } catch {}
  })
  return fd
}

/** A point of CLOCK_REALTIME. */
function inMilliseconds(milliseconds: number): { sec: number; nsec: number } {
  const time = Date.now() + milliseconds
  return { sec: Math.floor(time / 1000), nsec: (time % 1000) * 1e6 }
}

/** Milliseconds that a call took. */
function time(call: () => unknown): number {
  const start = performance.now()
  call()
  return performance.now() - start
}

test('the constants are those of the headers', () => {
  expect({ ...syscalls }).toMatchObject({
    O_RDONLY: fs.O_RDONLY,
    O_WRONLY: fs.O_WRONLY,
    O_RDWR: fs.O_RDWR,
    O_CREAT: fs.O_CREAT,
    O_EXCL: fs.O_EXCL,
    O_NONBLOCK: fs.O_NONBLOCK,
    MQ_PRIO_MAX: 32768,
    SIGEV_SIGNAL: 0,
    SIGEV_NONE: 1,
    POLLIN: 1,
    POLLOUT: 4,
    POLLERR: 8,
    POLLHUP: 16,
    POLLNVAL: 32,
  })
})

describe('mqOpen', () => {
  test('creates and opens', () => {
    const name = uniqueName()
    const fd = open(name, O_RDWR | O_CREAT, size)
    expect(mqGetattr(fd)).toEqual({ flags: 0, maxmsg: 2, msgsize: 16, curmsgs: 0 })
    expect(open(name, O_RDONLY)).not.toBe(fd)
  })

  test('takes the mode, less the umask', () => {
    const umask = process.umask(0o022)
    onTestFinished(() => void process.umask(umask))
    const mode = (wanted?: number) => {
      const fd = mqOpen(uniqueName(), O_RDWR | O_CREAT, wanted, size)
      onTestFinished(() => void mqClose(fd))
      return fstatSync(fd).mode & 0o777
    }
    expect(mode(0o666)).toBe(0o644)
    expect(mode(0)).toBe(0)
    expect(mode()).toBe(0o600)
  })

  test('without attributes takes the kernel’s defaults', () => {
    const sysctl = (name: string) => Number(readFileSync(`/proc/sys/fs/mqueue/${name}`, 'utf8'))
    expect(mqGetattr(open(uniqueName(), O_RDWR | O_CREAT))).toMatchObject({
      maxmsg: Math.min(sysctl('msg_default'), sysctl('msg_max')),
      msgsize: Math.min(sysctl('msgsize_default'), sysctl('msgsize_max')),
    })
  })

  test('returns the errno', () => {
    const name = uniqueName()
    expect(mqOpen(name, O_RDWR)).toBe(-errno.ENOENT)
    open(name, O_RDWR | O_CREAT, size)
    expect(mqOpen(name, O_RDWR | O_CREAT | O_EXCL, 0o600, size)).toBe(-errno.EEXIST)
    expect(mqOpen('noslash', O_RDWR | O_CREAT, 0o600, size)).toBe(-errno.EINVAL)
    expect(mqOpen('', O_RDWR | O_CREAT, 0o600, size)).toBe(-errno.EINVAL)
    expect(mqOpen('/', O_RDWR | O_CREAT, 0o600, size)).toBe(-errno.ENOENT)
    expect(mqOpen('/a/b', O_RDWR | O_CREAT, 0o600, size)).toBe(-errno.EACCES)
    expect(mqOpen(`/${'x'.repeat(256)}`, O_RDWR | O_CREAT, 0o600, size)).toBe(-errno.ENAMETOOLONG)
    const other = uniqueName()
    for (const attr of [
      { maxmsg: 0, msgsize: 16 },
      { maxmsg: 2, msgsize: 0 },
      { maxmsg: -1, msgsize: 16 },
      { maxmsg: 2, msgsize: 2 ** 40 },
    ]) {
      expect(mqOpen(other, O_RDWR | O_CREAT, 0o600, attr)).toBe(-errno.EINVAL)
    }
    expect(mqOpen(name, O_RDWR | O_CREAT, 0o600, { maxmsg: 0, msgsize: 0 })).toBeGreaterThan(2)
  })

  test('makes descriptors that are closed by exec', () => {
    const info = readFileSync(`/proc/self/fdinfo/${create()}`, 'utf8')
    expect(Number.parseInt(/flags:\s+(\d+)/.exec(info)?.[1] ?? '', 8) & 0o2000000).not.toBe(0)
  })

  test('throws for arguments of other types', () => {
    const calls = [
      () => mqOpen(7 as never, O_RDWR),
      () => mqOpen(undefined as never, O_RDWR),
      () => mqOpen('/x\0', O_RDWR),
      () => mqOpen('/x\ud800', O_RDWR),
      () => mqOpen('/x', '2' as never),
      () => mqOpen('/x', undefined as never),
      () => mqOpen('/x', O_RDWR, '600' as never),
      () => mqOpen('/x', O_RDWR, 0o600, { maxmsg: '2', msgsize: 16 } as never),
      () => mqOpen('/x', O_RDWR, 0o600, { maxmsg: 2 } as never),
    ]
    for (const call of calls) expect(call).toThrow(TypeError)
  })
})

describe('mqClose', () => {
  test('closes once', () => {
    const fd = create()
    expect(mqClose(fd)).toBe(0)
    expect(mqClose(fd)).toBe(-errno.EBADF)
    expect(mqGetattr(fd)).toBe(-errno.EBADF)
  })

  test('refuses what is not a queue, and leaves it open', () => {
    const file = openFile()
    for (const fd of [file, 0, 1, 2, -1, 2 ** 31 - 1]) expect(mqClose(fd)).toBe(-errno.EBADF)
    expect(fstatSync(file).isCharacterDevice()).toBe(true)
  })

  test('refuses what a PosixQueue owns, and leaves it open', () => {
    const queue = openQueue()
    expect(mqClose(queue.fd)).toBe(-errno.EBUSY)
    expect(queue.trySend('open still')).toBe(true)
    const { fd } = queue
    queue.close()
    expect(mqClose(fd)).toBe(-errno.EBADF)
  })

  test('spares the loop’s own descriptors', async () => {
    for (let fd = 0; fd < 64; fd++) mqClose(fd)
    await turns()
    const queue = openQueue()
    const received = queue.receive()
    queue.trySend('x')
    expect((await received).text()).toBe('x')
  })

  test('throws for a descriptor of another type', () => {
    for (const fd of ['3', undefined, null, 3n]) expect(() => mqClose(fd as never)).toThrow(TypeError)
  })
})

describe('mqUnlink', () => {
  test('removes the name', () => {
    const name = uniqueName()
    const fd = open(name, O_RDWR | O_CREAT | O_NONBLOCK, size)
    expect(mqUnlink(name)).toBe(0)
    expect(mqOpen(name, O_RDWR)).toBe(-errno.ENOENT)
    expect(mqSend(fd, bytes('x'))).toBe(0)
  })

  test('returns the errno', () => {
    expect(mqUnlink(uniqueName())).toBe(-errno.ENOENT)
    expect(mqUnlink('noslash')).toBe(-errno.EINVAL)
    expect(mqUnlink('')).toBe(-errno.EINVAL)
    expect(mqUnlink('/')).toBe(-errno.ENOENT)
    expect(mqUnlink('/a/b')).toBe(-errno.EACCES)
    expect(mqUnlink(`/${'x'.repeat(256)}`)).toBe(-errno.ENAMETOOLONG)
  })

  test('throws for a name of another type', () => {
    for (const name of [7, undefined, null, '/a\0b', '/a\udc00b'])
      expect(() => mqUnlink(name as never)).toThrow(TypeError)
  })
})

describe('mqSend and mqReceive', () => {
  test('move bytes and priority', () => {
    const fd = create()
    const buffer = Buffer.alloc(16)
    const priority = new Uint32Array(2)
    expect(mqSend(fd, bytes('low'))).toBe(0)
    expect(mqSend(fd, bytes('high'), 32767)).toBe(0)
    expect(mqReceive(fd, buffer, priority)).toBe(4)
    expect(buffer.toString('utf8', 0, 4)).toBe('high')
    expect([...priority]).toEqual([32767, 0])
    expect(mqReceive(fd, buffer, priority)).toBe(3)
    expect(priority[0]).toBe(0)
    expect(mqSend(fd, new Uint8Array(0), 1)).toBe(0)
    expect(mqReceive(fd, buffer)).toBe(0)
  })

  test('return the errno', () => {
    const name = uniqueName()
    const fd = open(name, O_RDWR | O_CREAT | O_NONBLOCK, size)
    const buffer = Buffer.alloc(16)
    expect(mqReceive(fd, buffer)).toBe(-errno.EAGAIN)
    expect(mqSend(fd, Buffer.alloc(17))).toBe(-errno.EMSGSIZE)
    expect(mqSend(fd, Buffer.alloc(16))).toBe(0)
    expect(mqReceive(fd, Buffer.alloc(15))).toBe(-errno.EMSGSIZE)
    expect(mqSend(fd, Buffer.alloc(16))).toBe(0)
    expect(mqSend(fd, Buffer.alloc(16))).toBe(-errno.EAGAIN)
    expect(mqReceive(open(name, O_WRONLY), buffer)).toBe(-errno.EBADF)
    expect(mqSend(open(name, O_RDONLY), bytes('x'))).toBe(-errno.EBADF)
    for (const other of [openFile(), -1, 2 ** 31 - 1]) {
      expect(mqSend(other, bytes('x'))).toBe(-errno.EBADF)
      expect(mqReceive(other, buffer)).toBe(-errno.EBADF)
    }
  })

  test('take no priority but 0 to 32767', () => {
    const fd = create()
    for (const priority of [-1, 32768, 2 ** 31, 2 ** 32, 2 ** 32 + 5, -(2 ** 32), 0.5, Number.NaN, 1e300]) {
      expect([priority, mqSend(fd, bytes('x'), priority)]).toEqual([priority, -errno.EINVAL])
    }
    expect(mqGetattr(fd)).toMatchObject({ curmsgs: 0 })
  })

  test('throw for arguments of other types', () => {
    const fd = create()
    const buffer = Buffer.alloc(16)
    const calls = [
      () => mqSend(String(fd) as never, buffer),
      () => mqSend(fd, 'text' as never),
      () => mqSend(fd, new Uint16Array(2) as never),
      () => mqSend(fd, buffer.buffer as never),
      () => mqSend(fd, undefined as never),
      () => mqSend(fd, buffer, '1' as never),
      () => mqSend(fd, buffer, null as never),
      () => mqReceive(undefined as never, buffer),
      () => mqReceive(fd, new DataView(buffer.buffer) as never),
      () => mqReceive(fd, undefined as never),
      () => mqReceive(fd, buffer, [] as never),
      () => mqReceive(fd, buffer, new Uint8Array(4) as never),
    ]
    for (const call of calls) expect(call).toThrow(TypeError)
    expect(mqGetattr(fd)).toMatchObject({ curmsgs: 0 })
  })
})

describe('mqTimedsend and mqTimedreceive', () => {
  test('wait until their deadline', () => {
    const fd = create(O_RDWR)
    const buffer = Buffer.alloc(16)
    expect(
      time(() => expect(mqTimedreceive(fd, buffer, undefined, inMilliseconds(50))).toBe(-errno.ETIMEDOUT)),
    ).toBeGreaterThan(40)
    mqSend(fd, bytes('1'))
    mqSend(fd, bytes('2'))
    expect(
      time(() => expect(mqTimedsend(fd, bytes('3'), 0, inMilliseconds(50))).toBe(-errno.ETIMEDOUT)),
    ).toBeGreaterThan(40)
  })

  test('do not wait for what is there, whatever the deadline', () => {
    const fd = create(O_RDWR)
    const buffer = Buffer.alloc(16)
    const priority = new Uint32Array(1)
    expect(mqTimedsend(fd, bytes('x'), 5, { sec: 0, nsec: 0 })).toBe(0)
    expect(mqTimedreceive(fd, buffer, priority, { sec: 0, nsec: 0 })).toBe(1)
    expect(priority[0]).toBe(5)
    expect(mqTimedreceive(fd, buffer, priority, { sec: 0, nsec: 0 })).toBe(-errno.ETIMEDOUT)
  })

  test('do not wait at all with O_NONBLOCK', () => {
    const fd = create()
    expect(mqTimedreceive(fd, Buffer.alloc(16), undefined, inMilliseconds(60_000))).toBe(-errno.EAGAIN)
  })

  test('read a deadline before they look at the buffer, which a getter may detach', () => {
    const fd = create()
    mqSend(fd, bytes('x'))
    const data = new Uint8Array(16)
    let kept = new Uint8Array(0)
    let reads = 0
    const deadline = {
      get sec() {
        // What checks the type may read it before.
        if (++reads === 2) kept = structuredClone(data, { transfer: [data.buffer] })
        return 0
      },
      nsec: 0,
    }
    const length = mqTimedreceive(fd, data, undefined, deadline)
    expect([length, data[0], kept.some((byte) => byte !== 0)]).toEqual([1, 'x'.charCodeAt(0), false])
  })

  test('refuse a deadline that is none', () => {
    const fd = create(O_RDWR)
    for (const deadline of [
      { sec: 1, nsec: -1 },
      { sec: 1, nsec: 1e9 },
      { sec: -1, nsec: 0 },
      { sec: 0.5, nsec: 0 },
      { sec: Number.NaN, nsec: 0 },
      { sec: Number.POSITIVE_INFINITY, nsec: 0 },
      { sec: 1, nsec: 0.9 },
    ]) {
      expect(mqTimedreceive(fd, Buffer.alloc(16), undefined, deadline)).toBe(-errno.EINVAL)
      expect(mqTimedsend(fd, bytes('x'), 0, deadline)).toBe(-errno.EINVAL)
    }
  })

  test('throw for arguments of other types', () => {
    const fd = create()
    for (const deadline of [5, 'soon', {}, { sec: 1 }, { sec: '1', nsec: 0 }, new Date()]) {
      expect(() => mqTimedsend(fd, bytes('x'), 0, deadline as never)).toThrow(TypeError)
      expect(() => mqTimedreceive(fd, Buffer.alloc(16), undefined, deadline as never)).toThrow(TypeError)
    }
    expect(() => mqTimedsend(fd, bytes('x'), undefined as never)).toThrow(TypeError)
    expect(mqGetattr(fd)).toMatchObject({ curmsgs: 0 })
  })
})

describe('mqGetattr and mqSetattr', () => {
  test('tell what is in the queue', () => {
    const fd = create()
    mqSend(fd, bytes('x'))
    expect(mqGetattr(fd)).toEqual({ flags: O_NONBLOCK, maxmsg: 2, msgsize: 16, curmsgs: 1 })
  })

  test('set O_NONBLOCK of one descriptor, and tell what was before', () => {
    const name = uniqueName()
    const fd = open(name, O_RDWR | O_CREAT, size)
    const other = open(name, O_RDWR)
    const before: MqAttr | number = mqSetattr(fd, { flags: O_NONBLOCK })
    expect(before).toEqual({ flags: 0, maxmsg: 2, msgsize: 16, curmsgs: 0 })
    expect(mqGetattr(fd)).toMatchObject({ flags: O_NONBLOCK })
    expect(mqGetattr(other)).toMatchObject({ flags: 0 })
    expect(mqReceive(fd, Buffer.alloc(16))).toBe(-errno.EAGAIN)
    expect(mqSetattr(fd, { flags: 0 })).toMatchObject({ flags: O_NONBLOCK })
    expect(mqGetattr(fd)).toMatchObject({ flags: 0 })
  })

  test('change nothing else', () => {
    const fd = create()
    mqSetattr(fd, { flags: O_NONBLOCK, maxmsg: 1, msgsize: 1, curmsgs: 9 } as never)
    expect(mqGetattr(fd)).toEqual({ flags: O_NONBLOCK, maxmsg: 2, msgsize: 16, curmsgs: 0 })
  })

  test('return the errno', () => {
    const fd = create()
    expect(mqSetattr(fd, { flags: O_NONBLOCK | O_EXCL })).toBe(-errno.EINVAL)
    for (const other of [openFile(), -1, 2 ** 31 - 1]) {
      expect(mqGetattr(other)).toBe(-errno.EBADF)
      expect(mqSetattr(other, { flags: 0 })).toBe(-errno.EBADF)
    }
  })

  test('throw for arguments of other types', () => {
    const fd = create()
    expect(() => mqGetattr('3' as never)).toThrow(TypeError)
    for (const attr of [undefined, null, {}, { flags: '0' }])
      expect(() => mqSetattr(fd, attr as never)).toThrow(TypeError)
  })
})

describe('mqNotify', () => {
  test('sends a signal when a message comes to the empty queue, once', async () => {
    const fd = create()
    let signals = 0
    const count = () => {
      signals++
    }
    process.on('SIGUSR2', count)
    onTestFinished(() => void process.off('SIGUSR2', count))
    expect(mqNotify(fd, { notify: SIGEV_SIGNAL, signo: constants.signals.SIGUSR2 })).toBe(0)
    await turns()
    expect(signals).toBe(0)
    mqSend(fd, bytes('1'))
    await expect.poll(() => signals).toBe(1)
    mqReceive(fd, Buffer.alloc(16))
    mqSend(fd, bytes('2'))
    await turns(20)
    expect(signals).toBe(1)
  })

  test('registers one only, until it is taken back', () => {
    const name = uniqueName()
    const fd = open(name, O_RDWR | O_CREAT, size)
    const other = open(name, O_RDWR)
    expect(mqNotify(fd, { notify: SIGEV_NONE })).toBe(0)
    expect(mqNotify(other, { notify: SIGEV_NONE })).toBe(-errno.EBUSY)
    expect(mqNotify(fd)).toBe(0)
    expect(mqNotify(other, { notify: SIGEV_NONE })).toBe(0)
    expect(mqNotify(other, null)).toBe(0)
    expect(mqNotify(other)).toBe(0)
  })

  test('returns the errno', () => {
    const fd = create()
    expect(mqNotify(fd, { notify: SIGEV_SIGNAL, signo: 65 })).toBe(-errno.EINVAL)
    expect(mqNotify(fd, { notify: SIGEV_SIGNAL, signo: -1 })).toBe(-errno.EINVAL)
    expect(mqNotify(fd, { notify: 77 })).toBe(-errno.EINVAL)
    for (const other of [openFile(), -1, 2 ** 31 - 1]) {
      expect(mqNotify(other, { notify: SIGEV_NONE })).toBe(-errno.EBADF)
      expect(mqNotify(other)).toBe(-errno.EBADF)
    }
  })

  test('throws for arguments of other types', () => {
    const fd = create()
    expect(() => mqNotify('3' as never)).toThrow(TypeError)
    for (const event of [{}, { notify: '1' }, { notify: SIGEV_SIGNAL, signo: '10' }, 1]) {
      expect(() => mqNotify(fd, event as never)).toThrow(TypeError)
    }
  })
})

describe('poll', () => {
  test('only looks, though a signal waits for its listener', async () => {
    const fd = create()
    const heard = once(process, 'SIGUSR2')
    process.kill(process.pid, 'SIGUSR2')
    expect(poll(fd, POLLIN, 0)).toBe(0)
    expect(poll(fd, POLLIN, 30_000)).toBe(-errno.EINTR)
    await heard
  })

  test('tells what is there', () => {
    const fd = create()
    expect(poll(fd, POLLIN, 0)).toBe(0)
    expect(poll(fd, POLLOUT, 0)).toBe(POLLOUT)
    mqSend(fd, bytes('1'))
    expect(poll(fd, POLLIN | POLLOUT, 0)).toBe(POLLIN | POLLOUT)
    mqSend(fd, bytes('2'))
    expect(poll(fd, POLLIN | POLLOUT, 0)).toBe(POLLIN)
    expect(poll(fd, POLLIN)).toBe(POLLIN)
    expect(poll(fd, POLLOUT, 0)).toBe(0)
    expect(poll(fd, 0, 0)).toBe(0)
  })

  test('waits for its time, fractions included', () => {
    const fd = create()
    for (const timeout of [0.5, 20, 120]) {
      expect(time(() => expect(poll(fd, POLLIN, timeout)).toBe(0))).toBeGreaterThanOrEqual(timeout)
    }
  })

  test('tells of descriptors that are closed', () => {
    expect(poll(2 ** 31 - 1, POLLIN, 0)).toBe(POLLNVAL)
  })

  test('is ended by a signal', async () => {
    const queue = openQueue()
    const child = startFixture('signals.mjs', [queue.path ?? '', 'poll'])
    await signalUntilEnded(child)
    expect((await child.outcome).stdout).toBe(`waiting\n${-errno.EINTR}\nlistener\n`)
  })

  test('throws for arguments of other types', () => {
    const fd = create()
    expect(() => poll('3' as never, POLLIN, 0)).toThrow(TypeError)
    expect(() => poll(fd, undefined as never, 0)).toThrow(TypeError)
    expect(() => poll(fd, POLLIN, '0' as never)).toThrow(TypeError)
    expect(() => poll(fd, POLLIN, null as never)).toThrow(TypeError)
  })
})

test('a number that is no descriptor is not taken for another', () => {
  const fd = create()
  for (const wrong of [fd + 0.5, fd + 2 ** 32, fd - 2 ** 32, Number.NaN]) {
    for (const call of [
      () => mqGetattr(wrong),
      () => mqSend(wrong, bytes('x')),
      () => mqReceive(wrong, Buffer.alloc(16)),
      () => mqSetattr(wrong, { flags: 0 }),
      () => mqNotify(wrong, { notify: SIGEV_NONE }),
      () => mqClose(wrong),
    ]) {
      let result: unknown
      try {
        result = call()
      } catch (error) {
        result = error instanceof TypeError || error instanceof RangeError ? -errno.EBADF : error
      }
      expect(result).toBe(-errno.EBADF)
    }
  }
  expect(mqGetattr(fd)).toMatchObject({ flags: O_NONBLOCK, curmsgs: 0 })
})

test('numbers that are no identifiers, commands, keys and flags make no other call', () => {
  const id = msgget(IPC_PRIVATE, 0o600)
  onTestFinished(() => void msgctl(id, IPC_RMID))
  const before = msgctl(id, IPC_STAT)
  const settings = { uid: 0, gid: 0, mode: 0o600, qbytes: 100 }
  for (const wrong of [id + 0.5, id + 2 ** 32, id - 2 ** 32, Number.NaN, Number.POSITIVE_INFINITY]) {
    for (const result of [
      msgctl(wrong, IPC_RMID),
      msgctl(id, wrong),
      msgctl(wrong, IPC_SET, settings),
      msgsnd(wrong, 1, bytes('x')),
      msgsnd(id, 1, bytes('x'), wrong),
      msgrcv(wrong, Buffer.alloc(16), 0, IPC_NOWAIT),
      msgrcv(id, Buffer.alloc(16), 0, wrong),
      mqSetattr(create(), { flags: wrong }),
    ]) {
      expect(result).toBe(-errno.EINVAL)
    }
  }
  for (const wrong of [0.5, 2 ** 53, -(2 ** 32), Number.NaN]) {
    for (const key of Object.keys(settings))
      expect(msgctl(id, IPC_SET, { ...settings, [key]: wrong })).toBe(-errno.EINVAL)
    expect(msgget(wrong, 0o600)).toBe(-errno.EINVAL)
    expect(msgget(IPC_PRIVATE, wrong)).toBe(-errno.EINVAL)
    expect(mqOpen('/never', wrong)).toBe(-errno.EINVAL)
    expect(ftok('/', wrong)).toBe(-errno.EINVAL)
  }
  expect(msgctl(id, IPC_SET, { ...settings, qbytes: 2 ** 32 + 100 })).toBe(-errno.EINVAL)
  expect(msgctl(id, IPC_STAT)).toEqual(before)
})
