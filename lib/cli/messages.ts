// Messages of both families: as options choose them, as JSON shows them, and from one family to the other.
import { isUtf8 } from 'node:buffer'
import type { PosixMessage, SysvMessage, SysvType } from '../index.ts'
import { toInteger } from './command.ts'
import { Failure, UsageError } from './errors.ts'
import type { Target } from './target.ts'

export type Family = Target['family']

export type KernelMessage = PosixMessage | SysvMessage

/** What both families can send; each takes what is its own. */
export interface Item {
  readonly data: Buffer
  readonly priority?: number
  readonly type?: SysvType
}

const MAX_PRIORITY = 32767

/** How many messages go with one call, and how many bytes they may have at most. */
const BATCH = 256
const BATCH_BYTES = 2 ** 20

/** @param longest bytes of a message */
export const batchOf = (longest: number): number =>
  Math.min(BATCH, Math.max(1, Math.floor(BATCH_BYTES / Math.max(longest, 1))))

/** A type of System V: to receive, 0 and negative ones too. */
function toType(value: string | undefined, least: '1' | 'any'): SysvType | undefined {
  if (value === undefined) return undefined
  const type = /^-?\d{1,19}$/.test(value) ? BigInt(value) : undefined
  const lowest = least === '1' ? 1n : -(2n ** 63n)
  if (type === undefined || type < lowest || type >= 2n ** 63n)
    throw new UsageError(
      `--type is an integer from ${least === '1' ? '1' : '-2^63'} to 2^63-1, not '${value}' (negative: --type=-3)`,
    )
  return Number.isSafeInteger(Number(type)) ? Number(type) : type
}

export const toCount = (value: string | undefined): number | undefined =>
  toInteger('count', value, 1, Number.MAX_SAFE_INTEGER)

/** What a queue sends beside the data, as --priority or --type say it. */
export function toTag(
  target: Target,
  options: { readonly priority?: string | undefined; readonly type?: string | undefined },
): Pick<Item, 'priority' | 'type'> {
  const { priority, type } = options
  if (target.family === 'posix') {
    if (type !== undefined)
      throw new UsageError(`${target.text} is a POSIX queue: it has priorities (--priority), not types`)
    return priority === undefined ? {} : { priority: toInteger('priority', priority, 0, MAX_PRIORITY) }
  }
  if (priority !== undefined)
    throw new UsageError(`${target.text} is a System V queue: it has types (--type), not priorities`)
  const number = toType(type, '1')
  return number === undefined ? {} : { type: number }
}

/** What to receive, as --type and --except say it. */
export function toSelection(
  target: Target,
  { type, except = false }: { readonly type?: string | undefined; readonly except?: boolean | undefined },
): { type: SysvType; except: boolean } | undefined {
  const number = toType(type, 'any')
  if (except && (number === undefined || number <= 0)) throw new UsageError('--except goes with a --type above 0')
  if (number === undefined) return undefined
  if (target.family === 'posix')
    throw new UsageError(
      `${target.text} is a POSIX queue: it gives the oldest of the highest priority, and nothing can be chosen`,
    )
  return { type: number, except }
}

/**
 * The same message for a queue of the family: priority p is type p+1, so that what is default in one is so in the
 * other. Inverted it is type 32768-p: for receivers that take the lowest type first (--type=-n).
 *
 * @throws {Failure} for a type that is no priority
 */
export function itemFor(family: Family, { data, priority, type }: Item, inverted = false): Item {
  if (family === 'sysv') {
    if (type !== undefined) return { data, type }
    return { data, type: inverted ? MAX_PRIORITY + 1 - (priority ?? 0) : (priority ?? 0) + 1 }
  }
  if (priority !== undefined || type === undefined) return { data, priority: priority ?? 0 }
  if (type > MAX_PRIORITY + 1)
    throw new Failure(
      `a message of type ${type} has no priority: those of types 1 to ${MAX_PRIORITY + 1} have`,
      'Give all one priority: --priority.',
    )
  return { data, priority: inverted ? MAX_PRIORITY + 1 - Number(type) : Number(type) - 1 }
}

/** A type beyond 2^53-1 is a string: most readers of JSON would round it. */
const typeToJson = (type: SysvType): number | string => (typeof type === 'bigint' ? String(type) : type)

/** `priority` or `type`. */
export function tagToJson({ priority, type }: Item): { priority?: number; type?: number | string } {
  return {
    ...(priority !== undefined && { priority }),
    ...(type !== undefined && { type: typeToJson(type) }),
  }
}

/** The data as text if it is UTF-8, else as base64. */
export function messageToJson(message: KernelMessage): object {
  const { data } = message
  return {
    ...(isUtf8(data) ? { text: data.toString() } : { base64: data.toString('base64') }),
    bytes: data.length,
    ...tagToJson(message),
  }
}

/**
 * What {@link messageToJson} made; members that it does not know are no matter.
 *
 * @throws {Failure} if it is none
 */
export function messageFromJson(line: string): Item {
  const value = parseObject(line)
  const { text, base64, priority, type } = value
  if ((typeof text === 'string') === (typeof base64 === 'string'))
    throw new Failure('expected an object with either "text" or "base64", a string')
  const data = typeof text === 'string' ? Buffer.from(text) : Buffer.from(base64 as string, 'base64')
  if (typeof base64 === 'string' && data.toString('base64') !== base64) throw new Failure('"base64" is damaged')
  if (value.bytes !== undefined && value.bytes !== data.length)
    throw new Failure(`"bytes" is ${value.bytes}, but there are ${data.length}`)
  if (
    priority !== undefined &&
    !(Number.isInteger(priority) && Number(priority) >= 0 && Number(priority) <= MAX_PRIORITY)
  )
    throw new Failure(`"priority" is an integer from 0 to ${MAX_PRIORITY}`)
  return {
    data,
    ...(priority !== undefined && { priority: priority as number }),
    ...(type !== undefined && { type: typeFromJson(type) }),
  }
}

function typeFromJson(value: unknown): SysvType {
  try {
    const type = toType(String(value), '1')
    if (type !== undefined) return type
  } catch {}
  throw new Failure('"type" is an integer from 1 to 2^63-1, as a string beyond 2^53-1')
}

export function parseObject(line: string): Record<string, unknown> {
  let value: unknown
  try {
    value = JSON.parse(line)
  } catch (error) {
    throw new Failure(`this is no JSON: ${(error as Error).message}`)
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new Failure('expected a JSON object')
  return value as Record<string, unknown>
}

export function plural(count: number, what = 'message'): string {
  return `${count} ${what}${count === 1 ? '' : 's'}`
}
