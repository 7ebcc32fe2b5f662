// ZeroMQ over its ipc transport.
import { requirePeer } from '../peers.mjs'
import { answer } from '../program.mjs'

const { Pull, Push, Reply, Request } = requirePeer('zeromq')

// What is sent belongs to ZeroMQ until it is gone.
const copied = (maker) => Buffer.from(maker.next())

async function receiveFrom(socket, checker, total) {
  for await (const [bytes] of socket) {
    checker.check(bytes)
    if (--total === 0) break
  }
}

/** The far end binds, the near one connects. */
async function join(socket, path, far) {
  if (far) await socket.bind(`ipc://${path}`)
  else socket.connect(`ipc://${path}`)
  return socket
}

async function requestReply({ path, far }) {
  const socket = await join(far ? new Reply() : new Request(), path, far)
  return {
    async ping(maker, checker, total) {
      for (let i = 0; i < total; i++) {
        await socket.send(copied(maker))
        const [bytes] = await socket.receive()
        checker.check(bytes)
      }
    },
    async pong(maker, checker, total) {
      for (let i = 0; i < total; i++) {
        const [bytes] = await socket.receive()
        checker.check(bytes)
        await socket.send(copied(maker))
      }
    },
    close: () => socket.close(),
  }
}

async function pushPull({ path, far }) {
  const out = await join(new Push(), far ? `${path}.back` : path, far)
  const back = await join(new Pull(), far ? path : `${path}.back`, far)
  return {
    async send(maker, total) {
      for (let i = 0; i < total; i++) await out.send(copied(maker))
    },
    receive: (checker, total) => receiveFrom(back, checker, total),
    async ping(maker, checker, total) {
      for (let i = 0; i < total; i++) {
        await out.send(copied(maker))
        const [bytes] = await back.receive()
        checker.check(bytes)
      }
    },
    async pong(maker, checker, total) {
      for (let i = 0; i < total; i++) {
        const [bytes] = await back.receive()
        checker.check(bytes)
        await out.send(copied(maker))
      }
    },
    close() {
      out.close()
      back.close()
    },
  }
}

export async function connect(config, other) {
  await other?.answer() // it is bound
  const route = await (config.way === 'req/rep' ? requestReply : pushPull)(config)
  if (config.far) answer('bound')
  return route
}
