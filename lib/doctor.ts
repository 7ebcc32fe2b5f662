// What of the queues works here, what is left of each limit, and what mends the rest.
import { fstatSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { createRequire, isBuiltin } from 'node:module'
import { constants, release } from 'node:os'
import { QueueError } from './errors.ts'
import { addonFile, native } from './native.ts'
import { mqClose, mqOpen, O_NONBLOCK, O_RDONLY } from './syscalls.ts'
import {
  CEILING,
  container,
  credentials,
  listPosix,
  listSysv,
  mountPoint,
  namespaceOf,
  type PosixQueueInfo,
  posixCost,
  posixLimits,
  resourceLimit,
  type SysvQueueInfo,
  supportOf,
  sysvLimits,
} from './system.ts'

/** What there are findings about; the word before the dot is what they have in common. */
export type FindingId =
  | 'package.addon'
  | 'package.node'
  | 'package.sqlite'
  | 'package.optional'
  | 'system.kernel'
  | 'system.container'
  | 'system.ipc'
  | 'process.capabilities'
  | 'process.descriptors'
  | 'posix.support'
  | 'posix.mount'
  | 'posix.bytes'
  | 'posix.queues'
  | 'posix.maxMessages'
  | 'posix.messageSize'
  | 'posix.defaultMaxMessages'
  | 'posix.defaultMessageSize'
  | 'sysv.support'
  | 'sysv.peek'
  | 'sysv.queues'
  | 'sysv.maxBytes'
  | 'sysv.messageSize'

/** One thing that {@link doctor} looked at. */
export interface Finding {
  id: FindingId
  /**
   * `'problem'`: something fails. `'warning'`: something will soon, or is missing that not everybody needs.
   * `'unknown'`: it cannot be seen from here.
   */
  status: 'ok' | 'warning' | 'problem' | 'unknown'
  /** What was seen, with its figures. */
  seen: string
  /** What it means to those who use queues. */
  why: string
  /** What mends it, or raises the limit, where this process runs; each is a way of its own, unless it says otherwise. */
  mend: Mend[]
  /** Of a limit. */
  limit?: LimitUse
}

export interface Mend {
  /** Where or by whom, such as `'as root'` or `'in the unit'`. */
  where: string
  /** A command of the shell, or a line of a configuration. */
  command: string
}

export interface LimitUse {
  /** What it is called: `RLIMIT_MSGQUEUE`, `fs.mqueue.msg_max`. */
  name: string
  unit: 'bytes' | 'messages' | 'queues' | 'descriptors'
  /** Infinity if there is none. */
  value: number
  /**
   * How much of it is in use; of what limits each queue, the most that one of them has. Undefined if it cannot be seen.
   */
  used: number | undefined
  /**
   * Of RLIMIT_MSGQUEUE: there may be more in use than what is seen, namely of unlinked queues that somebody has open,
   * and in other IPC namespaces.
   */
  isLowerBound?: true
  /** What it costs to raise it. */
  cost: string
}

/** What a look at the machine gave; undefined where it could not be seen. */
interface Facts {
  readonly container: string | undefined
  readonly ipc: { id: string; isFirst: boolean } | undefined
  readonly capabilities: ReadonlySet<string> | undefined
  readonly isFiltered: boolean | undefined
  /** The kernel exempts this process from some limits. */
  readonly isExempt: boolean
  readonly posixQueues: readonly PosixQueueInfo[] | undefined
  /** The mount shows the queues of another IPC namespace. */
  readonly isForeign: boolean
  readonly sysvQueues: readonly SysvQueueInfo[] | undefined
}

type Found = Omit<Finding, 'id'>

const PROC = 'It cannot be seen here: /proc is not mounted, or forbidden.'

/**
 * Looks at everything that queues need, and at what is left of each limit. Changes nothing, and never fails: what cannot
 * be seen is `'unknown'`.
 *
 * Like `PosixQueue.list()` it opens and closes each queue, which drops registrations for notification of this process
 * that are not made by `notifications()`.
 */
export async function doctor(): Promise<Finding[]> {
  const facts = await look()
  return Object.entries(checks).map(([id, check]) => ({ id: id as FindingId, ...attempt(() => check(facts)) }))
}

async function look(): Promise<Facts> {
  const rights = tryTo(credentials)
  const user = tryTo(() => namespaceOf('user'))
  const isForeign = tryTo(showsForeignQueues) === true
  return {
    container: tryTo(container),
    ipc: tryTo(() => namespaceOf('ipc')),
    capabilities: rights?.capabilities,
    isFiltered: rights?.isFiltered,
    // In a user namespace of its own it is root over nothing that the kernel asks of here.
    isExempt: rights?.capabilities.has('CAP_SYS_RESOURCE') === true && user?.isFirst !== false,
    posixQueues: isForeign ? undefined : await listPosix().catch(() => undefined),
    isForeign,
    sysvQueues: await listSysv().catch(() => undefined),
  }
}

function tryTo<T>(call: () => T): T | undefined {
  try {
    return call()
  } catch {
    return undefined
  }
}

function attempt(check: () => Found): Found {
  try {
    return check()
  } catch (error) {
    const { message, hint } = error as QueueError
    return { status: 'unknown', seen: message, why: hint ?? PROC, mend: [] }
  }
}

const checks: Record<FindingId, (facts: Facts) => Found> = {
  'package.addon': () => {
    const origin = addonFile.includes('/prebuilds/') ? 'came with the package' : 'was built here'
    const why = 'It makes the system calls.'
    const seen = `${addonFile} ${origin}; Node-API ${native.nodeApi}, and Node.js has ${process.versions.napi}`
    return { status: 'ok', seen, why, mend: [] }
  },
  'package.node': () => {
    const [major = 0, minor = 0] = process.versions.node.split('.').map(Number)
    const isOld = major < 20 || (major === 20 && minor < 19)
    return {
      status: isOld ? 'problem' : 'ok',
      seen: `Node.js ${process.version}`,
      why: 'The package needs 20.19 or later.',
      mend: isOld ? [{ where: 'with nvm', command: 'nvm install --lts' }] : [],
    }
  },
  'package.sqlite': () => {
    const why = 'A bus of local: keeps its messages in SQLite; nothing else needs it.'
    // Loading the one of Node.js would have it warn that it may still change.
    if (isBuiltin('node:sqlite'))
      return { status: 'ok', seen: `node:sqlite of Node.js ${process.version}`, why, mend: [] }
    try {
      createRequire(import.meta.url)(SQLITE)
      return { status: 'ok', seen: `${SQLITE} ${versionOf(SQLITE)}`, why, mend: [] }
    } catch (error) {
      const { code, message } = error as NodeJS.ErrnoException
      const seen =
        code === 'MODULE_NOT_FOUND'
          ? `Node.js ${process.version} has none (22.13 has), and ${SQLITE} is not installed`
          : `${SQLITE} cannot be loaded: ${message}`
      return { status: 'warning', seen, why, mend: [{ where: 'in the project', command: `npm install ${SQLITE}@1` }] }
    }
  },
  'package.optional': () => ({
    status: 'ok',
    seen: OPTIONAL.map((name) => `${name} ${versionOf(name) ?? 'is not installed'}`).join(', '),
    why: 'Schedules with cron expressions need the first, spans the second; nothing else does.',
    mend: [],
  }),
  'system.kernel': () => ({
    status: 'ok',
    seen: `Linux ${release()} on ${process.arch}`,
    why: "The queues are the kernel's.",
    mend: [],
  }),
  'system.container': ({ container, ipc }) => {
    const limit = containerMend('msgqueue', 'BYTES', container)
    return {
      status: 'ok',
      seen: container === undefined ? 'no sign of one' : `${container}, by its signs`,
      why: 'Limits and sysctls of a container are for those to set who start it.',
      mend:
        container === undefined
          ? []
          : [...(limit ? [limit] : []), ...sysctlMends('fs.mqueue.msg_max', 'MESSAGES', { container, ipc })],
    }
  },
  'system.ipc': ({ ipc, container }) => {
    if (ipc === undefined) return { status: 'unknown', seen: 'its IPC namespace is not known', why: PROC, mend: [] }
    const where = ipc.isFirst ? "the first one of this kernel, the host's" : "one of its own, not the host's"
    return {
      status: 'ok',
      seen: `${ipc.id}, ${where}`,
      why: 'Only processes in one IPC namespace see the same queues; the sysctls belong to it, too.',
      mend:
        ipc.isFirst || !isDocker(container)
          ? []
          : [{ where: "to share the host's", command: `${container} run --ipc=host IMAGE` }],
    }
  },
  'process.capabilities': ({ capabilities, isExempt }) => {
    if (capabilities === undefined) return { status: 'unknown', seen: 'not known', why: PROC, mend: [] }
    const has = capabilities.has('CAP_SYS_RESOURCE')
    return {
      status: 'ok',
      seen: [...capabilities].join(', ') || 'none that matters to queues',
      why: isExempt
        ? 'CAP_SYS_RESOURCE exempts from msg_max, msgsize_max and queues_max, not from RLIMIT_MSGQUEUE.'
        : has
          ? 'They hold in a user namespace of its own, where the kernel exempts nobody from msg_max, msgsize_max and queues_max.'
          : 'Without CAP_SYS_RESOURCE all limits hold.',
      mend: [],
    }
  },
  'process.descriptors': (facts) => {
    const why = 'An open POSIX queue takes one, and one more while it is asked for notifications.'
    try {
      const { soft, hard } = resourceLimit('Max open files')
      const used = readdirSync('/proc/self/fd').length - 1 // one of them is that of the directory
      const cost = 'nothing until descriptors are opened'
      return {
        status: fill(used, soft),
        seen: `${used} of ${numeral(soft)} descriptors are open`,
        why,
        mend: raiseResource('nofile', 2 * soft, hard, facts),
        limit: { name: 'RLIMIT_NOFILE', unit: 'descriptors', value: soft, used, cost },
      }
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EMFILE') throw error
      const seen = 'all descriptors that this process may have are open'
      return { status: 'problem', seen, why, mend: raiseResource('nofile', 'NUMBER', 0, facts) }
    }
  },
  'posix.support': (facts) => support('posix', 'CONFIG_POSIX_MQUEUE', 'POSIX queues', facts),
  'posix.mount': (facts) => mount(facts),
  'posix.bytes': (facts) => bytes(facts),
  'posix.queues': (facts) => {
    const value = posixLimits().queues
    const used = facts.posixQueues?.length
    const limit: LimitUse = {
      name: 'fs.mqueue.queues_max',
      unit: 'queues',
      value,
      used,
      cost: 'nothing by itself: each queue counts against RLIMIT_MSGQUEUE of its user',
    }
    const status = fill(used, value)
    return {
      status: status === 'problem' && facts.isExempt ? 'warning' : status,
      seen: `${used ?? 'an unknown number'} of ${queues(value)} in this IPC namespace`,
      why: `Beyond that creating a queue fails with ENOSPC${facts.isExempt ? ', but not for this process (CAP_SYS_RESOURCE)' : ''}.`,
      mend: raiseSysctl(limit.name, Math.min(Math.max(2 * value, USUAL_QUEUES), MAX_INT), value, facts),
      limit,
    }
  },
  'posix.maxMessages': (facts) => {
    const { maxMessages: value, messageSize } = posixLimits()
    return posixSize(facts, 'maxMessages', {
      name: 'fs.mqueue.msg_max',
      unit: 'messages',
      value,
      used: most(facts.posixQueues?.map((queue) => queue.maxMessages ?? 0)),
      cost: `${cost(2, messageSize) - cost(1, messageSize)} bytes of RLIMIT_MSGQUEUE for each message more, of a queue that has the longest`,
    })
  },
  'posix.messageSize': (facts) => {
    const { maxMessages, messageSize: value } = posixLimits()
    return posixSize(facts, 'messageSize', {
      name: 'fs.mqueue.msgsize_max',
      unit: 'bytes',
      value,
      used: most(facts.posixQueues?.map((queue) => queue.messageSize ?? 0)),
      cost: `${maxMessages} bytes of RLIMIT_MSGQUEUE for each byte more, of a queue that has the most messages`,
    })
  },
  'posix.defaultMaxMessages': (facts) => {
    const { defaultMaxMessages: value, defaultMessageSize, maxMessages } = posixLimits()
    return posixDefault(facts, maxMessages, {
      name: 'fs.mqueue.msg_default',
      unit: 'messages',
      value,
      used: undefined,
      cost: `${cost(2, defaultMessageSize) - cost(1, defaultMessageSize)} bytes of RLIMIT_MSGQUEUE for each message more, of a queue made without a size`,
    })
  },
  'posix.defaultMessageSize': (facts) => {
    const { defaultMaxMessages, defaultMessageSize: value, messageSize } = posixLimits()
    return posixDefault(facts, messageSize, {
      name: 'fs.mqueue.msgsize_default',
      unit: 'bytes',
      value,
      used: undefined,
      cost: `${defaultMaxMessages} bytes of RLIMIT_MSGQUEUE for each byte more, of a queue made without a size`,
    })
  },
  'sysv.support': (facts) => support('sysv', 'CONFIG_SYSVIPC', 'System V queues', facts),
  'sysv.peek': ({ isFiltered }) => {
    const { missing } = supportOf('peek')
    return {
      status: missing.length === 0 ? 'ok' : 'warning',
      seen:
        missing.length === 0
          ? 'messages can be looked at (MSG_COPY)'
          : `msgrcv with MSG_COPY fails with ${codeOf(missing[0]?.errno)}`,
      why: 'peek() and browse() look at messages without taking them; nothing else needs it.',
      mend:
        missing.length === 0
          ? []
          : isFiltered
            ? [{ where: 'in the seccomp profile', command: 'allow msgrcv with every flag' }]
            : [
                {
                  where: 'a kernel with CONFIG_CHECKPOINT_RESTORE; to see',
                  command: 'zgrep CHECKPOINT_RESTORE /proc/config.gz',
                },
              ],
    }
  },
  'sysv.queues': (facts) => {
    const { queues: value, maxBytes } = sysvLimits()
    const used = facts.sysvQueues?.length
    const limit: LimitUse = {
      name: 'kernel.msgmni',
      unit: 'queues',
      value,
      used,
      cost: `up to ${maxBytes} bytes of kernel memory for each queue more that is full; no user's count holds that back`,
    }
    return {
      status: fill(used, value),
      seen: `${used ?? 'an unknown number'} of ${queues(value)} in this IPC namespace`,
      why: 'Beyond that creating a queue fails with ENOSPC, for everybody.',
      mend: raiseSysctl(limit.name, Math.min(Math.max(2 * value, USUAL_SYSV_QUEUES), MOST_SYSV_QUEUES), value, facts),
      limit,
    }
  },
  'sysv.maxBytes': (facts) => {
    const { maxBytes: value, messageSize, queues: count } = sysvLimits()
    const total = facts.sysvQueues?.reduce((sum, { bytes }) => sum + bytes, 0)
    const limit: LimitUse = {
      name: 'kernel.msgmnb',
      unit: 'bytes',
      value,
      used: most(facts.sysvQueues?.map(({ bytes }) => bytes)),
      cost: `that much more kernel memory for each full queue, of which there may be ${count}`,
    }
    return {
      status: value < messageSize ? 'warning' : 'ok',
      seen: `${value} bytes a queue; ${limit.used ?? 'an unknown number of'} in the fullest, ${total ?? 'an unknown number'} in all`,
      why:
        value < messageSize
          ? `A message may have ${messageSize} bytes (kernel.msgmax), but a new queue never holds one of more than ${value}.`
          : 'What a new queue holds; its senders wait beyond that.',
      mend: raiseSysctl(limit.name, Math.min(Math.max(2 * value, messageSize), MAX_INT), value, facts),
      limit,
    }
  },
  'sysv.messageSize': (facts) => {
    const { messageSize: value, maxBytes } = sysvLimits()
    const limit: LimitUse = {
      name: 'kernel.msgmax',
      unit: 'bytes',
      value,
      used: undefined,
      cost: `nothing by itself: a new queue holds ${maxBytes} bytes (kernel.msgmnb), which may have to be raised with it`,
    }
    return {
      status: value < USUAL_MESSAGE_SIZE ? 'warning' : 'ok',
      seen: `${value} bytes a message`,
      why: `Sending a longer one fails with EINVAL; ${USUAL_MESSAGE_SIZE} are usual.`,
      mend: raiseSysctl(limit.name, Math.min(Math.max(2 * value, USUAL_MESSAGE_SIZE), MAX_INT), value, facts),
      limit,
    }
  },
}

const SQLITE = '@photostructure/sqlite'
const OPTIONAL = ['croner', '@opentelemetry/api']
const USUAL_QUEUES = 256
const USUAL_SYSV_QUEUES = 32000
const USUAL_MESSAGES = 10
const USUAL_MESSAGE_SIZE = 8192
const MAX_INT = 2 ** 31 - 1
/** Beyond that only a kernel that was started with ipcmni_extend goes. */
const MOST_SYSV_QUEUES = 32768

/** Of an installed package; its exports need not include its manifest. */
function versionOf(name: string): string | undefined {
  return tryTo(() => {
    const [root] = new RegExp(`^.*/node_modules/${name}/`).exec(createRequire(import.meta.url).resolve(name)) ?? []
    return (JSON.parse(readFileSync(`${root}package.json`, 'utf8')) as { version: string }).version
  })
}

const codeOf = (errno = 0): string => new QueueError(errno, { syscall: '' }).code

const cost = (maxMessages: number, messageSize: number): number => posixCost({ maxMessages, messageSize })

const numeral = (value: number): string => (Number.isFinite(value) ? String(value) : 'unlimited')

const queues = (count: number): string => `${count} ${count === 1 ? 'queue' : 'queues'}`

const most = (values: readonly number[] | undefined): number | undefined => values && Math.max(0, ...values)

function fill(used: number | undefined, limit: number): Finding['status'] {
  if (used === undefined) return limit === Number.POSITIVE_INFINITY ? 'ok' : 'unknown'
  return used >= limit ? 'problem' : used >= 0.8 * limit ? 'warning' : 'ok'
}

type Place = Pick<Facts, 'container' | 'ipc'>

const isDocker = (container: string | undefined): boolean => container === 'docker' || container === 'podman'

/** The ways to set a sysctl here. */
function sysctlMends(name: string, value: number | string, { container, ipc }: Place): Mend[] {
  const now = `sysctl -w ${name}=${value}`
  if (ipc?.isFirst !== false) {
    const by = container === undefined ? 'as root' : 'on the host, as root'
    return [
      { where: `now, ${by}`, command: now },
      {
        where: `from the next boot on, ${by}`,
        command: `echo '${name} = ${value}' >> /etc/sysctl.d/60-kernelmq.conf`,
      },
    ]
  }
  if (isDocker(container)) {
    return [{ where: 'when it is started', command: `${container} run --sysctl ${name}=${value} IMAGE` }]
  }
  switch (container) {
    case 'kubernetes':
      return [
        {
          where: 'in the pod',
          command: `securityContext: { sysctls: [{ name: ${name}, value: "${value}" }] }`,
        },
        { where: 'and on the node, to allow that', command: `kubelet --allowed-unsafe-sysctls=${name}` },
      ]
    case 'lxc':
      return [{ where: 'in its configuration', command: `lxc.sysctl.${name} = ${value}` }]
    default:
      return [
        { where: 'now, as root, in this namespace', command: now },
        { where: 'if Docker made it', command: `docker run --sysctl ${name}=${value} IMAGE` },
      ]
  }
}

/** Where a container's resource limits are set; undefined outside. */
function containerMend(
  name: 'msgqueue' | 'nofile',
  value: number | string,
  container: string | undefined,
): Mend | undefined {
  if (isDocker(container)) {
    return { where: 'when it is started', command: `${container} run --ulimit ${name}=${value}:${value} IMAGE` }
  }
  if (container === 'kubernetes') {
    return { ...unitMend(name, value), where: "on the node, in the unit of the containers' runtime" }
  }
  return container === 'lxc' ? { where: 'in its configuration', command: `lxc.prlimit.${name} = ${value}` } : undefined
}

const unitMend = (name: string, value: number | string): Mend => ({
  where: 'in the unit',
  command: `Limit${name.toUpperCase()}=${value}`,
})

function raiseSysctl(name: string, value: number, now: number, facts: Place): Mend[] {
  return value > now ? sysctlMends(name, value, facts) : []
}

function raiseResource(name: 'msgqueue' | 'nofile', value: number | 'NUMBER', hard: number, facts: Facts): Mend[] {
  if (value === Number.POSITIVE_INFINITY) return []
  const [flag, where] = name === 'msgqueue' ? ['q', 'in the shell (bash, zsh)'] : ['n', 'in the shell']
  const inContainer = containerMend(name, value, facts.container)
  // With -S the hard limit stays where it is, above.
  if (typeof value === 'number' && value <= hard) {
    const inShell = { where, command: `ulimit -S -${flag} ${value}` }
    return [inShell, inContainer ?? unitMend(name, value)]
  }
  if (inContainer !== undefined) return [inContainer]
  const inShell = facts.capabilities?.has('CAP_SYS_RESOURCE')
    ? { where, command: `ulimit -${flag} ${value}` }
    : { where: 'in the shell, with sudo', command: `sudo prlimit --pid $$ --${name}=${value}:${value}` }
  return [inShell, unitMend(name, value)]
}

function support(family: 'posix' | 'sysv', option: string, what: string, { isFiltered, container }: Facts): Found {
  const { missing, inKernel } = supportOf(family)
  const why = `${what} need all of their calls.`
  if (missing.length === 0) return { status: 'ok', seen: 'this process may make every call', why, mend: [] }
  const failures = missing.map(({ syscall, errno }) => `${syscall} fails with ${codeOf(errno)}`).join(', ')
  if (inKernel === false && missing.every(({ errno }) => errno === -constants.errno.ENOSYS)) {
    const command = `zgrep ${option} /proc/config.gz /boot/config-$(uname -r)`
    return {
      status: 'problem',
      seen: `${failures}: the kernel has none`,
      why,
      mend: [{ where: `a kernel with ${option}=y; this one says`, command }],
    }
  }
  const cause = isFiltered ? 'a seccomp filter' : inKernel ? 'a sandbox' : 'the kernel has none, or a sandbox'
  const mend = isDocker(container)
    ? { where: 'when it is started', command: `${container} run --security-opt seccomp=unconfined IMAGE` }
    : container === 'kubernetes'
      ? { where: 'in the pod', command: 'securityContext: { seccompProfile: { type: RuntimeDefault } }' }
      : { where: 'in the unit', command: 'SystemCallFilter=@ipc' }
  return { status: 'problem', seen: `${failures}: ${cause} forbids it`, why, mend: [mend] }
}

const MOUNT = 'mount -t mqueue none /dev/mqueue'

function mount({ posixQueues, isForeign }: Facts): Found {
  const why = 'list(), watch(), waitFor() and kmq ls read it; everything else works without it.'
  let path: string
  let names: string[]
  try {
    path = mountPoint()
    names = readdirSync(path)
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    if (code === 'EACCES') return { status: 'problem', seen: message, why, mend: [] }
    if (code !== 'ERR_MQ_NOT_MOUNTED') throw error
    return {
      status: 'problem',
      seen: 'the mqueue file system is not mounted',
      why,
      mend: [{ where: 'as root', command: `mkdir -p /dev/mqueue && ${MOUNT}` }],
    }
  }
  const hidden = posixQueues?.filter(({ messages }) => messages === undefined).length ?? 0
  const seen = `mounted at ${path}, with ${queues(names.length)}${hidden > 0 ? `, ${hidden} of which this user may not read` : ''}`
  if (!isForeign) return { status: 'ok', seen, why, mend: [] }
  return {
    status: 'problem',
    seen: `${seen}; but they are those of another IPC namespace`,
    why: 'list(), watch(), waitFor() and kmq ls tell of queues that cannot be opened, and of no other.',
    mend: [
      {
        where: 'as root, for one command',
        command: `unshare --mount sh -c '${MOUNT} && exec "$@"' sh COMMAND`,
      },
    ],
  }
}

/** Whether the queues that the mount shows are not those that open() opens. */
function showsForeignQueues(): boolean {
  const path = mountPoint()
  for (const name of readdirSync(path)) {
    const look = () => tryTo(() => statSync(`${path}/${name}`))
    const before = look()
    const fd = mqOpen(`/${name}`, O_RDONLY | O_NONBLOCK)
    try {
      if (fd >= 0 && before !== undefined) return fstatSync(fd).dev !== before.dev
      // What is there all the while, but not to be opened.
      if (fd === -constants.errno.ENOENT && before !== undefined && look()?.ino === before.ino) return true
    } finally {
      if (fd >= 0) mqClose(fd)
    }
  }
  // Without a queue to ask, there is who shares the mount, but not the queues.
  return [process.ppid, 1].some((pid) => tryTo(() => isOf('mnt', pid) && !isOf('ipc', pid)) === true)
}

const isOf = (kind: 'ipc' | 'mnt', pid: number): boolean => namespaceOf(kind, pid).id === namespaceOf(kind).id

function bytes(facts: Facts): Found {
  const { soft, hard } = resourceLimit('Max msgqueue size')
  const uid = process.getuid?.()
  const own = facts.posixQueues?.filter((queue) => queue.uid === uid)
  const costs = own?.map(({ maxMessages, messageSize }) =>
    maxMessages === undefined || messageSize === undefined ? 0 : cost(maxMessages, messageSize),
  )
  const used = costs?.reduce((sum, bytes) => sum + bytes, 0)
  const { defaultMaxMessages, defaultMessageSize } = posixLimits()
  const usual = cost(defaultMaxMessages, defaultMessageSize)
  const status = soft - (used ?? 0) < usual ? 'problem' : fill(used, soft)
  return {
    status,
    seen:
      used === undefined
        ? `${numeral(soft)} bytes; how much of that is in use cannot be seen`
        : `at least ${used} of ${numeral(soft)} bytes, by ${queues(own?.length ?? 0)} of user ${uid} in this IPC namespace`,
    why: `Queues of this user in other IPC namespaces count too, and unlinked ones until they are closed. A queue made without a size costs ${usual}; what does not fit fails with EMFILE.`,
    mend: raiseResource('msgqueue', 2 * Math.max(soft, (used ?? 0) + usual), hard, facts),
    limit: {
      name: 'RLIMIT_MSGQUEUE',
      unit: 'bytes',
      value: soft,
      used,
      isLowerBound: true,
      cost: 'as much kernel memory, once all queues of this user are full',
    },
  }
}

/** What the kernel allows a new queue of those without CAP_SYS_RESOURCE. */
function posixSize(facts: Facts, key: keyof typeof CEILING, limit: LimitUse): Found {
  const { value, unit } = limit
  const usual = key === 'maxMessages' ? USUAL_MESSAGES : USUAL_MESSAGE_SIZE
  const isLow = value < usual && !facts.isExempt
  const what = key === 'maxMessages' ? 'messages in a new queue' : 'bytes in a message of a new queue'
  return {
    status: isLow ? 'warning' : 'ok',
    seen: `${value} ${what}; ${limit.used ?? 'an unknown number'} in use`,
    why: facts.isExempt
      ? `It does not hold for this process (CAP_SYS_RESOURCE), which may ask for ${CEILING[key]}.`
      : `Asking for more ${unit} fails with EINVAL${isLow ? `; ${usual} are usual` : ''}.`,
    mend: raiseSysctl(limit.name, Math.min(Math.max(2 * value, usual), CEILING[key]), value, facts),
    limit,
  }
}

function posixDefault(facts: Place, most: number, limit: LimitUse): Found {
  const { defaultMaxMessages, defaultMessageSize } = posixLimits()
  return {
    status: 'ok',
    seen: `${limit.value} ${limit.unit}`,
    why: `A queue made without a size costs ${cost(defaultMaxMessages, defaultMessageSize)} bytes of RLIMIT_MSGQUEUE.`,
    mend: raiseSysctl(limit.name, Math.min(2 * limit.value, most), limit.value, facts),
    limit,
  }
}
