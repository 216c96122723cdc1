/**
 * The output `html`: the report of a run as one file that refers to nothing outside it. The dashboard is the same page with
 * live data.
 */
import { createHash } from 'node:crypto';
import type { RunRecord } from '../record.ts';
import { pageModel } from './build-model.ts';
import { clientCode } from './client-code.ts';
import { Html, html, jsonInScript, NOTHING } from './html.ts';
import { detailsHtml, statusHtml } from './sections.ts';

/** Returns the report. */
export const recordHtml = (record: RunRecord): string =>
  pageOf({
    title: `${record.scenario}: ${record.verdict}`,
    status: statusHtml(record),
    details: detailsHtml(record),
    model: pageModel(record),
  });

interface Page {
  readonly title: string;
  readonly status: Html;
  readonly details: Html;
  readonly model: unknown;
  /** Sections of a live page. */
  readonly live?: Html;
  /** Sources of the page's requests, as in a content security policy. */
  readonly connects?: string;
}

/** Returns a page with its charts. */
export function pageOf({ title, status, details, model, live = NOTHING, connects = "'none'" }: Page): string {
  const { script, style } = clientCode();
  // Only this script runs, whatever a text of the run contains.
  const hash = createHash('sha256').update(script).digest('base64');
  const policy =
    `default-src 'none'; script-src 'sha256-${hash}'; style-src 'unsafe-inline'; ` +
    `img-src data: blob:; connect-src ${connects}; base-uri 'none'; form-action 'none'`;
  return html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="${policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${title}</title>
<link rel="icon" href="data:,">
<!-- Charts by uPlot, Copyright (c) Leon Sorokin, MIT License. -->
<style>${new Html(style)}</style>
</head>
<body>
<main>
<div class="contents" id="status">${status}</div>
${live}${CHARTS}
<div class="contents" id="details">${details}</div>
</main>
<script type="application/json" id="model">${jsonInScript(model)}</script>
<script>${new Html(script)}</script>
</body>
</html>
`.text;
}

/** Places of the charts. A section without data says so. */
const CHARTS = html`<section class="wide" id="latency-section"><h2>Latency over time</h2>
<div class="controls"><select id="metric" aria-label="latency"></select><select id="stage" aria-label="stage"></select></div>
<div class="chart" id="latency"></div><p class="none muted">No latency was recorded.</p></section>
<section id="throughput-section"><h2>Throughput</h2>
<div class="chart" id="throughput"></div><p class="none muted">No commands were counted.</p></section>
<section id="distribution-section"><h2>Latency distribution</h2>
<div class="chart" id="distribution"></div><p class="none muted">No latency was recorded.</p></section>
<section class="wide" id="heat-section"><h2>Activity of each vGPU</h2>
<div class="controls"><select id="heat-layer" aria-label="value"></select></div>
<p class="readout" id="heat-readout"></p>
<div class="tall"><div class="chart" id="heat"></div></div><p class="none muted">No vGPU has completed a command.</p></section>
<section class="wide" id="shares-section"><h2>Shares of the GPU engines</h2>
<p class="readout" id="shares-readout"></p>
<div class="tall"><div class="chart" id="shares"></div></div><p class="none muted">No device uses a GPU, or the run has not ended.</p></section>
<section class="wide" id="gauges-section"><h2>Fairness and other gauges</h2>
<div class="controls"><select id="gauge" aria-label="gauge"></select></div>
<div class="chart" id="gauges"></div><p class="none muted">No gauge was recorded.</p></section>
<section class="wide" id="strips-section"><h2>Address spaces</h2>
<p class="legend"><span><i class="swatch gpa"></i>GPA: guest RAM, identity-mapped</span><span><i class="swatch iova"></i>IOVA:
translations of the guest's tables</span><span><i class="swatch nothing"></i>nothing mapped</span></p>
<p class="muted">Height: mapped bytes, logarithmic. Dark lines: switches. Drag to enlarge a part, double-click to go back.</p>
<p class="readout" id="strips-readout"></p>
<div class="tall"><div class="chart" id="strips"></div></div>
<div class="controls"><label>Switches of <select id="strip-device"></select></label></div>
<div class="list" id="switches"></div><p class="none muted">No address space was recorded.</p></section>
`;
