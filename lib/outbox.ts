// Messages on their way into a queue.
import { Buffer } from 'node:buffer'
import { constants } from 'node:os'
import { isAnyArrayBuffer } from 'node:util/types'
import { checkAttached, invalidType, invalidValue } from './errors.ts'
import { MAX_BATCH } from './native.ts'

/** What can be sent; strings are sent as UTF-8. It is copied when it is handed over. */
export type Data = string | ArrayBufferView | ArrayBufferLike

/** The bytes to send, not copied. */
export function toBytes(data: Data): Uint8Array {
  if (typeof data === 'string') return Buffer.from(data)
  if (data instanceof Uint8Array) {
    if (data.length === 0) checkAttached('"data" argument', data)
    return data
  }
  if (ArrayBuffer.isView(data)) {
    checkAttached('"data" argument', data)
    return new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
  }
  // Not instanceof: test runners and node:vm have realms of their own.
  if (isAnyArrayBuffer(data)) {
    try {
      return new Uint8Array(data)
    } catch {
      throw invalidValue('"data" argument', 'an ArrayBuffer that is not detached', data)
    }
  }
  throw invalidType('"data" argument', 'a string, an ArrayBufferView or an ArrayBuffer', data)
}

/** What the kernel keeps beside a message: its priority, or its type. */
export type Tag = number | bigint

/** How a family lays out its messages for a batch call. */
export interface Packing<O> {
  /** Words of the table for each message; the first is its length. */
  words: number
  /** Checks the options that come with a message. */
  tagOf(options: O | undefined): Tag
  setTag(table: Uint32Array, at: number, tag: Tag): void
  getTag(table: Uint32Array, at: number): Tag
  /** The number sent, or a negative errno. */
  send(bytes: Uint8Array, table: Uint32Array, from: number, to: number): number
}

/** The bytes that one batch call moves, unless messages are larger. */
export const BATCH_BYTES = 65536

const EAGAIN = -constants.errno.EAGAIN

function isOutgoing<O>(message: Data | ({ data: Data } & O)): message is { data: Data } & O {
  return typeof message === 'object' && message !== null && !ArrayBuffer.isView(message) && !isAnyArrayBuffer(message)
}

/** Messages of an iterable, packed so that one call sends many. */
export class Outbox<O> {
  readonly #messages: Iterator<Data | ({ data: Data } & O)>
  readonly #packing: Packing<O>
  readonly #table: Uint32Array
  #bytes: Uint8Array = new Uint8Array(0)
  #next = 0
  #count = 0
  #flushing = false
  sent = 0

  constructor(messages: Iterable<Data | ({ data: Data } & O)>, packing: Packing<O>) {
    if (typeof messages !== 'object' || messages === null || typeof messages[Symbol.iterator] !== 'function') {
      throw invalidType('"messages" argument', 'an iterable of messages', messages)
    }
    this.#messages = messages[Symbol.iterator]()
    this.#packing = packing
    this.#table = new Uint32Array(packing.words * MAX_BATCH)
  }

  /** Copies the first batch, which may have to wait. */
  prepare(): void {
    if (this.#count === 0) this.#fill()
  }

  /**
   * 0 when all is sent; EAGAIN if the queue is full, `most` are sent, or the
   * iterable itself led here; or another errno.
   */
  flush(most: number): number {
    if (this.#flushing) return EAGAIN
    this.#flushing = true
    try {
      return this.#flush(most)
    } finally {
      this.#flushing = false
    }
  }

  #flush(most: number): number {
    const end = this.sent + most
    while (this.#next < this.#count || this.#fill()) {
      if (this.sent >= end) return EAGAIN
      const result = this.#packing.send(this.#bytes, this.#table, this.#next, this.#count)
      if (result < 0) return result
      this.advance(result)
      // Full, as a rule; if not, the next attempt tells what it was.
      if (this.#next < this.#count) return EAGAIN
    }
    return 0
  }

  /** The message that is next, after a flush that did not send all. */
  get next(): { bytes: Uint8Array; tag: Tag } {
    const { words, getTag } = this.#packing
    let start = 0
    for (let index = 0; index < this.#next; index++) start += this.#lengthOf(index)
    const end = start + this.#lengthOf(this.#next)
    return { bytes: this.#bytes.subarray(start, end), tag: getTag(this.#table, words * this.#next + 1) }
  }

  /** That many more are sent. */
  advance(count: number): void {
    this.#next += count
    this.sent += count
  }

  /** Lets the iterable clean up after a failure, which is what counts, as in a for loop. */
  close(): void {
    try {
      this.#messages.return?.()
    } catch {}
  }

  #lengthOf(index: number): number {
    return this.#table[this.#packing.words * index] ?? 0
  }

  // Copied one by one: a generator may use one buffer for all.
  #fill(): boolean {
    const { words, tagOf, setTag } = this.#packing
    let count = 0
    let length = 0
    while (count < MAX_BATCH && length < BATCH_BYTES) {
      const { done, value } = this.#messages.next()
      if (done) break
      const outgoing = isOutgoing(value)
      const tag = tagOf(outgoing ? value : undefined)
      const bytes = toBytes(outgoing ? value.data : value)
      this.#table[words * count] = bytes.length
      setTag(this.#table, words * count + 1, tag)
      this.#makeRoom(length, bytes.length)
      this.#bytes.set(bytes, length)
      length += bytes.length
      count++
    }
    this.#next = 0
    this.#count = count
    return count > 0
  }

  #makeRoom(used: number, more: number): void {
    if (used + more <= this.#bytes.length) return
    const larger = new Uint8Array(Math.max(2 * this.#bytes.length, used + more))
    larger.set(this.#bytes.subarray(0, used))
    this.#bytes = larger
  }
}
