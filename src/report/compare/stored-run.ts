/**
 * The JSON record of a run, as a comparison reads it.
 */
import { z } from 'zod';
import { METRIC_TYPES } from '../../metrics/catalogue.ts';
import { FileRefusedError, readBounded } from '../../platform/bounded-file.ts';
import { parseBoundedJson } from '../../platform/bounded-json.ts';
import { oneLine } from '../text.ts';

/** Version of the records that are read. */
const VERSION = 1;
/** Maximum size of a file, and count of its values. */
const BYTES_LIMIT = 2 ** 28;
const VALUES_LIMIT = 2 ** 25;

/** Thrown for a file that is no record of this version. The message names the file and what is wrong where. */
export class StoredRunError extends Error {
  override name = 'StoredRunError';
}

const bucketed = z.array(z.number().nullable());
const series = z.looseObject({
  seconds: z.number().positive(),
  count: bucketed,
  rate: bucketed.optional(),
  value: bucketed.optional(),
  min: bucketed.optional(),
  max: bucketed.optional(),
  avg: bucketed.optional(),
  med: bucketed.optional(),
  p95: bucketed.optional(),
  p99: bucketed.optional(),
});
const histogram = z
  .looseObject({ from: z.array(z.number()), counts: z.array(z.int().min(0)) })
  .refine(({ from, counts }) => from.length === counts.length, 'accepted: as many counts as edges');
const metric = z.looseObject({
  name: z.string(),
  tags: z.record(z.string(), z.string()),
  type: z.enum(METRIC_TYPES),
  unit: z.enum(['time', 'bytes', 'ratio', 'count']),
  values: z.record(z.string(), z.number().nullable()),
  series,
  histogram: histogram.optional(),
});
const recordShape = z.looseObject({
  scenario: z.string(),
  verdict: z.string(),
  seed: z.int(),
  program: z.string(),
  settings: z.record(z.string(), z.unknown()),
  load: z.looseObject({ seconds: z.number(), metrics: z.array(metric) }),
});

export type StoredMetric = z.infer<typeof metric>;
export interface StoredRun extends z.infer<typeof recordShape> {
  readonly path: string;
}

/** Reads the record of a run. @throws StoredRunError, the file system's own errors */
export function readStoredRun(path: string): StoredRun {
  const json = jsonOf(path);
  const { version, load } = (json ?? {}) as { readonly version?: unknown; readonly load?: unknown };
  if (version === undefined || load === undefined)
    throw new StoredRunError(`${path}: not the record of a run; accepted: files of --out json=PATH`);
  if (version !== VERSION)
    throw new StoredRunError(`${path}: record of version ${JSON.stringify(version)}; accepted: ${VERSION}`);
  const parsed = recordShape.safeParse(json);
  if (parsed.success) return { ...parsed.data, path };
  const [issue] = parsed.error.issues;
  throw new StoredRunError(`${path}: ${issue?.path.map(String).join('.')}: ${issue?.message}`);
}

/** @throws StoredRunError, the file system's own errors */
function jsonOf(path: string): unknown {
  try {
    return parseBoundedJson(readBounded(path, BYTES_LIMIT), VALUES_LIMIT);
  } catch (error) {
    if (error instanceof SyntaxError)
      throw new StoredRunError(`${path}: not JSON: ${oneLine(error.message)}`);
    if (error instanceof FileRefusedError || error instanceof RangeError)
      throw new StoredRunError(`${path}: ${error.message}`);
    throw error;
  }
}
