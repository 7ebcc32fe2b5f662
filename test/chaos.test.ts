import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import { judge } from './reliability/ledger.mjs'
import { read, write } from './reliability/numbered.mjs'
import { start } from './support.ts'

const program = (name: string) => fileURLToPath(new URL(`reliability/${name}`, import.meta.url))

const numbered = (source: number, ...numbers: number[]) => numbers.map((number) => ({ source, number }))

/** Two senders; the first receiver was killed while it held up to one message. */
const ledger = (first: ReturnType<typeof numbered>, second: ReturnType<typeof numbered>) => ({
  confirmed: new Map([
    [7, [0, 1, 2]],
    [8, [0, 1]],
  ]),
  received: [first, second],
  inHand: [1, 0],
})

describe('the ledger', () => {
  test('is right when everything came, also what was sent but not confirmed', () => {
    const first = [...numbered(7, 0, 2), ...numbered(8, 0)]
    expect(judge(ledger(first, [...numbered(7, 1, 3), ...numbered(8, 1)]))).toEqual({ wrong: [], lost: 0 })
  })

  test('allows for what a killed receiver held, and for no more', () => {
    const all = numbered(8, 0, 1)
    expect(judge(ledger(numbered(7, 0, 2), all))).toEqual({ wrong: [], lost: 1 })
    expect(judge(ledger(numbered(7, 0), all))).toEqual({
      wrong: ['2 confirmed messages are lost, but killed receivers held 1 at most'],
      lost: 2,
    })
  })

  test('tells of doubles, of order, and of torn messages', () => {
    const rest = numbered(8, 0, 1)
    const wrongWith = (first: ReturnType<typeof numbered>, second = rest) => judge(ledger(first, second)).wrong
    expect(wrongWith(numbered(7, 0, 1, 2), [...numbered(7, 1), ...rest])).toEqual(['message 1 of sender 7 came twice'])
    expect(wrongWith(numbered(7, 1, 0, 2))).toEqual(['message 0 of sender 7 came out of order'])
    expect(
      judge({ ...ledger(numbered(7, 0, 1, 2), rest), received: [[undefined], numbered(7, 0, 1, 2), rest] }).wrong,
    ).toEqual(['receiver 0 had a torn message'])
  })
})

test('a message that is changed in any byte, or cut, is torn', () => {
  const buffer = Buffer.alloc(128)
  for (let number = 0; number < 50; number++) {
    const bytes = Buffer.from(write(buffer, 3, number))
    expect(read(bytes)).toEqual({ source: 3, number })
    expect(read(bytes.subarray(0, -1))).toBe(undefined)
    for (let at = 0; at < bytes.length; at++) {
      bytes[at] = (bytes[at] as number) ^ 1
      expect(read(bytes)).toBe(undefined)
      bytes[at] = (bytes[at] as number) ^ 1
    }
  }
})

test.each(['posix', 'sysv'])('npm run chaos, briefly: kills lose no more than was held (%s)', async (family) => {
  const { code, stdout, stderr } = await start(process.execPath, [
    program('chaos.mjs'),
    '--kills',
    '20',
    '--family',
    family,
  ]).outcome
  expect(stderr).toBe('')
  expect(stdout).toMatch(/20 kills of senders, .* 0 lost .* 0 wrong\n.*20 kills of all, .* 0 wrong\n$/)
  expect(code).toBe(0)
})

test.each(['posix', 'sysv'])('npm run soak, briefly: all messages come, in order (%s)', async (family) => {
  const args = [program('soak.mjs'), '--messages', '150k', '--family', family]
  const { code, stdout, stderr } = await start(process.execPath, args).outcome
  expect(stderr).toBe('')
  expect(stdout).toMatch(new RegExp(`^${family}: 150,000 messages in .* s, all in order\n`, 'm'))
  expect(code).toBe(0)
})
