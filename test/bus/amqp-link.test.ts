// What no server is needed for: a connection that ends at the worst moment.
import { EventEmitter } from 'node:events'
import { setImmediate as turn } from 'node:timers/promises'
import type { ChannelModel } from 'amqplib'
import { expect, onTestFinished, test, vi } from 'vitest'
import { isLoss, Link } from '../../lib/bus/transports/amqp/link.ts'
import { Publisher } from '../../lib/bus/transports/amqp/publisher.ts'
import type { Topology } from '../../lib/bus/transports/amqp/topology.ts'
import { Hold } from '../../lib/bus/transports/engine/hold.ts'
import { QueueError } from '../../lib/errors.ts'
import { deferred } from './support.ts'

/** Connections, of which the first ends with the answer that opens a channel on it. */
async function openLink(): Promise<Link> {
  let models = 0
  const connect = async () => {
    const isFirst = models++ === 0
    const model = new EventEmitter()
    const open = async () => {
      const channel = Object.assign(new EventEmitter(), {
        close: async () => {},
        publish: (...[, , , , confirm]: [string, string, Buffer, object, ((error: null) => void)?]) => {
          if (isFirst) throw Object.assign(new Error('Channel closed'), { name: 'IllegalOperationError' })
          confirm?.(null)
          return true
        },
      })
      if (!isFirst) return channel
      channel.emit('close')
      model.emit('close')
      return channel
    }
    const parts = { connection: {}, createChannel: open, createConfirmChannel: open, close: async () => {} }
    return Object.assign(model, parts) as unknown as ChannelModel
  }
  return linkOf(connect)
}

async function linkOf(connect: () => Promise<ChannelModel>): Promise<Link> {
  const explain = () => new QueueError('ERR_BUS_CONNECTION', { syscall: 'connect' })
  const link = new Link({ connect, explain, patience: 60_000, limit: 20, hold: new Hold(), gathers: false })
  await link.open()
  return link
}

/** What a server that says nothing on a channel says besides, on its connection. */
const besides = { isSilent: false, looks: 0 }

/** A connection on which channels are opened by these, one after the other. */
function linkWith(...opens: (() => Promise<object>)[]): Promise<Link> {
  return linkOf(async () => modelWith(...opens))
}

function modelWith(...opens: (() => Promise<object>)[]): ChannelModel {
  const open = () => (opens.shift() ?? (() => Promise.reject(new Error('no more channels'))))()
  besides.isSilent = false
  const stream = {
    unref: () => {},
    setNoDelay: () => {},
    write: () => true,
    get bytesRead() {
      besides.looks++
      return besides.isSilent ? 0 : besides.looks
    },
  }
  const parts = { connection: { stream }, createChannel: open, createConfirmChannel: open, close: async () => {} }
  return Object.assign(new EventEmitter(), parts) as unknown as ChannelModel
}

const never = () => new Promise<never>(() => {})

/** A channel that answers so what it is asked of a queue, and is closed as often as `closed` says. */
function channelWith(checkQueue: () => Promise<unknown>) {
  const channel = Object.assign(new EventEmitter(), {
    closed: 0,
    checkQueue,
    get: never,
    close: async () => {
      channel.closed++
      await never()
    },
  })
  return channel
}

/** Channels that confirm what is published, and nothing any more from what goes to the queue `dead` on; of so many at once. */
function confirming(channelMax: number) {
  const open = new Set<EventEmitter>()
  const published: string[] = []
  const model = modelWith()
  const createConfirmChannel = async () => {
    if (open.size === channelMax) throw new Error('No channels left to allocate')
    let isDead = false
    const channel = Object.assign(new EventEmitter(), {
      publish: (...[, key, , , confirm]: [string, string, Buffer, object, (error: Error | null) => void]) => {
        published.push(key)
        isDead ||= key === 'dead'
        if (isDead) channel.once('close', () => confirm(new Error('channel closed')))
        else setImmediate(() => confirm(null))
        return true
      },
      close: async () => {
        await turn()
        open.delete(channel)
        channel.emit('close')
      },
    })
    open.add(channel)
    return channel
  }
  Object.assign(model.connection, { channelMax })
  Object.assign(model, { createConfirmChannel })
  return { open, published, model }
}

const postingTo = (key: string) => {
  const to = { exchange: '', key, lane: key }
  return { ...to, content: Buffer.of(), options: {}, prepare: () => undefined }
}

const ARRIVED = { unroutable: [], refused: [] }

const ask = (link: Link) => link.ask('declare', (channel) => channel.checkQueue('q') as Promise<unknown>)

