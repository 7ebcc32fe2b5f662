import { DURABLE } from '../reliability/servers.mjs'
import { chaos } from './engine-chaos.ts'
import { describeEngine } from './support.ts'

await describeEngine('redis', (scheme, server) => chaos(scheme, server), DURABLE.redis)
