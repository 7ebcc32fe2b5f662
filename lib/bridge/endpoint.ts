// What a route begins or ends at, in one word.
import { resolve } from 'node:path'
import { hide } from '../bus/secrets.ts'
import { invalidType, invalidValue } from '../errors.ts'

export type Endpoint =
  | { readonly kind: 'posix'; readonly shown: string; readonly name: string }
  | { readonly kind: 'sysv'; readonly shown: string; readonly key: number }
  | { readonly kind: 'queue'; readonly shown: string; readonly url: string; readonly queue: string }
  | {
      readonly kind: 'topic'
      readonly shown: string
      readonly url: string
      readonly topic: string
      /** What keeps the messages of a topic that is taken from. */
      readonly queue: string | undefined
    }

export type KernelEndpoint = Extract<Endpoint, { kind: 'posix' | 'sysv' }>
export type BusEndpoint = Extract<Endpoint, { kind: 'queue' | 'topic' }>

export const isKernel = (endpoint: Endpoint): endpoint is KernelEndpoint =>
  endpoint.kind === 'posix' || endpoint.kind === 'sysv'

/** Whether it forgets what it hands out, whatever becomes of that. */
export const isForgetful = (endpoint: Endpoint): boolean => isKernel(endpoint) || /^(?:mq|sysv):/.test(endpoint.url)

/** What the schemes of engines stand for, and the ports that need not be said: with TLS and without it is the same one. */
const ENGINES: Readonly<Record<string, { readonly name: string; readonly port: string }>> = {
  'redis:': { name: 'redis', port: '6379' },
  'rediss:': { name: 'redis', port: '6379' },
  'nats:': { name: 'nats', port: '4222' },
  'tls:': { name: 'nats', port: '4222' },
  'amqp:': { name: 'amqp', port: '5672' },
  'amqps:': { name: 'amqp', port: '5671' },
}

const LOCAL = /^(?:127\.0\.0\.1|\[::1\]|)$/

/** The same text for all URLs of one bus, as far as they tell. */
export function busOf(text: string): string {
  const url = new URL(text)
  const { protocol, hostname, username, searchParams } = url
  const path = decoded(url.pathname)
  const engine = ENGINES[protocol]
  // Each `memory:` is another.
  if (engine === undefined) return protocol === 'memory:' ? text : `${protocol}${resolve(path)}`
  const { name } = engine
  const host = hostname.toLowerCase().replace(LOCAL, 'localhost')
  const port = url.port === engine.port ? '' : url.port
  // What a server keeps apart: its databases, virtual hosts, accounts of users.
  const part = { redis: String(Number(path.slice(1))), amqp: path.slice(1) || '/', nats: decoded(username) }[name]
  return JSON.stringify([name, host, port, part, searchParams.get('prefix') ?? 'kmq'])
}

/** What is wrong with it is said when it is connected to. */
function decoded(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    return text
  }
}

/** The same text for all spellings of one queue, or of one topic to publish to. */
export function placeOf(endpoint: Endpoint): string {
  if (endpoint.kind === 'posix') return `posix:${endpoint.name}`
  if (endpoint.kind === 'sysv') return `sysv:${endpoint.key}`
  const { queue } = endpoint
  const what = endpoint.kind === 'topic' && queue === undefined ? { topic: endpoint.topic } : { queue }
  return JSON.stringify([busOf(endpoint.url), what])
}

const QUEUE = /^[\w.:-]{1,128}$/
const WORD = '(?:[\\w:-]+|\\*|#)'
const TOPIC = new RegExp(`^(?=.{1,128}$)${WORD}(?:\\.${WORD})*$`)

/** @param schemes of the URLs that a bus may have, such as `local:` */
export function parseEndpoint(name: string, text: unknown, schemes: readonly string[]): Endpoint {
  if (typeof text !== 'string') throw invalidType(name, 'a string', text)
  const shown = hide(text)
  const [, url, fragment] = /^([^#]*)#(.*)$/s.exec(text) ?? []
  if (url === undefined || fragment === undefined) return parseKernel(name, text, shown)
  const scheme = /^[a-z][a-z\d+.-]*:/.exec(url)?.[0]
  if (scheme === undefined || !URL.canParse(url) || !schemes.includes(scheme)) {
    throw invalidValue(name, `a URL that begins with ${schemes.join(' or ')} before the "#"`, shown)
  }
  const [, queue] = /^queue=(.*)$/s.exec(fragment) ?? []
  if (queue !== undefined && QUEUE.test(queue)) return { kind: 'queue', shown, url, queue }
  const [, topic, own] = /^topic=([^,]*)(?:,queue=(.*))?$/s.exec(fragment) ?? []
  if (topic !== undefined && TOPIC.test(topic) && (own === undefined || QUEUE.test(own))) {
    return { kind: 'topic', shown, url, topic, queue: own }
  }
  const expected = '#queue=NAME, #topic=NAME or #topic=PATTERN,queue=NAME behind its URL'
  throw invalidValue(name, `an endpoint with ${expected}`, shown)
}

function parseKernel(name: string, text: string, shown: string): KernelEndpoint {
  const [, path] = /^posix:(\/[^/\0]{1,254})$/.exec(text) ?? []
  if (path !== undefined) return { kind: 'posix', shown, name: path }
  const [, key] = /^sysv:(0x[\da-f]{1,8})$/i.exec(text) ?? []
  if (key !== undefined && Number(key) !== 0) return { kind: 'sysv', shown, key: Number(key) }
  const expected = 'posix:/NAME, sysv:0xKEY, URL#queue=NAME or URL#topic=NAME'
  throw invalidValue(name, expected, shown)
}
