/**
 * Parts of the schema of a scenario's settings, with texts that name what is wrong, what is accepted and the nearest
 * known name. A problem has the path of its setting, so that a data file's line can be named.
 */
import { z } from 'zod';
import { nearest } from '../platform/nearest.ts';

export interface Problem {
  readonly path: readonly PropertyKey[];
  /** True if the name of the setting is wrong, not its value. */
  readonly isName?: boolean;
  /** The fault, and the accepted values. */
  readonly message: string;
}

/** Returns a text for an unknown name. */
export const unknownName = (what: string, name: unknown, names: readonly string[]): string =>
  typeof name === 'string'
    ? `no ${what} '${name}'; nearest: ${nearest(name, names)}; accepted: ${names.join(', ')}`
    : `${given(name)}; accepted: ${names.join(', ')}`;

/** Maximum count of characters of a value in a text. */
const GIVEN_LIMIT = 80;

/** Returns a value as a text, for messages. */
export function given(value: unknown): string {
  if (value === undefined) return 'missing';
  const text = JSON.stringify(value) ?? typeof value;
  return text.length > GIVEN_LIMIT ? `${text.slice(0, GIVEN_LIMIT)}…` : text;
}

/** An object that names the nearest known setting for an unknown one. */
export const settingsObject = <Shape extends z.core.$ZodLooseShape>(shape: Shape) =>
  z.strictObject(shape, {
    error: (issue) =>
      issue.code === 'unrecognized_keys'
        ? unknownName('setting', issue.keys[0], Object.keys(shape))
        : `${given(issue.input)}; accepted: settings by name`,
  });

/** One of several names. */
export const oneOf = <const Names extends readonly string[]>(what: string, names: Names) =>
  z.enum(names, { error: ({ input }) => unknownName(what, input, names) });

/** A number in a range; `kind` is `int` for whole numbers. */
export function range(kind: 'int' | 'number', min: number, max: number): z.ZodNumber {
  const error = ({ input }: { readonly input?: unknown }) =>
    `${given(input)}; accepted: ${kind === 'int' ? 'whole numbers' : 'numbers'} from ${min} to ${max}`;
  const number: z.ZodNumber = kind === 'int' ? z.int({ error }) : z.number({ error });
  return number.min(min, { error }).max(max, { error });
}

/** Returns the problems that a schema has found. */
export const problemsOf = (error: z.ZodError): Problem[] =>
  error.issues.map((issue) => ({
    path: issue.code === 'unrecognized_keys' ? [...issue.path, issue.keys[0] as string] : issue.path,
    isName: issue.code === 'unrecognized_keys' || issue.code === 'invalid_key',
    message: issue.message,
  }));

export const problemText = ({ path, message }: Problem): string =>
  `${path.map(String).join('.') || 'scenario'}: ${message}`;
