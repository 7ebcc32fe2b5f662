import { describe, expect, test } from 'vitest'
import { openQueue } from '../support.ts'
import { openSysv } from '../sysv-support.ts'
import { kmq } from './support.ts'

describe('kmq ls', () => {
  test('lists both families, aligned', async () => {
    const queue = openQueue({ maxMessages: 3, messageSize: 50 })
    queue.trySend('hello')
    const sysv = openSysv()
    const { code, stdout, stderr } = await kmq(['ls'])
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    const lines = stdout.trimEnd().split('\n')
    expect(lines[0]).toMatch(/^QUEUE +MESSAGES +MAX +BYTES +LIMIT +OWNER +MODE +LAST SENDER +LAST RECEIVER$/)
    const row = lines.find((line) => line.startsWith(`${queue.path} `))
    expect(row?.trim().split(/ +/).slice(1, 7)).toEqual(['1', '3', '5', '150', expect.any(String), '600'])
    expect(stdout).toContain(`#${sysv.id} `)
  })
})
