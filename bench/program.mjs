// A program that takes part: it is told on its standard input to run a round, and answers with a line of JSON.
import { spawn } from 'node:child_process'
import { createInterface } from 'node:readline'

/** Whatever takes longer than this hangs: a round lasts for seconds at most. */
const TIMEOUT = 150_000

export class Program {
  #child
  #lines
  #closed
  #timeout

  /**
   * Starts it on one core. It does not outlive who started it, even if it blocks.
   *
   * @param stdio additional descriptors, as of spawn()
   */
  constructor(core, command, { stdio = [], timeout = TIMEOUT } = {}) {
    this.#timeout = timeout
    this.#child = spawn('setpriv', ['--pdeathsig', 'KILL', 'taskset', '-c', String(core), ...command], {
      stdio: ['pipe', 'pipe', 'inherit', ...stdio],
      serialization: 'advanced',
    })
    this.#closed = new Promise((resolve) => {
      this.#child.on('close', (code, signal) => resolve(signal ?? code))
      this.#child.on('error', (error) => resolve(error.message))
    })
    this.#child.stdin.on('error', () => {}) // it ended: answer() says so
    this.#lines = createInterface({ input: this.#child.stdout })[Symbol.asyncIterator]()
  }

  /** To send to it and receive from it, if stdio has an 'ipc'. */
  get channel() {
    return this.#child
  }

  tell({ count, warm, full = false, pause = 0 }) {
    this.#child.stdin.write(`${count} ${warm} ${full ? 1 : 0} ${pause}\n`)
  }

  /** The next line that it writes. */
  async answer() {
    let timer
    const late = new Promise((_, reject) => {
      timer = setTimeout(
        () => reject(new Error(`no answer within ${this.#timeout} ms: messages are lost`)),
        this.#timeout,
      )
    })
    try {
      const { value, done } = await Promise.race([this.#lines.next(), late])
      if (done) throw new Error(`it ended with ${await this.#closed}`)
      return JSON.parse(value)
    } finally {
      clearTimeout(timer)
    }
  }

  run(command) {
    this.tell(command)
    return this.answer()
  }

  /** Lets it end by itself. */
  async end() {
    this.#child.stdin.end()
    const outcome = await this.#closed
    if (outcome !== 0) throw new Error(`it ended with ${outcome}`)
  }

  kill() {
    this.#child.kill('SIGKILL')
  }
}

/** The commands that come to this program. */
export async function* commands() {
  for await (const line of createInterface({ input: process.stdin })) {
    const [count, warm, full, pause] = line.split(' ').map(Number)
    yield { count, warm, full: full === 1, pause }
  }
}

export const answer = (value) => process.stdout.write(`${JSON.stringify(value)}\n`)
