// The tables of a bus, from within: what a statement looks at.
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { ManualClock } from 'kernelmq/bus'
import { expect, onTestFinished, test, vi } from 'vitest'
import { systemClock } from '../../lib/bus/clock.ts'
import { openLocal } from '../../lib/bus/transports/local/local.ts'
import type * as Sqlite from '../../lib/bus/transports/local/sqlite.ts'
import { openDatabase, prepareArrays } from '../../lib/bus/transports/local/sqlite.ts'
import { Store } from '../../lib/bus/transports/local/store.ts'
import { openMemory } from '../../lib/bus/transports/memory.ts'
import { temporaryDirectory } from './support.ts'

const { opened } = vi.hoisted(() => ({ opened: [] as { database: Sqlite.Database; statements: string[] }[] }))

vi.mock('../../lib/bus/transports/local/sqlite.ts', async (original) => {
  const sqlite = await original<typeof Sqlite>()
  const openDatabase = (path: string): Sqlite.Database => {
    const database = sqlite.openDatabase(path)
    const statements: string[] = []
    opened.push({ database, statements })
    const prepare = (sql: string) => {
      statements.push(sql)
      return database.prepare(sql)
    }
    return { exec: (sql) => database.exec(sql), prepare, close: () => database.close() }
  }
  return { ...sqlite, openDatabase }
})

const forever = Number.POSITIVE_INFINITY

const newStore = () => {
  const store = new Store(':memory:', new ManualClock(1))
  onTestFinished(() => store.close())
  return store
}

const to = (queue: string, ids: readonly string[], more: object = {}) =>
  ids.map((id) => {
    const message = {
      id,
      body: Buffer.from(id),
      format: 'text',
      dedup: 0,
      key: undefined,
      priority: 0,
      due: 0,
    } as const
    return { queue, message: { ...message, expires: 0, headers: undefined, ...more } }
  })

const claim = (store: Store, owner: number, max: number, stands = true) =>
  store.claim({ name: 'q', owner, max, lease: forever, stands }).deliveries

const numbers = (count: number) => Array.from({ length: count }, (_, i) => String(i))

test('of messages that are acknowledged together, those that have gone are told from the others', () => {
  const store = newStore()
  store.transact(() => store.send(to('q', numbers(9)), 'reject'))
  const { result } = store.transact(() => claim(store, 1, 9))
  const acks = result.map(({ token }) => ({ token, outcome: 'ack' }) as const)
  expect(store.transact(() => store.settle(acks.slice(4, 5))).result).toEqual([true])
  expect(store.transact(() => store.settle(acks)).result).toEqual(numbers(9).map((id) => id !== '4'))
  expect(store.stats('q')).toMatchObject({ ready: 0, leased: 0, bytes: 0 })
  expect(store.transact(() => store.settle(acks)).result).toEqual(acks.map(() => false))
  expect(store.stats('q')).toMatchObject({ ready: 0, leased: 0, bytes: 0 })
})

test('a run of acknowledgements ends where a message is not of it', () => {
  const store = newStore()
  store.transact(() => {
    store.send(to('q', numbers(6)), 'reject')
    store.send(to('q', ['keyed'], { key: 'k' }), 'reject')
    store.send(to('q', numbers(6)), 'reject')
  })
  const { result } = store.transact(() => claim(store, 1, 13))
  // All but the ninth.
  const acks = result.filter((_, i) => i !== 8).map(({ token }) => ({ token, outcome: 'ack' }) as const)
  expect(store.transact(() => store.settle(acks)).result).toEqual(acks.map(() => true))
  store.transact(() => store.reap(1, true))
  store.transact(() => store.send(to('q', ['next'], { key: 'k' }), 'reject'))
  // The first of these is the ninth.
  expect(store.transact(() => claim(store, 2, 9)).result).toMatchObject([{ id: '1' }, { id: 'next' }])
})

test('a lease is extended before what is acknowledged with it has gone', () => {
  const store = newStore()
  store.transact(() => store.send(to('q', numbers(5)), 'reject'))
  const { result } = store.transact(() => claim(store, 1, 5))
  const acks = result.map(({ token }) => ({ token, outcome: 'ack' }) as const)
  const extended = { token: result[2]?.token, outcome: 'extend', until: 9 } as const
  expect(store.transact(() => store.settle([extended, ...acks])).result).toEqual([extended, ...acks].map(() => true))
})

test('what comes for one who waits can be claimed by the same transaction, and comes again when he is lost', () => {
  const store = newStore()
  expect(store.transact(() => claim(store, 1, 1)).result).toEqual([])
  const taken: string[] = []
  const { bells } = store.transact(
    () => store.send(to('q', ['a', 'b']), 'reject'),
    ({ owner }) => {
      taken.push(...claim(store, owner, 1).map(({ id }) => id))
      return true
    },
  )
  expect({ bells, taken }).toEqual({ bells: [], taken: ['a'] })
  store.transact(() => store.reap(1, true))
  expect(store.transact(() => claim(store, 2, 9)).result).toMatchObject([
    { id: 'a', losses: 1 },
    { id: 'b', losses: 0 },
  ])
})

