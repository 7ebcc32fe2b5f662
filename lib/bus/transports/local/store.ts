// The tables of a bus. Every method is a part of one short transaction, and never waits.
import { QueueError } from '../../../errors.ts'
import type { Clock } from '../../clock.ts'
import {
  type Addressed,
  type Binding,
  BORROWED,
  type Bounds,
  BUS_BATCH,
  type Delivery,
  type Format,
  type Keep,
  NO_HEADERS,
  namespaceOf,
  type Outgoing,
  type Overflow,
  type Page,
  type PastPage,
  type Quota,
  type Receipt,
  type Settlement,
  type Start,
  type TransportStats,
  type Usage,
} from '../../transport.ts'
import {
  type ArrayStatement,
  type Database,
  isBusy,
  openDatabase,
  prepareArrays,
  type Statement,
  type Value,
} from './sqlite.ts'

/** Raised with every change of the tables that an older library would not understand. */
const VERSION = 2
/** "kmqb": says that the file is a bus. */
const APPLICATION = 0x6b6d7162

// What lies before the cursor of its queue and rank is in somebody's lease, or in `released`. A message that is not to
// be read by anybody yet (delayed, retrying, behind another of its key) is in `parked` and not in `messages`.
const names =
  'queue, rank, sequence, version, attempts, losses, suspect, id, key, sent, expires, format, headers, size, file, body'
const marks = names.replaceAll(/\w+/g, '?')
/** What `toDelivery` reads. */
const handed = names.replace('queue, ', '')
const columns = `
  queue INTEGER NOT NULL, rank INTEGER NOT NULL, sequence INTEGER NOT NULL, version INTEGER NOT NULL,
  attempts INTEGER NOT NULL, losses INTEGER NOT NULL, suspect INTEGER NOT NULL, id TEXT NOT NULL, key TEXT,
  sent INTEGER NOT NULL, expires INTEGER NOT NULL, format INTEGER NOT NULL, headers TEXT, size INTEGER NOT NULL,
  file TEXT, body BLOB NOT NULL`
// Places in it are never used twice; without gaps, they are its count.
const history = `
  CREATE TABLE history (${columns}, acknowledged INTEGER NOT NULL, PRIMARY KEY (queue, sequence)) WITHOUT ROWID;
  CREATE INDEX history_age ON history (queue, acknowledged);
  CREATE INDEX history_file ON history (file) WHERE file IS NOT NULL`
// What a namespace holds is counted by triggers, which cost queues that have none next to nothing.
const namespaces = `
  CREATE TABLE namespaces (namespace INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE,
    messages INTEGER NOT NULL DEFAULT 0, bytes INTEGER NOT NULL DEFAULT 0, queues INTEGER NOT NULL DEFAULT 0,
    max_messages INTEGER NOT NULL DEFAULT 0, max_bytes INTEGER NOT NULL DEFAULT 0, max_queues INTEGER NOT NULL DEFAULT 0);
  CREATE INDEX queues_namespace ON queues (namespace) WHERE namespace IS NOT NULL;
  CREATE TRIGGER namespaces_count AFTER UPDATE OF messages, bytes ON queues WHEN new.namespace IS NOT NULL BEGIN
    UPDATE namespaces SET messages = messages + new.messages - old.messages, bytes = bytes + new.bytes - old.bytes
      WHERE namespace = new.namespace;
  END;
  CREATE TRIGGER namespaces_drop AFTER DELETE ON queues WHEN old.namespace IS NOT NULL BEGIN
    UPDATE namespaces SET messages = messages - old.messages, bytes = bytes - old.bytes,
      queues = queues - (old.name NOT LIKE '%@%/%/dead') WHERE namespace = old.namespace;
  END`
const schema = `
  CREATE TABLE queues (queue INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, next INTEGER NOT NULL DEFAULT 1,
    messages INTEGER NOT NULL DEFAULT 0, bytes INTEGER NOT NULL DEFAULT 0,
    max_messages INTEGER NOT NULL DEFAULT 0, max_bytes INTEGER NOT NULL DEFAULT 0,
    keep_messages INTEGER NOT NULL DEFAULT 0, keep_age INTEGER NOT NULL DEFAULT 0, kept INTEGER NOT NULL DEFAULT 0,
    namespace INTEGER);
  CREATE TABLE messages (${columns}, PRIMARY KEY (queue, rank, sequence)) WITHOUT ROWID;
  CREATE INDEX messages_file ON messages (file) WHERE file IS NOT NULL;
  ${history};
  ${namespaces};
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
  CREATE TABLE waiting (turn INTEGER PRIMARY KEY AUTOINCREMENT, queue INTEGER NOT NULL, want INTEGER NOT NULL, owner INTEGER NOT NULL, due INTEGER, starts TEXT, UNIQUE (queue, want, owner));
  CREATE TABLE borrowed (name TEXT PRIMARY KEY, owner INTEGER NOT NULL) WITHOUT ROWID;
  CREATE TABLE bindings (pattern TEXT, name TEXT, headers TEXT, PRIMARY KEY (pattern, name, headers)) WITHOUT ROWID;
  CREATE TABLE notes (key TEXT PRIMARY KEY, value TEXT NOT NULL, until INTEGER NOT NULL) WITHOUT ROWID;
  CREATE INDEX notes_until ON notes (until) WHERE until > 0;
  PRAGMA application_id = ${APPLICATION};
  PRAGMA user_version = ${VERSION};`

/** What makes a store of each version one of the next. */
const upgrades: ReadonlyMap<number, string> = new Map([
  [
    1,
    `ALTER TABLE waiting ADD COLUMN starts TEXT;
     ALTER TABLE queues ADD COLUMN keep_messages INTEGER NOT NULL DEFAULT 0;
     ALTER TABLE queues ADD COLUMN keep_age INTEGER NOT NULL DEFAULT 0;
     ALTER TABLE queues ADD COLUMN kept INTEGER NOT NULL DEFAULT 0;
     ALTER TABLE queues ADD COLUMN namespace INTEGER;
     ${history};
     ${namespaces}`,
  ],
])

/** How many acknowledged messages in a row are deleted by one statement. */
const RUN = 4

/** How much of a history goes in one transaction, beyond what comes to it. */
const FORGET = 200

/** How long a transaction may block the loop while another process writes, in milliseconds; then it is tried later. */
const PATIENCE = 2
const NAP = 0.05
const EAGER = 8
const nobody = new Int32Array(new SharedArrayBuffer(4))

/** What a queue has, and what tells the rows of it. */
const body = 'size, file'
const nothing = '0 AS size, NULL AS file'
const contents = [
  { table: 'released', key: 'rank, sequence', counts: false, more: nothing },
  { table: 'messages', key: 'rank, sequence', counts: true, more: body },
  { table: 'parked', key: 'rank, sequence', counts: true, more: body },
  { table: 'history', key: 'sequence', counts: false, more: body },
  { table: 'busy', key: 'key', counts: false, more: nothing },
  { table: 'dedup', key: 'id', counts: false, more: nothing },
]

/** What one stands in line for: messages, or room for them. */
export const MESSAGES = 0
export const ROOM = 1

/** So many rows are written by one statement, where that can be. */
const TOGETHER = 20
// Those that each message needs, in one piece: a text that is put together each time is found more slowly.
const INSERT = `INSERT INTO messages (${names}) VALUES (${marks})`
// `LIMIT ?` alone has SQLite prepare the statement anew whenever another value is bound.
const FRESH = `SELECT ${handed} FROM messages WHERE queue = ? AND rank = ? AND sequence > ? ORDER BY sequence LIMIT ? + 0`
const SEND = `SELECT next, messages, bytes, max_messages, max_bytes, namespace,
    EXISTS (SELECT 1 FROM waiting w WHERE w.queue = q.queue AND want = ${MESSAGES})
  FROM queues q WHERE queue = ?`
const LOOK = `SELECT rank, sequence, EXISTS (SELECT 1 FROM released r WHERE r.queue = c.queue AND r.rank = c.rank),
    EXISTS (SELECT 1 FROM waiting w WHERE w.queue = c.queue AND want = ${MESSAGES} AND owner = ?),
    (SELECT min(due) FROM parked p WHERE p.queue = c.queue AND due IS NOT NULL),
    (SELECT min(until) FROM leases l WHERE l.queue = c.queue AND until IS NOT NULL)
  FROM cursors c WHERE queue = ? ORDER BY rank`
