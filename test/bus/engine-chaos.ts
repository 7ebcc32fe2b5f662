// What an engine has to live through: its server is killed and started again, stopped and continued, the connections are
// cut, and the processes that send and consume are killed. What was confirmed is handled in the end.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { createServer, connect as dial, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { connect } from 'kernelmq/bus'
import { expect, onTestFinished, test } from 'vitest'
import { fixture } from '../support.ts'
import type { Server } from './servers.ts'
import type { Engine } from './support.ts'

/** What a dead consumer had comes back after two seconds, where a timer says so. */
const parameters: Record<Engine, string> = { nats: '?lease=2000', redis: '?lease=2000', amqp: '' }

/** Milliseconds for what has stopped to go on, on a machine that has little time. */
const PATIENCE = 90_000

/** A wire to a server that can be cut. */
export async function wireTo(port: number) {
  const sockets = new Set<Socket>()
  const nears = new Set<Socket>()
  let isCut = false
  let target = port
  const server = createServer((near) => {
    if (isCut) {
      near.destroy()
      return
    }
    nears.add(near)
    const far = dial(target, '127.0.0.1')
    for (const [socket, other] of [
      [near, far],
      [far, near],
    ] as const) {
      sockets.add(socket)
      socket.on('error', () => {})
      socket.on('close', () => {
        sockets.delete(socket)
        nears.delete(socket)
        other.destroy()
      })
    }
    near.pipe(far).pipe(near)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const cut = () => {
    isCut = true
    for (const socket of sockets) socket.destroy()
  }
  const mend = () => {
    isCut = false
  }
  const close = () => {
    cut()
    server.close()
  }
  /** What is said from now on does not arrive, on the connections that there are, but the first so many. */
  const swallow = (but = 0) => {
    for (const near of [...nears].slice(but)) near.unpipe().resume()
  }
  /** What is answered from now on does not arrive, on the connections that there are, but the first so many. */
  const mute = (but = 0) => {
    const fars = [...sockets].filter((socket) => !nears.has(socket))
    for (const far of fars.slice(but)) far.unpipe().resume()
  }
  /** Connections that are made from now on lead elsewhere. */
  const turn = (other: number) => {
    target = other
  }
  return { port: (server.address() as { port: number }).port, cut, mend, swallow, mute, turn, close }
}

interface Worker {
  readonly what: 'produce' | 'consume'
  readonly name: string
  readonly log: string
  readonly child: ChildProcess
}

const ended = async (child: ChildProcess): Promise<void> => {
  if (child.exitCode === null && child.signalCode === null) await once(child, 'exit')
}

const linesOf = (path: string): string[] => {
  try {
    const text = readFileSync(path, 'utf8')
    return text
      .slice(0, text.lastIndexOf('\n') + 1)
      .split('\n')
      .slice(0, -1)
  } catch {
    return []
  }
}

/** What was done, by all who were there. */
function judge(directory: string) {
  const [sent, got, wrong] = [new Set<string>(), new Map<string, number>(), [] as string[]]
  const known = new Set<string>()
  /** Of each key, when each of its messages was handled first. */
  const keys = new Map<string, Map<string, bigint>>()
  for (const file of readdirSync(directory)) {
    for (const line of linesOf(join(directory, file))) {
      const [word, id = '', time = '0', key = ''] = line.split(' ')
      if (word === 'got') {
        got.set(id, (got.get(id) ?? 0) + 1)
        if (key === '') continue
        const times = keys.get(key) ?? new Map<string, bigint>()
        const first = times.get(id)
        if (first === undefined || BigInt(time) < first) times.set(id, BigInt(time))
        keys.set(key, times)
      } else if (word === 'sent' || word === 'unknown') {
        known.add(id)
        if (word === 'sent') sent.add(id)
      } else if (word !== 'ready') wrong.push(`${file}: ${line}`)
    }
  }
  const lost = [...sent].filter((id) => !got.has(id))
  const again = [...got.values()].reduce((sum, count) => sum + count - 1, 0)
  return { sent: sent.size, got: got.size, lost, again, wrong, overtaken: [...keys.values()].flatMap(overtakenIn) }

  /** Those that came before one of their key that was confirmed earlier. */
  function overtakenIn(times: Map<string, bigint>): string[] {
    const byNumber = [...times.keys()].filter((id) => sent.has(id)).sort((a, b) => numberOf(a) - numberOf(b))
    const timeOf = (id: string | undefined) => times.get(id ?? '') ?? 0n
    return byNumber.filter((id, at) => timeOf(id) < timeOf(byNumber[at - 1]))
  }
}

const numberOf = (id: string): number => Number(id.slice(id.lastIndexOf('-') + 1))

// Last the server's end: RabbitMQ 3.10 spoils what is made just before, and all is made by then (docs/transports.md).
const faults = ['consumer killed', 'connection cut', 'producer killed', 'server paused', 'server killed'] as const

/** Registers the test of an engine: so many rounds of every fault, in which the workers never rest. */
export function chaos(scheme: Engine, server: Server, rounds = Number(process.env.CHAOS_ROUNDS ?? 1)): void {
  const time = 30_000 + rounds * 60_000 + 2 * PATIENCE
  test('every confirmed message is handled, whatever is killed, stopped or cut', { timeout: time }, async () => {
    const directory = mkdtempSync(join(tmpdir(), 'kernelmq-chaos-'))
    const wire = await wireTo(server.port)
    const workers = new Set<Worker>()
    onTestFinished(async () => {
      for (const { child } of workers) child.kill('SIGKILL')
      await Promise.all([...workers].map(({ child }) => ended(child)))
      wire.close()
      rmSync(directory, { recursive: true, force: true })
    })
    const url = new URL(`${server.url}${parameters[scheme]}`)
    url.searchParams.set('prefix', 'chaos')
    // Who judges goes there directly.
    const bus = await connect(url)
    onTestFinished(() => bus.close())
    url.port = String(wire.port)

    let count = 0
    const begin = (what: Worker['what']): void => {
      const name = `${what}-${count++}`
      const log = join(directory, name)
      const child = spawn(process.execPath, [fixture('engine-worker.mjs'), url.href, what, name, log], {
        stdio: ['ignore', 'ignore', 'inherit'],
      })
      workers.add({ what, name, log, child })
    }
    const replace = async (what: Worker['what']): Promise<void> => {
      const all = [...workers].filter((one) => one.what === what)
      const one = all[Math.floor(Math.random() * all.length)] as Worker
      one.child.kill('SIGKILL')
      await ended(one.child)
      workers.delete(one)
      begin(what)
    }
    const strike: Record<(typeof faults)[number], () => Promise<void>> = {
      async 'server killed'() {
        await server.kill()
        await sleep(200)
        await server.start()
      },
      async 'server paused'() {
        server.pause()
        await sleep(1500)
        server.resume()
      },
      async 'connection cut'() {
        wire.cut()
        await sleep(300)
        wire.mend()
      },
      'consumer killed': () => replace('consume'),
      'producer killed': () => replace('produce'),
    }

    /** Every process that is there does something new; how long that takes, in milliseconds. */
    const goOn = async (after: string): Promise<number> => {
      const began = performance.now()
      const before = new Map([...workers].map((worker) => [worker, linesOf(worker.log).length]))
      for (;;) {
        const idle = [...workers].filter((worker) => linesOf(worker.log).length <= (before.get(worker) ?? 0) + 1)
        if (idle.length === 0) return performance.now() - began
        const dead = [...workers].filter(({ child }) => child.exitCode !== null || child.signalCode !== null)
        if (dead.length > 0)
          throw new Error(
            `${dead.map(({ name, child }) => `${name} (${child.exitCode ?? child.signalCode})`)} ended by itself`,
          )
        if (performance.now() - began > PATIENCE) {
          const last = idle.map(({ name, log }) => `${name} (${linesOf(log).at(-1)})`)
          throw new Error(`after ${after}, ${last.join(', ')} did not go on`)
        }
        await sleep(20)
      }
    }

    for (const what of ['produce', 'produce', 'consume', 'consume', 'consume'] as const) begin(what)
    await goOn('the start')
    let longest = { fault: '', ms: 0 }
    for (let round = 0; round < rounds; round++) {
      for (const fault of faults) {
        await sleep(Math.random() * 300)
        await strike[fault]()
        const ms = await goOn(fault)
        if (ms > longest.ms) longest = { fault, ms }
      }
    }

    const producers = [...workers].filter(({ what }) => what === 'produce')
    for (const one of producers) {
      one.child.kill('SIGTERM')
      await ended(one.child)
      workers.delete(one)
    }
    const over = performance.now() + PATIENCE
    const queue = bus.queue('q')
    let stats = await queue.stats()
    for (;;) {
      const { ready, leased, delayed, held } = stats
      const isDone = ready + leased + delayed + held === 0 && judge(directory).lost.length === 0
      if (isDone || performance.now() > over) break
      await sleep(100)
      stats = await queue.stats()
    }
    const { sent, got, lost, again, wrong, overtaken } = judge(directory)
    if (process.env.CHAOS_ROUNDS !== undefined) {
      const slowest = `${(longest.ms / 1000).toFixed(1)} s after ${longest.fault}`
      console.log(`${sent} confirmed, ${got} handled, ${again} again; all went on at the latest ${slowest}`)
    }
    expect({ lost, wrong, overtaken }).toEqual({ lost: [], wrong: [], overtaken: [] })
    expect(sent).toBeGreaterThan(0)
    expect(stats).toMatchObject({ ready: 0, leased: 0, delayed: 0, held: 0, dead: 0 })
  })
}
