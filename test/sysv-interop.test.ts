import { execFileSync, spawnSync } from 'node:child_process'
import { SysvQueue } from 'kernelmq'
import { expect, test } from 'vitest'
import { compile, hasCompiler, openSysv, removeAfter } from './sysv-support.ts'

const peer = compile('sysv-peer.c')

const everyByte = Buffer.from(Array.from({ length: 256 }, (_, byte) => byte))
const messages: [type: string, hex: string][] = [
  ['1', ''],
  ['2', everyByte.toString('hex')],
  ['9007199254740993', '00'],
  ['9223372036854775807', 'ff00'],
]

test('a program in C receives what was sent, byte for byte and type for type', ({ skip }) => {
  skip(!hasCompiler, 'there is no cc')
  const queue = openSysv()
  for (const [type, hex] of messages) queue.sendSync(Buffer.from(hex, 'hex'), { type: BigInt(type) })
  const printed = execFileSync(peer, ['receive', String(queue.id), String(messages.length)], { encoding: 'utf8' })
  expect(printed).toBe(messages.map(([type, hex]) => `${type} ${hex}\n`).join(''))
})

test('what a program in C sends is received, byte for byte and type for type', ({ skip }) => {
  skip(!hasCompiler, 'there is no cc')
  const queue = openSysv()
  for (const [type, hex] of messages) execFileSync(peer, ['send', String(queue.id), type, hex])
  const received = queue.tryReceiveMany().map((message) => [String(message.type), message.data.toString('hex')])
  expect(received).toEqual(messages)
})

test('ipcmk, ipcs and ipcrm of util-linux speak of the same queues', ({ skip }) => {
  skip(spawnSync('ipcmk', ['--version']).status !== 0, 'there is no ipcmk')
  const id = /(\d+)\s*$/.exec(execFileSync('ipcmk', ['-Q', '-p', '0640'], { encoding: 'utf8' }))?.[1]
  const queue = SysvQueue.fromId(Number(id))
  removeAfter(queue.id)
  queue.trySend('hello')
  const { key, mode, maxBytes } = queue.stat()
  expect(mode).toBe(0o640)
  const row = execFileSync('ipcs', ['-q'], { encoding: 'utf8' })
    .split('\n')
    .map((line) => line.trim().split(/\s+/))
    .find(([, listed]) => listed === id)
  expect(row).toEqual([key, id, expect.any(String), '640', '5', '1'])
  expect(execFileSync('ipcs', ['-q', '-l'], { encoding: 'utf8' })).toContain(`= ${maxBytes}`)
  // Found by the key that ipcs shows.
  expect(SysvQueue.open(key).id).toBe(queue.id)
  execFileSync('ipcrm', ['-q', String(id)])
  expect(() => queue.tryReceive()).toThrow(/^EIDRM/)
})
