import { constants } from 'node:buffer'
import { fchmodSync, fchownSync } from 'node:fs'
import { PosixQueue, SysvQueue } from '../index.ts'
import { type Command, defineCommand, JSON_OPTION, toInteger } from './command.ts'
import { MAX_TIMER, toDuration } from './duration.ts'
import { EXIT, Failure, UsageError } from './errors.ts'
import { whole } from './input.ts'
import { interruptible } from './interruption.ts'
import { type Item, itemFor, plural } from './messages.ts'
import { codeOf, give, type KernelQueue, longestOf } from './moving.ts'
import { type Attributes, type Header, parseSnapshot } from './snapshot.ts'
import { openTarget, parseTarget, type Target } from './target.ts'
import { complain, harmless, note, print, printJson } from './terminal.ts'

export const restore: Command = defineCommand({
  name: 'restore',
  summary: 'send what dump has written',
  operands: '[QUEUE]',
  description: [
    'Reads what kmq dump has written from standard input, and sends the messages, in order and with their priorities or types, to QUEUE or to the queue of the dump. Where there is none it is created with the attributes of the dump.',
    'The whole input is checked before, and so is whether all of it fits: if not, nothing is done, and the code is 3; with --wait it waits for room. If it has to stop half-way it says how many are sent, and --skip goes on there.',
    'QUEUE may be of the other family, if it is there: priorities become types as kmq pipe does it.',
  ],
  options: {
    wait: { type: 'boolean', short: 'w', help: 'wait for room' },
    timeout: {
      type: 'string',
      value: 'TIME',
      help: 'wait for room, but when there is none for so long (500, 500ms, 2s) end with code 3',
    },
    skip: { type: 'string', value: 'N', help: 'leave out the first N messages' },
    ...JSON_OPTION,
  },
  examples: [
    ['kmq restore < orders.jsonl', 'to the queue that it was'],
    ['kmq restore /orders-2 --wait < orders.jsonl', 'to another one, as fast as somebody receives'],
  ],
  async run({ operands: [name], options }) {
    const skip = toInteger('skip', options.skip ?? '0', 0, Number.MAX_SAFE_INTEGER)
    const limit = toDuration('timeout', options.timeout, MAX_TIMER)
    const isPatient = options.wait === true || limit !== undefined
    if (name !== undefined) parseTarget(name)
    if (process.stdin.isTTY) throw new UsageError('the dump comes on standard input: kmq restore < FILE')
    const dump = await whole(process.stdin, constants.MAX_STRING_LENGTH - 65536, 'Longer dumps cannot be read.')
    const { header, items: all } = parseSnapshot(dump.toString())
    const target = parseTarget(name ?? header.queue)
    if (name === undefined && target.family === 'sysv' && 'id' in target.at)
      throw new UsageError(`the dump is of a queue without a key, ${header.queue}: say which one is meant`)
    const items = all.slice(skip).map((item) => itemFor(target.family, item))
    const { queue, created } = openOrCreate(target, header)
    try {
      const problem = checkFit(queue, items, target.text)
      if (problem !== undefined && !isPatient) {
        if (created) remove(queue, target)
        complain('kmq restore', problem, options.json)
        return EXIT.timeout
      }
    } catch (error) {
      if (created) remove(queue, target)
      throw error
    }
    return interruptible(async (signal) => {
      const { sent, error } = await give({ target, queue }, items, { timeout: isPatient ? limit : 0, signal })
      if (error === undefined) {
        const bytes = items.reduce((sum, { data }) => sum + data.length, 0)
        if (options.json) await printJson({ queue: target.text, created, restored: sent, bytes })
        else await print(`${plural(sent)} restored to ${harmless(target.text)}${created ? ', which was created' : ''}`)
        return 0
      }
      const hint = `kmq restore --skip ${skip + sent} goes on there.`
      const partly = `${sent} of ${plural(items.length)} restored to ${target.text}`
      if (signal.aborted) {
        note(`interrupted; ${partly}. ${hint}`, options.json)
        return EXIT.failure
      }
      const isFull = codeOf(error) === 'ETIMEDOUT'
      const why = isFull ? 'it is full' : (error as Error).message
      complain(
        'kmq restore',
        Object.assign(new Failure(`${partly}: ${why}`, hint), { sent, code: codeOf(error) }),
        options.json,
      )
      return isFull ? EXIT.timeout : EXIT.failure
    })
  },
})

