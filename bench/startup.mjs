// How long `kmq ls` takes to start and end, compared with a Node.js program that does nothing.
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const ROUNDS = 25
const AIM = 1.5

const directory = mkdtempSync(join(tmpdir(), 'kernelmq-startup-'))
const empty = join(directory, 'empty.mjs')
writeFileSync(empty, '')
const kmq = fileURLToPath(new URL('../dist/cli/kmq.js', import.meta.url))

function run(...args) {
  const start = performance.now()
  execFileSync(process.execPath, args, { stdio: 'ignore' })
  return performance.now() - start
}

const median = (times) => times.toSorted((a, b) => a - b)[times.length >> 1]

try {
  // In turns, so that both have the same moments.
  const rounds = Array.from({ length: ROUNDS }, () => ({ nothing: run(empty), ls: run(kmq, 'ls') }))
  const nothing = median(rounds.map((round) => round.nothing))
  const ls = median(rounds.map((round) => round.ls))
  const ratio = (ls / nothing).toFixed(2)
  console.log(`an empty program ${nothing.toFixed(1)} ms, kmq ls ${ls.toFixed(1)} ms: ${ratio} times (wanted: ${AIM})`)
} finally {
  rmSync(directory, { recursive: true })
}
