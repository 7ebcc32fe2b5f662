// A connection to redis:, with clients that play it.
import { EventEmitter, once } from 'node:events'
import { expect, onTestFinished, test } from 'vitest'
import { type Client, Connection } from '../../lib/bus/transports/redis/connection.ts'
import { deferred } from './support.ts'

class Played extends EventEmitter implements Client {
  static readonly made: Played[] = []
  static gate: Promise<void> | undefined
  readonly stream = { unref: () => {}, destroy: () => this.disconnect() }
  #isOver = false

  constructor() {
    super()
    Played.made.push(this)
  }

  async connect(): Promise<void> {
    const gate = Played.made.length === 4 ? Played.gate : undefined
    await gate
    this.emit('connect')
  }

  disconnect(): void {
    if (this.#isOver) return
    this.#isOver = true
    this.emit('end')
  }

  async #answer(): Promise<string[]> {
    if (this.#isOver) throw new Error('Connection is closed.')
    return ['done']
  }

  readonly select = this.#answer
  readonly eval = this.#answer
  // Of this a server may have answered what it read before it saw the end.
  readonly subscribe = async () => 1
  readonly unsubscribe = this.#answer
  readonly config = this.#answer
  readonly beatBuffer = this.#answer
}

test('a connection that ends while the one beside it is made is not taken into use', async () => {
  const url = new URL('redis://localhost')
  const events = new EventEmitter()
  const listeners = { rung: () => {}, up: () => void events.emit('up') }
  const connection = new Connection(Played, url, { patience: 5000 } as never, listeners)
  onTestFinished(() => connection.close())
  const gate = deferred()
  Played.gate = gate.promise
  await connection.open()
  await connection.listen('bell', {})
  Played.made[0]?.disconnect()
  while (Played.made.length < 4) await new Promise(setImmediate)
  Played.made[2]?.disconnect()
  const up = once(events, 'up')
  gate.resolve()
  await up
  expect(await connection.run('beat', 'receive', () => [], { patience: 1000 })).toEqual(['done'])
})
