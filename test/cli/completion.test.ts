// kmq completion, in the shells; and the man page.
import { spawnSync } from 'node:child_process'
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { PosixQueue } from 'kernelmq'
import { describe, expect, onTestFinished, test } from 'vitest'
import { openQueue, uniqueName } from '../support.ts'
import { openSysv } from '../sysv-support.ts'
import { command, kmq } from './support.ts'

function temporaryDirectory(): string {
  const directory = mkdtempSync(join(tmpdir(), 'kernelmq-completion-'))
  onTestFinished(() => rmSync(directory, { recursive: true }))
  return directory
}

/** A PATH where `kmq` is the command under test. */
function path(): string {
  const directory = temporaryDirectory()
  writeFileSync(join(directory, 'kmq'), `#!/bin/sh\nexec '${process.execPath}' '${command}' "$@"\n`)
  chmodSync(join(directory, 'kmq'), 0o755)
  return `${directory}:${process.env.PATH}`
}

/** What bash offers when TAB is hit at the end of the line. */
function bash(line: string): string[] {
  const script = `source <(kmq completion bash); COMP_LINE=$1 COMP_POINT=\${#1} COMP_WORDBREAKS=':'
    compopt() { :; }; _kmq; printf '%s\\n' "\${COMPREPLY[@]}"`
  const { stdout, stderr } = spawnSync('bash', ['-c', script, 'bash', line], {
    encoding: 'utf8',
    env: { ...process.env, PATH: path() },
  })
  expect(stderr).toBe('')
  return stdout.split('\n').filter((word) => word !== '')
}

describe('completion', () => {
  test('knows commands, options, choices and queues', async () => {
    const { path: name = '' } = openQueue()
    const { id } = openSysv()
    expect(bash('kmq pu')).toEqual(['purge'])
    expect(bash('kmq ls --w')).toEqual(['--watch'])
    expect(bash(`kmq rm ${name.slice(0, -1)}`)).toContain(name)
    expect(bash('kmq info ')).toEqual(expect.arrayContaining([name, `\\#${id}`]))
    expect(bash('kmq bus local:/x red')).toEqual(['redrive'])
    expect(bash('kmq run /x -- ')).toEqual([])
    expect(bash('kmq nonsense ')).toEqual([])
  })

  test('a name means nothing to the shell', () => {
    const name = `${uniqueName()}-$(id)`
    for (const end of ['', '\nx']) {
      PosixQueue.open(name + end, { create: true, maxMessages: 1, messageSize: 1 })
      onTestFinished(() => PosixQueue.unlink(name + end))
    }
    expect(bash(`kmq info ${name.slice(0, -5)}`)).toEqual([name.replace(/[$()]/g, '\\$&')])
  })

  test.each(['zsh', 'fish'])('is a script that %s can read', async (shell) => {
    const { stdout } = await kmq(['completion', shell])
    expect(stdout).toContain('kmq __complete')
    const file = join(temporaryDirectory(), 'script')
    writeFileSync(file, stdout)
    const checked = spawnSync(shell, ['-n', file], { encoding: 'utf8' })
    // Where there is no such shell, its text is all that can be seen.
    if (checked.error === undefined) expect(checked).toMatchObject({ status: 0, stderr: '' })
  })

  test('of another shell is refused', async () => {
    expect(await kmq(['completion', 'csh'])).toMatchObject({
      code: 2,
      stderr: expect.stringContaining('bash, zsh or fish'),
    })
  })
})

test('the man page is that of these commands (npm run man)', async () => {
  const { stdout } = await kmq(['help', '--roff'])
  expect(stdout).toBe(readFileSync(new URL('../../docs/kmq.1', import.meta.url), 'utf8'))
  const checked = spawnSync('groff', ['-man', '-ww', '-Tutf8'], { input: stdout, encoding: 'utf8' })
  if (checked.error === undefined) expect(checked.stderr).toBe('')
})
