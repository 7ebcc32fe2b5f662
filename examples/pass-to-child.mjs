// A queue has a descriptor, which a child can get through `stdio`, even if it
// may not open the queue by name, or if the queue has no name any more.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { PosixQueue } from 'kernelmq'

async function parent() {
  const name = `/example-${process.pid}`
  const queue = PosixQueue.open(name, { create: true, maxMessages: 4, messageSize: 64 })
  // Unlinked at once: nobody else can open it, and nothing can be left behind.
  PosixQueue.unlink(name)
  try {
    const child = spawn(process.execPath, [fileURLToPath(import.meta.url), 'child'], {
      stdio: ['ignore', 'inherit', 'inherit', queue.fd], // descriptor 3 in the child
    })
    await queue.sendMany(['one', 'two', 'three', ''])
    const [code] = await once(child, 'exit')
    console.log('parent: the child ended with exit code', code)
  } finally {
    queue.close()
  }
}

async function child() {
  const queue = PosixQueue.fromFd(3)
  try {
    for await (const message of queue) {
      if (message.data.length === 0) break // an empty message is a message
      console.log(`child: got '${message.text()}'`)
    }
  } finally {
    queue.close()
  }
}

await (process.argv[2] === 'child' ? child() : parent())
