// What a bridge is told to do: checked, with what it left out.
import { isAbsolute } from 'node:path'
import { inspect } from 'node:util'
import type { Durability } from '../bus/index.ts'
import { hide } from '../bus/secrets.ts'
import { OWN_HEADER } from '../bus/transport.ts'
import { circleIn } from './circles.ts'
import {
  type BusEndpoint,
  type Endpoint,
  isForgetful,
  type KernelEndpoint,
  parseEndpoint,
  placeOf,
} from './endpoint.ts'

/** A text with `*` for any characters, or several of them; null is what is not there. */
export type Pattern = string | null | readonly (string | null)[]

/** What a message has to have; all of it. */
export interface FilterConfig {
  headers?: Readonly<Record<string, Pattern>> | undefined
  key?: Pattern | undefined
  /** Bounds, both allowed. */
  priority?: { min?: number | undefined; max?: number | undefined } | undefined
}

/** A text, what a header of the message says, or nothing. */
export type Mapped = string | null | { readonly header: string }

export interface RouteConfig {
  /** In metrics and events. Default: `from`. */
  name?: string | undefined
  /** `posix:/NAME`, `sysv:0xKEY`, `URL#queue=NAME` or `URL#topic=PATTERN,queue=NAME`. */
  from: string
  /** `posix:/NAME`, `sysv:0xKEY`, `URL#queue=NAME` or `URL#topic=NAME`. */
  to: string
  /** The most messages sent together, 1 to 500. Default: 100. */
  batch?: number | undefined
  /** How many batches are on their way at a time. More than one keep only the order of each key. Default: 1. */
  concurrency?: number | undefined
  /** Messages a second at most. */
  rate?: number | undefined
  filter?: FilterConfig | undefined
  /** What becomes of messages that the filter does not want. Default: `dead`, to the dead letters of their queue. */
  unmatched?: 'dead' | 'drop' | undefined
  /** Headers to set, or with null to remove; the others stay. */
  headers?: Readonly<Record<string, Mapped>> | undefined
  /** Default: that of the message. */
  key?: Mapped | undefined
  /** 0 to 255. Default: that of the message. */
  priority?: number | undefined
}

export interface BridgeConfig {
  routes: readonly RouteConfig[]
  /** Where messages of kernel queues, `mq:` and `sysv:` are kept until they are sent: a `local:` bus in this directory. */
  outbox?: { directory: string; maxMessages?: number | undefined } | undefined
  /** Where to answer /healthz, /readyz and /metrics; port 0 takes a free one. Default host: 127.0.0.1. */
  listen?: { port: number; host?: string | undefined } | undefined
  /** Of everything that is sent. Default: `process`. */
  durability?: Durability | undefined
  /** Milliseconds to wait after a failure: as the `retry` of a queue. Default: 200 and 5000. */
  retry?: { base?: number | undefined; cap?: number | undefined } | undefined
}

export interface Retry {
  readonly base: number
  readonly cap: number
}

/** A queue of a bus to take from. */
export type Taken = BusEndpoint & { readonly queue: string }

export interface Route {
  readonly name: string
  readonly from: KernelEndpoint | Taken
  readonly to: Endpoint
  readonly batch: number
  readonly concurrency: number
  readonly rate: number
  readonly filter: FilterConfig
  readonly unmatched: 'dead' | 'drop'
  readonly headers: Readonly<Record<string, Mapped>>
  readonly key: Mapped | undefined
  readonly priority: number | undefined
  readonly retry: Retry
  /** Of what forgets what it hands out. */
  readonly outbox: Outbox | undefined
}

export interface Outbox {
  readonly directory: string
  readonly maxMessages: number
}

export interface Plan {
  readonly routes: readonly Route[]
  readonly listen: { readonly port: number; readonly host: string } | undefined
  readonly durability: Durability
}

/** Something is wrong with what stands at `at`, such as `routes[2].rate`; '' is the whole. */
export interface ConfigError extends Error {
  readonly code: 'ERR_INVALID_ARG_VALUE'
  readonly at: string
}

function wrong(at: string, expected: string, value: unknown): Error {
  const what = at === '' ? 'configuration of the bridge' : `"${at}" of the bridge`
  const error = new TypeError(`The ${what} must be ${expected}. Received ${hide(inspect(value, { depth: 0 }))}`)
  return Object.assign(error, { code: 'ERR_INVALID_ARG_VALUE', at })
}

type Fields = Record<string, unknown>

