// A bridge: routes from queues to queues, of any bus and of the kernel.

import { SCHEMES } from '../bus/bus.ts'
import { type Bus, connect as connectBus } from '../bus/index.ts'
import { checkInteger, checkOptions, QueueError } from '../errors.ts'
import { type BridgeConfig, type Plan, planOf, type Route } from './config.ts'
import type { BridgeEvent } from './counters.ts'
import { inTime, Links } from './links.ts'
import { type Measured, toText } from './metrics.ts'
import { outboxUrl, type RouteStatus, Runner } from './runner.ts'
import { type Answer, HealthServer, type Place } from './server.ts'

export interface BridgeOptions {
  /**
   * Opens the bus at a URL; that of the outbox, too. The bridge closes it. Default: `connect(url, { durability })`
   * with that of the configuration, which counts only then.
   */
  connect?: ((url: string) => Promise<Bus>) | undefined
  /** Told when an end of a route begins or ceases to work, and of messages that cannot be sent. */
  onEvent?: ((event: BridgeEvent) => void) | undefined
}

/** What {@link Bridge.reload} has done, by the names of the routes. */
export interface Reloaded {
  readonly kept: string[]
  readonly started: string[]
  readonly stopped: string[]
}

/** Milliseconds that a bus has to tell its figures. */
const PATIENCE = 2000

/** Milliseconds that what is in hand has to be sent. */
const DRAIN = 10_000

/**
 * Begins to carry messages. It resolves when the routes run: an end that is not there is tried again, with a backoff.
 *
 * @throws {ConfigError}, with `at`, where in the configuration something is wrong; {QueueError} the outbox cannot be
 * opened; the error of the system if it cannot listen where it should
 */
export async function bridge(config: BridgeConfig, options: BridgeOptions = {}): Promise<Bridge> {
  checkOptions(options)
  const made = new Bridge(options)
  try {
    await made.reload(config)
  } catch (error) {
    await made.close()
    throw error
  }
  return made
}

/**
 * Throws if something is wrong with a configuration; does nothing else.
 *
 * @throws {ConfigError}
 */
export function checkConfig(config: BridgeConfig): void {
  planOf(config, SCHEMES)
}

export class Bridge {
  readonly #onEvent: ((event: BridgeEvent) => void) | undefined
  readonly #links: Links
  #durability: Plan['durability'] = 'process'
  #plan: Plan | undefined
  #runners = new Map<string, Runner>()
  #server: HealthServer | undefined
  /** One change after the other. */
  #changing: Promise<unknown> = Promise.resolve()
  readonly #over = new AbortController()
  /** It holds its process, whatever the transports do while they wait. */
  readonly #hold = setInterval(() => {}, 2 ** 30)
  #closed: Promise<void> | undefined

  /** @internal */
  constructor({ connect, onEvent }: BridgeOptions) {
    this.#onEvent = onEvent
    this.#links = new Links(connect ?? ((url) => connectBus(url, { durability: this.#durability })))
  }

