// The connection to a server: made again when it is lost, with patience for what is asked meanwhile.
import { setTimeout as sleep } from 'node:timers/promises'
import { QueueError } from '../../../errors.ts'
import { MAX_TIMER } from '../../../waiting.ts'
import { type Address, noAccess, noConnection } from '../engine/address.ts'
import { Hold } from '../engine/hold.ts'
import { type ScriptName, scripts } from './scripts.ts'

/** What is used of the client. */
export interface Client {
  readonly stream: { unref(): void; destroy(): void } | undefined
  connect(): Promise<void>
  disconnect(): void
  select(database: number): Promise<unknown>
  eval(script: string, keys: number): Promise<unknown>
  subscribe(...channels: string[]): Promise<unknown>
  unsubscribe(...channels: string[]): Promise<unknown>
  config(call: 'GET', ...names: string[]): Promise<string[]>
  on(event: 'error', listener: (error: Error) => void): this
  on(event: 'message', listener: (channel: string) => void): this
  once(event: 'connect' | 'end', listener: () => void): this
}

export type ClientClass = new (options: object) => Client

export type Args = readonly (string | number | Buffer)[]

type Script = (...args: Args) => Promise<unknown>

export interface How {
  /** Milliseconds to wait for a connection; default: those of the URL. */
  readonly patience?: number
  /** It does not hold the process. */
  readonly background?: boolean
}

export interface Listeners {
  /** Somebody has published to a channel. */
  rung(channel: string): void
  /** The connection is there again; whatever was published meanwhile is not known. */
  up(): void
}

/** Milliseconds between attempts to connect. */
const SOONEST = 50
const LATEST = 2000

/** The server's answers that will be others in a moment. */
const PASSING = /^(?:LOADING|BUSY|MASTERDOWN|READONLY|NOREPLICAS|TRYAGAIN|CLUSTERDOWN)\b/
const DEMOTED = /^(?:READONLY|MASTERDOWN)\b/
const DENIED =
  /^(?:WRONGPASS|NOAUTH|NOPERM)\b|invalid password|AUTH failed|ACL failure in script|The user executing the script can't/

const PORT = 6379

/** While it reads its data it answers, but runs nothing. */
async function loaded(client: Client): Promise<void> {
  for (;;) {
    try {
      await client.eval('return 1', 0)
      return
    } catch (error) {
      if (!(error as Error).message.startsWith('LOADING')) throw error
      await sleep(SOONEST, undefined, { ref: false })
    }
  }
}

export class Connection {
  readonly #Client: ClientClass
  readonly #url: URL
  readonly #address: Address
  readonly #listeners: Listeners
  readonly #channels = new Set<string>()
  readonly #subscribing = new Map<string, Promise<void>>()
  /** Of each connection the one beside it that hears what is published; both end together. */
  readonly #ears = new WeakMap<Client, Promise<Client>>()
  readonly #hold = new Hold()
  readonly #waiting = new Set<{ resolve: (client: Client) => void; reject: (error: unknown) => void }>()
  #client: Client | undefined
  /** Why there is none. */
  #reason: unknown
  /** What the server said last instead of doing what it was asked, if that passes. */
  #refusal: unknown
  #timer: NodeJS.Timeout | undefined
  /** What was sent by {@link #client} and not answered; the server may have stopped. */
  #asked = 0
  #watchdog: NodeJS.Timeout | undefined
  #over = false

  constructor(Client: ClientClass, url: URL, address: Address, listeners: Listeners) {
    this.#Client = Client
    this.#url = url
    this.#address = address
    this.#listeners = listeners
  }

  /** Connects for the first time. */
  async open(): Promise<Client> {
    try {
      const client = await this.#connect()
      this.#use(client)
      return client
    } catch (error) {
      throw this.#explain(error, 'connect')
    }
  }

