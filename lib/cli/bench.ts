import { type ChildProcess, fork } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { cpus, release } from 'node:os'
import { setImmediate as turn } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { PosixQueue, SysvQueue } from '../index.ts'
import { type Command, defineCommand, JSON_OPTION } from './command.ts'
import { toDuration } from './duration.ts'
import { Failure, UsageError } from './errors.ts'
import { interruptible } from './interruption.ts'
import { note, print, printJson, style, table } from './terminal.ts'

const FAMILIES = ['posix', 'sysv'] as const
const WORKLOADS = ['pair', 'ping-pong', 'stream'] as const
const SIZES = [64, 1024, 8192] as const

type Family = (typeof FAMILIES)[number]
type Workload = (typeof WORKLOADS)[number]
type AnyQueue = PosixQueue | SysvQueue

/** What a message begins with that is to be sent back. An empty one asks how many others there were. */
export const ECHO = 1
const TAKE = 2

interface Case {
  readonly workload: Workload
  readonly route: Route
  /** Bytes of a message. */
  readonly size: number
}

interface Figures {
  /** Messages, or of ping-pong round trips. */
  readonly count: number
  /** Milliseconds. */
  readonly elapsed: number
  /** Of ping-pong: each round trip, in milliseconds. */
  readonly roundTrips?: readonly number[]
}

interface Result {
  readonly workload: Workload
  readonly family: Family
  /** Bytes of a message. */
  readonly size: number
  /** Messages, or of ping-pong round trips. */
  readonly count: number
  readonly perSecond: number
  /** Of ping-pong: a round trip, in milliseconds. */
  readonly p50?: number
  readonly p99?: number
}

/** The queues to the other process and from there, and the most bytes that a message may have. */
interface Route {
  readonly family: Family
  readonly there: AnyQueue
  readonly back: AnyQueue
  readonly messageSize: number
}

export const bench: Command = defineCommand({
  name: 'bench',
  summary: 'measure the queues of this machine',
  operands: '',
  description: [
    'A quick figure for this machine as it is now, within ten seconds: how many messages a second one process sends and receives (pair), how many go to another process and come back one after the other, and how long each takes (ping-pong), and how many go there only (stream). In pair calls return at once; in the others they are awaited.',
    'It makes queues of its own, small and without a name, and removes them whatever happens. It loads two processors; what else runs counts.',
  ],
  options: {
    duration: { type: 'string', short: 'd', value: 'TIME', help: 'of each measurement; default: 300ms' },
    quick: { type: 'boolean', short: 'q', help: 'as --duration 50ms: rougher, within three seconds' },
    only: {
      type: 'string',
      short: 'o',
      multiple: true,
      value: 'WHAT',
      help: `only ${[...FAMILIES, ...WORKLOADS, ...SIZES].join(', ')} (bytes); may be given again`,
    },
    ...JSON_OPTION,
  },
  examples: [
    ['kmq bench', 'everything'],
    ['kmq bench --only ping-pong --only 64', 'round trips of small messages, of both families'],
    ['kmq bench --quick --json', 'for a script'],
  ],
  async run({ options }) {
    const duration = toDuration('duration', options.duration) ?? (options.quick === true ? 50 : 300)
    if (duration < 1 || duration > 60_000) throw new UsageError('--duration is from 1ms to 1m')
    const isChosen = chosen(options.only ?? [])
    return interruptible(async (signal) => {
      const showsProgress = process.stderr.isTTY && options.json !== true
      const found = await measureAll(isChosen, duration, signal, showsProgress)
      if (found === undefined) return undefined
      if (options.json === true) await printJson({ machine: machine(), duration, ...found })
      else await print(draw(found.results))
      for (const { family, size, messageSize } of options.json === true ? [] : found.skipped) {
        note(`${family}, ${size} B: left out, a message may have ${messageSize} bytes here (kmq limits)`)
      }
      return undefined
    })
  },
})

/** Of each kind, families, workloads and sizes, those that are named, or all if none is. */
function chosen(only: readonly string[]): (word: Family | Workload | number) => boolean {
  const kinds = [FAMILIES, WORKLOADS, SIZES].map((kind) => kind.map(String))
  const unknown = only.find((word) => !kinds.some((kind) => kind.includes(word)))
  if (unknown !== undefined) throw new UsageError(`--only is one of ${kinds.flat().join(', ')}, not '${unknown}'`)
  const wanted = kinds.flatMap((kind) => {
    const named = kind.filter((word) => only.includes(word))
    return named.length > 0 ? named : kind
  })
  return (word) => wanted.includes(String(word))
}

