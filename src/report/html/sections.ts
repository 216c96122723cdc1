/**
 * The parts of the report that need no script: verdict, thresholds, problems, evidence, stages, and how to repeat the run.
 */
import type { Verdict } from '../../metrics/threshold-judge.ts';
import { formatValue } from '../../metrics/units.ts';
import type { RunRecord } from '../record.ts';
import { counted } from '../text.ts';
import { eventText } from './build-model.ts';
import { ROWS_LIMIT } from './device-rows.ts';
import { type Html, html, NOTHING } from './html.ts';

/** Maximum count of lines of each list; the rest is counted. */
const THRESHOLDS_LIMIT = 200;
const PROBLEMS_LIMIT = 50;
const EVIDENCE_LIMIT = 100;
const NOTES_LIMIT = 100;
const EVENTS_LIMIT = 100;
const STAGES_LIMIT = 64;
/** Maximum count of characters of a text. */
const TEXT_LIMIT = 400;

const MIB = 2 ** 20;

const short = (text: string): string => (text.length > TEXT_LIMIT ? `${text.slice(0, TEXT_LIMIT)}…` : text);

/** Returns items as HTML, and a line with the count of those beyond the limit. */
const limited = <Item>(
  items: readonly Item[],
  limit: number,
  show: (item: Item) => Html,
  more: (count: number) => Html,
): readonly Html[] => [
  ...items.slice(0, limit).map(show),
  ...(items.length > limit ? [more(items.length - limit)] : []),
];

/** Returns a section over the whole width, or nothing without rows. */
const section = (title: string, rows: readonly Html[], body: (rows: readonly Html[]) => Html): Html =>
  rows.length === 0 ? NOTHING : html`<section class="wide"><h2>${title}</h2>${body(rows)}</section>`;

const tableOf =
  (head: Html, place = 'scroll') =>
  (rows: readonly Html[]): Html =>
    html`<div class="${place}"><table>${head}${rows}</table></div>`;

/** Returns verdict, facts, thresholds and problems. */
export const statusHtml = (record: RunRecord): Html =>
  html`${headerHtml(record)}${thresholdsHtml(record.load.thresholds)}${problemsHtml(record)}`;

function headerHtml(record: RunRecord): Html {
  const { verdict, scenario, question, vms, vgpus, uneven, processes, load } = record;
  const size = `${counted(vms, 'VM')} × ${uneven ? 'up to ' : ''}${counted(vgpus, 'vGPU')}`;
  const rate = Math.round(record.operations / Math.max(0.001, record.wallSeconds));
  const facts: readonly (readonly [string, string])[] = [
    ['size', `${size} in ${counted(processes, 'host process', 'host processes')}`],
    ['clock', `${load.seconds.toFixed(1)} s`],
    ['operations', `${record.operations} (${rate}/s)`],
    [
      'verified',
      `${(record.bytesVerified / MIB).toFixed(1)} MiB, ${counted(record.mismatches, 'mismatch', 'mismatches')}`,
    ],
    ['maps', `${record.maps}`],
    ['unmaps', `${record.unmaps}`],
    ['switches', `${record.switches}`],
    ['faults', `${record.faultsExpected} expected, ${record.faultsUnexpected} unexpected`],
    ['violations', `${record.violations}`],
    ['started', record.startedAt],
    ...(record.inject === '' ? [] : [['injected', record.inject] as const]),
    ...(load.abortedBy === '' ? [] : [['aborted by', load.abortedBy] as const]),
  ];
  return html`<header class="wide">
<h1><span class="verdict ${verdict === 'passed' ? 'passed' : 'not-passed'}" id="verdict">${verdict.toUpperCase()}</span>${scenario}</h1>
${question === '' ? NOTHING : html`<p class="muted">${short(question)}</p>`}
<ul class="facts">${facts.map(([name, value]) => html`<li><span class="muted">${name}</span> <b>${short(value)}</b></li>`)}</ul>
</header>`;
}

/** A threshold with its state: without one if it cannot be judged yet. */
interface JudgedSoFar extends Pick<Verdict, 'metric' | 'condition' | 'text'> {
  readonly ok: boolean | undefined;
  readonly implied?: boolean;
}

/** Returns a table of thresholds, those that are not met first. @param when a word about their time, or empty */
export function thresholdsHtml(thresholds: readonly JudgedSoFar[], when = ''): Html {
  const title = when === '' ? 'Thresholds' : `Thresholds ${when}`;
  const sorted = thresholds.toSorted((a, b) => Number(a.ok ?? true) - Number(b.ok ?? true));
  const rows = limited(
    sorted,
    THRESHOLDS_LIMIT,
    ({ ok, metric, condition, text, implied }) => html`<tr class="threshold">
${ok === undefined ? html`<td class="muted">· waiting</td>` : html`<td class="${ok ? 'ok' : 'bad'}">${ok ? '✓ met' : '✗ not met'}</td>`}
<td>${metric}</td><td>${condition}</td><td class="text">${short(text)}</td><td class="muted">${implied ? 'missed rate' : ''}</td></tr>`,
    (count) => html`<tr><td colspan="5">and ${count} more</td></tr>`,
  );
  if (rows.length === 0)
    return html`<section class="wide"><h2>${title}</h2><p class="muted">The scenario has none.</p></section>`;
  const head = html`<tr><th></th><th>metric</th><th>condition</th><th>observed</th><th></th></tr>`;
  return section(title, rows, tableOf(head));
}

