import { connect } from 'node:net'
import { expect, test } from 'vitest'
import { fixture, start } from '../support.ts'
import { missingFor, type ServerName } from './servers.ts'

const answers = (port: number) =>
  new Promise<boolean>((resolve) => {
    const socket = connect(port, '127.0.0.1', () => {
      socket.destroy()
      resolve(true)
    })
    socket.once('error', () => resolve(false))
  })

test.for<[ServerName, NodeJS.Signals]>([
  ['redis', 'SIGTERM'],
  ['redis', 'SIGKILL'],
  ['nats', 'SIGTERM'],
  ['rabbitmq', 'SIGTERM'],
])(
  '%s is gone with the process that started it, ended by %s',
  { timeout: 400_000 },
  async ([name, signal], { skip }) => {
    const missing = missingFor(name)
    if (missing !== undefined) skip(`install ${missing} (Debian)`)
    const child = start(process.execPath, [fixture('server.mjs'), name])
    const port = Number(await child.line())
    expect(await answers(port)).toBe(true)
    process.kill(child.pid, signal)
    await expect.poll(() => answers(port)).toBe(false)
  },
)
