// Publishing with confirmation: what was lost with its connection goes again, under the same id.
import type { ConfirmChannel, Message, Options } from 'amqplib'
import { QueueError } from '../../../errors.ts'
import { checkSignal, MAX_TIMER, Waiter } from '../../../waiting.ts'
import { isLoss, type Link, refusalOf } from './link.ts'
import { refused, type Topology } from './topology.ts'

export interface Posting {
  readonly exchange: string
  readonly key: string
  readonly content: Buffer
  readonly options: Options.Publish
  /** What the server waits for holds up what is in the same lane, in its order, and nothing else. */
  readonly lane: string
  /** Makes what it needs to arrive; undefined if that is there. */
  prepare(): Promise<unknown> | undefined
}

/** What did not arrive, although the server has seen it. */
export interface Outcome {
  /** There is no queue for them. */
  readonly unroutable: Posting[]
  /** Their queue takes no more. */
  readonly refused: Posting[]
}

/** Channels that may stay open, used or not. */
const MOST = 256

/** What the client says of more channels than the server permits. */
const NO_MORE = /^No channels left/

interface Lane {
  readonly name: string
  channel: ConfirmChannel | undefined
  opening: Promise<void> | undefined
  /** Calls that send. */
  users: number
  /** Counts up, over all lanes. */
  usedAt: number
  /** Returned, and not confirmed yet: the server confirms what it could not route. */
  readonly returned: Set<string>
  /** Why its channel was closed. */
  failure: unknown
}

const sign = (exchange: string, key: string, id: string | undefined): string => `${exchange}\n${key}\n${id}`

/** "message size 20 is larger than configured max size 10" */
const TOO_LARGE = /message size (\d+) is larger than (?:configured )?max size (\d+)/

/** The server is there, or seems to be, and does not say that it keeps what it was sent. */
function unconfirmed(call: string, path: string | undefined): QueueError {
  const hint =
    'a server that stands still confirms nothing, nor does a queue without a leader: `rabbitmqctl list_unresponsive_queues` names those'
  return new QueueError('ERR_BUS_CONNECTION', { syscall: call, path, detail: 'not confirmed in time', hint })
}

function tooLong(call: string, path: string, detail: string, cause: unknown): QueueError {
  const hint = 'send less, or set max_message_size higher in rabbitmq.conf'
  return Object.assign(new QueueError('EMSGSIZE', { syscall: call, path, detail, hint }), { cause })
}

export class Publisher {
  readonly #link: Link
  /** A server that waits for a queue confirms nothing else on that channel. */
  readonly #lanes = new Map<string, Lane>()
  /** Those that are open, or about to be. */
  #channels = 0
  #uses = 0
  /** What waits to be confirmed, with one timer for all: one for each would be much of what is done with it here. */
  readonly #late = new Map<Waiter<void>, { call: string; deadline: number; path: string | undefined }>()
  #watch: NodeJS.Timeout | undefined
  #end = Number.POSITIVE_INFINITY
  /** What messages need to arrive; it may be there no more. */
  readonly #topology: Topology

  constructor(link: Link, topology: Topology) {
    this.#link = link
    this.#topology = topology
  }

