// The man page, from what the help is made of.
import { readFileSync } from 'node:fs'
import type { Command, Commands, OptionSpec } from './command.ts'
import { COMMANDS } from './commands.ts'
import { EXIT } from './errors.ts'
import { COMMON, flagsOf, synopsis } from './help.ts'
import { NAMES } from './target.ts'

export async function manPage(): Promise<string> {
  const commands = await loadAll(COMMANDS)
  const manifest = new URL('../../package.json', import.meta.url)
  const { version } = JSON.parse(readFileSync(manifest, 'utf8')) as { version: string }
  return [
    `.TH KMQ 1 "" "kernelmq ${version}" "User Commands"`,
    '.SH NAME',
    'kmq \\- the message queues of the Linux kernel, POSIX and System V',
    '.SH SYNOPSIS',
    '.B kmq',
    '.I COMMAND',
    '[OPTIONS] [OPERANDS]',
    '.SH DESCRIPTION',
    plain(NAMES),
    '.SH COMMANDS',
    ...commands.flatMap(section),
    '.SH EXIT STATUS',
    ...[
      [0, 'it is done'],
      [EXIT.failure, 'it failed; standard error says why'],
      [EXIT.usage, 'the command was not understood, and nothing was done'],
      [EXIT.timeout, 'there was nothing to receive, or no room, in time'],
      [EXIT.brokenPipe, 'nobody read what it printed'],
    ].flatMap(([code, meaning]) => ['.TP', `.B ${code}`, plain(String(meaning))]),
    '.SH SEE ALSO',
    '.BR mq_overview (7),',
    '.BR sysvipc (7),',
    '.BR ipcs (1)',
  ].join('\n')
}

/** With those that are part of others. */
async function loadAll(commands: Commands): Promise<Command[]> {
  const all = await Promise.all(Object.values(commands).map((load) => load()))
  const parts = await Promise.all(all.map(async (command) => [command, ...(await loadAll(command.commands ?? {}))]))
  return parts.flat()
}

function section(command: Command): string[] {
  const options = Object.entries<OptionSpec>({ ...command.options, ...COMMON })
  return [
    `.SS ${plain(synopsis(command))}`,
    ...command.description.flatMap((text) => [plain(text), '.PP']),
    ...options.flatMap((option) => ['.TP', `.B ${plain(flagsOf(option).trim())}`, plain(option[1].help)]),
    ...command.examples.flatMap(([line, what]) => ['.PP', `.B ${plain(line)}`, '.br', plain(what)]),
  ]
}

/** Nothing in it means anything to troff. */
function plain(text: string): string {
  const escaped = text.replaceAll('\\', '\\e').replaceAll('-', '\\-').replaceAll("'", '\\(aq').replaceAll('"', '\\(dq')
  return escaped.replaceAll('^', '\\(ha').replaceAll('`', '\\(ga').replaceAll('~', '\\(ti').replace(/^\./, '\\&.')
}
