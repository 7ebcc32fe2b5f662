// npm run faults: the matrix of failing system calls, in all its length.
import { execFileSync, spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const { values } = parseArgs({
  options: {
    skips: { type: 'string', default: '3' },
    times: { type: 'string', default: '2' },
    messages: { type: 'string', default: '1000000' },
    help: { type: 'boolean', default: false },
  },
})
if (values.help) {
  console.log(`npm run faults -- [--skips <n>] [--times <n>] [--messages <n>]

Lets every system call of the addon fail with EINTR, EAGAIN, ENOMEM, EMFILE,
ENFILE, ENOSPC and EIDRM, come late, and meet a signal, under every operation of
both families; waits of 300 ms with calls interrupted or the clock stepped; and
moves messages under a thousand signals a second, in every way to wait.
Needs a C compiler.

  --skips <n>  let the 1st to the nth call of an operation fail (default 3)
  --times <n>  let one to n calls in a row fail (default 2)
  --messages <n>  in each storm of signals (default 1000000)`)
  process.exit()
}

const fixture = (name) => fileURLToPath(new URL(`../fixtures/${name}`, import.meta.url))
const directory = mkdtempSync(join(tmpdir(), 'kernelmq-faults-'))
const library = join(directory, 'faults.so')
const control = join(directory, 'plan')

function run(program, ...args) {
  writeFileSync(control, Buffer.alloc(64))
  const env = { ...process.env, LD_PRELOAD: library, KERNELMQ_FAULTS: control }
  const child = spawnSync(process.execPath, [fixture(program), ...args], {
    env,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
    maxBuffer: 2 ** 26,
  })
  if (child.status !== 0) throw new Error(`${program} ${args.join(' ')} ended with ${child.status ?? child.signal}`)
  return JSON.parse(child.stdout)
}

try {
  const flags = ['-std=gnu11', '-O1', '-fno-optimize-sibling-calls', '-shared', '-fPIC']
  execFileSync('cc', [...flags, '-o', library, fixture('faults.c'), '-ldl', '-pthread'], { stdio: 'inherit' })
  for (let times = 1; times <= Number(values.times); times++) {
    const { wrong, untouched, calls, ...counts } = run('faults.mjs', 'matrix', values.skips, String(times))
    console.log(`${times} in a row:`, JSON.stringify(counts), JSON.stringify(calls))
    for (const text of [...wrong, ...untouched.map((call) => `${call} was never reached`)]) console.log(`WRONG ${text}`)
    if (wrong.length + untouched.length > 0) process.exitCode = 1
  }
  for (const hours of [0, 1, -1]) {
    for (const { title, code, took, hits, stepped } of run('faults.mjs', 'deadlines', String(hours))) {
      const touched = hours === 0 ? hits > 0 : Math.abs(stepped) > 3_500_000
      const good = touched && code === 'ETIMEDOUT' && took >= 299 && took < 2000
      const how = hours === 0 ? `${hits} calls interrupted` : `${hours} h at each reading`
      console.log(`${good ? '' : 'WRONG '}${title}: ${code} after ${took.toFixed(1)} ms, ${how}`)
      if (!good) process.exitCode = 1
    }
  }
  for (const family of ['posix', 'sysv']) {
    for (const way of ['async', 'blocking', 'stream']) {
      for (const sender of ['main', 'worker']) {
        const { received, inOrder, heard, milliseconds } = run('storm.mjs', family, way, values.messages, sender)
        const good = received === Number(values.messages) && inOrder === received
        const counts = `${received} received, ${inOrder} in order, ${heard} signals in ${milliseconds} ms`
        console.log(`${good ? '' : 'WRONG '}storm, ${family}, ${way}, sent by the ${sender} thread: ${counts}`)
        if (!good) process.exitCode = 1
      }
    }
  }
} finally {
  rmSync(directory, { recursive: true })
}
