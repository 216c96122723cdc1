import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { after, before, describe, it } from 'mocha';
import { mdevsim } from './run-command.ts';

const HARNESS = 'test/fixtures/explore/early-unpin-harness.ts';

describe('mdevsim explore', () => {
  let folder: string;
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'mdevsim-explore-'));
  });
  after(() => rm(folder, { recursive: true }));

  it('finds the fault of a device model, and replays it on real threads', async () => {
    const file = join(folder, 'failure.json');
    const found = await mdevsim('explore', HARNESS, '--seeds', '2', '--save', file);
    expect(found.code, found.stderr).to.equal(1);
    expect(found.stdout).to.include('✗ transfer: use-after-unpin').and.to.include(`--replay ${file}`);
    const again = await mdevsim('explore', '--replay', file, '--threads');
    expect(again.code, again.stderr).to.equal(1);
    expect(again.stdout)
      .to.include('on 2 real threads: the same trace')
      .and.to.include('with the recorded trace');
  });

  it('survives a protocol of the package', async () => {
    const { code, stdout } = await mdevsim('explore', 'doorbell', '--strategy', 'bounded');
    expect(code).to.equal(0);
    expect(stdout).to.match(/✓ doorbell: no rule broken in \d+ schedules \(bounded, all of them\)/);
  });

  it('names the nearest harness for an unknown one, and refuses a file that is no failure', async () => {
    const unknown = await mdevsim('explore', 'dorbell');
    expect(unknown.code).to.equal(104);
    expect(unknown.stderr).to.include('nearest: doorbell');
    const other = await mdevsim('explore', '--replay', 'package.json');
    expect(other.code).to.equal(104);
    expect(other.stderr).to.include('package.json: ');
  });
});
