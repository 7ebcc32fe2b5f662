#!/usr/bin/env node
// The kmq command, if what it is made of is there: npm may have been told to leave out what is optional.
import { describe, EXIT } from './errors.ts'

try {
  const { main } = await import('./main.ts')
  process.exitCode = await main(process.argv.slice(2))
} catch (error) {
  const { message, hint } = describe(error)
  process.stderr.write(`kmq: ${message}\n${hint === undefined ? '' : `  ${hint}\n`}`)
  process.exitCode = EXIT.failure
}
