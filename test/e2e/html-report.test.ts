/**
 * The HTML report in a browser: it is complete without any other file, and its charts show the run.
 */
import { statSync } from 'node:fs';
import { pathToFileURL } from 'node:url';
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { temporaryFolder } from '../support/temporary-folder.ts';
import { noBrowser, type WatchedPage, withBrowser } from './browser.ts';
import { mdevsim } from './run-command.ts';

const MIB = 2 ** 20;
/** Charts and the least count of colours in each. */
const CHARTS: Readonly<Record<string, number>> = {
  latency: 5,
  throughput: 3,
  distribution: 3,
  heat: 3,
  shares: 3,
  gauges: 3,
  strips: 4,
};

async function expectCharts(page: WatchedPage): Promise<void> {
  for (const [chart, least] of Object.entries(CHARTS)) {
    const { colours, part } = await page.painted(chart);
    expect(colours, `colours of ${chart}`).to.be.at.least(least);
    expect(part, `painted part of ${chart}`).to.be.above(0.01);
  }
}

describe('HTML report in a browser', function () {
  this.timeout(240_000);
  const inFolder = temporaryFolder();

  before(function () {
    if (noBrowser === undefined) return;
    console.log(`    no browser tests: ${noBrowser}`);
    this.skip();
  });

  it('of first light: strips in which GPA goes, IOVA comes, and GPA comes back, for every device', async () => {
    const path = inFolder('first-light.html');
    const { code, stdout } = await mdevsim(
      'run',
      'first-light',
      '--vms',
      '2',
      '--vgpus',
      '2',
      '--out',
      `html=${path}`,
    );
    expect(code).to.equal(0);
    expect(stdout.trimEnd().split('\n').at(-1)).to.match(new RegExp(`^ +report +${path}$`));
    await withBrowser(async (open) => {
      const page = await open();
      await page.page.goto(pathToFileURL(path).href);
      expect(await page.text('#verdict')).to.equal('PASSED');
      const devices = await page.page.$$eval('#strip-device option', (all) =>
        all.map(({ textContent }) => textContent),
      );
      expect(devices).to.deep.equal(['vm0/gpu0', 'vm0/gpu1', 'vm1/gpu0', 'vm1/gpu1']);
      for (let row = 0; row < devices.length; row++) {
        await page.page.select('#strip-device', String(row));
        const kinds = await page.texts('#switches td:nth-child(3)');
        const way = kinds.filter((kind, i) => kind !== kinds[i - 1]);
        expect(way[0], `${devices[row]} starts with its RAM`).to.equal('GPA');
        expect(way.slice(1), `${devices[row]} gets translations`).to.include('IOVA');
        expect(way.at(-1), `${devices[row]} gets its RAM back`).to.equal('GPA');
      }
      await expectReadouts(page);
      await page.screenshots('first-light', () => expectCharts(page));
      expect(page.errors).to.deep.equal([]);
      expect(page.requestsBeyond(pathToFileURL(path).href)).to.deep.equal([]);
    });
  });

  it('of a run with stages: verdict, each threshold, charts that are not empty, and a choice of metrics', async () => {
    const path = inFolder('report.html');
    const { code } = await mdevsim('run', 'test/fixtures/scenarios/pictures.yaml', '--out', `html=${path}`);
    expect(code).to.equal(99);
    expect(statSync(path).size).to.be.below(MIB);
    await withBrowser(async (open) => {
      const page = await open();
      await page.page.goto(pathToFileURL(path).href);
      expect(await page.text('#verdict')).to.equal('THRESHOLDS NOT MET');
      const thresholds = await page.rows('.threshold');
      expect(thresholds).to.have.length(3);
      expect(thresholds[0]).to.match(/^✗ not met command_latency\{stage:copies\} max<1us [\d.]+(us|ms|s)$/);
      expect(thresholds.slice(1).join()).to.match(
        /✓ met checks rate==1 1,✓ met command_latency\{stage:copies\} p\(99\)<60s/,
      );
      const metrics = await page.texts('#metric option');
      expect(metrics).to.include.members([
        'command_latency',
        'iteration_duration',
        'map_latency',
        'boot_time',
      ]);
      await page.page.select('#metric', 'iteration_duration');
      expect(await page.texts('#stage option')).to.deep.equal(['all stages', 'pictures', 'copies']);
      await page.page.select('#stage', 'copies');
      await page.page.select('#heat-layer', 'commands/s');
      await page.screenshots('stages', async () => {
        await expectCharts(page);
        expect(await page.overflow(), 'sideways').to.equal(0);
      });
      await expectZoom(page);
      expect(page.errors).to.deep.equal([]);
      expect(page.requestsBeyond(pathToFileURL(path).href)).to.deep.equal([]);
    });
  });
});

/** Points at strips, cells of the heat map and shares, from left to right: a line tells what is there. */
async function expectReadouts({ page }: WatchedPage): Promise<void> {
  const STEPS = 40;
  const readouts = async (chart: string, y: number): Promise<string> => {
    const over = await page.$(`#${chart} .u-over`);
    await over?.scrollIntoView();
    const box = await over?.boundingBox();
    if (!box) throw new Error(`${chart} has no area`);
    const lines: string[] = [];
    for (let step = 1; step < STEPS; step++) {
      await page.mouse.move(box.x + (box.width * step) / STEPS, box.y + box.height * y);
      lines.push(await page.$eval(`#${chart}-readout`, ({ textContent }) => textContent ?? ''));
    }
    return lines.join('\n');
  };
  const strips = await readouts('strips', 0.1);
  expect(strips).to.match(/^vm0\/gpu0, [\d.]+ s to [\d.]+ s: GPA 64 MiB$/m);
  expect(strips).to.match(/^vm0\/gpu0, .*: IOVA [\d.]+ KiB$/m);
  expect(await readouts('heat', 0.9)).to.match(
    /^vm1\/gpu1, [\d.]+ s to [\d.]+ s: mean latency about [\d.]+ ([µm]s|s)$/m,
  );
  expect(await readouts('shares', 0.5)).to.match(
    /^vm1\/gpu1 \(vgpu-4g\): [\d.]+ % of the work, .* of the engine; fairness of GPU 0 [\d.]+$/m,
  );
}

/** Selects the middle of the latency chart; the strips follow, and a double click shows the whole run again. */
async function expectZoom(watched: WatchedPage): Promise<void> {
  const { page } = watched;
  const picture = () => watched.picture('strips');
  const whole = await picture();
  const over = await page.$('#latency .u-over');
  await over?.scrollIntoView();
  const box = await over?.boundingBox();
  if (!box) throw new Error('the chart has no area');
  const y = box.y + box.height / 2;
  await page.mouse.move(box.x + box.width * 0.4, y);
  await page.mouse.down();
  await page.mouse.move(box.x + box.width * 0.6, y, { steps: 5 });
  await page.mouse.up();
  const part = await picture();
  expect(part === whole, 'a selected range enlarges the other charts, too').to.equal(false);
  await page.mouse.click(box.x + box.width / 2, y, { count: 2 });
  expect((await picture()) === whole, 'a double click shows everything').to.equal(true);
}
