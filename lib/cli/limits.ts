import type { Finding, LimitUse } from '../index.ts'
import { type Command, defineCommand, JSON_OPTION } from './command.ts'
import { EXIT, Failure } from './errors.ts'
import { complain, print, printJson, style, table, wrap } from './terminal.ts'

export const limits: Command = defineCommand({
  name: 'limits',
  summary: 'tell all limits, and what is left of them',
  operands: '',
  description: [
    'All limits of both families, with their values, how much of each is in use, and what it costs to raise it. kmq doctor tells which of them are a problem, and --json how each is raised.',
    'What is in use of RLIMIT_MSGQUEUE is what can be seen from here: unlinked queues that somebody has open, and those in other IPC namespaces, count too. Of a limit of each queue it is the most that one of them has.',
  ],
  options: JSON_OPTION,
  examples: [
    ['kmq limits', 'all limits'],
    ['kmq limits --json | jq \'.[] | select(.name == "RLIMIT_MSGQUEUE").used\'', 'bytes of this user'],
  ],
  async run({ options }) {
    const { doctor } = await import('../index.ts')
    const findings = await doctor()
    const rows = findings.flatMap(({ limit, ...finding }) => (limit === undefined ? [] : [{ ...finding, limit }]))
    if (options.json === true) await printJson(rows.map(toJson))
    else await print(draw(rows))
    const unseen = findings.filter(({ id, status, limit }) => LIMITS.test(id) && status === 'unknown' && !limit)
    for (const reason of new Set(unseen.map(({ seen }) => seen))) {
      const same = unseen.filter(({ seen }) => seen === reason)
      const ids = same.map(({ id }) => id).join(', ')
      complain('kmq limits', new Failure(`${ids}: ${reason}`, same[0]?.why), options.json)
    }
    return unseen.length > 0 ? EXIT.failure : 0
  },
})

/** The findings that are about a limit. */
const LIMITS = /^process\.descriptors|^(posix|sysv)\.(?!support|mount|peek)/

type Row = Finding & { limit: LimitUse }

/** No limit is null in JSON, and so is a use that is not known. */
function toJson({ id, status, limit, mend }: Row): object {
  const { name, unit, value, used, isLowerBound = false, cost } = limit
  const finite = Number.isFinite(value) ? value : null
  return { id, name, unit, value: finite, used: used ?? null, isLowerBound, status, cost, raise: mend }
}

const COLORS = { ok: String, warning: style.yellow, problem: style.red, unknown: String }

function draw(rows: readonly Row[]): string {
  // What is not for a terminal is for grep(1) and its like.
  const { columns = Number.POSITIVE_INFINITY } = process.stdout
  const width = Math.max(30, columns - 65)
  return table(
    ['LIMIT', 'VALUE', 'IN USE', 'UNIT', 'RAISING IT COSTS'],
    ['l', 'r', 'r', 'l', 'l'],
    rows.flatMap(({ status, limit: { name, unit, value, used, isLowerBound, cost } }) => {
      const amount = Number.isFinite(value) ? String(value) : 'unlimited'
      const use = COLORS[status](used === undefined ? '-' : `${isLowerBound ? '>=' : ''}${used}`)
      const [first = '', ...more] = wrap(cost, width)
      return [[name, amount, use, unit, first], ...more.map((line) => ['', '', '', '', line])]
    }),
  )
}
