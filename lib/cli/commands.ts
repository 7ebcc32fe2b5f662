// All subcommands. Each is loaded when it is used: the command has to start fast.
import type { Command } from './command.ts'

export const COMMANDS: Readonly<Record<string, { readonly summary: string; load(): Promise<Command> }>> = {
  ls: { summary: 'list queues of both families', load: async () => (await import('./ls.ts')).ls },
}
