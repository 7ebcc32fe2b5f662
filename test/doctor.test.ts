import { spawnSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { doctor, type Finding, type FindingId, PosixQueue } from 'kernelmq'
import { describe, expect, onTestFinished, test } from 'vitest'
import {
  attempt,
  canUnshare,
  countDescriptors,
  fixture,
  inNamespace,
  isMounted,
  isRoot,
  openQueue,
  start,
  stranger,
  uniqueName,
} from './support.ts'
import { compile, hasCompiler, openSysv } from './sysv-support.ts'

const namespaces = 'needs namespaces of its own, which root can make'
const another = 'only root can become another user'
const compiler = 'needs a C compiler'

type Findings = Record<FindingId, Finding>

const byId = (findings: readonly Finding[]): Findings =>
  Object.fromEntries(findings.map((finding) => [finding.id, finding])) as Findings

/** What doctor() finds in a process of its own. */
async function examine(
  through: string[] = [],
  options: { uid?: number; exhaust?: boolean; before?: [string, ...unknown[]][] } = {},
): Promise<Findings> {
  const { before = [], ...rest } = options
  const results = await attempt([...before, ['doctor']], { through, ...rest })
  expect(results.map(({ error }) => error)).toEqual(results.map(() => undefined))
  return byId(results.at(-1)?.value)
}

function temporary(): string {
  const directory = mkdtempSync(join(tmpdir(), 'kernelmq-doctor-'))
  onTestFinished(() => rmSync(directory, { recursive: true, force: true }))
  return directory
}

const inMounts = (script: string): string[] => ['unshare', '--mount', 'sh', '-ec', `${script}; exec "$@"`, 'sh']

const withoutMount = inMounts('umount --all --types mqueue')

/** Removes the rights that exempt from limits. */
const unprivileged = ['setpriv', '--bounding-set=-sys_resource', '--inh-caps=-all']

/**
 * A machine without any sign of a container but those that the script makes, in namespaces of its own, with
 * /dev/mqueue. It is this one under another root, in $ROOT.
 */
function machine(script = ''): string[] {
  const signs = ['KUBERNETES_SERVICE_HOST', 'container'].flatMap((name) => ['-u', name])
  const make = `
    ROOT=$1; shift
    umount --all --types mqueue || true
    mount -t tmpfs none "$ROOT"
    for path in /*; do
      if [ -L "$path" ]; then cp -P "$path" "$ROOT$path"
      elif [ -d "$path" ]; then mkdir "$ROOT$path"; mount --rbind "$path" "$ROOT$path"
      fi
    done
    mount -t tmpfs none "$ROOT/run"
    mkdir -p "$ROOT/dev/mqueue"
    mount -t mqueue none "$ROOT/dev/mqueue"
    ${script}
    exec env ${signs.join(' ')} $SIGN chroot "$ROOT" "$@"`
  return ['unshare', '--ipc', '--mount', '--cgroup', 'sh', '-ec', make, 'sh', temporary()]
}

describe('doctor()', () => {
  test('finds something about everything, once, with what it means', async () => {
    const findings = await doctor()
    const ids: Record<FindingId, true> = {
      'package.addon': true,
      'package.node': true,
      'package.sqlite': true,
      'package.optional': true,
      'system.kernel': true,
      'system.container': true,
      'system.ipc': true,
      'process.capabilities': true,
      'process.descriptors': true,
      'posix.support': true,
      'posix.mount': true,
      'posix.bytes': true,
      'posix.queues': true,
      'posix.maxMessages': true,
      'posix.messageSize': true,
      'posix.defaultMaxMessages': true,
      'posix.defaultMessageSize': true,
      'sysv.support': true,
      'sysv.peek': true,
      'sysv.queues': true,
      'sysv.maxBytes': true,
      'sysv.messageSize': true,
    }
    expect(findings.map(({ id }) => id)).toEqual(Object.keys(ids))
    for (const { seen, why } of findings)
      expect([seen, why]).toEqual([expect.stringMatching(/./), expect.stringMatching(/./)])
  })

  test('finds nothing wrong where nothing is', async ({ skip }) => {
    skip(!canUnshare, namespaces)
    const findings = Object.values(await examine([...machine(), ...unprivileged]))
    // The optional package may be missing.
    const wrong = findings.filter(({ id, status }) => status !== 'ok' && id !== 'package.sqlite')
    expect(wrong).toEqual([])
  })

  test('changes nothing and leaves nothing open', async ({ skip }) => {
    skip(!isMounted, 'the mqueue file system is not mounted, which root can do')
    const queue = openQueue()
    queue.trySend('kept')
    const events = PosixQueue.watch()
    await doctor()
    const descriptors = countDescriptors()
    await doctor()
    expect(countDescriptors()).toBe(descriptors)
    expect(queue.tryReceive()?.text()).toBe('kept')
    const last = uniqueName()
    PosixQueue.open(last, { create: true, maxMessages: 1, messageSize: 1 }).close()
    // Others have queues here, too: only those of this process are of names that begin so.
    const own = `/kmq-test-${process.pid}-`
    let event = await events.next()
    while (!event.value?.name.startsWith(own)) event = await events.next()
    expect(event.value).toEqual({ type: 'created', name: last })
    await events.return?.()
  })

  test('fails with nothing where /proc is not to be seen', async ({ skip }) => {
    skip(!canUnshare, namespaces)
    const findings = await examine(inMounts('umount -l /proc'))
    const ids: FindingId[] = [
      'system.ipc',
      'process.capabilities',
      'process.descriptors',
      'posix.mount',
      'posix.bytes',
      'posix.queues',
      'posix.maxMessages',
      'posix.defaultMessageSize',
    ]
    for (const id of ids)
      expect(findings[id]).toMatchObject({ status: 'unknown', why: expect.stringContaining('/proc') })
    expect(findings['posix.support'].status).toBe('ok')
    expect(findings['sysv.queues'].limit?.name).toBe('kernel.msgmni')
  })
})

describe('what mends it, mends it:', () => {
  test.for<[FindingId, Finding['status'], () => string[]]>([
    ['posix.mount', 'problem', () => machine('umount "$ROOT/dev/mqueue"')],
    ['posix.queues', 'problem', () => machine('echo 0 > /proc/sys/fs/mqueue/queues_max')],
    ['posix.maxMessages', 'warning', () => machine('echo 5 > /proc/sys/fs/mqueue/msg_max')],
    ['posix.messageSize', 'warning', () => machine('echo 500 > /proc/sys/fs/mqueue/msgsize_max')],
    ['posix.bytes', 'problem', () => [...machine(), 'prlimit', '--msgqueue=50000:']],
    ['sysv.queues', 'problem', () => machine('echo 0 > /proc/sys/kernel/msgmni')],
    ['sysv.maxBytes', 'warning', () => machine('echo 5000 > /proc/sys/kernel/msgmnb')],
    ['sysv.messageSize', 'warning', () => machine('echo 100 > /proc/sys/kernel/msgmax')],
  ])('%s, a %s', async ([id, status, through], { skip }) => {
    skip(!canUnshare, namespaces)
    const [command = '', ...args] = [...through(), ...unprivileged, process.execPath, fixture('mend.mjs'), id]
    const { stdout, stderr } = await start(command, args).outcome
    const [before, after]: Finding[] = stdout
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line))
    expect(before, stderr).toMatchObject({ id, status })
    expect(after, stderr).toMatchObject({ id, status: 'ok' })
  })
})

