import { once } from 'node:events'
import { Transform } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { AbortError, type PosixMessage, PosixQueue } from 'kernelmq'
import { describe, expect, onTestFinished, test } from 'vitest'
import { failureOf, isPending, openQueue, turns } from './support.ts'

const text = (message: PosixMessage | undefined) => message?.text()

/** What is in the queue, as text; takes it out. */
const drain = (queue: PosixQueue) => queue.tryReceiveMany().map((message) => message.text())

const numbers = (count: number) => Array.from({ length: count }, (_, index) => String(index))

/** A promise to be settled by hand. */
function gate(): { opened: Promise<void>; open: () => void } {
  let open = () => {}
  const opened = new Promise<void>((resolve) => {
    open = resolve
  })
  return { opened, open }
}

/** Another handle of the same queue, that sees what is left when the first is closed. */
function reopen(queue: PosixQueue): PosixQueue {
  const other = PosixQueue.open(queue.path ?? '')
  onTestFinished(() => other.close())
  return other
}

describe('for await', () => {
  test('brings messages as they come, and ends when the queue is closed', async () => {
    const queue = openQueue()
    const received: string[] = []
    const loop = (async () => {
      for await (const message of queue) received.push(message.text())
    })()
    await queue.sendMany(numbers(10))
    await expect.poll(() => received).toEqual(numbers(10))
    queue.close()
    await loop
    expect(received).toEqual(numbers(10))
  })

  test('ends at once on a closed queue', async () => {
    const queue = openQueue()
    queue.trySend('x')
    queue.close()
    for await (const message of queue) expect.unreachable(message.text())
    for await (const batch of queue.batches()) expect.unreachable(String(batch.length))
  })

  test('left by break, keeps the queue open and loses nothing', async () => {
    const queue = openQueue()
    queue.trySendMany(['1', '2', '3', '4'])
    for await (const message of queue) {
      expect(message.text()).toBe('1')
      break
    }
    for await (const message of queue) {
      expect(message.text()).toBe('2')
      break
    }
    expect(drain(queue)).toEqual(['3', '4'])
  })

  test('left by an exception, keeps the queue open and loses nothing', async () => {
    const queue = openQueue()
    queue.trySendMany(['1', '2'])
    const failure = new Error('of the body')
    const loop = async () => {
      for await (const _ of queue) throw failure
    }
    await expect(loop()).rejects.toBe(failure)
    expect(drain(queue)).toEqual(['2'])
  })

  test('takes a message only when it is asked for one', async () => {
    const queue = openQueue()
    const iterator = queue[Symbol.asyncIterator]()
    queue.trySendMany(['1', '2', '3'])
    await turns()
    expect(queue.attributes.messages).toBe(3)
    expect(text((await iterator.next()).value)).toBe('1')
    await turns()
    expect(queue.attributes.messages).toBe(2)
  })

  test('closed from within its body, ends after that', async () => {
    const queue = openQueue()
    queue.trySendMany(['1', '2'])
    const received: string[] = []
    for await (const message of queue) {
      received.push(message.text())
      queue.close()
    }
    expect(received).toEqual(['1'])
  })
})

