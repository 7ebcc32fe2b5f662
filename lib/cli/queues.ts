// What is known of the queues of both families, in the same words.
import { readFileSync } from 'node:fs'
import { PosixQueue, type QueueError, SysvQueue } from '../index.ts'
import { UsageError } from './errors.ts'

/** What is not known is undefined: the kernel does not keep it, or this user may not see it. */
export interface QueueRow {
  /** As kmq takes it: `/name`, `0x0000001f`, or `#3` of what has no key. */
  readonly queue: string
  readonly family: 'posix' | 'sysv'
  /** Of System V. */
  readonly id: number | undefined
  readonly messages: number | undefined
  /** Of POSIX: messages it may hold. */
  readonly maxMessages: number | undefined
  /** Of the messages in it. */
  readonly bytes: number | undefined
  /** Bytes it may hold. */
  readonly maxBytes: number | undefined
  readonly owner: string
  /** In octal. */
  readonly mode: string
  /** Of System V: the processes that sent and received last. */
  readonly lastSender: Peer | undefined
  readonly lastReceiver: Peer | undefined
  /** Of System V: when a message was last sent and received, to the second. */
  readonly sentAt: Date | undefined
  readonly receivedAt: Date | undefined
  /** The later one of both; of a POSIX queue that nobody used, when it was created. */
  readonly usedAt: Date | undefined
  /** Both of them are dead, and nobody waits for it, as far as this user can see. */
  readonly stale: boolean
}

export interface Peer {
  readonly pid: number
  /** Undefined if it has ended. */
  readonly name: string | undefined
}

export function peerOf(pid: number | undefined): Peer | undefined {
  if (pid === undefined) return undefined
  try {
    return { pid, name: readFileSync(`/proc/${pid}/comm`, 'utf8').trimEnd() }
  } catch {
    return { pid, name: undefined }
  }
}

/** Names by their numbers, as /etc/passwd or /etc/group has them. */
function namesIn(file: string): Map<number, string> {
  const lines = readFileSync(file, 'utf8').split('\n')
  return new Map(lines.map((line) => line.split(':')).map(([name = '', , number]) => [Number(number), name]))
}

let users: Map<number, string> | undefined

/** The name of a user, or the number. */
export function userName(uid: number): string {
  users ??= namesIn('/etc/passwd')
  return users.get(uid) ?? String(uid)
}

export const userId = (name: string): number => numberOf(name, 'user', '/etc/passwd')
export const groupId = (name: string): number => numberOf(name, 'group', '/etc/group')

function numberOf(name: string, what: string, file: string): number {
  if (/^\d+$/.test(name)) return Number(name)
  for (const [number, known] of namesIn(file)) if (known === name) return number
  throw new UsageError(`there is no ${what} '${name}' in ${file}`)
}

/** Permissions, as chmod(1) has them. */
export const octal = (mode: number): string => mode.toString(8).padStart(3, '0')

async function posixRows(): Promise<QueueRow[]> {
  const queues = await PosixQueue.list()
  return queues.map(({ name, messages, maxMessages, messageSize, bytes, uid, mode, usedAt }) => ({
    queue: name,
    family: 'posix',
    id: undefined,
    messages,
    maxMessages,
    bytes,
    maxBytes: maxMessages === undefined || messageSize === undefined ? undefined : maxMessages * messageSize,
    owner: userName(uid),
    mode: octal(mode),
    lastSender: undefined,
    lastReceiver: undefined,
    sentAt: undefined,
    receivedAt: undefined,
    usedAt,
    stale: false,
  }))
}

async function sysvRows(): Promise<QueueRow[]> {
  const queues = (await SysvQueue.list()).map(({ lastSender, lastReceiver, ...queue }) => {
    const peers = { lastSender: peerOf(lastSender), lastReceiver: peerOf(lastReceiver) }
    const used = Object.values(peers).filter((peer) => peer !== undefined)
    return { ...queue, ...peers, isLeft: used.length > 0 && used.every(({ name }) => name === undefined) }
  })
  // The kernel notes a receiver that had waited by its thread, which may have ended.
  const awaited = queues.some(({ isLeft }) => isLeft)
    ? (await import('./waiting.ts')).awaitedQueues()
    : new Set<number>()
  return queues.map(({ id, key, messages, bytes, maxBytes, uid, mode, sentAt, receivedAt, isLeft, ...peers }) => ({
    queue: Number(key) === 0 ? `#${id}` : key,
    family: 'sysv',
    id,
    messages,
    maxMessages: undefined,
    bytes,
    maxBytes,
    owner: userName(uid),
    mode: octal(mode),
    lastSender: peers.lastSender,
    lastReceiver: peers.lastReceiver,
    sentAt,
    receivedAt,
    usedAt: [sentAt, receivedAt].filter((date) => date !== undefined).sort((a, b) => Number(b) - Number(a))[0],
    stale: isLeft && !awaited.has(id),
  }))
}

/** All that there are, sorted; and why one family cannot be seen. */
export async function listQueues(): Promise<{ rows: QueueRow[]; errors: QueueError[] }> {
  const found = await Promise.allSettled([posixRows(), sysvRows()])
  const rows = found.flatMap((result) => (result.status === 'fulfilled' ? result.value : []))
  const errors = found.flatMap((result) => (result.status === 'rejected' ? [result.reason as QueueError] : []))
  return { rows: rows.sort((a, b) => (a.queue < b.queue ? -1 : 1)), errors }
}
