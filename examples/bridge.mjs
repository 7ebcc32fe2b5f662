// The bridge: what a program sends to a queue of the kernel arrives in a bus, though the bridge is killed meanwhile.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { PosixQueue } from 'kernelmq'
import { connect } from 'kernelmq/bus'

const ORDERS = 200
const kmq = join(fileURLToPath(import.meta.resolve('kernelmq')), '../cli/kmq.js')
const directory = mkdtempSync(join(tmpdir(), 'kernelmq-bridge-'))
const url = `local:${directory}/app`
const name = `/example-${process.pid}`
const orders = PosixQueue.open(name, { create: true, maxMessages: 10, messageSize: 64 })

/** In a terminal: kmq bridge posix:/orders 'local:/var/lib/app#queue=orders' --outbox /var/lib/kmq */
function startBridge() {
  const args = ['bridge', `posix:${name}`, `${url}#queue=orders`, '--outbox', `${directory}/outbox`]
  return spawn(process.execPath, [kmq, ...args], { stdio: 'ignore' })
}

let bridge = startBridge()
const bus = await connect(url)
try {
  const arrived = []
  bus.queue('orders').consume(({ body }) => arrived.push(String(body)))
  for (let number = 0; number < ORDERS; number++) {
    await orders.send(`order ${number}`)
    if (number !== ORDERS / 2) continue
    // Not while it takes something: in those microseconds it can lose that.
    while (orders.attributes.messages > 0 || arrived.length <= number) await sleep(5)
    bridge.kill('SIGKILL')
    await once(bridge, 'exit')
    console.log('a bridge was killed')
    bridge = startBridge()
  }
  while (arrived.length < ORDERS) await sleep(5)
  console.log(`${arrived.length} of ${ORDERS} orders arrived, the last one is ${arrived.at(-1)}`)
  bridge.kill('SIGTERM')
  const [, signal] = await once(bridge, 'exit')
  console.log(`the bridge ended by ${signal}`)
} finally {
  bridge.kill('SIGKILL')
  await bus.close()
  orders.close()
  PosixQueue.unlink(name)
  rmSync(directory, { recursive: true })
}
