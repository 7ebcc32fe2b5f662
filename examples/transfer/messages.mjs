// How lines become messages, and messages become lines again.
//
// A message is a header of 16 bytes and a piece of a line:
//   0  time of sending, in nanoseconds of CLOCK_MONOTONIC, which all processes share
//   8  sequence number
//  12  what it is: see below
const HEADER = 16

/** The line goes on in the next message. */
const PIECE = 0
/** The line ends here, without its newline; an empty line has nothing else. */
const LINE = 1
/** Nothing follows. Of the lowest rank and sent last, it is received last. */
export const END = 2

const NEWLINE = 10

/** Headings overtake imports and exports, and these the rest. */
function rankOf(line) {
  if (line[0] === 0x23) return 9 // #
  const start = line.toString('latin1', 0, 7)
  return start === 'import ' || start === 'export ' ? 5 : 0
}

function encode(sequence, kind, piece) {
  const data = Buffer.allocUnsafe(HEADER + piece.length)
  data.writeBigUInt64LE(process.hrtime.bigint(), 0)
  data.writeUInt32LE(sequence, 8)
  data.writeUInt32LE(kind, 12)
  data.set(piece, HEADER)
  return data
}

export function decode(data) {
  return {
    sentAt: data.readBigUInt64LE(0),
    sequence: data.readUInt32LE(8),
    kind: data.readUInt32LE(12),
    piece: data.subarray(HEADER),
  }
}

/**
 * The messages of a text, each made when it is asked for; `position` is how much
 * of the text has been sent with it.
 */
export function* toMessages(text, messageSize) {
  const room = messageSize - HEADER
  let sequence = 0
  let position = 0
  while (position < text.length) {
    const lineEnd = text.indexOf(NEWLINE, position)
    const rank = rankOf(text.subarray(position, lineEnd))
    while (lineEnd - position > room) {
      const piece = text.subarray(position, position + room)
      position += room
      yield { data: encode(sequence++, PIECE, piece), rank, position }
    }
    const rest = text.subarray(position, lineEnd)
    position = lineEnd + 1
    yield { data: encode(sequence++, LINE, rest), rank, position }
  }
  yield { data: encode(sequence, END, Buffer.alloc(0)), rank: 0, position }
}

const newline = Buffer.of(NEWLINE)

/** Puts messages that came by rank back into the order of the text. */
export class Reassembly {
  /** Messages that overtook others, by sequence number. */
  #early = new Map()
  #next = 0

  /** The bytes that can be written now that this message is there. */
  add(message) {
    this.#early.set(message.sequence, message)
    const ready = []
    while (this.#early.has(this.#next)) {
      const next = this.#early.get(this.#next)
      this.#early.delete(this.#next++)
      ready.push(next.piece)
      if (next.kind === LINE) ready.push(newline)
    }
    return ready
  }
}
