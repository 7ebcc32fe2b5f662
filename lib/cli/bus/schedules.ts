import ms from 'ms'
import type { Schedule } from '../../bus/index.ts'
import { type Command, JSON_OPTION } from '../command.ts'
import { Failure, UsageError } from '../errors.ts'
import { print, printJson, table } from '../terminal.ts'
import { defineBusCommand } from './connection.ts'
import { oneLine, preview, SHORT, shown } from './messages.ts'

export const schedules: Command = defineBusCommand({
  name: 'schedules',
  summary: 'list or remove schedules',
  operands: '[remove] [NAME]',
  description: [
    'Lists what is sent again and again: at which times, when next, to which queue. With remove and a NAME that schedule ends; programs that set it when they start do so again.',
  ],
  options: JSON_OPTION,
  examples: [
    ['kmq bus local:/var/lib/app schedules', 'a table'],
    ['kmq bus local:/var/lib/app schedules remove daily', 'ends one'],
  ],
  prepare({ operands: [action = 'list', name], options: { json } }) {
    if (action === 'list' && name === undefined) {
      return async (bus) => {
        const all = await bus.schedules.list()
        await (json === true ? printJson(all.map(toRow)) : print(draw(all)))
        return 0
      }
    }
    if (action !== 'remove') throw new UsageError(`expected nothing, or remove and a NAME, not '${action}'`)
    if (name === undefined) throw new UsageError('expected the NAME of a schedule to remove')
    return async (bus) => {
      const isRemoved = await bus.schedules.remove(name)
      if (!isRemoved) throw new Failure(`there is no schedule '${oneLine(name)}' in this bus`)
      await (json === true ? printJson({ removed: name }) : print(oneLine(name)))
      return 0
    }
  },
})

/** Null if there is no time left. */
const timeOf = (next: Date): string | null => (Number.isNaN(next.getTime()) ? null : next.toISOString())

const toRow = ({ name, queue, every, cron, timezone, next, body }: Schedule): object => ({
  name,
  queue,
  every: every ?? null,
  cron: cron ?? null,
  timezone: timezone ?? null,
  next: timeOf(next),
  ...shown(body),
})

function draw(all: readonly Schedule[]): string {
  return table(
    ['NAME', 'QUEUE', 'TIMES', 'NEXT', 'BODY'],
    ['l', 'l', 'l', 'l', 'l'],
    all.map(({ name, queue, every, cron = '', timezone, next, body }) => [
      oneLine(name),
      queue,
      oneLine(every === undefined ? [cron, timezone ?? ''].join(' ').trim() : `every ${ms(every)}`),
      timeOf(next) ?? '-',
      preview(body, SHORT),
    ]),
  )
}
