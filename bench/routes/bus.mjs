// The bus, without a store: many messages in one of the kernel.
import { rmSync } from 'node:fs'
import { connect as connectBus } from 'kernelmq/bus'
import { answer } from '../program.mjs'

/** Posts, and waits where there is no room. */
async function send(queue, maker, total) {
  for (let i = 0; i < total; i++) if (!queue.post(maker.next())) await queue.flush()
  await queue.flush()
}

/** Calls a handler for each message, as it comes; what it returns is the reply, if one is asked for. */
async function receive(queue, total, handler) {
  const consumer = queue.consume(({ body }) => {
    const reply = handler(body)
    if (--total === 0) void consumer.close()
    return reply
  })
  await consumer.closed
}

export async function connect({ far, path, scheme }, other) {
  await other?.answer() // its queue is there
  const directory = `${path}.${scheme}`
  const bus = await connectBus(`${scheme}:${directory}`)
  const queue = bus.queue('q')
  if (far) answer('connected')
  return {
    send: (maker, total) => send(queue, maker, total),
    receive: (checker, total) => receive(queue, total, (bytes) => checker.check(bytes)),
    async ping(maker, checker, total) {
      for (let i = 0; i < total; i++) checker.check(await queue.request(maker.next()))
    },
    async pong(_maker, checker, total) {
      await receive(queue, total, (bytes) => {
        checker.check(bytes)
        return bytes
      })
    },
    async close() {
      if (!far) rmSync(directory, { recursive: true })
      await bus.close()
    },
  }
}
