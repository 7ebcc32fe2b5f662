// Measures kernelmq against C programs and against what else there is in Node.js. See README.md.
import { writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { allocations, idle, longRun } from './checks.mjs'
import { chooseCores, describeMachine, describeVersions } from './machine.mjs'
import { Bench, deepest } from './measure.mjs'
import { installPeers } from './peers.mjs'
import { plan } from './plan.mjs'
import { printGroup, printTargets } from './print.mjs'
import { judge } from './targets.mjs'

const HELP = `npm run bench -- [options]

  --quick            the most important comparisons, in less than a minute
  --only <text>      only groups with this in their title, such as 'stream, POSIX, 64 B'; writes nothing
  --rounds <number>  how often each is measured
  --help             this text

It writes bench/results.json, and of that docs/performance.md with its plots.`

const { values: options } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    only: { type: 'string' },
    rounds: { type: 'string' },
    help: { type: 'boolean', default: false },
  },
})

const settings = options.quick
  ? { rounds: 5, milliseconds: 30, longRun: 400_000, idleSeconds: 1 }
  : { rounds: 7, milliseconds: 60, longRun: 10_000_000, idleSeconds: 5 }

function roundsWanted() {
  if (options.rounds === undefined) return settings.rounds
  const rounds = Number(options.rounds)
  if (Number.isInteger(rounds) && rounds > 0) return rounds
  throw new Error(`--rounds must be a positive integer, not '${options.rounds}'`)
}

async function runChecks(bench) {
  const families = options.quick ? ['posix'] : ['posix', 'sysv']
  const longRuns = []
  for (const family of families) longRuns.push(await longRun(bench, family, settings.longRun))
  return { longRuns, idle: await idle(settings.idleSeconds), allocations: await allocations() }
}

async function main() {
  const rounds = roundsWanted()
  const cores = chooseCores()
  if (cores.length < 2) throw new Error('the benchmark needs two cores, one for each end')
  const peers = installPeers(options)
  for (const [name, { reason }] of Object.entries(peers)) if (reason) console.log(`without ${name}: ${reason}`)
  const isMissing = (route) => peers[route]?.reason !== undefined
  const groups = plan({ quick: options.quick, deepest, isMissing }).filter(({ title }) =>
    title.includes(options.only ?? ''),
  )
  const results = {
    mode: options.quick ? 'quick' : 'full',
    date: new Date().toISOString(),
    rounds,
    millisecondsPerRound: settings.milliseconds,
    machine: describeMachine(cores),
    versions: describeVersions(peers),
    groups: [],
    longRuns: [],
  }
  const bench = new Bench({ cores, rounds, milliseconds: settings.milliseconds })
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.once(signal, () => bench.stop())
  try {
    bench.compile()
    for (const { participants, ...group } of groups) {
      const measured = { ...group, results: await bench.measure({ ...group, participants }) }
      results.groups.push(measured)
      printGroup(measured)
    }
    if (options.only === undefined) Object.assign(results, await runChecks(bench))
  } finally {
    bench.dispose()
  }
  results.targets = judge(results)
  printTargets(results.targets)
  if (options.only !== undefined) return
  writeFileSync(fileURLToPath(new URL('results.json', import.meta.url)), `${JSON.stringify(results, null, 2)}\n`)
  const { writeReport } = await import('./report.mjs')
  await writeReport(results)
}

if (options.help) console.log(HELP)
else {
  try {
    await main()
  } catch (error) {
    console.error(`bench failed: ${error.message}`)
    process.exitCode = 1
  }
}
