// Which queues have come to have messages with a key: AMQP has no list of queues, so whoever makes partitions says so.
import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Channel, ConsumeMessage } from 'amqplib'
import { deadOf } from '../../message.ts'
import { BORROWED } from '../../transport.ts'
import type { Told } from './held.ts'
import { type Link, passes, refusalOf } from './link.ts'
import { PARTITIONS, partitionName, type Topology } from './topology.ts'

const TRY_AGAIN = 50

const DEAD = deadOf('')

export class Discovery {
  readonly #link: Link
  readonly #topology: Topology
  readonly #told: (queue: string, what: Told) => void
  readonly #lost: () => void
  #listening: Promise<Channel> | undefined
  /** Of the queue that hears. */
  #name = ''

  /** @param lost is called when something may have been said that was not heard */
  constructor(link: Link, topology: Topology, told: (queue: string, what: Told) => void, lost: () => void) {
    this.#link = link
    this.#topology = topology
    this.#told = told
    this.#lost = lost
  }

  /** From now on it is heard, too. */
  async isKeyed(queue: string): Promise<boolean> {
    if (queue.startsWith(BORROWED) || queue.endsWith(DEAD)) return false
    for (;;) {
      try {
        await this.#link.up('receive', Number.POSITIVE_INFINITY)
        const channel = await this.#listen()
        await channel.bindQueue(this.#topology.nameOf(this.#name), this.#topology.keyed, queue)
        return await this.#isThere(queue)
      } catch (error) {
        if (!passes(error)) throw error
        this.#link.check('receive')
        if (refusalOf(error) === 404) this.#topology.forget()
      }
      await sleep(TRY_AGAIN, undefined, { ref: false })
    }
  }

  async #isThere(queue: string): Promise<boolean> {
    const channel = await this.#link.channel('receive', Number.POSITIVE_INFINITY)
    try {
      // The last that is made.
      await channel.checkQueue(this.#topology.nameOf(partitionName(queue, PARTITIONS - 1)))
      return true
    } catch (error) {
      if (refusalOf(error) === 404) return false
      throw error
    } finally {
      await channel.close().catch(() => {})
    }
  }

  #listen(): Promise<Channel> {
    if (this.#listening === undefined) {
      const listening = this.#open()
      this.#listening = listening
      const forget = (): void => {
        if (this.#listening === listening) this.#listening = undefined
      }
      listening.then((channel) => {
        channel.on('close', () => {
          forget()
          this.#lost()
        })
      }, forget)
    }
    return this.#listening
  }

  async #open(): Promise<Channel> {
    await this.#topology.base()
    const channel = await this.#link.channel('receive', Number.POSITIVE_INFINITY)
    let isClosed = false
    channel.once('close', () => {
      isClosed = true
    })
    // Another each time: the server may take the one before for that of a connection that there still is.
    this.#name = `$hears/${randomUUID()}`
    const name = this.#topology.nameOf(this.#name)
    await channel.assertQueue(name, { exclusive: true, durable: false, autoDelete: true })
    const hear = (message: ConsumeMessage | null) => {
      if (message === null) void channel.close().catch(() => {})
      else this.#told(message.fields.routingKey, String(message.content) as Told)
    }
    await channel.consume(name, hear, { noAck: true })
    // What closed it may have come with the answer, before anybody else listened.
    if (isClosed) throw new Error('channel closed')
    return channel
  }
}
