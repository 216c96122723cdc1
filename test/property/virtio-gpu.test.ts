/**
 * virtio-gpu under any commands, with pages that are unmapped and mapped between them: every command is answered, only pages
 * that are attached are pinned, and no pin is left.
 */
import { expect } from 'chai';
import fc from 'fast-check';
import { describe, it } from 'mocha';
import { GpuCommand } from '../../src/abi/virtio-gpu.ts';
import { GpuTestDriver } from '../fixtures/virtio-gpu-commands.ts';
import { IOVA_BASE } from '../fixtures/virtio-pci-driver.ts';

const PAGE = 4096;
/** GPA of the backing pages, and their count. */
const MEMORY = 0x10_0000;
const PAGES = 16;
const ERRORS_FROM = 0x1200;

/** Small numbers, which often fit each other, and any word. */
const field = fc.oneof(
  { weight: 6, arbitrary: fc.integer({ min: 0, max: 4 }) },
  { weight: 3, arbitrary: fc.integer({ min: 0, max: 80 }) },
  { weight: 1, arbitrary: fc.integer({ min: 0, max: 0xffff_ffff }) },
);
const piece = fc.record({
  iova: fc.nat(PAGES * PAGE - 1).map((offset) => IOVA_BASE + MEMORY + offset),
  length: fc.oneof(
    { weight: 5, arbitrary: fc.integer({ min: 1, max: 3 * PAGE }) },
    { weight: 1, arbitrary: field },
  ),
});
const page = fc.nat(PAGES - 1);

type Sent =
  | { readonly kind: 'command'; readonly type: number; readonly fields: readonly number[] }
  | {
      readonly kind: 'attach';
      readonly id: number;
      readonly pieces: readonly { readonly iova: number; readonly length: number }[];
    }
  | { readonly kind: 'bytes'; readonly bytes: Uint8Array };
type Remap =
  | { readonly kind: 'unmap'; readonly page: number }
  | { readonly kind: 'map'; readonly page: number };
type Step = Sent | Remap | { readonly kind: 'reset' };

const id = fc.integer({ min: 1, max: 4 });
const side = fc.integer({ min: 1, max: 40 });
const command = (type: number, fields: fc.Arbitrary<number[]>): fc.Arbitrary<Sent> =>
  fields.map((values) => ({ kind: 'command', type, fields: values }));
/** Commands that often fit what is there. */
const fitting = fc.oneof(
  command(GpuCommand.resourceCreate2d, fc.tuple(id, fc.constantFrom(1, 2, 3, 67), side, side)),
  command(
    GpuCommand.transferToHost2d,
    fc.tuple(fc.nat(4), fc.nat(4), side, side, fc.nat(PAGE), fc.constant(0), id, fc.constant(0)),
  ),
  command(GpuCommand.setScanout, fc.tuple(fc.nat(4), fc.nat(4), side, side, fc.constant(0), fc.nat(4))),
  command(GpuCommand.resourceFlush, fc.tuple(fc.nat(4), fc.nat(4), side, side, id, fc.constant(0))),
  command(GpuCommand.resourceDetachBacking, fc.tuple(id, fc.constant(0))),
  command(GpuCommand.resourceUnref, fc.tuple(id, fc.constant(0))),
);

const steps: fc.Arbitrary<Step[]> = fc.array(
  fc.oneof(
    { weight: 12, arbitrary: fitting },
    {
      weight: 6,
      arbitrary: fc.record({
        kind: fc.constant('command' as const),
        type: fc.constantFrom(...Object.values(GpuCommand)),
        fields: fc.array(field, { minLength: 0, maxLength: 9 }),
      }),
    },
    {
      weight: 4,
      arbitrary: fc.record({
        kind: fc.constant('attach' as const),
        id,
        pieces: fc.array(piece, { maxLength: 4 }),
      }),
    },
    {
      weight: 1,
      arbitrary: fc.record({ kind: fc.constant('bytes' as const), bytes: fc.uint8Array({ minLength: 1 }) }),
    },
    { weight: 2, arbitrary: fc.record({ kind: fc.constant('unmap' as const), page }) },
    { weight: 2, arbitrary: fc.record({ kind: fc.constant('map' as const), page }) },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant('reset' as const) }) },
  ),
  { minLength: 20, maxLength: 80 },
);

function bytesOf(driver: GpuTestDriver, sent: Sent): Uint8Array {
  if (sent.kind === 'bytes') return sent.bytes;
  if (sent.kind === 'command') return driver.command(sent.type, ...sent.fields);
  const entries = sent.pieces.flatMap(({ iova, length }) => [iova, 0, length, 0]);
  return driver.command(GpuCommand.resourceAttachBacking, sent.id, sent.pieces.length, ...entries);
}

/** Performs a step. What is sent must be answered. */
function perform(driver: GpuTestDriver, mapped: Set<number>, step: Step): void {
  if (step.kind === 'reset') driver.start(2);
  else if (step.kind === 'unmap' || step.kind === 'map') {
    const at = { iova: IOVA_BASE + MEMORY + step.page * PAGE, size: PAGE };
    if (step.kind === 'unmap' && mapped.delete(step.page)) driver.bus.unmap(at.iova, PAGE);
    else if (step.kind === 'map' && !mapped.has(step.page)) {
      driver.bus.map({ ...at, gpa: MEMORY + step.page * PAGE });
      mapped.add(step.page);
    }
  } else {
    const bytes = bytesOf(driver, step);
    const isCursor = bytes.length >= 4 && bytes[1] === 3;
    expect(driver.respond(bytes, isCursor ? 1 : 0).readUInt32LE(0)).to.be.within(0x1100, ERRORS_FROM + 5);
  }
}

describe('a virtio-gpu', function () {
  this.timeout(60_000);

  it('answers any commands, and keeps no pin beyond its backing memory', () => {
    fc.assert(
      fc.property(steps, (sequence) => {
        const driver = new GpuTestDriver();
        const mapped = new Set(Array.from({ length: PAGES }, (_, index) => index));
        for (const step of sequence) perform(driver, mapped, step);
        console.log(driver.bus.heldPins, driver.bus.metric('commands'), driver.bus.metric('failed commands'));
        const picture = driver.bus.screenshot();
        expect(picture === undefined || picture.length > 0).to.equal(true);
        driver.start(2);
        expect(driver.bus.heldPins).to.equal(0);
        driver.bus.close();
      }),
      { numRuns: 150 },
    );
  });
});
