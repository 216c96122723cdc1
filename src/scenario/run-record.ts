/**
 * Assembles the record of a run from its settings, its summary and its events.
 */
import { compileLoad, lengthOf } from '../load/compile.ts';
import { groupsOf } from '../load/groups.ts';
import type { FrameBodies } from '../proto/schema.ts';
import type {
  GroupRecord,
  IterationSpan,
  RunEvent,
  RunRecord,
  Shard,
  StageRecord,
  VgpuTimeline,
  ViolationRecord,
} from '../report/record.ts';
import type { LostVm, RunSummary } from '../report/summary.ts';
import type { ScenarioSettings } from './scenario.ts';

type VmResult = FrameBodies['vmResult'];

/** Facts about a run that neither its settings nor its results have. */
export interface RunOrigin {
  readonly program: string;
  /** Command line that repeats the run. */
  readonly command: string;
  /** Milliseconds since 1970. */
  readonly startedMs: number;
  readonly clockStartSeconds: number;
  readonly shard: Shard | null;
}

/** Results, losses and events of a run. */
export interface RunHistory {
  readonly results: ReadonlyMap<number, VmResult>;
  readonly lost: readonly LostVm[];
  readonly events: readonly RunEvent[];
  readonly eventsCut: number;
  readonly timelines: readonly VgpuTimeline[];
  readonly iterations: readonly IterationSpan[];
}

const US_PER_SECOND = 1e6;

export const recordOf = (
  settings: ScenarioSettings,
  { startedMs, ...origin }: RunOrigin,
  summary: RunSummary,
  { results, lost, events, eventsCut, timelines, iterations }: RunHistory,
): RunRecord => ({
  ...summary,
  ...origin,
  question: settings.question,
  startedAt: new Date(startedMs).toISOString(),
  settings,
  groups: groupRecords(settings),
  stages: stageRecords(settings),
  events: events.map((event) => withLoss(event, lost)),
  eventsCut,
  evidence: [...results].sort(([a], [b]) => a - b).flatMap(violationRecords),
  timelines,
  iterations,
});

function groupRecords(settings: ScenarioSettings): GroupRecord[] {
  let firstVm = 0;
  return groupsOf(settings).map(({ bootUs, bootEveryUs, ...group }) => {
    const record = {
      ...group,
      firstVm,
      bootSeconds: bootUs / US_PER_SECOND,
      bootEverySeconds: bootEveryUs / US_PER_SECOND,
    };
    firstVm += group.vms;
    return record;
  });
}

export const stageRecords = ({ load = {} }: ScenarioSettings): StageRecord[] =>
  compileLoad(load).map((stage) => ({
    name: stage.name,
    group: stage.group ?? null,
    executor: load[stage.name]?.executor ?? '',
    workloads: Object.fromEntries(stage.mix),
    measured: stage.measured,
    startSeconds: stage.startUs / US_PER_SECOND,
    endSeconds: (stage.startUs + lengthOf(stage)) / US_PER_SECOND,
  }));

/** The end of a VM without a result is its loss. */
function withLoss(event: RunEvent, lost: readonly LostVm[]): RunEvent {
  const loss = event.kind === 'end' ? lost.find(({ vm }) => vm === event.vm) : undefined;
  return loss ? { ...event, kind: 'lost', text: loss.reason } : event;
}

const violationRecords = ([vm, { violations }]: readonly [number, VmResult]): ViolationRecord[] =>
  violations.map(({ kind, detail, repeats }) => ({ vm, kind, detail, repeats }));
