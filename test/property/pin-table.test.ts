import { expect } from 'chai';
import fc from 'fast-check';
import { describe, it } from 'mocha';
import {
  type Hpa,
  type Iova,
  PAGE_1G,
  PAGE_2M,
  PAGE_SIZE,
  PERM_READ,
  PERM_RW,
} from '../../src/memory/address.ts';
import { HIGH_IOVA_LIMIT, TABLE_IOVA_LIMIT } from '../../src/pin-table/layout.ts';
import { PinTableFullError } from '../../src/pin-table/node-pool.ts';
import { framePerm, framePfn, PIN_DENIED, PIN_UNMAPPED } from '../../src/pin-table/reader.ts';
import { PinTableWriter } from '../../src/pin-table/writer.ts';
import { HPA_LIMIT, PinTableRig } from '../fixtures/pin-table-rig.ts';

interface Mapping {
  readonly iova: number;
  readonly hpa: number;
  readonly size: number;
  readonly perm: number;
}

/** The reference model: a list of mappings, and pins per page. */
class Model {
  readonly mappings: Mapping[] = [];
  readonly pins = new Map<number, number>();

  overlaps(iova: number, size: number): boolean {
    return this.mappings.some((m) => iova < m.iova + m.size && m.iova < iova + size);
  }

  at(iova: number): Mapping | undefined {
    return this.mappings.find((m) => iova >= m.iova && iova < m.iova + m.size);
  }

  /** Returns the host PFN of the page at `iova`. */
  pfn(iova: number): number | undefined {
    const m = this.at(iova);
    return m && Math.floor((m.hpa + (iova - m.iova)) / PAGE_SIZE);
  }

  pinsIn(m: Mapping): number {
    let pins = 0;
    for (const [page, count] of this.pins)
      if (page * PAGE_SIZE >= m.iova && page * PAGE_SIZE < m.iova + m.size) pins += count;
    return pins;
  }
}

/** Returns the pages at the edges of a mapping and of its leaves. */
function probesOf({ iova, size }: Mapping): number[] {
  const inside = [0, PAGE_SIZE, PAGE_2M - PAGE_SIZE, PAGE_2M, PAGE_1G - PAGE_SIZE, PAGE_1G, size - PAGE_SIZE];
  return [iova - PAGE_SIZE, iova + size, ...inside.filter((at) => at < size).map((at) => iova + at)];
}

function checkLookups(model: Model, system: PinTableRig, probes: readonly number[]): void {
  for (const iova of probes) {
    if (iova < 0) continue;
    const leaf = system.lookup(iova);
    const expected = model.at(iova);
    expect(framePerm(leaf), `permission at ${iova.toString(16)}`).to.equal(expected?.perm ?? 0);
    if (expected) expect(framePfn(leaf), `frame at ${iova.toString(16)}`).to.equal(model.pfn(iova));
  }
}

type Command = fc.Command<Model, PinTableRig>;

class MapCommand implements Command {
  readonly mapping: Mapping;
  constructor(mapping: Mapping) {
    this.mapping = mapping;
  }
  check(model: Readonly<Model>): boolean {
    return !model.overlaps(this.mapping.iova, this.mapping.size);
  }
  run(model: Model, system: PinTableRig): void {
    const { iova, hpa, size, perm } = this.mapping;
    const leaves = system.writer.map(iova as Iova, hpa as Hpa, size, perm);
    expect(leaves).to.be.within(1, size / PAGE_SIZE);
    model.mappings.push(this.mapping);
    checkLookups(model, system, probesOf(this.mapping));
  }
  toString(): string {
    const { iova, hpa, size, perm } = this.mapping;
    return `map(${iova.toString(16)}, ${hpa.toString(16)}, ${size.toString(16)}, ${perm})`;
  }
}

/** A command on one page of one mapping; two numbers select the mapping and the page. */
abstract class OnMapping implements Command {
  readonly choice: number;
  readonly page: number;
  constructor(choice: number, page: number) {
    this.choice = choice;
    this.page = page;
  }
  check(model: Readonly<Model>): boolean {
    return model.mappings.length > 0;
  }
  run(model: Model, system: PinTableRig): void {
    const mapping = model.mappings[this.choice % model.mappings.length] as Mapping;
    const page = mapping.iova / PAGE_SIZE + (this.page % (mapping.size / PAGE_SIZE));
    this.act(model, system, mapping, page);
  }
  protected abstract act(model: Model, system: PinTableRig, mapping: Mapping, page: number): void;
  toString(): string {
    return `${this.constructor.name}(${this.choice}, ${this.page})`;
  }
}

class Pin extends OnMapping {
  protected act(model: Model, system: PinTableRig, mapping: Mapping, page: number): void {
    const iova = page * PAGE_SIZE;
    for (const perm of [1, 2, 3]) {
      const answer = system.reader.pin(iova + 8, perm);
      if ((mapping.perm & perm) !== perm) {
        expect(answer, 'pin beyond the permission').to.equal(PIN_DENIED);
        continue;
      }
      expect(answer).to.equal(model.pfn(iova));
      model.pins.set(page, (model.pins.get(page) ?? 0) + 1);
    }
    expect(system.writer.pins(mapping.iova as Iova, mapping.size)).to.equal(model.pinsIn(mapping));
  }
}

class Unpin extends OnMapping {
  protected act(model: Model, system: PinTableRig, mapping: Mapping): void {
    const pinned = [...model.pins.keys()].find((page) => model.at(page * PAGE_SIZE) === mapping);
    if (pinned === undefined) return;
    expect(system.reader.unpin(pinned * PAGE_SIZE)).to.equal(true);
    const left = (model.pins.get(pinned) as number) - 1;
    if (left > 0) model.pins.set(pinned, left);
    else model.pins.delete(pinned);
    expect(system.writer.pins(mapping.iova as Iova, mapping.size)).to.equal(model.pinsIn(mapping));
  }
}

