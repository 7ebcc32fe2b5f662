// The types that users see. Nothing here runs: `npm run check:types` compiles it.
import type { Readable, Writable } from 'node:stream'
import type * as kernelmq from 'kernelmq'
import {
  AbortError,
  type ConsumeOptions,
  type Data,
  doctor,
  type Finding,
  type FindingId,
  type LimitUse,
  type Mend,
  type Message,
  type Outgoing,
  type PosixAttributes,
  type PosixLimits,
  type PosixMessage,
  type PosixOpenOptions,
  type PosixOutgoing,
  PosixQueue,
  type PosixQueueInfo,
  type PosixSendOptions,
  type Queue,
  type QueueError,
  type QueueEvent,
  type QueueSize,
  type ReceiveManyOptions,
  type StreamOptions,
  type SyncOptions,
  type SyncReceiveOptions,
  type SystemdQueue,
  type SysvKey,
  type SysvMessage,
  type SysvOpenOptions,
  SysvQueue,
  type SysvReceiveOptions,
  type SysvSendOptions,
  type SysvType,
  systemdQueues,
  type WaitOptions,
} from 'kernelmq'
import type { Bus, ConnectOptions, QueuedMessage } from 'kernelmq/bus'
import * as calls from 'kernelmq/syscalls'
import { expectTypeOf } from 'vitest'

declare const queue: PosixQueue
declare const message: PosixMessage
declare const signal: AbortSignal
declare const bytes: Uint8Array

// What there is, and nothing besides.
expectTypeOf<keyof typeof kernelmq>().toEqualTypeOf<
  'AbortError' | 'PosixMessage' | 'PosixQueue' | 'QueueError' | 'SysvMessage' | 'SysvQueue' | 'doctor' | 'systemdQueues'
>()
expectTypeOf<keyof typeof calls>().toEqualTypeOf<
  | 'IPC_CREAT'
  | 'IPC_EXCL'
  | 'IPC_INFO'
  | 'IPC_NOWAIT'
  | 'IPC_PRIVATE'
  | 'IPC_RMID'
  | 'IPC_SET'
  | 'IPC_STAT'
  | 'MQ_PRIO_MAX'
  | 'MSG_COPY'
  | 'MSG_EXCEPT'
  | 'MSG_INFO'
  | 'MSG_NOERROR'
  | 'MSG_STAT'
  | 'MSG_STAT_ANY'
  | 'O_CREAT'
  | 'O_EXCL'
  | 'O_NONBLOCK'
  | 'O_RDONLY'
  | 'O_RDWR'
  | 'O_WRONLY'
  | 'POLLERR'
  | 'POLLHUP'
  | 'POLLIN'
  | 'POLLNVAL'
  | 'POLLOUT'
  | 'SIGEV_NONE'
  | 'SIGEV_SIGNAL'
  | 'ftok'
  | 'mqClose'
  | 'mqGetattr'
  | 'mqNotify'
  | 'mqOpen'
  | 'mqReceive'
  | 'mqSend'
  | 'mqSetattr'
  | 'mqTimedreceive'
  | 'mqTimedsend'
  | 'mqUnlink'
  | 'msgctl'
  | 'msgget'
  | 'msgrcv'
  | 'msgsnd'
  | 'poll'
>()

// What works
expectTypeOf(doctor).toEqualTypeOf<() => Promise<Finding[]>>()
expectTypeOf<Finding>().toEqualTypeOf<{
  id: FindingId
  status: 'ok' | 'warning' | 'problem' | 'unknown'
  seen: string
  why: string
  mend: Mend[]
  limit?: LimitUse
}>()
expectTypeOf<Mend>().toEqualTypeOf<{ where: string; command: string }>()
expectTypeOf<LimitUse>().toEqualTypeOf<{
  name: string
  unit: 'bytes' | 'messages' | 'queues' | 'descriptors'
  value: number
  used: number | undefined
  isLowerBound?: true
  cost: string
}>()
// @ts-expect-error: there is no finding about that
const _: FindingId = 'posix.colour'

// Opening
expectTypeOf(PosixQueue.open).toEqualTypeOf<(name: string, options?: PosixOpenOptions) => PosixQueue>()
expectTypeOf<PosixOpenOptions>().toEqualTypeOf<{
  create?: boolean | undefined
  exclusive?: boolean | undefined
  access?: 'read' | 'write' | 'readwrite' | undefined
  mode?: number | undefined
  maxMessages?: number | undefined
  messageSize?: number | undefined
}>()
// @ts-expect-error: a queue is opened, not constructed
new PosixQueue(3, '/orders', { maxMessages: 1, messageSize: 1 })
// @ts-expect-error: no such access
PosixQueue.open('/orders', { access: 'append' })
// @ts-expect-error: no such option
PosixQueue.open('/orders', { maxMessage: 10 })
// @ts-expect-error: modes are numbers
PosixQueue.open('/orders', { create: true, mode: '600' })
expectTypeOf(PosixQueue.fromFd).toEqualTypeOf<(fd: number) => PosixQueue>()
expectTypeOf(PosixQueue.unlink).toEqualTypeOf<(name: string) => void>()
expectTypeOf(systemdQueues).toEqualTypeOf<() => SystemdQueue[]>()
expectTypeOf<SystemdQueue>().toEqualTypeOf<{ name: string; queue: PosixQueue }>()

