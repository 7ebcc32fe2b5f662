import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'

const root = fileURLToPath(new URL('..', import.meta.url))

/** From the lowest up, floor by floor: a file imports only from files before it. */
const order = [
  ['errors.ts', 'native.ts'],
  ['waiting.ts', 'readiness.ts', 'threads.ts', 'syscalls.ts'],
  ['outbox.ts', 'queue.ts', 'system.ts', 'notifications.ts'],
  ['posix.ts', 'sysv.ts'],
  ['systemd.ts', 'doctor.ts'],
  ['index.ts'],
  [
    'bus/secrets.ts',
    'bus/clock.ts',
    'bus/transport.ts',
    'bus/topic-pattern.ts',
    'bus/schema.ts',
    'bus/codecs.ts',
    'bus/body.ts',
  ],
  ['bus/transports/local/sqlite.ts', 'bus/transports/local/lock.ts', 'bus/transports/local/peers.ts'],
  [
    'bus/transports/local/checkpointer.ts',
    'bus/transports/local/bodies.ts',
    'bus/transports/local/reserve.ts',
    'bus/transports/local/store.ts',
  ],
  ['bus/transports/local/engine.ts', 'bus/transports/local/local.ts', 'bus/transports/memory.ts'],
  [
    'bus/transports/kernel/process.ts',
    'bus/transports/kernel/pack.ts',
    'bus/transports/kernel/remains.ts',
    'bus/transports/kernel/directory.ts',
    'bus/transports/kernel/lane.ts',
    'bus/transports/kernel/lasting.ts',
    'bus/transports/kernel/kernel.ts',
  ],
  ['bus/transports/mq.ts', 'bus/transports/sysv.ts'],
  [
    'bus/transports/engine/client.ts',
    'bus/transports/engine/address.ts',
    'bus/transports/engine/wire.ts',
    'bus/transports/engine/holding.ts',
    'bus/transports/engine/hold.ts',
  ],
  [
    'bus/transports/amqp/link.ts',
    'bus/transports/amqp/wire.ts',
    'bus/transports/amqp/topology.ts',
    'bus/transports/amqp/held.ts',
    'bus/transports/amqp/publisher.ts',
    'bus/transports/amqp/keyed.ts',
    'bus/transports/amqp/line.ts',
  ],
  [
    'bus/transports/redis/prelude.ts',
    'bus/transports/redis/scripts.ts',
    'bus/transports/redis/connection.ts',
    'bus/transports/redis/calls.ts',
    'bus/transports/redis/entry.ts',
    'bus/transports/redis/member.ts',
    'bus/transports/redis/sending.ts',
    'bus/transports/redis/settling.ts',
    'bus/transports/redis/receiving.ts',
    'bus/transports/redis/standing.ts',
    'bus/transports/redis/redis.ts',
  ],
  [
    'bus/transports/nats/names.ts',
    'bus/transports/nats/line.ts',
    'bus/transports/nats/link.ts',
    'bus/transports/nats/envelope.ts',
    'bus/transports/nats/ledger.ts',
    'bus/transports/nats/hands.ts',
    'bus/transports/nats/state.ts',
    'bus/transports/nats/lane.ts',
    'bus/transports/nats/stream.ts',
    'bus/transports/nats/borrowed.ts',
    'bus/transports/nats/bindings.ts',
    'bus/transports/nats/records.ts',
    'bus/transports/nats/nats.ts',
  ],
  [
    'bus/meter.ts',
    'bus/message.ts',
    'bus/consumer.ts',
    'bus/dead-letters.ts',
    'bus/cancellations.ts',
    'bus/replies.ts',
    'bus/history.ts',
    'bus/tracing.ts',
    'bus/outlet.ts',
    'bus/queue.ts',
  ],
  ['bus/transports/amqp/discovery.ts', 'bus/transports/amqp/amqp.ts'],
  ['bus/prometheus.ts'],
  ['bus/schedules.ts', 'bus/topic.ts', 'bus/namespace.ts', 'bus/bus.ts', 'bus/index.ts'],
  [
    'bridge/endpoint.ts',
    'bridge/circles.ts',
    'bridge/config.ts',
    'bridge/mapping.ts',
    'bridge/links.ts',
    'bridge/source.ts',
    'bridge/kernel.ts',
    'bridge/sink.ts',
  ],
  ['bridge/counters.ts', 'bridge/journal.ts', 'bridge/collector.ts', 'bridge/mover.ts', 'bridge/runner.ts'],
  ['bridge/metrics.ts', 'bridge/server.ts', 'bridge/bridge.ts', 'bridge/index.ts'],
  [
    'cli/errors.ts',
    'cli/terminal.ts',
    'cli/command.ts',
    'cli/duration.ts',
    'cli/interruption.ts',
    'cli/input.ts',
    'cli/target.ts',
    'cli/waiting.ts',
    'cli/queues.ts',
  ],
  ['cli/watch.ts', 'cli/screen.ts', 'cli/flow.ts', 'cli/lines.ts', 'cli/service.ts'],
  ['cli/ls.ts', 'cli/info.ts', 'cli/create.ts', 'cli/set.ts', 'cli/rm.ts', 'cli/purge.ts'],
  ['cli/messages.ts', 'cli/snapshot.ts', 'cli/moving.ts', 'cli/output.ts', 'cli/progress.ts'],
  ['cli/send.ts', 'cli/recv.ts', 'cli/peek.ts', 'cli/pipe.ts', 'cli/run.ts', 'cli/dump.ts', 'cli/restore.ts'],
  ['cli/doctor.ts', 'cli/limits.ts'],
  ['cli/bus/secrets.ts', 'cli/bus/connection.ts', 'cli/bus/messages.ts', 'cli/bus/figures.ts'],
  ['cli/bus/ls.ts', 'cli/bus/stats.ts', 'cli/bus/peek.ts', 'cli/bus/send.ts', 'cli/bus/tail.ts'],
  ['cli/bus/dlq.ts', 'cli/bus/redrive.ts', 'cli/bus/purge.ts', 'cli/bus/schedules.ts', 'cli/bus.ts'],
  ['cli/bridge.ts'],
  ['cli/top.ts', 'cli/bench.ts'],
  ['cli/bench-peer.ts'],
  ['cli/completion.ts', 'cli/commands.ts', 'cli/help.ts', 'cli/man.ts', 'cli/complete.ts', 'cli/main.ts', 'cli/kmq.ts'],
].flat()

