// Succeeds if node_modules holds what package-lock.json asks for.
import { readFileSync } from 'node:fs'

const packagesOf = (path) => JSON.parse(readFileSync(path, 'utf8')).packages

function isInstalled() {
  const { '': _, ...wanted } = packagesOf('package-lock.json')
  const installed = packagesOf('node_modules/.package-lock.json')
  // Optional packages are missing where they are for other platforms.
  return Object.entries(wanted).every(([path, { version, optional }]) =>
    path in installed ? installed[path].version === version : optional,
  )
}

try {
  process.exitCode = isInstalled() ? 0 : 1
} catch (error) {
  if (error.code !== 'ENOENT') throw error
  process.exitCode = 1
}
