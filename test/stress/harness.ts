/**
 * Stress run: one writer maps and unmaps through a real container as fast as it can, while reader threads use the pages.
 * It runs with the protocol, or without it as the control.
 */
import { Worker } from 'node:worker_threads';
import { after, nowUs, Prng, yieldTurn } from '#host';
import * as mem from '#mem';
import { type Hpa, type Iova, PAGE_2M, PAGE_SIZE, PERM_RW } from '../../src/memory/address.ts';
import { HostMemory, HPA_BASE } from '../../src/memory/host-memory.ts';
import { PinTableWriter } from '../../src/pin-table/writer.ts';
import { Container } from '../../src/vfio/container.ts';
import { FakeUser } from '../fixtures/container-fakes.ts';
import {
  CONTROL_BYTES,
  Control,
  PAGE_OFFSETS,
  POISON,
  REGIONS,
  regionIova,
  STAMP_WORDS,
  stampOf,
} from './layout.ts';
import type { StressCounts, StressTask } from './worker.ts';

export interface StressOptions {
  readonly seconds: number;
  readonly seed: number;
  readonly readers: number;
}

export interface StressReport extends StressCounts {
  readonly seconds: number;
  readonly unmaps: number;
  /** Unmaps of pinned pages, which ask the readers to unpin. */
  readonly pinnedUnmaps: number;
  /** Words written while their frame was not mapped; part of the violations. */
  readonly lateWrites: number;
  /** Reasons of quarantined readers, and the count of nodes that were never freed. Both are part of the violations. */
  readonly quarantines: readonly string[];
  readonly lostNodes: number;
}

/** Count of 2 MiB frames. They are fewer than the regions, so some regions are mapped by pages of one more frame. */
const LARGE_FRAMES = 8;
/** Nodes of the pin table, fewer than all regions need when mapped by pages, so nodes are reused at once. */
const TABLE_NODES = 32;
/** Operations of the writer between two turns of the event loop, which delivers errors of the workers. */
const TURN_EVERY = 64;
/** One operation in this many unmaps the whole address space. */
const ALL_EVERY = 200;
/** Time limits for the start and the end of readers. */
const START_LIMIT_MS = 20_000;
const STOP_LIMIT_MS = 20_000;

const { add, ld, rd, st, fillWords, waitEqAsync, wake } = mem;

