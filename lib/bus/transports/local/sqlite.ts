// SQLite: the one in Node.js where it has one, else the optional package with the same interface.
import { createRequire } from 'node:module'
import { QueueError } from '../../../errors.ts'

export type Value = null | number | bigint | string | Uint8Array

export interface Statement {
  all(...values: Value[]): Record<string, Value>[]
  get(...values: Value[]): Record<string, Value> | undefined
  run(...values: Value[]): { changes: number | bigint; lastInsertRowid: number | bigint }
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

/** @param timeout milliseconds for which a call may block the loop while another process writes */
export function openDatabase(path: string, timeout: number): Database {
  binding ??= load()
  return new binding.DatabaseSync(path, { timeout })
}

/** Whether another connection was in the way, so that trying again helps. */
export function isBusy(error: unknown): boolean {
  if (!(error instanceof Error)) return false
  const { errcode } = error as Error & { errcode?: number }
  return errcode === undefined ? /database is locked|SQLITE_BUSY/.test(error.message) : (errcode & 0xff) === 5
}
