// One end of a route through which messages go, in a process of its own. The near end starts the far one.
//
//   node end.mjs '{"workload":"stream","route":"kernelmq","way":"for await","family":"posix","size":64,
//                  "cores":[0,1],"queues":["/name"]}'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { Checker, Maker } from './message.mjs'
import { answer, commands, Program } from './program.mjs'

const config = JSON.parse(process.argv[2])
const { workload, route: name, size, cores, far = false } = config
const { ends = 'processes', connect } = await import(`./routes/${name}.mjs`)

/** Where the messages of a pair go to is where they come from. */
async function pair(route, command) {
  const checker = new Checker(size, command)
  const maker = new Maker(size)
  await route.pair(maker, checker, command.warm + command.count + 1)
  return checker.result
}

async function near(route, command) {
  const total = command.warm + command.count + 1
  if (workload === 'ping-pong') {
    const checker = new Checker(size, command, { laps: true })
    await route.ping(new Maker(size), checker, total)
    return checker.result
  }
  const maker = new Maker(size, { stamped: command.pause > 0 })
  if (command.pause === 0) {
    await route.send(maker, total)
    return {}
  }
  for (let i = 0; i < total; i++) {
    await sleep(command.pause / 1000)
    await route.send(maker, 1)
  }
  return {}
}

async function distant(route, command) {
  const stamped = command.pause > 0
  const checker = new Checker(size, command, { stamped })
  const total = command.warm + command.count + 1
  answer('ready')
  if (workload === 'ping-pong') await route.pong(new Maker(size), checker, total)
  else await route.receive(checker, total)
  return checker.result
}

/** What this process needed besides. */
async function measured(run, route, command) {
  const before = process.cpuUsage()
  const result = await run(route, command)
  const { user, system } = process.cpuUsage(before)
  return { ...result, cpu: user + system, memory: [process.memoryUsage.rss()] }
}

function startFar() {
  const command = [process.execPath, fileURLToPath(import.meta.url), JSON.stringify({ ...config, far: true })]
  return new Program(cores[1], command, ends === 'parent and child' ? { stdio: ['ipc'] } : {})
}

if (workload === 'pair') {
  const route = await connect(config)
  for await (const command of commands()) answer(await measured(pair, route, command))
  await route.close?.()
} else if (far) {
  const route = await connect(config)
  for await (const command of commands()) answer(await measured(distant, route, command))
  await route.close?.()
} else {
  const other = startFar()
  const route = await connect(config, other)
  for await (const command of commands()) {
    other.tell(command)
    await other.answer()
    const own = await measured(near, route, command)
    const theirs = await other.answer()
    answer({
      ...theirs,
      ...own,
      cpu: own.cpu + theirs.cpu,
      memory: [...own.memory, ...theirs.memory],
    })
  }
  await route.close?.()
  await other.end()
}
process.exit()
