export { AbortError, QueueError } from './errors.ts'
export {
  type PosixAttributes,
  PosixMessage,
  type PosixOpenOptions,
  type PosixOutgoing,
  PosixQueue,
  type PosixSendOptions,
  type SyncOptions,
  type SyncReceiveOptions,
} from './posix.ts'
export type { ConsumeOptions, Data, Message, Queue, ReceiveManyOptions, StreamOptions } from './queue.ts'
export type { PosixLimits, PosixQueueInfo, QueueEvent, QueueSize } from './system.ts'
export { type SystemdQueue, systemdQueues } from './systemd.ts'
export type { WaitOptions } from './waiting.ts'
