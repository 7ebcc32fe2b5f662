// Taking messages out of queues, putting them in, and back.
import { closeSync, fstatSync, fsyncSync, openSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { PosixQueue, SysvQueue, type SysvReceiveOptions } from '../index.ts'
import { Failure } from './errors.ts'
import { batchOf, type Item, type KernelMessage, plural } from './messages.ts'
import { type Attributes, attributesOf, toLines } from './snapshot.ts'
import { openTarget, type Target } from './target.ts'
import { note } from './terminal.ts'

export type KernelQueue = PosixQueue | SysvQueue

export const codeOf = (error: unknown): unknown => (error as { code?: unknown } | undefined)?.code

/** A queue to take from, with what is needed to put back. */
export interface Source {
  readonly target: Target
  readonly queue: KernelQueue
}

/** Writing is for putting back: who may only read does without. */
export function openSource(target: Target): Source {
  try {
    return { target, queue: openTarget(target, { access: 'readwrite' }) }
  } catch (error) {
    if (codeOf(error) !== 'EACCES') throw error
    return { target, queue: openTarget(target, { access: 'read' }) }
  }
}

/** What finds the queue again, if anything does: of a System V queue the key. */
export function nameOf({ target, queue }: Source): string {
  if (target.family === 'posix') return target.name
  const { at } = target
  if ('key' in at) return `0x${(at.key >>> 0).toString(16).padStart(8, '0')}`
  try {
    const { key } = (queue as SysvQueue).stat()
    if (Number(key) !== 0) return key
  } catch {} // it is gone, or not for this user to see
  return `#${at.id}`
}

/** Bytes that a message of the queue can have. */
export function longestOf(queue: KernelQueue): number {
  return queue instanceof PosixQueue ? queue.attributes.messageSize : SysvQueue.limits().messageSize
}

export const batchFor = (queue: KernelQueue): number => batchOf(longestOf(queue))

/** A POSIX queue that is unlinked wakes nobody: who waits for it has to look, so often, in milliseconds. */
const LOOK = 1000

/** @throws {Failure} if nobody can open it any more */
export function checkThere(queue: KernelQueue, { text }: Target): void {
  if (queue instanceof PosixQueue && fstatSync(queue.fd).nlink === 0) throw new Failure(`${text} was removed`)
}

interface Waiting {
  /** Milliseconds; default: no limit. */
  readonly timeout?: number | undefined
  readonly signal?: AbortSignal | undefined
}

interface Giving extends Waiting {
  /** Told how many were sent, as soon as that is known. */
  readonly onSent?: ((sent: number) => void) | undefined
}

interface Taking extends Waiting {
  readonly max: number
  readonly selection?: SysvReceiveOptions | undefined
}

/** What is there, as soon as there is something; undefined if nothing came in time. */
export async function take(
  { queue, target }: Source,
  { max, selection, timeout = Number.POSITIVE_INFINITY, signal }: Taking,
): Promise<KernelMessage[] | undefined> {
  const deadline = performance.now() + timeout
  for (;;) {
    const left = Math.max(deadline - performance.now(), 0)
    const wait = queue instanceof PosixQueue ? Math.min(left, LOOK) : left
    try {
      return await queue.receiveMany({ ...selection, max, signal, timeout: wait })
    } catch (error) {
      if (codeOf(error) !== 'ETIMEDOUT') throw error
      checkThere(queue, target)
      if (wait === left) return undefined
    }
  }
}

/** How far a send came, and why no further: ETIMEDOUT if there was no room for so long. */
export interface Given {
  readonly sent: number
  readonly error: unknown
}

/** How many are tried at a time. */
const AT_ONCE = 256

export async function give(
  { queue, target }: Source,
  items: readonly Item[],
  { timeout = Number.POSITIVE_INFINITY, signal, onSent }: Giving = {},
): Promise<Given> {
  let deadline = performance.now() + timeout
  let sent = 0
  const count = (more: number) => {
    sent += more
    onSent?.(sent)
  }
  while (sent < items.length) {
    const left = Math.max(deadline - performance.now(), 0)
    const wait = queue instanceof PosixQueue ? Math.min(left, LOOK) : left
    try {
      // What would go into a queue that was removed nobody may ever have.
      checkThere(queue, target)
      // One waits, and others go where there is room: a process that ends while it waits knows what was sent.
      await queue.sendMany(items.slice(sent, sent + 1), { signal, timeout: wait })
      count(1)
      deadline = performance.now() + timeout
      count(queue.trySendMany(items.slice(sent, sent + AT_ONCE)))
    } catch (error) {
      count((error as { sent?: number }).sent ?? 0)
      if (codeOf(error) !== 'ETIMEDOUT' || wait === left) return { sent, error }
    }
  }
  return { sent, error: undefined }
}

const FULL = Object.assign(new Failure('full'), { code: 'ETIMEDOUT' })

/** As {@link give}, without waiting. */
export function giveNow({ queue, target }: Source, items: readonly Item[]): Given {
  try {
    checkThere(queue, target)
    return { sent: queue.trySendMany(items), error: FULL }
  } catch (error) {
    return { sent: (error as { sent?: number }).sent ?? 0, error }
  }
}

/** How long a full queue may hold up what is put back, in milliseconds. */
const PATIENCE = 2000

/**
 * Puts back what was taken and could not be delivered. What does not go back either is kept in a file; in any case it
 * is said.
 */
export async function putBack(source: Source, messages: readonly KernelMessage[], asJson?: boolean): Promise<void> {
  if (messages.length === 0) return
  const given = await holding(source, messages, asJson, (onSent) =>
    give(source, messages, { timeout: PATIENCE, onSent }),
  )
  tellPutBack(source, messages, given, asJson)
}

const holds = new Set<() => void>()

process.on('exit', () => {
  for (const abandon of holds) abandon()
})

/**
 * Waits for what delivers the messages; should the process end meanwhile, by a second Ctrl-C, they are put back, but for
 * the first so many that are known to be delivered.
 */
export async function holding<T>(
  source: Source,
  messages: readonly KernelMessage[],
  asJson: boolean | undefined,
  deliver: (onSent: (sent: number) => void) => Promise<T>,
): Promise<T> {
  let delivered = 0
  const abandon = () => putBackNow(source, messages.slice(delivered), asJson)
  holds.add(abandon)
  try {
    return await deliver((sent) => {
      delivered = sent
    })
  } finally {
    holds.delete(abandon)
  }
}

/** As {@link putBack}, at the end of the process, where nothing can wait. */
export function putBackNow(source: Source, messages: readonly KernelMessage[], asJson?: boolean): void {
  if (messages.length > 0) tellPutBack(source, messages, giveNow(source, messages), asJson)
}

function tellPutBack(
  source: Source,
  messages: readonly KernelMessage[],
  { sent, error }: Given,
  asJson?: boolean,
): void {
  const { text, family } = source.target
  const tag = family === 'posix' ? 'priority' : 'type'
  const place = family === 'posix' ? 'behind others of the same priority' : 'behind all others'
  if (sent === 1) note(`put back 1 message to ${text} with its ${tag}: it is now ${place}`, asJson)
  else if (sent > 1) note(`put back ${sent} messages to ${text}, each with its ${tag}: they are now ${place}`, asJson)
  if (sent < messages.length) rescue(source, messages.slice(sent), error, asJson)
}

/** Writes messages to a new file, as a dump. */
function rescue(
  { target, queue }: Source,
  messages: readonly KernelMessage[],
  reason: unknown,
  asJson?: boolean,
): void {
  let attributes: Attributes | undefined
  try {
    attributes = attributesOf(queue)
  } catch {} // it is gone
  const header = { queue: nameOf({ target, queue }), family: target.family, ...(attributes && { attributes }) }
  const dump = [...toLines(header, messages)].join('')
  const why = codeOf(reason) === 'ETIMEDOUT' ? 'it is full' : (reason as Error).message
  const what = `${plural(messages.length)} could not be put back to ${target.text} (${why})`
  for (const directory of [process.cwd(), tmpdir()]) {
    const path = join(directory, `kmq-rescued-${process.pid}-${Date.now()}.jsonl`)
    try {
      const file = openSync(path, 'wx', 0o600)
      try {
        writeFileSync(file, dump)
        fsyncSync(file)
      } catch (error) {
        rmSync(path)
        throw error
      } finally {
        closeSync(file)
      }
      note(`${what}, and ${messages.length === 1 ? 'is' : 'are'} in ${path}: kmq restore QUEUE < ${path}`, asJson)
      return
    } catch {} // no permission, no space
  }
  note(`${what}, nor written to a file; kmq restore takes this:`, asJson)
  process.stderr.write(dump)
}
