// Values by subject, in a stream that keeps the last of each.
import { ApiError, type Link } from './link.ts'

/** What JetStream answers, by the numbers of its documentation. */
export const NO_MESSAGE = 10037
export const NO_STREAM = 10059
export const NAME_IN_USE = 10058
const WRONG_SEQUENCE = 10071

export interface Entry {
  readonly subject: string
  readonly sequence: number
  readonly value: string
}

interface Stored {
  readonly message: { readonly subject: string; readonly seq: number; readonly data?: string }
}

export interface PubAck {
  readonly seq: number
  readonly duplicate?: boolean
  readonly error?: { readonly code: number; readonly err_code: number; readonly description: string }
}

export class Ledger {
  readonly #link: Link
  readonly #stream: string
  readonly #root: string
  readonly #config: object

  /** @param config of its stream, beside what all of them have */
  constructor(link: Link, stream: string, root: string, config: object) {
    this.#link = link
    this.#stream = stream
    this.#root = root
    this.#config = config
  }

  async #make(): Promise<void> {
    const config = {
      name: this.#stream,
      subjects: [`${this.#root}.>`],
      retention: 'limits',
      storage: 'file',
      max_msgs_per_subject: 1,
      discard: 'old',
      ...this.#config,
    }
    try {
      await this.#link.api(`STREAM.CREATE.${this.#stream}`, config)
    } catch (error) {
      if (!(error instanceof ApiError && error.number === NAME_IN_USE)) throw error
    }
  }

  async #find(query: object): Promise<Entry | undefined> {
    try {
      const { message } = await this.#link.api<Stored>(`STREAM.MSG.GET.${this.#stream}`, query)
      const value = Buffer.from(message.data ?? '', 'base64').toString()
      return { subject: message.subject.slice(this.#root.length + 1), sequence: message.seq, value }
    } catch (error) {
      if (error instanceof ApiError && (error.number === NO_MESSAGE || error.number === NO_STREAM)) return undefined
      throw error
    }
  }

  get(subject: string): Promise<Entry | undefined> {
    return this.#find({ last_by_subj: `${this.#root}.${subject}` })
  }

  /** Those of subjects that a filter means, in the order in which they were put. */
  async *all(filter: string, after = 0): AsyncGenerator<Entry, void> {
    for (let next = after + 1; ; ) {
      const entry = await this.#find({ seq: next, next_by_subj: `${this.#root}.${filter}` })
      if (entry === undefined) return
      yield entry
      next = entry.sequence + 1
    }
  }

  /** Its sequence; undefined if the last one is not the `expected` any more (0 is none). */
  async put(call: string, subject: string, value: string, expected?: number): Promise<number | undefined> {
    const headers = this.#link.client.headers()
    if (expected !== undefined) headers.set('Nats-Expected-Last-Subject-Sequence', String(expected))
    const { message } = await this.#link.request(call, `${this.#root}.${subject}`, value, {
      headers,
      mend: () => this.#make(),
    })
    const { seq, error } = message.json<PubAck>()
    if (error?.err_code === WRONG_SEQUENCE) return undefined
    if (error !== undefined) throw new ApiError(error)
    return seq
  }

  async remove(sequence: number): Promise<void> {
    try {
      await this.#link.api(`STREAM.MSG.DELETE.${this.#stream}`, { seq: sequence, no_erase: true })
    } catch (error) {
      // It is gone.
      if (!(error instanceof ApiError)) throw error
    }
  }

  /** Removes all whose subjects a filter means. */
  async purge(filter: string): Promise<void> {
    try {
      await this.#link.api(`STREAM.PURGE.${this.#stream}`, { filter: `${this.#root}.${filter}` })
    } catch (error) {
      if (!(error instanceof ApiError && error.number === NO_STREAM)) throw error
    }
  }
}
