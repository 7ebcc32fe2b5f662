// What docs/security.md says of other users, each time with one.
import { spawnSync } from 'node:child_process'
import {
  closeSync,
  fchmodSync,
  fchownSync,
  fstatSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { PosixQueue, SysvQueue } from 'kernelmq'
import * as syscalls from 'kernelmq/syscalls'
import { beforeEach, describe, expect, onTestFinished, test } from 'vitest'
import {
  canUnshare,
  failureOf,
  fixture,
  isMounted,
  isPending,
  isRoot,
  openQueue,
  start,
  stranger,
  uniqueName,
} from './support.ts'
import { openSysv, removeAfter, uniqueKey } from './sysv-support.ts'

interface Who {
  uid: number
  gid: number
  groups: number[]
}

/** What test/fixtures/as.mjs hands to a function. */
interface Hands {
  PosixQueue: typeof PosixQueue
  SysvQueue: typeof SysvQueue
  syscalls: typeof syscalls
  fs: typeof import('node:fs')
  codeOf(call: () => unknown): Promise<string>
  tell(line: string): void
  told(): Promise<unknown>
}

type Act<A extends unknown[], R> = (hands: Hands, ...args: A) => R

const someone: Who = { uid: stranger, gid: stranger, groups: [] }

/** Starts a process of another user that calls the function, which sees nothing but its arguments. */
function startAs<A extends unknown[]>(who: Partial<Who>, act: Act<A, unknown>, args: [...A], through: string[] = []) {
  const [command = '', ...rest] = [...through, process.execPath, fixture('as.mjs')]
  return start(command, [...rest, JSON.stringify({ ...who, code: String(act), args })])
}

/** What the function returns to another user. */
async function as<A extends unknown[], R>(who: Partial<Who>, act: Act<A, R>, args: [...A], through?: string[]) {
  const { stdout, stderr } = await startAs(who, act, args, through).outcome
  if (stdout === '') throw new Error(stderr)
  return JSON.parse(stdout) as Awaited<R>
}

interface Pair {
  posix: string
  sysv: number
}

/** What each way to use the queues comes to. */
const useAll: Act<[pairs: Pair[]], Promise<Record<string, string>[]>> = async (
  { PosixQueue, SysvQueue, codeOf },
  pairs,
) => {
  const codes: Record<string, string>[] = []
  for (const { posix, sysv } of pairs) {
    const queue = SysvQueue.fromId(sysv)
    codes.push({
      openToRead: await codeOf(() => PosixQueue.open(posix, { access: 'read' })),
      openToWrite: await codeOf(() => PosixQueue.open(posix, { access: 'write' })),
      open: await codeOf(() => PosixQueue.open(posix)),
      send: await codeOf(() => queue.trySend('x')),
      peek: await codeOf(() => queue.peek()),
      stat: await codeOf(() => queue.stat()),
      receive: await codeOf(() => queue.tryReceive()),
    })
  }
  return codes
}

/** What useAll comes to for one who has these permissions. */
function allowed(bits: number): Record<string, string> {
  const code = (needed: number) => ((bits & needed) === needed ? 'done' : 'EACCES')
  const [read, write] = [code(4), code(2)]
  return { openToRead: read, openToWrite: write, open: code(6), send: write, peek: read, stat: read, receive: read }
}

/** Sets what mq_open(3) and msgget(2) take for the permissions of a class, and the opposite for the others. */
const modeFor = (shift: number, bits: number) => (bits << shift) | (0o666 & ~(0o6 << shift) & ~(bits * 0o111))

const classes: [name: string, shift: number, who: Who][] = [
  ['its owner', 6, { uid: stranger, gid: stranger + 1, groups: [stranger + 2] }],
  ['its group', 3, { uid: stranger + 1, gid: stranger + 2, groups: [] }],
  ['its group, as a supplementary one,', 3, { uid: stranger + 1, gid: stranger + 1, groups: [stranger + 2] }],
  ['others', 0, { uid: stranger + 1, gid: stranger + 1, groups: [] }],
]

describe('to other users', () => {
  beforeEach(({ skip }) => skip(!isRoot, 'only root can become another user'))

  describe('permissions', () => {
    test('are the creator’s alone, unless mode says otherwise', async () => {
      const umask = process.umask(0)
      onTestFinished(() => void process.umask(umask))
      const posix = openQueue()
      const sysv = openSysv()
      expect(fstatSync(posix.fd).mode & 0o7777).toBe(0o600)
      expect(sysv.stat().mode).toBe(0o600)
      expect(await as(someone, useAll, [[{ posix: posix.path ?? '', sysv: sysv.id }]])).toEqual([allowed(0)])
      const raw = uniqueName()
      const fd = syscalls.mqOpen(raw, syscalls.O_CREAT | syscalls.O_RDWR, undefined, { maxmsg: 1, msgsize: 8 })
      expect(fstatSync(fd).mode & 0o7777).toBe(0o600)
      syscalls.mqClose(fd)
    })

    test('of a POSIX queue lose the bits of the umask, and those of a System V queue do not', () => {
      const umask = process.umask(0o027)
      onTestFinished(() => void process.umask(umask))
      expect(fstatSync(openQueue({ mode: 0o666 }).fd).mode & 0o7777).toBe(0o640)
      expect(openSysv({ mode: 0o666 }).stat().mode).toBe(0o666)
    })

    test.each(classes)('are for %s those of that class alone', async (_, shift, who) => {
      const all = [0, 2, 4, 6]
      const pairs = all.map((bits): Pair => {
        const mode = modeFor(shift, bits)
        const posix = openQueue({ maxMessages: 1 })
        fchownSync(posix.fd, stranger, stranger + 2)
        fchmodSync(posix.fd, mode)
        const sysv = openSysv({ mode })
        sysv.set({ uid: stranger, gid: stranger + 2 })
        sysv.trySend('x')
        return { posix: posix.path ?? '', sysv: sysv.id }
      })
      expect(await as(who, useAll, [pairs])).toEqual(all.map(allowed))
    })

    test('of a System V queue are those of its creator, too, after it was given away', async () => {
      const create: Act<[], Promise<[number, string[]]>> = async ({ SysvQueue, codeOf }) => {
        const queue = SysvQueue.open('private')
        queue.set({ uid: 1, gid: 1 })
        return [queue.id, [await codeOf(() => queue.trySend('x')), await codeOf(() => queue.set({ mode: 0o640 }))]]
      }
      const [id, codes] = await as(someone, create, [])
      removeAfter(id)
      expect(codes).toEqual(['done', 'done'])
      expect(SysvQueue.fromId(id).stat()).toMatchObject({ uid: 1, creatorUid: stranger, mode: 0o640 })
      const inCreatorsGroup = { uid: stranger + 1, gid: stranger, groups: [] }
      const [inGroup] = await as(inCreatorsGroup, useAll, [[{ posix: '/none', sysv: id }]])
      expect(inGroup).toMatchObject({ send: 'EACCES', receive: 'done' })
      expect(await as(someone, ({ SysvQueue }, id) => SysvQueue.fromId(id).remove(), [id])).toBe(null)
    })

    test('of a POSIX queue matter when it is opened, and no more after', async () => {
      const queue = openQueue()
      fchmodSync(queue.fd, 0o666)
      const child = startAs(
        someone,
        async ({ PosixQueue, tell, told }, name) => {
          const queue = PosixQueue.open(name)
          tell('opened')
          await told()
          queue.trySend('from before')
        },
        [queue.path ?? ''],
      )
      expect(await child.line()).toBe('opened')
      fchmodSync(queue.fd, 0)
      child.end()
      expect((await child.outcome).stderr).toBe('')
      expect(queue.tryReceive()?.text()).toBe('from before')
    })

    test('of a POSIX queue are not asked for of who is handed its descriptor', async () => {
      const queue = openQueue()
      queue.trySend('to the stranger')
      const use: Act<[string], Promise<(string | undefined)[]>> = async ({ PosixQueue, codeOf }, name) => {
        const handed = PosixQueue.fromFd(3)
        const taken = handed.tryReceive()?.text()
        handed.trySend('from the stranger')
        return [await codeOf(() => PosixQueue.open(name)), taken]
      }
      const code = { ...someone, code: String(use), args: [queue.path ?? ''] }
      const child = start(process.execPath, [fixture('as.mjs'), JSON.stringify(code)], { descriptors: [queue.fd] })
      expect(JSON.parse((await child.outcome).stdout)).toEqual(['EACCES', 'to the stranger'])
      expect(queue.tryReceive()?.text()).toBe('from the stranger')
    })

    test('of a POSIX queue, and its owner, are not changed by others who may use it', async () => {
      const queue = openQueue()
      fchmodSync(queue.fd, 0o666)
      const change: Act<[string], Promise<string[]>> = async ({ PosixQueue, fs, codeOf }, name) => {
        const { fd } = PosixQueue.open(name)
        return [
          await codeOf(() => fs.fchmodSync(fd, 0o600)),
          await codeOf(() => fs.fchownSync(fd, process.getuid?.() ?? -1, process.getgid?.() ?? -1)),
        ]
      }
      expect(await as(someone, change, [queue.path ?? ''])).toEqual(['EPERM', 'EPERM'])
      expect(fstatSync(queue.fd)).toMatchObject({ uid: 0, mode: 0o100666 })
    })

    test.each([
      ['receives', 'receive', 'receiveSync', 0o622],
      ['sends', 'send', 'sendSync', 0o644],
    ] as const)(
      'of a System V queue are taken back from one who %s, even while it waits',
      async (_, wait, block, mode) => {
        for (const method of [wait, block]) {
          const queue = openSysv({ mode: 0o666, maxBytes: 1 })
          if (wait === 'send') queue.trySend('x')
          const child = startAs(
            someone,
            ({ SysvQueue, codeOf, tell }, id, method) => {
              const queue = SysvQueue.fromId(id)
              if (method.endsWith('Sync')) tell('waiting')
              else setImmediate(tell, 'waiting')
              return codeOf(() =>
                method.startsWith('send') ? queue[method as 'send']('y') : queue[method as 'receive'](),
              )
            },
            [queue.id, method],
          )
          expect(await child.line()).toBe('waiting')
          queue.set({ mode })
          // The kernel tells a receiver at once, and a sender when there is room.
          if (wait === 'send') queue.tryReceive()
          expect(JSON.parse(await child.line())).toBe('EACCES')
        }
      },
    )

    test('to remove a queue are its owner’s, whatever the mode says', async () => {
      const posix = openQueue()
      fchmodSync(posix.fd, 0o666)
      const sysv = openSysv({ mode: 0o666 })
      const remove: Act<[string, number], Promise<string[]>> = async ({ PosixQueue, SysvQueue, codeOf }, name, id) => [
        await codeOf(() => PosixQueue.unlink(name)),
        await codeOf(() => SysvQueue.fromId(id).remove()),
        await codeOf(() => SysvQueue.fromId(id).set({ mode: 0o600 })),
      ]
      const [unlinked, ...others] = await as(someone, remove, [posix.path ?? '', sysv.id])
      expect(['EPERM', 'EACCES']).toContain(unlinked)
      expect(others).toEqual(['EPERM', 'EPERM'])
      fchownSync(posix.fd, stranger, stranger)
      sysv.set({ uid: stranger })
      expect(await as(someone, remove, [posix.path ?? '', sysv.id])).toEqual(['done', 'done', 'EIDRM'])
    })

    const use: Act<[string, number], Promise<string[]>> = async ({ PosixQueue, SysvQueue, codeOf }, name, id) => [
      await codeOf(() => PosixQueue.open(name)),
      await codeOf(() => SysvQueue.fromId(id).tryReceive()),
      await codeOf(() => SysvQueue.fromId(id).remove()),
      await codeOf(() => PosixQueue.unlink(name)),
    ]

    test.each<[string, string[], string[]]>([
      ['no capability', [], ['EACCES', 'EACCES', 'EPERM', 'done']],
      ['CAP_DAC_OVERRIDE', ['+dac_override'], ['done', 'EACCES', 'EPERM', 'done']],
      ['CAP_IPC_OWNER', ['+ipc_owner'], ['EACCES', 'done', 'EPERM', 'done']],
      ['CAP_SYS_ADMIN', ['+sys_admin'], ['EACCES', 'EACCES', 'done', 'done']],
    ])('of root with %s are what that grants, and to unlink', async (_, capabilities, expected) => {
      const posix = openQueue()
      fchownSync(posix.fd, stranger, stranger)
      // The creator keeps its permissions: that has to be the stranger.
      const id = await as(someone, ({ SysvQueue }) => SysvQueue.open('private').id, [])
      removeAfter(id)
      SysvQueue.fromId(id).trySend('x')
      const through = ['setpriv', `--bounding-set=${['-all', ...capabilities].join(',')}`, '--inh-caps=-all']
      expect(await as({}, use, [posix.path ?? '', id], through)).toEqual(expected)
    })

    /** Becomes somebody before Node.js starts, who has to be able to read these files then. */
    const become = ['setpriv', `--reuid=${stranger}`, `--regid=${stranger}`, '--clear-groups']
    const unreadable =
      isRoot && spawnSync('setpriv', [...become.slice(1), 'cat', fixture('as.mjs')]).status !== 0
        ? 'another user cannot read these files, which root can change'
        : undefined

    test('to unlink are those of CAP_FOWNER, too', async ({ skip }) => {
      skip(unreadable !== undefined, unreadable)
      const [posix, sysv] = [openQueue(), openSysv()]
      const through = [...become, '--inh-caps=-all,+fowner', '--ambient-caps=-all,+fowner']
      const codes = await as({}, use, [posix.path ?? '', sysv.id], through)
      expect(codes).toEqual(['EACCES', 'EACCES', 'EPERM', 'done'])
    })

    test('of the root of a user namespace are those of the user who made it', async ({ skip }) => {
      skip(unreadable !== undefined, unreadable)
      const [posix, sysv] = [openQueue(), openSysv()]
      const through = [...become, 'unshare', '--user', '--map-root-user']
      const codes = await as({}, use, [posix.path ?? '', sysv.id], through)
      expect(codes).toEqual(['EACCES', 'EACCES', 'EPERM', 'EPERM'])
    })
  })

  test('limits hold for the root of another user namespace than the first, also in its own IPC namespace', async ({
    skip,
  }) => {
    skip(!canUnshare, 'needs namespaces of its own, which root can make')
    const exceed: Act<[], Promise<unknown[]>> = async ({ PosixQueue, SysvQueue, fs, codeOf }) => {
      const { maxMessages } = PosixQueue.limits()
      const queue = SysvQueue.open('private')
      const [, capabilities] = /CapEff:\s+(\w+)/.exec(fs.readFileSync('/proc/self/status', 'utf8')) ?? []
      const hasResource = ((BigInt(`0x${capabilities}`) >> 24n) & 1n) === 1n // CAP_SYS_RESOURCE
      return [
        hasResource,
        await codeOf(() => PosixQueue.open('/q', { create: true, maxMessages: maxMessages + 1, messageSize: 8 })),
        await codeOf(() => queue.set({ maxBytes: queue.stat().maxBytes + 1 })),
      ]
    }
    const through = ['unshare', '--user', '--map-root-user', '--ipc']
    expect(await as({}, exceed, [], through)).toEqual([true, 'EINVAL', 'EPERM'])
  })

  describe('a queue of somebody else’s', () => {
    test('is what open with create finds if they were first, and its owner tells', async () => {
      const name = uniqueName()
      const key = uniqueKey()
      const create: Act<[string, number], void> = ({ PosixQueue, SysvQueue }, name, key) => {
        process.umask(0)
        PosixQueue.open(name, { create: true, mode: 0o666, maxMessages: 2, messageSize: 16 })
        SysvQueue.open(key, { create: true, mode: 0o666 })
      }
      await as(someone, create, [name, key])
      const posix = PosixQueue.open(name, { create: true, mode: 0o600 })
      onTestFinished(() => posix.close())
      const sysv = SysvQueue.open(key, { create: true, mode: 0o600 })
      expect(fstatSync(posix.fd).uid).toBe(stranger)
      expect(sysv.stat()).toMatchObject({ uid: stranger, creatorUid: stranger })
      expect(() => PosixQueue.open(name, { exclusive: true })).toThrow(expect.objectContaining({ code: 'EEXIST' }))
      expect(() => SysvQueue.open(key, { exclusive: true })).toThrow(expect.objectContaining({ code: 'EEXIST' }))
    })

    test('goes on for who has it open when it was unlinked, and a later one is another', async () => {
      const queue = openQueue()
      const name = queue.path ?? ''
      fchownSync(queue.fd, stranger, stranger)
      const replace: Act<[string], void> = ({ PosixQueue }, name) => {
        PosixQueue.unlink(name)
        PosixQueue.open(name, { create: true, maxMessages: 1, messageSize: 8 }).trySend('new')
      }
      await as(someone, replace, [name])
      expect(fstatSync(queue.fd).nlink).toBe(0)
      queue.trySend('old')
      expect(queue.tryReceive()?.text()).toBe('old')
      expect(queue.tryReceive()).toBeUndefined()
    })

    test('that its owner removes ends every wait', async () => {
      const queue = openSysv()
      queue.set({ uid: stranger })
      const waiting = failureOf(() => queue.receive())
      await as(someone, ({ SysvQueue }, id) => SysvQueue.fromId(id).remove(), [queue.id])
      expect(await waiting).toMatchObject({ code: 'EIDRM' })
    })

    test('that its owner makes smaller refuses what it holds no more, and holds up the rest no longer than its timeout', async () => {
      const queue = openSysv()
      queue.set({ uid: stranger })
      queue.trySend('1234')
      await as(someone, ({ SysvQueue }, id) => SysvQueue.fromId(id).set({ maxBytes: 4 }), [queue.id])
      await expect(queue.send('12345')).rejects.toMatchObject({ code: 'EMSGSIZE' })
      await expect(queue.send('5678', { timeout: 10 })).rejects.toMatchObject({ code: 'ETIMEDOUT' })
    })

    test('that its owner makes smaller lets a send wait on that waited before, though it never fits', async () => {
      const queue = openSysv({ maxBytes: 5 })
      queue.set({ uid: stranger })
      queue.trySend('1234')
      const controller = new AbortController()
      const waiting = failureOf(() => queue.send('12345', { signal: controller.signal }))
      await as(someone, ({ SysvQueue }, id) => SysvQueue.fromId(id).set({ maxBytes: 4 }), [queue.id])
      expect(queue.tryReceive()?.text()).toBe('1234')
      await SysvQueue.fromId(queue.id).send('5678')
      controller.abort()
      expect(await waiting).toMatchObject({ name: 'AbortError' })
      expect([queue.tryReceive()?.text(), queue.tryReceive()]).toEqual(['5678', undefined])
    })
  })

  describe('a peer on the same queue', () => {
    /** Queues that everybody may use. */
    const shared = (options: Parameters<typeof openQueue>[0] = {}) => {
      const queue = openQueue(options)
      fchmodSync(queue.fd, 0o666)
      return queue
    }

    test('can send no longer message, and no other priority or type, than the kernel allows', async () => {
      const posix = shared({ messageSize: 16 })
      const sysv = openSysv({ mode: 0o666, maxBytes: 16 })
      const attempt: Act<[string, number], number[]> = ({ syscalls }, name, id) => {
        const fd = syscalls.mqOpen(name, syscalls.O_RDWR)
        const x = Buffer.from('x')
        return [
          syscalls.mqSend(fd, Buffer.alloc(17)),
          syscalls.mqSend(fd, x, 32768),
          syscalls.msgsnd(id, 0, x),
          syscalls.msgsnd(id, -1, x),
          syscalls.msgsnd(id, -(2n ** 63n), x),
          syscalls.msgsnd(id, 1, Buffer.alloc(17), syscalls.IPC_NOWAIT),
          syscalls.msgsnd(id, 1, Buffer.alloc(2 ** 20), syscalls.IPC_NOWAIT),
        ]
      }
      const [EMSGSIZE, EINVAL, EAGAIN] = [-90, -22, -11]
      const results = await as(someone, attempt, [posix.path ?? '', sysv.id])
      expect(results).toEqual([EMSGSIZE, EINVAL, EINVAL, EINVAL, EINVAL, EAGAIN, EINVAL])
      expect([posix.attributes.messages, sysv.stat().messages]).toEqual([0, 0])
    })

    test('can choose a type that is a bigint', async () => {
      const queue = openSysv({ mode: 0o666 })
      await as(someone, ({ SysvQueue }, id) => SysvQueue.fromId(id).trySend('x', { type: 2n ** 63n - 1n }), [queue.id])
      expect(queue.tryReceive()?.type).toBe(9223372036854775807n)
    })

    test('can send a longer message than a buffer has room for, which stays first until it is taken', async () => {
      const queue = openSysv({ mode: 0o666 })
      await as(someone, ({ SysvQueue }, id) => SysvQueue.fromId(id).trySend(Buffer.alloc(8000, 'x')), [queue.id])
      queue.trySend('next')
      const buffer = Buffer.alloc(100)
      for (let round = 0; round < 3; round++) {
        expect(() => queue.tryReceiveInto(buffer)).toThrow(expect.objectContaining({ code: 'E2BIG' }))
      }
      expect(queue.tryReceiveInto(buffer, { truncate: true })).toBe(100)
      expect(queue.tryReceive()?.text()).toBe('next')
    })

    test('can send what is neither UTF-8 nor JSON, and pollutes no prototype', async () => {
      const queue = openSysv({ mode: 0o666 })
      const send: Act<[number], void> = ({ SysvQueue }, id) => {
        const queue = SysvQueue.fromId(id)
        queue.trySend(Buffer.from([0xff, 0x00, 0xc0]))
        queue.trySend('{"id": 1')
        queue.trySend('['.repeat(4000) + ']'.repeat(4000))
        queue.trySend('{"__proto__": {"admin": true}}')
      }
      await as(someone, send, [queue.id])
      expect(queue.tryReceive()?.text()).toBe('\ufffd\0\ufffd')
      expect(() => queue.tryReceive()?.json()).toThrow(SyntaxError)
      expect(queue.tryReceive()?.json()).toBeInstanceOf(Array)
      const parsed = queue.tryReceive()?.json<{ admin?: boolean }>()
      expect([parsed?.admin, ({} as { admin?: boolean }).admin]).toEqual([undefined, undefined])
    })

    test('can end a consumer whose handler lets errors out, and loses it no other message', async () => {
      const queue = openSysv({ mode: 0o666 })
      await as(someone, ({ SysvQueue }, id) => SysvQueue.fromId(id).trySendMany(['no JSON', '{"id":1}']), [queue.id])
      await expect(queue.consume((message) => message.json())).rejects.toThrow(SyntaxError)
      expect(queue.tryReceive()?.json()).toEqual({ id: 1 })
    })

    test('can take messages, send more urgent ones, and fill the queue', async () => {
      const queue = shared({ maxMessages: 2 })
      queue.trySend('mine')
      const take: Act<[string], string | undefined> = ({ PosixQueue }, name) => {
        const queue = PosixQueue.open(name)
        const taken = queue.tryReceive()?.text()
        queue.trySend('low')
        queue.trySend('urgent', { priority: 32767 })
        return taken
      }
      expect(await as(someone, take, [queue.path ?? ''])).toBe('mine')
      expect(queue.trySend('no room')).toBe(false)
      await expect(queue.send('no room', { timeout: 10 })).rejects.toMatchObject({ code: 'ETIMEDOUT' })
      expect(queue.tryReceive()?.text()).toBe('urgent')
    })

    test.each(['POSIX', 'System V'])(
      'of a %s queue that never stops sending does not stop the loop',
      async (family) => {
        const [posix, sysv] = [shared(), openSysv({ mode: 0o666 })]
        const queue = family === 'POSIX' ? posix : sysv
        const flood = startAs(
          someone,
          ({ PosixQueue, SysvQueue, tell }, name, id, family) => {
            const queue = family === 'POSIX' ? PosixQueue.open(name) : SysvQueue.fromId(id)
            tell('flooding')
            for (;;) queue.sendSync('flood')
          },
          [posix.path ?? '', sysv.id, family],
        )
        expect(await flood.line()).toBe('flooding')
        let ticks = 0
        const timer = setInterval(() => ticks++, 2)
        onTestFinished(() => clearInterval(timer))
        let received = 0
        for await (const message of queue) {
          expect(message.text()).toBe('flood')
          received++
          if (ticks >= 20 && received >= 1000) break
        }
      },
    )

    test('can take the one registration for notification, which receiving does without', async () => {
      const queue = shared()
      const child = startAs(
        someone,
        async ({ PosixQueue, tell, told }, name) => {
          PosixQueue.open(name).notifications()
          tell('registered')
          await told()
        },
        [queue.path ?? ''],
      )
      expect(await child.line()).toBe('registered')
      expect(() => queue.notifications()).toThrow(expect.objectContaining({ code: 'EBUSY' }))
      const received = queue.receive({ timeout: 5000 })
      queue.trySend('all the same')
      expect((await received).text()).toBe('all the same')
      child.end()
      expect((await child.outcome).stderr).toBe('')
      queue.notifications().return?.()
    })

    test('that shares a descriptor can make it blocking, and blocks nobody', async () => {
      const queue = shared()
      const clear: Act<[], unknown> = ({ syscalls }) => syscalls.mqSetattr(3, { flags: 0 })
      const child = start(
        process.execPath,
        [fixture('as.mjs'), JSON.stringify({ ...someone, code: String(clear), args: [] })],
        {
          descriptors: [queue.fd],
        },
      )
      expect((await child.outcome).stderr).toBe('')
      expect(syscalls.mqGetattr(queue.fd)).toMatchObject({ flags: 0 })
      expect(queue.tryReceive()).toBeUndefined()
      await expect(queue.receive({ timeout: 5 })).rejects.toMatchObject({ code: 'ETIMEDOUT' })
    })

    test('uses up no bytes but those of its own user', async () => {
      const fill: Act<[string], Promise<string[]>> = async ({ PosixQueue, codeOf }, prefix) => {
        const codes: string[] = []
        for (let index = 0; index < 3; index++) {
          const options = { create: true, maxMessages: 1, messageSize: 904 }
          codes.push(await codeOf(() => PosixQueue.open(`${prefix}-${index}`, options)))
        }
        for (let index = 0; index < 2; index++) PosixQueue.unlink(`${prefix}-${index}`)
        return codes
      }
      const codes = await as(someone, fill, [uniqueName()], ['prlimit', '--msgqueue=2000'])
      expect(codes).toEqual(['done', 'done', 'EMFILE'])
      expect(() => openQueue()).not.toThrow()
    })

    test('can use up the number of queues, of which all users of the namespace have one', async ({ skip }) => {
      skip(!canUnshare, 'needs an IPC namespace of its own, which root can make')
      const fill: Act<[number], Promise<string[]>> = async ({ PosixQueue, SysvQueue, fs, codeOf }, uid) => {
        fs.writeFileSync('/proc/sys/fs/mqueue/queues_max', '1')
        fs.writeFileSync('/proc/sys/kernel/msgmni', '1')
        const options = { create: true, maxMessages: 1, messageSize: 8 }
        const codes: string[] = []
        for (const user of [uid, uid + 1]) {
          process.seteuid?.(user)
          codes.push(await codeOf(() => PosixQueue.open(`/${user}`, options)))
          codes.push(await codeOf(() => SysvQueue.open(user, { create: true })))
          process.seteuid?.(0)
        }
        codes.push(await codeOf(() => SysvQueue.open('private')))
        PosixQueue.unlink(`/${uid}`)
        return codes
      }
      const codes = ['done', 'done', 'ENOSPC', 'ENOSPC', 'ENOSPC']
      expect(await as({}, fill, [stranger], ['unshare', '--ipc'])).toEqual(codes)
    })
  })
})

test('a key of ftok is that of the file which a link leads to', () => {
  const directory = mkdtempSync(join(tmpdir(), 'kernelmq-security-'))
  onTestFinished(() => rmSync(directory, { recursive: true }))
  const [file, link] = [join(directory, 'file'), join(directory, 'link')]
  writeFileSync(file, '')
  symlinkSync(file, link)
  expect(SysvQueue.ftok(link, 1)).toBe(SysvQueue.ftok(file, 1))
})

describe('a name that somebody chose', () => {
  const directory = /^\S+ (\S+) mqueue /m.exec(readFileSync('/proc/self/mounts', 'utf8'))?.[1] ?? ''
  const mayBe = isRoot ? someone : {}

  /** Queues of these names, in hexadecimal, of another user if there can be one. */
  async function create(names: Buffer[]) {
    const paths = names.map((name) => Buffer.concat([Buffer.from(`${directory}/`), name]))
    onTestFinished(() => {
      for (const path of paths) unlinkSync(path)
    })
    const make: Act<[string[]], void> = ({ fs }, paths) => {
      for (const path of paths) {
        fs.closeSync(fs.openSync(Buffer.from(path, 'hex'), fs.constants.O_CREAT | fs.constants.O_EXCL, 0o600))
      }
    }
    await as(mayBe, make, [paths.map((path) => path.toString('hex'))])
    return paths
  }

  beforeEach(({ skip }) => skip(!isMounted, 'the mqueue file system is not mounted, which root can do'))

  test('is listed as it is, and describes no other queue', async () => {
    const prefix = uniqueName().slice(1)
    const shown = openQueue({ maxMessages: 1, messageSize: 8 })
    const lookalike = `${prefix}\ufffd`
    const plain = PosixQueue.open(`/${lookalike}`, { create: true, maxMessages: 1, messageSize: 8 })
    onTestFinished(() => {
      plain.close()
      PosixQueue.unlink(`/${lookalike}`)
    })
    const words = ['\n\u001b[2Jx', ' mqueue 0 0', '__proto__', 'QSIZE:999 NOTIFY_PID:1']
    const names = words.map((word) => Buffer.from(prefix + word))
    await create([...names, Buffer.concat([Buffer.from(prefix), Buffer.from([0xff])])])
    const rows = (await PosixQueue.list()).filter(({ name }) => name.startsWith(`/${prefix}`))
    for (const name of names) {
      const row = rows.find((row) => row.name === `/${name}`)
      expect(row).toMatchObject({ bytes: 0, messages: 0, maxMessages: expect.any(Number), mode: 0o600 })
    }
    // One name is no UTF-8, and looks like the other; each has its own attributes.
    const alike = rows.filter(({ name }) => name === `/${lookalike}`)
    expect(alike.map(({ maxMessages }) => maxMessages).sort()).toEqual(
      [1, PosixQueue.limits().defaultMaxMessages].sort(),
    )
    expect(shown.attributes.messages).toBe(0)
  })

  test('that is no UTF-8 is told of by watch(), and passes for no other in waitFor()', async () => {
    const prefix = uniqueName().slice(1)
    const events = PosixQueue.watch()
    onTestFinished(() => void events.return?.())
    const alike = `/${prefix}\ufffd`
    const waiting = PosixQueue.waitFor(alike, { timeout: 60_000 })
    const last = `${prefix}\n\u001b[2J`
    // As text the second would be longer than any name may be.
    const wrong = [1, 255 - prefix.length].map((length) => Buffer.from(prefix + '\xff'.repeat(length), 'latin1'))
    await create([...wrong, Buffer.from(last)])
    const told: string[] = []
    for await (const { name } of events) {
      if (name.startsWith(`/${prefix}`)) told.push(name)
      if (name === `/${last}`) break
    }
    expect(told.sort()).toEqual([...wrong.map((name) => `/${name}`), `/${last}`].sort())
    // They are there when these begin, too.
    const again = PosixQueue.watch()
    onTestFinished(() => void again.return?.())
    await PosixQueue.waitFor(`/${last}`)
    expect(await isPending(waiting)).toBe(true)
    const queue = PosixQueue.open(alike, { create: true, maxMessages: 1, messageSize: 8 })
    onTestFinished(() => {
      queue.close()
      PosixQueue.unlink(alike)
    })
    await waiting
  })

  test('does not pass for that of an unlinked queue, or one that it is not', async () => {
    const prefix = uniqueName().slice(1)
    const paths = await create([
      Buffer.from(`${prefix} (deleted)`),
      Buffer.concat([Buffer.from(prefix), Buffer.from([0xff])]),
    ])
    const adopted = paths.map((path) => {
      const fd = openSync(path, 'r')
      const queue = PosixQueue.fromFd(fd)
      closeSync(fd)
      onTestFinished(() => queue.close())
      return queue.path
    })
    expect(adopted).toEqual([`/${prefix} (deleted)`, undefined])
    const queue = openQueue()
    PosixQueue.unlink(queue.path ?? '')
    const again = PosixQueue.fromFd(queue.fd)
    onTestFinished(() => again.close())
    expect(again.path).toBe(queue.path)
  })
})

test('no descriptor of a queue is inherited, however it was made', () => {
  const flagsOf = (fd: number) =>
    Number.parseInt(/flags:\s+(\d+)/.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'))?.[1] ?? '', 8)
  const queue = openQueue()
  const adopted = PosixQueue.fromFd(queue.fd)
  onTestFinished(() => adopted.close())
  const raw = syscalls.mqOpen(queue.path ?? '', syscalls.O_RDWR)
  onTestFinished(() => void syscalls.mqClose(raw))
  const descriptors = [queue.fd, adopted.fd, raw]
  for (const fd of descriptors) expect(flagsOf(fd) & 0o2000000).toBe(0o2000000)
})
