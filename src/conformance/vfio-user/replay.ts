/**
 * Replays a capture: sends a recorded guest's DMA_MAPs and DMA_UNMAPs through a real container and its pin table, and
 * compares each result with the recorded one.
 */

import { nowUs } from '#host';
import { hex, type Iova, PAGE_SIZE } from '../../memory/address.ts';
import { BTree } from '../../memory/btree.ts';
import { TABLE_IOVA_LIMIT } from '../../pin-table/layout.ts';
import { framePerm, framePfn, PinTableError, PinTableReader } from '../../pin-table/reader.ts';
import { PinTableWriter } from '../../pin-table/writer.ts';
import { Latencies, type LatencyName } from '../../report/histograms.ts';
import { Container } from '../../vfio/container.ts';
import { VfioError } from '../../vfio/errors.ts';
import { ExclusiveCheck, type Side, type SidedMap, sideShown } from '../../vfio-user/identity-check.ts';
import {
  type CaptureEvent,
  type CaptureHeader,
  type EofEvent,
  type MapEvent,
  readCapture,
  UNMAP_ALL,
  type UnmapEvent,
} from './capture.ts';
import { RecordedMemory } from './recorded-memory.ts';

/** Nodes of a replay's pin table: enough to map 32 GiB as 4 KiB pages. Untouched nodes take no memory. */
const REPLAY_TABLE_NODES = 16384;
/** Maximum count of problems of one capture that are described. All of them are counted. */
export const PROBLEMS_KEPT = 20;

/**
 * Time per message of one kind, in microseconds: the work of the container and the pin table, without reading and
 * checks. In a capture of a few dozen messages, it is the time of code that runs for the first time.
 */
export interface MessageCost {
  readonly meanUs: number;
  readonly p50Us: number;
  readonly p99Us: number;
}

/** Metrics of one replay. `holds` is true if there is no problem. */
export interface ReplayResult {
  readonly file: string;
  readonly capture: string;
  readonly viommu: string;
  readonly holds: boolean;
  /** DMA_MAP and DMA_UNMAP messages, refused ones included. */
  readonly maps: number;
  readonly unmaps: number;
  /** Count of maps that the unmaps removed. */
  readonly removed: number;
  /** Total count of 4 KiB pages in the maps. */
  readonly pagesMapped: number;
  readonly liveMaps: number;
  readonly liveMapsRecorded: number;
  /** Messages that the container refused. The recorded server accepted all messages. */
  readonly refused: number;
  /** Unmaps that removed another count of maps than recorded, plus a different count of live maps at the end. */
  readonly countsDiffering: number;
  /** Maps of one side of R2 that arrived while maps of the other side were live. */
  readonly exclusiveBroken: number;
  /** Lookups through the pin table, and those with a wrong frame or permission, or with no mapping. */
  readonly lookups: number;
  readonly lookupsWrong: number;
  /** Lookups that still found a frame after the unmap. */
  readonly stale: number;
  readonly mapCost: MessageCost;
  readonly unmapCost: MessageCost;
  /** One line for each of the first PROBLEMS_KEPT problems, with its file and line. */
  readonly problems: readonly string[];
}

/** A live map in the replay's own record, which is independent of the container's. */
interface LiveMap extends SidedMap {
  readonly iova: number;
  readonly size: number;
  readonly vaddr: number;
  readonly perm: number;
}

/** Replays one capture, .jsonl or .jsonl.gz. @throws CaptureError */
export async function replayCapture(file: string): Promise<ReplayResult> {
  const replay = new Replay(file);
  for await (const event of readCapture(file)) await replay.take(event);
  return replay.result();
}

/**
 * Returns the part of an unmap's 64-bit range that is below 2^48, the limit of the pin table; undefined if none is.
 * QEMU clears [0xfef00000, 2^64) at a reset.
 * @throws VfioError EOVERFLOW if the range wraps 2^64
 */
export function clampRange(iova: bigint, size: bigint): { iova: Iova; size: number } | undefined {
  const limit = BigInt(TABLE_IOVA_LIMIT);
  const end = iova + size;
  if (end > 2n ** 64n) throw new VfioError('EOVERFLOW', `unmap of ${hex(iova)} +${hex(size)} wraps`);
  if (iova >= limit) return undefined;
  return { iova: Number(iova) as Iova, size: Number((end < limit ? end : limit) - iova) };
}

