// Many small messages in one message of the kernel.
//
// The header is a magic number (4 bytes; all numbers have their lowest byte first), the number of the pack (6), its source
// (6), and the time in milliseconds since the epoch (8, floating point). Then come the messages: flags (1), length (2);
// if the flags say so, the length of the properties (2) and these, in JSON; the body.
import { randomBytes } from 'node:crypto'
import { outOfRange, QueueError } from '../../../errors.ts'
import { type Delivery, type Format, MAX_NAME, NO_HEADERS, type Outgoing } from '../../transport.ts'

/** Says that a message of the kernel is a pack; of any other, all bytes are one message. */
const MAGIC = 0x516d6bd3
const HEADER = 24
const ENTRY = 3
const PROPERTIES = 2
const LONGEST = 0xffff

/** The last that a Date can be. */
const MAX_DATE = 8.64e15

const FORMAT = 0b0011
const formats: readonly Format[] = ['bytes', 'text', 'json']
const HAS_PROPERTIES = 0b0100
/** The bytes are the name of a file that has them. */
const IN_FILE = 0b1000
/** The longest name of a file. */
const NAME = 64
/** What is noted of a message that is given back: how often it was tried, and when it was sent. */
const GROWTH = 48
/** Bytes that a message of the kernel has to have room for. */
export const LEAST = 256

/** Of this thread; with the number of the pack it makes the ids of messages that were given none. */
const source = randomBytes(6)
let sequence = 0

/** What few messages have; the names are short since they travel. */
interface Properties {
  i?: string
  k?: string
  h?: Readonly<Record<string, string>>
  /** When it is no longer wanted. */
  x?: number
  /** How often it was tried. */
  a?: number
  /** When it was sent first, if it was given back. */
  s?: number
}

/** What became of a body that is not in its pack. */
interface Found {
  readonly body?: Buffer
  readonly damage?: Error
}

const NO_PROPERTIES: Readonly<Properties> = Object.freeze({})

/** A message to pack; one that was received is one, too. */
export interface Packable
  extends Pick<Outgoing, 'id' | 'key' | 'priority' | 'body' | 'format' | 'headers' | 'expires'> {
  readonly attempts?: number
  readonly sentAt?: number
}

/** Where bodies are that no pack has room for. */
export interface Files {
  /** Returns the name of its file, of at most 64 letters. */
  write(body: Uint8Array): string
  /** Removes it, too. */
  take(name: string): Buffer
  remove(name: string): void
}

/** More than an empty pack and a message need, apart from the id, headers and the body. */
const SPARE = 256

/**
 * Whether a message has room in an empty pack, with its body; else that goes in a file.
 *
 * @throws {RangeError} if it has none, apart from its body
 */
export function checkLength(message: Packable, size: number): boolean {
  const { id, body, headers } = message
  // A unit of a string is six bytes of JSON at most.
  if (headers === undefined && id.length * 6 + body.byteLength <= Math.min(size, LONGEST) - SPARE) return true
  const { byteLength } = Buffer.from(JSON.stringify(propertiesOf(message)))
  return body.byteLength <= checkProperties(byteLength, Math.min(size, LONGEST), message)
}

/** @returns the bytes that are left for the body */
function checkProperties(length: number, size: number, { sentAt }: Packable): number {
  const room = size - HEADER - ENTRY - PROPERTIES
  // It grows when it is given back.
  const least = sentAt === undefined ? NAME + GROWTH : NAME
  if (room - length < least) throw outOfRange('headers', `at most ${room - least} bytes`, length)
  return room - length
}

/** A pack that takes no more; `files` are those of the bodies that have no room in it. */
export interface Sealed {
  readonly bytes: Buffer
  readonly files: readonly string[]
}

/** Takes messages until the next one has no room. */
export class Packer {
  readonly #size: number
  #memory: Buffer
  #end = HEADER
  #files: string[] = []
  /** Messages. */
  count = 0

  /** @param size bytes of a message of the kernel */
  constructor(size: number) {
    this.#size = Math.min(size, LONGEST)
    this.#memory = Buffer.allocUnsafeSlow(this.#size)
  }

