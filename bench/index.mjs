// Measures kernelmq against C programs and against what else there is in Node.js. See README.md.
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { PosixQueue, SysvQueue } from 'kernelmq'
import { installPeers } from './peers.mjs'
import { plan, warmUp } from './plan.mjs'
import { Program } from './program.mjs'

const here = (path) => fileURLToPath(new URL(path, import.meta.url))

const HELP = `npm run bench -- [options]

  --quick            the most important comparisons, in less than a minute
  --only <pattern>   only groups with a title like this, such as 'stream, posix, 64'
  --rounds <number>  how often each is measured
  --help             this text`

const { values: options } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    only: { type: 'string', default: '' },
    rounds: { type: 'string' },
    help: { type: 'boolean', default: false },
  },
})

const settings = options.quick ? { rounds: 5, milliseconds: 40 } : { rounds: 11, milliseconds: 100 }
if (options.rounds !== undefined) settings.rounds = Number(options.rounds)

/** One processor of each of two cores, or of one where there is no other. */
function chooseCores() {
  const rows = execFileSync('lscpu', ['--parse=CPU,CORE'], { encoding: 'utf8' }).split('\n')
  const byCore = new Map()
  for (const row of rows.filter((line) => /^\d/.test(line))) {
    const [cpu, core] = row.split(',')
    if (!byCore.has(core)) byCore.set(core, Number(cpu))
  }
  return [...byCore.values()].slice(0, 2)
}

const folder = mkdtempSync(join(tmpdir(), 'kernelmq-bench-'))
const cores = chooseCores()

function compile() {
  for (const name of ['pair', 'stream', 'ping-pong']) {
    const flags = ['-std=gnu11', '-D_GNU_SOURCE', '-O2', '-Wall', '-Wextra', '-Werror']
    execFileSync('cc', [...flags, '-o', join(folder, name), here(`c/${name}.c`), '-lrt'], { stdio: 'inherit' })
  }
}

let queueCount = 0

/** A queue for one group. */
function createQueue({ family, size, depth }) {
  if (family === 'posix') {
    const name = `/kernelmq-bench-${process.pid}-${queueCount++}`
    PosixQueue.open(name, { create: true, maxMessages: depth, messageSize: size }).close()
    return { name, remove: () => PosixQueue.unlink(name) }
  }
  const queue = SysvQueue.open('private', { maxBytes: Math.min(depth * size, SysvQueue.limits().maxBytes) })
  return { name: String(queue.id), remove: () => queue.remove() }
}

let pathCount = 0

function start(group, { language, route, way }, queues) {
  const [near = 0, far = near] = group.cores === 2 ? cores : [cores[0], cores[0]]
  const { workload, family, size } = group
  if (language === 'c') {
    return new Program(near, [join(folder, workload), family, way, String(size), String(near), String(far), ...queues])
  }
  const path = join(folder, `socket-${pathCount++}`)
  const config = { workload, route, way, family, size, cores: [near, far], queues, path }
  return new Program(near, [process.execPath, here('end.mjs'), JSON.stringify(config)])
}

const timeOf = ({ workload }, result) => (workload === 'ping-pong' ? result.laps.p50 : result.nanoseconds)

function statistics(values) {
  const sorted = values.toSorted((a, b) => a - b)
  const at = (share) => sorted[Math.round((sorted.length - 1) * share)]
  return { median: at(0.5), low: at(0.25), high: at(0.75), min: sorted[0], max: sorted.at(-1) }
}

async function measure(group) {
  const queues = Array.from({ length: group.workload === 'ping-pong' ? 2 : 1 }, () => createQueue(group))
  const names = queues.map(({ name }) => name)
  const runs = group.participants.map((participant) => ({ participant, rounds: [] }))
  try {
    for (const run of runs) {
      run.program = start(group, run.participant, names)
      const warm = warmUp(group, run.participant)
      // All bytes of all messages are compared here.
      await run.program.run({ count: Math.ceil(warm / 20), warm, full: true })
      const trial = await run.program.run({ count: 200, warm: 100 })
      run.count = Math.max(200, Math.ceil((settings.milliseconds * 1e6) / trial.nanoseconds))
    }
    for (let round = 0; round < settings.rounds; round++) {
      for (let i = 0; i < runs.length; i++) {
        const run = runs[(i + round) % runs.length]
        run.rounds.push(await run.program.run({ count: run.count, warm: Math.ceil(run.count / 20) }))
      }
    }
    for (const { program } of runs) await program.end()
  } finally {
    for (const { program } of runs) program?.kill()
    for (const queue of queues) queue.remove()
  }
  const times = runs.map(({ rounds }) => rounds.map((round) => timeOf(group, round)))
  return runs.map(({ participant, rounds }, index) => ({
    participant: participant.name,
    nanoseconds: statistics(times[index]),
    // A quotient of two times of the same round: what disturbs both cancels out.
    ratio: statistics(times[index].map((time, round) => time / times[0][round])),
    cpu: statistics(rounds.map(({ cpu, messages }) => (cpu * 1000) / messages)).median,
    rounds: times[index],
  }))
}

function print(group, results) {
  const inverse = group.workload !== 'ping-pong'
  console.log(`\n${group.title}`)
  console.log('                                   ns median      low     high   ratio  (low - high)   CPU ns')
  for (const { participant, nanoseconds, ratio, cpu } of results) {
    const of = (value) => (inverse ? 1 / value : value).toFixed(2)
    const columns = [nanoseconds.median, nanoseconds.low, nanoseconds.high].map((value) => value.toFixed(0).padStart(9))
    const spread = inverse ? [ratio.high, ratio.low] : [ratio.low, ratio.high]
    console.log(
      `  ${participant.padEnd(32)} ${columns.join('')} ${of(ratio.median).padStart(7)}  (${spread.map(of).join(' - ')})  ${cpu.toFixed(0).padStart(7)}`,
    )
  }
}

async function main() {
  installPeers()
  compile()
  const groups = plan(options).filter(({ title }) => title.includes(options.only))
  const all = []
  for (const group of groups) {
    const results = await measure(group)
    print(group, results)
    all.push({ ...group, participants: undefined, results })
  }
  writeFileSync(here('results.json'), `${JSON.stringify(all, null, 2)}\n`)
}

if (options.help) {
  console.log(HELP)
} else {
  try {
    await main()
  } finally {
    rmSync(folder, { recursive: true })
  }
}
