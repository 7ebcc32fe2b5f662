// Runs node-gyp with the headers of the Node.js that is running, where it was
// installed with them; otherwise node-gyp downloads them.
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'

function headersBeside(executable) {
  const prefix = dirname(dirname(executable))
  const header = join(prefix, 'include/node/node_version.h')
  if (!existsSync(header)) return undefined
  const text = readFileSync(header, 'utf8')
  const version = ['MAJOR', 'MINOR', 'PATCH'].map((part) => new RegExp(`NODE_${part}_VERSION (\\d+)`).exec(text)?.[1])
  return `v${version.join('.')}` === process.version ? prefix : undefined
}

const nodedir = headersBeside(process.execPath)
const gyp = createRequire(import.meta.url).resolve('node-gyp/bin/node-gyp.js')
const commands =
  process.argv.length > 2 ? process.argv.slice(2) : existsSync('build/Makefile') ? ['build'] : ['configure', 'build']
for (const command of commands) {
  const args = [gyp, command, ...(nodedir ? [`--nodedir=${nodedir}`] : [])]
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8' })
  if (status !== 0) {
    process.stderr.write(`${stdout}${stderr}`)
    process.exit(status ?? 1)
  }
}
