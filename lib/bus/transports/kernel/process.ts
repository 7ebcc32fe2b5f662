// Which process this is, for those who ask later whether it is still there.
import { readFileSync, readlinkSync } from 'node:fs'

/** When a process began, in ticks of the machine's clock; undefined if it is no more. */
function startOf(pid: string): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    // Its name, in parentheses, may have anything in it.
    const [state, ...fields] = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    return state === 'Z' || state === 'X' ? undefined : fields[18]
  } catch (error) {
    if (['ENOENT', 'ESRCH'].includes((error as NodeJS.ErrnoException).code ?? '')) return undefined
    throw error
  }
}

/** Where its directories, its numbers of processes and its queues mean what they say. */
export const namespaces: string = ['mnt', 'pid', 'ipc'].map(namespaceOf).join('-')

function namespaceOf(kind: string): string {
  try {
    return /\d+/.exec(readlinkSync(`/proc/self/ns/${kind}`))?.[0] ?? '0'
  } catch {
    return '0'
  }
}

/** A number may be used again, but not with the same start. */
export const self: string = `${process.pid}-${startOf('self')}`

/** Also if there is no descriptor to find out: what belongs to who is dead is removed. */
export function isAlive(name: string): boolean {
  const [pid = '', start] = name.split('-')
  if (!/^\d+$/.test(pid)) return false
  try {
    return startOf(pid) === start
  } catch {
    return true
  }
}
