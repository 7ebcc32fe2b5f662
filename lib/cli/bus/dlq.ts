import type { DeadLetter, DeadLetters } from '../../bus/index.ts'
import { type Command, JSON_OPTION, toInteger } from '../command.ts'
import { Failure } from '../errors.ts'
import { note, print, printJson, style, table } from '../terminal.ts'
import { defineBusCommand, findQueue } from './connection.ts'
import { oneLine, preview, SHORT, toJson } from './messages.ts'

export const dlq: Command = defineBusCommand({
  name: 'dlq',
  summary: 'show dead letters',
  operands: 'QUEUE',
  description: [
    'Shows the dead letters of a queue, the oldest first: why they are dead, after how many attempts, since when.',
  ],
  options: {
    count: { type: 'string', short: 'n', value: 'N', help: 'so many at most; default: 100' },
    id: { type: 'string', value: 'ID', help: 'all of this one, with the error' },
    ...JSON_OPTION,
  },
  examples: [
    ['kmq bus local:/var/lib/app dlq mail', 'a table'],
    ['kmq bus local:/var/lib/app dlq mail --id welcome-1', 'one, with what its handler threw'],
  ],
  prepare({ operands: [name = ''], options: { count, id, json } }) {
    const most = toInteger('count', count, 1, 1e6) ?? 100
    return async (bus) => {
      const { dead } = await findQueue(bus, name)
      if (id === undefined) {
        const { letters, more } = await read(dead, most)
        await (json === true ? printJson(letters.map(letterToJson)) : print(draw(letters)))
        if (more) note(`there are more than these ${most}: see --count`)
        return 0
      }
      const letter = await find(dead, id)
      if (letter === undefined) throw new Failure(`there is no dead letter '${oneLine(id)}' in '${name}'`)
      await (json === true ? printJson(letterToJson(letter)) : print(drawOne(letter)))
      return 0
    }
  },
})

const letterToJson = ({ error, ...letter }: DeadLetter): object => toJson({ error: error ?? null, ...letter })

/** The most in one page. */
const PAGE = 100

async function* pages(dead: DeadLetters): AsyncGenerator<DeadLetter[]> {
  let after: string | undefined
  do {
    const page = await dead.list({ max: PAGE, ...(after !== undefined && { after }) })
    yield page.letters
    after = page.next
  } while (after !== undefined)
}

async function read(dead: DeadLetters, most: number): Promise<{ letters: DeadLetter[]; more: boolean }> {
  const letters: DeadLetter[] = []
  for await (const page of pages(dead)) {
    letters.push(...page)
    if (letters.length > most) break
  }
  return { letters: letters.slice(0, most), more: letters.length > most }
}

async function find(dead: DeadLetters, id: string): Promise<DeadLetter | undefined> {
  for await (const page of pages(dead)) {
    const found = page.find((letter) => letter.id === id)
    if (found !== undefined) return found
  }
  return undefined
}

function draw(letters: readonly DeadLetter[]): string {
  return table(
    ['ID', 'DIED', 'ATTEMPTS', 'REASON', 'BODY'],
    ['l', 'l', 'r', 'l', 'l'],
    letters.map(({ id, diedAt, attempts, reason, body }) => [
      oneLine(id),
      diedAt.toISOString(),
      String(attempts),
      oneLine(reason, SHORT),
      preview(body, SHORT),
    ]),
  )
}

function drawOne({ id, key, reason, attempts, losses, sentAt, diedAt, headers, error, body }: DeadLetter): string {
  const lines = [
    ['id', id],
    ['key', key ?? '-'],
    ['reason', reason],
    ['attempts', String(attempts)],
    ['losses', String(losses)],
    ['sent', sentAt.toISOString()],
    ['died', diedAt.toISOString()],
    ...Object.entries(headers).map(([name, value]) => [`header ${name}`, value]),
    ...(error ?? '').split('\n').map((line, at) => [at === 0 ? 'error' : '', line]),
    ['body', preview(body)],
  ]
  const width = Math.max(...lines.map(([name = '']) => oneLine(name).length)) + 2
  return lines
    .map(([name = '', value = '']) => `${style.bold(oneLine(name).padEnd(width))}${oneLine(value)}`)
    .join('\n')
}
