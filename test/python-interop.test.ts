// Both families, both directions, with the modules that Python programs use.
import { spawnSync } from 'node:child_process'
import { SysvQueue } from 'kernelmq'
import { expect, onTestFinished, test } from 'vitest'
import { fixture, openQueue, start } from './support.ts'
import { uniqueKey } from './sysv-support.ts'

/** A python3 that has the module: Debian's has what its packages bring, whatever else is in the PATH. */
const pythonWith = (module: string) =>
  ['python3', '/usr/bin/python3'].find((python) => spawnSync(python, ['-c', `import ${module}`]).status === 0)

const everyByte = Buffer.from(Array.from({ length: 256 }, (_, byte) => byte)).toString('hex')

/** In the order in which they come out. */
const prioritized = [`32767 ${everyByte}`, '32766 ', '2 00', '1 ff00', '0 0a']
const typed = ['1 ', `2 ${everyByte}`, '2147483647 0a']
/** sysv_ipc receives any type, but sends none above 2^31-1. */
const typedBeyond = [...typed, '9007199254740993 00', '9223372036854775807 ff00']

const parse = (line: string): [tag: bigint, data: Buffer] => {
  const [tag = '', hex = ''] = line.split(' ')
  return [BigInt(tag), Buffer.from(hex, 'hex')]
}

function openPosix() {
  const queue = openQueue({ maxMessages: 8, messageSize: 256 })
  return {
    name: queue.path ?? '',
    send: ([priority, data]: [bigint, Buffer]) => queue.sendSync(data, { priority: Number(priority) }),
    receive: async () => {
      const { priority, data } = await queue.receive({ timeout: 5000 })
      return `${priority} ${data.toString('hex')}`
    },
  }
}

function openSysv() {
  const key = `0x${uniqueKey().toString(16)}`
  const queue = SysvQueue.open(key, { create: true })
  onTestFinished(() => queue.close())
  return {
    name: key,
    send: ([type, data]: [bigint, Buffer]) => queue.sendSync(data, { type }),
    receive: async () => {
      const { type, data } = await queue.receive({ timeout: 5000 })
      return `${type} ${data.toString('hex')}`
    },
  }
}

for (const [module, open, toIt, fromIt] of [
  ['posix_ipc', openPosix, prioritized, prioritized],
  ['sysv_ipc', openSysv, typedBeyond, typed],
] as const) {
  const python = pythonWith(module) ?? ''
  const missing = python === '' ? `python3 has no ${module}` : undefined

  test(`${module} receives what was sent, byte for byte`, async ({ skip }) => {
    skip(missing !== undefined, missing)
    const queue = open()
    for (const message of toIt) queue.send(parse(message))
    const peer = start(python, [fixture('peer.py'), module, 'receive', queue.name, String(toIt.length)])
    const { stdout, stderr } = await peer.outcome
    expect(stderr).toBe('')
    expect(stdout).toBe(toIt.map((message) => `${message}\n`).join(''))
  })

  test(`what ${module} sends is received, byte for byte`, async ({ skip }) => {
    skip(missing !== undefined, missing)
    const queue = open()
    const peer = start(python, [fixture('peer.py'), module, 'send', queue.name])
    peer.end(fromIt.map((message) => `${message}\n`).join(''))
    expect((await peer.outcome).stderr).toBe('')
    const received: string[] = []
    for (const _message of fromIt) received.push(await queue.receive())
    expect(received).toEqual(fromIt)
  })
}