describe('limits', () => {
  test('RLIMIT_MSGQUEUE is told with what the queues of this user cost', async ({ skip }) => {
    skip(!isRoot, another)
    skip(!isMounted, 'the mqueue file system is not mounted, which root can do')
    openQueue() // of another user
    const [one, two] = [
      { maxMessages: 3, messageSize: 100 },
      { maxMessages: 1, messageSize: 1 },
    ] as const
    const { 'posix.bytes': bytes } = await examine(['prlimit', '--msgqueue=500000:600000'], {
      uid: stranger,
      before: [one, two].map((size) => ['open', uniqueName(), { create: true, ...size }]),
    })
    expect(bytes.status).toBe('ok')
    expect(bytes.limit).toMatchObject({
      name: 'RLIMIT_MSGQUEUE',
      unit: 'bytes',
      value: 500_000,
      used: PosixQueue.cost(one) + PosixQueue.cost(two),
      isLowerBound: true,
    })
    expect(bytes.seen).toContain(`2 queues of user ${stranger}`)
  })

  test('RLIMIT_MSGQUEUE is a warning when most of it is in use, and a problem when the rest is too little', async ({
    skip,
  }) => {
    skip(!canUnshare, namespaces)
    const open = () => ['open', uniqueName(), { create: true }] as [string, ...unknown[]]
    const statusOf = async (limit: number) => {
      const through = [...machine(), 'prlimit', `--msgqueue=${limit}`]
      return (await examine(through, { uid: stranger, before: [open(), open(), open(), open()] }))['posix.bytes'].status
    }
    const cost = PosixQueue.cost({ maxMessages: 10, messageSize: 8192 })
    expect(await statusOf(5 * cost + 1)).toBe('ok')
    expect(await statusOf(5 * cost)).toBe('warning')
    expect(await statusOf(5 * cost - 1)).toBe('problem')
  })

  test.for<[string, string, string[]]>([
    ['within the hard limit, which stays', '50000:800000', ['ulimit -S -q 165760', 'LimitMSGQUEUE=165760']],
    [
      'beyond the hard limit',
      '50000:60000',
      ['sudo prlimit --pid $$ --msgqueue=165760:165760', 'LimitMSGQUEUE=165760'],
    ],
  ])('RLIMIT_MSGQUEUE is raised %s', async ([_, limits, commands], { skip }) => {
    skip(!canUnshare, namespaces)
    const findings = await examine([...machine(), 'prlimit', `--msgqueue=${limits}`, ...unprivileged])
    expect(findings['posix.bytes'].mend.map(({ command }) => command)).toEqual(commands)
  })

  test('what a user may not read does not count, and is told', async ({ skip }) => {
    skip(!canUnshare, namespaces)
    const size = { maxMessages: 1, messageSize: 8 }
    const findings = await examine(machine(), {
      uid: stranger,
      before: [
        ['open', uniqueName(), { create: true, mode: 0, ...size }],
        ['open', uniqueName(), { create: true, ...size }],
      ],
    })
    expect(findings['posix.bytes'].limit?.used).toBe(PosixQueue.cost(size))
    expect(findings['posix.mount'].seen).toContain('1 of which this user may not read')
    expect(findings['posix.queues'].limit?.used).toBe(2)
  })

  test('the queues of System V are told with what is in them', async () => {
    const queue = openSysv()
    queue.trySend('x'.repeat(3000))
    const { 'sysv.maxBytes': bytes, 'sysv.queues': queues } = byId(await doctor())
    expect(bytes.limit?.used).toBeGreaterThanOrEqual(3000)
    expect(queues.limit?.used).toBeGreaterThanOrEqual(1)
  })

  test('the largest queue is told beside msg_max and msgsize_max', async ({ skip }) => {
    skip(!canUnshare, namespaces)
    const findings = await examine(machine(), {
      before: [
        ['open', uniqueName(), { create: true, maxMessages: 7, messageSize: 10 }],
        ['open', uniqueName(), { create: true, maxMessages: 2, messageSize: 300 }],
      ],
    })
    expect(findings['posix.maxMessages'].limit).toMatchObject({ value: 10, used: 7 })
    expect(findings['posix.messageSize'].limit).toMatchObject({ value: 8192, used: 300 })
    expect(findings['posix.queues'].limit).toMatchObject({ value: 256, used: 2 })
  })

  test('an account of 80 of 100 queues is a warning', async ({ skip }) => {
    skip(!canUnshare, namespaces)
    const through = [...machine('echo 5 > /proc/sys/fs/mqueue/queues_max'), ...unprivileged]
    const open = () =>
      ['open', uniqueName(), { create: true, maxMessages: 1, messageSize: 8 }] as [string, ...unknown[]]
    const statusAt = async (count: number) =>
      (await examine(through, { before: Array.from({ length: count }, open) }))['posix.queues'].status
    expect(await statusAt(3)).toBe('ok')
    expect(await statusAt(4)).toBe('warning')
    expect(await statusAt(5)).toBe('problem')
  })

  test('descriptors that are all open are a problem', async () => {
    const { 'process.descriptors': descriptors } = await examine(['prlimit', '--nofile=64:64'], { exhaust: true })
    expect(descriptors).toMatchObject({ status: 'problem', seen: expect.stringContaining('are open') })
    expect(byId(await doctor())['process.descriptors']).toMatchObject({
      status: 'ok',
      limit: { name: 'RLIMIT_NOFILE', unit: 'descriptors', used: expect.any(Number) },
    })
  })

  test('without the mqueue file system, how much is in use is unknown', async ({ skip }) => {
    skip(!canUnshare, namespaces)
    const findings = await examine(withoutMount)
    expect(findings['posix.bytes']).toMatchObject({ status: 'unknown', limit: { name: 'RLIMIT_MSGQUEUE' } })
    expect(findings['posix.queues']).toMatchObject({ status: 'unknown', limit: { name: 'fs.mqueue.queues_max' } })
    expect(findings['posix.bytes'].limit).not.toHaveProperty('used')
  })
})

