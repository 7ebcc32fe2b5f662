// What tests of both families share.
import { canMeet, operations, sends } from './fixtures/operations.mjs'
import { openQueue } from './support.ts'
import { openSysv } from './sysv-support.ts'

/** A small queue of each family, as fixtures open it: by its name or identifier. */
const queues = {
  PosixQueue: () => openQueue().path as string,
  SysvQueue: () => String(openSysv({ maxBytes: 20 }).id),
}

export type Family = keyof typeof queues

export const families = Object.keys(queues) as Family[]

export const newQueue = (family: Family): string => queues[family]()

export const kinds = ['receiving', 'sending', 'passing', 'blocking', 'endless'] as const

/**
 * The operations of a kind that can be pending at once at this end; they share a process. A call that blocks is alone,
 * and so is what is to end everything in its callback, but for an end that others stand for here.
 */
export function groupsOf(family: Family, kind: (typeof kinds)[number], end: string, joined: RegExp): string[] {
  const names = Object.keys(operations[family][kind]).filter((name) => canMeet(name, end))
  const isBlocking = kind === 'blocking' || kind === 'endless'
  if (isBlocking && joined.test(end)) return []
  if (!joined.test(end) && (isBlocking ? /SIG|terminate/ : /callback/).test(end)) return names
  return [names.filter(sends), names.filter((name) => !sends(name))].flatMap((group) => group.join('+') || [])
}
