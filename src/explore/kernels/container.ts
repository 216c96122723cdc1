/**
 * Harnesses of a whole container: maps, unmaps and switches against a device that pins, and one that uses sections.
 */
import { type Hpa, type Iova, PAGE_SIZE, PERM_READ, PERM_RW } from '../../memory/address.ts';
import { HPA_BASE } from '../../memory/host-memory.ts';
import { PIN_UNMAPPED, PinTableReader } from '../../pin-table/reader.ts';
import { PinTableWriter } from '../../pin-table/writer.ts';
import { Container, type DmaUser } from '../../vfio/container.ts';
import {
  add,
  ensure,
  explore,
  type Harness,
  ld,
  peek,
  poke,
  type SharedWords,
  st,
  waitEq,
  wake,
  wordsOf,
} from '../sdk.ts';

const WAIT_MS = 1000;
const FRAMES = 4;
const UNUSED = -1;
/** Words of a device: it is asked to unpin, and its bell. */
const ASKED = 0;
const BELL = 1;

/** A device that is asked through a word to unpin. */
class Device implements DmaUser {
  readonly name: string;
  readonly slot: number;
  readonly reader: PinTableReader;
  readonly words = wordsOf(new SharedArrayBuffer(16));

  constructor(name: string, table: PinTableWriter) {
    this.name = name;
    this.slot = table.addReader();
    this.reader = new PinTableReader(table.sab, this.slot);
  }
  dmaUnmap(): void {
    st(this.words, ASKED, 1, 'device.asked');
    this.wake();
  }
  wake(): void {
    add(this.words, BELL, 1, 'device.bell');
    wake(this.words, BELL, 'device.bell');
  }
  async quarantine(kind: string, detail: string): Promise<void> {
    ensure(false, 'R7', `quarantine of ${this.name}: ${kind}, ${detail}`);
  }
}

/** A container over FRAMES pages of memory, with two devices. The oracle knows which IOVA page may use a frame. */
class Rig {
  readonly table = new PinTableWriter(6);
  readonly container = new Container(
    this.table,
    { extents: (vaddr, size) => [{ hpa: (HPA_BASE + vaddr) as Hpa, size }] },
    { unmapWaitMs: WAIT_MS },
  );
  readonly devices: readonly [Device, Device];
  readonly owners: SharedWords = wordsOf(new SharedArrayBuffer(FRAMES * 4));

  constructor() {
    this.devices = [new Device('gpu0', this.table), new Device('gpu1', this.table)];
    for (const device of this.devices) this.container.addUser(device);
    for (let frame = 0; frame < FRAMES; frame++) poke(this.owners, frame, UNUSED);
  }

  map(page: number, frame: number): void {
    poke(this.owners, frame, page);
    this.container.map((page * PAGE_SIZE) as Iova, frame * PAGE_SIZE, PAGE_SIZE, PERM_RW);
  }

  async unmap(page: number, frame: number): Promise<void> {
    await this.container.unmapRange((page * PAGE_SIZE) as Iova, PAGE_SIZE);
    poke(this.owners, frame, UNUSED);
  }

  use(page: number, pfn: number): void {
    const frame = pfn - HPA_BASE / PAGE_SIZE;
    const owner = peek(this.owners, frame);
    ensure(
      owner === page,
      'R6',
      `page ${page} is used through frame ${frame}, which belongs to page ${owner}`,
    );
  }
}

/** Holds a page until it is asked to unpin, or for one use. */
function holdPage(rig: Rig, device: Device, page: number): void {
  const pfn = device.reader.pin(page * PAGE_SIZE, PERM_READ);
  if (pfn < 0) return;
  const bell = ld(device.words, BELL, 'device.bell');
  rig.use(page, pfn);
  if (ld(device.words, ASKED, 'device.asked') === 0) waitEq(device.words, BELL, bell, WAIT_MS, 'device.bell');
  rig.use(page, pfn);
  ensure(device.reader.unpin(page * PAGE_SIZE), 'pins balanced', `page ${page} is not mapped any more`);
}

function usePages(rig: Rig, device: Device, pages: readonly number[]): void {
  for (const page of pages) {
    device.reader.enter();
    const leaf = device.reader.lookup(page * PAGE_SIZE);
    if (leaf !== 0) {
      device.reader.lookup(page * PAGE_SIZE);
      rig.use(page, leaf >>> 2);
    }
    device.reader.exit();
  }
}

/** An unmap of a page that one device holds pinned until it is asked, and that another uses in sections. */
export const unmaps: Harness<Rig> = explore({
  name: 'unmaps',
  setup: () => {
    const rig = new Rig();
    rig.map(1, 0);
    rig.map(2, 1);
    return rig;
  },
  threads: {
    coordinator: async (rig) => {
      await rig.unmap(1, 0);
      rig.map(3, 0);
      const all = rig.container.unmapAll();
      if (all) await all;
      for (const frame of [0, 1]) poke(rig.owners, frame, UNUSED);
    },
    gpu0: (rig) => holdPage(rig, rig.devices[0], 1),
    gpu1: (rig) => usePages(rig, rig.devices[1], [1, 2]),
  },
  check: ({ table, container }) => {
    ensure(container.pins() === 0, 'pins balanced', 'pins are left');
    ensure(
      table.nodesInUse === 0,
      'nodes balanced',
      () => `${table.nodesInUse} nodes are in use after all unmaps`,
    );
  },
});

/** Looks up a page as `device/dma.ts` does: a miss is a fault only if no switch overlapped the second lookup. */
function access(rig: Rig, reader: PinTableReader, page: number): 'used' | 'retry' | 'fault' {
  for (let attempt = 0; attempt < 2; attempt++) {
    const before = reader.switchSequence;
    reader.enter();
    const leaf = reader.lookup(page * PAGE_SIZE);
    if (leaf !== 0) rig.use(page, leaf >>> 2);
    reader.exit();
    if (leaf !== 0) return 'used';
    if (attempt > 0) return (before & 1) !== 0 || reader.switchSequence !== before ? 'retry' : 'fault';
  }
  return 'retry';
}

/** A switch of the address space: a page that is mapped before and after it never faults, and never has two frames. */
export const switches: Harness<Rig> = explore({
  name: 'switches',
  setup: () => {
    const rig = new Rig();
    rig.map(1, 0);
    return rig;
  },
  threads: {
    coordinator: async (rig) => {
      rig.container.setSwitching(true);
      const removed = rig.container.unmapAll();
      if (removed) await removed;
      poke(rig.owners, 0, UNUSED);
      rig.map(1, 1);
      rig.container.setSwitching(false);
    },
    gpu0: (rig) => {
      const outcome = access(rig, rig.devices[0].reader, 1);
      ensure(outcome !== 'fault', 'R3', 'a page that is mapped before and after a switch faults during it');
    },
    gpu1: (rig) => {
      const pfn = rig.devices[1].reader.pin(1 * PAGE_SIZE, PERM_READ);
      if (pfn === PIN_UNMAPPED) return;
      rig.use(1, pfn);
      rig.devices[1].reader.unpin(1 * PAGE_SIZE);
    },
  },
});
