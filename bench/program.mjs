// A program that takes part: it is told on its standard input to run a round, and answers with a line of JSON.
import { spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import { Worker } from 'node:worker_threads'

/** Milliseconds: a round lasts for seconds, except with millions of messages. */
const TIMEOUT = 150_000

export class Program {
  /** The child process or worker. */
  task
  #lines
  #ended
  #timeout

  constructor(task, timeout = TIMEOUT) {
    this.task = task
    this.#timeout = timeout
    this.#ended = new Promise((resolve) => {
      task.on('exit', (code, signal) => resolve(signal ?? code))
      task.on('error', (error) => resolve(error.message))
    })
    task.stdin.on('error', () => {}) // it ended: answer() says so
    this.#lines = createInterface({ input: task.stdout })[Symbol.asyncIterator]()
  }

  /** Starts a command on one core. It does not outlive this process, even if it blocks. */
  static start(core, command, { ipc = false, timeout } = {}) {
    const options = { stdio: ['pipe', 'pipe', 'inherit', ...(ipc ? ['ipc'] : [])], serialization: 'advanced' }
    const child = spawn('setpriv', ['--pdeathsig', 'KILL', 'taskset', '-c', String(core), ...command], options)
    return new Program(child, timeout)
  }

  static startWorker(path, argv, port) {
    const options = { argv, workerData: port, transferList: [port], stdin: true, stdout: true }
    return new Program(new Worker(path, options))
  }

  tell({ count, warm, full = false, pause = 0 }) {
    this.task.stdin.write(`${count} ${warm} ${full ? 1 : 0} ${pause}\n`)
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
      if (done) throw new Error(`it ended with ${await this.#ended}`)
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
    this.task.stdin.end()
    const outcome = await this.#ended
    if (outcome !== 0) throw new Error(`it ended with ${outcome}`)
  }

  kill() {
    this.task.kill('SIGKILL')
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
