// What the server tells of a stream: how much is in it, and what.
import { setTimeout as sleep } from 'node:timers/promises'
import type { Delivery, Page, TransportStats } from '../../transport.ts'
import { parse, placeOf, read } from './envelope.ts'
import type { Hands } from './hands.ts'
import { NO_MESSAGE, NO_STREAM } from './ledger.ts'
import { ApiError, type Link, Trouble } from './link.ts'

export interface StreamInfo {
  readonly config: { readonly duplicate_window: number }
  readonly state: {
    readonly messages: number
    readonly bytes: number
    readonly first_ts: string
    readonly last_seq: number
    readonly subjects?: Readonly<Record<string, number>>
  }
}

export interface ConsumerInfo {
  readonly config: { readonly ack_wait: number }
  readonly name: string
  readonly num_pending: number
  readonly num_ack_pending: number
  /** What it has handed out last, and up to where all that is done. */
  readonly delivered: { readonly consumer_seq: number; readonly stream_seq: number }
  readonly ack_floor: { readonly stream_seq: number }
  readonly created: string
}

interface StoredMessage {
  readonly subject: string
  readonly seq: number
  readonly time: string
  readonly hdrs?: string
  readonly data?: string
}

/** What JetStream answers, by the numbers of its documentation. */
export const NO_CONSUMER = 10014

/** Milliseconds for a consumer to be removed, and after which it is asked again. */
const REMOVED = 2000
const AGAIN = 20

/** Nothing, of a stream or a consumer that is not there. */
export const unless =
  <T>(nothing: T) =>
  (error: unknown): T => {
    if (error instanceof ApiError && (error.number === NO_STREAM || error.number === NO_MESSAGE)) return nothing
    throw error
  }

/** All of a stream; those that are being removed are not among them. */
export async function consumersOf(stream: string, link: Link): Promise<readonly ConsumerInfo[]> {
  const until = performance.now() + REMOVED
  for (;;) {
    const all = await listOf(stream, link)
    const there = all.filter((one) => one !== null)
    if (there.length === all.length || performance.now() > until) return there
    await sleep(AGAIN)
  }
}

/** Of one that is being removed the server knows that it is there, but not what it is. */
async function listOf(stream: string, link: Link): Promise<readonly (ConsumerInfo | null)[]> {
  const all: (ConsumerInfo | null)[] = []
  for (;;) {
    // It tells of 256 at a time, and there may be more.
    const { consumers, total } = await link
      .api<{ consumers: (ConsumerInfo | null)[] | null; total: number }>(`CONSUMER.LIST.${stream}`, {
        offset: all.length,
      })
      .catch(unless({ consumers: null, total: 0 }))
    all.push(...(consumers ?? []))
    if (consumers === null || consumers.length === 0 || all.length >= total) return all
  }
}

/** @throws {ApiError} */
export async function consumerOf(stream: string, name: string, link: Link): Promise<ConsumerInfo> {
  const until = performance.now() + REMOVED
  for (;;) {
    const info = await link.api<ConsumerInfo | { config?: undefined }>(`CONSUMER.INFO.${stream}.${name}`)
    if (info.config !== undefined) return info
    if (performance.now() > until) throw new ApiError({ err_code: NO_CONSUMER, description: 'it is being removed' })
    await sleep(AGAIN)
  }
}

/**
 * Whether the message of an acknowledgement is in the stream; false if it is not, or is another, which has its sequence
 * from a server that was killed and has forgotten both. It is asked once, over the connection that there is.
 *
 * @throws {Trouble}
 */
export async function isStored(stream: string, reply: string, until: number, link: Link): Promise<boolean> {
  const { sequence, time } = placeOf({ reply })
  const query = JSON.stringify({ seq: sequence })
  const found = await link.ask(`$JS.API.STREAM.MSG.GET.${stream}`, query, undefined, until)
  interface Found {
    message?: StoredMessage
    error?: { err_code: number; description: string }
  }
  const { message, error } = found.json<Found>()
  if (error !== undefined && error.err_code !== NO_MESSAGE && error.err_code !== NO_STREAM) {
    throw new Trouble('late', new ApiError(error))
  }
  if (message === undefined) return false
  // Nanoseconds, in a number that cannot tell them exactly: the millisecond may be the next one.
  return Math.abs(Date.parse(message.time) - time) <= 1
}

interface Asked {
  readonly link: Link
  /** The name of the stream. */
  readonly stream: string
  /** What its subjects begin with. */
  readonly root: string
}

