// Bodies too large for the tables: a file each, beside the store.
import { createHash, randomUUID } from 'node:crypto'
import { open, readdir, readFile, rename, unlink } from 'node:fs/promises'
import { join } from 'node:path'
import { QueueError } from '../../../errors.ts'

/** From how many bytes on a body is a file of its own. */
export const LARGE = 65_536

/** There is no descriptor to be had for it; that passes, and says nothing of the body. */
const CROWDED: readonly (string | undefined)[] = ['EMFILE', 'ENFILE']

/** Of a process that has few descriptors, a batch of large bodies would take them all, and fail again and again. */
const AT_ONCE = 8

const hashOf = (body: Uint8Array) => createHash('sha256').update(body).digest('hex')

export class Bodies {
  readonly #directory: string

  readonly #mode: number

  /** What is being read last, of each that are read one after the other. */
  readonly #reads: Promise<unknown>[] = []

  #count = 0

  constructor(directory: string, mode: number) {
    this.#directory = directory
    this.#mode = mode
  }

  /** @returns the name, which says who wrote it, and what its bytes are */
  async write(owner: number, body: Uint8Array, disk: boolean): Promise<string> {
    const name = `${owner}-${randomUUID()}-${hashOf(body)}`
    const path = join(this.#directory, name)
    // Under its name there is all of it, or nothing.
    const file = await open(`${path}.part`, 'wx', this.#mode)
    try {
      await file.chmod(this.#mode)
      await file.writeFile(body)
      if (disk) await file.sync()
    } catch (error) {
      await unlink(`${path}.part`)
      throw error
    } finally {
      await file.close()
    }
    await rename(`${path}.part`, path)
    if (disk) await this.#sync()
    return name
  }

  async #sync(): Promise<void> {
    const directory = await open(this.#directory, 'r')
    await directory.sync().finally(() => directory.close())
  }

  read(name: string): Promise<Buffer> {
    const at = this.#count++ % AT_ONCE
    const read = () => this.#read(name)
    const reading = (this.#reads[at] ?? Promise.resolve()).then(read)
    this.#reads[at] = reading.then(
      () => {},
      () => {},
    )
    return reading
  }

  async #read(name: string): Promise<Buffer> {
    const path = join(this.#directory, name)
    const details = { syscall: 'receive', path }
    const body = await readFile(path).catch((error: NodeJS.ErrnoException) => {
      const code = CROWDED.includes(error.code) ? 'ERR_BUS_BUSY' : 'ERR_BUS_DAMAGED'
      const hint = code === 'ERR_BUS_BUSY' ? 'there is no descriptor for the file of a large body' : undefined
      throw new QueueError(code, { ...details, detail: error.code, hint })
    })
    if (!name.endsWith(`-${hashOf(body)}`)) {
      throw new QueueError('ERR_BUS_DAMAGED', { ...details, detail: 'its bytes are not those that were sent' })
    }
    return body
  }

  async remove(names: readonly string[]): Promise<void> {
    // One that somebody else has removed is gone, too; one that stays is found by the next sweep.
    await Promise.all(names.map((name) => unlink(join(this.#directory, name)).catch(() => {})))
  }

  /** Of all there are; each begins with the number of its writer. */
  names(): Promise<string[]> {
    return readdir(this.#directory)
  }
}
