// What is measured: groups of participants that do the same work, and are compared with each other.

const c = (way) => ({ name: `C, ${way}`, way, language: 'c' })
const kernelmq = (way) => ({ name: `kernelmq, ${way}`, way, route: 'kernelmq' })
const peer = (name, route, way) => ({ name, route, way })

const unixSocket = peer('Unix socket', 'unix-socket')
const pushPull = peer('zeromq, push/pull', 'zeromq', 'push/pull')
const requestReply = peer('zeromq, req/rep', 'zeromq', 'req/rep')

const participants = {
  pair: {
    posix: [c('blocking'), kernelmq('receiveIntoSync'), kernelmq('receiveSync'), kernelmq('send, receive')],
    sysv: [c('blocking'), kernelmq('receiveIntoSync'), kernelmq('receiveSync'), kernelmq('send, receive')],
  },
  stream: {
    posix: [
      c('blocking'),
      c('epoll'),
      c('spinning'),
      kernelmq('receiveIntoSync'),
      kernelmq('receiveSync'),
      kernelmq('spin'),
      kernelmq('send, receive'),
      kernelmq('sendMany, for await'),
      kernelmq('sendMany, batches'),
      kernelmq('sendMany, consume'),
      unixSocket,
      pushPull,
    ],
    sysv: [
      c('blocking'),
      c('spinning'),
      kernelmq('receiveIntoSync'),
      kernelmq('receiveSync'),
      kernelmq('spin'),
      kernelmq('send, receive'),
      kernelmq('sendMany, for await'),
      kernelmq('sendMany, batches'),
      kernelmq('sendMany, consume'),
    ],
  },
  'ping-pong': {
    posix: [
      c('blocking'),
      c('epoll'),
      c('spinning'),
      kernelmq('receiveIntoSync'),
      kernelmq('receiveSync'),
      kernelmq('spin'),
      kernelmq('send, receive'),
      unixSocket,
      pushPull,
      requestReply,
    ],
    sysv: [
      c('blocking'),
      c('spinning'),
      kernelmq('receiveIntoSync'),
      kernelmq('receiveSync'),
      kernelmq('spin'),
      kernelmq('send, receive'),
    ],
  },
}

const KIB = 1024

/** [workload, family, size, cores] */
const quick = [
  ['pair', 'posix', 64, 1],
  ['pair', 'posix', 8 * KIB, 1],
  ['pair', 'sysv', 64, 1],
  ['pair', 'sysv', 8 * KIB, 1],
  ['stream', 'posix', 64, 2],
  ['stream', 'posix', 64, 1],
  ['stream', 'posix', 8 * KIB, 2],
  ['stream', 'sysv', 64, 2],
  ['ping-pong', 'posix', 64, 2],
  ['ping-pong', 'sysv', 64, 2],
]

const spins = ({ way }) => /spin/.test(way ?? '')

/** Two that spin on one core only wait for each other's slice to end. */
const participantsOf = (workload, family, cores) =>
  participants[workload][family].filter((participant) => workload === 'pair' || cores === 2 || !spins(participant))

const title = ({ workload, family, size, depth, cores }) =>
  `${workload}, ${family}, ${size} B, ${workload === 'stream' ? `depth ${depth}, ` : ''}${cores === 1 ? 'one core' : 'two cores'}`

export function plan() {
  return quick.map(([workload, family, size, cores]) => {
    const group = { workload, family, size, depth: 10, cores }
    return { ...group, title: title(group), participants: participantsOf(workload, family, cores) }
  })
}

/** Messages before anything is timed: JavaScript has to be compiled, which a spin shows most. */
export function warmUp(group, participant) {
  if (group.workload !== 'ping-pong') return 20_000
  return spins(participant) ? 30_000 : 2000
}
