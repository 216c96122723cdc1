/**
 * Harnesses of the pin table: DMA sections, pins and leaf tables against maps and unmaps.
 *
 * The oracle has one word for each host frame: the IOVA page that may use it, or 0. It follows rule R6: an unmap clears
 * it when it is complete, before the frame is mapped elsewhere.
 */
import { type Hpa, type Iova, PAGE_2M, PAGE_SIZE, PERM_READ, PERM_RW } from '../../memory/address.ts';
import { PinTableReader } from '../../pin-table/reader.ts';
import { PinTableWriter } from '../../pin-table/writer.ts';
import { ensure, explore, type Harness, peek, poke, wordsOf } from '../sdk.ts';

/** First host frame of the harnesses. */
const FRAME_BASE = 16;
const FRAMES = 4;
const UNUSED = 0;
/** Limit of a wait; the model ends none by it. */
const WAIT_MS = 1000;

/** The writer of a table with the steps of an unmap in the container's order. */
class Mapper {
  readonly table = new PinTableWriter(6);
  readonly owners = wordsOf(new SharedArrayBuffer(FRAMES * 4));

  readonly readers: readonly PinTableReader[];

  constructor(readers: number) {
    this.readers = Array.from(
      { length: readers },
      () => new PinTableReader(this.table.sab, this.table.addReader()),
    );
  }

  map(page: number, frame: number): void {
    poke(this.owners, frame, page);
    this.table.map((page * PAGE_SIZE) as Iova, ((FRAME_BASE + frame) * PAGE_SIZE) as Hpa, PAGE_SIZE, PERM_RW);
  }

  /**
   * Unmaps a range with the page `page`, and waits until no reader can use it. Calls `meanwhile` before that wait: a
   * container may map again as soon as the entries are cleared.
   */
  async unmap(
    page: number,
    frame: number,
    size: number = PAGE_SIZE,
    meanwhile: () => void = () => {},
  ): Promise<void> {
    const iova = (Math.floor((page * PAGE_SIZE) / size) * size) as Iova;
    this.table.invalidate(iova, size);
    while (this.table.pins(iova, size) > 0) await this.table.waitPins(iova, size, WAIT_MS);
    this.table.clear(iova, size);
    meanwhile();
    this.table.bump();
    for (let waiting = this.table.waitDrained(WAIT_MS); waiting; waiting = this.table.waitDrained(WAIT_MS))
      await waiting;
    this.table.reclaim();
    poke(this.owners, frame, UNUSED);
  }

  /** Checks that host frame `pfn` belongs to `page` now. */
  use(page: number, pfn: number): void {
    const owner = peek(this.owners, pfn - FRAME_BASE);
    ensure(owner === page, 'R6', `page ${page} is used through frame ${pfn}, which belongs to page ${owner}`);
  }
}

/** Looks up and uses a page in sections. */
function useInSections(mapper: Mapper, reader: PinTableReader, pages: readonly number[]): void {
  for (const page of pages) {
    reader.enter();
    const leaf = reader.lookup(page * PAGE_SIZE);
    if (leaf !== 0) {
      reader.lookup(page * PAGE_SIZE + 1);
      mapper.use(page, leaf >>> 2);
    }
    reader.exit();
  }
}

/** Pins a page, uses it and unpins it. */
function usePinned(mapper: Mapper, reader: PinTableReader, page: number, times: number): void {
  for (let i = 0; i < times; i++) {
    const pfn = reader.pin(page * PAGE_SIZE, PERM_READ);
    if (pfn < 0) continue;
    mapper.use(page, pfn);
    ensure(reader.unpin(page * PAGE_SIZE), 'pins balanced', `the pinned page ${page} is not mapped`);
  }
}

const balanced = (mapper: Mapper, pages: readonly number[]): void => {
  for (const page of pages) {
    const pins = mapper.table.pins((page * PAGE_SIZE) as Iova, PAGE_SIZE);
    ensure(pins === 0, 'pins balanced', `${pins} pins of page ${page} are left`);
    const linked = mapper.table.pins((Math.floor(page / 512) * PAGE_2M) as Iova, PAGE_2M);
    ensure(linked === 0, 'pins balanced', `${linked} pins of the leaf table of page ${page} are left`);
  }
};

