// The channel between a Node.js process and its child, with advanced serialization.
import { duplexRoute } from './duplex.mjs'

export const ends = 'parent and child'

/** So many messages may be on their way before the sender looks whether they have been written. */
const WINDOW = 256

export function connect(_config, other) {
  const channel = other === undefined ? process : other.task
  let onMessage = () => {}
  channel.on('message', (bytes) => onMessage(bytes))
  let posted = 0
  const post = (bytes) => {
    if (++posted % WINDOW === 0) return new Promise((resolve) => channel.send(bytes, resolve))
    channel.send(bytes)
  }
  return duplexRoute(post, (listener) => {
    onMessage = listener
  })
}
