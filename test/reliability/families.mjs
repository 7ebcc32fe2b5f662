// A small queue of each family, the same for programs that run long: made here, opened by name in their children.
import { PosixQueue, SysvQueue } from 'kernelmq'

/** The tags of messages: all of one tag come in the order in which they were sent. */
export const TAGS = 4

export const families = {
  posix: {
    make(depth, messageSize) {
      const name = `/kmq-long-${process.pid}`
      PosixQueue.open(name, { create: true, maxMessages: depth, messageSize }).close()
      return { name, remove: () => PosixQueue.unlink(name) }
    },
    open: (name) => PosixQueue.open(name),
    optionsOf: (tag) => ({ priority: tag }),
    tagOf: ({ priority }) => priority,
  },
  sysv: {
    make(depth, messageSize) {
      const queue = SysvQueue.open('private', { maxBytes: depth * messageSize })
      return { name: String(queue.id), remove: () => queue.remove() }
    },
    open: (id) => SysvQueue.fromId(Number(id)),
    optionsOf: (tag) => ({ type: tag + 1 }),
    tagOf: ({ type }) => type - 1,
  },
}

/** The families that an option names. */
export function familiesOf(option) {
  if (option === 'both') return Object.keys(families)
  if (Object.hasOwn(families, option)) return [option]
  throw new TypeError(`--family is posix, sysv or both, not "${option}"`)
}

export function countOf(text) {
  const [, digits, unit] = /^(\d+(?:\.\d+)?)([km]?)$/.exec(text) ?? []
  if (digits === undefined) throw new TypeError(`"${text}" is not a number such as 500, 10k or 100m`)
  return Math.round(Number(digits) * { '': 1, k: 1e3, m: 1e6 }[unit])
}
