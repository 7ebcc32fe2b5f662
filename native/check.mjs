// Checks the C and C++ sources: that they are formatted, that the compiler has
// nothing to warn of, and what clang-tidy finds. With --write it formats them.
import { exec, execFileSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'

process.chdir(fileURLToPath(new URL('..', import.meta.url)))

function isInstalled(tool) {
  try {
    execFileSync(tool, ['--version'], { stdio: 'ignore' })
    return true
  } catch {
    return false
  }
}

const sources = ['native', 'test'].flatMap((directory) =>
  readdirSync(directory, { recursive: true })
    .filter((name) => /\.(c|cc|h)$/.test(name))
    .map((name) => join(directory, name)),
)
const missing = ['clang-format', 'clang-tidy'].filter((tool) => !isInstalled(tool))
if (missing.length > 0) {
  console.error(`Left out, because not installed: ${missing.join(', ')}`)
  console.error('To install: apt-get install clang-format clang-tidy, or dnf install clang-tools-extra')
  if (process.env.CI) process.exitCode = 1
}

const commands = []
if (!missing.includes('clang-format')) {
  const options = process.argv.includes('--write') ? '-i' : '--dry-run -Werror'
  commands.push(`clang-format ${options} '${sources.join("' '")}'`)
}
if (!process.argv.includes('--write')) {
  execFileSync(process.execPath, ['native/build.mjs'], { stdio: 'inherit' })
  for (const { command, file } of JSON.parse(readFileSync('build/Release/compile_commands.json', 'utf8'))) {
    commands.push(`${command} -Werror -o /dev/null`)
    if (!missing.includes('clang-tidy')) commands.push(`clang-tidy --quiet -p build/Release '${file}'`)
  }
}

const run = promisify(exec)
async function work() {
  for (let command = commands.shift(); command !== undefined; command = commands.shift()) {
    try {
      await run(command, { maxBuffer: Number.POSITIVE_INFINITY })
    } catch ({ stdout, stderr }) {
      console.error(`${command.split(' ', 1)}:\n${stdout}${stderr}`)
      process.exitCode = 1
    }
  }
}
await Promise.all(Array.from({ length: availableParallelism() }, work))
