// The help of kmq and of each subcommand.
import type { Command, Commands, OptionSpec } from './command.ts'
import { COMMANDS } from './commands.ts'
import { style, wrap } from './terminal.ts'

const WIDTH = 80

/** Options that every command has. */
export const COMMON = { help: { type: 'boolean', short: 'h', help: 'show this help' } } as const

export async function overview(): Promise<string> {
  return `${style.bold('kmq')}: the message queues of this machine

${style.bold('Usage:')} kmq COMMAND [OPTIONS] [OPERANDS]

${style.bold('Commands:')}
${await listOf(COMMANDS)}

${style.bold('kmq COMMAND --help')} tells all of one. ${style.bold('kmq --version')} tells the version.
A queue is /name (POSIX), or 0x1f (key), '#3' (identifier), path:project (System V).`
}

async function listOf(commands: Commands): Promise<string> {
  const all = await Promise.all(Object.values(commands).map((load) => load()))
  const width = Math.max(...all.map(({ name }) => name.length)) + 2
  const rows = all.map(({ name, summary }) => `  ${style.cyan(name.padEnd(width))}${summary}`)
  return rows.join('\n')
}

export function synopsis({ of = '', name, operands, hasCommand, options }: Command): string {
  const parts = [
    'kmq',
    of,
    name,
    Object.keys(options).length > 0 ? '[OPTIONS]' : '',
    operands,
    hasCommand ? '-- COMMAND...' : '',
  ]
  return parts.filter((part) => part !== '').join(' ')
}

export function flagsOf([name, { short, value }]: readonly [string, OptionSpec]): string {
  return `${short === undefined ? '    ' : `-${short}, `}--${name}${value === undefined ? '' : ` ${value}`}`
}

export async function helpOf(command: Command): Promise<string> {
  const options = Object.entries<OptionSpec>({ ...command.options, ...COMMON })
  const width = Math.max(...options.map((option) => flagsOf(option).length)) + 4
  const rows = options.map((option) => {
    const help = wrap(option[1].help, WIDTH - width)
    return `  ${style.cyan(flagsOf(option).padEnd(width - 2))}${help.join(`\n${' '.repeat(width)}`)}`
  })
  const paragraphs = command.description.map((text) => wrap(text, WIDTH).join('\n'))
  const commands =
    command.commands === undefined ? '' : `\n${style.bold('Commands:')}\n${await listOf(command.commands)}\n`
  const examples = command.examples.map(([line, what]) => `  ${line}\n      ${style.dim(what)}`)
  return `${style.bold('Usage:')} ${synopsis(command)}

${paragraphs.join('\n\n')}
${commands}
${style.bold('Options:')}
${rows.join('\n')}

${style.bold('Examples:')}
${examples.join('\n')}`
}
