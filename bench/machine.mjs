// Says what the figures are of.
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { cpus, loadavg, release, totalmem } from 'node:os'
import { PosixQueue, SysvQueue } from 'kernelmq'

const run = (command, args) => execFileSync(command, args, { encoding: 'utf8' })

/** One processor of each of two cores. */
export function chooseCores() {
  const allowed = /^Cpus_allowed_list:\s*(.*)$/m.exec(readFileSync('/proc/self/status', 'utf8'))[1]
  const ranges = allowed.split(',').map((range) => range.split('-').map(Number))
  const isAllowed = (cpu) => ranges.some(([first, last = first]) => cpu >= first && cpu <= last)
  const byCore = new Map()
  for (const [, cpu, core] of run('lscpu', ['--parse=CPU,CORE']).matchAll(/^(\d+),(\d+)/gm)) {
    if (!byCore.has(core) && isAllowed(Number(cpu))) byCore.set(core, Number(cpu))
  }
  return [...byCore.values()].slice(0, 2)
}

export function describeMachine(cores) {
  const fields = Object.fromEntries(
    JSON.parse(run('lscpu', ['--json'])).lscpu.map(({ field, data }) => [field.replace(':', ''), data]),
  )
  const virtualised = fields['Hypervisor vendor'] ?? (/ hypervisor /.test(fields.Flags) ? 'yes' : undefined)
  return {
    cpu: cpus()[0].model,
    processors: cpus().length,
    architecture: fields.Architecture,
    virtualised: virtualised ?? 'no',
    memoryGiB: Math.round(totalmem() / 2 ** 30),
    usedProcessors: cores,
    load: loadavg()[0],
    limits: {
      'fs.mqueue.msg_max': PosixQueue.limits().maxMessages,
      'kernel.msgmnb': SysvQueue.limits().maxBytes,
    },
  }
}

export function describeVersions(peers) {
  const { version } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8'))
  return {
    kernelmq: version,
    'Node.js': process.version,
    Linux: release(),
    'C compiler': run('cc', ['--version']).split('\n')[0],
    ...Object.fromEntries(
      Object.entries(peers).map(([name, { version, reason }]) => [name, version ?? `not installed: ${reason}`]),
    ),
  }
}
