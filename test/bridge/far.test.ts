// The same bridge to other sides of all kinds, which end and come back.
import type { Message } from 'kernelmq/bus'
import { afterAll, describe, expect, test } from 'vitest'
import { missingFor, startServer } from '../bus/servers.ts'
import { openBus, withoutServer } from '../bus/support.ts'
import { isEmpty, newLocal, startBridge, takeMessages, until } from './support.ts'

interface Far {
  readonly name: string
  /** Of a bus with such a name. */
  url(prefix: string): Promise<string>
  /** Undefined if it cannot be down. */
  readonly server?: { kill(): Promise<void>; start(): Promise<void>; close(): Promise<void> } | undefined
}

const fars: Far[] = [{ name: 'local', url: async () => (await newLocal()).url }]

for (const [scheme, name] of Object.entries({ redis: 'redis', nats: 'nats', amqp: 'rabbitmq' } as const)) {
  const missing = missingFor(name)
  if (missing !== undefined) {
    withoutServer(`a bridge to ${scheme}:`, missing)
    continue
  }
  const server = await startServer(name)
  fars.push({ name, server, url: async (prefix) => `${server.url}?prefix=${prefix}&timeout=3000` })
}

afterAll(async () => {
  for (const { server } of fars) await server?.close()
})

const numbers = (count: number, from = 0) => Array.from({ length: count }, (_, at) => from + at)

describe.each(fars)('$name', ({ name, url, server }) => {
  /** Over the far side and back; what has come, by its number. */
  async function there(prefix: string) {
    const near = await newLocal()
    const far = `${await url(prefix)}#queue=far`
    const { bridge } = await startBridge({
      routes: [
        { from: `${near.url}#queue=in`, to: far, batch: 20 },
        { from: far, to: `${near.url}#queue=back`, batch: 20 },
      ],
    })
    const came = new Map<number, Set<string>>()
    const see = ({ id, body }: Message) => came.set(Number(body), (came.get(Number(body)) ?? new Set()).add(id))
    near.bus.queue('back').consume(see, { concurrency: 10 })
    const send = (count: number, from: number) =>
      near.bus.queue('in').sendMany(numbers(count, from).map((body) => ({ body, id: `n-${body}` })))
    return { near, bridge, came, send }
  }

  test('there and back, each under its id', async () => {
    const { near, bridge, came, send } = await there('there')
    await send(300, 0)
    await until(() => came.size === 300)
    for (const number of numbers(300)) expect([...(came.get(number) ?? [])]).toEqual([`n-${number}`])
    await until(async () => (await isEmpty(near.bus.queue('in'))) && bridge.routes.every(({ inHand }) => inHand === 0))
  })

  test('into a topic, each under its id; what has no place there is in a header', async () => {
    const near = await newLocal()
    const there = await url('topic')
    const far = await openBus(there)
    await far.topic('t').bind('bound')
    await startBridge({ routes: [{ from: `${near.url}#queue=in`, to: `${there}#topic=t` }] })
    await near.bus.queue('in').send('x', { id: 'mine', key: 'k' })
    const [message] = await takeMessages(far.queue('bound'), 1)
    expect(message).toMatchObject({ body: 'x', id: 'mine' })
    expect([message?.key, message?.headers['bridge-key']]).toContain('k')
  })

  // Queues of the others have no bounds.
  if (['local', 'redis'].includes(name)) {
    test('a message that is larger than its queue may ever be is a dead letter, and holds up nobody', async () => {
      const near = await newLocal()
      const there = await url('bounds')
      const far = await openBus(there)
      const to = far.queue('out', { maxBytes: 40 })
      await to.send('x'.repeat(30))
      const bodies = ['y'.repeat(20), 'z'.repeat(41), 'end']
      await near.bus.queue('in').sendMany(bodies.map((body) => ({ body, id: body.slice(0, 1) })))
      const { seen } = await startBridge({ routes: [{ from: `${near.url}#queue=in`, to: `${there}#queue=out` }] })
      expect((await takeMessages(to, 3)).map(({ body }) => body)).toEqual(['x'.repeat(30), 'y'.repeat(20), 'end'])
      expect(await seen('dead')).toMatchObject({ id: 'z', error: { code: 'EMSGSIZE' } })
    })
  }

  if (server === undefined) return

  test('killed, and back: nothing is lost, and it goes on by itself', async () => {
    const { bridge, came, send } = await there('killed')
    await send(100, 0)
    await expect.poll(() => came.size).toBe(100)
    await server.kill()
    for (let at = 100; at < 500; at += 100) await send(100, at)
    await until(() => bridge.routes.some(({ up }) => !up))
    await server.start()
    await expect.poll(() => came.size).toBe(500)
    for (const number of numbers(500)) expect([...(came.get(number) ?? [])]).toEqual([`n-${number}`])
    await expect.poll(() => bridge.routes).toMatchObject([{ up: true }, { up: true }])
  })
})
