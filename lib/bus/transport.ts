// What the bus asks of a transport: a few methods, and a word on what it can do by itself. What it cannot do it refuses,
// by name.
import { QueueError } from '../errors.ts'

/** How a body was given, and is given back: bytes, a string, or a value in JSON. */
export type Format = 'bytes' | 'text' | 'json'

/** A message on its way in. */
export interface Outgoing {
  readonly id: string
  readonly body: Uint8Array
  readonly format: Format
  /** Refuse an id that was sent within the last so many milliseconds; 0 does not look. */
  readonly dedup: number
  readonly key: string | undefined
  /** 0 to 255, the highest first. */
  readonly priority: number
  /** When it may be received, in milliseconds since the epoch; 0 is at once. */
  readonly due: number
  /** When it is no longer wanted; 0 is never. */
  readonly expires: number
  readonly headers: Readonly<Record<string, string>> | undefined
}

/** A message and where it goes. */
export interface Addressed {
  readonly queue: string
  readonly message: Outgoing
}

export interface Receipt {
  id: string
  /** The id was sent before, and nothing was done. */
  duplicate: boolean
}

/** The highest priority of a message; the lowest is 0. */
export const MAX_PRIORITY = 255

/** Characters of an id or a key, at most; it has one at least. */
export const MAX_NAME = 512

/** What the names of headers begin with that are the bus's own: no user gives one such a name, or sees it. */
export const OWN_HEADER = 'kmq-'

/** Those that a user has given, or is to see. */
export function withoutOwn(headers: Readonly<Record<string, string>>): Readonly<Record<string, string>> {
  for (const name in headers) {
    if (!name.startsWith(OWN_HEADER)) continue
    return Object.fromEntries(Object.entries(headers).filter(([one]) => !one.startsWith(OWN_HEADER)))
  }
  return headers
}

export const NO_HEADERS: Readonly<Record<string, string>> = Object.freeze({})

/** A message in the hands of one consumer; `token` is what settling it needs. */
export interface Delivery {
  readonly token: unknown
  readonly id: string
  readonly body: Uint8Array
  readonly format: Format
  readonly key: string | undefined
  readonly priority: number
  readonly headers: Readonly<Record<string, string>>
  /** In milliseconds since the epoch. */
  readonly sentAt: number
  /** How often it was handed out before and came back by a retry. */
  readonly attempts: number
  /** How often it was lost with a consumer that had begun it. */
  readonly losses: number
  /** It was lost before: say so when its handler begins, so that the next loss is known to be its own. */
  readonly suspect: boolean
  /** Of a lease with a limit, in milliseconds since the epoch: when its handler begins later, say so, too. */
  readonly leasedAt?: number | undefined
  /** Why the body cannot be had. */
  readonly damage: Error | undefined
}

export type Settlement =
  /** Done; what is sent goes out in the same transaction. */
  | { readonly token: unknown; readonly outcome: 'ack'; readonly send?: readonly Addressed[] }
  /** To be received again from `due` on. An attempt that never began is not counted. */
  | { readonly token: unknown; readonly outcome: 'retry'; readonly due: number; readonly counted: boolean }
  /** Moves to another queue, with these headers. */
  | {
      readonly token: unknown
      readonly outcome: 'dead'
      readonly queue: string
      readonly headers: Readonly<Record<string, string>>
    }
  /** Not settled yet: its handler begins. */
  | { readonly token: unknown; readonly outcome: 'begin' }
  /** Not settled yet: the limit of its lease is `until`. */
  | { readonly token: unknown; readonly outcome: 'extend'; readonly until: number }

/** What a queue may hold; 0 is no bound. */
export interface Bounds {
  maxMessages: number
  maxBytes: number
}

/** How much of what was acknowledged a queue keeps; 0 is no bound, and with neither it keeps nothing. */
export interface Keep {
  maxMessages: number
  /** Milliseconds. */
  maxAge: number
}

/** What the queues of a namespace may hold together, dead letters included, and how many they may be; 0 is no bound. */
export interface Quota extends Bounds {
  maxQueues: number
}

/** What the queues of a namespace hold together. */
export interface Usage {
  readonly messages: number
  /** Bytes of their bodies. */
  readonly bytes: number
  /** Queues; those of dead letters do not count. */
  readonly queues: number
  readonly quota: Readonly<Quota>
}