const ALIKE = `WITH their (queue, rank, sequence, sent) AS (SELECT ?, ?, ?, ?)
  INSERT INTO messages (${names})
  SELECT queue, rank, sequence + column1, 0, 0, 0, 0, column2, column3, sent, column4, column5, column6, length(column7),
    NULL, column7
  FROM (VALUES ${Array.from({ length: TOGETHER }, (_, at) => `(${at}, ?, ?, ?, ?, ?, ?)`)}) CROSS JOIN their`

/** An owner, and what other connections its process has to the bus. */
const OWNERS =
  'SELECT ? AS owner UNION SELECT owner FROM processes WHERE pid = (SELECT pid FROM processes WHERE owner = ?)'

const formats: readonly Format[] = ['bytes', 'text', 'json']

export type Want = typeof MESSAGES | typeof ROOM

/** Of how many queues the numbers are remembered. */
const KNOWN = 10_000

/** When room may be expected, if nothing is known: milliseconds. */
const RETRY_AFTER = 1000

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
  readonly size: number
  readonly file: string | undefined
  begun: boolean
}

/** One record for all that was claimed at once; it goes with the last of them. */
export interface Lease {
  id: number
  readonly queue: number
  left: number
  /** Milliseconds, of one with a limit, and when it was made. */
  readonly limit?: number
  readonly since?: number
}

/** Whom to tell that something has come into a queue, or that there is room. */
export interface Bell {
  owner: number
  queue: number
}

export interface Claim {
  name: string
  owner: number
  max: number
  lease: number
  /** Where there is nothing, he waits. */
  stands: boolean
  /** Nothing is claimed before so much is there. */
  start?: Start | undefined
  /** With any of these its process is to be told; absent, with the first message. */
  starts?: readonly Start[] | undefined
}

export interface Claimed {
  deliveries: Delivery[]
  /** When there is something, in milliseconds since the epoch, if nothing is now. */
  due: number | undefined
}

type Row = Record<string, Value>

interface Rank {
  readonly rank: number
  readonly cursor: number
  readonly hasReleased: boolean
}

/** A queue as a claim finds it. */
interface View {
  readonly ranks: readonly Rank[]
  /** He who claims stands in line. */
  readonly stands: boolean
  /** When something is due, in milliseconds since the epoch. */
  readonly earliest: number | undefined
}

export class Store {
  readonly #database: Database
  readonly #statements = new Map<string, Statement>()
  readonly #arrays = new Map<string, ArrayStatement>()
  readonly #queues = new Map<string, number>()
  readonly #ranks = new Set<string>()
  readonly #clock: Clock
  readonly #news = [new Set<number>(), new Set<number>()] as const
  /** Those of this transaction where nobody waits for messages. */
  readonly #forNobody = new Set<number>()
  /** Namespaces in which there may be room. */
  readonly #roomy = new Set<number>()
  #files: string[] = []
  #settled = new Map<Lease, number>()
  readonly path: string

  /** @param path `:memory:` is a store of its own, in memory */
  constructor(path: string, clock: Clock) {
    this.path = path
    this.#clock = clock
    this.#database = openDatabase(path)
    try {
      // First this, which leaves what is not ours as it is.
      this.#prepareTables()
      this.#database.exec('PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA wal_autocheckpoint = 2500')
    } catch (error) {
      this.#database.close()
      throw error
    }
  }

  #prepareTables(): void {
    const pragma = (name: string) => Number(this.#database.prepare(`PRAGMA ${name}`).get()?.[name])
    const isEmpty = () => this.#database.prepare('SELECT 1 FROM sqlite_master LIMIT 1').get() === undefined
    if (isEmpty()) {
      this.transact(() => {
        // Another process may have been first.
        if (isEmpty()) this.#database.exec(schema)
      })
    }
    const application = pragma('application_id')
    if (application === APPLICATION && upgrades.has(pragma('user_version'))) this.transact(() => this.#upgrade(pragma))
    const version = pragma('user_version')
    if (application === APPLICATION && version === VERSION) return
    const details = { syscall: 'connect', path: this.path }
    if (application !== APPLICATION) throw new QueueError('ERR_BUS_NOT_A_BUS', details)
    const detail = `version ${version}, this library reads ${VERSION}`
    throw new QueueError('ERR_BUS_VERSION', { ...details, detail, hint: 'use the same kernelmq in all processes' })
  }

  #upgrade(pragma: (name: string) => number): void {
    for (;;) {
      // Another process may have been first.
      const version = pragma('user_version')
      const upgrade = upgrades.get(version)
      if (upgrade === undefined) return
      this.#database.exec(`${upgrade}; PRAGMA user_version = ${version + 1}`)
    }
  }

