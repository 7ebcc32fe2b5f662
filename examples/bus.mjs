// The bus: three processes share the work of a queue, one of them is killed in the middle of it, and nothing is lost.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { connect } from 'kernelmq/bus'

const JOBS = 300

/** Handles jobs, one after the other, and says which. */
async function work(url) {
  const bus = await connect(url, { signals: ['SIGTERM'] })
  bus.queue('jobs').consume(async ({ body }) => {
    await sleep(2)
    console.log(body.number)
  })
}

async function main() {
  const directory = mkdtempSync(join(tmpdir(), 'kernelmq-bus-'))
  const url = `local:${directory}/bus`
  const bus = await connect(url)
  const jobs = bus.queue('jobs')
  const handled = new Map()
  let victim
  const workers = [1, 2, 3].map((name) => {
    const child = spawn(process.execPath, [fileURLToPath(import.meta.url), url], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    const worker = { name, child, count: 0, ended: once(child, 'close') }
    createInterface({ input: child.stdout }).on('line', (number) => {
      worker.count++
      handled.set(number, (handled.get(number) ?? 0) + 1)
      if (worker.count === 30 && victim === undefined) {
        victim = worker
        child.kill('SIGKILL')
      }
    })
    return worker
  })
  try {
    const items = Array.from({ length: JOBS }, (_, number) => ({ body: { number }, id: `job-${number}` }))
    await jobs.sendMany(items)
    console.log(`the bus in ${directory}: ${JOBS} jobs for three processes`)
    while (handled.size < JOBS) await sleep(10)
    while ((await jobs.stats()).leased > 0) await sleep(10)
    for (const { child } of workers) child.kill('SIGTERM')
    await Promise.all(workers.map(({ ended }) => ended))
    console.log(`process ${victim.name} was killed over its work, and did ${victim.count} of them`)
    for (const { name, count } of workers) if (name !== victim.name) console.log(`process ${name} did ${count}`)
    const { ready, dead } = await jobs.stats()
    const twice = [...handled.values()].filter((times) => times > 1).length
    console.log(`handled: ${handled.size} of ${JOBS}, ${twice} of them twice; left: ${ready}, dead letters: ${dead}`)
  } finally {
    for (const { child } of workers) child.kill('SIGKILL')
    await bus.close()
    rmSync(directory, { recursive: true })
  }
}

const [url] = process.argv.slice(2)
await (url === undefined ? main() : work(url))
