/**
 * The dashboard of a run: live charts in a browser, pictures of vGPUs, and bounds.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { request } from 'node:http';
import { pathToFileURL } from 'node:url';
import { expect } from 'chai';
import { afterEach, describe, it } from 'mocha';
import { sleep } from '#host';
import { PAGES_LIMIT } from '../../src/dashboard/dashboard.ts';
import { temporaryFolder } from '../support/temporary-folder.ts';
import { noBrowser, withBrowser } from './browser.ts';
import { COMMAND, mdevsim, ROOT } from './run-command.ts';

/** Requests for a picture, 100 ms apart. */
const PICTURE_TRIES = 300;
const PNG = Buffer.from([0x89, 0x50, 0x4e, 0x47]);

describe('dashboard', function () {
  this.timeout(240_000);
  const inFolder = temporaryFolder();
  let child: ChildProcess | undefined;

  afterEach(() => {
    child?.kill('SIGKILL');
  });

  /** Starts a run with a dashboard; resolves to its address when the load runs. */
  async function start(
    ...args: string[]
  ): Promise<{ readonly url: string; readonly ended: Promise<number> }> {
    const started = spawn(
      process.execPath,
      [COMMAND, 'run', 'test/fixtures/scenarios/pictures.yaml', '--dashboard', ...args],
      {
        cwd: ROOT,
        env: { ...process.env, NODE_OPTIONS: '', NO_COLOR: '1' },
        stdio: ['ignore', 'ignore', 'pipe'],
      },
    );
    child = started;
    const ended = once(started, 'exit').then(([code]) => code as number);
    let text = '';
    for await (const chunk of started.stderr) {
      text += chunk;
      const url = /^dashboard +(http:\S+)$/m.exec(text)?.[1];
      if (url === undefined || !text.includes('pictures, ')) continue;
      started.stderr.resume();
      return { url, ended };
    }
    throw new Error(`no dashboard: ${text}`);
  }

  it('shows a run live, takes pictures of its vGPUs, keeps the last state, and ends with the run', async function () {
    if (noBrowser !== undefined) {
      console.log(`    no browser tests: ${noBrowser}`);
      this.skip();
    }
    await withBrowser(async (open) => {
      const page = await open();
      const report = inFolder('report.html');
      const { url, ended } = await start('--out', `html=${report}`);
      await page.page.goto(url);
      expect(await page.text('#verdict')).to.equal('RUNNING');
      const canvases = '#latency canvas, #throughput canvas, #heat canvas, #strips canvas';
      await page.page.waitForFunction(`document.querySelectorAll('${canvases}').length === 4`, {
        timeout: 60_000,
      });
      for (const chart of ['latency', 'throughput', 'heat', 'strips'])
        expect((await page.painted(chart)).colours, chart).to.be.at.least(3);
      expect(await page.texts('.threshold')).to.have.length(3);
      await page.page.waitForSelector('#screen-device option');
      await page.page.select('#screen-device', '1');
      await page.page.click('#screen-take');
      await page.page.waitForSelector('#screen img', { timeout: 60_000 });
      expect(await page.text('#screen-readout')).to.equal('64 × 64 pixels');
      await page.screenshots('dashboard', async () => {});
      await page.page.waitForFunction("document.getElementById('verdict').textContent !== 'RUNNING'", {
        timeout: 120_000,
      });
      expect(await page.text('#verdict')).to.equal('THRESHOLDS NOT MET');
      expect(await page.texts('.threshold')).to.have.length(3);
      expect((await page.painted('shares')).colours).to.be.at.least(3);
      expect(await page.text('#repeat pre')).to.match(/pictures\.yaml .*--seed \d+/);
      expect(await ended).to.equal(99);
      const other = await open();
      await other.page.goto(pathToFileURL(report).href);
      for (const each of [page, other]) await each.show(1000, 'light');
      for (const chart of ['latency', 'throughput', 'distribution', 'heat', 'shares', 'gauges', 'strips'])
        expect(
          (await page.picture(chart)) === (await other.picture(chart)),
          `${chart} of the report`,
        ).to.equal(true);
      await page.screenshots('dashboard-ended', async () => {});
      expect(page.errors).to.deep.equal([]);
      expect(page.requestsBeyond(url)).to.deep.equal([]);
    });
  });

  it('answers its own pages alone, a bounded count of them, and only on the loopback interface', async () => {
    const { url, ended } = await start();
    const get = (path: string, options = {}) => answerOf(new URL(path, url), options);
    expect(url).to.match(/^http:\/\/127\.0\.0\.1:\d+\/$/);
    expect((await get('/')).headers['content-type']).to.equal('text/html; charset=utf-8');
    expect(await get('/', { headers: { host: 'example.com' } })).to.include({ status: 403 });
    expect(await get('/', { method: 'POST' })).to.include({ status: 405, body: 'POST; accepted: GET\n' });
    expect(await get('/other')).to.include({
      status: 404,
      body: '/other; accepted: /, /events, /screenshot/ROW\n',
    });
    expect(await get('/screenshot/4')).to.include({ status: 404, body: 'vGPU 4; accepted: 0 to 3\n' });
    // A device of a guest that boots displays nothing yet.
    let picture = await get('/screenshot/3');
    for (let tries = 0; picture.status !== 200 && tries < PICTURE_TRIES; tries++) {
      await sleep(100);
      picture = await get('/screenshot/3');
    }
    expect(picture.bytes.subarray(0, 4)).to.deep.equal(PNG);
    const pages = await Promise.all(
      Array.from({ length: PAGES_LIMIT }, () => openEvents(new URL('/events', url))),
    );
    expect(await get('/events')).to.include({ status: 503 });
    // The pages do not read, and the run ends nevertheless.
    expect(await ended).to.equal(99);
    for (const page of pages) page.destroy();
  });

  it('refuses a port that is in use, before the run starts', async () => {
    const { url } = await start();
    const { code, stdout, stderr } = await mdevsim('run', 'first-light', '--dashboard', new URL(url).port);
    expect({ code, stdout }).to.deep.equal({ code: 104, stdout: '' });
    expect(stderr).to.match(/^mdevsim: --dashboard \d+: listen EADDRINUSE.*; accepted: a free port\n$/);
  });
});

interface Answer {
  readonly status: number | undefined;
  readonly headers: Readonly<Record<string, unknown>>;
  readonly body: string;
  readonly bytes: Buffer;
}

const answerOf = (url: URL, options: object): Promise<Answer> =>
  new Promise((resolve, reject) => {
    const sent = request(url, options, async (response) => {
      const bytes = Buffer.concat(await response.toArray());
      resolve({ status: response.statusCode, headers: response.headers, body: bytes.toString(), bytes });
    });
    sent.on('error', reject);
    sent.end();
  });

/** Opens a stream of events and does not read it. */
const openEvents = (url: URL): Promise<{ destroy(): void }> =>
  new Promise((resolve, reject) => {
    const sent = request(url, (response) => {
      response.on('error', () => {});
      resolve(sent);
    });
    sent.on('error', reject);
    sent.end();
  });
