// The same again and again, until somebody interrupts.
import { setTimeout as sleep } from 'node:timers/promises'
import { clearTerminal } from 'ansi-escapes'
import { interruptible } from './interruption.ts'
import { print, write } from './terminal.ts'

export function watch(draw: () => Promise<string>, interval: number): Promise<undefined> {
  return interruptible(async (signal) => {
    for (;;) {
      const text = await draw()
      if (process.stdout.isTTY) await write(clearTerminal)
      await print(text)
      await sleep(interval, undefined, { signal })
    }
  })
}
