import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    globalSetup: 'test/setup.ts',
    reporters: ['default', './test/reporter.ts'],
    // Signals, process.exit() and descriptors are under test: no shared process.
    pool: 'forks',
    // Tests wait for other processes as long as they compute: three keep two processors busy.
    maxWorkers: 3,
    execArgv: ['--expose-gc'],
    // What processes say is under test; Node.js 22 and 24 say that their SQLite may still change.
    env: { NODE_OPTIONS: '--disable-warning=ExperimentalWarning' },
    // What hangs is what this is for; a busy machine may be ten times slower.
    testTimeout: 120_000,
    hookTimeout: 120_000,
    expect: { poll: { interval: 5, timeout: 100_000 } },
  },
})
