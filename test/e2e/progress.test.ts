/**
 * Progress of a run: on a terminal, which `script` provides, and without one.
 */
import { execFile, spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { temporaryFolder } from '../support/temporary-folder.ts';
import { Terminal } from '../support/terminal.ts';
import { COMMAND, fixture, mdevsim, ROOT } from './run-command.ts';

const COLUMNS = 80;
/** Marks the begin of a redraw. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: these begin sequences
const REDRAW = /(?<!\u001b\[1A)(?=\u001b\[2K)/;
const VERDICT = /(PASSED|THRESHOLDS NOT MET|FAILED)/;

const LOAD = `name: shown
vgpus: 2
load:
  timed: { executor: constant-vus, vus: 1, duration: 5s, workload: copy }
  counted: { executor: shared-iterations, vus: 1, iterations: 6, startTime: 2s, workload: fill }
thresholds:
  checks: ['rate==1']
  command_latency{stage:timed}: ['max<1us']
`;

/** Runs mdevsim on a terminal; resolves to everything that the terminal gets. */
function onTerminal(rows: number, env: Readonly<Record<string, string>>, ...args: string[]): Promise<string> {
  const command = `stty cols ${COLUMNS} rows ${rows}; exec ${process.execPath} ${COMMAND} ${args.join(' ')}`;
  return new Promise((resolve) => {
    execFile(
      'script',
      ['-qec', command, '/dev/null'],
      { cwd: ROOT, env: { ...process.env, NODE_OPTIONS: '', ...env }, maxBuffer: 64 * 1024 * 1024 },
      (_, stdout) => resolve(stdout),
    );
  });
}

/** Draws the output; returns every screen before the verdict, and the terminal at the end. */
function draw(
  output: string,
  rows: number,
): { readonly screens: string[]; readonly before: Terminal; readonly terminal: Terminal } {
  const end = output.search(VERDICT);
  expect(end, output).to.be.above(0);
  const [before, terminal] = [new Terminal(COLUMNS, rows), new Terminal(COLUMNS, rows)];
  const screens = output
    .slice(0, end)
    .split(REDRAW)
    .map((part) => {
      before.write(part);
      return before.screen.join('\n');
    });
  terminal.write(output);
  return { screens, before, terminal };
}

describe('progress', function () {
  this.timeout(120_000);
  const inFolder = temporaryFolder();
  const hasTerminals = spawnSync('script', ['--version']).status === 0;

  function onlyWithTerminals(this: Mocha.Context): void {
    if (hasTerminals) return;
    console.log('        script (util-linux) is not installed');
    this.skip();
  }

  it('on a terminal: stages, thresholds and rates, redrawn in place', async function () {
    onlyWithTerminals.call(this);
    writeFileSync(inFolder('shown.yaml'), LOAD);
    const { screens, before, terminal } = draw(await onTerminal(40, {}, 'run', inFolder('shown.yaml')), 40);
    expect(before.unknown).to.deep.equal([]);
    expect(before.scrolled).to.equal(0);
    const seen = (pattern: RegExp) =>
      expect(
        screens.some((screen) => pattern.test(screen)),
        `${pattern} in ${screens.at(-2)}`,
      );
    seen(
      /^shown {2}\d+ s, 1 of 1 VM, 2 vGPUs\n {2}\d+ iterations\/s, \d+ commands\/s, p99 [\d.]+(us|ms|s)\n/,
    ).to.equal(true);
    seen(/^ {2}timed +█+░+ {2}\d of 5 s +\d+ iterations$/m).to.equal(true);
    seen(/^ {2}counted +░+ {2}starts in \d s/m).to.equal(true);
    seen(/^ {2}counted +█{20} {2}done +6 of 6 iterations$/m).to.equal(true);
    seen(/^ {2}✓ checks +rate==1 +1$/m).to.equal(true);
    seen(/^ {2}✗ command_latency\{stage:timed\} +max<1us +[\d.]+(us|ms|s)$/m).to.equal(true);
    seen(/ s {2}boot vm0$/m).to.equal(true);
    // The block is gone; the summary begins where it was.
    expect(terminal.screen[0]).to.match(/^THRESHOLDS NOT MET {2}shown/);
    expect(terminal.screen.findIndex((line) => line.startsWith('  ✗ command_latency'))).to.be.within(1, 2);
    for (const line of terminal.screen) expect(line.length, line).to.be.at.most(COLUMNS);
  });

  it('on a terminal of a few lines: never scrolls', async function () {
    onlyWithTerminals.call(this);
    writeFileSync(inFolder('shown.yaml'), LOAD);
    const { screens, before } = draw(await onTerminal(5, {}, 'run', inFolder('shown.yaml')), 5);
    expect(before.scrolled).to.equal(0);
    expect(screens.length).to.be.above(3);
    expect(screens.at(-2)).to.match(/^shown {2}\d+ s, .*\n.*commands\/s/);
  });

  it('on a terminal: lines of scripts stay, above the block; NO_COLOR', async function () {
    onlyWithTerminals.call(this);
    const output = await onTerminal(40, { NO_COLOR: '1' }, 'run', fixture('prints-for-long'));
    // biome-ignore lint/suspicious/noControlCharactersInRegex: no colour
    expect(output).to.not.match(/\u001b\[[\d;]*m/);
    const { screens, before, terminal } = draw(output, 40);
    expect(before.scrolled).to.equal(0);
    const lines = Array.from({ length: 12 }, (_, i) => `line ${i}`);
    expect(terminal.screen.slice(0, 12)).to.deep.equal(lines);
    expect(terminal.screen[12]).to.match(/^THRESHOLDS NOT MET {2}prints-for-long/);
    const middle = screens.find((screen) => /line 6\nprints-for-long {2}/.test(screen));
    expect(middle, screens.at(-2)).to.match(/\n {2}phase +printing\n/);
  });

  it('on a terminal: data goes to stdout alone', async function () {
    onlyWithTerminals.call(this);
    const file = inFolder('out.json');
    const output = await onTerminal(
      40,
      {},
      'run',
      fixture('prints-for-long'),
      '--json',
      '-p',
      'lines=2',
      '>',
      file,
    );
    expect(output).to.include('line 1');
    expect(output).to.not.include('"verdict"');
    expect(JSON.parse(readFileSync(file, 'utf8'))).to.include({ verdict: 'thresholds not met' });
  });

  it('without a terminal: a line from time to time, on stderr', async () => {
    writeFileSync(inFolder('lines.yaml'), LOAD.replace('5s', '12s'));
    const { stdout, stderr } = await mdevsim('run', inFolder('lines.yaml'));
    const lines = stderr.trimEnd().split('\n');
    expect(lines.length).to.be.within(2, 8);
    expect(
      lines.some((line) =>
        /^\d+ s: timed.*, 1 of 1 VM, .*commands\/s, p99 .*1 of 2 thresholds not met$/.test(line),
      ),
      stderr,
    ).to.equal(true);
    expect(stderr).to.not.include('\u001b');
    expect(stdout).to.match(/^THRESHOLDS NOT MET {2}shown/);
  });

  it('--quiet: nothing on stderr', async () => {
    const { stdout, stderr } = await mdevsim(
      'run',
      'first-light',
      '--vms',
      '1',
      '--vgpus',
      '1',
      '--ram',
      '32',
      '--quiet',
    );
    expect([stderr, stdout.slice(0, 6)]).to.deep.equal(['', 'PASSED']);
  });
});
