import { fstatSync, readdirSync, readlinkSync, statSync } from 'node:fs'
import { PosixQueue, type QueueError, type SysvQueue } from '../index.ts'
import { type Command, defineCommand, JSON_OPTION } from './command.ts'
import { octal, type Peer, peerOf, userName } from './queues.ts'
import { openSysv, parseTarget, type Target } from './target.ts'
import { harmless, print, printJson, style } from './terminal.ts'

/** By the label, in the order to print them; undefined is not known. */
type Facts = Readonly<Record<string, unknown>>

export const info: Command = defineCommand({
  name: 'info',
  summary: 'tell all that is known of a queue',
  operands: 'QUEUE...',
  description: [
    'Tells what the kernel knows of each QUEUE. Of a POSIX queue that includes the processes that have it open, as far as this user may look into them; of a System V queue who sent and received last, and when.',
  ],
  options: JSON_OPTION,
  examples: [
    ['kmq info /orders', 'a POSIX queue'],
    ['kmq info 0x1f --json', 'a System V queue by its key'],
  ],
  async run({ operands, options }) {
    const all = await Promise.all(operands.map((text) => factsOf(parseTarget(text))))
    if (options.json === true) await printJson(all)
    else await print(all.map(draw).join('\n\n'))
    return 0
  },
})

async function factsOf(target: Target): Promise<Facts> {
  return target.family === 'posix' ? posixFacts(target.name) : sysvFacts(target.text, openSysv(target))
}

/** What may not be opened is found by its listing at least. */
async function posixFacts(name: string): Promise<Facts> {
  const listed = await PosixQueue.list().then(
    (rows) => rows.find((row) => row.name === name),
    () => undefined,
  )
  const facts = { queue: name, family: 'posix', owner: undefined, mode: undefined }
  const known = listed && {
    owner: userName(listed.uid),
    group: listed.gid,
    mode: octal(listed.mode),
    bytes: listed.bytes,
  }
  let queue: PosixQueue
  try {
    queue = PosixQueue.open(name, { access: 'read' })
  } catch (error) {
    if (listed === undefined || (error as QueueError).code !== 'EACCES') throw error
    return { ...facts, ...known, hint: 'this user may not read it: the rest is not known' }
  }
  const { messages, maxMessages, messageSize } = queue.attributes
  const { bytes, ...rest } = { bytes: undefined, ...known }
  const result = {
    ...facts,
    ...rest,
    messages,
    maxMessages,
    messageSize,
    bytes,
    cost: PosixQueue.cost({ maxMessages, messageSize }),
    notify: listed?.notify && { ...peerOf(listed.notify.pid), method: listed.notify.method },
    openIn: whoHasOpen(queue),
  }
  await queue.close()
  return result
}

async function sysvFacts(name: string, queue: SysvQueue): Promise<Facts> {
  const { lastSender, lastReceiver, uid, gid, creatorUid, creatorGid, mode, ...stat } = queue.stat()
  await queue.close()
  return {
    queue: name,
    family: 'sysv',
    id: queue.id,
    key: stat.key,
    owner: userName(uid),
    group: gid,
    creator: userName(creatorUid),
    creatorGroup: creatorGid,
    mode: octal(mode),
    messages: stat.messages,
    bytes: stat.bytes,
    maxBytes: stat.maxBytes,
    lastSender: peerOf(lastSender),
    sentAt: stat.sentAt,
    lastReceiver: peerOf(lastReceiver),
    receivedAt: stat.receivedAt,
    changedAt: stat.changedAt,
  }
}

/** The other processes that have a descriptor of it, of those that this user may look into. */
function whoHasOpen(queue: PosixQueue): Peer[] {
  const own = fstatSync(queue.fd)
  const isOwn = (path: string): boolean => {
    try {
      if (!readlinkSync(path).startsWith('/')) return false
      const { dev, ino } = statSync(path)
      return dev === own.dev && ino === own.ino
    } catch {
      return false
    }
  }
  const pids = readdirSync('/proc').filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)
  const holders = pids.filter((pid) => {
    try {
      return readdirSync(`/proc/${pid}/fd`).some((fd) => isOwn(`/proc/${pid}/fd/${fd}`))
    } catch {
      return false
    }
  })
  return holders.map((pid) => peerOf(Number(pid)) as Peer)
}

function draw(facts: Facts): string {
  const shown = Object.entries(facts).filter(([, value]) => value !== undefined)
  const width = Math.max(...shown.map(([label]) => label.length)) + 2
  return shown.map(([label, value]) => `${style.bold(label.padEnd(width))}${harmless(wordOf(value))}`).join('\n')
}

function wordOf(value: unknown): string {
  if (value instanceof Date) return value.toISOString()
  if (Array.isArray(value)) return value.length === 0 ? 'no other process' : value.map(wordOf).join(', ')
  if (typeof value !== 'object' || value === null) return String(value)
  const { pid, name, method } = value as Peer & { method?: string }
  return `${pid} ${name ?? '(ended)'}${method === undefined ? '' : `, by ${method}`}`
}
