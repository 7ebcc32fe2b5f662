// What no server is needed for: a connection that ends at the worst moment.
import { EventEmitter } from 'node:events'
import type { ChannelModel } from 'amqplib'
import { expect, test } from 'vitest'
import { Link } from '../../lib/bus/transports/amqp/link.ts'
import { Publisher } from '../../lib/bus/transports/amqp/publisher.ts'
import type { Topology } from '../../lib/bus/transports/amqp/topology.ts'
import { Hold } from '../../lib/bus/transports/engine/hold.ts'
import { QueueError } from '../../lib/errors.ts'

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
  const explain = () => new QueueError('ERR_BUS_CONNECTION', { syscall: 'connect' })
  const link = new Link({ connect, explain, patience: 5000, hold: new Hold(), gathers: false })
  await link.open()
  return link
}

test('a channel whose connection ended as it was opened is opened again', async () => {
  const link = await openLink()
  const channel = await link.channel('receive', Number.POSITIVE_INFINITY)
  expect(channel.publish('', 'q', Buffer.of(), {})).toBe(true)
  await link.close()
})

test('what is sent as its connection ends with the answer that opens its channel goes on the next', async () => {
  const link = await openLink()
  const publisher = new Publisher(link, {} as Topology)
  const posting = { exchange: '', key: 'q', content: Buffer.of(), options: {}, prepare: () => undefined }
  expect(await publisher.publish('send', [posting])).toEqual({ unroutable: [], refused: [] })
  await link.close()
})