/** What a send does that would go beyond the bounds of its queue. */
export type Overflow = 'reject' | 'wait' | 'drop-oldest'

export interface SendOptions {
  overflow: Overflow
  /** Resolve only when it is on the disk. */
  disk: boolean
  signal: AbortSignal | undefined
}

export interface TransportStats {
  /** Can be received now. */
  ready: number
  /** In the hands of consumers. */
  leased: number
  /** Not due yet. */
  delayed: number
  /** Behind another of their key. */
  held: number
  /** Bytes of the bodies of all of these. */
  bytes: number
  /** When the first of those that are ready was sent, in milliseconds since the epoch. */
  oldest: number | undefined
}

/** How a transport comes by a property: by itself, by what the bus adds, or not at all. */
export type Capability = 'native' | 'emulated' | false

export interface Capabilities {
  /** What messages outlive at most, waiting or in the hands of a consumer: processes, the power of the machine, nothing. */
  readonly persist: 'process' | 'disk' | false
  readonly delay: Capability
  readonly priority: Capability
  readonly dedup: Capability
  /** By key, with parallelism across keys. */
  readonly order: Capability
  /** Of an `order` that is emulated: into how many partitions the keys are hashed, with one active consumer each. */
  readonly partitions?: number
  /** What ends a lease: the death of its holder, a timer. */
  readonly lease: 'alive' | 'timer' | false
  readonly deadLetter: Capability
  /** Settling and sending in one. */
  readonly transaction: Capability
  readonly browse: Capability
  /** One message to many queues. */
  readonly fanout: Capability
  /** What was acknowledged is kept, and can be sent again. */
  readonly replay: Capability
  /** Consumers that take nothing until so much is there. */
  readonly start: Capability
  /** Bounds of many queues together. */
  readonly quotas: Capability
  /** Queues with a `maxMessages` or `maxBytes` of their own. */
  readonly bounds: Capability
  /** Things other than messages that it keeps: schedules, results of `once()`. */
  readonly records: Capability
  /** The largest body, in bytes. */
  readonly maxBytes: number
}

export interface ReceiveOptions {
  max: number
  /** The point of performance.now() up to which to wait; `Infinity` is for ever. */
  deadline: number
  signal: AbortSignal | undefined
  /** Milliseconds after which what was not settled is taken away; `Infinity` is never, while the process lives. */
  lease: number
  /** What has to be there before anything is taken. */
  start?: Start | undefined
  /** It does not hold the process. */
  background?: boolean | undefined
  /** More than `max` are welcome, if they came together and would be nobody else's. */
  together: boolean
}

/** So many messages, of at least this priority, that can be received. */
export interface Start {
  readonly messages: number
  readonly priority: number
}

/** A way into a queue without a receipt for each message. */
export interface Outlet {
  /** In the queue soon, after all that was posted before; false if the caller should wait for {@link flush}. */
  post(message: Outgoing): boolean
  /** The same of a body alone, faster than with what else a message has. */
  postBody?(body: unknown): boolean
  /** Resolves when all that was posted is in the queue; rejects with what first went wrong since it was called last. */
  flush(): Promise<void>
}