/** Device side of the container. Requests to unpin increment a counter that the reader polls. */
class StressUser extends FakeUser {
  readonly #control: mem.SharedWords;
  constructor(table: PinTableWriter, control: mem.SharedWords) {
    super(table);
    this.#control = control;
  }
  override dmaUnmap(): void {
    add(this.#control, Control.asked + this.slot, 1, 'link.word');
  }
}

/** Frame of host memory: one large page or one small page. */
interface Frame {
  /** Offset in the host memory; the container's `vaddr`. */
  readonly offset: number;
  readonly size: number;
}

class Rig {
  readonly #memory = HostMemory.allocate(HPA_BASE as Hpa, (LARGE_FRAMES + 1) * PAGE_2M);
  readonly #table = new PinTableWriter(TABLE_NODES);
  readonly #container = new Container(this.#table, {
    extents: (vaddr, size) => [{ hpa: (HPA_BASE + vaddr) as Hpa, size }],
  });
  readonly #control = new SharedArrayBuffer(CONTROL_BYTES);
  readonly #words = mem.wordsOf(this.#control);
  readonly #users: readonly StressUser[];
  readonly #prng: Prng;
  readonly #large: Frame[];
  readonly #small: Frame[];
  /** Frames of each mapped region. */
  readonly #mapped: (readonly Frame[] | undefined)[] = new Array(REGIONS).fill(undefined);
  #serial = 0;
  #unmaps = 0;
  #lateWrites = 0;
  #failure: Error | undefined;

  constructor(readers: number, seed: number) {
    this.#prng = new Prng(seed);
    this.#users = Array.from({ length: readers }, () => new StressUser(this.#table, this.#words));
    for (const user of this.#users) this.#container.addUser(user);
    this.#large = Array.from({ length: LARGE_FRAMES }, (_, i) => ({ offset: i * PAGE_2M, size: PAGE_2M }));
    this.#small = Array.from({ length: PAGE_2M / PAGE_SIZE }, (_, i) => ({
      offset: LARGE_FRAMES * PAGE_2M + i * PAGE_SIZE,
      size: PAGE_SIZE,
    }));
    for (const frame of [...this.#large, ...this.#small]) this.#poison(frame);
  }

  async run(seconds: number, seed: number, protocol: boolean): Promise<StressReport> {
    const workers = this.#users.map(({ slot }) => this.#start(slot, seed, protocol));
    const counts = Promise.all(workers.map(({ counts }) => counts));
    // Awaited only when the readers end. Until then a rejection must not count as unhandled.
    counts.catch((error: unknown) => {
      this.#failure ??= error instanceof Error ? error : new Error(String(error));
    });
    try {
      await this.#ready(counts);
      const started = nowUs();
      await this.#churn(started + seconds * 1e6);
      const lasted = (nowUs() - started) / 1e6;
      st(this.#words, Control.stop, 1, 'link.word');
      const perReader = await within(counts, STOP_LIMIT_MS, 'the readers do not end');
      await this.#unmapAll();
      const quarantines = this.#users.flatMap((user) => user.quarantines.map(([kind]) => kind));
      const lostNodes = this.#table.nodesInUse;
      const sum = (count: (reader: StressCounts) => number) =>
        perReader.reduce((total, reader) => total + count(reader), 0);
      return {
        seconds: lasted,
        lookups: sum(({ lookups }) => lookups),
        pins: sum(({ pins }) => pins),
        uses: sum(({ uses }) => uses),
        violations: sum(({ violations }) => violations) + this.#lateWrites + quarantines.length + lostNodes,
        unmaps: this.#unmaps,
        pinnedUnmaps: this.#container.counters.pinnedUnmaps,
        lateWrites: this.#lateWrites,
        quarantines,
        lostNodes,
      };
    } finally {
      await Promise.all(workers.map(({ worker }) => worker.terminate()));
    }
  }

  #start(slot: number, seed: number, protocol: boolean) {
    const workerData: StressTask = {
      // Both builds of the kernels on one table: WebAssembly in one reader, JavaScript in the next.
      table: slot % 2 === 0 ? this.#table.handle : { sab: this.#table.sab },
      slot,
      memory: this.#memory.handle,
      control: this.#control,
      seed: seed + slot + 1,
      protocol,
    };
    const worker = new Worker(new URL('./worker.ts', import.meta.url), { workerData });
    const counts = new Promise<StressCounts>((resolve, reject) => {
      worker.once('message', resolve);
      worker.once('error', reject);
      worker.once('exit', () => reject(new Error('a reader ended without its counts')));
    });
    return { worker, counts };
  }

  /** Waits until all readers run, so that their start is not measured. */
  async #ready(counts: Promise<unknown>): Promise<void> {
    const { length } = this.#users;
    for (let now = 0; now < length; now = ld(this.#words, Control.ready, 'link.word')) {
      const waiting = waitEqAsync(this.#words, Control.ready, now, START_LIMIT_MS, 'link.wait');
      // If a reader fails, `counts` rejects first.
      if (waiting && !(await Promise.race([waiting, counts]))) throw new Error('the readers do not start');
    }
  }

  /** Toggles random regions between mapped and unmapped until the time is over. */
  async #churn(untilUs: number): Promise<void> {
    for (let i = 1; nowUs() < untilUs; i++) {
      if (this.#failure) throw this.#failure;
      const region = this.#prng.below(REGIONS);
      if (this.#prng.below(ALL_EVERY) === 0) await this.#unmapAll();
      else if (this.#mapped[region]) await this.#unmap(region);
      else this.#map(region);
      if (i % TURN_EVERY === 0) await yieldTurn();
    }
  }

  #map(region: number): void {
    const iova = regionIova(region);
    this.#serial++;
    const large = this.#prng.below(2) === 0 ? take(this.#large, this.#prng) : undefined;
    const frames = large ? [large] : PAGE_OFFSETS.map(() => take(this.#small, this.#prng) as Frame);
    for (const frame of frames) this.#expectPoison(frame);
    for (const [i, page] of PAGE_OFFSETS.entries()) {
      const offset = large ? large.offset + page * PAGE_SIZE : (frames[i] as Frame).offset;
      this.#stamp(offset, stampOf(region * PAGE_OFFSETS.length + i, this.#serial));
    }
    if (large) this.#container.map(iova, large.offset, PAGE_2M, PERM_RW);
    else
      for (const [i, page] of PAGE_OFFSETS.entries())
        this.#container.map(
          (iova + page * PAGE_SIZE) as Iova,
          (frames[i] as Frame).offset,
          PAGE_SIZE,
          PERM_RW,
        );
    this.#mapped[region] = frames;
  }

  async #unmap(region: number): Promise<void> {
    await this.#container.unmapRange(regionIova(region), PAGE_2M);
    this.#unmapped(region);
    this.#announce();
  }

  async #unmapAll(): Promise<void> {
    await this.#container.unmapAll();
    for (let region = 0; region < REGIONS; region++) this.#unmapped(region);
    this.#announce();
  }

  /** Frees the frames of an unmapped region. No reader may use them after the unmap. */
  #unmapped(region: number): void {
    for (const frame of this.#mapped[region] ?? []) {
      this.#poison(frame);
      (frame.size === PAGE_2M ? this.#large : this.#small).push(frame);
    }
    this.#mapped[region] = undefined;
  }

  #announce(): void {
    this.#unmaps++;
    add(this.#words, Control.unmaps, 1, 'link.word');
    wake(this.#words, Control.unmaps, 'link.wait');
  }

  #stamp(offset: number, value: number): void {
    fillWords(this.#memory.words, offset / 4, STAMP_WORDS, value, 'ram.fill');
  }

  #poison(frame: Frame): void {
    for (const offset of usedPages(frame)) this.#stamp(offset, POISON);
  }

  /** Counts words that changed while the frame was not mapped. */
  #expectPoison(frame: Frame): void {
    for (const offset of usedPages(frame))
      for (let word = 0; word < STAMP_WORDS; word++)
        if (rd(this.#memory.words, offset / 4 + word, 'ram.word') !== POISON) this.#lateWrites++;
  }
}

/** Returns the offsets of the frame's pages that readers use. */
const usedPages = ({ offset, size }: Frame): readonly number[] =>
  size === PAGE_2M ? PAGE_OFFSETS.map((page) => offset + page * PAGE_SIZE) : [offset];

/** Removes and returns a random frame, or undefined if none is left. */
function take(frames: Frame[], prng: Prng): Frame | undefined {
  return frames.length === 0 ? undefined : frames.splice(prng.below(frames.length), 1)[0];
}

async function within<T>(promise: Promise<T>, ms: number, message: string): Promise<T> {
  const { promise: late, reject } = Promise.withResolvers<never>();
  const cancel = after(ms, () => reject(new Error(message)));
  try {
    return await Promise.race([promise, late]);
  } finally {
    cancel();
  }
}

/** Runs once, on a new pin table and new memory, with the protocol or without it. */
export const stress = ({ seconds, seed, readers }: StressOptions, protocol: boolean): Promise<StressReport> =>
  new Rig(readers, seed).run(seconds, seed, protocol);
