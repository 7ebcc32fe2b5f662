// All subcommands. Each is loaded when it is used: the command has to start fast.
import type { Command } from './command.ts'

export const COMMANDS: Readonly<Record<string, { readonly summary: string; load(): Promise<Command> }>> = {
  ls: { summary: 'list queues of both families', load: async () => (await import('./ls.ts')).ls },
  send: { summary: 'send messages', load: async () => (await import('./send.ts')).send },
  recv: { summary: 'receive messages', load: async () => (await import('./recv.ts')).recv },
  peek: { summary: 'look at messages without taking them', load: async () => (await import('./peek.ts')).peek },
  pipe: { summary: 'move messages from one queue to another', load: async () => (await import('./pipe.ts')).pipe },
  run: { summary: 'start a command for each message', load: async () => (await import('./run.ts')).run },
  dump: { summary: 'write the messages of a queue to a file', load: async () => (await import('./dump.ts')).dump },
  restore: { summary: 'send what dump has written', load: async () => (await import('./restore.ts')).restore },
}
