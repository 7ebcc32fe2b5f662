// Which System V queues somebody waits for at this moment.
import { readdirSync, readFileSync } from 'node:fs'

/** msgsnd and msgrcv */
const CALLS: Partial<Record<string, readonly string[]>> = { x64: ['69', '70'], arm64: ['189', '188'] }

function list(directory: string): string[] {
  try {
    return readdirSync(directory)
  } catch {
    return []
  }
}

/** The identifiers of those that threads of processes which this user may look into are blocked in. */
export function awaitedQueues(): Set<number> {
  const calls = CALLS[process.arch] ?? []
  const awaited = new Set<number>()
  for (const pid of list('/proc').filter((name) => /^\d+$/.test(name))) {
    for (const thread of list(`/proc/${pid}/task`)) {
      try {
        const [call = '', id] = readFileSync(`/proc/${pid}/task/${thread}/syscall`, 'utf8').split(' ')
        if (calls.includes(call)) awaited.add(Number(id))
      } catch {
        // It has ended, or is somebody else's.
      }
    }
  }
  return awaited
}