  /** A text, or JSON, and nothing else; false if it has no room. */
  addText(text: string, format: Format): boolean {
    const start = this.#end + ENTRY
    const room = this.#size - start
    // A unit of a string is three bytes at most.
    if (text.length * 3 > room && Buffer.byteLength(text) > room) return false
    this.#finish(formats.indexOf(format), this.#memory.write(text, start))
    return true
  }

  /** Bytes, and nothing else; false if they have no room. */
  addBytes(bytes: Uint8Array): boolean {
    const start = this.#end + ENTRY
    if (bytes.byteLength > this.#size - start) return false
    this.#memory.set(bytes, start)
    this.#finish(0, bytes.byteLength)
    return true
  }

  #finish(flags: number, length: number): void {
    const memory = this.#memory
    const at = this.#end
    memory[at] = flags
    memory[at + 1] = length
    memory[at + 2] = length >> 8
    this.#end = at + ENTRY + length
    this.count++
  }

  /** False if it has no room; it has where nothing is, unless that is an error. */
  add(message: Packable, files: Files): boolean {
    const properties = Buffer.from(JSON.stringify(propertiesOf(message)))
    const fixed = PROPERTIES + properties.byteLength
    const most = checkProperties(properties.byteLength, this.#size, message)
    const isLarge = message.body.byteLength > most
    const start = this.#end + ENTRY
    if (fixed + (isLarge ? NAME : message.body.byteLength) > this.#size - start) return false
    const body = isLarge ? Buffer.from(this.#write(message.body, files)) : message.body
    this.#memory.writeUInt16LE(properties.byteLength, start)
    this.#memory.set(properties, start + PROPERTIES)
    this.#memory.set(body, start + fixed)
    const flags = formats.indexOf(message.format) | HAS_PROPERTIES | (isLarge ? IN_FILE : 0)
    this.#finish(flags, fixed + body.byteLength)
    return true
  }

  #write(body: Uint8Array, files: Files): string {
    const name = files.write(body)
    this.#files.push(name)
    return name
  }

  /** The message of the kernel; its bytes last until {@link clear}. */
  seal(now: number): Sealed {
    const memory = this.#memory
    memory.writeUInt32LE(MAGIC)
    memory.writeUIntLE(sequence++, 4, 6)
    memory.set(source, 10)
    memory.writeDoubleLE(now, 16)
    return { bytes: memory.subarray(0, this.#end), files: this.#files }
  }

  /** Begins anew; what was sealed lives on if it was `kept`. */
  clear(kept: boolean): void {
    if (kept) this.#memory = Buffer.allocUnsafeSlow(this.#size)
    this.#end = HEADER
    this.count = 0
    if (this.#files.length > 0) this.#files = []
  }
}

function propertiesOf({ id, key, headers, expires, attempts, sentAt }: Packable): Properties {
  return {
    ...(id !== '' && { i: id }),
    ...(key !== undefined && { k: key }),
    ...(headers !== undefined && { h: headers }),
    ...(expires > 0 && { x: expires }),
    ...(attempts !== undefined && { a: attempts }),
    ...(sentAt !== undefined && { s: sentAt }),
  }
}

/** A message of the kernel, whose bytes its messages share. */
interface Pack {
  readonly bytes: Buffer
  readonly queue: string
  readonly priority: number
  readonly sentAt: number
}

/** A message of a pack; most of what it has is found out when somebody asks: there may be millions a second. */
export class Packed implements Delivery, Packable {
  readonly #pack: Pack
  readonly #start: number
  readonly #end: number
  readonly #flags: number
  #properties: Properties
  #found: Found | undefined

  constructor(pack: Pack, start: number, end: number, flags: number, properties: Properties, found?: Found) {
    this.#pack = pack
    this.#start = start
    this.#end = end
    this.#flags = flags
    this.#properties = properties
    this.#found = found
  }

  get token(): this {
    return this
  }

  get queue(): string {
    return this.#pack.queue
  }

  /** Of one that was given none, its place says which it is. */
  get id(): string {
    return this.#properties.i ?? `${this.#pack.bytes.toString('hex', 4, 16)}-${this.#start}`
  }

  get body(): Buffer {
    return this.#found?.body ?? this.#pack.bytes.subarray(this.#start, this.#end)
  }

  get format(): Format {
    return formats[this.#flags & FORMAT] as Format
  }

  get key(): string | undefined {
    return this.#properties.k
  }

  get priority(): number {
    return this.#pack.priority
  }

  get headers(): Readonly<Record<string, string>> {
    return this.#properties.h ?? NO_HEADERS
  }

  get expires(): number {
    return this.#properties.x ?? 0
  }

  get attempts(): number {
    return this.#properties.a ?? 0
  }

  get sentAt(): number {
    return this.#properties.s ?? this.#pack.sentAt
  }

  get losses(): number {
    return 0
  }

  get suspect(): boolean {
    return false
  }

  get damage(): Error | undefined {
    return this.#found?.damage
  }

  /** It was handled, and failed. */
  fail(): void {
    this.#properties = { ...this.#properties, a: this.attempts + 1 }
  }

  /** Its body is in a file, which is read now and goes. */
  fetch(files: Files): void {
    if ((this.#flags & IN_FILE) === 0) return
    try {
      this.#found = { body: files.take(this.body.toString()) }
    } catch (error) {
      this.#found = { damage: error as Error }
    }
  }
}

/** Whatever was not made by {@link Packer} is one message of bytes. What nobody wants any more is left out. */
export function unpack(
  bytes: Buffer,
  { queue, priority }: Pick<Pack, 'queue' | 'priority'>,
  now: number,
  files: Files,
): Packed[] {
  const end = bytes.byteLength
  if (end < HEADER || bytes.readUInt32LE() !== MAGIC) {
    return [new Packed({ bytes, queue, priority, sentAt: now }, 0, end, 0, NO_PROPERTIES)]
  }
  const time = bytes.readDoubleLE(16)
  const pack: Pack = { bytes, queue, priority, sentAt: time > 0 && time <= MAX_DATE ? time : now }
  const messages: Packed[] = []
  for (let at = HEADER; at < end; ) {
    const flags = bytes[at] as number
    const start = at + ENTRY
    at = start + (bytes[at + 1] as number) + ((bytes[at + 2] as number) << 8)
    if (flags < formats.length && at <= end) {
      messages.push(new Packed(pack, start, at, flags, NO_PROPERTIES))
      continue
    }
    const message = withProperties(pack, start, at, flags)
    message.fetch(files)
    if (message.expires === 0 || message.expires > now) messages.push(message)
  }
  return messages
}

/** Anybody who may send can send anything. */
function withProperties(pack: Pack, start: number, end: number, flags: number): Packed {
  try {
    const from = start + PROPERTIES + pack.bytes.readUInt16LE(start)
    const isKnown = (flags & FORMAT) < formats.length && flags <= (FORMAT | HAS_PROPERTIES | IN_FILE)
    if (!isKnown || from > end || end > pack.bytes.byteLength) throw new RangeError('it is cut, or of another version')
    const properties: unknown = JSON.parse(pack.bytes.toString('utf8', start + PROPERTIES, from))
    if (!areProperties(properties)) throw new TypeError('its properties are none')
    return new Packed(pack, from, end, flags, properties)
  } catch (cause) {
    const detail = (cause as Error).message
    const damage = Object.assign(new QueueError('ERR_BUS_DAMAGED', { syscall: 'receive', detail }), { cause })
    return new Packed(pack, start, Math.min(end, pack.bytes.byteLength), 0, NO_PROPERTIES, { damage })
  }
}

/** Whether a bus may have made them: what it would not take is nothing that it could pass on. */
function areProperties(value: unknown): value is Properties {
  if (typeof value !== 'object' || value === null) return false
  const { i = 'id', k = 'key', h = {}, x = 0, a = 0, s = 0 } = value as Record<string, unknown>
  const isRecord = typeof h === 'object' && h !== null && Object.values(h).every((one) => typeof one === 'string')
  const areTexts = [i, k].every((one) => typeof one === 'string' && one.length > 0 && one.length <= MAX_NAME)
  return isRecord && areTexts && [x, a, s].every((one) => typeof one === 'number' && one >= 0 && one <= MAX_DATE)
}
