// mq:/directory: each queue is a POSIX message queue.
import { fchmodSync, fstatSync, readSync } from 'node:fs'
import { QueueError } from '../../errors.ts'
import { PosixQueue } from '../../posix.ts'
import type { Clock } from '../clock.ts'
import { MAX_PRIORITY } from '../transport.ts'
import { Directory } from './kernel/directory.ts'
import { Kernel } from './kernel/kernel.ts'
import type { Handle } from './kernel/lane.ts'

/** Bytes; a user has room for nine queues of the kernel's default size. */
const SMALL = 2048

/** Bytes in the queue, which the kernel tells who reads from it as from a file. */
function bytesIn({ fd }: PosixQueue): number {
  const text = Buffer.alloc(80)
  readSync(fd, text, 0, text.length, 0)
  return Number(/^QSIZE:(\d+)/.exec(text.toString())?.[1])
}

/** The umask has taken away what the directory grants. */
function allow({ fd }: PosixQueue, mode: number): void {
  try {
    fchmodSync(fd, mode)
  } catch {
    // It is another user's, who has.
  }
}

function toHandle(queue: PosixQueue): Handle {
  const { messageSize } = queue.attributes
  const toMessage = ({ data, priority }: { data: Buffer; priority: number }) => ({
    bytes: data,
    // Other programs may send with a higher one.
    priority: Math.min(priority, MAX_PRIORITY),
  })
  return {
    size: messageSize,
    trySend: (bytes, priority) => queue.trySend(bytes, { priority }),
    send: (bytes, priority, signal) => queue.send(bytes, { priority, signal }),
    tryReceive() {
      const message = queue.tryReceive()
      return message === undefined ? undefined : toMessage(message)
    },
    receive: async (signal) => toMessage(await queue.receive({ signal })),
    mayFit: (packs) => packs.length <= queue.attributes.maxMessages,
    fits(packs) {
      const { messages, maxMessages } = queue.attributes
      return messages + packs.length <= maxMessages
    },
    hold: (on) => void (on ? queue.ref() : queue.unref()),
    checkIsThere() {
      if (fstatSync(queue.fd).nlink > 0) return
      throw new QueueError('EIDRM', { syscall: 'fstat', path: queue.path })
    },
    stats: () => ({ messages: queue.attributes.messages, bytes: bytesIn(queue) }),
    close: () => queue.close(),
  }
}

/** @param sizes of the queues that it makes: `maxMessages`, `messageSize`; default: those of the kernel */
export function openMq(
  path: string,
  sizes: Readonly<Record<string, number>>,
  clock: Clock,
  making: { mode: number; create: boolean },
): Kernel {
  const directory = new Directory(path, 'mq', making)
  const { maxMessages, messageSize } = sizes
  const open = (object: string, { create, isBorrowed }: { create: boolean; isBorrowed: boolean }) => {
    const size = isBorrowed ? Math.min(messageSize ?? SMALL, SMALL) : messageSize
    try {
      const queue = PosixQueue.open(`/${object}`, {
        create,
        mode: directory.mode,
        ...(maxMessages !== undefined && { maxMessages }),
        ...(size !== undefined && { messageSize: size }),
      })
      if (create) allow(queue, directory.mode)
      return toHandle(queue)
    } catch (error) {
      if (!create && (error as QueueError).code === 'ENOENT') return undefined
      throw error
    }
  }
  return new Kernel(directory, open, clock)
}