describe('the mqueue file system', () => {
  test('that shows queues of another IPC namespace is a problem, and its command mends it', async ({ skip }) => {
    skip(!canUnshare, namespaces)
    skip(!isMounted, 'the mqueue file system is not mounted, which root can do')
    openQueue()
    const { 'posix.mount': mount, 'posix.queues': queues } = await examine(['unshare', '--ipc'])
    expect(mount).toMatchObject({ status: 'problem', seen: expect.stringContaining('another IPC namespace') })
    expect(queues).toMatchObject({ status: 'unknown' })
    const command = mount.mend[0]?.command ?? ''
    expect(command).toContain('COMMAND')
    const mended = await examine(['unshare', '--ipc', 'sh', '-c', command.replace('COMMAND', '"$@"'), 'sh'])
    expect(mended['posix.mount']).toMatchObject({ status: 'ok', seen: expect.stringContaining('with 0 queues') })
  })

  test.for<[string, boolean]>([
    ['is not there', false],
    ['is another of the same name', true],
  ])('whose queue %s for those who open it is that of another namespace', async ([_, isSame], { skip }) => {
    skip(!canUnshare, namespaces)
    skip(!existsSync('/dev/mqueue'), 'there is no /dev/mqueue to mount on')
    // A mount namespace of its own: who shares the mount gives nothing away.
    const script = 'mount -t mqueue none /dev/mqueue; touch /dev/mqueue/same; exec unshare --ipc --mount "$@"'
    const findings = await examine(['unshare', '--ipc', '--mount', 'sh', '-ec', script, 'sh'], {
      before: isSame ? [['open', '/same', { create: true, maxMessages: 1, messageSize: 8 }]] : [],
    })
    expect(findings['posix.mount']).toMatchObject({
      status: 'problem',
      seen: expect.stringContaining('with 1 queue; but they are those of another IPC namespace'),
    })
  })

  test('that is empty, and of another namespace, gives itself away by who shares it', async ({ skip }) => {
    skip(!canUnshare, namespaces)
    const script = 'mount -t mqueue none /dev/mqueue; "$@"'
    const first = ['unshare', '--ipc', '--mount', '--pid', '--fork', '--mount-proc', 'sh', '-ec', script, 'sh']
    skip(!existsSync('/dev/mqueue'), 'there is no /dev/mqueue to mount on')
    expect((await examine(first))['posix.mount']).toMatchObject({ status: 'ok' })
    expect((await examine([...first, 'unshare', '--ipc']))['posix.mount']).toMatchObject({ status: 'problem' })
  })

  test('that cannot be reached is a problem', async ({ skip }) => {
    skip(!canUnshare, namespaces)
    const directory = temporary()
    mkdirSync(join(directory, 'mqueue'))
    const through = inMounts(`umount --all --types mqueue; mount -t mqueue none ${directory}/mqueue`)
    const { 'posix.mount': mount } = await examine(through, { uid: stranger })
    expect(mount).toMatchObject({ status: 'problem', seen: expect.stringMatching(/^EACCES: /) })
  })
})

