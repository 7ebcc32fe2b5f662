// The other process of kmq bench: sends back what it is asked to, and counts the rest.
import { PosixQueue, SysvQueue } from '../index.ts'
import { ECHO } from './bench.ts'
import { describe } from './errors.ts'

type AnyQueue = PosixQueue | SysvQueue

async function serve(there: AnyQueue, back: AnyQueue): Promise<void> {
  let taken = 0
  for await (const batch of there.batches()) {
    for (const { data } of batch) {
      if (data.length === 0) {
        await back.send(String(taken))
        taken = 0
      } else if (data[0] === ECHO) await back.send(data)
      else taken++
    }
  }
}

/** As arguments: descriptors of POSIX queues and identifiers of System V queues, there and back. */
const [descriptors, ids] = process.argv.slice(2).map((numbers) => JSON.parse(numbers) as number[]) as [
  number[],
  number[],
]
const posix = descriptors.map((fd) => PosixQueue.fromFd(fd))
const sysv = ids.map((id) => SysvQueue.fromId(id))

// It ends with whoever started it. These would outlive both; the others have no name any more.
process.once('disconnect', () => {
  for (const queue of sysv) {
    try {
      queue.remove()
    } catch {
      // Removed already.
    }
  }
  process.exit()
})

for (const [there, back] of [posix, sysv]) {
  if (there === undefined || back === undefined) continue
  // Nobody may be there to hear it; then 'disconnect' comes.
  serve(there, back).catch((error) => process.send?.(describe(error), undefined, undefined, () => {}))
}
