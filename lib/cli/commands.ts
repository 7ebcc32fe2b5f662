// All subcommands. Each is loaded when it is used: the command has to start fast.
import type { Command, Commands } from './command.ts'

export const COMMANDS: Commands = {
  ls: async () => (await import('./ls.ts')).ls,
  info: async () => (await import('./info.ts')).info,
  create: async () => (await import('./create.ts')).create,
  set: async () => (await import('./set.ts')).set,
  rm: async () => (await import('./rm.ts')).rm,
  purge: async () => (await import('./purge.ts')).purge,
  top: async () => (await import('./top.ts')).top,
  bench: async () => (await import('./bench.ts')).bench,
  send: async () => (await import('./send.ts')).send,
  recv: async () => (await import('./recv.ts')).recv,
  peek: async () => (await import('./peek.ts')).peek,
  pipe: async () => (await import('./pipe.ts')).pipe,
  run: async () => (await import('./run.ts')).run,
  dump: async () => (await import('./dump.ts')).dump,
  restore: async () => (await import('./restore.ts')).restore,
  bus: async () => (await import('./bus.ts')).bus,
  doctor: async () => (await import('./doctor.ts')).doctor,
  limits: async () => (await import('./limits.ts')).limits,
  bridge: async () => (await import('./bridge.ts')).bridge,
  completion: async () => (await import('./completion.ts')).completion,
}

/** A command and its name, of `bus URL ls` that of the inner one; undefined if there is none. */
export async function findCommand(
  words: readonly string[],
): Promise<{ readonly title: string; readonly command: Command } | undefined> {
  const [name = '', ...rest] = words
  const command = Object.hasOwn(COMMANDS, name) ? await COMMANDS[name]?.() : undefined
  if (command?.commands === undefined) return command && { title: name, command }
  const { commands } = command
  // What it is about may stand before it.
  const inner = rest.slice(0, 2).find((word) => Object.hasOwn(commands, word))
  const found = inner === undefined ? command : await commands[inner]?.()
  return found && { title: inner === undefined ? name : `${name} ${inner}`, command: found }
}