describe('an iterator', () => {
  test('serves requests that are made ahead in their order', async () => {
    const queue = openQueue()
    const iterator = queue.messages()
    const requests = [iterator.next(), iterator.next(), iterator.next()]
    queue.trySendMany(['1', '2', '3'])
    const steps = await Promise.all(requests)
    expect(steps.map(({ value }) => text(value))).toEqual(['1', '2', '3'])
  })

  test('returned while a request waits, ends it and takes no message', async () => {
    const queue = openQueue()
    const iterator = queue.messages()
    const requests = [iterator.next(), iterator.next()]
    expect(await iterator.return?.()).toEqual({ value: undefined, done: true })
    expect(await Promise.all(requests)).toEqual([
      { value: undefined, done: true },
      { value: undefined, done: true },
    ])
    queue.trySend('x')
    await turns()
    expect(await iterator.next()).toEqual({ value: undefined, done: true })
    expect(drain(queue)).toEqual(['x'])
  })

  test('returned before a request, ends', async () => {
    const queue = openQueue()
    queue.trySend('x')
    const iterator = queue.messages()
    await iterator.return?.()
    expect(await iterator.next()).toEqual({ value: undefined, done: true })
    expect(drain(queue)).toEqual(['x'])
  })

  test('given up by its signal, rejects once, and has ended then', async () => {
    const queue = openQueue()
    const controller = new AbortController()
    const iterator = queue.messages({ signal: controller.signal })
    const request = iterator.next()
    controller.abort('enough')
    await expect(request).rejects.toMatchObject({ name: 'AbortError', code: 'ABORT_ERR', cause: 'enough' })
    expect(await iterator.next()).toEqual({ value: undefined, done: true })
  })

  test('has a timeout for each request', async () => {
    const queue = openQueue()
    queue.trySendMany(['1', '2'])
    const iterator = queue.messages({ timeout: 5 })
    expect(text((await iterator.next()).value)).toBe('1')
    expect(text((await iterator.next()).value)).toBe('2')
    await expect(iterator.next()).rejects.toMatchObject({ code: 'ETIMEDOUT' })
  })

  test('and another share what comes, each message going to one', async () => {
    const queue = openQueue()
    const seen: string[] = []
    const loop = async () => {
      for await (const message of queue) seen.push(message.text())
    }
    const loops = [loop(), loop(), loop()]
    await queue.sendMany(numbers(60))
    await expect.poll(() => seen.length).toBe(60)
    queue.close()
    await Promise.all(loops)
    expect(new Set(seen).size).toBe(60)
  })
})

describe('batches', () => {
  test('brings what is there, never nothing, and ends when the queue is closed', async () => {
    const queue = openQueue()
    queue.trySendMany(['1', '2', '3'])
    const iterator = queue.batches()
    expect((await iterator.next()).value?.map(text)).toEqual(['1', '2', '3'])
    const next = iterator.next()
    expect(await isPending(next)).toBe(true)
    queue.trySend('4')
    expect((await next).value?.map(text)).toEqual(['4'])
    const last = iterator.next()
    queue.close()
    expect(await last).toEqual({ value: undefined, done: true })
  })

  test('brings no more than max at a time', async () => {
    const queue = openQueue()
    queue.trySendMany(['1', '2', '3'])
    const sizes: number[] = []
    for await (const batch of queue.batches({ max: 2 })) {
      sizes.push(batch.length)
      if (queue.attributes.messages === 0) break
    }
    expect(sizes).toEqual([2, 1])
  })

  test('left by break, loses nothing that it did not bring', async () => {
    const queue = openQueue()
    queue.trySendMany(['1', '2', '3', '4'])
    for await (const batch of queue.batches({ max: 3 })) {
      expect(batch.map(text)).toEqual(['1', '2', '3'])
      break
    }
    expect(drain(queue)).toEqual(['4'])
  })
})

