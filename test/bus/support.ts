import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Bus, type ConnectOptions, connect, type Message, type Queue } from 'kernelmq/bus'
import { onTestFinished } from 'vitest'

/** A directory that is gone when the test has ended. */
export function temporaryDirectory(): string {
  const directory = mkdtempSync(join(tmpdir(), 'kernelmq-bus-'))
  onTestFinished(() => rmSync(directory, { recursive: true, force: true }))
  return directory
}

/** A new bus of a kind, closed when the test has ended. */
export async function newBus(scheme: string, options?: ConnectOptions): Promise<Bus> {
  return openBus(scheme === 'local' ? `local:${join(temporaryDirectory(), 'bus')}` : `${scheme}:`, options)
}

export async function openBus(url: string, options?: ConnectOptions): Promise<Bus> {
  const bus = await connect(url, options)
  onTestFinished(() => bus.close())
  return bus
}

/** Receives so many messages, acknowledges each, and gives back their bodies. */
export async function take(queue: Queue, count: number): Promise<unknown[]> {
  const bodies: unknown[] = []
  while (bodies.length < count) {
    for (const message of await queue.receive({ max: count - bodies.length })) {
      bodies.push(message.body)
      await message.ack()
    }
  }
  return bodies
}

export async function one<T>(queue: Queue<T>): Promise<Message<T>> {
  const [message] = await queue.receive()
  return message as Message<T>
}

export const nothing = { wait: 0 } as const

/** A promise, and what settles it. */
export function deferred<T = void>(): { promise: Promise<T>; resolve: (value: T) => void } {
  let resolve!: (value: T) => void
  const promise = new Promise<T>((settle) => {
    resolve = settle
  })
  return { promise, resolve }
}
