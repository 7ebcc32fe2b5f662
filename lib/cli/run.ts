import { type ChildProcess, spawn } from 'node:child_process'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Command, defineCommand, JSON_OPTION, toInteger } from './command.ts'
import { MAX_TIMER, toDuration } from './duration.ts'
import { EXIT, Failure, UsageError } from './errors.ts'
import { interruptible } from './interruption.ts'
import { itemFor, type KernelMessage, plural, tagToJson, toCount, toSelection } from './messages.ts'
import { codeOf, give, nameOf, openSource, putBack, putBackNow, type Source, take } from './moving.ts'
import { openTarget, parseTarget } from './target.ts'
import { complain, holdPipe, note, printJson } from './terminal.ts'

export const run: Command = defineCommand({
  name: 'run',
  summary: 'start a command for each message',
  operands: 'QUEUE',
  hasCommand: true,
  description: [
    'Takes messages as they come, and starts the command for each: the body on its standard input, and in its environment KMQ_QUEUE, KMQ_PRIORITY or KMQ_TYPE, KMQ_BYTES and KMQ_ATTEMPT (from 1). The command is not a shell: sh -c "..." is.',
    'A command that fails (a code other than 0, a signal, --timeout) is started again with the same message, --attempts times in all. Then the message goes to the queue of --dead; without that it is put back (behind others of its priority; System V: behind all) and kmq run ends with code 1, so that one bad message does not spin.',
    'Ctrl-C and SIGTERM let the commands that run finish, and put back what waits for another attempt. A second one ends the commands and puts their messages back. While a command runs its message is in no queue: what must survive the death of kmq itself is a matter for a bus (kernelmq/bus).',
  ],
  options: {
    jobs: { type: 'string', short: 'j', value: 'N', help: 'commands at a time; default: 1' },
    count: { type: 'string', short: 'n', value: 'N', help: 'end after so many messages' },
    idle: {
      type: 'string',
      value: 'TIME',
      help: 'end when no message comes for so long (0, 500ms, 2s); code 3 if none came',
    },
    timeout: { type: 'string', value: 'TIME', help: 'end a command after so long: SIGTERM, 5 s later SIGKILL' },
    attempts: { type: 'string', value: 'N', help: 'times that a command is started with a message; default: 3' },
    delay: {
      type: 'string',
      value: 'TIME',
      help: 'before the second attempt, twice that before the third, ...; default: 1s',
    },
    dead: {
      type: 'string',
      value: 'QUEUE',
      help: 'for messages whose attempts all failed, of either family (see kmq pipe)',
    },
    type: { type: 'string', short: 't', value: 'N', help: 'System V: as kmq recv has it' },
    except: { type: 'boolean', help: 'System V: any type but that of --type' },
    ...JSON_OPTION,
    json: {
      type: 'boolean',
      help: 'print a line of JSON for each message; what commands print goes to standard error',
    },
  },
  examples: [
    ['kmq run /mail --jobs 4 -- sendmail -t', 'four at a time'],
    ['kmq run /orders --dead /orders-dead --timeout 30s -- ./handle-order', 'what fails three times is kept elsewhere'],
    ["kmq run 0x2a --idle 0 -- sh -c 'cat > $KMQ_TYPE.txt'", 'all that is there'],
  ],
  async run({ operands: [text = '', file = '', ...args], options }) {
    const target = parseTarget(text)
    const selection = toSelection(target, options)
    const jobs = toInteger('jobs', options.jobs ?? '1', 1, 10_000)
    const most = toCount(options.count) ?? Number.POSITIVE_INFINITY
    const idle = toDuration('idle', options.idle, MAX_TIMER)
    const plan: Plan = {
      file,
      args,
      timeout: toDuration('timeout', options.timeout, MAX_TIMER),
      attempts: toInteger('attempts', options.attempts ?? '3', 1, 1e6),
      delay: toDuration('delay', options.delay ?? '1s', MAX_TIMER),
      asJson: options.json === true,
    }
    const source = openSource(target)
    const deadTarget = options.dead === undefined ? undefined : parseTarget(options.dead)
    const dead = deadTarget && { target: deadTarget, queue: openTarget(deadTarget, { access: 'write' }) }
    if (dead !== undefined && nameOf(dead) === nameOf(source)) throw new UsageError('--dead is the queue itself')
    holdPipe()
    return interruptible(async (signal) => {
      const worker = new Worker(source, dead, plan, signal)
      let taken = 0
      try {
        while (taken < most) {
          await worker.hasRoom(jobs)
          const messages = await take(source, { max: 1, selection, timeout: idle, signal: worker.signal })
          if (messages === undefined) break
          taken += messages.length
          for (const message of messages) worker.start(message)
        }
      } catch (error) {
        worker.stop(error)
      }
      const failure = await worker.end()
      if (codeOf(failure) === 'EPIPE') return EXIT.brokenPipe
      if (failure !== undefined) throw failure
      if (taken > 0) return 0
      const nothing = new Failure(idle === 0 ? `no message in ${text}` : `no message came to ${text} in ${idle} ms`)
      complain('kmq run', Object.assign(nothing, { code: 'ETIMEDOUT' }), options.json)
      return EXIT.timeout
    })
  },
})

