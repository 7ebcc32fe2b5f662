import { addAbortSignal } from 'node:stream'
import type { Item, Queue, Receipt, SendOptions } from '../../bus/index.ts'
import { type Call, type Command, JSON_OPTION, type OptionSpec, toInteger } from '../command.ts'
import { toDuration } from '../duration.ts'
import { Failure, UsageError } from '../errors.ts'
import { LF, openInput, pieces, whole } from '../input.ts'
import { note, print, printJson } from '../terminal.ts'
import { defineBusCommand, queueOf } from './connection.ts'
import { oneLine } from './messages.ts'

/** Bytes of the longest body of any bus. */
const LONGEST = 2 ** 30

/** The most that go together. */
const BATCH = 500

/** What fewer messages may not meet with. */
const TOO_MANY = new Set(['ERR_BUS_QUEUE_FULL', 'ERR_OUT_OF_RANGE'])

const options = {
  id: { type: 'string', value: 'ID', help: 'the id; the same again within five minutes sends nothing' },
  key: { type: 'string', short: 'k', value: 'KEY', help: 'messages of one key are handled one after the other' },
  priority: { type: 'string', short: 'p', value: 'N', help: '0 to 255, the highest first; default: 0' },
  delay: { type: 'string', value: 'TIME', help: 'before it may be received, such as 500ms or 2h' },
  ttl: { type: 'string', value: 'TIME', help: 'after which nobody wants it any more' },
  header: { type: 'string', short: 'H', multiple: true, value: 'NAME=VALUE', help: 'may be given several times' },
  'json-body': { type: 'boolean', help: 'the body is JSON, and is received as its value' },
  bytes: { type: 'boolean', help: 'the body is received as bytes, though it be text' },
  lines: { type: 'boolean', short: 'l', help: 'each line is a message' },
  wait: { type: 'boolean', help: 'wait for room in a full queue' },
  create: { type: 'boolean', help: 'make the bus if there is none' },
  ...JSON_OPTION,
} as const satisfies Record<string, OptionSpec>

export const send: Command = defineBusCommand({
  name: 'send',
  summary: 'send messages',
  operands: 'QUEUE [TEXT|@FILE|-]',
  description: [
    'Sends TEXT, or what is in FILE, or on stdin (- or nothing), and prints the id. A queue is made when it is first used. What is UTF-8 is received as text, anything else as bytes.',
    'With --lines each id is printed when its message is in the queue. When a queue is full the exit code is 3, and stderr tells when there may be room; what was printed before has been sent.',
  ],
  options,
  examples: [
    ['kmq bus local:/var/lib/app send mail hello', 'text'],
    ['kmq bus local:/var/lib/app send mail --json-body \'{"to":"ada"}\' --id welcome-1', 'a value'],
    ['kmq bus local:/var/lib/app send rows --lines --wait @rows.txt', 'many, as there is room'],
  ],
  creates: ({ options }) => options.create === true,
  async prepare({ operands: [name = '', source = '-'], options }) {
    const { lines = false, json, wait, id } = options
    const sending = sendOptionsOf(options)
    const toBody = bodyReader(options)
    if (lines && id !== undefined) throw new UsageError('--id is that of one message, and --lines sends many')
    // Before anything is made or sent.
    if (lines) {
      const input = await openInput(source)
      return async (bus, signal) => {
        const queue = queueOf(bus, name, { overflow: wait === true ? 'wait' : 'reject' })
        if ('destroy' in input) addAbortSignal(signal, input)
        await sendLines(pieces(input, LF, LONGEST), queue, { ...sending, signal }, toBody, json === true)
        return 0
      }
    }
    const body = toBody(await whole(await openInput(source), LONGEST))
    return async (bus, signal) => {
      const queue = queueOf(bus, name, { overflow: wait === true ? 'wait' : 'reject' })
      const receipt = await queue.send(body, { ...sending, signal })
      await (json === true ? printJson(receipt) : tell([receipt]))
      return 0
    }
  },
})

type Options = Call<typeof options>['options']

function sendOptionsOf({ id, key, priority, delay, ttl, header = [] }: Options): SendOptions {
  const headers = header.map((pair): [string, string] => {
    const at = pair.indexOf('=')
    if (at < 1) throw new UsageError(`--header is NAME=VALUE, not '${pair}'`)
    return [pair.slice(0, at), pair.slice(at + 1)]
  })
  return {
    id,
    key,
    priority: toInteger('priority', priority, 0, 255),
    delay: toDuration('delay', delay),
    ttl: toDuration('ttl', ttl),
    headers: headers.length === 0 ? undefined : Object.fromEntries(headers),
  }
}

/** What bytes are sent as. */
function bodyReader({ 'json-body': isJson, bytes }: Options): (data: Buffer) => unknown {
  if (isJson === true && bytes === true) throw new UsageError('a body is JSON or bytes, not both')
  if (bytes === true) return (data) => data
  if (isJson !== true) return (data) => textOf(data) ?? data
  return (data) => {
    try {
      return JSON.parse(data.toString())
    } catch (error) {
      throw new Failure(`a body is no JSON: ${oneLine((error as Error).message)}`)
    }
  }
}

const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

function textOf(data: Buffer): string | undefined {
  try {
    return decoder.decode(data)
  } catch {
    return undefined
  }
}

async function sendLines(
  input: AsyncIterable<Buffer[]>,
  queue: Queue,
  { signal, ...sending }: SendOptions,
  toBody: (data: Buffer) => unknown,
  json: boolean,
): Promise<void> {
  let sent = 0
  let wrong: unknown
  try {
    for await (const lines of input) {
      const items: Item[] = []
      try {
        for (const line of lines) items.push({ body: toBody(line), ...sending })
      } catch (error) {
        // Those before it are sent.
        wrong = error
      }
      for (let at = 0; at < items.length; at += BATCH) {
        for await (const receipts of sendAll(queue, items.slice(at, at + BATCH), signal)) {
          sent += receipts.length
          await tell(receipts, json)
        }
      }
      if (wrong !== undefined) throw wrong
    }
  } catch (error) {
    if (!json) note(wrong === undefined ? `${sent} sent before` : `line ${sent + 1}; ${sent} sent before`)
    throw Object.assign(error as Error, { sent })
  }
}

/** All together, if there is room for so many. */
async function* sendAll(
  queue: Queue,
  items: readonly Item[],
  signal: AbortSignal | undefined,
): AsyncGenerator<readonly Receipt[]> {
  let receipts: Receipt[] | undefined
  try {
    receipts = await queue.sendMany(items, { signal })
  } catch (error) {
    if (items.length === 1 || !TOO_MANY.has((error as { code: string }).code)) throw error
  }
  if (receipts !== undefined) {
    yield receipts
    return
  }
  const half = items.length >> 1
  yield* sendAll(queue, items.slice(0, half), signal)
  yield* sendAll(queue, items.slice(half), signal)
}

async function tell(receipts: readonly Receipt[], json = false): Promise<void> {
  await print(receipts.map((receipt) => (json ? JSON.stringify(receipt) : oneLine(receipt.id))).join('\n'))
  for (const { id, duplicate } of receipts) {
    if (duplicate && !json) note(`'${oneLine(id)}' was sent before: nothing was sent now`)
  }
}
