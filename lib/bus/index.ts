export { AbortError, QueueError } from '../errors.ts'
export { Bus, type ConnectOptions, connect } from './bus.ts'
export { type Clock, ManualClock } from './clock.ts'
export { type Codec, type CompressOptions, compress, encrypt, type KeyOptions, type Keys, sign } from './codecs.ts'
export type { ConsumeOptions, Consumer, Handler, HandlerContext, StartOptions } from './consumer.ts'
export type { DeadLetter, DeadLetterChoice, DeadLetters } from './dead-letters.ts'
export type { History, HistoryEntry, ReplayOptions } from './history.ts'
export type { Message } from './message.ts'
export type { BusEvent, Event, Latencies } from './meter.ts'
export type { Namespace, NamespaceOptions } from './namespace.ts'
export type {
  Durability,
  HistoryOptions,
  Item,
  Queue,
  QueuedMessage,
  QueueOptions,
  QueueStats,
  ReceiveOptions,
  RetryOptions,
  SendOptions,
} from './queue.ts'
export { ReplyError, type RequestOptions } from './replies.ts'
export type { Schedule, ScheduleOptions, Schedules, ScheduleTimes } from './schedules.ts'
export type { StandardSchema } from './schema.ts'
export type { SubscribeOptions, Topic } from './topic.ts'
export type { Addressed, Capabilities, Capability, Overflow, Quota, Receipt, Usage } from './transport.ts'