test('what a process had alone has to answer for its end; of two messages none has, in whatever order they come back', () => {
  const store = newStore()
  store.transact(() => store.send(to('q', numbers(5)), 'reject'))
  const held = store.transact(() => claim(store, 1, 3)).result
  store.transact(() => store.settle(held.slice(1).map(({ token }) => ({ token, outcome: 'ack' }) as const)))
  for (const _ of numbers(2)) store.transact(() => claim(store, 2, 1))
  const lossesOf = () => store.browse('q', 9, undefined).deliveries.map(({ id, losses }) => [id, losses])
  while (store.transact(() => store.reap(2, true)).result);
  expect(lossesOf()).toEqual(['0', '3', '4'].map((id) => [id, 0]))
  while (store.transact(() => store.reap(1, true)).result);
  expect(lossesOf()).toEqual([
    ['0', 1],
    ['3', 0],
    ['4', 0],
  ])
  // Nothing is remembered of those who have gone.
  const { owner } = store.transact(() => store.enter(1, '')).result
  expect(owner).toBe(1)
  store.transact(() => claim(store, owner, 1))
  while (store.transact(() => store.reap(owner, true)).result);
  expect(lossesOf()[0]).toEqual(['0', 2])
})

test('others write while messages are counted', async () => {
  const directory = temporaryDirectory()
  const engine = await openLocal(directory, new ManualClock(1), { mode: 0o700, create: true, patience: 1000 })
  onTestFinished(() => engine.close())
  const other = openDatabase(join(directory, 'bus.db'))
  onTestFinished(() => other.close())
  const { stats } = Store.prototype
  const counting = vi.spyOn(Store.prototype, 'stats').mockImplementation(function (this: Store, name) {
    other.exec('BEGIN IMMEDIATE; COMMIT')
    return stats.call(this, name)
  })
  onTestFinished(() => counting.mockRestore())
  const sent = engine.send(to('q', ['a']), { overflow: 'reject', disk: false, signal: undefined })
  expect(await engine.stats('q')).toMatchObject({ ready: 1 })
  await sent
})

test('a disk that fails is not taken for a full one', async () => {
  const directory = temporaryDirectory()
  const engine = await openLocal(directory, new ManualClock(1), { mode: 0o700, create: true, patience: 1000 })
  onTestFinished(() => engine.close())
  // SQLITE_IOERR_WRITE, as of a disk that is broken.
  const failure = Object.assign(new Error('disk I/O error'), { errcode: 778 })
  const claiming = vi.spyOn(Store.prototype, 'claim').mockImplementation(() => {
    throw failure
  })
  onTestFinished(() => claiming.mockRestore())
  const receive = { max: 5, deadline: 0, signal: undefined, lease: forever, together: false }
  await expect(engine.receive('q', receive)).rejects.toMatchObject({ code: 'ERR_BUS_DAMAGED', cause: failure })
  expect(readdirSync(directory).filter((name) => name.startsWith('reserve'))).toEqual(['reserve'])
})

test('a large body to a queue that went with its process leaves no file', async () => {
  const directory = temporaryDirectory()
  const engine = await openLocal(directory, new ManualClock(1), { mode: 0o700, create: true, patience: 1000 })
  onTestFinished(() => engine.close())
  const reply = to('borrowed/gone', ['x'], { body: Buffer.alloc(70_000) })
  await engine.send(reply, { overflow: 'reject', disk: false, signal: undefined })
  await vi.waitFor(() => expect(readdirSync(join(directory, 'bodies'))).toEqual([]), 10_000)
})

test('a queue goes in parts, each a transaction, also if its process ends meanwhile, with all that there is of it', () => {
  const store = newStore()
  const name = 'borrowed/@n/x'
  const { owner } = store.transact(() => store.enter(1, '')).result
  store.transact(() => store.borrow(name, owner))
  store.transact(() => store.declare(`${name}/dead`))
  const ids = numbers(300)
  for (const more of [{ key: 'k' }, { due: 9, dedup: 9 }, {}, {}])
    store.transact(() => store.send(to(name, ids, more), 'reject'))
  store.transact(() => store.send(to(`${name}/dead`, ids), 'reject'))
  const { result } = store.transact(
    () => store.claim({ name, owner, max: 500, lease: forever, stands: true }).deliveries,
  )
  store.transact(() =>
    store.settle(result.slice(0, 9).map(({ token }) => ({ token, outcome: 'retry', due: 0, counted: false }))),
  )
  const rows = (table: string) => Number(opened.at(-1)?.database.prepare(`SELECT count(*) AS n FROM ${table}`).get()?.n)
  const all = () => rows('messages') + rows('parked')
  expect(all()).toBe(1500)
  expect(store.transact(() => store.drop(name)).result).toBe(true)
  expect(all()).toBeGreaterThanOrEqual(1000)
  expect(store.transact(() => store.allot('n')).result.messages).toBe(all())
  for (let left = all(); store.transact(() => store.reap(owner, true)).result; left = all()) {
    expect(left - all()).toBeLessThanOrEqual(500)
  }
  const tables = ['messages', 'parked', 'released', 'busy', 'dedup', 'cursors', 'leases', 'begun', 'borrowed', 'queues']
  expect(tables.map((table) => [table, rows(table)])).toEqual(tables.map((table) => [table, 0]))
  expect(store.transact(() => store.allot('n')).result).toMatchObject({ messages: 0, bytes: 0, queues: 0 })
})

