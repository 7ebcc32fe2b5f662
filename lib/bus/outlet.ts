// Sending without a promise for each message, where the transport has nothing better.
import { QueueError } from '../errors.ts'
import { BUS_BATCH, type Outgoing, type Outlet } from './transport.ts'

/** From how many messages that are not sent yet on who posts is told to wait. */
const PLENTY = 5000

/** Milliseconds without progress after which closing gives up what is not sent. */
const LINGER = 1000

/** What is posted in one turn of the loop goes together, in order. */
export class Gathering implements Outlet {
  readonly #send: (batch: Outgoing[], signal: AbortSignal) => Promise<unknown>
  #posted: Outgoing[] = []
  #sending: Promise<void> | undefined
  #failure: { error: unknown } | undefined
  readonly #over = new AbortController()
  #patience: NodeJS.Timeout | undefined

  constructor(send: (batch: Outgoing[], signal: AbortSignal) => Promise<unknown>) {
    this.#send = send
  }

  /** Nothing is to be sent or told. */
  get isIdle(): boolean {
    return this.#sending === undefined && this.#failure === undefined
  }

  post(message: Outgoing): boolean {
    this.#posted.push(message)
    this.#sending ??= new Promise<void>((resolve) => setImmediate(resolve)).then(() => this.#sendAll())
    return this.#posted.length < PLENTY
  }

  async #sendAll(): Promise<void> {
    while (this.#posted.length > 0) {
      try {
        await this.#send(this.#posted.splice(0, BUS_BATCH), this.#over.signal)
        this.#patience?.refresh()
      } catch (error) {
        this.#failure ??= { error }
      }
    }
    this.#sending = undefined
  }

  async flush(): Promise<void> {
    await this.#sending
    const failure = this.#failure
    this.#failure = undefined
    if (failure !== undefined) throw failure.error
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

  post(queue: string, gathering: Gathering, message: Outgoing): boolean {
    if (this.#closed) throw new QueueError('ERR_MQ_CLOSED', { syscall: 'post', path: queue })
    const own = this.#busy.get(queue) ?? new Set()
    this.#busy.set(queue, own.add(gathering))
    return gathering.post(message)
  }

  /** Of all that post to a queue. */
  async flush(queue: string): Promise<void> {
    const own = this.#busy.get(queue)
    if (own === undefined) return
    const flushed = await Promise.allSettled([...own].map((gathering) => gathering.flush()))
    for (const gathering of own) if (gathering.isIdle) own.delete(gathering)
    if (own.size === 0 && this.#busy.get(queue) === own) this.#busy.delete(queue)
    const failed = flushed.find(({ status }) => status === 'rejected') as PromiseRejectedResult | undefined
    if (failed !== undefined) throw failed.reason
  }

  async close(): Promise<void> {
    this.#closed = true
    const all = [...this.#busy.values()].flatMap((own) => [...own])
    await Promise.all(all.map((gathering) => gathering.close()))
  }
}
