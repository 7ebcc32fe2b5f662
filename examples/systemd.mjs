// Queues that systemd creates and hands over to a service when the first message
// comes. This is what the units look like:
//
//   jobs.socket   [Socket]
//                 ListenMessageQueue=/jobs
//                 MessageQueueMaxMessages=10
//                 MessageQueueMessageSize=1024
//                 FileDescriptorName=jobs
//
//   jobs.service  [Service]
//                 ExecStart=/usr/bin/node service.mjs
//
// Here the parent does what systemd does, and the child is the service.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { PosixQueue, systemdQueues } from 'kernelmq'

async function systemd() {
  const name = `/example-${process.pid}`
  const jobs = PosixQueue.open(name, { create: true, maxMessages: 4, messageSize: 64 })
  try {
    await jobs.send('the message that starts the service')
    // The shell is there to know the process id, which exec keeps.
    const service = spawn(
      '/bin/sh',
      ['-c', 'LISTEN_PID=$$ exec "$@"', 'sh', process.execPath, fileURLToPath(import.meta.url), 'service'],
      {
        env: { ...process.env, LISTEN_FDS: '1', LISTEN_FDNAMES: 'jobs' },
        stdio: ['ignore', 'inherit', 'inherit', jobs.fd],
      },
    )
    const [code] = await once(service, 'exit')
    console.log('the service ended with exit code', code)
  } finally {
    jobs.close()
    PosixQueue.unlink(name)
  }
}

async function service() {
  for (const { name, queue } of systemdQueues()) {
    try {
      console.log(`service: queue '${name}' is handed over, with: ${(await queue.receive()).text()}`)
    } finally {
      queue.close()
    }
  }
}

await (process.argv[2] === 'service' ? service() : systemd())
