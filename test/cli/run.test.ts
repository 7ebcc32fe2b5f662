import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { PosixQueue } from 'kernelmq'
import { describe, expect, test } from 'vitest'
import { openQueue, start, uniqueName } from '../support.ts'
import { openSysv } from '../sysv-support.ts'
import {
  canBecome,
  depthIs,
  directory,
  drain,
  drainTagged,
  expectFailure,
  families,
  kmqAsStranger,
  kmqUnread,
  nameOf,
} from './moving.ts'
import { command, kmq, startKmq } from './support.ts'

const sh = (script: string): string[] => ['--', 'sh', '-c', script]

/** Resolves when there is the file, with what is in it. */
async function fileIs(path: string): Promise<string> {
  await expect.poll(() => existsSync(path) && readFileSync(path, 'utf8') !== '').toBe(true)
  return readFileSync(path, 'utf8')
}

describe('kmq run', () => {
  test.each(families)('the body on standard input, the rest in the environment, %s', async (_, open) => {
    const queue = open()
    queue.trySend('hello', { priority: 3, type: 8 })
    queue.trySend('', { priority: 2, type: 2n ** 60n })
    const script = 'cat; echo " $KMQ_QUEUE $KMQ_PRIORITY,$KMQ_TYPE $KMQ_BYTES $KMQ_ATTEMPT"'
    const { code, stdout } = await kmq(['run', nameOf(queue), '--idle', '0', ...sh(script)], {
      env: { KMQ_TYPE: '99' },
    })
    expect(code).toBe(0)
    const tags = 'id' in queue ? [',8', `,${2n ** 60n}`] : ['3,', '2,']
    expect(stdout).toBe(`hello ${nameOf(queue)} ${tags[0]} 5 1\n ${nameOf(queue)} ${tags[1]} 0 1\n`)
  })

  test('-n ends after so many; --json tells of each, and leaves standard output alone', async () => {
    const queue = openQueue()
    for (const text of ['a', 'b', 'c']) queue.trySend(text)
    const { code, stdout, stderr } = await kmq(['run', nameOf(queue), '-n', '2', '--json', ...sh('cat')])
    expect(code).toBe(0)
    expect(stderr).toBe('ab')
    const row = { outcome: 'done', attempts: 1, bytes: 1, priority: 0, milliseconds: expect.any(Number) }
    expect(
      stdout
        .trimEnd()
        .split('\n')
        .map((line) => JSON.parse(line)),
    ).toEqual([row, row])
    expect(drain(queue)).toEqual(['c'])
  })

  test('code 3 when nothing comes', async () => {
    const queue = openQueue()
    expectFailure(await kmq(['run', nameOf(queue), '--idle', '1', ...sh('cat')]), 3, /no message came/)
  })

  test('--jobs: so many at a time, no more', async () => {
    const queue = openQueue()
    const path = directory()
    for (const text of ['a', 'b', 'c', 'd']) queue.trySend(text)
    // Each waits for two to run, and for the word to end.
    const script = `touch ${path}/$(cat); until [ -e ${path}/go ]; do sleep 0.01; done`
    const child = startKmq(['run', nameOf(queue), '--jobs', '2', '-n', '4', ...sh(script)])
    await expect.poll(() => existsSync(join(path, 'a')) && existsSync(join(path, 'b'))).toBe(true)
    expect(drain(queue)).toEqual(['c', 'd'])
    queue.trySend('c')
    queue.trySend('d')
    writeFileSync(join(path, 'go'), '')
    expect((await child.outcome).code).toBe(0)
    expect(existsSync(join(path, 'd'))).toBe(true)
  })

  test('what fails is tried again, so many times, and then kept elsewhere', async () => {
    const queue = openQueue()
    const dead = openSysv()
    const path = directory()
    queue.trySend('bad', { priority: 4 })
    queue.trySend('good', { priority: 1 })
    const script = `text=$(cat); echo "$text $KMQ_ATTEMPT" >> ${path}/log; [ $text = good ]`
    const options = ['--attempts', '3', '--delay', '1', '--idle', '0', '--dead', nameOf(dead)]
    const { code, stdout, stderr } = await kmq(['run', nameOf(queue), ...options, '--json', ...sh(script)])
    expect(code).toBe(0)
    expect(readFileSync(join(path, 'log'), 'utf8')).toBe('bad 1\nbad 2\nbad 3\ngood 1\n')
    expect(
      stdout
        .trimEnd()
        .split('\n')
        .map((line) => JSON.parse(line)),
    ).toMatchObject([
      { outcome: 'dead', attempts: 3, reason: 'ended with code 1', priority: 4 },
      { outcome: 'done', attempts: 1 },
    ])
    expect(stderr).toContain('(attempt 3 of 3)')
    expect(drainTagged(dead)).toEqual([['bad', 5]])
    expect(drain(queue)).toEqual([])
  })

  test.each(families)('without --dead it is put back, and the end is there, %s', async (_, open) => {
    const queue = open()
    queue.trySend('bad', { priority: 4, type: 6 })
    const outcome = await kmq(['run', nameOf(queue), '--attempts', '2', '--delay', '1', ...sh('kill -9 $$')])
    expectFailure(outcome, 1, /was ended by SIGKILL \(attempt 2 of 2\)[\s\S]*put back 1 message [\s\S]*--dead QUEUE/)
    expect(drainTagged(queue)).toEqual([['bad', 'id' in queue ? 6 : 4]])
  })

  test('the queue of the dead is full: the message is put back', async () => {
    const [queue, dead] = [openQueue(), openQueue({ maxMessages: 1 })]
    dead.trySend('full')
    queue.trySend('bad')
    const outcome = await kmq(['run', nameOf(queue), '--attempts', '1', '--dead', nameOf(dead), '--', 'false'])
    expectFailure(outcome, 1, /put back 1 message [\s\S]*is full/)
    expect([drain(queue), drain(dead)]).toEqual([['bad'], ['full']])
  })

  test('the queue of the dead was removed: the message is put back', async () => {
    const [queue, dead] = [openQueue(), openQueue()]
    queue.trySend('bad')
    const path = join(directory(), 'began')
    const script = `touch ${path}; until [ ! -e ${path} ]; do sleep 0.01; done; exit 1`
    const child = startKmq(['run', nameOf(queue), '--attempts', '1', '--dead', nameOf(dead), ...sh(script)])
    await expect.poll(() => existsSync(path)).toBe(true)
    PosixQueue.unlink(nameOf(dead))
    rmSync(path)
    expectFailure(await child.outcome, 1, /put back 1 message [\s\S]*was removed/)
    expect([drain(queue), drain(dead)]).toEqual([['bad'], []])
  })

  test.each([
    ['', 1],
    [', by a second Ctrl-C, too', 2],
  ])('its queue was removed: what would be put back is in a file%s', async (_, times) => {
    const queue = openQueue()
    const cwd = directory()
    queue.trySend('bad', { priority: 7 })
    const began = join(cwd, 'began')
    const script = `touch ${began}; ${times === 1 ? `until [ ! -e ${began} ]; do sleep 0.01; done; exit 1` : 'sleep 60'}`
    const line = `cd ${cwd} && exec "$0" "$@"`
    const args = ['run', nameOf(queue), '--attempts', '1', ...sh(script)]
    const child = start('sh', ['-c', line, process.execPath, command, ...args])
    await expect.poll(() => existsSync(began)).toBe(true)
    PosixQueue.unlink(nameOf(queue))
    rmSync(began)
    if (times === 2) for (const signal of ['SIGINT', 'SIGTERM'] as const) process.kill(child.pid, signal)
    expect((await child.outcome).stderr).toMatch(/1 message could not be put back .*was removed.* and is in /)
    const [file = ''] = readdirSync(cwd).filter((name) => name.startsWith('kmq-rescued'))
    const lines = readFileSync(join(cwd, file), 'utf8').split('\n')
    expect(JSON.parse(lines[1] ?? '')).toEqual({ priority: 7, base64: Buffer.from('bad').toString('base64') })
  })

  test('--timeout ends a command, and what that has started', async () => {
    const queue = openQueue()
    queue.trySend('slow')
    const outcome = await kmq(['run', nameOf(queue), '--attempts', '1', '--timeout', '50', ...sh('sleep 1000; :')])
    expectFailure(outcome, 1, /took longer than 50 ms/)
    expect(drain(queue)).toEqual(['slow'])
  })

  test('a command that is not there: the message stays', async () => {
    const queue = openQueue()
    queue.trySend('kept', { priority: 2 })
    expectFailure(
      await kmq(['run', nameOf(queue), '--', '/nowhere/x']),
      1,
      /put back [\s\S]*cannot start \/nowhere\/x: .*ENOENT/,
    )
    expect(drainTagged(queue)).toEqual([['kept', 2]])
  })

  test('a command that does not read', async () => {
    const queue = openQueue({ messageSize: 8192 })
    queue.trySend('x'.repeat(8192))
    expect(await kmq(['run', nameOf(queue), '--idle', '0', '--', 'true'])).toMatchObject({ code: 0, stderr: '' })
  })

  test.each(['SIGINT', 'SIGTERM', 'SIGQUIT'] as const)('%s lets what runs finish, and starts nothing', async (name) => {
    const queue = openQueue()
    const path = directory()
    queue.trySend('first')
    queue.trySend('second')
    const script = `echo $$ > ${path}/pid; until [ -e ${path}/go ]; do sleep 0.01; done; cat > ${path}/done`
    const child = start('setsid', [
      'prlimit',
      '--core=0',
      process.execPath,
      command,
      'run',
      nameOf(queue),
      ...sh(script),
    ])
    await fileIs(join(path, 'pid'))
    // To the whole group, as a terminal does.
    process.kill(-child.pid, name)
    writeFileSync(join(path, 'go'), '')
    const { signal, stderr } = await child.outcome
    expect({ signal, stderr }).toEqual({ signal: name, stderr: expect.stringContaining('waiting for 1 command') })
    expect(readFileSync(join(path, 'done'), 'utf8')).toBe('first')
    expect(drain(queue)).toEqual(['second'])
  })

  test.each(families)('a second Ctrl-C ends what runs, and puts its message back, %s', async (_, open) => {
    const queue = open()
    const path = directory()
    queue.trySend('first', { priority: 5, type: 5 })
    const child = startKmq(['run', nameOf(queue), ...sh(`echo $$ > ${path}/pid; sleep 1000; :`)])
    const pid = Number(await fileIs(join(path, 'pid')))
    let stop: NodeJS.Timeout | undefined
    // Two that come at the same time are one.
    const again = () => {
      child.kill('SIGINT')
      stop = setTimeout(again, 50)
    }
    again()
    const { code, stderr } = await child.outcome.finally(() => clearTimeout(stop))
    expect(code).toBe(130)
    expect(stderr).toMatch(/put back 1 message/)
    expect(drainTagged(queue)).toEqual([['first', 5]])
    await expect.poll(() => existsSync(`/proc/${pid}`)).toBe(false)
  })

  test('a second Ctrl-C while a message waits to be put back keeps it once', async () => {
    const queue = openQueue({ maxMessages: 1 })
    const cwd = directory()
    queue.trySend('bad')
    const path = join(cwd, 'began')
    const line = `cd ${cwd} && exec "$0" "$@"`
    const script = `touch ${path}; until [ -e ${cwd}/go ]; do sleep 0.01; done; exit 1`
    const args = ['run', nameOf(queue), '--attempts', '1', ...sh(script)]
    const child = start('sh', ['-c', line, process.execPath, command, ...args])
    await expect.poll(() => existsSync(path)).toBe(true)
    queue.trySend('in its place')
    process.kill(child.pid, 'SIGINT')
    writeFileSync(join(cwd, 'go'), '')
    let stop: NodeJS.Timeout | undefined
    const again = () => {
      child.kill('SIGINT')
      stop = setTimeout(again, 50)
    }
    stop = setTimeout(again, 500)
    const { stderr } = await child.outcome.finally(() => clearTimeout(stop))
    expect(stderr.match(/could not be put back/g)).toHaveLength(1)
    expect(readdirSync(cwd).filter((name) => name.startsWith('kmq-rescued'))).toHaveLength(1)
  })

  test('Ctrl-C between two attempts puts the message back', async () => {
    const queue = openQueue()
    queue.trySend('bad')
    const path = directory()
    const child = startKmq(['run', nameOf(queue), '--delay', '1h', ...sh(`echo $$ > ${path}/pid; exit 1`)])
    const pid = Number(await fileIs(join(path, 'pid')))
    await expect.poll(() => existsSync(`/proc/${pid}`)).toBe(false)
    process.kill(child.pid, 'SIGINT')
    expect((await child.outcome).signal).toBe('SIGINT')
    expect(drain(queue)).toEqual(['bad'])
  })

  test('a broken pipe ends it, after the message that is done', async () => {
    const queue = openQueue()
    queue.trySend('done')
    queue.trySend('kept')
    expectFailure(await kmqUnread(['run', nameOf(queue), '--json', '--', 'cat']), 141, /^done$/)
    expect(drain(queue)).toEqual(['kept'])
  })

  test.each(families)('the queue is removed, %s', async (_, open) => {
    const queue = open()
    queue.trySend('there')
    const child = startKmq(['run', nameOf(queue), ...sh('cat; echo')])
    expect(await child.line()).toBe('there')
    if ('id' in queue) queue.remove()
    else PosixQueue.unlink(nameOf(queue))
    expectFailure(await child.outcome, 1, /removed/)
  })

  test('bad input takes nothing', async () => {
    const queue = openQueue()
    const name = nameOf(queue)
    queue.trySend('x')
    const cases: [args: string[], words: RegExp][] = [
      [[name], /expected QUEUE -- COMMAND/],
      [[name, '--jobs', '0', '--', 'cat'], /--jobs/],
      [[name, '--attempts', '0', '--', 'cat'], /--attempts/],
      [[name, '--dead', name, '--', 'cat'], /--dead is the queue itself/],
      [[name, '--type', '3', '--', 'cat'], /is a POSIX queue/],
    ]
    for (const [args, words] of cases) expectFailure(await kmq(['run', ...args]), 2, words)
    expectFailure(await kmq(['run', name, '--dead', uniqueName(), '--', 'cat']), 1, /ENOENT/)
    if (canBecome) expectFailure(await kmqAsStranger(['run', name, '--', 'cat']), 1, /EACCES/)
    await depthIs(queue, 1)
  })
})