describe('the kernel', () => {
  const without = compile('without.c')

  test.for<[string, string, FindingId, string]>([
    ['mq_open', '1', 'posix.support', 'EPERM'],
    ['mq_open', '38', 'posix.support', 'ENOSYS'],
    ['msgget', '1', 'sysv.support', 'EPERM'],
    ['msgctl', '38', 'sysv.support', 'ENOSYS'],
  ])(
    'with a filter that forbids %s by errno %s is told from one without it',
    async ([call, errno, id, code], { skip }) => {
      skip(!hasCompiler, compiler)
      const finding = (await examine([without, call, errno]))[id as FindingId]
      expect(finding).toMatchObject({
        status: 'problem',
        seen: `${call} fails with ${code}: a seccomp filter forbids it`,
        mend: [expect.anything()],
      })
    },
  )

  test.for<[string, FindingId, string, string]>([
    ['mq_open', 'posix.support', 'CONFIG_POSIX_MQUEUE', '/proc/sys/fs'],
    ['msgctl', 'sysv.support', 'CONFIG_SYSVIPC', '/proc/sys/kernel'],
  ])('without %s and its sysctls has none', async ([call, id, option, sysctls], { skip }) => {
    skip(!hasCompiler, compiler)
    skip(!canUnshare, namespaces)
    const findings = await examine([...inMounts(`mount -t tmpfs none ${sysctls}`), without, call, '38'])
    expect(findings[id]).toMatchObject({
      status: 'problem',
      seen: `${call} fails with ENOSYS: the kernel has none`,
      mend: [{ command: expect.stringContaining(option) }],
    })
    expect(Object.values(findings).filter(({ status }) => status === 'unknown').length).toBeGreaterThan(0)
  })

  test('that cannot be asked for its sysctls may lack the calls, or a sandbox may', async ({ skip }) => {
    skip(!hasCompiler, compiler)
    skip(!canUnshare, namespaces)
    const findings = await examine([...inMounts('umount -l /proc'), without, 'mq_open', '38'])
    expect(findings['posix.support']).toMatchObject({
      status: 'problem',
      seen: 'mq_open fails with ENOSYS: the kernel has none, or a sandbox forbids it',
    })
  })

  test('that cannot show messages without taking them is a warning', async ({ skip }) => {
    skip(!hasCompiler, compiler)
    const findings = await examine([without, 'MSG_COPY', '38'])
    expect(findings['sysv.peek']).toMatchObject({ status: 'warning', seen: expect.stringContaining('ENOSYS') })
    expect(findings['sysv.support'].status).toBe('ok')
  })
})

