// A queue of the kernel that is made again when somebody has removed it.
import { isClosed, outOfRange, QueueError } from '../../../errors.ts'
import type { Handle, KernelMessage } from './lane.ts'

/** Milliseconds between two looks whether a queue is still the one that has its name, of which the kernel tells nobody. */
const LOOK = 1000

export class Lasting implements Handle {
  /** Packs are made for it: one that is made again has to take them. */
  readonly size: number
  #handle: Handle
  /** Makes it again; undefined if that is not to be. */
  readonly #make: () => Handle | undefined
  /** It was removed, and is not made again yet; its handle is closed. */
  #loss: unknown
  #holds = true
  readonly #timer: NodeJS.Timeout | undefined

  constructor(handle: Handle, make: () => Handle | undefined) {
    this.#handle = handle
    this.#make = make
    this.size = handle.size
    if (handle.checkIsThere !== undefined) this.#timer = Lasting.#watch(new WeakRef(this))
  }

  /** It does not keep it: a bus that is dropped without being closed is collected, and closes its descriptors. */
  static #watch(watched: WeakRef<Lasting>): NodeJS.Timeout {
    const timer = setInterval(() => {
      const lasting = watched.deref()
      if (lasting === undefined) clearInterval(timer)
      else lasting.#look()
    }, LOOK).unref()
    return timer
  }

  #look(): void {
    if (this.#loss !== undefined) return
    try {
      this.#handle.checkIsThere?.()
    } catch (error) {
      // Who waits, and who comes next, makes it again; it takes no room meanwhile.
      this.#loss = error
      void this.#handle.close()
    }
  }

  /** Throws the error, unless what has failed may be tried again. */
  #renew(handle: Handle, error: unknown): void {
    const isGone = (error as QueueError).code === 'EIDRM'
    if (!isGone && !isClosed(error)) throw error
    // While this was on its way it was made again.
    if (handle !== this.#handle) return
    const loss = isGone ? error : this.#loss
    if (loss === undefined) throw error
    const fresh = this.#remake(loss as QueueError)
    if (!this.#holds) fresh.hold(false)
    this.#handle = fresh
    this.#loss = undefined
    void handle.close()
  }

  /** Throws what was lost; each caller has an error of his own. */
  #remake({ syscall, path, id }: QueueError): Handle {
    const gone = new QueueError('EIDRM', { syscall, path, id })
    let fresh: Handle | undefined
    try {
      fresh = this.#make()
    } catch (cause) {
      throw Object.assign(gone, { cause })
    }
    if (fresh === undefined) throw gone
    if (fresh.size >= this.size) return fresh
    void fresh.close()
    const what = 'size of messages of the queue that somebody has made in its place'
    throw Object.assign(gone, { cause: outOfRange(what, `at least ${this.size} bytes`, fresh.size) })
  }

  #do<T>(work: (handle: Handle) => T): T {
    for (;;) {
      const handle = this.#handle
      try {
        return work(handle)
      } catch (error) {
        this.#renew(handle, error)
      }
    }
  }

  async #wait<T>(work: (handle: Handle) => Promise<T>): Promise<T> {
    for (;;) {
      const handle = this.#handle
      try {
        return await work(handle)
      } catch (error) {
        this.#renew(handle, error)
      }
    }
  }

  trySend(bytes: Uint8Array, priority: number): boolean {
    return this.#do((handle) => handle.trySend(bytes, priority))
  }

  send(bytes: Uint8Array, priority: number, signal: AbortSignal): Promise<void> {
    return this.#wait((handle) => handle.send(bytes, priority, signal))
  }

  tryReceive(): KernelMessage | undefined {
    return this.#do((handle) => handle.tryReceive())
  }

  receive(signal: AbortSignal): Promise<KernelMessage> {
    return this.#wait((handle) => handle.receive(signal))
  }

  fits(packs: readonly Uint8Array[]): boolean {
    return this.#do((handle) => handle.fits(packs))
  }

  mayFit(packs: readonly Uint8Array[]): boolean {
    return this.#do((handle) => handle.mayFit(packs))
  }

  stats(): { messages: number; bytes: number } {
    return this.#do((handle) => handle.stats())
  }

  hold(on: boolean): void {
    this.#holds = on
    this.#handle.hold(on)
  }

  close(): Promise<void> {
    clearInterval(this.#timer)
    return this.#handle.close()
  }
}
