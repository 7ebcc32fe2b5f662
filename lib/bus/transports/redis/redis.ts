// redis: and rediss:, streams with consumer groups, and scripts for what has to be done in one step.
import { setTimeout as sleep } from 'node:timers/promises'
import { invalidValue, QueueError } from '../../../errors.ts'
import type { Clock } from '../../clock.ts'
import { shown } from '../../secrets.ts'
import { isBound } from '../../topic-pattern.ts'
import {
  type Addressed,
  type Binding,
  type Bounds,
  type Capabilities,
  type Delivery,
  type Outgoing,
  type Page,
  type PutOptions,
  type Receipt,
  type ReceiveOptions,
  Refusals,
  type SendOptions,
  type Settlement,
  type Transport,
  type TransportStats,
  unsupported,
} from '../../transport.ts'
import { type Address, addressOf } from '../engine/address.ts'
import { loadClient } from '../engine/client.ts'
import { Hold } from '../engine/hold.ts'
import { Calls } from './calls.ts'
import { type ClientClass, Connection } from './connection.ts'
import { type Columns, sentAtOf, takenOf } from './entry.ts'
import { Member } from './member.ts'
import { Receiving } from './receiving.ts'
import { argsOf, duplicatesOf, type Reply, Sender } from './sending.ts'
import { Settling } from './settling.ts'
import { Standings } from './standing.ts'

const capabilities: Capabilities = {
  persist: 'process',
  delay: 'native',
  priority: 'native',
  dedup: 'native',
  order: 'native',
  lease: 'timer',
  deadLetter: 'native',
  transaction: 'native',
  browse: 'native',
  fanout: 'native',
  replay: false,
  start: false,
  quotas: false,
  bounds: 'native',
  records: 'native',
  maxBytes: 2 ** 26,
}

/** Milliseconds without a word after which a process is thought dead, and the peers get what it has. */
const LEASE = 15_000

/** Milliseconds for what runs when it is closed. */
const LINGER = 5000

export async function openRedis(url: URL, clock: Clock): Promise<Redis> {
  const address = addressOf(url, ['lease'])
  if (!/^\/?\d*$/.test(url.pathname)) throw invalidValue('URL', 'one whose database is a number', shown(url))
  const { Redis: Client } = await loadClient<{ Redis: ClientClass }>('ioredis')
  const redis = new Redis(Client, url, address, clock)
  await redis.open()
  return redis
}

export class Redis extends Refusals implements Transport {
  capabilities: Capabilities = capabilities
  readonly overflow = 'reject'
  readonly #connection: Connection
  readonly #calls: Calls
  readonly #member: Member
  readonly #sender: Sender
  readonly #receiving: Receiving
  readonly #settling: Settling
  readonly #standings: Standings
  readonly #hold = new Hold()
  #closed: Promise<void> | undefined

  constructor(Client: ClientClass, url: URL, address: Address, clock: Clock) {
    super()
    const connection = new Connection(Client, url, address, {
      rung: (channel) => this.#rung(channel),
      up: () => this.#up(),
    })
    const calls = new Calls(connection, `${address.prefix}:`, clock)
    // Nothing that is to be told goes only one way.
    const lease = address.numbers.lease ?? LEASE
    const member = new Member(calls, lease, () => this.#heard())
    const settling = new Settling(calls, member)
    const standings = new Standings(calls, member, lease / 3)
    const { patience } = address
    const restore = (queue: string) => standings.restore(queue)
    this.#connection = connection
    this.#calls = calls
    this.#member = member
    this.#sender = new Sender(calls, this.#hold)
    this.#receiving = new Receiving({ calls, member, settling, hold: this.#hold, patience, restore })
    this.#settling = settling
    this.#standings = standings
  }

  async open(): Promise<void> {
    await this.#hold.during(() => this.#open())
  }

  async #open(): Promise<void> {
    const client = await this.#connection.open()
    try {
      const said = await this.#connection.watched(client, () => client.config('GET', 'appendonly', 'appendfsync'))
      const [, appends, , syncs] = said.map(String)
      if ([appends, syncs].sort().join() === 'always,yes') this.capabilities = { ...capabilities, persist: 'disk' }
    } catch {
      // Not everybody may ask for that: then no more is promised than what every server does.
    }
  }

  #rung(channel: string): void {
    const [what, queue] = splitOnce(channel.slice(this.#calls.prefix.length), ':')
    if (what === 'bell') this.#receiving.ring(queue)
    else this.#sender.ring(queue)
  }

  /** What was published while nobody could hear it. */
  #ringAll(): void {
    this.#receiving.ringAll()
    this.#sender.ringAll()
  }