describe('where the process is', () => {
  test.for<[string, string, string, string]>([
    [
      'docker',
      'touch "$ROOT/.dockerenv"',
      'docker run --ulimit msgqueue=BYTES:BYTES IMAGE',
      'docker run --sysctl fs.mqueue.msg_max=MESSAGES IMAGE',
    ],
    [
      'podman',
      'touch "$ROOT/run/.containerenv"',
      'podman run --ulimit msgqueue=BYTES:BYTES IMAGE',
      'podman run --sysctl fs.mqueue.msg_max=MESSAGES IMAGE',
    ],
    ['lxc', 'SIGN=container=lxc', 'lxc.prlimit.msgqueue = BYTES', 'lxc.sysctl.fs.mqueue.msg_max = MESSAGES'],
    [
      'kubernetes',
      'SIGN=KUBERNETES_SERVICE_HOST=10.0.0.1',
      'LimitMSGQUEUE=BYTES',
      'securityContext: { sysctls: [{ name: fs.mqueue.msg_max, value: "MESSAGES" }] }',
    ],
  ])('is known to be %s by its signs, with what to pass there', async ([name, sign, ulimit, sysctl], { skip }) => {
    skip(!canUnshare, namespaces)
    const { 'system.container': container, 'posix.maxMessages': limit } = await examine([
      ...machine(`${sign}; echo 5 > /proc/sys/fs/mqueue/msg_max`),
      ...unprivileged,
    ])
    expect(container.seen).toBe(`${name}, by its signs`)
    expect(container.mend.map(({ command }) => command)).toEqual(expect.arrayContaining([ulimit, sysctl]))
    expect(limit.status).toBe('warning')
    expect(limit.mend[0]?.command).toBe(sysctl.replace('MESSAGES', '10'))
  })

  test('is no container where there is no sign of one', async ({ skip }) => {
    skip(!canUnshare, namespaces)
    expect((await examine(machine()))['system.container']).toMatchObject({ seen: 'no sign of one', mend: [] })
  })

  test('is an IPC namespace of its own, or the host’s', async ({ skip }) => {
    skip(!canUnshare, namespaces)
    const { 'system.ipc': own } = await examine(inNamespace())
    expect(own.seen).toMatch(/^ipc:\[\d+\], one of its own/)
    // Whoever runs this may be in a namespace of its own: the first one has its number on every system.
    const here = byId(await doctor())['system.ipc'].seen
    expect(here.includes('the first one')).toBe(here.startsWith('ipc:[4026531839]'))
  })

  test('sysctls of the host are set on the host', async ({ skip }) => {
    skip(!canUnshare, namespaces)
    skip(!byId(await doctor())['system.ipc'].seen.includes('the first one'), 'this is no process of the host')
    const { 'system.container': container } = await examine(['env', 'container=lxc'])
    expect(container.mend).toContainEqual({
      where: 'now, on the host, as root',
      command: 'sysctl -w fs.mqueue.msg_max=MESSAGES',
    })
  })
})

