import { setTimeout as sleep } from 'node:timers/promises'
import { PosixQueue, SysvQueue } from '../index.ts'
import { type Command, defineCommand, JSON_OPTION } from './command.ts'
import { MAX_TIMER, toDuration } from './duration.ts'
import { EXIT, Failure, UsageError } from './errors.ts'
import { interruptible } from './interruption.ts'
import { type Item, itemFor, type KernelMessage, plural, toCount, toTag } from './messages.ts'
import { batchFor, checkThere, codeOf, give, holding, openSource, putBack, type Source, take } from './moving.ts'
import { type Progress, showProgress } from './progress.ts'
import { openTarget, parseTarget } from './target.ts'
import { complain, note, print, printJson } from './terminal.ts'

export const pipe: Command = defineCommand({
  name: 'pipe',
  summary: 'move messages from one queue to another',
  operands: 'FROM TO',
  description: [
    'Moves what is in one queue to another, of either family, in the order in which it is received; then it ends, or with --follow goes on. It waits while the other queue is full. The code is 3 if there was nothing to move.',
    'Priorities and types stay what they are. Between the families, priority p is type p+1 and back, so that defaults stay defaults; with --invert it is type 32768-p, for receivers that take the lowest type first. A type above 32768 is no priority: --priority gives one to all.',
    'No message is lost: what was taken and cannot be sent, after Ctrl-C too, is put back (behind others of its priority; System V: behind all), or kept in a file if that queue is gone as well.',
  ],
  options: {
    count: { type: 'string', short: 'n', value: 'N', help: 'move so many at most' },
    follow: { type: 'boolean', short: 'f', help: 'go on until Ctrl-C, or --count' },
    timeout: {
      type: 'string',
      value: 'TIME',
      help: 'wait no longer than this for a message or for room (500, 500ms, 2s)',
    },
    invert: { type: 'boolean', help: 'the highest priority is the lowest type' },
    priority: { type: 'string', short: 'p', value: 'N', help: 'to POSIX: of all that is moved' },
    type: { type: 'string', short: 't', value: 'N', help: 'to System V: of all that is moved' },
    ...JSON_OPTION,
  },
  examples: [
    ['kmq pipe /orders /orders-new', 'all that is there, such as into a larger queue'],
    ['kmq pipe 0x2a /orders --follow', 'from the old program to the new one'],
    ['kmq pipe /dead /orders -n 10', 'ten of them again'],
  ],
  async run({ operands: [from = '', to = ''], options }) {
    const target = parseTarget(to)
    const source = openSource(parseTarget(from))
    const tag = toTag(target, options)
    const most = toCount(options.count) ?? Number.POSITIVE_INFINITY
    const given = toDuration('timeout', options.timeout, MAX_TIMER)
    const sink = { target, queue: openTarget(target, { access: 'write' }) }
    if (isSame(source, sink)) throw new UsageError('the queues are one and the same')
    const convert = (message: KernelMessage): Item => {
      const { data } = message
      return Object.keys(tag).length > 0 ? { data, ...tag } : itemFor(target.family, message, options.invert)
    }
    return interruptible(async (signal) => {
      const total = options.follow ? undefined : Math.min(depthOf(source) ?? 0, most)
      const progress = options.json ? undefined : await showProgress(total)
      const mover = new Mover(source, sink, convert, progress, options.json)
      const limits = {
        most,
        patience: options.follow ? given : (given ?? 0),
        roomPatience: given,
        signal,
      }
      try {
        await mover.run(limits)
      } catch (error) {
        progress?.stop()
        const { moved } = mover
        if (signal.aborted) note(`interrupted; ${plural(moved)} moved`, options.json)
        else if (moved > 0) note(`${plural(moved)} moved before`, options.json)
        if (codeOf(error) !== 'ETIMEDOUT') throw error
        const full = Object.assign(new Failure(`${to} is full`), { code: 'ETIMEDOUT', sent: moved })
        complain('kmq pipe', full, options.json)
        return EXIT.timeout
      }
      progress?.stop()
      const { moved, bytes } = mover
      if (options.json) await printJson({ from, to, moved, bytes })
      else await print(`${plural(moved)} moved`)
      return moved > 0 ? 0 : EXIT.timeout
    })
  },
})

