// Queues of the kernel outlive who made them. A list of those that this user has made, in memory as they are, says to
// which directory each belongs: when that is gone, or the process that borrowed one, the next who comes removes it.
import { lstatSync, mkdirSync, readdirSync, readlinkSync, symlinkSync, unlinkSync } from 'node:fs'
import { join } from 'node:path'
import { PosixQueue } from '../../../posix.ts'
import { SysvQueue } from '../../../sysv.ts'
import { BORROWED } from '../../transport.ts'
import { isAlive, namespaces } from './process.ts'

export type Scheme = 'mq' | 'sysv'

/** What is known of a queue of the kernel. */
export interface Owner {
  /** Of the bus. */
  readonly id: string
  readonly queue: string
  /** Of the bus. */
  readonly directory: string
}

const uid = process.geteuid?.() ?? 0
const list = `/dev/shm/kernelmq-${uid}`

/** Without it nothing is removed by itself. */
function isTrusted(): boolean {
  try {
    mkdirSync(list, { recursive: true, mode: 0o700 })
    const { uid: owner, mode } = lstatSync(list)
    return owner === uid && (mode & 0o170022) === 0o040000
  } catch {
    return false
  }
}

const entryOf = (scheme: Scheme, object: string) => join(list, `${scheme}.${object}`)

export function remember(scheme: Scheme, object: string, { id, queue, directory }: Owner): void {
  if (!isTrusted()) return
  try {
    symlinkSync(`${namespaces} ${id} ${queue} ${directory}`, entryOf(scheme, object))
  } catch {
    // It is there already; or there is no room, and it stays when its directory goes.
  }
}

/** Removes a queue of the kernel. */
export function remove(scheme: Scheme, object: string): void {
  try {
    if (scheme === 'mq') PosixQueue.unlink(`/${object}`)
    else SysvQueue.open(object).remove()
  } catch {
    // It is gone, or another user's.
  }
  try {
    unlinkSync(entryOf(scheme, object))
  } catch {
    // It was not in the list.
  }
}

/** Removes what belongs to nobody any more; returns what that was. */
export function sweep(isThere: (owner: Owner) => boolean): { object: string; owner: Owner }[] {
  if (!isTrusted()) return []
  const left: { object: string; owner: Owner }[] = []
  for (const entry of readdirSync(list)) {
    const [, scheme, object] = /^(mq|sysv)\.(.+)$/.exec(entry) ?? []
    const owner = readOwner(join(list, entry))
    if (scheme === undefined || object === undefined || owner === undefined) continue
    const isLent = owner.queue.startsWith(BORROWED)
    const isOver = isLent && !isAlive(owner.queue.slice(BORROWED.length))
    if (isThere(owner) && !isOver) continue
    remove(scheme as Scheme, object)
    left.push({ object, owner })
  }
  return left
}

function readOwner(entry: string): Owner | undefined {
  try {
    const [, where, id, queue, directory] = /^(\S+) (\S+) (\S+) (.+)$/s.exec(readlinkSync(entry)) ?? []
    // What is gone here may be there elsewhere.
    return where === namespaces && id && queue && directory ? { id, queue, directory } : undefined
  } catch {
    return undefined
  }
}
