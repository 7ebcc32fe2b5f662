import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmdirSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/**
 * Discovery needs the mqueue file system mounted somewhere. Where it is not,
 * root gets it for the time of the run.
 */
export default function setup(): (() => void) | undefined {
  if (/ mqueue /.test(readFileSync('/proc/self/mounts', 'utf8')) || process.getuid?.() !== 0) return undefined
  const directory = mkdtempSync(join(tmpdir(), 'kernelmq-mqueue-'))
  try {
    execFileSync('mount', ['-t', 'mqueue', 'none', directory], { stdio: 'ignore' })
  } catch {
    rmdirSync(directory) // root in a container may not mount: discovery is skipped
    return undefined
  }
  return () => {
    execFileSync('umount', [directory])
    rmdirSync(directory)
  }
}
