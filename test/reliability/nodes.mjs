// Runs the tests with the newest Node.js of each supported release line, all
// with the one addon that is in build/.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const supported = ['20', '22', '24', '26']

const help = `Runs the tests with the newest Node.js of each release line, all with the one addon that is in build/.
Node.js comes from npm (the packages node-linux-*), into a temporary folder.

  nodes.mjs [version]... [-- file or option of vitest...]

Without a version: ${supported.join(', ')}.`

const root = fileURLToPath(new URL('../..', import.meta.url))

/** Runs a command; its exit code and the end of its output, which is shown too. */
async function run(command, args, options) {
  const child = spawn(command, args, { cwd: root, stdio: ['ignore', 'pipe', 'inherit'], ...options })
  let tail = ''
  child.stdout.on('data', (chunk) => {
    process.stdout.write(chunk)
    tail = (tail + chunk).slice(-1000)
  })
  // It ends first, so that its folder can be removed.
  const passOn = (signal) => child.kill(signal)
  for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, passOn)
  const [code] = await once(child, 'close')
  for (const signal of ['SIGINT', 'SIGTERM']) process.off(signal, passOn)
  return { code, tail }
}

/** The folder with the newest `node` of a release line. */
async function install(version, directory) {
  const name = `node-linux-${process.arch}`
  const options = ['--prefix', directory, '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error']
  const { code } = await run('npm', ['install', ...options, `${name}@${version}`])
  if (code !== 0) throw new Error(`npm has no ${name}@${version}`)
  return join(directory, 'node_modules', name, 'bin')
}

/** The summary that test/reporter.ts prints. */
async function test(version, args) {
  const directory = mkdtempSync(join(tmpdir(), `kernelmq-node-${version}-`))
  chmodSync(directory, 0o755) // a test may become another user
  try {
    const bin = await install(version, directory)
    const node = join(bin, 'node')
    const { tail: exact } = await run(node, ['--version'])
    const env = { ...process.env, PATH: `${bin}:${process.env.PATH}` }
    const { code, tail } = await run(node, ['node_modules/vitest/vitest.mjs', 'run', ...args], { env })
    const [summary = 'no summary'] = tail.match(/^\d+ passed, \d+ failed, \d+ skipped$/m) ?? []
    return { code, line: `Node.js ${exact.trim()}: ${summary}` }
  } catch (error) {
    return { code: 1, line: `Node.js ${version}: ${error.message}` }
  } finally {
    rmSync(directory, { recursive: true })
  }
}

const args = process.argv.slice(2)
const separator = args.indexOf('--')
const versions = separator === -1 ? args : args.slice(0, separator)
if (args.includes('--help')) {
  console.log(help)
} else {
  const lines = []
  for (const version of versions.length > 0 ? versions : supported) {
    const { code, line } = await test(version, separator === -1 ? [] : args.slice(separator + 1))
    lines.push(line)
    if (code !== 0) process.exitCode = 1
  }
  console.log(lines.join('\n'))
}
