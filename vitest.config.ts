import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    globalSetup: 'test/setup.ts',
    reporters: ['default', './test/reporter.ts'],
    // Signals, process.exit() and descriptors are under test: no shared process.
    pool: 'forks',
    maxWorkers: 2,
    execArgv: ['--expose-gc'],
    // What hangs is what this is for; a busy machine may be ten times slower.
    testTimeout: 120_000,
  },
})