describe('consume', () => {
  test('calls the handler for each message in order, and resolves when the queue is closed', async () => {
    const queue = openQueue()
    const seen: string[] = []
    const consumed = queue.consume((message) => seen.push(message.text()))
    await queue.sendMany(numbers(20))
    await expect.poll(() => seen).toEqual(numbers(20))
    queue.close()
    expect(await consumed).toBeUndefined()
  })

  test.each([1, 3, Number.POSITIVE_INFINITY])('runs at most %d handlers at once, and as many', async (concurrency) => {
    const queue = openQueue()
    let running = 0
    let most = 0
    let done = 0
    const blocked: (() => void)[] = []
    const consumed = queue.consume(
      async () => {
        most = Math.max(most, ++running)
        const { opened, open } = gate()
        blocked.push(open)
        await opened
        running--
        done++
      },
      concurrency === 1 ? {} : { concurrency },
    )
    await queue.sendMany(numbers(4))
    const expected = Math.min(concurrency, 4)
    await expect.poll(() => running).toBe(expected)
    await turns()
    // What no handler runs for stays in the queue.
    expect(queue.attributes.messages).toBe(4 - expected)
    while (done < 4) {
      blocked.shift()?.()
      await turns(1)
    }
    expect(most).toBe(expected)
    queue.close()
    await consumed
  })

  test('aborted, takes no more, waits for the handlers that run, and rejects', async () => {
    const queue = openQueue()
    const controller = new AbortController()
    const { opened, open } = gate()
    const seen: string[] = []
    let finished = 0
    const consumed = queue.consume(
      async (message, { signal }) => {
        seen.push(message.text())
        expect(signal.aborted).toBe(false)
        await opened
        expect(signal.aborted).toBe(true)
        expect(signal.reason).toBe('enough')
        finished++
      },
      { concurrency: 3, signal: controller.signal },
    )
    queue.trySendMany(['1', '2'])
    await expect.poll(() => seen).toEqual(['1', '2'])
    controller.abort('enough')
    queue.trySendMany(['3', '4'])
    expect(await isPending(consumed)).toBe(true)
    expect(finished).toBe(0)
    open()
    await expect(consumed).rejects.toMatchObject({ name: 'AbortError', code: 'ABORT_ERR', cause: 'enough' })
    expect(finished).toBe(2)
    expect(seen).toEqual(['1', '2'])
    expect(drain(queue)).toEqual(['3', '4'])
  })

  test('aborted before, takes nothing', async () => {
    const queue = openQueue()
    queue.trySend('x')
    const consumed = queue.consume(() => expect.unreachable(), { signal: AbortSignal.abort() })
    await expect(consumed).rejects.toBeInstanceOf(AbortError)
    expect(drain(queue)).toEqual(['x'])
  })

  test.each<[string, unknown, (failure: unknown) => unknown]>([
    [
      'an exception',
      new Error('of the handler'),
      (failure) => {
        throw failure
      },
    ],
    ['a rejection', new Error('of the handler'), (failure) => Promise.reject(failure)],
    ['nothing in particular', undefined, (failure) => Promise.reject(failure)],
  ])('ended by %s of a handler, takes no more, waits for the others, and rejects with it', async (_, failure, fail) => {
    const queue = openQueue()
    const fails = gate()
    const ends = gate()
    const seen: string[] = []
    let aborted = false
    let finished = false
    const outcome = queue
      .consume(
        async (message, { signal }) => {
          seen.push(message.text())
          if (message.text() === 'bad') return fails.opened.then(() => fail(failure))
          await ends.opened
          aborted = signal.aborted
          finished = true
          return undefined
        },
        { concurrency: 4 },
      )
      .then(
        () => expect.unreachable(),
        (error) => ({ error, finished }),
      )
    queue.trySendMany(['bad', 'good'])
    await expect.poll(() => seen).toEqual(['bad', 'good'])
    // Another handler could run: its wait has to end first.
    fails.open()
    await turns()
    queue.trySendMany(['3', '4'])
    expect(await isPending(outcome)).toBe(true)
    ends.open()
    expect(await outcome).toEqual({ error: failure, finished: true })
    expect(aborted).toBe(true)
    expect(seen).toEqual(['bad', 'good'])
    expect(drain(queue)).toEqual(['3', '4'])
  })

  test('waits for the handlers that run when the queue is closed, and resolves', async () => {
    const queue = openQueue()
    const { opened, open } = gate()
    const consumed = queue.consume(() => opened, { concurrency: 2 })
    queue.trySendMany(['1', '2'])
    await expect.poll(() => queue.attributes.messages).toBe(0)
    queue.close()
    expect(await isPending(consumed)).toBe(true)
    open()
    await consumed
  })

  test('rejects with the error of a handler that fails after the queue was closed', async () => {
    const queue = openQueue()
    const { opened, open } = gate()
    const failure = new Error('late')
    const consumed = queue.consume(() => opened.then(() => Promise.reject(failure)), { concurrency: 2 })
    queue.trySend('1')
    await expect.poll(() => queue.attributes.messages).toBe(0)
    queue.close()
    open()
    await expect(consumed).rejects.toBe(failure)
  })

  test('can be closed from within a handler', async () => {
    const queue = openQueue()
    queue.trySendMany(['1', '2'])
    const other = reopen(queue)
    await queue.consume(() => queue.close())
    expect(drain(other)).toEqual(['2'])
  })

  test('can start again after a failure, with nothing lost but the message that failed', async () => {
    const queue = openQueue()
    queue.trySendMany(['1', 'bad', '3'])
    const seen: string[] = []
    const handler = (message: PosixMessage) => {
      if (message.text() === 'bad') throw new Error('bad')
      seen.push(message.text())
      if (message.text() === '3') queue.close()
    }
    await expect(queue.consume(handler)).rejects.toThrow('bad')
    await queue.consume(handler)
    expect(seen).toEqual(['1', '3'])
  })

  test('refuses bad arguments without taking a message', async () => {
    const queue = openQueue()
    queue.trySend('x')
    for (const handler of [undefined, null, 'text', {}]) {
      await expect(queue.consume(handler as never)).rejects.toBeInstanceOf(TypeError)
    }
    for (const concurrency of [0, -1, 1.5, Number.NaN]) {
      await expect(queue.consume(() => {}, { concurrency })).rejects.toBeInstanceOf(RangeError)
    }
    await expect(queue.consume(() => {}, { concurrency: '2' as never })).rejects.toBeInstanceOf(TypeError)
    await expect(queue.consume(() => {}, { signal: 'abort' as never })).rejects.toBeInstanceOf(TypeError)
    expect(drain(queue)).toEqual(['x'])
  })
})

