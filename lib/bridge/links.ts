// The buses of a bridge: one for each URL, whatever the number of routes that use it.
import type { Bus } from '../bus/index.ts'
import { AbortError } from '../index.ts'

/** Milliseconds that a bus has to close, and a route to end when there is no time left to send. */
export const GRACE = 1000

interface Link {
  readonly connecting: Promise<Bus>
  bus: Bus | undefined
}

export class Links {
  readonly #connect: (url: string) => Promise<Bus>
  readonly #links = new Map<string, Link>()

  constructor(connect: (url: string) => Promise<Bus>) {
    this.#connect = connect
  }

  /** The bus at a URL; connects if nobody has. Aborting gives up waiting for it. */
  async use(url: string, signal: AbortSignal): Promise<Bus> {
    if (signal.aborted) throw new AbortError(signal.reason)
    const link = this.#links.get(url) ?? this.#open(url)
    if (link.bus !== undefined) return link.bus
    return unlessAborted(link.connecting, signal)
  }

  #open(url: string): Link {
    const link: Link = { connecting: this.#connect(url), bus: undefined }
    this.#links.set(url, link)
    link.connecting.then(
      (bus) => {
        link.bus = bus
      },
      () => this.#forget(url, link),
    )
    return link
  }

  #forget(url: string, link: Link): void {
    if (this.#links.get(url) === link) this.#links.delete(url)
  }

  /** Those that are connected. */
  get connected(): [url: string, bus: Bus][] {
    return [...this.#links].flatMap(([url, { bus }]) => (bus === undefined ? [] : [[url, bus] as [string, Bus]]))
  }

  /** Closes those that are not needed any more; one that does not even connect is not waited for, others for a while. */
  async keep(needed: ReadonlySet<string>): Promise<void> {
    const left = [...this.#links].filter(([url]) => !needed.has(url))
    for (const [url, link] of left) this.#forget(url, link)
    const closing = left.map(([, { bus, connecting }]) => {
      const closed = bus?.close() ?? connecting.then((late) => late.close())
      closed.catch(() => {})
      return bus === undefined ? undefined : inTime(closed, GRACE)
    })
    await Promise.all(closing)
  }
}

/** Rejects when the signal is aborted, whatever becomes of the promise. */
export async function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  let leave = () => {}
  const aborted = new Promise<never>((_, reject) => {
    leave = () => reject(new AbortError(signal.reason))
    if (signal.aborted) leave()
    signal.addEventListener('abort', leave)
  })
  return Promise.race([promise, aborted]).finally(() => signal.removeEventListener('abort', leave))
}

/** Undefined if it fails, or takes more milliseconds: what is down must not keep others waiting. */
export function inTime<T>(promise: Promise<T>, milliseconds: number): Promise<T | undefined> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<undefined>((resolve) => {
    timer = setTimeout(resolve, milliseconds, undefined)
  })
  return Promise.race([promise.catch(() => undefined), late]).finally(() => clearTimeout(timer))
}
