// Queues of the kernel, in each way that the library has to wait.
import { PosixQueue, SysvQueue } from 'kernelmq'

const families = {
  posix: (name) => PosixQueue.open(name),
  sysv: (id) => SysvQueue.fromId(Number(id)),
}

/** Microseconds. */
const SPIN = 50_000

const sendSync = (queue, bytes) => queue.sendSync(bytes)

/** One message a call. */
const blocking = {
  receiveSync: { send: sendSync, receive: (queue, checker) => checker.check(queue.receiveSync().data) },
  'receiveSync, a sample looked at': {
    send: sendSync,
    receive(queue, checker) {
      const message = queue.receiveSync()
      if (checker.isDue) checker.check(message.data)
      else checker.count()
    },
  },
  'receiveIntoSync, a sample looked at': {
    send: sendSync,
    receive(queue, checker, area) {
      const length = queue.receiveIntoSync(area)
      if (checker.isDue) checker.check(area, length)
      else checker.count()
    },
  },
  receiveIntoSync: {
    send: sendSync,
    receive: (queue, checker, area) => checker.check(area, queue.receiveIntoSync(area)),
  },
  spin: {
    send(queue, bytes) {
      while (!queue.trySend(bytes));
    },
    receive: (queue, checker, area) => checker.check(area, queue.receiveIntoSync(area, { spin: SPIN })),
  },
}

function* messages(maker, total) {
  for (let i = 0; i < total; i++) yield maker.next()
}

/** What receives `total` messages of a sendMany(). */
const receivers = {
  async 'sendMany, for await'(queue, checker, total) {
    for await (const message of queue) {
      checker.check(message.data)
      if (--total === 0) break
    }
  },
  async 'sendMany, batches'(queue, checker, total) {
    for await (const batch of queue.batches()) {
      for (const message of batch) checker.check(message.data)
      total -= batch.length
      if (total === 0) break
    }
  },
  async 'sendMany, consume'(queue, checker, total) {
    await queue.consume((message) => {
      checker.check(message.data)
      return --total === 0 ? queue.close() : undefined
    })
  },
}

/** The queues are opened for a round, so that no other one is waited for in vain. */
async function withQueues({ family, queues }, run) {
  const open = queues.map(families[family])
  try {
    return await run(...open)
  } finally {
    for (const queue of open) queue.close()
  }
}

function blockingRoute(config, { send, receive }) {
  const area = Buffer.alloc(config.size)
  return {
    pair: (maker, checker, total) =>
      withQueues(config, (queue) => {
        for (let i = 0; i < total; i++) {
          send(queue, maker.next())
          receive(queue, checker, area)
        }
      }),
    send: (maker, total) =>
      withQueues(config, (queue) => {
        for (let i = 0; i < total; i++) send(queue, maker.next())
      }),
    receive: (checker, total) =>
      withQueues(config, (queue) => {
        for (let i = 0; i < total; i++) receive(queue, checker, area)
      }),
    ping: (maker, checker, total) =>
      withQueues(config, (there, back) => {
        for (let i = 0; i < total; i++) {
          send(there, maker.next())
          receive(back, checker, area)
        }
      }),
    pong: (maker, checker, total) =>
      withQueues(config, (there, back) => {
        for (let i = 0; i < total; i++) {
          receive(there, checker, area)
          send(back, maker.next())
        }
      }),
  }
}

function asynchronousRoute(config) {
  return {
    pair: (maker, checker, total) =>
      withQueues(config, async (queue) => {
        for (let i = 0; i < total; i++) {
          await queue.send(maker.next())
          checker.check((await queue.receive()).data)
        }
      }),
    send: (maker, total) =>
      withQueues(config, async (queue) => {
        for (let i = 0; i < total; i++) await queue.send(maker.next())
      }),
    receive: (checker, total) =>
      withQueues(config, async (queue) => {
        for (let i = 0; i < total; i++) checker.check((await queue.receive()).data)
      }),
    ping: (maker, checker, total) =>
      withQueues(config, async (there, back) => {
        for (let i = 0; i < total; i++) {
          await there.send(maker.next())
          checker.check((await back.receive()).data)
        }
      }),
    pong: (maker, checker, total) =>
      withQueues(config, async (there, back) => {
        for (let i = 0; i < total; i++) {
          checker.check((await there.receive()).data)
          await back.send(maker.next())
        }
      }),
  }
}

const batchRoute = (config, receive) => ({
  send: (maker, total) => withQueues(config, (queue) => queue.sendMany(messages(maker, total))),
  receive: (checker, total) => withQueues(config, (queue) => receive(queue, checker, total)),
})

export function connect(config) {
  const { way } = config
  if (Object.hasOwn(blocking, way)) return blockingRoute(config, blocking[way])
  if (Object.hasOwn(receivers, way)) return batchRoute(config, receivers[way])
  return asynchronousRoute(config)
}
