/**
 * Merges the shards of a run: checks that they are all parts of one run, and makes the record that the whole run would
 * have.
 */
import { ONLY_GROUP } from '../load/compile.ts';
import { vmsOf } from '../load/groups.ts';
import type { MetricStore } from '../metrics/store.ts';
import { differences, shownValue } from '../platform/difference.ts';
import type { LoadReport } from '../report/load-report.ts';
import type { RunRecord } from '../report/record.ts';
import { summarize } from '../report/summary.ts';
import { type Blob, BlobError, readBlob } from './blob.ts';
import { addEndMetrics } from './end-metrics.ts';
import { recordOf } from './run-record.ts';
import { createStore } from './run-store.ts';
import { parseSettings, type ScenarioSettings } from './scenario.ts';
import { SHARDS_LIMIT, shardText } from './shard.ts';

/** A blob and its file. */
interface BlobFile {
  readonly path: string;
  readonly blob: Blob;
}

/**
 * Reads blobs and merges them.
 *
 * @param program name and version of this program, which must have written the blobs
 * @throws BlobError, ScenarioError, the file system's own errors
 */
export function mergeBlobs(paths: readonly string[], program: string): RunRecord {
  if (paths.length > SHARDS_LIMIT)
    throw new BlobError(`${paths.length} files; accepted: up to ${SHARDS_LIMIT}`);
  const files = paths.map((path) => ({ path, blob: readBlob(path) }));
  for (const file of files) checkProgram(file, program);
  const [first, ...others] = files as [BlobFile, ...BlobFile[]];
  for (const other of others) checkSameRun(first, other);
  checkComplete(files);
  const blobs = files.map(({ blob }) => blob).sort((a, b) => a.run.shard.index - b.run.shard.index);
  return mergedRecord(blobs, parseSettings(first.blob.run.settings));
}

function checkProgram({ path, blob }: BlobFile, program: string): void {
  if (blob.run.program !== program)
    throw new BlobError(`${path}: written by ${blob.run.program}; accepted: ${program}`);
}

/** @throws BlobError that names the first difference */
function checkSameRun(first: BlobFile, other: BlobFile): void {
  const [a, b] = [first.blob.run, other.blob.run];
  const facts = ({ seed, shard, inject, settings, script }: Blob['run']) => ({
    seed,
    'count of shards': shard.count,
    inject,
    settings,
    script,
  });
  const [different] = differences(facts(a), facts(b), '');
  if (!different) return;
  throw new BlobError(
    `${other.path}: of another run than ${first.path}: ${different.where} is ${shownValue(different.b)}, not ${shownValue(different.a)}`,
  );
}

/** Checks that each shard is there once. @throws BlobError */
function checkComplete(files: readonly BlobFile[]): void {
  const byIndex = new Map<number, BlobFile>();
  for (const file of files) {
    const { shard } = file.blob.run;
    const same = byIndex.get(shard.index);
    if (same)
      throw new BlobError(`${file.path}: shard ${shardText(shard)} as ${same.path}; accepted: each once`);
    byIndex.set(shard.index, file);
  }
  const count = files[0]?.blob.run.shard.count ?? 0;
  const missing = Array.from({ length: count }, (_, i) => i + 1).filter((index) => !byIndex.has(index));
  if (missing.length === 0) return;
  const texts = missing.map((index) => shardText({ index, count }));
  throw new BlobError(
    `no blob of ${texts.length === 1 ? 'shard' : 'shards'} ${texts.join(', ')}; accepted: all ${count}`,
  );
}

function mergedRecord(blobs: readonly Blob[], settings: ScenarioSettings): RunRecord {
  const runs = blobs.map(({ run }) => run);
  const [first] = runs as [Blob['run']];
  const results = new Map(blobs.flatMap((blob) => [...blob.results]).sort(([a], [b]) => a - b));
  const lost = blobs.flatMap((blob) => blob.lost);
  const hosts = blobs.flatMap((blob) => blob.hosts);
  const folders = new Set(runs.map(({ folder }) => folder).filter((folder) => folder !== ''));
  const facts = {
    scenario: settings.name,
    folder: folders.size === 1 ? ([...folders][0] as string) : '',
    vms: settings.vms,
    vgpus: Math.max(...runs.map(({ vgpus }) => vgpus)),
    uneven: first.uneven,
    processes: runs.reduce((sum, { processes }) => sum + processes, 0),
    seed: first.seed,
    inject: first.inject,
    wallSeconds: Math.max(...runs.map(({ wallSeconds }) => wallSeconds)),
    interrupted: runs.some(({ interrupted }) => interrupted),
  };
  const summary = summarize(facts, results, lost, hosts, mergedLoad(blobs, settings, results, hosts));
  const started = runs.toSorted(
    (a, b) => Date.parse(a.startedAt) - Date.parse(b.startedAt),
  )[0] as Blob['run'];
  const origin = {
    program: first.program,
    command: first.command,
    startedMs: Date.parse(started.startedAt),
    clockStartSeconds: started.clockStartSeconds,
    shard: null,
  };
  return recordOf(settings, origin, summary, {
    results,
    lost,
    events: blobs.flatMap(({ events }) => events).sort((a, b) => a.seconds - b.seconds),
    eventsCut: blobs.reduce((sum, { eventsCut }) => sum + eventsCut, 0),
    iterations: blobs.flatMap(({ iterations }) => iterations),
    timelines: blobs.flatMap(({ timelines }) => timelines).sort((a, b) => a.vm - b.vm || a.vgpu - b.vgpu),
  });
}

/** Merges the metrics, adds those that results have, and judges the thresholds. */
function mergedLoad(
  blobs: readonly Blob[],
  settings: ScenarioSettings,
  results: Blob['results'],
  hosts: Blob['hosts'],
): LoadReport {
  const store = createStore(settings, false);
  for (const { part } of blobs) store.mergeData(part.store);
  const seconds = Math.max(...blobs.map(({ run }) => run.seconds));
  addRunning(store, blobs);
  const groups = vmsOf(settings).map(({ name }) => name);
  addEndMetrics(
    {
      record: (name, tags, value) => store.record(name, tags, Math.floor(seconds), value),
      tagsOf: (vm) => ({ group: groups[vm] ?? ONLY_GROUP, vm: String(vm) }),
    },
    results,
    hosts,
  );
  return {
    seconds,
    thresholds: store.verdicts(seconds),
    metrics: store.summaries(seconds),
    abortedBy: blobs.find(({ part }) => part.abortedBy !== '')?.part.abortedBy ?? '',
    conflicts: store.conflicts,
    samplesCut: store.samplesCut,
    events: blobs.flatMap(({ actions }) => actions).sort((a, b) => a.seconds - b.seconds),
  };
}

/** Adds the count of running VMs: the sum of all shards at each second. */
function addRunning(store: MetricStore, blobs: readonly Blob[]): void {
  const logs = blobs.map(({ part }) => part.running);
  const last = Math.max(...blobs.map(({ run }) => Math.floor(run.seconds)));
  if (logs.every((log) => log.length === 0)) return;
  const at = logs.map(() => 0);
  for (let second = 0; second <= last; second++) {
    let sum = 0;
    for (const [i, log] of logs.entries()) {
      while ((log[(at[i] as number) + 1]?.[0] ?? Number.POSITIVE_INFINITY) <= second)
        at[i] = (at[i] as number) + 1;
      const [from, count] = log[at[i] as number] ?? [0, 0];
      if (from <= second) sum += count;
    }
    store.record('vms_running', {}, second, sum);
  }
}
