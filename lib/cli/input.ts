// What is to be sent, as it comes.
import { createReadStream } from 'node:fs'
import type { Readable } from 'node:stream'
import { Failure } from './errors.ts'
import { note } from './terminal.ts'

export type Input = Readable | readonly Buffer[]

/** What may end a piece. */
export const LF = 10
export const NUL = 0

/** A text, what is in a file (`@file`), or standard input (`-`). */
export async function openInput(content: string): Promise<Input> {
  if (content === '-') {
    if (process.stdin.isTTY) note('from the terminal; Ctrl-D ends it')
    return process.stdin
  }
  if (!content.startsWith('@')) return [Buffer.from(content)]
  const file = createReadStream(content.slice(1))
  await new Promise((resolve, reject) => file.once('open', resolve).once('error', reject)).catch((error) => {
    throw new Failure(`cannot read ${content.slice(1)}: ${(error as Error).message}`)
  })
  return file
}

const LESS = 'Send less at once, such as --lines.'

const tooLong = (what: string, most: number, hint = LESS): Failure =>
  Object.assign(new Failure(`EMSGSIZE: message too long, ${what} has more than ${most} bytes`, hint), {
    code: 'EMSGSIZE',
  })

/** All of the input; but no more is kept than can be sent. */
export async function whole(input: Input, most: number, hint?: string): Promise<Buffer> {
  const chunks: Buffer[] = []
  let length = 0
  for await (const chunk of input as AsyncIterable<Buffer>) {
    chunks.push(chunk)
    length += chunk.length
    // The library says it better, of what is not much longer.
    if (length > most + 65536) throw tooLong('the input', most, hint)
  }
  return Buffer.concat(chunks)
}

/** What stands between separators, as many at a time as come at a time. */
export async function* pieces(input: Input, separator: number, most: number): AsyncGenerator<Buffer[]> {
  let rest: Buffer[] = []
  let length = 0
  let count = 0
  for await (const chunk of input as AsyncIterable<Buffer>) {
    const batch: Buffer[] = []
    let start = 0
    for (let end = chunk.indexOf(separator); end !== -1; end = chunk.indexOf(separator, start)) {
      rest.push(chunk.subarray(start, end))
      batch.push(rest.length === 1 ? (rest[0] as Buffer) : Buffer.concat(rest))
      rest = []
      length = 0
      start = end + 1
    }
    if (start < chunk.length) {
      rest.push(chunk.subarray(start))
      length += chunk.length - start
    }
    count += batch.length
    if (batch.length > 0) yield batch
    // The kernel itself says so of what came whole.
    if (length > most) throw tooLong(`number ${count + 1}`, most)
  }
  if (length > 0) yield [Buffer.concat(rest)]
}
