// The benchmark must not time what does not work: it has to notice a message that is lost or changed.
import { execFileSync, spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { PosixQueue, SysvQueue } from 'kernelmq'
import { afterAll, beforeAll, beforeEach, expect, onTestFinished, test } from 'vitest'
import { start, uniqueName } from './support.ts'

const bench = (path: string) => fileURLToPath(new URL(`../bench/${path}`, import.meta.url))
const { Maker } = await import(bench('message.mjs'))
const { Bench } = await import(bench('measure.mjs'))
const { Program } = await import(bench('program.mjs'))
const { chooseCores } = await import(bench('machine.mjs'))

const SIZE = 64
const [core] = chooseCores()
const canRun = ['cc', 'setpriv', 'taskset'].every((command) => spawnSync(command, ['--version']).status === 0)
const folder = mkdtempSync(join(tmpdir(), 'kernelmq-bench-test-'))

beforeEach((ctx) => ctx.skip(!canRun, 'it needs a C compiler, setpriv and taskset'))

beforeAll(() => {
  const flags = ['-std=gnu11', '-D_GNU_SOURCE', '-Wall', '-Wextra', '-Werror']
  if (canRun) execFileSync('cc', [...flags, '-o', join(folder, 'stream'), bench('c/stream.c'), '-lrt'])
})
afterAll(() => rmSync(folder, { recursive: true }))

const c = { name: 'C', way: 'blocking', language: 'c' }
const kernelmq = (way: string) => ({ name: way, way, route: 'kernelmq' })
const peers = ['unix-socket', 'child-process', 'message-port'].map((route) => ({ name: route, route }))

test.each([
  ['pair', 'posix', [c, kernelmq('receiveIntoSync'), kernelmq('send, receive')]],
  ['stream', 'posix', [c, kernelmq('receiveSync'), kernelmq('sendMany, for await'), ...peers]],
  ['stream', 'sysv', [c, kernelmq('sendMany, batches'), kernelmq('sendMany, consume')]],
  ['ping-pong', 'sysv', [c, kernelmq('send, receive')]],
  ['timer', 'posix', [kernelmq('sendMany, for await')]],
])('a group has a time and a ratio for each participant: %s, %s', async (workload, family, participants) => {
  const measuring = new Bench({ cores: [core, core], rounds: 2, milliseconds: 2 })
  onTestFinished(() => measuring.dispose())
  measuring.compile()
  const results = await measuring.measure({ workload, family, size: SIZE, depth: 4, cores: 1, participants })
  expect(results.map(({ name }: { name: string }) => name)).toEqual(participants.map(({ name }) => name))
  for (const { nanoseconds, ratios, messages, timerLateness } of results) {
    expect(nanoseconds.median).toBeGreaterThan(0)
    expect(ratios[participants[0]?.name ?? ''].median).toBeGreaterThan(0)
    expect(messages).toBeGreaterThan(2 * 200)
    if (workload === 'timer') expect(timerLateness.samples).toBeGreaterThan(0)
  }
})

const faults: [string, (message: Buffer) => Buffer][] = [
  ['another number', (message) => Buffer.concat([Buffer.from([1]), message.subarray(1)])],
  ['a changed byte', (message) => Buffer.from(message.map((byte, index) => (index === 30 ? byte ^ 1 : byte)))],
  ['a wrong end', (message) => Buffer.concat([message.subarray(0, SIZE - 1), Buffer.from([1])])],
  ['half its length', (message) => message.subarray(0, SIZE / 2)],
]
const families = {
  posix() {
    const name = uniqueName()
    const queue = PosixQueue.open(name, { create: true, maxMessages: 4, messageSize: SIZE })
    onTestFinished(() => queue.close())
    return { name, queue }
  },
  sysv() {
    const queue = SysvQueue.open('private')
    onTestFinished(() => queue.remove())
    return { name: String(queue.id), queue }
  },
}

for (const language of ['C', 'JavaScript']) {
  for (const family of ['posix', 'sysv'] as const) {
    test.each(faults)(`a receiver in ${language} fails on a message with %s: ${family}`, async (_, change) => {
      const { name, queue } = families[family]()
      queue.sendSync(change(Buffer.from(new Maker(SIZE).next())))
      const cores = [core, core]
      const config = {
        workload: 'stream',
        route: 'kernelmq',
        way: 'receiveSync',
        family,
        size: SIZE,
        cores,
        queues: [name],
      }
      const [command = '', ...args] =
        language === 'C'
          ? [join(folder, 'stream'), family, 'blocking', SIZE, ...cores, name].map(String)
          : [process.execPath, bench('end.mjs'), JSON.stringify(config)]
      const child = start(command, args)
      child.end('20 0 1 0\n')
      const { signal, stdout, stderr } = await child.outcome
      expect({ signal, stdout, stderr }).toEqual({
        signal: 'SIGTERM',
        stdout: '',
        stderr: 'message 0 is lost or corrupt\n',
      })
    })
  }
}

test('a participant that waits for a message for ever is given up', async () => {
  const program = Program.start(core, ['sleep', '1000'], { timeout: 100 })
  onTestFinished(() => program.kill())
  await expect(program.run({ count: 1, warm: 0 })).rejects.toThrow('messages are lost')
})
