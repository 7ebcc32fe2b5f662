// One end of a route through which messages go, pinned to a core of its own. The near end starts the far one, which is
// another process, or a worker. A pair has one end only.
//
//   echo '100000 10000 0 0' | node end.mjs '{"workload":"stream","route":"unix-socket","path":"/tmp/socket",
//                                            "size":64,"cores":[0,1]}'
//
// The command asks for 100000 messages after 10000 to warm up; 0: not all bytes of all are compared; 0: no pause
// between them.
import { execFileSync } from 'node:child_process'
import { readlinkSync } from 'node:fs'
import { basename } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { isMainThread, MessageChannel } from 'node:worker_threads'
import { Checker, Maker } from './message.mjs'
import { answer, commands, Program } from './program.mjs'

const config = JSON.parse(process.argv[2])
const { workload, size, cores, far = false, timer = false } = config
const { connect, ends = 'processes' } = await import(`./routes/${config.route}.mjs`)
const path = fileURLToPath(import.meta.url)

/** Does its part of a round on a route. */
const parts = {
  async pair(route, command, total) {
    const checker = new Checker(size, command)
    await route.pair(new Maker(size), checker, total)
    return checker.result
  },
  async ping(route, command, total) {
    const checker = new Checker(size, command, { laps: true })
    await route.ping(new Maker(size), checker, total)
    return checker.result
  },
  async pong(route, command, total) {
    const checker = new Checker(size, command)
    await route.pong(new Maker(size), checker, total)
    return {}
  },
  async send(route, { pause }, total) {
    const maker = new Maker(size, { stamped: pause > 0 })
    if (pause === 0) {
      await route.send(maker, total)
      return {}
    }
    for (let i = 0; i < total; i++) {
      await sleep(pause / 1000)
      await route.send(maker, 1)
    }
    return {}
  },
  async receive(route, command, total) {
    const checker = new Checker(size, command, { stamped: command.pause > 0 })
    await route.receive(checker, total)
    return checker.result
  },
}

/** How late a timer of 1 ms is, in nanoseconds, again and again. */
function watchTimer() {
  const lateness = []
  let due = performance.now() + 1
  let timeout = setTimeout(function late() {
    lateness.push(Math.round((performance.now() - due) * 1e6))
    due = performance.now() + 1
    timeout = setTimeout(late, 1)
  }, 1)
  return () => {
    clearTimeout(timeout)
    return lateness
  }
}

async function run(part, route, command) {
  const stop = timer ? watchTimer() : () => []
  const before = process.cpuUsage()
  const result = await part(route, command, command.warm + command.count + 1)
  const { user, system } = process.cpuUsage(before)
  const lateness = stop()
  globalThis.gc?.()
  const { rss, heapUsed, external } = process.memoryUsage()
  return { ...result, cpu: user + system, rss, used: heapUsed + external, lateness }
}

async function runAlone(part) {
  const route = await connect(config)
  for await (const command of commands()) {
    if (far) answer('ready')
    answer(await run(part, route, command))
  }
  await route.close?.()
}

function startFar(port) {
  const argument = JSON.stringify({ ...config, far: true })
  if (ends === 'threads') return Program.startWorker(path, [argument], port)
  return Program.start(cores[1], [process.execPath, ...process.execArgv, path, argument], {
    ipc: ends === 'parent and child',
  })
}

async function runBoth(part) {
  const { port1, port2 } = new MessageChannel()
  const other = startFar(port2)
  const route = await connect(config, other, port1)
  for await (const command of commands()) {
    other.tell(command)
    await other.answer() // it is ready
    const own = await run(part, route, command)
    const theirs = await other.answer()
    const shared = ends === 'threads'
    answer({
      ...theirs,
      ...own,
      cpu: own.cpu + (shared ? 0 : theirs.cpu),
      rss: own.rss + (shared ? 0 : theirs.rss),
      used: own.used + (shared ? 0 : theirs.used),
      lateness: [...own.lateness, ...theirs.lateness],
    })
  }
  await route.close?.()
  await other.end()
}

if (far && isMainThread) {
  process.on('uncaughtException', ({ message }) => {
    console.error(message)
    process.kill(process.ppid) // the near end may be blocked for ever
    process.exit(1)
  })
}
if (!isMainThread) execFileSync('taskset', ['-cp', cores[1], basename(readlinkSync('/proc/thread-self'))])
if (workload === 'pair') await runAlone(parts.pair)
else if (workload === 'ping-pong') await (far ? runAlone(parts.pong) : runBoth(parts.ping))
else await (far ? runAlone(parts.receive) : runBoth(parts.send))
process.exit()