  #sql(sql: string): Statement {
    let statement = this.#statements.get(sql)
    if (statement === undefined) {
      statement = this.#database.prepare(sql)
      this.#statements.set(sql, statement)
    }
    return statement
  }

  /** What has no rows, where nobody asks how many it has changed: to be told so costs as much as the call. */
  #do(sql: string, ...values: Value[]): void {
    this.#sql(sql).get(...values)
  }

  #rows(sql: string): ArrayStatement {
    let statement = this.#arrays.get(sql)
    if (statement === undefined) {
      statement = prepareArrays(this.#database, sql)
      this.#arrays.set(sql, statement)
    }
    return statement
  }

  /**
   * Throws what `isBusy` knows if another process writes; whatever it throws, nothing was done. `answer` may claim at once
   * what somebody is to be told of; false if he has to be told.
   */
  transact<T>(work: () => T, answer?: (bell: Bell) => boolean): { result: T; bells: Bell[]; files: string[] } {
    this.#begin()
    this.#files = []
    this.#settled.clear()
    for (const queues of this.#news) queues.clear()
    this.#forNobody.clear()
    this.#roomy.clear()
    try {
      const result = work()
      this.#endLeases()
      const bells = this.#ring(answer)
      // One body may be that of many.
      const files = this.#files.length === 0 ? this.#files : this.withoutMessage(this.#files)
      this.#do('COMMIT')
      for (const [lease, count] of this.#settled) lease.left -= count
      return { result, bells, files }
    } catch (error) {
      try {
        this.#sql('ROLLBACK').run()
      } catch {
        // SQLite had ended the transaction itself.
      }
      // What a transaction that was not to be had seen is not to be remembered.
      this.#forgetNames()
      throw error
    }
  }

  #forgetNames(): void {
    this.#queues.clear()
    this.#ranks.clear()
  }

  /** Another process may be writing: it is done in a moment, or not for long. */
  #begin(): void {
    const end = performance.now() + PATIENCE
    for (let tries = 1; ; tries++) {
      try {
        this.#do('BEGIN IMMEDIATE')
        return
      } catch (error) {
        if (!isBusy(error) || performance.now() > end) throw error
      }
      // A transaction is shorter than the shortest nap.
      if (tries > EAGER) Atomics.wait(nobody, 0, 0, NAP * (0.5 + Math.random()))
    }
  }

  /** Sees one state of the tables, and is in nobody's way; it must change nothing. */
  read<T>(work: () => T): T {
    this.#do('BEGIN')
    try {
      return work()
    } finally {
      this.#do('COMMIT')
    }
  }

  #queue(name: string): number {
    let queue = this.#queues.get(name)
    if (queue === undefined) {
      const namespace = namespaceOf(name)
      if (namespace === undefined) this.#sql('INSERT OR IGNORE INTO queues (name) VALUES (?)').run(name)
      else if (!this.#exists(name)) this.#enroll(name, namespace)
      queue = Number(this.#sql('SELECT queue FROM queues WHERE name = ?').get(name)?.queue)
      // What others have dropped is among them.
      if (this.#queues.size >= KNOWN) this.#forgetNames()
      this.#queues.set(name, queue)
    }
    return queue
  }

  /** Makes a queue of a namespace. */
  #enroll(name: string, namespace: string): void {
    const number = this.#namespace(namespace)
    this.#sql('INSERT INTO queues (name, namespace) VALUES (?, ?)').run(name, number)
    // It comes with the queue whose dead letters it has.
    if (DEAD.test(name)) return
    const sql = 'UPDATE namespaces SET queues = queues + 1 WHERE namespace = ? RETURNING queues, max_queues'
    const { queues, max_queues: most } = this.#sql(sql).get(number) as Row
    if (most === 0 || Number(queues) <= Number(most)) return
    const detail = `namespace '${namespace}': ${queues} > ${most} queues`
    const hint = `the quota of namespace '${namespace}' is ${most} queues`
    throw new QueueError('ERR_BUS_QUEUE_FULL', { syscall: 'declare', path: name, detail, hint })
  }

  #namespace(name: string): number {
    this.#sql('INSERT OR IGNORE INTO namespaces (name) VALUES (?)').run(name)
    return Number(this.#sql('SELECT namespace FROM namespaces WHERE name = ?').get(name)?.namespace)
  }

  /** Sets the quota of a namespace, if one is given. */
  allot(name: string, quota?: Quota): Usage {
    const namespace = this.#namespace(name)
    if (quota !== undefined) {
      const { maxMessages, maxBytes, maxQueues } = quota
      const sql = 'UPDATE namespaces SET max_messages = ?, max_bytes = ?, max_queues = ? WHERE namespace = ?'
      this.#sql(sql).run(maxMessages, maxBytes, maxQueues, namespace)
      this.#roomy.add(namespace)
    }
    const row = this.#sql('SELECT * FROM namespaces WHERE namespace = ?').get(namespace) as Row
    const [maxMessages, maxBytes] = [Number(row.max_messages), Number(row.max_bytes)]
    return {
      messages: Number(row.messages),
      bytes: Number(row.bytes),
      queues: Number(row.queues),
      quota: { maxMessages, maxBytes, maxQueues: Number(row.max_queues) },
    }
  }

  known(name: string): number | undefined {
    return this.#queues.get(name)
  }

  declare(name: string, bounds?: Bounds, keep?: Keep): number {
    const queue = this.#queue(name)
    if (bounds !== undefined) {
      const { maxMessages, maxBytes } = bounds
      const sql = 'UPDATE queues SET max_messages = ?, max_bytes = ? WHERE queue = ?'
      this.#sql(sql).run(maxMessages, maxBytes, queue)
      this.#news[ROOM].add(queue)
    }
    if (keep !== undefined) {
      const sql = 'UPDATE queues SET keep_messages = ?, keep_age = ? WHERE queue = ?'
      this.#sql(sql).run(keep.maxMessages, Math.ceil(keep.maxAge), queue)
    }
    return queue
  }

  /** Drops a part of what a queue keeps no longer; true while there is more. */
  forget(name: string): boolean {
    return this.#forget(this.#queue(name), FORGET)
  }

  #forget(queue: number, most: number): boolean {
    const row = this.#sql('SELECT keep_messages, keep_age, kept FROM queues WHERE queue = ?').get(queue)
    // Somebody has dropped it.
    if (row === undefined) return false
    const [messages, age, kept] = [Number(row.keep_messages), Number(row.keep_age), Number(row.kept)]
    const drop = (which: string, bound: number) => {
      const some = `SELECT sequence FROM history WHERE queue = ? AND ${which} <= ? ORDER BY ${which} LIMIT ? + 0`
      const sql = `DELETE FROM history WHERE queue = ? AND sequence IN (${some}) RETURNING file`
      const gone = this.#sql(sql).all(queue, queue, bound, most)
      for (const { file } of gone) if (file !== null) this.#files.push(String(file))
      return gone.length === most
    }
    const isBounded = messages > 0 || age > 0
    const tooMany = (messages > 0 || !isBounded) && drop('sequence', kept - messages)
    const tooOld = age > 0 && drop('acknowledged', this.#clock.now() - age)
    return tooMany || tooOld
  }

  history(name: string, max: number, after: string | undefined, until: string | undefined): PastPage {
    const queue = this.#queue(name)
    const last = Number(until ?? this.#sql('SELECT kept FROM queues WHERE queue = ?').get(queue)?.kept)
    const rows = this.#rows(
      `SELECT ${handed}, acknowledged FROM history WHERE queue = ? AND sequence > ? AND sequence <= ?
       ORDER BY sequence LIMIT ? + 0`,
    ).all(queue, Number(after ?? 0), last, max)
    const lease = { id: 0, queue, left: 0 }
    const deliveries = rows.map((row) => ({ ...toDelivery(row, lease), acknowledgedAt: Number(row.at(-1)) }))
    return { deliveries, next: rows.length < max ? undefined : String(rows.at(-1)?.[SEQUENCE]), last: String(last) }
  }

  /** `files` are the names of the bodies that lie beside the store, by message. */
  send(batch: readonly Addressed[], overflow: Overflow, files?: ReadonlyMap<Outgoing, string>): Receipt[] {
    const receipts = batch.map(({ message: { id } }) => ({ id, duplicate: false }))
    const now = this.#clock.now()
    for (let from = 0; from < batch.length; ) {
      const name = (batch[from] as Addressed).queue
      let to = from + 1
      while (batch[to]?.queue === name) to++
      // One that went with its process is not made again: nobody would ever look into it.
      const isGone = name.startsWith(BORROWED) && !this.#exists(name)
      if (isGone) for (let at = from; at < to; at++) this.#dropFile((batch[at] as Addressed).message, files)
      else this.#sendTo(this.#queue(name), name, batch, receipts, from, to, overflow, now, files)
      from = to
    }
    return receipts
  }

  #exists(name: string): boolean {
    return this.#sql('SELECT 1 FROM queues WHERE name = ?').get(name) !== undefined
  }

  #sendTo(
    queue: number,
    name: string,
    batch: readonly Addressed[],
    receipts: Receipt[],
    from: number,
    to: number,
    overflow: Overflow,
    now: number,
    files: ReadonlyMap<Outgoing, string> | undefined,
  ): void {
    let [count, bytes] = [0, 0]
    for (let at = from; at < to; at++) {
      const { message } = batch[at] as Addressed
      if (message.dedup > 0 && !this.#isNew(queue, message, now)) (receipts[at] as Receipt).duplicate = true
      else {
        count++
        bytes += message.body.byteLength
      }
    }
    if (count === 0) {
      for (let at = from; at < to; at++) this.#dropFile((batch[at] as Addressed).message, files)
      return
    }
    // Two statements: where the caches are cold, RETURNING takes longer than both.
    const [next, held, size, most, largest, namespace, isAwaited] = this.#rows(SEND).get(queue) as [
      number,
      number,
      number,
      number,
      number,
      number | null,
      number,
    ]
    const update = 'UPDATE queues SET next = next + ?, messages = messages + ?, bytes = bytes + ? WHERE queue = ?'
    this.#do(update, count, count, bytes, queue)
    if (isAwaited === 0) this.#forNobody.add(queue)
    let sequence = next
    if (most > 0 || largest > 0 || namespace !== null) {
      const [messages, sum] = [held + count, size + bytes]
      const row: Row = { messages, bytes: sum, max_messages: most, max_bytes: largest, namespace }
      this.#checkBounds(queue, name, row, overflow, now)
      if (namespace !== null) this.#checkQuota(queue, name, row, overflow, now)
    }
    const messages: Outgoing[] = []
    for (let at = from; at < to; at++) {
      const { message } = batch[at] as Addressed
      if (receipts[at]?.duplicate) this.#dropFile(message, files)
      else messages.push(message)
    }
    for (let at = 0; at < count; at += TOGETHER) {
      const some = count === 1 ? messages : messages.slice(at, at + TOGETHER)
      if (areAlike(some, now, files)) {
        this.#insertAlike(queue, sequence, some, now)
        sequence += some.length
        this.#news[MESSAGES].add(queue)
        continue
      }
      for (const message of some) {
        const isNews = this.#insert(queue, sequence++, message, now, files?.get(message))
        if (isNews) this.#news[MESSAGES].add(queue)
      }
    }
  }

  /** Of a message that does not go out. */
  #dropFile(message: Outgoing, files: ReadonlyMap<Outgoing, string> | undefined): void {
    const file = files?.get(message)
    if (file !== undefined) this.#files.push(file)
  }

  #checkBounds(queue: number, name: string, row: Row, overflow: Overflow, now: number): void {
    const [maxMessages, maxBytes] = [Number(row.max_messages), Number(row.max_bytes)]
    const beyond = () =>
      (maxMessages > 0 && Number(row.messages) > maxMessages) || (maxBytes > 0 && Number(row.bytes) > maxBytes)
    if (overflow === 'drop-oldest') while (beyond() && this.#dropOldest(queue, row));
    if (!beyond()) return
    const bounds = [
      maxMessages > 0 ? `${row.messages} > ${maxMessages} messages` : undefined,
      maxBytes > 0 ? `${row.bytes} > ${maxBytes} bytes` : undefined,
    ]
    const detail = bounds.filter((bound) => bound !== undefined).join(', ')
    throw Object.assign(new QueueError('ERR_BUS_QUEUE_FULL', { syscall: 'send', path: name, detail }), {
      retryAfter: this.#retryAfter(queue, Number(row.messages), now),
    })
  }

  #checkQuota(queue: number, name: string, row: Row, overflow: Overflow, now: number): void {
    const beyond = () =>
      this.#sql(
        `SELECT * FROM namespaces WHERE namespace = ?
           AND (max_messages > 0 AND messages > max_messages OR max_bytes > 0 AND bytes > max_bytes)`,
      ).get(row.namespace as Value)
    let full = beyond()
    if (overflow === 'drop-oldest') while (full !== undefined && this.#dropOldest(queue, row)) full = beyond()
    if (full === undefined) return
    const namespace = `namespace '${full.name}'`
    const quota = (['messages', 'bytes'] as const)
      .map((what) => ({ what, count: Number(full?.[what]), most: Number(full?.[`max_${what}`]) }))
      .filter(({ most }) => most > 0)
    const over = quota.filter(({ count, most }) => count > most)
    const detail = `${namespace}: ${over.map(({ what, count, most }) => `${count} > ${most} ${what}`).join(', ')}`
    const bounds = quota.map(({ what, most }) => `${most} ${what}`).join(' and ')
    const hint = `the quota of ${namespace} is ${bounds} in all its queues, dead letters included`
    throw Object.assign(new QueueError('ERR_BUS_QUEUE_FULL', { syscall: 'send', path: name, detail, hint }), {
      retryAfter: this.#retryAfter(queue, Math.max(Number(row.messages), 1), now),
    })
  }

  /** By Little's law: what is first has waited as long as all before it took. */
  #retryAfter(queue: number, count: number, now: number): number {
    const oldest = this.#oldest(queue)
    if (oldest === undefined) return RETRY_AFTER
    return Math.min(Math.max(Math.ceil((now - oldest) / count), 1), 60 * RETRY_AFTER)
  }

  /** Drops the oldest of the lowest priority that nobody has; false if there is none. */
  #dropOldest(queue: number, row: Row): boolean {
    for (const { rank, sequence } of this.#sql(
      'SELECT rank, sequence FROM cursors WHERE queue = ? ORDER BY rank DESC',
    ).all(queue)) {
      // What was given back lies before all that comes after the cursor.
      const first =
        this.#rows(
          `SELECT ${handed} FROM released r CROSS JOIN messages m USING (queue, rank, sequence)
           WHERE r.queue = ? AND r.rank = ? ORDER BY r.sequence LIMIT 1`,
        ).get(queue, rank as number) ??
        this.#rows(
          `SELECT ${handed} FROM messages WHERE queue = ? AND rank = ? AND sequence > ? ORDER BY sequence LIMIT 1`,
        ).get(queue, rank as number, sequence as number)
      if (first === undefined) continue
      const token = toDelivery(first, { id: 0, queue, left: 0 }).token as Token
      const place = [queue, rank as number, token.sequence] as const
      this.#sql('DELETE FROM released WHERE queue = ? AND rank = ? AND sequence = ?').run(...place)
      this.#remove(token)
      row.messages = Number(row.messages) - 1
      row.bytes = Number(row.bytes) - token.size
      return true
    }
    return false
  }

  #isNew(queue: number, { id, dedup }: Outgoing, now: number): boolean {
    // Two go for one that comes: the table does not grow beyond the window.
    this.#sql('DELETE FROM dedup WHERE (queue, id) IN (SELECT queue, id FROM dedup WHERE until <= ? LIMIT 2)').run(now)
    const known = this.#sql('SELECT until FROM dedup WHERE queue = ? AND id = ?').get(queue, id)
    if (known !== undefined && Number(known.until) > now) return false
    this.#sql('INSERT OR REPLACE INTO dedup VALUES (?, ?, ?)').run(queue, id, now + dedup)
    return true
  }

  /** Whether so much has room in a queue now. */
  hasRoom(name: string, messages: number, bytes: number): boolean {
    return this.#within(name, 'messages + ?', messages, 'bytes + ?', bytes)
  }

  /** Whether so much has room in a queue that is empty. */
  fits(name: string, messages: number, bytes: number): boolean {
    return this.#within(name, '?', messages, '?', bytes)
  }

  #within(name: string, count: string, messages: number, sum: string, bytes: number): boolean {
    const within = `(max_messages = 0 OR ${count} <= max_messages) AND (max_bytes = 0 OR ${sum} <= max_bytes)`
    const row = this.#sql(`SELECT namespace FROM queues WHERE name = ? AND ${within}`).get(name, messages, bytes)
    if (row === undefined || row.namespace === null) return row !== undefined
    const sql = `SELECT 1 FROM namespaces WHERE namespace = ? AND ${within}`
    return this.#sql(sql).get(row.namespace as Value, messages, bytes) !== undefined
  }

  /** A statement for all of them costs less than half of one for each. */
  #insertAlike(queue: number, sequence: number, messages: readonly Outgoing[], now: number): void {
    const rank = 0 - (messages[0] as Outgoing).priority
    this.#rank(queue, rank)
    const values: Value[] = [queue, rank, sequence, now]
    for (const { id, key = null, expires, format, headers, body } of messages) {
      const text = headers === undefined ? null : JSON.stringify(headers)
      values.push(id, key, expires, formats.indexOf(format), text, body.byteLength > 0 ? body : NO_BYTES)
    }
    this.#do(ALIKE, ...values)
  }

  /** Whether somebody who waits has to know. */
  #insert(queue: number, sequence: number, message: Outgoing, now: number, file: string | undefined): boolean {
    const { id, key = null, priority, due, expires, format, headers, body } = message
    const rank = 0 - priority
    const text = headers === undefined ? null : JSON.stringify(headers)
    const values = [queue, rank, sequence, 0, 0, 0, 0, id, key, now, expires, formats.indexOf(format), text] as const
    const bytes = [body.byteLength, file ?? null, file === undefined && body.byteLength > 0 ? body : NO_BYTES] as const
    this.#rank(queue, rank)
    if (due <= now) {
      this.#do(INSERT, ...values, ...bytes)
      return true
    }
    const earliest = this.#earliest(queue)
    this.#sql(`INSERT INTO parked (${names}, due, fresh) VALUES (${marks}, ?, 1)`).run(...values, ...bytes, due)
    return earliest === undefined || due < earliest
  }

  #rank(queue: number, rank: number): void {
    const known = `${queue}:${rank}`
    if (this.#ranks.has(known)) return
    this.#sql('INSERT OR IGNORE INTO cursors VALUES (?, ?, 0)').run(queue, rank)
    this.#ranks.add(known)
  }

  #earliest(queue: number): number | undefined {
    const due = this.#rows('SELECT min(due) FROM parked WHERE queue = ? AND due IS NOT NULL').get(queue)
    const until = this.#rows('SELECT min(until) FROM leases WHERE queue = ? AND until IS NOT NULL').get(queue)
    return least([due?.[0], until?.[0]])
  }

  /**
   * Takes for each queue with news the one who has waited longest out of the line, to be told; all who wait for room,
   * since it may be too small for the first.
   */
  #ring(answer: ((bell: Bell) => boolean) | undefined): Bell[] {
    const bells: Bell[] = []
    const [messages, room] = this.#news
    for (const queue of messages) {
      // Whoever answers may leave something to the next.
      messages.delete(queue)
      if (this.#forNobody.has(queue)) continue
      const owner = this.#first(queue)
      if (owner === undefined) continue
      const bell = { owner, queue }
      if (answer?.(bell) !== true) bells.push(bell)
    }
    for (const queue of room) {
      const rows = this.#sql('DELETE FROM waiting WHERE queue = ? AND want = ? RETURNING owner').all(queue, ROOM)
      for (const { owner } of rows) bells.push({ owner: Number(owner), queue })
    }
    for (const namespace of this.#roomy) {
      const rows = this.#sql(
        `DELETE FROM waiting WHERE want = ? AND queue IN (SELECT queue FROM queues WHERE namespace = ?)
         RETURNING owner, queue`,
      ).all(ROOM, namespace)
      for (const { owner, queue } of rows) bells.push({ owner: Number(owner), queue: Number(queue) })
    }
    return bells
  }

  /** Takes out of the line who is to be told: the first, but nobody for whom there is not enough yet. */
  #first(queue: number): number | undefined {
    for (let after = 0; ; ) {
      // Of the row with the least turn.
      const [turn, owner, due, starts] = this.#rows(
        'SELECT min(turn), owner, due, starts FROM waiting WHERE queue = ? AND want = ? AND turn > ?',
      ).get(queue, MESSAGES, after) as [number | null, number, number | null, string | null]
      if (turn === null) return undefined
      if (starts === null || this.#concerns(queue, due, starts)) {
        this.#do('DELETE FROM waiting WHERE turn = ?', turn)
        return owner
      }
      after = turn
    }
  }

  /** Whether there is enough for one who waits, or a time at which there may be that he does not know. */
  #concerns(queue: number, due: number | null, starts: string): boolean {
    const earliest = this.#earliest(queue)
    if (earliest !== undefined && (due === null || due > earliest)) return true
    return (JSON.parse(starts) as Start[]).some((start) => this.#isEnough(queue, start))
  }

  /** Whether so much can be received. It looks at no more. */
  #isEnough(queue: number, { messages, priority }: Start): boolean {
    const released = 'SELECT count(*) AS n FROM (SELECT 1 FROM released WHERE queue = ? AND rank <= ? LIMIT ? + 0)'
    let left = messages - Number(this.#sql(released).get(queue, 0 - priority, messages)?.n)
    const cursors = this.#sql('SELECT rank, sequence FROM cursors WHERE queue = ? AND rank <= ?')
    for (const { rank, sequence } of cursors.all(queue, 0 - priority)) {
      if (left <= 0) return true
      const fresh =
        'SELECT count(*) AS n FROM (SELECT 1 FROM messages WHERE queue = ? AND rank = ? AND sequence > ? LIMIT ? + 0)'
      left -= Number(this.#sql(fresh).get(queue, rank as number, sequence as number, left)?.n)
    }
    return left <= 0
  }

  /**
   * Stands in line, once; `due` is when the one who stands there looks again by himself, `starts` what he is to be told
   * of, if not of everything.
   */
  stand(name: string, want: Want, owner: number, due?: number, starts?: readonly Start[]): void {
    const sql = `INSERT INTO waiting (queue, want, owner, due, starts) VALUES (?, ?, ?, ?, ?)
      ON CONFLICT (queue, want, owner) DO UPDATE SET due = excluded.due, starts = excluded.starts`
    const queue = this.#queue(name)
    this.#forNobody.delete(queue)
    this.#sql(sql).run(queue, want, owner, due ?? null, starts === undefined ? null : JSON.stringify(starts))
  }

  /** Whoever knew when something is due may be out of the line now: then the next has to know. */
  #passOn(queue: number, due: number | undefined): void {
    if (due === undefined) return
    const sql = 'SELECT 1 FROM waiting WHERE queue = ? AND want = ? AND due <= ? LIMIT 1'
    if (this.#sql(sql).get(queue, MESSAGES, due) === undefined) this.#news[MESSAGES].add(queue)
  }

  /** Leaves the line; if it had been taken out of it, another is woken in its place. */
  leave(name: string, want: Want, owner: number): void {
    // One that was dropped meanwhile is not made again.
    if (!this.#exists(name)) return
    const queue = this.#queue(name)
    const sql = 'DELETE FROM waiting WHERE queue = ? AND want = ? AND owner = ?'
    const stood = Number(this.#sql(sql).run(queue, want, owner).changes) > 0
    // All who wait for room are told at once.
    if (want === ROOM) return
    if (stood) this.#passOn(queue, this.#earliest(queue))
    else this.#news[want].add(queue)
  }

  /** Claims up to `max` messages; if there are none, `owner` stands in line, unless he only looks. */
  claim({ name, owner, max, lease: limit, stands, start, starts }: Claim): Claimed {
    const queue = this.#queue(name)
    const now = this.#clock.now()
    let view = this.#look(queue, owner)
    if (view.earliest !== undefined && view.earliest <= now) {
      this.#promote(queue, now)
      this.#reapOverdue(queue, now)
      view = this.#look(queue, owner)
    }
    const { ranks, earliest } = view
    if (start !== undefined && !this.#isEnough(queue, start)) {
      if (stands) this.stand(name, MESSAGES, owner, earliest, starts)
      // He may have been told in the place of one to whom any message is enough.
      if (this.#isEnough(queue, ANY)) this.#news[MESSAGES].add(queue)
      return { deliveries: [], due: earliest }
    }
    const isLimited = limit !== Number.POSITIVE_INFINITY
    const lease: Lease = isLimited ? { id: 0, queue, left: 0, limit, since: now } : { id: 0, queue, left: 0 }
    const deliveries: Delivery[] = []
    const items: number[] = []
    let more = false
    for (const rank of ranks) {
      more = this.#claimRank(rank, max, now, lease, deliveries, items)
      if (more) break
    }
    if (deliveries.length === 0) {
      // What the expired have set free meanwhile tells those in line only.
      const due = more || (!stands && this.#news[MESSAGES].has(queue)) ? now : earliest
      if (stands) this.stand(name, MESSAGES, owner, due, starts)
      return { deliveries, due }
    }
    lease.left = deliveries.length
    const insert = this.#sql('INSERT INTO leases (owner, queue, until, items) VALUES (?, ?, ?, ?)')
    const until = isLimited ? Math.ceil(now + limit) : null
    lease.id = Number(insert.run(owner, queue, until, JSON.stringify(items)).lastInsertRowid)
    if (view.stands) {
      this.#do('DELETE FROM waiting WHERE queue = ? AND want = ? AND owner = ?', queue, MESSAGES, owner)
    }
    if (more) this.#news[MESSAGES].add(queue)
    else this.#passOn(queue, least([earliest, until]))
    return { deliveries, due: undefined }
  }

  /** All that a claim has to know of its queue. */
  #look(queue: number, owner: number): View {
    // What waits, or is in a lease, has a cursor.
    const rows = this.#rows(LOOK).all(owner, queue) as [number, number, number, number, number | null, number | null][]
    const [, , , stands, due, until] = rows[0] ?? []
    const ranks = rows.map(([rank, cursor, released]) => ({ rank, cursor, hasReleased: released !== 0 }))
    return { ranks, stands: stands !== 0, earliest: least([due, until]) }
  }

  /** Whether there may be more. */
  #claimRank(
    { rank, cursor, hasReleased }: Rank,
    max: number,
    now: number,
    lease: Lease,
    deliveries: Delivery[],
    items: number[],
  ): boolean {
    const { queue } = lease
    const place = [queue, rank] as const
    const returned = hasReleased
      ? this.#rows(
          `SELECT ${handed} FROM released r CROSS JOIN messages m USING (queue, rank, sequence)
           WHERE r.queue = ? AND r.rank = ? ORDER BY r.sequence LIMIT ? + 0`,
        ).all(...place, max - deliveries.length)
      : []
    for (const { [SEQUENCE]: sequence } of returned) {
      this.#sql('DELETE FROM released WHERE queue = ? AND rank = ? AND sequence = ?').run(...place, sequence as Value)
    }
    const left = max - deliveries.length - returned.length
    const fresh = left === 0 ? [] : this.#rows(FRESH).all(...place, cursor, left)
    const last = fresh.at(-1)
    if (last !== undefined) {
      this.#do('UPDATE cursors SET sequence = ? WHERE queue = ? AND rank = ?', last[SEQUENCE] as Value, ...place)
    }
    for (const row of returned.length === 0 ? fresh : [...returned, ...fresh]) {
      const delivery = toDelivery(row, lease)
      const token = delivery.token as Token
      const expires = row[EXPIRES] as number
      if (expires !== 0 && expires <= now) this.#remove(token)
      else if (token.key === undefined || this.#seize(queue, token.key, rank, token.sequence)) {
        deliveries.push(delivery)
        items.push(rank, token.sequence, token.version)
      }
    }
    return returned.length + fresh.length > 0 && left - fresh.length === 0
  }

  /** Makes a message the one of its key; if another is, it is put aside until that one is settled. */
  #seize(queue: number, key: string, rank: number, sequence: number): boolean {
    const holder = this.#sql('SELECT rank, sequence FROM busy WHERE queue = ? AND key = ?').get(queue, key)
    if (holder === undefined) {
      this.#sql('INSERT INTO busy VALUES (?, ?, ?, ?)').run(queue, key, rank, sequence)
      return true
    }
    if (Number(holder.rank) === rank && Number(holder.sequence) === sequence) return true
    this.#park(queue, rank, sequence, null)
    return false
  }

  #park(queue: number, rank: number, sequence: number, due: number | null): void {
    this.#move('messages', 'parked', queue, rank, sequence, ', due, fresh', ', ?, 0', [due])
  }

  #move(
    from: string,
    to: string,
    queue: number,
    rank: number,
    sequence: number,
    more = '',
    marks = '',
    values: readonly Value[] = [],
  ): void {
    const where = 'WHERE queue = ? AND rank = ? AND sequence = ?'
    const insert = `INSERT INTO ${to} (${names}${more}) SELECT ${names}${marks} FROM ${from} ${where}`
    this.#sql(insert).run(...values, queue, rank, sequence)
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
    this.#news[MESSAGES].add(queue)
  }

  /** A message that nobody wants any more. */
  #remove({ lease: { queue }, key, rank, sequence, size, file }: Token): void {
    this.#sql('DELETE FROM messages WHERE queue = ? AND rank = ? AND sequence = ?').run(queue, rank, sequence)
    this.#count(queue, 1, size)
    if (file !== undefined) this.#files.push(file)
    if (key === undefined) return
    const holder = this.#sql('SELECT 1 FROM busy WHERE queue = ? AND key = ? AND rank = ? AND sequence = ?')
    if (holder.get(queue, key, rank, sequence) !== undefined) this.#freeKey(queue, key)
  }

  /** So much has left the queue. */
  #count(queue: number, messages: number, bytes: number): { keeps: boolean } {
    const update = 'UPDATE queues SET messages = messages - ?, bytes = bytes - ? WHERE queue = ?'
    this.#do(update, messages, bytes, queue)
    const [isBounded, keeps, namespace = null] =
      this.#rows(
        'SELECT max_messages + max_bytes > 0, keep_messages + keep_age > 0, namespace FROM queues WHERE queue = ?',
      ).get(queue) ?? []
    if (isBounded !== 0) this.#news[ROOM].add(queue)
    if (namespace !== null) this.#roomy.add(Number(namespace))
    return { keeps: keeps === 1 }
  }

  /** What is due is read again: what was delayed at its time's place in the queue, a retry at its old one. */
  #promote(queue: number, now: number): void {
    const due = this.#sql(
      'SELECT rank, sequence, fresh FROM parked WHERE queue = ? AND due <= ? ORDER BY due LIMIT 500',
    ).all(queue, now)
    for (const row of due) {
      const [rank, sequence] = [Number(row.rank), Number(row.sequence)]
      if (row.fresh === 0) this.#sql('INSERT OR IGNORE INTO released VALUES (?, ?, ?)').run(queue, rank, sequence)
      this.#move('parked', 'messages', queue, rank, sequence)
      if (row.fresh === 0) continue
      const sql = 'UPDATE messages SET sequence = ? WHERE queue = ? AND rank = ? AND sequence = ?'
      this.#sql(sql).run(this.#next(queue), queue, rank, sequence)
    }
  }

  #next(queue: number): number {
    return Number(this.#sql('UPDATE queues SET next = next + 1 WHERE queue = ? RETURNING next').get(queue)?.next) - 1
  }

  settle(batch: readonly Settlement[], files?: ReadonlyMap<Outgoing, string>): boolean[] {
    const keeps = this.#leave(batch)
    let run = { end: batch.length < RUN ? batch.length : 0, isGone: false }
    const done = batch.map((settlement, at) => {
      const token = settlement.token as Token
      const { queue } = token.lease
      if (at === run.end) run = this.#deleteRun(batch, at, keeps)
      const held = run.isGone || this.#settleOne(token, settlement, keeps.has(queue))
      if (settlement.outcome === 'begin' || settlement.outcome === 'extend') return held
      if (!held) {
        // One that is settled twice must not count for another of its lease.
        if (settlement.outcome === 'ack')
          for (const { message } of settlement.send ?? []) this.#dropFile(message, files)
        if (settlement.outcome !== 'retry') this.#count(queue, -1, 0 - token.size)
        return false
      }
      this.#settled.set(token.lease, (this.#settled.get(token.lease) ?? 0) + 1)
      if (settlement.outcome === 'ack') {
        if (token.file !== undefined) this.#files.push(token.file)
        if (settlement.send !== undefined) this.send(settlement.send, 'reject', files)
      }
      return held
    })
    for (const [queue, messages] of keeps) this.#forget(queue, messages + FORGET)
    return done
  }

  /**
   * Counts what leaves its queue, before it does: so it is known which of these queues keep what is acknowledged, and how
   * many come to their history at most.
   */
  #leave(batch: readonly Settlement[]): Map<number, number> {
    const gone = new Map<number, { messages: number; bytes: number }>()
    for (const settlement of batch) {
      if (settlement.outcome !== 'ack' && settlement.outcome !== 'dead') continue
      const { lease, size } = settlement.token as Token
      const sum = gone.get(lease.queue)
      if (sum === undefined) gone.set(lease.queue, { messages: 1, bytes: size })
      else {
        sum.messages++
        sum.bytes += size
      }
    }
    const keeps = new Map<number, number>()
    for (const [queue, { messages, bytes }] of gone) {
      if (this.#count(queue, messages, bytes).keeps) keeps.set(queue, messages)
    }
    return keeps
  }

  /**
   * Most are acknowledged as they were claimed: plain ones, one after the other. A statement deletes all of such a run, if
   * all of it is there.
   */
  #deleteRun(
    batch: readonly Settlement[],
    from: number,
    keeps: ReadonlyMap<number, number>,
  ): { end: number; isGone: boolean } {
    const first = tokenOf(batch[from])
    let end = from + 1
    if (first === undefined || keeps.has(first.lease.queue)) return { end, isGone: false }
    while (follows(tokenOf(batch[end]), first, end - from)) end++
    return { end, isGone: end - from >= RUN && this.#deleteAll(first, end - from) }
  }

  #deleteAll({ lease: { queue }, rank, sequence, version }: Token, count: number): boolean {
    const run = [queue, rank, sequence, sequence + count - 1] as const
    const where = 'WHERE queue = ? AND rank = ? AND sequence BETWEEN ? AND ?'
    const there = this.#rows(`SELECT count(*) FROM messages ${where} AND version = ?`).get(...run, version)
    if (there?.[0] !== count) return false
    this.#do(`DELETE FROM messages ${where}`, ...run)
    return true
  }

  #endLeases(): void {
    for (const [lease, count] of this.#settled) {
      if (lease.left === count) this.#do('DELETE FROM leases WHERE lease = ?', lease.id)
    }
  }

  #settleOne(token: Token, settlement: Settlement, keeps: boolean): boolean {
    const { lease, rank, sequence, version, key } = token
    const { queue } = lease
    const where = 'WHERE queue = ? AND rank = ? AND sequence = ? AND version = ?'
    const row = [queue, rank, sequence, version] as const
    if (settlement.outcome === 'begin' || settlement.outcome === 'extend') {
      if (this.#sql(`SELECT 1 FROM messages ${where}`).get(...row) === undefined) return false
      const until = settlement.outcome === 'extend' ? settlement.until : this.#clock.now() + (lease.limit ?? Number.NaN)
      // It is that of all that was claimed with it, none of which it is to take time from.
      const extend = 'UPDATE leases SET until = max(until, ?) WHERE lease = ?'
      if (!Number.isNaN(until)) this.#sql(extend).run(Math.ceil(until), lease.id)
      if (settlement.outcome === 'begin') {
        this.#sql('INSERT OR IGNORE INTO begun VALUES (?, ?, ?)').run(lease.id, rank, sequence)
        token.begun = true
      }
      return true
    }
    if (token.begun) {
      this.#sql('DELETE FROM begun WHERE lease = ? AND rank = ? AND sequence = ?').run(lease.id, rank, sequence)
    }
    if (settlement.outcome === 'ack') {
      if (keeps) this.#keep(queue, rank, sequence, version)
      if (Number(this.#sql(`DELETE FROM messages ${where}`).run(...row).changes) === 0) return false
      if (key !== undefined) this.#freeKey(queue, key)
      return true
    }
    const counted = settlement.outcome === 'retry' && settlement.counted ? 1 : 0
    const update = `UPDATE messages SET version = version + 1, suspect = 0, attempts = attempts + ? ${where}`
    if (Number(this.#sql(update).run(counted, ...row).changes) === 0) return false
    if (settlement.outcome === 'dead') {
      this.#bury(queue, rank, sequence, settlement.queue, settlement.headers)
      if (key !== undefined) this.#freeKey(queue, key)
    } else if (settlement.due <= this.#clock.now()) this.#release(queue, rank, sequence)
    else {
      const earliest = this.#earliest(queue)
      this.#park(queue, rank, sequence, Math.ceil(settlement.due))
      if (earliest === undefined || settlement.due < earliest) this.#news[MESSAGES].add(queue)
    }
    return true
  }

  /** Puts a message that is acknowledged at the end of its history. */
  #keep(...row: readonly [queue: number, rank: number, sequence: number, version: number]): void {
    const place = names.replace('sequence', '(SELECT kept + 1 FROM queues q WHERE q.queue = messages.queue)')
    const sql = `INSERT INTO history (${names}, acknowledged) SELECT ${place}, ? FROM messages
      WHERE queue = ? AND rank = ? AND sequence = ? AND version = ?`
    if (Number(this.#sql(sql).run(this.#clock.now(), ...row).changes) === 0) return
    this.#sql('UPDATE queues SET kept = kept + 1 WHERE queue = ?').run(row[0])
  }

  #bury(queue: number, rank: number, sequence: number, name: string, headers: Readonly<Record<string, string>>): void {
    const dead = this.#queue(name)
    this.#rank(dead, 0)
    const place = [queue, rank, sequence] as const
    const where = 'WHERE queue = ? AND rank = ? AND sequence = ?'
    const { size } = this.#sql(`SELECT size FROM messages ${where}`).get(...place) as Row
    this.#sql(
      `UPDATE messages SET queue = ?, rank = 0, sequence = ?, key = NULL, headers = ?, expires = 0, losses = 0 ${where}`,
    ).run(dead, this.#next(dead), JSON.stringify(headers), ...place)
    this.#sql('UPDATE queues SET messages = messages + 1, bytes = bytes + ? WHERE queue = ?').run(Number(size), dead)
    this.#news[MESSAGES].add(dead)
  }

  bind({ pattern, queue, headers }: Binding): void {
    this.#queue(queue)
    this.#sql('INSERT OR IGNORE INTO bindings VALUES (?, ?, ?)').run(pattern, queue, JSON.stringify(headers))
  }

  unbind({ pattern, queue, headers }: Binding): void {
    const sql = 'DELETE FROM bindings WHERE pattern = ? AND name = ? AND headers = ?'
    this.#sql(sql).run(pattern, queue, JSON.stringify(headers))
  }

  bindings(): Binding[] {
    const rows = this.#sql('SELECT pattern, name, headers FROM bindings ORDER BY name').all()
    return rows.map(({ pattern, name, headers }) => ({
      pattern: String(pattern),
      queue: String(name),
      headers: JSON.parse(String(headers)) as Record<string, string>,
    }))
  }

  /** Makes a queue that is dropped when its process is no more. */
  borrow(name: string, owner: number): void {
    this.#queue(name)
    this.#sql('INSERT OR IGNORE INTO borrowed VALUES (?, ?)').run(name, owner)
  }

  /** Drops a queue and its dead letters, so many of what is in them at a time; true while there is more to do. */
  drop(name: string): boolean {
    return this.#drop(`${name}/dead`) || this.#drop(name)
  }

  /** Whether there was one. */
  #drop(name: string): boolean {
    const row = this.#sql('SELECT queue, namespace FROM queues WHERE name = ?').get(name)
    if (row === undefined) {
      this.#sql('DELETE FROM borrowed WHERE name = ?').run(name)
      return false
    }
    const queue = row.queue as Value
    if (row.namespace !== null) this.#roomy.add(Number(row.namespace))
    // First what brings more; it stays borrowed to its end, should its process have none.
    this.#sql('DELETE FROM bindings WHERE name = ?').run(name)
    this.#sql('DELETE FROM begun WHERE lease IN (SELECT lease FROM leases WHERE queue = ?)').run(queue)
    for (const table of ['waiting', 'leases']) this.#sql(`DELETE FROM ${table} WHERE queue = ?`).run(queue)
    let left = BUS_BATCH
    for (const { table, key, counts, more } of contents) {
      const some = `SELECT ${key} FROM ${table} WHERE queue = ? LIMIT ? + 0`
      const sql = `DELETE FROM ${table} WHERE queue = ? AND (${key}) IN (${some}) RETURNING ${more}`
      const gone = this.#sql(sql).all(queue, queue, left)
      for (const { file } of gone) if (file !== null) this.#files.push(String(file))
      const bytes = gone.reduce((sum, { size }) => sum + Number(size), 0)
      if (counts) this.#count(Number(queue), gone.length, bytes)
      left -= gone.length
      if (left === 0) return true
    }
    for (const table of ['cursors', 'queues']) this.#sql(`DELETE FROM ${table} WHERE queue = ?`).run(queue)
    this.#sql('DELETE FROM borrowed WHERE name = ?').run(name)
    this.#queues.delete(name)
    return true
  }

  entries(prefix: string): [key: string, value: string][] {
    // No text has this byte: what begins with the prefix lies before it.
    const rows = this.#sql(
      `SELECT key, value FROM notes WHERE key >= ? AND key < ? || CAST(x'FF' AS TEXT) AND (until = 0 OR until > ?)
       ORDER BY key`,
    )
    return rows.all(prefix, prefix, this.#clock.now()).map(({ key, value }) => [String(key), String(value)])
  }

  put(key: string, value: string | undefined, until: number): void {
    // Two go for one that comes: what may be forgotten does not pile up.
    const forget = 'DELETE FROM notes WHERE key IN (SELECT key FROM notes WHERE until > 0 AND until <= ? LIMIT 2)'
    this.#sql(forget).run(this.#clock.now())
    if (value === undefined) this.#sql('DELETE FROM notes WHERE key = ?').run(key)
    else this.#sql('INSERT OR REPLACE INTO notes VALUES (?, ?, ?)').run(key, value, Math.ceil(until))
  }

  /** Enters a process; the others are those who may be alive. */
  enter(pid: number, socket: string): { owner: number; others: Process[] } {
    const others = this.processes()
    const { lastInsertRowid } = this.#sql('INSERT INTO processes (pid, socket) VALUES (?, ?)').run(pid, socket)
    return { owner: Number(lastInsertRowid), others }
  }

  processes(): Process[] {
    const rows = this.#sql('SELECT owner, pid, socket FROM processes').all()
    return rows.map((row) => ({ owner: Number(row.owner), pid: Number(row.pid), socket: String(row.socket) }))
  }

  /** Gives back one lease of a process that is no more, then drops what it had borrowed; true while there is more to do. */
  reap(owner: number, lost: boolean): boolean {
    this.#sql('DELETE FROM waiting WHERE owner = ?').run(owner)
    const lease = this.#sql('SELECT lease, owner, queue, items FROM leases WHERE owner = ? LIMIT 1').get(owner)
    if (lease === undefined) {
      const own = this.#sql('SELECT name FROM borrowed WHERE owner = ? LIMIT 1').get(owner)
      if (own !== undefined) {
        this.drop(String(own.name))
        return true
      }
      this.#sql('DELETE FROM processes WHERE owner = ?').run(owner)
      this.#sql('DELETE FROM begun WHERE lease = 0 - ?').run(owner)
      return false
    }
    this.#giveBack(lease, lost)
    return true
  }

  #reapOverdue(queue: number, now: number): void {
    const sql = 'SELECT lease, owner, queue, items FROM leases WHERE queue = ? AND until <= ? LIMIT 10'
    for (const lease of this.#sql(sql).all(queue, now)) this.#giveBack(lease, true)
  }

  /** What was lost alone, or had begun, has to answer for it; of the others it is not known. */
  #giveBack(row: Row, lost: boolean): void {
    const [lease, queue, owner] = [Number(row.lease), Number(row.queue), Number(row.owner)]
    const items = JSON.parse(String(row.items)) as number[]
    const isAlone = lost && this.#isAlone(owner)
    // Under a number that no lease has: what the process has left may look alone from now on, and is not.
    this.#sql(`INSERT OR IGNORE INTO begun SELECT 0 - owner, 0, 0 FROM (${OWNERS})`).run(owner, owner)
    const update = this.#sql(
      `UPDATE messages SET version = version + 1, losses = losses + ?, suspect = max(suspect, ?)
       WHERE queue = ? AND rank = ? AND sequence = ? AND version = ?`,
    )
    const begun = this.#sql('SELECT 1 FROM begun WHERE lease = ? AND rank = ? AND sequence = ?')
    for (let at = 0; at < items.length; at += 3) {
      const [rank, sequence, version] = items.slice(at, at + 3) as [number, number, number]
      const own = isAlone || (lost && begun.get(lease, rank, sequence) !== undefined)
      const { changes } = update.run(own ? 1 : 0, lost ? 1 : 0, queue, rank, sequence, version)
      if (Number(changes) > 0) this.#release(queue, rank, sequence)
    }
    this.#sql('DELETE FROM begun WHERE lease = ?').run(lease)
    this.#sql('DELETE FROM leases WHERE lease = ?').run(lease)
  }

  /** Whether a process has one message in its hands, of all queues, and nothing was taken away from it before. */
  #isAlone(owner: number): boolean {
    if (this.#sql('SELECT 1 FROM begun WHERE lease = 0 - ?').get(owner) !== undefined) return false
    const sql = `SELECT queue, items FROM leases WHERE owner IN (SELECT owner FROM (${OWNERS})) LIMIT 2`
    const [lease, another] = this.#sql(sql).all(owner, owner)
    if (lease === undefined || another !== undefined) return false
    const items = JSON.parse(String(lease.items)) as number[]
    const held = this.#sql('SELECT 1 FROM messages WHERE queue = ? AND rank = ? AND sequence = ? AND version = ?')
    let count = 0
    for (let at = 0; at < items.length; at += 3) {
      const [rank, sequence, version] = items.slice(at, at + 3) as [number, number, number]
      if (held.get(Number(lease.queue), rank, sequence, version) !== undefined) count++
    }
    return count === 1
  }

  stats(name: string): TransportStats {
    const row = this.#sql('SELECT queue, messages, bytes FROM queues WHERE name = ?').get(name)
    if (row === undefined) return { ready: 0, leased: 0, delayed: 0, held: 0, bytes: 0, oldest: undefined }
    const queue = Number(row.queue)
    const count = (sql: string) => Number(this.#sql(`SELECT count(*) AS n FROM ${sql}`).get(queue)?.n)
    // What was read before, leased or given back, lies before the cursor: its number does not depend on the length.
    // In this order, or all of the queue is looked at.
    const before = count(
      'cursors c CROSS JOIN messages m USING (queue, rank) WHERE c.queue = ? AND m.sequence <= c.sequence',
    )
    const leased = before - count('released WHERE queue = ?')
    const delayed = count('parked WHERE queue = ? AND due IS NOT NULL')
    const held = count('parked WHERE queue = ? AND due IS NULL')
    const ready = Number(row.messages) - leased - delayed - held
    return { ready, leased, delayed, held, bytes: Number(row.bytes), oldest: this.#oldest(queue) }
  }

  queues(): string[] {
    const rows = this.#sql('SELECT name FROM queues ORDER BY name').all()
    return rows.map(({ name }) => String(name))
  }

  #oldest(queue: number): number | undefined {
    const firsts = this.#sql('SELECT rank, sequence FROM cursors WHERE queue = ?')
      .all(queue)
      .flatMap(({ rank, sequence }) => [
        this.#sql(
          'SELECT sent FROM messages WHERE queue = ? AND rank = ? AND sequence > ? ORDER BY sequence LIMIT 1',
        ).get(queue, rank as number, sequence as number),
        this.#sql(
          'SELECT m.sent FROM released r CROSS JOIN messages m USING (queue, rank, sequence) WHERE r.queue = ? AND r.rank = ? ORDER BY r.sequence LIMIT 1',
        ).get(queue, rank as number),
      ])
    const times = firsts.filter((row) => row !== undefined).map(({ sent }) => Number(sent))
    return times.length === 0 ? undefined : Math.min(...times)
  }

  browse(name: string, max: number, after: string | undefined): Page {
    const queue = this.#queue(name)
    const [rank, sequence] = after === undefined ? [-256, 0] : (after.split(':').map(Number) as [number, number])
    const rows = this.#rows(
      `SELECT ${handed} FROM messages WHERE queue = ? AND (rank, sequence) > (?, ?) ORDER BY rank, sequence LIMIT ? + 0`,
    ).all(queue, rank, sequence, max)
    const last = rows.at(-1)
    const next = rows.length < max || last === undefined ? undefined : `${last[0]}:${last[SEQUENCE]}`
    return { deliveries: rows.map((row) => toDelivery(row, { id: 0, queue, left: 0 })), next }
  }

  /** Which of these bodies no message has. */
  withoutMessage(files: readonly string[]): string[] {
    return files.filter((file) =>
      ['messages', 'parked', 'history'].every(
        (table) => this.#sql(`SELECT 1 FROM ${table} WHERE file = ?`).get(file) === undefined,
      ),
    )
  }

  /** Pages of the file that hold nothing any more. */
  freePages(): number {
    return Number(this.#sql('PRAGMA freelist_count').get()?.freelist_count)
  }

  close(): void {
    this.#database.close()
  }
}

