// What is sent, as bytes, and back.
import { invalidType } from '../errors.ts'
import type { Format } from './transport.ts'

export const bytesOf = (body: Uint8Array): Buffer =>
  Buffer.isBuffer(body) ? body : Buffer.from(body.buffer, body.byteOffset, body.byteLength)

/** A copy: the caller may use his bytes again. */
export function encode(body: unknown): { bytes: Uint8Array; format: Format } {
  if (typeof body === 'string') return { bytes: Buffer.from(body), format: 'text' }
  if (ArrayBuffer.isView(body)) {
    return { bytes: new Uint8Array(bytesOf(body as Uint8Array)), format: 'bytes' }
  }
  if (body instanceof ArrayBuffer) return { bytes: new Uint8Array(body.slice(0)), format: 'bytes' }
  const text = JSON.stringify(body)
  if (text === undefined) throw invalidType('body', 'bytes, a string, or a value that JSON has', body)
  return { bytes: Buffer.from(text), format: 'json' }
}

/** What was sent, as it was given. */
export function decode(body: Uint8Array, format: Format): unknown {
  const bytes = bytesOf(body)
  if (format === 'bytes') return bytes
  const text = bytes.toString()
  return format === 'text' ? text : JSON.parse(text)
}
