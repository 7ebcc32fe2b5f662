// What can stand at the end of a line: the shells ask with `kmq __complete WORD...`, the last of which is begun.
import type { Command } from './command.ts'
import { COMMANDS, findCommand } from './commands.ts'
import { listQueues } from './queues.ts'
import { harmless, print } from './terminal.ts'

/** With what it means. */
type Candidate = readonly [word: string, meaning: string]

/** One a line, its meaning after a tab. */
export async function complete(words: readonly string[]): Promise<number> {
  const begun = words.at(-1) ?? ''
  const candidates = await candidatesFor(words.slice(0, -1), begun)
  const lines = candidates.filter(([word]) => word.startsWith(begun)).map(([word, meaning]) => `${word}\t${meaning}`)
  if (lines.length > 0) await print(lines.join('\n'))
  return 0
}

async function candidatesFor(words: readonly string[], begun: string): Promise<readonly Candidate[]> {
  const [name, ...args] = words
  if (name === undefined) return Promise.all(Object.values(COMMANDS).map(summaryOf))
  // What comes after -- is another program's.
  const found = args.includes('--') ? undefined : await findCommand(words)
  if (found === undefined) return []
  const { options, commands, operands } = found.command
  if (commands !== undefined) return args.length === 0 ? [] : Promise.all(Object.values(commands).map(summaryOf))
  const asked = Object.entries(options).find(([option]) => args.at(-1) === `--${option}`)?.[1]
  if (asked?.type === 'string') return (asked.choices ?? []).map((choice) => [choice, ''])
  if (begun.startsWith('-')) {
    const own = Object.entries(options).map(([option, { help }]) => [`--${option}`, help] as const)
    return [...own, ['--help', 'show its help']]
  }
  // Those of a bus are of another kind.
  return found.command.of === undefined && /QUEUE|FROM|PATTERN/.test(operands) ? queues() : []
}

const summaryOf = async (load: () => Promise<Command>): Promise<Candidate> => {
  const { name, summary } = await load()
  return [name, summary]
}

async function queues(): Promise<Candidate[]> {
  const { rows } = await listQueues()
  const usable = rows.filter(({ queue }) => queue === harmless(queue))
  return usable.map(({ queue, messages }) => [queue, `${messages ?? 'unknown'} messages`])
}
