// Routes that lead back to where they begin: what goes in goes round for ever, or is dropped as its own duplicate.
import { isBound } from '../bus/topic-pattern.ts'
import { busOf, type Endpoint, isKernel, placeOf } from './endpoint.ts'

/** What says of a route which messages go where. */
interface Passage {
  readonly from: Endpoint
  readonly to: Endpoint
  readonly filter: { readonly headers?: object | undefined; readonly key?: unknown; readonly priority?: unknown }
  readonly headers: object
}

/** The routes of a circle that no filter can end, by their places among all; undefined if there is none. */
export function circleIn(routes: readonly Passage[]): number[] | undefined {
  const next = nextOf(routes)
  const isOpen = routes.map(({ filter }) => Object.keys(filter).length === 0)
  for (const start of routes.keys()) {
    // A filter on a shorter way round ends nothing on one that has none.
    const open = isOpen[start] ? circleFrom(start, next, (at) => isOpen[at] === true) : undefined
    const circle = open ?? circleFrom(start, next, () => true)
    if (circle !== undefined && !mayEnd(circle.map((at) => routes[at] as Passage))) return circle
  }
  return undefined
}

/** Of each route those that take what it sends. */
function nextOf(routes: readonly Passage[]): number[][] {
  const sources = routes.map(({ from }) => ({ place: placeOf(from), topic: topicOf(from) }))
  return routes.map(({ to }) => {
    const [place, sent] = [placeOf(to), topicOf(to)]
    return sources.flatMap(({ place: source, topic: heard }, at) => {
      const isHeard =
        sent !== undefined && sent.bus === heard?.bus && isBound({ pattern: heard.topic, headers: {} }, sent.topic, {})
      return source === place || isHeard ? [at] : []
    })
  })
}

const topicOf = (end: Endpoint) => (end.kind === 'topic' ? { bus: busOf(end.url), topic: end.topic } : undefined)

/** The shortest way back to where it starts. */
function circleFrom(
  start: number,
  next: readonly number[][],
  isAllowed: (at: number) => boolean,
): number[] | undefined {
  const seen = new Set<number>()
  const ways = [[start]]
  for (const way of ways) {
    const found = (next[way.at(-1) as number] as number[]).filter((at) => isAllowed(at) && !seen.has(at))
    if (found.includes(start)) return way
    for (const at of found) {
      seen.add(at)
      ways.push([...way, at])
    }
  }
  return undefined
}

/** What passed each filter passes again, unless what that looks at was changed on the way, or each wants another. */
function mayEnd(circle: readonly Passage[]): boolean {
  const seen = new Map<string, string>()
  for (const { filter } of circle) {
    // Not every bus has a place for these.
    if (filter.key !== undefined || filter.priority !== undefined) return true
    for (const [name, pattern] of Object.entries(filter.headers ?? {})) {
      const text = JSON.stringify(pattern)
      if (circle.some(({ to, headers }) => isKernel(to) || Object.hasOwn(headers, name))) return true
      if ((seen.get(name) ?? text) !== text) return true
      seen.set(name, text)
    }
  }
  return false
}
