import { release } from 'node:os'
import type { Finding } from '../index.ts'
import { type Command, defineCommand, JSON_OPTION } from './command.ts'
import { EXIT } from './errors.ts'
import { print, printJson, style, wrap } from './terminal.ts'

export const doctor: Command = defineCommand({
  name: 'doctor',
  summary: 'say what does not work here, and what mends it',
  operands: '',
  description: [
    'Looks at the package, the kernel, namespaces and containers, rights, and at how much of each limit is in use, and tells for everything that is wrong what it means and the command that mends it. It changes nothing.',
    'What it says of a process, its limits and capabilities, is of this one: they are those of the shell, or of the unit or container that it runs in. The exit code is 1 if there is a problem; warnings do not count.',
  ],
  options: {
    all: { type: 'boolean', short: 'a', help: 'tell also of what is right what it means' },
    ...JSON_OPTION,
  },
  examples: [
    ['kmq doctor', 'what is wrong'],
    ['docker run IMAGE kmq doctor', 'in a container as it will run'],
    ['systemd-run --pipe -p LimitMSGQUEUE=4M kmq doctor', 'in a unit with these settings'],
    ['kmq doctor --json | jq \'.[] | select(.status != "ok")\'', 'the same for a program'],
  ],
  async run({ options }) {
    const findings = await examine()
    if (options.json === true) await printJson(findings.map(toJson))
    else await print(draw(findings, options.all === true))
    return findings.some(({ status }) => status === 'problem') ? EXIT.failure : 0
  },
})

/** Where the addon cannot be loaded nothing of the library can, and that is what there is to say. */
async function examine(): Promise<readonly Finding[]> {
  const library = await import('../index.ts').catch((error: Error) => error)
  if (!(library instanceof Error)) return library.doctor()
  const [, needs, command] = /^To build it \((.+)\): (.+)$/m.exec(library.message) ?? []
  return [
    {
      id: 'package.addon',
      status: 'problem',
      seen: command === undefined ? library.message : library.message.slice(0, library.message.indexOf('\nTo build')),
      why: 'Without it nothing works: it makes the system calls.',
      mend: command === undefined ? [] : [{ where: needs ?? '', command }],
    },
    {
      id: 'package.node',
      status: 'unknown',
      seen: `Node.js ${process.version} on ${process.platform} ${release()}, ${process.arch}`,
      why: 'All else can be looked at once the addon is there.',
      mend: [],
    },
  ]
}

/** No limit is null in JSON, and so is a use that is not known. */
function toJson({ limit, ...finding }: Finding): object {
  if (limit === undefined) return finding
  const { value, used } = limit
  return { ...finding, limit: { ...limit, value: Number.isFinite(value) ? value : null, used: used ?? null } }
}

const GROUPS: Readonly<Record<string, string>> = {
  package: 'Package',
  system: 'System',
  process: 'This process',
  posix: 'POSIX queues',
  sysv: 'System V queues',
}

function draw(findings: readonly Finding[], all: boolean): string {
  const sections = Object.entries(GROUPS).flatMap(([group, title]) => {
    const own = findings.filter(({ id }) => id.startsWith(`${group}.`))
    return own.length === 0 ? [] : [[style.bold(title), ...own.map((finding) => drawFinding(finding, all))].join('\n')]
  })
  return [...sections, sum(findings)].join('\n\n')
}

const MARKS = { ok: ['✓', 'green'], warning: ['!', 'yellow'], problem: ['✗', 'red'], unknown: ['?', 'dim'] } as const

/** The longest name of a finding. */
const NAME = 'defaultMaxMessages'.length

function drawFinding({ id, status, seen, why, mend }: Finding, all: boolean): string {
  const [mark, color] = MARKS[status]
  const indent = ' '.repeat(NAME + 6)
  // What is not for a terminal is for grep(1) and its like.
  const { columns = Number.POSITIVE_INFINITY } = process.stdout
  const width = Math.max(40, columns - indent.length)
  // What has lines has them for a reason.
  const lines = seen.includes('\n') ? seen.split('\n') : wrap(seen, width)
  const first = `  ${style[color](mark)} ${id.slice(id.indexOf('.') + 1).padEnd(NAME)}  ${lines.join(`\n${indent}`)}`
  if (status === 'ok' && !all) return first
  const longest = Math.max(0, ...mend.map(({ where }) => where.length))
  return [
    first,
    ...wrap(why, width).map((line) => indent + style.dim(line)),
    // In one line each: they are there to be copied.
    ...(status === 'unknown' && !all ? [] : mend).map(
      ({ where, command }) => `${indent}${`${where}:`.padEnd(longest + 1)} ${style.cyan(command)}`,
    ),
  ].join('\n')
}

function sum(findings: readonly Finding[]): string {
  const count = (status: Finding['status']) => findings.filter((finding) => finding.status === status).length
  const [problems, warnings, unknown] = [count('problem'), count('warning'), count('unknown')]
  const parts = [
    problems > 0 ? style.red(problems === 1 ? '1 problem' : `${problems} problems`) : '',
    warnings > 0 ? style.yellow(warnings === 1 ? '1 warning' : `${warnings} warnings`) : '',
    problems + warnings === 0 ? style.green('Nothing is wrong') : '',
    unknown > 0 ? `${unknown} could not be seen` : '',
  ]
  return parts.filter((part) => part !== '').join(', ')
}
