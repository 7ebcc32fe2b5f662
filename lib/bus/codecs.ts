// What happens to bodies between a queue and its transport: compression, encryption, signatures.
import { createCipheriv, createDecipheriv, createHmac, randomBytes, timingSafeEqual } from 'node:crypto'
import { brotliCompressSync, brotliDecompressSync, constants, gunzipSync, gzipSync } from 'node:zlib'
import { checkInteger, invalidValue } from '../errors.ts'

/** Applied to each body that is sent, in the order of the list, and undone in reverse. */
export interface Codec {
  /** What stands in the header of what it was applied to; a letter, then letters and digits. */
  readonly name: string
  /**
   * The new body, and what is needed to undo it; undefined leaves the body as it is. `bound` says how it was given and what was
   * applied before: authenticate it, too.
   */
  encode(body: Uint8Array, bound: string): { body: Uint8Array; parameters?: string } | undefined
  /** @throws if it cannot be undone; the message is a dead letter then */
  decode(body: Uint8Array, parameters: string, bound: string): Uint8Array
  /** Whether a message without it is refused. */
  readonly required?: boolean
}

export interface CompressOptions {
  /** Default: `gzip`. */
  algorithm?: 'gzip' | 'brotli' | undefined
  /** Smaller bodies stay as they are; bytes. Default: 1024. */
  threshold?: number | undefined
}

/** No body becomes larger than that; a small one could become gigabytes. */
const MAX_LENGTH = 2 ** 30

/** Compresses bodies that become smaller by it. */
export function compress({ algorithm = 'gzip', threshold = 1024 }: CompressOptions = {}): Codec {
  checkInteger('"threshold" option', threshold, 0, Number.MAX_SAFE_INTEGER)
  const params = { [constants.BROTLI_PARAM_QUALITY]: 4 }
  const [pack, unpack] = {
    gzip: [gzipSync, gunzipSync] as const,
    brotli: [(body: Uint8Array) => brotliCompressSync(body, { params }), brotliDecompressSync] as const,
  }[algorithm]
  return {
    name: algorithm,
    encode(body) {
      if (body.byteLength < threshold) return undefined
      const packed = pack(body)
      return packed.byteLength < body.byteLength ? { body: packed } : undefined
    },
    decode: (body) => unpack(body, { maxOutputLength: MAX_LENGTH }),
  }
}

/** Keys by their names: 32 bytes each, or these as base64. */
export type Keys = Readonly<Record<string, string | Uint8Array>>

export interface KeyOptions {
  keys: Keys
  /** The name of the key to use; the others are for what was sent before. */
  current: string
}

const NAME = /^[\w-]{1,64}$/

function readKeys({ keys, current }: KeyOptions): { keys: ReadonlyMap<string, Buffer>; current: string } {
  const read = new Map<string, Buffer>()
  for (const [name, key] of Object.entries(keys)) {
    if (!NAME.test(name)) throw invalidValue('name of the key', '1 to 64 letters, digits, "_" or "-"', name)
    const bytes = typeof key === 'string' ? Buffer.from(key, 'base64') : Buffer.from(key)
    if (bytes.byteLength !== 32) throw invalidValue(`key "${name}"`, '32 bytes', `${bytes.byteLength} bytes`)
    read.set(name, bytes)
  }
  if (!read.has(current)) throw invalidValue('"current" option', 'the name of one of the keys', current)
  return { keys: read, current }
}

function keyOf(keys: ReadonlyMap<string, Buffer>, name: string): Buffer {
  const key = keys.get(name)
  if (key === undefined) throw new Error(`There is no key "${name}" any more, or not yet`)
  return key
}

const IV = 12
const TAG = 16

/** AES-256-GCM. To rotate, add a key everywhere, then make it the current one, and take the old one away when all is read. */
export function encrypt(options: KeyOptions): Codec {
  const { keys, current } = readKeys(options)
  return {
    name: 'aes256gcm',
    required: true,
    encode(body, bound) {
      const iv = randomBytes(IV)
      const cipher = createCipheriv('aes-256-gcm', keyOf(keys, current), iv).setAAD(Buffer.from(bound))
      const secret = Buffer.concat([iv, cipher.update(body), cipher.final()])
      return { body: Buffer.concat([secret, cipher.getAuthTag()]), parameters: current }
    },
    decode(body, name, bound) {
      if (body.byteLength < IV + TAG) throw new Error('The body is too short to be encrypted')
      const decipher = createDecipheriv('aes-256-gcm', keyOf(keys, name), body.subarray(0, IV), { authTagLength: TAG })
      decipher.setAAD(Buffer.from(bound)).setAuthTag(body.subarray(-TAG))
      return Buffer.concat([decipher.update(body.subarray(IV, -TAG)), decipher.final()])
    },
  }
}

/**
 * HMAC-SHA-256: who has no key cannot make or change a body, though all can read it. What else a message has is not signed:
 * one that was sent can be sent again by anybody, with other headers, under another id, to another queue.
 */
export function sign(options: KeyOptions): Codec {
  const { keys, current } = readKeys(options)
  const signatureOf = (body: Uint8Array, name: string, bound: string) =>
    createHmac('sha256', keyOf(keys, name)).update(bound).update('\0').update(body).digest()
  return {
    name: 'hmac',
    required: true,
    encode: (body, bound) => ({
      body,
      parameters: `${current}=${signatureOf(body, current, bound).toString('base64url')}`,
    }),
    decode(body, parameters, bound) {
      const [name = '', signature = ''] = parameters.split('=')
      const expected = signatureOf(body, name, bound)
      const given = Buffer.from(signature, 'base64url')
      if (given.length !== expected.length || !timingSafeEqual(given, expected))
        throw new Error('The signature is not right')
      return body
    },
  }
}

/** The header that says what was applied, in order. */
export const ENCODING = 'kmq-encoding'

/** With what was done to a body before: nobody is to leave a part of that out. */
const boundTo = (bound: string, applied: readonly string[]): string => [bound, ...applied].join(' ')

/** A list of codecs as one. */
export class Codecs {
  readonly #codecs: readonly Codec[]

  constructor(codecs: readonly Codec[]) {
    this.#codecs = codecs
  }

  get isEmpty(): boolean {
    return this.#codecs.length === 0
  }

  encode(body: Uint8Array, bound: string): { body: Uint8Array; headers: Record<string, string> | undefined } {
    const applied: string[] = []
    for (const codec of this.#codecs) {
      const encoded = codec.encode(body, boundTo(bound, applied))
      if (encoded === undefined) continue
      body = encoded.body
      applied.push(encoded.parameters === undefined ? codec.name : `${codec.name};${encoded.parameters}`)
    }
    return { body, headers: applied.length === 0 ? undefined : { [ENCODING]: applied.join(' ') } }
  }

  /** @throws if what was applied is not what is expected, or cannot be undone */
  decode(body: Uint8Array, headers: Readonly<Record<string, string>>, bound: string): Uint8Array {
    const applied = (headers[ENCODING] ?? '').split(' ').filter((entry) => entry !== '')
    const missing = this.#codecs.find(
      ({ name, required }) => required && !applied.some((entry) => entry.split(';')[0] === name),
    )
    if (missing !== undefined) throw new Error(`The body has no "${missing.name}"`)
    for (let entry = applied.pop(); entry !== undefined; entry = applied.pop()) {
      const [name = '', parameters = ''] = entry.split(/;(.*)/)
      const codec = this.#codecs.find((one) => one.name === name)
      if (codec === undefined) throw new Error(`The body has "${name}", which this bus has not`)
      body = codec.decode(body, parameters, boundTo(bound, applied))
    }
    return body
  }
}
