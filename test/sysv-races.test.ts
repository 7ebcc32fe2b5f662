import { once } from 'node:events'
import { Worker } from 'node:worker_threads'
import { SysvQueue } from 'kernelmq'
import { expect, test } from 'vitest'
import { runFixture } from './support.ts'
import { countThreads, openSysv, uniqueKey } from './sysv-support.ts'

const types = [1, 2, 3, 4]

const nextTurn = () => new Promise((resolve) => setImmediate(resolve))

/** Whether something was given up, rather than failed. */
const gaveUp = ({ code }: { code?: string }) => ['ABORT_ERR', 'ETIMEDOUT', 'ERR_MQ_CLOSED'].includes(code ?? '')

test('100,000 races of abort, timeout and close against arrival lose, double and reorder nothing', async () => {
  const RACES = 100_000
  const queue = openSysv()
  let reader = SysvQueue.fromId(queue.id)
  await reader.receive({ timeout: 1 }).catch(() => {}) // what is made once is made
  const before = countThreads()
  const sending = runFixture('sysv-sender.mjs', [String(queue.id), String(RACES / 2)])
  const got: number[][] = types.map(() => [])
  const take = (type: number, text: string) => got[type - 1]?.push(Number(text))
  const outcomes = { received: 0, gaveUp: 0 }
  for (let race = 0; race < RACES; race++) {
    const type = types[race % types.length] ?? 1
    const how = Math.floor(Math.random() * 10)
    const stop = new AbortController()
    const timeout = how < 3 ? Math.random() * 0.3 : undefined
    const receiving = reader.receive({ type, signal: stop.signal, ...(timeout !== undefined && { timeout }) })
    const settled = receiving.then(
      (message) => {
        outcomes.received++
        take(type, message.text())
      },
      (error) => {
        if (!gaveUp(error)) throw error
        outcomes.gaveUp++
      },
    )
    if (how === 9) {
      const old = reader
      reader = SysvQueue.fromId(queue.id)
      if (Math.random() < 0.5) await nextTurn()
      await old.close()
    } else if (how >= 3) {
      if (Math.random() < 0.5) await nextTurn()
      stop.abort()
    }
    await settled
  }
  const done = sending.then(() => stopDraining.abort())
  const stopDraining = new AbortController()
  const draining = types.map((type) =>
    reader
      .consume((message) => take(type, message.text()), { type, signal: stopDraining.signal })
      .catch((error) => {
        if (!gaveUp(error)) throw error
      }),
  )
  await Promise.all([done, ...draining])
  for (const type of types) for (const message of reader.tryReceiveMany(100_000, { type })) take(type, message.text())
  const { stdout, stderr } = await sending
  expect(stderr).toBe('')
  const sent = stdout.trim().split(' ').map(Number)
  expect(got).toEqual(sent.map((count) => Array.from({ length: count }, (_, index) => index)))
  expect(outcomes.received).toBeGreaterThan(RACES / 100)
  expect(outcomes.gaveUp).toBeGreaterThan(RACES / 100)
  await reader.close()
  await expect.poll(countThreads).toBeLessThanOrEqual(before)
}, 1_800_000)

test('sends that are given up were not sent, and all others were, in order', async () => {
  const queue = openSysv({ maxBytes: 64 })
  const sender = SysvQueue.fromId(queue.id)
  const sent: string[] = []
  const received: string[] = []
  const draining = (async () => {
    for await (const message of queue) {
      if (message.text() === 'end') return
      received.push(message.text())
      if (Math.random() < 0.3) await nextTurn()
    }
  })()
  for (let round = 0; round < 3000; round++) {
    const text = `message ${round}`.padEnd(20)
    const stop = new AbortController()
    const options = Math.random() < 0.5 ? { signal: stop.signal } : { timeout: Math.random() * 0.2 }
    const sending = sender.send(text, options).then(
      () => sent.push(text),
      (error) => {
        if (!gaveUp(error)) throw error
      },
    )
    if (Math.random() < 0.5) await nextTurn()
    stop.abort()
    await sending
  }
  await sender.send('end')
  await draining
  expect(received).toEqual(sent)
  expect(sent.length).toBeGreaterThan(0)
})

test('the error of sendMany tells exactly how many went out', async () => {
  const queue = openSysv({ maxBytes: 40 })
  for (let round = 0; round < 300; round++) {
    const stop = new AbortController()
    const sending = queue.sendMany(
      Array.from({ length: 50 }, (_, index) => String(index).padStart(10)),
      { signal: stop.signal },
    )
    const taken: string[] = []
    const takeSome = () => taken.push(...queue.tryReceiveMany(2).map((message) => message.text()))
    for (let turn = Math.random() * 4; turn > 0; turn--) {
      takeSome()
      await nextTurn()
    }
    stop.abort()
    const sent = await sending.then(
      () => 50,
      (error) => error.sent,
    )
    for (let more = 1; more > 0; ) more = takeSome() - taken.length + queue.stat().messages
    expect(taken.map(Number)).toEqual(Array.from({ length: sent }, (_, index) => index))
  }
})

test('removal settles every wait with EIDRM, and later calls say that the queue is gone', async () => {
  const queue = openSysv()
  const waits = [...types.map((type) => queue.receive({ type })), queue.receive(), queue.receive()]
  const settled = Promise.allSettled(waits)
  await nextTurn()
  queue.remove()
  const gone = { status: 'rejected', reason: expect.objectContaining({ code: 'EIDRM', id: queue.id }) }
  expect(await settled).toEqual(waits.map(() => gone))
  expect(() => queue.trySend('late')).toThrow(/^EIDRM: the queue was removed/)
  expect(() => queue.stat()).toThrow(/^EIDRM/)
})

test('a queue is never created without its limit, though another thread removes it all the time', async () => {
  const key = uniqueKey()
  const stopped = new Int32Array(new SharedArrayBuffer(4))
  const remover = `import { parentPort, workerData } from 'node:worker_threads'
    import { IPC_RMID, msgctl, msgget } from 'kernelmq/syscalls'
    parentPort.postMessage('ready')
    while (Atomics.load(workerData.stopped, 0) === 0) {
      const id = msgget(workerData.key, 0)
      if (id >= 0) msgctl(id, IPC_RMID)
    }`
  const worker = new Worker(remover, { eval: true, workerData: { key, stopped } })
  const ended = once(worker, 'exit')
  await once(worker, 'message')
  const limits = new Set<number>()
  const begun = performance.now()
  // The other thread may not let it have one to look at in so short a time.
  while (performance.now() - begun < (limits.size === 0 ? 60_000 : 1000)) {
    try {
      const queue = SysvQueue.open(key, { create: true, maxBytes: 100 })
      limits.add(queue.stat().maxBytes)
    } catch (error) {
      expect(error).toMatchObject({ code: 'EIDRM' })
    }
  }
  Atomics.store(stopped, 0, 1)
  await ended
  expect([...limits]).toEqual([100])
})
