import { type Command, JSON_OPTION } from '../command.ts'
import { Failure } from '../errors.ts'
import { confirm, isInteractive, note, print, printJson } from '../terminal.ts'
import { checkInterrupted, defineBusCommand, findQueue } from './connection.ts'

export const purge: Command = defineBusCommand({
  name: 'purge',
  summary: 'drop messages, or dead letters',
  operands: 'QUEUE',
  description: [
    'Drops what can be received from a queue, or its dead letters, and prints how many there were. What consumers have in hand, and what is not due yet, stays; how many these are is told on stderr. A queue that keeps its history has there what was dropped.',
    'It asks first, on a terminal; elsewhere it wants --force, unless there is nothing to drop.',
  ],
  options: {
    dead: { type: 'boolean', help: 'the dead letters, and nothing else' },
    force: { type: 'boolean', short: 'f', help: 'do not ask' },
    ...JSON_OPTION,
  },
  examples: [
    ['kmq bus local:/var/lib/app purge mail', 'asks'],
    ['kmq bus local:/var/lib/app purge mail --dead --force', 'drops dead letters, and does not ask'],
  ],
  prepare({ operands: [name = ''], options: { dead = false, force, json } }) {
    return async (bus, signal) => {
      const queue = await findQueue(bus, name)
      const before = await queue.stats()
      const present = dead ? before.dead : before.ready + before.held
      const what = `${present} ${dead ? 'dead letters' : 'messages'} of '${name}'`
      if (present > 0 && force !== true) {
        if (!isInteractive()) throw new Failure(`${what} would be dropped; there is nobody to ask`, 'use --force')
        if (!(await confirm(`Drop ${what}?`))) throw new Failure('nothing was dropped')
      }
      const filter = () => {
        checkInterrupted(signal)
        return true
      }
      const purged = await (dead ? queue.dead.discard({ filter }) : queue.purge({ signal }))
      const { leased, delayed } = await queue.stats()
      await (json === true ? printJson({ purged, ...(!dead && { left: { leased, delayed } }) }) : print(String(purged)))
      if (json !== true && !dead && leased + delayed > 0)
        note(`left: ${leased} in the hands of consumers, ${delayed} not due yet`)
      return 0
    }
  },
})
