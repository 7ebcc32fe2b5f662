import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Bus, type Capabilities, type ConnectOptions, connect, type Message, type Queue } from 'kernelmq/bus'
import { expect, onTestFinished, test } from 'vitest'
import { fixture, start } from '../support.ts'

export const schemes = ['memory', 'local', 'mq', 'sysv'] as const

export type Scheme = (typeof schemes)[number]

/** A directory that is gone when the test has ended. */
export function temporaryDirectory(): string {
  const directory = mkdtempSync(join(tmpdir(), 'kernelmq-bus-'))
  onTestFinished(() => rmSync(directory, { recursive: true, force: true }))
  return directory
}

/** Queues of the kernel are small: a user has room for a few. */
const parameters: Partial<Record<Scheme, string>> = { mq: '?maxMessages=10&messageSize=1024' }

const urlOf = (scheme: Scheme, directory: string): string =>
  scheme === 'memory' ? 'memory:' : `${scheme}:${directory}${parameters[scheme] ?? ''}`

/** Another process of the bus. */
export function startBus(url: string, what: string, argument: unknown = null, through: string[] = []) {
  const [command = '', ...args] = [...through, process.execPath, fixture('bus.mjs')]
  const child = start(command, [...args, url, what, JSON.stringify(argument)])
  return { ...child, kill: (signal: NodeJS.Signals) => process.kill(child.pid, signal) }
}

/** A new bus of a kind, closed when the test has ended. */
export async function newBus(scheme: Scheme, options?: ConnectOptions): Promise<Bus> {
  const directory = join(temporaryDirectory(), 'bus')
  // After it is closed: the last that was asked for is done first.
  if (scheme === 'mq' || scheme === 'sysv') onTestFinished(() => sweep(scheme, directory))
  return openBus(urlOf(scheme, directory), options)
}

/** What a bus had in the kernel goes with the next one that is opened or closed, if its directory is gone. */
async function sweep(scheme: Scheme, directory: string): Promise<void> {
  rmSync(directory, { recursive: true, force: true })
  const bus = await connect(urlOf(scheme, directory))
  rmSync(directory, { recursive: true })
  await bus.close()
}

async function capabilitiesOf(scheme: Scheme): Promise<Capabilities> {
  const directory = mkdtempSync(join(tmpdir(), 'kernelmq-bus-'))
  const bus = await connect(urlOf(scheme, directory))
  rmSync(directory, { recursive: true })
  await bus.close()
  return bus.capabilities
}

const capabilities = Object.fromEntries(
  await Promise.all(schemes.map(async (scheme) => [scheme, await capabilitiesOf(scheme)] as const)),
) as Record<Scheme, Capabilities>

export const can = (scheme: Scheme, capability: keyof Capabilities): boolean =>
  capabilities[scheme][capability] !== false

/** A test of what a transport can only do if it has these; one that has not has to refuse it, by name. */
export function testOf(scheme: Scheme, ...needed: (keyof Capabilities)[]) {
  const missing = needed.filter((capability) => !can(scheme, capability))
  return (name: string, run: () => Promise<void>): void => {
    if (missing.length === 0) test(name, run)
    else {
      test(`${name}: refused, for it has no ${missing.join(', ')}`, async () => {
        const refused = { code: 'ERR_BUS_UNSUPPORTED', message: expect.stringMatching(missing.join('|')) }
        await expect(run()).rejects.toMatchObject(refused)
      })
    }
  }
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
    for (const message of await queue.receive({ max: Math.min(count - bodies.length, 500) })) {
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
