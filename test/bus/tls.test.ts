// Engines behind TLS, with a certificate that nobody but itself has signed.
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { connect } from 'kernelmq/bus'
import { afterAll, describe, expect, onTestFinished, test } from 'vitest'
import { freePort, missingFor, startServer } from './servers.ts'
import { startBus } from './support.ts'

const directory = mkdtempSync(join(tmpdir(), 'kernelmq-tls-'))
afterAll(() => rmSync(directory, { recursive: true, force: true }))
const [key, certificate] = [join(directory, 'key.pem'), join(directory, 'certificate.pem')]

/** What is missing to make one. */
const noCertificate = ((): string | undefined => {
  const names = 'subjectAltName=DNS:localhost,IP:127.0.0.1'
  const kind = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-subj', '/CN=localhost']
  const files = ['-keyout', key, '-out', certificate]
  try {
    execFileSync('openssl', ['req', '-x509', ...kind, ...files, '-days', '2', '-addext', names], { stdio: 'pipe' })
    return undefined
  } catch (error) {
    return `no certificate: ${(error as Error).message}`
  }
})()

const engines = {
  nats: {
    scheme: 'tls',
    async start() {
      const server = await startServer('nats', ['--tls', '--tlscert', certificate, '--tlskey', key])
      return { server, port: server.port }
    },
  },
  redis: {
    scheme: 'rediss',
    async start() {
      const port = await freePort()
      const files = ['--tls-cert-file', certificate, '--tls-key-file', key, '--tls-ca-cert-file', certificate]
      const server = await startServer('redis', ['--tls-port', String(port), '--tls-auth-clients', 'no', ...files])
      return { server, port }
    },
  },
} as const

/** Processes that trust it. */
const trusting = ['env', `NODE_EXTRA_CA_CERTS=${certificate}`]

describe.each(['nats', 'redis'] as const)('%s with TLS', (name) => {
  const { scheme, start } = engines[name]
  const missing = missingFor(name)
  const reason = missing === undefined ? noCertificate : `needs a server: install ${missing} (Debian)`

  test('carries messages for those who trust its certificate', async ({ skip }) => {
    skip(reason !== undefined, reason)
    const { server, port } = await start()
    onTestFinished(() => server.close())
    const url = `${scheme}://localhost:${port}`
    expect(await startBus(url, 'post', 0, trusting).outcome).toMatchObject({ code: 0 })
    expect(await startBus(url, 'count', 1, trusting).outcome).toMatchObject({ code: 0, stdout: '"in order"\n' })
  })

  test('tells those who do not how to', async ({ skip }) => {
    skip(reason !== undefined, reason)
    const { server, port } = await start()
    onTestFinished(() => server.close())
    await expect(connect(`${scheme}://localhost:${port}`)).rejects.toMatchObject({
      code: 'ERR_BUS_CONNECTION',
      message: expect.stringContaining('self-signed'),
      hint: expect.stringContaining('NODE_EXTRA_CA_CERTS='),
    })
  })
})

test('nats: TLS is not gone without where there is none', async ({ skip }) => {
  const missing = missingFor('nats')
  skip(missing !== undefined, `needs a server: install ${missing} (Debian)`)
  const server = await startServer('nats')
  onTestFinished(() => server.close())
  await expect(connect(`tls://localhost:${server.port}`)).rejects.toMatchObject({
    code: 'ERR_BUS_CONNECTION',
    hint: expect.stringContaining('without TLS'),
  })
})
