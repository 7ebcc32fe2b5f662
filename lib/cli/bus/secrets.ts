// What a URL may hold that nobody else is to read.

const SECRET = /pass|secret|token|key|auth/i

/** The secrets of a URL, as they may be written. */
function secretsIn(url: string): string[] {
  if (!URL.canParse(url)) return []
  const { username, password, searchParams, search } = new URL(url)
  const values = [...searchParams].filter(([name]) => SECRET.test(name)).map(([, value]) => value)
  const raw = search
    .slice(1)
    .split('&')
    .map((pair) => pair.split('=', 2))
    .filter(([name = '']) => SECRET.test(name))
    .map(([, value = '']) => value)
  // A name alone is no secret; a token in its place is.
  const user = password === '' ? [username, decoded(username)] : []
  return [password, decoded(password), ...user, ...values, ...raw]
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    return text
  }
}

/** A text in which a URL may stand, without its secrets. */
export function withoutSecrets(text: string, url: string): string {
  // Behind a slash begins the path, if it is a URL at all.
  const hidden = url.replace(URL.canParse(url) ? /\/\/[^/]+@/ : /\/\/.*@/s, '//***@')
  const all = secretsIn(url).filter((secret) => secret !== '')
  return [...new Set(all)]
    .sort((a, b) => b.length - a.length)
    .reduce((rest, secret) => rest.replaceAll(secret, '***'), text.replaceAll(url, hidden))
    .replace(/\/\/[^/\s]+@/g, '//***@')
}
