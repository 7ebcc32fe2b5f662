// What a service tells systemd, through systemd-notify(1): Node.js has no datagram sockets of the Unix kind.
import { execFile } from 'node:child_process'

/** Milliseconds. */
const PATIENCE = 10_000

/** Tells it if this process is a service that systemd waits for (`Type=notify`), and nothing otherwise. */
export class Service {
  readonly #complain: (error: Error) => void
  #telling: Promise<void> = Promise.resolve()
  #waiting = 0
  #isStateDue = false
  #watchdog: NodeJS.Timeout | undefined
  #isMute = (process.env.NOTIFY_SOCKET ?? '') === ''

  /** @param complain is told once, if systemd cannot be told anything */
  constructor(complain: (error: Error) => void) {
    this.#complain = complain
    const { WATCHDOG_USEC, WATCHDOG_PID = String(process.pid) } = process.env
    const interval = Number(WATCHDOG_USEC ?? 0) / 2000
    if (this.#isMute || !(interval > 0) || Number(WATCHDOG_PID) !== process.pid) return
    this.#watchdog = setInterval(() => this.#waiting === 0 && this.tell('WATCHDOG=1'), interval).unref()
  }

  /** Resolves when all that was told is there; one after the other. See sd_notify(3). */
  tell(...variables: string[]): Promise<void> {
    return this.#queue(() => variables)
  }

  /** What it says when its turn comes: once, however often it changes until then. */
  tellState(state: () => string): void {
    if (this.#isStateDue) return
    this.#isStateDue = true
    void this.#queue(() => {
      this.#isStateDue = false
      return [state()]
    })
  }

  #queue(variables: () => readonly string[]): Promise<void> {
    this.#waiting++
    this.#telling = this.#telling.then(() => this.#run(variables())).finally(() => this.#waiting--)
    return this.#telling
  }

  #run(variables: readonly string[]): Promise<void> {
    if (this.#isMute) return Promise.resolve()
    return new Promise((resolve) => {
      execFile('systemd-notify', variables, { timeout: PATIENCE }, (error) => {
        if (error !== null && !this.#isMute) {
          // It does not come back: whoever is told nothing is not told more often.
          this.#isMute = (error as NodeJS.ErrnoException).code === 'ENOENT'
          this.#complain(error)
        }
        resolve()
      })
    })
  }

  end(): Promise<void> {
    clearInterval(this.#watchdog)
    return this.tell('STOPPING=1')
  }
}
