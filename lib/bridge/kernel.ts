// A queue of the kernel as an end of a route: it may not be there yet, be removed, and come back.
import { fstatSync } from 'node:fs'
import {
  type PosixMessage,
  type PosixOutgoing,
  PosixQueue,
  QueueError,
  SysvMessage,
  type SysvOutgoing,
  SysvQueue,
} from '../index.ts'
import type { KernelEndpoint } from './endpoint.ts'
import type { Parcel } from './mapping.ts'
import type { Fount, Taking } from './source.ts'

/** What a bus has no place for: priorities above 255, types other than 1. */
const POSIX_PRIORITY = 'posix-priority'
const SYSV_TYPE = 'sysv-type'

/** Who waits at a POSIX queue is not told that it was unlinked: milliseconds between two looks. */
const LOOK = 1000

export class KernelQueue implements Fount {
  readonly #endpoint: KernelEndpoint
  readonly #access: 'read' | 'write'
  #queue: PosixQueue | SysvQueue | undefined

  constructor(endpoint: KernelEndpoint, access: 'read' | 'write') {
    this.#endpoint = endpoint
    this.#access = access
  }

  /** @throws {QueueError} ENOENT if it is not there */
  open(): PosixQueue | SysvQueue {
    if (this.#queue === undefined) {
      const endpoint = this.#endpoint
      this.#queue =
        endpoint.kind === 'posix'
          ? PosixQueue.open(endpoint.name, { access: this.#access })
          : SysvQueue.open(endpoint.key)
    }
    return this.#queue
  }

  /** How many messages wait in it; 0 if it is not there. */
  messages(): number {
    const queue = this.#queue
    try {
      return (queue instanceof SysvQueue ? queue.stat().messages : queue?.attributes.messages) ?? 0
    } catch {
      return 0
    }
  }

  /** The next failure has it opened anew. */
  async receive(max: number, signal: AbortSignal, put: (one: Taking) => boolean): Promise<void> {
    const queue = this.open()
    try {
      // A turn of the loop between taking and putting could be the last of this process: only waiting is asynchronous.
      let one = take(queue) ?? (await this.#wait(queue, signal))
      for (let room = max; one !== undefined && put(one) && --room > 0; ) one = take(queue)
    } catch (error) {
      this.close()
      throw error
    }
  }

  /** Resolves when there may be something; with a message only if the kernel cannot tell without handing it out. */
  async #wait(queue: PosixQueue | SysvQueue, signal: AbortSignal): Promise<Taking | undefined> {
    if (queue instanceof SysvQueue) return waitForSysv(queue, signal)
    await queue.waitReadable({ signal, timeout: LOOK }).catch(unlessCode('ETIMEDOUT'))
    this.#check(queue)
    return undefined
  }

  /**
   * Sends all, in order, and waits while it is full.
   *
   * @throws with `sent`, unless what was sent is gone with the queue
   */
  async send(parcels: readonly Parcel[], signal: AbortSignal): Promise<void> {
    const queue = this.open()
    try {
      if (queue instanceof SysvQueue) await sendSysv(queue, parcels.map(toSysv), signal)
      else await this.#sendPosix(queue, parcels.map(toPosix), signal)
    } catch (error) {
      const { code, name } = error as QueueError
      if (code !== 'EMSGSIZE' && name !== 'AbortError') this.close()
      throw error
    }
  }

  async #sendPosix(queue: PosixQueue, messages: readonly PosixOutgoing[], signal: AbortSignal): Promise<void> {
    let sent = 0
    const late = (error: QueueError): boolean => {
      sent += error.sent ?? 0
      error.sent = sent
      return error.code === 'ETIMEDOUT'
    }
    while (sent < messages.length) {
      try {
        await queue.sendMany(messages.slice(sent), { signal, timeout: LOOK })
        sent = messages.length
      } catch (error) {
        if (!late(error as QueueError)) throw error
      }
      this.#check(queue)
    }
  }

  /** Nobody else can find a queue that was unlinked, even if there is another of its name. */
  #check(queue: PosixQueue): void {
    if (fstatSync(queue.fd).nlink > 0) return
    throw new QueueError('ENOENT', { syscall: 'mq_open', path: queue.path, detail: 'it was unlinked' })
  }

  close(): void {
    void this.#queue?.close()
    this.#queue = undefined
  }
}

/** Of what no queue may hold System V says that it is invalid, and of what this one cannot hold that it is too long. */
async function sendSysv(queue: SysvQueue, messages: readonly SysvOutgoing[], signal: AbortSignal): Promise<void> {
  try {
    await queue.sendMany(messages, { signal })
  } catch (error) {
    const { code, syscall, message: detail, hint, sent } = error as QueueError
    if (code !== 'EINVAL') throw error
    throw Object.assign(new QueueError('EMSGSIZE', { syscall, detail, hint }), { sent })
  }
}

const take = (queue: PosixQueue | SysvQueue): Taking | undefined => {
  const message = queue.tryReceive()
  if (message === undefined) return undefined
  return message instanceof SysvMessage ? fromSysv(message) : fromPosix(message)
}

/** What is longer than nothing does not fit, and stays in the queue. */
async function waitForSysv(queue: SysvQueue, signal: AbortSignal): Promise<Taking | undefined> {
  const empty = await queue.receive({ size: 0, signal }).catch(unlessCode('E2BIG'))
  return empty && fromSysv(empty)
}

function unlessCode(code: string): (error: QueueError) => undefined {
  return (error) => {
    if (error.code !== code) throw error
  }
}

function fromPosix({ data, priority }: PosixMessage): Taking {
  if (priority <= 255) return { body: data, priority }
  return { body: data, priority: 255, headers: { [POSIX_PRIORITY]: String(priority) } }
}

const fromSysv = ({ data, type }: SysvMessage): Taking =>
  type === 1 ? { body: data } : { body: data, headers: { [SYSV_TYPE]: String(type) } }

function toPosix({ body, headers, priority }: Parcel): PosixOutgoing {
  const original = Number(headers?.[POSIX_PRIORITY])
  const isRight = Number.isInteger(original) && original >= 0 && original <= 32_767
  return { data: toData(body), priority: isRight ? original : priority }
}

function toSysv({ body, headers }: Parcel): SysvOutgoing {
  const text = headers?.[SYSV_TYPE] ?? ''
  const type = /^\d{1,19}$/.test(text) ? BigInt(text) : 0n
  return type > 0n && type < 2n ** 63n ? { data: toData(body), type } : { data: toData(body) }
}

const toData = (body: unknown): string | Uint8Array =>
  typeof body === 'string' || body instanceof Uint8Array ? body : JSON.stringify(body)
