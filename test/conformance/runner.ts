// Plays the cases of cases.json: each in IPC and mount namespaces of its own,
// where its actors are processes that are told what to do a line at a time.
import { type ChildProcessByStdio, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { Readable, Writable } from 'node:stream'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { isDeepStrictEqual } from 'node:util'

export type Mode = 'sync' | 'async'

type Json = null | boolean | number | string | Json[] | { [key: string]: Json }

/** What an actor answers: `ok` and fields, or `errno`; in both cases `ms`. */
type Reply = { [key: string]: Json }

/** An operation for an actor (`op`), or something the runner does (`ctl`); see `ops` in cases.json. */
interface Step {
  op?: string
  ctl?: string
  /** The actor. Default: main. */
  a?: string
  /** Do not wait for the reply; an `await` comes later. */
  bg?: boolean
  expect?: Json
  /** Fields of the reply that become variables. */
  save?: Record<string, string>
  actor?: string
  actors?: string[]
  [key: string]: unknown
}

export interface Case {
  id: string
  family: 'posix' | 'sysv'
  assert: string
  setup: Step[]
  action: Step[]
  actors?: Record<string, { user?: string }>
  /** Values for the namespace, by name with dots. */
  sysctl?: Record<string, number>
  requires?: string[]
  notInJs?: Mode[]
}

const root = fileURLToPath(new URL('../..', import.meta.url))

/** How long an actor may take to answer, and a process to begin, in milliseconds. */
const PATIENCE = 60_000

type Process = ChildProcessByStdio<Writable, Readable, null>

/** A child whose standard output is read line by line. */
class Lines {
  readonly process: Process
  readonly #lines: string[] = []
  #wake = (): void => {}
  #ended = false

  constructor(command: string, args: string[], env = process.env) {
    this.process = spawn(command, args, { stdio: ['pipe', 'pipe', 'inherit'], env })
    // It may be gone before it reads what it is told.
    this.process.stdin.on('error', () => {})
    this.process.on('error', () => this.#end())
    createInterface({ input: this.process.stdout })
      .on('line', (line) => {
        this.#lines.push(line)
        this.#wake()
      })
      .on('close', () => this.#end())
  }

  #end(): void {
    this.#ended = true
    this.#wake()
  }

  /** Whether there is a line, or will be none any more, before the time is over. */
  async ready(milliseconds: number): Promise<boolean> {
    const settled = () => this.#lines.length > 0 || this.#ended
    if (settled()) return true
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, milliseconds)
      this.#wake = () => {
        clearTimeout(timer)
        resolve()
      }
    })
    return settled()
  }

  /** The next line; undefined if there is none. */
  async next(milliseconds: number): Promise<string | undefined> {
    await this.ready(milliseconds)
    return this.#lines.shift()
  }

  get ended(): boolean {
    return this.#ended
  }

  async kill(): Promise<void> {
    const { process } = this
    if (process.pid === undefined || process.exitCode !== null || process.signalCode !== null) return
    const exit = once(process, 'exit')
    process.kill('SIGKILL')
    await exit
  }
}

class Actor extends Lines {
  /** Whether it answers neither within this time nor before it sleeps: a busy machine may not have let it begin. */
  async blocks(milliseconds: number): Promise<boolean> {
    let hasAnswered = await this.ready(milliseconds)
    while (!hasAnswered && this.#isRunning) hasAnswered = await this.ready(10)
    return !hasAnswered
  }

  /** Whether a thread of it runs, or would if there were a processor; see proc_pid_stat(5). */
  get #isRunning(): boolean {
    const tasks = `/proc/${this.process.pid}/task`
    try {
      return readdirSync(tasks).some((task) => readFileSync(`${tasks}/${task}/stat`, 'latin1').includes(') R '))
    } catch {
      // A thread has just ended, or all have.
      return true
    }
  }

  begin(step: Step): void {
    this.process.stdin.write(`${JSON.stringify(step)}\n`)
  }

