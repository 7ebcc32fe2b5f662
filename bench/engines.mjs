// The transports of engines against the bare clients: the same work on a real server, in turns, each result as a ratio in
// one run.
import { randomUUID } from 'node:crypto'
import { parseArgs } from 'node:util'
import { connect } from 'kernelmq/bus'
import { missingFor, startServer } from '../test/reliability/servers.mjs'

const help = `npm run bench:engines -- [--engine redis | nats | amqp] [--quick]

Sends and handles messages of 64 bytes through each engine by kernelmq and by its bare client, with the same guarantees:
sends are confirmed, a batch is all or nothing, what is handled is acknowledged after its handler, and gone then. No
codecs. Several rounds, taking turns. Medians, and ratios to the bare client, which are to be at least 0.8.`

const BODY = 'x'.repeat(64)
/** Messages sent together, fetched together, acknowledged together; sends in flight at a time. */
const BATCH = 100
const FLIGHT = 50
/** Batches handled at a time, and fetched ahead. */
const IN_HAND = { concurrency: 2, prefetch: 4 }
const LEAST = 0.8

/** The same work by the bare client; `name` is that of a queue of its own. */
const engines = {
  redis: {
    server: 'redis',
    async bare(url, name) {
      const { Redis } = await import('ioredis')
      const client = new Redis(url)
      // That would be anybody's, and take a core of its own.
      await client.config('SET', 'auto-aof-rewrite-percentage', 0)
      await client.xgroup('CREATE', name, 'g', '0', 'MKSTREAM')
      const group = ['GROUP', 'g', 'c']
      const from = ['STREAMS', name, '>']
      // So that one that has to be sent again is known to be the same.
      const entry = (body) => [name, '*', 'body', body, 'id', randomUUID()]
      return {
        send: (body) => client.xadd(...entry(body)),
        async sendMany(bodies) {
          const all = client.multi()
          for (const body of bodies) all.xadd(...entry(body))
          await all.exec()
        },
        async handleTogether(count, handler) {
          for (let done = 0; done < count; ) {
            const [[, entries]] = await client.xreadgroupBuffer(...group, 'COUNT', BATCH, 'BLOCK', 1000, ...from)
            handler(entries.map(([, [, body]]) => String(body)))
            const ids = entries.map(([id]) => id)
            await client
              .multi()
              .xack(name, 'g', ...ids)
              .xdel(name, ...ids)
              .exec()
            done += entries.length
          }
        },
        handleEach(count, handler) {
          let [running, left, fetching] = [0, count, false]
          return new Promise((resolve, reject) => {
            const handle = async ([id, [, body]]) => {
              running++
              await handler(String(body))
              await client.multi().xack(name, 'g', id).xdel(name, id).exec()
              running--
              if (--left === 0) resolve()
              else if (running <= BATCH / 2) await pull()
            }
            const pull = async () => {
              if (fetching) return
              fetching = true
              const read = await client.xreadgroupBuffer(...group, 'COUNT', BATCH - running, ...from)
              fetching = false
              for (const entry of read?.[0][1] ?? []) handle(entry).catch(reject)
            }
            pull().catch(reject)
          })
        },
        close: () => client.quit(),
      }
    },
  },
  nats: {
    server: 'nats',
    async bare(url, name) {
      const { connect: connectTo } = await import('@nats-io/transport-node')
      const { jetstream, jetstreamManager } = await import('@nats-io/jetstream')
      const connection = await connectTo({ servers: url })
      const manager = await jetstreamManager(connection)
      await manager.streams.add({ name, subjects: [name], retention: 'workqueue', duplicate_window: 300e9 })
      await manager.consumers.add(name, { durable_name: 'c', ack_policy: 'explicit', max_ack_pending: -1 })
      const client = jetstream(connection)
      const consumer = await client.consumers.get(name, 'c')
      // So that one that has to be sent again is not there twice.
      const send = (body) => client.publish(name, body, { msgID: randomUUID() })
      return {
        send,
        sendMany: (bodies) => Promise.all(bodies.map(send)),
        async handleTogether(count, handler) {
          for (let done = 0; done < count; ) {
            const messages = []
            const fetched = await consumer.fetch({ max_messages: Math.min(BATCH, count - done), expires: 1000 })
            for await (const message of fetched) messages.push(message)
            handler(messages.map((message) => message.string()))
            // The server answers the last one when it has done all before it.
            for (const message of messages.slice(0, -1)) message.ack()
            await messages.at(-1).ackAck()
            done += messages.length
          }
        },
        handleEach(count, handler) {
          let left = count
          return new Promise((resolve, reject) => {
            const handle = async (message) => {
              await handler(message.string())
              await message.ackAck()
              if (--left === 0) resolve()
            }
            const callback = (message) => void handle(message).catch(reject)
            consumer.consume({ max_messages: BATCH, callback }).catch(reject)
          })
        },
        close: () => connection.close(),
      }
    },
  },
  amqp: {
    server: 'rabbitmq',
    async bare(url, name) {
      const { connect: connectTo } = await import('amqplib')
      // As we have them: consumers go on when the server takes no more from those that send.
      const [inward, outward] = [await connectTo(url), await connectTo(url)]
      const [receiver, sender] = [await inward.createChannel(), await outward.createConfirmChannel()]
      await receiver.assertQueue(name, { arguments: { 'x-queue-type': 'quorum' } })
      const send = (body) =>
        new Promise((resolve, reject) => {
          const options = { persistent: true, mandatory: true, messageId: randomUUID() }
          sender.sendToQueue(name, Buffer.from(body), options, (error) => (error ? reject(error) : resolve()))
        })
      const consume = async (count, prefetch, take) => {
        let left = count
        await receiver.prefetch(prefetch)
        await new Promise((resolve, reject) => {
          const handle = async (message) => {
            // It came before the consumer was cancelled.
            if (left === 0) return receiver.nack(message)
            const isLast = --left === 0
            await take(message, isLast)
            if (!isLast) return
            await receiver.cancel(message.fields.consumerTag)
            resolve()
          }
          receiver.consume(name, (message) => void handle(message).catch(reject)).catch(reject)
        })
        // The server answers when it has read what was acknowledged before.
        await receiver.checkQueue(name)
      }
      return {
        send,
        sendMany: (bodies) => Promise.all(bodies.map(send)),
        async handleTogether(count, handler) {
          let batch = []
          await consume(count, 2 * BATCH, async (message, isLast) => {
            batch.push(message)
            if (batch.length < BATCH && !isLast) return
            const own = batch
            batch = []
            await handler(own.map(({ content }) => String(content)))
            receiver.ack(message, true)
          })
        },
        handleEach: (count, handler) =>
          consume(count, BATCH, async (message) => {
            await handler(String(message.content))
            receiver.ack(message)
          }),
        async close() {
          await Promise.all([inward.close(), outward.close()])
        },
      }
    },
  },
}

