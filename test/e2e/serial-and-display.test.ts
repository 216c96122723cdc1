import { readFileSync } from 'node:fs';
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { temporaryFolder } from '../support/temporary-folder.ts';
import { runScenario } from './run-command.ts';

describe('a run with serial ports and displays', () => {
  const inFolder = temporaryFolder();

  it('receives every byte by interrupt and writes a picture', async () => {
    const args = ['--vms', '1', '--seed', '5', '--param', `folder=${inFolder()}`];
    const { code, summary } = await runScenario('scenarios/serial-and-display.ts', ...args);
    expect([code, summary.problems]).to.deep.equal([0, []]);
    expect(summary.operations).to.equal(401);
    const picture = readFileSync(inFolder('mdevsim-vm0-dev1.png'));
    expect(picture.toString('latin1', 1, 4)).to.equal('PNG');
    expect([picture.readUInt32BE(16), picture.readUInt32BE(20)]).to.deep.equal([640, 480]);
  });
});
