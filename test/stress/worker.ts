/**
 * Device thread of the stress run. It mixes short DMA sections with long pins, and checks the stamps of the pages. It runs
 * with the protocol, or without it as the control.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { nowUs, Prng } from '#host';
import * as mem from '#mem';
import { PAGE_SIZE, PERM_RW } from '../../src/memory/address.ts';
import { HostMemory, type HostMemoryHandle } from '../../src/memory/host-memory.ts';
import { framePfn, PinTableReader } from '../../src/pin-table/reader.ts';
import type { PinTableHandle } from '../../src/pin-table/wasm/kernels.ts';
import { Control, POISON, SPOTS, STAMP_WORDS, spotIova, spotOfStamp } from './layout.ts';

export interface StressTask {
  readonly table: PinTableHandle;
  readonly slot: number;
  readonly memory: HostMemoryHandle;
  readonly control: SharedArrayBuffer;
  readonly seed: number;
  /** If false, lookups happen outside sections, and pins are released before the use. */
  readonly protocol: boolean;
}

export interface StressCounts {
  readonly lookups: number;
  readonly pins: number;
  readonly uses: number;
  readonly violations: number;
}

/** Lookups per section. */
const BATCH = 8;
/** Maximum count of pins that a thread holds at a time. */
const PINS_HELD = 6;
/**
 * One access in `every` waits between lookup and use until PAUSE_UNMAPS unmaps are complete or `ms` is over. With the
 * protocol the waiting access delays all unmaps, so it waits seldom. The control waits often, so that it certainly fails.
 */
const PAUSE_UNMAPS = 32;
const PROTOCOL_PAUSE = { every: 4096, ms: 2 } as const;
const CONTROL_PAUSE = { every: 256, ms: 10 } as const;
/** One operation in this many is a section. The others take, use or release a pin. */
const SECTION_EVERY = 4;

const { add, ld, rd, wr, wake, waitEq } = mem;

interface Pin {
  readonly spot: number;
  readonly pfn: number;
  readonly stamp: number;
}

class StressThread {
  readonly #protocol: boolean;
  readonly #control: mem.SharedWords;
  readonly #reader: PinTableReader;
  readonly #memory: HostMemory;
  readonly #prng: Prng;
  readonly #asking: number;
  readonly #pins: Pin[] = [];
  #asked = 0;
  #lookups = 0;
  #taken = 0;
  #uses = 0;
  #violations = 0;

  constructor({ table, slot, memory, control, seed, protocol }: StressTask) {
    this.#protocol = protocol;
    this.#control = mem.wordsOf(control);
    this.#reader = new PinTableReader(table, slot);
    this.#memory = new HostMemory(memory);
    this.#prng = new Prng(seed);
    this.#asking = Control.asked + slot;
  }

  run(): StressCounts {
    add(this.#control, Control.ready, 1, 'link.word');
    wake(this.#control, Control.ready, 'link.wait');
    while (ld(this.#control, Control.stop, 'link.word') === 0) {
      if (this.#prng.below(SECTION_EVERY) === 0) this.#section();
      else if (this.#protocol) this.#pinned();
      else this.#unpinned();
      this.#answer();
    }
    while (this.#pins.length > 0) this.#drop();
    return {
      lookups: this.#lookups,
      pins: this.#taken,
      uses: this.#uses,
      violations: this.#violations,
    };
  }

  #section(): void {
    if (this.#protocol) this.#reader.enter();
    for (let i = 0; i < BATCH; i++) {
      const spot = this.#prng.below(SPOTS);
      const leaf = this.#reader.lookup(spotIova(spot));
      this.#lookups++;
      if (leaf === 0) continue;
      this.#pause();
      this.#use(spot, framePfn(leaf));
    }
    if (this.#protocol) this.#reader.exit();
  }

  /** Takes a pin, uses a held one, or releases the oldest. */
  #pinned(): void {
    const choice = this.#prng.below(PINS_HELD);
    if (choice >= this.#pins.length) {
      const spot = this.#prng.below(SPOTS);
      const pfn = this.#take(spot);
      if (pfn < 0) return;
      this.#pause();
      this.#pins.push({ spot, pfn, stamp: this.#use(spot, pfn) });
    } else if (choice === 0) {
      this.#drop();
    } else {
      const { spot, pfn, stamp } = this.#pins[choice] as Pin;
      // The pin is held since the first use, so the page must still be of the same mapping.
      if (this.#use(spot, pfn) !== stamp) this.#violations++;
    }
  }

  /** Control: takes the same pin, but uses the page after releasing it. */
  #unpinned(): void {
    const spot = this.#prng.below(SPOTS);
    const pfn = this.#take(spot);
    if (pfn < 0) return;
    this.#reader.unpin(spotIova(spot));
    this.#pause();
    this.#use(spot, pfn);
  }

  #take(spot: number): number {
    const pfn = this.#reader.pin(spotIova(spot), PERM_RW);
    if (pfn >= 0) this.#taken++;
    return pfn;
  }

  #drop(): void {
    const pin = this.#pins.shift();
    if (pin === undefined) return;
    if (this.#use(pin.spot, pin.pfn) !== pin.stamp) this.#violations++;
    if (!this.#reader.unpin(spotIova(pin.spot))) this.#violations++;
  }

  /** Releases every pin if the container has asked. */
  #answer(): void {
    const asked = ld(this.#control, this.#asking, 'link.word');
    if (asked === this.#asked) return;
    this.#asked = asked;
    while (this.#pins.length > 0) this.#drop();
  }

  /**
   * Reads the page and writes its last stamp word back. The stamp of another page, or poison, is a violation. The writer
   * of the run detects late writes. Returns the page's stamp.
   */
  #use(spot: number, pfn: number): number {
    this.#uses++;
    const offset = pfn * PAGE_SIZE - this.#memory.base;
    // Without the protocol a lookup may walk a reused node and return any frame.
    if (!(offset >= 0 && offset + PAGE_SIZE <= this.#memory.size)) {
      this.#violations++;
      return POISON;
    }
    const { words } = this.#memory;
    const first = offset / 4;
    const stamp = rd(words, first, 'ram.word');
    let good = spotOfStamp(stamp) === spot;
    for (let word = 1; word < STAMP_WORDS; word++)
      if (rd(words, first + word, 'ram.word') !== stamp) good = false;
    if (good) wr(words, first + STAMP_WORDS - 1, stamp, 'ram.word');
    else this.#violations++;
    return stamp;
  }

  /** Sometimes extends the time between lookup and use over many unmaps. */
  #pause(): void {
    const { every, ms } = this.#protocol ? PROTOCOL_PAUSE : CONTROL_PAUSE;
    if (this.#prng.below(every) !== 0) return;
    const until = nowUs() + ms * 1000;
    const first = ld(this.#control, Control.unmaps, 'link.word');
    for (let now = first; ((now - first) | 0) < PAUSE_UNMAPS; ) {
      if (!waitEq(this.#control, Control.unmaps, now, ms, 'link.wait') || nowUs() > until) return;
      now = ld(this.#control, Control.unmaps, 'link.word');
    }
  }
}

if (parentPort) parentPort.postMessage(new StressThread(workerData as StressTask).run());