interface Plan {
  readonly file: string
  readonly args: readonly string[]
  readonly timeout: number | undefined
  readonly attempts: number
  readonly delay: number
  readonly asJson: boolean
}

/** How long a command may take to end when it is told to, and a full queue of the dead may hold up, in milliseconds. */
const GRACE = 5000
const PATIENCE = 2000

/** Messages whose commands run, or will again. */
class Worker {
  /** Aborted when nothing new is to begin. */
  readonly signal: AbortSignal
  readonly #source: Source
  readonly #dead: Source | undefined
  readonly #plan: Plan
  readonly #stop = new AbortController()
  readonly #jobs = new Set<Promise<void>>()
  readonly #held = new Map<KernelMessage, ChildProcess | undefined>()
  #failure: unknown
  #onEnd: (() => void) | undefined

  constructor(source: Source, dead: Source | undefined, plan: Plan, signal: AbortSignal) {
    this.#source = source
    this.#dead = dead
    this.#plan = plan
    this.signal = AbortSignal.any([signal, this.#stop.signal])
    signal.addEventListener('abort', () => {
      const running = [...this.#held.values()].filter((child) => child !== undefined).length
      if (running > 0)
        note(`waiting for ${plural(running, 'command')}; once more ends ${running === 1 ? 'it' : 'them'}`, plan.asJson)
    })
    process.on('exit', this.#abandon)
  }

  /** Nothing new begins; the first reason counts. */
  stop(reason: unknown): void {
    if (this.signal.aborted) return
    this.#failure = reason
    this.#stop.abort()
  }

  /** Resolves when fewer than so many run. */
  async hasRoom(jobs: number): Promise<void> {
    while (this.#jobs.size >= jobs) await new Promise<void>((resolve) => (this.#onEnd = resolve))
    this.signal.throwIfAborted()
  }

  start(message: KernelMessage): void {
    this.#held.set(message, undefined)
    const job = this.#handle(message)
      .catch((error) => this.stop(error))
      .finally(() => {
        this.#held.delete(message)
        this.#jobs.delete(job)
        this.#onEnd?.()
      })
    this.#jobs.add(job)
  }

  /** Resolves when nothing runs any more, with why it had to stop. */
  async end(): Promise<unknown> {
    await Promise.all(this.#jobs)
    process.off('exit', this.#abandon)
    return this.#failure
  }

  async #handle(message: KernelMessage): Promise<void> {
    const { attempts, delay, asJson, file } = this.#plan
    const began = performance.now()
    let attempt = 0
    let reason: string | undefined
    let outcome: 'done' | 'dead' | 'putBack' = 'done'
    try {
      for (;;) {
        reason = await this.#attempt(message, ++attempt)
        if (reason === undefined) break
        note(`${file} ${reason} (attempt ${attempt} of ${attempts})`, asJson)
        if (attempt === attempts) break
        await sleep(Math.min(delay * 2 ** (attempt - 1), 2 ** 31 - 1), undefined, { signal: this.signal })
      }
      if (reason !== undefined) {
        await this.#bury(message, reason)
        outcome = 'dead'
      }
    } catch (error) {
      outcome = 'putBack'
      reason ??= (error as Error).message
      this.stop(error)
      // From here on putBack() has it.
      this.#held.delete(message)
      await putBack(this.#source, [message], asJson)
    }
    this.#held.delete(message)
    if (!asJson) return
    const milliseconds = Math.round(performance.now() - began)
    const { length: bytes } = message.data
    await printJson({ outcome, attempts: attempt, reason, bytes, ...tagToJson(message), milliseconds }, true)
  }

  /** Sends a message to the queue of the dead, if there is one. */
  async #bury(message: KernelMessage, reason: string): Promise<void> {
    const { file, attempts, asJson } = this.#plan
    if (this.#dead === undefined) {
      const what = `${file} ${reason}, the last of ${plural(attempts, 'attempt')}`
      throw new Failure(what, 'With --dead QUEUE such messages go there, and the others go on.')
    }
    const { text, family } = this.#dead.target
    const { error } = await give(this.#dead, [itemFor(family, message)], { timeout: PATIENCE })
    if (codeOf(error) === 'ETIMEDOUT') throw new Failure(`${text} is full`)
    if (error !== undefined) throw error
    note(`moved to ${text}`, asJson)
  }

  /** Starts the command; how it failed, or undefined. Rejects if it cannot be started. */
  #attempt(message: KernelMessage, attempt: number): Promise<string | undefined> {
    const { file, args, timeout, asJson } = this.#plan
    const { priority, type } = tagToJson(message)
    const env = {
      ...process.env,
      KMQ_QUEUE: nameOf(this.#source),
      KMQ_BYTES: String(message.data.length),
      KMQ_ATTEMPT: String(attempt),
      KMQ_PRIORITY: priority === undefined ? undefined : String(priority),
      KMQ_TYPE: type === undefined ? undefined : String(type),
    }
    return new Promise((resolve, reject) => {
      // Of a session of its own: Ctrl-C is for this process, which lets it finish.
      const child = spawn(file, args, { env, detached: true, stdio: ['pipe', asJson ? 2 : 'inherit', 'inherit'] })
      this.#held.set(message, child)
      let isLate = false
      const timers = new Set<NodeJS.Timeout>()
      if (timeout !== undefined) {
        const late = setTimeout(() => {
          isLate = true
          signalGroup(child, 'SIGTERM')
          timers.add(setTimeout(() => signalGroup(child, 'SIGKILL'), GRACE))
        }, timeout)
        timers.add(late)
      }
      const finish = () => {
        this.#held.set(message, undefined)
        for (const timer of timers) clearTimeout(timer)
      }
      child.once('error', (error) => {
        finish()
        reject(new Failure(`cannot start ${file}: ${error.message}`))
      })
      child.once('exit', (code, signal) => {
        finish()
        if (isLate) resolve(`took longer than ${timeout} ms`)
        else if (signal !== null) resolve(`was ended by ${signal}`)
        else resolve(code === 0 ? undefined : `ended with code ${code}`)
      })
      // It may not care for the message.
      child.stdin?.on('error', () => {}).end(message.data)
    })
  }

  /** The process ends now. */
  readonly #abandon = (): void => {
    for (const child of this.#held.values()) if (child !== undefined) signalGroup(child, 'SIGTERM')
    putBackNow(this.#source, [...this.#held.keys()], this.#plan.asJson)
  }
}

/** The command and what it has started. */
function signalGroup({ pid }: ChildProcess, signal: NodeJS.Signals): void {
  if (pid === undefined) return
  try {
    process.kill(-pid, signal)
  } catch {} // it has ended
}
