// System calls that fail, are late or meet a signal, under every operation; see
// test/fixtures/faults.c. The long form: npm run faults.
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { fixture, startFixture } from './support.ts'
import { hasCompiler } from './sysv-support.ts'

const directory = mkdtempSync(join(tmpdir(), 'kernelmq-faults-'))
const library = join(directory, 'faults.so')
afterAll(() => rmSync(directory, { recursive: true }))
beforeAll(() => {
  if (!hasCompiler) return
  const flags = ['-std=gnu11', '-Wall', '-Wextra', '-Werror', '-O1', '-fno-optimize-sibling-calls', '-shared', '-fPIC']
  execFileSync('cc', [...flags, '-o', library, fixture('faults.c'), '-ldl', '-pthread'], {
    stdio: ['ignore', 'inherit', 'inherit'],
  })
})

/** What the fixture reports; it ends by itself or the test does. */
async function run(...args: string[]) {
  const file = join(directory, args.join('-'))
  writeFileSync(file, Buffer.alloc(64))
  const env = { LD_PRELOAD: library, KERNELMQ_FAULTS: file }
  const { stdout, stderr, code } = await startFixture('faults.mjs', args, { env }).outcome
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
  return JSON.parse(stdout)
}

const needsCompiler = 'needs a C compiler: install gcc'

test('whatever system call fails: a typed error or a retry, nothing lost or leaked, and the next call works', async (ctx) => {
  ctx.skip(!hasCompiler, needsCompiler)
  const { wrong, untouched, cells } = await run('matrix', '1', '1')
  expect(wrong).toEqual([])
  expect(untouched).toEqual([])
  expect(cells).toBeGreaterThan(500)
}, 600_000)

test.for([
  ['while calls are interrupted', 0],
  ['while each reading sets the wall clock an hour ahead', 1],
  ['while each reading sets the wall clock an hour back', -1],
] as const)('deadlines keep their length %s', async ([, hours], ctx) => {
  ctx.skip(!hasCompiler, needsCompiler)
  type Row = { title: string; code: string; took: number; hits: number; stepped: number }
  const rows: Row[] = await run('deadlines', `${hours}`)
  for (const { title, code, took, hits, stepped } of rows) {
    expect({ title, code }).toEqual({ title, code: 'ETIMEDOUT' })
    expect(took, title).toBeGreaterThan(299)
    expect(took, title).toBeLessThan(60_000)
    if (hours === 0) expect(hits, title).toBeGreaterThan(0)
    // That Date.now() is stepped.
    else expect(Math.abs(stepped), title).toBeGreaterThan(3_500_000)
  }
})

test.each(
  ['posix', 'sysv'].flatMap((family) =>
    ['async', 'blocking', 'stream'].flatMap((way) => ['main', 'worker'].map((sender) => [family, way, sender])),
  ),
)('a storm of signals loses nothing and fails nothing: %s, %s, sent by the %s thread', async (family, way, sender) => {
  const child = startFixture('storm.mjs', [family ?? '', way ?? '', '50000', sender ?? ''])
  const { stdout, stderr, code } = await child.outcome
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
  const { received, inOrder, heard } = JSON.parse(stdout)
  expect({ received, inOrder }).toEqual({ received: 50_000, inOrder: 50_000 })
  expect(heard).toBeGreaterThan(1)
})
