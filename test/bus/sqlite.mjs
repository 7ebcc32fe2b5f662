// The SQLite that a bus uses here: whoever closes a database of another one in the same process ends the locks of both.
/** @type {typeof import('@photostructure/sqlite')} */
const { DatabaseSync } = process.getBuiltinModule('node:sqlite') ?? (await import('@photostructure/sqlite'))

export { DatabaseSync }
