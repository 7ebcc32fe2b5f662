// What is measured: groups of participants that do the same work, and are compared with each other.

const c = (way) => ({ name: `C, ${way}`, way, language: 'c' })
const kernelmq = (way) => ({ name: `kernelmq, ${way}`, way, route: 'kernelmq' })
const peer = (name, route, way) => ({ name, route, way })

const unixSocket = peer('Unix socket', 'unix-socket')
const childProcess = peer('child_process IPC', 'child-process')
const messagePort = peer('MessagePort to a worker', 'message-port')
const pushPull = peer('zeromq, push/pull', 'zeromq', 'push/pull')
const requestReply = peer('zeromq, req/rep', 'zeromq', 'req/rep')
const svmq = peer('svmq', 'svmq')

const others = [unixSocket, childProcess, messagePort, pushPull]
const asynchronous = ['send, receive', 'sendMany, for await', 'sendMany, batches', 'sendMany, consume'].map(kernelmq)
const sendReceive = kernelmq('send, receive')
const blocking = ['receiveIntoSync', 'receiveSync'].map(kernelmq)
/** What the calls cost, of which looking at messages would be a good part. */
const unseen = ['receiveIntoSync, a sample looked at', 'receiveSync, a sample looked at'].map(kernelmq)
const spinning = [c('spinning'), kernelmq('spin')]

/** The first of a group is what the others are compared with. */
const participants = {
  pair: {
    posix: [c('blocking'), ...blocking, ...unseen, sendReceive],
    sysv: [c('blocking'), ...blocking, ...unseen, sendReceive, svmq],
  },
  stream: {
    posix: [c('blocking'), c('epoll'), ...spinning, ...blocking, ...asynchronous, ...others],
    sysv: [c('blocking'), ...spinning, ...blocking, ...asynchronous, ...others, svmq],
  },
  'ping-pong': {
    posix: [c('blocking'), c('epoll'), ...spinning, ...blocking, sendReceive, ...others, requestReply],
    sysv: [c('blocking'), ...spinning, ...blocking, sendReceive, ...others, requestReply, svmq],
  },
  'wake-up': {
    posix: [c('blocking'), c('epoll'), kernelmq('receiveSync'), sendReceive, ...others],
    sysv: [c('blocking'), kernelmq('receiveSync'), sendReceive, ...others, svmq],
  },
  timer: { posix: asynchronous.slice(1), sysv: asynchronous.slice(1) },
}

const KIB = 1024
const families = ['posix', 'sysv']

const quick = [
  { workload: 'pair', family: 'posix', size: 64, cores: 1 },
  { workload: 'pair', family: 'posix', size: 8 * KIB, cores: 1 },
  { workload: 'pair', family: 'sysv', size: 64, cores: 1 },
  { workload: 'pair', family: 'sysv', size: 8 * KIB, cores: 1 },
  { workload: 'stream', family: 'posix', size: 64, cores: 2 },
  { workload: 'stream', family: 'posix', size: 64, cores: 1 },
  { workload: 'stream', family: 'posix', size: 8 * KIB, cores: 2 },
  { workload: 'stream', family: 'sysv', size: 64, cores: 2 },
  { workload: 'ping-pong', family: 'posix', size: 64, cores: 2 },
  { workload: 'ping-pong', family: 'sysv', size: 64, cores: 2 },
  { workload: 'wake-up', family: 'posix', size: 64, cores: 2 },
  { workload: 'timer', family: 'posix', size: 64, cores: 2 },
]

/** In a quick run, of those that are much the same only one. */
const leftOut = new Set(['kernelmq, sendMany, consume', 'svmq', 'MessagePort to a worker', 'child_process IPC'])

/** All of it. Depths are in messages; a deeper queue makes a difference to streams only. */
function* everything(deepest) {
  for (const family of families) {
    for (const size of [64, KIB, 8 * KIB]) {
      yield { workload: 'pair', family, size, cores: 1 }
      for (const cores of [1, 2]) {
        yield { workload: 'stream', family, size, cores }
        if (deepest(family, size) > 10) yield { workload: 'stream', family, size, cores, depth: deepest(family, size) }
        yield { workload: 'ping-pong', family, size, cores }
      }
    }
    yield { workload: 'wake-up', family, size: 64, cores: 2 }
    yield { workload: 'timer', family, size: 64, cores: 2 }
  }
}

const spins = ({ way }) => /spin/.test(way ?? '')

/** svmq receives up to 4052 bytes. */
const fits = ({ route }, size) => route !== 'svmq' || size <= 4052

export const familyNames = { posix: 'POSIX', sysv: 'System V' }

/**
 * @param deepest tells how many messages of a size a queue of a family can hold
 * @param isMissing whether the package of that name could not be installed
 */
export function plan({ quick: isQuick, deepest, isMissing }) {
  const groups = isQuick ? quick : [...everything(deepest)]
  return groups.map(({ depth: wanted = 10, ...group }) => {
    const { workload, family, size, cores } = group
    const depth = Math.min(wanted, deepest(family, size))
    const title = `${workload}, ${familyNames[family]}, ${size} B, depth ${depth}, ${cores === 1 ? 'one core' : 'two cores'}`
    const taking = participants[workload][family].filter(
      (participant) =>
        !isMissing(participant.route) &&
        fits(participant, size) &&
        !(isQuick && leftOut.has(participant.name)) &&
        // Two that spin on one core only wait until each other's slice ends.
        !(workload !== 'pair' && cores === 1 && spins(participant)),
    )
    return { ...group, depth, title, participants: taking }
  })
}

/** Messages before anything is timed: JavaScript has to be compiled, which a spin shows most. */
export function warmUp({ workload }, participant) {
  if (workload === 'wake-up') return 20
  if (workload !== 'ping-pong') return 20_000
  return spins(participant) ? 30_000 : 2000
}
