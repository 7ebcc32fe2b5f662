import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import {
  type BridgeConfig,
  type BridgeEvent,
  type ConfigError,
  checkConfig,
  type Bridge as RunningBridge,
  bridge as startBridge,
} from '../bridge/index.ts'
import { type Command, defineCommand, JSON_OPTION, toInteger } from './command.ts'
import { describe, Failure, UsageError } from './errors.ts'
import { interruptible } from './interruption.ts'
import { Service } from './service.ts'
import { complain, note, printJson } from './terminal.ts'

/** What a bridge is to do, and whether that can be read again. */
interface Source {
  readonly file: string | undefined
  /** @throws {UsageError} */
  read(): BridgeConfig | Promise<BridgeConfig>
}

export const bridge: Command = defineCommand({
  name: 'bridge',
  summary: 'carry messages between queues',
  operands: '[FROM] [TO]',
  description: [
    'Carries messages from one queue to another, of any bus and of the kernel, at least once and in order, until it is interrupted: each is sent, confirmed, and then acknowledged. While the other side is down it tries again.',
    'FROM and TO are posix:/NAME, sysv:0xKEY, or the URL of a bus and, behind a #, what in it: local:/var/lib/app#queue=mail, local:/var/lib/app#topic=orders.eu, and to take from a topic, local:/var/lib/app#topic=orders.*,queue=billing.',
    'A queue of the kernel forgets what it hands out: its messages go into an outbox first, a bus in the directory --outbox.',
    'SIGTERM ends it when what is on its way is there. With --config SIGHUP reads the file again; if that is wrong it goes on as before.',
  ],
  options: {
    config: { type: 'string', short: 'c', value: 'FILE', help: 'routes, and what else there is to say, in JSON' },
    check: { type: 'boolean', help: 'only say whether that is right' },
    outbox: { type: 'string', value: 'DIR', help: 'where to keep messages of a kernel queue' },
    batch: { type: 'string', value: 'N', help: 'messages sent together; default: 100' },
    concurrency: {
      type: 'string',
      value: 'N',
      help: 'batches on their way at a time; more than 1 keep only the order of each key; default: 1',
    },
    rate: { type: 'string', value: 'N', help: 'messages a second at most' },
    listen: { type: 'string', value: '[HOST:]PORT', help: 'answer /healthz, /readyz and /metrics; host: 127.0.0.1' },
    ...JSON_OPTION,
  },
  examples: [
    ['kmq bridge posix:/orders local:/var/lib/app#queue=orders --outbox /var/lib/kmq', 'what a C daemon sends'],
    ["kmq bridge 'local:/var/lib/app#topic=orders.*,queue=mirror' posix:/copies", 'from a topic, quoted because of *'],
    ['kmq bridge --config /etc/kmq/edge.json', 'many routes'],
  ],
  async run({ operands, options }) {
    const { config: file, json, check, ...flags } = options
    const given = Object.keys(flags).find((name) => flags[name as keyof typeof flags] !== undefined)
    if (file !== undefined && (operands.length > 0 || given !== undefined)) {
      throw new UsageError(`--config FILE says all: no ${operands.length > 0 ? 'FROM and TO' : `--${given}`} beside it`)
    }
    if (file === undefined && operands.length < 2) throw new UsageError('expected FROM TO, or --config FILE')
    const source = file === undefined ? fromOperands(operands, flags) : fromFile(file)
    const config = await source.read()
    if (check === true) return undefined
    const signals = file === undefined ? (['SIGINT', 'SIGTERM', 'SIGHUP'] as const) : (['SIGINT', 'SIGTERM'] as const)
    await interruptible((signal) => serve(source, config, json === true, signal), signals)
    return undefined
  },
})

