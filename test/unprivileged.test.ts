// npm run test:unprivileged, with one file of tests.
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { isRoot, start } from './support.ts'

const program = fileURLToPath(new URL('reliability/unprivileged.mjs', import.meta.url))

/** Its output, with the numbers of tests in it. */
async function run(...args: string[]) {
  const { code, stdout, stderr } = await start(process.execPath, [program, ...args]).outcome
  return { code, stderr, summary: stdout.trimEnd().split('\n').slice(-2), stdout }
}

test('the tests pass as another user, and in namespaces of its own, skipping only what names root', async ({
  skip,
}) => {
  skip(!isRoot, 'only root can become another user')
  const { code, stderr, summary, stdout } = await run('test/systemd.test.ts', 'test/security.test.ts')
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
  expect(summary).toEqual([
    expect.stringMatching(/^as user 65534: [1-9]\d* passed, 0 failed, [1-9]\d* skipped$/),
    expect.stringMatching(/^as user 65534 in namespaces of its own: [1-9]\d* passed, 0 failed, [1-9]\d* skipped$/),
  ])
  expect(stdout).toContain('skipped, only root can become another user:')
}, 1_800_000)

test('it says what can be asked for', async () => {
  expect((await run('--help')).stdout).toContain('--user <uid>')
})
