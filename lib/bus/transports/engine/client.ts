// The client of an engine: a package that only those need who use its URL.
import { QueueError } from '../../../errors.ts'

/** @throws {QueueError} ERR_BUS_NO_CLIENT */
export async function loadClient<T>(name: string): Promise<T> {
  try {
    return (await import(name)) as T
  } catch (cause) {
    const isMissing =
      (cause as NodeJS.ErrnoException).code === 'ERR_MODULE_NOT_FOUND' && String(cause).includes(`'${name}'`)
    const details = isMissing
      ? { syscall: 'connect', path: name, hint: `npm install ${name}` }
      : { syscall: 'connect', path: name, hint: `${name} is there, but cannot be loaded: see the cause` }
    throw Object.assign(new QueueError('ERR_BUS_NO_CLIENT', details), { cause })
  }
}
