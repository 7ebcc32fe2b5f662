export { doctor, type Finding, type FindingId, type LimitUse, type Mend } from './doctor.ts'
export { AbortError, QueueError } from './errors.ts'
export type { Data } from './outbox.ts'
export {
  type PosixAttributes,
  PosixMessage,
  type PosixOpenOptions,
  type PosixOutgoing,
  PosixQueue,
  type PosixSendOptions,
} from './posix.ts'
export type { ConsumeOptions, Message, Outgoing, Queue, ReceiveManyOptions, StreamOptions } from './queue.ts'
export type {
  PosixLimits,
  PosixQueueInfo,
  QueueEvent,
  QueueSize,
  SysvLimits,
  SysvQueueInfo,
  SysvStat,
} from './system.ts'
export { type SystemdQueue, systemdQueues } from './systemd.ts'
export {
  type SysvKey,
  SysvMessage,
  type SysvOpenOptions,
  type SysvOutgoing,
  SysvQueue,
  type SysvReceiveOptions,
  type SysvSendOptions,
  type SysvType,
} from './sysv.ts'
export type { SyncOptions, SyncReceiveOptions, WaitOptions } from './waiting.ts'
