// Messages that are sent again and again, at times that all processes of the bus agree on.
import { randomUUID } from 'node:crypto'
import { createRequire } from 'node:module'
import { checkOptions, invalidType, invalidValue, outOfRange, QueueError } from '../errors.ts'
import type { Clock } from './clock.ts'
import type { Message } from './message.ts'
import { type Item, Queue, type QueueOptions } from './queue.ts'
import { BUS_BATCH, type Transport } from './transport.ts'

export interface ScheduleTimes {
  /** Every so many milliseconds, from when it is set on. */
  every?: number | undefined
  /** At the times of a cron expression, of five fields or six with seconds. */
  cron?: string | undefined
  /** Of `cron`: such as 'Europe/Berlin'. Default: the local time of whichever process works out the next time. */
  timezone?: string | undefined
}

export interface ScheduleOptions extends ScheduleTimes, Omit<Item, 'body' | 'id' | 'delay' | 'at'> {
  /**
   * What becomes of times at which no process was there: `once`, one message for all of them, as soon as one is there;
   * `skip`, none. Default: `once`.
   */
  missed?: 'once' | 'skip' | undefined
}

export interface Schedule extends ScheduleTimes {
  readonly name: string
  readonly queue: string
  readonly body: unknown
  /** The next time, of which one message will be sent. */
  readonly next: Date
}

interface Note {
  generation: string
  queue: string
  body: unknown
  times: ScheduleTimes
  missed: 'once' | 'skip'
  options: Omit<Item, 'body'>
  first: number
}

interface Tick {
  name: string
  generation: string
  due: number
}

/** What schedules need of their bus. */
export interface SchedulesContext {
  readonly transport: Transport
  readonly clock: Clock
  queue(name: string, options?: QueueOptions): Queue
}

const TICKS = 'bus/schedules'
const PREFIX = 'schedule/'
/** A tick that is so late was missed; milliseconds. */
const LATE = 60_000
/** A schedule ends with its tick: that is tried again whatever its target says, and whoever dies over it. */
const RETRY = { max: 1e9, losses: 1e9, cap: 10_000 }
/** Milliseconds before what could not take ticks any more does again. */
const AGAIN = 1000

type CronClass = new (
  expression: string,
  options: { timezone?: string | undefined; paused: boolean },
) => { nextRun(after: Date): Date | null }

function loadCron(): CronClass {
  try {
    return (createRequire(import.meta.url)('croner') as { Cron: CronClass }).Cron
  } catch (error) {
    const hint = 'npm install croner@10'
    throw Object.assign(new QueueError('ERR_BUS_NO_CRON', { syscall: 'schedule', hint }), { cause: error })
  }
}

/** The first time after `after` (and, of `every`, in step with `from`); undefined if there is none. */
function nextOf({ every, cron, timezone }: ScheduleTimes, from: number, after: number): number | undefined {
  if (every !== undefined) return from + every * Math.max(Math.floor((after - from) / every) + 1, 1)
  const Cron = loadCron()
  return new Cron(cron as string, { timezone, paused: true }).nextRun(new Date(after))?.getTime()
}

export class Schedules {
  readonly #context: SchedulesContext
  #running = false

  /** @internal */
  constructor(context: SchedulesContext) {
    this.#context = context
  }