test('who leaves a queue that was dropped does not make it again', () => {
  const store = newStore()
  store.transact(() => store.borrow('borrowed/x', 1))
  store.transact(() => store.drop('borrowed/x'))
  store.transact(() => store.leave('borrowed/x', 0, 1))
  expect(store.queues()).toEqual([])
})

test('who only looks is not told of what comes later; the next who waits is', () => {
  const store = newStore()
  store.transact(() => claim(store, 1, 1, false))
  expect(store.transact(() => store.send(to('q', ['a']), 'reject')).bells).toEqual([])
  store.transact(() => claim(store, 1, 1, false))
  store.transact(() => claim(store, 2, 1))
  expect(store.transact(() => store.send(to('q', ['b']), 'reject')).bells).toMatchObject([{ owner: 2 }])
})

test('who only looks finds what one that is expired held behind its key', async () => {
  const clock = new ManualClock(1)
  const engine = openMemory(clock)
  onTestFinished(() => engine.close())
  const send = { overflow: 'reject', disk: false, signal: undefined } as const
  await engine.send([...to('q', ['a'], { key: 'k', expires: 9 }), ...to('q', ['b'], { key: 'k' })], send)
  const receive = { max: 5, deadline: 0, signal: undefined, lease: forever, together: false }
  const [{ token } = { token: undefined }] = await engine.receive('q', receive)
  await engine.settle([{ token, outcome: 'retry', due: 0, counted: false }])
  clock.advance(9)
  expect(await engine.receive('q', receive)).toMatchObject([{ id: 'b' }])
})

test('one who comes to wait in the transaction of a send that nobody waited for is told', () => {
  const store = newStore()
  const start = { messages: 5, priority: 0 }
  const { bells } = store.transact(() => {
    store.send(to('q', numbers(5)), 'reject')
    store.stand('q', 0, 7, undefined, [start])
  })
  expect(bells).toMatchObject([{ owner: 7 }])
})

test('a claim that fails with the send that has brought its message does not fail the send', async () => {
  const engine = openMemory(new ManualClock(1))
  onTestFinished(() => engine.close())
  const receive = { max: 1, deadline: forever, signal: undefined, lease: forever, together: false }
  const received = engine.receive('q', receive)
  // Then he stands in line.
  await engine.stats('q')
  const claims = vi.spyOn(Store.prototype, 'claim').mockImplementationOnce(() => {
    throw new Error('of the claim')
  })
  onTestFinished(() => claims.mockRestore())
  await engine.send(to('q', ['a']), { overflow: 'reject', disk: false, signal: undefined })
  expect(await received).toMatchObject([{ id: 'a' }])
  expect(claims).toHaveBeenCalledTimes(2)
})

test('what is due by a clock that was put forward is found within a minute', async () => {
  const time = new ManualClock(1)
  let ahead = 0
  const engine = openMemory({ now: () => time.now() + ahead, after: (ms, callback) => time.after(ms, callback) })
  onTestFinished(() => engine.close())
  const receive = { max: 1, deadline: forever, signal: undefined, lease: forever, together: false }
  const received = engine.receive('q', receive)
  const sent = { overflow: 'reject', disk: false, signal: undefined } as const
  await engine.send(to('q', ['a'], { due: 3_600_000 }), sent)
  await engine.stats('q')
  ahead = 3_600_000
  time.advance(60_000)
  expect(await received).toMatchObject([{ id: 'a' }])
})

test('what came for one who has given up goes back also if that fails at first', async () => {
  const engine = openMemory(systemClock)
  onTestFinished(() => engine.close())
  const receive = { max: 1, deadline: forever, signal: undefined, lease: forever, together: false }
  await engine.send(to('q', ['a']), { overflow: 'reject', disk: false, signal: undefined })
  const settles = vi.spyOn(Store.prototype, 'settle').mockImplementationOnce(() => {
    throw new Error('of the store')
  })
  onTestFinished(() => settles.mockRestore())
  const given = new AbortController()
  const first = engine.receive('q', { ...receive, signal: given.signal })
  given.abort()
  await expect(first).rejects.toMatchObject({ name: 'AbortError' })
  expect(await engine.receive('q', receive)).toMatchObject([{ id: 'a' }])
  expect(settles).toHaveBeenCalledTimes(2)
})

