// What streams, subjects and consumers are called, and which of them a message goes to.
import { createHash } from 'node:crypto'
import type { Outgoing } from '../../transport.ts'

/** Into how many partitions keys are hashed. It must be the same for all who use a queue. */
export const PARTITIONS = 16

/** A stream may have a name of 255 characters, which is the name of a directory, too. */
const LONGEST = 150

/** Letters, digits, `_` and `-` as they are, all else as `=2F`: no dots, no wildcards. */
export const tokenOf = (text: string): string =>
  Array.from(Buffer.from(text), (byte) => {
    const char = String.fromCharCode(byte)
    return /[\w-]/.test(char) ? char : `=${byte.toString(16).toUpperCase().padStart(2, '0')}`
  }).join('')

/** The name of a queue, as a part of names and subjects. */
export function nameOf(queue: string): string {
  const token = tokenOf(queue)
  if (token.length <= LONGEST) return token
  return `${token.slice(0, LONGEST - 50)}==${createHash('sha1').update(queue).digest('hex')}`
}

/**
 * A part of a queue, by the name of its consumer: `p` and a priority; `k` and a partition, one message at a time; `d`,
 * what was sent with a delay.
 */
export type LaneName = `p${number}` | `k${number}` | 'd'

export const isLane = (name: string): name is LaneName => /^(?:p\d+|k\d+|d)$/.test(name)

/** What the subjects of a lane end with. */
export function filterOf(lane: LaneName): string {
  return lane === 'd' ? 'd.>' : `${lane[0]}.${lane.slice(1)}`
}

/** The other way round; undefined if it is none of ours. */
export function laneAt(end: string): LaneName | undefined {
  const [kind = '', number = ''] = end.split('.')
  const lane = kind === 'd' ? kind : `${kind}${number}`
  return isLane(lane) && filterOf(lane) === (lane === 'd' ? 'd.>' : end) ? lane : undefined
}

export function laneOf({ key, priority, due }: Pick<Outgoing, 'key' | 'priority' | 'due'>, now: number): LaneName {
  if (due > now) return 'd'
  return key === undefined ? `p${priority}` : `k${partitionOf(key)}`
}

function partitionOf(key: string): number {
  return createHash('sha1').update(key).digest().readUInt32BE(0) % PARTITIONS
}
