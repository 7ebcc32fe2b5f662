// Requests and replies through one System V queue: a request has type 1, a reply
// has the process number of who asked as its type, so that each takes its own.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { SysvQueue } from 'kernelmq'

const REQUEST = 1

async function ask(id) {
  const queue = SysvQueue.fromId(id)
  for (const number of [2, 3]) {
    await queue.send(JSON.stringify({ from: process.pid, number }), { type: REQUEST })
    const reply = await queue.receive({ type: process.pid, timeout: 10_000 })
    console.log(`${number} squared is ${reply.text()}`)
  }
  await queue.close()
}

async function serve() {
  const queue = SysvQueue.open('private')
  const stop = new AbortController()
  const answer = (message) => {
    const { from, number } = message.json()
    return queue.send(String(number * number), { type: from })
  }
  try {
    const serving = queue.consume(answer, { type: REQUEST, concurrency: 2, signal: stop.signal })
    const children = ['first', 'second'].map(() =>
      spawn(process.execPath, [fileURLToPath(import.meta.url), String(queue.id)], { stdio: 'inherit' }),
    )
    await Promise.all(children.map((child) => once(child, 'exit')))
    stop.abort()
    await serving.catch((error) => console.log(`the server stops: ${error.code}`))
  } finally {
    queue.remove()
  }
}

const [, , id] = process.argv
await (id === undefined ? serve() : ask(Number(id)))
