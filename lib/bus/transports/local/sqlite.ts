// SQLite: the one in Node.js where it has one, else the optional package with the same interface.
import { createRequire } from 'node:module'
import { QueueError } from '../../../errors.ts'

export type Value = null | number | bigint | string | Uint8Array

export interface Statement {
  all(...values: Value[]): Record<string, Value>[]
  get(...values: Value[]): Record<string, Value> | undefined
  run(...values: Value[]): { changes: number | bigint; lastInsertRowid: number | bigint }
}

/** A statement whose rows are arrays: the names of columns, made for each row, cost more than their values. */
export interface ArrayStatement {
  all(...values: Value[]): Value[][]
  get(...values: Value[]): Value[] | undefined
}

export interface Database {
  exec(sql: string): void
  prepare(sql: string): Statement
  close(): void
}

interface Binding {
  DatabaseSync: new (path: string, options: { timeout: number }) => Database
}

const PACKAGE = '@photostructure/sqlite'

function load(): Binding {
  const builtin = process.getBuiltinModule('node:sqlite') as Binding | undefined
  if (builtin !== undefined) return builtin
  try {
    return createRequire(import.meta.url)(PACKAGE) as Binding
  } catch (error) {
    const hint = `Node.js ${process.version} has no node:sqlite (22.13 has): npm install ${PACKAGE}@1`
    throw Object.assign(new QueueError('ERR_BUS_NO_SQLITE', { syscall: 'connect', hint }), { cause: error })
  }
}

let binding: Binding | undefined

export function openDatabase(path: string): Database {
  binding ??= load()
  return new binding.DatabaseSync(path, { timeout: 0 })
}

export function prepareArrays(database: Database, sql: string): ArrayStatement {
  const statement: Statement & { setReturnArrays?(on: boolean): void } = database.prepare(sql)
  if (statement.setReturnArrays !== undefined) {
    statement.setReturnArrays(true)
    return statement as unknown as ArrayStatement
  }
  // Node.js 22.13 to 22.15.
  return {
    all: (...values) => statement.all(...values).map(Object.values),
    get(...values) {
      const row = statement.get(...values)
      return row === undefined ? undefined : Object.values(row)
    },
  }
}

// The primary result codes of https://www.sqlite.org/rescode.html that are told apart here.
const SQLITE_BUSY = 5
const SQLITE_READONLY = 8
const SQLITE_CORRUPT = 11
const SQLITE_NOTADB = 26
const SQLITE_IOERR = 10
const SQLITE_FULL = 13
const SQLITE_PROTOCOL = 15

/** Not every error has its code with it. */
const words: readonly [RegExp, number][] = [
  [/database is locked/, SQLITE_BUSY],
  [/readonly database/, SQLITE_READONLY],
  [/disk I\/O error/, SQLITE_IOERR],
  [/database or disk is full/, SQLITE_FULL],
  [/locking protocol/, SQLITE_PROTOCOL],
  [/malformed/, SQLITE_CORRUPT],
  [/not a database/, SQLITE_NOTADB],
]

function codeOf(error: unknown): number {
  if (!(error instanceof Error)) return 0
  const { errcode } = error as { errcode?: number }
  return errcode === undefined ? (words.find(([text]) => text.test(error.message))?.[1] ?? 0) : errcode & 0xff
}

/** Whether another connection was in the way, so that trying again helps. */
export const isBusy = (error: unknown): boolean => [SQLITE_BUSY, SQLITE_PROTOCOL].includes(codeOf(error))

/** Whether the disk is full. */
export const isFull = (error: unknown): boolean => codeOf(error) === SQLITE_FULL

/** The disk has failed; so it does for the index of the write-ahead log, and beyond a quota, where there is no room. */
export const isFailure = (error: unknown): boolean => codeOf(error) === SQLITE_IOERR

export const isReadOnly = (error: unknown): boolean => codeOf(error) === SQLITE_READONLY

export const isNoDatabase = (error: unknown): boolean => codeOf(error) === SQLITE_NOTADB

/** What a user is told of a store that cannot be read or written any more; any other error as it is. */
export function explainDamage(error: unknown, syscall: string, path: string): unknown {
  if (![SQLITE_CORRUPT, SQLITE_NOTADB, SQLITE_IOERR].includes(codeOf(error))) return error
  const hint = 'look at the disk and its file system; what the directory of the bus holds may be lost'
  const details = { syscall, path, detail: (error as Error).message, hint }
  return Object.assign(new QueueError('ERR_BUS_DAMAGED', details), { cause: error })
}
