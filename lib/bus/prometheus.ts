// The text format of Prometheus: https://prometheus.io/docs/instrumenting/exposition_formats/
import type { QueueStats } from './queue.ts'

interface Metric {
  readonly name: string
  readonly type: 'gauge' | 'counter'
  readonly help: string
  /** The labels after `queue`, and the value. */
  values(stats: QueueStats, now: number): [labels: string, value: number][]
}

const metrics: readonly Metric[] = [
  {
    name: 'kernelmq_messages',
    type: 'gauge',
    help: 'Messages in a queue, by what they wait for.',
    values: ({ ready, leased, delayed, held, dead }) =>
      Object.entries({ ready, leased, delayed, held, dead }).map(([state, count]) => [`,state="${state}"`, count]),
  },
  {
    name: 'kernelmq_bytes',
    type: 'gauge',
    help: 'Bytes of the bodies in a queue.',
    values: ({ bytes }) => [['', bytes]],
  },
  {
    name: 'kernelmq_oldest_seconds',
    type: 'gauge',
    help: 'How long the oldest message that is ready has waited.',
    values: ({ oldest }, now) => [['', oldest === undefined ? 0 : Math.max(now - oldest, 0) / 1000]],
  },
  {
    name: 'kernelmq_events_total',
    type: 'counter',
    help: 'What this process has done with messages of a queue.',
    values: ({ totals }) => Object.entries(totals).map(([event, count]) => [`,event="${event}"`, count]),
  },
]

export function toPrometheus(queues: readonly (readonly [name: string, stats: QueueStats])[], now: number): string {
  const lines = metrics.flatMap(({ name, type, help, values }) => [
    `# HELP ${name} ${help}`,
    `# TYPE ${name} ${type}`,
    ...queues.flatMap(([queue, stats]) =>
      values(stats, now).map(([labels, value]) => `${name}{queue="${queue}"${labels}} ${value}`),
    ),
  ])
  return `${lines.join('\n')}\n`
}
