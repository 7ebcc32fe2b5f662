// Runs the tests as an ordinary user, who may do less than root: nothing may
// fail, and only what names root may be skipped.
import { spawn, spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, realpathSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const usage = `npm run test:unprivileged -- [options] [arguments of vitest]

  --user <uid>    whom to run as if started by root (default: 65534, nobody)
  --stage <word>  only one of: user, namespaces
  --help

stages:
  user        as that user, among everybody else's queues
  namespaces  as that user, in a user, IPC, mount and pid namespace of its own,
              with the mqueue file system mounted

The tests run in a copy of this folder that belongs to the user.`

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    user: { type: 'string', default: '65534' },
    stage: { type: 'string' },
    help: { type: 'boolean', default: false },
  },
})
if (values.help) {
  console.log(usage)
  process.exit()
}

const isRoot = process.getuid() === 0
const uid = isRoot ? Number(values.user) : process.getuid()
const gid = isRoot ? uid : process.getgid()
if (!Number.isInteger(uid) || uid === 0) throw new RangeError('--user must be the number of an ordinary user')

const notCopied = new Set(['.git', 'coverage'])

/** What the user needs: the project, a home and a place for temporary files, none in another. */
function prepare(folder) {
  const root = fileURLToPath(new URL('../..', import.meta.url))
  for (const name of ['project', 'home', 'tmp']) mkdirSync(join(folder, name))
  const copied = readdirSync(root).filter((name) => !notCopied.has(name))
  run('cp', ['-R', ...copied.map((name) => join(root, name)), join(folder, 'project')])
  if (isRoot) run('chown', ['-R', `${uid}:${gid}`, folder])
}

function run(command, args) {
  const { status, stderr, error } = spawnSync(command, args, { encoding: 'utf8' })
  if (status !== 0) throw error ?? new Error(`${command}: ${stderr}`)
}

const become = ['setpriv', `--reuid=${uid}`, `--regid=${gid}`, '--clear-groups', '--']
const mounting = 'at=/dev/mqueue; [ -d $at ] || at=$HOME; mount -t mqueue none $at'

// In a mount namespace, so that nobody else's mounts come or go meanwhile.
const unlessMounted = `grep -q ' mqueue ' /proc/self/mounts || { ${mounting}; }`
const asUser = isRoot ? ['unshare', '--mount', 'sh', '-c', `${unlessMounted}; exec "$@"`, 'sh', ...become] : []

// Mounting needs the root of the user namespace, who then becomes the user again
// in one below. Process 1 stays a shell, which waits for whatever is orphaned.
const isolated = [
  ...(isRoot ? become : []),
  ...['unshare', '--user', '--map-root-user', '--ipc', '--mount', '--pid', '--fork', '--kill-child', '--mount-proc'],
  ...['sh', '-c', `${mounting} && unshare --user --map-user=${uid} --map-group=${gid} "$@"; exit $?`, 'sh'],
]

const stages = {
  user: { title: `as user ${uid}`, through: asUser },
  namespaces: { title: `as user ${uid} in namespaces of its own`, through: isolated },
}

/** Runs the tests; what was skipped, and whether all others passed. */
async function runTests(through, folder) {
  const [command, ...args] = [...through, process.execPath, 'node_modules/vitest/vitest.mjs', 'run', ...positionals]
  // What npm tells of the user who called it, such as his cache, is not that user's.
  const inherited = Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^npm_/i.test(name)))
  const env = { ...inherited, HOME: join(folder, 'home'), TMPDIR: join(folder, 'tmp'), NO_COLOR: '1' }
  const child = spawn(command, args, { cwd: join(folder, 'project'), env, stdio: ['ignore', 'pipe', 'inherit'] })
  process.prependOnceListener('exit', () => child.kill())
  const ended = new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (code, signal) => resolve(signal ?? code))
  })
  const skipped = new Map()
  let summary = ''
  for await (const line of createInterface({ input: child.stdout })) {
    const [, name, reason] = /^skipped: (.*) \(([^()]*(?:\([^()]*\)[^()]*)*)\)$/.exec(line) ?? []
    if (reason !== undefined) skipped.set(reason, [...(skipped.get(reason) ?? []), name])
    else console.log(line)
    if (/^\d+ passed, /.test(line)) summary = line
  }
  return { ended: await ended, skipped, summary }
}

const wanted = Object.entries(stages).filter(([name]) => values.stage === undefined || values.stage === name)
if (wanted.length === 0) throw new RangeError(`--stage must be one of ${Object.keys(stages).join(', ')}`)

const folder = mkdtempSync(join(realpathSync(tmpdir()), 'kernelmq-unprivileged-'))
process.on('exit', () => rmSync(folder, { recursive: true, force: true }))
for (const signal of ['SIGHUP', 'SIGINT', 'SIGTERM']) process.once(signal, () => process.exit(1))
prepare(folder)
const summaries = []
for (const [, { title, through }] of wanted) {
  console.log(`\n${title}`)
  const { ended, skipped, summary } = await runTests(through, folder)
  for (const [reason, names] of skipped) {
    console.log(`skipped, ${reason}:`)
    for (const name of names) console.log(`  ${name}`)
  }
  const unnamed = [...skipped.keys()].filter((reason) => !/\broot\b|^python3 has no /.test(reason))
  for (const reason of unnamed) console.log(`skipped for a reason that does not name root: ${reason}`)
  if (ended !== 0 || unnamed.length > 0) process.exitCode = 1
  summaries.push(`${title}: ${summary || `ended with ${ended}`}`)
}
console.log(`\n${summaries.join('\n')}`)