class Unmap extends OnMapping {
  protected act(model: Model, system: PinTableRig, mapping: Mapping, page: number): void {
    const iova = mapping.iova as Iova;
    const pins = model.pinsIn(mapping);
    expect(system.writer.invalidate(iova, mapping.size), 'pins at the unmap').to.equal(pins);
    expect(system.reader.pin(page * PAGE_SIZE, 0), 'a pin after the invalidation').to.equal(PIN_UNMAPPED);
    for (const [held, count] of [...model.pins]) {
      if (model.at(held * PAGE_SIZE) !== mapping) continue;
      expect(framePfn(system.lookup(held * PAGE_SIZE)), 'a pinned frame').to.equal(
        model.pfn(held * PAGE_SIZE),
      );
      for (let i = 0; i < count; i++) system.reader.unpin(held * PAGE_SIZE);
      model.pins.delete(held);
    }
    expect(system.writer.pins(iova, mapping.size)).to.equal(0);
    system.unmap(iova, mapping.size);
    model.mappings.splice(model.mappings.indexOf(mapping), 1);
    checkLookups(model, system, [...probesOf(mapping), page * PAGE_SIZE]);
    expect(system.reader.pin(page * PAGE_SIZE, PERM_READ)).to.equal(PIN_UNMAPPED);
    expect(system.reader.unpin(page * PAGE_SIZE)).to.equal(false);
  }
}

const unitSize = fc.constantFrom(PAGE_SIZE, PAGE_2M, PAGE_1G);

/** Addresses near leaf boundaries: a multiple of one leaf size, plus or minus a few pages. */
const address = (limit: number) =>
  fc
    .tuple(unitSize, fc.nat(4), fc.constantFrom(0, 0, -1, 1, 511, 512), fc.boolean())
    .map(([unit, n, off, high]) => {
      const base = n * unit + off * PAGE_SIZE;
      return high ? limit - 8 * PAGE_1G + base : Math.max(0, base);
    });

const size = fc.oneof(
  fc.integer({ min: 1, max: 1030 }).map((pages) => pages * PAGE_SIZE),
  fc.integer({ min: 1, max: 3 }).map((n) => n * PAGE_2M),
  fc.constantFrom(PAGE_1G, PAGE_1G + PAGE_2M + PAGE_SIZE),
);

const mappingBelow = (limit: number): fc.Arbitrary<Mapping> =>
  fc
    .record({
      iova: fc.oneof(address(TABLE_IOVA_LIMIT), address(limit)),
      hpa: address(HPA_LIMIT),
      size,
      perm: fc.integer({ min: 1, max: 3 }),
    })
    // A large misaligned mapping writes half a million leaves. It is valid, but takes too long here.
    .filter((m) => m.size < PAGE_1G || (m.iova - m.hpa) % PAGE_2M === 0);

describe('pin table compared with a plain map', () => {
  for (const [iovaBits, limit] of [
    [48, TABLE_IOVA_LIMIT],
    [57, HIGH_IOVA_LIMIT],
  ] as const)
    it(`has equal lookups, pins and unmaps of ${iovaBits}-bit IOVAs, and frees all nodes`, () => {
      const mapping = mappingBelow(limit);
      const choice = fc.tuple(fc.nat(20), fc.nat(2 ** 20));
      const commands = fc.commands<Model, PinTableRig>(
        [
          mapping.map((m) => new MapCommand(m)),
          mapping.map((m) => new MapCommand(m)),
          choice.map(([a, b]) => new Pin(a, b)),
          choice.map(([a, b]) => new Pin(a, b)),
          choice.map(([a, b]) => new Unpin(a, b)),
          choice.map(([a, b]) => new Unmap(a, b)),
        ],
        { maxCommands: 60, size: 'max' },
      );
      fc.assert(
        fc.property(commands, (list) => {
          const real = new PinTableRig(256, iovaBits);
          const model = new Model();
          fc.modelRun(() => ({ model, real }), list);
          checkLookups(model, real, model.mappings.flatMap(probesOf));
          for (const m of model.mappings) {
            real.writer.forceUnpin(m.iova as Iova, m.size);
            real.unmap(m.iova, m.size);
          }
          expect(real.writer.nodesInUse).to.equal(0);
        }),
        { numRuns: 150 },
      );
    });

  it('needs exactly the nodes that it uses, and refuses a whole map when one is missing', () => {
    const extents = fc.array(fc.record({ hpa: address(HPA_LIMIT), size }), { minLength: 1, maxLength: 4 });
    fc.assert(
      fc.property(address(TABLE_IOVA_LIMIT), extents, (iova, list) => {
        const pieces = list.filter((e) => e.size < PAGE_1G).map((e) => ({ hpa: e.hpa as Hpa, size: e.size }));
        const roomy = new PinTableWriter(64);
        roomy.mapExtents(iova as Iova, pieces, PERM_RW);
        const needed = roomy.nodesInUse;
        const exact = new PinTableWriter(needed);
        exact.mapExtents(iova as Iova, pieces, PERM_RW);
        expect(exact.nodesInUse).to.equal(needed);
        if (needed === 0) return;
        const short = new PinTableRig(needed - 1);
        expect(() => short.writer.mapExtents(iova as Iova, pieces, PERM_RW)).to.throw(PinTableFullError);
        expect(short.writer.nodesInUse).to.equal(0);
        let at = iova;
        for (const piece of pieces) {
          expect(short.lookup(at)).to.equal(0);
          at += piece.size;
        }
      }),
      { numRuns: 150 },
    );
  });
});
