// memory: the same tables, in the memory of one process, for tests.
import type { Clock } from '../clock.ts'
import { Engine, type Surroundings } from './local/engine.ts'
import { localCapabilities } from './local/local.ts'
import { Store } from './local/store.ts'

/** setInterval() takes no longer times. */
const LONG = 2 ** 31 - 1

class Memory implements Surroundings {
  readonly large: number = Number.POSITIVE_INFINITY
  #timer: NodeJS.Timeout | undefined

  ring(): void {}

  hold(on: boolean): void {
    clearInterval(this.#timer)
    if (on) this.#timer = setInterval(() => {}, LONG)
  }

  async sync(): Promise<void> {}

  committed(): void {}

  hasRoom(): boolean {
    return true
  }

  makeRoom(): boolean {
    return false
  }

  writer(): undefined {}

  async close(): Promise<void> {
    clearInterval(this.#timer)
  }
}

export function openMemory(clock: Clock): Engine {
  const capabilities = { ...localCapabilities, persist: false, maxBytes: 2 ** 29 } as const
  return new Engine(new Store(':memory:', clock), clock, new Memory(), capabilities, Number.POSITIVE_INFINITY)
}
