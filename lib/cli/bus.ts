// kmq bus URL COMMAND: what can be done with a bus of any transport.
import type { Command, Commands } from './command.ts'
import { isUrl, UsageError } from './errors.ts'

const commands: Commands = {
  ls: async () => (await import('./bus/ls.ts')).ls,
  stats: async () => (await import('./bus/stats.ts')).stats,
  peek: async () => (await import('./bus/peek.ts')).peek,
  send: async () => (await import('./bus/send.ts')).send,
  tail: async () => (await import('./bus/tail.ts')).tail,
  dlq: async () => (await import('./bus/dlq.ts')).dlq,
  redrive: async () => (await import('./bus/redrive.ts')).redrive,
  purge: async () => (await import('./bus/purge.ts')).purge,
  schedules: async () => (await import('./bus/schedules.ts')).schedules,
}

const KNOWN = Object.keys(commands).join(', ')

export const bus: Command = {
  name: 'bus',
  summary: 'look at a bus, and work on it',
  operands: 'URL COMMAND [OPERAND...]',
  description: [
    'URL is that of the bus, as its programs have it: local:/var/lib/app, mq:/run/app. A bus that is not there is not made. Of the secrets in a URL nothing is printed; but other users see the arguments of a process.',
    'A queue of a namespace is @NAMESPACE/QUEUE. What the transport of a bus cannot do is refused, with the name of the capability.',
    'kmq bus COMMAND --help tells all of one.',
  ],
  options: {},
  commands,
  examples: [
    ['kmq bus local:/var/lib/app ls', 'its queues'],
    ['kmq bus local:/var/lib/app send mail hello', 'sends a message'],
    ['kmq bus mq:/run/app stats --watch', 'until Ctrl-C'],
  ],
  async run([url, name, ...args]) {
    if (url === undefined || name === undefined) throw new UsageError(`expected URL and one of ${KNOWN}`)
    if (Object.hasOwn(commands, url)) throw new UsageError(`the URL comes first: kmq bus URL ${url}`)
    const known = Object.hasOwn(commands, name) ? await commands[name]?.() : undefined
    if (known === undefined && isUrl(name)) throw new UsageError('the URL comes first: kmq bus URL COMMAND')
    if (known === undefined) throw new UsageError(`there is no command '${name}' of a bus: it is one of ${KNOWN}`)
    return known.run([url, ...args])
  },
}
