// Messages that tell whether they are lost, doubled, out of order or changed: who sent them, a number, a hash of both,
// and bytes that follow from it, of a length that follows from it.

const HEADER = 12
export const LONGEST = 128

const table = Buffer.alloc(4096 + LONGEST)
for (let i = 0, state = 1; i < table.length; i++) {
  state = (Math.imul(state, 1664525) + 1013904223) | 0
  table[i] = state >>> 24
}

const hashOf = (source, number) => Math.imul((Math.imul(source + 1, 0x85ebca6b) ^ number) >>> 0, 0x9e3779b1) >>> 0

const bodyOf = (hash) => {
  const start = hash & 4095
  return table.subarray(start, start + ((hash >>> 12) % (LONGEST - HEADER)))
}

/** The bytes of a message; valid until the next call. */
export function write(buffer, source, number) {
  const hash = hashOf(source, number)
  buffer.writeUInt32LE(source, 0)
  buffer.writeUInt32LE(number, 4)
  buffer.writeUInt32LE(hash, 8)
  const body = bodyOf(hash)
  buffer.set(body, HEADER)
  return buffer.subarray(0, HEADER + body.length)
}

/** @returns who sent it and its number, or undefined if it is torn */
export function read(bytes) {
  if (bytes.length < HEADER) return undefined
  const source = bytes.readUInt32LE(0)
  const number = bytes.readUInt32LE(4)
  const hash = hashOf(source, number)
  const body = bodyOf(hash)
  const whole = bytes.readUInt32LE(8) === hash && bytes.length === HEADER + body.length
  return whole && bytes.compare(body, 0, body.length, HEADER) === 0 ? { source, number } : undefined
}
