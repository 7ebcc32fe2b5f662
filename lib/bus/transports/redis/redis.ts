// redis: and rediss:, streams with consumer groups, and scripts for what has to be done in one step.
import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { checkInteger, invalidValue, QueueError } from '../../../errors.ts'
import { checkSignal, Waiter } from '../../../waiting.ts'
import { type Cancel, type Clock, systemClock } from '../../clock.ts'
import { isBound } from '../../topic-pattern.ts'
import {
  type Addressed,
  type Binding,
  BORROWED,
  type Bounds,
  BUS_BATCH,
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
import { type Address, addressOf, shown } from '../engine/address.ts'
import { loadClient } from '../engine/client.ts'
import { Hold } from '../engine/hold.ts'
import { FIELD, fromFields, type Read, toFields } from '../engine/wire.ts'
import { type Args, type ClientClass, Connection } from './connection.ts'
import type { ScriptName } from './scripts.ts'

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

/** When room may be expected: milliseconds. */
const RETRY_AFTER = 1000

/** Messages and bytes in one script; more go in several, unless they have to go together: we make one while the server
 * does another. */
const MANY = 100
const PLENTY = 2 ** 22

/** How a message that is kept elsewhere is found, and how often it was handed out. */
interface Token {
  readonly queue: string
  readonly rank: string
  readonly id: string
  readonly times: number
  readonly size: number
  readonly message: Read
  /** Of one that somebody else has added, which field is the body. */
  readonly field: string | undefined
  /** It was handed out alone. */
  readonly alone: boolean
  /** Of the life of this process in which it was handed out. */
  readonly life: number
  /** It was handed out before: there are notes on that. */
  readonly worn: boolean
  /** Its lease has a limit. */
  limited: boolean
}

/** Acknowledgements of one priority, and their places among what is settled. */
interface Group {
  readonly queue: string
  readonly rank: string
  readonly tokens: Token[]
  readonly places: number[]
}

interface Receiver {
  readonly options: ReceiveOptions
  readonly waiter: Waiter<Delivery[]>
  /** The server was asked for him, and had nothing. */
  looked: boolean
  /** His time is over. */
  late: boolean
}

/** Those of this process who wait for one queue. */
interface Line {
  readonly name: string
  readonly receivers: Receiver[]
  cancel: Cancel | undefined
  serving: boolean
  again: boolean
}

interface Standing {
  readonly script: 'declare' | 'bind'
  readonly queue: string
  readonly args: Args
}

/** A send that goes with the others of its turn. */
interface Sending {
  readonly batch: readonly Addressed[]
  readonly overflow: SendOptions['overflow']
  readonly bytes: number
  readonly resolve: (receipts: Receipt[]) => void
  readonly reject: (error: unknown) => void
}

/** Entries of one priority, in columns; see the scripts. */
type Columns = [rank: Buffer, ids: Buffer, messages: Buffer[], times: Buffer, wears: Buffer]

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
  readonly #prefix: string
  readonly #clock: Clock
  readonly #ttl: number
  readonly #patience: number
  readonly #lines = new Map<string, Line>()
  /** Who waits for room, by queue. */
  readonly #rooms = new Map<string, Set<() => void>>()
  readonly #held = new Set<Token>()
  readonly #hold = new Hold()
  #sendings: Sending[] = []
  /** The name of this process among the consumers, as long as it is not thought dead. */
  #consumer = ''
  #life = 0
  #entered: Promise<void> | undefined
  /** What was handed out may not have come here: being found out. */
  #doubt: Promise<void> | undefined
  /** It has to be found out. */
  #unsure = false
  /** How often all went back that was not known to be here. */
  #renewals = 0
  #beat: NodeJS.Timeout | undefined
  /** What this process has bound, bounded and borrowed, to be said again to a server that has lost it. */
  readonly #standing = new Map<string, Standing>()
  readonly #borrowed = new Set<string>()
  /** By which a server is known that has not. */
  #mark: string | undefined
  /** What has to be done before it is closed. */
  readonly #running = new Set<Promise<unknown>>()
  #closed: Promise<void> | undefined

  constructor(Client: ClientClass, url: URL, address: Address, clock: Clock) {
    super()
    this.#prefix = `${address.prefix}:`
    this.#clock = clock
    this.#ttl = address.numbers.lease ?? LEASE
    this.#patience = address.patience
    this.#connection = new Connection(Client, url, address, {
      rung: (channel) => this.#rung(channel),
      up: () => this.#up(),
    })
  }

  async open(): Promise<void> {
    this.#hold.take()
    try {
      await this.#openNow()
    } finally {
      this.#hold.release()
    }
  }

  async #openNow(): Promise<void> {
    const client = await this.#connection.open()
    try {
      const said = await client.config('GET', 'appendonly', 'appendfsync')
      const [, appends, , syncs] = said.map(String)
      if ([appends, syncs].sort().join() === 'always,yes') this.capabilities = { ...capabilities, persist: 'disk' }
    } catch {
      // Not everybody may ask for that: then no more is promised than what every server does.
    }
  }

  #check(call: string): void {
    if (this.#closed !== undefined) throw new QueueError('ERR_MQ_CLOSED', { syscall: call })
  }

  /** What every script begins with. */
  #begin(): Args {
    return [this.#prefix, this.#clock.now(), this.#clock === systemClock ? 1 : 0]
  }

  #run<T>(script: ScriptName, call: string, ...args: Args): Promise<T> {
    this.#check(call)
    return this.#track(this.#connection.run<T>(script, call, () => [...this.#begin(), ...args]))
  }

  /** What is asked for before it is closed is done before. */
  #track<T>(promise: Promise<T>): Promise<T> {
    this.#running.add(promise)
    const done = () => void this.#running.delete(promise)
    promise.then(done, done)
    return promise
  }

  async declare(queue: string, bounds?: Bounds): Promise<void> {
    if (bounds === undefined) return
    const { maxMessages, maxBytes } = bounds
    await this.#stand(queue, { script: 'declare', queue, args: [maxMessages, maxBytes] })
  }

  /** Has it done now, and again by a server that has lost it. */
  async #stand(name: string, standing: Standing): Promise<void> {
    const mark = await this.#say(standing)
    this.#standing.set(name, standing)
    this.#look(mark)
  }

  #say({ script, queue, args }: Standing): Promise<Buffer> {
    return this.#run<Buffer>(script, script, queue, ...args, randomUUID())
  }

  #up(): void {
    this.#ringAll()
    if (this.#standing.size === 0 || this.#closed !== undefined) return
    const args = () => [...this.#begin(), randomUUID()]
    this.#connection.run<Buffer>('mark', 'connect', args, { background: true }).then(
      (mark) => this.#look(mark),
      () => {},
    )
  }

  #look(seen: Buffer): void {
    const mark = String(seen)
    const isOther = this.#mark !== undefined && this.#mark !== mark
    this.#mark = mark
    // If it is lost once more, that is seen as this was.
    if (isOther) void this.#restore(() => true).catch(() => {})
  }

  async #restore(isMeant: (queue: string) => boolean): Promise<void> {
    for (const queue of this.#borrowed) if (isMeant(queue)) await this.#borrow(queue)
    for (const standing of this.#standing.values()) if (isMeant(standing.queue)) await this.#say(standing)
  }

  async send(batch: readonly Addressed[], { overflow, disk, signal }: SendOptions): Promise<Receipt[]> {
    this.#check('send')
    checkInteger('number of messages', batch.length, 1, BUS_BATCH)
    checkSignal(signal)
    if (disk && this.capabilities.persist !== 'disk') throw unsupported('persist', 'send')
    for (;;) {
      try {
        return await this.#gather(batch, overflow)
      } catch (error) {
        const { code, path = '' } = error as QueueError
        if (overflow !== 'wait' || code !== 'ERR_BUS_QUEUE_FULL' || (error as Full).never !== false) throw error
        await this.#room(path, signal)
      }
    }
  }

  /** With what else is sent in this turn of the loop. */
  #gather(batch: readonly Addressed[], overflow: SendOptions['overflow']): Promise<Receipt[]> {
    this.#check('send')
    const bytes = batch.reduce((sum, { message }) => sum + message.body.byteLength, 0)
    return new Promise((resolve, reject) => {
      this.#sendings.push({ batch, overflow, bytes, resolve, reject })
      if (this.#sendings.length === 1) queueMicrotask(() => this.#flush())
    })
  }

  #flush(): void {
    const sendings = this.#sendings
    this.#sendings = []
    for (let from = 0; from < sendings.length; ) {
      let [to, messages, bytes] = [from, 0, 0]
      const { overflow } = sendings[from] as Sending
      for (; to < sendings.length; to++) {
        const next = sendings[to] as Sending
        messages += next.batch.length
        bytes += next.bytes
        if (to > from && (messages > MANY || bytes > PLENTY || next.overflow !== overflow)) break
      }
      void this.#sendAll(sendings.slice(from, to))
      from = to
    }
  }

  async #sendAll(sendings: readonly Sending[]): Promise<void> {
    const [first] = sendings as [Sending]
    const batch = sendings.length === 1 ? first.batch : sendings.flatMap((sending) => sending.batch)
    try {
      const receipts = await this.#sendNow(batch, first.overflow)
      let at = 0
      for (const { batch, resolve } of sendings) {
        resolve(receipts.slice(at, at + batch.length))
        at += batch.length
      }
    } catch (error) {
      const isFull = (error as QueueError).code === 'ERR_BUS_QUEUE_FULL'
      if (sendings.length === 1 || !isFull) for (const { reject } of sendings) reject(error)
      // Some of them may have room, one by one.
      else for (const sending of sendings) await this.#sendAll([sending])
    }
  }

  async #sendNow(batch: readonly Addressed[], overflow: SendOptions['overflow']): Promise<Receipt[]> {
    const groups = groupsOf(batch)
    const args = this.#sendArgs(groups)
    const reply = await this.#run<Reply>('send', 'send', overflow, ...args)
    const receipts = batch.map(({ message: { id } }) => ({ id, duplicate: false }))
    const duplicates = duplicatesOf(reply)
    if (duplicates.length > 0) {
      const places = [...groups.values()].flat()
      for (const n of duplicates) (receipts[(places[Number(n)] as Place).at] as Receipt).duplicate = true
    }
    return receipts
  }

  #sendArgs(groups: ReadonlyMap<string, readonly Place[]>): Args {
    const sentAt = this.#clock.now()
    const args: (string | number | Buffer)[] = [groups.size]
    for (const [queue, places] of groups) {
      const messages = places.map(({ message }) => message)
      const flags = messages.some(isSpecial) ? messages.map(flagsOf) : []
      const { bytes, packed } = pack(messages, sentAt)
      args.push(queue, bytes, messages.length, flags.join('\n'), packed)
    }
    return args
  }

  /** Resolves when something may have been taken out of a queue. */
  async #room(queue: string, signal: AbortSignal | undefined): Promise<void> {
    const channel = `${this.#prefix}room:${queue}`
    if (!this.#connection.hears(channel)) {
      await this.#connection.listen(channel, {})
      // There may have come room before anybody listened.
      return
    }
    checkSignal(signal)
    const waiter = new Waiter<void>(Number.POSITIVE_INFINITY, signal, (ended, reason) => ended.reject(reason))
    const tell = () => waiter.resolve()
    const waiting = this.#rooms.get(queue) ?? new Set()
    this.#rooms.set(queue, waiting.add(tell))
    this.#hold.take()
    try {
      await waiter.promise
    } finally {
      waiting.delete(tell)
      this.#hold.release()
    }
    this.#check('send')
  }

  #rung(channel: string): void {
    const [what, queue] = splitOnce(channel.slice(this.#prefix.length), ':')
    if (what === 'bell') this.#ring(queue)
    else for (const tell of this.#rooms.get(queue) ?? []) tell()
  }

  #ring(queue: string): void {
    const line = this.#lines.get(queue)
    if (line !== undefined && line.receivers.length > 0) void this.#serve(line)
  }

  /** What was published while nobody could hear it. */
  #ringAll(): void {
    for (const queue of this.#lines.keys()) this.#ring(queue)
    for (const waiting of this.#rooms.values()) for (const tell of waiting) tell()
  }

  /** Becomes one of the consumers, for as long as it says so again and again. */
  #enter(background: boolean): Promise<void> {
    this.#entered ??= this.#enterNow(background).catch((error: unknown) => {
      this.#entered = undefined
      throw error
    })
    return this.#entered
  }

  async #enterNow(background: boolean): Promise<void> {
    const consumer = randomUUID()
    const args = () => [...this.#begin(), consumer, this.#ttl, 1]
    await this.#connection.run('beat', 'receive', args, { patience: Number.POSITIVE_INFINITY, background })
    this.#consumer = consumer
    this.#beat ??= setInterval(() => void this.#sayAlive(), this.#ttl / 3).unref()
  }

  async #sayAlive(): Promise<void> {
    if (this.#entered === undefined || this.#doubt !== undefined) return
    try {
      if (this.#unsure) await this.#renew()
      const consumer = this.#consumer
      const args = () => [...this.#begin(), consumer, this.#ttl, 0]
      const isAlive = await this.#connection.run<number>('beat', 'receive', args, {
        patience: this.#ttl,
        background: true,
      })
      if (isAlive === 0) this.#die(consumer)
      // Nothing that is to be told goes only one way.
      this.#ringAll()
    } catch {
      // Without a connection; when it is there again it will be seen whether that was too long.
    }
  }

  /** It was thought dead: others have what it had. */
  #die(consumer: string): void {
    if (this.#consumer !== consumer || this.#entered === undefined) return
    this.#entered = undefined
    this.#life++
    this.#held.clear()
  }

  /** Something may have been handed out whose answer was lost: all that is not known to be here goes back. */
  #renew(): Promise<void> {
    this.#doubt ??= this.#renewNow().finally(() => {
      this.#doubt = undefined
    })
    return this.#doubt
  }

  async #renewNow(): Promise<void> {
    this.#unsure = false
    if (this.#entered === undefined) return
    // What is already on its way in the name that it has now gets there before.
    await new Promise(setImmediate)
    this.#renewals++
    const [consumer, heir] = [this.#consumer, randomUUID()]
    const held = Object.fromEntries([...this.#held].map(({ queue, rank, id }) => [`${queue}/${rank}:${id}`, 1]))
    const args = () => [...this.#begin(), consumer, heir, this.#ttl, JSON.stringify(held)]
    const how = { patience: Number.POSITIVE_INFINITY, background: true }
    const isAlive = await this.#connection.run<number>('renew', 'receive', args, how)
    if (isAlive === 0) this.#die(consumer)
    else this.#consumer = heir
  }

  async receive(name: string, options: ReceiveOptions): Promise<Delivery[]> {
    this.#check('receive')
    checkInteger('"max" option', options.max, 1, BUS_BATCH)
    checkSignal(options.signal)
    if (options.start !== undefined) throw unsupported('start', 'receive')
    const line = this.#lineOf(name)
    const waiter: Waiter<Delivery[]> = new Waiter(options.deadline, options.signal, (ended, reason) => {
      receiver.late = true
      if (reason !== 'timeout') this.#leave(line, receiver, () => ended.reject(reason))
      else if (receiver.looked) this.#leave(line, receiver, () => ended.resolve([]))
      else this.#waitForLook(line, receiver)
    })
    const receiver: Receiver = { options, waiter, looked: false, late: false }
    line.receivers.push(receiver)
    if (!options.background) this.#hold.take()
    void this.#serve(line)
    return waiter.promise
  }

  /** What is there is to be found although the time is over; a consumer waits for as long as nobody can say what is there. */
  #waitForLook(line: Line, receiver: Receiver): void {
    if (receiver.options.together) return
    const giveUp = () => {
      const failure = this.#connection.failure
      if (failure !== undefined) this.#leave(line, receiver, () => receiver.waiter.reject(failure))
    }
    setTimeout(giveUp, this.#patience).unref()
  }

  #lineOf(name: string): Line {
    let line = this.#lines.get(name)
    if (line === undefined) {
      line = { name, receivers: [], cancel: undefined, serving: false, again: false }
      this.#lines.set(name, line)
    }
    return line
  }

  #leave(line: Line, receiver: Receiver, settle: () => void): void {
    const at = line.receivers.indexOf(receiver)
    if (at < 0) return
    line.receivers.splice(at, 1)
    if (!receiver.options.background) this.#hold.release()
    if (line.receivers.length === 0) line.cancel?.()
    settle()
  }

  async #serve(line: Line): Promise<void> {
    line.again = true
    if (line.serving) return
    line.serving = true
    try {
      while (line.again && line.receivers[0] !== undefined) {
        line.again = false
        line.cancel?.()
        const present = [...line.receivers]
        const asked = present[0] as Receiver
        const { deliveries, wait } = await this.#claim(line, asked)
        if (deliveries.length > 0) {
          line.again = true
          await this.#hand(line, asked, deliveries)
        } else {
          this.#tellLate(line, present)
          if (await this.#listen(line)) line.again = true
          else if (wait !== undefined && line.receivers.length > 0) {
            line.cancel = this.#clock.after(wait, () => this.#ring(line.name))
          }
        }
      }
    } catch (error) {
      for (const receiver of [...line.receivers]) this.#leave(line, receiver, () => receiver.waiter.reject(error))
    } finally {
      line.serving = false
    }
  }

  /** Whether it has only now begun to listen: something may have come before. */
  async #listen(line: Line): Promise<boolean> {
    const channel = `${this.#prefix}bell:${line.name}`
    if (line.receivers.length === 0 || this.#connection.hears(channel)) return false
    const background = line.receivers.every(({ options }) => options.background)
    await this.#connection.listen(channel, { patience: Number.POSITIVE_INFINITY, background })
    return true
  }

  #tellLate(line: Line, present: readonly Receiver[]): void {
    for (const receiver of present) {
      receiver.looked = true
      if (receiver.late || receiver.options.deadline <= performance.now()) {
        this.#leave(line, receiver, () => receiver.waiter.resolve([]))
      }
    }
  }

  /** Whoever asked may have given up meanwhile; then they are the next's who takes as many, or go back. */
  async #hand(line: Line, asked: Receiver, deliveries: Delivery[]): Promise<void> {
    const { lease } = asked.options
    const fits = ({ options }: Receiver) => options.max >= deliveries.length && options.lease === lease
    const taker = line.receivers.includes(asked) ? asked : line.receivers.find(fits)
    if (taker !== undefined) this.#leave(line, taker, () => taker.waiter.resolve(deliveries))
    else
      await this.settle(deliveries.map(({ token }) => ({ token, outcome: 'retry', due: 0, counted: false }) as const))
  }

  /** What there is; if nothing, after how many milliseconds there may be something. */
  async #claim(line: Line, { options }: Receiver): Promise<{ deliveries: Delivery[]; wait: number | undefined }> {
    const { name } = line
    const background = options.background ?? false
    const limit = options.lease === Number.POSITIVE_INFINITY ? '' : options.lease
    for (;;) {
      this.#check('receive')
      let [consumer, renewals] = ['', 0]
      const args = async (isAgain: boolean) => {
        if (this.#unsure || (isAgain && consumer === this.#consumer)) await this.#renew()
        await this.#doubt
        await this.#enter(background)
        consumer = this.#consumer
        renewals = this.#renewals
        return [...this.#begin(), name, consumer, options.max, limit]
      }
      const how = { patience: Number.POSITIVE_INFINITY, background }
      const [state, what] = await this.#track(
        this.#connection.run<[state: Buffer, what: Buffer | Columns[]]>('claim', 'receive', args, how),
      )
      switch (String(state)) {
        case 'gone':
          this.#die(consumer)
          continue
        case 'dropped':
          if (this.#borrowed.has(name)) {
            await this.#restore((queue) => queue === name)
            continue
          }
          throw new QueueError('EIDRM', {
            syscall: 'receive',
            path: name,
            hint: 'it went with the process that had borrowed it',
          })
        case 'none':
          return { deliveries: [], wait: String(what) === '' ? undefined : Number(String(what)) }
      }
      // It was not known yet that they are here, and they went back.
      if (renewals !== this.#renewals) continue
      const deliveries = this.#toDeliveries(name, what as Columns[], limit !== '')
      for (const { token } of deliveries) this.#held.add(token as Token)
      const wanted = await this.#withoutExpired(deliveries)
      if (wanted.length > 0) return { deliveries: wanted, wait: undefined }
    }
  }

  #toDeliveries(queue: string, chunks: readonly Columns[], limited: boolean): Delivery[] {
    const alone = chunks.length === 1 && (chunks[0] as Columns)[2].length === 1
    return chunks.flatMap((chunk) => this.#toDeliveriesOf(queue, chunk, alone, limited))
  }

  #toDeliveriesOf(queue: string, columns: Columns, alone: boolean, limited: boolean): Delivery[] {
    const rank = String(columns[0])
    const priority = Number(rank)
    const [ids, times, wears] = [columns[1], columns[3], columns[4]].map((column) => String(column).split(',')) as Rows
    return columns[2].map((packed, at) => {
      const id = ids[at] as string
      const { body, field, fields, headers } = unpack(packed)
      const isOurs = field === undefined
      const message = fromFields(fields, { id, sentAt: Number.parseInt(id, 10), headers })
      const wear = wears[at] ?? ''
      const [attempts, losses, suspect] = wear === '' ? FRESH : wear.split(':').map(Number)
      const token: Token = {
        queue,
        rank,
        id,
        times: Number(times[at] || 1),
        size: isOurs ? body.length : 0,
        message,
        field,
        alone,
        life: this.#life,
        worn: wear !== '',
        limited,
      }
      return {
        token,
        id: message.id,
        body,
        format: message.format,
        key: message.key,
        priority,
        headers: message.headers,
        sentAt: message.sentAt,
        attempts: attempts as number,
        losses: losses as number,
        suspect: suspect === 1,
        damage: undefined,
      }
    })
  }

  /** What nobody wants any more is done with. */
  async #withoutExpired(deliveries: Delivery[]): Promise<Delivery[]> {
    const now = this.#clock.now()
    const isOver = ({ token }: Delivery) => {
      const { expires } = (token as Token).message
      return expires > 0 && expires <= now
    }
    const over = deliveries.filter(isOver)
    if (over.length === 0) return deliveries
    await this.settle(over.map(({ token }) => ({ token, outcome: 'ack' }) as const))
    return deliveries.filter((delivery) => !over.includes(delivery))
  }

  async settle(batch: readonly Settlement[]): Promise<boolean[]> {
    this.#check('settle')
    const sending = batch.some((settlement) => settlement.outcome === 'ack' && settlement.send !== undefined)
    if (!sending || batch.length === 1) return this.#settle(batch)
    const held: boolean[] = []
    for (const settlement of batch) held.push(...(await this.#settle([settlement])))
    return held
  }

  async #settle(batch: readonly Settlement[]): Promise<boolean[]> {
    const held = new Array<boolean>(batch.length).fill(false)
    const groups: Group[] = []
    const others: { settlement: Settlement; at: number }[] = []
    for (const [at, settlement] of batch.entries()) {
      const token = settlement.token as Token
      if (token.life !== this.#life || !this.#held.has(token)) continue
      if (settlement.outcome !== 'ack' || settlement.send !== undefined || isMarked(token)) {
        others.push({ settlement, at })
        continue
      }
      const { queue, rank } = token
      let group = groups.find((one) => one.queue === queue && one.rank === rank)
      if (group === undefined) {
        group = { queue, rank, tokens: [], places: [] }
        groups.push(group)
      }
      group.tokens.push(token)
      group.places.push(at)
    }
    // Where the answer to each of what is asked belongs.
    const places = [...groups.map((group) => group.places), ...others.map(({ at }) => [at])]
    if (places.length === 0) return held
    const args = this.#settleArgs(
      groups,
      others.map(({ settlement }) => settlement),
    )
    const withConsumer = async (isAgain: boolean) => {
      await this.#doubt
      return [...this.#begin(), this.#consumer, isAgain ? 1 : 0, ...args]
    }
    let reply: Reply
    try {
      reply = await this.#track(this.#connection.run<Reply>('settle', 'settle', withConsumer))
    } catch (error) {
      // Whether it was done is not known; nothing is held that nobody will settle.
      this.#unsure ||= (error as QueueError).code === 'ERR_BUS_CONNECTION'
      if (this.#unsure) for (const { token } of batch) this.#held.delete(token as Token)
      throw error
    }
    if (reply[0] instanceof Buffer) duplicatesOf(reply)
    for (const [n, answered] of places.entries()) {
      for (const at of answered) {
        held[at] = reply[n] === 1
        const { outcome, token } = batch[at] as Settlement
        if (outcome === 'extend') (token as Token).limited = true
        else if (outcome !== 'begin') this.#held.delete(token as Token)
      }
    }
    return held
  }

  #settleArgs(groups: readonly Group[], others: readonly Settlement[]): Args {
    const args: (string | number | Buffer)[] = [groups.length]
    for (const { queue, rank, tokens } of groups) {
      const bytes = tokens.reduce((sum, { size }) => sum + size, 0)
      args.push(queue, rank, bytes, tokens.map(({ id }) => id).join('\n'))
    }
    args.push(others.length)
    let send: readonly Addressed[] = []
    for (const settlement of others) {
      const {
        queue: q,
        rank: r,
        id,
        times: t,
        message: { key: k },
        size: b,
        limited: l,
        alone,
        field: f,
      } = settlement.token as Token
      const about = { q, r, id, t, k, b, l, o: settlement.outcome }
      switch (settlement.outcome) {
        case 'ack':
          send = settlement.send ?? []
          args.push(JSON.stringify(send.length === 0 ? about : { ...about, send: 1 }))
          break
        case 'retry':
          args.push(JSON.stringify({ ...about, d: settlement.due, c: settlement.counted ? 1 : 0 }))
          break
        case 'dead':
          args.push(JSON.stringify({ ...about, dq: settlement.queue, f, m: buried(settlement) }))
          break
        case 'extend':
          args.push(JSON.stringify({ ...about, d: settlement.until, a: alone ? 1 : 0 }))
          break
        default:
          args.push(JSON.stringify(about))
      }
    }
    args.push(...this.#sendArgs(groupsOf(send)))
    return args
  }

  async stats(queue: string): Promise<TransportStats> {
    type Stats = [number, number, number, number, Buffer, [id: Buffer, head: Buffer][]]
    const [ready, leased, delayed, held, bytes, firsts] = await this.#run<Stats>('stats', 'stats', queue)
    const times = firsts.map(([id, head]) => {
      const sentAt = parse(head)[FIELD.sentAt]
      return sentAt === undefined ? Number.parseInt(String(id), 10) : Number(sentAt)
    })
    const oldest = times.length === 0 ? undefined : Math.min(...times)
    return { ready, leased, delayed, held, bytes: Math.max(Number(bytes), 0), oldest }
  }

  async queues(): Promise<string[]> {
    const names = await this.#run<Buffer[]>('queues', 'queues')
    return names.map(String).sort()
  }

  override async browse(
    queue: string,
    { max, after = '255:' }: { max: number; after: string | undefined },
  ): Promise<Page> {
    const [rank, id] = splitOnce(after, ':')
    const columns = await this.#run<Columns[]>('browse', 'browse', queue, max, rank, id)
    const deliveries = this.#toDeliveries(queue, columns, false)
    const last = deliveries.at(-1)?.token as Token | undefined
    return { deliveries, next: deliveries.length < max || last === undefined ? undefined : `${last.rank}:${last.id}` }
  }

  async bind(binding: Binding): Promise<void> {
    const text = textOf(binding)
    await this.#stand(text, { script: 'bind', queue: binding.queue, args: [text] })
  }

  async unbind(binding: Binding): Promise<void> {
    const text = textOf(binding)
    this.#standing.delete(text)
    await this.#run('unbind', 'unbind', text)
  }

  async publish(topic: string, message: Outgoing, options: SendOptions): Promise<number> {
    const { headers = {} } = message
    const bindings = (await this.#run<Buffer[]>('bindings', 'publish')).map(toBinding)
    const bound = bindings.filter((binding) => isBound(binding, topic, headers)).map(({ queue }) => queue)
    const queues = [...new Set(bound)]
    if (queues.length === 0) return 0
    await this.send(
      queues.map((queue) => ({ queue, message })),
      options,
    )
    return queues.length
  }

  async borrow(prefix = ''): Promise<string> {
    const queue = `${BORROWED}${prefix}${randomUUID()}`
    await this.#borrow(queue)
    this.#borrowed.add(queue)
    return queue
  }

  async #borrow(queue: string): Promise<void> {
    for (;;) {
      this.#check('borrow')
      let consumer = ''
      const args = async () => {
        await this.#doubt
        await this.#enter(false)
        consumer = this.#consumer
        return [...this.#begin(), queue, consumer]
      }
      if ((await this.#track(this.#connection.run<number>('borrow', 'borrow', args))) === 1) return
      this.#die(consumer)
    }
  }

  async drop(queue: string): Promise<void> {
    this.#borrowed.delete(queue)
    for (const [name, standing] of this.#standing) if (standing.queue === queue) this.#standing.delete(name)
    await this.#run('drop', 'drop', queue, this.#consumer)
    const line = this.#lines.get(queue)
    if (line?.receivers.length === 0) this.#lines.delete(queue)
    await this.#connection.ignore(`${this.#prefix}bell:${queue}`)
  }

  override async entries(prefix: string): Promise<[key: string, value: string][]> {
    const flat = (await this.#run<Buffer[]>('entries', 'entries', prefix)).map(String)
    return Array.from({ length: flat.length / 2 }, (_, at) => [flat[2 * at] as string, flat[2 * at + 1] as string])
  }

  override async put(key: string, value: string | undefined, { send = [], until = 0 }: PutOptions = {}): Promise<void> {
    const sent = this.#sendArgs(groupsOf(send))
    duplicatesOf(await this.#run<Reply>('put', 'put', key, value ?? '', value === undefined ? 0 : 1, until, ...sent))
  }

  close(): Promise<void> {
    this.#closed ??= this.#close()
    return this.#closed
  }

  async #close(): Promise<void> {
    const error = new QueueError('ERR_MQ_CLOSED', { syscall: 'receive' })
    clearInterval(this.#beat)
    this.#hold.take()
    for (const line of this.#lines.values()) {
      line.cancel?.()
      for (const receiver of [...line.receivers]) this.#leave(line, receiver, () => receiver.waiter.reject(error))
    }
    this.#ringAll()
    this.#flush()
    await Promise.race([this.#finish(), sleep(LINGER, undefined, { ref: false })])
    this.#connection.close()
    this.#hold.release()
  }

  /** Without a connection there is nothing to be waited for: what is held goes back by itself. */
  async #finish(): Promise<void> {
    while (this.#running.size > 0 && this.#connection.failure === undefined)
      await Promise.allSettled([...this.#running])
    if (this.#consumer === '' || this.#connection.failure !== undefined) return
    const args = () => [...this.#begin(), this.#consumer, '', this.#ttl, '']
    await this.#connection.run('renew', 'close', args, { patience: 0 }).catch(() => {})
  }
}

const FRESH = [0, 0, 0]

type Rows = [string[], string[], string[]]

/** Whether there is more to do than to remove it. */
const isMarked = ({ limited, worn, message }: Token): boolean => limited || worn || message.key !== undefined

/** Of ERR_BUS_QUEUE_FULL: there will never be room for so much. */
type Full = QueueError & { never?: boolean }

type Reply = (number | Buffer)[]

interface Place {
  readonly at: number
  readonly message: Outgoing
}

function groupsOf(batch: readonly Addressed[]): Map<string, Place[]> {
  const groups = new Map<string, Place[]>()
  for (const [at, { queue, message }] of batch.entries()) {
    const group = groups.get(queue)
    if (group === undefined) groups.set(queue, [{ at, message }])
    else group.push({ at, message })
  }
  return groups
}

/** Which of what was sent, by their places in the groups, were duplicates. */
function duplicatesOf([state, ...rest]: Reply): Reply {
  if (String(state) !== 'full') return rest
  const [queue, messages, maxMessages, bytes, maxBytes, ownMessages, ownBytes] = rest.map(String) as [
    string,
    ...string[],
  ]
  const bound = (count: unknown, most: unknown, what: string) =>
    Number(most) > 0 ? `${count} > ${most} ${what}` : undefined
  const bounds = [bound(messages, maxMessages, 'messages'), bound(bytes, maxBytes, 'bytes')]
  const detail = bounds.filter((one) => one !== undefined).join(', ')
  const isBeyond = (own: unknown, most: unknown) => Number(most) > 0 && Number(own) > Number(most)
  const never = isBeyond(ownMessages, maxMessages) || isBeyond(ownBytes, maxBytes)
  const error = new QueueError('ERR_BUS_QUEUE_FULL', { syscall: 'send', path: queue, detail })
  Object.defineProperty(error, 'never', { value: never })
  throw Object.assign(error, { retryAfter: RETRY_AFTER })
}

/** Whether the script has to know more of a message than that it is there. */
const isSpecial = ({ dedup, key, priority, due }: Outgoing): boolean =>
  dedup > 0 || key !== undefined || priority > 0 || due > 0

function flagsOf({ id, body, dedup, key, priority, due }: Outgoing): string {
  const double = dedup > 0 ? { i: id, w: dedup, b: body.byteLength } : {}
  return JSON.stringify({ ...double, k: key, p: priority, d: due > 0 ? due : undefined })
}

/** Messages one after the other, each its length and a line, its head, and its body. */
function pack(messages: readonly Outgoing[], sentAt: number): { bytes: number; packed: Buffer } {
  let [bytes, all] = [0, 0]
  const heads = messages.map((message) => {
    const head = `${JSON.stringify(toFields(message, { sentAt }))}\n`
    bytes += message.body.byteLength
    all += 4 + Buffer.byteLength(head) + message.body.byteLength
    return head
  })
  const packed = Buffer.allocUnsafe(all)
  let at = 0
  for (const [n, { body }] of messages.entries()) {
    const start = at + 4
    const end = start + packed.write(heads[n] as string, start)
    packed.set(body, end)
    at = end + body.byteLength
    packed.writeUInt32LE(at - start, start - 4)
  }
  return { bytes, packed }
}

interface Unpacked {
  readonly body: Buffer
  readonly fields: Record<string, string>
  /** Of one that somebody else has added: the field that is the body, and the others. */
  readonly field?: string
  readonly headers?: Record<string, string>
}

function unpack(message: Buffer): Unpacked {
  const at = message.indexOf(NEW_LINE)
  if (at >= 0 && message[0] === BRACE)
    return { body: message.subarray(at + 1), fields: parse(message.toString('utf8', 0, at)) }
  return foreign(message)
}

const NEW_LINE = 10
const BRACE = 123

/** The head of a dead letter: as it was, with other headers, and without what had been its turn. */
function buried({ token, headers }: Settlement & { outcome: 'dead' }): string {
  const { message } = token as Token
  const { id, format, sentAt } = message
  const plain = { id, format, headers, key: undefined, priority: 0, expires: 0, due: 0, dedup: 0, body: NOTHING }
  return JSON.stringify(toFields(plain, { sentAt }))
}

const NOTHING = new Uint8Array()

function parse(head: Buffer | string): Record<string, string> {
  try {
    const fields: unknown = JSON.parse(String(head))
    return typeof fields === 'object' && fields !== null ? (fields as Record<string, string>) : {}
  } catch {
    return {}
  }
}

/** What somebody else has added: its field `body`, or its first, is the body, the others are headers. */
function foreign(message: Buffer): Unpacked {
  const entry: unknown = parse(message)
  const flat = Array.isArray(entry) ? entry.map(String) : []
  const pairs = Array.from({ length: flat.length / 2 }, (_, at) => [flat[2 * at], flat[2 * at + 1]] as [string, string])
  const [field, body] = pairs.find(([name]) => name === 'body') ?? pairs[0] ?? ['', '']
  const headers = Object.fromEntries(pairs.filter(([name]) => name !== field))
  return { body: Buffer.from(body), field, fields: {}, headers }
}

function textOf({ pattern, queue, headers }: Binding): string {
  return JSON.stringify([pattern, queue, Object.entries(headers).sort()])
}

function toBinding(text: Buffer): Binding {
  const [pattern, queue, headers] = JSON.parse(String(text)) as [string, string, [string, string][]]
  return { pattern, queue, headers: Object.fromEntries(headers) }
}

function splitOnce(text: string, sign: string): [string, string] {
  const at = text.indexOf(sign)
  return [text.slice(0, at), text.slice(at + 1)]
}
