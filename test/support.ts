// What the tests share: queues that do not outlive them, and child processes.
import { spawn, spawnSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { PosixQueue } from 'kernelmq'
import { onTestFinished } from 'vitest'

let count = 0

/** A name that no other test has; the queue is unlinked when the test ends. */
export function uniqueName(): string {
  const name = `/kmq-test-${process.pid}-${count++}`
  onTestFinished(() => {
    try {
      PosixQueue.unlink(name)
    } catch {}
  })
  return name
}

/** A small queue of the test's own. */
export function openQueue(options: Parameters<typeof PosixQueue.open>[1] = {}): PosixQueue {
  const queue = PosixQueue.open(uniqueName(), { create: true, maxMessages: 4, messageSize: 64, ...options })
  onTestFinished(() => queue.close())
  return queue
}

export interface Outcome {
  code: number | null
  signal: NodeJS.Signals | null
  stdout: string
  stderr: string
  milliseconds: number
}

/** Runs a file of test/fixtures/ to its end, or to that of the test. */
export function runFixture(name: string, args: string[] = [], nodeArgs: string[] = []): Promise<Outcome> {
  const path = fileURLToPath(new URL(`fixtures/${name}`, import.meta.url))
  const start = performance.now()
  const child = spawn(process.execPath, [...nodeArgs, path, ...args], { stdio: ['ignore', 'pipe', 'pipe'] })
  onTestFinished(() => void child.kill('SIGKILL'))
  const output = { stdout: '', stderr: '' }
  child.stdout.setEncoding('utf8').on('data', (text) => (output.stdout += text))
  child.stderr.setEncoding('utf8').on('data', (text) => (output.stderr += text))
  return new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (code, signal) => {
      resolve({ code, signal, ...output, milliseconds: performance.now() - start })
    })
  })
}

export const isRoot = process.getuid?.() === 0

/** Whether discovery can work here; see setup.ts. */
export const isMounted = / mqueue /.test(readFileSync('/proc/self/mounts', 'utf8'))

/** The path of a file of test/fixtures/. */
export const fixture = (name: string): string => fileURLToPath(new URL(`fixtures/${name}`, import.meta.url))

export interface Running {
  readonly pid: number
  /** The next line of its standard output. */
  line(): Promise<string>
  /** Writes to its standard input and ends that. */
  end(text?: string): void
  /** Sends it a signal, if it has not ended. */
  kill(signal: NodeJS.Signals): void
  readonly outcome: Promise<Outcome>
}

/**
 * Starts a command that does not outlive the test. `descriptors` are 3, 4, ...
 * to the child, `stdin` its 0.
 */
export function start(
  command: string,
  args: string[],
  options: { descriptors?: number[]; stdin?: number; env?: NodeJS.ProcessEnv } = {},
): Running {
  const { descriptors = [], stdin = 'pipe', env = {} } = options
  const began = performance.now()
  const child = spawn(command, args, {
    stdio: [stdin, 'pipe', 'pipe', ...descriptors],
    env: { ...process.env, ...env },
  })
  onTestFinished(() => {
    child.kill('SIGKILL')
  })
  const output = { stdout: '', stderr: '' }
  const { stdout, stderr } = child
  if (stdout === null || stderr === null) throw new Error(`${command} has no output`)
  stdout.setEncoding('utf8').on('data', (text) => (output.stdout += text))
  stderr.setEncoding('utf8').on('data', (text) => (output.stderr += text))
  const lines = createInterface({ input: stdout })[Symbol.asyncIterator]()
  // It may end without having read what it is told.
  child.stdin?.on('error', () => {})
  return {
    pid: child.pid ?? -1,
    line: async () => {
      const { value, done } = await lines.next()
      if (done) throw new Error(`${command} ended: ${output.stdout}${output.stderr}`)
      return value
    },
    end: (text = '') => child.stdin?.end(text),
    kill: (signal) => void child.kill(signal),
    outcome: new Promise((resolve, reject) => {
      child.on('error', reject)
      child.on('close', (code, signal) => {
        resolve({ code, signal, ...output, milliseconds: performance.now() - began })
      })
    }),
  }
}

/** Starts a file of test/fixtures/; see {@link start}. */
export function startFixture(name: string, args: string[] = [], options: Parameters<typeof start>[2] = {}): Running {
  return start(process.execPath, [fixture(name), ...args], options)
}

