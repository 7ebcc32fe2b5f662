import { chaos } from './engine-chaos.ts'
import { describeEngine } from './support.ts'

await describeEngine('amqp', chaos)