/** Dead letters of a queue of a namespace. */
const DEAD = /@[^/]+\/[^/]+\/dead$/
/** node:sqlite of Node.js 22 takes some other empty ones for NULL. */
const NO_BYTES = new Uint8Array()
const ANY: Start = { messages: 1, priority: 0 }

/** Of a message that is acknowledged, and has nothing but its row to go with it. */
function tokenOf(settlement: Settlement | undefined): Token | undefined {
  if (settlement?.outcome !== 'ack' || settlement.send !== undefined) return undefined
  const token = settlement.token as Token
  return token.key === undefined && !token.begun ? token : undefined
}

const follows = (token: Token | undefined, first: Token, by: number): boolean =>
  token !== undefined &&
  token.sequence === first.sequence + by &&
  token.lease.queue === first.lease.queue &&
  token.rank === first.rank &&
  token.version === first.version

/** Whether one statement can write them. */
function areAlike(
  messages: readonly Outgoing[],
  now: number,
  files: ReadonlyMap<Outgoing, string> | undefined,
): boolean {
  const [first] = messages
  return (
    messages.length === TOGETHER &&
    messages.every((one) => one.priority === first?.priority && one.due <= now && files?.has(one) !== true)
  )
}

const least = (times: readonly (Value | undefined)[]): number | undefined => {
  const known = times.filter((time) => typeof time === 'number')
  return known.length === 0 ? undefined : Math.min(...known)
}

/** Where they are in a row of `handed`. */
const SEQUENCE = 1
const EXPIRES = 9

function toDelivery(row: readonly Value[], lease: Lease): Delivery {
  const [rank, sequence, version, attempts, losses, suspect, id, name, sent, , format, headers, size, path, body] =
    row as [
      ...[rank: number, sequence: number, version: number, attempts: number, losses: number, suspect: number],
      ...[id: string, key: string | null, sent: number, expires: number, format: number, headers: string | null],
      ...[size: number, file: string | null, body: Uint8Array],
    ]
  const key = name ?? undefined
  const token: Token = { lease, rank, sequence, version, key, size, file: path ?? undefined, begun: false }
  return {
    token,
    id,
    body,
    format: formats[format] as Format,
    key,
    priority: 0 - rank,
    headers: headers === null ? NO_HEADERS : (JSON.parse(headers) as Record<string, string>),
    sentAt: sent,
    attempts,
    losses,
    suspect: suspect !== 0,
    leasedAt: lease.since,
    damage: undefined,
  }
}
