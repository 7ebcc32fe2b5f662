// Where something stands in a JSON text.

/** The JSON of a text, or what is wrong with it and in which line. */
export function parseJson(text: string): { value: unknown } | { wrong: string; line: number } {
  try {
    return { value: JSON.parse(text) }
  } catch (error) {
    const { message } = error as SyntaxError
    const position = Number(/position (\d+)/.exec(message)?.[1] ?? text.length)
    return { wrong: message.replace(/,? ?(in JSON|\.\.\.).*$/s, ''), line: lineAt(text, position) }
  }
}

const lineAt = (text: string, position: number): number => text.slice(0, position).split('\n').length

const TOKEN = /"(?:[^"\\]|\\.)*"|[{}[\],:]|[^\s{}[\],:"]+/g

/** The line of a place such as `routes[2].rate` in a text that is JSON; of what is not there, that of what it is missing in. */
export function lineOf(text: string, place: string): number {
  const lines = new Map<string, number>([['', 1]])
  const open: { path: string; index: number | undefined }[] = []
  let path = ''
  let isName = false
  for (const { 0: token, index } of text.matchAll(TOKEN)) {
    const last = open.at(-1)
    if (token === '{' || token === '[') {
      lines.set(path, lines.get(path) ?? lineAt(text, index))
      open.push({ path, index: token === '[' ? 0 : undefined })
      isName = token === '{'
      if (token === '[') path = `${path}[0]`
    } else if (token === '}' || token === ']') {
      path = open.pop()?.path ?? ''
      isName = false
    } else if (token === ',' && last !== undefined) {
      isName = last.index === undefined
      if (last.index !== undefined) path = `${last.path}[${++last.index}]`
    } else if (token === ':') isName = false
    else if (isName && last !== undefined) {
      path = last.path === '' ? JSON.parse(token) : `${last.path}.${JSON.parse(token)}`
      lines.set(path, lineAt(text, index))
    } else lines.set(path, lines.get(path) ?? lineAt(text, index))
  }
  let known = place
  while (!lines.has(known)) known = known.replace(/(?:^|\.|\[)[^.[]*$/, '')
  return lines.get(known) as number
}
