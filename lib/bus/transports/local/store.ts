// The tables of a bus directory. Every method is one short transaction, and never waits.
import { QueueError } from '../../../errors.ts'
import type { Delivery, Outgoing, Receipt, Settlement, TransportStats } from '../../transport.ts'
import { type Database, isBusy, openDatabase, type Statement, type Value } from './sqlite.ts'

/** Raised with every change of the tables that an older library would not understand. */
const VERSION = 1
/** "kmqb": says that the file is a bus. */
const APPLICATION = 0x6b6d7162

/** How long a call may block the loop while another process writes; then it is tried again later. */
const BUSY_MS = 3

// What lies before the cursor of its queue and rank is in somebody's lease, or in `released`. A message that is not to
// be read by anybody yet (delayed, retrying, behind another of its key) is in `parked` and not in `messages`.
const columns = `
  queue INTEGER NOT NULL, rank INTEGER NOT NULL, sequence INTEGER NOT NULL, version INTEGER NOT NULL,
  attempts INTEGER NOT NULL, losses INTEGER NOT NULL, id TEXT NOT NULL, key TEXT, sent INTEGER NOT NULL,
  expires INTEGER NOT NULL, headers TEXT, body BLOB NOT NULL`
const schema = `
  CREATE TABLE queues (queue INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, next INTEGER NOT NULL);
  CREATE TABLE messages (${columns}, PRIMARY KEY (queue, rank, sequence)) WITHOUT ROWID;
  CREATE TABLE cursors (queue INTEGER, rank INTEGER, sequence INTEGER NOT NULL, PRIMARY KEY (queue, rank)) WITHOUT ROWID;
  CREATE TABLE released (queue INTEGER, rank INTEGER, sequence INTEGER, PRIMARY KEY (queue, rank, sequence)) WITHOUT ROWID;
  CREATE TABLE parked (${columns}, due INTEGER, fresh INTEGER NOT NULL, PRIMARY KEY (queue, rank, sequence)) WITHOUT ROWID;
  CREATE INDEX parked_due ON parked (queue, due) WHERE due IS NOT NULL;
  CREATE INDEX parked_key ON parked (queue, key, rank, sequence) WHERE due IS NULL;
  CREATE TABLE busy (queue INTEGER, key TEXT, rank INTEGER NOT NULL, sequence INTEGER NOT NULL, PRIMARY KEY (queue, key)) WITHOUT ROWID;
  CREATE TABLE leases (lease INTEGER PRIMARY KEY AUTOINCREMENT, owner INTEGER NOT NULL, queue INTEGER NOT NULL, items TEXT NOT NULL);
  CREATE TABLE dedup (queue INTEGER, id TEXT, until INTEGER NOT NULL, PRIMARY KEY (queue, id)) WITHOUT ROWID;
  CREATE INDEX dedup_until ON dedup (until);
  CREATE TABLE dead (${columns}, died INTEGER NOT NULL, PRIMARY KEY (queue, rank, sequence)) WITHOUT ROWID;
  CREATE TABLE processes (owner INTEGER PRIMARY KEY AUTOINCREMENT, pid INTEGER NOT NULL, socket TEXT NOT NULL);
  CREATE TABLE waiting (turn INTEGER PRIMARY KEY AUTOINCREMENT, queue INTEGER NOT NULL, owner INTEGER NOT NULL, UNIQUE (queue, owner));
  PRAGMA application_id = ${APPLICATION};
  PRAGMA user_version = ${VERSION};`
const names = 'queue, rank, sequence, version, attempts, losses, id, key, sent, expires, headers, body'

export interface Process {
  owner: number
  pid: number
  socket: string
}

/** What settling needs: a row is the consumer's as long as it has the version that it was handed out with. */
export interface Token {
  readonly lease: Lease
  readonly rank: number
  readonly sequence: number
  readonly version: number
  readonly key: string | undefined
}

/** One record for all that was claimed at once; it goes with the last of them. */
export interface Lease {
  id: number
  readonly queue: number
  left: number
}

export interface Claimed {
  deliveries: Delivery[]
  /** Who is to be told that there is more. */
  wake: number | undefined
  /** When there is something, as of `Date.now()`, if nothing is now. */
  due: number | undefined
}

type Row = Record<string, Value>

export class Store {
  readonly #database: Database
  readonly #statements = new Map<string, Statement>()
  readonly #queues = new Map<string, number>()
  readonly #ranks = new Set<string>()
  readonly #now: () => number
  readonly path: string

