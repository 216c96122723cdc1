/**
 * The load of a run, as the process that started it sees it: starts the run's clock when all VMs are ready, merges their
 * metrics, and judges the thresholds.
 */
import { every, nowUs, wallMs } from '#host';
import { DEFAULT_MODEL } from '../coordinator/workers/supervisor.ts';
import { compileLoad, endOf, ONLY_GROUP } from '../load/compile.ts';
import { compileEvents, type VmEvent } from '../load/events.ts';
import { vmsOf } from '../load/groups.ts';
import type { Tags } from '../metrics/metrics.ts';
import { SpanSample } from '../metrics/span-sample.ts';
import type { MetricStore, StoreData } from '../metrics/store.ts';
import { fromMessage, type MetricsMessage } from '../metrics/wire.ts';
import type { FrameBodies } from '../proto/schema.ts';
import type { LiveRecord } from '../report/html/live-page.ts';
import type { LiveLoad } from '../report/live.ts';
import { type LoadReport, NO_LOAD } from '../report/load-report.ts';
import type { IterationSpan, Shard } from '../report/record.ts';
import { Director } from './director.ts';
import { type DirectorScript, startScript } from './director-script.ts';
import { addEndMetrics, type EndMetrics } from './end-metrics.ts';
import { Fairness } from './fairness.ts';
import { LiveView } from './live-load.ts';
import { RunEvents } from './run-events.ts';
import type { RunHistory } from './run-record.ts';
import { bucketSecondsOf, createStore, SCRIPT_BUCKET_SECONDS } from './run-store.ts';
import { RunTimelines } from './run-timelines.ts';
import type { ScenarioSettings } from './scenario.ts';
import { isInShard } from './shard.ts';

type VmResult = FrameBodies['vmResult'];
type HostResult = FrameBodies['hostResult'];

/** Time from the decision to start the clock to its start: the message must have reached every guest. */
const START_DELAY_US = 50_000;
const TICK_MS = 1000;
const US_PER_SECOND = 1e6;
/** Maximum count of sampled iterations. */
const ITERATIONS_LIMIT = 32_768;
/** Maximum count of changes of the count of running VMs that a part of a run has. */
const RUNNING_CHANGES_LIMIT = 8192;

/** Count of the newest events in the state of a running load. */
const LIVE_EVENTS = 8;

/** The load of a part of a run, as plain JSON. */
export interface LoadPart {
  /** The threshold that has ended the run early, or empty. */
  readonly abortedBy: string;
  /** Count of running VMs from these seconds on. */
  readonly running: readonly (readonly [second: number, count: number])[];
  /** Metrics of the guests, without those that the results of VMs and processes have. */
  readonly store: StoreData;
}

/** Messages to the host processes. */
interface LoadMessages {
  start(body: FrameBodies['loadStart']): void;
  stop(body: FrameBodies['loadStop']): void;
  /** Asks the host process of a VM to act on it; the answer goes to {@link RunLoad.acted}. */
  act(event: VmEvent, number: number): void;
  /** Reports that a VM that is closed will not boot again. */
  noMoreBoots(vm: number): void;
}

interface RunLoadOptions {
  readonly shard?: Shard | undefined;
  readonly keepsPart: boolean;
  /** URL of the scenario's file, if it has a function `director`. */
  readonly director?: string | undefined;
}

export class RunLoad {
  readonly #store: MetricStore;
  readonly #timelines: RunTimelines;
  readonly #iterations = new SpanSample<IterationSpan>(ITERATIONS_LIMIT);
  readonly #messages: LoadMessages;
  readonly #view: LiveView;
  readonly #vmsInAll: number;
  /** VMs that have not booted yet. */
  readonly #booting: Set<number>;
  readonly #running: Set<number>;
  /** Group of each VM. */
  readonly #groups: readonly string[];
  readonly #isDeclared: boolean;
  readonly #events = new RunEvents();
  readonly #director: Director;
  /** Starts the scenario's script, if there is one. */
  readonly #startScript: () => DirectorScript | undefined;
  #script: DirectorScript | undefined;
  readonly #fairness = new Fairness();
  readonly #ended = new Set<number>();
  readonly #shard: Shard | undefined;
  /** Changes of the count of running VMs. */
  readonly #runningLog: (readonly [second: number, count: number])[] = [];
  #isInterrupted = false;
  #startUs: number;
  #isStarted = false;
  #abortedBy = '';
  #stopTicks = () => {};

