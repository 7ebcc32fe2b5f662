// Installs what the library is compared with, apart from the project, and loads it.
import { execFileSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'

const folder = new URL('peers/', import.meta.url)

export const requirePeer = createRequire(new URL('package.json', folder))

export function installPeers() {
  if (existsSync(new URL('node_modules', folder))) return
  const options = ['--no-package-lock', '--no-audit', '--no-fund', '--loglevel=error']
  execFileSync('npm', ['install', ...options], { cwd: fileURLToPath(folder), stdio: 'inherit' })
}
