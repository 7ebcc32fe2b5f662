import { PosixQueue } from 'kernelmq'
import { describe, expect, onTestFinished, test } from 'vitest'
import { canUnshare, openQueue, uniqueName } from '../support.ts'
import { openSysv } from '../sysv-support.ts'
import { asStranger, canBeStranger, command, kmq } from './support.ts'
import { TerminalOf } from './terminal.ts'

type Options = ConstructorParameters<typeof TerminalOf>[1]

const startTop = (args: string[] = [], options: Options = {}, nodeArgs: string[] = []) =>
  new TerminalOf([process.execPath, ...nodeArgs, command, 'top', '--interval', '50', ...args], options)

/** Room for ours, however many others have. */
const tall = { rows: 200 }

/** Small queues of the test's own with a common part of their names, each with so many of 4 messages. */
function openQueues(messages: Record<string, number>): { prefix: string } {
  const prefix = uniqueName()
  for (const [suffix, count] of Object.entries(messages)) {
    const name = `${prefix}-${suffix}`
    const queue = PosixQueue.open(name, { create: true, maxMessages: 4, messageSize: 16 })
    onTestFinished(() => {
      queue.close()
      PosixQueue.unlink(name)
    })
    for (let i = 0; i < count; i++) queue.trySend('x')
  }
  return { prefix }
}

/** The ends of the names on the screen, from the top. */
const namesOn = (terminal: TerminalOf): string =>
  terminal.lines
    .slice(2, -1)
    .filter((line) => line !== '')
    .map((line) => line.split(' ')[0]?.replace(/.*-/, ''))
    .join(' ')

/** Everything is as it was. */
async function expectRestored(terminal: TerminalOf, code: number | null, signal: NodeJS.Signals | null = null) {
  const ended = await terminal.report('code')
  expect(ended).toMatchObject({ code, signal })
  expect(ended.after).toEqual(ended.before)
  expect(terminal.isAlternate).toBe(false)
  expect(terminal.isCursorVisible).toBe(true)
}

