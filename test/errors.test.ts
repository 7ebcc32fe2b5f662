import { constants } from 'node:os'
import { AbortError, PosixQueue, QueueError } from 'kernelmq'
import { describe, expect, onTestFinished, test } from 'vitest'
import { attempt, canUnshare, failureOf, inNamespace, isRoot, openQueue, stranger, uniqueName } from './support.ts'

/** Only root has users to spare; the limits of another's are full for reasons of its own. */
const uid = isRoot ? stranger : undefined

describe('an error', () => {
  test('says code, what it means, call, queue and figures', async () => {
    const queue = openQueue({ messageSize: 64 })
    const error = await failureOf(() => queue.send(Buffer.alloc(90)))
    expect(error).toBeInstanceOf(QueueError)
    expect(error).toBeInstanceOf(Error)
    expect((error as Error).message).toBe(`EMSGSIZE: message too long, mq_timedsend '${queue.path}' (90 > 64 bytes)`)
    expect(error).toMatchObject({
      name: 'QueueError',
      code: 'EMSGSIZE',
      errno: -constants.errno.EMSGSIZE,
      syscall: 'mq_timedsend',
      path: queue.path,
    })
    expect(String(error)).toBe(`QueueError: ${(error as Error).message}`)
  })

  test('of the library’s own has no errno', async () => {
    const queue = openQueue()
    queue.close()
    const error = await failureOf(() => queue.receive())
    expect(error).toMatchObject({ name: 'QueueError', code: 'ERR_MQ_CLOSED', path: queue.path })
    expect(error).not.toHaveProperty('errno')
    expect((error as Error).message).toMatch(/^ERR_MQ_CLOSED: the queue is closed, mq_timedreceive '\/kmq-test-/)
  })

  test('has a message of its form for every errno that can be met', async () => {
    const queue = openQueue()
    const reader = PosixQueue.open(queue.path ?? '', { access: 'read' })
    onTestFinished(() => reader.close())
    queue.notifications()
    const name = uniqueName()
    const calls: [string, string, () => unknown][] = [
      ['ENOENT', 'mq_open', () => PosixQueue.open(name)],
      ['EEXIST', 'mq_open', () => PosixQueue.open(queue.path ?? '', { exclusive: true })],
      ['EINVAL', 'mq_open', () => PosixQueue.open('orders')],
      ['EACCES', 'mq_open', () => PosixQueue.open(`${name}/x`)],
      ['ENAMETOOLONG', 'mq_open', () => PosixQueue.open(`/${'x'.repeat(256)}`)],
      ['ENOENT', 'mq_unlink', () => PosixQueue.unlink(name)],
      ['ETIMEDOUT', 'mq_timedreceive', () => queue.receive({ timeout: 0 })],
      ['ETIMEDOUT', 'mq_timedreceive', () => queue.receiveSync({ timeout: 0 })],
      ['EBADF', 'mq_timedsend', () => reader.trySend('x')],
      ['EBUSY', 'mq_notify', () => queue.notifications()],
      ['EMSGSIZE', 'mq_timedreceive', () => queue.tryReceiveInto(Buffer.alloc(1))],
    ]
    for (const [code, syscall, call] of calls) {
      const error = await failureOf(call)
      const errno = -constants.errno[code as 'ENOENT']
      expect(error).toMatchObject({ name: 'QueueError', code, errno, syscall })
      const { message } = error as Error
      expect(message).toMatch(new RegExp(`^${code}: [a-z][a-z ]+, ${syscall} '[^']+'( \\(.+\\))?$`))
      expect(message).not.toContain('failed')
    }
  })

  test('of an abort is an AbortError, not a QueueError', async () => {
    const error = await failureOf(() => openQueue().receive({ signal: AbortSignal.abort(7) }))
    expect(error).toBeInstanceOf(AbortError)
    expect(error).not.toBeInstanceOf(QueueError)
    expect(error).toMatchObject({ name: 'AbortError', code: 'ABORT_ERR', cause: 7 })
  })
})

describe('a name', () => {
  test('without its slash is refused, with the right name', () => {
    for (const call of [() => PosixQueue.open('orders', { create: true }), () => PosixQueue.unlink('orders')]) {
      expect(call).toThrow(
        expect.objectContaining({
          code: 'EINVAL',
          errno: -constants.errno.EINVAL,
          path: 'orders',
          hint: expect.stringContaining("'/orders'"),
        }),
      )
    }
  })

  test('without its slash is refused by waitFor too', async () => {
    await expect(PosixQueue.waitFor('orders')).rejects.toMatchObject({
      code: 'EINVAL',
      hint: expect.stringContaining("'/orders'"),
    })
  })

  test('that is empty is refused, with an example', () => {
    expect(() => PosixQueue.open('', { create: true })).toThrow(
      expect.objectContaining({ code: 'EINVAL', hint: expect.stringMatching(/'\/\w+'/) }),
    )
  })

  test('of a slash alone does not exist', () => {
    expect(() => PosixQueue.open('/', { create: true })).toThrow(
      expect.objectContaining({ code: 'ENOENT', hint: expect.stringContaining('after its slash') }),
    )
  })

  test('with a second slash is refused, with one that will do', () => {
    expect(() => PosixQueue.open('/a/b/c', { create: true })).toThrow(
      expect.objectContaining({ code: 'EACCES', hint: expect.stringContaining("'/a.b.c'") }),
    )
    expect(() => PosixQueue.unlink('/a/b')).toThrow(
      expect.objectContaining({ code: 'EACCES', hint: expect.stringContaining("'/a.b'") }),
    )
  })

  test('of more than 255 bytes is refused, with the limit', () => {
    for (const name of [`/${'x'.repeat(256)}`, `/${'é'.repeat(128)}`]) {
      for (const call of [() => PosixQueue.open(name, { create: true }), () => PosixQueue.unlink(name)]) {
        expect(call).toThrow(expect.objectContaining({ code: 'ENAMETOOLONG', hint: expect.stringContaining('255') }))
      }
    }
  })
})

describe('the hint', () => {
  test('of ENOENT says how to create the queue, or to wait for it', () => {
    expect(() => PosixQueue.open(uniqueName())).toThrow(
      expect.objectContaining({ code: 'ENOENT', hint: expect.stringMatching(/create: true.*waitFor/) }),
    )
  })

  test('of EEXIST says how to open what is there', () => {
    const queue = openQueue()
    expect(() => PosixQueue.open(queue.path ?? '', { exclusive: true })).toThrow(
      expect.objectContaining({ code: 'EEXIST', hint: expect.stringContaining('exclusive') }),
    )
  })

  test('of EMSGSIZE on sending says that the size is fixed, and how to have another', async () => {
    const queue = openQueue({ messageSize: 64 })
    for (const call of [
      () => queue.trySend('x'.repeat(65)),
      () => queue.sendSync('x'.repeat(65)),
      () => queue.send('x'.repeat(65)),
      () => queue.sendMany(['x'.repeat(65)]),
      () => queue.trySendMany(['x'.repeat(65)]),
    ]) {
      expect(await failureOf(call)).toMatchObject({
        code: 'EMSGSIZE',
        message: expect.stringContaining('(65 > 64 bytes)'),
        hint: expect.stringContaining('messageSize'),
      })
    }
  })

  test('of EMSGSIZE on receiving says how long the buffer has to be', () => {
    const queue = openQueue({ messageSize: 64 })
    expect(() => queue.tryReceiveInto(Buffer.alloc(63))).toThrow(
      expect.objectContaining({
        code: 'EMSGSIZE',
        message: expect.stringContaining('63 < 64 bytes'),
        hint: expect.stringContaining('64'),
      }),
    )
  })

  test('of EBADF says which access is missing', () => {
    const queue = openQueue()
    const reader = PosixQueue.open(queue.path ?? '', { access: 'read' })
    const writer = PosixQueue.open(queue.path ?? '', { access: 'write' })
    onTestFinished(() => reader.close())
    onTestFinished(() => writer.close())
    const hint = (text: string) => expect.objectContaining({ code: 'EBADF', hint: expect.stringContaining(text) })
    expect(() => reader.trySend('x')).toThrow(hint('reading only'))
    expect(() => writer.tryReceive()).toThrow(hint('writing only'))
  })

  test('of EINVAL says what is allowed here, and which sysctl allows more', async () => {
    const { maxMessages, messageSize } = PosixQueue.limits()
    const name = uniqueName()
    const sizes = [
      { maxMessages: maxMessages + 1, messageSize: 16 },
      { maxMessages: 1, messageSize: messageSize + 1 },
      { maxMessages: 65537, messageSize: 16 },
      { maxMessages: 1, messageSize: 2 ** 24 + 1 },
    ]
    const results = await attempt(
      sizes.map((size) => ['open', name, { create: true, ...size }]),
      { uid },
    )
    for (const [index, { error }] of results.entries()) {
      expect(error).toMatchObject({ code: 'EINVAL', path: name })
      expect(error?.hint).toContain(`1 to ${maxMessages}`)
      expect(error?.hint).toContain(`1 to ${messageSize}`)
      // The last two are beyond what the kernel allows at all, see mq_overview(7).
      if (index >= 2) {
        expect(error?.hint).not.toContain('sysctl')
        continue
      }
      expect(error?.hint).toContain(`fs.mqueue.msg_max=${Math.max(maxMessages, sizes[index]?.maxMessages ?? 0)}`)
      expect(error?.hint).toContain(`fs.mqueue.msgsize_max=${Math.max(messageSize, sizes[index]?.messageSize ?? 0)}`)
    }
  })

  test('of EACCES says that the queue is another’s', async ({ skip }) => {
    skip(!isRoot, 'only root can become another user')
    const mine = openQueue({ mode: 0o600 })
    const shown = openQueue({ mode: 0o604 })
    const [closed, read, write] = await attempt(
      [
        ['open', mine.path],
        ['open', shown.path, { access: 'read' }],
        ['open', shown.path, { access: 'write' }],
      ],
      { uid },
    )
    expect(closed?.error).toMatchObject({ code: 'EACCES', path: mine.path })
    expect(closed?.error?.hint).toMatch(/another user|mode/)
    expect(read?.value).toMatchObject({ maxMessages: 4 })
    expect(write?.error).toMatchObject({ code: 'EACCES', path: shown.path })
  })

  test('of unlinking another’s queue says so too', async ({ skip }) => {
    skip(!isRoot, 'only root can become another user')
    const queue = openQueue({ mode: 0o666 })
    const [result] = await attempt([['unlink', queue.path]], { uid })
    expect(result?.error).toMatchObject({ syscall: 'mq_unlink', path: queue.path })
    expect(['EACCES', 'EPERM']).toContain(result?.error?.code)
    expect(result?.error?.hint).toMatch(/another user|owner/)
  })

  test('of EMFILE says what the queue costs, what is allowed, and how to get more', async ({ skip }) => {
    skip(!isRoot, 'needs a user without other queues, which only root can become')
    const size = { maxMessages: 3, messageSize: 100 }
    const cost = PosixQueue.cost(size)
    const [result] = await attempt([['open', uniqueName(), { create: true, ...size }]], {
      through: ['prlimit', `--msgqueue=${cost - 1}`],
      uid,
    })
    expect(result?.error).toMatchObject({ code: 'EMFILE', errno: -constants.errno.EMFILE, syscall: 'mq_open' })
    const hint = result?.error?.hint ?? ''
    expect(hint).toMatch(new RegExp(`\\b${cost}\\b`))
    expect(hint).toMatch(new RegExp(`\\b${cost - 1}\\b`))
    expect(hint).toContain('RLIMIT_MSGQUEUE')
    expect(hint).toContain('ulimit -q')
    expect(hint).toContain('--ulimit msgqueue=')
    expect(hint).toContain('LimitMSGQUEUE=')
  })

  test('of EMFILE counts the defaults for what is absent', async ({ skip }) => {
    skip(!isRoot, 'needs a user without other queues, which only root can become')
    const { defaultMaxMessages, defaultMessageSize } = PosixQueue.limits()
    const [neither, one] = await attempt(
      [
        ['open', uniqueName(), { create: true }],
        ['open', uniqueName(), { create: true, maxMessages: 2 }],
      ],
      { through: ['prlimit', '--msgqueue=1000'], uid },
    )
    const cost = (maxMessages: number) => String(PosixQueue.cost({ maxMessages, messageSize: defaultMessageSize }))
    expect(neither?.error).toMatchObject({ code: 'EMFILE', hint: expect.stringContaining(cost(defaultMaxMessages)) })
    expect(one?.error).toMatchObject({ code: 'EMFILE', hint: expect.stringContaining(cost(2)) })
  })

  test('of EMFILE does not blame RLIMIT_MSGQUEUE when descriptors have run out', async () => {
    const queue = openQueue()
    const results = await attempt(
      [
        ['open', queue.path],
        ['open', uniqueName(), { create: true, maxMessages: 1, messageSize: 1 }],
        ['open', uniqueName(), { create: true, maxMessages: 1 }],
        ['open', uniqueName(), { create: true, messageSize: 1 }],
        ['open', uniqueName(), { create: true }],
      ],
      { through: ['prlimit', '--nofile=64:64'], exhaust: true },
    )
    for (const { error } of results) {
      expect(error).toMatchObject({ name: 'QueueError', code: 'EMFILE' })
      expect(error?.hint).toContain('ulimit -n')
      expect(error?.hint).not.toContain('MSGQUEUE')
    }
  })

  test('of ENOSPC says how many queues there may be, and which sysctl allows more', async ({ skip }) => {
    skip(!canUnshare, 'needs an IPC namespace of its own, which root can make')
    const size = { create: true, maxMessages: 1, messageSize: 1 }
    const names = Array.from({ length: 3 }, uniqueName)
    const [first, second, third] = await attempt(
      names.map((name) => ['open', name, size]),
      // Without CAP_SYS_RESOURCE, which queues_max does not hold for.
      { through: inNamespace('queues_max=2'), uid },
    )
    expect(first?.value).toMatchObject({ maxMessages: 1 })
    expect(second?.value).toMatchObject({ maxMessages: 1 })
    expect(third?.error).toMatchObject({ code: 'ENOSPC', errno: -constants.errno.ENOSPC, path: names[2] })
    expect(third?.error?.hint).toMatch(/\b2 queues/)
    expect(third?.error?.hint).toContain('fs.mqueue.queues_max')
  })

  test('is left out where its figures cannot be read, and the error is the same', async ({ skip }) => {
    skip(!canUnshare, 'needs a mount namespace of its own, which root can make')
    const [refused] = await attempt([['open', uniqueName(), { create: true, maxMessages: 65537, messageSize: 8 }]], {
      through: ['unshare', '--mount', 'sh', '-c', 'mount -t tmpfs none /proc/sys/fs && exec "$@"', 'sh'],
    })
    expect(refused?.error).toMatchObject({ code: 'EINVAL', syscall: 'mq_open' })
    expect(refused?.error).not.toHaveProperty('hint')
  })

  test('of EBUSY says where to see who is registered', () => {
    const queue = openQueue()
    queue.notifications()
    expect(() => queue.notifications()).toThrow(
      expect.objectContaining({ code: 'EBUSY', hint: expect.stringContaining('PosixQueue.list()') }),
    )
  })
})
