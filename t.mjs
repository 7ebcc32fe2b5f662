import { connect } from 'kernelmq/bus'
import { rmSync } from 'node:fs'
rmSync('/tmp/h/tb', { recursive: true, force: true })
const bus = await connect('local:/tmp/h/tb')
const q = bus.queue('speed')
const N = 20000
for (let i = 0; i < 2000; i++) await q.send('x'.repeat(64))
let c = process.cpuUsage(), t = performance.now()
for (let i = 0; i < N; i++) await q.send('x'.repeat(64))
let d = process.cpuUsage(c)
console.log('one by one: cpu us/msg', (d.user / N).toFixed(1), (d.system / N).toFixed(1), 'wall', ((performance.now() - t) * 1000 / N).toFixed(1))
c = process.cpuUsage(); t = performance.now()
for (let i = 0; i < 100; i++) await q.sendMany(Array.from({ length: 500 }, () => ({ body: 'x'.repeat(64) })))
d = process.cpuUsage(c)
console.log('bulk: cpu us/msg', (d.user / 50000).toFixed(2), (d.system / 50000).toFixed(2), 'wall', ((performance.now() - t) * 1000 / 50000).toFixed(2))
c = process.cpuUsage(); t = performance.now()
let n = 0; const M = N + 52000
await new Promise((r) => { q.consume(() => { if (++n === M) r() }, { concurrency: 50, prefetch: 200 }) })
d = process.cpuUsage(c)
console.log('handled: cpu us/msg', (d.user / M).toFixed(2), (d.system / M).toFixed(2), 'wall', ((performance.now() - t) * 1000 / M).toFixed(2))
await bus.close()
