// Talks to a program in C, both ways: what one sends, the other receives, byte
// for byte and with its priority. Needs a C compiler.
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { PosixQueue } from 'kernelmq'

const numbersName = `/example-${process.pid}-numbers`
const squaresName = `/example-${process.pid}-squares`
const size = { create: true, maxMessages: 4, messageSize: 64 }

const folder = mkdtempSync(join(tmpdir(), 'kernelmq-c-peer-'))
const numbers = PosixQueue.open(numbersName, size)
const squares = PosixQueue.open(squaresName, size)
try {
  const program = join(folder, 'peer')
  const source = fileURLToPath(new URL('peer.c', import.meta.url))
  execFileSync(process.env.CC ?? 'cc', ['-Wall', '-O2', '-o', program, source, '-lrt'], { stdio: 'inherit' })

  const peer = spawn(program, [numbersName, squaresName], { stdio: ['ignore', 'inherit', 'inherit'] })
  const ended = once(peer, 'exit')
  for (const [number, priority] of [
    [3, 0],
    [12, 7],
    [-40, 1],
  ]) {
    await numbers.send(`${number}`, { priority })
    const reply = await squares.receive({ timeout: 5000 })
    console.log(`JavaScript: ${number} squared is ${reply.text()}, with priority ${reply.priority}`)
  }
  await numbers.send('')
  const [code] = await ended
  console.log('the peer ended with exit code', code)
} finally {
  numbers.close()
  squares.close()
  PosixQueue.unlink(numbersName)
  PosixQueue.unlink(squaresName)
  rmSync(folder, { recursive: true })
}
