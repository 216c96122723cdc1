import { expect } from 'chai';
import fc from 'fast-check';
import { PAGE_SIZE } from '../../src/memory/address.ts';
import { MappingStore } from '../../src/vfio/mapping-store.ts';

interface Row {
  readonly iova: number;
  readonly size: number;
  readonly vaddr: number;
  readonly perm: number;
}

/** The same mappings in an array that is sorted at each query. */
class Model {
  rows: Row[] = [];

  overlapping(start: number, end: number): Row | undefined {
    return this.sorted()
      .filter(({ iova, size }) => iova < end && iova + size > start)
      .at(-1);
  }

  sorted(): Row[] {
    return [...this.rows].sort((a, b) => a.iova - b.iova);
  }
}

const rowsOf = (columns: MappingStore, start = 0, end = Number.POSITIVE_INFINITY): Row[] => {
  const rows: Row[] = [];
  columns.forEach(start, end, (iova, size, vaddr, perm) => {
    rows.push({ iova, size, vaddr, perm });
  });
  return rows;
};

/** Adds a mapping to both if none overlaps. */
function add(columns: MappingStore, model: Model, row: Row): void {
  const other = model.overlapping(row.iova, row.iova + row.size);
  const found = columns.overlapping(row.iova, row.iova + row.size);
  expect(found).to.equal(other?.iova ?? -1);
  if (other) expect(columns.found).to.deep.equal(other);
  else {
    columns.add(row.iova, row.size, row.vaddr, row.perm);
    model.rows.push(row);
  }
}

/** Adds a run of pages, in one call if the whole range is free. */
function addRun(columns: MappingStore, model: Model, iova: number, count: number): void {
  const rows = Array.from({ length: count }, (_, i) => ({
    iova: iova + i * PAGE_SIZE,
    size: PAGE_SIZE,
    vaddr: i * PAGE_SIZE,
    perm: 3,
  }));
  if (model.overlapping(iova, iova + count * PAGE_SIZE)) for (const row of rows) add(columns, model, row);
  else {
    columns.addRun(
      iova,
      PAGE_SIZE,
      Float64Array.from(rows, ({ vaddr }) => vaddr),
      count,
      3,
    );
    model.rows.push(...rows);
  }
}

const page = fc.integer({ min: 0, max: 4000 });
const operation = fc.oneof(
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant('run' as const),
      page,
      count: fc.integer({ min: 1, max: 900 }),
    }),
  },
  {
    weight: 6,
    arbitrary: fc.record({ kind: fc.constant('add' as const), page, count: fc.integer({ min: 1, max: 9 }) }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant('remove' as const),
      page,
      count: fc.integer({ min: 1, max: 1200 }),
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('clear' as const), page, count: fc.constant(0) }) },
);

describe('mapping store', () => {
  it('has the content of an array of mappings, through splits and empty chunks', () => {
    fc.assert(
      fc.property(fc.array(operation, { maxLength: 24 }), page, (operations, probe) => {
        const [columns, model] = [new MappingStore(), new Model()];
        for (const { kind, page: first, count } of operations) {
          const iova = first * PAGE_SIZE;
          if (kind === 'add')
            add(columns, model, { iova, size: count * PAGE_SIZE, vaddr: first, perm: 1 + (first % 3) });
          else if (kind === 'run') addRun(columns, model, iova, count);
          else if (kind === 'remove') {
            for (const row of model
              .sorted()
              .filter((r) => r.iova >= iova)
              .slice(0, count))
              expect(columns.remove(row.iova)).to.equal(true);
            const gone = new Set(
              model
                .sorted()
                .filter((r) => r.iova >= iova)
                .slice(0, count),
            );
            model.rows = model.rows.filter((row) => !gone.has(row));
            expect(columns.remove(iova + 1)).to.equal(false);
          } else {
            columns.clear();
            model.rows = [];
          }
          expect(columns.size).to.equal(model.rows.length);
        }
        expect(rowsOf(columns)).to.deep.equal(model.sorted());
        const [start, end] = [probe * PAGE_SIZE + 1, (probe + 700) * PAGE_SIZE];
        const touched = model.sorted().filter(({ iova, size }) => iova < end && iova + size > start);
        expect(rowsOf(columns, start, end)).to.deep.equal(touched);
        const cover = model.sorted().find(({ iova, size }) => iova <= start && iova + size > start);
        expect(columns.covering(start)).to.equal(cover?.iova ?? -1);
        if (cover) {
          expect(columns.found).to.deep.equal(cover);
          expect(columns.has(cover.iova, cover.size, cover.vaddr, cover.perm)).to.equal(true);
        }
        expect(columns.has(start, PAGE_SIZE, 0, 3)).to.equal(false);
      }),
      { numRuns: 40 },
    );
  });

  it('stops a visit on request', () => {
    const columns = new MappingStore();
    for (let i = 0; i < 2000; i++) columns.add(i * PAGE_SIZE, PAGE_SIZE, 0, 3);
    let seen = 0;
    columns.forEach(0, Number.POSITIVE_INFINITY, () => ++seen < 700);
    expect(seen).to.equal(700);
  });
});
