// A Unix domain socket: each message after its length in four bytes.
import { once } from 'node:events'
import { connect as connectTo, createServer } from 'node:net'
import { answer } from '../program.mjs'
import { duplexRoute } from './duplex.mjs'

const HEADER = 4

/** Cuts what comes into messages; only one that comes in parts is copied. */
function onMessages(socket, onMessage) {
  let part = Buffer.alloc(0)
  /** Moves bytes from the chunk to the part until that has so many, or the chunk is used up. */
  const complete = (chunk, length) => {
    const missing = Math.min(Math.max(length - part.length, 0), chunk.length)
    part = Buffer.concat([part, chunk.subarray(0, missing)])
    return missing
  }
  socket.on('data', (chunk) => {
    let start = 0
    if (part.length > 0) {
      start = complete(chunk, HEADER)
      if (part.length < HEADER) return
      const length = HEADER + part.readUInt32LE()
      start += complete(chunk.subarray(start), length)
      if (part.length < length) return
      onMessage(part.subarray(HEADER))
    }
    while (chunk.length - start >= HEADER) {
      const end = start + HEADER + chunk.readUInt32LE(start)
      if (end > chunk.length) break
      onMessage(chunk.subarray(start + HEADER, end))
      start = end
    }
    part = chunk.subarray(start)
  })
}

async function accept(path) {
  const server = createServer().listen(path)
  await once(server, 'listening')
  answer('listening')
  const [socket] = await once(server, 'connection')
  server.close()
  return socket
}

async function reach(path) {
  const socket = connectTo(path)
  await once(socket, 'connect')
  return socket
}

export async function connect({ far, path }, other) {
  await other?.answer() // it listens
  const socket = far ? await accept(path) : await reach(path)
  let onMessage = () => {}
  onMessages(socket, (bytes) => onMessage(bytes))
  const post = (bytes) => {
    // It has to last until it is written, which may be later.
    const framed = Buffer.allocUnsafe(HEADER + bytes.length)
    framed.writeUInt32LE(bytes.length)
    framed.set(bytes, HEADER)
    return socket.write(framed) ? undefined : new Promise((resolve) => socket.once('drain', resolve))
  }
  const route = duplexRoute(post, (listener) => {
    onMessage = listener
  })
  return { ...route, close: () => socket.destroy() }
}
