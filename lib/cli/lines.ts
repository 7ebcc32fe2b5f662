// A configuration in JSON, comments allowed, and where in it something stands.
import { findNodeAtLocation, getNodeValue, type JSONPath, parseTree, printParseErrorCode } from 'jsonc-parser'

export interface Parsed {
  readonly value: unknown
  /** The line of a place such as `routes[2].rate`; of what is not there, that of what it is missing in. */
  lineOf(place: string): number
}

/** What a text says, or what is wrong with it and in which line. */
export function parseJson(text: string): Parsed | { readonly wrong: string; readonly line: number } {
  const errors: Parameters<typeof parseTree>[1] = []
  const root = parseTree(text, errors, { allowTrailingComma: true })
  const lineAt = (offset: number) => text.slice(0, offset).split('\n').length
  const [first] = errors
  if (root === undefined || first !== undefined) {
    const name = first === undefined ? 'ValueExpected' : printParseErrorCode(first.error)
    const wrong = name.replace(/(?<=[a-z])[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`).toLowerCase()
    return { wrong, line: lineAt(first?.offset ?? text.length) }
  }
  const lineOf = (place: string): number => {
    const path = pathOf(place)
    let node = findNodeAtLocation(root, path)
    while (node === undefined) {
      path.pop()
      node = findNodeAtLocation(root, path)
    }
    return lineAt((node.parent?.type === 'property' ? node.parent : node).offset)
  }
  return { value: getNodeValue(root), lineOf }
}

/** Names of headers may have dots in them; they come last. */
function pathOf(place: string): JSONPath {
  const [, before = '', header] = /^(.*?)(?:(?<=\bheaders)\.(.*))?$/s.exec(place) ?? []
  const path: JSONPath = [...before.matchAll(/[^.[\]]+/g)].map(([part]) => (/^\d+$/.test(part) ? Number(part) : part))
  return header === undefined ? path : [...path, header.replace(/\.header$/, '')]
}