test('a channel whose connection ended as it was opened is opened again', async () => {
  const link = await openLink()
  const channel = await link.channel('receive', Number.POSITIVE_INFINITY)
  expect(channel.publish('', 'q', Buffer.of(), {})).toBe(true)
  await link.close()
})

test('a connection that the server ends as it opens is made again', async () => {
  const ended = modelWith()
  Object.assign(ended.connection, { expectSocketClose: true })
  const [first, third] = [modelWith(), modelWith(async () => channelWith(async () => 'here'))]
  const models = [first, ended, third]
  const link = await linkOf(async () => models.shift() as ChannelModel)
  first.emit('close')
  expect(await ask(link)).toBe('here')
  await link.close()
})

test('what is sent as its connection ends with the answer that opens its channel goes on the next', async () => {
  const link = await openLink()
  const publisher = new Publisher(link, {} as Topology)
  expect(await publisher.publish('send', [postingTo('q')])).toEqual(ARRIVED)
  await link.close()
})

test('a channel on which nothing is answered is given up, and what was asked is asked on another', async () => {
  const silent = channelWith(never)
  const link = await linkWith(
    async () => silent,
    async () => channelWith(async () => 'here'),
  )
  expect(await ask(link)).toBe('here')
  expect(silent.closed).toBe(1)
  await link.close()
})

test('who has a channel that is given up sees it closed, once, and whatever else was asked on it ends', async () => {
  const silent = channelWith(never)
  const link = await linkWith(async () => silent)
  const channel = await link.channel('receive', Number.POSITIVE_INFINITY)
  let closed = 0
  channel.on('close', () => closed++)
  const asked = await Promise.allSettled([channel.checkQueue('q'), channel.get('q')])
  expect(asked.map((one) => isLoss((one as PromiseRejectedResult).reason))).toEqual([true, true])
  // When the server has answered after all.
  silent.emit('close')
  expect([closed, silent.closed]).toEqual([1, 1])
  await link.close()
})

test('the close of a channel that is not answered ends, too', async () => {
  const link = await linkWith(async () => channelWith(never))
  const channel = await link.channel('receive', Number.POSITIVE_INFINITY)
  await channel.close()
  await link.close()
})

test('of a server that says nothing at all no channel is given up', async () => {
  const answer = deferred<unknown>()
  const silent = channelWith(() => answer.promise)
  const link = await linkWith(async () => silent)
  besides.isSilent = true
  const asked = ask(link)
  const { looks } = besides
  await expect.poll(() => besides.looks).toBeGreaterThan(looks + 3)
  expect(silent.closed).toBe(0)
  answer.resolve('here')
  expect(await asked).toBe('here')
  await link.close()
})

test('nor of a server that has said something since it was asked, and stands still now', async () => {
  const answer = deferred<unknown>()
  const silent = channelWith(() => answer.promise)
  const link = await linkWith(async () => silent)
  const asked = ask(link)
  await turn()
  besides.isSilent = true
  const { looks } = besides
  await Promise.race([asked, expect.poll(() => besides.looks).toBeGreaterThan(looks + 6)])
  expect(silent.closed).toBe(0)
  answer.resolve('here')
  expect(await asked).toBe('here')
  await link.close()
})

test('a channel that answers is not given up, however long all of it takes', async () => {
  let left = 20
  const slow = channelWith(async () => {
    for (const end = performance.now() + 5; performance.now() < end; ) await turn()
    return left--
  })
  const link = await linkWith(async () => slow)
  const channel = await link.channel('receive', Number.POSITIVE_INFINITY)
  while (left > 0) await channel.checkQueue('q')
  expect(slow.closed).toBe(0)
  await link.close()
})

test('a consumer that does not begin is waited for as long as the server waits for its queue', async () => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
  onTestFinished(() => void vi.useRealTimers())
  const silent = Object.assign(channelWith(never), { consume: never })
  const link = await linkWith(async () => silent)
  const channel = await link.channel('receive', Number.POSITIVE_INFINITY)
  const ended = Promise.allSettled([channel.consume('q', () => {}), channel.checkQueue('q')])
  const pass = async (ms: number) => {
    for (let passed = 0; passed < ms; passed += 1000) {
      vi.advanceTimersByTime(1000)
      await turn()
    }
  }
  await pass(70_000)
  expect(silent.closed).toBe(0)
  await pass(70_000)
  expect(silent.closed).toBe(1)
  await ended
  await link.close()
})

test('a channel that does not open is not waited for, and closed when it opens after all', async () => {
  const late = deferred()
  const [first, second] = [channelWith(never), channelWith(never)]
  const link = await linkWith(
    () => late.promise.then(() => first),
    async () => second,
  )
  expect(await link.channel('receive', Number.POSITIVE_INFINITY)).toBe(second)
  late.resolve()
  await expect.poll(() => first.closed).toBe(1)
  await link.close()
})

