/**
 * Compares the VFIO model with recorded vectors of a Linux kernel's mdev core and type1 container.
 */
import { readdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import { after, describe, it } from 'mocha';
import { runVector, runVectorFile } from '../../src/conformance/vfio/run.ts';
import { readVectorFile, type Step, type Vector } from '../../src/conformance/vfio/vector-file.ts';

const FOLDER = fileURLToPath(new URL('../data/vfio/', import.meta.url));
const FILES = readdirSync(FOLDER).filter((name) => name.endsWith('.json.gz'));

describe('VFIO vectors', () => {
  const skips: string[] = [];
  const totals = { vectors: 0, steps: 0 };

  for (const name of FILES.sort())
    it(name, () => {
      const { vectors } = runVectorFile(readVectorFile(FOLDER + name));
      const failed = vectors.filter(({ verdict }) => verdict === 'failed');
      skips.push(...vectors.filter((v) => v.verdict === 'skipped').map((v) => `${v.name}: ${v.reason}`));
      totals.vectors += vectors.length;
      totals.steps += vectors.reduce((sum, { steps }) => sum + steps, 0);
      expect(failed).to.deep.equal([]);
    });

  after(() => {
    console.log(`    ${totals.vectors} vectors, ${totals.steps} steps; ${skips.length} skipped`);
    for (const skip of skips) console.log(`    - ${skip}`);
  });
});

/** Fields that the runner must compare, each with a value that the kernel did not return. */
const CORRUPTIONS: readonly (readonly [file: string, vector: string, step: number, change: Partial<Step>])[] =
  [
    ['C_map_unmap', 'c_bisect.v2', 8, { errno: 'EEXIST' }],
    ['C_map_unmap', 'c_bisect.v2', 22, { size_out: '0xf000' }],
    ['C_map_unmap', 'c_bisect.v2', 23, { caps: [] }],
    ['D_pin_rw', 'd_basic', 6, { pages: ['buf+0x1000'] }],
    ['D_pin_rw', 'd_basic', 6, { vmlck_kb: 8 }],
    ['D_pin_rw', 'd_count', 12, { klog: [] }],
    ['D_pin_rw', 'd_basic', 11, { dma_unmap_cb: [] }],
    ['E_dirty', 'e_unmap', 15, { bitmap_sane: '4a00000000000000' }],
    ['F_device', 'f_info_y0', 9, { size: '0x100000' }],
    ['F_device', 'f_msi', 9, { count: 2 }],
    ['A_mdev_lifecycle', 'a_remove_open', 8, { state_after_1500ms: 'done' }],
    ['X_bug', 'x_ignore', 9, { klog: [] }],
  ];

describe('the runner of VFIO vectors', () => {
  for (const [file, name, step, change] of CORRUPTIONS)
    it(`detects a different ${Object.keys(change).join()} at ${name} step ${step}`, () => {
      const { vectors } = readVectorFile(`${FOLDER}${file}.json.gz`);
      const vector = structuredClone(vectors.find((candidate) => candidate.name === name) as Vector);
      expect(runVector(vector, file).verdict).to.equal('passed');
      Object.assign(vector.steps[step] as Step, change);
      const { differences } = runVector(vector, file);
      expect(differences.map((difference) => [difference.step, difference.field])).to.deep.equal([
        [step, Object.keys(change)[0]?.replace('bitmap_sane', 'bitmap')],
      ]);
    });
});
