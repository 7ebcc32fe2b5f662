// What no typed caller passes. Every value is made by a seeded generator, so that a round can be played again.
import { inspect } from 'node:util'

/** Thrown by hostile arguments: it may come out of a call, and is no fault of the library. */
export class Hostile extends Error {}

/** A small generator of random numbers (mulberry32). */
export function generator(seed) {
  let state = seed >>> 0
  const random = () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
  const below = (count) => Math.floor(random() * count)
  return { chance: (probability) => random() < probability, below, pick: (list) => list[below(list.length)] }
}

const throwing = () => {
  throw new Hostile('thrown by an argument')
}

const numbers = [0, -0, 1, 2, 3, 7, 1.5, -1, -2, -1.5, Number.NaN, 2 ** 31 - 1, 2 ** 31, 2 ** 32, 2 ** 32 + 3]
numbers.push(2 ** 53, -(2 ** 31), -(2 ** 53), 1e300, 5e-324, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY)
const bigints = [0n, 1n, -1n, 2n ** 31n, 2n ** 53n, 2n ** 63n - 1n, 2n ** 63n, 2n ** 64n, -(2n ** 63n), -(2n ** 70n)]
const strings = ['', 'x', '0', '7', '\0', '\ud800', 'é€😀', 'x'.repeat(300), 'x'.repeat(70_000)]
const others = [undefined, null, true, false, Symbol('symbol'), Symbol.iterator]
const sparse = new Array(2 ** 32 - 1)

const detach = (buffer) => structuredClone(buffer, { transfer: [buffer] })

class Sly extends Uint8Array {
  static get [Symbol.species]() {
    return Float64Array
  }
  get length() {
    return 2 ** 45
  }
}

/**
 * Makes arguments. `world` has what a call can do something with: `things` of all kinds, and `plausible`, a function of
 * the key of an option. `act` does something to it while arguments are read.
 */
export function argumentsFor({ chance, below, pick }, world) {
  const { act } = world
  const resizable = () => new ArrayBuffer(64, { maxByteLength: 128 })

  const bytes = [
    () => new Uint8Array(below(80)),
    () => Buffer.from('plain'),
    () => new Uint8Array(resizable()),
    () => new Uint8Array(resizable(), 8, 16),
    () => new Uint8Array(new SharedArrayBuffer(64)),
    () => new Uint8Array(new SharedArrayBuffer(16, { maxByteLength: 64 })),
    () => new DataView(new ArrayBuffer(64), 3),
    () => new DataView(resizable(), 8),
    () => new Float64Array(8),
    () => new BigInt64Array(1),
    () => new Uint32Array(1),
    () => new ArrayBuffer(16),
    () => new SharedArrayBuffer(16),
    () => new Sly(16),
    () => Object.defineProperty(new Uint8Array(8), 'length', { value: pick(numbers) }),
    () => Object.create(Uint8Array.prototype),
    () => new Proxy(new Uint8Array(64), {}),
  ]

  /** Some bytes, perhaps those that an act will detach or shrink, or has. */
  const someBytes = () => {
    const value = pick(bytes)()
    if (chance(0.5)) world.buffers.push(value)
    if (chance(0.1)) spoil(value)
    return value
  }

  const objects = [
    () => ({}),
    () => [],
    () => [any(), any(), any()],
    () => (chance(0.1) ? sparse : new Array(3)),
    () => new Date(Number.NaN),
    () => new Map(),
    () => Object.create(null),
    () => ({ valueOf: throwing, toString: throwing, [Symbol.toPrimitive]: throwing, [inspect.custom]: throwing }),
    () => ({ valueOf: () => pick(numbers), toString: () => pick(strings) }),
    () => throwing,
    () => () => any(),
    () => async () => {}, // what it rejected with would be unhandled where no promise is asked for
    () => act,
    () => new Proxy({}, { get: throwing, has: throwing, getPrototypeOf: throwing, ownKeys: throwing }),
    () => new Proxy(Object(pick(world.things)), { get: acting() }),
    () => Object.create(Object(pick(world.things))),
    revoked,
    bag,
    bag,
    bag,
    iterable,
    () => AbortSignal.abort(any()),
    () => new AbortController().signal,
    () => ({ aborted: false, addEventListener: () => {}, removeEventListener: throwing }),
    () => ({ aborted: false }),
  ]

  /** A few times: what has a million keys may be copied. */
  function acting() {
    let left = 20
    return (target, key) => {
      if (left-- > 0) act()
      return Reflect.get(target, key)
    }
  }

  function revoked() {
    const { proxy, revoke } = Proxy.revocable(() => {}, {})
    revoke()
    return proxy
  }

  /** Has every property that is asked for; reading may do anything. */
  function bag() {
    const calm = chance(0.7)
    const get = (_, key) => {
      if (key === 'then') return undefined // nothing that is awaited may wait for ever
      if (!calm && chance(0.2)) act()
      const plausible = chance(calm ? 0.9 : 0.4) ? world.plausible(key) : undefined
      return plausible === undefined && chance(0.5) ? undefined : (plausible ?? any())
    }
    return new Proxy({}, { get, has: () => chance(0.5) })
  }

  function iterable() {
    return {
      *[Symbol.iterator]() {
        for (let left = below(6); left > 0; left--) {
          if (chance(0.1)) act()
          yield chance(0.6) ? pick([someBytes(), 'text', bag()]) : any()
        }
      },
    }
  }

  let depth = 0
  /** Anything at all. */
  function any() {
    if (depth > 4) return pick(others)
    depth++
    try {
      const kind = below(12)
      if (kind < 2) return pick(numbers)
      if (kind < 3) return pick(bigints)
      if (kind < 4) return pick(strings)
      if (kind < 5) return pick(others)
      if (kind < 7) return someBytes()
      if (kind < 9) return pick(world.things)
      return pick(objects)()
    } finally {
      depth--
    }
  }

  return { any, bag }
}

/** Detaches or shrinks what a value keeps its bytes in. */
export function spoil(value) {
  try {
    const buffer = ArrayBuffer.isView(value) ? value.buffer : value
    if (buffer.resizable) buffer.resize(4)
    else detach(buffer)
  } catch {
    // shared memory, or detached already
  }
}

const accessors = [
  'priority',
  'timeout',
  'type',
  'signal',
  'max',
  'onready',
  'onsettled',
  'flags',
  'maxmsg',
  'id',
  'qnum',
]
const methods = [
  [Array.prototype, Symbol.iterator],
  [Array.prototype, 'push'],
  [Promise.prototype, 'then'],
  [Map.prototype, 'get'],
  [Uint8Array.prototype, 'slice'],
  [Object.getPrototypeOf(Uint8Array.prototype), 'subarray'],
  [String.prototype, 'startsWith'],
  [Number, 'isInteger'],
  [Math, 'max'],
]

/** Breaks something that everybody relies on; returns what mends it. */
export function tamper({ chance, pick }) {
  const [object, key] = chance(0.5) ? [Object.prototype, pick(accessors)] : pick(methods)
  const before = Object.getOwnPropertyDescriptor(object, key)
  const broken =
    before === undefined
      ? { get: chance(0.5) ? throwing : () => 2 ** 40, set: throwing }
      : { ...before, value: chance(0.5) ? throwing : () => undefined }
  Object.defineProperty(object, key, { ...broken, configurable: true })
  return () => {
    if (before === undefined) delete object[key]
    else Object.defineProperty(object, key, before)
  }
}
