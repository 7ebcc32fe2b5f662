#!/usr/bin/env node
// What each transport says that it can do, as the table of docs/transports.md; real servers say it where they are installed.
import { mkdtempSync, realpathSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { connect } from 'kernelmq/bus'
import { missingFor, startServer } from './servers.mjs'

const servers = { redis: 'redis', nats: 'nats', amqp: 'rabbitmq' }

export const schemes = ['local', 'mq', 'sysv', ...Object.keys(servers)]

/** The Debian package that a scheme needs and that is not there. */
export const missingOf = (scheme) => servers[scheme] && missingFor(servers[scheme])

/** Native, emulated or refused, by capability; of `persist` and `lease` which kind. */
export async function wordsOf(scheme) {
  const directory = mkdtempSync(join(tmpdir(), 'kernelmq-capabilities-'))
  const server = servers[scheme] === undefined ? undefined : await startServer(servers[scheme])
  try {
    const bus = await connect(server?.url ?? `${scheme}:${directory}/bus`)
    const { maxBytes: _, partitions, ...capabilities } = bus.capabilities
    rmSync(directory, { recursive: true })
    await bus.close()
    const words = Object.entries(capabilities).map(([name, word]) => [name, word === false ? 'refused' : word])
    if (partitions !== undefined) words.push(['order', `${capabilities.order}, ${partitions} partitions`])
    return Object.fromEntries(words)
  } finally {
    rmSync(directory, { recursive: true, force: true })
    await server?.close()
  }
}

/** By scheme what {@link wordsOf} says, as lines of Markdown. */
export function tableOf(columns) {
  const names = Object.keys(columns)
  const rows = Object.keys(Object.values(columns)[0]).map((capability) => [
    `\`${capability}\``,
    ...names.map((name) => columns[name][capability]),
  ])
  const lines = [['', ...names.map((name) => `\`${name}:\``)], ['', ...names].map(() => '---'), ...rows]
  return lines.map((cells) => `| ${cells.join(' | ')} |`.replace('|  |', '| |'))
}

if (process.argv[1] !== undefined && realpathSync(process.argv[1]) === import.meta.filename) {
  const columns = {}
  for (const scheme of schemes) {
    const missing = missingOf(scheme)
    if (missing === undefined) columns[scheme] = await wordsOf(scheme)
    else console.error(`${scheme}: needs a server: install ${missing} (Debian)`)
  }
  console.log(tableOf(columns).join('\n'))
}
