// The same program, unchanged, wherever it runs.
import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { anyBus } from '../support.ts'
import { describeEngine, type Engine } from './support.ts'

const example = fileURLToPath(new URL('../../examples/any-bus.mjs', import.meta.url))

function run(...args: string[]) {
  const { stdout, stderr, status } = spawnSync(process.execPath, [example, ...args], { encoding: 'utf8' })
  return { stdout, stderr, status }
}

const asItShould = { stdout: expect.stringMatching(anyBus), stderr: '', status: 0 }

test('local:', () => {
  expect(run()).toEqual(asItShould)
})

for (const engine of ['redis', 'nats', 'amqp'] satisfies Engine[]) {
  await describeEngine(engine, (_, server) => {
    test('says the same, and again', () => {
      expect(run(`${server.url}?prefix=any-bus`)).toEqual(asItShould)
      expect(run(`${server.url}?prefix=any-bus`)).toEqual(asItShould)
    })
  })
}