function isSame({ target, queue }: Source, sink: Source): boolean {
  if (queue instanceof SysvQueue) return sink.queue instanceof SysvQueue && queue.id === sink.queue.id
  return target.family === 'posix' && sink.target.family === 'posix' && target.name === sink.target.name
}

/** Who may only receive, does not know. */
function depthOf({ queue }: Source): number | undefined {
  try {
    return queue instanceof PosixQueue ? queue.attributes.messages : queue.stat().messages
  } catch {
    return undefined
  }
}

interface Limits {
  readonly most: number
  /** How long to wait for a message. */
  readonly patience: number | undefined
  readonly roomPatience: number | undefined
  readonly signal: AbortSignal
}

class Mover {
  moved = 0
  bytes = 0
  readonly #source: Source
  readonly #sink: Source
  readonly #convert: (message: KernelMessage) => Item
  readonly #progress: Progress | undefined
  readonly #asJson: boolean | undefined

  constructor(
    source: Source,
    sink: Source,
    convert: (message: KernelMessage) => Item,
    progress: Progress | undefined,
    asJson: boolean | undefined,
  ) {
    this.#source = source
    this.#sink = sink
    this.#convert = convert
    this.#progress = progress
    this.#asJson = asJson
  }

  /** Until there is no message in time, or `most` are moved. */
  async run({ most, patience, roomPatience, signal }: Limits): Promise<void> {
    const batch = batchFor(this.#source.queue)
    while (this.moved < most) {
      if (patience === 0 && depthOf(this.#source) === 0) return
      // What is not taken need not be put back, and keeps its place.
      const room = await this.#room(roomPatience, signal)
      const max = Math.min(batch, most - this.moved, room)
      const messages = await take(this.#source, { max, timeout: patience, signal })
      if (messages === undefined) return
      const { items, error: unfit } = this.#convertAll(messages)
      const { sent, error } = await holding(this.#source, messages, this.#asJson, (onSent) =>
        give(this.#sink, items, { timeout: roomPatience, signal, onSent }),
      )
      this.moved += sent
      for (const { data } of items.slice(0, sent)) this.bytes += data.length
      this.#progress?.update(this.moved, this.bytes)
      if (sent === messages.length) continue
      await putBack(this.#source, messages.slice(sent), this.#asJson)
      throw error ?? unfit
    }
  }

  #convertAll(messages: readonly KernelMessage[]): { items: Item[]; error: unknown } {
    const items: Item[] = []
    try {
      for (const message of messages) items.push(this.#convert(message))
      return { items, error: undefined }
    } catch (error) {
      return { items, error }
    }
  }

  /** For how many messages there is room, as far as that can be known; waits while there is none. */
  async #room(timeout = Number.POSITIVE_INFINITY, signal: AbortSignal): Promise<number> {
    const { queue, target } = this.#sink
    const deadline = performance.now() + timeout
    for (;;) {
      checkThere(queue, target)
      const room = roomIn(queue, this.moved === 0 ? 1 : this.bytes / this.moved)
      if (room > 0) return room
      const left = deadline - performance.now()
      if (left <= 0) throw Object.assign(new Failure(`${target.text} is full`), { code: 'ETIMEDOUT' })
      await roomMayBe(queue, Math.min(left, LOOK), signal)
    }
  }
}

/** Between two looks at a full queue, in milliseconds. */
const LOOK = 1000
const SYSV_LOOK = 50

async function roomMayBe(queue: PosixQueue | SysvQueue, timeout: number, signal: AbortSignal): Promise<void> {
  if (queue instanceof SysvQueue) {
    await sleep(Math.min(timeout, SYSV_LOOK), undefined, { signal })
    return
  }
  try {
    await queue.waitWritable({ timeout, signal })
  } catch (error) {
    if (codeOf(error) !== 'ETIMEDOUT') throw error
  }
}

/** @param mean bytes of a message */
function roomIn(queue: PosixQueue | SysvQueue, mean: number): number {
  if (queue instanceof PosixQueue) {
    const { messages, maxMessages } = queue.attributes
    return maxMessages - messages
  }
  try {
    const { messages, bytes, maxBytes } = queue.stat()
    if (bytes >= maxBytes || messages >= maxBytes) return 0
    return Math.max(1, Math.floor((maxBytes - bytes) / Math.max(mean, 1)))
  } catch (error) {
    if (codeOf(error) === 'EACCES') return 1 // who may only send cannot see it
    throw error
  }
}
