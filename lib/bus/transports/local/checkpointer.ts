// A worker that brings the write-ahead log of a store into its file: that waits for the disk, which no event loop shall.
import { parentPort, workerData } from 'node:worker_threads'
import { openDatabase } from './sqlite.ts'

/** Beyond so many pages of log (64 MB) the writers have to wait for once, or it would grow for ever. */
const LONG = 16_384

const database = openDatabase(workerData as string)
database.exec('PRAGMA busy_timeout = 100')

parentPort?.on('message', () => {
  try {
    const row = database.prepare('PRAGMA wal_checkpoint(PASSIVE)').get()
    if (Number(row?.log) > LONG) database.exec('PRAGMA wal_checkpoint(RESTART)')
  } catch {
    // The disk is full, or somebody else is at it: there is a next time.
  }
  parentPort?.postMessage('done')
})
