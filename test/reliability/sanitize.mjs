// Runs the tests with the addon compiled for a tool that finds errors of
// memory, threads or arithmetic, and counts what it reports.
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'

const runtime = (library) => execFileSync('gcc', [`-print-file-name=${library}`], { encoding: 'utf8' }).trim()

const leftOut = {
  'test/package.test.ts': 'it compiles the addon anew, without the tool',
  'test/sanitizers.test.ts': 'it runs the tools itself',
  'test/unprivileged.test.ts': 'it runs tests again, as users who may not write here',
}

// These replace the same functions of the C library as the shim does that makes calls fail.
const leftOutWithLibrary = { ...leftOut, 'test/faults.test.ts': 'its shim stands in the place of the tool' }

// `begins` matches the first line of a report. Only reports count: a leak of
// Node.js itself gives a process no exit code that a test would take amiss.
const tools = {
  asan: {
    finds: 'errors of memory, and leaks (AddressSanitizer with LeakSanitizer)',
    sanitize: 'address',
    environment: (log) => ({
      LD_PRELOAD: runtime('libasan.so'),
      ASAN_OPTIONS: `detect_leaks=1:abort_on_error=1:exitcode=0:log_path=${log}`,
    }),
    begins: /ERROR: AddressSanitizer|(?:Direct|Indirect) leak of/,
    defects: ['overflow', 'leak'],
    leftOut: leftOutWithLibrary,
  },
  tsan: {
    finds: 'data races (ThreadSanitizer)',
    sanitize: 'thread',
    // process.exit() runs no hook of the main thread's environment, so that
    // nobody joins a thread that has just answered: no leaks of threads then.
    environment: (log) => ({
      LD_PRELOAD: runtime('libtsan.so'),
      TSAN_OPTIONS: `ignore_noninstrumented_modules=1:report_thread_leaks=0:atexit_sleep_ms=0:exitcode=0:log_path=${log}`,
    }),
    begins: /WARNING: ThreadSanitizer/,
    defects: ['race'],
    leftOut: leftOutWithLibrary,
  },
  ubsan: {
    finds: 'undefined behaviour (UndefinedBehaviorSanitizer)',
    sanitize: 'undefined',
    environment: (log) => ({ UBSAN_OPTIONS: `print_stacktrace=1:log_path=${log}` }),
    begins: /runtime error:/,
    defects: ['undefined'],
    leftOut,
  },
  valgrind: {
    finds: 'errors of memory, and memory that is read before it is written (memcheck)',
    environment: () => ({}),
    command: (log) => ['valgrind', '-q', '--vgdb=no', `--log-file=${log}.%p`],
    // Before V8 13 the one warns that it implies the other; since then there is no such flag.
    nodeOptions: ['--jitless', ...(Number.parseInt(process.versions.v8, 10) < 13 ? ['--no-expose-wasm'] : [])],
    // vitest gives a process a minute to start.
    vitest: ['--maxWorkers=1'],
    begins: /^(?:Invalid|Conditional jump|Use of uninit|Syscall param|Mismatched|Source and dest|Argument)/,
    defects: ['overflow'],
    // Twenty times slower and more: a smoke test of every call, in one process or a few.
    files: ['test/syscalls.test.ts', 'test/sysv.test.ts', 'test/posix.test.ts', 'test/threads.test.ts'],
    leftOut: {},
  },
}

const help = `Compiles the addon for a tool in a copy of the tree, runs the tests there, and fails if a test does or if the
tool reports something in the addon. Every Node.js process that a test starts runs under the tool.

  sanitize.mjs <tool> [file or option of vitest]...

  --plant   compile defects instead of the addon, each of which the tool has to report
  --faults  instead of the tests, let every allocation and every call of Node-API and libuv fail that can, one at a time
  --keep    leave the copy and the reports where they are

${Object.entries(tools)
  .map(([name, { finds, leftOut, files: only }]) => {
    const files = Object.entries(leftOut).map(([file, reason]) => `\n    without ${file}: ${reason}`)
    if (only !== undefined) files.push(`\n    only ${only.join(', ')} unless files are named: it is slow`)
    return `  ${name}: ${finds}${files.join('')}`
  })
  .join('\n')}`

const checkout = fileURLToPath(new URL('../..', import.meta.url))

/** A tree of its own, so that build/ and dist/ of the checkout stay what they are. */
function copyTree(tree) {
  const leftBehind = ['.git', 'node_modules', 'build', 'dist', 'prebuilds', 'coverage']
  cpSync(checkout, tree, { recursive: true, filter: (path) => !leftBehind.includes(relative(checkout, path)) })
  symlinkSync(realpathSync(join(checkout, 'node_modules')), join(tree, 'node_modules'))
}

function plantDefects(tree) {
  const path = join(tree, 'binding.gyp')
  const gyp = JSON.parse(readFileSync(path, 'utf8'))
  gyp.targets[0].sources = ['test/fixtures/planted/planted.cc']
  writeFileSync(path, JSON.stringify(gyp))
}

/**
 * A `node` that runs Node.js under the tool, and whose process.execPath is that
 * `node` again. What else a process starts, such as a compiler, has no part in it.
 */
