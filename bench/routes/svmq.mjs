// The package svmq: System V queues, with blocking calls in libuv's pool.
import { promisify } from 'node:util'
import { requirePeer } from '../peers.mjs'

/** Its own notation: this is 0600. */
const MODE = 0x600

export function connect({ keys }) {
  const [there, back] = keys.map((key) => requirePeer('svmq').open(key, MODE))
  const to = (queue) => promisify(queue.push).bind(queue)
  const from = (queue) => promisify(queue.pop).bind(queue)
  const one = { send: to(there), receive: from(there) }
  const near = back && { send: to(there), receive: from(back) }
  const distant = back && { send: to(back), receive: from(there) }
  return {
    async pair(maker, checker, total) {
      for (let i = 0; i < total; i++) {
        await one.send(maker.next())
        checker.check(await one.receive())
      }
    },
    async send(maker, total) {
      for (let i = 0; i < total; i++) await one.send(maker.next())
    },
    async receive(checker, total) {
      for (let i = 0; i < total; i++) checker.check(await one.receive())
    },
    async ping(maker, checker, total) {
      for (let i = 0; i < total; i++) {
        await near.send(maker.next())
        checker.check(await near.receive())
      }
    },
    async pong(maker, checker, total) {
      for (let i = 0; i < total; i++) {
        checker.check(await distant.receive())
        await distant.send(maker.next())
      }
    },
  }
}
