import type { DeadLetterChoice } from '../../bus/index.ts'
import { type Command, JSON_OPTION, toInteger } from '../command.ts'
import { Failure, UsageError } from '../errors.ts'
import { print, printJson } from '../terminal.ts'
import { checkInterrupted, defineBusCommand, findQueue } from './connection.ts'

export const redrive: Command = defineBusCommand({
  name: 'redrive',
  summary: 'send dead letters back',
  operands: 'QUEUE',
  description: [
    'Sends dead letters back to their queue, as new, each in one transaction: it is in one of the two. One of --id, --max and --all says which. Those whose bodies are damaged stay.',
  ],
  options: {
    id: { type: 'string', multiple: true, value: 'ID', help: 'this one; may be given several times' },
    max: { type: 'string', value: 'N', help: 'so many at most, the oldest first' },
    all: { type: 'boolean', help: 'all that are dead now' },
    rate: { type: 'string', value: 'N', help: 'so many a second at most' },
    ...JSON_OPTION,
  },
  examples: [
    ['kmq bus local:/var/lib/app redrive mail --id welcome-1', 'one'],
    ['kmq bus local:/var/lib/app redrive mail --all --rate 10', 'all, ten a second'],
  ],
  prepare({ operands: [name = ''], options: { id, max, all, rate, json } }) {
    if ([id, max, all].filter((choice) => choice !== undefined).length !== 1)
      throw new UsageError('one of --id, --max and --all says which')
    const most = toInteger('max', max, 1, 1e9) ?? Number.POSITIVE_INFINITY
    const perSecond = toInteger('rate', rate, 1, 1e6)
    return async (bus, signal) => {
      const { dead } = await findQueue(bus, name)
      let chosen = 0
      const filter: DeadLetterChoice['filter'] = () => {
        // What was not sent back by now stays where it is.
        checkInterrupted(signal)
        return ++chosen <= most
      }
      const count = await dead.redrive({ ids: id, filter, rate: perSecond })
      await (json === true ? printJson({ redriven: count }) : print(String(count)))
      if (id !== undefined && count < new Set(id).size)
        throw new Failure(`${new Set(id).size - count} of these are no dead letters of '${name}', or damaged`)
      return 0
    }
  },
})
