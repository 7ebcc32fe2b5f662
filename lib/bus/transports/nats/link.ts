// The connection to a NATS server: made anew when it is lost, and asked again by those who can wait.
import { AsyncLocalStorage } from 'node:async_hooks'
import { subscribe } from 'node:diagnostics_channel'
import type { Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import type * as nats from '@nats-io/transport-node'
import { QueueError } from '../../../errors.ts'
import { MAX_TIMER } from '../../../waiting.ts'
import { type Address, noAccess, noConnection } from '../engine/address.ts'
import { loadClient } from '../engine/client.ts'

export type Client = typeof nats
export type Msg = nats.Msg
export type MsgHdrs = nats.MsgHdrs
type NatsConnection = nats.NatsConnection

const PORT = 4222

/** Milliseconds to wait for one answer, or for a connection. */
const ANSWER = 5000
/** Milliseconds between looks at those who wait for an answer. */
const LOOK = 250
/** Milliseconds between pings; a connection that leaves two of them unanswered is given up. */
const PING = 5000
/** Milliseconds for a server that has just been started to answer for its JetStream. */
const STARTING = 2000

/** What may be otherwise when it is tried again. */
export class Trouble extends Error {
  readonly kind: 'lost' | 'late' | 'nobody'

  constructor(kind: Trouble['kind'], cause?: unknown) {
    const what = { lost: 'the connection was lost', late: 'no answer', nobody: 'nobody answers' }
    super(what[kind], { cause })
    this.kind = kind
  }
}

/** JetStream says no; `number` is what its documentation calls `err_code`. */
export class ApiError extends Error {
  readonly number: number

  constructor({ err_code: number, description }: { err_code: number; description: string }) {
    super(description)
    this.number = number
  }
}

export interface Answer {
  readonly message: Msg
  /** How often it was asked for. */
  readonly attempts: number
}

interface Pending {
  readonly subject: string
  readonly until: number
  resolve(message: Msg): void
  reject(error: Error): void
}

export interface RequestOptions {
  readonly headers?: MsgHdrs | undefined
  /** What to do when there is nobody who answers; by default to wait. */
  readonly mend?: () => Promise<unknown>
  /** Milliseconds; by default the patience of the URL. */
  readonly patience?: number
}

export class Link {
  readonly client: Client
  readonly url: URL
  /** Milliseconds that an answer takes on its way, there and back, as far as it is known. */
  roundTrip = 0
  readonly #address: Address
  #connection: NatsConnection | undefined
  #connecting: Promise<NatsConnection> | undefined
  #inbox = ''
  readonly #pending = new Map<string, Pending>()
  #count = 0
  #look: NodeJS.Timeout | undefined
  #ping: NodeJS.Timeout | undefined
  #unanswered = 0
  #holds = 0
  #hold: NodeJS.Timeout | undefined
  #closed = false
  #lastError: unknown
  /** Other servers of the cluster. */
  #others: string[] = []
  readonly #comings = new Set<(connection: NatsConnection) => void>()

  private constructor(client: Client, url: URL, address: Address) {
    this.client = client
    this.url = url
    this.#address = address
  }

  /** @throws {QueueError} ERR_BUS_NO_CLIENT, ERR_BUS_CONNECTION, ERR_BUS_ACCESS */
  static async open(url: URL, address: Address): Promise<Link> {
    const link = new Link(await loadClient<Client>('@nats-io/transport-node'), url, address)
    try {
      await link.#connect()
      await link.#checkJetStream()
    } catch (error) {
      await link.close()
      throw error
    }
    return link
  }

  async #checkJetStream(): Promise<void> {
    const failed = (detail: string, cause: unknown) => {
      const path = `${this.url.hostname || 'localhost'}:${this.url.port || PORT}`
      const hint = 'start the server with JetStream: nats-server -js; and let the account use it'
      return Object.assign(new QueueError('ERR_BUS_CONNECTION', { syscall: 'connect', path, detail, hint }), { cause })
    }
    const until = performance.now() + STARTING
    for (;;) {
      try {
        await this.api('INFO', undefined, { patience: 0 })
        return
      } catch (error) {
        if (error instanceof ApiError) throw failed(error.message, error)
        const { cause } = error as QueueError
        if (!(cause instanceof Trouble && cause.kind === 'nobody')) throw error
        const info = this.#connection?.info
        const hasNone = info !== undefined && info.jetstream !== true
        if (hasNone || performance.now() > until) throw failed('it has no JetStream', cause)
        await sleep(50)
      }
    }
  }

  /** The largest message with all that it has beside its body, in bytes. */
  get maxPayload(): number {
    return this.#connection?.info?.max_payload ?? 2 ** 20
  }

  get isConnected(): boolean {
    return this.#connection !== undefined
  }

  /** Calls back now, if there is a connection, and with each that is made anew. */
  onConnection(callback: (connection: NatsConnection) => void): () => void {
    this.#comings.add(callback)
    if (this.#connection !== undefined) callback(this.#connection)
    return () => this.#comings.delete(callback)
  }

  async #connect(): Promise<NatsConnection> {
    const { url, client } = this
    const own = `${url.hostname || 'localhost'}:${url.port || PORT}`
    const [user, pass] = [decodeURIComponent(url.username), decodeURIComponent(url.password)]
    let connection: NatsConnection
    try {
      connection = await dial(client, {
        servers: [own, ...this.#others],
        name: 'kernelmq',
        // What was in flight has to be asked for again anyway, and reconnecting by itself would hold the process.
        reconnect: false,
        noRandomize: true,
        timeout: Math.min(ANSWER, this.#address.patience),
        pingInterval: MAX_TIMER,
        ...(url.protocol === 'tls:' && { tls: {} }),
        ...(user !== '' && (pass === '' ? { token: user } : { user, pass })),
      })
    } catch (error) {
      const isRefused = (error as Error)?.name === 'AuthorizationError' || /authoriz|authentic/i.test(String(error))
      throw isRefused ? noAccess(url, PORT, 'connect', error, true) : noConnection(url, PORT, 'connect', error)
    }
    if (this.#closed) {
      await connection.close()
      throw new QueueError('ERR_MQ_CLOSED', { syscall: 'connect' })
    }
    unhold(connection)
    this.#others = (connection.info?.connect_urls ?? []).filter((one) => one !== own)
    this.#inbox = client.createInbox()
    connection.subscribe(`${this.#inbox}.*`, { callback: (_, message) => this.#answered(message) })
    this.#connection = connection
    this.#unanswered = 0
    this.#ping ??= setInterval(() => this.#pingIt(), PING).unref()
    this.#measure(connection)
    void this.#watch(connection)
    void connection.closed().then((error) => this.#lost(connection, error))
    for (const callback of this.#comings) callback(connection)
    return connection
  }

  async #watch(connection: NatsConnection): Promise<void> {
    for await (const status of connection.status()) {
      if (status.type !== 'error') continue
      this.#lastError = status.error
      const { subject } = status.error as Error & { subject?: string }
      if (subject === undefined) continue
      for (const [token, pending] of this.#pending) {
        if (pending.subject !== subject) continue
        this.#pending.delete(token)
        pending.reject(noAccess(this.url, PORT, 'send', status.error, true))
      }
    }
  }

  #pingIt(): void {
    const connection = this.#connection
    if (connection === undefined) return
    if (this.#unanswered++ >= 2) void connection.close()
    else this.#measure(connection)
  }

  #measure(connection: NatsConnection): void {
    const asked = performance.now()
    connection.flush().then(() => {
      this.#unanswered = 0
      this.roundTrip = performance.now() - asked
    }, ignore)
  }

  #lost(connection: NatsConnection, error: unknown): void {
    if (this.#connection !== connection) return
    this.#connection = undefined
    this.#lastError = error ?? this.#lastError
    for (const { reject } of this.#pending.values()) reject(new Trouble('lost', this.#lastError))
    this.#pending.clear()
    if (!this.#closed) void this.#reconnect()
  }

  #reconnect(): Promise<NatsConnection> {
    this.#connecting ??= this.#tryToConnect().finally(() => {
      this.#connecting = undefined
    })
    // Who waits for it hears of it.
    this.#connecting.catch(ignore)
    return this.#connecting
  }

  async #tryToConnect(): Promise<NatsConnection> {
    for (let wait = 20; ; wait = Math.min(wait * 2, 1000)) {
      try {
        return await this.#connect()
      } catch (error) {
        if (this.#closed) throw error
        this.#lastError = error
        await sleep(wait * (0.5 + Math.random() / 2), undefined, { ref: false })
      }
    }
  }

  /** The connection, once there is one again. */
  async ready(call: string, until: number = performance.now() + this.#address.patience): Promise<NatsConnection> {
    if (this.#closed) throw new QueueError('ERR_MQ_CLOSED', { syscall: call })
    if (this.#connection !== undefined) return this.#connection
    const controller = new AbortController()
    const { signal } = controller
    const left = Math.min(Math.max(until - performance.now(), 0), MAX_TIMER)
    const over = sleep(left, undefined, { signal }).then(() => {
      const cause = this.#lastError
      // It says by itself what is wrong.
      if (cause instanceof QueueError) throw cause
      throw noConnection(this.url, PORT, call, cause)
    })
    try {
      return await Promise.race([this.#reconnect(), over])
    } finally {
      controller.abort()
      over.catch(ignore)
    }
  }

  #answered(message: Msg): void {
    const token = message.subject.slice(this.#inbox.length + 1)
    const pending = this.#pending.get(token)
    if (pending === undefined) return
    this.#pending.delete(token)
    if (message.data.length === 0 && message.headers?.code === 503) pending.reject(new Trouble('nobody'))
    else pending.resolve(message)
  }

  #late(): void {
    const now = performance.now()
    for (const [token, { until, reject }] of this.#pending) {
      if (until > now) continue
      this.#pending.delete(token)
      reject(new Trouble('late'))
    }
    if (this.#pending.size > 0) return
    clearInterval(this.#look)
    this.#look = undefined
  }

  #nextToken(): string {
    return (++this.#count).toString(36)
  }

  /** Asks once, and waits for an answer, but not beyond `until`. @throws {Trouble} */
  ask(
    subject: string,
    payload: Uint8Array | string,
    headers?: MsgHdrs,
    until: number = Number.POSITIVE_INFINITY,
  ): Promise<Msg> {
    const connection = this.#connection
    if (connection === undefined) return Promise.reject(new Trouble('lost', this.#lastError))
    const token = this.#nextToken()
    return new Promise((resolve, reject) => {
      connection.publish(subject, payload, {
        reply: `${this.#inbox}.${token}`,
        ...(headers !== undefined && { headers }),
      })
      this.#pending.set(token, { subject, until: Math.min(performance.now() + ANSWER, until), resolve, reject })
      this.#look ??= setInterval(() => this.#late(), LOOK).unref()
    })
  }

  /**
   * Asks until there is an answer.
   *
   * @throws {QueueError} ERR_BUS_CONNECTION, ERR_BUS_ACCESS, ERR_MQ_CLOSED
   */
  async request(
    call: string,
    subject: string,
    payload: Uint8Array | string,
    { headers, mend, patience = this.#address.patience }: RequestOptions = {},
  ): Promise<Answer> {
    const until = performance.now() + patience
    this.hold(true)
    try {
      for (let attempts = 1, wait = 5; ; attempts++, wait = Math.min(wait * 2, 250)) {
        try {
          if (this.#connection === undefined) await this.ready(call, until)
          return { message: await this.ask(subject, payload, headers, patience > 0 ? until : undefined), attempts }
        } catch (error) {
          if (!(error instanceof Trouble)) throw error
          if (this.#closed) throw new QueueError('ERR_MQ_CLOSED', { syscall: call })
          if (performance.now() >= until) throw noConnection(this.url, PORT, call, error)
          if (error.kind !== 'nobody') continue
          await mend?.()
          // The first time what was mended is there at once.
          if (mend === undefined || attempts > 1) await sleep(wait)
        }
      }
    } finally {
      this.hold(false)
    }
  }

  /** A call of JetStream. @throws {ApiError} */
  async api<R>(call: string, body?: object, options?: RequestOptions): Promise<R> {
    const payload = body === undefined ? '' : JSON.stringify(body)
    const { message } = await this.request(call, `$JS.API.${call}`, payload, options)
    const answer = message.json<R & { error?: { err_code: number; description: string } }>()
    if (answer.error !== undefined) throw new ApiError(answer.error)
    return answer
  }

  /** Says so, if there is anybody to be told. */
  tell(subject: string, payload: Uint8Array | string, reply?: string): void {
    try {
      this.#connection?.publish(subject, payload, reply === undefined ? undefined : { reply })
    } catch {
      // The connection is about to be lost.
    }
  }

  /** Resolves when all that was told has arrived. @throws {Trouble} */
  async flush(): Promise<void> {
    const connection = this.#connection
    if (connection === undefined) throw new Trouble('lost', this.#lastError)
    const token = this.#nextToken()
    this.hold(true)
    try {
      await new Promise((resolve, reject) => {
        // The client says nothing of it when the connection is lost; of one that says nothing the pings know.
        this.#pending.set(token, { subject: '', until: Number.POSITIVE_INFINITY, resolve, reject })
        connection.flush().then(resolve, (error: unknown) => reject(new Trouble('lost', error)))
      })
    } finally {
      this.#pending.delete(token)
      this.hold(false)
    }
  }

  /** Undefined while there is no connection. */
  subscribe(subject: string, callback: (message: Msg) => void): nats.Subscription | undefined {
    return this.#connection?.subscribe(subject, {
      callback(error, message) {
        if (error === null) callback(message)
      },
    })
  }

  /** Whether somebody waits, so that the process must not end. */
  hold(on: boolean): void {
    this.#holds += on ? 1 : -1
    if (on && this.#holds === 1) this.#hold = setInterval(() => {}, MAX_TIMER)
    else if (this.#holds === 0) clearInterval(this.#hold)
  }

  async close(): Promise<void> {
    this.#closed = true
    for (const timer of [this.#ping, this.#look, this.#hold]) clearInterval(timer)
    const connection = this.#connection
    this.#connection = undefined
    for (const { reject } of this.#pending.values()) reject(new QueueError('ERR_MQ_CLOSED', { syscall: 'close' }))
    this.#pending.clear()
    // Who waits for it must not end before: its socket holds nobody.
    const hold = setInterval(() => {}, MAX_TIMER)
    try {
      await connection?.close()
    } finally {
      clearInterval(hold)
    }
  }
}

const ignore = (): void => {}

/** The sockets of those who connect; of one that is there, or was given up, none any more. */
const dialing = new AsyncLocalStorage<{ sockets: Socket[] | undefined }>()
let dials = 0
subscribe('net.client.socket', (message) => {
  dialing.getStore()?.sockets?.push((message as { socket: Socket }).socket)
})

/** The client forgets the socket of a server that says nothing in time, which would hold the process. */
async function dial(client: Client, options: nats.NodeConnectionOptions): Promise<NatsConnection> {
  const own: { sockets: Socket[] | undefined } = { sockets: [] }
  dials++
  try {
    return await dialing.run(own, () => client.connect(options))
  } catch (error) {
    for (const socket of own.sockets ?? []) socket.destroy()
    throw error
  } finally {
    own.sockets = undefined
    // It costs every promise of the process something.
    if (--dials === 0) dialing.disable()
  }
}

/** The client has no word for it: its socket and the timer of its pings hold the process. */
function unhold(connection: NatsConnection): void {
  const { protocol } = connection as unknown as {
    protocol?: { transport?: { socket?: NodeJS.Socket }; heartbeats?: { timer?: NodeJS.Timeout } }
  }
  ;(protocol?.transport?.socket as unknown as { unref?(): void } | undefined)?.unref?.()
  protocol?.heartbeats?.timer?.unref?.()
}