/** @param own what this process has: in its hands, and for nobody yet */
export async function statsOf(
  { link, stream, root }: Asked,
  now: number,
  own: { readonly hands: readonly Hands[]; readonly stashed: number },
): Promise<TransportStats> {
  const filter = { subjects_filter: `${root}.d.>` }
  const [state, consumers] = await Promise.all([
    link
      .api<StreamInfo>(`STREAM.INFO.${stream}`, filter)
      .then((info) => info.state)
      .catch(unless(undefined)),
    consumersOf(stream, link),
  ])
  if (state === undefined) return { ready: 0, leased: 0, delayed: 0, held: 0, bytes: 0, oldest: undefined }
  // What was delayed says by its subject until when.
  const dues = Object.entries(state.subjects ?? {}).map(([subject, count]) => [dueOf(subject), count] as const)
  const delayed = dues.reduce((sum, [due, count]) => (due > now ? sum + count : sum), 0)
  let [ready, held, taken] = [0, 0, 0]
  for (const { name, num_pending, num_ack_pending } of consumers) {
    if (name === 'd') continue
    if (name.startsWith('k') && num_ack_pending > 0) held += num_pending
    else ready += num_pending
    taken += num_ack_pending
  }
  const total = dues.reduce((sum, [, count]) => sum + count, 0)
  const late = own.hands.find(({ lane }) => lane === 'd')?.all.length ?? 0
  const others = own.hands.filter(({ lane }) => lane !== 'd')
  // A lane that nobody has ever received from has no consumer yet.
  const isNew = consumers.every(({ name }) => name !== 'p0')
  const unseen = isNew ? Math.max(state.messages - total - ready - held - taken, 0) : 0
  const due = Math.max(total - delayed - late, 0)
  // The server counts what was given back as taken; this process knows what it gave back, not what became of that.
  const gone = Math.max(taken - others.reduce((sum, { all }) => sum + all.length, 0), 0)
  const returned = others.flatMap(({ dues }) => dues)
  const waiting = Math.min(returned.filter((until) => until > now).length, gone)
  const back = Math.min(returned.filter((until) => until <= now).length, gone - waiting) + own.stashed
  const all = ready + unseen + due + back
  return {
    ready: all,
    leased: Math.max(taken - waiting - back + late, 0),
    delayed: delayed + waiting,
    held,
    bytes: state.bytes,
    oldest: all > 0 ? Date.parse(state.first_ts) : undefined,
  }
}

/** What the subjects of lanes that hold messages end with, whether anybody has a consumer for them or not. */
export async function heldOf({ link, stream, root }: Asked): Promise<string[]> {
  const held = await Promise.all([
    ...['p', 'k'].map(async (kind) => {
      const filter = { subjects_filter: `${root}.${kind}.*` }
      const info = await link.api<StreamInfo>(`STREAM.INFO.${stream}`, filter).catch(unless(undefined))
      return Object.keys(info?.state.subjects ?? {})
    }),
    // Each of these has a subject of its own: one tells that there are some.
    firstOf(stream, `${root}.d.>`, link).then((first) => (first === undefined ? [] : [first.subject])),
  ])
  return held.flat().map((subject) => subject.slice(root.length + 1))
}

/** The first message of subjects that a filter means, if there is one. */
export async function firstOf(stream: string, filter: string, link: Link): Promise<StoredMessage | undefined> {
  const query = { seq: 1, next_by_subj: filter }
  const found = await link.api<{ message: StoredMessage }>(`STREAM.MSG.GET.${stream}`, query).catch(unless(undefined))
  return found?.message
}

const dueOf = (subject: string): number => Number(subject.slice(subject.lastIndexOf('.') + 1))

/** The messages behind the place `after`, wherever they are. */
export async function browse({ link, stream, root }: Asked, max: number, after: string | undefined): Promise<Page> {
  const deliveries: Delivery[] = []
  let next = Number(after ?? 0) + 1
  while (deliveries.length <= max) {
    const answer = await link
      .api<{ message: StoredMessage }>(`STREAM.MSG.GET.${stream}`, { seq: next, next_by_subj: `${root}.>` })
      .catch(unless(undefined))
    if (answer === undefined) return { deliveries, next: undefined }
    if (deliveries.length === max) break
    const { seq, time, hdrs = '', data = '' } = answer.message
    const fields = parse(Buffer.from(hdrs, 'base64').toString())
    const { id, format, key, priority, headers, sentAt } = read(fields, Date.parse(time), stream, seq)
    const body = Buffer.from(data, 'base64')
    const past = { attempts: 0, losses: 0, suspect: false, damage: undefined }
    deliveries.push({ token: undefined, id, body, format, key, priority, headers, sentAt, ...past })
    next = seq + 1
  }
  return { deliveries, next: String(next - 1) }
}
