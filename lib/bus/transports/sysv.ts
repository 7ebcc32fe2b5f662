// sysv:/directory: each queue is a System V message queue.
import type { QueueError } from '../../errors.ts'
import { SysvQueue } from '../../sysv.ts'
import type { Clock } from '../clock.ts'
import { Directory } from './kernel/directory.ts'
import { Kernel } from './kernel/kernel.ts'
import type { Handle } from './kernel/lane.ts'

/** The type of the lowest priority; the lowest type comes first. */
const LOWEST = 256

/** The lowest type there is: other programs may send with one beyond the lowest priority. */
const ANY = -(2n ** 63n - 1n)

const bytesOf = (packs: readonly Uint8Array[]) => packs.reduce((sum, pack) => sum + pack.byteLength, 0)

function toHandle(queue: SysvQueue): Handle {
  const { maxBytes } = queue.stat()
  const toMessage = ({ data, type }: { data: Buffer; type: number | bigint }) => ({
    bytes: data,
    priority: Math.max(LOWEST - Number(type), 0),
  })
  return {
    // One is written while another is read.
    size: Math.min(SysvQueue.limits().messageSize, maxBytes >> 1),
    trySend: (bytes, priority) => queue.trySend(bytes, { type: LOWEST - priority }),
    send: (bytes, priority, signal) => queue.send(bytes, { type: LOWEST - priority, signal }),
    tryReceive() {
      const message = queue.tryReceive({ type: ANY })
      return message === undefined ? undefined : toMessage(message)
    },
    receive: async (signal) => toMessage(await queue.receive({ type: ANY, signal })),
    mayFit: (packs) => bytesOf(packs) <= maxBytes,
    fits(packs) {
      const { bytes } = queue.stat()
      return bytes + bytesOf(packs) <= maxBytes
    },
    hold: (on) => void (on ? queue.ref() : queue.unref()),
    stats() {
      const { messages, bytes } = queue.stat()
      return { messages, bytes }
    },
    close: () => queue.close(),
  }
}

/** @param sizes of the queues that it makes: `maxBytes`; default: that of the kernel */
export function openSysv(
  path: string,
  sizes: Readonly<Record<string, number>>,
  clock: Clock,
  making: { mode: number; create: boolean },
): Kernel {
  const directory = new Directory(path, 'sysv', making)
  const { maxBytes } = sizes
  const open = (object: string, { create }: { create: boolean }) => {
    try {
      return toHandle(
        SysvQueue.open(object, { create, mode: directory.mode, ...(maxBytes !== undefined && { maxBytes }) }),
      )
    } catch (error) {
      if (!create && (error as QueueError).code === 'ENOENT') return undefined
      throw error
    }
  }
  return new Kernel(directory, open, clock)
}