describe('a read stream', () => {
  test('brings messages in order, and ends when the queue is closed', async () => {
    const queue = openQueue()
    const stream = queue.createReadStream()
    expect(stream.readableObjectMode).toBe(true)
    const received: string[] = []
    stream.on('data', (message: PosixMessage) => {
      received.push(`${message.priority} ${message.text()}`)
      if (received.length === 20) queue.close()
    })
    await Promise.all([once(stream, 'end'), queue.sendMany(numbers(20).map((data) => ({ data, priority: 3 })))])
    expect(received).toEqual(numbers(20).map((number) => `3 ${number}`))
  })

  test('delivers what it has fetched when the queue is closed', async () => {
    const queue = openQueue()
    queue.trySendMany(['1', '2', '3'])
    const stream = queue.createReadStream()
    await once(stream, 'readable')
    await expect.poll(() => stream.readableLength).toBe(3)
    queue.close()
    const received: string[] = []
    for await (const message of stream) received.push(message.text())
    expect(received).toEqual(['1', '2', '3'])
  })

  test.each([1, 2, 3])('holds no more than highWaterMark %d messages', async (highWaterMark) => {
    const queue = openQueue()
    const sent = queue.sendMany(numbers(12))
    const stream = queue.createReadStream({ highWaterMark })
    expect(queue.attributes.messages).toBe(4)
    for (let index = 0; index < 12; index++) {
      const message = stream.read() ?? (await once(stream, 'readable').then(() => stream.read()))
      expect(message.text()).toBe(String(index))
      await turns()
      expect(stream.readableLength).toBeLessThanOrEqual(highWaterMark)
    }
    await sent
    stream.destroy()
  })

  test('that is not read leaves the rest in the queue', async () => {
    const queue = openQueue()
    queue.trySendMany(['1', '2', '3', '4'])
    const stream = queue.createReadStream({ highWaterMark: 2 })
    stream.once('readable', () => {})
    await turns(20)
    expect(stream.readableLength).toBe(2)
    expect(queue.attributes.messages).toBe(2)
    stream.destroy()
    await once(stream, 'close')
    expect(drain(queue)).toEqual(['3', '4'])
  })

  test('destroyed while it waits, takes nothing more and leaves the queue open', async () => {
    const queue = openQueue()
    const stream = queue.createReadStream()
    stream.resume()
    await turns()
    stream.destroy()
    await once(stream, 'close')
    queue.trySend('x')
    await turns()
    expect(drain(queue)).toEqual(['x'])
  })

  test('ends with an AbortError when its signal aborts', async () => {
    const queue = openQueue()
    const controller = new AbortController()
    const stream = queue.createReadStream({ signal: controller.signal })
    stream.resume()
    const failed = once(stream, 'error')
    controller.abort()
    expect((await failed)[0]).toMatchObject({ name: 'AbortError' })
    queue.trySend('x')
    await turns()
    expect(drain(queue)).toEqual(['x'])
  })

  test('left by break, keeps the queue open', async () => {
    const queue = openQueue()
    queue.trySend('1')
    for await (const message of queue.createReadStream()) {
      expect(message.text()).toBe('1')
      break
    }
    expect(queue.trySend('2')).toBe(true)
    expect(drain(queue)).toEqual(['2'])
  })

  test('fails as receive() does', async () => {
    const queue = openQueue()
    const writer = PosixQueue.open(queue.path ?? '', { access: 'write' })
    onTestFinished(() => writer.close())
    const stream = writer.createReadStream()
    stream.resume()
    expect((await once(stream, 'error'))[0]).toMatchObject({ name: 'QueueError', code: 'EBADF' })
  })
})

