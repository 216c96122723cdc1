/**
 * Replays the DMA maps of real guests. The counts below were determined independently from the files.
 */
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { gunzipSync } from 'node:zlib';
import { expect } from 'chai';
import { after, describe, it } from 'mocha';
import { type ReplayResult, replayCapture } from '../../src/conformance/vfio-user/replay.ts';
import { CaptureFolder, eof, HEAD, map } from '../fixtures/capture-files.ts';

const CAPTURES = new URL('../data/captures/', import.meta.url);
const BIN = fileURLToPath(new URL('../../src/cli/bin.ts', import.meta.url));

interface Recorded {
  readonly capture: string;
  readonly maps: number;
  readonly unmaps: number;
  readonly removed: number;
  readonly liveMaps: number;
}

const RECORDED: Readonly<Record<string, Recorded>> = {
  'intel-iommu-passthrough': { capture: 'c-iommu-pt-vrng', maps: 18, unmaps: 12, removed: 12, liveMaps: 6 },
  'intel-iommu-thp': { capture: 'b2-inteliommu-thp', maps: 1078, unmaps: 1214, removed: 1072, liveMaps: 6 },
  'intel-iommu-vfio': { capture: 'b-inteliommu', maps: 10276, unmaps: 8368, removed: 10270, liveMaps: 6 },
  'intel-iommu-virtio-rng': {
    capture: 'b3-inteliommu-vrng',
    maps: 6428,
    unmaps: 6451,
    removed: 6422,
    liveMaps: 6,
  },
  'no-viommu': { capture: 'a-noiommu', maps: 18, unmaps: 12, removed: 12, liveMaps: 6 },
  'virtio-iommu-vfio': {
    capture: 'd2-virtio-iommu-vfio',
    maps: 1085,
    unmaps: 1093,
    removed: 1085,
    liveMaps: 0,
  },
};

const pathOf = (name: string): string => fileURLToPath(new URL(`${name}.jsonl.gz`, CAPTURES));

const folder = new CaptureFolder();
after(() => folder.remove());

describe('captures of real guests', () => {
  it('are all listed here', () => {
    expect(readdirSync(CAPTURES).sort()).to.deep.equal(
      Object.keys(RECORDED).map((name) => `${name}.jsonl.gz`),
    );
  });

  for (const [name, recorded] of Object.entries(RECORDED))
    it(`${name}: all counts match the recording, R2 holds, no lookup is stale`, async () => {
      const result = await replayCapture(pathOf(name));
      expect(result.problems).to.deep.equal([]);
      expect(result).to.include(recorded);
      expect(result).to.include({
        holds: true,
        liveMapsRecorded: recorded.liveMaps,
        refused: 0,
        countsDiffering: 0,
        exclusiveBroken: 0,
        lookupsWrong: 0,
        stale: 0,
      });
      expect(result.lookups).to.be.at.least(recorded.maps + recorded.removed + recorded.liveMaps);
    });

  it('give the same result when unpacked', async () => {
    const packed = pathOf('virtio-iommu-vfio');
    const unpacked = folder.write(gunzipSync(readFileSync(packed)));
    const resultOf = ({ file: _file, mapCost: _map, unmapCost: _unmap, ...rest }: ReplayResult) => rest;
    expect(resultOf(await replayCapture(unpacked))).to.deep.equal(resultOf(await replayCapture(packed)));
  });
});

describe('mdevsim replay', () => {
  const run = (...args: string[]) => {
    const { status, stdout, stderr } = spawnSync(
      process.execPath,
      ['--conditions=source', '--no-warnings', BIN, 'replay', ...args],
      { encoding: 'utf8' },
    );
    return { status, stdout, stderr };
  };

  it('prints the verdict first and exits with 0', () => {
    const { status, stdout, stderr } = run(pathOf('no-viommu'), pathOf('virtio-iommu-vfio'));
    expect({ status, stderr }).to.deep.equal({ status: 0, stderr: '' });
    expect(stdout).to.match(/^PASSED {2}2 captures, 2208 messages/);
    expect(stdout.trimEnd().split('\n')).to.have.length(4);
  });

  it('exits with 1 if R2 is violated, and reports it as JSON', () => {
    const broken = folder.lines(...HEAD, map(0xfffc0000, 0x40000), map(0x1000, 4096, 0x8000), eof(2));
    const { status, stdout } = run('--json', broken);
    expect(status).to.equal(1);
    const report = JSON.parse(stdout) as { verdict: string; captures: ReplayResult[] };
    expect(report.verdict).to.equal('failed');
    expect(report.captures[0]).to.include({ holds: false, exclusiveBroken: 1, maps: 2 });
  });

  it('exits with 104 and one line for a truncated capture', () => {
    const { status, stdout, stderr } = run(pathOf('no-viommu'), folder.lines(...HEAD));
    expect({ status, stdout }).to.deep.equal({ status: 104, stdout: '' });
    expect(stderr).to.match(/^mdevsim: \S+\.jsonl:2: the capture ends here; expected an eof line[^\n]*\n$/);
  });
});