// Discovery
expectTypeOf(PosixQueue.limits).toEqualTypeOf<() => PosixLimits>()
expectTypeOf<Record<keyof PosixLimits, number>>().toEqualTypeOf<{ [Key in keyof PosixLimits]: PosixLimits[Key] }>()
expectTypeOf(PosixQueue.cost).toEqualTypeOf<(size: QueueSize) => number>()
expectTypeOf<QueueSize>().toEqualTypeOf<{ maxMessages: number; messageSize: number }>()
// @ts-expect-error: the cost depends on both
PosixQueue.cost({ maxMessages: 10 })
expectTypeOf(PosixQueue.list).toEqualTypeOf<() => Promise<PosixQueueInfo[]>>()
expectTypeOf<PosixQueueInfo['name']>().toEqualTypeOf<string>()
expectTypeOf<PosixQueueInfo['bytes']>().toEqualTypeOf<number | undefined>()
expectTypeOf<NonNullable<PosixQueueInfo['notify']>['method']>().toEqualTypeOf<'signal' | 'none' | 'thread'>()
expectTypeOf(PosixQueue.watch({ signal })).toEqualTypeOf<AsyncIterableIterator<QueueEvent, undefined>>()
expectTypeOf<QueueEvent>().toEqualTypeOf<{ type: 'created' | 'removed'; name: string }>()
expectTypeOf(PosixQueue.waitFor('/orders', { signal, timeout: 1 })).toEqualTypeOf<Promise<void>>()

// A queue
expectTypeOf<PosixQueue>().toExtend<Queue<PosixMessage, PosixSendOptions, unknown>>()
expectTypeOf<PosixQueue>().toExtend<Disposable & AsyncDisposable & AsyncIterable<PosixMessage>>()
expectTypeOf(queue.path).toEqualTypeOf<string | undefined>()
expectTypeOf(queue.fd).toEqualTypeOf<number>()
expectTypeOf(queue.attributes).toEqualTypeOf<PosixAttributes>()
expectTypeOf<keyof PosixAttributes>().toEqualTypeOf<'maxMessages' | 'messageSize' | 'messages'>()
expectTypeOf(queue.lastPriority).toEqualTypeOf<number>()
expectTypeOf(queue.ref().unref()).toEqualTypeOf<PosixQueue>()
expectTypeOf(queue.close).toEqualTypeOf<() => Promise<void>>()
// @ts-expect-error: the queue owns its descriptor
queue.fd = 3
// @ts-expect-error: attributes are the kernel's
queue.attributes = { maxMessages: 1, messageSize: 1, messages: 0 }

// Messages
expectTypeOf<PosixMessage>().toExtend<Message>()
expectTypeOf(message.data).toEqualTypeOf<Buffer>()
expectTypeOf(message.priority).toEqualTypeOf<number>()
expectTypeOf(message.text()).toEqualTypeOf<string>()
expectTypeOf(message.json()).toEqualTypeOf<unknown>()
expectTypeOf(message.json<{ id: number }>()).toEqualTypeOf<{ id: number }>()
// @ts-expect-error: a message does not change
message.priority = 1

// Sending
for (const data of ['text', bytes, new DataView(new ArrayBuffer(1)), new ArrayBuffer(1), new SharedArrayBuffer(1)]) {
  expectTypeOf(data).toExtend<Data>()
}
expectTypeOf<number>().not.toExtend<Data>()
expectTypeOf<{ id: number }>().not.toExtend<Data>()
expectTypeOf<PosixSendOptions>().toEqualTypeOf<{ priority?: number | undefined }>()
expectTypeOf<PosixOutgoing>().toEqualTypeOf<{ data: Data; priority?: number | undefined }>()
expectTypeOf<WaitOptions>().toEqualTypeOf<{ timeout?: number | undefined; signal?: AbortSignal | undefined }>()
expectTypeOf<SyncOptions>().toEqualTypeOf<{ timeout?: number | undefined; restart?: boolean | undefined }>()
expectTypeOf(queue.send).toEqualTypeOf<(data: Data, options?: PosixSendOptions & WaitOptions) => Promise<void>>()
expectTypeOf(queue.sendSync).toEqualTypeOf<(data: Data, options?: PosixSendOptions & SyncOptions) => void>()
expectTypeOf(queue.trySend).toEqualTypeOf<(data: Data, options?: PosixSendOptions) => boolean>()
expectTypeOf(queue.sendMany).toEqualTypeOf<
  (messages: Iterable<Data | Outgoing<PosixSendOptions>>, options?: WaitOptions) => Promise<void>
