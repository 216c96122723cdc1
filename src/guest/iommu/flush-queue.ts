/**
 * Queue of unmaps whose invalidation is deferred, as in Linux's lazy mode: pages and IOVAs are reused only after one
 * invalidation for the whole batch. Until then a device may still reach the pages.
 */
import { after, nowUs } from '#host';
import type { Metrics } from '../../metrics/metrics.ts';
import { SharedMutex } from '../mutex.ts';
import type { DmaDomain } from './guest-iommu.ts';

/** A full queue is flushed at once (Linux: IOVA_DEFAULT_FQ_SIZE). */
const ENTRIES_LIMIT = 256;
/** Longest time from an unmap to its flush (Linux: IOVA_FQ_TIMEOUT). */
const TIMEOUT_MS = 10;

interface Entry {
  readonly domain: LazyDomain;
  /** Called when no device can reach the pages any more. */
  release(): Promise<void>;
}

/** A domain that can defer invalidations. */
export type LazyDomain = DmaDomain & Required<Pick<DmaDomain, 'unmapLazily' | 'flush'>>;

/** Returns the domain if it can defer invalidations; undefined where an unmap takes effect at once. */
export const lazyDomain = (domain: DmaDomain): LazyDomain | undefined =>
  domain.unmapLazily && domain.flush ? (domain as LazyDomain) : undefined;

export class FlushQueue {
  readonly #metrics: Metrics;
  readonly #lock = new SharedMutex();
  #entries: Entry[] = [];
  #cancelTimer: (() => void) | undefined;

  constructor(metrics: Metrics) {
    this.#metrics = metrics;
  }

  /** Count of unmaps that are not flushed. */
  get length(): number {
    return this.#entries.length;
  }

  /** Adds an unmap that has cleared the tables. Resolves at once, unless the queue is full: then after its flush. */
  async add(entry: Entry): Promise<void> {
    this.#entries.push(entry);
    if (this.#entries.length >= ENTRIES_LIMIT) await this.flush();
    // A flush that fails has shown its error to the driver's other calls: the hardware does not answer.
    else this.#cancelTimer ??= after(TIMEOUT_MS, () => void this.flush().catch(() => {}));
  }

  /** Flushes all entries. @throws the errors of the domains */
  flush(): Promise<void> {
    return this.#lock.runExclusive(() => this.#flush());
  }

  /** Runs `work` before the next flush. */
  beforeFlush<Result>(work: () => Promise<Result>): Promise<Result> {
    return this.#lock.runShared(work);
  }

  async #flush(): Promise<void> {
    this.#cancelTimer?.();
    this.#cancelTimer = undefined;
    const entries = this.#entries;
    this.#entries = [];
    if (entries.length === 0) return;
    const since = nowUs();
    for (const domain of new Set(entries.map((entry) => entry.domain))) await domain.flush();
    this.#metrics.trend('invalidate_latency').add(nowUs() - since);
    // Not awaited: what uses the pages once more may wait for other work of the device.
    for (const { release } of entries) void release();
  }
}
