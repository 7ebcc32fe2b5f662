// memory: the same tables, in the memory of one process, for tests.
import { MAX_TIMER } from '../../waiting.ts'
import type { Clock } from '../clock.ts'
import { Engine, engineCapabilities, type Surroundings } from './local/engine.ts'
import { Store } from './local/store.ts'

class Memory implements Surroundings {
  readonly large: number = Number.POSITIVE_INFINITY
  #timer: NodeJS.Timeout | undefined

  ring(): void {}

  hold(on: boolean): void {
    clearInterval(this.#timer)
    if (on) this.#timer = setInterval(() => {}, MAX_TIMER)
  }

  async sync(): Promise<void> {}

  committed(): void {}

  hasRoom(): boolean {
    return true
  }

  isFull(): boolean {
    return false
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
  const capabilities = { ...engineCapabilities, persist: false, maxBytes: 2 ** 29 } as const
  return new Engine(new Store(':memory:', clock), clock, new Memory(), capabilities, Number.POSITIVE_INFINITY)
}
