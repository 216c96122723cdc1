/**
 * A device thread of the stress run: short DMA and long pins in one mix, on pages whose bytes say whose they are.
 * With the protocol, or as the control without it.
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
  /** False: lookups outside sections, and pins dropped before the use. */
  readonly protocol: boolean;
}

export interface StressCounts {
  readonly lookups: number;
  readonly pins: number;
  readonly uses: number;
  readonly violations: number;
}

/** Lookups of one section. */
const BATCH = 8;
/** Most pins that a thread holds at a time. */
const PINS_HELD = 6;
/**
 * One access in so many waits between lookup and use until so many unmaps are complete, or the time is over. With the
 * protocol an access holds the unmaps up while it waits, so it does so seldom; the control's window is made certain.
 */
const PAUSE_UNMAPS = 32;
const PROTOCOL_PAUSE = { every: 4096, ms: 2 } as const;
const CONTROL_PAUSE = { every: 256, ms: 10 } as const;
/** One operation in so many is a section; the others take, use or drop a pin. */
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

  /** Takes a pin, uses one that is held, or drops the oldest. */
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
      // Held since: not even a new mapping of the same page may have come in between.
      if (this.#use(spot, pfn) !== stamp) this.#violations++;
    }
  }

  /** The control: the same pin, but used when it is no longer held. */
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

  /** Drops every pin when the container has asked. */
  #answer(): void {
    const asked = ld(this.#control, this.#asking, 'link.word');
    if (asked === this.#asked) return;
    this.#asked = asked;
    while (this.#pins.length > 0) this.#drop();
  }

  /**
   * Reads the page, and writes its last word back. Bytes of another page, or poison, are a violation; a write that
   * comes too late is found by the writer. Returns the page's stamp.
   */
  #use(spot: number, pfn: number): number {
    this.#uses++;
    const offset = pfn * PAGE_SIZE - this.#memory.base;
    // Without the protocol a lookup may walk a node that has become another's, and end anywhere.
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

  /** Now and then stretches the time between lookup and use over many unmaps. */
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
