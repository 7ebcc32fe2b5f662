// Sending without a promise for each message, where the transport has nothing better.
import { QueueError } from '../errors.ts'
import { BUS_BATCH, type Outgoing, type Outlet } from './transport.ts'

/** From how many messages that are not sent yet on who posts is told to wait. */
const PLENTY = 5000

/** Milliseconds without progress after which closing gives up what is not sent, but for what is on its way. */
const LINGER = 1000

/** What is posted in one turn of the loop goes together, in order. */
export class Gathering implements Outlet {
  readonly #queue: string
  readonly #send: (batch: Outgoing[], signal: AbortSignal) => Promise<unknown>
  readonly #all: Gatherings
  #posted: Outgoing[] = []
  #sending: Promise<void> | undefined
  #failure: { error: unknown } | undefined
  readonly #over = new AbortController()
  #patience: NodeJS.Timeout | undefined

  constructor(queue: string, all: Gatherings, send: (batch: Outgoing[], signal: AbortSignal) => Promise<unknown>) {
    this.#queue = queue
    this.#all = all
    this.#send = send
  }

  post(message: Outgoing): boolean {
    if (this.#sending === undefined) {
      this.#all.enter(this.#queue, this)
      this.#sending = new Promise<void>((resolve) => setImmediate(resolve)).then(() => this.#sendAll())
    } else this.#all.check(this.#queue)
    this.#posted.push(message)
    return this.#posted.length < PLENTY
  }

  async #sendAll(): Promise<void> {
    while (this.#posted.length > 0) {
      try {
        await this.#send(this.#posted.splice(0, BUS_BATCH), this.#over.signal)
        this.#patience?.refresh()
      } catch (error) {
        this.#failure ??= { error }
        // What follows would take as long to fail.
        if (this.#over.signal.aborted) this.#posted = []
      }
    }
    this.#sending = undefined
    // What went wrong somebody has to be told.
    if (this.#failure === undefined) this.#all.leave(this.#queue, this)
  }

  async flush(): Promise<void> {
    await this.#sending
    const failure = this.#failure
    this.#failure = undefined
    if (failure === undefined) return
    if (this.#sending === undefined) this.#all.leave(this.#queue, this)
    throw failure.error
  }

  /** Sends what was posted, unless there is no room for it. */
  async close(): Promise<void> {
    this.#patience = setTimeout(() => this.#over.abort(), LINGER)
    const failure = await this.flush().catch((error: unknown) => error)
    clearTimeout(this.#patience)
    if (failure !== undefined) process.emitWarning(failure as Error)
  }
}

/** Those of a bus that have something to send or to tell, by the names of their queues. */
export class Gatherings {
  readonly #busy = new Map<string, Set<Gathering>>()
  #closed = false

  check(queue: string): void {
    if (this.#closed) throw new QueueError('ERR_MQ_CLOSED', { syscall: 'post', path: queue })
  }

  enter(queue: string, gathering: Gathering): void {
    this.check(queue)
    const own = this.#busy.get(queue) ?? new Set()
    this.#busy.set(queue, own.add(gathering))
  }

  leave(queue: string, gathering: Gathering): void {
    const own = this.#busy.get(queue)
    own?.delete(gathering)
    if (own?.size === 0) this.#busy.delete(queue)
  }

  /** Of all that post to a queue. */
  async flush(queue: string): Promise<void> {
    const own = [...(this.#busy.get(queue) ?? [])]
    const flushed = await Promise.allSettled(own.map((gathering) => gathering.flush()))
    const failed = flushed.find(({ status }) => status === 'rejected') as PromiseRejectedResult | undefined
    if (failed !== undefined) throw failed.reason
  }

  async close(): Promise<void> {
    this.#closed = true
    const all = [...this.#busy.values()].flatMap((own) => [...own])
    await Promise.all(all.map((gathering) => gathering.close()))
  }
}
