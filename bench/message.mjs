// Messages that can be verified: their number, 4 bytes of nothing, the time at
// which they were sent, a pattern, and a hash of the number. c/bench.h says the same.

const STAMP = 8
const PATTERN = 16
const HASH_BYTES = 4
/** Of so many messages in a timed round, all bytes of one are compared. */
const SAMPLE = 64

const hash = (number) => Math.imul(number, 0x9e3779b1)

/** A message without a number. */
function blank(size) {
  const bytes = Buffer.from(new ArrayBuffer(size))
  let state = 1
  for (let i = PATTERN; i < size; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) | 0
    bytes[i] = state >>> 24
  }
  return bytes
}

const wordAt = (bytes, at) => bytes[at] | (bytes[at + 1] << 8) | (bytes[at + 2] << 16) | (bytes[at + 3] << 24)

/** Makes the messages that are sent, all in the same memory. */
export class Maker {
  #bytes
  #words
  #stamped
  #number = 0

  constructor(size, { stamped = false } = {}) {
    this.#bytes = blank(size)
    this.#words = new Int32Array(this.#bytes.buffer)
    this.#stamped = stamped
  }

  next() {
    const number = this.#number++
    this.#words[0] = number
    this.#words[this.#words.length - 1] = hash(number)
    if (this.#stamped) this.#bytes.writeBigInt64LE(process.hrtime.bigint(), STAMP)
    return this.#bytes
  }
}

/** Verifies the messages that are received, in which each has the number it should have, and takes the time. */
export class Checker {
  /** How many came. */
  messages = 0
  #expected
  #size
  #command
  #laps
  #stamped
  #start = 0n
  #end = 0n

  /**
   * @param command what a round asks for: `warm` messages, then `count` that are timed
   * @param laps whether to keep the time of each
   */
  constructor(size, command, { laps = false, stamped = false } = {}) {
    this.#size = size
    this.#expected = blank(size)
    this.#command = command
    this.#stamped = stamped
    if (laps || stamped) this.#laps = new BigInt64Array(command.count + 1)
  }

  /** @param bytes a message, or what it was received into */
  check(bytes, length = bytes.length) {
    const number = this.messages++
    if (
      length !== this.#size ||
      wordAt(bytes, 0) !== number ||
      wordAt(bytes, length - HASH_BYTES) !== hash(number) ||
      ((this.#command.full || number % SAMPLE === 0) && !this.#isWhole(bytes))
    ) {
      throw new Error(`message ${number} is lost or corrupt`)
    }
    const timed = number - this.#command.warm
    if (this.#laps !== undefined && timed >= 0) this.#lap(timed, bytes)
    this.#time(timed)
  }

  /** Whether the next message is one of the sample, where looking at each would take a good part of the time. */
  get isDue() {
    return this.#command.full || this.messages % SAMPLE === 0
  }

  /** Counts a message that is not looked at. */
  count() {
    this.#time(this.messages++ - this.#command.warm)
  }

  #time(timed) {
    if (timed === 0) this.#start = process.hrtime.bigint()
    else if (timed === this.#command.count) this.#end = process.hrtime.bigint()
  }

  #isWhole(bytes) {
    const end = this.#size - HASH_BYTES
    return this.#expected.compare(bytes, PATTERN, end, PATTERN, end) === 0
  }

  #lap(timed, bytes) {
    const now = process.hrtime.bigint()
    this.#laps[timed] = this.#stamped ? now - Buffer.from(bytes.buffer, bytes.byteOffset).readBigInt64LE(STAMP) : now
  }

  get result() {
    const { count, warm } = this.#command
    if (this.messages !== warm + count + 1) {
      throw new Error(`${this.messages} messages came instead of ${warm + count + 1}`)
    }
    const result = { nanoseconds: Number(this.#end - this.#start) / count, messages: this.messages }
    if (this.#laps === undefined) return result
    const points = Array.from(this.#laps, Number)
    const laps = points.slice(1).map((point, index) => (this.#stamped ? point : point - points[index]))
    return { ...result, laps }
  }
}
