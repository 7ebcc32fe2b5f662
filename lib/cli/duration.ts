import ms from 'ms'
import { UsageError } from './errors.ts'

/** The milliseconds that an option gives: a number of them, or with a unit such as `2s`. */
export function toDuration(name: string, value: string): number
export function toDuration(name: string, value: string | undefined): number | undefined
export function toDuration(name: string, value: string | undefined): number | undefined {
  if (value === undefined) return undefined
  const time = /^\d/.test(value) ? ms(value as ms.StringValue) : undefined
  if (time !== undefined && Number.isFinite(time)) return Math.round(time)
  throw new UsageError(`--${name} is a time such as 500, 500ms, 2s or 5m, not '${value}'`)
}
