#!/usr/bin/env node
// The chaos of an engine, for as many rounds as are wanted.
import { spawnSync } from 'node:child_process'
import { parseArgs } from 'node:util'
import { countOf } from './families.mjs'

const engines = ['redis', 'nats', 'amqp']

const help = `npm run chaos:engines -- [--engine ${engines.join(' | ')}] [--rounds <count>]

Two processes send to a queue on a real server, three consume it. In each round (default 10) the server is killed
(SIGKILL) and started again, stopped (SIGSTOP) and continued, all connections are cut, a sender and a consumer are killed
and replaced; after each of these everybody has to go on by himself. In the end every message whose send had returned
must have been handled, whole and in the order of its key, and nothing may be left. Without --engine: all, one after the other. It ends with code 1
if anything was wrong.`

const { values } = parseArgs({
  options: { engine: { type: 'string' }, rounds: { type: 'string', default: '10' }, help: { type: 'boolean' } },
})
if (values.help) {
  console.log(help)
  process.exit()
}
const rounds = countOf(values.rounds)
const chosen = values.engine === undefined ? engines : [values.engine]
for (const engine of chosen) {
  if (!engines.includes(engine)) throw new Error(`--engine must be one of ${engines.join(', ')}`)
  const args = ['vitest', 'run', `test/bus/engine-chaos-${engine}.test.ts`, '--disable-console-intercept']
  const env = { ...process.env, CHAOS_ROUNDS: String(rounds) }
  const { status } = spawnSync('npx', args, { stdio: 'inherit', env })
  if (status !== 0) process.exitCode = 1
}
