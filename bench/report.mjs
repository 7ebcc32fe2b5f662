// Makes docs/performance.md, and its plots, of bench/results.json.
//
//   node bench/report.mjs
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { argv } from 'node:process'
import { fileURLToPath } from 'node:url'
import { importPeer } from './peers.mjs'
import { familyNames } from './plan.mjs'
import { isLatency, ratioOf } from './print.mjs'

const docs = new URL('../docs/', import.meta.url)
const plots = new URL('plots/', docs)
const results = new URL('results.json', import.meta.url)

const number = (value, digits = 0) =>
  value.toLocaleString('en-US', { minimumFractionDigits: digits, maximumFractionDigits: digits })
const spread = ({ median, low, high }, digits) =>
  `${number(median, digits)} (${number(low, digits)} to ${number(high, digits)})`
const microseconds = (nanoseconds) => number(nanoseconds / 1000, 1)
const mib = (bytes) => number(bytes / 2 ** 20, 0)

function table(head, rows) {
  const line = (cells) => `| ${cells.map((cell) => String(cell).replaceAll('|', '\\|')).join(' | ')} |`
  return [line(head), line(head.map(() => '---')), ...rows.map(line)].join('\n')
}

const sections = [
  {
    workload: 'pair',
    title: 'A message sent and received in one thread',
    text: 'Nothing waits here: it is what the calls themselves cost.',
  },
  {
    workload: 'stream',
    title: 'A stream from one process to another',
    text: 'One process sends as fast as it can, the other one receives. The time is that from one message to the next at the receiver.',
  },
  {
    workload: 'ping-pong',
    title: 'Ping-pong',
    text: 'One process sends and waits for the answer of the other one. The time is the median of the round trips of a round; the figures are the median and quartiles of those over the rounds.',
  },
  {
    workload: 'wake-up',
    title: 'Waking up somebody who waits',
    text: 'A message every 2 ms, to a process that waits. The time is from before the send until the message is there.',
  },
  {
    workload: 'timer',
    title: 'Timers beside a stream',
    text: 'How late a timer of 1 ms is, in both processes, while a stream goes through them at full speed.',
  },
]

/** Median and quartiles of all participants of a workload, on a logarithmic scale. */
async function plot(groups, file) {
  const { View, parse } = await importPeer('vega')
  const { compile } = await importPeer('vega-lite')
  const regimeOf = ({ cores, depth, workload }) =>
    `${cores === 1 ? 'one core' : 'two cores'}${workload === 'stream' ? (depth > 10 ? ', deepest' : ', depth 10 at most') : ''}`
  const values = groups.flatMap((group) =>
    group.results.map(({ name, nanoseconds }) => ({
      name,
      size: `${group.size} B`,
      regime: regimeOf(group),
      ...nanoseconds,
    })),
  )
  const unique = (key) => [...new Set(values.map((value) => value[key]))]
  const scale = { type: 'log', nice: false }
  const y = { field: 'name', type: 'nominal', sort: unique('name'), title: null, axis: { grid: true, labelLimit: 250 } }
  const color = { field: 'size', type: 'nominal', sort: unique('size'), title: null }
  const title = isLatency(groups[0]) ? 'nanoseconds, less is better' : 'nanoseconds a message, less is better'
  const specification = {
    data: { values },
    facet: { column: { field: 'regime', type: 'nominal', sort: unique('regime'), title: null } },
    spec: {
      width: Math.max(240, 560 / unique('regime').length),
      height: { step: 20 },
      encoding: { y, color },
      layer: [
        {
          mark: { type: 'rule', strokeWidth: 2 },
          encoding: { x: { field: 'low', type: 'quantitative', scale, title }, x2: { field: 'high' } },
        },
        {
          mark: { type: 'point', filled: true, size: 50 },
          encoding: { x: { field: 'median', type: 'quantitative', scale, title } },
        },
      ],
    },
    background: 'white',
    config: { font: 'sans-serif' },
  }
  const view = new View(parse(compile(specification).spec), { renderer: 'none' })
  writeFileSync(new URL(file, plots), await view.toSVG())
}

function details(group) {
  const { title, results } = group
  const baseline = results[0].name
  const head = [
    '',
    'ns, median (quartiles)',
    `${isLatency(group) ? 'time' : 'rate'}, ${baseline} = 1`,
    'CPU ns a message',
    'MiB resident: first, last round',
  ]
  const rows = results.map((result) => [
    result.name,
    spread(result.nanoseconds),
    spread(ratioOf(group, result, baseline), 2),
    number(result.cpuNanoseconds),
    `${mib(result.rss.start)}, ${mib(result.rss.end)}`,
  ])
  return `<details>\n<summary>${title}</summary>\n\n${table(head, rows)}\n\n</details>\n`
}

