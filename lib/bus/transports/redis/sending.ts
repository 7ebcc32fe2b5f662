// Sends: what is sent in one turn of the loop goes together, in one script; who has to waits for room.
import { checkInteger, QueueError } from '../../../errors.ts'
import { checkSignal, Waiter } from '../../../waiting.ts'
import { type Addressed, BUS_BATCH, type Outgoing, type Receipt, type SendOptions } from '../../transport.ts'
import type { Hold } from '../engine/hold.ts'
import type { Calls } from './calls.ts'
import type { Args } from './connection.ts'
import { pack } from './entry.ts'

/**
 * Messages and bytes in one script; more go in several, unless they have to go together: one is made while the server is
 * at another.
 */
const MANY = 100
const PLENTY = 2 ** 22

/** When room may be expected: milliseconds. */
const RETRY_AFTER = 1000

/** Milliseconds after which who waits for room looks by himself: nobody tells him of a queue that was removed by hand. */
const LOOK = 5000

/** A send that goes with the others of its turn. */
interface Sending {
  readonly batch: readonly Addressed[]
  readonly overflow: SendOptions['overflow']
  readonly bytes: number
  readonly resolve: (receipts: Receipt[]) => void
  readonly reject: (error: unknown) => void
}

/** Of ERR_BUS_QUEUE_FULL: there will never be room for so much. */
type Full = QueueError & { never?: boolean }

export class Sender {
  readonly #calls: Calls
  readonly #hold: Hold
  #sendings: Sending[] = []
  /** Who waits for room, by queue. */
  readonly #rooms = new Map<string, Set<() => void>>()
  /** How often there was word of room; how often there had been when the last came, by queue. */
  #words = 0
  readonly #heard = new Map<string, number>()

  constructor(calls: Calls, hold: Hold) {
    this.#calls = calls
    this.#hold = hold
  }

  async send(batch: readonly Addressed[], { overflow, signal }: SendOptions): Promise<Receipt[]> {
    checkInteger('number of messages', batch.length, 1, BUS_BATCH)
    checkSignal(signal)
    for (;;) {
      const words = this.#words
      try {
        return await this.#gather(batch, overflow)
      } catch (error) {
        const { code, path = '' } = error as QueueError
        if (overflow !== 'wait' || code !== 'ERR_BUS_QUEUE_FULL' || (error as Full).never !== false) throw error
        await this.#room(path, signal, words)
      }
    }
  }

  /** With what else is sent in this turn of the loop. */
  #gather(batch: readonly Addressed[], overflow: SendOptions['overflow']): Promise<Receipt[]> {
    this.#calls.check('send')
    const bytes = batch.reduce((sum, { message }) => sum + message.body.byteLength, 0)
    return new Promise((resolve, reject) => {
      this.#sendings.push({ batch, overflow, bytes, resolve, reject })
      if (this.#sendings.length === 1) queueMicrotask(() => this.flush())
    })
  }

  flush(): void {
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
    const reply = await this.#calls.run<Reply>('send', 'send', overflow, ...sendArgs(groups, this.#calls.clock.now()))
    const receipts = batch.map(({ message: { id } }) => ({ id, duplicate: false }))
    const duplicates = duplicatesOf(reply)
    if (duplicates.length > 0) {
      const places = [...groups.values()].flat()
      for (const n of duplicates) (receipts[(places[Number(n)] as Place).at] as Receipt).duplicate = true
    }
    return receipts
  }

  /** Resolves when something may have been taken out of a queue. */
  async #room(queue: string, signal: AbortSignal | undefined, words: number): Promise<void> {
    const { connection, prefix } = this.#calls
    const channel = `${prefix}room:${queue}`
    if (!connection.hears(channel)) {
      await connection.listen(channel, {})
      // There may have come room before anybody listened.
      return
    }
    checkSignal(signal)
    // The word came before the answer that it was full.
    if ((this.#heard.get(queue) ?? 0) > words) return
    const waiter = new Waiter<void>(performance.now() + LOOK, signal, (ended, reason) => {
      if (reason === 'timeout') ended.resolve()
      else ended.reject(reason)
    })
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
    this.#calls.check('send')
  }

  /** There may be room in a queue. */
  ring(queue: string): void {
    this.#heard.set(queue, ++this.#words)
    for (const tell of this.#rooms.get(queue) ?? []) tell()
  }

  ringAll(): void {
    for (const queue of this.#rooms.keys()) this.ring(queue)
  }
}

/** What the scripts answer to those who send. */
export type Reply = (number | Buffer)[]

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

/** What the scripts need to send a batch. */
export const argsOf = (batch: readonly Addressed[], now: number): Args => sendArgs(groupsOf(batch), now)

function sendArgs(groups: ReadonlyMap<string, readonly Place[]>, now: number): Args {
  const args: (string | number | Buffer)[] = [groups.size]
  for (const [queue, places] of groups) {
    const messages = places.map(({ message }) => message)
    const flags = messages.some(isSpecial) ? messages.map(flagsOf) : []
    const { bytes, packed } = pack(messages, now)
    args.push(queue, bytes, messages.length, flags.join('\n'), packed)
  }
  return args
}

/** Whether the script has to know more of a message than that it is there. */
const isSpecial = ({ dedup, key, priority, due }: Outgoing): boolean =>
  dedup > 0 || key !== undefined || priority > 0 || due > 0

function flagsOf({ id, body, dedup, key, priority, due }: Outgoing): string {
  const double = dedup > 0 ? { i: id, w: dedup, b: body.byteLength } : {}
  return JSON.stringify({ ...double, k: key, p: priority, d: due > 0 ? due : undefined })
}

/** Which of what was sent, by their places in the groups, were duplicates. */
export function duplicatesOf([state, ...rest]: Reply): Reply {
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
