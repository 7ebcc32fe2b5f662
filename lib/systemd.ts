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
  const end = FIRST_DESCRIPTOR + Number(LISTEN_FDS ?? 0)
  const descriptors: number[] = []
  // They come without gaps, whatever the environment says; and all are found before
  // the first is adopted, which makes another descriptor.
  for (let fd = FIRST_DESCRIPTOR; fd < end && native.setCloseOnExec(fd) >= 0; fd++) descriptors.push(fd)
  const queues: SystemdQueue[] = []
  for (const [index, fd] of descriptors.entries()) {
    try {
      queues.push({ name: names[index] || 'unknown', queue: PosixQueue.fromFd(fd) })
    } catch (error) {
      if (!(error instanceof QueueError && error.code === 'EBADF')) throw error
    }
  }
  return queues
}