  async #connect(): Promise<Client> {
    const client = await this.#dial()
    let isOver = false
    client.once('end', () => {
      isOver = true
    })
    try {
      if (this.#channels.size > 0) {
        const ear = await this.#earOf(client)
        await this.watched(ear, () => ear.subscribe(...this.#channels))
      }
      // Nobody would hear of it a second time.
      if (isOver) throw new Error('the connection was lost')
      return client
    } catch (error) {
      client.disconnect()
      throw error
    }
  }

  /** Servers hang up on who has subscribed and is answered 32 MiB: what is asked for may be more. */
  #earOf(client: Client): Promise<Client> {
    const known = this.#ears.get(client)
    if (known !== undefined) return known
    const ear = this.#dial()
    this.#ears.set(client, ear)
    client.once('end', () => ear.then((one) => one.disconnect()).catch(() => {}))
    const lose = () => client.stream?.destroy()
    ear.then((one) => one.once('end', lose), lose)
    return ear
  }

  async #dial(): Promise<Client> {
    const { protocol, hostname, port, username, password } = this.#url
    const client = new this.#Client({
      host: hostname.replace(/^\[|\]$/g, '') || 'localhost',
      port: Number(port || PORT),
      username: decodeURIComponent(username) || undefined,
      password: decodeURIComponent(password) || undefined,
      ...(protocol === 'rediss:' && { tls: {} }),
      lazyConnect: true,
      connectTimeout: Math.min(this.#address.patience, 10_000),
      // What is sent again, and when, is for us to say.
      enableOfflineQueue: false,
      autoResendUnfulfilledCommands: false,
      autoResubscribe: false,
      retryStrategy: null,
      // It waits with a timer that holds the process, for each attempt that has failed.
      disconnectTimeout: SOONEST,
      // It asks for more than a user needs to be permitted.
      enableReadyCheck: false,
      disableClientInfo: true,
      scripts,
    })
    let reason: Error | undefined
    client.on('error', (error) => {
      reason ??= error
    })
    client.on('message', (channel) => this.#listeners.rung(channel))
    client.once('connect', () => client.stream?.unref())
    try {
      await this.watched(client, async () => {
        await client.connect()
        await loaded(client)
        await this.#select(client)
      })
      return client
    } catch (error) {
      client.disconnect()
      throw reason ?? error
    }
  }

  /** What is asked for beside {@link run}: a server takes connections even when it is stopped. */
  async watched<T>(
    client: Client,
    work: () => Promise<T>,
    patience: number = Math.min(this.#address.patience, 10_000),
  ): Promise<T> {
    const watchdog = setTimeout(() => client.stream?.destroy(), patience).unref()
    try {
      return await work()
    } finally {
      clearTimeout(watchdog)
    }
  }

  /** The client would go on in database 0. */
  async #select(client: Client): Promise<void> {
    const database = Number(this.#url.pathname.slice(1) || 0)
    if (database === 0) return
    try {
      await client.select(database)
    } catch (error) {
      const { name, message } = error as Error
      if (name !== 'ReplyError') throw error
      const hint = `is there a database ${database} (see "databases" in redis.conf), and may this user +select?`
      const detail = `database ${database}: ${message}`
      const refused = new QueueError('ERR_BUS_ACCESS', { syscall: 'connect', detail, hint })
      throw Object.assign(refused, { cause: error })
    }
  }

  #use(client: Client): void {
    if (this.#over) {
      client.disconnect()
      return
    }
    this.#client = client
    this.#asked = 0
    client.once('end', () => this.#lost(client))
    for (const { resolve } of this.#waiting) resolve(client)
    this.#waiting.clear()
  }

  #lost(client: Client): void {
    if (this.#client !== client) return
    this.#client = undefined
    clearTimeout(this.#watchdog)
    this.#reason = this.#refusal ?? new Error('the connection was lost')
    this.#again(0)
  }

  /** Nobody is held by it: who waits for it is. */
  #again(tries: number): void {
    if (this.#over) return
    const delay = tries === 0 ? 0 : Math.min(SOONEST * 2 ** tries, LATEST) * (0.5 + Math.random() / 2)
    this.#timer = setTimeout(async () => {
      try {
        this.#use(await this.#connect())
        if (!this.#over) this.#listeners.up()
      } catch (error) {
        this.#reason = error
        this.#again(tries + 1)
      }
    }, delay).unref()
  }

  #ready(call: string, end: number): Promise<Client> | Client {
    if (this.#over) throw new QueueError('ERR_MQ_CLOSED', { syscall: call })
    if (this.#client !== undefined) return this.#client
    return new Promise((resolve, reject) => {
      const late = () => settle(() => reject(this.#explain(this.#reason, call)))
      const left = Math.max(end - performance.now(), 0)
      const timer = left > MAX_TIMER ? undefined : setTimeout(late, left).unref()
      const settle = (work: () => void) => {
        clearTimeout(timer)
        this.#waiting.delete(waiting)
        work()
      }
      const waiting = {
        resolve: (client: Client) => settle(() => resolve(client)),
        reject: (error: unknown) => settle(() => reject(error)),
      }
      this.#waiting.add(waiting)
    })
  }

  /**
   * Runs a script, again if its outcome is not known: `args` are told whether that is so. At once, if they are there and
   * the connection is; not at all, without a result, if they are undefined.
   */
  run<T>(
    script: ScriptName,
    call: string,
    args: (isAgain: boolean) => Args | undefined | Promise<Args | undefined>,
    how: How = {},
  ): Promise<T> {
    const work = async (client: Client, isAgain: boolean, end: number) => {
      const made = args(isAgain)
      const list = made instanceof Promise ? await this.#inTime(made, call, end) : made
      if (list === undefined) return undefined as T
      return (client as unknown as Record<string, Script>)[`${script}Buffer`]?.(...list) as Promise<T>
    }
    return this.#patiently(call, work, how)
  }

  /** What has to be known first may be asked for for ever. */
  async #inTime<T>(known: Promise<T>, call: string, end: number): Promise<T> {
    const left = Math.max(end - performance.now(), 0)
    if (left > MAX_TIMER) return known
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<never>((_, reject) => {
      const giveUp = () => reject(this.#failureOf(call) ?? this.#explain(new Error('it does not answer'), call))
      timer = setTimeout(giveUp, left).unref()
    })
    try {
      return await Promise.race([known, late])
    } finally {
      clearTimeout(timer)
    }
  }

  async #patiently<T>(
    call: string,
    work: (client: Client, isAgain: boolean, end: number) => Promise<T>,
    { patience = this.#address.patience, background = false }: How = {},
  ): Promise<T> {
    const end = performance.now() + patience
    if (!background) this.#hold.take()
    let refusal: unknown
    try {
      for (let isAgain = false; ; ) {
        const ready = this.#ready(call, end)
        const client = ready instanceof Promise ? await ready : ready
        this.#asking(client, 1)
        try {
          const result = await work(client, isAgain, end)
          this.#refusal = undefined
          return result
        } catch (error) {
          const { name, message } = error as Error
          const isReply = name === 'ReplyError' || error instanceof QueueError
          if (isReply && !PASSING.test(message)) throw this.#explain(error, call)
          if (isReply) refusal = this.#refusal = error
          // A connection that was given up for what its server said is not why.
          if (performance.now() >= end) throw this.#over ? error : this.#explain(refusal ?? error, call)
          // It is another's turn: the name of the server may mean that one now.
          if (DEMOTED.test(message)) client.stream?.destroy()
          // A script that was refused did nothing.
          if (isReply) await new Promise((resolve) => setTimeout(resolve, SOONEST))
          else {
            isAgain = true
            // That it has ended may be told a moment later.
            if (this.#client === client) await new Promise((resolve) => setTimeout(resolve, 1))
          }
        } finally {
          this.#asking(client, -1)
        }
      }
    } finally {
      if (!background) this.#hold.release()
    }
  }

  /** A server that was stopped says nothing, and does not hang up. */
  #asking(client: Client, change: number): void {
    if (client !== this.#client) return
    this.#asked += change
    // Only an answer is a sign of life, not that more is asked.
    if (change > 0 && this.#asked > 1) return
    clearTimeout(this.#watchdog)
    if (this.#asked === 0) return
    this.#watchdog = setTimeout(() => client.stream?.destroy(), this.#address.patience).unref()
  }

  /** What somebody who waits for it is told while there is no connection, or its server refuses what it is asked. */
  get failure(): unknown {
    return this.#failureOf('receive')
  }

  #failureOf(call: string): unknown {
    const reason = this.#client === undefined ? this.#reason : this.#refusal
    return reason === undefined ? undefined : this.#explain(reason, call)
  }

  /** Resolves when what is published to a channel from now on is heard. */
  async listen(channel: string, how: How): Promise<void> {
    // Who comes second waits with the first: nothing is heard yet.
    const subscribing = this.#subscribing.get(channel)
    if (subscribing !== undefined || this.#channels.has(channel)) return subscribing
    const listening = this.#subscribe(channel, how).finally(() => this.#subscribing.delete(channel))
    this.#subscribing.set(channel, listening)
    return listening
  }

  async #subscribe(channel: string, how: How): Promise<void> {
    this.#channels.add(channel)
    try {
      const subscribe = async (client: Client) => {
        let ear: Client
        try {
          ear = await this.#earOf(client)
        } catch (cause) {
          // The connection ends with it, and is made again: then it is seen whether that can be had.
          throw new Error('the connection was lost', { cause })
        }
        return this.watched(ear, () => ear.subscribe(channel), this.#address.patience)
      }
      await this.#patiently('receive', subscribe, how)
    } catch (error) {
      this.#channels.delete(channel)
      throw error
    }
  }

  hears(channel: string): boolean {
    return this.#channels.has(channel) && !this.#subscribing.has(channel)
  }

  /** Who is in between may have forgotten a connection on which nothing was said: is there an answer, it is well. */
  ask(): void {
    const [channel] = this.#channels
    if (channel === undefined || this.#client === undefined) return
    const patience = this.#address.patience
    // To subscribe once more changes nothing, and whoever listens is permitted to.
    this.#ears
      .get(this.#client)
      ?.then((ear) => this.watched(ear, () => ear.subscribe(channel), patience))
      .catch(() => {})
  }

  async ignore(channel: string): Promise<void> {
    if (!this.#channels.delete(channel) || this.#client === undefined) return
    await this.#ears
      .get(this.#client)
      ?.then((ear) => this.watched(ear, () => ear.unsubscribe(channel), this.#address.patience))
      .catch(() => {})
  }

  #explain(error: unknown, call: string): unknown {
    if (error instanceof QueueError) return error
    const { message = '' } = (error ?? {}) as Error
    // The client puts what was sent into its errors: bodies, passwords.
    if (typeof error === 'object' && error !== null) Reflect.deleteProperty(error, 'command')
    const wrap = (code: string, hint: string) =>
      Object.assign(new QueueError(code, { syscall: call, detail: message, hint }), { cause: error })
    if (DENIED.test(message)) return noAccess(this.#url, PORT, call, error)
    if (message.startsWith('OOM')) return wrap('ERR_BUS_QUEUE_FULL', 'the "maxmemory" of the server is used up')
    if (message.startsWith('MISCONF'))
      return wrap('ERR_BUS_DISK_FULL', 'the server cannot write to its disk: see its log')
    if ((error as Error)?.name !== 'ReplyError') return noConnection(this.#url, PORT, call, error)
    if (!PASSING.test(message)) return error
    return wrap('ERR_BUS_CONNECTION', 'the server is there, and refuses that for now: see its log, or is it a replica?')
  }

  close(): void {
    this.#over = true
    clearTimeout(this.#timer)
    clearTimeout(this.#watchdog)
    this.#client?.disconnect()
    for (const { reject } of [...this.#waiting]) reject(new QueueError('ERR_MQ_CLOSED', { syscall: 'close' }))
  }
}
