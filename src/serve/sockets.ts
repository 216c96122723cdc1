/**
 * Paths of the sockets of served devices.
 */
import { resolve } from 'node:path';

/** Returns the socket's path of each device: the path itself for one, `PATH.0`, `PATH.1`, … for more. */
export const socketPaths = (path: string, count: number): readonly string[] =>
  count === 1 ? [resolve(path)] : Array.from({ length: count }, (_, i) => `${resolve(path)}.${i}`);
