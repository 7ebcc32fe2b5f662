import { conformance } from './conformance.ts'
import { exchange } from './exchange.ts'
import { describeEngine } from './support.ts'

await describeEngine('amqp', (scheme) => {
  conformance(scheme)
  exchange(scheme)
})