function percentileTable(groups, key) {
  const rows = groups.flatMap(({ family, results }) =>
    results.map(({ name, [key]: { p50, p90, p99, p999, max } }) => [
      familyNames[family],
      name,
      ...[p50, p90, p99, p999, max].map(microseconds),
    ]),
  )
  return table(['microseconds', '', 'p50', 'p90', 'p99', 'p99.9', 'most'], rows)
}

async function section({ workload, title, text }, all) {
  const groups = all.filter((group) => group.workload === workload)
  if (groups.length === 0) return ''
  const parts = [`## ${title}`, text]
  if (workload === 'timer') return [...parts, percentileTable(groups, 'timerLateness'), ''].join('\n\n')
  for (const [family, name] of Object.entries(familyNames)) {
    const own = groups.filter((group) => group.family === family)
    if (own.length === 0) continue
    const file = `${workload}-${family}.svg`
    await plot(own, file)
    parts.push(`![${title}, ${name}: medians and quartiles](plots/${file})`)
  }
  if (workload === 'wake-up') parts.push(percentileTable(groups, 'percentiles'))
  return [...parts, ...groups.map(details)].join('\n\n')
}

function checks({ longRuns, idle, allocations }) {
  const parts = ['## Memory']
  const long = longRuns.map(({ family, messages, first, last }) => [
    familyNames[family],
    number(messages),
    `${mib(first.rss)}, ${mib(last.rss)}`,
    `${mib(first.used)}, ${mib(last.used)}`,
  ])
  parts.push(
    'MiB of both processes of a stream (`sendMany` to `for await`, 64 bytes) after the first 100,000 messages, and at its end:',
    table(['', 'messages', 'resident', 'in use'], long),
    'Allocations of the size of a message (8 KiB) for each that is received, and bytes of the heap besides:',
    table(
      ['', '', 'allocations', 'bytes of the heap'],
      allocations.map(({ family, way, ofMessageSize, heapBytes }) => [
        familyNames[family],
        way,
        number(Math.abs(ofMessageSize), 2),
        number(heapBytes),
      ]),
    ),
    '## Idle queues',
    'CPU time of a process that does nothing else, in microseconds a second:',
    table(
      ['', 'microseconds'],
      idle.map(({ state, microsecondsPerSecond }) => [state, number(microsecondsPerSecond)]),
    ),
  )
  return parts.join('\n\n')
}

function environment({ machine, versions, date, mode, rounds, millisecondsPerRound }) {
  const { cpu, processors, architecture, virtualised, memoryGiB, usedProcessors, load, limits } = machine
  return table(
    ['', ''],
    [
      ['Machine', `${cpu}, ${processors} processors, ${architecture}, ${memoryGiB} GiB`],
      ['Virtualised', virtualised],
      ['Processors used', usedProcessors.join(' and ')],
      ['Load average when it began', load === undefined ? 'unknown' : number(load, 1)],
      ...Object.entries(limits).map(([name, value]) => [`\`${name}\``, value]),
      ...Object.entries(versions),
      ['Date', date.slice(0, 10)],
      ['Run', `${mode}: ${rounds} rounds of ${millisecondsPerRound} ms for each participant`],
    ],
  )
}

const INTRODUCTION = `# Performance

This page is made by \`npm run bench\`. All figures are of one run, on one machine:`

const METHOD = `Other machines have other figures, and so does a busy one: compare the ratios rather than the times. Each participant
is a program of its own that was warmed up. The rounds of all participants of a group take turns, and a ratio is that of
two times of the same round; what is given is the median, and the quartiles around it. "Two cores" means that each of
the two processes is pinned to a core of its own, "one core" that both share one. Every message has a number and a hash
of it at its end, which the receiver verifies; of the messages before the timed ones, and of one in 64 of those, it
compares all bytes. In rows with "a sample looked at" the receiver does not read the data of the others.

C is compiled with \`-O2\`; "blocking" is \`mq_send\` and \`mq_receive\`, or \`msgsnd\` and \`msgrcv\`, in a loop. The Unix
socket has frames with a length of four bytes. What kernelmq does is named after the calls that receive; where the name
begins with \`sendMany\`, that sends.`

export async function writeReport(found) {
  rmSync(plots, { recursive: true, force: true })
  mkdirSync(plots)
  const targets = found.targets.map(({ text, wanted, seen, met }) => [text, wanted, seen, met ? 'yes' : '**no**'])
  const parts = [
    INTRODUCTION,
    environment(found),
    METHOD,
    '## What it aims at',
    table(['aim', 'wanted', 'seen, median (quartiles)', 'met'], targets),
  ]
  for (const one of sections) parts.push(await section(one, found.groups))
  parts.push(checks(found))
  const text = parts.filter((part) => part !== '').join('\n\n')
  writeFileSync(new URL('performance.md', docs), `${text.replaceAll(/\n{3,}/g, '\n\n')}\n`)
}

if (argv[1] === fileURLToPath(import.meta.url)) await writeReport(JSON.parse(readFileSync(results, 'utf8')))
