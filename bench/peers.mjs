// Installs what the library is compared with, apart from the project, and loads it.
import { spawnSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { fileURLToPath, pathToFileURL } from 'node:url'

const folder = new URL('peers/', import.meta.url)
const manifest = new URL('package.json', folder)
/** What came of the last installation. */
const record = new URL('node_modules/.installed.json', folder)

export const requirePeer = createRequire(manifest)

/** For packages that are ES modules. */
export const importPeer = (name) => import(pathToFileURL(requirePeer.resolve(name)))

/** The first error of a compiler, else of npm. */
function reasonOf(output) {
  const [, error] = /\berror: (.*)/.exec(output) ?? []
  if (error !== undefined) return `it does not compile (${error})`
  return /npm (?:error|ERR!) (.*)/.exec(output)?.[1] ?? 'it does not load'
}

function install({ omitOptional }) {
  const { status, stdout, stderr } = spawnSync(
    'npm',
    [
      'install',
      '--no-package-lock',
      '--no-audit',
      '--no-fund',
      '--foreground-scripts',
      '--install-strategy=nested', // svmq shall not get the old `nan` that posix-mq asks for
      ...(omitOptional ? ['--omit=optional'] : []),
    ],
    {
      cwd: fileURLToPath(folder),
      encoding: 'utf8',
      // The options of this npm are no options for that one.
      env: Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^npm_/i.test(name))),
    },
  )
  if (status !== 0) throw new Error(`npm install failed in bench/peers:\n${stdout}${stderr}`)
  return stdout + stderr
}

/** Why a package does not load; undefined if it does. In a process of its own, as it may be a bad addon. */
function failureOf(name, output) {
  const code = `import('node:module').then(({ createRequire }) => createRequire(process.argv[1])(process.argv[2]))`
  const { status } = spawnSync(process.execPath, ['-e', code, fileURLToPath(manifest), name], { stdio: 'ignore' })
  return status === 0 ? undefined : reasonOf(output)
}

/**
 * Installs them, unless that was done before with this Node.js.
 *
 * @param quick without those that have to be compiled
 * @returns for each package its version, or the reason why there is none
 */
export function installPeers({ quick }) {
  const wanted = readFileSync(manifest, 'utf8')
  try {
    const installed = JSON.parse(readFileSync(record, 'utf8'))
    const complete = quick || !installed.quick
    if (complete && installed.wanted === wanted && installed.node === process.version) return installed.peers
  } catch {} // nothing is installed yet
  console.log('installing what kernelmq is compared with, into bench/peers')
  const output = install({ omitOptional: quick })
  const { dependencies, optionalDependencies } = JSON.parse(wanted)
  const versionOf = (name) =>
    JSON.parse(readFileSync(new URL(`node_modules/${name}/package.json`, folder), 'utf8')).version
  const peers = Object.fromEntries(Object.keys(dependencies).map((name) => [name, { version: versionOf(name) }]))
  for (const name of Object.keys(optionalDependencies)) {
    const reason = quick ? 'has to be compiled, which a quick run leaves out' : failureOf(name, output)
    peers[name] = reason === undefined ? { version: versionOf(name) } : { reason }
  }
  writeFileSync(record, JSON.stringify({ wanted, quick, node: process.version, peers }))
  return peers
}
