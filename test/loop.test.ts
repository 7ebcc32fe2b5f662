// Waiting must neither hold the loop nor a thread of libuv's pool.
import { execFileSync } from 'node:child_process'
import { promises as dns } from 'node:dns'
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { setTimeout as sleep, setImmediate as turn } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { Worker } from 'node:worker_threads'
import { type PosixMessage, PosixQueue } from 'kernelmq'
import { describe, expect, test } from 'vitest'
import { families, newQueue } from './families.ts'
import { open } from './fixtures/operations.mjs'
import { fixture, openQueue, runFixture } from './support.ts'
import { countThreads, threadsAre } from './sysv-support.ts'

const anotherHandle = (queue: PosixQueue): PosixQueue => PosixQueue.open(queue.path as string)

const median = (values: number[]): number => values.toSorted((a, b) => a - b)[values.length >> 1] as number

/** Milliseconds that the pool takes for a file and a look-up of a local name: the median of ten. */
async function poolLatency(): Promise<number> {
  const times: number[] = []
  for (let i = 0; i < 10; i++) {
    const start = performance.now()
    await Promise.all([readFile(fileURLToPath(import.meta.url)), dns.lookup('localhost')])
    times.push(performance.now() - start)
  }
  return median(times)
}

/** How late the timers of a millisecond come while something runs: the median. */
async function loopLag(running: Promise<unknown>): Promise<number> {
  const lags: number[] = []
  let done = false
  const end = () => {
    done = true
  }
  running.then(end, end)
  while (!done) {
    const start = performance.now()
    await sleep(1)
    lags.push(performance.now() - start - 1)
  }
  await running
  return median(lags)
}

describe.each(families)('16 pending receives, each on a %s of its own,', (family) => {
  const openAll = () => Array.from({ length: 16 }, () => open(newQueue(family)))

  test('delay neither files nor look-ups, and take no thread but one of their own for System V', async () => {
    await poolLatency() // starts the pool
    const usual = await poolLatency()
    const threads = countThreads()
    const queues = openAll()
    const waits = queues.map((queue) => queue.receive())
    await turn()
    await expect.poll(poolLatency).toBeLessThan(50 + 10 * usual)
    expect(countThreads()).toBe(threads + (family === 'SysvQueue' ? 16 : 0))
    for (const queue of queues) queue.trySend('at last')
    expect((await Promise.all(waits)).map((message) => message.text())).toEqual(waits.map(() => 'at last'))
    await Promise.all(queues.map((queue) => queue.close()))
    await threadsAre(threads)
  })

  test('let the loop keep its pace', async () => {
    const usual = await loopLag(sleep(200))
    const queues = openAll()
    const waits = queues.map((queue) => queue.receive({ timeout: 1500 }))
    const lag = await loopLag(Promise.allSettled(waits))
    expect(lag).toBeLessThan(20 + 10 * Math.max(usual, await loopLag(sleep(200))))
    await Promise.all(queues.map((queue) => queue.close()))
  })
})

test.each(families)('four workers that block on a %s delay neither files nor look-ups of others', async (family) => {
  const usual = await poolLatency()
  const workers = Array.from(
    { length: 4 },
    () => new Worker(fixture('lifetime.mjs'), { argv: ['killed', newQueue(family), 'receiveSync'] }),
  )
  await Promise.all(workers.map((worker) => once(worker, 'message')))
  await expect.poll(poolLatency).toBeLessThan(50 + 10 * usual)
  await Promise.all(workers.map((worker) => worker.terminate()))
})

type Each = (message: PosixMessage) => void

const readers: Record<string, (queue: PosixQueue, each: Each) => Promise<unknown>> = {
  async receive(queue, each) {
    for (;;) each(await queue.receive())
  },
  async receiveMany(queue, each) {
    for (;;) for (const message of await queue.receiveMany()) each(message)
  },
  async messages(queue, each) {
    for await (const message of queue) each(message)
  },
  async batches(queue, each) {
    for await (const messages of queue.batches()) messages.forEach(each)
  },
  consume: (queue, each) => queue.consume(each),
  'consume, several at once': (queue, each) => queue.consume(each, { concurrency: 4 }),
  createReadStream: (queue, each) => once(queue.createReadStream().on('data', each), 'end'),
}

/** Reads until the queue is closed. */
async function readAll(name: string, queue: PosixQueue, each: Each): Promise<void> {
  await readers[name]?.(queue, each).catch((error) => expect(error.code).toBe('ERR_MQ_CLOSED'))
}

test.each(Object.keys(readers))(
  '"%s" keeps up with another process and lets timers run',
  async (name) => {
    const count = 50_000
    const usual = await loopLag(sleep(200))
    const queue = openQueue()
    let received = 0
    const reading = readAll(name, queue, (message) => {
      expect(message.text()).toBe(`${received}`)
      if (++received === count) queue.close()
    })
    const sending = runFixture('sender.mjs', [queue.path as string, `${count}`])
    const lag = await loopLag(Promise.all([reading, sending]))
    expect(lag).toBeLessThan(20 + 10 * Math.max(usual, await loopLag(sleep(200))))
    expect(received).toBe(count)
  },
  600_000,
)

describe('the loop gets its turns', () => {
  const count = 50_000
  // 256 messages may pass in one.
  const least = count / 512

  /** How often the loop turns while something runs. */
  async function countTurns(running: Promise<unknown>): Promise<number> {
    let turns = 0
    let immediate = setImmediate(function next() {
      turns++
      immediate = setImmediate(next)
    })
    await running
    clearImmediate(immediate)
    return turns
  }

  test.each(Object.keys(readers))('while "%s" reads a queue that is never empty', async (name) => {
    const sender = openQueue()
    const queue = anotherHandle(sender)
    let received = 0
    sender.trySend('the first')
    const reading = readAll(name, queue, () => {
      sender.trySend('again')
      if (++received === count) queue.close()
    })
    expect(await countTurns(reading)).toBeGreaterThan(least)
  })

  test('while send() writes a queue that is never full', async () => {
    const receiver = openQueue()
    const queue = anotherHandle(receiver)
    const writing = async () => {
      for (let i = 0; i < count; i++) {
        await queue.send('a message')
        receiver.tryReceive()
      }
    }
    expect(await countTurns(writing())).toBeGreaterThan(least)
  })
})

describe('a child process', () => {
  /** The descriptors that a child finds open, and what they are. */
  function descriptorsOfChild(given: number[] = []): string[][] {
    const options = { stdio: ['ignore' as const, 'pipe' as const, 'pipe' as const, ...given] }
    const links = execFileSync('ls', ['-l', '/proc/self/fd'], { ...options, encoding: 'utf8' })
    return [...links.matchAll(/(\d+) -> (.*)/g)].map(([, fd = '', target = '']) => [fd, target])
  }

  test('inherits no descriptor, however its queue was opened', () => {
    const numbers = () => descriptorsOfChild().map(([fd]) => fd)
    const before = numbers()
    const queue = openQueue()
    const others = [anotherHandle(queue), PosixQueue.fromFd(queue.fd)]
    const notifications = queue.notifications()
    queue.receive().catch(() => {})
    expect(numbers()).toEqual(before)
    notifications.return?.()
    for (const other of others) other.close()
  })

  test('gets the one that it is given', () => {
    const queue = openQueue()
    expect(descriptorsOfChild([queue.fd])).toContainEqual(['3', queue.path])
  })
})