interface Found {
  readonly results: readonly Result[]
  readonly skipped: readonly { readonly family: Family; readonly size: number; readonly messageSize: number }[]
}

/** Undefined if the signal came first. */
async function measureAll(
  isChosen: ReturnType<typeof chosen>,
  duration: number,
  signal: AbortSignal,
  showsProgress: boolean,
): Promise<Found | undefined> {
  const queues: AnyQueue[] = []
  const keep = <Q extends AnyQueue>(queue: Q): Q => {
    queues.push(queue)
    return queue
  }
  let peer: ChildProcess | undefined
  let progress: Progress | undefined
  try {
    const sizes = SIZES.filter(isChosen)
    const routes = FAMILIES.filter(isChosen).map((family) => openRoute(family, Math.max(...sizes), keep))
    const pairs = routes.flatMap((route) => sizes.map((size) => ({ route, size })))
    const cases = WORKLOADS.filter(isChosen).flatMap((workload) =>
      pairs.filter(({ route, size }) => size <= route.messageSize).map((pair) => ({ workload, ...pair })),
    )
    if (cases.length === 0) {
      const most = Math.max(...routes.map(({ messageSize }) => messageSize))
      throw new Failure(
        `a message may have ${most} bytes here`,
        'Choose a smaller size with --only, or see kmq limits.',
      )
    }
    if (showsProgress) progress = await startProgress(cases.length)
    peer = startPeer(routes)
    const ended = endOf(peer)
    const measured = measureEach(cases, duration, () => progress?.increment())
    const results = await Promise.race([measured, ended, once(signal, 'abort').then(() => undefined)])
    const skipped = pairs.filter(({ route, size }) => size > route.messageSize)
    return results && { results, skipped: skipped.map(({ route, size }) => ({ ...limitOf(route), size })) }
  } finally {
    progress?.stop()
    if (peer?.kill('SIGKILL')) await once(peer, 'exit')
    for (const queue of queues) dispose(queue)
  }
}

const limitOf = ({ family, messageSize }: Route) => ({ family, messageSize })

function openRoute(family: Family, size: number, keep: <Q extends AnyQueue>(queue: Q) => Q): Route {
  if (family === 'sysv') {
    const { messageSize, maxBytes } = SysvQueue.limits()
    const [there, back] = [keep(SysvQueue.open('private')), keep(SysvQueue.open('private'))]
    return { family, there, back, messageSize: Math.min(messageSize, maxBytes) }
  }
  const limits = PosixQueue.limits()
  const messageSize = Math.min(size, limits.messageSize)
  const there = keep(openUnnamed({ maxMessages: Math.min(10, limits.maxMessages), messageSize }))
  return { family, there, back: keep(openUnnamed({ maxMessages: 1, messageSize })), messageSize }
}

/** Nothing is left of it when both processes have ended, however they do. */
function openUnnamed(size: { maxMessages: number; messageSize: number }): PosixQueue {
  const name = `/kmq-bench-${randomUUID()}`
  const queue = PosixQueue.open(name, { exclusive: true, ...size })
  PosixQueue.unlink(name)
  return queue
}

function dispose(queue: AnyQueue): void {
  if (queue instanceof SysvQueue) {
    try {
      queue.remove()
    } catch {
      // Somebody else has removed it.
    }
  }
  queue.close()
}

/** It is not of this process group: Ctrl-C is for this process, and the other one ends with it. */
function startPeer(routes: readonly Route[]): ChildProcess {
  const queues = routes.flatMap(({ there, back }) => [there, back])
  const descriptors = queues.filter((queue) => queue instanceof PosixQueue).map((queue) => queue.fd)
  const ids = queues.filter((queue) => queue instanceof SysvQueue).map((queue) => queue.id)
  // 0 to 3 are the standard streams and the channel.
  const args = [descriptors.map((_, index) => 4 + index), ids].map((numbers) => JSON.stringify(numbers))
  return fork(fileURLToPath(new URL('./bench-peer.js', import.meta.url)), args, {
    stdio: ['ignore', 'ignore', 'ignore', 'ipc', ...descriptors],
    detached: true,
  })
}

