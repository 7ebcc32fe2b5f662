// Compiles the addon, with the headers of the Node.js that runs where it was
// installed with them; otherwise node-gyp downloads them.
//
//   node native/build.mjs [options of node-gyp]    build/Release/kernelmq.node
//   node native/build.mjs prebuild                 prebuilds/<platform>-<arch>/kernelmq.glibc.node
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

function headersBeside(executable) {
  const prefix = dirname(dirname(executable))
  const header = join(prefix, 'include/node/node_version.h')
  if (!existsSync(header)) return undefined
  const text = readFileSync(header, 'utf8')
  const version = ['MAJOR', 'MINOR', 'PATCH'].map((part) => new RegExp(`NODE_${part}_VERSION (\\d+)`).exec(text)?.[1])
  return `v${version.join('.')}` === process.version ? prefix : undefined
}

const nodedir = headersBeside(process.execPath)
const options = process.argv.slice(2)
// It configures every time: a checkout that was moved, another Node.js or other
// options leave nothing stale, and what is up to date is not compiled again.
// Besides the Makefile it writes compile_commands.json, for tools.
const [tool, args] =
  options[0] === 'prebuild'
    ? ['prebuildify/bin.js', ['--napi', '--tag-libc', '--strip', `--target=${process.versions.node}`]]
    : [
        'node-gyp/bin/node-gyp.js',
        [...options, 'configure', '--', '-f', 'make', '-f', 'compile_commands_json', 'build'],
      ]

const { status } = spawnSync(process.execPath, [createRequire(import.meta.url).resolve(tool), ...args], {
  cwd: fileURLToPath(new URL('..', import.meta.url)),
  // node-gyp takes its options from here before it looks at its arguments, and
  // npm puts its own here: `npm run --silent` would silence errors.
  env: {
    ...process.env,
    npm_config_loglevel: 'error',
    npm_config_jobs: 'max',
    ...(nodedir && { npm_config_nodedir: nodedir }),
  },
  // The compiler's warnings and errors are on stderr; the rest is make's progress.
  stdio: ['ignore', 'ignore', 'inherit'],
})
process.exit(status ?? 1)
