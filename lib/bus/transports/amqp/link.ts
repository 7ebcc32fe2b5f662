// A connection to RabbitMQ that is made again when it was lost, which its client leaves to us.
import type { Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Channel, ChannelModel, ConfirmChannel } from 'amqplib'
import { QueueError } from '../../../errors.ts'
import { Waiter } from '../../../waiting.ts'
import type { Hold } from '../engine/hold.ts'

/** Milliseconds before the connection is made again; it doubles. */
const FIRST_WAIT = 50
const LONGEST_WAIT = 2000

/** Milliseconds: who waits no longer waits for so long for a server that says nothing; and so often, if it says something else. */
const SILENCE = 1000
const SILENCES = 5

/** Bytes that a packet has room for, everywhere. */
const PACKET = 1200

/** Codes of RabbitMQ that pass by themselves: it starts or stops, or a queue has no leader at the moment. */
const PASSING = [320, 504, 541]
/** Milliseconds before it is asked for again; it doubles, too. */
const TRY_AGAIN = 50

/** What 541 says, too: the server was told, or has learnt, not to do that. With it goes the connection, under all who use it. */
const DENIED = /deprecated|not permitted/
/** It has a process of a queue that it does not have, and keeps both until it begins anew. What it says is cut at 255 bytes. */
const REMAINS = /Cannot declare quorum queue '[^/']*\/([^']+)'.*(?:cluster_not_formed|\.\.\.)"?$/s
/** After how many it is believed, a second and a half at least: without a majority of a cluster it says the same. */
const DENIALS = 6

/** The server waits for a queue to do this, and ends the connection after 65 s: up to then no other channel gets more. */
const OF_QUEUES = ['cancel', 'consume', 'get']
/** Milliseconds. */
const OF_QUEUES_LIMIT = 90_000

/** In how many parts of its time a channel that is late is looked after. */
const LATE_LOOKS = 10

/** What is asked on a channel, and answered. */
const QUESTIONS = [
  'assertExchange',
  'assertQueue',
  'bindExchange',
  'bindQueue',
  'cancel',
  'checkQueue',
  'close',
  'consume',
  'deleteExchange',
  'deleteQueue',
  'get',
  'prefetch',
  'unbindQueue',
] as const

/** The server said so itself. */
const isAnswer = (error: unknown): boolean => typeof (error as { code?: unknown }).code === 'number'

/** The server said no, and why; undefined if the connection or the channel was lost, or will be there soon. */
export function refusalOf(error: unknown): number | undefined {
  const said = error instanceof QueueError ? error.cause : error
  const { code, message = '' } = (said ?? {}) as { code?: unknown; message?: string }
  if (typeof code !== 'number' || PASSING.includes(code)) return undefined
  return /down or inaccessible|no process|timed out/.test(message) ? undefined : code
}

/** The connection or the channel is no more, or will be there soon: what was asked for is asked again. */
export function isLoss(error: unknown): boolean {
  if (error instanceof QueueError) return false
  const { name, message = '' } = error as { name?: string; message?: string }
  if (isAnswer(error)) return refusalOf(error) === undefined
  return name === 'IllegalOperationError' || /closed|ended|closing/i.test(message)
}

function denialOf(call: string, cause: unknown): QueueError | undefined {
  const { message = '' } = (cause ?? {}) as { message?: string }
  const detail = message.replace(/^.*? with message "?/s, '').split('\n')[0]
  const path = REMAINS.exec(message)?.[1]
  const wrap = (name: string, hint: string) =>
    Object.assign(new QueueError(name, { syscall: call, path, detail, hint }), { cause })
  if (path !== undefined) {
    const hint =
      'what is left of one that was removed while it was made: start the server again, or give the URL another prefix'
    return wrap('ERR_BUS_OTHER_QUEUE', hint)
  }
  return DENIED.test(message)
    ? wrap('ERR_BUS_UNSUPPORTED', 'rabbitmq.conf may permit it: deprecated_features.permit')
    : undefined
}

/** What was asked for is there no more, or cannot be had just now: who waits for messages waits for it, too. */
export function passes(error: unknown): boolean {
  return refusalOf(error) === 404 || isLoss(error) || (error as QueueError).code === 'ERR_BUS_CONNECTION'
}

/** What the client does not say of its connection. */
interface Inside {
  stream?: Socket
  /** It has ended. */
  expectSocketClose?: boolean
  channelMax?: number
  heartbeater?: { sendTimer?: NodeJS.Timeout; recvTimer?: NodeJS.Timeout }
}

export interface LinkOptions {
  connect(): Promise<ChannelModel>
  /** What is told of an error of the connection. */
  explain(cause: unknown, call: string): QueueError
  readonly patience: number
  /** Milliseconds for which a channel on which something is asked may say nothing. */
  readonly limit: number
  readonly hold: Hold
  /** The kernel may wait with what is small until the server has read what went before. */
  readonly gathers: boolean
}

export class Link {
  readonly #options: LinkOptions
  #model: ChannelModel | undefined
  #connecting = false
  #closed = false
  #blocked: string | undefined
  /** Why there is no connection; undefined if there is one, or none was made yet. */
  #cause: unknown
  /** With what the server ended a connection last. */
  #said: { error: unknown; at: number } | undefined
  readonly #waiting = new Set<Waiter<void>>()
  /** Of who asks. */
  #turn: Promise<unknown> = Promise.resolve()
  #admin: { model: ChannelModel; channel: Promise<Channel> } | undefined
  /** Is called when there is a connection again. */
  onUp: () => void = () => {}

  constructor(options: LinkOptions) {
    this.#options = options
  }

  get isUp(): boolean {
    return this.#model !== undefined
  }

  /** It may be written to. */
  get isFree(): boolean {
    return this.#model !== undefined && this.#blocked === undefined
  }

  /** The first number of the server's version. */
  get version(): number {
    return Number.parseInt(String(this.#model?.connection.serverProperties.version), 10)
  }

  /** How many channels the server permits. */
  get channelMax(): number {
    return (this.#model?.connection as Inside | undefined)?.channelMax ?? Number.POSITIVE_INFINITY
  }

  get hold(): Hold {
    return this.#options.hold
  }

  /** The point of performance.now() up to which what is begun now waits for a connection. */
  patience(): number {
    return performance.now() + this.#options.patience
  }

  explain(cause: unknown, call: string): QueueError {
    return this.#options.explain(cause, call)
  }

  /** The first time: what is wrong with the URL is told at once. */
  async open(): Promise<void> {
    try {
      this.#use(await this.#make())
    } catch (error) {
      throw this.explain(error, 'connect')
    }
  }

  async #make(): Promise<ChannelModel> {
    const model = await this.#options.connect()
    // What ended it may have come with the answer, before anybody listened.
    if ((model.connection as Inside).expectSocketClose) throw new Error('the server has closed the connection at once')
    return model
  }

  #use(model: ChannelModel): void {
    if (this.#closed) {
      model.on('error', () => {})
      void model.close().catch(() => {})
      return
    }
    this.#model = closing(model)
    this.#blocked = undefined
    this.#cause = undefined
    const { stream, heartbeater } = model.connection as Inside
    if (stream !== undefined) {
      stream.unref()
      gather(stream, this.#options.gathers)
    }
    heartbeater?.sendTimer?.unref()
    heartbeater?.recvTimer?.unref()
    model.on('error', (error) => {
      this.#cause = error
      if (isAnswer(error)) this.#said = { error, at: performance.now() }
    })
    model.on('close', () => this.#lost(model))
    model.on('blocked', (reason) => {
      this.#blocked = reason
    })
    model.on('unblocked', () => {
      this.#blocked = undefined
      this.#tell()
    })
    this.#tell()
  }

  #lost(model: ChannelModel): void {
    if (this.#model !== model) return
    this.#model = undefined
    this.#cause ??= new Error('the connection was lost')
    if (!this.#closed) this.#connect()
  }

  #connect(): void {
    if (this.#connecting) return
    this.#connecting = true
    void this.#again()
  }

  async #again(): Promise<void> {
    for (let wait = FIRST_WAIT; !this.#closed; wait = Math.min(2 * wait, LONGEST_WAIT)) {
      try {
        const model = await this.#make()
        this.#connecting = false
        this.#use(model)
        this.onUp()
        return
      } catch (error) {
        this.#cause = error
      }
      await sleep(wait * (0.5 + Math.random() / 2), undefined, { ref: false })
    }
  }

  #tell(): void {
    for (const waiter of [...this.#waiting]) waiter.resolve()
  }

  /** Resolves to the connection, as soon as there is one, and one that may be written to if `free` says so. */
  async up(call: string, deadline: number, signal?: AbortSignal, free = false): Promise<ChannelModel> {
    for (;;) {
      this.check(call)
      if (this.#model !== undefined && !(free && this.#blocked !== undefined)) return this.#model
      if (this.#model === undefined) this.#connect()
      const waiter = new Waiter<void>(deadline, signal, (ended, reason) =>
        ended.reject(reason === 'timeout' ? this.late(call) : reason),
      )
      this.#waiting.add(waiter)
      try {
        await waiter.promise
      } finally {
        this.#waiting.delete(waiter)
      }
    }
  }

  /** What is told of what took too long. */
  late(call: string): QueueError {
    if (this.#blocked === undefined) return this.explain(this.#reason, call)
    const hint = 'the server takes nothing: it is short of memory or of disk, as `rabbitmqctl status` says'
    return new QueueError('ERR_BUS_DISK_FULL', { syscall: call, detail: `blocked: ${this.#blocked}`, hint })
  }

  get #reason(): unknown {
    if (this.#cause !== undefined) return this.#cause
    // It may end one connection after the other, for what it is asked.
    const { error, at } = this.#said ?? { at: Number.NEGATIVE_INFINITY }
    if (performance.now() - at < this.#options.patience) return error
    return new Error('the server does not answer')
  }

  check(call: string): void {
    if (this.#closed) throw new QueueError('ERR_MQ_CLOSED', { syscall: call })
  }

  /** No longer than that: a server that stands still keeps its connections, and answers nothing. */
  async inTime<R>(call: string, deadline: number, work: Promise<R>, signal?: AbortSignal): Promise<R> {
    if (deadline === Number.POSITIVE_INFINITY && signal === undefined) return work
    const waiter = new Waiter<void>(deadline, signal, (ended, reason) => ended.reject(reason))
    const isOver = waiter.promise.catch((reason: unknown) => {
      throw reason === 'timeout' ? this.late(call) : reason
    })
    try {
      return await Promise.race([work, isOver as Promise<never>])
    } finally {
      waiter.resolve()
    }
  }

  /** For who waits no longer: false if the server says nothing, or says other things for longer. */
  async ends(work: Promise<unknown>): Promise<boolean> {
    const stream = (this.#model?.connection as Inside | undefined)?.stream
    const over = new Waiter<boolean>(Number.POSITIVE_INFINITY, undefined, () => {})
    let [left, heard] = [SILENCES, stream?.bytesRead]
    const look = (): void => {
      if (--left === 0 || stream?.bytesRead === heard) over.resolve(false)
      heard = stream?.bytesRead
    }
    // This process may have stood still itself: what has come meanwhile is read first.
    const timer = setInterval(() => setImmediate(look), SILENCE).unref()
    try {
      return await Promise.race([work.then(() => true), over.promise])
    } finally {
      clearInterval(timer)
    }
  }

  /** A new channel; whoever asked closes it. */
  channel(call: string, deadline: number): Promise<Channel> {
    return this.#open(call, deadline, (model) => model.createChannel())
  }

  /** One on which the server confirms what is published. */
  confirmChannel(call: string, deadline: number): Promise<ConfirmChannel> {
    return this.#open(call, deadline, (model) => model.createConfirmChannel())
  }

  #open<C extends Channel>(call: string, deadline: number, create: (model: ChannelModel) => Promise<C>): Promise<C> {
    return this.#tryUntil(call, deadline, async () => this.#create(await this.up(call, deadline), create, deadline))
  }

  async #create<C extends Channel>(
    model: ChannelModel,
    create: (model: ChannelModel) => Promise<C>,
    deadline = Number.POSITIVE_INFINITY,
  ): Promise<C> {
    const { limit } = this.#options
    let isLate = false
    const late = new Waiter<never>(Math.min(performance.now() + limit, deadline), undefined, (ended) => {
      isLate = true
      ended.reject(new Error('channel closed: it did not open in time'))
    })
    const creating = create(model).then((channel) => {
      limited(quiet(channel), model.connection as Inside, limit)
      if (isLate) void channel.close().catch(() => {})
      return channel
    })
    try {
      const channel = await Promise.race([creating, late.promise])
      // What ended it may have come with the answer, before anybody listened.
      if (this.#model !== model) throw new Error('channel closed')
      return channel
    } finally {
      late.resolve(undefined as never)
    }
  }

  /**
   * What the server is asked for, again if the connection is lost meanwhile; its refusals come as they are. One after the
   * other: a denial ends the connection for all who are asking.
   */
  async ask<R>(call: string, work: (channel: Channel) => Promise<R>, deadline: number = this.patience()): Promise<R> {
    let denials = 0
    const asked = async () => {
      // It was given up when its turn came.
      if (performance.now() >= deadline) throw this.late(call)
      try {
        const model = await this.up(call, deadline)
        return await work(await this.#adminOf(model))
      } catch (error) {
        const denial = isLoss(error) ? denialOf(call, this.#cause) : undefined
        if (denial !== undefined && ++denials === DENIALS) throw denial
        throw error
      }
    }
    const inTurn = () => {
      const turn = this.#turn.then(asked)
      this.#turn = turn.catch(() => {})
      return turn
    }
    return this.hold.during(() => this.#tryUntil(call, deadline, inTurn))
  }

  #adminOf(model: ChannelModel): Promise<Channel> {
    if (this.#admin?.model !== model) {
      const admin = { model, channel: this.#create(model, () => model.createChannel()) }
      this.#admin = admin
      const forget = (): void => {
        if (this.#admin === admin) this.#admin = undefined
      }
      admin.channel.then((channel) => void channel.on('close', forget), forget)
    }
    return this.#admin.channel
  }

  async #tryUntil<R>(call: string, deadline: number, work: () => Promise<R>): Promise<R> {
    for (let wait = TRY_AGAIN; ; wait = Math.min(2 * wait, LONGEST_WAIT)) {
      try {
        return await this.inTime(call, deadline, work())
      } catch (error) {
        if (!isLoss(error)) throw error
        this.check(call)
        if (performance.now() >= deadline) throw isAnswer(error) ? this.explain(error, call) : this.late(call)
        await sleep(wait)
      }
    }
  }

  async close(): Promise<void> {
    this.#closed = true
    this.#tell()
    const model = this.#model
    if (model === undefined) return
    // One that has just gone is closed, too.
    const isClosed = this.ends(model.close().catch(() => {}))
    this.#model = undefined
    if (!(await isClosed)) (model.connection as Inside).stream?.destroy(new Error('closed'))
  }
}

/**
 * What is written in one turn goes out as one: the client writes each frame by itself, and half of the time of those that
 * send many small messages goes into telling the kernel so. Where the kernel gathers, too, what is larger than a packet
 * does not wait: its end might for long.
 */
function gather(stream: Socket, isByKernel: boolean): void {
  const { write } = stream
  let [isGathering, bytes] = [false, 0]
  if (!isByKernel) stream.setNoDelay(true)
  const end = (): void => {
    if (isByKernel) stream.setNoDelay(bytes > PACKET)
    stream.uncork()
    isGathering = false
    bytes = 0
  }
  stream.write = function gathered(this: Socket, ...args: unknown[]): boolean {
    if (!isGathering) {
      isGathering = true
      stream.cork()
      process.nextTick(end)
    }
    bytes += (args[0] as Buffer).length
    return Reflect.apply(write, this, args) as boolean
  } as Socket['write']
}

/** What is wrong with a channel is told by what was asked for on it. */
function quiet<C extends Channel>(channel: C): C {
  channel.on('error', () => {})
  return closing(channel)
}

/** Closed it is, too, when the connection goes before the server has said so: then the client would wait for ever. */
function closing<C extends Channel | ChannelModel>(one: C): C {
  const close = one.close.bind(one)
  one.close = () =>
    new Promise((resolve, reject) => {
      one.once('close', () => resolve())
      close().then(resolve, reject)
    })
  return one
}

/**
 * What is asked on a channel ends with it. And it ends if nothing is answered on it for so long, and the server says other
 * things even then: it may wait for a queue, and answers nothing else there meanwhile, not even its end. Who has it sees it
 * closed, and goes on with another. Not too soon: another consumer gets nothing either, and what comes to the one that
 * was given up, when its queue is there again, counts as lost.
 */
function limited(channel: Channel, { stream }: Inside, limit: number): void {
  /** In their order, each with its time. */
  const asked = new Map<(error: Error) => void, number>()
  let timer: NodeJS.Timeout | undefined
  /** What had come when the time was over. */
  let heard: number | undefined
  const look = (): void => {
    const before = timer
    // This process may have stood still itself: what has come meanwhile is read first.
    setImmediate(() => {
      if (timer !== before) return
      const isElsewhere = heard !== undefined && stream?.bytesRead !== heard
      if (!isElsewhere) {
        heard = stream?.bytesRead
        timer = setTimeout(look, limit / LATE_LOOKS).unref()
        return
      }
      void channel.close().catch(() => {})
      channel.emit('close')
      channel.removeAllListeners('close')
    })
  }
  const wait = (): void => {
    clearTimeout(timer)
    heard = undefined
    const [ms] = asked.values()
    timer = ms === undefined ? undefined : setTimeout(look, ms).unref()
  }
  channel.on('close', () => {
    const left = [...asked.keys()]
    asked.clear()
    wait()
    // Why it was closed comes with the answer.
    setImmediate(() => {
      for (const reject of left) reject(new Error('channel closed: no answer in time'))
    })
  })
  for (const name of QUESTIONS) {
    const question = channel[name] as (...args: unknown[]) => Promise<unknown>
    const ms = OF_QUEUES.includes(name) ? Math.max(limit, OF_QUEUES_LIMIT) : limit
    const ask = (...args: unknown[]) =>
      new Promise((resolve, reject) => {
        asked.set(reject, ms)
        if (asked.size === 1) wait()
        const answered = (): void => {
          if (asked.delete(reject)) wait()
        }
        const answer = (async () => Reflect.apply(question, channel, args))()
        answer.finally(answered).then(resolve, reject)
      })
    Object.assign(channel, { [name]: ask })
  }
}
