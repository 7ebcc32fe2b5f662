import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { missingOf, schemes, tableOf, wordsOf } from '../reliability/capabilities.mjs'

const page = readFileSync(new URL('../../docs/transports.md', import.meta.url), 'utf8')

const cellsOf = (line: string) =>
  line
    .split('|')
    .slice(1, -1)
    .map((cell) => cell.trim())

test.for(schemes)(
  'docs/transports.md says of %s: what it says of itself',
  { timeout: 400_000 },
  async (scheme, { skip }) => {
    const missing = missingOf(scheme)
    if (missing !== undefined) skip(`install ${missing} (Debian)`)
    const from = page.indexOf(`| | \`${schemes[0]}:\``)
    expect(from).toBeGreaterThan(0)
    const lines = page.slice(from, page.indexOf('\n\n', from)).split('\n')
    const at = cellsOf(lines[0] as string).indexOf(`\`${scheme}:\``)
    const column = lines.map((line) => [cellsOf(line)[0], cellsOf(line)[at]] as const)
    const expected = tableOf({ [scheme]: await wordsOf(scheme) }).map(cellsOf)
    // In whatever order a transport names them.
    expect(Object.fromEntries(column)).toEqual(Object.fromEntries(expected))
  },
)
