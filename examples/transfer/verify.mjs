// Whether what the receiver wrote is what was sent.
import { createHash } from 'node:crypto'

const sha256 = (bytes) => createHash('sha256').update(bytes).digest('hex')

/** Checks that both texts have the same checksum, and returns it. */
export function checkText(received, sent) {
  const digest = sha256(sent)
  if (sha256(received) === digest) return digest
  let offset = 0
  while (offset < sent.length && sent[offset] === received[offset]) offset++
  const line = sent.subarray(0, offset).toString('latin1').split('\n').length
  throw new Error(`${received.length} bytes arrived and ${sent.length} were sent; they differ from line ${line} on`)
}

/** Sequence numbers by rank, in order. */
function byRank(messages) {
  const groups = new Map()
  for (const { sequence, rank } of messages) {
    if (!groups.has(rank)) groups.set(rank, [])
    groups.get(rank).push(sequence)
  }
  return groups
}

/** How many arrived before one that was sent earlier. */
function countOvertaking(arrivals) {
  let earliest = Number.POSITIVE_INFINITY
  return arrivals.reduceRight((count, { sequence }) => {
    if (sequence > earliest) return count + 1
    earliest = sequence
    return count
  }, 0)
}

/**
 * Checks that every message arrived once, with the rank it was sent with,
 * and after all that were sent before it with that rank.
 *
 * @param {string} log a line for each message as it arrived: sequence number, rank
 * @param {number[]} ranks of the messages as they were sent
 */
export function checkOrder(log, ranks) {
  const arrivals = [...log.matchAll(/^(\d+) (\d+)$/gm)].map(([, sequence, rank]) => ({
    sequence: Number(sequence),
    rank: Number(rank),
  }))
  const sent = byRank(ranks.map((rank, sequence) => ({ sequence, rank })))
  const arrived = byRank(arrivals)
  for (const rank of new Set([...sent.keys(), ...arrived.keys()])) {
    const wanted = sent.get(rank) ?? []
    const got = arrived.get(rank) ?? []
    for (let index = 0; index < Math.max(wanted.length, got.length); index++) {
      if (wanted[index] === got[index]) continue
      throw new Error(
        `of rank ${rank}, message ${got[index] ?? 'nothing'} came where ${wanted[index] ?? 'nothing'} was sent`,
      )
    }
  }
  return { ranks: sent.size, overtaking: countOvertaking(arrivals) }
}