  #heard(): void {
    this.#ringAll()
    this.#connection.ask()
  }

  #up(): void {
    // A server that was away may know less than was said to it: it takes for ours what we have acknowledged.
    this.#member.wonder()
    this.#ringAll()
    if (this.#closed !== undefined) return
    // It may be away again before the next sign of life would be due.
    void this.#member.sayAlive()
    this.#standings.up()
  }

  async declare(queue: string, bounds?: Bounds): Promise<void> {
    if (bounds !== undefined) await this.#standings.declare(queue, bounds)
  }

  async send(batch: readonly Addressed[], options: SendOptions): Promise<Receipt[]> {
    this.#calls.check('send')
    if (options.disk && this.capabilities.persist !== 'disk') throw unsupported('persist', 'send')
    return this.#sender.send(batch, options)
  }

  async receive(queue: string, options: ReceiveOptions): Promise<Delivery[]> {
    this.#calls.check('receive')
    return this.#receiving.receive(queue, options)
  }

  settle(batch: readonly Settlement[]): Promise<boolean[]> {
    return this.#settling.settle(batch)
  }

  async stats(queue: string): Promise<TransportStats> {
    type Stats = [number, number, number, number, Buffer, [entry: Buffer, head: Buffer][]]
    const [ready, leased, delayed, held, bytes, firsts] = await this.#calls.run<Stats>('stats', 'stats', queue)
    const times = firsts.map(([entry, head]) => sentAtOf(head, entry))
    const oldest = times.length === 0 ? undefined : Math.min(...times)
    return { ready, leased, delayed, held, bytes: Math.max(Number(bytes), 0), oldest }
  }

  async queues(): Promise<string[]> {
    const names = await this.#calls.run<Buffer[]>('queues', 'queues')
    return names.map(String).sort()
  }

  override async browse(
    queue: string,
    { max, after = '255:' }: { max: number; after: string | undefined },
  ): Promise<Page> {
    const [rank, entry] = splitOnce(after, ':')
    const columns = await this.#calls.run<Columns[]>('browse', 'browse', queue, max, rank, entry)
    const deliveries = takenOf(queue, columns, { limited: false, life: this.#member.life })
    const last = deliveries.at(-1)
    const isLast = deliveries.length < max || last === undefined
    return { deliveries, next: isLast ? undefined : `${last.chunk.rank}:${last.entry}` }
  }

  bind(binding: Binding): Promise<void> {
    return this.#standings.bind(binding)
  }

  unbind(binding: Binding): Promise<void> {
    return this.#standings.unbind(binding)
  }

  async publish(topic: string, message: Outgoing, options: SendOptions): Promise<string[]> {
    const { headers = {} } = message
    const bindings = await this.#standings.bindings()
    const bound = bindings.filter((binding) => isBound(binding, topic, headers)).map(({ queue }) => queue)
    const queues = [...new Set(bound)]
    if (queues.length === 0) return queues
    await this.send(
      queues.map((queue) => ({ queue, message })),
      options,
    )
    return queues
  }

  borrow(prefix = ''): Promise<string> {
    return this.#standings.borrow(prefix)
  }

  async drop(queue: string): Promise<void> {
    await this.#standings.drop(queue)
    this.#receiving.drop(queue)
    await this.#connection.ignore(`${this.#calls.prefix}bell:${queue}`)
  }

  override async entries(prefix: string): Promise<[key: string, value: string][]> {
    const flat = (await this.#calls.run<Buffer[]>('entries', 'entries', prefix)).map(String)
    return Array.from({ length: flat.length / 2 }, (_, at) => [flat[2 * at] as string, flat[2 * at + 1] as string])
  }

  override async put(key: string, value: string | undefined, { send = [], until = 0 }: PutOptions = {}): Promise<void> {
    const sent = argsOf(send, this.#calls.clock.now())
    const args = [key, value ?? '', value === undefined ? 0 : 1, until, ...sent]
    duplicatesOf(await this.#calls.run<Reply>('put', 'put', ...args))
  }

  close(): Promise<void> {
    this.#closed ??= this.#hold.during(() => this.#close())
    return this.#closed
  }

  async #close(): Promise<void> {
    this.#member.rest()
    this.#receiving.close(new QueueError('ERR_MQ_CLOSED', { syscall: 'receive' }))
    this.#sender.ringAll()
    this.#sender.flush()
    this.#calls.close()
    await Promise.race([this.#finish(), sleep(LINGER, undefined, { ref: false })])
    // What is bound at last has it look again.
    this.#standings.rest()
    this.#connection.close()
  }

  /** Without a connection there is nothing to be waited for: what is held goes back by itself. */
  async #finish(): Promise<void> {
    await this.#calls.finish()
    if (this.#connection.failure === undefined) await this.#member.leave()
  }
}

function splitOnce(text: string, sign: string): [string, string] {
  const at = text.indexOf(sign)
  return [text.slice(0, at), text.slice(at + 1)]
}
