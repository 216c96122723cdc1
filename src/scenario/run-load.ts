/**
 * The load of a run, as the process that started it sees it: starts the run's clock when all VMs are ready, merges their
 * metrics, and judges the thresholds.
 */
import { every, nowUs, wallMs } from '#host';
import { jainIndex } from '../gpu/stats.ts';
import { compileLoad, compileThresholds, ONLY_GROUP } from '../load/compile.ts';
import { compileEvents } from '../load/events.ts';
import { vmsOf } from '../load/groups.ts';
import type { Tags } from '../metrics/metrics.ts';
import { MetricStore } from '../metrics/store.ts';
import { fromMessage, type MetricsMessage } from '../metrics/wire.ts';
import type { FrameBodies } from '../proto/schema.ts';
import type { LoadReport } from '../report/load-report.ts';
import { Director } from './director.ts';
import { RunEvents } from './run-events.ts';
import type { RunHistory } from './run-record.ts';
import { RunTimelines } from './run-timelines.ts';
import type { ScenarioSettings } from './scenario.ts';

type VmResult = FrameBodies['vmResult'];
type HostResult = FrameBodies['hostResult'];

/** Time from the decision to start the clock to its start: the message must have reached every guest. */
const START_DELAY_US = 50_000;
const TICK_MS = 1000;
const US_PER_SECOND = 1e6;
/** Length of an interval of the metrics of a hand-written load, and first length of a bucket of its time series. */
const SCRIPT_BUCKET_SECONDS = 0.25;

/** Messages to the host processes. */
interface LoadMessages {
  start(body: FrameBodies['loadStart']): void;
  stop(body: FrameBodies['loadStop']): void;
  /** Asks the host process of a VM to move it to another one; the answer goes to {@link RunLoad.moved}. */
  move(vm: number, to: number | undefined, event: number): void;
}

export class RunLoad {
  readonly #store: MetricStore;
  readonly #timelines: RunTimelines;
  readonly #messages: LoadMessages;
  /** VMs that have not booted yet. */
  readonly #booting: Set<number>;
  readonly #running: Set<number>;
  /** Group of each VM. */
  readonly #groups: readonly string[];
  readonly #isDeclared: boolean;
  readonly #events = new RunEvents();
  readonly #director: Director;
  readonly #ended = new Set<number>();
  #isInterrupted = false;
  #startUs: number;
  #isStarted = false;
  #abortedBy = '';
  #stopTicks = () => {};

