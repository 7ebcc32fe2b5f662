// What a subcommand is: what it takes, in one place for the parser, the help, the completion and the man page.
import { parseArgs } from 'node:util'
import { UsageError } from './errors.ts'

export interface OptionSpec {
  readonly type: 'string' | 'boolean'
  readonly short?: string
  readonly multiple?: boolean
  /** What stands for the value in the help. */
  readonly value?: string
  /** The values that there are. */
  readonly choices?: readonly string[]
  readonly help: string
}

type OptionSpecs = Readonly<Record<string, OptionSpec>>

type ValueOf<S extends OptionSpec> = S['type'] extends 'boolean'
  ? boolean | undefined
  : S extends { readonly multiple: true }
    ? string[] | undefined
    : string | undefined

export interface Call<S extends OptionSpecs = OptionSpecs> {
  readonly operands: readonly string[]
  readonly options: { readonly [Name in keyof S]: ValueOf<S[Name]> }
}

interface Description {
  readonly name: string
  /** What comes before it, of one that is part of another: `bus URL`. */
  readonly of?: string
  readonly summary: string
  /** As the synopsis has them: `QUEUE...`, `[PATTERN]`; nothing if it takes none. */
  readonly operands: string
  /** What follows `--` is a command. */
  readonly hasCommand?: boolean
  /** Paragraphs. */
  readonly description: readonly string[]
  readonly examples: readonly (readonly [command: string, what: string])[]
}

/** Commands by their names, each loaded when it is used. */
export type Commands = Readonly<Record<string, () => Promise<Command>>>

export interface Command extends Description {
  readonly options: OptionSpecs
  /** Those that are part of it, such as `ls` of `kmq bus URL ls`. */
  readonly commands?: Commands
  /** The exit code; 0 if it is undefined. */
  run(args: readonly string[]): Promise<number | undefined>
}

/** What every command with results has. */
export const JSON_OPTION: { readonly json: { readonly type: 'boolean'; readonly help: string } } = {
  json: { type: 'boolean', help: 'print JSON' },
}

export function defineCommand<const S extends OptionSpecs>(
  spec: Description & { readonly options: S; run(call: Call<S>): Promise<number | undefined> },
): Command {
  const { least, most } = operandsOf(spec)
  return {
    ...spec,
    run(args) {
      const parsed = parse(args, spec.options)
      const { length } = parsed.operands
      if (length < least) throw new UsageError(missing(spec))
      if (length > most) throw new UsageError(`unexpected '${parsed.operands[most]}'`)
      // What parseArgs makes of these options is what ValueOf says.
      return spec.run(parsed as unknown as Call<S>)
    },
  }
}

function operandsOf({ operands, hasCommand }: Description): { least: number; most: number } {
  const words = operands.split(' ').filter((word) => word !== '')
  const least = words.filter((word) => !word.startsWith('[')).length + (hasCommand ? 1 : 0)
  return { least, most: hasCommand || operands.includes('...') ? Number.POSITIVE_INFINITY : words.length }
}

function missing({ of, operands, hasCommand }: Description): string {
  const what = `expected ${operands}${hasCommand ? ' -- COMMAND' : ''}`
  // Those of a bus have names of another kind.
  return operands.includes('QUEUE') && of === undefined ? `${what} (quote '#n': a shell takes # for a comment)` : what
}

function parse(args: readonly string[], options: OptionSpecs): { operands: string[]; options: object } {
  try {
    const { values, positionals } = parseArgs({
      args: [...args],
      options: Object.fromEntries(
        Object.entries(options).map(([name, { type, short, multiple = false }]) => [
          name,
          { type, multiple, ...(short !== undefined && { short }) },
        ]),
      ),
      allowPositionals: true,
    })
    for (const [name, { choices }] of Object.entries(options)) {
      const value = values[name]
      if (choices !== undefined && typeof value === 'string' && !choices.includes(value)) {
        throw new UsageError(`--${name} is one of ${choices.join(', ')}, not '${value}'`)
      }
    }
    return { operands: positionals, options: values }
  } catch (error) {
    if (error instanceof UsageError) throw error
    throw new UsageError((error as Error).message.replace(/\. To specify.*$/s, ''))
  }
}

/** The number that an option gives, if it is given. */
export function toInteger(name: string, value: string, min: number, max: number): number
export function toInteger(name: string, value: string | undefined, min: number, max: number): number | undefined
export function toInteger(name: string, value: string | undefined, min: number, max: number): number | undefined {
  if (value === undefined) return undefined
  const number = /^[+-]?(\d+|0x[\da-f]+)$/i.test(value) ? Number(value) : Number.NaN
  if (Number.isInteger(number) && number >= min && number <= max) return number
  throw new UsageError(`--${name} is an integer from ${min} to ${max}, not '${value}'`)
}

/** Permissions, as chmod(1) has them in octal. */
export function toMode(value: string | undefined): number | undefined {
  if (value === undefined || /^0?[0-7]{1,3}$/.test(value))
    return value === undefined ? undefined : Number.parseInt(value, 8)
  throw new UsageError(`--mode is three octal digits such as 660, not '${value}'`)
}
