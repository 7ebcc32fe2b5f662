// Whatever ends a wait, a message is received once or still in the queue.
import { fstatSync, readdirSync, readFileSync } from 'node:fs'
import { setTimeout as sleep, setImmediate as turn } from 'node:timers/promises'
import { AbortError, PosixQueue, QueueError } from 'kernelmq'
import { describe, expect, test } from 'vitest'
import { openQueue, runFixture, start, turns } from './support.ts'

const anotherHandle = (queue: PosixQueue): PosixQueue => PosixQueue.open(queue.path as string)

function any<T>(choices: readonly T[]): T {
  return choices[Math.floor(Math.random() * choices.length)] as T
}

/** From now to a turn of the timers. */
const instants: (() => Promise<unknown>)[] = [
  async () => {},
  () => new Promise((resolve) => process.nextTick(resolve)),
  () => turn(),
  () => turn().then(() => turn()),
  () => sleep(1),
]

/** What a wait brought that may have been given up. */
async function unlessGivenUp<T>(wait: Promise<T>, otherwise: T): Promise<T> {
  try {
    return await wait
  } catch (error) {
    const expected = error instanceof AbortError || (error instanceof QueueError && /ETIMEDOUT|CLOSED/.test(error.code))
    if (!expected) throw error
    return otherwise
  }
}

function drain(queue: PosixQueue): string[] {
  const texts: string[] = []
  for (let message = queue.tryReceive(); message !== undefined; message = queue.tryReceive()) texts.push(message.text())
  return texts
}

function abortAt(instant: Promise<unknown>): AbortSignal {
  const stop = new AbortController()
  instant.then(() => stop.abort())
  return stop.signal
}

/** Ways to wait for messages that are given up at an instant; each tells what it took. */
const takers: Record<string, (queue: PosixQueue, instant: Promise<unknown>) => Promise<string[]>> = {
  async 'receive and timeout'(queue) {
    const wait = queue.receive({ timeout: Math.random() }).then((message) => [message.text()])
    return unlessGivenUp(wait, [])
  },
  async 'receive and abort'(queue, instant) {
    const wait = queue.receive({ signal: abortAt(instant) }).then((message) => [message.text()])
    return unlessGivenUp(wait, [])
  },
  async 'receive and close'(queue, instant) {
    const handle = anotherHandle(queue)
    instant.then(() => handle.close())
    const wait = handle.receive().then((message) => [message.text()])
    const texts = await unlessGivenUp(wait, [])
    handle.close()
    return texts
  },
  async 'receiveMany and abort'(queue, instant) {
    const wait = queue.receiveMany({ signal: abortAt(instant), max: 3 })
    return (await unlessGivenUp(wait, [])).map((message) => message.text())
  },
  async 'iteration and break'(queue) {
    const texts: string[] = []
    const signal = abortAt(sleep(1))
    const iterate = async () => {
      for await (const message of queue.messages({ signal })) {
        texts.push(message.text())
        if (Math.random() < 0.5) break
      }
    }
    await unlessGivenUp(iterate(), undefined)
    return texts
  },
  async 'iteration and return'(queue, instant) {
    const iterator = queue.messages()
    const steps = [iterator.next(), iterator.next()]
    await instant
    await iterator.return?.()
    return (await Promise.all(steps)).flatMap(({ value }) => (value === undefined ? [] : [value.text()]))
  },
  async 'iteration and close'(queue, instant) {
    const handle = anotherHandle(queue)
    instant.then(() => handle.close())
    const texts: string[] = []
    for await (const message of handle) texts.push(message.text())
    return texts
  },
  async 'batches and return'(queue, instant) {
    const iterator = queue.batches({ max: 2 })
    const step = iterator.next()
    await instant
    await iterator.return?.()
    return ((await step).value ?? []).map((message) => message.text())
  },
  async 'consume and abort'(queue, instant) {
    const texts: string[] = []
    const handler = (message: { text(): string }) => void texts.push(message.text())
    await unlessGivenUp(queue.consume(handler, { signal: abortAt(instant), concurrency: 2 }), undefined)
    return texts
  },
  async 'consume and close'(queue, instant) {
    const handle = anotherHandle(queue)
    instant.then(() => handle.close())
    const texts: string[] = []
    await handle.consume((message) => void texts.push(message.text()))
    return texts
  },
  async 'waitReadable and abort'(queue, instant) {
    await unlessGivenUp(queue.waitReadable({ signal: abortAt(instant) }), undefined)
    return drain(queue)
  },
}

