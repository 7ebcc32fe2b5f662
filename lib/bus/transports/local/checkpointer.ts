// A worker that brings the write-ahead log of a store into its file: that waits for the disk, which no event loop shall.
import { statSync } from 'node:fs'
import { parentPort, workerData } from 'node:worker_threads'
import { openDatabase } from './sqlite.ts'

/** With so many bytes of log the writers have to wait for once, or it would grow for ever. */
const LONG = 64 * 2 ** 20

const { path, busy } = workerData as { path: string; busy: Int32Array }
const database = openDatabase(path)
database.exec('PRAGMA busy_timeout = 100')

parentPort?.on('message', (message: 'checkpoint' | 'close') => {
  if (message === 'close') {
    database.close()
    parentPort?.close()
    return
  }
  try {
    // Without its result: the package that stands in for SQLite aborts the process if that cannot be made any more,
    // because the process ends.
    database.exec(`PRAGMA wal_checkpoint(${statSync(`${path}-wal`).size > LONG ? 'TRUNCATE' : 'PASSIVE'})`)
  } catch {
    // The disk is full, or somebody else is at it: there is a next time.
  }
  Atomics.store(busy, 0, 0)
  Atomics.notify(busy, 0)
})
