// The durable transport: what it hands out, takes back, and gives to others.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setImmediate as turn } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { describe, expect, onTestFinished, test } from 'vitest'
import type { Delivery, Outgoing, Settlement } from '../../dist/bus/transport.js'
import { LocalTransport } from '../../dist/bus/transports/local/local.js'
import { openDatabase } from '../../dist/bus/transports/local/sqlite.js'
import { judge } from '../reliability/chaos-bus.mjs'
import { start } from '../support.ts'

function makeDirectory(): string {
  const directory = mkdtempSync(join(tmpdir(), 'kernelmq-bus-'))
  onTestFinished(() => rmSync(directory, { recursive: true, force: true }))
  return directory
}

async function open(directory = makeDirectory()): Promise<LocalTransport> {
  const bus = await LocalTransport.open(directory)
  onTestFinished(() => bus.close())
  return bus
}

const message = (id: string, options: Partial<Outgoing> = {}): Outgoing => ({
  id,
  body: Buffer.from(`body of ${id}`),
  dedup: 0,
  key: undefined,
  priority: 0,
  due: 0,
  expires: 0,
  headers: undefined,
  ...options,
})

/** What is there at once, unless told to wait. */
const receive = (bus: LocalTransport, { max = 10, wait = 0, signal = undefined as AbortSignal | undefined } = {}) =>
  bus.receive('q', { max, deadline: performance.now() + wait, signal })

const idsOf = (deliveries: Delivery[]) => deliveries.map(({ id }) => id)

const settle = (bus: LocalTransport, deliveries: Delivery[], settlementOf: (token: unknown) => Settlement) =>
  bus.settle(deliveries.map(({ token }) => settlementOf(token)))

const ack = (bus: LocalTransport, deliveries: Delivery[]) =>
  settle(bus, deliveries, (token) => ({ token, outcome: 'ack' }))

const EMPTY = { ready: 0, leased: 0, delayed: 0, dead: 0 }

describe('messages', () => {
  test('come whole, the highest priority first, then in order, and go when they are acknowledged', async () => {
    const bus = await open()
    const sent = [message('a', { headers: { color: 'red' } }), message('b', { priority: 5 }), message('c')]
    expect(await bus.send('q', sent)).toEqual(['a', 'b', 'c'].map((id) => ({ id, duplicate: false })))
    const got = await receive(bus)
    expect(got.map(({ id, body, headers, priority }) => [id, Buffer.from(body).toString(), headers, priority])).toEqual(
      [
        ['b', 'body of b', {}, 5],
        ['a', 'body of a', { color: 'red' }, 0],
        ['c', 'body of c', {}, 0],
      ],
    )
    expect(await bus.stats('q')).toEqual({ ...EMPTY, leased: 3 })
    expect(await receive(bus)).toEqual([])
    expect(await ack(bus, got)).toEqual([true, true, true])
    expect(await ack(bus, got)).toEqual([false, false, false])
    expect(await bus.stats('q')).toEqual(EMPTY)
  })

  test('are there for the next one who opens the directory', async () => {
    const directory = makeDirectory()
    const first = await LocalTransport.open(directory)
    await first.send('q', [message('a')])
    await first.close()
    expect(idsOf(await receive(await open(directory)))).toEqual(['a'])
  })

  test('with an id that was sent within the window are not sent again', async () => {
    const bus = await open()
    await bus.send('q', [message('a', { dedup: 60_000 })])
    expect(await bus.send('q', [message('a', { dedup: 60_000 })])).toEqual([{ id: 'a', duplicate: true }])
    expect(idsOf(await receive(bus))).toEqual(['a'])
  })

  test('that have expired are not handed out', async () => {
    const bus = await open()
    await bus.send('q', [message('a', { expires: Date.now() - 1 }), message('b')])
    expect(idsOf(await receive(bus, { wait: 1000 }))).toEqual(['b'])
  })

  test('that came back are read before those that were not read yet, and count their attempts', async () => {
    const bus = await open()
    await bus.send(
      'q',
      ['a', 'b', 'c'].map((id) => message(id)),
    )
    const [a, b] = await receive(bus, { max: 2 })
    await bus.settle([
      { token: (a as Delivery).token, outcome: 'retry', due: 0, counted: true },
      { token: (b as Delivery).token, outcome: 'retry', due: 0, counted: false },
    ])
    expect((await receive(bus)).map(({ id, attempts }) => [id, attempts])).toEqual([
      ['a', 1],
      ['b', 0],
      ['c', 0],
    ])
  })

  test('that are dead stay, with the headers that say why', async () => {
    const bus = await open()
    await bus.send('q', [message('a')])
    expect(
      await settle(bus, await receive(bus), (token) => ({ token, outcome: 'dead', headers: { why: 'it' } })),
    ).toEqual([true])
    expect(await bus.stats('q')).toEqual({ ...EMPTY, dead: 1 })
  })
})

test('a store that is none of ours, or of another version, is left as it is', async () => {
  const directory = makeDirectory()
  await (await LocalTransport.open(directory)).close()
  const path = join(directory, 'bus.db')
  const database = openDatabase(path, 0)
  onTestFinished(() => database.close())
  database.exec('PRAGMA user_version = 999')
  await expect(LocalTransport.open(directory)).rejects.toMatchObject({ code: 'ERR_BUS_VERSION', path })
  database.exec('PRAGMA application_id = 1')
  await expect(LocalTransport.open(directory)).rejects.toMatchObject({ code: 'ERR_BUS_NOT_A_BUS', path })
  expect(database.prepare('PRAGMA user_version').get()).toEqual({ user_version: 999 })
})