/** Two readers in sections; an unmap whose frame is reused for another page. */
export const dmaSections: Harness<Mapper> = explore({
  name: 'dma-sections',
  setup: () => {
    const mapper = new Mapper(2);
    mapper.map(1, 0);
    return mapper;
  },
  threads: {
    writer: async (mapper) => {
      await mapper.unmap(1, 0);
      mapper.map(2, 0);
    },
    reader0: (mapper) => useInSections(mapper, mapper.readers[0] as PinTableReader, [1, 2]),
    reader1: (mapper) => useInSections(mapper, mapper.readers[1] as PinTableReader, [1, 1]),
  },
});

/** Two readers that pin; an unmap whose frame is reused, and the same page mapped again. */
export const pins: Harness<Mapper> = explore({
  name: 'pins',
  setup: () => {
    const mapper = new Mapper(2);
    mapper.map(1, 0);
    mapper.map(3, 1);
    return mapper;
  },
  threads: {
    writer: async (mapper) => {
      await mapper.unmap(1, 0);
      mapper.map(1, 2);
      mapper.map(2, 0);
      await mapper.unmap(1, 2);
    },
    reader0: (mapper) => usePinned(mapper, mapper.readers[0] as PinTableReader, 1, 2),
    reader1: (mapper) => usePinned(mapper, mapper.readers[1] as PinTableReader, 1, 1),
  },
  check: (mapper) => balanced(mapper, [1, 2, 3]),
});

/** Pins of a page of a leaf table that an unmap drops as a whole, at its link. */
export const links: Harness<Mapper> = explore({
  name: 'links',
  setup: () => {
    const mapper = new Mapper(2);
    mapper.map(1, 0);
    return mapper;
  },
  threads: {
    writer: async (mapper) => {
      await mapper.unmap(1, 0, PAGE_2M);
      mapper.map(1, 1);
      mapper.map(513, 0);
      await mapper.unmap(1, 1);
    },
    reader0: (mapper) => usePinned(mapper, mapper.readers[0] as PinTableReader, 1, 2),
    reader1: (mapper) => useInSections(mapper, mapper.readers[1] as PinTableReader, [1, 513]),
  },
  check: (mapper) => balanced(mapper, [1, 513]),
});

/** Pins of a page that is mapped again, to another frame and in a new table, while its unmap still drains. */
export const relinked: Harness<Mapper> = explore({
  name: 'relinked',
  setup: () => {
    const mapper = new Mapper(1);
    mapper.map(1, 0);
    mapper.map(513, 3);
    return mapper;
  },
  threads: {
    writer: async (mapper) => {
      await mapper.unmap(1, 0, PAGE_SIZE, () => mapper.map(1, 1));
      mapper.map(2, 0);
      await mapper.unmap(1, 1, PAGE_2M, () => mapper.map(1, 2));
    },
    reader: (mapper) => usePinned(mapper, mapper.readers[0] as PinTableReader, 1, 3),
  },
  check: (mapper) => balanced(mapper, [1, 2, 513]),
});

/** Pins of a page that is mapped again, to another frame in the same table, while its unmap still drains. */
export const remapped: Harness<Mapper> = explore({
  name: 'remapped',
  setup: () => {
    const mapper = new Mapper(1);
    mapper.map(1, 0);
    mapper.map(3, 3);
    return mapper;
  },
  threads: {
    writer: async (mapper) => {
      await mapper.unmap(1, 0, PAGE_SIZE, () => mapper.map(1, 1));
      mapper.map(2, 0);
    },
    reader: (mapper) => usePinned(mapper, mapper.readers[0] as PinTableReader, 1, 2),
  },
  check: (mapper) => balanced(mapper, [1, 2, 3]),
});
