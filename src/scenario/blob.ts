/**
 * Blobs: what a merge needs of a part of a run. A blob is JSON, compressed by gzip, whose checksum shows damage. Results
 * of VMs and host processes are protobuf frames in base64.
 */
import { gunzipSync, gzipSync } from 'node:zlib';
import { z } from 'zod';
import { METRIC_TYPES } from '../metrics/catalogue.ts';
import { FileRefusedError, readBounded } from '../platform/bounded-file.ts';
import { parseBoundedJson } from '../platform/bounded-json.ts';
import { decodeFrame, encodeFrame, FrameError } from '../proto/codec.ts';
import type { FrameBodies } from '../proto/schema.ts';
import type { RunRecord } from '../report/record.ts';
import type { LostVm } from '../report/summary.ts';
import type { LoadPart } from './run-load.ts';
import { isInShard } from './shard.ts';

type VmResult = FrameBodies['vmResult'];
type HostResult = FrameBodies['hostResult'];

const FORMAT = 'mdevsim blob';
/** Version of the format. It changes when a field is removed or changes its meaning. */
const VERSION = 1;

/** Fast: a blob is a third larger than at the default level. */
const GZIP_LEVEL = 3;

/** Maximum size of a file, compressed and not, and count of its values. */
const FILE_BYTES_LIMIT = 2 ** 28;
const JSON_BYTES_LIMIT = 2 ** 28;
const VALUES_LIMIT = 2 ** 26;

/**
 * Thrown for a file that is no blob of this version, and for a blob that is too large. The message names the file and what
 * is wrong where.
 */
export class BlobError extends Error {
  override name = 'BlobError';
}

const count = z.int().min(0);
const text = z.string();
const histogram = z
  .strictObject({ buckets: z.array(count), counts: z.array(count) })
  .refine(({ buckets, counts }) => buckets.length === counts.length, 'as many buckets as counts');
const aggregate = z.strictObject({
  count,
  sum: z.number(),
  min: z.number(),
  max: z.number(),
  last: z.number(),
  histogram: histogram.optional(),
});
const type = z.enum(METRIC_TYPES);
const unit = z.enum(['time', 'bytes', 'ratio', 'count']);
const metric = z.strictObject({
  name: text,
  tags: z.record(text, text),
  type,
  unit,
  total: aggregate,
  series: z.strictObject({ seconds: z.number().positive(), buckets: z.array(aggregate.nullable()) }),
});
const judge = z.strictObject({
  type,
  unit,
  samples: aggregate.nullable(),
  seconds: z.array(z.tuple([count, aggregate])),
});
const part = z.strictObject({
  abortedBy: text,
  running: z.array(z.tuple([count, count])),
  store: z.strictObject({ metrics: z.array(metric), judges: z.array(judge) }),
});
const shard = z
  .strictObject({ index: z.int().min(1), count: z.int().min(1) })
  .refine(({ index, count }) => index <= count, 'an index up to the count');
const run = z.strictObject({
  program: text,
  settings: z.record(text, z.unknown()),
  /** Digest of the scenario's script; empty for a data file, which the settings have in whole. */
  script: text,
  seed: count,
  shard,
  inject: text,
  processes: count,
  vgpus: count,
  uneven: z.boolean(),
  folder: text,
  wallSeconds: z.number(),
  startedAt: z.iso.datetime(),
  clockStartSeconds: z.number(),
  command: text,
  seconds: z.number(),
  interrupted: z.boolean(),
});
// Fields that a record gains pass through.
const event = z.looseObject({ seconds: z.number(), kind: text, vm: count.nullable(), text });
const action = z.looseObject({
  seconds: z.number(),
  endSeconds: z.number().nullable(),
  action: text,
  error: text,
});
const iteration = z.strictObject({
  vm: count,
  vgpu: count,
  stage: text,
  workload: text,
  vu: count,
  startUs: count,
  tookUs: count,
});
const blobShape = z.strictObject({
  format: z.literal(FORMAT),
  version: z.literal(VERSION),
  run,
  part,
  events: z.array(event),
  eventsCut: count,
  actions: z.array(action),
  timelines: z.array(z.looseObject({ vm: count, vgpu: count })),
  iterations: z.array(iteration),
  lost: z.array(z.strictObject({ vm: count, reason: text })),
  results: z.array(text),
  hosts: z.array(text),
});

/** A part of a run. */
export interface Blob extends Omit<z.infer<typeof blobShape>, 'results' | 'hosts' | 'timelines' | 'part'> {
  readonly part: LoadPart;
  readonly timelines: RunRecord['timelines'];
  readonly results: ReadonlyMap<number, VmResult>;
  readonly hosts: readonly HostResult[];
}

