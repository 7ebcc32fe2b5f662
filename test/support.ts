// What the tests share: queues that do not outlive them, and child processes.
import { spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
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

/** Runs a file of test/fixtures/ to its end. */
export function runFixture(name: string, args: string[] = [], nodeArgs: string[] = []): Promise<Outcome> {
  const path = fileURLToPath(new URL(`fixtures/${name}`, import.meta.url))
  const start = performance.now()
  const child = spawn(process.execPath, [...nodeArgs, path, ...args], { stdio: ['ignore', 'pipe', 'pipe'] })
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
