/**
 * The output `perfetto`: JSON in the Trace Event Format, which https://ui.perfetto.dev opens. Times are in microseconds
 * from the start of the run.
 *
 * The run is a process with lanes for stages and events, and with counters. Each VM is a process with a lane for its
 * guest's worker and one for each device worker, and lanes of sampled iterations below.
 */
import type { IterationSpan, RunRecord } from '../record.ts';

/** Maximum count of events in the file; what is beyond is counted. */
const EVENTS_LIMIT = 100_000;

const US_PER_SECOND = 1e6;
/** Numbers of processes: the run, then the VMs. */
const RUN_PID = 1;
const FIRST_VM_PID = 2;
/** Numbers of lanes of a VM: its guest, then its devices, then iterations. */
const GUEST_TID = 1;
const FIRST_DEVICE_TID = 2;
const FIRST_ITERATION_TID = 100;
/** Numbers of lanes in each process: those in the file are of all processes, as those of an operating system. */
const LANES = 10_000;

type Arguments = Readonly<Record<string, string | number | boolean>>;

/** An event of the format: `X` a slice, `i` an instant, `C` a counter, `M` a name. */
interface TraceEvent {
  readonly ph: 'X' | 'i' | 'C' | 'M';
  readonly name: string;
  readonly cat?: string;
  readonly pid: number;
  readonly tid: number;
  readonly ts?: number;
  readonly dur?: number;
  /** Scope of an instant: its lane or its process. */
  readonly s?: 't' | 'p';
  readonly args?: Arguments;
}

/** Returns the trace of a run. */
export function recordPerfetto(record: RunRecord): string {
  const all = [
    ...runEvents(record),
    ...vmEvents(record),
    ...iterationEvents(record),
    ...counterEvents(record),
  ];
  const { program, scenario, seed, command, startedAt } = record;
  const cut = Math.max(0, all.length - EVENTS_LIMIT);
  const otherData = { program, scenario, seed, command, startedAt, eventsCut: cut };
  const lines = all
    .slice(0, EVENTS_LIMIT)
    .map((event) => JSON.stringify({ ...event, tid: event.pid * LANES + event.tid }));
  return `{"displayTimeUnit":"ms","otherData":${JSON.stringify(otherData)},"traceEvents":[\n${lines.join(',\n')}\n]}\n`;
}

/** Returns the time from the start of the run, of one on the run's clock, in whole microseconds. */
const toTrace = ({ clockStartSeconds }: RunRecord, us: number): number =>
  Math.max(0, Math.round(us) + Math.round(clockStartSeconds * US_PER_SECOND));

function nameOf(
  kind: 'process' | 'thread',
  pid: number,
  tid: number,
  name: string,
  index = tid,
): TraceEvent[] {
  return [
    { ph: 'M', name: `${kind}_name`, pid, tid, args: { name } },
    { ph: 'M', name: `${kind}_sort_index`, pid, tid, args: { sort_index: index } },
  ];
}

/** Returns lanes for the stages, one each, and one for the events. */
function runEvents(record: RunRecord): TraceEvent[] {
  const { scenario, stages, events, load } = record;
  const pid = RUN_PID;
  const lanes = stages.flatMap(({ name, group, executor, workloads, startSeconds, endSeconds }, i) => {
    const end = Math.min(endSeconds, load.seconds);
    if (end <= startSeconds) return [];
    const ts = toTrace(record, startSeconds * US_PER_SECOND);
    const dur = toTrace(record, end * US_PER_SECOND) - ts;
    const args = { executor, group: group ?? 'all', workloads: Object.keys(workloads).join(' ') };
    return [
      ...nameOf('thread', pid, 2 + i, `stage ${name}`),
      { ph: 'X', name, cat: 'stage', pid, tid: 2 + i, ts, dur, args } as const,
    ];
  });
  const instants = events
    .filter(({ vm }) => vm === null)
    .map(({ seconds, kind, text }): TraceEvent => {
      const ts = toTrace(record, seconds * US_PER_SECOND);
      return { ph: 'i', name: kind, cat: 'event', pid, tid: 1, ts, s: 'p', args: { text } };
    });
  return [
    ...nameOf('process', pid, 0, `run ${scenario}`, 0),
    ...nameOf('thread', pid, 1, 'events'),
    ...instants,
    ...lanes,
  ];
}

const pidOf = (vm: number): number => FIRST_VM_PID + vm;