interface BlobParts {
  readonly record: RunRecord;
  /** Command line that repeats the whole run. */
  readonly command: string;
  /** Digest of the scenario's script, or empty. */
  readonly script: string;
  readonly part: LoadPart;
  readonly interrupted: boolean;
  readonly results: ReadonlyMap<number, VmResult>;
  readonly lost: readonly LostVm[];
  readonly hosts: readonly HostResult[];
}

/** Returns the bytes of a blob. @throws BlobError, RangeError for a blob that is too large */
export function encodeBlob({
  record,
  command,
  script,
  part,
  interrupted,
  results,
  lost,
  hosts,
}: BlobParts): Uint8Array {
  const { program, settings, seed, inject, processes, vgpus, uneven, folder, wallSeconds } = record;
  const { startedAt, clockStartSeconds, load } = record;
  const own = record.shard ?? { index: 1, count: 1 };
  const facts = {
    program,
    settings,
    seed,
    inject,
    processes,
    vgpus,
    uneven: uneven === true,
    folder,
    wallSeconds,
  };
  const times = { startedAt, clockStartSeconds, command, script, seconds: load.seconds };
  const blob: z.infer<typeof blobShape> = {
    format: FORMAT,
    version: VERSION,
    run: { ...facts, ...times, shard: own, interrupted },
    part: part as z.infer<typeof blobShape>['part'],
    events: record.events.map((each) => ({ ...each })),
    eventsCut: record.eventsCut,
    actions: load.events.map((each) => ({ ...each })),
    timelines: record.timelines.filter(({ vm }) => isInShard(vm, own)).map((timeline) => ({ ...timeline })),
    iterations: [...record.iterations],
    lost: [...lost],
    results: [...results].map(([vm, result]) => frameText(vm, 'vmResult', result)),
    hosts: hosts.map((host) => frameText(0, 'hostResult', host)),
  };
  const json = Buffer.from(JSON.stringify(blob));
  if (json.length > JSON_BYTES_LIMIT)
    throw new BlobError(`${json.length} bytes before compression; accepted: up to ${JSON_BYTES_LIMIT}`);
  return gzipSync(json, { level: GZIP_LEVEL });
}

function frameText<K extends 'vmResult' | 'hostResult'>(vm: number, kind: K, body: FrameBodies[K]): string {
  const frame = encodeFrame({ timeUs: 0, process: 0, vm, device: -1 }, kind, body);
  return Buffer.from(frame).toString('base64');
}

/** Reads a blob. @throws BlobError, the file system's own errors */
export function readBlob(path: string): Blob {
  const json = jsonOf(path);
  const { format, version } = (json ?? {}) as { readonly format?: unknown; readonly version?: unknown };
  if (format !== FORMAT) throw new BlobError(`${path}: not a blob; accepted: files of --out blob=PATH`);
  if (version !== VERSION)
    throw new BlobError(`${path}: blob of version ${JSON.stringify(version)}; accepted: ${VERSION}`);
  const parsed = blobShape.safeParse(json);
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    throw new BlobError(`${path}: ${issue?.path.map(String).join('.')}: ${issue?.message}`);
  }
  const { results, hosts, ...rest } = parsed.data;
  return {
    ...rest,
    part: rest.part as LoadPart,
    timelines: rest.timelines as unknown as RunRecord['timelines'],
    results: new Map(
      results.map((frame, i) => {
        const { header, body } = frameOf(frame, 'vmResult', `${path}: results.${i}`);
        return [header.vm, body];
      }),
    ),
    hosts: hosts.map((frame, i) => frameOf(frame, 'hostResult', `${path}: hosts.${i}`).body),
  };
}

/** @throws BlobError */
function jsonOf(path: string): unknown {
  try {
    const bytes = readBounded(path, FILE_BYTES_LIMIT);
    return parseBoundedJson(gunzipSync(bytes, { maxOutputLength: JSON_BYTES_LIMIT }), VALUES_LIMIT);
  } catch (error) {
    if (error instanceof FileRefusedError) throw new BlobError(`${path}: ${error.message}`);
    const { code = '', message } = error as { readonly code?: string; readonly message: string };
    if (error instanceof SyntaxError || error instanceof RangeError || code.startsWith('Z_'))
      throw new BlobError(`${path}: damaged, or not a blob: ${message}`);
    throw error;
  }
}

/** @throws BlobError */
function frameOf<K extends 'vmResult' | 'hostResult'>(base64: string, kind: K, at: string) {
  try {
    const frame = decodeFrame(Buffer.from(base64, 'base64'));
    if (frame.kind !== kind) throw new BlobError(`${at}: a frame ${frame.kind}; accepted: ${kind}`);
    return { header: frame.header, body: frame.body as FrameBodies[K] };
  } catch (error) {
    if (error instanceof FrameError) throw new BlobError(`${at}: ${error.message}`);
    throw error;
  }
}
