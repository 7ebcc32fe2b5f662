// The tables of a bus, from within: what a statement looks at.
import { ManualClock } from 'kernelmq/bus'
import { expect, onTestFinished, test, vi } from 'vitest'
import type * as Sqlite from '../../lib/bus/transports/local/sqlite.ts'
import { Store } from '../../lib/bus/transports/local/store.ts'

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