function fieldsOf(at: string, value: unknown, known?: readonly string[]): Fields {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw wrong(at, 'an object', value)
  const fields = value as Fields
  const unknown = known === undefined ? undefined : Object.keys(fields).find((name) => !known.includes(name))
  if (unknown === undefined) return fields
  throw wrong(join(at, unknown), `absent: what is known here is ${known?.join(', ')}`, fields[unknown])
}

const join = (at: string, name: string): string => (at === '' ? name : `${at}.${name}`)

function numberOf(at: string, value: unknown, min: number, max: number, isInteger = true): number {
  const isRight =
    typeof value === 'number' && value >= min && value <= max && (isInteger ? Number.isInteger(value) : true)
  if (isRight) return value
  throw wrong(at, `${isInteger ? 'an integer' : 'a number'} from ${min} to ${max}`, value)
}

function choiceOf<const C extends string>(at: string, value: unknown, choices: readonly C[]): C {
  if (choices.includes(value as C)) return value as C
  throw wrong(at, choices.map((choice) => `'${choice}'`).join(' or '), value)
}

function textOf(at: string, value: unknown): string {
  if (typeof value === 'string' && value !== '') return value
  throw wrong(at, 'a string that is not empty', value)
}

const ROUTE = [
  'name',
  'from',
  'to',
  'batch',
  'concurrency',
  'rate',
  'filter',
  'unmatched',
  'headers',
  'key',
  'priority',
] as const

/** @throws {ConfigError} */
export function planOf(config: unknown, schemes: readonly string[]): Plan {
  const { routes, outbox, listen, durability, retry } = fieldsOf('', config, [
    'routes',
    'outbox',
    'listen',
    'durability',
    'retry',
  ])
  if (!Array.isArray(routes) || routes.length === 0) throw wrong('routes', 'an array of at least one route', routes)
  const shared = { outbox: outboxOf(outbox), retry: retryOf(retry) }
  const planned = routes.map((route: unknown, at) => routeOf(`routes[${at}]`, route, shared, schemes))
  checkUnique(planned)
  checkCircles(planned)
  return {
    routes: planned,
    listen: listen === undefined ? undefined : listenOf(listen),
    durability: choiceOf('durability', durability ?? 'process', ['process', 'disk']),
  }
}

function outboxOf(value: unknown): Outbox | undefined {
  if (value === undefined) return undefined
  const { directory, maxMessages = 100_000 } = fieldsOf('outbox', value, ['directory', 'maxMessages'])
  if (typeof directory !== 'string' || !isAbsolute(directory)) {
    throw wrong('outbox.directory', 'an absolute path', directory)
  }
  return { directory, maxMessages: numberOf('outbox.maxMessages', maxMessages, 1, Number.MAX_SAFE_INTEGER) }
}

function retryOf(value: unknown): Retry {
  const { base = 200, cap = 5000 } = fieldsOf('retry', value ?? {}, ['base', 'cap'])
  return { base: numberOf('retry.base', base, 1, 3_600_000), cap: numberOf('retry.cap', cap, 1, 3_600_000) }
}

function listenOf(value: unknown): Plan['listen'] {
  const { port, host = '127.0.0.1' } = fieldsOf('listen', value, ['port', 'host'])
  return { port: numberOf('listen.port', port, 0, 65_535), host: textOf('listen.host', host) }
}

