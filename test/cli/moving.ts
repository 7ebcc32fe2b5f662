// What the tests of send, recv, peek, pipe, run, dump and restore share.
import { spawn, spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { PosixQueue, SysvQueue } from 'kernelmq'
import { expect, onTestFinished } from 'vitest'
import { isRoot, type Outcome, openQueue, start, stranger } from '../support.ts'
import { openSysv } from '../sysv-support.ts'
import { command } from './support.ts'

/** What kmq calls the queue. */
export const nameOf = (queue: PosixQueue | SysvQueue): string => ('id' in queue ? `#${queue.id}` : (queue.path ?? ''))

/** Both families, each with a small queue of the test's own. */
export const families: [family: string, open: () => PosixQueue | SysvQueue][] = [
  ['POSIX', () => openQueue()],
  ['System V', () => openSysv({ maxBytes: 256 })],
]

/** Everything that is in the queue; takes it out. */
export const drain = (queue: PosixQueue | SysvQueue): string[] => queue.tryReceiveMany(1000).map((m) => m.text())

/** The same, with priorities or types. */
export const drainTagged = (queue: PosixQueue | SysvQueue): [text: string, tag: number | bigint][] =>
  queue.tryReceiveMany(1000).map((m) => [m.text(), 'priority' in m ? m.priority : m.type])

const depthOf = (queue: PosixQueue | SysvQueue): number =>
  'id' in queue ? queue.stat().messages : queue.attributes.messages

/** Resolves when there are so many messages. */
export const depthIs = (queue: PosixQueue | SysvQueue, count: number): Promise<void> =>
  expect.poll(() => depthOf(queue)).toBe(count)

/** A directory that is gone after the test. */
export function directory(): string {
  const path = mkdtempSync(join(tmpdir(), 'kmq-test-'))
  onTestFinished(() => rmSync(path, { recursive: true, force: true }))
  return path
}

/** Runs the command where nobody reads what it prints; `ready` is called when that is so. */
export async function kmqUnread(args: string[], options: { cwd?: string; uid?: number } = {}): Promise<Outcome> {
  const child = spawn(process.execPath, [command, ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    ...options,
    ...(options.uid !== undefined && { gid: options.uid }),
  })
  onTestFinished(() => void child.kill('SIGKILL'))
  child.stdout.destroy()
  let stderr = ''
  child.stderr.setEncoding('utf8').on('data', (text) => (stderr += text))
  return new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (code, signal) => resolve({ code, signal, stdout: '', stderr, milliseconds: 0 }))
  })
}

/** Whether this test can run the command as somebody else. */
export const canBecome: boolean =
  isRoot && spawnSync('setpriv', [`--reuid=${stranger}`, '--clear-groups', 'test', '-r', command]).status === 0

/** Why it cannot, if so. */
export const needsStranger = 'only root can become another user, who has to be able to read the command'

/** Runs the command as somebody else. */
export function kmqAsStranger(args: string[], input = ''): Promise<Outcome> {
  const ids = [`--reuid=${stranger}`, `--regid=${stranger}`, '--clear-groups']
  const child = start('setpriv', [...ids, process.execPath, command, ...args])
  child.end(input)
  return child.outcome
}

/** That it failed as a user can understand. */
export function expectFailure({ code, stderr }: Outcome, expected: number, words: RegExp): void {
  expect(stderr).toMatch(words)
  expect(stderr).not.toMatch(/^\s+at /m)
  expect(code).toBe(expected)
}
