// Those of this process who wait for messages, in a line for each queue; the server is asked for the first of them.
import { checkInteger, QueueError } from '../../../errors.ts'
import { checkSignal, Waiter } from '../../../waiting.ts'
import type { Cancel } from '../../clock.ts'
import { BUS_BATCH, type Delivery, type ReceiveOptions, unsupported } from '../../transport.ts'
import type { Hold } from '../engine/hold.ts'
import type { Calls } from './calls.ts'
import { type Columns, type Taken, takenOf } from './entry.ts'
import type { Member } from './member.ts'
import type { Settling } from './settling.ts'

interface Receiver {
  readonly options: ReceiveOptions
  readonly waiter: Waiter<Delivery[]>
  /** The server was asked for him, and had nothing. */
  looked: boolean
  /** His time is over. */
  late: boolean
}

/** Those of this process who wait for one queue. */
interface Line {
  readonly name: string
  readonly receivers: Receiver[]
  cancel: Cancel | undefined
  serving: boolean
  again: boolean
}

export interface Surroundings {
  readonly calls: Calls
  readonly member: Member
  readonly settling: Settling
  readonly hold: Hold
  /** Milliseconds to wait for a connection. */
  readonly patience: number
  /** Borrows a queue again that went with this process when it was thought dead; false if it is not its own. */
  restore(queue: string): Promise<boolean>
}

/** What was taken; if nothing, after how many milliseconds there may be something. */
interface Claimed {
  readonly taken: Taken[]
  readonly wait: number | undefined
}

export class Receiving {
  readonly #around: Surroundings
  readonly #lines = new Map<string, Line>()

  constructor(around: Surroundings) {
    this.#around = around
  }

  receive(name: string, options: ReceiveOptions): Promise<Delivery[]> {
    checkInteger('"max" option', options.max, 1, BUS_BATCH)
    checkSignal(options.signal)
    if (options.start !== undefined) throw unsupported('start', 'receive')
    const line = this.#lineOf(name)
    const waiter: Waiter<Delivery[]> = new Waiter(options.deadline, options.signal, (ended, reason) => {
      receiver.late = true
      if (reason !== 'timeout') this.#leave(line, receiver, () => ended.reject(reason))
      else if (receiver.looked) this.#leave(line, receiver, () => ended.resolve([]))
      else this.#waitForLook(line, receiver)
    })
    const receiver: Receiver = { options, waiter, looked: false, late: false }
    line.receivers.push(receiver)
    if (!options.background) this.#around.hold.take()
    void this.#serve(line)
    return waiter.promise
  }

