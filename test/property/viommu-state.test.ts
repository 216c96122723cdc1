/**
 * A guest cannot detect that it moved to another host with its vIOMMU's state; see test/fixtures/viommu-state-
 * twin.ts.
 */

import { expect } from 'chai';
import fc from 'fast-check';
import { describe, it } from 'mocha';
import { yieldTurn } from '#host';
import * as amdvi from '../../src/abi/amdvi.ts';
import * as vtd from '../../src/abi/vtd.ts';
import type { VIommu } from '../../src/viommu/viommu.ts';
import { TwinRam, TwinWorld } from '../fixtures/viommu-state-twin.ts';
import type { Draw } from '../fuzz/draw.ts';
import { KIND_NAMES, KINDS, type Kind } from '../fuzz/viommu.ts';

/** The count of programs of each kind, and the maximum step before which they move. */
const RUNS: Readonly<Record<Kind, number>> = {
  'vtd-legacy': 150,
  'vtd-scalable': 150,
  amd: 200,
  virtio: 200,
  spapr: 200,
};
const CUT_MAX = 20;

/**
 * Sets a new VT-d root and a new interrupt table, which drops all cached entries, also for devices with a container. Source and target then
 * know only the tables in RAM. Registers that a later command activates may be rewritten after it.
 */
async function setNewRoot(iommu: VIommu, draw: Draw): Promise<void> {
  const status = Number(iommu.readRegister(vtd.GSTS_REG, 4)) & ~vtd.GSTS_ONE_SHOT;
  await iommu.writeRegister(vtd.GCMD_REG, 4, BigInt((status | vtd.GCMD_SRTP | vtd.GCMD_SIRTP) >>> 0));
  if (draw.chance(50)) return;
  for (const register of [vtd.RTADDR_REG, vtd.IQA_REG, vtd.IRTA_REG])
    await iommu.writeRegister(register, 8, draw.wide());
}

/** Disables and enables an AMD-Vi unit, which rereads every entry. */
async function toggle(iommu: VIommu): Promise<void> {
  const control = iommu.readRegister(amdvi.CONTROL_REG, 8);
  await iommu.writeRegister(amdvi.CONTROL_REG, 8, control & ~amdvi.CONTROL.IOMMU_EN);
  await iommu.writeRegister(amdvi.CONTROL_REG, 8, control);
}

const FLUSHES: Partial<Readonly<Record<Kind, (iommu: VIommu, draw: Draw) => Promise<void>>>> = {
  'vtd-legacy': setNewRoot,
  'vtd-scalable': setNewRoot,
  amd: toggle,
};

describe('vIOMMU on another host', function () {
  this.timeout(120_000);
  const rams = new TwinRam();

  for (const kind of KIND_NAMES)
    it(`keeps registers, containers, faults, translations and RAM: ${kind}`, async () => {
      const compared = { steps: 0, mappings: 0 };
      const moved = fc.asyncProperty(fc.integer(), fc.nat(CUT_MAX), async (seed, cutAt) => {
        const world = new TwinWorld(rams, seed, cutAt, FLUSHES[kind] ?? (() => yieldTurn()));
        await KINDS[kind](world);
        await world.close();
        compared.steps += world.compared.steps;
        compared.mappings += world.compared.mappings;
      });
      await fc.assert(moved, { numRuns: RUNS[kind] });
      // Some programs end before the move, and garbage maps nothing. Enough programs must do neither.
      expect(compared.steps).to.be.greaterThan(3 * RUNS[kind]);
      expect(compared.mappings).to.be.greaterThan(10 * RUNS[kind]);
    });
});
