import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Bridge, type BridgeConfig, type BridgeEvent, type BridgeOptions, bridge } from 'kernelmq/bridge'
import { type Bus, connect, type Message, type Queue } from 'kernelmq/bus'
import { onTestFinished } from 'vitest'
import { openBus, temporaryDirectory } from '../bus/support.ts'

/** A bus of the test's own, and its URL. */
export async function newLocal(): Promise<{ url: string; bus: Bus }> {
  const url = `local:${join(temporaryDirectory(), 'bus')}`
  return { url, bus: await openBus(url) }
}

export interface Started {
  readonly bridge: Bridge
  readonly events: BridgeEvent[]
  /** Resolves when there has been such an event. */
  seen(event: BridgeEvent['event'], end?: string): Promise<BridgeEvent>
}

/** A bridge that is closed when the test has ended, with short pauses between attempts. */
export async function startBridge(config: BridgeConfig, options: BridgeOptions = {}): Promise<Started> {
  const events: BridgeEvent[] = []
  const started = await bridge(
    { retry: { base: 5, cap: 20 }, ...config },
    { ...options, onEvent: (event) => events.push(event) },
  )
  onTestFinished(() => started.close({ patience: 0 }))
  const seen = async (event: BridgeEvent['event'], end?: string): Promise<BridgeEvent> => {
    const find = () =>
      events.find((one) => one.event === event && (end === undefined || ('end' in one && one.end === end)))
    await until(() => find() !== undefined)
    return find() as BridgeEvent
  }
  return { bridge: started, events, seen }
}

type SendMany = Queue['sendMany']

/** Opens buses; what is sent to queues of that at `url` goes through `send`. */
export function sendingBy(url: string, send: (real: SendMany, ...call: Parameters<SendMany>) => ReturnType<SendMany>) {
  return async (one: string): Promise<Bus> => {
    const bus = await connect(one)
    if (one !== url) return bus
    const open = bus.queue.bind(bus)
    const queue = (...of: Parameters<typeof open>) => {
      const opened = open(...of)
      const real: SendMany = opened.sendMany.bind(opened)
      return Object.assign(opened, { sendMany: (...call: Parameters<SendMany>) => send(real, ...call) })
    }
    return Object.assign(bus, { queue })
  }
}

/** Looks again and again; what never comes ends with the test. */
export async function until(isSo: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await isSo())) await sleep(5)
}

/** Receives so many messages, acknowledges each, and gives them back. */
export async function takeMessages(queue: Queue, count: number): Promise<Message[]> {
  const taken: Message[] = []
  while (taken.length < count) {
    const messages = await queue.receive({ max: count - taken.length })
    await Promise.all(messages.map((message) => message.ack()))
    taken.push(...messages)
  }
  return taken
}

export const isEmpty = async (queue: Queue): Promise<boolean> => {
  const { ready, leased, delayed, held } = await queue.stats()
  return ready + leased + delayed + held === 0
}
