export { AbortError, QueueError } from '../errors.ts'
export { Bus, type ConnectOptions, connect } from './bus.ts'
export { type Clock, ManualClock } from './clock.ts'
export type { ConsumeOptions, Consumer, Handler, HandlerContext } from './consumer.ts'
export type { DeadLetter, DeadLetterChoice, DeadLetters } from './dead-letters.ts'
export type { Message } from './message.ts'
export type {
  Durability,
  Item,
  Queue,
  QueueOptions,
  QueueStats,
  ReceiveOptions,
  RetryOptions,
  SendOptions,
} from './queue.ts'
export type { StandardSchema } from './schema.ts'
export type { Addressed, Capabilities, Capability, Overflow, Receipt } from './transport.ts'