test('100,000 races of abort or timeout against arrival lose nothing and keep the order', async () => {
  const races = 100_000
  const waiters = 4
  const won = { arrival: 0, abort: 0, timeout: 0 }
  let left = races

  async function run(): Promise<void> {
    const queue = openQueue()
    const sender = anotherHandle(queue)
    let sent = 0
    let received = 0
    while (left > 0) {
      left -= waiters
      const byTimeout = Math.random() < 0.5
      const waits = Array.from({ length: waiters }, async () => {
        const options = byTimeout ? { timeout: 2 * Math.random() } : { signal: abortAt(any(instants)()) }
        const text = await unlessGivenUp(
          queue.receive(options).then((message) => message.text()),
          undefined,
        )
        won[text !== undefined ? 'arrival' : byTimeout ? 'timeout' : 'abort']++
        return text
      })
      const sends = Array.from({ length: waiters }, async () => {
        await any(instants)()
        if (!sender.trySend(`${sent}`)) throw new Error('there is room for as many as wait')
        sent++
      })
      await Promise.all(sends)
      const texts = [...(await Promise.all(waits)).filter((text) => text !== undefined), ...drain(queue)]
      if (texts.some((text) => text !== `${received++}`) || received !== sent) {
        throw new Error(`received ${texts} up to ${received} of ${sent}`)
      }
    }
    sender.close()
  }

  // Side by side: a timer takes a millisecond.
  await Promise.all(Array.from({ length: 16 }, run))
  // A race that always ends alike is none.
  for (const times of Object.values(won)) expect(times).toBeGreaterThan(races / 20)
}, 600_000)

describe.each(Object.keys(takers))('"%s"', (name) => {
  const take = takers[name] ?? (async () => [])

  test('against arrival, 2,000 times, loses nothing', async () => {
    let left = 2000
    async function run(): Promise<void> {
      const queue = openQueue()
      const sender = anotherHandle(queue)
      while (left-- > 0) {
        const taking = take(queue, any(instants)())
        await any(instants)()
        const sent = ['a', 'b', 'c'].filter((text) => sender.trySend(text))
        expect([...(await taking), ...drain(queue)]).toEqual(sent)
      }
      sender.close()
    }
    await Promise.all(Array.from({ length: 8 }, run))
  })
})

test('waits that are given up lose nothing of what another process sends', async () => {
  const count = 20_000
  const queue = openQueue()
  const sender = runFixture('sender.mjs', [queue.path as string, `${count}`, 'paced'])
  const texts: string[] = []
  let empty = 0
  while (texts.length < count) {
    const taken = await any(Object.values(takers))(queue, any(instants.slice(0, 4))())
    texts.push(...taken)
    if (taken.length === 0) empty++
  }
  expect(texts).toEqual(Array.from({ length: count }, (_, index) => `${index}`))
  expect(empty).toBeGreaterThan(100)
  expect(await sender).toMatchObject({ code: 0, stderr: '' })
})

test('parallel sends that nobody awaits keep their order, also around those that are given up', async () => {
  const queue = openQueue()
  const sent: string[] = []
  const sends = Array.from({ length: 2000 }, async (_, index) => {
    const signal = index % 7 === 0 ? abortAt(any(instants)()) : undefined
    const send = queue.send(`${index}`, { signal, timeout: index % 5 === 0 ? 5 * Math.random() : undefined })
    if (
      await unlessGivenUp(
        send.then(() => true),
        false,
      )
    )
      sent.push(`${index}`)
  })
  const receiver = anotherHandle(queue)
  const received: string[] = []
  const receiving = receiver.consume((message) => void received.push(message.text()))
  await Promise.all(sends)
  await expect.poll(() => received).toEqual(sent)
  expect(sent.length).toBeGreaterThan(1000)
  receiver.close()
  await receiving
})

