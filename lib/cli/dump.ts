import { PosixQueue } from '../index.ts'
import { type Command, defineCommand, JSON_OPTION } from './command.ts'
import { EXIT, UsageError } from './errors.ts'
import { interruptible } from './interruption.ts'
import { type KernelMessage, plural } from './messages.ts'
import { codeOf, giveNow, holding, type KernelQueue, nameOf, openSource, putBack, type Source } from './moving.ts'
import { Output } from './output.ts'
import { attributesOf, toLines } from './snapshot.ts'
import { openTarget, parseTarget } from './target.ts'
import { note, syncOutput } from './terminal.ts'

export const dump: Command = defineCommand({
  name: 'dump',
  summary: 'write the messages of a queue to a file',
  operands: 'QUEUE',
  description: [
    'Prints a queue as lines of JSON, for kmq restore: what it is created with, each message with its priority or type and in base64, and an end, so that a file that was cut is noticed. A file is on the disk when the command ends.',
    'Messages of System V queues are copied, and stay. Those of POSIX queues can only be taken: --drain takes them for good, once they are written; --keep takes them all and puts them back at once, in order. What others send at that moment may come in between, and a process killed at that moment loses them.',
    'When the file cannot be written, what was taken is put back.',
  ],
  options: {
    drain: { type: 'boolean', help: 'take the messages' },
    keep: { type: 'boolean', help: 'leave the messages in the queue' },
    ...JSON_OPTION,
    json: { type: 'boolean', help: 'errors as JSON, as the result is in any case' },
  },
  examples: [
    ['kmq dump 0x2a > 0x2a.jsonl', 'a copy of a System V queue'],
    ['kmq dump /orders --keep > orders.jsonl', 'a copy of a POSIX queue that nobody else uses'],
    ['kmq dump /orders --drain > orders.jsonl', 'before a reboot; kmq restore /orders < orders.jsonl after it'],
  ],
  async run({ operands: [text = ''], options }) {
    const target = parseTarget(text)
    if (options.drain && options.keep) throw new UsageError('--drain and --keep exclude each other')
    if (target.family === 'posix' && !options.drain && !options.keep)
      throw new UsageError(
        `the messages of a POSIX queue can only be taken: --drain takes them out of ${text}, --keep puts them back`,
      )
    // Who may not put back must not take.
    const source = options.keep ? { target, queue: openTarget(target, { access: 'readwrite' }) } : openSource(target)
    const { queue } = source
    const attributes = attributesOf(queue)
    return interruptible(async (signal) => {
      const output = new Output(signal)
      const messages = options.drain ? drain(queue) : await copy(source, options.json)
      const header = { queue: nameOf(source), family: target.family, attributes }
      const held = options.drain ? messages : []
      try {
        await holding(source, held, options.json, () => writeAll(output, toLines(header, messages), signal))
      } catch (error) {
        await putBack(source, held, options.json)
        if (codeOf(error) === 'EPIPE') return EXIT.brokenPipe
        if (signal.aborted) return EXIT.failure
        throw error
      }
      if (!process.stdout.isTTY)
        note(`${plural(messages.length)} ${options.drain ? 'taken out of' : 'of'} ${text}`, options.json)
      return 0
    })
  },
})

async function writeAll(output: Output, lines: Iterable<string>, signal: AbortSignal): Promise<void> {
  for (const line of lines) {
    signal.throwIfAborted()
    const { count, error } = await output.write([Buffer.from(line)])
    if (count > 0) throw error
  }
  syncOutput()
}

/** What is in the queue now: not what others go on to send. */
function drain(queue: KernelQueue): KernelMessage[] {
  const { messages } = queue instanceof PosixQueue ? queue.attributes : queue.stat()
  return messages === 0 ? [] : queue.tryReceiveMany(messages)
}

/** The messages, which stay in the queue. */
async function copy(source: Source, asJson?: boolean): Promise<KernelMessage[]> {
  const { queue } = source
  if (!(queue instanceof PosixQueue)) return [...queue.browse()]
  const messages = drain(queue)
  // At once: who waits for room has to wake up first.
  const { sent } = giveNow(source, messages)
  await putBack(source, messages.slice(sent), asJson)
  return messages
}
