// The processes of a bus directory: each listens on a socket, and each two of them have a connection. It carries the
// bell of a queue, and its end tells that a process is no more, without a timer and at once.
import { randomUUID } from 'node:crypto'
import { chmodSync, closeSync, openSync, rmSync } from 'node:fs'
import { createConnection, createServer, type Server, type Socket } from 'node:net'
import { join } from 'node:path'

interface Peer {
  socket: Socket
  /** Bells for one who has not said hello yet; it has connected to us before it stood in line. */
  owner: number | undefined
}

export interface PeersEvents {
  /** A bell: there is something for us in that queue. */
  ring(queue: number): void
  /** Bells for us may have been lost. */
  missed(): void
  /** A connection has ended: somebody may be no more. */
  lost(): void
}

/** The most bytes of a socket's address, less the zero at its end: unix(7). */
const LONGEST = 106

/** Instead of the number of a queue, none of which has this one: any. */
const ANY = 0

/** Milliseconds; who had no descriptor for a connection has ended it sooner. */
const BRIEF = 1000

/** So many such connections in a row are enough. */
const TRIES = 2

/** Nobody listens there any more. */
const GONE = new Set(['ECONNREFUSED', 'ENOENT', 'ECONNRESET', 'EPIPE'])

export class Peers {
  readonly #directory: string
  readonly #events: PeersEvents
  readonly #server: Server
  readonly #peers = new Map<number, Socket>()
  /** Two processes may have two connections: each has made one. */
  readonly #sockets = new Set<Socket>()
  readonly #bells = new Map<number, Set<number>>()
  /** How many connections that we have made to somebody have ended so soon, in a row, or one that lasted longer. */
  readonly #ended = new Map<number, number>()
  readonly #mode: number
  readonly #handle: number | undefined
  #closed = false
  owner = 0
  /** The name of our socket in the directory. */
  readonly name: string = randomUUID().slice(0, 13)

  constructor(directory: string, mode: number, events: PeersEvents) {
    this.#mode = mode
    // The address of a socket is short; a directory may be named by a descriptor of it.
    if (Buffer.byteLength(directory) + this.name.length > LONGEST) {
      this.#handle = openSync(directory, 'r')
      directory = `/proc/self/fd/${this.#handle}`
    }
    this.#directory = directory
    this.#events = events
    this.#server = createServer((socket) => {
      this.#listen({ socket, owner: undefined })
    }).unref()
  }

  listen(): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#server.once('error', reject)
      const path = join(this.#directory, this.name)
      this.#server.listen(path, () => {
        // To connect is to write.
        try {
          chmodSync(path, this.#mode)
          resolve()
        } catch (error) {
          reject(error)
        }
      })
    })
  }

  /** Holds the loop, while somebody waits. */
  ref(hold: boolean): void {
    if (hold) this.#server.ref()
    else this.#server.unref()
  }

  connect(owner: number, name: string): Promise<'met' | 'gone' | 'unknown'> {
    if (this.#peers.has(owner)) return Promise.resolve('met')
    const ended = this.#ended.get(owner)
    if (ended !== undefined && ended >= TRIES) {
      // He is there, and out of descriptors: once more in a while.
      this.#ended.set(owner, TRIES - 1)
      return Promise.resolve('unknown')
    }
    return new Promise((resolve) => {
      const socket = createConnection(join(this.#directory, name))
      const refused = (error: NodeJS.ErrnoException) => resolve(GONE.has(error.code ?? '') ? 'gone' : 'unknown')
      socket.once('error', refused)
      socket.once('connect', () => {
        socket.off('error', refused)
        if (this.#closed) {
          socket.destroy()
          return resolve('met')
        }
        socket.write(`${this.owner}\n`)
        // What the connection before had in it he may never have read.
        if (ended !== undefined) socket.write(`${ANY}\n`)
        // First: who is told that it has ended looks at that.
        this.#watch(owner, socket)
        this.#listen({ socket, owner })
        this.#welcome(owner, socket)
        resolve('met')
      })
    })
  }

  #watch(owner: number, socket: Socket): void {
    const since = performance.now()
    socket.on('close', () => {
      const before = performance.now() - since < BRIEF ? (this.#ended.get(owner) ?? 0) : 0
      this.#ended.set(owner, before + 1)
    })
  }

  #welcome(owner: number, socket: Socket): void {
    this.#peers.set(owner, socket)
    for (const queue of this.#bells.get(owner) ?? []) socket.write(`${queue}\n`)
    this.#bells.delete(owner)
  }

  #listen(peer: Peer): void {
    const { socket } = peer
    let text = ''
    this.#sockets.add(socket)
    socket.unref()
    socket.setEncoding('latin1')
    socket.on('data', (chunk: string) => {
      const lines = (text + chunk).split('\n')
      text = lines.pop() ?? ''
      for (const line of lines) {
        if (peer.owner !== undefined) {
          const queue = Number(line)
          if (queue === ANY) this.#events.missed()
          else this.#events.ring(queue)
        } else {
          peer.owner = Number(line)
          this.#welcome(peer.owner, socket)
        }
      }
    })
    // What went wrong does not matter: the connection is over.
    socket.on('error', () => {})
    socket.on('close', () => {
      this.#sockets.delete(socket)
      if (peer.owner !== undefined && this.#peers.get(peer.owner) === socket) this.#peers.delete(peer.owner)
      if (!this.#closed) this.#events.lost()
    })
  }

  ring(owner: number, queue: number): void {
    const socket = this.#peers.get(owner)
    if (socket !== undefined) socket.write(`${queue}\n`)
    else this.#bells.set(owner, (this.#bells.get(owner) ?? new Set()).add(queue))
  }

  /** Those of others are no more. */
  keep(owners: readonly number[]): void {
    for (const owner of this.#ended.keys()) if (!owners.includes(owner)) this.#ended.delete(owner)
  }

  /** Of one who is no more. */
  forget(owner: number, name: string): void {
    this.#bells.delete(owner)
    this.#ended.delete(owner)
    rmSync(join(this.#directory, name), { force: true })
  }

  close(): Promise<void> {
    this.#closed = true
    for (const socket of this.#sockets) socket.destroy()
    return new Promise((resolve) =>
      this.#server.close(() => {
        if (this.#handle !== undefined) closeSync(this.#handle)
        resolve()
      }),
    )
  }
}
