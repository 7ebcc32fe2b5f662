// Real text to transfer: every version of every text file in the history of this
// repository. Where that is too little, or there is no git, more is taken from
// the files of the package, then from the declarations and documentation in
// node_modules. One checkout always gives the same text.
import { execFileSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

const MAX_OUTPUT = 2 ** 30
const NEWLINE = Buffer.from('\n')

/** Runs git on the repository that `root` is the top of, not on one around it. */
function git(root, args, input) {
  return execFileSync('git', [`--git-dir=${join(root, '.git')}`, ...args], {
    input,
    maxBuffer: MAX_OUTPUT,
    stdio: ['pipe', 'pipe', 'ignore'],
  })
}

/** The files of all commits, the latest first; none without git or history. */
function* history(root, bytes) {
  let objects
  try {
    const ids = git(root, ['rev-list', '--objects', 'HEAD']).toString().replace(/ .*/gm, '')
    objects = git(root, ['cat-file', '--batch-check=%(objectname) %(objecttype) %(objectsize)'], ids).toString()
  } catch {
    return
  }
  const wanted = []
  let size = 0
  for (const [, id, length] of objects.matchAll(/^(\S+) blob (\d+)$/gm)) {
    if (size >= bytes) break
    wanted.push(id)
    size += Number(length)
  }
  const contents = git(root, ['cat-file', '--batch=%(objectsize)'], wanted.join('\n'))
  for (let start = 0; start < contents.length; ) {
    const lineEnd = contents.indexOf('\n', start)
    const end = lineEnd + 1 + Number(contents.toString('latin1', start, lineEnd))
    yield contents.subarray(lineEnd + 1, end)
    start = end + 1
  }
}

/** The files below a folder whose names match, in an order that no locale changes. */
function* files(folder, pattern, excluded = []) {
  const entries = readdirSync(folder, { withFileTypes: true }).sort((a, b) => (a.name < b.name ? -1 : 1))
  for (const entry of entries) {
    const path = join(folder, entry.name)
    if (entry.name.startsWith('.') || excluded.includes(entry.name)) continue
    if (entry.isDirectory()) yield* files(path, pattern)
    else if (entry.isFile() && pattern.test(entry.name)) yield readFileSync(path)
  }
}

/**
 * Text of at least so many bytes, if there is that much; each of its lines ends
 * with a newline.
 *
 * @returns {{ text: Buffer, origin: string }}
 */
export function collectText(root, bytes) {
  const parts = []
  const sources = []
  let size = 0
  const add = (contents, what) => {
    let count = 0
    for (const content of contents) {
      if (size >= bytes) break
      if (content.length === 0 || content.includes(0)) continue // empty or binary
      const lines = content.at(-1) === NEWLINE[0] ? content : Buffer.concat([content, NEWLINE])
      parts.push(lines)
      size += lines.length
      count++
    }
    if (count > 0) sources.push(`${count} ${what}`)
  }
  add(history(root, bytes), 'file versions in git')
  if (sources.length === 0) {
    add(files(root, /./, ['node_modules', 'build', 'dist', 'prebuilds']), 'files of the package')
  }
  if (existsSync(join(root, 'node_modules'))) {
    add(files(join(root, 'node_modules'), /\.(d\.[cm]?ts|md)$/), 'files in node_modules')
  }
  return { text: Buffer.concat(parts, size), origin: sources.join(' and ') }
}
