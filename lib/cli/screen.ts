// The terminal as a full screen: what is on it, the keys, and leaving it as it was however the process ends.
import { on } from 'node:events'
import { emitKeypressEvents } from 'node:readline'
import {
  cursorHide,
  cursorShow,
  cursorTo,
  enterAlternativeScreen,
  eraseDown,
  eraseEndLine,
  exitAlternativeScreen,
  synchronizedOutput,
} from 'ansi-escapes'
import { Failure } from './errors.ts'
import { hangUp } from './terminal.ts'

export interface Key {
  /** Undefined for most that is no letter, digit or named key. */
  readonly name: string | undefined
  /** As it was typed. */
  readonly sequence: string
  readonly ctrl: boolean
  readonly meta: boolean
}

/** Lines of at most `columns`, and no more of them than `rows`. */
export type Draw = (columns: number, rows: number) => readonly string[]

export class Screen {
  readonly #draw: Draw
  #isOpen = false
  readonly #onExit = () => this.#leave()
  readonly #onResize = () => this.draw()
  readonly #onStop = () => this.#stop()
  readonly #onContinue = () => {
    // Who was told to end while he was stopped ends: the terminal is another's, and to set it would stop him again.
    setImmediate(() => {
      if (this.#isClosed) return
      // It may have been stopped without a word: where the cursor was is kept until it is left.
      this.#leave()
      this.#enter()
    })
  }
  #isClosed = false
  #fallback: NodeJS.Timeout | undefined

  /** @throws {Failure} if there is no terminal to draw on and to read keys from */
  constructor(draw: Draw) {
    if (!process.stdin.isTTY || !process.stdout.isTTY) {
      throw new Failure(
        'standard input and output are no terminal',
        "Use 'kmq ls --watch' to write to a file or a pipe.",
      )
    }
    if (process.env.TERM === 'dumb') {
      throw new Failure('this terminal cannot move its cursor (TERM=dumb)', "Use 'kmq ls --watch'.")
    }
    this.#draw = draw
  }

  open(): void {
    process.on('exit', this.#onExit)
    process.on('SIGTSTP', this.#onStop)
    process.on('SIGCONT', this.#onContinue)
    process.stdout.on('resize', this.#onResize)
    emitKeypressEvents(process.stdin)
    this.#enter()
  }

  close(): void {
    this.#isClosed = true
    this.#leave()
    process.stdin.pause()
    process.off('exit', this.#onExit)
    process.off('SIGTSTP', this.#onStop)
    process.off('SIGCONT', this.#onContinue)
    process.stdout.off('resize', this.#onResize)
  }

  draw(): void {
    if (!this.#isOpen) return
    // A terminal that does not know its size says 0.
    const rows = process.stdout.rows || 24
    const lines = this.#draw(process.stdout.columns || 80, rows).slice(0, rows)
    const text = lines.map((line, y) => `${cursorTo(0, y)}${eraseEndLine}${line}`).join('')
    const rest = lines.length < rows ? `${cursorTo(0, lines.length)}${eraseDown}` : ''
    process.stdout.write(synchronizedOutput(text + rest))
  }

  /** Until the process ends. Ctrl-C and Ctrl-Z do what they do elsewhere. */
  async *keys(signal: AbortSignal): AsyncGenerator<Key, undefined> {
    try {
      for await (const [, key] of on(process.stdin, 'keypress', { signal, close: ['end', 'close'] })) {
        if (key.ctrl && key.name === 'c') process.kill(0, 'SIGINT')
        else if (key.ctrl && key.name === 'z') process.kill(0, 'SIGTSTP')
        else yield key
      }
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EIO') throw error
    }
    hangUp()
  }

  #enter(): void {
    clearTimeout(this.#fallback)
    // Whoever continues it may have set the terminal; Node.js sets only what it takes for changed.
    process.stdin.setRawMode(false)
    process.stdin.setRawMode(true)
    process.stdout.write(enterAlternativeScreen + cursorHide)
    this.#isOpen = true
    this.draw()
  }

  #leave(): void {
    clearTimeout(this.#fallback)
    if (!this.#isOpen) return
    this.#isOpen = false
    process.stdout.write(cursorShow + exitAlternativeScreen)
    process.stdin.setRawMode(false)
  }

  #stop(): void {
    this.#leave()
    process.off('SIGTSTP', this.#onStop)
    process.kill(process.pid, 'SIGTSTP')
    process.on('SIGTSTP', this.#onStop)
    // SIGCONT brings it back, after what else has come; there is none where nobody could have sent it. A timer runs before
    // what has come is read.
    const enter = () => this.#isOpen || this.#isClosed || this.#enter()
    this.#fallback = setTimeout(() => setImmediate(enter), 100)
  }
}