describe('kmq top', () => {
  test('draws queues of both families, and what moves', async () => {
    const queue = openQueue()
    const name = `${queue.path} `
    const sysv = openSysv()
    sysv.trySend('hello')
    const terminal = startTop([], tall)
    const text = await terminal.until(({ text }) => text.includes(`#${sysv.id} `) && text.includes(name))
    expect(terminal.isAlternate).toBe(true)
    expect(terminal.isCursorVisible).toBe(false)
    expect(text).toMatch(
      /^kmq top {2}\d+ queues {2}by depth\nQUEUE +DEPTH +MSGS +FILL +NET\/s +IN\/s +OUT\/s +WAITING +IDLE/,
    )
    expect(terminal.line(name)).toMatch(/ ░{10} +0 +0% /)
    expect(terminal.line(`#${sysv.id} `)).toMatch(/ █░{9} +1 +0% /)
    queue.trySend('one')
    queue.trySend('two')
    await terminal.until(() => / █{5}░{5} +2 +50% +\+[\d.]+ +≥[\d.]+ +0 +\d+s +\d+s$/.test(terminal.line(name)))
    queue.tryReceive()
    await terminal.until(() =>
      / █{3}░{7} +1 +25% +[+-]?[\d.]+ +(≥[\d.]+|0) +≥[\d.]+ +\d+s +\d+s$/.test(terminal.line(name)),
    )
    terminal.type('q')
    await expectRestored(terminal, 0)
  })

  test('sees from the times that a queue is in use, though it is always empty', async () => {
    const posix = openQueue()
    const sysv = openSysv()
    const terminal = startTop([], tall)
    for (const [queue, name] of [
      [posix, `${posix.path} `],
      [sysv, `#${sysv.id} `],
    ] as const) {
      await terminal.until(() => {
        queue.trySend('x')
        queue.tryReceive()
        return / 0 +0% +0 +≥[\d.]+ +≥[\d.]+ +- /.test(terminal.line(name))
      })
    }
    terminal.type('q')
    await expectRestored(terminal, 0)
  })

  test('sorts, and again the other way round', async () => {
    const { prefix } = openQueues({ b: 3, a: 1, c: 2 })
    const terminal = startTop([prefix, '--sort', 'name'])
    const are = (names: string) => terminal.until(() => namesOn(terminal) === names)
    await are('a b c')
    terminal.type('n')
    await are('c b a')
    expect(terminal.lines[0]).toContain('by name, reversed')
    terminal.type('d')
    await are('b c a')
    expect(terminal.lines[0]).toMatch(/by depth$/)
    terminal.type('d')
    await are('a c b')
    terminal.type('f')
    await are('b c a')
    terminal.type('r')
    await terminal.until(({ lines }) => lines[0]?.endsWith('by rate') ?? false)
    const busy = PosixQueue.open(`${prefix}-c`)
    onTestFinished(() => busy.close())
    busy.trySend('x')
    await terminal.until(() => namesOn(terminal).startsWith('c'))
    terminal.type('w')
    await terminal.until(({ lines }) => lines[0]?.endsWith('by waiting') ?? false)
    terminal.type('q')
    await expectRestored(terminal, 0)
  })

  test('filters by what is typed: a part or a glob', async () => {
    const { prefix } = openQueues({ one: 1, two: 2, three: 3 })
    const terminal = startTop([prefix])
    const are = (names: string) => terminal.until(() => namesOn(terminal) === names)
    await are('three two one')
    terminal.type('/')
    // It begins with what the command was told.
    await terminal.until(({ text }) => text.endsWith(`filter: ${prefix}`))
    // Ctrl-U
    terminal.type(`\x15${prefix}-t`)
    await are('three two')
    terminal.type('hx')
    await terminal.until(({ text }) => text.includes('No queue has such a name'))
    // Backspace, and no key that is a command
    terminal.type('\x7f')
    await are('three')
    terminal.type(`\x15${prefix}-{one,two}\r`)
    await are('two one')
    expect(terminal.lines[0]).toMatch(/^kmq top {2}2 of \d+ queues {2}filter /)
    terminal.type('n')
    await are('one two')
    terminal.type('/q[')
    await terminal.until(({ text }) => text.endsWith(`filter: ${prefix}-{one,two}q[`))
    terminal.type('\x1b')
    await terminal.until(({ text }) =>
      ['one', 'two', 'three'].every((suffix) => text.includes(`\n${prefix}-${suffix} `)),
    )
    expect(terminal.lines[0]).toMatch(/^kmq top {2}\d+ queues {2}by name$/)
    terminal.type('q')
    await expectRestored(terminal, 0)
  })

  test('pauses and goes on', async () => {
    const queue = openQueue()
    const terminal = startTop([queue.path ?? ''])
    const depth = () => terminal.line(`${queue.path} `).split(/ +/)[2]
    await terminal.until(() => depth() === '0')
    terminal.type(' ')
    await terminal.until(({ lines }) => lines[0]?.endsWith('paused') ?? false)
    queue.trySend('x')
    // Every key draws: the last one shows that nothing was looked at in between.
    terminal.type('n')
    await terminal.until(({ lines }) => lines[0]?.includes('by name') ?? false)
    expect(depth()).toBe('0')
    terminal.type(' ')
    await terminal.until(() => depth() === '1')
    expect(terminal.lines[0]).not.toContain('paused')
    terminal.type('q')
    await expectRestored(terminal, 0)
  })

  test('helps, and goes back', async () => {
    const terminal = startTop()
    await terminal.until(({ text }) => text.includes('h help'))
    terminal.type('?')
    await terminal.until(({ text }) => text.includes('Any key goes back.'))
    expect(terminal.text).not.toContain('kmq top')
    // Which only goes back.
    terminal.type('q')
    await terminal.until(({ text }) => text.includes('kmq top'))
    terminal.type('q')
    await expectRestored(terminal, 0)
  })

  test('is drawn anew when the terminal is resized', async () => {
    const { prefix } = openQueues({ a: 0, b: 0, c: 0, d: 0 })
    const terminal = startTop([prefix, '--sort', 'name'], { columns: 80, rows: 20 })
    await terminal.until(() => namesOn(terminal) === 'a b c d')
    expect(terminal.lines[1]).toMatch(/^QUEUE .* IDLE$/)
    terminal.tell({ columns: 130, rows: 30 })
    await terminal.until(
      ({ lines }) => /^QUEUE .* LAST RECEIVER/.test(lines[1] ?? '') && lines[29]?.startsWith('q quit') === true,
    )
    terminal.tell({ columns: 40, rows: 5 })
    await terminal.until(
      ({ lines }) => /^QUEUE .* FILL$/.test(lines[1]?.trimEnd() ?? '') && lines[4]?.startsWith('q quit') === true,
    )
    await terminal.until(() => namesOn(terminal) === 'a b')
    // What does not fit is reached with the keys of the cursor.
    terminal.type('\x1b[B')
    await terminal.until(() => namesOn(terminal) === 'b c')
    terminal.type('\x1b[6~')
    await terminal.until(() => namesOn(terminal) === 'c d')
    terminal.type('\x1b[H')
    await terminal.until(() => namesOn(terminal) === 'a b')
    terminal.tell({ columns: 2, rows: 1 })
    await terminal.until(({ text }) => text === 'q…')
    terminal.tell({ columns: 80, rows: 20 })
    await terminal.until(() => namesOn(terminal) === 'a b c d')
    terminal.type('q')
    await expectRestored(terminal, 0)
  })

  test('has a queue no more that was removed', async () => {
    const { prefix } = openQueues({ stays: 1 })
    const queue = openQueue()
    const terminal = startTop([], tall)
    await terminal.until(({ text }) => text.includes(`${queue.path} `))
    PosixQueue.unlink(queue.path ?? '')
    await terminal.until(({ text }) => !text.includes(`${queue.path} `) && text.includes(prefix))
    terminal.type('q')
    await expectRestored(terminal, 0)
  })

  test('names neither move the cursor nor break the columns', async () => {
    const { prefix } = openQueues({ '\x1b[2J\n': 1, 漢字: 2 })
    const terminal = startTop([prefix, '--sort', 'name'])
    await terminal.until(({ text }) => text.includes('漢字 ') && text.includes('\ufffd[2J\ufffd '))
    // Where the bar begins: a wide character has two columns.
    const [control, wide] = [terminal.line(`${prefix}-\ufffd`), terminal.line(`${prefix}-漢字`)]
    expect(control.indexOf('█')).toBe(wide.indexOf('█') + 2)
    terminal.type('q')
    await expectRestored(terminal, 0)
  })

  test('without colors it says the same', async () => {
    const queue = openQueue()
    queue.trySend('x')
    const terminal = startTop([], { ...tall, env: { NO_COLOR: '1' } })
    await terminal.until(() => / █{3}░{7} +1 +25% /.test(terminal.line(`${queue.path} `)))
    terminal.type('q')
    await expectRestored(terminal, 0)
  })

  describe('leaves the terminal as it was', () => {
    const running = async (nodeArgs: string[] = []) => {
      const terminal = startTop([], {}, nodeArgs)
      await terminal.until(({ text }) => text.includes('h help'))
      return terminal
    }

    test('at Ctrl-C', async () => {
      const terminal = await running()
      terminal.type('\x03')
      await expectRestored(terminal, null, 'SIGINT')
      expect(terminal.text).toBe('')
    })

    test('at Ctrl-C while a filter is typed, or help shown', async () => {
      for (const key of ['/', 'h']) {
        const terminal = await running()
        terminal.type(`${key}\x03`)
        await expectRestored(terminal, null, 'SIGINT')
      }
    })

    test.each(['SIGINT', 'SIGTERM', 'SIGHUP'] as const)('at %s', async (signal) => {
      const terminal = await running()
      terminal.tell({ signal })
      await expectRestored(terminal, null, signal)
      expect(terminal.text).toBe('')
    })

    test('when it crashes, and then says why', async () => {
      const terminal = await running([
        '--import=data:text/javascript,process.on("SIGUSR2",()=>{throw new Error("planted")})',
      ])
      terminal.tell({ signal: 'SIGUSR2' })
      await expectRestored(terminal, 1)
      expect(terminal.text).toContain('planted')
    })

    test('while it is stopped by Ctrl-Z; then it is drawn anew', async () => {
      const terminal = await running()
      for (let time = 0; time < 2; time++) {
        terminal.type('\x1a')
        await terminal.report('stopped')
        expect(terminal.isAlternate).toBe(false)
        expect(terminal.isCursorVisible).toBe(true)
        terminal.tell({ foreground: true })
        await terminal.until((terminal) => terminal.isAlternate && terminal.text.includes('h help'))
        expect(terminal.isCursorVisible).toBe(false)
      }
      // The keys arrive, one by one.
      terminal.type('n')
      await terminal.until(({ lines }) => lines[0]?.includes('by name') ?? false)
      terminal.type('q')
      await expectRestored(terminal, 0)
    })

    test('when it is ended while it is stopped', async () => {
      const terminal = await running()
      terminal.type('\x1a')
      await terminal.report('stopped')
      terminal.tell({ signal: 'SIGTERM' })
      terminal.tell({ signal: 'SIGCONT' })
      await expectRestored(terminal, null, 'SIGTERM')
    })

    test('when it was stopped without a word', async () => {
      const terminal = await running()
      terminal.tell({ signal: 'SIGSTOP' })
      await terminal.report('stopped')
      terminal.tell({ foreground: true })
      terminal.type('n')
      await terminal.until(({ lines }) => lines[0]?.includes('by name') ?? false)
      terminal.type('q')
      await expectRestored(terminal, 0)
    })
  })

  test('ends with its terminal', async () => {
    const terminal = startTop()
    await terminal.until(({ text }) => text.includes('h help'))
    terminal.tell({ hangUp: true })
    expect(await terminal.report('code')).toMatchObject({ code: null, signal: 'SIGHUP' })
  })

  test('without a terminal, or one that can do nothing, says what to use', async () => {
    const { code, stdout, stderr } = await kmq(['top'])
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
    expect(stderr).toMatch(/^kmq top: standard input and output are no terminal\n.*kmq ls --watch/)
    const dumb = startTop([], { env: { TERM: 'dumb' } })
    await expectRestored(dumb, 1)
    expect(dumb.text).toMatch(/^kmq top: this terminal cannot move its cursor/)
  })

  test.each([
    [['--interval', 'soon'], '--interval is a time'],
    [['--sort', 'size'], '--sort is one of name, depth, fill, rate, waiting'],
    [['a', 'b'], "unexpected 'b'"],
  ])('does not take %j', async (args, message) => {
    const { code, stdout, stderr } = await kmq(['top', ...args])
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' })
    expect(stderr).toContain(message)
  })

  test('of what another user may not see it says nothing', async ({ skip }) => {
    skip(!canBeStranger, 'only root can become another user')
    const queue = openQueue()
    queue.trySend('x')
    const terminal = new TerminalOf([...asStranger, process.execPath, command, 'top', queue.path ?? ''])
    await terminal.until(() => / +- +- +- +- +- +- +\d+s$/.test(terminal.line(`${queue.path} `)))
    terminal.type('q')
    await expectRestored(terminal, 0)
  })

  test('shows System V queues where POSIX ones cannot be seen, and says so', async ({ skip }) => {
    skip(!canUnshare, 'needs a mount namespace of its own, which root can make')
    const { id } = openSysv()
    const through = ['unshare', '--mount', 'sh', '-c', 'umount -a -t mqueue; exec "$@"', 'sh']
    const terminal = new TerminalOf([...through, process.execPath, command, 'top'])
    await terminal.until(
      ({ lines, text }) => text.includes(`#${id} `) && lines[1]?.startsWith('ERR_MQ_NOT_MOUNTED') === true,
    )
    terminal.type('q')
    await expectRestored(terminal, 0)
  })
})
