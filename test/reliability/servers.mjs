// Real servers: each on free ports of the loopback interface, with a directory of its own, gone with the tests of a file.
import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { accessSync, constants, mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { connect as connectTo, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'

/**
 * Of each: what to run, the Debian package it is in, how many ports it needs beside the one of its clients, and how many
 * milliseconds it may take to come up on a machine that has little time; `control` is a program that tells it something,
 * `sweep` a command that ends what outlives the process that was started.
 */
const recipes = {
  redis: {
    program: 'redis-server',
    package: 'redis-server',
    protocol: 'redis',
    ports: 0,
    patience: 30_000,
    command: (directory, port) => ({
      args: ['--bind', '127.0.0.1', '--port', String(port), '--dir', directory, '--appendonly', 'yes', '--save', ''],
    }),
  },
  nats: {
    program: 'nats-server',
    package: 'nats-server',
    protocol: 'nats',
    ports: 0,
    patience: 30_000,
    command: (directory, port) => ({ args: ['-js', '-sd', directory, '-a', '127.0.0.1', '-p', String(port)] }),
  },
  rabbitmq: {
    program: '/usr/lib/rabbitmq/bin/rabbitmq-server',
    package: 'rabbitmq-server',
    protocol: 'amqp',
    ports: 2,
    patience: 180_000,
    control: '/usr/lib/rabbitmq/bin/rabbitmqctl',
    command(directory, port, [epmd, distribution]) {
      writeFileSync(join(directory, 'rabbitmq.conf'), `listeners.tcp.1 = 127.0.0.1:${port}\n`)
      const env = {
        HOME: directory,
        ERL_EPMD_ADDRESS: '127.0.0.1',
        ERL_EPMD_PORT: String(epmd),
        RABBITMQ_NODENAME: `kmq${port}@localhost`,
        RABBITMQ_CONFIG_FILE: join(directory, 'rabbitmq.conf'),
        RABBITMQ_MNESIA_BASE: join(directory, 'mnesia'),
        RABBITMQ_LOG_BASE: join(directory, 'log'),
        RABBITMQ_PID_FILE: join(directory, 'pid'),
        RABBITMQ_DIST_PORT: String(distribution),
        RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS: '-kernel inet_dist_use_interface {127,0,0,1}',
      }
      return { args: [], env }
    },
    // It is nobody's child, and ends by itself only when it is asked, and has no node.
    // Not before it knows that its node is gone; it is when it can no longer be asked.
    // Somebody else who has come to listen there may never answer.
    sweep: ([epmd]) =>
      `export ERL_EPMD_PORT=${epmd}; ask='timeout 20 epmd'; for n in $(seq 100); do $ask -kill; $ask -names || break; sleep 0.1; done`,
  },
}

/** What a server needs that is not there: the name of its package; undefined if all is there. */
export function missingFor(name) {
  const { program, package: debian } = recipes[name]
  const directories = [...(process.env.PATH ?? '').split(delimiter), '/usr/sbin', '/usr/local/sbin']
  const paths = program.startsWith('/') ? [program] : directories.map((directory) => join(directory, program))
  return paths.some(isExecutable) ? undefined : debian
}

function isExecutable(path) {
  try {
    accessSync(path, constants.X_OK)
    return true
  } catch {
    return false
  }
}

/** Below those from which Linux connects: on its way to a server that is down somebody would meet himself. */
const [LOWEST_PORT, HIGHEST_PORT] = [16_384, 32_767]

/** Milliseconds after which nobody answers any more for a server that has ended. */
const GONE = 30_000

/** Resolves to who listens there, or undefined if somebody does already. */
async function listen(where) {
  const server = createServer().listen(where)
  try {
    await once(server, 'listening')
    return server.unref()
  } catch {
    return undefined
  }
}

/** A port that nobody else who asks here gets as long as this process lives, although its server is down at times. */
export async function freePort() {
  for (;;) {
    const port = LOWEST_PORT + Math.floor(Math.random() * (HIGHEST_PORT - LOWEST_PORT + 1))
    // In the abstract namespace it goes with the process.
    const claim = await listen(`\0kernelmq-port-${port}`)
    const probe = claim && (await listen({ port, host: '127.0.0.1' }))
    if (probe === undefined) {
      claim?.close()
      continue
    }
    probe.close()
    await once(probe, 'close')
    return port
  }
}

/** Whether somebody takes connections; who neither does nor refuses within a second does not. */
function answers(port) {
  return new Promise((resolve) => {
    const socket = connectTo(port, '127.0.0.1')
    socket.setTimeout(1000, () => {
      socket.destroy()
      resolve(false)
    })
    socket.once('connect', () => {
      socket.destroy()
      resolve(true)
    })
    socket.once('error', () => resolve(false))
  })
}

/** The state, one letter (proc(5)), of each thread of a process group. */
function threadStates(group) {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && fieldsOf(`/proc/${name}/stat`)?.[2] === String(group))
    .flatMap((pid) => tasksOf(pid).flatMap((task) => fieldsOf(`/proc/${pid}/task/${task}/stat`)?.[0] ?? []))
}

function tasksOf(pid) {
  try {
    return readdirSync(`/proc/${pid}/task`)
  } catch {
    return []
  }
}

/** What follows the name in a `stat` file: state, parent, group...; undefined if the process is gone. */
function fieldsOf(path) {
  try {
    const text = readFileSync(path, 'utf8')
    return text.slice(text.lastIndexOf(')') + 2).split(' ')
  } catch {
    return undefined
  }
}

/**
 * A shell that outlives this process, however it ends, and then ends the group that it was last told of, and removes the
 * directory.
 */
function startUndertaker(directory, sweep = ':') {
  const script = `while read -r line; do group=$line; done; [ -n "$group" ] && kill -KILL "-$group"; ${sweep}; rm -rf "$1"`
  const shell = spawn('sh', ['-c', script, 'sh', directory], { stdio: ['pipe', 'ignore', 'ignore'], detached: true })
  shell.unref()
  shell.stdin.unref()
  shell.stdin.on('error', () => {})
  return {
    tell: (group = '') => shell.stdin.write(`${group}\n`),
    async close() {
      const ended = once(shell, 'exit')
      shell.ref()
      shell.stdin.end()
      await ended
    },
  }
}

/**
 * What has a server keep what it has confirmed when it is killed. Redis writes nothing while its disk is slow, for up to
 * two seconds, and answers nevertheless.
 */
export const DURABLE = { redis: ['--appendfsync', 'always'] }

/** Starts a server, which is to be closed, with these arguments, too; resolves when it answers. */
export async function startServer(name, more = []) {
  const recipe = recipes[name]
  const directory = mkdtempSync(join(tmpdir(), `kernelmq-${name}-`))
  const port = await freePort()
  const others = []
  while (others.length < recipe.ports) others.push(await freePort())
  const undertaker = startUndertaker(directory, recipe.sweep?.(others))
  let child
  const signal = (what) => {
    if (child?.pid === undefined || child.exitCode !== null || child.signalCode !== null) return
    try {
      // A script and what it has started are one group.
      process.kill(-child.pid, what)
    } catch {
      // Gone a moment ago.
    }
  }
  const kill = async (how = 'SIGKILL') => {
    const running = child
    if (running === undefined) return
    const ended = running.exitCode !== null || running.signalCode !== null ? undefined : once(running, 'exit')
    signal(how)
    await ended
    child = undefined
    undertaker.tell()
    const end = performance.now() + GONE
    while (await answers(port)) {
      if (performance.now() > end) throw new Error(`${name} was killed, and somebody still answers at its port ${port}`)
      await sleep(5)
    }
  }
  const start = async () => {
    const { args, env } = recipe.command(directory, port, others)
    const environment = { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/usr/local/sbin`, ...env }
    const running = spawn(recipe.program, [...args, ...more], {
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: true,
      env: environment,
    })
    child = running
    undertaker.tell(running.pid)
    let output = ''
    const listen = (text) => {
      output = `${output}${text}`.slice(-4000)
    }
    running.stdout.on('data', listen)
    running.stderr.on('data', listen)
    running.on('error', (error) => listen(Buffer.from(String(error))))
    const end = performance.now() + recipe.patience
    while (!(await answers(port))) {
      if (running.exitCode !== null || performance.now() > end) throw new Error(`${name} does not come up: ${output}`)
      await sleep(20)
    }
  }
  const control = async (...args) => {
    const { env } = recipe.command(directory, port, others)
    await promisify(execFile)(recipe.control, ['--quiet', ...args], { env: { ...process.env, ...env } })
  }
  const close = async () => {
    await kill()
    await undertaker.close()
  }
  try {
    await start()
  } catch (error) {
    await close()
    throw error
  }
  const url = `${recipe.protocol}://127.0.0.1:${port}`
  const pause = () => {
    signal('SIGSTOP')
    // The threads that run when it is sent may still answer.
    while (child?.pid !== undefined && threadStates(child.pid).some((state) => !'TtZX'.includes(state))) {}
  }
  const resume = () => signal('SIGCONT')
  return { port, url, start, kill, pause, resume, control, close }
}
