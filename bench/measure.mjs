// Runs the participants of a group in turns, and makes statistics of what they say.
import { execFileSync } from 'node:child_process'
import { randomInt } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { PosixQueue, SysvQueue } from 'kernelmq'
import { warmUp } from './plan.mjs'
import { Program } from './program.mjs'

const here = (path) => fileURLToPath(new URL(path, import.meta.url))

/** What runs which workload: a wake-up is a stream with a pause, and a timer runs beside a stream. */
const programs = { pair: 'pair', stream: 'stream', 'ping-pong': 'ping-pong', 'wake-up': 'stream', timer: 'stream' }

/** Microseconds between messages that wake somebody up. */
const PAUSE = 2000

/** How many messages of this size a queue can hold. */
export function deepest(family, size) {
  return family === 'posix' ? PosixQueue.limits().maxMessages : Math.floor(SysvQueue.limits().maxBytes / size)
}

export function percentiles(values) {
  const sorted = Float64Array.from(values).sort()
  const at = (share) => sorted[Math.min(Math.floor(sorted.length * share), sorted.length - 1)]
  return { p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max: at(1) }
}

export function statistics(values) {
  const sorted = values.toSorted((a, b) => a - b)
  const at = (share) => sorted[Math.round((sorted.length - 1) * share)]
  return { median: at(0.5), low: at(0.25), high: at(0.75) }
}

let count = 0

function createQueue({ family, size, depth }) {
  if (family === 'posix') {
    const name = `/kernelmq-bench-${process.pid}-${count++}`
    PosixQueue.open(name, { create: true, maxMessages: depth, messageSize: size }).close()
    return { name, remove: () => PosixQueue.unlink(name) }
  }
  // With a key, since svmq opens queues by keys only.
  const key = randomInt(1, 2 ** 31)
  const queue = SysvQueue.open(key, { exclusive: true, maxBytes: depth * size })
  return { name: String(queue.id), key, remove: () => queue.remove() }
}

/** Measures in a folder of its own, which holds the compiled C programs and sockets. */
export class Bench {
  #folder = mkdtempSync(join(tmpdir(), 'kernelmq-bench-'))
  #cores
  #rounds
  #milliseconds
  #running = new Set()

  /**
   * @param cores of which the second is the far end's, if the group asks for two
   * @param milliseconds how long one round of one participant takes
   */
  constructor({ cores, rounds, milliseconds }) {
    this.#cores = cores
    this.#rounds = rounds
    this.#milliseconds = milliseconds
  }

  compile() {
    for (const name of new Set(Object.values(programs))) {
      const flags = ['-std=gnu11', '-D_GNU_SOURCE', '-O2', '-Wall', '-Wextra', '-Werror']
      execFileSync('cc', [...flags, '-o', join(this.#folder, name), here(`c/${name}.c`), '-lrt'], { stdio: 'inherit' })
    }
  }

  /** Kills what runs, so that measuring fails, and what it created is removed. */
  stop() {
    for (const program of this.#running) program.kill()
  }

  /** Kills what still runs, and removes the folder. */
  dispose() {
    this.stop()
    rmSync(this.#folder, { recursive: true })
  }

  /** Starts both ends of a participant, pinned to their cores. */
  start(group, { language, route, way }, queues, nodeOptions = []) {
    const [first, second] = this.#cores
    const cores = [first, group.cores === 2 ? second : first]
    const { workload, family, size } = group
    const names = queues.map(({ name }) => name)
    const config = {
      workload: programs[workload],
      route,
      way,
      family,
      size,
      cores,
      timer: workload === 'timer',
      queues: names,
      keys: queues.map(({ key }) => key),
      path: join(this.#folder, `socket-${count++}`),
    }
    const command =
      language === 'c'
        ? [join(this.#folder, programs[workload]), family, way, size, ...cores, ...names].map(String)
        : [process.execPath, ...nodeOptions, here('end.mjs'), JSON.stringify(config)]
    const program = Program.start(first, command)
    this.#running.add(program)
    return program
  }

  async end(program) {
    await program.end()
    this.#running.delete(program)
  }

  async withQueues(group, run) {
    const queues = []
    try {
      for (let i = 0; i < (group.workload === 'ping-pong' ? 2 : 1); i++) queues.push(createQueue(group))
      return await run(queues)
    } finally {
      for (const queue of queues) queue.remove()
    }
  }

  /** What each participant of a group needs for a message, or a round trip. */
  measure(group) {
    return this.withQueues(group, async (queues) => {
      const runs = []
      for (const participant of group.participants) {
        const program = this.start(group, participant, queues)
        runs.push({ participant, program, rounds: [], count: await this.#warmUp(group, participant, program) })
      }
      for (let round = 0; round < this.#rounds; round++) {
        for (let i = 0; i < runs.length; i++) {
          const { program, rounds, count } = runs[(i + round) % runs.length]
          rounds.push(await program.run({ count, warm: Math.ceil(count / 20), ...pauseOf(group) }))
        }
      }
      for (const { program } of runs) await this.end(program)
      return evaluate(runs)
    })
  }

  /** All bytes of all of these messages are compared. Tells how many to send in a round. */
  async #warmUp(group, participant, program) {
    const warm = warmUp(group, participant)
    await program.run({ count: Math.ceil(warm / 20), warm, full: true, ...pauseOf(group) })
    const { nanoseconds } = await program.run({ count: 20, warm: 20, ...pauseOf(group) })
    const milliseconds = group.workload === 'timer' ? 5 * this.#milliseconds : this.#milliseconds
    const trial = Math.ceil((milliseconds * 1e6) / nanoseconds)
    if (group.workload === 'wake-up') return trial
    const second = await program.run({ count: Math.max(200, Math.ceil(trial / 10)), warm: 20 })
    return Math.max(200, Math.ceil((milliseconds * 1e6) / second.nanoseconds))
  }
}

const pauseOf = ({ workload }) => (workload === 'wake-up' ? { pause: PAUSE } : {})

/** Nanoseconds: of a round trip or wake-up the median, as stray ones take a hundred times as long. */
const timeOf = ({ nanoseconds, laps }) => (laps === undefined ? nanoseconds : percentiles(laps).p50)

function evaluate(runs) {
  const times = runs.map(({ rounds }) => rounds.map(timeOf))
  return runs.map(({ participant, rounds }, index) => {
    const laps = rounds.flatMap((round) => round.laps ?? [])
    const lateness = rounds.flatMap((round) => round.lateness ?? [])
    return {
      name: participant.name,
      nanoseconds: statistics(times[index]),
      // Of two times of the same round, so that what disturbs both cancels out.
      ratios: Object.fromEntries(
        runs.map((other, at) => [
          other.participant.name,
          statistics(times[index].map((time, round) => time / times[at][round])),
        ]),
      ),
      cpuNanoseconds: statistics(rounds.map(({ cpu, messages }) => (cpu * 1000) / messages)).median,
      rss: { start: rounds[0].rss, end: rounds.at(-1).rss },
      messages: rounds.reduce((sum, { messages }) => sum + messages, 0),
      ...(laps.length > 0 && { percentiles: percentiles(laps) }),
      ...(lateness.length > 0 && { timerLateness: { ...percentiles(lateness), samples: lateness.length } }),
    }
  })
}