/** Returns the offsets of a map's first and last page. */
const endsOf = (size: number): readonly number[] => (size > PAGE_SIZE ? [0, size - PAGE_SIZE] : [0]);

class Replay {
  readonly #file: string;
  readonly #memory = new RecordedMemory();
  readonly #table = new PinTableWriter(REPLAY_TABLE_NODES);
  readonly #container = new Container(this.#table, this.#memory);
  readonly #reader = new PinTableReader(this.#table.sab, this.#table.addReader());
  readonly #live = new BTree<number, LiveMap>();
  readonly #exclusive = new ExclusiveCheck();
  readonly #latencies = new Latencies();
  readonly #spentUs = { map: 0, unmap: 0 };
  readonly #problems: string[] = [];
  readonly #counts = {
    maps: 0,
    unmaps: 0,
    removed: 0,
    pagesMapped: 0,
    refused: 0,
    countsDiffering: 0,
    exclusiveBroken: 0,
    lookups: 0,
    lookupsWrong: 0,
    stale: 0,
  };
  #header: CaptureHeader | undefined;
  #memfdSize = 0;
  #liveMapsRecorded = 0;

  constructor(file: string) {
    this.#file = file;
  }

  async take(event: CaptureHeader | CaptureEvent): Promise<void> {
    if (event.kind === 'header') this.#header = event;
    else if (event.kind === 'memory') {
      this.#memfdSize = event.size;
      this.#memory.mapMemfd(event.size);
    } else if (event.kind === 'map') this.#map(event);
    else if (event.kind === 'unmap') await this.#unmap(event);
    else if (event.kind === 'eof') this.#end(event);
  }

  result(): ReplayResult {
    const counts = this.#counts;
    return {
      file: this.#file,
      capture: this.#header?.capture ?? '',
      viommu: this.#header?.viommu ?? '',
      holds:
        counts.refused + counts.countsDiffering + counts.exclusiveBroken === 0 &&
        counts.lookupsWrong + counts.stale === 0,
      ...counts,
      liveMaps: this.#container.liveMappings,
      liveMapsRecorded: this.#liveMapsRecorded,
      mapCost: this.#cost('map'),
      unmapCost: this.#cost('unmap'),
      problems: this.#problems,
    };
  }

  #map(event: MapEvent): void {
    this.#counts.maps++;
    const { hasFd } = event;
    const shown = { iova: Number(event.iova), size: Number(event.size), offset: Number(event.offset), hasFd };
    const side = this.#exclusive.sideNow(sideShown(shown, this.#memfdSize));
    this.#checkExclusive(event, side);
    const [iova, size] = [Number(event.iova), Number(event.size)];
    let vaddr: number;
    try {
      vaddr = event.hasFd ? this.#memory.memfdVaddr(event.offset) : this.#memory.romVaddr(iova);
      const start = nowUs();
      this.#container.map(iova as Iova, vaddr, size, event.flags);
      this.#spent('map', nowUs() - start);
    } catch (error) {
      this.#refused(event.line, 'DMA_MAP', error);
      return;
    }
    const map: LiveMap = { iova, size, vaddr, perm: event.flags, side };
    this.#live.set(iova, map);
    this.#exclusive.add(map);
    this.#counts.pagesMapped += size / PAGE_SIZE;
    this.#checkPresent(event.line, map);
  }

  /** Checks R2 before the container maps: a map that the container refuses was sent too. */
  #checkExclusive({ line, iova, size }: MapEvent, side: Side): void {
    const others = this.#exclusive.othersOf(side);
    if (others === 0) return;
    this.#counts.exclusiveBroken++;
    const [mine, theirs] = side === 'gpa' ? ['GPA', 'IOVA'] : ['IOVA', 'GPA'];
    this.#problem(
      line,
      `R2 broken: ${mine} map ${hex(iova)} +${hex(size)} while ${others} ${theirs} maps are live`,
    );
  }

  async #unmap(event: UnmapEvent): Promise<void> {
    this.#counts.unmaps++;
    let expected: LiveMap[];
    let removed: number;
    try {
      const all = (event.flags & UNMAP_ALL) !== 0;
      if (all && (event.iova !== 0n || event.size !== 0n))
        throw new VfioError('EINVAL', 'unmap of all with a range; both must be 0');
      const range = all ? undefined : clampRange(event.iova, event.size);
      expected = all ? [...this.#live.values()] : range ? this.#inside(range.iova, range.size) : [];
      const start = nowUs();
      removed = all ? await this.#unmapAll() : range ? await this.#unmapRange(range) : 0;
      this.#spent('unmap', nowUs() - start);
    } catch (error) {
      this.#refused(event.line, 'DMA_UNMAP', error);
      return;
    }
    this.#counts.removed += removed;
    const wanted = event.removed === 'all' ? expected.length : event.removed;
    if (removed !== wanted) this.#differs(event.line, `unmap removed ${removed} maps, recorded ${wanted}`);
    else if (removed !== expected.length)
      this.#differs(event.line, `unmap removed ${removed} maps of ${expected.length} inside its range`);
    for (const map of expected) {
      this.#live.delete(map.iova);
      this.#exclusive.remove(map);
      this.#checkGone(event.line, map);
    }
  }

  /** Unmaps a range. A vfio-user client expects that maps which straddle an end stay. */
  #unmapRange({ iova, size }: { iova: Iova; size: number }): Promise<number> {
    return this.#container.unmapRange(iova, size, 'keep');
  }

  async #unmapAll(): Promise<number> {
    const before = this.#container.liveMappings;
    await this.#container.unmapAll();
    return before - this.#container.liveMappings;
  }

  #inside(iova: number, size: number): LiveMap[] {
    const maps: LiveMap[] = [];
    this.#live.forRange(iova, iova + size, false, (_iova, map) => {
      if (map.iova + map.size <= iova + size) maps.push(map);
    });
    return maps;
  }

  /** Checks the count of live maps, and every live map again: no unmap may have removed another map. */
  #end({ line, liveMaps }: EofEvent): void {
    this.#liveMapsRecorded = liveMaps;
    const live = this.#container.liveMappings;
    if (live !== liveMaps) this.#differs(line, `${live} maps live at the end, recorded ${liveMaps}`);
    for (const map of this.#live.values()) this.#checkPresent(line, map);
  }

  /** Checks a map's first and last page: the frame behind its vaddr, with its permissions. */
  #checkPresent(line: number, { iova, size, vaddr, perm }: LiveMap): void {
    for (const at of endsOf(size)) {
      const leaf = this.#lookup(iova + at);
      const pfn = (this.#memory.hpaOf(vaddr + at) ?? Number.NaN) / PAGE_SIZE;
      if (framePfn(leaf) === pfn && framePerm(leaf) === perm) continue;
      this.#counts.lookupsWrong++;
      this.#problem(
        line,
        `lookup of ${hex(iova + at)} returns PFN ${hex(framePfn(leaf))} with permission ${framePerm(leaf)}; ` +
          `mapped: ${hex(pfn)} with ${perm}`,
      );
    }
  }

  /** Checks that the first and the last page of a removed map have no leaf. */
  #checkGone(line: number, { iova, size }: LiveMap): void {
    for (const at of endsOf(size)) {
      const leaf = this.#lookup(iova + at);
      if (leaf === 0) continue;
      this.#counts.stale++;
      this.#problem(line, `stale: ${hex(iova + at)} still has PFN ${hex(framePfn(leaf))} after its unmap`);
    }
  }

  #lookup(iova: number): number {
    this.#counts.lookups++;
    this.#reader.enter();
    const leaf = this.#reader.lookup(iova);
    this.#reader.exit();
    return leaf;
  }

  #refused(line: number, what: string, error: unknown): void {
    // The pin table itself throws if a map meets a leaf that an unmap left behind.
    if (!(error instanceof VfioError || error instanceof PinTableError)) throw error;
    this.#counts.refused++;
    this.#problem(line, `${what} refused: ${error.message}`);
  }

  #differs(line: number, problem: string): void {
    this.#counts.countsDiffering++;
    this.#problem(line, problem);
  }

  #problem(line: number, problem: string): void {
    if (this.#problems.length < PROBLEMS_KEPT) this.#problems.push(`${this.#file}:${line}: ${problem}`);
  }

  #spent(name: 'map' | 'unmap', microseconds: number): void {
    this.#spentUs[name] += microseconds;
    this.#latencies.recordUs(name, microseconds);
  }

  #cost(name: LatencyName & ('map' | 'unmap')): MessageCost {
    const summary = this.#latencies.summary().find((entry) => entry.name === name);
    if (!summary) return { meanUs: 0, p50Us: 0, p99Us: 0 };
    const { count, p50Us, p99Us } = summary;
    return { meanUs: this.#spentUs[name] / count, p50Us, p99Us };
  }
}
