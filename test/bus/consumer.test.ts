// What ends a consumer, and what does not.
import { spawnSync } from 'node:child_process'
import { mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { connect, type Queue } from 'kernelmq/bus'
import { describe, expect, onTestFinished, test } from 'vitest'
import { canUnshare } from '../support.ts'
import { DatabaseSync } from './sqlite.mjs'
import { deferred, newBus, one, openBus, startBus, take, temporaryDirectory } from './support.ts'

/** Keeps all others from writing to a bus, until the function that this returns is called. */
function lockIn(directory: string): () => void {
  const database = new DatabaseSync(join(directory, 'bus.db'))
  database.exec('BEGIN IMMEDIATE')
  const free = () => {
    if (database.isOpen) database.close()
  }
  onTestFinished(free)
  return free
}

async function withLock() {
  const directory = join(temporaryDirectory(), 'bus')
  const bus = await openBus(`local:${directory}`, { busyTimeout: 50 })
  return { bus, directory, queue: bus.queue('q'), lock: () => lockIn(directory) }
}

/** What was asked for before, or at about the same time, has failed, too. */
async function busy(queue: Queue): Promise<void> {
  for (let i = 0; i < 2; i++) await expect(queue.send('refused')).rejects.toMatchObject({ code: 'ERR_BUS_BUSY' })
}

describe('while another process writes for longer than "busyTimeout"', () => {
  test.each([
    ['what a handler returned is acknowledged', {}, undefined, 'acknowledged'],
    ['what a batch returned is acknowledged', { batch: 5 }, undefined, 'acknowledged'],
    ['what a handler threw is retried', {}, new Error('not yet'), 'retried'],
    ['what is dead is buried', {}, new Error('never'), 'dead'],
  ] as const)('%s later', async (_, options, error, event) => {
    const { bus, lock } = await withLock()
    const queue = bus.queue('q', { retry: { base: 0, max: event === 'dead' ? 0 : 5 } })
    const [begun, end, next] = [deferred(), deferred(), deferred()]
    let count = 0
    const handle = async () => {
      count++
      if (count > 1) return next.resolve()
      begun.resolve()
      await end.promise
      if (error !== undefined) throw error
    }
    const consumer =
      'batch' in options ? queue.consume(handle, { ...options, prefetch: 0 }) : queue.consume(handle, { prefetch: 0 })
    await queue.send('first')
    await begun.promise
    const free = lock()
    end.resolve()
    await busy(queue)
    free()
    if (event !== 'retried') await queue.send('second')
    await next.promise
    await consumer.close()
    expect(await queue.stats()).toMatchObject({ ready: 0, leased: 0, totals: { [event]: expect.any(Number) } })
    expect((await queue.stats()).totals[event]).toBeGreaterThan(0)
    expect(count).toBe(2)
  })

  test('a reply is sent later', async () => {
    const { queue, lock } = await withLock()
    const [begun, end] = [deferred(), deferred()]
    queue.consume(async () => {
      begun.resolve()
      await end.promise
      return 'answer'
    })
    const reply = queue.request('x')
    await begun.promise
    const free = lock()
    end.resolve()
    await busy(queue)
    free()
    expect(await reply).toBe('answer')
    while ((await queue.stats()).leased > 0) await new Promise((resolve) => setImmediate(resolve))
  })

  test('a consumer that looks for messages goes on looking', async () => {
    const { queue, lock } = await withLock()
    await queue.send('before')
    const free = lock()
    const handled = deferred<unknown>()
    const consumer = queue.consume(({ body }) => handled.resolve(body))
    await busy(queue)
    free()
    expect(await Promise.race([handled.promise, consumer.closed.then(() => 'closed')])).toBe('before')
  })

  test('a dead letter that could be neither sent back nor given back is given back later', async () => {
    const { queue, lock } = await withLock()
    await queue.send('x')
    await (await one(queue)).dead('no')
    let free: (() => void) | undefined
    const filter = () => {
      free ??= lock()
      return true
    }
    await expect(queue.dead.redrive({ filter })).rejects.toMatchObject({ code: 'ERR_BUS_BUSY' })
    free?.()
    while ((await queue.dead.redrive()) === 0) await new Promise((resolve) => setImmediate(resolve))
    expect(await take(queue, 1)).toEqual(['x'])
  })

  test('what could not be purged is given back later', async () => {
    const { directory, queue, lock } = await withLock()
    await queue.send('x'.repeat(70_000))
    const body = join(directory, 'bodies', readdirSync(join(directory, 'bodies'))[0] as string)
    rmSync(body)
    // Whoever reads it waits.
    expect(spawnSync('mkfifo', [body]).status).toBe(0)
    const purged = expect(queue.purge()).rejects.toMatchObject({ code: 'ERR_BUS_BUSY' })
    while ((await queue.stats()).leased === 0) await new Promise((resolve) => setImmediate(resolve))
    const free = lock()
    writeFileSync(body, 'x')
    await purged
    free()
    while ((await queue.stats()).ready === 0) await new Promise((resolve) => setImmediate(resolve))
  })

  test('the queue of a subscription that has ended is dropped later', async () => {
    const { bus, queue, lock } = await withLock()
    const consumer = await bus.topic('t').subscribe(undefined, () => {})
    const free = lock()
    await consumer.close()
    await busy(queue)
    free()
    while ((await bus.topic('t').publish('x')) > 0) await new Promise((resolve) => setImmediate(resolve))
  })

  test('closing the bus waits for it no longer', async () => {
    const directory = join(temporaryDirectory(), 'bus')
    const bus = await connect(`local:${directory}`, { busyTimeout: 50 })
    const queue = bus.queue('q')
    const [begun, end] = [deferred(), deferred()]
    const consumer = queue.consume(async () => {
      begun.resolve()
      await end.promise
    })
    await queue.send('x')
    await begun.promise
    const free = lockIn(directory)
    end.resolve()
    await busy(queue)
    await expect(bus.close()).rejects.toMatchObject({ code: 'ERR_BUS_BUSY' })
    await consumer.closed
    free()
  })
})

test.each(['memory', 'local'] as const)(
  '%s: a clock that is set back does not stop one with a rate',
  async (scheme) => {
    let ahead = 0
    const after = (ms: number, callback: () => void) => {
      const timer = setTimeout(callback, ms)
      return () => clearTimeout(timer)
    }
    const queue = (await newBus(scheme, { clock: { now: () => Date.now() + ahead, after } })).queue('q')
    let handled = 0
    let next = deferred()
    queue.consume(
      () => {
        handled++
        next.resolve()
      },
      { rate: 50 },
    )
    await queue.send('before')
    await next.promise
    next = deferred()
    ahead = -3_600_000
    await queue.send('after')
    await next.promise
    expect(handled).toBe(2)
  },
)

test('on a full disk a reply is sent when there is room', async ({ skip }) => {
  skip(!canUnshare, 'needs a mount namespace of its own, which root can make')
  const directory = temporaryDirectory()
  mkdirSync(join(directory, 'disk'))
  const mount = `mount -t tmpfs -o size=48m none ${join(directory, 'disk')} && exec "$@"`
  const through = ['unshare', '--mount', 'sh', '-c', mount, 'sh']
  const child = startBus(`local:${join(directory, 'disk/bus')}`, 'answerFull', 4_000_000, through)
  const { stdout } = await child.outcome
  const said = stdout.trim().split('\n')
  expect(said.map((line) => JSON.parse(line))).toEqual(['ERR_BUS_DISK_FULL', 'ERR_BUS_DISK_FULL', 4_000_000])
})

test('a handler that fails more than a thousand times without a wait between is called again', async () => {
  const queue = (await newBus('memory')).queue('q', { retry: { base: 0, max: 1e9 } })
  await queue.send('x')
  const consumer = queue.consume(({ attempts }) => {
    if (attempts < 1100) throw new Error('not yet')
  })
  while ((await queue.stats()).totals.acknowledged === 0) {
    await Promise.race([consumer.closed, new Promise((resolve) => setImmediate(resolve))])
  }
})

test('a consumer that begins while its bus waits for handlers to end takes nothing', async () => {
  const bus = await newBus('memory')
  const [begun, end] = [deferred(), deferred()]
  onTestFinished(() => end.resolve())
  bus.queue('q').consume(() => {
    begun.resolve()
    return end.promise
  })
  const late = bus.queue('late')
  for (const queue of [bus.queue('q'), late]) await queue.send('x')
  await begun.promise
  const closing = bus.close()
  const handled = deferred()
  const consumer = late.consume(() => handled.resolve())
  expect(await Promise.race([consumer.closed.then(() => 'closed'), handled.promise])).toBe('closed')
  expect(await late.stats()).toMatchObject({ ready: 1 })
  end.resolve()
  await closing
})

describe('what ends a consumer', () => {
  const failing = async () => {
    let isBroken = false
    const now = () => {
      if (isBroken) throw new Error('no time')
      return Date.now()
    }
    const bus = await connect('memory:', { clock: { now, after: () => () => {} } })
    const queue = bus.queue('q')
    const fail = async () => {
      const sent = queue.send('x')
      isBroken = true
      await sent.catch(() => {})
      isBroken = false
    }
    onTestFinished(() => bus.close())
    return { queue, fail }
  }

  const warned = () => {
    const warnings: Error[] = []
    const hear = (warning: Error) => warnings.push(warning)
    process.on('warning', hear)
    onTestFinished(() => void process.off('warning', hear))
    return warnings
  }

  test('rejects "closed", and is no warning then', async () => {
    const { queue, fail } = await failing()
    const warnings = warned()
    const consumer = queue.consume(() => {})
    const closed = expect(consumer.closed).rejects.toThrow('no time')
    await fail()
    await closed
    await new Promise((resolve) => setImmediate(resolve))
    expect(warnings).toEqual([])
  })

  test('is a warning where nobody has asked for "closed"', async () => {
    const { queue, fail } = await failing()
    const warning = new Promise((resolve) => process.once('warning', resolve))
    queue.consume(() => {})
    await fail()
    expect(await warning).toMatchObject({
      code: 'KERNELMQ_BUS_CONSUMER',
      message: "a consumer of 'q' has ended",
      detail: expect.stringContaining('no time'),
    })
  })

  test('is no warning where it was closed, or its signal aborted', async () => {
    const { queue } = await failing()
    const warnings = warned()
    const controller = new AbortController()
    queue.consume(() => {}, { signal: controller.signal })
    controller.abort()
    await queue.consume(() => {}).close()
    await new Promise((resolve) => setImmediate(resolve))
    expect(warnings).toEqual([])
  })
})