  constructor(path: string, now: () => number = Date.now) {
    this.path = path
    this.#now = now
    this.#database = openDatabase(path, BUSY_MS)
    try {
      // First this, which leaves what is not ours as it is.
      this.#prepareTables()
      this.#database.exec('PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;')
    } catch (error) {
      this.#database.close()
      throw error
    }
  }

  #prepareTables(): void {
    const pragma = (name: string) => Number(this.#database.prepare(`PRAGMA ${name}`).get()?.[name])
    const isEmpty = () => this.#database.prepare('SELECT 1 FROM sqlite_master LIMIT 1').get() === undefined
    if (isEmpty()) {
      this.#transact(() => {
        // Another process may have been first.
        if (isEmpty()) this.#database.exec(schema)
      })
    }
    const [application, version] = [pragma('application_id'), pragma('user_version')]
    if (application === APPLICATION && version === VERSION) return
    const details = { syscall: 'connect', path: this.path }
    if (application !== APPLICATION) throw new QueueError('ERR_BUS_NOT_A_BUS', details)
    const detail = `version ${version}, this library reads ${VERSION}`
    throw new QueueError('ERR_BUS_VERSION', { ...details, detail, hint: 'use the same kernelmq in all processes' })
  }

  #sql(sql: string): Statement {
    let statement = this.#statements.get(sql)
    if (statement === undefined) {
      statement = this.#database.prepare(sql)
      this.#statements.set(sql, statement)
    }
    return statement
  }

  /** Throws what {@link isBusy} knows if another process writes; then nothing was done. */
  #transact<T>(work: () => T): T {
    this.#sql('BEGIN IMMEDIATE').run()
    try {
      const result = work()
      this.#sql('COMMIT').run()
      return result
    } catch (error) {
      try {
        this.#sql('ROLLBACK').run()
      } catch {
        // SQLite had ended the transaction itself.
      }
      // What a transaction that was not to be had seen is not to be remembered.
      this.#queues.clear()
      this.#ranks.clear()
      throw error
    }
  }

  #queue(name: string): number {
    let queue = this.#queues.get(name)
    if (queue === undefined) {
      this.#sql('INSERT OR IGNORE INTO queues (name, next) VALUES (?, 1)').run(name)
      queue = Number(this.#sql('SELECT queue FROM queues WHERE name = ?').get(name)?.queue)
      this.#queues.set(name, queue)
    }
    return queue
  }

  declare(name: string): number {
    return this.#queues.get(name) ?? this.#transact(() => this.#queue(name))
  }

  send(name: string, batch: readonly Outgoing[]): { receipts: Receipt[]; wake: number | undefined; queue: number } {
    return this.#transact(() => {
      const queue = this.#queue(name)
      const now = this.#now()
      const first = this.#sequences(queue, batch.length)
      let news = false
      const receipts = batch.map((message, index) => {
        const duplicate = message.dedup > 0 && !this.#isNew(queue, message, now)
        if (!duplicate) news = this.#insert(queue, first + index, message, now) || news
        return { id: message.id, duplicate }
      })
      return { receipts, wake: news ? this.#takeWaiting(queue) : undefined, queue }
    })
  }

  #sequences(queue: number, count: number): number {
    const row = this.#sql('UPDATE queues SET next = next + ? WHERE queue = ? RETURNING next').get(count, queue)
    return Number(row?.next) - count
  }

  #isNew(queue: number, { id, dedup }: Outgoing, now: number): boolean {
    // Two go for one that comes: the table does not grow beyond the window.
    this.#sql('DELETE FROM dedup WHERE (queue, id) IN (SELECT queue, id FROM dedup WHERE until <= ? LIMIT 2)').run(now)
    const known = this.#sql('SELECT until FROM dedup WHERE queue = ? AND id = ?').get(queue, id)
    if (known !== undefined && Number(known.until) > now) return false
    this.#sql('INSERT OR REPLACE INTO dedup VALUES (?, ?, ?)').run(queue, id, now + dedup)
    return true
  }

  /** Whether somebody who waits has to know. */
  #insert(queue: number, sequence: number, message: Outgoing, now: number): boolean {
    const { id, key = null, priority, due, expires, headers, body } = message
    const rank = 0 - priority
    const text = headers === undefined ? null : JSON.stringify(headers)
    const values = [queue, rank, sequence, 0, 0, 0, id, key, now, expires, text, body] as const
    this.#rank(queue, rank)
    if (due <= now) {
      this.#sql(`INSERT INTO messages (${names}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`).run(...values)
      return true
    }
    const earliest = this.#earliest(queue)
    this.#sql(`INSERT INTO parked (${names}, due, fresh) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1)`).run(
      ...values,
      due,
    )
    return earliest === undefined || due < earliest
  }

  #rank(queue: number, rank: number): void {
    const known = `${queue}:${rank}`
    if (this.#ranks.has(known)) return
    this.#sql('INSERT OR IGNORE INTO cursors VALUES (?, ?, 0)').run(queue, rank)
    this.#ranks.add(known)
  }

  #earliest(queue: number): number | undefined {
    const due = this.#sql('SELECT min(due) AS due FROM parked WHERE queue = ? AND due IS NOT NULL').get(queue)?.due
    return due === null || due === undefined ? undefined : Number(due)
  }

  /** Takes the one who has waited longest out of the line: whoever calls has to wake it. */
  #takeWaiting(queue: number): number | undefined {
    const sql = `DELETE FROM waiting WHERE turn = (SELECT min(turn) FROM waiting WHERE queue = ?) RETURNING owner`
    const row = this.#sql(sql).get(queue)
    return row === undefined ? undefined : Number(row.owner)
  }

  /** Claims up to `max` messages; if there are none and `wait` is set, `owner` stands in line. */
  claim(name: string, owner: number, max: number, wait: boolean): Claimed {
    return this.#transact(() => {
      const queue = this.#queue(name)
      const now = this.#now()
      this.#promote(queue, now)
      const lease: Lease = { id: 0, queue, left: 0 }
      const deliveries: Delivery[] = []
      const items: number[] = []
      let more = false
      for (const { rank, sequence: cursor } of this.#sql(
        'SELECT rank, sequence FROM cursors WHERE queue = ? ORDER BY rank',
      ).all(queue)) {
        more = this.#claimRank(queue, Number(rank), Number(cursor), max, now, lease, deliveries, items)
        if (more) break
      }
      lease.left = deliveries.length
      if (deliveries.length > 0) {
        const insert = this.#sql('INSERT INTO leases (owner, queue, items) VALUES (?, ?, ?)')
        lease.id = Number(insert.run(owner, queue, JSON.stringify(items)).lastInsertRowid)
        this.#sql('DELETE FROM waiting WHERE queue = ? AND owner = ?').run(queue, owner)
        return { deliveries, wake: more ? this.#takeWaiting(queue) : undefined, due: undefined }
      }
      if (wait) this.#sql('INSERT OR IGNORE INTO waiting (queue, owner) VALUES (?, ?)').run(queue, owner)
      return { deliveries, wake: undefined, due: more ? now : this.#earliest(queue) }
    })
  }

  /** Whether there may be more. */
  #claimRank(
    queue: number,
    rank: number,
    cursor: number,
    max: number,
    now: number,
    lease: Lease,
    deliveries: Delivery[],
    items: number[],
  ): boolean {
    const place = [queue, rank] as const
    const returned = this.#sql(
      `SELECT m.* FROM released r JOIN messages m USING (queue, rank, sequence) WHERE r.queue = ? AND r.rank = ? ORDER BY r.sequence LIMIT ?`,
    ).all(...place, max - deliveries.length)
    for (const { sequence } of returned) {
      this.#sql('DELETE FROM released WHERE queue = ? AND rank = ? AND sequence = ?').run(...place, Number(sequence))
    }
    const left = max - deliveries.length - returned.length
    const fresh =
      left === 0
        ? []
        : this.#sql(
            `SELECT ${names} FROM messages WHERE queue = ? AND rank = ? AND sequence > ? ORDER BY sequence LIMIT ?`,
          ).all(...place, cursor, left)
    const last = fresh.at(-1)
    if (last !== undefined) {
      this.#sql('UPDATE cursors SET sequence = ? WHERE queue = ? AND rank = ?').run(Number(last.sequence), ...place)
    }
    for (const row of [...returned, ...fresh]) {
      if (row.expires !== 0 && Number(row.expires) <= now) this.#remove(row)
      else if (row.key === null || this.#seize(row)) {
        deliveries.push(toDelivery(row, lease))
        items.push(rank, Number(row.sequence), Number(row.version))
      }
    }
    return returned.length + fresh.length > 0 && left - fresh.length === 0
  }

  /** Makes a message the one of its key; if another is, it is put aside until that one is settled. */
  #seize(row: Row): boolean {
    const { queue, key, rank, sequence } = place(row)
    const holder = this.#sql('SELECT rank, sequence FROM busy WHERE queue = ? AND key = ?').get(queue, key)
    if (holder === undefined) {
      this.#sql('INSERT INTO busy VALUES (?, ?, ?, ?)').run(queue, key, rank, sequence)
      return true
    }
    if (Number(holder.rank) === rank && Number(holder.sequence) === sequence) return true
    this.#move('messages', 'parked', queue, rank, sequence, ', due, fresh', ', NULL, 0')
    return false
  }

  #move(from: string, to: string, queue: number, rank: number, sequence: number, more = '', values = ''): void {
    const where = 'WHERE queue = ? AND rank = ? AND sequence = ?'
    this.#sql(`INSERT INTO ${to} (${names}${more}) SELECT ${names}${values} FROM ${from} ${where}`).run(
      queue,
      rank,
      sequence,
    )
    this.#sql(`DELETE FROM ${from} ${where}`).run(queue, rank, sequence)
  }

  /** The next of a key may be read, before all that comes after the cursor. */
  #freeKey(queue: number, key: Value): void {
    const next = this.#sql(
      'SELECT rank, sequence FROM parked WHERE queue = ? AND key = ? AND due IS NULL ORDER BY rank, sequence LIMIT 1',
    ).get(queue, key)
    if (next === undefined) {
      this.#sql('DELETE FROM busy WHERE queue = ? AND key = ?').run(queue, key)
      return
    }
    const [rank, sequence] = [Number(next.rank), Number(next.sequence)]
    this.#sql('UPDATE busy SET rank = ?, sequence = ? WHERE queue = ? AND key = ?').run(rank, sequence, queue, key)
    this.#move('parked', 'messages', queue, rank, sequence)
    this.#release(queue, rank, sequence)
  }

  #release(queue: number, rank: number, sequence: number): void {
    this.#sql('INSERT OR IGNORE INTO released VALUES (?, ?, ?)').run(queue, rank, sequence)
  }

  #remove(row: Row): void {
    const { queue, key, rank, sequence } = place(row)
    this.#sql('DELETE FROM messages WHERE queue = ? AND rank = ? AND sequence = ?').run(queue, rank, sequence)
    if (key === null) return
    const holder = this.#sql('SELECT 1 FROM busy WHERE queue = ? AND key = ? AND rank = ? AND sequence = ?')
    if (holder.get(queue, key, rank, sequence) !== undefined) this.#freeKey(queue, key)
  }

  /** What is due is read again: what was delayed at its time's place in the queue, a retry at its old one. */
  #promote(queue: number, now: number): void {
    const due = this.#sql(
      'SELECT rank, sequence, fresh FROM parked WHERE queue = ? AND due <= ? ORDER BY due LIMIT 500',
    ).all(queue, now)
    for (const row of due) {
      const [rank, sequence] = [Number(row.rank), Number(row.sequence)]
      if (row.fresh === 0) this.#release(queue, rank, sequence)
      this.#move('parked', 'messages', queue, rank, sequence)
      if (row.fresh === 0) continue
      const sql = 'UPDATE messages SET sequence = ? WHERE queue = ? AND rank = ? AND sequence = ?'
      this.#sql(sql).run(this.#sequences(queue, 1), queue, rank, sequence)
    }
  }

  settle(batch: readonly Settlement[]): { done: boolean[]; wake: { queue: number; owner: number }[] } {
    const settled = new Map<Lease, number>()
    const result = this.#transact(() => {
      const queues = new Set<number>()
      settled.clear()
      const done = batch.map((settlement) => {
        const token = settlement.token as Token
        settled.set(token.lease, (settled.get(token.lease) ?? 0) + 1)
        const ok = this.#settleOne(token, settlement)
        if (ok && (token.key !== undefined || settlement.outcome === 'retry')) queues.add(token.lease.queue)
        return ok
      })
      for (const [lease, count] of settled) {
        if (lease.left === count) this.#sql('DELETE FROM leases WHERE lease = ?').run(lease.id)
      }
      const wake = [...queues].flatMap((queue) => {
        const owner = this.#takeWaiting(queue)
        return owner === undefined ? [] : [{ queue, owner }]
      })
      return { done, wake }
    })
    for (const [lease, count] of settled) lease.left -= count
    return result
  }

  #settleOne({ lease: { queue }, rank, sequence, version, key }: Token, settlement: Settlement): boolean {
    const row = [queue, rank, sequence, version] as const
    const where = 'WHERE queue = ? AND rank = ? AND sequence = ? AND version = ?'
    if (settlement.outcome === 'ack') {
      if (Number(this.#sql(`DELETE FROM messages ${where}`).run(...row).changes) === 0) return false
      if (key !== undefined) this.#freeKey(queue, key)
      return true
    }
    const attempts = settlement.outcome === 'retry' && !settlement.counted ? 0 : 1
    const update = `UPDATE messages SET version = version + 1, attempts = attempts + ? ${where}`
    if (Number(this.#sql(update).run(attempts, ...row).changes) === 0) return false
    if (settlement.outcome === 'dead') {
      this.#sql('UPDATE messages SET headers = ? WHERE queue = ? AND rank = ? AND sequence = ?').run(
        JSON.stringify(settlement.headers),
        queue,
        rank,
        sequence,
      )
      this.#move('messages', 'dead', queue, rank, sequence, ', died', `, ${this.#now()}`)
      if (key !== undefined) this.#freeKey(queue, key)
    } else if (settlement.due <= this.#now()) this.#release(queue, rank, sequence)
    else this.#move('messages', 'parked', queue, rank, sequence, ', due, fresh', `, ${Math.ceil(settlement.due)}, 0`)
    return true
  }

  /** Enters a process; the others are those who may be alive. */
  enter(pid: number, socket: string): { owner: number; others: Process[] } {
    return this.#transact(() => {
      const others = this.processes()
      const { lastInsertRowid } = this.#sql('INSERT INTO processes (pid, socket) VALUES (?, ?)').run(pid, socket)
      return { owner: Number(lastInsertRowid), others }
    })
  }

  processes(): Process[] {
    return this.#sql('SELECT owner, pid, socket FROM processes')
      .all()
      .map((row) => ({
        owner: Number(row.owner),
        pid: Number(row.pid),
        socket: String(row.socket),
      }))
  }

  /** Gives back one lease of a process that is no more, then the process; `left` while there is more to do. */
  reap(owner: number, lost: boolean): { left: boolean; wake: { queue: number; owner: number }[] } {
    return this.#transact(() => {
      this.#sql('DELETE FROM waiting WHERE owner = ?').run(owner)
      const lease = this.#sql('SELECT lease, queue, items FROM leases WHERE owner = ? LIMIT 1').get(owner)
      if (lease === undefined) {
        this.#sql('DELETE FROM processes WHERE owner = ?').run(owner)
        return { left: false, wake: [] }
      }
      const queue = Number(lease.queue)
      const items = JSON.parse(String(lease.items)) as number[]
      const update = this.#sql(
        `UPDATE messages SET version = version + 1, losses = losses + ? WHERE queue = ? AND rank = ? AND sequence = ? AND version = ?`,
      )
      for (let at = 0; at < items.length; at += 3) {
        const [rank, sequence, version] = items.slice(at, at + 3) as [number, number, number]
        const { changes } = update.run(lost ? 1 : 0, queue, rank, sequence, version)
        if (Number(changes) > 0) this.#release(queue, rank, sequence)
      }
      this.#sql('DELETE FROM leases WHERE lease = ?').run(Number(lease.lease))
      const next = this.#takeWaiting(queue)
      return { left: true, wake: next === undefined ? [] : [{ queue, owner: next }] }
    })
  }

  /** Leaves the line; if it had been taken out of it, another is to be woken in its place. */
  leave(name: string, owner: number): number | undefined {
    return this.#transact(() => {
      const queue = this.#queue(name)
      const { changes } = this.#sql('DELETE FROM waiting WHERE queue = ? AND owner = ?').run(queue, owner)
      return Number(changes) > 0 ? undefined : this.#takeWaiting(queue)
    })
  }

  stats(name: string): TransportStats {
    return this.#transact(() => {
      const queue = this.#queue(name)
      const count = (sql: string) => Number(this.#sql(`SELECT count(*) AS n FROM ${sql}`).get(queue)?.n)
      const before = count(
        'messages m JOIN cursors c USING (queue, rank) WHERE m.queue = ? AND m.sequence <= c.sequence',
      )
      const released = count('released WHERE queue = ?')
      return {
        ready: count('messages WHERE queue = ?') - before + released,
        leased: before - released,
        delayed: count('parked WHERE queue = ?'),
        dead: count('dead WHERE queue = ?'),
      }
    })
  }

  close(): void {
    this.#database.close()
  }
}

export { isBusy }

function place(row: Row): { queue: number; key: Value; rank: number; sequence: number } {
  return { queue: Number(row.queue), key: row.key ?? null, rank: Number(row.rank), sequence: Number(row.sequence) }
}

function toDelivery(row: Row, lease: Lease): Delivery {
  const [rank, sequence, version] = [Number(row.rank), Number(row.sequence), Number(row.version)]
  const key = row.key === null ? undefined : String(row.key)
  const token: Token = { lease, rank, sequence, version, key }
  return {
    token,
    id: String(row.id),
    body: row.body as Uint8Array,
    key,
    priority: 0 - rank,
    headers: row.headers === null ? {} : (JSON.parse(String(row.headers)) as Record<string, string>),
    sentAt: Number(row.sent),
    attempts: Number(row.attempts),
    losses: Number(row.losses),
  }
}