/** Rejects when the other process fails or ends. */
function endOf(peer: ChildProcess): Promise<never> {
  const ended = new Promise<never>((_, reject) => {
    peer.on('message', ({ message, hint }: { message: string; hint?: string }) => reject(new Failure(message, hint)))
    // Ctrl-C reaches it, too, until it has left this process group: a signal is heard before this is said.
    peer.on('disconnect', () => setImmediate(() => reject(new Failure('the other process of the benchmark has ended'))))
    peer.on('error', reject)
  })
  // It ends in any case.
  ended.catch(() => {})
  return ended
}

type Progress = { increment(): void; stop(): void }

async function startProgress(total: number): Promise<Progress> {
  const { default: cliProgress } = await import('cli-progress')
  const format = 'measuring [{bar}] {value}/{total}'
  const bar = new cliProgress.SingleBar({ format, clearOnComplete: true, gracefulExit: false, stream: process.stderr })
  bar.start(total, 0)
  return bar
}

async function measureEach(cases: readonly Case[], duration: number, done: () => void): Promise<Result[]> {
  const results: Result[] = []
  for (const { workload, route, size } of cases) {
    const measure = MEASURES[workload]
    // What is measured is not how code is compiled.
    await measure(route, size, Math.min(duration / 5, 100))
    const { count, elapsed, roundTrips } = await measure(route, size, duration)
    results.push({
      workload,
      family: route.family,
      size,
      count,
      perSecond: Math.round((count / elapsed) * 1000),
      ...(roundTrips && { p50: percentile(roundTrips, 0.5), p99: percentile(roundTrips, 0.99) }),
    })
    done()
  }
  return results
}

/** To the tenth of a microsecond. */
function percentile(times: readonly number[], part: number): number {
  const sorted = times.toSorted((a, b) => a - b)
  return Math.round((sorted[Math.floor(part * (sorted.length - 1))] ?? 0) * 10_000) / 10_000
}

const MEASURES: Readonly<Record<Workload, (route: Route, size: number, duration: number) => Promise<Figures>>> = {
  async pair({ back }, size, duration) {
    const data = Buffer.alloc(size, TAKE)
    const start = performance.now()
    let messages = 0
    let elapsed = 0
    while (elapsed < duration) {
      for (let i = 0; i < 500; i++) {
        back.trySend(data)
        if (back.tryReceive() !== undefined) messages++
      }
      // A signal has to be heard.
      await turn()
      elapsed = performance.now() - start
    }
    return { count: messages, elapsed }
  },

  async 'ping-pong'({ there, back }, size, duration) {
    const data = Buffer.alloc(size, ECHO)
    const roundTrips: number[] = []
    const start = performance.now()
    let before = start
    while (before - start < duration) {
      await there.send(data)
      await back.receive()
      const now = performance.now()
      roundTrips.push(now - before)
      before = now
    }
    return { count: roundTrips.length, elapsed: before - start, roundTrips }
  },

  async stream({ there, back }, size, duration) {
    const batch = Array<Buffer>(100).fill(Buffer.alloc(size, TAKE))
    const start = performance.now()
    let messages = 0
    while (performance.now() - start < duration) {
      await there.sendMany(batch)
      messages += batch.length
    }
    await there.send('')
    const taken = Number((await back.receive()).text())
    if (taken !== messages) throw new Failure(`${messages} messages were sent, and ${taken} arrived`)
    return { count: messages, elapsed: performance.now() - start }
  },
}

const machine = () => ({ node: process.version, kernel: release(), cpu: cpus()[0]?.model, cpus: cpus().length })

const BAR = 20

const COUNT = new Intl.NumberFormat('en')

const microseconds = (time: number | undefined): string => (time === undefined ? '' : `${(time * 1000).toFixed(1)} µs`)

function draw(results: readonly Result[]): string {
  const rows = results.map(({ workload, family, size, perSecond, p50, p99 }, index) => {
    // Each workload has a scale of its own.
    const most = Math.max(...results.filter((other) => other.workload === workload).map((other) => other.perSecond))
    const bar = '█'.repeat(Math.max(1, Math.round((perSecond / most) * BAR)))
    return [
      results[index - 1]?.workload === workload ? '' : workload,
      family,
      `${size} B`,
      COUNT.format(perSecond),
      microseconds(p50),
      microseconds(p99),
      family === 'posix' ? style.cyan(bar) : style.green(bar),
    ]
  })
  const { node, kernel, cpu, cpus } = machine()
  return `${table(['', 'FAMILY', 'SIZE', 'PER SECOND', 'p50', 'p99', ''], ['l', 'l', 'r', 'r', 'r', 'r', 'l'], rows)}

Node.js ${node}, Linux ${kernel}, ${cpus} × ${cpu ?? 'processor'}`
}