export interface Transport {
  readonly capabilities: Capabilities
  /** What a send to a full queue does, unless the queue has it otherwise. */
  readonly overflow: Overflow
  declare(queue: string, bounds?: Bounds, keep?: Keep): Promise<void>
  /** Sets the quota of a namespace, if one is given, for all who use it. */
  allot(namespace: string, quota?: Quota): Promise<Usage>
  /** All or nothing. */
  send(batch: readonly Addressed[], options: SendOptions): Promise<Receipt[]>
  /** If it has something better than {@link send}. */
  outlet?(queue: string): Outlet
  /** Waits for the first, then takes what is there; none when the time is over. */
  receive(queue: string, options: ReceiveOptions): Promise<Delivery[]>
  /** Each by itself; false for each delivery that was no longer the consumer's: nothing was done with it. */
  settle(batch: readonly Settlement[]): Promise<boolean[]>
  /** Whether one waits for an answer of its own, and would hold up the others of its batch. */
  isApart?(settlement: Settlement): boolean
  /** The bus is being closed: what cannot be settled is tried once more, at most. */
  end?(): void
  stats(queue: string): Promise<TransportStats>
  /** The names of all queues that there are. */
  queues(): Promise<string[]>
  /** What is in a queue, without taking it; from the place where the last page ended. */
  browse(queue: string, options: { max: number; after: string | undefined }): Promise<Page>
  /** What a queue keeps of what was acknowledged, in that order, up to the place `until`. */
  history(
    queue: string,
    options: { max: number; after: string | undefined; until: string | undefined },
  ): Promise<PastPage>
  /** Has what is published to topics of a pattern, with these headers, sent to a queue. */
  bind(binding: Binding): Promise<void>
  unbind(binding: Binding): Promise<void>
  /** Sends to every queue that is bound, all or none; these, undefined for one of which the name is not known. */
  publish(topic: string, message: Outgoing, options: SendOptions): Promise<readonly (string | undefined)[]>
  /** Makes a queue that goes with this process, with a prefix in that of a namespace; its name. */
  borrow(prefix?: string): Promise<string>
  /** Removes a queue, and all that is in it and bound to it. */
  drop(queue: string): Promise<void>
  /** What was put under keys that begin so, by key. */
  entries(prefix: string): Promise<[key: string, value: string][]>
  /** Puts a value under a key, or removes it, and sends, both or neither. */
  put(key: string, value: string | undefined, options?: PutOptions): Promise<void>
  /** Gives back what it holds. */
  close(): Promise<void>
}

export interface PutOptions {
  readonly send?: readonly Addressed[]
  /** When it may be forgotten, in milliseconds since the epoch; 0 is never. */
  readonly until?: number
}

export interface Binding {
  /** Words between dots; `*` is one word, `#` any number of them. */
  readonly pattern: string
  readonly queue: string
  /** What headers have to be there. */
  readonly headers: Readonly<Record<string, string>>
}

/** What the names of queues begin with that go with their process. */
export const BORROWED = 'borrowed/'

/** What the names of queues and topics begin with that belong to a namespace. No other name has this sign. */
export const prefixOf = (namespace: string): string => `@${namespace}/`

/** The namespace that a queue belongs to, by its name. */
export const namespaceOf = (queue: string): string | undefined => NAMESPACE.exec(queue)?.[1]

const NAMESPACE = new RegExp(`^(?:${BORROWED})?@([^/]+)/`)

export interface Page {
  deliveries: Delivery[]
  /** Where the next page begins; undefined if there is none. */
  next: string | undefined
}

/** A message that was acknowledged. */
export interface Past extends Delivery {
  /** In milliseconds since the epoch. */
  readonly acknowledgedAt: number
}

export interface PastPage {
  deliveries: Past[]
  next: string | undefined
  /** The place of the last there is now. */
  last: string
}

/** What a transport can neither do nor emulate. */
export function unsupported(capability: keyof Capabilities, call: string): QueueError {
  const hint = 'the capabilities of a bus say what its transport can do; local: can do all'
  return new QueueError('ERR_BUS_UNSUPPORTED', { syscall: call, detail: `it has no "${capability}"`, hint })
}

export function demand({ capabilities }: Transport, capability: keyof Capabilities, call: string): void {
  if (capabilities[capability] === false) throw unsupported(capability, call)
}

/** There is no bus, and none is to be made. */
export function notFound(path: string, hint: string): QueueError {
  return new QueueError('ERR_BUS_NOT_FOUND', { syscall: 'connect', path, hint })
}

/** What most transports have not: each refuses it until it has it. */
export abstract class Refusals {
  async allot(_namespace: string, _quota?: Quota): Promise<Usage> {
    throw unsupported('quotas', 'namespace')
  }

  async browse(_queue: string, _options: { max: number; after: string | undefined }): Promise<Page> {
    throw unsupported('browse', 'browse')
  }

  async history(
    _queue: string,
    _options: { max: number; after: string | undefined; until: string | undefined },
  ): Promise<PastPage> {
    throw unsupported('replay', 'history')
  }

  async entries(_prefix: string): Promise<[key: string, value: string][]> {
    throw unsupported('records', 'entries')
  }

  async put(_key: string, _value: string | undefined, _options?: PutOptions): Promise<void> {
    throw unsupported('records', 'put')
  }
}

/** The most messages in one batch: a transaction stays short. */
export const BUS_BATCH = 500
