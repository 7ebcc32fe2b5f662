// local:/directory: durable, shared by any number of processes, without a daemon.
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { checkInteger, QueueError } from '../../../errors.ts'
import { checkSignal, Waiter } from '../../../waiting.ts'
import {
  BUS_BATCH,
  type Capabilities,
  type Delivery,
  type Outgoing,
  type Receipt,
  type ReceiveOptions,
  type Settlement,
  type Transport,
  type TransportStats,
} from '../../transport.ts'
import { Peers } from './peers.ts'
import { isBusy, type Process, Store } from './store.ts'

interface Receiver {
  max: number
  waiter: Waiter<Delivery[]>
}

/** Those of this process who wait for one queue; the process has one place in the store's line for all of them. */
interface Line {
  readonly name: string
  readonly receivers: Receiver[]
  timer: NodeJS.Timeout | undefined
  /** We stand in the store's line, or were taken out of it by a bell that is not answered yet. */
  standing: boolean
  serving: boolean
  again: boolean
}

// setTimeout() takes longer times for 1 ms.
const MAX_TIMER = 2 ** 31 - 1

export class LocalTransport implements Transport {
  readonly capabilities: Capabilities = {
    persist: 'process',
    delay: true,
    priority: true,
    dedup: true,
    order: true,
    lease: true,
    deadLetter: true,
    fanout: false,
    replay: false,
    maxBytes: 2 ** 30,
  }
  readonly #store: Store
  readonly #peers: Peers
  readonly #lines = new Map<number, Line>()
  /** What waits for another process to end its transaction, in order. */
  readonly #backlog: (() => boolean)[] = []
  #retrying = false
  #checking = false
  #checkAgain = false
  #closed: Promise<void> | undefined
  #waiting = 0