const problemsHtml = ({ problems }: RunRecord): Html =>
  section(
    'Problems',
    limited(
      problems,
      PROBLEMS_LIMIT,
      (text) => html`<li class="bad">${short(text)}</li>`,
      (count) => html`<li>and ${count} more</li>`,
    ),
    (rows) => html`<ul>${rows}</ul>`,
  );

/** Returns stages, events, violations with their evidence, notes, and how to repeat the run. */
export const detailsHtml = (record: RunRecord): Html =>
  html`${cutHtml(record)}${violationsHtml(record)}${stagesHtml(record)}${eventsHtml(record)}${notesHtml(record)}${repeatHtml(record)}`;

const cutHtml = ({ timelines }: RunRecord): Html =>
  timelines.length <= ROWS_LIMIT
    ? NOTHING
    : html`<section class="wide"><p>The charts by vGPU show the first ${ROWS_LIMIT} of ${timelines.length} vGPUs.</p></section>`;

function violationsHtml({ evidence, violations }: RunRecord): Html {
  const rows = limited(
    evidence,
    EVIDENCE_LIMIT,
    ({ vm, kind, detail, repeats }) => html`<tr class="violation"><td>vm${vm}</td><td class="bad">${kind}</td>
<td class="text">${short(detail)}${repeats > 0 ? ` (and ${repeats} more of this kind)` : ''}</td></tr>`,
    (count) => html`<tr><td colspan="3">and ${count} more</td></tr>`,
  );
  if (rows.length === 0)
    return html`<section class="wide"><h2>Violations</h2><p class="ok">${violations === 0 ? 'No contract was broken.' : `${violations}`}</p></section>`;
  return section(
    'Violations',
    rows,
    tableOf(html`<tr><th>VM</th><th>kind</th><th>evidence</th></tr>`, 'list'),
  );
}

function stagesHtml({ stages, load: { metrics } }: RunRecord): Html {
  const metricOf = (stage: string, name: string, aggregation: string) =>
    metrics.find((each) => each.name === name && each.tags.stage === stage)?.values[aggregation];
  const number = (value: number | undefined, unit: 'count' | 'time') =>
    html`<td class="number">${value === undefined ? '–' : formatValue(value, unit)}</td>`;
  const rows = limited(
    stages,
    STAGES_LIMIT,
    (stage) => html`<tr><td>${stage.name}</td><td>${stage.group ?? 'all'}</td><td>${stage.executor}</td>
<td>${Object.entries(stage.workloads)
      .map(([name, weight]) => `${name}: ${weight}`)
      .join(', ')}</td>
<td class="number">${stage.startSeconds} s</td><td class="number">${stage.endSeconds} s</td>
${number(metricOf(stage.name, 'iterations', 'count'), 'count')}${number(metricOf(stage.name, 'dropped_iterations', 'count'), 'count')}
${['med', 'p95', 'p99', 'max'].map((each) => number(metricOf(stage.name, 'iteration_duration', each), 'time'))}</tr>`,
    (count) => html`<tr><td>and ${count} more</td></tr>`,
  );
  const head = [
    'stage',
    'group',
    'executor',
    'workload',
    'from',
    'to',
    'iterations',
    'dropped',
    'p50',
    'p95',
    'p99',
    'max',
  ];
  const cells = head.map((name, i) =>
    i < 4 ? html`<th>${name}</th>` : html`<th class="number">${name}</th>`,
  );
  return section('Stages', rows, tableOf(html`<tr>${cells}</tr>`));
}

function eventsHtml({ events, eventsCut }: RunRecord): Html {
  const all = events.map((event) => ({ at: event.seconds, text: eventText(event) }));
  const cut = Math.max(0, all.length - EVENTS_LIMIT) + eventsCut;
  const rows = all
    .slice(0, EVENTS_LIMIT)
    .map(
      ({ at, text }) =>
        html`<tr><td class="number">${at.toFixed(3)} s</td><td class="text">${short(text)}</td></tr>`,
    );
  const more = cut > 0 ? [html`<tr><td></td><td>and ${cut} more</td></tr>`] : [];
  return section('Events', [...rows, ...more], tableOf(NOTHING, 'list'));
}

function notesHtml({ notes, notesCut }: RunRecord): Html {
  const cut = Math.max(0, notes.length - NOTES_LIMIT) + notesCut;
  const rows = notes.slice(0, NOTES_LIMIT).map((text) => html`<li>${short(text)}</li>`);
  return section(
    'Notes',
    cut > 0 ? [...rows, html`<li>and ${cut} more</li>`] : rows,
    (list) => html`<div class="list"><ul>${list}</ul></div>`,
  );
}

const repeatHtml = ({ command, seed, program }: RunRecord): Html =>
  html`<section class="wide" id="repeat"><h2>Repeat this run</h2>
<p>The same command with the same seed draws the same random numbers.</p><pre>${command}</pre>
<p class="muted">seed ${seed} · ${program}</p></section>`;
