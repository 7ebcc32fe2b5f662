// What holds the process: somebody waits for something, or for an answer. A connection alone does not.
import { MAX_TIMER } from '../../../waiting.ts'

export class Hold {
  #count = 0
  #timer: NodeJS.Timeout | undefined

  take(): void {
    if (this.#count++ === 0) this.#timer = setInterval(() => {}, MAX_TIMER)
  }

  release(): void {
    if (--this.#count === 0) clearInterval(this.#timer)
  }

  async during<R>(work: () => Promise<R>): Promise<R> {
    this.take()
    try {
      return await work()
    } finally {
      this.release()
    }
  }
}
