import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import { Judge } from '../reliability/chaos-bridge.mjs'
import { start } from '../support.ts'

const program = fileURLToPath(new URL('../reliability/chaos-bridge.mjs', import.meta.url))

describe('the judge', () => {
  const judged = (...lines: string[]) => {
    const judge = new Judge()
    for (const line of lines) judge.add(line)
    return judge
  }

  test('lets a message come again under its id', () => {
    expect(judged('0 m-0', '1 m-1', '0 m-0')).toMatchObject({ wrong: [], again: 1, outOfOrder: 0, seen: 2 })
  })

  test('tells of other ids, of order, of torn and of missing messages', () => {
    expect(judged('0 a', '0 b').doubled).toEqual(['message 0 came as a and as b'])
    expect(judged('1 a', '0 b').outOfOrder).toBe(1)
    expect(judged('torn x').wrong).toEqual(['a torn message, x'])
    expect(judged('0 a', '2 c').missing(4)).toEqual([1, 3])
  })
})

test.each(['local', 'posix'])(
  'npm run chaos:bridge, briefly: nothing is lost (from %s)',
  async (from) => {
    const args = ['--messages', '1000', '--from', from, '--every', '300']
    const { code, stdout, stderr } = await start(process.execPath, [program, ...args]).outcome
    expect(stderr).toBe('')
    expect(stdout).toMatch(/1000 confirmed, \d+ received .* 0 wrong\n$/)
    expect(code).toBe(0)
  },
  300_000,
)
