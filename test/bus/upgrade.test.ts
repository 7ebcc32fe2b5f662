// Stores of earlier versions.
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { connect } from 'kernelmq/bus'
import { expect, onTestFinished, test } from 'vitest'
import { DatabaseSync } from './sqlite.mjs'
import { one, openBus, take, temporaryDirectory } from './support.ts'

const columns = `
  queue INTEGER NOT NULL, rank INTEGER NOT NULL, sequence INTEGER NOT NULL, version INTEGER NOT NULL,
  attempts INTEGER NOT NULL, losses INTEGER NOT NULL, suspect INTEGER NOT NULL, id TEXT NOT NULL, key TEXT,
  sent INTEGER NOT NULL, expires INTEGER NOT NULL, format INTEGER NOT NULL, headers TEXT, size INTEGER NOT NULL,
  file TEXT, body BLOB NOT NULL`
/** As kernelmq made it first. */
const version1 = `
  CREATE TABLE queues (queue INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, next INTEGER NOT NULL DEFAULT 1,
    messages INTEGER NOT NULL DEFAULT 0, bytes INTEGER NOT NULL DEFAULT 0,
    max_messages INTEGER NOT NULL DEFAULT 0, max_bytes INTEGER NOT NULL DEFAULT 0);
  CREATE TABLE messages (${columns}, PRIMARY KEY (queue, rank, sequence)) WITHOUT ROWID;
  CREATE INDEX messages_file ON messages (file) WHERE file IS NOT NULL;
  CREATE TABLE cursors (queue INTEGER, rank INTEGER, sequence INTEGER NOT NULL, PRIMARY KEY (queue, rank)) WITHOUT ROWID;
  CREATE TABLE released (queue INTEGER, rank INTEGER, sequence INTEGER, PRIMARY KEY (queue, rank, sequence)) WITHOUT ROWID;
  CREATE TABLE parked (${columns}, due INTEGER, fresh INTEGER NOT NULL, PRIMARY KEY (queue, rank, sequence)) WITHOUT ROWID;
  CREATE INDEX parked_due ON parked (queue, due) WHERE due IS NOT NULL;
  CREATE INDEX parked_key ON parked (queue, key, rank, sequence) WHERE due IS NULL;
  CREATE INDEX parked_file ON parked (file) WHERE file IS NOT NULL;
  CREATE TABLE busy (queue INTEGER, key TEXT, rank INTEGER NOT NULL, sequence INTEGER NOT NULL, PRIMARY KEY (queue, key)) WITHOUT ROWID;
  CREATE TABLE leases (lease INTEGER PRIMARY KEY AUTOINCREMENT, owner INTEGER NOT NULL, queue INTEGER NOT NULL, until INTEGER, items TEXT NOT NULL);
  CREATE INDEX leases_owner ON leases (owner);
  CREATE INDEX leases_until ON leases (queue, until) WHERE until IS NOT NULL;
  CREATE TABLE begun (lease INTEGER, rank INTEGER, sequence INTEGER, PRIMARY KEY (lease, rank, sequence)) WITHOUT ROWID;
  CREATE TABLE dedup (queue INTEGER, id TEXT, until INTEGER NOT NULL, PRIMARY KEY (queue, id)) WITHOUT ROWID;
  CREATE INDEX dedup_until ON dedup (until);
  CREATE TABLE processes (owner INTEGER PRIMARY KEY AUTOINCREMENT, pid INTEGER NOT NULL, socket TEXT NOT NULL);
  CREATE TABLE waiting (turn INTEGER PRIMARY KEY AUTOINCREMENT, queue INTEGER NOT NULL, want INTEGER NOT NULL, owner INTEGER NOT NULL, due INTEGER, UNIQUE (queue, want, owner));
  CREATE TABLE borrowed (name TEXT PRIMARY KEY, owner INTEGER NOT NULL) WITHOUT ROWID;
  CREATE TABLE bindings (pattern TEXT, name TEXT, headers TEXT, PRIMARY KEY (pattern, name, headers)) WITHOUT ROWID;
  CREATE TABLE notes (key TEXT PRIMARY KEY, value TEXT NOT NULL, until INTEGER NOT NULL) WITHOUT ROWID;
  CREATE INDEX notes_until ON notes (until) WHERE until > 0;
  PRAGMA application_id = 1802334562;
  PRAGMA user_version = 1;`