async function ours(url, name) {
  const bus = await connect(`${url}?prefix=bench`)
  const queue = bus.queue(name)
  // So that it is there, as that of the bare client.
  await queue.receive({ wait: 0 })
  const consume = async (count, handler, options) => {
    let left = count
    const consumer = queue.consume((given) => {
      handler(given)
      left -= given.length ?? 1
      // What an engine pushes does not fill every batch.
      if (left <= 0) void consumer.close()
    }, options)
    await consumer.closed
  }
  return {
    send: (body) => queue.send(body),
    sendMany: (bodies) => queue.sendMany(bodies.map((body) => ({ body }))),
    handleTogether: (count, handler) =>
      consume(count, (messages) => handler(messages.map(({ body }) => body)), { batch: BATCH, ...IN_HAND }),
    handleEach: (count, handler) => consume(count, ({ body }) => handler(body), { concurrency: BATCH }),
    close: () => bus.close(),
  }
}

/** So many at a time, until all are done. */
async function inFlight(many, count, work) {
  let left = count
  const one = async () => {
    while (left-- > 0) await work()
  }
  await Promise.all(Array.from({ length: many }, one))
}

/** What a side does, one after the other on a queue of its own: what is sent is there to be handled. */
function tasksOf(side, count) {
  const bodies = Array(BATCH).fill(BODY)
  let seen = 0
  const see = (body) => {
    if (body === BODY) seen++
  }
  const half = count / 2
  const all = async (messages, work) => {
    const start = performance.now()
    await work()
    return messages / ((performance.now() - start) / 1000)
  }
  return {
    [`confirmed one by one, ${FLIGHT} in flight`]: () => all(half, () => inFlight(FLIGHT, half, () => side.send(BODY))),
    [`confirmed in batches of ${BATCH}, 4 in flight`]: () =>
      all(count, () => inFlight(4, count / BATCH, () => side.sendMany(bodies))),
    [`handled together and acknowledged together, ${BATCH} at a time`]: () =>
      all(count, () => side.handleTogether(count, (given) => given.forEach(see))),
    [`handled and acknowledged each, ${BATCH} at a time`]: async () => {
      // Of those before, the last batch may have had more than was asked for.
      const rest = count + half - seen
      const rate = await all(rest, () => side.handleEach(rest, see))
      if (seen !== count + half) throw new Error(`${seen} messages were handled`)
      return rate
    },
  }
}

const median = (values) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)]

async function compare(engine, quick) {
  const { server: name, bare } = engines[engine]
  const missing = missingFor(name)
  if (missing !== undefined) throw new Error(`${name} is not installed (Debian: apt install ${missing})`)
  const server = await startServer(name)
  const results = {}
  try {
    const [rounds, most] = quick ? [1, 2000] : [11, 20_000]
    for (let round = 0; round <= rounds; round++) {
      // The first is for warming up.
      const count = round === 0 ? most / 10 : most
      const opened = { bare: await bare(server.url, `bare-${round}`), ours: await ours(server.url, `ours-${round}`) }
      const tasks = { bare: tasksOf(opened.bare, count), ours: tasksOf(opened.ours, count) }
      for (const what of Object.keys(tasks.bare)) {
        results[what] ??= { bare: [], ours: [] }
        // What one leaves to the server and its disk is not always the other's to wait for.
        for (const side of round % 2 === 0 ? ['bare', 'ours'] : ['ours', 'bare']) {
          const rate = await tasks[side][what]()
          if (round > 0) results[what][side].push(rate)
        }
      }
      for (const { close } of Object.values(opened)) await close()
    }
  } finally {
    await server.close()
  }
  for (const [what, sides] of Object.entries(results)) {
    const [own, theirs] = [median(sides.ours), median(sides.bare)]
    const ratio = own / theirs
    const show = (value) => Math.round(value).toLocaleString('en-US')
    console.log(
      `${ratio >= LEAST ? 'met    ' : 'NOT MET'}  ${engine}, ${what}: ${show(own)} against ${show(theirs)} a second, ratio ${ratio.toFixed(2)}, wanted at least ${LEAST}`,
    )
  }
}

const { values } = parseArgs({
  options: { engine: { type: 'string', multiple: true }, quick: { type: 'boolean' }, help: { type: 'boolean' } },
})
if (values.help) console.log(help)
else for (const engine of values.engine ?? Object.keys(engines)) await compare(engine, values.quick ?? false)