async function serve(source: Source, config: BridgeConfig, asJson: boolean, signal: AbortSignal): Promise<void> {
  const wail = (error: unknown) => complain('kmq bridge', error, asJson)
  const say = (text: string, event: object) => {
    if (!asJson) note(text)
    // A disk that is full of what is told stops no route; where nobody reads it, the process is ended elsewhere.
    else printJson({ at: new Date(), ...event }, true).catch((error) => error.code === 'EPIPE' || wail(error))
  }
  const service = new Service(wail)
  let running: RunningBridge | undefined
  const state = () => {
    const routes = running?.routes ?? []
    return `STATUS=${routes.filter(({ up }) => up).length} of ${routes.length} routes up`
  }
  let isAsked = false
  const reload = () => {
    isAsked = running === undefined
    if (running !== undefined) void reloadFrom(source, running, service, state, say, wail)
  }
  if (source.file !== undefined) process.on('SIGHUP', reload)
  running = await startBridge(config, {
    onEvent: (event) => {
      say(textOf(event), 'error' in event ? { ...event, error: describe(event.error) } : event)
      if (running !== undefined) service.tellState(state)
    },
  })
  const names = running.routes.map(({ name }) => name)
  const { url } = running
  say(`${names.length === 1 ? 'one route' : `${names.length} routes`}${url === undefined ? '' : `, ${url}`}`, {
    event: 'started',
    routes: names,
    ...(url !== undefined && { url }),
  })
  void service.tell('READY=1', state())
  // The file may have changed since it was read.
  if (isAsked) reload()
  if (!signal.aborted) await once(signal, 'abort')
  say('finishing what is on its way', { event: 'stopping' })
  void service.end()
  await running.close()
  process.off('SIGHUP', reload)
  await service.tell('STATUS=ended')
}

async function reloadFrom(
  source: Source,
  running: RunningBridge,
  service: Service,
  state: () => string,
  say: (text: string, event: object) => void,
  wail: (error: unknown) => void,
): Promise<void> {
  void service.tell('RELOADING=1')
  try {
    const { kept, started, stopped } = await running.reload(await source.read())
    const text = `reloaded: ${kept.length} kept, ${started.length} started, ${stopped.length} stopped`
    say(text, { event: 'reloaded', kept, started, stopped })
  } catch (error) {
    wail(error)
    say('goes on with the configuration that it has', { event: 'refused' })
  }
  void service.tell('READY=1', state())
}

function textOf(event: BridgeEvent): string {
  const { route } = event
  if (event.event === 'up') return `${route}: '${event.end}' works`
  const { message, hint } = describe(event.error)
  const what = `${message}${hint === undefined ? '' : ` (${hint})`}`
  if (event.event === 'dead') return `${route}: message ${event.id} is a dead letter: ${what}`
  return `${route}: '${event.end}' does not work, tried again: ${what}`
}

interface Flags {
  readonly outbox: string | undefined
  readonly batch: string | undefined
  readonly concurrency: string | undefined
  readonly rate: string | undefined
  readonly listen: string | undefined
}

function fromOperands([from = '', to = '']: readonly string[], flags: Flags): Source {
  const batch = toInteger('batch', flags.batch, 1, 500)
  const concurrency = toInteger('concurrency', flags.concurrency, 1, 100)
  const rate = flags.rate === undefined ? undefined : Number(flags.rate)
  if (rate !== undefined && !(rate > 0)) throw new UsageError(`--rate is a number > 0, not '${flags.rate}'`)
  const config: BridgeConfig = {
    routes: [{ from, to, batch, concurrency, rate }],
    ...(flags.outbox !== undefined && { outbox: { directory: flags.outbox } }),
    ...(flags.listen !== undefined && { listen: toListen(flags.listen) }),
  }
  const read = () => {
    try {
      checkConfig(config)
      return config
    } catch (error) {
      const name = (error as ConfigError).at.replace(/^routes\[0\]\./, '').replace(/\..*$/, '')
      const shown = /^(?:from|to)$/.test(name) ? name.toUpperCase() : `--${name}`
      throw new UsageError((error as Error).message.replace(/"[^"]*" of the bridge/, shown))
    }
  }
  return { file: undefined, read }
}

function toListen(text: string): NonNullable<BridgeConfig['listen']> {
  const [, inBrackets, plain, port = ''] = /^(?:(?:\[([^\]]+)\]|([^:]+)):)?(\d{1,5})$/.exec(text) ?? []
  const host = inBrackets ?? plain
  if (port === '') throw new UsageError(`--listen is a port, or a host, a colon and a port, not '${text}'`)
  return { port: toInteger('listen', port, 0, 65_535), ...(host !== undefined && { host }) }
}

function fromFile(file: string): Source {
  const read = async () => {
    let text: string
    try {
      text = readFileSync(file, 'utf8')
    } catch (error) {
      throw new Failure(`cannot read '${file}': ${(error as Error).message}`)
    }
    const { parseJson } = await import('./lines.ts')
    const parsed = parseJson(text)
    if ('wrong' in parsed) throw new UsageError(`${file}:${parsed.line}: no JSON: ${parsed.wrong}`)
    try {
      checkConfig(parsed.value as BridgeConfig)
    } catch (error) {
      const { at, message } = error as ConfigError
      throw new UsageError(`${file}:${parsed.lineOf(at)}: ${message}`)
    }
    return parsed.value as BridgeConfig
  }
  return { file, read }
}
