// One program for any bus, and not a line of it knows which: `node any-bus.mjs amqp://localhost` or nats: or redis: or
// local:. Jobs that are tried again, a topic, requests, counts.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { connect } from 'kernelmq/bus'

const directory = mkdtempSync(join(tmpdir(), 'kernelmq-any-bus-'))
const bus = await connect(process.argv[2] ?? `local:${directory}/bus`)

try {
  const jobs = bus.queue('jobs', { retry: { max: 2, base: 10 } })
  await jobs.sendMany(Array.from({ length: 10 }, (_, number) => ({ body: { number } })))
  const done = new Map()
  const worker = jobs.consume(
    ({ body: { number }, attempts }) => {
      if (number === 3) throw new Error('this one cannot be done')
      if (number === 7 && attempts === 0) throw new Error('not at once')
      done.set(number, attempts + 1)
    },
    { concurrency: 4 },
  )
  while (done.size < 9 || (await jobs.stats()).dead === 0) await sleep(5)
  await worker.close()
  console.log(`jobs: ${done.size} done, number 7 at the ${done.get(7)}nd try`)
  const { letters } = await jobs.dead.list()
  for (const { body, reason } of letters) console.log(`dead: number ${body.number}, ${reason}`)
  await jobs.dead.discard()

  const heard = { mail: [], audit: [] }
  const listen =
    (name) =>
    ({ body }) =>
      heard[name].push(body)
  const subscribers = [
    await bus.topic('orders.eu').subscribe('mail', listen('mail')),
    await bus.topic('orders.#').subscribe('audit', listen('audit')),
  ]
  const counts = [await bus.topic('orders.eu').publish('a boat'), await bus.topic('orders.us').publish('a car')]
  while (heard.mail.length < 1 || heard.audit.length < 2) await sleep(5)
  console.log(`topic: ${counts.join(' and ')} queues, mail has ${heard.mail}, audit has ${heard.audit.sort()}`)
  for (const subscriber of subscribers) await subscriber.close()

  const squares = bus.queue('squares')
  const service = squares.consume(({ body }) => {
    if (typeof body !== 'number') throw new Error('a number, please')
    return body * body
  })
  console.log(`requests: ${await Promise.all([2, 3, 4].map((number) => squares.request(number)))}`)
  await service.close()

  for (const queue of [jobs, squares]) {
    const { ready, leased, delayed, dead } = await queue.stats()
    console.log(`${queue.name}: ${ready} ready, ${leased} leased, ${delayed} delayed, ${dead} dead`)
  }
} finally {
  await bus.close()
  rmSync(directory, { recursive: true, force: true })
}
