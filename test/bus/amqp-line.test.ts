// What no server is needed for: at which moment something is asked for again.
import { EventEmitter } from 'node:events'
import { setImmediate as turn } from 'node:timers/promises'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { Discovery } from '../../lib/bus/transports/amqp/discovery.ts'
import { type Held, QUIET } from '../../lib/bus/transports/amqp/held.ts'
import { Keyed } from '../../lib/bus/transports/amqp/keyed.ts'
import { LINGER } from '../../lib/bus/transports/amqp/line.ts'
import type { Link } from '../../lib/bus/transports/amqp/link.ts'
import { PARTITIONS, type Topology } from '../../lib/bus/transports/amqp/topology.ts'
import { Hold } from '../../lib/bus/transports/engine/hold.ts'
import { FakeQueue, FOR_EVER, newLine, WITHIN } from './amqp-fake.ts'
import { deferred } from './support.ts'

/** All that is answered at once has been. */
async function settled(): Promise<void> {
  for (let turns = 0; turns < 30; turns++) await turn()
}

let queue: FakeQueue

beforeEach(() => {
  // Who waits for a while does so until the test says that it is over.
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] })
  queue = new FakeQueue()
})

afterEach(async () => {
  const closed = queue.line.close(new Error('closed'))
  await settled()
  await closed
  vi.useRealTimers()
})

/** Another waits, and nobody is answered until `answer` is called; by `leave` he gives up. */
async function askUnanswered() {
  const answers = deferred()
  queue.held = answers.promise
  const signal = new AbortController()
  const received = queue.receiveOnce(1, signal.signal)
  await settled()
  const leave = async () => {
    signal.abort()
    await received.catch(() => {})
  }
  return { answer: () => answers.resolve(), leave }
}

test('of two that wait each gets one, while the other holds his', async () => {
  const both = [queue.receive(1), queue.receive(1)]
  await settled()
  queue.send(2)
  const given = await Promise.all(both)
  expect(given.map((held) => held.length)).toEqual([1, 1])
})

test('who has plenty is sent more, of which nothing counts as lost', async () => {
  queue.send(8)
  const first = await queue.receive(2)
  expect(await queue.receive(2, false)).toEqual([])
  queue.line.acknowledge(first)
  queue.line.acknowledge(await queue.receive(2))
  await settled()
  expect(queue.prefetches).toEqual([4])
  expect(queue.strays).toBe(0)
})

test('nothing is fetched for those who are busy and do not wait', async () => {
  queue.send(8)
  const held = await queue.receive(2)
  expect(await queue.receive(2, false)).toEqual([])
  queue.line.acknowledge(held.slice(0, 1))
  await settled()
  expect([queue.begun, queue.ready.length]).toEqual([1, 5])
})

test('who gets something as he is about to be sent more is sent it all the same', async () => {
  queue.send(8)
  const first = await queue.receive(2)
  expect(await queue.receive(2, false)).toEqual([])
  const more = queue.receive(2)
  queue.line.acknowledge(first)
  await more
  await settled()
  expect(queue.prefetches).toEqual([4])
})

test('who acknowledges something as he is about to be sent more is sent it when all has come', async () => {
  const first = queue.receive(2)
  await settled()
  queue.send(1)
  const held = await first
  const second = queue.receive(2)
  const other = await askUnanswered()
  queue.send(4)
  await second
  queue.line.acknowledge(held)
  other.answer()
  await settled()
  expect(queue.strays).toBe(0)
  await other.leave()
})

test('a message that the server has lost on the way keeps nobody from others, while somebody holds one', async () => {
  const first = queue.receive(2)
  await settled()
  queue.send(1)
  expect((await first).length).toBe(1)
  queue.losesOne = true
  queue.send(2)
  const second = queue.receive(2)
  await settled()
  vi.advanceTimersByTime(QUIET)
  expect((await second).length).toBe(1)
})

test('those who have waited in vain for a while begin anew, one beside the other', async () => {
  const both = [queue.receiveOnce(1), queue.receiveOnce(1)]
  await settled()
  vi.advanceTimersByTime(QUIET)
  await settled()
  queue.send(2)
  const given = await Promise.all(both)
  expect(given.map((held) => held.length)).toEqual([1, 1])
})

test('who begins to wait as another begins anew gets something', async () => {
  const first = queue.receiveOnce(1)
  await settled()
  queue.onClose = () => {
    queue.onClose = () => {}
    second = queue.receive(1)
  }
  let second: Promise<Held[]> | undefined
  vi.advanceTimersByTime(QUIET)
  await settled()
  queue.send(2)
  expect((await first).length + ((await second)?.length ?? 0)).toBe(2)
})

test('what comes just as a consumer is about to begin anew shows that it need not', async () => {
  const first = queue.receive(2)
  await settled()
  const other = await askUnanswered()
  vi.advanceTimersByTime(QUIET)
  queue.send(1)
  await first
  other.answer()
  await settled()
  expect(queue.begun).toBe(2)
  await other.leave()
})

