// Who holds the lock of a store that many processes share.
import { readFileSync, statSync } from 'node:fs'

/** The byte of the shared index that whoever writes has locked: https://www.sqlite.org/walformat.html */
const WRITER = 120

/** The process that writes to the store, as `/proc/locks` tells; undefined if nobody does or it cannot be told. */
export function writerOf(path: string): number | undefined {
  try {
    const { ino } = statSync(`${path}-shm`)
    for (const line of readFileSync('/proc/locks', 'latin1').split('\n')) {
      const [, , , kind, pid, file = '', from, to] = line.trim().split(/\s+/)
      if (kind !== 'WRITE' || Number(file.split(':')[2]) !== ino) continue
      if (Number(from) <= WRITER && WRITER <= Number(to)) return Number(pid)
    }
  } catch {
    // A hint only.
  }
  return undefined
}
