import { QueueError } from './errors.ts'
import { native } from './native.ts'
import { PosixQueue } from './posix.ts'

/** A queue that systemd opened for this service. */
export interface SystemdQueue {
  /** FileDescriptorName= of the socket unit; the unit's name by default. */
  name: string
  queue: PosixQueue
}

const FIRST_DESCRIPTOR = 3

/**
 * The queues that a socket unit with ListenMessageQueue= handed over, in its
 * order. Descriptors of other kinds are passed over. All stay open, but become
 * close-on-exec, as sd_listen_fds(3) has it; the environment stays as it is.
 *
 * @returns an empty array if this process was handed none
 * @see sd_listen_fds(3)
 */
export function systemdQueues(): SystemdQueue[] {
  const { LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES } = process.env
  if (LISTEN_PID === undefined || Number(LISTEN_PID) !== process.pid) return []
  const names = (LISTEN_FDNAMES ?? '').split(':')
  return Array.from({ length: Number(LISTEN_FDS ?? 0) }, (_, index) => {
    try {
      native.setCloseOnExec(FIRST_DESCRIPTOR + index)
      return { name: names[index] || 'unknown', queue: PosixQueue.fromFd(FIRST_DESCRIPTOR + index) }
    } catch (error) {
      if (error instanceof QueueError && error.code === 'EBADF') return undefined
      throw error
    }
  }).filter((entry) => entry !== undefined)
}
