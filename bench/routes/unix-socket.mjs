// A Unix domain socket: each message after its length in four bytes.
import { once } from 'node:events'
import { connect as connectTo, createServer } from 'node:net'
import { answer } from '../program.mjs'
import { duplexRoute } from './duplex.mjs'

const HEADER = 4

/** Cuts what comes into messages. */
function onMessages(socket, onMessage) {
  let rest = Buffer.alloc(0)
  socket.on('data', (chunk) => {
    const bytes = rest.length === 0 ? chunk : Buffer.concat([rest, chunk])
    let start = 0
    while (bytes.length - start >= HEADER) {
      const end = start + HEADER + bytes.readUInt32LE(start)
      if (end > bytes.length) break
      onMessage(bytes.subarray(start + HEADER, end))
      start = end
    }
    rest = bytes.subarray(start)
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
    return socket.write(framed) ? undefined : once(socket, 'drain')
  }
  const route = duplexRoute(post, (listener) => {
    onMessage = listener
  })
  return { ...route, close: () => socket.destroy() }
}
