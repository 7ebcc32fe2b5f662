// Queues of the kernel as a user names them.
import { statSync } from 'node:fs'
import { type PosixOpenOptions, PosixQueue, type QueueError, type SysvOpenOptions, SysvQueue } from '../index.ts'
import { isUrl, UsageError } from './errors.ts'

interface PosixTarget {
  readonly family: 'posix'
  /** As the user wrote it. */
  readonly text: string
  readonly name: string
}

interface SysvTarget {
  readonly family: 'sysv'
  readonly text: string
  readonly at: { readonly key: number } | { readonly id: number }
}

export type Target = PosixTarget | SysvTarget

export const NAMES =
  "A QUEUE is /name (POSIX), or a key 0x1f, an identifier '#3' (quoted: a shell takes # for a comment) or path:project as of ftok(3) (System V). posix: and sysv: in front say which family is meant."

/** @throws {UsageError} if it is the name of nothing */
export function parseTarget(text: string): Target {
  const [, prefix, name = ''] = /^(?:(posix|sysv):)?(.*)$/s.exec(text) ?? []
  if (prefix !== 'sysv' && /^\/[^/]+$/.test(name)) return { family: 'posix', text, name }
  if (prefix === 'posix')
    throw new UsageError(`'${text}' is no queue: after posix: comes a slash and a name without one`)
  if (/^#\d+$/.test(name)) return { family: 'sysv', text, at: { id: Number(name.slice(1)) } }
  if (/^0x[\da-f]{1,8}$/i.test(name)) return { family: 'sysv', text, at: { key: Number(name) } }
  if (prefix === undefined && isUrl(name))
    throw new UsageError(`that is the URL of a bus, which kmq bus URL COMMAND takes. ${NAMES}`)
  const [, path = '', project] = /^(.+):(\d{1,3}|[^\d])$/s.exec(name) ?? []
  if (project === undefined) throw new UsageError(`'${text}' names no queue. ${NAMES}`)
  return { family: 'sysv', text, at: { key: ftok(path, project) } }
}

function ftok(path: string, project: string): number {
  const number = /^\d/.test(project) ? Number(project) : (project.codePointAt(0) as number)
  if (number < 1 || number > 255) throw new UsageError(`the project of '${path}:${project}' is a character or 1 to 255`)
  if (statSync(path, { throwIfNoEntry: false }) === undefined)
    throw new UsageError(`there is no file '${path}' to make a key of`)
  return SysvQueue.ftok(path, number)
}

/** Of both families; each takes its own. */
export interface OpenOptions {
  readonly access?: PosixOpenOptions['access']
  readonly posix?: PosixOpenOptions
  readonly sysv?: SysvOpenOptions
}

export function openTarget(target: Target, { access, posix, sysv }: OpenOptions = {}): PosixQueue | SysvQueue {
  if (target.family === 'posix')
    return PosixQueue.open(target.name, { ...(access !== undefined && { access }), ...posix })
  return openSysv(target, sysv)
}

export function openSysv({ at }: SysvTarget, options?: SysvOpenOptions): SysvQueue {
  return 'id' in at ? SysvQueue.fromId(at.id) : SysvQueue.open(at.key, options)
}

/** Messages in it; undefined if this user may not look. */
export function countOf(target: Target): number | undefined {
  try {
    const queue = openTarget(target, { access: 'read' })
    const { messages } = queue instanceof PosixQueue ? queue.attributes : queue.stat()
    void queue.close()
    return messages
  } catch (error) {
    if ((error as QueueError).code === 'EACCES') return undefined
    throw error
  }
}
