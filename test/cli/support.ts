import { fileURLToPath } from 'node:url'
import { type Outcome, type Running, start } from '../support.ts'

export const command: string = fileURLToPath(new URL('../../dist/cli/kmq.js', import.meta.url))

/** Starts the real command, in a process of its own. */
export function startKmq(args: string[], options: Parameters<typeof start>[2] = {}): Running {
  return start(process.execPath, [command, ...args], { ...options, env: { FORCE_COLOR: '', ...options.env } })
}

/** Runs it to its end. */
export function kmq(
  args: string[],
  { input = '', env = {} }: { input?: string; env?: NodeJS.ProcessEnv } = {},
): Promise<Outcome> {
  const child = startKmq(args, { env })
  child.end(input)
  return child.outcome
}
