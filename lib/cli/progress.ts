// A line on the terminal that tells how far it is.
import { plural } from './messages.ts'

export interface Progress {
  update(messages: number, bytes: number): void
  /** Takes the line away. */
  stop(): void
}

/** Undefined where there is no terminal. */
export async function showProgress(total: number | undefined): Promise<Progress | undefined> {
  if (!process.stderr.isTTY) return undefined
  const { default: progress } = await import('cli-progress')
  const began = performance.now()
  const bar = new progress.SingleBar({
    stream: process.stderr,
    format: total === undefined ? '{text}' : '[{bar}] {percentage}% {text}',
    clearOnComplete: true,
    hideCursor: true,
    // They go to whoever interrupts.
    gracefulExit: false,
  })
  bar.start(total ?? 0, 0, { text: '' })
  return {
    update(messages, bytes) {
      const seconds = (performance.now() - began) / 1000
      const text = `${plural(messages)}, ${bytes} bytes, ${Math.round(messages / seconds)}/s`
      if (total !== undefined && messages > total) bar.setTotal(messages)
      bar.update(messages, { text })
    },
    stop: () => bar.stop(),
  }
}
