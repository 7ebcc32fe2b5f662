// Which topics a pattern means: words between dots, `*` is one of them, `#` any number.
import type { Binding } from './transport.ts'

const patterns = new Map<string, RegExp>()
/** So that names that are made up by a program do not fill the memory. */
const MOST = 1000

function toRegExp(pattern: string): RegExp {
  let known = patterns.get(pattern)
  if (known === undefined) {
    const words = pattern
      .split('.')
      .map((word) => (word === '*' ? '\\.[^.@]+' : word === '#' ? '(?:\\.[^.@]+)*' : `\\.${word}`))
    known = new RegExp(`^${words.join('')}$`)
    if (patterns.size >= MOST) patterns.clear()
    patterns.set(pattern, known)
  }
  return known
}

export function isBound(
  { pattern, headers }: Pick<Binding, 'pattern' | 'headers'>,
  topic: string,
  given: Readonly<Record<string, string>>,
): boolean {
  // What the bus tells itself is not for those who want to hear everything.
  const isMeant = topic.startsWith('$') ? pattern === topic : toRegExp(pattern).test(`.${topic}`)
  return isMeant && Object.entries(headers).every(([name, value]) => given[name] === value)
}