function openOrCreate(target: Target, { family, attributes }: Header): { queue: KernelQueue; created: boolean } {
  try {
    return { queue: openTarget(target, { access: 'write' }), created: false }
  } catch (error) {
    if (codeOf(error) !== 'ENOENT') throw error
    if (attributes === undefined || family !== target.family)
      throw new Failure(
        `there is no queue ${target.text}, and the dump does not say how to create it`,
        'Create it first: kmq create.',
      )
    const queue = create(target, attributes)
    try {
      own(queue, attributes)
    } catch (failure) {
      remove(queue, target)
      throw failure
    }
    return { queue, created: true }
  }
}

function create(target: Target, { mode, maxMessages, messageSize, maxBytes }: Attributes): KernelQueue {
  const options = { exclusive: true, mode: Number.parseInt(mode, 8) }
  return openTarget(target, {
    posix: { ...options, maxMessages, messageSize },
    sysv: { ...options, maxBytes },
  })
}

/** Whose it was, and what they may do, whatever the umask; only root can give a queue to somebody else. */
function own(queue: KernelQueue, { mode, uid, gid }: Attributes): void {
  const isRoot = process.geteuid?.() === 0
  if (queue instanceof PosixQueue) {
    fchmodSync(queue.fd, Number.parseInt(mode, 8))
    if (isRoot) fchownSync(queue.fd, uid, gid)
  } else if (isRoot) {
    queue.set({ uid, gid })
  }
}

function remove(queue: KernelQueue, target: Target): void {
  if (queue instanceof SysvQueue) queue.remove()
  else if (target.family === 'posix') PosixQueue.unlink(target.name)
}

/**
 * Why there is no room now.
 *
 * @throws {Failure} if there never is
 */
function checkFit(queue: KernelQueue, items: readonly Item[], text: string): Failure | undefined {
  const state = stateOf(queue)
  const longest = Math.min(longestOf(queue), state?.maxBytes ?? Number.POSITIVE_INFINITY)
  const index = items.findIndex(({ data }) => data.length > longest)
  if (index !== -1)
    throw new Failure(
      `message ${index + 1} has ${items[index]?.data.length} bytes, and ${text} takes ${longest}; nothing was restored`,
      'Create a queue for longer messages, and restore to that.',
    )
  const bytes = items.reduce((sum, { data }) => sum + data.length, 0)
  if (state === undefined || (items.length <= state.room && bytes <= state.roomBytes)) return undefined
  const problem = new Failure(
    `${plural(items.length)} of ${bytes} bytes do not fit into ${text}; nothing was restored`,
    '--wait waits for room.',
  )
  return Object.assign(problem, { code: 'ETIMEDOUT' })
}

/** Undefined if this user may not see it. */
function stateOf(queue: KernelQueue): { room: number; roomBytes: number; maxBytes: number } | undefined {
  if (queue instanceof PosixQueue) {
    const { maxMessages, messages } = queue.attributes
    return { room: maxMessages - messages, roomBytes: Number.POSITIVE_INFINITY, maxBytes: Number.POSITIVE_INFINITY }
  }
  try {
    const { messages, bytes, maxBytes } = queue.stat()
    return { room: maxBytes - messages, roomBytes: maxBytes - bytes, maxBytes }
  } catch (error) {
    if (codeOf(error) === 'EACCES') return undefined
    throw error
  }
}