  /**
   * @param vgpus count of vGPUs of each VM
   * @param shard the part of the VMs that runs here
   */
  constructor(
    settings: ScenarioSettings,
    vgpus: readonly number[],
    messages: LoadMessages,
    { shard, keepsPart, director }: RunLoadOptions,
  ) {
    this.#shard = shard;
    const stages = compileLoad(settings.load ?? {});
    this.#isDeclared = stages.length > 0;
    this.#store = createStore(settings, keepsPart);
    this.#timelines = new RunTimelines(
      vgpus,
      settings.model === DEFAULT_MODEL ? 'gpu' : 'dev',
      bucketSecondsOf(settings),
    );
    this.#messages = messages;
    const events = compileEvents(settings).filter(({ vm }) => isInShard(vm, shard));
    this.#director = new Director(events, {
      act: (...args) => messages.act(...args),
      noMoreBoots: (vm) => messages.noMoreBoots(vm),
      record: (...args) => this.#events.add(...args),
    });
    const scripted = {
      url: director,
      director: this.#director,
      settings,
      endUs: Math.max(0, ...stages.map(endOf)),
    };
    this.#startScript = () => startScript(scripted, this.#startUs);
    const all = vmsOf(settings);
    this.#groups = all.map(({ name }) => name);
    const vms = all.filter(({ vm }) => isInShard(vm, shard));
    this.#vmsInAll = vms.length;
    this.#view = new LiveView(this.#store, stages, vms, vgpus);
    this.#booting = new Set(vms.filter(({ bootUs }) => bootUs === 0).map(({ vm }) => vm));
    this.#running = new Set(this.#isDeclared ? [] : vms.map(({ vm }) => vm));
    this.#startUs = nowUs();
    // A hand-written load has no common start: its clock starts with the run.
    if (!this.#isDeclared) this.#startTicks();
  }

  /** All host processes receive messages. The clock of a shard whose VMs all boot later starts now. */
  hostsReady(): void {
    if (this.#booting.size === 0) this.#startClock();
  }

  /** A VM is ready for its load. */
  booted(vm: number): void {
    this.#events.add('boot', vm);
    this.#director.booted(vm);
    this.#running.add(vm);
    this.#left(vm);
  }

  /** The guest of a VM has begun a phase of its script. Phases of a declared load are its stages. */
  phase(vm: number, name: string): void {
    if (!this.#isDeclared) this.#events.add('phase', vm, name);
  }

  /** A VM has ended. May be called twice. */
  ended(vm: number): void {
    if (!this.#ended.has(vm)) this.#events.add('end', vm);
    this.#ended.add(vm);
    this.#running.delete(vm);
    this.#director.booted(vm);
    this.#fairness.delete(vm);
    this.#left(vm);
  }

  metrics(vm: number, message: MetricsMessage): void {
    // A hand-written load has a clock that its guests do not know. An interval belongs where most of it lies.
    const at = this.#us / US_PER_SECOND - SCRIPT_BUCKET_SECONDS / 2;
    const second = this.#isDeclared ? message.second : Math.max(0, at);
    for (const span of message.iterations)
      if (this.#iterations.wantsNext()) this.#iterations.keep({ vm, ...span });
    const changes = fromMessage(message);
    this.#store.merge(this.#tagsOf(vm), second, changes);
    this.#timelines.metrics(vm, second, changes);
    if (message.engineUse.length > 0)
      this.#fairness.add(vm, this.#groups[vm] ?? ONLY_GROUP, message.engineUse);
  }

  addressSpaces(vm: number, message: FrameBodies['vmAddressSpaces']): void {
    this.#timelines.addressSpaces(vm, message);
  }

  /** The action of an event has ended. @param error why it was not done, or empty */
  acted(event: number, error: string): void {
    this.#director.done(event, error);
  }

  /** A signal ends the run. */
  interrupted(reason: string): void {
    this.#isInterrupted = true;
    this.#stopDirector();
    this.#events.add('interrupt', null, reason);
  }

  /** Start of the run's clock, on the scale of `nowUs()`. */
  get startUs(): number {
    return this.#startUs;
  }

  /** Events so far, the count of those beyond the limit, the timelines of the vGPUs, and a sample of the iterations. */
  get history(): Pick<RunHistory, 'events' | 'eventsCut' | 'timelines' | 'iterations'> {
    return {
      events: this.#events.list(this.#startUs),
      eventsCut: this.#events.cut,
      timelines: this.#timelines.list(this.#startUs),
      iterations: this.#iterations.spans,
    };
  }

  /** The load as it is now. */
  get live(): LiveLoad {
    return this.#view.state({
      startUs: this.#isDeclared && !this.#isStarted ? undefined : this.#startUs,
      vmsInAll: this.#vmsInAll,
      running: this.#running,
      events: this.#events.list(this.#startUs, LIVE_EVENTS),
    });
  }

  /** Returns what a merge needs of this load. To be called before {@link end}, which adds to the metrics. */
  get part(): LoadPart {
    return { abortedBy: this.#abortedBy, running: this.#runningLog, store: this.#store.data() };
  }

  /** The load as the record has it so far. */
  get soFar(): Pick<LiveRecord, 'load' | 'vmsRunning' | 'thresholds'> {
    const seconds = this.#us / US_PER_SECOND;
    return {
      load: { ...NO_LOAD, seconds, metrics: this.#store.summaries(seconds) },
      vmsRunning: this.#running.size,
      thresholds: this.#store.thresholdsSoFar(seconds),
    };
  }

  /** Ends the clock; returns the report. */
  end(results: ReadonlyMap<number, VmResult>, hosts: readonly HostResult[]): LoadReport {
    this.#stopTicks();
    this.#script?.stop('it had not ended at the end of the run');
    const seconds = this.#us / US_PER_SECOND;
    const metrics: EndMetrics = {
      record: (...args) => this.#record(...args),
      tagsOf: (vm) => this.#tagsOf(vm),
    };
    addEndMetrics(metrics, results, hosts);
    return {
      seconds,
      // The thresholds of a shard are those of the whole run.
      thresholds: this.#shard ? [] : this.#store.verdicts(seconds),
      metrics: this.#store.summaries(seconds),
      abortedBy: this.#abortedBy,
      conflicts: this.#store.conflicts,
      samplesCut: this.#store.samplesCut,
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

  /** Starts the clock when no VM boots any more. */
  #left(vm: number): void {
    this.#booting.delete(vm);
    if (this.#booting.size === 0) this.#startClock();
  }

  #startClock(): void {
    if (!this.#isDeclared || this.#isStarted) return;
    this.#isStarted = true;
    this.#startUs = nowUs() + START_DELAY_US;
    this.#messages.start({ startUs: Math.round(wallMs() * 1000) + START_DELAY_US });
    this.#director.start(this.#startUs);
    this.#script = this.#startScript();
    this.#startTicks();
  }

  #startTicks(): void {
    this.#stopTicks = every(TICK_MS, () => this.#tick());
  }

  #tick(): void {
    this.#record('vms_running', {}, this.#running.size);
    this.#logRunning();
    for (const [group, index] of this.#fairness.take()) this.#record('gpu_fairness', { group }, index);
    const failed = this.#store.tick(this.#us);
    if (!failed || this.#abortedBy !== '' || this.#shard) return;
    this.#abortedBy = `${failed.selector.text} ${failed.condition.text}`;
    this.#events.add('abort', null, this.#abortedBy);
    this.#stopDirector();
    this.#messages.stop({ reason: this.#abortedBy });
  }

  #stopDirector(): void {
    this.#director.stop();
    this.#script?.stop('');
  }

  #logRunning(): void {
    const count = this.#running.size;
    const isFull = this.#runningLog.length >= RUNNING_CHANGES_LIMIT;
    if (isFull || this.#runningLog.at(-1)?.[1] === count) return;
    this.#runningLog.push([Math.floor(this.#us / US_PER_SECOND), count]);
  }
}
