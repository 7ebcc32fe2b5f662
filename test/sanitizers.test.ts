// That the tools of `npm run test:asan` and its like report what they are there
// for; the runs themselves take minutes and are commands of their own.
import { execFile, spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { describe, expect, test } from 'vitest'

const run = promisify(execFile)
const runner = fileURLToPath(new URL('reliability/sanitize.mjs', import.meta.url))
const isInstalled = (program: string) => spawnSync(program, ['--version']).status === 0

describe.each([
  ['asan', 'g++', [/heap-buffer-overflow on address/, /Direct leak of 16 byte/]],
  ['tsan', 'g++', [/data race/]],
  ['ubsan', 'g++', [/signed integer overflow/]],
  ['valgrind', 'valgrind', [/Invalid write of size 1/]],
] as const)('test:%s', (tool, program, reports) => {
  test('fails, and counts what the worker of a child process does wrong', { timeout: 600_000 }, async ({ skip }) => {
    skip(!isInstalled(program), `${program} is not installed`)
    const failure = await run(process.execPath, [runner, tool, '--plant']).catch((error) => error)
    expect(failure).toMatchObject({ code: 1 })
    for (const report of reports) expect(failure.stdout).toMatch(report)
    expect(failure.stdout).toMatch(`${tool}: ${reports.length} reports in the addon, `)
  })
})
