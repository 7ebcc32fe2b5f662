// What the kernel does, as data, against what actors in JavaScript make of it.
import { readFileSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { isRoot } from '../support.ts'
import { agrees, type Case, canRunAs, type Mode, obstacle, play, Stage } from './runner.ts'

// A case waits more than it works, but its bounds on time are narrow.
vi.setConfig({ maxConcurrency: 3 })

const { cases } = JSON.parse(readFileSync(new URL('cases.json', import.meta.url), 'utf8')) as { cases: Case[] }

/** The families that the package has. */
const families: Case['family'][] = ['posix', 'sysv']
const users = new Set(cases.flatMap(({ actors = {} }) => Object.values(actors).flatMap(({ user }) => user ?? [])))

let stage: Stage | undefined
let reason: string | undefined = isRoot ? undefined : 'other users and namespaces need root'
const absent = new Set<string>()

beforeAll(async () => {
  if (!isRoot) return
  stage = new Stage()
  reason = await obstacle(stage)
  for (const user of users) {
    if (!(await canRunAs(stage, user))) absent.add(user)
  }
})

afterAll(() => stage?.remove())

function hasCapSysResource(): boolean {
  const mask = /^CapEff:\s*(\w+)/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1]
  return ((BigInt(`0x${mask}`) >> 24n) & 1n) === 1n
}

/** Why the case cannot be played, if so. */
function unmet({ requires = [], notInJs = [], actors = {} }: Case, mode: Mode): string | undefined {
  if (reason !== undefined) return reason
  if (notInJs.includes(mode)) return 'cannot be in JavaScript in this mode'
  if (requires.includes('cap_sys_resource') && !hasCapSysResource()) return 'needs CAP_SYS_RESOURCE'
  if (requires.includes('no_cap_sys_resource') && hasCapSysResource()) return 'needs not to have CAP_SYS_RESOURCE'
  const user = Object.values(actors).find((actor) => actor.user !== undefined && absent.has(actor.user))?.user
  return user === undefined ? undefined : `cannot run as ${user}`
}

describe.concurrent.each(['sync', 'async'] as const)('%s actors meet the kernel', (mode) => {
  for (const one of cases.filter(({ family }) => families.includes(family))) {
    test(`${one.id}: ${one.assert}`, async (context) => {
      const why = unmet(one, mode)
      context.skip(why !== undefined, why)
      if (stage !== undefined) await play(stage, one, mode)
    })
  }
})

test('a reply agrees with what is expected only if every field does', () => {
  const reply = { ok: true, data: 'a', prio: 3, items: [['a', 1]], ms: 20_000 }
  expect(agrees('ok', reply)).toBe(true)
  expect(agrees('EAGAIN', reply)).toBe(false)
  expect(agrees('ok', { errno: 'EAGAIN', ms: 0 })).toBe(false)
  expect(agrees(['EPERM', 'EACCES'], { errno: 'EACCES', ms: 0 })).toBe(true)
  expect(agrees({ data: 'a', prio: 3 }, reply)).toBe(true)
  expect(agrees({ data: 'a', prio: 4 }, reply)).toBe(false)
  expect(agrees({ items: [['a', 2]] }, reply)).toBe(false)
  expect(agrees({ prio: { min: 4 } }, reply)).toBe(false)
  expect(agrees({ missing: { max: 1 } }, reply)).toBe(false)
  expect(agrees({ msMax: 4 }, reply)).toBe(false)
  expect(agrees({ msMin: 30_000 }, reply)).toBe(false)
})