test('an exception in a "data" handler loses no message', async () => {
  const outcome = await runFixture('throwing-reader.mjs', [openQueue().path as string])
  expect(outcome).toMatchObject({ code: 0, signal: null, stdout: '0,1,2,3; 0 left\n', stderr: '' })
})

test('the number of a closed descriptor, used again 10,000 times, is left alone', async () => {
  const [old, other] = [openQueue(), openQueue()]
  let reused = 0
  for (let i = 0; i < 10_000; i++) {
    const closed = anotherHandle(old)
    const { fd } = closed
    const refused = closed.receive().then(
      () => 'received',
      (error) => error.code,
    )
    // Half of them are known to epoll when they are closed.
    if (i % 2) await turn()
    closed.close()
    const fresh = anotherHandle(other)
    if (fresh.fd === fd) reused++
    let woken = ''
    const received = fresh.receive().then((message) => (woken = message.text()))
    old.trySend('for the closed one')
    await turn()
    const early = woken
    other.trySend('for the new one')
    await received
    fresh.close()
    const result = [early, woken, await refused, ...drain(old), ...drain(other)]
    if (result.join() !== ',for the new one,ERR_MQ_CLOSED,for the closed one') throw new Error(`${i}: ${result}`)
  }
  expect(reused).toBeGreaterThan(9000)
})

test('the loop forgets a descriptor before it is closed, though a child keeps what it stands for open', async () => {
  const [old, other] = [openQueue(), openQueue()]
  /** Of these numbers, how many the loop watches for this queue. */
  const watched = (numbers: number[], queue: PosixQueue) => {
    const inode = fstatSync(queue.fd).ino.toString(16)
    const lists = readdirSync('/proc/self/fd').map((fd) => {
      try {
        return readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8')
      } catch {
        return '' // that of the listing itself
      }
    })
    const entries = [...lists.join('\n').matchAll(/^tfd: +(\d+) .* ino:(\w+) /gm)]
    return entries.filter(([, fd, ino]) => numbers.includes(Number(fd)) && ino === inode).length
  }
  const closed = Array.from({ length: 50 }, () => anotherHandle(old))
  const numbers = closed.map(({ fd }) => fd)
  const refused = closed.map((queue) => queue.receive().catch(({ code }) => code))
  const child = start('cat', [], { descriptors: numbers })
  await turns()
  expect(watched(numbers, old)).toBe(50)
  for (const queue of closed) queue.close()
  const fresh = numbers.map(() => anotherHandle(other))
  const received = fresh.map(async (queue) => (await queue.receive()).text())
  await turns()
  const reused = fresh.filter(({ fd }) => numbers.includes(fd)).length
  expect(reused).toBeGreaterThan(40)
  expect([watched(numbers, old), watched(numbers, other)]).toEqual([0, reused])

  const { events } = performance.nodeTiming.uvMetricsInfo
  old.trySend('for the closed ones')
  await turns(100)
  // Each turn would see one of each.
  expect(performance.nodeTiming.uvMetricsInfo.events - events).toBeLessThan(500)
  await other.sendMany(fresh.map((_, index) => `${index}`))
  expect((await Promise.all(received)).sort()).toEqual(fresh.map((_, index) => `${index}`).sort())
  expect(new Set(await Promise.all(refused))).toEqual(new Set(['ERR_MQ_CLOSED']))
  expect(drain(old)).toEqual(['for the closed ones'])
  for (const queue of fresh) queue.close()
  child.end()
  expect((await child.outcome).code).toBe(0)
})

