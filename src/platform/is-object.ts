/** True for a value whose properties may be read, also for an array: data from a user's file may be anything. */
export const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null;
