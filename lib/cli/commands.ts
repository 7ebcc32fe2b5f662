// All subcommands. Each is loaded when it is used: the command has to start fast.
import type { Command, Commands } from './command.ts'

export const COMMANDS: Commands = {
  ls: { summary: 'list queues of both families', load: async () => (await import('./ls.ts')).ls },
  bus: { summary: 'look at a bus, and work on it', load: async () => (await import('./bus.ts')).bus },
}

/** A command and its name, of `bus URL ls` that of the inner one; undefined if there is none. */
export async function findCommand(
  words: readonly string[],
): Promise<{ readonly title: string; readonly command: Command } | undefined> {
  const [name = '', ...rest] = words
  const command = Object.hasOwn(COMMANDS, name) ? await COMMANDS[name]?.load() : undefined
  if (command?.commands === undefined) return command && { title: name, command }
  const { commands } = command
  // What it is about may stand before it.
  const inner = rest.slice(0, 2).find((word) => Object.hasOwn(commands, word))
  const found = inner === undefined ? command : await commands[inner]?.load()
  return found && { title: inner === undefined ? name : `${name} ${inner}`, command: found }
}