>()
expectTypeOf(queue.trySendMany).toEqualTypeOf<(messages: readonly (Data | Outgoing<PosixSendOptions>)[]) => number>()
queue.trySendMany(['a', bytes, { data: 'b', priority: 7 }] as const)
// @ts-expect-error: objects are not data; JSON.stringify() them
queue.send({ id: 1 })
// @ts-expect-error: a blocking call cannot be aborted
queue.sendSync('hello', { signal })
// @ts-expect-error: what does not wait has no timeout
queue.trySend('hello', { timeout: 1 })
// @ts-expect-error: times are milliseconds
queue.send('hello', { timeout: '1s' })

// Receiving
expectTypeOf(queue.receive).toEqualTypeOf<(options?: WaitOptions) => Promise<PosixMessage>>()
expectTypeOf(queue.receiveSync).toEqualTypeOf<(options?: SyncReceiveOptions) => PosixMessage>()
expectTypeOf<keyof SyncReceiveOptions>().toEqualTypeOf<keyof SyncOptions | 'spin'>()
expectTypeOf(queue.tryReceive).toEqualTypeOf<() => PosixMessage | undefined>()
expectTypeOf(queue.receiveMany).toEqualTypeOf<(options?: ReceiveManyOptions) => Promise<PosixMessage[]>>()
expectTypeOf<keyof ReceiveManyOptions>().toEqualTypeOf<keyof WaitOptions | 'max'>()
expectTypeOf(queue.tryReceiveMany).toEqualTypeOf<(max?: number) => PosixMessage[]>()
expectTypeOf(queue.tryReceiveInto).toEqualTypeOf<(buffer: Uint8Array) => number>()
expectTypeOf(queue.receiveIntoSync).toEqualTypeOf<(buffer: Uint8Array, options?: SyncReceiveOptions) => number>()
expectTypeOf(queue.waitReadable).toEqualTypeOf<(options?: WaitOptions) => Promise<void>>()
expectTypeOf(queue.waitWritable).toEqualTypeOf<(options?: WaitOptions) => Promise<void>>()
// @ts-expect-error: only a blocking receive spins
queue.receive({ spin: 100 })
// @ts-expect-error: there may be no message
queue.tryReceive().text()

// Iterating
expectTypeOf(queue.messages({ signal })).toEqualTypeOf<AsyncIterableIterator<PosixMessage, undefined>>()
expectTypeOf(queue.batches({ max: 10 })).toEqualTypeOf<AsyncIterableIterator<PosixMessage[], undefined>>()
expectTypeOf(queue.notifications({ signal })).toEqualTypeOf<AsyncIterableIterator<true, undefined>>()
expectTypeOf(queue.consume).returns.toEqualTypeOf<Promise<void>>()
expectTypeOf(queue.consume).parameter(1).toEqualTypeOf<ConsumeOptions | undefined>()
expectTypeOf<ConsumeOptions>().toEqualTypeOf<{
  concurrency?: number | undefined
  signal?: AbortSignal | undefined
}>()
expectTypeOf(queue.createReadStream).toEqualTypeOf<(options?: StreamOptions) => Readable>()
expectTypeOf(queue.createWriteStream).toEqualTypeOf<(options?: StreamOptions) => Writable>()
expectTypeOf<StreamOptions>().toEqualTypeOf<{
  highWaterMark?: number | undefined
  signal?: AbortSignal | undefined
}>()

// System V: what differs
declare const sysv: SysvQueue
expectTypeOf(SysvQueue.open).toEqualTypeOf<(key: SysvKey, options?: SysvOpenOptions) => SysvQueue>()
expectTypeOf(SysvQueue.fromId).toEqualTypeOf<(id: number) => SysvQueue>()
expectTypeOf(SysvQueue.ftok).toEqualTypeOf<(path: string, project: number) => number>()
expectTypeOf<SysvType>().toEqualTypeOf<number | bigint>()
expectTypeOf(sysv.id).toEqualTypeOf<number>()
expectTypeOf(sysv.send).toEqualTypeOf<(data: Data, options?: SysvSendOptions & WaitOptions) => Promise<void>>()
expectTypeOf(sysv.receive).toEqualTypeOf<(options?: SysvReceiveOptions & WaitOptions) => Promise<SysvMessage>>()
expectTypeOf<keyof SysvReceiveOptions>().toEqualTypeOf<'type' | 'except' | 'size' | 'truncate'>()
expectTypeOf(sysv.peek).returns.toEqualTypeOf<SysvMessage | undefined>()
expectTypeOf<SysvMessage>().toExtend<Message>()
expectTypeOf<SysvMessage['type']>().toEqualTypeOf<SysvType>()
// @ts-expect-error: a queue is opened, not constructed
new SysvQueue(3)
// @ts-expect-error: System V has types, not priorities
sysv.trySend('hello', { priority: 1 })
// @ts-expect-error: and POSIX has priorities
queue.trySend('hello', { type: 1 })

