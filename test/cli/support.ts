import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { isRoot, type Outcome, type Running, start, stranger } from '../support.ts'

export const command: string = fileURLToPath(new URL('../../dist/cli/kmq.js', import.meta.url))

interface Options {
  env?: NodeJS.ProcessEnv
  /** A descriptor that is its standard input. */
  stdin?: number
  /** A command that runs it, such as prlimit(1). */
  through?: string[]
}

/** Starts the real command, in a process of its own. */
export function startKmq(args: string[], { through = [], env = {}, ...options }: Options = {}): Running {
  const [first = '', ...rest] = [...through, process.execPath, command, ...args]
  return start(first, rest, { ...options, env: { FORCE_COLOR: undefined, ...env } })
}

/** Runs it to its end. */
export function kmq(args: string[], { input = '', ...options }: Options & { input?: string } = {}): Promise<Outcome> {
  const child = startKmq(args, options)
  child.end(input)
  return child.outcome
}

// biome-ignore lint/suspicious/noExplicitAny: whatever the command prints
export async function jsonOf(args: string[], options?: Options & { input?: string }): Promise<any> {
  const { code, stdout, stderr } = await kmq(args, options)
  if (code !== 0) throw new Error(`kmq ${args.join(' ')} failed: ${stderr}`)
  return JSON.parse(stdout)
}

/** To run it as a user without privileges; see {@link canBeStranger}. */
export const asStranger: string[] = ['setpriv', `--reuid=${stranger}`, `--regid=${stranger}`, '--clear-groups']

/** Only root can become another user, who has to be able to read the command. */
export const canBeStranger: boolean =
  isRoot && spawnSync('setpriv', [...asStranger.slice(1), 'test', '-r', command]).status === 0

/** Whether there is script(1), which makes a terminal. */
export const hasTerminal: boolean = spawnSync('script', ['--version']).status === 0

/** Runs it on a terminal, which gets these answers. */
export function onTerminal(args: string[], answer: string): Promise<Outcome> {
  const line = [process.execPath, command, ...args].map((word) => `'${word}'`).join(' ')
  // What says that it is CI is thought to have no colours.
  const env = { CI: undefined, NO_COLOR: undefined, TERM: 'xterm-256color' }
  const child = start('script', ['--quiet', '--return', '--command', line, '/dev/null'], { env })
  child.end(answer)
  return child.outcome
}
