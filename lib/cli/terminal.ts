// What is written to the terminal, or to whatever stands in its place.
import { fstatSync, fsyncSync, writeSync } from 'node:fs'
import { createInterface } from 'node:readline/promises'
import Table from 'cli-table3'
import colors from 'picocolors'
import { describe, EXIT } from './errors.ts'

let isPipeHeld = false

/** Nobody reads any more; there is nothing left to say. What else goes wrong is what write() rejects with. */
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE' && !isPipeHeld) process.exit(EXIT.brokenPipe)
})

/** Nobody hears what goes wrong; that must not stop what is being done. */
process.stderr.on('error', () => {})

/** From now on a broken pipe is an error as any other: of who has messages to put back. */
export function holdPipe(): void {
  isPipeHeld = true
}

const isColored = colors.isColorSupported && (process.stdout.isTTY || (process.env.FORCE_COLOR ?? '') !== '')

export const style: ReturnType<typeof colors.createColors> = colors.createColors(isColored)

const stderrStyle = colors.createColors(colors.isColorSupported && process.stderr.isTTY)

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
  process.stderr.write(`${stderrStyle.red(`${command}:`)} ${described.message}\n`)
  if (described.hint !== undefined) process.stderr.write(`  ${stderrStyle.dim(described.hint)}\n`)
}

export function note(text: string, asJson = false): void {
  process.stderr.write(asJson ? `${JSON.stringify({ note: text })}\n` : `${text}\n`)
}

export type Align = 'left' | 'right'

const NO_LINES = Object.fromEntries(
  ['top', 'bottom', 'mid', 'left', 'right']
    .flatMap((side) => [side, `${side}-mid`, `${side}-left`, `${side}-right`])
    .map((part) => [part, '']),
)

/** Columns without lines, as ls(1) and ps(1) have them. */
export function table(
  headers: readonly string[],
  align: readonly Align[],
  rows: readonly (readonly string[])[],
): string {
  const drawn = new Table({
    head: headers.map((header) => style.bold(header)),
    colAligns: [...align],
    chars: { ...NO_LINES, middle: '  ' },
    style: { 'padding-left': 0, 'padding-right': 0, head: [], border: [] },
  })
  drawn.push(...rows.map((row) => [...row]))
  return drawn.toString().replace(/ +$/gm, '')
}

/** Asks on the terminal; false where there is none. */
export async function confirm(question: string): Promise<boolean> {
  const lines = createInterface({ input: process.stdin, output: process.stderr })
  try {
    return /^y(es)?$/i.test(await lines.question(`${question} [y/N] `))
  } finally {
    lines.close()
  }
}

export const isInteractive = (): boolean => process.stdin.isTTY === true && process.stderr.isTTY === true