/** Returns the lanes of the VMs' workers: events in those of guests, switches in those of devices. */
function vmEvents(record: RunRecord): TraceEvent[] {
  const { groups, events, timelines, results } = record;
  const vms = new Set([...results.map(({ vm }) => vm), ...events.flatMap(({ vm }) => vm ?? [])]);
  const names = [...vms].flatMap((vm) => {
    const group = groups.find(({ firstVm, vms: count }) => vm >= firstVm && vm < firstVm + count);
    const name = group && groups.length > 1 ? `VM ${vm} (${group.name})` : `VM ${vm}`;
    return [
      ...nameOf('process', pidOf(vm), 0, name, pidOf(vm)),
      ...nameOf('thread', pidOf(vm), GUEST_TID, `vm${vm} guest`),
    ];
  });
  const instants = events.flatMap(({ seconds, kind, vm, text }): TraceEvent[] => {
    if (vm === null) return [];
    const ts = toTrace(record, seconds * US_PER_SECOND);
    return [
      { ph: 'i', name: kind, cat: 'event', pid: pidOf(vm), tid: GUEST_TID, ts, s: 't', args: { text } },
    ];
  });
  const devices = timelines
    .filter(({ vm }) => vms.has(vm))
    .flatMap((timeline) => deviceEvents(record, timeline));
  return [...names, ...instants, ...devices];
}

function deviceEvents(
  record: RunRecord,
  { name, vm, vgpu, addressSpace }: RunRecord['timelines'][number],
): TraceEvent[] {
  const [pid, tid] = [pidOf(vm), FIRST_DEVICE_TID + vgpu];
  let freeAt = 0;
  const switches = addressSpace.switches.flatMap((each): TraceEvent[] => {
    const ts = Math.max(freeAt, toTrace(record, each.startUs));
    freeAt = ts + each.tookUs;
    const { from, to, bytesBefore, bytesAfter, removedUs } = each;
    const args = { bytesBefore, bytesAfter, removedUs };
    return [{ ph: 'X', name: `${from} → ${to}`, cat: 'switch', pid, tid, ts, dur: each.tookUs, args }];
  });
  return [...nameOf('thread', pid, tid, name), ...switches];
}

/** Returns the iterations of each vGPU in as many lanes as overlap at one time. */
function iterationEvents(record: RunRecord): TraceEvent[] {
  const byVm = Map.groupBy(record.iterations, ({ vm }) => vm);
  return [...byVm].flatMap(([vm, ofVm]) => {
    let nextTid = FIRST_ITERATION_TID;
    const byVgpu = [...Map.groupBy(ofVm, ({ vgpu }) => vgpu)].sort(([a], [b]) => a - b);
    return byVgpu.flatMap(([vgpu, spans]) => {
      const lanes = inLanes(spans);
      const first = nextTid;
      nextTid += lanes.length;
      return lanes.flatMap((lane, i) => [
        ...nameOf('thread', pidOf(vm), first + i, `vm${vm}/gpu${vgpu} iterations`),
        ...lane.map((span) => iterationEvent(record, span, first + i)),
      ]);
    });
  });
}

function iterationEvent(record: RunRecord, span: IterationSpan, tid: number): TraceEvent {
  const { vm, stage, workload, vu, startUs, tookUs } = span;
  const ts = toTrace(record, startUs);
  return {
    ph: 'X',
    name: workload,
    cat: 'iteration',
    pid: pidOf(vm),
    tid,
    ts,
    dur: tookUs,
    args: { stage, vu },
  };
}

/** Divides spans over lanes in which none overlap. */
function inLanes(spans: readonly IterationSpan[]): IterationSpan[][] {
  const lanes: { endUs: number; readonly spans: IterationSpan[] }[] = [];
  for (const span of spans.toSorted((a, b) => a.startUs - b.startUs)) {
    let lane = lanes.find(({ endUs }) => endUs <= span.startUs);
    if (!lane) {
      lane = { endUs: 0, spans: [] };
      lanes.push(lane);
    }
    lane.endUs = span.startUs + span.tookUs;
    lane.spans.push(span);
  }
  return lanes.map((lane) => lane.spans);
}

/** Returns rates of iterations and latencies as counters, in total and by stage. */
function counterEvents(record: RunRecord): TraceEvent[] {
  return record.load.metrics.flatMap(({ name, tags, series }) => {
    if (tags.group !== undefined) return [];
    const of = tags.stage === undefined ? '' : ` ${tags.stage}`;
    const counter = (title: string, list: readonly (number | null)[] = [], scale = 1) =>
      list.flatMap((value, i): TraceEvent[] => {
        if (value === null) return [];
        const ts = toTrace(record, i * series.seconds * US_PER_SECOND);
        return [{ ph: 'C', name: title, pid: RUN_PID, tid: 0, ts, args: { value: value * scale } }];
      });
    if (name === 'iterations') return counter(`iterations/s${of}`, series.count, 1 / series.seconds);
    if (name === 'command_latency') return counter(`p99 of command_latency${of} (ms)`, series.p99, 1e-3);
    return [];
  });
}