export async function compiles(): Promise<void> {
  await using orders = PosixQueue.open('/orders', { create: true })
  using other = PosixQueue.open('/others')
  expectTypeOf(other).toEqualTypeOf<PosixQueue>()
  for await (const item of orders) expectTypeOf(item).toEqualTypeOf<PosixMessage>()
  await orders.consume((item, context) => {
    expectTypeOf(item).toEqualTypeOf<PosixMessage>()
    expectTypeOf(context).toEqualTypeOf<{ signal: AbortSignal }>()
  })
}

// Errors
declare const error: QueueError
expectTypeOf(error).toExtend<Error>()
expectTypeOf(error.code).toEqualTypeOf<string>()
expectTypeOf(error.errno).toEqualTypeOf<number | undefined>()
expectTypeOf(error.syscall).toEqualTypeOf<string>()
expectTypeOf(error.path).toEqualTypeOf<string | undefined>()
expectTypeOf(error.hint).toEqualTypeOf<string | undefined>()
expectTypeOf(error.sent).toEqualTypeOf<number | undefined>()
expectTypeOf(new AbortError('why')).toExtend<Error>()
expectTypeOf<AbortError['code']>().toEqualTypeOf<'ABORT_ERR'>()
// @ts-expect-error: an error does not change
error.code = 'EAGAIN'

// The system calls
expectTypeOf<calls.MqAttr>().toEqualTypeOf<{ flags: number; maxmsg: number; msgsize: number; curmsgs: number }>()
expectTypeOf<calls.Timespec>().toEqualTypeOf<{ sec: number; nsec: number }>()
expectTypeOf<calls.Sigevent>().toEqualTypeOf<{ notify: number; signo?: number; value?: number }>()
expectTypeOf(calls.mqOpen).toEqualTypeOf<
  (name: string, flags: number, mode?: number, attr?: Pick<calls.MqAttr, 'maxmsg' | 'msgsize'>) => number
>()
expectTypeOf(calls.mqClose).toEqualTypeOf<(fd: number) => number>()
expectTypeOf(calls.mqUnlink).toEqualTypeOf<(name: string) => number>()
expectTypeOf(calls.mqSend).toEqualTypeOf<(fd: number, data: Uint8Array, priority?: number) => number>()
expectTypeOf(calls.mqTimedsend).toEqualTypeOf<
  (fd: number, data: Uint8Array, priority: number, deadline?: calls.Timespec) => number
>()
expectTypeOf(calls.mqReceive).toEqualTypeOf<(fd: number, data: Uint8Array, priority?: Uint32Array) => number>()
expectTypeOf(calls.mqTimedreceive).toEqualTypeOf<
  (fd: number, data: Uint8Array, priority?: Uint32Array, deadline?: calls.Timespec) => number
>()
expectTypeOf(calls.mqGetattr).toEqualTypeOf<(fd: number) => calls.MqAttr | number>()
expectTypeOf(calls.mqSetattr).toEqualTypeOf<(fd: number, attr: Pick<calls.MqAttr, 'flags'>) => calls.MqAttr | number>()
expectTypeOf(calls.mqNotify).toEqualTypeOf<(fd: number, event?: calls.Sigevent | null) => number>()
expectTypeOf(calls.poll).toEqualTypeOf<(fd: number, events: number, timeout?: number) => number>()
expectTypeOf(calls.O_CREAT | calls.MQ_PRIO_MAX | calls.POLLIN | calls.SIGEV_SIGNAL).toEqualTypeOf<number>()
// @ts-expect-error: strings have to be encoded first
calls.mqSend(3, 'hello')
// @ts-expect-error: the priority is put into an array
calls.mqReceive(3, bytes, 0)
// @ts-expect-error: a deadline is a timespec
calls.mqTimedsend(3, bytes, 0, 1000)

// What an operator asks of a bus.
declare const bus: Bus
expectTypeOf(bus.queues()).toEqualTypeOf<Promise<string[]>>()
expectTypeOf(bus.queue('q').purge({ signal })).toEqualTypeOf<Promise<number>>()
expectTypeOf(bus.queue('q').browse({ max: 1, after: 'x' })).toEqualTypeOf<
  Promise<{ messages: QueuedMessage[]; next: string | undefined }>
>()
expectTypeOf<QueuedMessage['body']>().toEqualTypeOf<unknown>()
expectTypeOf<ConnectOptions['create']>().toEqualTypeOf<boolean | undefined>()
