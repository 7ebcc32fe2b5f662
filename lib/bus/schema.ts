// What is needed of https://standardschema.dev, which zod, valibot, arktype and others implement.
import { invalidType } from '../errors.ts'

export interface StandardSchema<Input = unknown, Output = Input> {
  readonly '~standard': {
    readonly version: 1
    readonly vendor: string
    readonly validate: (value: unknown) => Result<Output> | Promise<Result<Output>>
    readonly types?: { readonly input: Input; readonly output: Output } | undefined
  }
}

type Result<Output> = { readonly value: Output; readonly issues?: undefined } | { readonly issues: readonly Issue[] }

interface Issue {
  readonly message: string
  readonly path?: readonly (PropertyKey | { readonly key: PropertyKey })[] | undefined
}

/** What is wrong with a value, in words, by a schema that answers at once. */
export function validateNow(schema: StandardSchema, value: unknown): string | undefined {
  const result = schema['~standard'].validate(value)
  if (result instanceof Promise) {
    result.catch(() => {})
    throw invalidType('schema', 'one that answers without a promise', schema)
  }
  return wordsOf(result)
}

/** The value as the schema gives it back, or what is wrong with it, in words. */
export async function validate<T>(
  schema: StandardSchema<unknown, T>,
  value: unknown,
): Promise<{ value: T } | { wrong: string }> {
  const result = await schema['~standard'].validate(value)
  return result.issues === undefined ? { value: result.value } : { wrong: wordsOf(result) as string }
}

function wordsOf<T>({ issues }: Result<T>): string | undefined {
  const words = issues?.map(({ message, path = [] }) => {
    const place = path.map((part) => String(typeof part === 'object' ? part.key : part)).join('.')
    return place === '' ? message : `${place}: ${message}`
  })
  return words?.join('; ')
}
