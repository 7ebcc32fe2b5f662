// Messages on their way to standard output.
import { Failure } from './errors.ts'
import { holdPipe, write } from './terminal.ts'

/** How long a reader that does not read may hold up the end after Ctrl-C, in milliseconds. */
const PATIENCE = 500

/** Standard output, for who has to know what it did not take: neither a broken pipe nor Ctrl-C ends the process at once. */
export class Output {
  #giveUp: (() => void) | undefined

  constructor(signal: AbortSignal) {
    holdPipe()
    signal.addEventListener('abort', () => setTimeout(() => this.#giveUp?.(), PATIENCE))
  }

  /** How many of the last of them were not taken, and why. */
  async write(parts: readonly Buffer[]): Promise<{ count: number; error: unknown }> {
    try {
      await new Promise<void>((resolve, reject) => {
        this.#giveUp = () => reject(new Failure('nobody reads the output'))
        write(Buffer.concat(parts)).then(resolve, reject)
      })
      return { count: 0, error: undefined }
    } catch (error) {
      let left = (error as { written?: number }).written ?? 0
      let whole = 0
      for (const { length } of parts) {
        left -= length
        if (left < 0) break
        whole++
      }
      return { count: parts.length - whole, error }
    } finally {
      this.#giveUp = undefined
    }
  }
}
