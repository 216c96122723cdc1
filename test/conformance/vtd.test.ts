/**
 * Recorded vectors of a real VT-d model, legacy mode. Their format is that of the folder test/data/vtd.
 */
import { expect } from 'chai';
import { after, describe, it } from 'mocha';
import { Prng } from '#host';
import type { Hpa } from '../../src/address/address.ts';
import { GuestRam } from '../../src/host/guest-ram.ts';
import { HPA_BASE } from '../../src/host/host-memory.ts';
import { loadVectors, ReusableRam, type Vector, VectorRun } from './vtd-runner.ts';

/** The recorded machine: [0, 2 GiB) and [4 GiB, 6 GiB). Only what a vector touches is ever committed. */
const TWO_GIB = 2 ** 31;

/** Steps where this model answers otherwise on purpose: `vector/name: step index` → why. */
const DEVIATIONS: ReadonlyMap<string, string> = new Map();

const legacy = ({ iommu }: Vector): boolean => !iommu.scalable;

describe('VT-d vectors, legacy mode', () => {
  const files = loadVectors(new URL('../data/vtd/', import.meta.url));
  const ram = new ReusableRam(GuestRam.allocate(HPA_BASE as Hpa, TWO_GIB, TWO_GIB, new Prng(1)).handle);
  const totals = { vectors: 0, compared: 0, skipped: 0, scalable: 0 };

  for (const [file, vectors] of files) {
    totals.scalable += vectors.filter((vector) => !legacy(vector)).length;
    it(`${file}: ${vectors.filter(legacy).length} vectors`, () => {
      const failures: string[] = [];
      for (const vector of vectors.filter(legacy)) {
        const outcome = new VectorRun(ram, vector).run();
        ram.clear();
        totals.vectors++;
        totals.compared += outcome.compared;
        totals.skipped += outcome.skipped;
        for (const failure of outcome.failures)
          if (!DEVIATIONS.has(`${vector.name}: ${failure.split(' ', 2).join(' ')}`))
            failures.push(`${vector.name}: ${failure}`);
      }
      expect(failures).to.deep.equal([]);
    });
  }

  after(() => {
    console.log(
      `    ${totals.vectors} vectors, ${totals.compared} steps compared, ${totals.skipped} not compared ` +
        `(implementation-defined or QEMU quirk); ${totals.scalable} vectors of these files not run: scalable mode is not modelled`,
    );
  });
});