  /** What is there is to be found although the time is over; a consumer waits for as long as nobody can say what is there. */
  #waitForLook(line: Line, receiver: Receiver): void {
    if (receiver.options.together) return
    const { calls, patience } = this.#around
    const giveUp = () => {
      const { failure } = calls.connection
      if (failure !== undefined) this.#leave(line, receiver, () => receiver.waiter.reject(failure))
      else if (line.receivers.includes(receiver)) setTimeout(giveUp, patience).unref()
    }
    setTimeout(giveUp, patience).unref()
  }

  #lineOf(name: string): Line {
    let line = this.#lines.get(name)
    if (line === undefined) {
      line = { name, receivers: [], cancel: undefined, serving: false, again: false }
      this.#lines.set(name, line)
    }
    return line
  }

  #leave(line: Line, receiver: Receiver, settle: () => void): void {
    const at = line.receivers.indexOf(receiver)
    if (at < 0) return
    line.receivers.splice(at, 1)
    if (!receiver.options.background) this.#around.hold.release()
    if (line.receivers.length === 0) line.cancel?.()
    settle()
  }

  #leaveAll(line: Line, error: unknown): void {
    for (const receiver of [...line.receivers]) this.#leave(line, receiver, () => receiver.waiter.reject(error))
  }

  /** There may be something in a queue. */
  ring(queue: string): void {
    const line = this.#lines.get(queue)
    if (line !== undefined && line.receivers.length > 0) void this.#serve(line)
  }

  ringAll(): void {
    for (const queue of this.#lines.keys()) this.ring(queue)
  }

  async #serve(line: Line): Promise<void> {
    line.again = true
    if (line.serving) return
    line.serving = true
    try {
      while (line.again && line.receivers[0] !== undefined) {
        line.again = false
        line.cancel?.()
        const present = [...line.receivers]
        const asked = present[0] as Receiver
        const { taken, wait } = await this.#claim(line.name, asked.options)
        if (taken.length > 0) {
          line.again = true
          await this.#hand(line, asked, taken)
        } else {
          this.#tellLate(line, present)
          if (await this.#listen(line)) line.again = true
          else if (wait !== undefined && line.receivers.length > 0) {
            line.cancel = this.#around.calls.clock.after(wait, () => this.ring(line.name))
          }
        }
      }
    } catch (error) {
      this.#leaveAll(line, error)
    } finally {
      line.serving = false
    }
  }

  /** Whether it has only now begun to listen: something may have come before. */
  async #listen(line: Line): Promise<boolean> {
    const { connection, prefix } = this.#around.calls
    const channel = `${prefix}bell:${line.name}`
    if (line.receivers.length === 0 || connection.hears(channel)) return false
    const background = line.receivers.every(({ options }) => options.background)
    await connection.listen(channel, { patience: Number.POSITIVE_INFINITY, background })
    return true
  }

  #tellLate(line: Line, present: readonly Receiver[]): void {
    for (const receiver of present) {
      receiver.looked = true
      if (receiver.late || receiver.options.deadline <= performance.now()) {
        this.#leave(line, receiver, () => receiver.waiter.resolve([]))
      }
    }
  }

  /** Whoever asked may have given up meanwhile; then they are the next's who takes as many, or go back. */
  async #hand(line: Line, asked: Receiver, taken: Taken[]): Promise<void> {
    const { lease } = asked.options
    const fits = ({ options }: Receiver) => options.max >= taken.length && options.lease === lease
    const taker = line.receivers.includes(asked) ? asked : line.receivers.find(fits)
    if (taker !== undefined) this.#leave(line, taker, () => taker.waiter.resolve(taken))
    else await this.#around.settling.settleOurs(taken, 'back')
  }

  async #claim(queue: string, options: ReceiveOptions): Promise<Claimed> {
    for (;;) {
      const claimed = await this.#ask(queue, options)
      if (claimed === undefined) continue
      const taken = await this.#withoutExpired(claimed.taken)
      if (taken.length > 0 || claimed.taken.length === 0) return { ...claimed, taken }
    }
  }

  /** Undefined if it has to be asked again. */
  async #ask(queue: string, options: ReceiveOptions): Promise<Claimed | undefined> {
    const { calls, member } = this.#around
    const { background = false, lease, max } = options
    const limit = lease === Number.POSITIVE_INFINITY ? '' : lease
    calls.check('receive')
    let [name, life, turns] = ['', 0, 0]
    const argsNow = () => {
      name = member.name
      life = member.life
      turns = member.turns
      return [...calls.begin(), queue, name, max, limit]
    }
    const args = (isAgain: boolean) => {
      // What it was handed the first time is not known.
      if (isAgain && name === member.name) member.wonder()
      return member.ready(background)?.then(argsNow) ?? argsNow()
    }
    const how = { patience: Number.POSITIVE_INFINITY, background }
    type Answer = [state: Buffer, what: Buffer | Columns[]]
    let answer: Answer
    try {
      answer = await calls.track(calls.connection.run<Answer>('claim', 'receive', args, how))
    } catch (error) {
      // Nor then.
      member.wonder()
      throw error
    }
    const [state, what] = answer
    switch (String(state)) {
      case 'gone':
        member.die(name)
        return undefined
      case 'dropped':
        if (await this.#around.restore(queue)) return undefined
        throw new QueueError('EIDRM', {
          syscall: 'receive',
          path: queue,
          hint: 'it went with the process that had borrowed it',
        })
      case 'none':
        return { taken: [], wait: String(what) === '' ? undefined : Number(String(what)) }
    }
    // It was not known yet that they are here, and they went back.
    if (turns !== member.turns) return undefined
    const taken = takenOf(queue, what as Columns[], { limited: limit !== '', life })
    for (const one of taken) member.held.add(one)
    return { taken, wait: undefined }
  }

  /** What nobody wants any more is done with. */
  async #withoutExpired(taken: Taken[]): Promise<Taken[]> {
    const now = this.#around.calls.clock.now()
    const isOver = ({ expires }: Taken) => expires > 0 && expires <= now
    if (!taken.some(isOver)) return taken
    await this.#around.settling.settleOurs(taken.filter(isOver), 'ack')
    return taken.filter((one) => !isOver(one))
  }

  /** The queue is no more. */
  drop(queue: string): void {
    if (this.#lines.get(queue)?.receivers.length === 0) this.#lines.delete(queue)
  }

  /** Nobody gets anything more. */
  close(error: unknown): void {
    for (const line of this.#lines.values()) {
      line.cancel?.()
      this.#leaveAll(line, error)
    }
  }
}