describe('capabilities', () => {
  test('are told, and what they exempt from', async ({ skip }) => {
    skip(!isRoot, another)
    const { 'process.capabilities': some } = await examine(['setpriv', '--bounding-set=-all,+ipc_owner'])
    expect(some).toMatchObject({ seen: 'CAP_IPC_OWNER', why: expect.stringContaining('all limits hold') })
    const { 'process.capabilities': none } = await examine([], { uid: stranger })
    expect(none.seen).toBe('none that matters to queues')
  })

  test.for<[string, string[]]>([
    ['here', []],
    ['in a user namespace', ['unshare', '--user', '--map-root-user']],
  ])('exempt from a low sysctl %s if the kernel says so', async ([_, inside], { skip }) => {
    skip(!canUnshare, namespaces)
    skip(spawnSync('unshare', [...inside.slice(1), 'true']).status !== 0, 'user namespaces are not allowed here')
    const more = { create: true, maxMessages: 6, messageSize: 8 }
    const [opened, examined] = await attempt([['open', uniqueName(), more], ['doctor']], {
      through: [...inNamespace('msg_max=5'), ...inside],
    })
    const { 'process.capabilities': has, 'posix.maxMessages': limit } = byId(examined?.value)
    if (inside.length > 0) expect(has.seen).toContain('CAP_SYS_RESOURCE')
    const isExempt = opened?.error === undefined
    expect(limit.status).toBe(isExempt ? 'ok' : 'warning')
    expect(has.why.includes('exempts from msg_max')).toBe(isExempt)
  })
})

describe('the package', () => {
  const root = fileURLToPath(new URL('..', import.meta.url))

  /** An installation of its own with these packages. */
  function install(...packages: string[]): string {
    const folder = temporary()
    for (const name of ['dist', 'package.json', 'test/fixtures/attempt.mjs']) {
      cpSync(join(root, name), join(folder, name), { recursive: true })
    }
    mkdirSync(join(folder, 'node_modules'))
    for (const name of ['bindings', 'file-uri-to-path', ...packages]) {
      symlinkSync(join(root, 'node_modules', name), join(folder, 'node_modules', name))
    }
    const prebuilt = join(folder, `prebuilds/linux-${process.arch}`)
    mkdirSync(prebuilt, { recursive: true })
    cpSync(join(root, 'build/Release/kernelmq.node'), join(prebuilt, 'kernelmq.glibc.node'))
    return folder
  }

  async function examineIn(folder: string, ...nodeArgs: string[]): Promise<Findings> {
    const what = JSON.stringify({ attempts: [['doctor']] })
    const { stdout, stderr } = await start(process.execPath, [
      ...nodeArgs,
      join(folder, 'test/fixtures/attempt.mjs'),
      what,
    ]).outcome
    expect(stderr).toBe('')
    return byId(JSON.parse(stdout)[0].value)
  }

  test('tells which file the addon is, and where it came from', async () => {
    const built = byId(await doctor())['package.addon'].seen
    expect(built).toMatch(/^\/.*\/build\/(Release|Debug)\/kernelmq\.node was built here; Node-API \d+, /)
    const folder = install()
    const { 'package.addon': addon } = await examineIn(folder)
    expect(addon.seen).toContain(
      `${folder}/prebuilds/linux-${process.arch}/kernelmq.glibc.node came with the package; Node-API`,
    )
  })

  test('misses SQLite only where neither Node.js nor the optional package has it', async ({ skip }) => {
    skip(process.getBuiltinModule('node:sqlite') !== undefined, 'this Node.js has its own')
    const { 'package.sqlite': sqlite, 'package.optional': optional } = await examineIn(install())
    expect(sqlite).toMatchObject({
      status: 'warning',
      seen: expect.stringContaining('is not installed'),
      mend: [{ command: 'npm install @photostructure/sqlite@1' }],
    })
    expect(optional.seen).toMatch(/^croner is not installed, @opentelemetry\/api is not installed$/)
    expect(byId(await doctor())['package.sqlite']).toMatchObject({
      status: 'ok',
      seen: expect.stringMatching(/^@photostructure\/sqlite \d+\.\d+\.\d+$/),
    })
  })

  test('needs a Node.js that is not too old', async () => {
    const old = 'Object.defineProperty(process, "versions", { value: { ...process.versions, node: "20.18.3" } })'
    const { 'package.node': node } = await examineIn(
      install(),
      '--import',
      `data:text/javascript,${encodeURIComponent(old)}`,
    )
    expect(node.status).toBe('problem')
    expect((await examineIn(install()))['package.node'].status).toBe('ok')
  })
})
