// Ctrl-C and its like, for commands that have something to finish first.
import { constants } from 'node:os'

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT'] as const

/**
 * Runs what ends early when its signal is aborted, because the process was asked to end; then the process ends as if
 * nobody had listened. Who asks twice does not want to wait.
 */
export async function interruptible<T>(
  run: (signal: AbortSignal) => Promise<T>,
  signals: readonly NodeJS.Signals[] = SIGNALS,
): Promise<T> {
  const controller = new AbortController()
  let asked: NodeJS.Signals | undefined
  const onSignal = (signal: NodeJS.Signals): void => {
    if (asked !== undefined) process.exit(128 + constants.signals[signal])
    asked = signal
    controller.abort(signal)
  }
  for (const name of signals) process.on(name, onSignal)
  try {
    const result = await run(controller.signal)
    if (asked === undefined) return result
  } catch (error) {
    if (asked === undefined || (error as Error).name !== 'AbortError') throw error
  } finally {
    for (const name of signals) process.off(name, onSignal)
  }
  return endBy(asked)
}

function endBy(signal: NodeJS.Signals): Promise<never> {
  process.kill(process.pid, signal)
  // It is delivered soon, unless the process was started with it ignored.
  return new Promise(() => setTimeout(() => process.exit(128 + constants.signals[signal]), 1000))
}