describe('a write stream', () => {
  test('sends data, and data with priority, and finishes when all is sent', async () => {
    const queue = openQueue()
    const stream = queue.createWriteStream()
    stream.write('text')
    stream.write(Buffer.from('bytes'))
    stream.end({ data: 'urgent', priority: 5 })
    await once(stream, 'finish')
    expect(queue.tryReceiveMany().map((message) => [message.text(), message.priority])).toEqual([
      ['urgent', 5],
      ['text', 0],
      ['bytes', 0],
    ])
    expect(queue.trySend('the queue is open still')).toBe(true)
  })

  test('waits for room in the queue, and tells its source to', async () => {
    const queue = openQueue({ maxMessages: 1 })
    queue.trySend('full')
    const stream = queue.createWriteStream({ highWaterMark: 2 })
    expect(stream.write('1')).toBe(true)
    expect(stream.write('2')).toBe(false)
    let drained = false
    stream.once('drain', () => {
      drained = true
    })
    await turns()
    expect(drained).toBe(false)
    expect(drain(queue)).toEqual(['full'])
    expect(text(await queue.receive())).toBe('1')
    expect(text(await queue.receive())).toBe('2')
    await expect.poll(() => drained).toBe(true)
    let finished = false
    stream.end('3', () => {
      finished = true
    })
    expect(text(await queue.receive())).toBe('3')
    await expect.poll(() => finished).toBe(true)
  })

  test('does not finish before the last message is in the queue', async () => {
    const queue = openQueue({ maxMessages: 1 })
    queue.trySend('full')
    const stream = queue.createWriteStream()
    const finished = once(stream, 'finish')
    stream.end('last')
    expect(await isPending(finished)).toBe(true)
    queue.tryReceive()
    await finished
    expect(drain(queue)).toEqual(['last'])
  })

  test('keeps the order of many writes', async () => {
    const queue = openQueue({ maxMessages: 2 })
    const stream = queue.createWriteStream()
    for (const number of numbers(200)) stream.write(number)
    stream.end()
    const received: string[] = []
    while (received.length < 200) received.push((await queue.receive()).text())
    expect(received).toEqual(numbers(200))
  })

  test('destroyed while it waits, sends nothing more and leaves the queue open', async () => {
    const queue = openQueue({ maxMessages: 1 })
    queue.trySend('full')
    const stream = queue.createWriteStream()
    stream.write('1')
    stream.write('2')
    await turns()
    stream.destroy()
    await once(stream, 'close')
    expect(drain(queue)).toEqual(['full'])
    await turns()
    expect(drain(queue)).toEqual([])
    expect(queue.trySend('x')).toBe(true)
  })

  test('ends with an AbortError when its signal aborts', async () => {
    const queue = openQueue({ maxMessages: 1 })
    queue.trySend('full')
    const controller = new AbortController()
    const stream = queue.createWriteStream({ signal: controller.signal })
    stream.write('1')
    const failed = once(stream, 'error')
    controller.abort()
    expect((await failed)[0]).toMatchObject({ name: 'AbortError' })
    expect(drain(queue)).toEqual(['full'])
    await turns()
    expect(drain(queue)).toEqual([])
  })

  test.each<[string, unknown, string]>([
    ['is too long', 'x'.repeat(65), 'EMSGSIZE'],
    ['is no data', 7, 'ERR_INVALID_ARG_TYPE'],
    ['has no priority', { data: 'x', priority: -1 }, 'ERR_OUT_OF_RANGE'],
  ])('fails when a message %s', async (_, message, code) => {
    const queue = openQueue()
    const stream = queue.createWriteStream()
    const failed = once(stream, 'error')
    stream.write(message)
    expect((await failed)[0]).toMatchObject({ code })
    expect(stream.destroyed).toBe(true)
    expect(queue.trySend('the queue is open still')).toBe(true)
  })

  test('fails when the queue is closed under it', async () => {
    const queue = openQueue({ maxMessages: 1 })
    queue.trySend('full')
    const stream = queue.createWriteStream()
    const failed = once(stream, 'error')
    stream.write('1')
    await turns()
    queue.close()
    expect((await failed)[0]).toMatchObject({ code: 'ERR_MQ_CLOSED' })
  })
})