  async reply(milliseconds = PATIENCE): Promise<Reply> {
    const line = await this.next(milliseconds)
    if (line !== undefined) return JSON.parse(line)
    return this.ended ? { dead: true } : { silent: true }
  }
}

/** What actors run from: a copy of the package, where every user can read it. */
export class Stage {
  readonly directory: string = mkdtempSync(join(tmpdir(), 'kernelmq-conformance-'))
  /** Where a case's namespace has its mqueue file system. */
  readonly mqueue: string = join(this.directory, 'mqueue')
  readonly #logs = join(this.directory, 'logs')
  #cases = 0

  constructor() {
    const files = ['package.json', 'dist', 'build/Release/kernelmq.node', 'prebuilds', 'test/conformance/actor.mjs']
    files.push('test/fixtures/harness', 'node_modules/bindings', 'node_modules/file-uri-to-path')
    for (const file of files) {
      if (existsSync(join(root, file))) cpSync(join(root, file), join(this.directory, file), { recursive: true })
    }
    mkdirSync(this.mqueue)
    mkdirSync(this.#logs)
    const harness = join(root, 'test/fixtures/harness/harness.mjs')
    execFileSync(process.execPath, [harness, join(this.directory, 'harness.node')], { stdio: 'inherit' })
    execFileSync('chmod', ['-R', 'a+rX', this.directory])
    chmodSync(this.#logs, 0o1777)
  }

  /** The beginning of the names of a case's own files. */
  newPrefix(): string {
    return join(this.#logs, `${++this.#cases}`)
  }

  startActor(mode: Mode, namespace: Namespace | undefined, user: string | undefined): Actor {
    // Nobody outlives the runner, however that ends.
    const command = ['setpriv', '--pdeathsig', 'KILL']
    if (user !== undefined) command.push('--reuid', user, '--regid', String(idOf(user, '-g')), '--clear-groups')
    command.push('sh', '-c', 'umask 022; exec "$@"', 'sh')
    command.push(process.execPath, join(this.directory, 'test/conformance/actor.mjs'))
    if (namespace !== undefined) command.unshift(...namespace.enter)
    const env = { ...process.env, ACTOR_MODE: mode, ACTOR_MQUEUE: this.mqueue }
    const [file = '', ...args] = command
    return new Actor(file, args, { ...env, ACTOR_HARNESS: join(this.directory, 'harness.node') })
  }

  remove(): void {
    rmSync(this.directory, { recursive: true })
  }
}

/** Fresh IPC and mount namespaces, which live until they are closed. */
class Namespace {
  readonly #holder: Lines

  private constructor(holder: Lines) {
    this.#holder = holder
  }

  static async open(directory: string, sysctl: Record<string, number> = {}): Promise<Namespace> {
    const settings = Object.entries(sysctl).map(([name, value]) => `${name.replaceAll('.', '/')}=${value}`)
    // cat ends with the runner, and the namespaces with cat and the actors.
    const script = `
      mount -t mqueue none "$1" && chmod 1777 "$1" && shift || exit
      for setting; do echo "\${setting#*=}" >"/proc/sys/\${setting%%=*}" || exit; done
      echo ready
      exec cat`
    const holder = new Lines('unshare', [
      ...['--ipc', '--mount', '--propagation', 'private', 'sh', '-c', script, 'sh', directory],
      ...settings,
    ])
    if ((await holder.next(PATIENCE)) !== 'ready') {
      await holder.kill()
      throw new Error('cannot make a namespace')
    }
    return new Namespace(holder)
  }

  /** The command that runs another in here. */
  get enter(): string[] {
    return ['nsenter', '--target', String(this.#holder.process.pid), '--ipc', '--mount']
  }

  close(): Promise<void> {
    return this.#holder.kill()
  }
}

const ids = new Map<string, number>()

/** `-u`: the user's number; `-g`: its group's. */
function idOf(user: string, option: '-u' | '-g'): number {
  const key = user + option
  const id = ids.get(key) ?? Number(execFileSync('id', [option, user], { encoding: 'utf8' }))
  ids.set(key, id)
  return id
}

/** Says why cases cannot be played here; undefined if they can. */
export async function obstacle(stage: Stage): Promise<string | undefined> {
  try {
    const namespace = await Namespace.open(stage.mqueue)
    await namespace.close()
    return undefined
  } catch (error) {
    return `${(error as Error).message}: unshare(1) and mount(8) were refused`
  }
}

/** Whether an actor can run as this user. */
export async function canRunAs(stage: Stage, user: string): Promise<boolean> {
  const actor = stage.startActor('sync', undefined, user)
  actor.begin({ op: 'whoami' })
  const { ok } = await actor.reply()
  await actor.kill()
  return ok === true
}

function isObject(value: Json | undefined): value is { [key: string]: Json } {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** `{ min, max, ne, contains, notContains }`: each that is given must hold. */
const comparisons: Record<string, (actual: Json | undefined, limit: Json) => boolean> = {
  min: (actual, limit) => typeof actual === 'number' && actual >= Number(limit),
  max: (actual, limit) => typeof actual === 'number' && actual <= Number(limit),
  ne: (actual, limit) => actual !== limit,
  contains: (actual, item) => Array.isArray(actual) && actual.some((other) => isDeepStrictEqual(other, item)),
  notContains: (actual, item) => !(Array.isArray(actual) && actual.some((other) => isDeepStrictEqual(other, item))),
}

/** Milliseconds for which a busy machine may stop a process. What waits though it must not waits for ever. */
const STALL = 10_000

function fieldAgrees(reply: Reply, name: string, wanted: Json): boolean {
  if (name === 'msMin') return Number(reply.ms) >= Number(wanted)
  if (name === 'msMax') return Number(reply.ms) <= Number(wanted) + STALL
  const actual = reply[name]
  if (!isObject(wanted) || !Object.keys(wanted).some((key) => key in comparisons)) {
    return isDeepStrictEqual(actual, wanted)
  }
  return Object.entries(wanted).every(([key, limit]) => comparisons[key]?.(actual, limit))
}

/** Whether the reply is as expected: `'ok'`, an errno, any of a list, or an object of fields. */
export function agrees(expected: Json | undefined, reply: Reply): boolean {
  if (expected === undefined || expected === null) return true
  if (expected === 'ok') return reply.ok === true
  if (typeof expected === 'string') return reply.errno === expected
  if (Array.isArray(expected)) return expected.some((one) => agrees(one, reply))
  return isObject(expected) && Object.entries(expected).every(([name, wanted]) => fieldAgrees(reply, name, wanted))
}

type Variables = Map<string, Json>

/** A lone variable keeps its type; within a longer string it becomes text. */
function substitute<T>(value: T, variables: Variables): T {
  const lookUp = (name: string) => {
    const found = variables.get(name)
    if (found === undefined) throw new Error(`no variable ${name}`)
    return found
  }
  const visit = (item: unknown): unknown => {
    if (typeof item === 'string') {
      if (/^\$\w+$/.test(item)) return lookUp(item)
      return item.replace(/\$[A-Za-z_]\w*/g, (name) => String(lookUp(name)))
    }
    if (Array.isArray(item)) return item.map(visit)
    if (typeof item !== 'object' || item === null) return item
    return Object.fromEntries(
      Object.entries(item).map(([key, inner]) => [key, key === 'save' || key === 'expr' ? inner : visit(inner)]),
    )
  }
  return visit(value) as T
}

/** The data's assertions are expressions of Python over the variables, `v`. */
function holds(expression: string, variables: Variables): boolean {
  const script = 'import json, re, sys, time\nv = json.load(sys.stdin)\nprint(bool(eval(sys.argv[1])))'
  const input = JSON.stringify(Object.fromEntries(variables))
  return execFileSync('python3', ['-c', script, expression], { input, encoding: 'utf8' }).trim() === 'True'
}

/** One case being played. */
class Play {
  readonly #actors: Map<string, Actor>
  readonly #variables: Variables

  constructor(actors: Map<string, Actor>, prefix: string) {
    this.#actors = actors
    const main = this.#actor('main').process.pid as number
    this.#variables = new Map<string, Json>([
      ['$A', `/case-${main}`],
      ['$TMP', prefix],
      ['$K1', 1 + Math.floor(Math.random() * 0x7ffffffe)],
      ['$NAME255', `/${'n'.repeat(255)}`],
      ['$NAME256', `/${'n'.repeat(256)}`],
      ['$NAMEPATHMAX', `/${'n'.repeat(5000)}`],
      ['$NOBODY', idOf('nobody', '-u')],
      ['$NOGROUP', idOf('nobody', '-g')],
      ['$MAINUID', process.getuid?.() ?? 0],
      ['$MAINPID', main],
    ])
  }

  #actor(name = 'main'): Actor {
    const actor = this.#actors.get(name)
    if (actor === undefined) throw new Error(`no actor ${name}`)
    return actor
  }

  async run(written: Step): Promise<void> {
    const step = substitute(written, this.#variables)
    if (step.ctl !== undefined) return this.#control(step, step.ctl)
    const actor = this.#actor(step.a)
    actor.begin(step)
    if (!step.bg) this.#judge(step, await actor.reply())
  }

  #judge(step: Step, reply: Reply): void {
    for (const [field, variable] of Object.entries(step.save ?? {})) this.#variables.set(variable, reply[field] ?? null)
    if (!agrees(step.expect, reply)) throw new Error(`the reply was ${JSON.stringify(reply)}`)
  }

  async #control(step: Step, ctl: string): Promise<void> {
    switch (ctl) {
      case 'sleep':
        return delay(Number(step.ms))
      case 'blocked': {
        const actor = this.#actor(step.actor)
        if (await actor.blocks(Number(step.ms ?? 150))) return
        throw new Error(`it did not wait: ${JSON.stringify(await actor.reply())}`)
      }
      case 'await':
        return this.#judge(step, await this.#actor(step.actor).reply())
      case 'awaitAll':
        return this.#judgeAll(step)
      case 'kill': {
        const actor = this.#actor(step.actor)
        const { sig = 'SIGKILL' } = step
        if (sig === 'SIGKILL') return actor.kill()
        actor.process.kill(sig as NodeJS.Signals)
        return
      }
      case 'touch':
        return writeFileSync(String(step.path), '')
      case 'assert': {
        if (!holds(String(step.expr), this.#variables)) throw new Error('it is false')
        return
      }
      default:
        throw new Error(`no ctl ${ctl}`)
    }
  }

  async #judgeAll(step: Step): Promise<void> {
    const replies = await Promise.all((step.actors ?? []).map((name) => this.#actor(name).reply()))
    const [good, bad] = [replies.filter(({ ok }) => ok === true), replies.filter(({ ok }) => ok !== true)]
    const data = replies.map((reply) => reply.data).sort()
    const agreed =
      good.length === step.ok &&
      bad.every(({ errno }) => errno === step.othersErrno) &&
      (!Array.isArray(step.multiset) || isDeepStrictEqual(data, [...step.multiset].sort()))
    if (!agreed) throw new Error(`the replies were ${JSON.stringify(replies)}`)
  }
}

/** Plays a case to its end; throws where the kernel's behaviour was not met. */
export async function play(stage: Stage, { setup, action, actors = {}, sysctl }: Case, mode: Mode): Promise<void> {
  const namespace = await Namespace.open(stage.mqueue, sysctl)
  const processes = new Map<string, Actor>()
  try {
    for (const [name, { user }] of Object.entries({ main: {}, ...actors } as NonNullable<Case['actors']>)) {
      processes.set(name, stage.startActor(mode, namespace, user))
    }
    const playing = new Play(processes, stage.newPrefix())
    for (const [phase, steps] of Object.entries({ setup, action })) {
      for (const [index, step] of steps.entries()) {
        await playing.run(step).catch((error: Error) => {
          throw new Error(`${phase}[${index}] ${JSON.stringify(step)}: ${error.message}`)
        })
      }
    }
  } finally {
    await Promise.all([...processes.values(), namespace].map((each) => ('kill' in each ? each.kill() : each.close())))
  }
}