test('while another holds the lock of the store the loop runs, and sends wait in their order', async () => {
  const directory = makeDirectory()
  const bus = await open(directory)
  const database = openDatabase(join(directory, 'bus.db'), 0)
  onTestFinished(() => database.close())
  database.exec('BEGIN IMMEDIATE')
  const sending = ['a', 'b', 'c'].map((id) => bus.send('q', [message(id)]))
  let settled = false
  const all = Promise.all(sending).then(() => (settled = true))
  for (let i = 0; i < 20; i++) await turn()
  expect(settled).toBe(false)
  database.exec('ROLLBACK')
  await all
  expect(idsOf(await receive(bus))).toEqual(['a', 'b', 'c'])
})

describe('a key', () => {
  test('has one message out at a time, others pass; the next comes when it is settled', async () => {
    const bus = await open()
    await bus.send('q', [message('a1', { key: 'a' }), message('a2', { key: 'a' }), message('b1', { key: 'b' })])
    const first = await receive(bus)
    expect(idsOf(first)).toEqual(['a1', 'b1'])
    await ack(bus, first)
    expect(idsOf(await receive(bus))).toEqual(['a2'])
  })

  test('holds its followers while it is to be tried again', async () => {
    const bus = await open()
    await bus.send('q', [message('a1', { key: 'a' }), message('a2', { key: 'a' })])
    const due = Date.now() + 50
    await settle(bus, await receive(bus), (token) => ({ token, outcome: 'retry', due, counted: true }))
    expect(idsOf(await receive(bus))).toEqual([])
    const again = await receive(bus, { wait: 10_000 })
    expect(idsOf(again)).toEqual(['a1'])
    await ack(bus, again)
    expect(idsOf(await receive(bus))).toEqual(['a2'])
  })
})

describe('waiting', () => {
  test('ends with the next message, of another process or this one', async () => {
    const directory = makeDirectory()
    const [bus, other] = [await open(directory), await open(directory)]
    for (const sender of [bus, other]) {
      const waiting = receive(bus, { wait: 60_000 })
      await sender.send('q', [message('a')])
      expect(idsOf(await waiting)).toEqual(['a'])
    }
  })

  test('ends when a message is due, also one that was sent later and is due earlier', async () => {
    const directory = makeDirectory()
    const [bus, other] = [await open(directory), await open(directory)]
    const waiting = receive(bus, { wait: 60_000 })
    await other.send('q', [message('late', { due: Date.now() + 3_600_000 })])
    await other.send('q', [message('soon', { due: Date.now() + 30 })])
    expect(idsOf(await waiting)).toEqual(['soon'])
  })

  test('ends with its signal, and with the bus; a bell that it had is passed on', async () => {
    const directory = makeDirectory()
    const [bus, other] = [await open(directory), await open(directory)]
    const controller = new AbortController()
    const given = receive(bus, { wait: 60_000, signal: controller.signal })
    const waiting = receive(other, { wait: 60_000 })
    const third = await open(directory)
    await turn()
    // Within one turn of the loop: the first in line is called, and gives up before it hears of that.
    const sending = third.send('q', [message('a')])
    controller.abort()
    await expect(given).rejects.toMatchObject({ code: 'ABORT_ERR' })
    await sending
    expect(idsOf(await waiting)).toEqual(['a'])
    const last = expect(receive(other, { wait: 60_000 })).rejects.toMatchObject({ code: 'ERR_MQ_CLOSED' })
    await turn()
    await other.close()
    await last
  })
})

test('what a bus held that is closed goes to another at once, uncounted; its own settling is refused', async () => {
  const directory = makeDirectory()
  const [bus, other] = [await open(directory), await open(directory)]
  await bus.send('q', [message('a')])
  await receive(bus)
  const waiting = receive(other, { wait: 60_000 })
  await bus.close()
  expect((await waiting).map(({ id, losses }) => [id, losses])).toEqual([['a', 0]])
})

describe('the ledger of npm run chaos:bus', () => {
  test('tells of what is lost, torn or out of order, and allows what comes again', () => {
    const lines = ['sent f-1-0', 'sent k-1-1', 'got f-1-0 1', 'got k-1-1 2', 'got f-1-0 3', 'got k-1-2 4']
    expect(judge(lines)).toEqual({ wrong: [], sent: 2, got: 3, again: 1 })
    expect(judge([...lines, 'sent f-1-3', 'torn f-1-4 5', 'got k-1-0 6']).wrong).toEqual([
      'f-1-4 was torn',
      'k-1-0 came after 2',
      'f-1-3 is lost',
    ])
  })

  test('nothing is lost by kills, briefly', async () => {
    const program = fileURLToPath(new URL('../reliability/chaos-bus.mjs', import.meta.url))
    const { code, stdout, stderr } = await start(process.execPath, [program, '--kills', '20']).outcome
    expect(stderr).toBe('')
    expect(stdout).toMatch(/20 kills, .* 0 wrong\n$/)
    expect(code).toBe(0)
  })
})