describe('pipeline', () => {
  test('moves messages from queue to queue, however small they are', async () => {
    const from = openQueue({ maxMessages: 2 })
    const to = openQueue({ maxMessages: 1 })
    const double = new Transform({
      objectMode: true,
      transform: (message: PosixMessage, _, callback) =>
        callback(null, { data: message.text().repeat(2), priority: message.priority }),
    })
    const piped = pipeline(from.createReadStream({ highWaterMark: 3 }), double, to.createWriteStream())
    const sent = from.sendMany(numbers(300))
    const received: string[] = []
    while (received.length < 300) received.push((await to.receive()).text())
    await sent
    from.close()
    await piped
    expect(received).toEqual(numbers(300).map((number) => number.repeat(2)))
    expect(to.attributes.messages).toBe(0)
  })

  test('fails as a whole, and the queues stay open', async () => {
    const from = openQueue()
    const to = openQueue({ messageSize: 4 })
    const piped = pipeline(
      from.createReadStream(),
      async function* (messages: AsyncIterable<PosixMessage>) {
        for await (const message of messages) yield message.data
      },
      to.createWriteStream(),
    )
    from.trySend('too long')
    await expect(piped).rejects.toMatchObject({ code: 'EMSGSIZE' })
    from.trySend('x')
    await turns()
    expect(drain(from)).toEqual(['x'])
    expect(to.trySend('y')).toBe(true)
  })

  test('can be given up', async () => {
    const from = openQueue()
    const to = openQueue()
    const controller = new AbortController()
    const piped = pipeline(from.createReadStream(), to.createWriteStream(), { signal: controller.signal })
    await turns()
    controller.abort()
    await expect(piped).rejects.toMatchObject({ name: 'AbortError' })
    from.trySend('x')
    await turns()
    expect(drain(from)).toEqual(['x'])
  })
})

