import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import {
  type Bus,
  type Capabilities,
  type Clock,
  type ConnectOptions,
  connect,
  ManualClock,
  type Message,
  type Queue,
} from 'kernelmq/bus'
import { afterAll, describe, expect, onTestFinished, test } from 'vitest'
import { fixture, start } from '../support.ts'
import { missingFor, type Server, startServer } from './servers.ts'

/** Of one machine. */
export const schemes = ['memory', 'local', 'mq', 'sysv'] as const

const engines = { redis: 'redis', nats: 'nats', amqp: 'rabbitmq' } as const

export type Engine = keyof typeof engines
export type Scheme = (typeof schemes)[number] | Engine

/** Those of this file of tests that have a server. */
const servers: Partial<Record<Scheme, Server>> = {}

/** Each bus has a server's room of its own. */
let count = 0

/** Counts what cannot be tested as skipped, and says why. */
export function withoutServer(what: string, missing: string): void {
  test(what, ({ skip }) => skip(`needs a server: install ${missing} (Debian)`))
}

/**
 * The tests of an engine, with a server of its own for all of a file; it is there when `suite` is called. Where the
 * server is not installed they are skipped.
 */
export async function describeEngine(
  scheme: Engine,
  suite: (scheme: Engine, server: Server) => void,
  more: string[] = [],
): Promise<void> {
  const missing = missingFor(engines[scheme])
  if (missing !== undefined) {
    withoutServer(`${scheme}:`, missing)
    return
  }
  const server = await startServer(engines[scheme], more)
  servers[scheme] = server
  capabilities[scheme] = await capabilitiesOf(scheme)
  describe(`${scheme}:`, () => {
    afterAll(() => server.close())
    suite(scheme, server)
  })
}

/** A directory that is gone when the test has ended. */
export function temporaryDirectory(): string {
  const directory = mkdtempSync(join(tmpdir(), 'kernelmq-bus-'))
  onTestFinished(() => rmSync(directory, { recursive: true, force: true }))
  return directory
}

/** Queues of the kernel are small: a user has room for a few. */
const parameters: Partial<Record<Scheme, string>> = { mq: '?maxMessages=10&messageSize=1024' }

function urlOf(scheme: Scheme, directory: string): string {
  const server = servers[scheme]
  if (server !== undefined) return `${server.url}?prefix=test-${++count}`
  return scheme === 'memory' ? 'memory:' : `${scheme}:${directory}${parameters[scheme] ?? ''}`
}

/** Another process of the bus. */
export function startBus(url: string, what: string, argument: unknown = null, through: string[] = []) {
  const [command = '', ...args] = [...through, process.execPath, fixture('bus.mjs')]
  return start(command, [...args, url, what, JSON.stringify(argument)])
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
) as Partial<Record<Scheme, Capabilities>>

export const can = (scheme: Scheme, capability: keyof Capabilities): boolean =>
  capabilities[scheme]?.[capability] !== false

export interface TestClock extends Clock {
  advance(ms: number): void | Promise<void>
  /** So much of a time that it is not over yet. */
  before(ms: number): number
}

/** Engines that keep the time themselves: for them it has to pass. */
const timekeepers: readonly Scheme[] = ['nats', 'amqp']

class StandingClock extends ManualClock {
  before(ms: number): number {
    return ms - 1
  }
}

class PassingClock extends ManualClock {
  before(ms: number): number {
    return ms / 2
  }

  override now(): number {
    return Date.now()
  }

  override after(ms: number, callback: () => void): () => void {
    const timer = setTimeout(callback, ms)
    return () => clearTimeout(timer)
  }

  override async advance(ms: number): Promise<void> {
    await new Promise((resolve) => setTimeout(resolve, ms))
  }
}

/** One that says what it is told, and waits for as long: a delay of an engine is counted from it. */
class SteppingClock extends ManualClock {
  before(ms: number): number {
    return ms / 2
  }

  override async advance(ms: number): Promise<void> {
    // Not after it: what the server hands out meanwhile would not be due, and wait for as long once more.
    super.advance(ms)
    // The server looks every 50 ms for what is over.
    await new Promise((resolve) => setTimeout(resolve, ms + 60))
  }
}

/** Whether it goes on by itself. */
export const isPassing = (clock: TestClock): boolean => clock instanceof PassingClock

/** Whether time cannot be told to have passed. */
export const isSlow = (scheme: Scheme): boolean => timekeepers.includes(scheme)

/** One that stands still until it is told how much time has passed, or waits for so long. */
export function newClock(scheme: Scheme, start: number): TestClock {
  if (scheme === 'nats') return new SteppingClock(start)
  return timekeepers.includes(scheme) ? new PassingClock() : new StandingClock(start)
}

/** Whether what is retried goes back to where it was. */
export const hasPlaces = (scheme: Scheme): boolean => scheme === 'memory' || scheme === 'local'

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
/** So many messages, however many come at a time: an engine hands out what has arrived. */
export async function gather<T>(queue: Queue<T>, count: number): Promise<Message<T>[]> {
  const messages: Message<T>[] = []
  while (messages.length < count) {
    messages.push(...(await queue.receive({ max: Math.min(count - messages.length, 500) })))
  }
  return messages
}

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