  /** @param vgpus count of vGPUs of each VM */
  constructor(settings: ScenarioSettings, vgpus: readonly number[], messages: LoadMessages) {
    const stages = compileLoad(settings.load ?? {});
    this.#isDeclared = stages.length > 0;
    const bucketSeconds = this.#isDeclared ? 1 : SCRIPT_BUCKET_SECONDS;
    this.#store = new MetricStore(compileThresholds(settings.thresholds, stages), bucketSeconds);
    this.#timelines = new RunTimelines(vgpus, bucketSeconds);
    this.#messages = messages;
    this.#director = new Director(compileEvents(settings), {
      move: (...args) => messages.move(...args),
      record: (...args) => this.#events.add(...args),
    });
    const vms = vmsOf(settings);
    this.#groups = vms.map(({ name }) => name);
    this.#booting = new Set(vms.filter(({ bootUs }) => bootUs === 0).map(({ vm }) => vm));
    this.#running = new Set(this.#isDeclared ? [] : vms.map(({ vm }) => vm));
    this.#startUs = nowUs();
    // A hand-written load has no common start: its clock starts with the run.
    if (!this.#isDeclared) this.#startTicks();
  }

  /** A VM is ready for its load. */
  booted(vm: number): void {
    this.#events.add('boot', vm);
    this.#running.add(vm);
    this.#left(vm);
  }

  /** A VM has ended. May be called twice. */
  ended(vm: number): void {
    if (!this.#ended.has(vm)) this.#events.add('end', vm);
    this.#ended.add(vm);
    this.#running.delete(vm);
    this.#left(vm);
  }

  metrics(vm: number, message: MetricsMessage): void {
    // A hand-written load has a clock that its guests do not know. An interval belongs where most of it lies.
    const at = this.#us / US_PER_SECOND - SCRIPT_BUCKET_SECONDS / 2;
    const second = this.#isDeclared ? message.second : Math.max(0, at);
    const changes = fromMessage(message);
    this.#store.merge(this.#tagsOf(vm), second, changes);
    this.#timelines.metrics(vm, second, changes);
  }

  addressSpaces(vm: number, message: FrameBodies['vmAddressSpaces']): void {
    this.#timelines.addressSpaces(vm, message);
  }

  /** A migration that an event has asked for has ended. @param error why the VM stays, or empty */
  moved(event: number, error: string): void {
    this.#director.moved(event, error);
  }

  /** A signal ends the run. */
  interrupted(reason: string): void {
    this.#isInterrupted = true;
    this.#director.stop();
    this.#events.add('interrupt', null, reason);
  }

  /** Start of the run's clock, on the scale of `nowUs()`. */
  get startUs(): number {
    return this.#startUs;
  }

  /** Events so far, the count of those beyond the limit, and the timelines of the vGPUs. */
  get history(): Pick<RunHistory, 'events' | 'eventsCut' | 'timelines'> {
    return {
      events: this.#events.list(this.#startUs),
      eventsCut: this.#events.cut,
      timelines: this.#timelines.list(this.#startUs),
    };
  }

  /** Ends the clock; returns the report. */
  end(results: ReadonlyMap<number, VmResult>, hosts: readonly HostResult[]): LoadReport {
    this.#stopTicks();
    const seconds = this.#us / US_PER_SECOND;
    for (const [vm, result] of results) this.#addResult(vm, result);
    this.#addEngineUse(results);
    for (const { devices, devicesRss } of hosts)
      if (devices > 0) this.#record('vgpu_rss', {}, devicesRss / devices);
    return {
      seconds,
      thresholds: this.#store.verdicts(seconds),
      metrics: this.#store.summaries(seconds),
      abortedBy: this.#abortedBy,
      events: this.#director.end(this.#abortedBy === '' && !this.#isInterrupted),
    };
  }

  get #us(): number {
    return Math.max(0, nowUs() - this.#startUs);
  }

  #tagsOf(vm: number): Tags {
    return { group: this.#groups[vm] ?? ONLY_GROUP, vm: String(vm) };
  }

  #record(name: string, tags: Tags, value: number): void {
    this.#store.record(name, tags, Math.floor(this.#us / US_PER_SECOND), value);
  }

  /** Adds the use of the engines by each vGPU, and its fairness in each group. */
  #addEngineUse(results: ReadonlyMap<number, VmResult>): void {
    const used = new Map<string, number[]>();
    for (const [vm, { vgpus }] of results)
      for (const [vgpu, { busyUs, clockUs, sharePpm }] of vgpus.entries()) {
        if (clockUs === 0 || sharePpm === 0) continue;
        const tags = this.#tagsOf(vm);
        this.#record('gpu_busy', { ...tags, vgpu: String(vgpu) }, busyUs / clockUs);
        const group = tags.group ?? ONLY_GROUP;
        used.set(group, [...(used.get(group) ?? []), busyUs / sharePpm]);
      }
    for (const [group, values] of used) this.#record('gpu_fairness', { group }, jainIndex(values));
  }

  /** Adds the counters that a VM's coordinator has. */
  #addResult(vm: number, result: VmResult): void {
    const tags = this.#tagsOf(vm);
    const violations = result.violations.reduce((sum, { repeats }) => sum + 1 + repeats, 0);
    const { maps, unmaps, faultsExpected, faultsUnexpected, devices } = result;
    const values = {
      maps,
      unmaps,
      pins: devices?.pins ?? 0,
      faults_expected: faultsExpected,
      faults_unexpected: faultsUnexpected,
      violations,
    };
    for (const [name, value] of Object.entries(values)) this.#record(name, tags, value);
  }

  /** Starts the clock when no VM boots any more. */
  #left(vm: number): void {
    this.#booting.delete(vm);
    if (this.#booting.size > 0 || !this.#isDeclared || this.#isStarted) return;
    this.#isStarted = true;
    this.#startUs = nowUs() + START_DELAY_US;
    this.#messages.start({ startUs: Math.round(wallMs() * 1000) + START_DELAY_US });
    this.#director.start(this.#startUs);
    this.#startTicks();
  }

  #startTicks(): void {
    this.#stopTicks = every(TICK_MS, () => this.#tick());
  }

  #tick(): void {
    this.#record('vms_running', {}, this.#running.size);
    const failed = this.#store.tick(this.#us);
    if (!failed || this.#abortedBy !== '') return;
    this.#abortedBy = `${failed.selector.text} ${failed.condition.text}`;
    this.#events.add('abort', null, this.#abortedBy);
    this.#director.stop();
    this.#messages.stop({ reason: this.#abortedBy });
  }
}
