/**
 * Audits of a VM's containers: which differences count, and how they are reported.
 */
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { VmAudit } from '../../src/coordinator/vm/vm-audit.ts';
import { addressSpaceRig, Tables, translation } from '../fixtures/address-space-rig.ts';

const PAGE = 0x1000;

/** A VM of devices with two pages each, and the violations that its audits record. */
function rig(devices = 1) {
  const spaces = Array.from({ length: devices }, () => {
    const { container, space } = addressSpaceRig();
    const tables = new Tables(translation(PAGE, PAGE), translation(2 * PAGE, 2 * PAGE));
    space.enterIommu(tables);
    return { container, space, tables };
  });
  const violations: (readonly [device: number, kind: string, detail: string])[] = [];
  const parts = spaces.map(({ space }, index) => ({ index, name: `vm0/gpu${index}`, alive: true, space }));
  const posted: (() => void)[] = [];
  const audit = new VmAudit({
    devices: parts,
    trace: { violation: (device, kind, detail) => violations.push([device, kind, detail]) },
    async quiesce(work) {
      for (const each of posted.splice(0)) each();
      work();
    },
  });
  return { audit, spaces, parts, violations, posted };
}

describe("an audit of a VM's containers", () => {
  it('counts no differences where there are none, and itself', async () => {
    const { audit, violations } = rig(2);
    expect([await audit.begin(), await audit.end()]).to.deep.equal([0, 0]);
    await audit.last();
    expect([violations, audit.count]).to.deep.equal([[], 2]);
  });

  it('reports each missed invalidation with device, IOVA and both sides', async () => {
    const { audit, spaces, violations } = rig(2);
    spaces[1]!.tables.list = [translation(2 * PAGE, 5 * PAGE), translation(3 * PAGE, PAGE)];
    expect([await audit.begin(), await audit.end()]).to.deep.equal([3, 3]);
    const text = (iova: string, held: string, expected: string) =>
      `vm0/gpu1 IOVA ${iova} +0x1000: container maps ${held}, the guest's tables say ${expected}`;
    expect(violations).to.deep.equal([
      [1, 'missed-invalidation', text('0x1000', '0x1000', 'nothing')],
      [1, 'missed-invalidation', text('0x2000', '0x2000', '0x5000')],
      [1, 'missed-invalidation', text('0x3000', 'nothing', '0x1000')],
    ]);
  });

  it('serves what the guest has posted before each reading', async () => {
    const { audit, spaces, violations, posted } = rig();
    const [{ space, tables }] = spaces as [(typeof spaces)[0]];
    tables.list = [];
    posted.push(() => space.sync(PAGE, 2 * PAGE));
    expect(await audit.begin()).to.equal(1);
    posted.push(() => space.sync(2 * PAGE, 3 * PAGE));
    expect([await audit.end(), violations]).to.deep.equal([0, []]);
  });

  it('counts translations that a container lacks; at the end they are violations', async () => {
    const { audit, spaces, violations } = rig();
    const [{ container, space, tables }] = spaces as [(typeof spaces)[0]];
    container.capacity = 2;
    tables.list = [...tables.list, translation(3 * PAGE, 0), translation(4 * PAGE, 0)];
    space.sync(0, 2 ** 48);
    expect([await audit.begin(), await audit.end(), violations]).to.deep.equal([0, 2, []]);
    await audit.last();
    expect(violations).to.deep.equal([
      [
        0,
        'not-mapped',
        "vm0/gpu0 lacks 2 translations of the guest's tables, the first at IOVA 0x3000 +0x1000: ENOSPC: no room",
      ],
    ]);
  });

  it('leaves out devices that are lost', async () => {
    const { audit, spaces, parts, violations } = rig();
    spaces[0]!.tables.list = [];
    parts[0]!.alive = false;
    await audit.last();
    expect(violations).to.deep.equal([]);
  });

  it('finds at the end what the script has never announced', async () => {
    const { audit, spaces, violations } = rig();
    spaces[0]!.tables.list = [];
    await audit.last();
    expect(violations.map(([, kind]) => kind)).to.deep.equal(['missed-invalidation', 'missed-invalidation']);
  });
});
