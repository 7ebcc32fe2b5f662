// What the commands of a bus have in common: the bus, opened and closed, and its queues.
import { statSync } from 'node:fs'
import { join } from 'node:path'
import { AbortError, type Bus, connect, type Queue, type QueueOptions } from '../../bus/index.ts'
import { type Call, type Command, defineCommand, type OptionSpec } from '../command.ts'
import { Failure, UsageError } from '../errors.ts'
import { interruptible } from '../interruption.ts'
import { withoutSecrets } from './secrets.ts'

type Specs = Readonly<Record<string, OptionSpec>>

type Work = (bus: Bus, signal: AbortSignal) => Promise<number | undefined>

type Spec<S extends Specs> = Pick<Command, 'name' | 'summary' | 'operands' | 'description' | 'examples'> & {
  readonly options: S
  /** Whether the bus is made if there is none. */
  creates?(call: Call<S>): boolean
  /** Checks what was given, before anything is opened; what it returns is done with the bus. */
  prepare(call: Call<S>): Work | Promise<Work>
}

/** Stops what was asked to end. */
export function checkInterrupted(signal: AbortSignal): void {
  if (signal.aborted) throw new AbortError(signal.reason)
}

/** What the library says of arguments that it cannot do anything with. */
const WRONG = new Set(['ERR_INVALID_ARG_TYPE', 'ERR_INVALID_ARG_VALUE', 'ERR_OUT_OF_RANGE'])

export function defineBusCommand<const S extends Specs>(spec: Spec<S>): Command {
  const { creates, prepare, ...description } = spec
  const define = (run: (call: Call<S>) => Promise<number | undefined>) =>
    defineCommand({ ...description, of: 'bus URL', run })
  return {
    ...define(() => Promise.resolve(undefined)),
    run: async ([url = '', ...args]) => {
      try {
        const command = define(async (call) => withBus(url, creates?.(call) ?? false, await prepare(call)))
        return await command.run(args)
      } catch (error) {
        throw withoutSecretsOf(error, url)
      }
    },
  }
}

function withBus(url: string, create: boolean, work: Work): Promise<number | undefined> {
  if (/^memory:/i.test(url)) throw new UsageError('memory: is a bus within one process; no other sees anything of it')
  quietly()
  return interruptible(async (interrupted) => {
    const bus = await connect(url, { create })
    const gone = whenGone(bus.url)
    try {
      return await work(bus, AbortSignal.any([interrupted, gone.signal]))
    } catch (error) {
      // The work may have seen it first, by what it did to it.
      gone.look()
      throw gone.signal.aborted ? gone.signal.reason : error
    } finally {
      gone.stop()
      await bus.close()
    }
  })
}

/** Milliseconds. */
const LOOK = 1000

/** What a bus has in its directory from its beginning to its end. */
const FILES: Readonly<Record<string, string>> = { 'local:': 'bus.db', 'mq:': 'mq/id', 'sysv:': 'sysv/id' }

/** Aborted when the directory of a bus is removed: what has it open would see in it for ever what was there. */
function whenGone(url: string): { signal: AbortSignal; look(): void; stop(): void } {
  const controller = new AbortController()
  const { protocol, pathname } = new URL(url)
  const file = FILES[protocol]
  const path = file === undefined ? undefined : join(decodeURIComponent(pathname), file)
  const inode = () => (path === undefined ? undefined : statSync(path, { throwIfNoEntry: false })?.ino)
  const before = inode()
  const look = () => {
    if (inode() !== before) controller.abort(new Failure(`the directory of the bus, '${pathname}', is gone`))
  }
  const timer = before === undefined ? undefined : setInterval(look, LOOK).unref()
  return { signal: controller.signal, look, stop: () => clearInterval(timer) }
}

/** That the SQLite of Node.js is experimental is nothing that a user of the command could do anything about. */
function quietly(): void {
  const { emitWarning } = process
  process.emitWarning = ((warning: string | Error, ...rest: []) => {
    if (!/^SQLite is an experimental/.test(String(warning))) emitWarning.call(process, warning, ...rest)
  }) as typeof emitWarning
}

function withoutSecretsOf(error: unknown, url: string): unknown {
  if (!(error instanceof Error)) return error
  const { code, hint } = error as { code?: string; hint?: string }
  const clean = (text: string) => withoutSecrets(text, url)
  if (WRONG.has(code ?? '')) return Object.assign(new UsageError(clean(error.message)), { code })
  error.message = clean(error.message)
  return hint === undefined ? error : Object.assign(error, { hint: clean(hint) })
}

/** A queue by its name; that of a namespace is `@namespace/name`. */
export function queueOf(bus: Bus, name: string, options?: QueueOptions): Queue {
  const [, namespace, own = ''] = /^@([^/]+)\/(.+)$/s.exec(name) ?? []
  return namespace === undefined ? bus.queue(name, options) : bus.namespace(namespace).queue(own, options)
}

/** How many names are told to whoever has mistyped one. */
const SOME = 10

/** A queue that is there: looking at one that is not would make it. */
export async function findQueue(bus: Bus, name: string): Promise<Queue> {
  const queue = queueOf(bus, name)
  const names = await bus.queues()
  if (names.includes(name)) return queue
  const more = names.length > SOME ? `, and ${names.length - SOME} more` : ''
  const hint = names.length === 0 ? 'it has no queues' : `it has ${names.slice(0, SOME).join(', ')}${more}`
  throw new Failure(`there is no queue '${name}' in this bus`, hint)
}
