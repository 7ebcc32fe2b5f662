import { execFileSync, spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { PosixQueue } from 'kernelmq'
import { afterAll, beforeAll, beforeEach, describe, expect, onTestFinished, test } from 'vitest'
import { fixture, openQueue, type Running, start, uniqueName } from './support.ts'

interface Item {
  data: Buffer
  priority: number
}

const hasCompiler = spawnSync('cc', ['--version']).status === 0
const directory = mkdtempSync(join(tmpdir(), 'kernelmq-interop-'))
const program = join(directory, 'peer')

/** A C program that uses libc's mq_* functions. */
const peer = (...args: (string | number | undefined)[]): Running => start(program, args.map(String))

const line = ({ data, priority }: Item) => `${priority} ${data.toString('hex')}`

/** What the kernel delivers first: the highest priority, then the oldest. */
const inKernelOrder = (items: readonly Item[]) =>
  [...items].sort((one, other) => other.priority - one.priority).map(line)

const every = Buffer.from(Array.from({ length: 256 }, (_, index) => index))
const items: Item[] = [
  { data: every, priority: 0 },
  { data: Buffer.alloc(0), priority: 1 },
  { data: Buffer.from('text\0with\nnull and line feed'), priority: 32767 },
  { data: Buffer.alloc(300, 0xff), priority: 1 },
  { data: Buffer.from([0]), priority: 32766 },
  { data: Buffer.from(every).reverse(), priority: 0 },
]

describe('with a C program', () => {
  beforeAll(() => {
    if (!hasCompiler) return
    const flags = ['-std=gnu11', '-Wall', '-Wextra', '-Werror', '-O1']
    execFileSync('cc', [...flags, '-o', program, fixture('peer.c'), '-lrt'], {
      stdio: ['ignore', 'inherit', 'inherit'],
    })
  })

  beforeEach(({ skip }) => skip(!hasCompiler, 'no C compiler (cc) on PATH'))

  afterAll(() => rmSync(directory, { recursive: true }))

  const open = () => openQueue({ maxMessages: 6, messageSize: 300 })

  const senders: [string, (queue: PosixQueue) => unknown][] = [
    ['send', (queue) => Promise.all(items.map(({ data, priority }) => queue.send(data, { priority })))],
    ['sendSync', (queue) => items.map(({ data, priority }) => queue.sendSync(data, { priority }))],
    ['trySend', (queue) => items.map(({ data, priority }) => queue.trySend(data, { priority }))],
    ['sendMany', (queue) => queue.sendMany(items)],
    ['trySendMany', (queue) => queue.trySendMany(items)],
  ]

  test.each(senders)('what %s sends is received byte for byte and priority for priority', async (_, send) => {
    const queue = open()
    await send(queue)
    const { stdout, stderr } = await peer('receive', queue.path, items.length).outcome
    expect(stderr).toBe('')
    expect(
      stdout
        .trimEnd()
        .split('\n')
        .map((text) => text.trim()),
    ).toEqual(inKernelOrder(items).map((text) => text.trim()))
  })

  const receivers: [string, (queue: PosixQueue) => Promise<Item> | Item | undefined][] = [
    ['receive', (queue) => queue.receive()],
    ['receiveSync', (queue) => queue.receiveSync()],
    ['tryReceive', (queue) => queue.tryReceive()],
    ['receiveMany', async (queue) => (await queue.receiveMany({ max: 1 }))[0] as Item],
    ['tryReceiveMany', (queue) => queue.tryReceiveMany(1)[0]],
    [
      'tryReceiveInto',
      (queue) => {
        const buffer = Buffer.alloc(300)
        const length = queue.tryReceiveInto(buffer)
        return { data: buffer.subarray(0, length), priority: queue.lastPriority }
      },
    ],
  ]

  test.each(receivers)(
    'what it sends is received by %s byte for byte and priority for priority',
    async (_, receive) => {
      const queue = open()
      const child = peer('send', queue.path)
      child.end(`${items.map(line).join('\n')}\n`)
      expect(await child.outcome).toMatchObject({ stderr: '', code: 0 })
      const received: Item[] = []
      for (const _item of items) received.push((await receive(queue)) as Item)
      expect(received.map(line)).toEqual(inKernelOrder(items))
      expect(queue.attributes.messages).toBe(0)
    },
  )

  test('hundreds of messages go both ways through small queues while both sides wait', async () => {
    const there = openQueue({ maxMessages: 1, messageSize: 8 })
    const numbers = Array.from({ length: 300 }, (_, index) => ({ data: Buffer.from(String(index)), priority: index }))
    const reader = peer('receive', there.path, numbers.length)
    await there.sendMany(numbers)
    expect((await reader.outcome).stdout).toBe(`${numbers.map(line).join('\n')}\n`)

    const back = openQueue({ maxMessages: 1, messageSize: 8 })
    const writer = peer('send', back.path)
    writer.end(`${numbers.map(line).join('\n')}\n`)
    const received: string[] = []
    for await (const message of back) if (received.push(line(message)) === numbers.length) break
    expect(received).toEqual(numbers.map(line))
    expect((await writer.outcome).code).toBe(0)
  })

  test('a queue that it creates is opened, and one that it did not is seen by it', async () => {
    const name = uniqueName()
    expect((await peer('create', name, '3', '77').outcome).stderr).toBe('')
    const theirs = PosixQueue.open(name)
    onTestFinished(() => theirs.close())
    expect(theirs.attributes).toEqual({ maxMessages: 3, messageSize: 77, messages: 0 })
    const ours = openQueue({ maxMessages: 4, messageSize: 55 })
    ours.trySend('x')
    expect((await peer('attributes', ours.path).outcome).stdout).toBe('4 55 1\n')
  })
})
