// The bus without a store: one process posts a million messages to another, many of them in one of the kernel's.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { connect } from 'kernelmq/bus'

const MESSAGES = 1_000_000

/** Adds up what comes, and answers with the sum. */
async function add(url) {
  const bus = await connect(url)
  let sum = 0
  let left = MESSAGES
  const consumer = bus.queue('numbers').consume(({ body }) => {
    sum += body.readUInt32LE()
    if (--left === 0) void consumer.close()
  })
  await consumer.closed
  console.log(`the sum of all: ${sum}`)
  await bus.close()
}

async function main() {
  const directory = mkdtempSync(join(tmpdir(), 'kernelmq-bus-'))
  const url = `mq:${directory}?maxMessages=4&messageSize=4096`
  const bus = await connect(url)
  try {
    const adder = spawn(process.execPath, [fileURLToPath(import.meta.url), url], { stdio: 'inherit' })
    const numbers = bus.queue('numbers')
    const bytes = Buffer.alloc(64)
    for (let i = 1; i <= MESSAGES; i++) {
      bytes.writeUInt32LE(i)
      if (!numbers.post(bytes)) await numbers.flush()
    }
    await numbers.flush()
    await once(adder, 'exit')
  } finally {
    rmSync(directory, { recursive: true })
    await bus.close()
  }
}

await (process.argv[2] === undefined ? main() : add(process.argv[2]))