test('what is sent together is received as it was sent', async () => {
  const engine = openMemory(new ManualClock(1000))
  onTestFinished(() => engine.close())
  const batch = numbers(65).flatMap((id, i) => {
    const body = i % 3 === 0 ? Buffer.alloc(0) : Buffer.from(id.repeat(i))
    const headers = i % 4 === 0 ? { at: id } : undefined
    return to('q', [id], { body, headers, key: i % 5 === 0 ? id : undefined, priority: i < 30 ? 0 : 1 })
  })
  await engine.send(batch, { overflow: 'reject', disk: false, signal: undefined })
  const receive = { max: 500, deadline: 0, signal: undefined, lease: forever, together: false }
  const received = await engine.receive('q', receive)
  const sent = [...batch.slice(30), ...batch.slice(0, 30)].map(({ message }) => message)
  expect(received.map(({ id, key, priority }) => ({ id, key, priority }))).toEqual(
    sent.map(({ id, key, priority }) => ({ id, key, priority })),
  )
  expect(received.map(({ body, headers }) => [Buffer.from(body).toString(), headers])).toEqual(
    sent.map(({ body, headers = {} }) => [body.toString(), headers]),
  )
  expect(await engine.stats('q')).toMatchObject({ bytes: sent.reduce((sum, { body }) => sum + body.byteLength, 0) })
})

test('rows are arrays also of an SQLite that has only objects, as that of Node.js 22.13', () => {
  const database = openDatabase(':memory:')
  onTestFinished(() => database.close())
  const old: Sqlite.Database = {
    ...database,
    prepare(sql) {
      const statement = database.prepare(sql)
      const { all, get, run } = statement
      return { all: all.bind(statement), get: get.bind(statement), run: run.bind(statement) }
    },
  }
  for (const one of [database, old]) {
    const rows = prepareArrays(one, "SELECT ?, 1 + 1, EXISTS (SELECT 1), EXISTS (SELECT 2), NULL, 'x' WHERE ? > 0")
    expect(rows.all(3, 1)).toEqual([[3, 2, 1, 1, null, 'x']])
    expect(rows.get(3, 1)).toEqual([3, 2, 1, 1, null, 'x'])
    expect([rows.all(3, 0), rows.get(3, 0)]).toEqual([[], undefined])
  }
})

test('what is noted under a prefix is found, and no more is looked at', () => {
  const store = new Store(':memory:', new ManualClock(0))
  onTestFinished(() => store.close())
  const { database, statements } = opened.at(-1) as (typeof opened)[0]
  const keys = ['a', 'b', 'b/', 'b/1', 'b/2', 'b/\u{10ffff}\u{10ffff}', 'b0', 'c', '\u{1f600}/1', '\u{1f600}/2']
  for (const key of keys) store.put(key, `of ${key}`, 0)
  const found = (prefix: string) => store.entries(prefix).map(([key]) => key)
  expect(found('b/')).toEqual(keys.slice(2, 6))
  expect(found('\u{1f600}/')).toEqual(keys.slice(8))
  expect(found('d')).toEqual([])
  const sql = statements.find((statement) => statement.startsWith('SELECT key, value')) as string
  const values = new Array(sql.split('?').length - 1).fill('')
  const plan = database.prepare(`EXPLAIN QUERY PLAN ${sql}`).all(...values)
  expect(plan).toEqual([
    expect.objectContaining({ detail: expect.stringMatching(/^SEARCH notes .*key>\? AND key<\?/) }),
  ])
})

test('to count what is in a queue, no more of its messages are looked at than consumers have, and one', () => {
  const store = newStore()
  const { database, statements } = opened.at(-1) as (typeof opened)[0]
  store.transact(() => {
    store.send(to('q', numbers(9)), 'reject')
    claim(store, 1, 2)
  })
  statements.length = 0
  expect(store.stats('q')).toMatchObject({ ready: 7, leased: 2 })
  const plans = statements.map((sql) => {
    const values = new Array(sql.split('?').length - 1).fill(1)
    return database
      .prepare(`EXPLAIN QUERY PLAN ${sql}`)
      .all(...values)
      .map(({ detail }) => String(detail))
  })
  const looks = plans.flat().filter((detail) => /(SEARCH|SCAN) (m|messages)\b/.test(detail))
  expect(looks.length).toBeGreaterThan(0)
  for (const look of looks) expect(look).toMatch(/queue=\? AND rank=\? AND sequence[<>=]/)
})
