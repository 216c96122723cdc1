/**
 * DMA API of the guest for one device, as a kernel has it: maps pages and returns IOVAs, behind any vIOMMU or none.
 */
import { nowUs } from '#host';
import type { Gate } from '../../channel/gate.ts';
import { type Gpa, type Iova, PAGE_SIZE, PERM_RW, toIova } from '../../memory/address.ts';
import { Metrics } from '../../metrics/metrics.ts';
import type { Latencies } from '../../report/histograms.ts';
import { InFlight } from '../in-flight.ts';
import { FlushQueue, lazyDomain } from './flush-queue.ts';
import type { DmaDomain } from './guest-iommu.ts';
import type { IovaAllocator } from './iova-allocator.ts';

/** Pages mapped for a device: page `pages[i]` is at `iovas[i]`. */
export interface DmaBuffer {
  readonly pages: readonly Gpa[];
  readonly iovas: readonly Iova[];
  /** The domain that holds the mapping; undefined for identity. */
  readonly domain: DmaDomain | undefined;
}

/** The DMA API of one device. */
export class DmaApi {
  readonly #latencies: Latencies;
  readonly #iovas: IovaAllocator;
  readonly #metrics: Metrics;
  readonly #inFlight: InFlight;
  readonly #queue: FlushQueue;
  /**
   * Defers invalidations, as Linux does by default: {@link unmap} resolves before the device has lost the pages. Has no
   * effect where an unmap takes effect at once.
   */
  lazy = false;
  #domain: DmaDomain | undefined;

  /** While `gate` is closed, because the VM is paused, calls wait. */
  constructor(latencies: Latencies, iovas: IovaAllocator, gate?: Gate, metrics: Metrics = new Metrics()) {
    this.#metrics = metrics;
    this.#latencies = latencies;
    this.#iovas = iovas;
    this.#inFlight = new InFlight(gate);
    this.#queue = new FlushQueue(metrics);
  }

  /** Sets the domain of later maps; undefined for identity. */
  setDomain(domain: DmaDomain | undefined): void {
    this.#domain = domain;
  }

  /** The domain of later maps; undefined for identity. */
  get domain(): DmaDomain | undefined {
    return this.#domain;
  }

  /** @throws InFlightError while maps or unmaps are in flight, or lazy ones are not flushed */
  expectIdle(owner: string): void {
    const { length } = this.#queue;
    this.#inFlight.expectNone(owner, length > 0 ? [`${length} × lazy unmap`] : []);
  }

  /**
   * Maps pages for reading and writing, at consecutive IOVAs. Strict: resolves when the device sees them.
   * @param metrics where the duration is recorded; by default those of the device
   * @throws IovaExhausted; the domain's own errors
   */
  map(pages: readonly Gpa[], metrics: Metrics = this.#metrics): Promise<DmaBuffer> {
    return this.#inFlight.run('dma.map', () => this.#map(pages, metrics));
  }

  /**
   * Unmaps a buffer. Strict: resolves when no device can reach the pages any more. If {@link lazy}, that is the case
   * only when `release` is called.
   * @param metrics as of {@link map}
   * @param release called when no device can reach the pages any more; their IOVAs are reused after it has resolved
   * @throws the domain's own errors
   */
  unmap(
    buffer: DmaBuffer,
    metrics: Metrics = this.#metrics,
    release: () => Promise<void> | void = () => {},
  ): Promise<void> {
    return this.#inFlight.run('dma.unmap', () => this.#unmap(buffer, metrics, release));
  }

  /** Flushes the lazy unmaps: resolves when no device can reach their pages. */
  flush(): Promise<void> {
    return this.#inFlight.run('dma.flush', () => this.#queue.flush());
  }

  /** Runs `work`, which must not unmap, before lazy unmaps are flushed. */
  beforeFlush<Result>(work: () => Promise<Result>): Promise<Result> {
    return this.#queue.beforeFlush(work);
  }

  async #map(pages: readonly Gpa[], metrics: Metrics): Promise<DmaBuffer> {
    const domain = this.#domain;
    if (!domain) return { pages, iovas: pages.map(toIova), domain };
    const since = nowUs();
    const base = this.#iovas.allocate(pages.length);
    const iovas = pages.map((_, i) => (base + i * PAGE_SIZE) as Iova);
    await domain.mapAll(
      pages.map((gpa, i) => ({ iova: iovas[i] as Iova, gpa, size: PAGE_SIZE, perm: PERM_RW })),
    );
    const us = nowUs() - since;
    this.#latencies.recordUs('map', us);
    metrics.trend('map_latency').add(us);
    return { pages, iovas, domain };
  }

  async #unmap(
    { iovas, domain }: DmaBuffer,
    metrics: Metrics,
    release: () => Promise<void> | void,
  ): Promise<void> {
    if (!domain) {
      await release();
      return;
    }
    const since = nowUs();
    const [base, bytes] = [iovas[0] as Iova, iovas.length * PAGE_SIZE];
    const free = async () => {
      await release();
      this.#iovas.free(base, iovas.length);
    };
    const lazy = this.lazy ? lazyDomain(domain) : undefined;
    if (lazy) {
      await lazy.unmapLazily(base, bytes);
      await this.#queue.add({ domain: lazy, release: free });
    } else await domain.unmap(base, bytes);
    const us = nowUs() - since;
    this.#latencies.recordUs('unmap', us);
    metrics.trend('unmap_latency').add(us);
    if (!lazy) await free();
  }
}