  private constructor(directory: string) {
    this.#store = new Store(join(directory, 'bus.db'))
    this.#peers = new Peers(join(directory, 'peers'), {
      ring: (queue) => this.#rung(queue),
      lost: () => void this.#check(),
    })
  }

  static async open(directory: string): Promise<LocalTransport> {
    mkdirSync(join(directory, 'peers'), { recursive: true, mode: 0o700 })
    const transport = await LocalTransport.#make(directory)
    // In this order: who finds us in the store can reach us, and whom we did not find there reaches us.
    await transport.#peers.listen()
    const { owner, others } = await transport.#run(() => transport.#store.enter(process.pid, transport.#peers.name))
    transport.#peers.owner = owner
    await Promise.all(others.map((other) => transport.#meet(other)))
    return transport
  }

  /** Two processes that open a new store at once are in each other's way. */
  static async #make(directory: string): Promise<LocalTransport> {
    for (;;) {
      try {
        return new LocalTransport(directory)
      } catch (error) {
        if (!isBusy(error)) throw error
        await new Promise((resolve) => setTimeout(resolve, 1 + Math.random() * 4))
      }
    }
  }

  /** Runs a transaction at once, or after those that already wait for another process. */
  #run<T>(work: () => T): Promise<T> {
    if (this.#backlog.length === 0) {
      try {
        return Promise.resolve(work())
      } catch (error) {
        if (!isBusy(error)) return Promise.reject(error)
      }
    }
    return new Promise((resolve, reject) => {
      this.#backlog.push(() => {
        try {
          resolve(work())
        } catch (error) {
          if (isBusy(error)) return false
          reject(error)
        }
        return true
      })
      this.#retry()
    })
  }

  #retry(): void {
    if (this.#retrying) return
    this.#retrying = true
    setTimeout(
      () => {
        this.#retrying = false
        while (this.#backlog[0]?.()) this.#backlog.shift()
        if (this.#backlog.length > 0) this.#retry()
      },
      0.5 + Math.random() * 2,
    )
  }

  #open(call: string): void {
    if (this.#closed !== undefined) throw new QueueError('ERR_MQ_CLOSED', { syscall: call })
  }

  async declare(queue: string): Promise<void> {
    this.#open('declare')
    await this.#run(() => this.#store.declare(queue))
  }

  async send(name: string, batch: readonly Outgoing[]): Promise<Receipt[]> {
    this.#open('send')
    checkInteger('number of messages', batch.length, 1, BUS_BATCH)
    const { receipts, wake, queue } = await this.#run(() => this.#store.send(name, batch))
    this.#wake(wake, queue)
    return receipts
  }

  #wake(owner: number | undefined, queue: number): void {
    if (owner === undefined) return
    if (owner === this.#peers.owner) this.#rung(queue)
    else this.#peers.ring(owner, queue)
  }

  async receive(name: string, { max, deadline, signal }: ReceiveOptions): Promise<Delivery[]> {
    this.#open('receive')
    checkInteger('"max" option', max, 1, BUS_BATCH)
    checkSignal(signal)
    const queue = await this.#run(() => this.#store.declare(name))
    const line = this.#lineOf(queue, name)
    const waiter = new Waiter<Delivery[]>(deadline, signal, (ended, reason) => {
      if (reason === 'timeout') ended.resolve([])
      else ended.reject(reason)
      this.#drop(line, ended)
    })
    line.receivers.push({ max, waiter })
    if (++this.#waiting === 1) this.#peers.ref(true)
    void this.#serve(line)
    return waiter.promise
  }

  #lineOf(queue: number, name: string): Line {
    let line = this.#lines.get(queue)
    if (line === undefined) {
      line = { name, receivers: [], timer: undefined, standing: false, serving: false, again: false }
      this.#lines.set(queue, line)
    }
    return line
  }

  #drop(line: Line, waiter: Waiter<Delivery[]>): void {
    const at = line.receivers.findIndex((receiver) => receiver.waiter === waiter)
    if (at < 0) return
    line.receivers.splice(at, 1)
    if (--this.#waiting === 0) this.#peers.ref(false)
    if (line.receivers.length === 0 && !line.serving) void this.#leave(line)
  }

  /** A bell that nobody answers goes to the next in line. */
  async #leave(line: Line): Promise<void> {
    clearTimeout(line.timer)
    if (!line.standing || this.#closed !== undefined) return
    line.standing = false
    const queue = this.#idOf(line)
    this.#wake(await this.#run(() => this.#store.leave(line.name, this.#peers.owner)), queue)
  }

  #idOf(line: Line): number {
    for (const [queue, other] of this.#lines) if (other === line) return queue
    return 0
  }

  #rung(queue: number): void {
    const line = this.#lines.get(queue)
    if (line !== undefined) void this.#serve(line)
  }

  async #serve(line: Line): Promise<void> {
    line.again = true
    if (line.serving) return
    line.serving = true
    const queue = this.#idOf(line)
    try {
      while (line.again && line.receivers[0] !== undefined) {
        line.again = false
        const { max, waiter } = line.receivers[0]
        clearTimeout(line.timer)
        const { deliveries, wake, due } = await this.#run(() =>
          this.#store.claim(line.name, this.#peers.owner, max, true),
        )
        this.#wake(wake, queue)
        line.standing = deliveries.length === 0
        if (deliveries.length > 0) {
          line.again = true
          // Somebody may have given up meanwhile; then it is for the next, or nobody's.
          const taker = line.receivers[0]
          if (taker !== undefined && (taker.waiter === waiter || taker.max >= deliveries.length)) {
            this.#drop(line, taker.waiter)
            taker.waiter.resolve(deliveries)
          } else {
            await this.settle(
              deliveries.map(({ token }) => ({ token, outcome: 'retry', due: 0, counted: false }) as const),
            )
          }
        } else if (due !== undefined) {
          const left = Math.min(Math.max(due - Date.now(), 0), MAX_TIMER)
          line.timer = setTimeout(() => void this.#serve(line), left)
        }
      }
    } catch (error) {
      for (const { waiter } of [...line.receivers]) {
        this.#drop(line, waiter)
        waiter.reject(error)
      }
    } finally {
      line.serving = false
    }
    if (line.receivers.length === 0) await this.#leave(line)
  }

  async settle(batch: readonly Settlement[]): Promise<boolean[]> {
    const { done, wake } = await this.#run(() => this.#store.settle(batch))
    for (const { owner, queue } of wake) this.#wake(owner, queue)
    return done
  }

  stats(queue: string): Promise<TransportStats> {
    return this.#run(() => this.#store.stats(queue))
  }

  /** Looks who is no more, gives back what they held, and looks what there is: a bell may have died with its ringer. */
  async #check(): Promise<void> {
    this.#checkAgain = true
    if (this.#checking) return
    this.#checking = true
    while (this.#checkAgain && this.#closed === undefined) {
      this.#checkAgain = false
      const others = this.#store.processes().filter(({ owner }) => owner !== this.#peers.owner)
      await Promise.all(others.map((other) => this.#meet(other)))
      for (const line of this.#lines.values()) void this.#serve(line)
    }
    this.#checking = false
  }

  async #meet({ owner, socket }: Process): Promise<void> {
    if (await this.#peers.connect(owner, socket)) return
    this.#peers.forget(owner)
    await this.#reap(owner, true)
  }

  async #reap(owner: number, lost: boolean): Promise<void> {
    for (;;) {
      const { left, wake } = await this.#run(() => this.#store.reap(owner, lost))
      for (const next of wake) this.#wake(next.owner, next.queue)
      if (!left) return
    }
  }

  close(): Promise<void> {
    this.#closed ??= this.#close()
    return this.#closed
  }

  async #close(): Promise<void> {
    const error = new QueueError('ERR_MQ_CLOSED', { syscall: 'receive' })
    for (const line of this.#lines.values()) {
      clearTimeout(line.timer)
      for (const { waiter } of line.receivers.splice(0)) waiter.reject(error)
    }
    await this.#reap(this.#peers.owner, false)
    await this.#peers.close()
    this.#store.close()
  }
}
