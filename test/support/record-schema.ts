/**
 * The schema of the JSON record of a run, version 1. It knows every field: a record with another one is refused, so that
 * the documentation cannot miss it.
 */
import { z } from 'zod';
import type { RunRecord } from '../../src/report/record.ts';

const text = z.string();
const count = z.int().min(0);
const number = z.number();
const texts = z.array(text);
const bucketed = z.array(number.nullable());

const latency = z.strictObject({
  name: text,
  count,
  p50Us: number,
  p95Us: number,
  p99Us: number,
  maxUs: number,
});
const devices = z.strictObject({
  pins: count,
  unpins: count,
  faults: count,
  faultsDropped: count,
  stalls: count,
  interrupts: count,
  metrics: z.array(z.strictObject({ name: text, value: count })),
  unimplemented: z.array(z.strictObject({ bar: count, offset: count, write: z.boolean(), count })),
  unimplementedOthers: count,
});
const host = z.strictObject({
  rssBefore: count,
  rssReady: count,
  devices: count,
  guests: count,
  devicesStartUs: count,
  devicesRss: count,
  baselineWorkers: count,
  baselineStartUs: count,
  baselineRss: count,
  traceFrames: count,
  traceDropped: count,
  traceError: text,
});
const vgpu = z.strictObject({
  name: text,
  model: text,
  type: text,
  gpu: count.nullable(),
  share: number.min(0).max(1),
  used: number.min(0),
  operations: count,
  busyUs: number,
  waitedUs: number,
  preemptions: count,
  latencies: z.array(latency),
  counters: devices.nullable(),
  failure: text,
});
const result = z.strictObject({
  vm: count,
  operations: count,
  bytesVerified: count,
  mismatches: count,
  checksFailed: count,
  faultsExpected: count,
  faultsUnexpected: count,
  violations: count,
  scriptError: text,
  interrupted: z.boolean(),
  latencies: z.array(latency),
  vgpus: z.array(vgpu),
});
const unit = z.enum(['time', 'bytes', 'ratio', 'count']);
const threshold = z.strictObject({
  metric: text,
  condition: text,
  ok: z.boolean(),
  observed: number.nullable(),
  unit,
  text,
  implied: z.boolean(),
});
const series = z.strictObject({
  seconds: number.positive(),
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
const metric = z.strictObject({
  name: text,
  tags: z.strictObject({ stage: text.optional(), group: text.optional() }),
  type: z.enum(['counter', 'gauge', 'rate', 'trend']),
  unit,
  values: z.partialRecord(
    z.enum(['count', 'rate', 'value', 'min', 'avg', 'med', 'p95', 'p99', 'max']),
    number,
  ),
  series,
  histogram: z.strictObject({ from: z.array(number), counts: z.array(count) }).optional(),
});
const action = z.strictObject({ seconds: number, endSeconds: number.nullable(), action: text, error: text });
const load = z.strictObject({
  seconds: number,
  thresholds: z.array(threshold),
  metrics: z.array(metric),
  abortedBy: text,
  conflicts: texts,
  samplesCut: count,
  events: z.array(action),
});
const group = z.strictObject({
  name: text,
  firstVm: count,
  vms: count,
  vgpus: count,
  ramMiB: count,
  viommu: text,
  iommu: text,
  types: texts,
  bootSeconds: number,
  bootEverySeconds: number,
});
const stage = z.strictObject({
  name: text,
  group: text.nullable(),
  executor: text,
  workloads: z.record(text, number),
  measured: z.boolean(),
  startSeconds: number,
  endSeconds: number,
});
const segment = z.strictObject({
  startUs: number,
  us: number,
  gpaUs: number,
  gpaBytes: number,
  iovaUs: number,
  iovaBytes: number,
  switches: count,
});
const change = z.strictObject({
  from: text,
  to: text,
  startUs: number,
  removedUs: number,
  tookUs: number,
  bytesBefore: count,
  bytesAfter: count,
});
const activity = z.strictObject({
  seconds: number,
  commands: bucketed,
  avgUs: bucketed,
  maxUs: bucketed,
  engine: bucketed,
});
const timeline = z.strictObject({
  vm: count,
  vgpu: count,
  name: text,
  addressSpace: z.strictObject({ segments: z.array(segment), switches: z.array(change) }),
  activity: activity.nullable(),
});

/** Fields of the record by part, as docs/json.md lists them. */
export const RECORD_PARTS = {
  devices,
  hosts: host,
  results: result,
  vgpu,
  load,
  metric,
  series,
  threshold,
  action,
  groups: group,
  stages: stage,
  timelines: timeline,
  activity,
  segment,
  switch: change,
} as const;

export const recordSchema = z.strictObject({
  version: z.literal(1),
  program: text.regex(/^mdevsim \d+\.\d+\.\d+/),
  scenario: text,
  question: text,
  startedAt: z.iso.datetime(),
  clockStartSeconds: number,
  command: text,
  settings: z.record(text, z.unknown()),
  shard: z.strictObject({ index: count, count }).nullable(),
  vms: count,
  vgpus: count,
  uneven: z.boolean().optional(),
  processes: count,
  seed: count,
  inject: text,
  wallSeconds: number,
  folder: text,
  verdict: z.enum(['passed', 'failed', 'script error', 'thresholds not met', 'interrupted']),
  exitCode: z.literal([0, 1, 99, 105, 107]),
  problems: texts,
  notes: texts,
  notesCut: count,
  operations: count,
  bytesVerified: count,
  mismatches: count,
  checksFailed: count,
  faultsExpected: count,
  faultsUnexpected: count,
  violations: count,
  devicesFailed: count,
  vmsLost: count,
  maps: count,
  unmaps: count,
  switches: count,
  audits: count,
  devices,
  latencies: z.array(latency),
  hosts: z.array(host),
  load,
  results: z.array(result),
  groups: z.array(group),
  stages: z.array(stage),
  events: z.array(z.strictObject({ seconds: number, kind: text, vm: count.nullable(), text })),
  eventsCut: count,
  evidence: z.array(z.strictObject({ vm: count, kind: text, detail: text, repeats: count })),
  timelines: z.array(timeline),
});

/** True if two types have the same fields; otherwise those that one of them lacks. */
type SameFields<A, B> = [Exclude<keyof A, keyof B>, Exclude<keyof B, keyof A>] extends [never, never]
  ? true
  : [Exclude<keyof A, keyof B>, Exclude<keyof B, keyof A>];

/** The record's types have no other fields than the schema, or this file does not compile. */
const same: readonly [
  SameFields<Omit<RunRecord, 'iterations'>, z.infer<typeof recordSchema>>,
  SameFields<RunRecord['load'], z.infer<typeof load>>,
  SameFields<RunRecord['load']['metrics'][number], z.infer<typeof metric>>,
  SameFields<RunRecord['load']['metrics'][number]['series'], z.infer<typeof series>>,
  SameFields<RunRecord['load']['thresholds'][number], z.infer<typeof threshold>>,
  SameFields<RunRecord['load']['events'][number], z.infer<typeof action>>,
  SameFields<RunRecord['results'][number], z.infer<typeof result>>,
  SameFields<RunRecord['results'][number]['vgpus'][number], z.infer<typeof vgpu>>,
  SameFields<RunRecord['hosts'][number], z.infer<typeof host>>,
  SameFields<RunRecord['groups'][number], z.infer<typeof group>>,
  SameFields<RunRecord['stages'][number], z.infer<typeof stage>>,
  SameFields<RunRecord['timelines'][number], z.infer<typeof timeline>>,
  SameFields<RunRecord['timelines'][number]['activity'] & {}, z.infer<typeof activity>>,
  SameFields<RunRecord['timelines'][number]['addressSpace']['segments'][number], z.infer<typeof segment>>,
  SameFields<RunRecord['timelines'][number]['addressSpace']['switches'][number], z.infer<typeof change>>,
] = [true, true, true, true, true, true, true, true, true, true, true, true, true, true, true];
void same;