/** What the call throws, or rejects with. */
export async function failureOf(call: () => unknown): Promise<unknown> {
  try {
    await call()
  } catch (error) {
    return error
  }
  throw new Error('it did not fail')
}

/** Lets the loop turn, so that whatever is ready happens. */
export async function turns(count = 5): Promise<void> {
  for (let turn = 0; turn < count; turn++) await new Promise((resolve) => setImmediate(resolve))
}

/** Whether the promise is still pending after some turns of the loop. */
export async function isPending(promise: Promise<unknown>): Promise<boolean> {
  let settled = false
  const settle = () => {
    settled = true
  }
  promise.then(settle, settle)
  await turns()
  return !settled
}

/**
 * A user of its own, without privileges and without queues: RLIMIT_MSGQUEUE
 * counts all queues of a user. Only root can become it.
 */
export const stranger: number = 2_000_000 + process.pid

export interface Attempted {
  // biome-ignore lint/suspicious/noExplicitAny: whatever the call returns
  value?: any
  error?: { name: string; code: string; errno?: number; syscall: string; path?: string; message: string; hint?: string }
}

/**
 * Runs test/fixtures/attempt.mjs, through a command such as prlimit(1) if one
 * is given.
 */
export async function attempt(
  attempts: [action: string, ...args: unknown[]][],
  options: { through?: string[]; uid?: number | undefined; exhaust?: boolean } = {},
): Promise<Attempted[]> {
  const { through = [], uid, exhaust } = options
  const [command = '', ...args] = [...through, process.execPath, fixture('attempt.mjs')]
  const { stdout, stderr } = await start(command, [...args, JSON.stringify({ uid, exhaust, attempts })]).outcome
  if (stdout === '') throw new Error(`${command} failed: ${stderr}`)
  return JSON.parse(stdout)
}

/** Whether this process may have IPC and mount namespaces of its own: root, unless a container forbids it. */
export const canUnshare: boolean = isRoot && spawnSync('unshare', ['--ipc', '--mount', 'true']).status === 0

/** To run a command in an IPC namespace of its own, with sysctls such as `msg_max=5`. See canUnshare. */
export function inNamespace(...sysctls: string[]): string[] {
  const settings = sysctls.map((setting) => {
    const [name, value] = setting.split('=')
    return `echo ${value} > /proc/sys/fs/mqueue/${name} && `
  })
  return ['unshare', '--ipc', 'sh', '-c', `${settings.join('')}exec "$@"`, 'sh']
}

/**
 * Sends a signal to a child that says "waiting", again and again until the
 * child ends: one that comes before the child sleeps is missed.
 */
export async function signalUntilEnded(child: Running, signal: NodeJS.Signals = 'SIGUSR2'): Promise<void> {
  await child.line()
  const timer = setInterval(() => child.kill(signal), 20)
  await child.outcome.finally(() => clearInterval(timer))
}

/** How much more time and memory everything takes under a tool; see reliability/sanitize.mjs. */
export const overhead: number = Number(process.env.TEST_OVERHEAD ?? 1)

/** Why the address space of Node.js cannot be limited, if so. */
export const unlimited: string | undefined =
  overhead > 1 ? 'a sanitizer reserves more of the address space than it is to have' : undefined

/** Runs a fixture that says `ending at <Date.now()>` when its end begins; `took` is the time from there. */
export async function runToEnd(name: string, args: string[]): Promise<Outcome & { took: number }> {
  const outcome = await runFixture(name, args)
  const took = (Date.now() - Number(/ending at (\d+)/.exec(outcome.stdout)?.[1])) / overhead
  return { ...outcome, took }
}

/** How many descriptors this process has open. */
export function countDescriptors(): number {
  return readdirSync('/proc/self/fd').length
}

/** What examples/any-bus.mjs prints, whatever the bus is. */
export const anyBus: RegExp =
  /^jobs: 9 done, number 7 at the 2nd try\ndead: number 3, failed 3 times\ntopic: 2 and 1 queues, mail has a boat, audit has a boat,a car\nrequests: 4,9,16\njobs: 0 ready, 0 leased, 0 delayed, 0 dead\nsquares: 0 ready, 0 leased, 0 delayed, 0 dead\n$/