  /**
   * Has a message sent to a queue at each of these times: one for each, however many processes there are, by one of
   * those that have called this or {@link run}. A schedule of this name that is there is replaced, unless it is the same.
   * What the queue has no room for is tried again until it has.
   *
   * Times go by the clock of the machine. When it jumps ahead, the times between are missed; when it jumps back, no time
   * comes twice.
   */
  async set(name: string, queue: Queue, body: unknown, options: ScheduleOptions): Promise<void> {
    if (typeof name !== 'string' || name === '') throw invalidType('name of the schedule', 'a string', name)
    if (!(queue instanceof Queue)) throw invalidType('queue of the schedule', 'a queue of the bus', queue)
    checkOptions(options)
    const { every, cron, timezone, missed = 'once', ...rest } = options
    if ((every === undefined) === (cron === undefined))
      throw invalidValue('"every" or "cron" option', 'one of the two', options)
    if (every !== undefined && !(every >= 1)) throw outOfRange('"every" option', 'a number of milliseconds >= 1', every)
    if (ArrayBuffer.isView(body)) throw invalidType('body of a schedule', 'a string, or a value that JSON has', body)
    const times = JSON.parse(JSON.stringify({ every, cron, timezone })) as ScheduleTimes
    const now = this.#context.clock.now()
    const next = nextOf(times, now, now)
    if (next === undefined) throw outOfRange('"cron" option', 'an expression that has a time in the future', cron)
    const note: Note = { generation: randomUUID(), queue: queue.name, body, times, missed, options: rest, first: next }
    const before = await this.#get(name)
    // What can never be sent is refused now.
    await this.#context.queue(queue.name).prepare(body, rest)
    if (before === undefined || !isSame(before, note) || (await this.#isDead(before))) {
      const tick = await this.#tick({ name, generation: note.generation, due: next })
      await this.#context.transport.put(PREFIX + name, JSON.stringify(note), { send: [tick] })
    }
    this.run()
  }

  /** Resolves to whether there was one. */
  async remove(name: string): Promise<boolean> {
    const before = await this.#get(name)
    await this.#context.transport.put(PREFIX + name, undefined)
    return before !== undefined
  }

  async list(): Promise<Schedule[]> {
    const entries = await this.#context.transport.entries(PREFIX)
    const now = this.#context.clock.now()
    return entries.map(([key, value]) => {
      const { queue, body, times, first } = JSON.parse(value) as Note
      const next = first > now ? first : (nextOf(times, first, now) ?? Number.NaN)
      return { name: key.slice(PREFIX.length), queue, body, ...times, next: new Date(next) }
    })
  }

  /** Lets this process be one of those that send what is due, until the bus is closed. */
  run(): void {
    if (this.#running) return
    this.#running = true
    const { closed } = this.#ticks.consume((message) => this.#onTick(message as Message<Tick>))
    // It rejects when the store could not be had, and resolves when the bus is closed.
    closed.catch(() => {
      this.#running = false
      setTimeout(() => this.run(), AGAIN)
    })
  }

  get #ticks(): Queue {
    return this.#context.queue(TICKS, { dedup: 0, retry: RETRY })
  }

  /** Whether its tick is a dead letter: one of an older version of this library, or one that could not be read. */
  async #isDead({ generation }: Note): Promise<boolean> {
    for (let after: string | undefined; ; ) {
      const { letters, next } = await this.#ticks.dead.list({ max: BUS_BATCH, ...(after !== undefined && { after }) })
      if (letters.some(({ id, body }) => id === generation || (body as Tick | undefined)?.generation === generation))
        return true
      if (next === undefined) return false
      after = next
    }
  }

  async #get(name: string): Promise<Note | undefined> {
    const entries = await this.#context.transport.entries(PREFIX + name)
    const value = entries.find(([key]) => key === PREFIX + name)?.[1]
    return value === undefined ? undefined : (JSON.parse(value) as Note)
  }

  #tick(tick: Tick) {
    // By its id it is known when nobody can read it.
    return this.#ticks.prepare(tick, { at: new Date(tick.due), id: tick.generation })
  }

  async #onTick(message: Message<Tick>): Promise<void> {
    const { name, generation, due } = message.body
    const note = await this.#get(name)
    if (note?.generation !== generation) return
    const now = this.#context.clock.now()
    const next = nextOf(note.times, due, Math.max(now, due))
    const isMissed = now - due > LATE && note.missed === 'skip'
    const target = this.#context.queue(note.queue)
    const send = isMissed ? [] : [await target.prepare(note.body, note.options)]
    if (next !== undefined) send.push(await this.#tick({ name, generation, due: next }))
    await message.ack({ send })
  }
}

function isSame(a: Note, b: Note): boolean {
  const essence = ({ queue, body, times, missed, options }: Note) =>
    JSON.stringify([queue, body, times, missed, options])
  return essence(a) === essence(b)
}
