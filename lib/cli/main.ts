// Finds the subcommand, and says what went wrong.
import { readFileSync } from 'node:fs'
import { COMMANDS } from './commands.ts'
import { EXIT, UsageError } from './errors.ts'
import { complain, note, print } from './terminal.ts'

/** The exit code. */
export async function main([name, ...args]: readonly string[]): Promise<number> {
  if (name === undefined || name === '--help' || name === '-h' || name === 'help') return help(args)
  if (name === '--version' || name === '-V') {
    const manifest = new URL('../../package.json', import.meta.url)
    await print((JSON.parse(readFileSync(manifest, 'utf8')) as { version: string }).version)
    return 0
  }
  if (name === '__complete') return (await import('./complete.ts')).complete(args)
  const load = Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined
  if (load === undefined) {
    complain('kmq', new UsageError(`there is no command '${name}'`))
    note("Try 'kmq --help'.")
    return EXIT.usage
  }
  const own = args.includes('--') ? args.slice(0, args.indexOf('--')) : args
  if (own.includes('--help') || own.includes('-h')) return help([name])
  try {
    return (await (await load()).run(args)) ?? 0
  } catch (error) {
    complain(`kmq ${name}`, error, own.includes('--json'))
    if (!(error instanceof UsageError)) return EXIT.failure
    note(`Try 'kmq ${name} --help'.`)
    return EXIT.usage
  }
}

async function help([name]: readonly string[]): Promise<number> {
  if (name === '--roff') {
    await print(await (await import('./man.ts')).manPage())
    return 0
  }
  const { helpOf, overview } = await import('./help.ts')
  const load = name !== undefined && Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined
  await print(load === undefined ? await overview() : helpOf(await load()))
  return 0
}
