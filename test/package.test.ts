// The package as users get it: packed, installed where there is no compiler, and used.
import { execFile } from 'node:child_process'
import {
  accessSync,
  chmodSync,
  constants,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { uniqueName } from './support.ts'

const run = promisify(execFile)
const checkout = fileURLToPath(new URL('..', import.meta.url))
const sandbox = realpathSync(mkdtempSync(join(tmpdir(), 'kernelmq-package-')))
const modules = join(sandbox, 'app/node_modules')
const installed = join(modules, 'kernelmq')
const tsc = join(checkout, 'node_modules/.bin/tsc')
const prebuilt = `prebuilds/linux-${process.arch}/kernelmq.glibc.node`

function find(program: string): string {
  for (const directory of process.env.PATH?.split(delimiter) ?? []) {
    const path = join(directory, program)
    try {
      accessSync(path, constants.X_OK)
      return realpathSync(path)
    } catch {}
  }
  throw new Error(`${program} is not on the PATH`)
}

/** A user with node and npm, but without compiler, network, or configuration. */
const user = {
  PATH: join(sandbox, 'bin'),
  HOME: sandbox,
  npm_config_cache: join(sandbox, 'cache'),
  npm_config_offline: 'true',
}

/** Runs code in a folder, as that user. */
async function evaluate(folder: string, type: 'module' | 'commonjs', code: string, ...args: string[]): Promise<string> {
  const options = { cwd: folder, env: user }
  const { stdout } = await run(process.execPath, [`--input-type=${type}`, '-e', code, ...args], options)
  return stdout
}

/** What importing the package of a folder fails with. */
function importError(folder: string, before = ''): Promise<string> {
  return evaluate(
    folder,
    'module',
    `${before}; console.log(await import('kernelmq').then(() => 'none', ({ message }) => message))`,
  )
}

/** Another installation of the package, to be spoilt. */
function copyInstalled(name: string): { folder: string; root: string } {
  const folder = join(sandbox, name)
  cpSync(modules, join(folder, 'node_modules'), { recursive: true })
  return { folder, root: join(folder, 'node_modules/kernelmq') }
}

function filesIn(directory: string): string[] {
  return readdirSync(directory, { recursive: true, withFileTypes: true })
    .filter((entry) => !entry.isDirectory())
    .map((entry) => join(entry.parentPath, entry.name).slice(directory.length + 1))
    .sort()
}

beforeAll(async () => {
  // A tree of its own: prebuildify compiles anew, and the checkout's build/ is in use.
  const source = join(sandbox, 'source')
  for (const entry of readdirSync(checkout, { withFileTypes: true })) {
    if (!entry.isFile() && !['lib', 'native', 'docs'].includes(entry.name)) continue
    cpSync(join(checkout, entry.name), join(source, entry.name), { recursive: true })
  }
  for (const path of ['build/Debug/kernelmq.node', 'test/some.test.ts', 'examples/some.mjs', 'prebuilds/README.md']) {
    mkdirSync(dirname(join(source, path)), { recursive: true })
    writeFileSync(join(source, path), 'not to be packed')
  }
  symlinkSync(join(checkout, 'node_modules'), join(source, 'node_modules'))
  await run('npm', ['run', 'prebuild'], { cwd: source })
  await run(tsc, [], { cwd: source })

  // The dependencies come from here: no network.
  const listed = await run('npm', ['ls', '--omit=dev', '--omit=peer', '--all', '--parseable'], { cwd: checkout })
  const needed = new Set(['bindings', 'file-uri-to-path'].map((name) => join(checkout, 'node_modules', name)))
  const packages = [source, ...needed]
  const optional = listed.stdout
    .trimEnd()
    .split('\n')
    .slice(1)
    .filter((path) => !needed.has(path))
  await run('npm', ['pack', '--ignore-scripts', '--pack-destination', sandbox, ...packages], { cwd: sandbox })
  const tarballs = readdirSync(sandbox).filter((name) => name.endsWith('.tgz'))

  mkdirSync(user.PATH)
  symlinkSync(process.execPath, join(user.PATH, 'node'))
  symlinkSync(find('npm'), join(user.PATH, 'npm'))
  const app = join(sandbox, 'app')
  mkdirSync(app)
  await run(join(user.PATH, 'npm'), ['install', '--omit=optional', ...tarballs.map((name) => join(sandbox, name))], {
    cwd: app,
    env: user,
  })
  // npm would ask the registry for their versions.
  for (const path of optional) cpSync(path, join(app, relative(checkout, path)), { recursive: true })
}, 1_800_000)

afterAll(() => rmSync(sandbox, { recursive: true, force: true }))

test('the package holds what runs, what it was made of, and nothing else', () => {
  const lib = filesIn(join(checkout, 'lib')).map((name) => name.replace(/\.ts$/, ''))
  const expected = [
    'package.json',
    ...['README.md', 'LICENSE', 'CHANGELOG.md'].filter((name) => existsSync(join(checkout, name))),
    ...lib.flatMap((name) => ['.js', '.js.map', '.d.ts', '.d.ts.map'].map((suffix) => `dist/${name}${suffix}`)),
    ...lib.map((name) => `lib/${name}.ts`),
    'binding.gyp',
    'docs/kmq.1',
    ...readdirSync(join(checkout, 'native'))
      .filter((name) => /\.(cc|h)$/.test(name))
      .map((name) => `native/${name}`),
    prebuilt,
  ]
  expect(filesIn(installed)).toEqual(expected.sort())
})

const exchange = `
  const name = process.argv[1]
  const queue = PosixQueue.open(name, { create: true, exclusive: true, maxMessages: 1, messageSize: 16 })
  const exchange = async () => {
    await queue.send('hello', { priority: 7 })
    const message = await queue.receive()
    const maps = require('node:fs').readFileSync('/proc/self/maps', 'utf8')
    const addon = /\\S+kernelmq\\S*\\.node$/m.exec(maps)[0]
    console.log(JSON.stringify([message.text(), message.priority, O_NONBLOCK, addon]))
  }
  exchange().finally(() => queue.close())`

test.each([
  [
    'import',
    'module',
    `import { PosixQueue } from 'kernelmq'
     import { O_NONBLOCK } from 'kernelmq/syscalls'
     import { createRequire } from 'node:module'
     const require = createRequire('/')`,
  ],
  [
    'require()',
    'commonjs',
    `const { PosixQueue } = require('kernelmq')
     const { O_NONBLOCK } = require('kernelmq/syscalls')`,
  ],
] as const)('installed where no compiler is, it sends and receives a message by %s', async (_, type, load) => {
  expect(readdirSync(user.PATH).sort()).toEqual(['node', 'npm'])
  const output = await evaluate(join(sandbox, 'app'), type, load + exchange, uniqueName())
  expect(JSON.parse(output)).toEqual(['hello', 7, constants.O_NONBLOCK, join(installed, prebuilt)])
})

test('installed, kmq is a command; without its packages it says what to do', async () => {
  const { stdout } = await run(join(modules, '.bin/kmq'), ['ls', '--json'], { env: user })
  expect(JSON.parse(stdout)).toBeInstanceOf(Array)
  const { folder, root } = copyInstalled('bare')
  rmSync(join(folder, 'node_modules/text-table'), { recursive: true })
  const failed = run(process.execPath, [join(root, 'dist/cli/kmq.js'), 'ls'], { env: user })
  const stderr = 'kmq: the package text-table is missing\n  Install kernelmq again, without --omit=optional.\n'
  await expect(failed).rejects.toMatchObject({ code: 1, stderr })
})

// Those of Red Hat Enterprise Linux 8, for which the binaries of Node.js 20 are made.
const newest: Record<string, string> = { GLIBC: '2.28', GLIBCXX: '3.4.25', CXXABI: '1.3.11' }

test('the prebuilt binary loads on systems as old as those of Node.js itself', async () => {
  const { stdout } = await run('objdump', ['-T', join(installed, prebuilt)])
  const needed = [...stdout.matchAll(/\b(GLIBC|GLIBCXX|CXXABI)_([\d.]+).*$/gm)]
  expect(needed.length).toBeGreaterThan(0)
  const tooNew = needed.filter(
    ([, library, version]) => `${version}`.localeCompare(`${newest[`${library}`]}`, 'en', { numeric: true }) > 0,
  )
  expect(tooNew.map(([symbol]) => symbol)).toEqual([])
})

test('the prebuilt binary shares libstdc++ with Node.js, and has no symbols that nobody needs', async () => {
  const objdump = async (option: string) => {
    const { stdout } = await run('objdump', [option, join(installed, prebuilt)], {
      env: { ...process.env, LC_ALL: 'C' },
    })
    return stdout
  }
  expect(await objdump('-p')).toMatch(/NEEDED\s+libstdc\+\+\.so\.6/)
  expect(await objdump('-t')).toContain('no symbols')
})

test('without a binary, the error names the paths that were tried, and its command builds one', async () => {
  const { folder, root } = copyInstalled('unbuilt')
  rmSync(join(root, 'prebuilds'), { recursive: true })
  const message = await importError(folder)
  for (const path of ['build/Release/kernelmq.node', 'build/Debug/kernelmq.node', prebuilt]) {
    expect(message).toContain(`${join(root, path)}: not there`)
  }
  // What npx does, with the packages of the checkout instead of downloaded ones.
  const bin = join(sandbox, 'npx/node_modules/.bin')
  mkdirSync(bin, { recursive: true })
  writeFileSync(
    join(sandbox, 'npx/npx'),
    `#!/bin/sh
    install() { ln -sfn "${checkout}node_modules/\${1%@*}" "${bin}/../\${1%@*}"; }
    [ "$1" = -p ] || install "$1"
    while [ "$1" = -p ]; do install "$2"; shift 2; done
    command=\${1%@*}; shift
    export PATH="${bin}:$PATH"
    exec node "${bin}/../$command/bin/$command.js" "$@"`,
  )
  chmodSync(join(sandbox, 'npx/npx'), 0o755)
  const command = /: (cd .* && .*)$/m.exec(message)?.[1] as string
  // npm puts the programs of the checkout on the PATH of its tests.
  const path = process.env.PATH?.split(delimiter).filter((directory) => !directory.includes('node_modules')) ?? []
  const env = {
    ...process.env,
    PATH: [join(sandbox, 'npx'), ...path].join(delimiter),
    npm_config_offline: 'true',
    // The headers that the checkout was compiled with.
    npm_config_nodedir: /"nodedir": "(.+)"/.exec(readFileSync(join(checkout, 'build/config.gypi'), 'utf8'))?.[1],
  }
  await run('sh', ['-ec', command], { env })
  expect(await importError(folder)).toBe('none\n')
}, 1_800_000)

test('a build that does not load is passed over, and named if nothing else loads', async () => {
  const { folder, root } = copyInstalled('spoilt')
  mkdirSync(join(root, 'build/Release'), { recursive: true })
  writeFileSync(join(root, 'build/Release/kernelmq.node'), 'no addon')
  expect(await importError(folder)).toBe('none\n')
  writeFileSync(join(root, prebuilt), '')
  const message = await importError(folder)
  expect(message).toMatch(/build\/Release\/kernelmq\.node: .*file too short/)
  expect(message).toMatch(/kernelmq\.glibc\.node: .*file too short/)
  expect(message).toContain('build/Debug/kernelmq.node: not there')
})

test('on another system it says that it needs Linux', async () => {
  const pretend = `Object.defineProperty(process, 'platform', { value: 'darwin' })`
  const message = await importError(join(sandbox, 'app'), pretend)
  expect(message).toMatch(/needs Linux/)
  expect(message).toMatch(/darwin/)
})

test('a TypeScript user compiles against it with every check on', async () => {
  const { folder } = copyInstalled('typescript')
  mkdirSync(join(folder, 'node_modules/@types'))
  symlinkSync(join(checkout, 'node_modules/@types/node'), join(folder, 'node_modules/@types/node'))
  writeFileSync(join(folder, 'package.json'), '{ "type": "module" }')
  writeFileSync(
    join(folder, 'program.ts'),
    `import { PosixQueue } from 'kernelmq'
     import { mqOpen } from 'kernelmq/syscalls'
     export const fd: number = mqOpen('/orders', 0)
     export const text: string = (await PosixQueue.open('/orders').receive()).text()`,
  )
  const options = ['--noEmit', '--strict', '--skipLibCheck', 'false', '--target', 'es2022', '--types', 'node']
  const check = (...resolution: string[]) =>
    run(tsc, [...options, ...resolution, 'program.ts'], { cwd: folder }).then(
      () => 'no errors',
      ({ stdout }) => stdout,
    )
  expect(await check('--module', 'nodenext')).toBe('no errors')
  expect(await check('--module', 'esnext', '--moduleResolution', 'bundler')).toBe('no errors')
}, 1_800_000)