test('what comes as those who hear nothing are about to be sent more is counted', async () => {
  const first = queue.receive(2)
  await settled()
  queue.send(1)
  await first
  const second = [queue.receive(1), queue.receive(1)]
  await settled()
  const other = await askUnanswered()
  vi.advanceTimersByTime(QUIET)
  queue.send(1)
  await second[0]
  other.answer()
  await settled()
  // The other takes one.
  queue.send(2)
  await second[1]
  await other.leave()
})

test('what was asked for just before is on its way, also when nothing had come for long', async () => {
  const first = queue.receive(1)
  await settled()
  queue.send(2)
  const held = await first
  vi.advanceTimersByTime(QUIET - 1)
  queue.line.acknowledge(held)
  const second = queue.receive(1)
  vi.advanceTimersByTime(1)
  expect((await second)[0]?.losses).toBe(0)
  expect(queue.strays).toBe(0)
})

test('what came while the loop was held is seen before it is said that nothing comes', async () => {
  const first = queue.receive(1)
  await settled()
  queue.send(1)
  for (let turns = 1; turns < WITHIN; turns++) await turn()
  vi.advanceTimersByTime(QUIET)
  await first
  await settled()
  expect(queue.begun).toBe(1)
})

test('who has given up as the connection was lost keeps no consumer when it is back', async () => {
  const [first, second, third] = [new AbortController(), new AbortController(), new AbortController()]
  const [before, after] = [deferred(), deferred()]
  queue.held = before.promise
  const all = [queue.receiveOnce(1, first.signal)]
  await settled()
  all.push(queue.receive(4, true, second.signal))
  await settled()
  all.push(queue.receiveOnce(1, third.signal))
  await settled()
  // The second's turn to begin a consumer is behind the third's.
  let asked = 0
  queue.onAsk = () => {
    if (++asked === 2) queue.held = after.promise
  }
  queue.held = Promise.resolve()
  before.resolve()
  await settled()
  const comeBack = queue.leave()
  for (const one of [first, second, third]) one.abort()
  await Promise.allSettled(all)
  queue.held = Promise.resolve()
  comeBack()
  await settled()
  queue.send(4)
  await settled()
  vi.advanceTimersByTime(LINGER)
  await settled()
  expect([queue.prefetches, queue.ready.length]).toEqual([[], 4])
})

test('who has looked in vain while the server was away takes nothing when it is back', async () => {
  const comeBack = queue.leave()
  for (let polls = 0; polls < 20; polls++) {
    const received = queue.receiveOnce(10, undefined, 0)
    await settled()
    vi.advanceTimersByTime(1)
    expect(await received).toEqual([])
  }
  queue.send(100)
  comeBack()
  await settled()
  expect([queue.begun, queue.ready.length]).toEqual([0, 100])
})

test('who waits as the queue is removed is told, also if he was just about to begin anew', async () => {
  const received = queue.receiveOnce(1)
  const told = expect(received).rejects.toThrow('removed')
  await settled()
  const answers = deferred()
  queue.held = answers.promise
  vi.advanceTimersByTime(QUIET)
  await settled()
  const closed = queue.line.close(new Error('removed'))
  await settled()
  answers.resolve()
  await Promise.all([told, closed])
  expect(queue.prefetches).toEqual([])
})

test('who may not look for messages with a key leaves no consumer behind', async () => {
  queue.isKeyed = () => {
    queue.isKeyed = () => false
    throw Object.assign(new Error('ACCESS_REFUSED'), { code: 403 })
  }
  await expect(queue.receiveOnce(1)).rejects.toMatchObject({ code: 'ERR_BUS_ACCESS' })
  await settled()
  expect(queue.prefetches).toEqual([])
})

test('who hears which queues have partitions does so on another channel if the first ended as it began to', async () => {
  let [opened, consumers] = [0, 0]
  const open = async () => {
    const isFirst = opened++ === 0
    let isOpen = true
    const ask = async () => {
      if (!isOpen) throw Object.assign(new Error('Channel closed'), { name: 'IllegalOperationError' })
    }
    const consume = async () => {
      isOpen = !isFirst
      if (isFirst) channel.emit('close')
      else consumers++
    }
    const parts = { assertQueue: ask, bindQueue: ask, checkQueue: ask, consume, close: async () => {} }
    const channel = Object.assign(new EventEmitter(), parts)
    return channel
  }
  const link = { up: async () => {}, check: () => {}, channel: open } as unknown as Link
  const topology = { base: async () => {}, nameOf: (name: string) => name, forget: () => {} } as unknown as Topology
  const ignore = () => {}
  expect(await new Discovery(link, topology, ignore, ignore).isKeyed('q')).toBe(true)
  expect(consumers).toBe(1)
})

