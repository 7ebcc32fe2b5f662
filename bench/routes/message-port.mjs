// A MessagePort between the main thread and a worker. It has no backpressure.
import { workerData } from 'node:worker_threads'
import { duplexRoute } from './duplex.mjs'

export const ends = 'threads'

export function connect(_config, _other, port = workerData) {
  let onMessage = () => {}
  port.on('message', (bytes) => onMessage(bytes))
  const post = (bytes) => port.postMessage(bytes)
  const route = duplexRoute(post, (listener) => {
    onMessage = listener
  })
  return { ...route, close: () => port.close() }
}
