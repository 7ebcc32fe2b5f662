import ms from 'ms'
import { UsageError } from './errors.ts'

/** The longest of a timer, in milliseconds. */
export const MAX_TIMER: number = 2 ** 31 - 1

/** The milliseconds that an option gives: a number of them, or with a unit such as `2s`. */
export function toDuration(name: string, value: string, most?: number): number
export function toDuration(name: string, value: string | undefined, most?: number): number | undefined
export function toDuration(
  name: string,
  value: string | undefined,
  most = Number.MAX_SAFE_INTEGER,
): number | undefined {
  if (value === undefined) return undefined
  const time = /^\d/.test(value) ? ms(value as ms.StringValue) : undefined
  if (time !== undefined && time <= most) return Math.round(time)
  if (time !== undefined && time > most) throw new UsageError(`--${name} is ${ms(most)} at most, not '${value}'`)
  throw new UsageError(`--${name} is a time such as 500, 500ms, 2s or 5m, not '${value}'`)
}

/** The milliseconds between two looks, as --interval gives them. */
export function toInterval(value: string | undefined, usual: number): number {
  const interval = toDuration('interval', value, MAX_TIMER) ?? usual
  if (interval < 10) throw new UsageError(`--interval is 10 milliseconds or more, not '${value}'`)
  return interval
}
