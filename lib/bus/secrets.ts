// What a URL may hold that nobody is to read: passwords, and tokens.

/** As it may be seen. */
export function shown(url: URL): string {
  const copy = new URL(url)
  // A name alone is no secret; a token in its place is.
  if (url.password !== '') copy.password = '***'
  else if (url.username !== '') copy.username = '***'
  return copy.href
}

/** A text without the secrets of the URLs in it. */
export function hide(text: string): string {
  return text
    .replace(/(\/\/[^/@\s:]*:)\S*@/g, '$1***@')
    .replace(/(\/\/)[^/@\s:?#]+@/g, '$1***@')
    .replace(/([?&][^=&#\s]*(?:pass|secret|token|key|auth)[^=&#\s]*=)[^&#\s'"]*/gi, '$1***')
}
