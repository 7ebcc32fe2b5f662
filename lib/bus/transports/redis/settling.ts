// What becomes of messages that were handed out: acknowledged in groups, all else one by one, in one script.
import type { QueueError } from '../../../errors.ts'
import type { Addressed, Settlement } from '../../transport.ts'
import type { Calls } from './calls.ts'
import type { Args } from './connection.ts'
import { buried, type Chunk, type Taken } from './entry.ts'
import type { Member } from './member.ts'
import { argsOf, duplicatesOf, type Reply } from './sending.ts'

/** Acknowledgements of one priority, and their places among what is settled. */
interface Group {
  readonly chunk: Chunk
  readonly taken: Taken[]
  readonly places: number[]
}

export class Settling {
  readonly #calls: Calls
  readonly #member: Member

  constructor(calls: Calls, member: Member) {
    this.#calls = calls
    this.#member = member
  }

  async settle(batch: readonly Settlement[]): Promise<boolean[]> {
    this.#calls.check('settle')
    const sending = batch.some((settlement) => settlement.outcome === 'ack' && settlement.send !== undefined)
    if (!sending || batch.length === 1) return this.#settle(batch)
    const held: boolean[] = []
    for (const settlement of batch) held.push(...(await this.#settle([settlement])))
    return held
  }

  /** Of those nobody else will settle; if it cannot be done now they go back later, with whatever else is lost. */
  async settleOurs(taken: readonly Taken[], outcome: 'ack' | 'back'): Promise<void> {
    try {
      await this.settle(
        taken.map((token) =>
          outcome === 'ack' ? { token, outcome } : { token, outcome: 'retry', due: 0, counted: false },
        ),
      )
    } catch {
      this.#member.lose(taken)
    }
  }

  async #settle(batch: readonly Settlement[]): Promise<boolean[]> {
    const member = this.#member
    const held = new Array<boolean>(batch.length).fill(false)
    const groups: Group[] = []
    const others: { settlement: Settlement; at: number }[] = []
    for (const [at, settlement] of batch.entries()) {
      const taken = settlement.token as Taken
      if (taken.chunk.life !== member.life || !member.held.has(taken)) continue
      if (settlement.outcome !== 'ack' || settlement.send !== undefined || taken.isMarked) {
        others.push({ settlement, at })
        continue
      }
      const { chunk } = taken
      let group = groups.find((one) => one.chunk.queue === chunk.queue && one.chunk.rank === chunk.rank)
      if (group === undefined) {
        group = { chunk, taken: [], places: [] }
        groups.push(group)
      }
      group.taken.push(taken)
      group.places.push(at)
    }
    // Where the answer to each of what is asked belongs.
    const places = [...groups.map((group) => group.places), ...others.map(({ at }) => [at])]
    if (places.length === 0) return held
    const reply = await this.#ask(batch, groups, others)
    if (reply === undefined) return held
    for (const [n, answered] of places.entries()) {
      for (const at of answered) {
        held[at] = reply[n] === 1
        const { outcome, token } = batch[at] as Settlement
        if (outcome !== 'extend' && outcome !== 'begin') member.held.delete(token as Taken)
      }
    }
    return held
  }

  /** Undefined if this process was thought dead meanwhile. */
  async #ask(
    batch: readonly Settlement[],
    groups: readonly Group[],
    others: readonly { settlement: Settlement }[],
  ): Promise<Reply | undefined> {
    const member = this.#member
    const { life } = member
    const settled = others.map(({ settlement }) => settlement)
    const args = this.#args(groups, settled)
    const argsNow = (isAgain: boolean) =>
      member.life === life ? [...this.#calls.begin(), member.name, isAgain ? 1 : 0, ...args] : undefined
    const argsWhenCertain = (isAgain: boolean) => member.certainty?.then(() => argsNow(isAgain)) ?? argsNow(isAgain)
    try {
      const reply = await this.#calls.track(
        this.#calls.connection.run<Reply | undefined>('settle', 'settle', argsWhenCertain),
      )
      if (reply?.[0] instanceof Buffer) duplicatesOf(reply)
      return reply
    } catch (error) {
      // Whether it was done is not known; nothing is held that nobody will settle.
      if ((error as QueueError).code === 'ERR_BUS_CONNECTION') member.lose(batch.map(({ token }) => token as Taken))
      throw error
    }
  }

  #args(groups: readonly Group[], others: readonly Settlement[]): Args {
    const args: (string | number | Buffer)[] = [groups.length]
    for (const { chunk, taken } of groups) {
      const bytes = taken.reduce((sum, { size }) => sum + size, 0)
      args.push(chunk.queue, chunk.rank, bytes, taken.map(({ entry }) => entry).join('\n'))
    }
    args.push(others.length)
    let send: readonly Addressed[] = []
    for (const settlement of others) {
      const { chunk, entry, times, key, size, limited, worn, field } = settlement.token as Taken
      const place = { q: chunk.queue, r: chunk.rank, id: entry, t: times }
      const about = { ...place, k: key, b: size, l: limited, w: worn, o: settlement.outcome }
      switch (settlement.outcome) {
        case 'ack':
          send = settlement.send ?? []
          args.push(JSON.stringify(send.length === 0 ? about : { ...about, send: 1 }))
          break
        case 'retry':
          args.push(JSON.stringify({ ...about, d: settlement.due, c: settlement.counted ? 1 : 0 }))
          break
        case 'dead':
          args.push(JSON.stringify({ ...about, dq: settlement.queue, f: field, m: buried(settlement) }))
          break
        case 'extend':
          // Whatever is asked for from now on has a limit to remove, too.
          ;(settlement.token as Taken).limited = true
          args.push(JSON.stringify({ ...about, d: settlement.until, a: chunk.alone ? 1 : 0 }))
          break
        default:
          args.push(JSON.stringify(about))
      }
    }
    args.push(...argsOf(send, this.#calls.clock.now()))
    return args
  }
}
