/**
 * The script of the report and the dashboard: draws the charts from the data in the page, or from the live run.
 */
import type { PageModel } from '../page-model.ts';
import { type Panel, setShown } from './chart.ts';
import { DistributionPanel } from './distribution.ts';
import { GaugesPanel } from './gauges.ts';
import { HeatPanel } from './heat.ts';
import { LatencyPanel, ThroughputPanel } from './lines.ts';
import { followRun } from './live.ts';
import { Selection } from './selection.ts';
import { SharesPanel } from './shares.ts';
import { StripsPanel } from './strips.ts';
import { onThemeChange } from './theme.ts';

const byId = <Kind extends HTMLElement>(id: string): Kind => document.getElementById(id) as Kind;

const selection = new Selection(byId('metric'), byId('stage'));
const panels: readonly Panel[] = [
  new LatencyPanel(byId('latency'), selection),
  new ThroughputPanel(byId('throughput')),
  new DistributionPanel(byId('distribution'), selection),
  new HeatPanel(byId('heat'), byId('heat-layer'), byId('heat-readout')),
  new GaugesPanel(byId('gauges'), byId('gauge')),
  new SharesPanel(byId('shares'), byId('shares-readout')),
  new StripsPanel(byId('strips'), byId('strips-readout'), byId('strip-device'), byId('switches')),
];

function show(model: PageModel): void {
  const has: Readonly<Record<string, boolean>> = {
    latency: model.trends.length > 0,
    throughput: model.rates.length > 0,
    distribution: model.distributions.length > 0,
    heat: model.heat !== null,
    shares: model.gpus.length > 0,
    gauges: model.gauges.length > 0,
    strips: model.strips.length > 0,
  };
  for (const [id, present] of Object.entries(has)) byId(`${id}-section`).classList.toggle('empty', !present);
  setShown(model);
  selection.update(model);
  for (const panel of panels) panel.update(model);
}

onThemeChange(() => {
  for (const panel of panels) panel.restyle();
});
show(JSON.parse(byId('model').textContent ?? '') as PageModel);
if (document.getElementById('screens')) followRun(show);