test('why the server has closed a channel is told to who has asked', async () => {
  const closing = channelWith(() => {
    const refusal = Promise.reject(Object.assign(new Error('no queue'), { code: 404 }))
    closing.emit('close')
    return refusal.then(() => {})
  })
  const link = await linkWith(async () => closing)
  await expect(ask(link)).rejects.toMatchObject({ code: 404 })
  await link.close()
})

test('a message that is half there when its channel goes is lost with it', async () => {
  const channel = channelWith(never)
  const link = await linkWith(async () => channel)
  const { get } = await link.channel('receive', Number.POSITIVE_INFINITY)
  const got = get('q')
  channel.emit('close')
  await expect(got).rejects.toSatisfy(isLoss)
  await link.close()
})

test('a queue that confirms nothing holds up only what is sent to it', async () => {
  const { model } = confirming(10)
  const link = await linkOf(async () => model)
  const publisher = new Publisher(link, {} as Topology)
  const given = new AbortController()
  const stuck = publisher.publish('send', [postingTo('a'), postingTo('dead')], given.signal)
  stuck.catch(() => {})
  expect(await publisher.publish('send', [postingTo('a'), postingTo('b')])).toEqual(ARRIVED)
  expect(await publisher.publish('send', [postingTo('b')])).toEqual(ARRIVED)
  given.abort()
  await expect(stuck).rejects.toMatchObject({ name: 'AbortError' })
  await link.close()
})

test('what is sent to one queue goes on one channel, in its order', async () => {
  const { model, open, published } = confirming(10)
  const link = await linkOf(async () => model)
  const publisher = new Publisher(link, {} as Topology)
  const keys = ['a', 'b', 'a', 'a', 'b', 'a']
  await Promise.all(keys.map((key, at) => publisher.publish('send', [{ ...postingTo(`${key}${at}`), lane: key }])))
  expect(published.filter((key) => key.startsWith('a'))).toEqual(['a0', 'a2', 'a3', 'a5'])
  expect(published.filter((key) => key.startsWith('b'))).toEqual(['b1', 'b4'])
  expect(open.size).toBe(2)
  await link.close()
})

test('channels that were not used for the longest make room for others', async () => {
  const { model, open } = confirming(3)
  const link = await linkOf(async () => model)
  const publisher = new Publisher(link, {} as Topology)
  const send = (key: string) => publisher.publish('send', [postingTo(key)])
  for (const key of ['a', 'b', 'c']) await send(key)
  const [a, b, c] = [...open]
  await send('a')
  expect(await send('d')).toEqual(ARRIVED)
  expect([...open].slice(0, 2)).toEqual([a, c])
  expect(open.has(b as EventEmitter)).toBe(false)
  // More than there are at once.
  const sent = ['e', 'f', 'g', 'h', 'i'].map(send)
  expect(await Promise.all(sent)).toEqual(sent.map(() => ARRIVED))
  await link.close()
})

test('what is sent to more queues than there may be channels goes, also by many at a time', async () => {
  const { model, published } = confirming(2)
  const link = await linkOf(async () => model)
  vi.spyOn(link, 'patience').mockReturnValue(performance.now() + 10_000)
  const publisher = new Publisher(link, {} as Topology)
  const batches = [
    ['a', 'b'],
    ['c', 'd'],
    ['e', 'f', 'g'],
  ]
  const sent = batches.map((keys) => publisher.publish('send', keys.map(postingTo)))
  expect(await Promise.all(sent)).toEqual(sent.map(() => ARRIVED))
  expect(published.sort()).toEqual(batches.flat())
  await link.close()
})

test('a channel that was asked for by who had less patience is asked for again by who waits for it, too', async () => {
  const { model } = confirming(10)
  const { createConfirmChannel } = model
  let isAnswered = false
  Object.assign(model, { createConfirmChannel: () => (isAnswered ? createConfirmChannel.call(model) : never()) })
  const link = await linkOf(async () => model)
  const publisher = new Publisher(link, {} as Topology)
  vi.spyOn(link, 'patience').mockReturnValueOnce(performance.now())
  const [first, second] = [publisher.publish('send', [postingTo('q')]), publisher.publish('send', [postingTo('q')])]
  second.catch(() => {})
  await expect(first).rejects.toMatchObject({ code: 'ERR_BUS_CONNECTION' })
  isAnswered = true
  expect(await second).toEqual(ARRIVED)
  await link.close()
})