const library = readdirSync(join(root, 'lib'), { recursive: true, encoding: 'utf8' }).filter((name) =>
  name.endsWith('.ts'),
)

/** What a file imports or re-exports, types included. */
function importsOf(name: string): string[] {
  const text = readFileSync(join(root, 'lib', name), 'utf8').replace(/^\s*(\/\/|\/?\*).*$/gm, '')
  return [...text.matchAll(/\b(?:from|import|require)\b[\s(]*(['"])(.+?)\1/g)].map((match) => match[2] as string)
}

test('every file of lib/ has its place in the order', () => {
  expect(library.toSorted()).toEqual(order.toSorted())
})

test.each(library)('lib/%s imports only what lies below it', (name) => {
  const below = order.slice(0, order.indexOf(name))
  const own = importsOf(name)
    .filter((specifier) => /^[./]/.test(specifier))
    .map((specifier) => join(dirname(name), specifier))
  expect(below).toEqual(expect.arrayContaining(own))
})

test('only lib/native.ts needs a package, and that is bindings; of optional ones others import types', () => {
  const imports = library
    .filter((name) => !name.startsWith('cli/'))
    .flatMap((name) =>
      [...readFileSync(join(root, 'lib', name), 'utf8').matchAll(/^import (type )?.* from '([^.].*)'$/gm)]
        .filter(([, , specifier]) => !specifier?.startsWith('node:'))
        .map(([, type = '', specifier]) => `${dirname(name)}/: ${type}${specifier}`),
    )
  expect([...new Set(imports)].sort()).toEqual([
    './: type bindings',
    'bus/: type @opentelemetry/api',
    'bus/transports/amqp/: type amqplib',
    'bus/transports/nats/: type @nats-io/transport-node',
  ])
  expect(readFileSync(join(root, 'lib/native.ts'), 'utf8')).toContain("createRequire(import.meta.url)('bindings')")
})

test('the command keeps to the public API', () => {
  const beyond = library
    .filter((name) => name.startsWith('cli/'))
    .flatMap((name) =>
      importsOf(name).map((specifier) => (/^\./.test(specifier) ? join(dirname(name), specifier) : '')),
    )
    .filter((path) => path !== '' && !path.startsWith('cli/'))
  expect(['index.ts', 'bus/index.ts', 'bridge/index.ts']).toEqual(expect.arrayContaining([...new Set(beyond)]))
})

const notOurs = new Set(['.git', 'build', 'coverage', 'dist', 'node_modules', 'prebuilds'])

function* filesIn(directory: string): Generator<string> {
  for (const entry of readdirSync(directory, { withFileTypes: true })) {
    if (notOurs.has(entry.name)) continue
    const path = join(directory, entry.name)
    if (entry.isDirectory()) yield* filesIn(path)
    else if (entry.isFile()) yield path
  }
}

// Where packages come from is for each user's configuration to say.
test('no file of the project names a package registry', () => {
  const files = [...filesIn(root)]
  expect(files).toContain(join(root, 'package-lock.json'))
  const host = /\b(registry|npm\.pkg)\.[\w-]+\.(com|org|net|io|dev|cn)\b|"resolved":\s*"https?:/
  const found = files.filter((file) => host.test(readFileSync(file, 'latin1')))
  expect(found.map((file) => relative(root, file))).toEqual([])
})
