// What is written to the terminal, or to whatever stands in its place.
import { fstatSync, fsyncSync, writeSync } from 'node:fs'
import { createRequire } from 'node:module'
import { stripVTControlCharacters, styleText } from 'node:util'
import type textTable from 'text-table'
import { describe, EXIT } from './errors.ts'

// An import would first look through it for the names that it exports.
const align = createRequire(import.meta.url)('text-table') as typeof textTable

let isPipeHeld = false

/** Nobody reads any more; there is nothing left to say. What else goes wrong is what write() rejects with. */
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (isPipeHeld) return
  if (error.code === 'EPIPE') process.exit(EXIT.brokenPipe)
  if (isHangUp(error)) hangUp()
})

/** Nobody hears what goes wrong; that must not stop what is being done. */
process.stderr.on('error', () => {})

/** From now on a broken pipe, or a terminal that is gone, is an error as any other: of who has messages to put back. */
export function holdPipe(): void {
  isPipeHeld = true
}

/** Whether it is that the terminal is gone. */
export const isHangUp = (error: unknown): boolean =>
  (error as { code?: unknown } | undefined)?.code === 'EIO' && process.stdout.isTTY

/** The terminal is gone: ends as if nobody listened to SIGHUP. An exit would reset the terminal, and abort when it cannot. */
export function hangUp(): void {
  process.removeAllListeners('SIGHUP')
  process.kill(process.pid, 'SIGHUP')
}

const styled = (format: Parameters<typeof styleText>[0]) => (text: string) => styleText(format, text)

/** For a terminal; elsewhere text stays as it is, unless FORCE_COLOR asks for it. */
export const style: Readonly<
  Record<'bold' | 'dim' | 'inverse' | 'red' | 'green' | 'yellow' | 'cyan', (text: string) => string>
> = {
  bold: styled('bold'),
  dim: styled('dim'),
  inverse: styled('inverse'),
  red: styled('red'),
  green: styled('green'),
  yellow: styled('yellow'),
  cyan: styled('cyan'),
}

/** Resolves when the reader has taken it: what is printed for ever must not pile up. */
export function print(text: string): Promise<void> {
  return write(`${text}\n`)
}

const isFile = isPlainFile()

function isPlainFile(): boolean {
  if (process.stdout.isTTY) return false
  try {
    const stat = fstatSync(1)
    return stat.isFile() || stat.isCharacterDevice()
  } catch {
    return false
  }
}

/** A file may take a part only, of which the stream of Node.js says nothing. */
function writeFile(data: string | Uint8Array): void {
  const bytes = typeof data === 'string' ? Buffer.from(data) : data
  let written = 0
  try {
    while (written < bytes.length) written += writeSync(1, bytes, written)
  } catch (error) {
    throw Object.assign(error as Error, { written })
  }
}

/** Returns when the output, if it is a file, would survive the machine. */
export function syncOutput(): void {
  if (isFile && fstatSync(1).isFile()) fsyncSync(1)
}

/** Rejects if it cannot; `written` is how many bytes of it were taken, as far as that is known. */
export async function write(data: string | Uint8Array): Promise<void> {
  if (isFile) return writeFile(data)
  return new Promise((resolve, reject) => {
    process.stdout.write(data, (error) => (error ? reject(error) : resolve()))
  })
}

/** One line for what comes one by one, more for a whole result. */
export function printJson(value: unknown, isLine = false): Promise<void> {
  return print(JSON.stringify(value, undefined, isLine ? undefined : 2))
}

export function complain(command: string, error: unknown, asJson = false): void {
  const described = describe(error)
  if (asJson) {
    process.stderr.write(`${JSON.stringify({ error: described })}\n`)
    return
  }
  process.stderr.write(`${style.red(`${command}:`)} ${harmlessLines(described.message)}\n`)
  const { hint, retryAfter } = described
  if (hint !== undefined) process.stderr.write(`  ${style.dim(harmlessLines(hint))}\n`)
  if (retryAfter !== undefined)
    process.stderr.write(`  ${style.dim(`there may be room in ${Math.ceil(retryAfter)} ms`)}\n`)
}

export function note(text: string, asJson = false): void {
  process.stderr.write(asJson ? `${JSON.stringify({ note: text })}\n` : `${harmlessLines(text)}\n`)
}

/** What others chose, such as a name, must not move the cursor. */
export const harmless = (text: string): string => text.replace(/\p{C}/gu, '\u{fffd}')

const harmlessLines = (text: string): string => text.split('\n').map(harmless).join('\n')

/** Columns without lines, as ls(1) and ps(1) have them; `r` columns are aligned on the right. */
export function table(
  headers: readonly string[],
  columns: readonly ('l' | 'r')[],
  rows: readonly (readonly string[])[],
): string {
  const head = headers.map((header) => style.bold(header))
  return align([head, ...rows.map((row) => [...row])], {
    align: [...columns],
    stringLength: (cell) => stripVTControlCharacters(cell).length,
  }).replace(/ +$/gm, '')
}

/** Lines of words that are shorter than `width`, unless a word is not. */
export function wrap(text: string, width: number): string[] {
  const lines: string[] = []
  for (const word of text.split(' ')) {
    const last = lines.at(-1)
    if (last !== undefined && last.length + word.length < width) lines[lines.length - 1] = `${last} ${word}`
    else lines.push(word)
  }
  return lines
}

/** Asks on the terminal; false where there is none. */
export async function confirm(question: string): Promise<boolean> {
  const { createInterface } = await import('node:readline/promises')
  const lines = createInterface({ input: process.stdin, output: process.stderr })
  try {
    return /^y(es)?$/i.test(await lines.question(`${harmless(question)} [y/N] `))
  } finally {
    lines.close()
  }
}

export const isInteractive = (): boolean => process.stdin.isTTY === true && process.stderr.isTTY === true
