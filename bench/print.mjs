// Tables for the terminal.

const number = (value, digits = 0) =>
  value.toLocaleString('en-US', { minimumFractionDigits: digits, maximumFractionDigits: digits })

/** Of round trips and wake-ups the time is compared, of anything else the rate. */
export const isLatency = ({ workload }) => workload === 'ping-pong' || workload === 'wake-up'

/** Median and quartiles of what is compared. */
export function ratioOf(group, { ratios }, baseline) {
  const { median, low, high } = ratios[baseline]
  return isLatency(group) ? { median, low, high } : { median: 1 / median, low: 1 / high, high: 1 / low }
}

export function printGroup(group) {
  const { title, results } = group
  const baseline = results[0].name
  const kind = isLatency(group) ? 'time' : 'rate'
  console.log(`\n${title}`)
  console.log(`${' '.repeat(34)}     ns    (quartiles)       ${kind} of ${baseline} (quartiles)    CPU ns`)
  for (const result of results) {
    const { nanoseconds, cpuNanoseconds, name } = result
    const ratio = ratioOf(group, result, baseline)
    const spread = (of, digits) => `(${number(of.low, digits)} - ${number(of.high, digits)})`
    console.log(
      `  ${name.padEnd(30)} ${number(nanoseconds.median).padStart(8)} ${spread(nanoseconds).padEnd(22)}` +
        `${number(ratio.median, 2).padStart(8)} ${spread(ratio, 2).padEnd(16)} ${number(cpuNanoseconds).padStart(14)}`,
    )
  }
  for (const { name, percentiles, timerLateness } of results) {
    if (group.workload !== 'wake-up' && timerLateness === undefined) continue
    const { p50, p90, p99, max } = percentiles ?? timerLateness
    const what = timerLateness ? 'timer late by' : 'latency'
    const times = Object.entries({ p50, p90, p99, max }).map(([at, time]) => `${at} ${number(time / 1000)}`)
    console.log(`  ${name.padEnd(30)} ${what}, in microseconds: ${times.join(', ')}`)
  }
}

export function printTargets(targets) {
  if (targets.length > 0) console.log('\nTargets')
  for (const { text, wanted, seen, met } of targets) {
    console.log(`  ${met ? 'met    ' : 'NOT MET'}  ${text}: ${seen}, wanted ${wanted}`)
  }
}