function routeOf(
  at: string,
  value: unknown,
  shared: Pick<Route, 'retry'> & { outbox: Outbox | undefined },
  schemes: readonly string[],
): Route {
  const fields = fieldsOf(at, value, ROUTE)
  const from = sourceOf(`${at}.from`, fields.from, schemes)
  const to = endpointOf(`${at}.to`, fields.to, schemes)
  if (to.kind === 'topic' && (to.queue !== undefined || /[*#]/.test(to.topic))) {
    throw wrong(`${at}.to`, 'one topic, #topic=NAME without "*", "#" or a queue, to publish to it', fields.to)
  }
  if (placeOf(from) === placeOf(to)) throw wrong(`${at}.to`, 'somewhere else than "from"', fields.to)
  if (isForgetful(from) && shared.outbox === undefined) {
    const expected = `{ "directory": ... }: ${from.shown} forgets what it hands out, which is kept there until it is sent`
    throw wrong('outbox', expected, undefined)
  }
  return {
    name: fields.name === undefined ? from.shown : textOf(`${at}.name`, fields.name),
    from,
    to,
    batch: numberOf(`${at}.batch`, fields.batch ?? 100, 1, 500),
    concurrency: numberOf(`${at}.concurrency`, fields.concurrency ?? 1, 1, 100),
    rate: fields.rate === undefined ? Infinity : numberOf(`${at}.rate`, fields.rate, 0.001, 1e9, false),
    filter: filterOf(`${at}.filter`, fields.filter ?? {}),
    unmatched: choiceOf(`${at}.unmatched`, fields.unmatched ?? 'dead', ['dead', 'drop']),
    headers: mapOf(`${at}.headers`, fields.headers ?? {}),
    key: fields.key === undefined ? undefined : mappedOf(`${at}.key`, fields.key),
    priority: fields.priority === undefined ? undefined : numberOf(`${at}.priority`, fields.priority, 0, 255),
    retry: shared.retry,
    outbox: isForgetful(from) ? shared.outbox : undefined,
  }
}

function endpointOf(at: string, value: unknown, schemes: readonly string[]): Endpoint {
  try {
    return parseEndpoint(`"${at}" of the bridge`, value, schemes)
  } catch (error) {
    throw Object.assign(error as Error, { at })
  }
}

function sourceOf(at: string, value: unknown, schemes: readonly string[]): Route['from'] {
  const from = endpointOf(at, value, schemes)
  if (from.kind !== 'topic') return from
  const { queue } = from
  if (queue !== undefined) return { ...from, queue }
  throw wrong(at, '#topic=PATTERN,queue=NAME: a queue of that name keeps what is published', value)
}

function filterOf(at: string, value: unknown): FilterConfig {
  const { headers = {}, key, priority } = fieldsOf(at, value, ['headers', 'key', 'priority'])
  const patterns = Object.entries(fieldsOf(`${at}.headers`, headers)).map(
    ([name, one]) => [name, patternOf(`${at}.headers.${name}`, one)] as const,
  )
  const { min = 0, max = 255 } = fieldsOf(`${at}.priority`, priority ?? {}, ['min', 'max'])
  return {
    ...(patterns.length > 0 && { headers: Object.fromEntries(patterns) }),
    ...(key !== undefined && { key: patternOf(`${at}.key`, key) }),
    ...(priority !== undefined && {
      priority: { min: numberOf(`${at}.priority.min`, min, 0, 255), max: numberOf(`${at}.priority.max`, max, 0, 255) },
    }),
  }
}

function patternOf(at: string, value: unknown): Pattern {
  const isOne = (one: unknown): one is string | null => typeof one === 'string' || one === null
  if (isOne(value) || (Array.isArray(value) && value.length > 0 && value.every(isOne))) return value
  throw wrong(at, 'a string with "*" for any characters, null for what is not there, or an array of such', value)
}

function mapOf(at: string, value: unknown): Record<string, Mapped> {
  const fields = Object.entries(fieldsOf(at, value))
  const own = fields.find(([name]) => name.startsWith(OWN_HEADER))
  if (own !== undefined) throw wrong(at, `names that do not begin with "${OWN_HEADER}"`, own[0])
  return Object.fromEntries(fields.map(([name, one]) => [name, mappedOf(`${at}.${name}`, one)]))
}

function mappedOf(at: string, value: unknown): Mapped {
  if (typeof value === 'string' || value === null) return value
  if (typeof value !== 'object') throw wrong(at, 'a string, null or { "header": NAME }', value)
  return { header: textOf(`${at}.header`, fieldsOf(at, value, ['header']).header) }
}

/** Two routes that take from one queue would have each message go by one of them, whichever gets it. */
function checkUnique(routes: readonly Route[]): void {
  const seen = { name: new Set<string>(), from: new Set<string>() }
  for (const [at, { name, from }] of routes.entries()) {
    const source = placeOf(from)
    if (seen.from.has(source)) {
      const expected = 'a queue that no other route takes from: each message would go by one of them only'
      throw wrong(`routes[${at}].from`, expected, from.shown)
    }
    if (seen.name.has(name)) throw wrong(`routes[${at}].name`, 'one that no other route has', name)
    seen.from.add(source)
    seen.name.add(name)
  }
}

function checkCircles(routes: readonly Route[]): void {
  const circle = circleIn(routes)
  if (circle === undefined) return
  const last = Math.max(...circle)
  const names = circle.map((at) => `'${routes[at]?.name}'`).join(', ')
  const by = circle.length === 1 ? '' : ` by the routes ${names}`
  const hint = 'headers that a route sets, and a filter that does not want them, end that'
  const expected = `somewhere that does not lead back to "from"${by}: messages would go round for ever (${hint})`
  throw wrong(`routes[${last}].to`, expected, routes[last]?.to.shown)
}
