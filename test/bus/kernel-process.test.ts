// Whether the process is still there that a queue or a file of a bus belongs to.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { isAlive, self } from '../../lib/bus/transports/kernel/process.ts'
import { start } from '../support.ts'

const compiled = fileURLToPath(new URL('../../dist/bus/transports/kernel/process.js', import.meta.url))

test('one that runs is alive; not another with its number, one that has ended, or none', async () => {
  const [pid] = self.split('-')
  const child = spawn('true')
  await once(child, 'close')
  expect([self, `${self}-more`, `${pid}-1`, `${child.pid}-1`, 'nobody', ''].map(isAlive)).toEqual([
    true,
    true,
    false,
    false,
    false,
    false,
  ])
})

test('whom there is no descriptor to look for is not taken for dead', async () => {
  const script = `
    import { openSync, writeSync } from 'node:fs'
    import { isAlive, self } from ${JSON.stringify(compiled)}
    let failure
    while (failure === undefined) try { openSync('/dev/null') } catch ({ code }) { failure = code }
    writeSync(1, [failure, isAlive(self), isAlive('nobody')].join())`
  const args = ['--nofile=64:64', process.execPath, '--input-type=module', '-e', script]
  expect(await start('prlimit', args).outcome).toMatchObject({ stdout: 'EMFILE,true,false', stderr: '' })
})
