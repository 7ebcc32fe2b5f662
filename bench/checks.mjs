// What is not a comparison: memory over a long run, allocations, and what an idle queue costs.
import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'

const FIRST = 100_000
/** In one round. */
const MOST = 1_000_000

/** The memory of both processes of a stream after the first messages, and at its end. */
export function longRun(bench, family, messages) {
  const group = { workload: 'stream', family, size: 64, depth: 10, cores: 2 }
  const participant = { route: 'kernelmq', way: 'sendMany, for await' }
  return bench.withQueues(group, async (queues) => {
    const program = bench.start(group, participant, queues, ['--expose-gc'])
    const memory = ({ rss, used }) => ({ rss, used })
    const first = await program.run({ count: FIRST - 1, warm: 0 })
    let sent = first.messages
    let last = first
    while (sent < messages) {
      last = await program.run({ count: Math.min(messages - sent, MOST) - 1, warm: 0 })
      sent += last.messages
    }
    await bench.end(program)
    return { family, messages: sent, first: memory(first), last: memory(last) }
  })
}

/** Runs a program that says something in JSON. */
async function ask(program, ...args) {
  const path = fileURLToPath(new URL(program, import.meta.url))
  const { stdout } = await promisify(execFile)(process.execPath, ['--expose-gc', path, ...args])
  return JSON.parse(stdout)
}

/** CPU time of processes that hold queues and do nothing, in microseconds a second. */
export async function idle(seconds) {
  const states = ['no queue', 'posix, open', 'posix, waiting', 'sysv, open', 'sysv, waiting']
  const costs = await Promise.all(states.map((state) => ask('idle.mjs', state, String(seconds))))
  return states.map((state, index) => ({ state, microsecondsPerSecond: costs[index] }))
}

/** How much memory each way of receiving allocates for a message. */
export const allocations = () => ask('allocations.mjs')
