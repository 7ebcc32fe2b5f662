// A real terminal: a pty with job control, and a model of what its screen shows.
import { spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import type { Readable } from 'node:stream'
import xterm from '@xterm/headless'
import { onTestFailed, onTestFinished } from 'vitest'
import { fixture } from '../support.ts'

type Order =
  | { keys: string }
  | { columns: number; rows: number }
  | { signal: NodeJS.Signals; group?: boolean }
  | { foreground: true }
  | { hangUp: true }

interface Report {
  started?: number
  output?: string
  stopped?: true
  hungUp?: true
  termios?: unknown
  code?: number | null
  signal?: NodeJS.Signals | null
  before?: unknown
  after?: unknown
}

export class TerminalOf {
  readonly #screen: InstanceType<typeof xterm.Terminal>
  readonly #fixture: ReturnType<typeof spawn>
  readonly #changed = new Set<() => void>()
  readonly #reports: Report[] = []
  #isCursorVisible = true
  /** Within synchronized output, which may come in parts. */
  #isDrawing = false
  /** All that was ever written. */
  transcript = ''

  constructor(
    command: string[],
    { columns = 100, rows = 20, env = {} }: { columns?: number; rows?: number; env?: NodeJS.ProcessEnv } = {},
  ) {
    this.#screen = new xterm.Terminal({ cols: columns, rows, allowProposedApi: true })
    for (const final of ['h', 'l']) {
      this.#screen.parser.registerCsiHandler({ prefix: '?', final }, (params) => {
        if (params.includes(25)) this.#isCursorVisible = final === 'h'
        if (params.includes(2026)) this.#isDrawing = final === 'h'
        return false
      })
    }
    this.#fixture = spawn('python3', [fixture('terminal.py'), String(columns), String(rows), ...command], {
      stdio: ['pipe', 'pipe', 'inherit'],
      env: { ...process.env, TERM: 'xterm-256color', ...env },
    })
    // Which kills the command when it is told no more.
    onTestFinished(() => {
      this.#changed.clear()
      this.#fixture.stdin?.end()
    })
    onTestFailed(() => console.log(this.text))
    if (this.#fixture.stdout === null) throw new Error('it has no output')
    void this.#follow(this.#fixture.stdout)
  }

  /** One report in a turn: who has waited for it sees nothing of the next. */
  async #follow(reports: Readable): Promise<void> {
    for await (const line of createInterface({ input: reports })) {
      const report: Report = JSON.parse(line)
      const output = Buffer.from(report.output ?? '', 'base64')
      this.transcript += output
      await new Promise<void>((resolve) => this.#screen.write(output, resolve))
      this.#reports.push(report)
      for (const changed of this.#changed) changed()
      await new Promise(setImmediate)
    }
  }

  tell(order: Order): void {
    if ('columns' in order) this.#screen.resize(order.columns, order.rows)
    this.#fixture.stdin?.write(`${JSON.stringify(order)}\n`)
  }

  type(keys: string): void {
    this.tell({ keys })
  }

  get isAlternate(): boolean {
    return this.#screen.buffer.active.type === 'alternate'
  }

  get isCursorVisible(): boolean {
    return this.#isCursorVisible
  }

  /** What is on the screen, without the spaces at the ends. */
  get lines(): string[] {
    const { active } = this.#screen.buffer
    return Array.from(
      { length: this.#screen.rows },
      (_, y) => active.getLine(active.viewportY + y)?.translateToString(true, 0, this.#screen.cols) ?? '',
    )
  }

  get text(): string {
    return this.lines.join('\n').trimEnd()
  }

  /** The line that begins so. */
  line(start: string): string {
    return this.lines.find((line) => line.startsWith(start)) ?? ''
  }

  /** Resolves when it holds of what was drawn to its end, with what is on the screen. */
  until(holds: (terminal: this) => boolean): Promise<string> {
    return this.#wait(() => (!this.#isDrawing && holds(this) ? this.text : undefined))
  }

  /** The next report that has it. */
  report(name: keyof Report): Promise<Report> {
    return this.#wait(() => {
      const index = this.#reports.findIndex((report) => name in report)
      return index === -1 ? undefined : this.#reports.splice(index, 1)[0]
    })
  }

  #wait<T>(find: () => T | undefined): Promise<T> {
    return new Promise((resolve) => {
      const changed = () => {
        const found = find()
        if (found === undefined) return
        this.#changed.delete(changed)
        resolve(found)
      }
      this.#changed.add(changed)
      changed()
    })
  }
}
