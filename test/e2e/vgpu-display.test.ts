import { readFileSync } from 'node:fs';
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { temporaryFolder } from '../support/temporary-folder.ts';
import { fixture, runScenario } from './run-command.ts';

describe('runs with vGPU displays', () => {
  const inFolder = temporaryFolder();

  it('show the output of engines and guests, also after a reset, and write pictures', async () => {
    const args = ['--vms', '1', '--seed', '5', '--param', `folder=${inFolder()}`];
    const { code, summary } = await runScenario('scenarios/vgpu-display.ts', ...args);
    expect([code, summary.problems]).to.deep.equal([0, []]);
    // For each of two vGPUs, twice: a fill, six sprites of 32 lines, a checksum.
    expect(summary.operations).to.equal(2 * 2 * (1 + 6 * 32 + 1));
    const pictures = [0, 1].map((gpu) => readFileSync(inFolder(`mdevsim-vm0-gpu${gpu}.png`)));
    for (const picture of pictures) {
      expect(picture.toString('latin1', 1, 4)).to.equal('PNG');
      expect([picture.readUInt32BE(16), picture.readUInt32BE(20)]).to.deep.equal([320, 200]);
    }
    expect(pictures[0]?.equals(pictures[1] as Buffer), 'the pictures differ').to.equal(false);
  });

  it('provide all the VRAM of a vGPU and refuse more; the worker survives', async () => {
    const { code, summary } = await runScenario(fixture('vram-full'));
    expect([code, summary.problems, summary.operations]).to.deep.equal([0, [], 1]);
  });

  it('migrate with VRAM, picture, frame count and commands in flight, and return', async () => {
    const { code, summary } = await runScenario(fixture('vgpu-moves'));
    expect([code, summary.problems]).to.deep.equal([0, []]);
    expect(summary.notes.filter((note) => note.startsWith('arrived'))).to.deep.equal([
      'arrived 1',
      'arrived 2',
    ]);
  });
});
