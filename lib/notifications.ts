// mq_notify(3) without a thread: the kernel writes to a netlink socket when a
// message comes to the empty queue. This is how libc's SIGEV_THREAD works inside.
import { native } from './native.ts'
import { Readiness, type ReadinessErrors } from './readiness.ts'
import type { Waiter } from './waiting.ts'

const SIGEV_THREAD = 2
const NOTIFY_WOKENUP = 1
const EAGAIN = -11

/** A registration that renews itself. */
export class Registration {
  #queue: number
  #socket: number
  readonly #errors: ReadinessErrors
  /** Waiting on the socket. */
  readonly readiness: Readiness
  #first = true

  /** @throws what `errors.failure` makes of EBADF, EBUSY and others */
  constructor(queue: number, errors: ReadinessErrors) {
    this.#queue = queue
    this.#errors = errors
    const descriptor = new native.Descriptor()
    this.#socket = descriptor.notifySocket()
    if (this.#socket < 0) throw errors.failure('read', this.#socket)
    this.readiness = new Readiness(descriptor, errors)
    try {
      this.#arm()
    } catch (error) {
      this.readiness.close()
      throw error
    }
  }

  #arm(): void {
    const errno = native.notify(this.#queue, SIGEV_THREAD, this.#socket)
    if (errno < 0) throw this.#errors.failure('read', errno)
  }

  /** True if messages came, undefined if none did. */
  #take(): true | undefined {
    // Messages that were there before cause no event, now or later.
    let arrived = this.#first && this.#hasMessages()
    this.#first = false
    for (let event = this.#read(); event !== EAGAIN; event = this.#read()) {
      // One shot: it is renewed before anybody drains the queue, so that what
      // comes during that is heard of. Closing any descriptor of the queue in
      // this process drops it too, and what came since is not heard of.
      this.#arm()
      arrived ||= event === NOTIFY_WOKENUP || this.#hasMessages()
    }
    return arrived || undefined
  }

  #read(): number {
    const event = native.notifyRead(this.#socket)
    if (event < 0 && event !== EAGAIN) throw this.#errors.failure('read', event)
    return event
  }

  #hasMessages(): boolean {
    const attributes = native.getSetAttributes(this.#queue)
    return typeof attributes !== 'number' && attributes.curmsgs > 0
  }

  next(deadline: number, signal: AbortSignal | undefined): true | Waiter<true> {
    const now = this.readiness.admit('read') ? this.#take() : undefined
    return now ?? this.readiness.wait('read', () => this.#take(), deadline, signal)
  }

  close(): void {
    native.notify(this.#queue)
    this.readiness.close()
    this.#queue = this.#socket = -1 // the numbers may be somebody else's by now
  }
}
