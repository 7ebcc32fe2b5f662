// What is written to the terminal, or to whatever stands in its place.
import { createInterface } from 'node:readline/promises'
import Table from 'cli-table3'
import colors from 'picocolors'
import { describe, EXIT } from './errors.ts'

/** Nobody reads any more; there is nothing left to say. */
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(EXIT.brokenPipe)
  throw error
})

const isColored = colors.isColorSupported && (process.stdout.isTTY || (process.env.FORCE_COLOR ?? '') !== '')

export const style: ReturnType<typeof colors.createColors> = colors.createColors(isColored)

const stderrStyle = colors.createColors(colors.isColorSupported && process.stderr.isTTY)

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
  process.stderr.write(`${stderrStyle.red(`${command}:`)} ${described.message}\n`)
  const { hint, retryAfter } = described
  if (hint !== undefined) process.stderr.write(`  ${stderrStyle.dim(hint)}\n`)
  if (retryAfter !== undefined)
    process.stderr.write(`  ${stderrStyle.dim(`there may be room in ${Math.ceil(retryAfter)} ms`)}\n`)
}

export function note(text: string): void {
  process.stderr.write(`${text}\n`)
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
