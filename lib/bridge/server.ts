// Answers who asks how the bridge is.
import { once } from 'node:events'
import { createServer, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'

export interface Answer {
  readonly status: number
  readonly text: string
}

export interface Place {
  readonly port: number
  readonly host: string
}

const TYPES: Readonly<Record<string, string>> = { '/metrics': 'text/plain; version=0.0.4; charset=utf-8' }

/** Milliseconds that a request may take to come; who is slower is cut off at the next check. */
const LIMITS = { headersTimeout: 5000, requestTimeout: 5000, connectionsCheckingInterval: 1000 }

/** Whoever opens more at a time is refused: descriptors are for the routes. */
const CONNECTIONS = 100

export class HealthServer {
  readonly #server: Server

  private constructor(server: Server) {
    this.#server = server
  }

  /** @throws the error of the system if it cannot listen there */
  static async start(
    { port, host }: Place,
    answers: Readonly<Record<string, () => Promise<Answer>>>,
  ): Promise<HealthServer> {
    const server = createServer(LIMITS, (request, response) => {
      const path = (request.url ?? '').replace(/\?.*$/s, '')
      const answer = Object.hasOwn(answers, path) ? answers[path] : undefined
      if (answer === undefined) return send(response, path, { status: 404, text: 'not found\n' })
      if (request.method !== 'GET' && request.method !== 'HEAD') {
        response.setHeader('allow', 'GET, HEAD')
        return send(response, path, { status: 405, text: 'only to be read\n' })
      }
      answer().then(
        (given) => send(response, path, given),
        () => send(response, path, { status: 500, text: 'no answer\n' }),
      )
    })
    server.listen(port, host)
    await once(server, 'listening')
    server.maxConnections = CONNECTIONS
    // Of one that cannot be accepted, such as for want of descriptors: the routes go on, and who asks asks again.
    server.on('error', () => {})
    return new HealthServer(server)
  }

  /** With the port that it has got. */
  get place(): Place {
    const { address, port } = this.#server.address() as AddressInfo
    return { port, host: address }
  }

  get url(): string {
    const { address, family, port } = this.#server.address() as AddressInfo
    return `http://${family === 'IPv6' ? `[${address}]` : address}:${port}`
  }

  close(): void {
    this.#server.close()
    this.#server.closeAllConnections()
  }
}

function send(response: ServerResponse, path: string, { status, text }: Answer): void {
  response.writeHead(status, { 'content-type': TYPES[path] ?? 'text/plain; charset=utf-8' })
  response.end(text)
}
