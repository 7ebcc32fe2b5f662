// The same again and again, until somebody interrupts.
import { setTimeout as sleep } from 'node:timers/promises'
import { clearTerminal } from 'ansi-escapes'
import { print, write } from './terminal.ts'

export async function watch(draw: () => Promise<string>, interval: number, signal: AbortSignal): Promise<undefined> {
  for (;;) {
    const text = await draw()
    if (process.stdout.isTTY) await write(clearTerminal)
    await print(text)
    await sleep(interval, undefined, { signal })
  }
}
