// Where the messages of a route go.
import type { Bus, Queue } from '../bus/index.ts'
import { QueueError } from '../errors.ts'
import type { BusEndpoint } from './endpoint.ts'
import { unlessAborted } from './links.ts'
import type { Parcel } from './mapping.ts'

/** Headers for what the other side has no place for. */
const KEY = 'bridge-key'
const PRIORITY = 'bridge-priority'

export interface Sink {
  /**
   * Resolves when all are there, to how many were there before.
   *
   * @throws with `sent` if some are there: the first so many
   */
  send(parcels: readonly Parcel[], signal: AbortSignal): Promise<number>
}

export function toBus(bus: Bus, endpoint: BusEndpoint): Sink {
  const { order: ofQueues, fanout, priority, dedup, bounds } = bus.capabilities
  // An engine that finds the queues of a topic by itself knows nothing of partitions.
  const order = endpoint.kind === 'topic' && ofQueues === 'emulated' && fanout === 'native' ? false : ofQueues
  const fit = (parcel: Parcel): Parcel => {
    const lost = {
      ...(parcel.key !== undefined && order === false && { [KEY]: parcel.key }),
      ...(parcel.priority > 0 && priority === false && { [PRIORITY]: String(parcel.priority) }),
    }
    if (Object.keys(lost).length === 0) return parcel
    return {
      ...parcel,
      headers: { ...parcel.headers, ...lost },
      ...(order === false && { key: undefined }),
      ...(priority === false && { priority: 0 }),
    }
  }
  if (endpoint.kind === 'topic')
    return { send: (parcels, signal) => publish(bus, endpoint.topic, parcels.map(fit), signal) }
  const queue: Queue = bus.queue(endpoint.queue, { overflow: 'wait', ...(dedup === false && { dedup: 0 }) })
  return {
    async send(parcels, signal) {
      // The transport of an engine that is away may wait on, though it is told not to.
      const sending = unlessAborted(queue.sendMany(parcels.map(fit), { signal }), signal)
      const receipts = await (bounds !== false && parcels.length === 1 ? sending.catch(unlessTooLong) : sending)
      return receipts.filter(({ duplicate }) => duplicate).length
    },
  }
}

/** Who waits for room hears that it is full if one never has any; without a time, what is full is the server. */
function unlessTooLong(error: QueueError): never {
  const { code, path, retryAfter, message: detail } = error
  if (code !== 'ERR_BUS_QUEUE_FULL' || retryAfter === undefined) throw error
  const hint = 'the queue never holds so much (maxBytes)'
  throw Object.assign(new QueueError('EMSGSIZE', { syscall: 'send', path, detail, hint }), { cause: error })
}

async function publish(bus: Bus, name: string, parcels: readonly Parcel[], signal: AbortSignal): Promise<number> {
  const topic = bus.topic(name)
  for (const [sent, { body, ...options }] of parcels.entries()) {
    try {
      await unlessAborted(topic.publish(body, { ...options, signal }), signal)
    } catch (error) {
      throw Object.assign(error as Error, { sent })
    }
  }
  return 0
}
