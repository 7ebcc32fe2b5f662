// What the tests of System V queues share: queues and keys that do not outlive
// them, and all ways to send and to receive.
import { execFileSync, spawnSync } from 'node:child_process'
import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Data, type SysvMessage, type SysvOpenOptions, SysvQueue, type SysvReceiveOptions } from 'kernelmq'
import { IPC_RMID, msgctl, msgget } from 'kernelmq/syscalls'
import { afterAll, beforeAll, expect, onTestFinished } from 'vitest'
import { fixture, start } from './support.ts'

/** Removes the queue when the test ends, if it is there still; nothing that waits holds that up. */
export function removeAfter(id: number): void {
  onTestFinished(() => void msgctl(id, IPC_RMID))
}

/** Another handle of a queue. */
export function reopen({ id }: { id: number }): SysvQueue {
  const queue = SysvQueue.fromId(id)
  onTestFinished(() => queue.close())
  return queue
}

/** A queue of the test's own, without a key. */
export function openSysv(options: SysvOpenOptions = {}): SysvQueue {
  const queue = SysvQueue.open('private', options)
  onTestFinished(() => queue.close())
  removeAfter(queue.id)
  return queue
}

let count = 0

/** A key that no other test has, unsigned; its queue is removed when the test ends. */
export function uniqueKey(): number {
  // Half of them are negative as signed numbers.
  const key = ((count++ % 2 === 0 ? 0xcb : 0x4b) * 2 ** 24 + ((process.pid * 64 + count) % 2 ** 24)) >>> 0
  onTestFinished(() => void msgctl(msgget(key, 0), IPC_RMID))
  return key
}

/** What a message comes to, however it was received. */
export type Received = Pick<SysvMessage, 'data' | 'type'>

const patience = { timeout: 10_000 }

function into(receive: (queue: SysvQueue, buffer: Buffer, options?: SysvReceiveOptions) => number) {
  return (queue: SysvQueue, options?: SysvReceiveOptions): Received | undefined => {
    const buffer = Buffer.alloc(8192)
    const length = receive(queue, buffer, options)
    return length === -1 ? undefined : { data: buffer.subarray(0, length), type: queue.lastType }
  }
}

type Receive<R> = [name: string, receive: (queue: SysvQueue, options?: SysvReceiveOptions) => R]

/** Each brings one message that is there, or undefined. */
export const tries: Receive<Received | undefined>[] = [
  ['tryReceive', (queue, options) => queue.tryReceive(options)],
  ['tryReceiveMany', (queue, options) => queue.tryReceiveMany(1, options)[0]],
  ['tryReceiveInto', into((queue, buffer, options) => queue.tryReceiveInto(buffer, options))],
]

/** Each brings one message, and blocks the thread for it. */
export const blocking: Receive<Received>[] = [
  ['receiveSync', (queue, options) => queue.receiveSync({ ...patience, ...options })],
  ['receiveSync, spinning,', (queue, options) => queue.receiveSync({ ...patience, spin: 50, ...options })],
  [
    'receiveIntoSync',
    (queue, options) =>
      into((_, buffer) => queue.receiveIntoSync(buffer, { ...patience, ...options }))(queue) as Received,
  ],
]

/** Each brings one message, and waits for it. */
export const waits: Receive<Promise<Received | undefined>>[] = [
  ['receive', (queue, options) => queue.receive({ ...patience, ...options })],
  ['receiveMany', async (queue, options) => (await queue.receiveMany({ max: 1, ...patience, ...options }))[0]],
  ['messages', async (queue, options) => (await queue.messages({ ...patience, ...options }).next()).value],
  ['batches', async (queue, options) => (await queue.batches({ max: 1, ...patience, ...options }).next()).value?.[0]],
  [
    'consume',
    (queue, options) =>
      new Promise((resolve, reject) => {
        const controller = new AbortController()
        const handler = (message: Received) => {
          resolve(message)
          controller.abort()
        }
        queue.consume(handler, { ...options, signal: controller.signal }).catch(reject)
      }),
  ],
  [
    'a read stream',
    (queue, options) =>
      new Promise((resolve, reject) => {
        const stream = queue.createReadStream({ highWaterMark: 1, ...options })
        stream.once('data', (message) => {
          resolve(message)
          stream.destroy()
        })
        stream.once('error', reject)
      }),
  ],
]

type Send = [name: string, send: (queue: SysvQueue, data: Data, type?: number | bigint) => unknown]

/** Each sends one message, for which there is room. */
export const senders: Send[] = [
  ['send', (queue, data, type) => queue.send(data, { type, ...patience })],
  ['sendSync', (queue, data, type) => queue.sendSync(data, { type, ...patience })],
  ['trySend', (queue, data, type) => queue.trySend(data, { type })],
  ['sendMany', (queue, data, type) => queue.sendMany([{ data, type }], patience)],
  ['trySendMany', (queue, data, type) => queue.trySendMany([{ data, type }])],
]

/** Everything that is in the queue, as text; takes it out. */
export const drain = (queue: SysvQueue, options?: SysvReceiveOptions): string[] =>
  queue.tryReceiveMany(10_000, options).map((message) => message.text())

/** How many threads this process has. */
export const countThreads = (): number => readdirSync('/proc/self/task').length

/** Resolves when there are so many: the kernel lists a thread for a moment after it was joined. */
export const threadsAre = (count: number): Promise<void> => expect.poll(countThreads, { interval: 5 }).toBe(count)

export interface Attempted {
  // biome-ignore lint/suspicious/noExplicitAny: whatever the call returns
  value?: any
  error?: Record<'name' | 'code' | 'syscall' | 'message', string> & Partial<Record<'path' | 'hint', string>>
}

/** Runs test/fixtures/sysv-attempt.mjs, through commands such as unshare(1) if some are given. */
export async function attemptSysv(
  attempts: [action: string, ...args: unknown[]][],
  options: { through?: string[]; uid?: number | undefined } = {},
): Promise<Attempted[]> {
  const { through = [], uid } = options
  const [command = '', ...args] = [...through, process.execPath, fixture('sysv-attempt.mjs')]
  const { stdout, stderr } = await start(command, [...args, JSON.stringify({ uid, attempts })]).outcome
  if (stdout === '') throw new Error(`${command} failed: ${stderr}`)
  return JSON.parse(stdout)
}

export const hasCompiler: boolean = spawnSync('cc', ['--version']).status === 0

/** Compiles a C program of test/fixtures/ for the tests of this file; the path of what comes of it. */
export function compile(name: string): string {
  const directory = mkdtempSync(join(tmpdir(), 'kernelmq-'))
  const program = join(directory, 'program')
  beforeAll(() => {
    const flags = ['-std=gnu11', '-Wall', '-Wextra', '-Werror', '-O1']
    execFileSync('cc', [...flags, '-o', program, fixture(name)], { stdio: ['ignore', 'inherit', 'inherit'] })
  })
  afterAll(() => rmSync(directory, { recursive: true }))
  return program
}
