// The documentation is run, so that it stays true.
//
// A js block with an import is a program. The programs of one section run at
// the same time, in a process each; a first line such as `// child.mjs` names
// the file, and a program that another one of the section mentions is left to
// that to start. Any other js block is a fragment: it runs where `queue` is open
// and holds two messages; it is a System V queue, with the types 1 and 2, on the
// page of that family and where the heading says so. Keys of examples are below
// 0x100. A comment behind console.log() is what that prints.
import { execFile } from 'node:child_process'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { PosixQueue, SysvQueue } from 'kernelmq'
import { expect, onTestFinished, test } from 'vitest'
import { isMounted } from './support.ts'

const root = fileURLToPath(new URL('..', import.meta.url))
const read = (path: string) => readFileSync(join(root, path), 'utf8')
const pages = readdirSync(join(root, 'docs'))
  .filter((name) => name.endsWith('.md'))
  .map((name) => `docs/${name}`)
const documents = ['README.md', 'ARCHITECTURE.md', 'CHANGELOG.md', ...pages]

/** The js blocks under one heading. */
interface Section {
  title: string
  blocks: string[]
}

function sectionsOf(text: string): Section[] {
  const sections: Section[] = [{ title: 'introduction', blocks: [] }]
  for (const [, title, language, code] of text.matchAll(/^#+ (.*?)$|^```(\w*)\n(.*?)^```$/gms)) {
    if (title !== undefined) sections.push({ title, blocks: [] })
    else if (language === 'js' && code !== undefined) sections.at(-1)?.blocks.push(code)
  }
  return sections
}

const openings = {
  posix: `PosixQueue.open('/fragment', { create: true, maxMessages: 4, messageSize: 64 })
queue.sendMany(['{"id":1}', '{"id":2}'])`,
  sysv: `SysvQueue.open(0xff, { create: true })
queue.sendMany([{ data: '{"id":1}', type: 1 }, { data: '{"id":2}', type: 2 }])`,
}

const programOf = (fragment: string, family: keyof typeof openings) => `
import { PosixQueue, QueueError, SysvQueue } from 'kernelmq'
const queue = ${openings[family]}
setTimeout(() => queue.close(), 3000).unref()
try {
${fragment}
} finally {
  queue.close()
}
`

const familyOf = (document: string, title: string) =>
  document === 'docs/system-v.md' || title.includes('System V') ? 'sysv' : 'posix'

let count = 0

/** Runs programs at the same time, with queues of their own; what they print. */
async function run(programs: string[]): Promise<string> {
  const directory = mkdtempSync(join(tmpdir(), 'kernelmq-docs-'))
  const prefix = `/kmq-docs-${process.pid}-${count++}-`
  const queues = new Set<string>()
  const keys = new Map<string, string>()
  const stop = new AbortController()
  onTestFinished(() => {
    stop.abort()
    rmSync(directory, { recursive: true })
    for (const queue of queues) {
      try {
        PosixQueue.unlink(queue)
      } catch {}
    }
    for (const key of keys.keys()) {
      try {
        SysvQueue.open(key).remove()
      } catch {}
    }
  })
  // Other runs of this file, and whoever else is there, have keys of their own.
  const block = (0x4000 | (process.pid & 0x3fff)) * 2 ** 16 + (count & 0xff) * 2 ** 8
  const ownKey = (key: string) => {
    const own = `0x${(block + Number(key)).toString(16)}`
    keys.set(own, `0x${Number(key).toString(16).padStart(8, '0')}`)
    return own
  }
  mkdirSync(join(directory, 'node_modules'))
  symlinkSync(root, join(directory, 'node_modules/kernelmq'))
  symlinkSync(join(root, 'node_modules/@opentelemetry'), join(directory, 'node_modules/@opentelemetry'))
  const files = programs.map((program, index) => {
    const name = /^\/\/ (\w+\.mjs)$/m.exec(program)?.[1] ?? `example-${index}.mjs`
    const renamed = program.replaceAll(/'\/([\w.-]+)'/g, (_, queue) => {
      queues.add(prefix + queue)
      return `'${prefix}${queue}'`
    })
    const text = renamed.replaceAll(/\b0x[0-9a-f]{1,2}\b/g, ownKey)
    writeFileSync(join(directory, name), text)
    return { name, text }
  })
  const mains = files.filter(({ name }) => !files.some((other) => other.name !== name && other.text.includes(name)))
  const outputs = mains.map(async ({ name }) => {
    const options = { cwd: directory, timeout: 50_000, signal: stop.signal }
    const { stdout, stderr } = await promisify(execFile)(process.execPath, [name], options)
    expect(stderr).toBe('')
    return [...keys].reduce((text, [own, key]) => text.replaceAll(own, key), stdout.replaceAll(prefix, '/'))
  })
  return (await Promise.all(outputs)).join('')
}

for (const document of documents) {
  for (const { title, blocks } of sectionsOf(read(document))) {
    if (blocks.length === 0) continue
    test(`${document} is right about: ${title}`, async ({ skip }) => {
      const code = blocks.join('')
      skip(
        !isMounted && /[=t] PosixQueue\.(list|watch|waitFor)\(/.test(code),
        'the mqueue file system is not mounted, which root can do',
      )
      const programs = blocks.filter((block) => /^import /m.test(block))
      const fragments = blocks.filter((block) => !programs.includes(block))
      let output = await run(programs)
      for (const fragment of fragments) output += await run([programOf(fragment, familyOf(document, title))])
      for (const [, printed] of code.matchAll(/console\.log\(.*\) \/\/ (.*)$/gm)) expect(output).toContain(printed)
    })
  }
}

/** What a heading is called in a link. */
const anchorOf = (title: string) =>
  title
    .toLowerCase()
    .replaceAll(/[^\w\s-]/g, '')
    .replaceAll(' ', '-')

test.each(documents)('the links of %s lead somewhere', (document) => {
  for (const [, target = '', anchor] of read(document).matchAll(/\]\((?!https:)([^)#]*)#?([^)]*)\)/g)) {
    const path = target === '' ? document : join(dirname(document), target)
    expect(existsSync(join(root, path)), `${path}, linked from ${document}`).toBe(true)
    if (anchor) expect(sectionsOf(read(path)).map(({ title }) => anchorOf(title))).toContain(anchor)
  }
})

test('the README links to every page', () => {
  for (const page of pages) expect(read('README.md')).toContain(`](${page})`)
})

test('every code that the library has words for is explained', () => {
  const codes = [...read('lib/errors.ts').matchAll(/^ {2}(E[A-Z_]+): '/gm)].map(([, code]) => `\`${code}\``)
  const explained = read('docs/errors.md')
  expect(codes.filter((code) => !explained.includes(code))).toEqual([])
})

test('the architecture names every file and every dependency, but for the subcommands, which are in docs/kmq.md', () => {
  const { dependencies, devDependencies, optionalDependencies } = JSON.parse(read('package.json'))
  const kmq = read('docs/kmq.md')
  const files = ['lib', 'native'].flatMap((folder) =>
    readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' }).filter((name) => name.includes('.')),
  )
  const architecture = read('ARCHITECTURE.md')
  const isSubcommand = (path: string) => {
    const words = { cli: 'kmq', 'cli/bus': 'kmq bus \\S+' }[dirname(path)]
    return words !== undefined && new RegExp(`\\b${words} ${basename(path, '.ts')}\\b`).test(kmq)
  }
  const named = files.filter((name) => !isSubcommand(name))
  const names = [...named, ...Object.keys({ ...dependencies, ...devDependencies, ...optionalDependencies })]
  expect(names.filter((name) => !architecture.includes(`\`${name}\``))).toEqual([])
})