function wrapNode(directory, tool, log) {
  const bin = join(directory, 'bin')
  const wrapper = join(bin, 'node')
  const preload = join(bin, 'preload.cjs')
  const variables = tool.environment(log)
  const names = Object.keys(variables)
  mkdirSync(bin)
  writeFileSync(
    preload,
    `process.execPath = ${JSON.stringify(wrapper)}
for (const name of ${JSON.stringify(names)}) delete process.env[name]\n`,
  )
  const command = [...(tool.command?.(log) ?? []), process.execPath, ...(tool.nodeOptions ?? []), '--require', preload]
  const settings = names.map((name) => `${name}='${variables[name]}' `).join('')
  writeFileSync(
    wrapper,
    `#!/bin/sh
{ read -r run < /proc/sys/kernel/random/uuid; } 2> /dev/null
${settings}exec '${command.join("' '")}' "$@"\n`,
  )
  chmodSync(wrapper, 0o755)
  // Headers are looked for beside node.
  const headers = join(dirname(dirname(process.execPath)), 'include')
  if (existsSync(headers)) symlinkSync(headers, join(directory, 'include'))
  return { bin, preload }
}

/** All reports in the files of a directory. */
function reportsIn(directory, { begins }) {
  const reports = []
  for (const file of readdirSync(directory)) {
    const text = readFileSync(join(directory, file), 'utf8')
      .replaceAll(/^==\d+== ?/gm, '')
      // Such a thread ends at that moment, or its whole stack is looked through.
      .replaceAll(/^Unable to get registers from thread \d+\.\n/gm, '')
    // A process that is being killed, or traced, cannot be looked at.
    if (/^LeakSanitizer has encountered a fatal error/.test(text)) continue
    let report
    for (const line of text.split('\n')) {
      if (begins.test(line)) {
        report = [line]
        reports.push(report)
      } else report?.push(line)
    }
    if (report === undefined && text.trim() !== '') throw new Error(`Not understood: ${text}`)
  }
  return reports.map((lines) => lines.join('\n'))
}

/**
 * Whether a frame of the addon is in it. V8 does not free its heap when a
 * process ends: of leaks, only what is allocated on this side of it counts.
 */
function isOurs(report) {
  const [before, found] = report.split(/(\bkernelmq(?:::|\.node\b))/, 2)
  return found !== undefined && !(/ leak of /.test(report) && /\b(?:v8::|Builtins_)/.test(before))
}

async function run(command, args, { cwd, env = {} }) {
  const child = spawn(command, args, { cwd, stdio: 'inherit', env: { ...process.env, ...env } })
  const passOn = (signal) => child.kill(signal)
  for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, passOn)
  const [status] = await once(child, 'exit')
  for (const signal of ['SIGINT', 'SIGTERM']) process.off(signal, passOn)
  return status ?? 1
}

/** Its exit code. */
async function sanitize(name, directory, { plant, faults, args }) {
  const tool = tools[name]
  const tree = join(directory, 'tree')
  const logs = join(directory, 'logs')
  // A test may become another user.
  chmodSync(directory, 0o755)
  mkdirSync(logs)
  chmodSync(logs, 0o1777)

  copyTree(tree)
  if (plant) plantDefects(tree)
  const options = tool.sanitize === undefined ? [] : [`--sanitize=${tool.sanitize}`]
  const build = ['native/build.mjs', ...options]
  const flags = faults ? `-g -include ${join(tree, 'test/fixtures/faults/faults.h')}` : '-g'
  let status = await run(process.execPath, build, { cwd: tree, env: { CXXFLAGS: flags } })
  if (!plant) status ||= await run('node_modules/.bin/tsc', [], { cwd: tree })
  if (status !== 0) return status

  // The tool adds the process ID, which another process has had in a run that takes so many: its report may be another
  // user's, and is not to be written over. The wrapper says in $run which process this is.
  const { bin, preload } = wrapNode(directory, tool, `${join(logs, 'report')}.'"$run"'`)
  const exclude = Object.keys(tool.leftOut).map((file) => `--exclude=${file}`)
  const tests = ['node_modules/vitest/vitest.mjs', 'run', '--testTimeout=600000', '--hookTimeout=600000', ...exclude]
  let program = [...tests, ...(tool.vitest ?? []), ...(args.length > 0 ? args : (tool.files ?? []))]
  if (plant) program = ['test/fixtures/planted/planted.mjs', ...tool.defects]
  if (faults) program = ['test/fixtures/faults/faults.mjs']
  const env = { PATH: `${bin}:${process.env.PATH}`, TEST_OVERHEAD: '20' }
  // vitest itself needs no tool; the program of --faults loads the addon in its own process.
  const command = faults ? [join(bin, 'node')] : [process.execPath, '--require', preload]
  status = await run(command[0], [...command.slice(1), ...program], { cwd: tree, env })

  const reports = reportsIn(logs, tool)
  const ours = reports.filter(isOurs)
  for (const report of ours) console.log(report)
  console.log(`${name}: ${ours.length} reports in the addon, ${reports.length - ours.length} in Node.js alone`)
  return ours.length > 0 ? 1 : status
}

const [name = '', ...args] = process.argv
  .slice(2)
  .filter((argument) => !['--plant', '--faults', '--keep'].includes(argument))
const [plant, faults, keep] = ['--plant', '--faults', '--keep'].map((option) => process.argv.includes(option))
if (!Object.hasOwn(tools, name)) {
  console.log(help)
  process.exitCode = process.argv.includes('--help') ? 0 : 2
} else if (args.includes('--help')) {
  console.log(help)
} else {
  const directory = mkdtempSync(join(tmpdir(), `kernelmq-${name}-`))
  try {
    process.exitCode = await sanitize(name, directory, { plant, faults, args })
  } finally {
    if (keep) console.log(directory)
    else rmSync(directory, { recursive: true })
  }
}