  #enter(postings: readonly Posting[]): Lane[] {
    const lanes: Lane[] = []
    let last: Lane | undefined
    for (const { lane: name } of postings) {
      if (name === last?.name) continue
      last = this.#lanes.get(name)
      if (last === undefined) {
        last = {
          name,
          channel: undefined,
          opening: undefined,
          users: 0,
          usedAt: 0,
          returned: new Set(),
          failure: undefined,
        }
        this.#lanes.set(name, last)
      }
      if (lanes.includes(last)) continue
      lanes.push(last)
      last.users++
      last.usedAt = ++this.#uses
    }
    return lanes
  }

  #leave(lanes: readonly Lane[]): void {
    for (const lane of lanes) {
      lane.users--
      this.#rest(lane)
    }
  }

  /** Without a channel, or room for it, one that nobody uses is forgotten. */
  #rest(lane: Lane): void {
    if (lane.users > 0 || lane.opening !== undefined) return
    if (lane.channel === undefined) this.#lanes.delete(lane.name)
    else if (this.#channels > this.#most) this.#close(lane)
  }

  get #most(): number {
    return Math.min(MOST, this.#link.channelMax)
  }

  #open(lane: Lane, call: string, deadline: number): Promise<void> {
    if (lane.opening !== undefined) {
      return lane.opening.catch(() => {
        throw new Error('channel closed: who has asked for it may have had less patience')
      })
    }
    lane.opening = this.#openChannel(lane, call, deadline).finally(() => {
      lane.opening = undefined
      this.#rest(lane)
    })
    return lane.opening
  }

  async #openChannel(lane: Lane, call: string, deadline: number): Promise<void> {
    if (this.#channels >= this.#most) this.#closeUnused()
    this.#channels++
    try {
      const channel = await this.#link.confirmChannel(call, deadline)
      channel.on('error', (error) => {
        lane.failure = error
        if (refusalOf(error) === 404) this.#topology.forget()
      })
      channel.on('return', ({ fields, properties }: Message) => {
        const { exchange, routingKey } = fields as { exchange: string; routingKey: string }
        lane.returned.add(sign(exchange, routingKey, properties.messageId as string | undefined))
      })
      channel.on('close', () => this.#lost(lane, channel))
      lane.channel = channel
    } catch (error) {
      this.#channels--
      if (!NO_MORE.test((error as Error).message)) throw error
      // It goes when others have been closed.
      lane.failure = error
    }
  }

  #lost(lane: Lane, channel: ConfirmChannel): void {
    if (lane.channel !== channel) return
    lane.returned.clear()
    lane.channel = undefined
    this.#channels--
    this.#rest(lane)
  }

  /** That of the lane that was unused the longest. */
  #closeUnused(): void {
    let oldest: Lane | undefined
    for (const lane of this.#lanes.values()) {
      if (lane.users > 0 || lane.channel === undefined) continue
      if (oldest === undefined || lane.usedAt < oldest.usedAt) oldest = lane
    }
    if (oldest !== undefined) this.#close(oldest)
  }

  #close(lane: Lane): void {
    const channel = lane.channel as ConfirmChannel
    this.#lost(lane, channel)
    void channel.close().catch(() => {})
  }

  /** Resolves when the server has all of them, or has said no. */
  async publish(call: string, postings: readonly Posting[], signal?: AbortSignal): Promise<Outcome> {
    const { hold } = this.#link
    hold.take()
    let lanes = this.#enter(postings)
    try {
      const outcome: Outcome = { unroutable: [], refused: [] }
      const deadline = this.#link.patience()
      let left = postings
      let gone: unknown
      while (left.length > 0) {
        checkSignal(signal)
        try {
          for (const posting of left) {
            const prepared = posting.prepare()
            if (prepared !== undefined) await this.#topology.inTime(call, deadline, prepared, signal)
          }
          // Whoever is short of room blocks those that publish.
          if (!this.#link.isFree) await this.#link.up(call, deadline, signal, true)
          gone = undefined
          for (const lane of lanes) lane.failure = undefined
          // Of most messages, waiting for what is there would be a good part of all that is done with them here.
          const closed = lanes.filter(({ channel }) => channel === undefined)
          if (closed.length > 0) {
            const opened = Promise.all(closed.map((lane) => this.#open(lane, call, deadline)))
            await this.#link.inTime(call, deadline, opened, signal)
          }
          left = await this.#try(left, outcome, call, deadline, signal)
        } catch (error) {
          if (refusalOf(error) === 404) {
            // Somebody removed it while it was made.
            this.#topology.forget((error as QueueError).path)
            gone = error
          } else if (!isLoss(error) && (gone === undefined || performance.now() < deadline)) throw error
          if (gone !== undefined && performance.now() >= deadline) throw gone
        }
        if (left.length === 0) break
        // Where all has arrived others may have the channel, which may be what they wait for, and we for theirs.
        const before = lanes
        lanes = this.#enter(left)
        this.#leave(before)
        await this.#check(call, left, lanes, deadline)
      }
      return outcome
    } finally {
      this.#leave(lanes)
      hold.release()
    }
  }

  /** Of what went with its channel; throws if it was the reason. */
  async #check(call: string, left: readonly Posting[], lanes: readonly Lane[], deadline: number): Promise<void> {
    this.#link.check(call)
    const { failure } = lanes.find((lane) => lane.failure !== undefined) ?? {}
    const code = refusalOf(failure)
    const [, size, limit] = TOO_LARGE.exec((failure as Error | undefined)?.message ?? '') ?? []
    if (size !== undefined) {
      // What others sent goes again.
      const long = left.find(({ content }) => content.length >= Number(size))
      if (long !== undefined) throw tooLong(call, long.key, `${size} > ${limit} bytes`, failure)
    } else if (code !== undefined && code !== 404) throw refused(failure, call, (left[0] as Posting).key)
    if (performance.now() >= deadline) throw this.#link.explain(failure, call)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }

  #watchUntil(end: number): void {
    clearTimeout(this.#watch)
    this.#end = end
    const left = Math.max(Math.ceil(end - performance.now()), 0)
    this.#watch = setTimeout(() => this.#rejectLate(), Math.min(left, MAX_TIMER)).unref()
  }

  #rejectLate(): void {
    let next = Number.POSITIVE_INFINITY
    const now = performance.now()
    for (const [waiter, { call, deadline, path }] of this.#late) {
      if (deadline > now) next = Math.min(next, deadline)
      else waiter.reject(this.#link.isFree ? unconfirmed(call, path) : this.#link.late(call))
    }
    this.#end = next
    if (next < Number.POSITIVE_INFINITY) this.#watchUntil(next)
  }

  /** Those of which it is not known whether the server has them. */
  async #try(
    postings: readonly Posting[],
    outcome: Outcome,
    call: string,
    deadline: number,
    signal: AbortSignal | undefined,
  ): Promise<Posting[]> {
    const lost: Posting[] = []
    let failure: { error: unknown } | undefined
    let waiting = postings.length
    const waiter = new Waiter<void>(Number.POSITIVE_INFINITY, signal, (ended, reason) => ended.reject(reason))
    this.#late.set(waiter, { call, deadline, path: postings[0]?.key })
    if (deadline < this.#end) this.#watchUntil(deadline)
    const settle = () => {
      if (--waiting === 0) waiter.resolve()
    }
    for (const posting of postings) {
      const { exchange, key, content, options } = posting
      const lane = this.#lanes.get(posting.lane) as Lane
      try {
        // There may be no more, or it has gone while that of another was opened.
        if (lane.channel === undefined) throw new Error('channel closed')
        lane.channel.publish(exchange, key, content, options, (error: Error | null) => {
          if (error !== null) (error.message === 'message nacked' ? outcome.refused : lost).push(posting)
          else if (lane.returned.size > 0 && lane.returned.delete(sign(exchange, key, options.messageId)))
            outcome.unroutable.push(posting)
          settle()
        })
      } catch (error) {
        if (isLoss(error)) lost.push(posting)
        else failure ??= { error }
        settle()
      }
    }
    try {
      await waiter.promise
    } finally {
      this.#late.delete(waiter)
    }
    if (failure !== undefined) throw failure.error
    return lost
  }
}
