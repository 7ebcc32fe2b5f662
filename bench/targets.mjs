// What the library aims at, and whether it got there in this run.

/** The participant's result in the group of that workload, family, size and number of cores, at depth 10 if that fits. */
function resultOf(groups, [workload, family, size, cores], name) {
  const group = groups.find(
    (one) => one.workload === workload && one.family === family && one.size === size && one.cores === cores,
  )
  return group?.results.find((result) => result.name === name)
}

/** How many times as fast as the other. */
const faster = (than, name) => ({ than, name, of: (ratio) => 1 / ratio, better: 'more' })
/** How much of the other's time. */
const time = (than, name) => ({ than, name, of: (ratio) => ratio, better: 'less' })

const compared = []
for (const [family, title] of [
  ['posix', 'POSIX'],
  ['sysv', 'System V'],
]) {
  for (const [size, into, fresh] of [
    [64, 0.8, 0.7],
    [8192, 0.88, 0.52],
  ]) {
    const at = ['pair', family, size, 1]
    const text = (call) => `${title}, ${size} B: rate of sendSync + ${call}, of C's`
    compared.push(
      {
        text: text('receiveIntoSync'),
        at,
        ...faster('C, blocking', 'kernelmq, receiveIntoSync, a sample looked at'),
        bound: into,
      },
      {
        text: text('receiveSync'),
        at,
        ...faster('C, blocking', 'kernelmq, receiveSync, a sample looked at'),
        bound: fresh,
      },
    )
  }
}
const stream = 'kernelmq, sendMany, for await'
compared.push(
  {
    text: "Stream, 64 B, two cores: rate of sendMany to for await, of C's blocking loop",
    at: ['stream', 'posix', 64, 2],
    ...faster('C, blocking', stream),
    bound: 2,
  },
  {
    text: "Stream, 64 B, one core: rate of sendMany to for await, of C's blocking loop",
    at: ['stream', 'posix', 64, 1],
    ...faster('C, blocking', stream),
    bound: 0.3,
  },
  {
    text: "Stream, 8 KiB, two cores: rate of sendMany to for await, of the Unix socket's",
    at: ['stream', 'posix', 8192, 2],
    ...faster('Unix socket', stream),
    bound: 1.8,
  },
  {
    text: "Stream, 8 KiB, two cores: rate of sendMany to for await, of zeromq's",
    at: ['stream', 'posix', 8192, 2],
    ...faster('zeromq, push/pull', stream),
    bound: 2,
  },
  {
    text: "Ping-pong, 64 B: round trip of send and receive, of the Unix socket's",
    at: ['ping-pong', 'posix', 64, 2],
    ...time('Unix socket', 'kernelmq, send, receive'),
    bound: 0.8,
  },
  {
    text: "Ping-pong, 64 B: round trip of receiveSync, of blocking C's",
    at: ['ping-pong', 'posix', 64, 2],
    ...time('C, blocking', 'kernelmq, receiveSync'),
    bound: 1.15,
  },
  {
    text: "Ping-pong, 64 B: round trip with spin, of spinning C's",
    at: ['ping-pong', 'posix', 64, 2],
    ...time('C, spinning', 'kernelmq, spin'),
    bound: 1.2,
  },
)

function comparison(groups, { text, at, than, name, of, better, bound }) {
  const ratio = resultOf(groups, at, name)?.ratios[than]
  if (ratio === undefined) return undefined
  const [low, high] = [of(ratio.low), of(ratio.high)].sort((a, b) => a - b)
  const seen = of(ratio.median)
  return {
    text,
    wanted: `${better === 'more' ? '>=' : '<='} ${bound.toFixed(2)}`,
    seen: `${seen.toFixed(2)} (${low.toFixed(2)} to ${high.toFixed(2)})`,
    met: better === 'more' ? seen >= bound : seen <= bound,
  }
}

const MIB = 2 ** 20
const mib = (bytes) => `${(bytes / MIB).toFixed(1)} MiB`

/** @returns rows of what is aimed at, what was seen, and whether that is enough; without what was not measured */
export function judge({ groups, longRuns, idle, allocations }) {
  const rows = compared.map((target) => comparison(groups, target)).filter((row) => row !== undefined)
  for (const { workload, title, results } of groups) {
    if (workload !== 'timer') continue
    const [latest] = results.toSorted((a, b) => b.timerLateness.p99 - a.timerLateness.p99)
    const p99 = latest.timerLateness.p99 / 1e6
    rows.push({
      text: `p99 of how late a timer of 1 ms is (${title}; the worst: ${latest.name})`,
      wanted: '< 5 ms',
      seen: `${p99.toFixed(2)} ms`,
      met: p99 < 5,
    })
  }
  if (idle !== undefined) {
    const [nothing, ...states] = idle
    const most = states.toSorted((a, b) => b.microsecondsPerSecond - a.microsecondsPerSecond)[0]
    const more = most.microsecondsPerSecond - nothing.microsecondsPerSecond
    rows.push({
      text: `CPU time of an idle queue, beyond that of a process without one (the worst: ${most.state})`,
      wanted: '< 0.1 % of a core',
      seen: `${(Math.max(more, 0) / 1e4).toFixed(3)} %`,
      met: more < 1000,
    })
  }
  for (const { family, messages, first, last } of longRuns) {
    rows.push({
      text: `Memory of both processes after ${messages.toLocaleString('en-US')} messages, ${family}, against that after 100,000`,
      wanted: 'no more than 4 MiB in use, and 5 % resident, above it',
      seen: `in use ${mib(first.used)}, then ${mib(last.used)}; resident ${mib(first.rss)}, then ${mib(last.rss)}`,
      met: last.used < first.used + 4 * MIB && last.rss < first.rss * 1.05,
    })
  }
  if (allocations !== undefined) {
    const most = allocations.toSorted((a, b) => b.ofMessageSize - a.ofMessageSize)[0]
    rows.push({
      text: `Allocations of the size of a message, a message of 8 KiB received (the most: ${most.family}, ${most.way})`,
      wanted: '<= 1',
      seen: most.ofMessageSize.toFixed(2),
      met: most.ofMessageSize < 1.05,
    })
  }
  return rows
}
