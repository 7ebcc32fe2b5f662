// What the bus asks of a transport, and nothing more: six methods, and a word on what it can do by itself.

/** A message on its way in. */
export interface Outgoing {
  id: string
  body: Uint8Array
  /** Refuse an id that was sent within the last so many milliseconds; 0 does not look. */
  dedup: number
  key: string | undefined
  /** 0 to 255, the highest first. */
  priority: number
  /** When it may be received, as of `Date.now()`; 0 is at once. */
  due: number
  /** When it is no longer wanted, as of `Date.now()`; 0 is never. */
  expires: number
  headers: Readonly<Record<string, string>> | undefined
}

export interface Receipt {
  id: string
  /** The id was sent before, and nothing was done. */
  duplicate: boolean
}

/** A message in the hands of one consumer; `token` is what settling it needs. */
export interface Delivery {
  readonly token: unknown
  readonly id: string
  readonly body: Uint8Array
  readonly key: string | undefined
  readonly priority: number
  readonly headers: Readonly<Record<string, string>>
  /** As of `Date.now()`. */
  readonly sentAt: number
  /** How often it was handed out before and came back by `retry`. */
  readonly attempts: number
  /** How often it came back because its consumer was lost. */
  readonly losses: number
}

export type Settlement =
  | { token: unknown; outcome: 'ack' }
  /** `due` as of `Date.now()`. An attempt that never began is not counted. */
  | { token: unknown; outcome: 'retry'; due: number; counted: boolean }
  | { token: unknown; outcome: 'dead'; headers: Readonly<Record<string, string>> }

export interface TransportStats {
  ready: number
  leased: number
  delayed: number
  dead: number
}

/** How a transport comes by a property: its own, added by the bus, or not at all. */
export interface Capabilities {
  /** What messages outlive: a process, the machine's power, nothing. */
  persist: 'process' | 'disk' | false
  delay: boolean
  priority: boolean
  dedup: boolean
  /** By key, with parallelism across keys. */
  order: boolean
  lease: boolean
  deadLetter: boolean
  fanout: boolean
  replay: boolean
  /** The largest body. */
  maxBytes: number
}

export interface ReceiveOptions {
  max: number
  /** The point of performance.now() up to which to wait; `Infinity` is for ever. */
  deadline: number
  signal: AbortSignal | undefined
}

export interface Transport {
  readonly capabilities: Capabilities
  declare(queue: string): Promise<void>
  /** All or nothing; resolves when the messages are as safe as `capabilities.persist` says. */
  send(queue: string, batch: readonly Outgoing[]): Promise<Receipt[]>
  /** Waits for the first, then takes what is there; none when the time is over. */
  receive(queue: string, options: ReceiveOptions): Promise<Delivery[]>
  /** False for each delivery that was no longer the consumer's: nothing was done with it. */
  settle(batch: readonly Settlement[]): Promise<boolean[]>
  stats(queue: string): Promise<TransportStats>
  /** Gives back what it holds. */
  close(): Promise<void>
}

/** The most messages in one batch: a transaction stays short. */
export const BUS_BATCH = 500
