// All subcommands. Each is loaded when it is used: the command has to start fast.
import type { Command } from './command.ts'

export const COMMANDS: Readonly<Record<string, () => Promise<Command>>> = {
  ls: async () => (await import('./ls.ts')).ls,
  info: async () => (await import('./info.ts')).info,
  create: async () => (await import('./create.ts')).create,
  set: async () => (await import('./set.ts')).set,
  rm: async () => (await import('./rm.ts')).rm,
  purge: async () => (await import('./purge.ts')).purge,
  bridge: async () => (await import('./bridge.ts')).bridge,
  completion: async () => (await import('./completion.ts')).completion,
}
