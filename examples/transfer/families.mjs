// What differs between the families: where a message's rank is kept, how the
// receiver comes to the queue, and how the queue goes.
import { PosixQueue, SysvQueue } from 'kernelmq'

const posix = {
  title: 'POSIX',
  messageSize: 256,
  open() {
    const queue = PosixQueue.open(`/transfer-${process.pid}`, { exclusive: true, maxMessages: 10, messageSize: 256 })
    // The child gets the descriptor, so nobody needs the name: without it the
    // queue goes with its last user, however these two processes end.
    PosixQueue.unlink(queue.path)
    return queue
  },
  descriptor: (queue) => queue.fd,
  connect: () => PosixQueue.fromFd(3),
  // The highest priority is received first.
  outgoing: ({ data, rank }) => ({ data, priority: rank }),
  rankOf: ({ priority }) => priority,
  batches: (queue) => queue.batches(),
  discard: (queue) => queue.close(),
}

const LAST = 10

const sysv = {
  title: 'System V',
  messageSize: 256,
  open: () => SysvQueue.open('private'),
  descriptor: () => 'ignore',
  connect: (id) => SysvQueue.fromId(Number(id)),
  // The lowest type is received first, if asked for by a negative number.
  outgoing: ({ data, rank }) => ({ data, type: LAST - rank }),
  rankOf: ({ type }) => LAST - type,
  batches: (queue) => queue.batches({ type: -LAST }),
  // Nothing else destroys it. Whoever is left does that: see receiver.mjs.
  discard(queue) {
    try {
      queue.remove()
    } catch (error) {
      if (error.code !== 'EIDRM') throw error
    }
    return queue.close()
  },
}

export const families = { posix, sysv }
