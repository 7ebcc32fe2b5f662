import { describe } from 'vitest'
import { conformance } from './conformance.ts'
import { schemes } from './support.ts'

describe.each(schemes)('%s:', conformance)