describe('close()', () => {
  test('settles at once all that waits', async () => {
    const [empty, full] = [openQueue(), openQueue()]
    while (full.trySend('fill'));
    const waits = [
      empty.receive(),
      empty.receive({ timeout: 60_000, signal: new AbortController().signal }),
      empty.receiveMany(),
      empty.waitReadable(),
      full.send('one more'),
      full.sendMany(['two', 'more']),
      full.waitWritable(),
    ].map((wait) =>
      wait.then(
        () => 'resolved',
        (error) => error.code,
      ),
    )
    const ends = [
      empty.messages().next(),
      empty.batches().next(),
      empty.notifications().next(),
      empty.consume(() => {}).then(() => ({ value: undefined, done: true })),
      new Promise((resolve) => {
        const stream = empty.createReadStream().resume()
        stream.on('end', () => resolve({ value: undefined, done: true }))
      }),
    ]
    await turn()
    const start = performance.now()
    empty.close()
    full.close()
    expect(await Promise.all(waits)).toEqual(waits.map(() => 'ERR_MQ_CLOSED'))
    expect(await Promise.all(ends)).toEqual(ends.map(() => ({ value: undefined, done: true })))
    expect(performance.now() - start).toBeLessThan(20_000)
  })

  test('gives the same promise each time, from wherever it is called', async () => {
    const queue = openQueue()
    const first = queue.close()
    expect(queue.close()).toBe(first)
    const again = await Promise.all([
      turn().then(() => queue.close()),
      sleep(1).then(() => queue[Symbol.asyncDispose]()),
    ])
    expect(again).toEqual([undefined, undefined])
    queue[Symbol.dispose]()
    expect(queue.fd).toBe(-1)
  })

  const closers: Record<string, (queue: PosixQueue) => Promise<unknown>> = {
    'the continuation of a receive': (queue) => queue.receive().then(() => queue.close()),
    'a handler of consume': (queue) => queue.consume(() => queue.close(), { concurrency: 3 }),
    'the body of an iteration': async (queue) => {
      for await (const _ of queue) queue.close()
    },
    'the body of an iteration over batches': async (queue) => {
      for await (const _ of queue.batches()) queue.close()
    },
    'the body of an iteration over notifications': async (queue) => {
      for await (const _ of queue.notifications()) queue.close()
    },
    'a "data" handler': (queue) =>
      new Promise((resolve) => {
        const stream = queue.createReadStream()
        stream.on('data', () => queue.close()).on('end', resolve)
      }),
    'an abort listener': async (queue) => {
      const stop = new AbortController()
      stop.signal.addEventListener('abort', () => queue.close())
      const waits = [queue.receive(), queue.receive({ signal: stop.signal }), queue.receive({ signal: stop.signal })]
      const codes = waits.map((wait) => wait.catch((error) => error.code))
      stop.abort()
      await Promise.all(codes)
    },
    'the continuation of waitReadable': (queue) => queue.waitReadable().then(() => queue.close()),
    'a second wait while the first is served': async (queue) => {
      const waits = [queue.receive().then(() => queue.close()), queue.receive().catch(() => {})]
      await Promise.all(waits)
    },
  }

  test.each(Object.keys(closers))('may be called in %s', async (name) => {
    const sender = openQueue()
    const queue = anotherHandle(sender)
    const closed = closers[name]?.(queue)
    await turn()
    sender.trySend('a message')
    await closed
    expect(queue.fd).toBe(-1)
    // The handle is gone, the queue is not.
    drain(sender)
    const received = sender.receive()
    sender.trySend('another')
    expect((await received).text()).toBe('another')
  })

  test.each(['sendMany', 'trySendMany'] as const)(
    'in the iterable of %s sends nothing to what has its number now',
    async (method) => {
      const other = openQueue()
      const sender = anotherHandle(openQueue())
      const { fd } = sender
      let fresh: PosixQueue | undefined
      const messages = Array.from({ length: 2 }, (_, index) => ({
        get data() {
          if (index === 1) {
            sender.close()
            fresh = anotherHandle(other)
          }
          return `${index}`
        },
      }))
      await expect(async () => sender[method](messages)).rejects.toMatchObject({ code: 'ERR_MQ_CLOSED', sent: 0 })
      expect(fresh?.fd).toBe(fd)
      expect(drain(other)).toEqual([])
      fresh?.close()
    },
  )
})
