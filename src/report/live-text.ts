/**
 * The progress of a run as text: a block of lines for a terminal, one line elsewhere.
 */
import type { ThresholdState } from '../metrics/threshold-judge.ts';
import { formatValue } from '../metrics/units.ts';
import { progressColours } from './colours.ts';
import type { LiveLoad, LiveStage } from './live.ts';
import type { RunEvent } from './record.ts';
import { counted, oneLine } from './text.ts';

/** The part of the progress that the host processes report. */
export interface HostProgress {
  /** Devices of the run, ready or not. */
  readonly devices: number;
  readonly devicesReady: number;
  readonly vmsDone: number;
  readonly operations: number;
  readonly bytesVerified: number;
  readonly phase: string;
}

/** Maximum count of lines for stages, thresholds and events. */
const STAGES_SHOWN = 8;
const THRESHOLDS_SHOWN = 8;
const EVENTS_SHOWN = 3;

const BAR_CELLS = 20;
const NAME_WIDTH = 14;
const TIME_WIDTH = 14;
const METRIC_WIDTH = 34;
const CONDITION_WIDTH = 16;
const MIB = 2 ** 20;

/** Returns the lines of the block, each of at most `columns` characters. */
export function liveLines(title: string, hosts: HostProgress, load: LiveLoad, columns: number): string[] {
  const lines = [
    ...headLines(title, hosts, load),
    ...firstOf(byUrgency(load), STAGES_SHOWN, 'stage').map((stage) =>
      typeof stage === 'string' ? stage : stageLine(stage, load.seconds),
    ),
    ...(load.stages.length === 0 && hosts.phase !== ''
      ? [`  ${'phase'.padEnd(NAME_WIDTH)} ${oneLine(hosts.phase)}`]
      : []),
    ...firstOf(missedFirst(load.thresholds), THRESHOLDS_SHOWN, 'threshold').map((each) =>
      typeof each === 'string' ? each : thresholdLine(each),
    ),
    ...load.events.slice(-EVENTS_SHOWN).map(eventLine),
  ];
  return lines.map((line) => coloured(cut(line, columns)));
}

/** Returns the progress as one line. */
export function liveLine(hosts: HostProgress, load: LiveLoad): string {
  if (isStarting(hosts)) return startText(hosts);
  const { seconds, stages, thresholds } = load;
  if (stages.length === 0)
    return `${oneLine(hosts.phase)}: ${hosts.vmsDone} of ${counted(load.vmsInAll, 'VM')} done, ${workText(hosts)}`;
  if (seconds === undefined) return `booting: ${load.vms} of ${counted(load.vmsInAll, 'VM')}`;
  const running = stages.filter((stage) => stateOf(stage, seconds) === 'running').map(({ name }) => name);
  const missed = thresholds.filter(({ state }) => state === 'missed').length;
  return [
    `${seconds.toFixed(0)} s: ${running.length > 0 ? running.join(', ') : 'no stage'}`,
    `${load.vms} of ${counted(load.vmsInAll, 'VM')}`,
    ratesText(load),
    ...(missed > 0 ? [`${missed} of ${counted(thresholds.length, 'threshold')} not met`] : []),
  ].join(', ');
}

const isStarting = ({ operations, devicesReady, devices }: HostProgress): boolean =>
  operations === 0 && devicesReady < devices;

const startText = ({ devicesReady, devices }: HostProgress): string =>
  `starting: ${devicesReady} of ${counted(devices, 'vGPU')} ready`;

const workText = ({ operations, bytesVerified }: HostProgress): string =>
  `${counted(operations, 'operation')}, ${(bytesVerified / MIB).toFixed(0)} MiB verified`;

function ratesText({ commandsPerSecond, iterationsPerSecond, p99Us }: LiveLoad): string {
  const rates = [
    ...(iterationsPerSecond > 0 ? [`${iterationsPerSecond.toFixed(0)} iterations/s`] : []),
    `${commandsPerSecond.toFixed(0)} commands/s`,
  ];
  return [...rates, ...(p99Us === undefined ? [] : [`p99 ${formatValue(p99Us, 'time')}`])].join(', ');
}

/** Returns the lines about the whole run: time and size, then rates. */
function headLines(title: string, hosts: HostProgress, load: LiveLoad): string[] {
  const name = oneLine(title);
  if (isStarting(hosts)) return [`${name}  ${startText(hosts)}`];
  const { seconds, vgpus, stages } = load;
  const alive = `${load.vms} of ${counted(load.vmsInAll, 'VM')}, ${counted(vgpus, 'vGPU')}`;
  if (seconds === undefined) return [`${name}  booting: ${alive}`];
  const work = stages.length === 0 ? `${workText(hosts)}, ` : '';
  return [`${name}  ${seconds.toFixed(0)} s, ${alive}`, `  ${work}${ratesText(load)}`];
}