  /** How each route is. */
  get routes(): RouteStatus[] {
    return [...this.#runners.values()].map(({ status }) => status)
  }

  /** Where it answers; undefined without `listen`. */
  get url(): string | undefined {
    return this.#server?.url
  }

  /**
   * Goes on with another configuration: routes that are the same are left alone, the others end as with
   * {@link close}, and begin. If something is wrong with it nothing changes.
   *
   * @throws as {@link bridge}; ERR_MQ_CLOSED
   */
  reload(config: BridgeConfig): Promise<Reloaded> {
    const reloading = this.#changing.then(() => this.#reload(config))
    this.#changing = reloading.catch(() => {})
    return reloading
  }

  async #reload(config: BridgeConfig): Promise<Reloaded> {
    if (this.#closed !== undefined) throw new QueueError('ERR_MQ_CLOSED', { syscall: 'reload' })
    const plan = planOf(config, SCHEMES)
    const before = this.#plan
    if (before !== undefined && before.durability !== plan.durability) {
      throw Object.assign(new TypeError('The "durability" of a bridge that runs cannot change'), { at: 'durability' })
    }
    this.#durability = plan.durability
    try {
      for (const { outbox } of plan.routes) {
        if (outbox !== undefined) await this.#links.use(outboxUrl(outbox), this.#over.signal)
      }
      await this.#listen(plan)
    } catch (error) {
      // Outboxes that were opened for nothing.
      await this.#links.keep(new Set(before?.routes.flatMap(Runner.urlsOf)))
      throw error
    }
    this.#plan = plan
    return this.#change(plan.routes)
  }

  async #listen({ listen }: Plan): Promise<void> {
    const before = this.#server
    const isSame = JSON.stringify(listen) === JSON.stringify(this.#plan?.listen)
    // One that is missing could not be had again when another was refused.
    if (isSame && (before === undefined) === (listen === undefined)) return
    let server: HealthServer | undefined
    try {
      server = listen && (await this.#serve(listen))
    } catch (error) {
      const isTaken = (error as NodeJS.ErrnoException).code === 'EADDRINUSE'
      if (!isTaken || listen === undefined || before?.place.port !== listen.port) throw error
      server = await this.#replace(before, listen)
    }
    before?.close()
    this.#server = server
  }

  /** The old one may be in the way of the new one. If that cannot be had all the same, the old one is there again. */
  async #replace(before: HealthServer, place: Place): Promise<HealthServer> {
    const old = before.place
    before.close()
    try {
      return await this.#serve(place)
    } catch (error) {
      this.#server = undefined
      this.#server = await this.#serve(old)
      throw error
    }
  }

  #serve(place: Place): Promise<HealthServer> {
    return HealthServer.start(place, {
      '/healthz': async () => ({ status: 200, text: 'ok\n' }),
      '/readyz': async () => this.#readiness(),
      '/metrics': async () => ({ status: 200, text: await this.metrics() }),
    })
  }

  async #change(routes: readonly Route[]): Promise<Reloaded> {
    const wanted = new Map(routes.map((route) => [JSON.stringify(route), route]))
    const kept = [...this.#runners].filter(([text]) => wanted.has(text))
    const stopped = [...this.#runners].filter(([text]) => !wanted.has(text))
    await Promise.all(stopped.map(([, runner]) => runner.stop(DRAIN)))
    const started = [...wanted]
      .filter(([text]) => !this.#runners.has(text))
      .map(([text, route]) => [text, new Runner(route, this.#links, (event) => this.#tell(event))] as const)
    this.#runners = new Map([...kept, ...started])
    await this.#links.keep(new Set(routes.flatMap(Runner.urlsOf)))
    const names = (runners: readonly (readonly [string, Runner])[]) => runners.map(([, { route }]) => route.name)
    return { kept: names(kept), started: names(started), stopped: names(stopped) }
  }

  #tell(event: BridgeEvent): void {
    try {
      this.#onEvent?.(event)
    } catch (error) {
      // What a listener throws is no matter of the route that it hears of.
      process.nextTick(() => {
        throw error
      })
    }
  }

  #readiness(): Answer {
    const down = this.routes.filter(({ up }) => !up)
    if (down.length === 0) return { status: 200, text: 'ready\n' }
    const lines = down.map(({ name, errors }) => {
      const wrong = Object.entries(errors).map(([end, { message }]) => `${end}: ${message}`)
      return `${name}: ${wrong.length === 0 ? 'not connected yet' : wrong.join('; ')}\n`
    })
    return { status: 503, text: lines.join('') }
  }

  /** Counters and lag of the routes, and the metrics of all buses, as Prometheus reads them. */
  async metrics(): Promise<string> {
    const now = Date.now()
    const routes = [...this.#runners.values()].map(async (runner): Promise<Measured> => {
      const lag = await inTime(runner.lag(now), PATIENCE)
      return { status: runner.status, lag }
    })
    const buses = this.#links.connected.map(async ([url, bus]) => [url, await inTime(bus.metrics(), PATIENCE)] as const)
    const told = await Promise.all(buses)
    const known = told.filter((one): one is readonly [string, string] => one[1] !== undefined)
    return toText(await Promise.all(routes), known)
  }

  /**
   * Takes no more, sends what is in hand, or gives it back when that takes more than `patience` milliseconds (10000), and
   * lets go. Idempotent.
   */
  close({ patience = DRAIN }: { patience?: number } = {}): Promise<void> {
    checkInteger('"patience" option', patience, 0, 2 ** 31 - 1)
    this.#closed ??= this.#close(patience)
    return this.#closed
  }

  async #close(patience: number): Promise<void> {
    this.#over.abort()
    await this.#changing
    await Promise.all([...this.#runners.values()].map((runner) => runner.stop(patience)))
    await this.#links.keep(new Set())
    this.#server?.close()
    clearInterval(this.#hold)
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}