function makeStore() {
  const directory = join(temporaryDirectory(), 'bus')
  mkdirSync(directory)
  const path = join(directory, 'bus.db')
  const database = new DatabaseSync(path)
  database.exec(`PRAGMA journal_mode = WAL; ${version1}
    INSERT INTO queues (queue, name, next, messages, bytes, max_messages) VALUES (7, 'q', 3, 2, 2, 2);
    INSERT INTO cursors VALUES (7, 0, 0);
    INSERT INTO messages VALUES (7, 0, 1, 0, 0, 0, 0, 'a', NULL, 1000, 0, 1, NULL, 1, NULL, x'61');
    INSERT INTO messages VALUES (7, 0, 2, 0, 0, 0, 0, 'b', 'k', 2000, 0, 1, '{"h":"v"}', 1, NULL, x'62');
    INSERT INTO waiting (queue, want, owner) VALUES (7, 0, 99)`)
  database.close()
  return { url: `local:${directory}`, path }
}

test('a store of version 1 is upgraded when it is opened, by several at once, with all that is in it', async () => {
  const { url, path } = makeStore()
  const [bus, other] = await Promise.all([connect(url), connect(url)])
  for (const one of [bus, other]) onTestFinished(() => one.close())
  await expect(other.queue('q').send('c')).rejects.toMatchObject({ code: 'ERR_BUS_QUEUE_FULL' })
  const queue = bus.queue('q', { history: { maxMessages: 5 } })
  const message = await one(queue)
  expect(message).toMatchObject({ id: 'a', body: 'a', sentAt: new Date(1000) })
  await message.ack()
  expect(await one(other.queue('q'))).toMatchObject({ id: 'b', body: 'b', key: 'k', headers: { h: 'v' } })
  expect((await queue.history.list()).entries).toMatchObject([{ id: 'a', body: 'a' }])
  const database = new DatabaseSync(path)
  expect(database.prepare('PRAGMA user_version').get()).toEqual({ user_version: 2 })
  database.close()
})

test('it has the tables of a new one', async () => {
  const { url, path } = makeStore()
  const fresh = join(temporaryDirectory(), 'bus')
  const tablesOf = (file: string) => {
    const database = new DatabaseSync(file)
    const names = database.prepare("SELECT type, name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' ORDER BY name")
    const tables = names
      .all()
      .map(({ type, name }) => [
        type,
        name,
        database
          .prepare(`SELECT name, type, "notnull", dflt_value FROM pragma_table_info('${name}') ORDER BY name`)
          .all(),
      ])
    database.close()
    return tables
  }
  await openBus(url)
  await openBus(`local:${fresh}`)
  expect(tablesOf(path)).toEqual(tablesOf(join(fresh, 'bus.db')))
})

test('an upgrade that fails leaves the store as it was', async () => {
  const { url, path } = makeStore()
  const database = new DatabaseSync(path)
  // In the way of the last step.
  database.exec('CREATE INDEX history_file ON queues (name); PRAGMA wal_checkpoint(TRUNCATE)')
  database.close()
  await expect(connect(url)).rejects.toThrow(/history_file/)
  const after = new DatabaseSync(path)
  expect(after.prepare('PRAGMA user_version').get()).toEqual({ user_version: 1 })
  after.exec('DROP INDEX history_file')
  after.close()
  expect(await take((await openBus(url)).queue('q'), 2)).toEqual(['a', 'b'])
})
