// What is written to the terminal, or to whatever stands in its place.
import { stripVTControlCharacters, styleText } from 'node:util'
import align from 'text-table'
import { describe, EXIT } from './errors.ts'

/** Nobody reads any more; there is nothing left to say. */
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(EXIT.brokenPipe)
  if (error.code === 'EIO') return hangUp()
  throw error
})

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

export function write(data: string | Uint8Array): Promise<void> {
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
  process.stderr.write(`${style.red(`${command}:`)} ${described.message}\n`)
  if (described.hint !== undefined) process.stderr.write(`  ${style.dim(described.hint)}\n`)
}

export function note(text: string): void {
  process.stderr.write(`${text}\n`)
}

/** What others chose, such as a name, must not move the cursor. */
export const harmless = (text: string): string => text.replace(/\p{C}/gu, '\u{fffd}')

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

/** Asks on the terminal; false where there is none. */
export async function confirm(question: string): Promise<boolean> {
  const { createInterface } = await import('node:readline/promises')
  const lines = createInterface({ input: process.stdin, output: process.stderr })
  try {
    return /^y(es)?$/i.test(await lines.question(`${question} [y/N] `))
  } finally {
    lines.close()
  }
}

export const isInteractive = (): boolean => process.stdin.isTTY === true && process.stderr.isTTY === true
