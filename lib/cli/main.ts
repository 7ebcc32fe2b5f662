// Finds the subcommand, and says what went wrong.
import { readFileSync } from 'node:fs'
import { COMMANDS, findCommand } from './commands.ts'
import { EXIT, exitCodeOf, isUrl, UsageError } from './errors.ts'
import { complain, hangUp, isHangUp, note, print } from './terminal.ts'

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
    complain(
      'kmq',
      new UsageError(isUrl(name) ? 'a bus is looked at by kmq bus URL ls' : `there is no command '${name}'`),
    )
    note("Try 'kmq --help'.")
    return EXIT.usage
  }
  const own = args.includes('--') ? args.slice(0, args.indexOf('--')) : args
  if (own.includes('--help') || own.includes('-h')) return help([name, ...own])
  try {
    return (await (await load()).run(args)) ?? 0
  } catch (error) {
    if (isHangUp(error)) hangUp()
    const title = `kmq ${(await findCommand([name, ...own]).catch(() => undefined))?.title ?? name}`
    complain(title, error, own.includes('--json'))
    if (error instanceof UsageError) note(`Try '${title} --help'.`)
    return exitCodeOf(error)
  }
}

async function help(words: readonly string[]): Promise<number> {
  if (words[0] === '--roff') {
    await print(await (await import('./man.ts')).manPage())
    return 0
  }
  const { helpOf, overview } = await import('./help.ts')
  const found = await findCommand(words)
  await print(found === undefined ? await overview() : await helpOf(found.command))
  return 0
}