describe('close', () => {
  test('can be called again, and gives the same promise', async () => {
    const queue = openQueue()
    const first = queue.close()
    expect(first).toBeInstanceOf(Promise)
    expect(queue.close()).toBe(first)
    expect(await first).toBeUndefined()
    expect(queue.close()).toBe(first)
  })

  test('settles everything that waits', async () => {
    const empty = openQueue()
    const full = openQueue({ maxMessages: 1 })
    full.trySend('full')
    const code = (promise: Promise<unknown>) => promise.then(() => 'resolved').catch((error) => error.code)
    const waits = [
      code(empty.receive()),
      code(empty.receive({ timeout: 60_000 })),
      code(empty.receive({ signal: new AbortController().signal })),
      code(empty.receiveMany()),
      code(empty.waitReadable()),
      code(full.send('x')),
      code(full.sendMany(['x', 'y'])),
      code(full.waitWritable()),
    ]
    const ends = [
      empty.messages().next(),
      empty.messages({ timeout: 60_000 }).next(),
      empty.batches().next(),
      empty.notifications().next(),
    ]
    const consumed = [empty.consume(() => {}), empty.consume(() => {}, { concurrency: 2 })]
    const stream = empty.createReadStream().resume()
    await turns()
    empty.close()
    full.close()
    expect(await Promise.all(waits)).toEqual(waits.map(() => 'ERR_MQ_CLOSED'))
    expect(await Promise.all(ends)).toEqual(ends.map(() => ({ value: undefined, done: true })))
    await Promise.all(consumed)
    await once(stream, 'end')
  })

  test('fails what is called later', async () => {
    const queue = openQueue()
    const { path } = queue
    queue.close()
    const calls: (() => unknown)[] = [
      () => queue.attributes,
      () => queue.trySend('x'),
      () => queue.sendSync('x'),
      () => queue.send('x'),
      () => queue.trySendMany(['x']),
      () => queue.sendMany(['x']),
      () => queue.tryReceive(),
      () => queue.receiveSync(),
      () => queue.receive(),
      () => queue.tryReceiveMany(),
      () => queue.receiveMany(),
      () => queue.tryReceiveInto(Buffer.alloc(64)),
      () => queue.receiveIntoSync(Buffer.alloc(64)),
      () => queue.waitReadable(),
      () => queue.waitWritable(),
      () => queue.notifications(),
    ]
    for (const call of calls) {
      expect(await failureOf(call)).toMatchObject({ name: 'QueueError', code: 'ERR_MQ_CLOSED', path })
    }
    expect(queue.ref()).toBe(queue)
    expect(queue.unref()).toBe(queue)
  })

  test('leaves the queue, its messages and other handles alone', async () => {
    const queue = openQueue()
    const other = reopen(queue)
    queue.trySend('kept')
    const pending = other.receiveMany({ max: 1 })
    await pending
    queue.trySend('kept as well')
    queue.close()
    expect(drain(other)).toEqual(['kept as well'])
  })

  test('takes back nothing that was received', async () => {
    const queue = openQueue()
    const received = queue.receive()
    queue.trySend('x')
    await turns()
    queue.close()
    expect(text(await received)).toBe('x')
  })

  test('is what using and await using do', async () => {
    const queues: PosixQueue[] = []
    {
      using queue = openQueue()
      queues.push(queue)
    }
    {
      await using queue = openQueue()
      queues.push(queue)
      queue.trySend('x')
    }
    for (const queue of queues)
      expect(() => queue.attributes).toThrow(expect.objectContaining({ code: 'ERR_MQ_CLOSED' }))
    const queue = openQueue()
    expect(queue[Symbol.dispose]()).toBeUndefined()
    expect(queue.fd).toBe(-1)
    expect(await queue[Symbol.asyncDispose]()).toBeUndefined()
  })
})
