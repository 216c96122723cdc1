/**
 * The page of the dashboard: that of the report, with the state of a run that runs.
 */
import type { ThresholdState } from '../../metrics/threshold-judge.ts';
import type { RunRecord } from '../record.ts';
import { counted } from '../text.ts';
import { type Charted, pageModel } from './build-model.ts';
import { type Html, html, NOTHING } from './html.ts';
import { pageOf } from './page.ts';
import { detailsHtml, statusHtml, thresholdsHtml } from './sections.ts';

/** A run that runs: what its record has so far. */
export interface LiveRecord extends Charted, Pick<RunRecord, 'scenario' | 'question'> {
  readonly vmsRunning: number;
  readonly operations: number;
  readonly bytesVerified: number;
  /** The guests' phase. */
  readonly phase: string;
  readonly thresholds: readonly ThresholdState[];
}

/** New content of an open page. */
export interface PageState {
  readonly status: string;
  readonly details: string;
  readonly model: unknown;
  readonly ended: boolean;
}

const MIB = 2 ** 20;

/** Returns the page before it gets its first state. */
export const livePage = (run: LiveRecord): string =>
  pageOf({
    title: `${run.scenario}: running`,
    status: liveStatus(run),
    details: NOTHING,
    model: pageModel(run),
    live: SCREENSHOTS,
    connects: "'self'",
  });

export const liveState = (run: LiveRecord): PageState => ({
  status: liveStatus(run).text,
  details: '',
  model: pageModel(run),
  ended: false,
});

/** Returns the last state, which is that of the report. */
export const finalState = (record: RunRecord): PageState => ({
  status: statusHtml(record).text,
  details: detailsHtml(record).text,
  model: pageModel(record),
  ended: true,
});

function liveStatus(run: LiveRecord): Html {
  const facts: readonly (readonly [string, string])[] = [
    ['clock', `${run.load.seconds.toFixed(0)} s`],
    ['running', `${counted(run.vmsRunning, 'VM')} of ${run.vms}`],
    ['operations', `${run.operations}`],
    ['verified', `${(run.bytesVerified / MIB).toFixed(1)} MiB`],
    ['phase', run.phase || 'start'],
  ];
  return html`<header class="wide"><h1><span class="verdict running" id="verdict">RUNNING</span>${run.scenario}</h1>
${run.question === '' ? NOTHING : html`<p class="muted">${run.question}</p>`}
<ul class="facts">${facts.map(([name, value]) => html`<li><span class="muted">${name}</span> <b>${value}</b></li>`)}</ul>
<p class="bad" id="lost" hidden>The connection to the run is lost.</p></header>
${thresholdsHtml(run.thresholds.map(stateOf), 'so far')}`;
}

const stateOf = ({ metric, condition, state, text }: ThresholdState) => ({
  metric,
  condition,
  text,
  ok: state === 'waiting' ? undefined : state === 'met',
});

const SCREENSHOTS = html`<section class="wide" id="screens"><h2>Screenshot</h2>
<div class="screens"><select id="screen-device" aria-label="vGPU"></select><button type="button" id="screen-take">Take</button>
<span class="readout" id="screen-readout">What a vGPU displays now.</span></div><p id="screen"></p></section>
`;