type StageState = 'waiting' | 'running' | 'done';

/** @param seconds time on the run's clock; undefined before its start */
function stateOf(stage: LiveStage, seconds: number | undefined): StageState {
  if (seconds === undefined || seconds < stage.startSeconds) return 'waiting';
  const isComplete = stage.measured && stage.total !== undefined && stage.iterations >= stage.total;
  return seconds >= stage.endSeconds || isComplete ? 'done' : 'running';
}

/** Returns the stages that run, then those to come, then the others; each part in the order of the scenario. */
function byUrgency({ stages, seconds }: LiveLoad): LiveStage[] {
  if (stages.length <= STAGES_SHOWN) return [...stages];
  const order: readonly StageState[] = ['running', 'waiting', 'done'];
  return stages.toSorted((a, b) => order.indexOf(stateOf(a, seconds)) - order.indexOf(stateOf(b, seconds)));
}

const missedFirst = (thresholds: readonly ThresholdState[]): ThresholdState[] =>
  thresholds.toSorted((a, b) => Number(b.state === 'missed') - Number(a.state === 'missed'));

/** Returns the first entries, and a line that counts the rest. */
const firstOf = <Each>(all: readonly Each[], limit: number, noun: string): (Each | string)[] =>
  all.length <= limit
    ? [...all]
    : [...all.slice(0, limit), `  and ${counted(all.length - limit, `more ${noun}`)}`];

function stageLine(stage: LiveStage, seconds: number | undefined): string {
  const state = stateOf(stage, seconds);
  const at = (seconds ?? 0) - stage.startSeconds;
  const time = {
    waiting: seconds === undefined ? '' : `starts in ${(-at).toFixed(0)} s`,
    running: stage.total === undefined ? `${at.toFixed(0)} of ${lengthOf(stage).toFixed(0)} s` : '',
    done: 'done',
  }[state];
  const part = { waiting: 0, running: partOf(stage, at), done: 1 }[state];
  return `  ${oneLine(stage.name).padEnd(NAME_WIDTH)} ${bar(part)}  ${time.padEnd(TIME_WIDTH)} ${countsText(stage)}`;
}

const lengthOf = ({ startSeconds, endSeconds }: LiveStage): number => endSeconds - startSeconds;

/** Returns how much of a running stage is done: of its iterations, or of its time. */
const partOf = (stage: LiveStage, seconds: number): number =>
  stage.total !== undefined && stage.measured ? stage.iterations / stage.total : seconds / lengthOf(stage);

function countsText({ measured, iterations, total, dropped }: LiveStage): string {
  if (!measured) return 'not measured';
  const of = total === undefined ? '' : ` of ${total}`;
  return `${iterations}${of} iterations${dropped > 0 ? `, ${dropped} dropped` : ''}`;
}

function bar(part: number): string {
  const filled = Math.round(Math.min(1, Math.max(0, part)) * BAR_CELLS);
  return `${'█'.repeat(filled)}${'░'.repeat(BAR_CELLS - filled)}`;
}

const MARKS = { met: '✓', missed: '✗', waiting: '·' } as const;

const thresholdLine = ({ metric, condition, state, text }: ThresholdState): string =>
  `  ${MARKS[state]} ${oneLine(metric).padEnd(METRIC_WIDTH)} ${condition.padEnd(CONDITION_WIDTH)} ${text}`;

function eventLine({ seconds, kind, vm, text }: RunEvent): string {
  const place = vm === null ? '' : ` vm${vm}`;
  return `  ${`${seconds.toFixed(1)} s`.padStart(9)}  ${kind}${place}${text === '' ? '' : `: ${oneLine(text)}`}`;
}

/** Returns a line of at most `columns` characters. */
function cut(line: string, columns: number): string {
  const characters = [...line];
  return characters.length <= columns ? line : `${characters.slice(0, Math.max(0, columns - 1)).join('')}…`;
}

/** Colours the mark of a threshold and the bar of a stage. The texts themselves hold no escape sequences. */
const coloured = (line: string): string =>
  line
    .replace(/^ {2}✓/, `  ${progressColours.green('✓')}`)
    .replace(/^ {2}✗/, `  ${progressColours.red('✗')}`)
    .replace(/█+/, (filled) => progressColours.cyan(filled));