test('what was once asked for is not fetched for who comes later', async () => {
  expect(await queue.receive(100, false)).toEqual([])
  vi.advanceTimersByTime(LINGER)
  queue.send(50)
  expect((await queue.receive(1)).length).toBe(1)
})

test('who gives up with nothing in hand leaves the others theirs', async () => {
  const first = queue.receive(3)
  await settled()
  queue.send(1)
  await first
  const signal = new AbortController()
  const second = queue.receive(2)
  const other = queue.receiveOnce(1, signal.signal)
  await settled()
  queue.send(1)
  await second
  signal.abort()
  await expect(other).rejects.toMatchObject({ name: 'AbortError' })
  await settled()
  expect(queue.begun).toBe(2)
  expect(queue.prefetches).toEqual([3])
})

test('what nobody has asked for is given back although its consumer has gone by itself', async () => {
  const first = queue.receive(2)
  await settled()
  queue.send(1)
  const held = await first
  queue.send(1)
  await settled()
  queue.cancel()
  vi.advanceTimersByTime(LINGER)
  await settled()
  expect(queue.ready.length).toBe(1)
  queue.line.acknowledge(held)
})

test('what goes back as a copy that the server does not take for now keeps nobody from others', async () => {
  const taken = deferred()
  queue.taken = taken.promise
  queue.ready.push({ id: 'back', count: 1 })
  const back = queue.line.giveBack(await queue.receive(1))
  await settled()
  queue.send(1)
  queue.line.acknowledge(await queue.receive(1))
  // It is not sent once more, and what was there before goes first.
  let isClosed = false
  const closed = queue.line.close(new Error('closed')).then(() => {
    isClosed = true
  })
  await settled()
  expect([queue.copies, isClosed]).toEqual([1, false])
  taken.resolve()
  await Promise.all([back, closed])
  expect([queue.copies, queue.ready.length]).toEqual([1, 0])
})

test('a lease that is over while its channel is being closed throws at nobody', async () => {
  queue.send(1)
  const [held] = await queue.line.receive({ ...FOR_EVER, max: 1, together: true, lease: 1000 })
  const answers = deferred()
  queue.held = answers.promise
  const closed = held?.channel.close()
  vi.advanceTimersByTime(1000)
  expect(held?.isGone).toBe(true)
  answers.resolve()
  await closed
})

test('who asks as the server says that the consumer before has ended gets one of his own', async () => {
  for (let hops = 0; hops < 40; hops++) {
    let consumers = 0
    let cancelled = deferred()
    const channel = Object.assign(new EventEmitter(), {
      prefetch: async () => {},
      consume: async () => ({ consumerTag: String(++consumers) }),
      cancel: () => cancelled.promise.then(() => void consumers--),
      close: async () => {},
      checkQueue: async () => ({ messageCount: 0 }),
    })
    const link = { hold: new Hold(), isUp: true, check: () => {}, up: async () => {}, channel: async () => channel }
    const line = newLine(link)
    const receive = (signal?: AbortSignal) => line.receive({ ...FOR_EVER, max: 1, together: true, signal })
    const first = new AbortController()
    const received = receive(first.signal)
    await turn()
    expect(consumers).toBe(1)
    first.abort()
    await expect(received).rejects.toMatchObject({ name: 'AbortError' })
    cancelled.resolve()
    for (let hop = 0; hop < hops; hop++) await undefined
    cancelled = deferred()
    const again = receive()
    await turn()
    expect(consumers, `${hops} hops later`).toBe(1)
    cancelled.resolve()
    await Promise.all([expect(again).rejects.toThrow('closed'), line.close(new Error('closed'))])
  }
})

test('who begins to wait for messages with a key just as it is found that nobody does gets a consumer', async () => {
  for (let hops = 0; hops < 10; hops++) {
    let [isWanted, consumers] = [true, 0]
    const answer = deferred()
    const open = async () => {
      const channel = Object.assign(new EventEmitter(), {
        prefetch: async () => {},
        consume: async () => {
          await answer.promise
          consumers++
        },
        close: async () => {},
      })
      channels.push(channel)
      return channel
    }
    const channels: EventEmitter[] = []
    const link = { up: async () => {}, channel: open }
    const topology = { nameOf: (name: string) => name, keys: async () => {} }
    const context = { link, topology, queue: 'q', isWanted: () => isWanted, onFailure: () => {} }
    const keyed = new Keyed(context as unknown as ConstructorParameters<typeof Keyed>[0])
    keyed.want()
    await turn()
    const before = channels.splice(0)
    isWanted = false
    // With the answer.
    for (const channel of before) channel.emit('close')
    answer.resolve()
    for (let hop = 0; hop < hops; hop++) await undefined
    isWanted = true
    keyed.want()
    await turn()
    expect([before.length, consumers], `${hops} hops later`).toEqual([PARTITIONS, 2 * PARTITIONS])
    await keyed.close()
  }
})
