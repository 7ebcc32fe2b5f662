import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { start } from './support.ts'

const fuzz = fileURLToPath(new URL('reliability/fuzz.mjs', import.meta.url))

test('hostile arguments to everything that is exported bring errors and results, never a crash or a hang', async (ctx) => {
  const { code, stdout, stderr } = await start(process.execPath, [fuzz, '--runs', '20k']).outcome
  ctx.skip(code === 125, 'needs to be allowed to make IPC and mount namespaces')
  expect(stderr).toBe('')
  expect(stdout).toMatch(/^20000 calls of \d{3} functions, seed \d+: 0 failures/)
  expect(code).toBe(0)
})
