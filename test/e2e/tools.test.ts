/**
 * The commands around runs: doctor, init, schema, workloads, scenarios.
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { WORKLOADS } from '../../src/load/workload-names.ts';
import { builtInScenarios } from '../../src/scenario/built-in.ts';
import { temporaryFolder } from '../support/temporary-folder.ts';
import { mdevsim } from './run-command.ts';

/** Returns the lines of a text that are longer than 80 columns. */
const longLines = (text: string): string[] => text.split('\n').filter((line) => [...line].length > 80);

describe('mdevsim doctor', function () {
  this.timeout(60_000);

  it('counts the vGPUs of this machine, with the arithmetic of its least limit', async () => {
    const { code, stdout } = await mdevsim('doctor', '--vgpus', '7', '--ram', '32');
    expect(code).to.equal(0);
    const [, vgpus, vms] = /^This machine carries (\d+) vGPUs?: (\d+) VMs? × 7 vGPUs\n/.exec(stdout) ?? [];
    expect(Number(vgpus)).to.equal(Number(vms) * 7);
    const sums = [
      ...stdout.matchAll(/ (\d+)(?: MiB)? +(\d+)(?: MiB)? +(\d+) +\((\d+)[^−]*− (\d+)[^)]*\) \/ (\d+)/g),
    ];
    expect(sums.length).to.be.within(2, 4);
    for (const [, , , count, here, reserved, perVm] of sums)
      expect(Number(count)).to.be.closeTo((Number(here) - Number(reserved)) / Number(perVm), 1);
    const least = Math.min(1024, ...sums.map(([, , , count]) => Number(count)));
    expect(Number(vms)).to.equal(least);
    if (existsSync('/proc/sys/vm/max_map_count'))
      expect(stdout).to.include(
        `(${readFileSync('/proc/sys/vm/max_map_count', 'utf8').trim()} − 1000) / 400\n`,
      );
    expect(longLines(stdout)).to.deep.equal([]);
  });

  it('accepts the largest run that it names, and a run refuses one VM more', async () => {
    const { stdout } = await mdevsim('doctor', '--vgpus', '31', '--ram', '4096', '--json');
    const { vms } = JSON.parse(stdout) as { vms: number };
    // Memory changes between the two commands; half more VMs are beyond it in any case.
    const wanted = String(Math.min(1024, Math.ceil(vms * 1.5) + 1));
    const { code, stderr } = await mdevsim(
      'run',
      'many-vgpus',
      '--vms',
      wanted,
      '--vgpus',
      '31',
      '--ram',
      '4096',
    );
    expect([code, vms < 1024], stderr).to.deep.equal([104, true]);
    expect(stderr).to.match(/may need/);
  });

  it('names the optional tools, those that are missing too', async () => {
    const { stdout } = await mdevsim('doctor', '--json');
    const { tools } = JSON.parse(stdout) as { tools: { name: string; version?: string }[] };
    expect(tools.map(({ name }) => name)).to.deep.equal([
      'gcc',
      'spin',
      'QEMU',
      'mdevctl',
      'chromium',
      'lspci',
    ]);
    const { stdout: text } = await mdevsim('doctor');
    for (const { name, version } of tools)
      expect(text).to.match(new RegExp(`[✓!–] ${name} .*\\n +${version === undefined ? 'not found' : '.'}`));
  });
});

describe('mdevsim init', function () {
  this.timeout(120_000);
  const inFolder = temporaryFolder();

  for (const extension of ['yaml', 'ts'])
    it(`writes a starter that runs: .${extension}`, async () => {
      const file = inFolder(`my load.${extension}`);
      const { code, stderr } = await mdevsim('init', file);
      expect([code, stderr]).to.deep.equal([0, `wrote ${file}; run it: npx mdevsim run ${file}\n`]);
      const { code: runCode, stdout } = await mdevsim('run', file);
      // A busy machine may miss the rate, which is a verdict, too.
      expect(runCode, stdout).to.be.oneOf([0, 99]);
      expect(stdout).to.match(/^(PASSED|THRESHOLDS NOT MET) {2}my load:\s+2 VMs × 2 vGPUs/);
      expect(stdout).to.match(/✓ checks +rate==1 +1\n/);
      expect(stdout).to.match(/✓ command_latency\{stage:open\}|✗ command_latency\{stage:open\} +\S+ +[\d.]/);
    });

  it('has the same settings as YAML and JSON, in load.yaml by default', async () => {
    const { parse } = await import('yaml');
    for (const file of ['a.json', 'a.yml']) await mdevsim('init', inFolder(file));
    const [json, yml] = ['a.json', 'a.yml'].map((file) => parse(readFileSync(inFolder(file), 'utf8')));
    expect(json).to.deep.equal(yml);
  });

  it('refuses to overwrite, and extensions without a starter', async () => {
    const file = inFolder('mine.yaml');
    writeFileSync(file, 'mine');
    const { code, stderr } = await mdevsim('init', file);
    expect([code, readFileSync(file, 'utf8')]).to.deep.equal([104, 'mine']);
    expect(stderr).to.equal(
      `mdevsim: init ${file}: the file exists, and is left as it is; accepted: a new path\n`,
    );
    const other = await mdevsim('init', inFolder('x.toml'));
    expect(other.code).to.equal(104);
    expect(other.stderr).to.match(
      /x\.toml: no starter of this kind; accepted: \.yaml, \.yml, \.json, \.ts\n/,
    );
  });
});

describe('lists', function () {
  this.timeout(60_000);

  it('of workloads, with the needs of each', async () => {
    const { stdout } = await mdevsim('workloads');
    for (const name of Object.keys(WORKLOADS)) expect(stdout).to.match(new RegExp(`^ {2}${name} `, 'm'));
    expect(stdout.replace(/\s+/g, ' ')).to.include('(needs iommu: lazy)');
    expect(longLines(stdout)).to.deep.equal([]);
    expect(JSON.parse((await mdevsim('workloads', '--json')).stdout)).to.have.length(
      Object.keys(WORKLOADS).length,
    );
  });

  it('of scenarios, each with a question', async () => {
    const { stdout } = await mdevsim('scenarios', '--json');
    const rows = JSON.parse(stdout) as { name: string; question: string }[];
    expect(rows.map(({ name }) => name)).to.deep.equal(builtInScenarios());
    for (const { name, question } of rows) expect(question, name).to.match(/^[A-Z].*\?$/);
    expect(longLines((await mdevsim('scenarios')).stdout)).to.deep.equal([]);
  });

  it('of settings, as a JSON Schema', async () => {
    const { stdout } = await mdevsim('schema');
    expect(JSON.parse(stdout)).to.deep.include({ $schema: 'https://json-schema.org/draft/2020-12/schema' });
  });

  it('completion prints a script', async () => {
    const { code, stdout } = await mdevsim('completion', 'bash');
    expect([code, stdout.startsWith('# bash completion of mdevsim')]).to.deep.equal([0, true]);
  });
});
