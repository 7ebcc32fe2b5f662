export { Bridge, type BridgeOptions, bridge, checkConfig, type Reloaded } from './bridge.ts'
export type { BridgeConfig, ConfigError, FilterConfig, Mapped, Pattern, RouteConfig } from './config.ts'
export type { BridgeEvent, End, RouteCounters } from './counters.ts'
export type { RouteStatus } from './runner.ts'
