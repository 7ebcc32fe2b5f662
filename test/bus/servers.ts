// Real servers: each on free ports of the loopback interface, with a directory of its own, gone with the tests of a file.
import { freePort as free, missingFor as missing, startServer as start } from '../reliability/servers.mjs'

export type ServerName = 'redis' | 'nats' | 'rabbitmq'

export interface Server {
  readonly port: number
  /** Its URL, without a database, virtual host or parameters. */
  readonly url: string
  /** Starts it again with the same port and directory, after {@link kill}; resolves when it answers. */
  start(): Promise<void>
  /** By SIGKILL, unless told otherwise; resolves when it is gone. */
  kill(signal?: NodeJS.Signals): Promise<void>
  /** SIGSTOP; no thread of it runs any more when this returns. */
  pause(): void
  /** SIGCONT. */
  resume(): void
  /** Tells it something by its own program, where it has one. */
  control(...args: string[]): Promise<void>
  /** Ends it, and removes its directory. */
  close(): Promise<void>
}

/** What a server needs that is not there: the name of its package; undefined if all is there. */
export const missingFor = (name: ServerName): string | undefined => missing(name)

/** Starts a server, which is to be closed, with these arguments, too; resolves when it answers. */
export const startServer = (name: ServerName, more: string[] = []): Promise<Server> => start(name, more)

/** A port that nobody else who asks here gets as long as this process lives. */
export const freePort = (): Promise<number> => free()
