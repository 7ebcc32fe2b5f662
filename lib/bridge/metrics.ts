// The text format of Prometheus: the figures of all buses, and those of the routes.
import { hide } from '../bus/secrets.ts'
import type { Lag, RouteStatus } from './runner.ts'

const quote = (text: string): string =>
  `"${text.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n')}"`

export interface Measured {
  readonly status: RouteStatus
  readonly lag: Lag | undefined
}

interface Metric {
  readonly name: string
  readonly type: 'gauge' | 'counter'
  readonly help: string
  /** The labels after `route`, and the value. */
  values(measured: Measured): [labels: string, value: number][]
}

const metrics: readonly Metric[] = [
  {
    name: 'kernelmq_bridge_up',
    type: 'gauge',
    help: 'Whether both ends of a route work, as far as the last attempt has shown.',
    values: ({ status }) => [['', status.up ? 1 : 0]],
  },
  {
    name: 'kernelmq_bridge_in_hand',
    type: 'gauge',
    help: 'Messages of a route that are on their way.',
    values: ({ status }) => [['', status.inHand]],
  },
  {
    name: 'kernelmq_bridge_lag_messages',
    type: 'gauge',
    help: 'Messages that a route has still to bring over, those on their way and in its outbox included.',
    values: ({ lag }) => (lag === undefined ? [] : [['', lag.messages]]),
  },
  {
    name: 'kernelmq_bridge_lag_seconds',
    type: 'gauge',
    help: 'How long the oldest message that is ready has waited for a route.',
    values: ({ lag }) => (lag === undefined ? [] : [['', lag.age / 1000]]),
  },
  {
    name: 'kernelmq_bridge_events_total',
    type: 'counter',
    help: 'What a route has done with messages.',
    values: ({ status: { counters } }) =>
      Object.entries(counters)
        .filter(([event]) => event !== 'failures')
        .map(([event, count]) => [`,event="${event}"`, count]),
  },
  {
    name: 'kernelmq_bridge_failures_total',
    type: 'counter',
    help: 'Attempts of a route that went wrong, and are repeated.',
    values: ({ status }) => [['', status.counters.failures]],
  },
]

/** @param buses what each says of its queues */
export function toText(routes: readonly Measured[], buses: readonly (readonly [url: string, text: string])[]): string {
  const own = metrics.flatMap(({ name, type, help, values }) => [
    `# HELP ${name} ${help}`,
    `# TYPE ${name} ${type}`,
    ...routes.flatMap((route) =>
      values(route).map(([labels, value]) => `${name}{route=${quote(route.status.name)}${labels}} ${value}`),
    ),
  ])
  return `${[...own, ...merge(buses)].join('\n')}\n`
}

/** Lines of one metric have to be together, and a bus does not say which it is. */
function merge(buses: readonly (readonly [url: string, text: string])[]): string[] {
  const families = new Map<string, string[]>()
  for (const [url, text] of buses) {
    let family: string[] = []
    for (const line of text.trimEnd().split('\n')) {
      const [, about] = /^# HELP (\S+)/.exec(line) ?? []
      if (about !== undefined) {
        family = families.get(about) ?? []
        families.set(about, family)
      }
      if (!line.startsWith('#')) family.push(line.replace('{', `{bus=${quote(hide(url))},`))
      else if (!family.includes(line)) family.push(line)
    }
  }
  return [...families.values()].flat()
}
