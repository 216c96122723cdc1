/**
 * DMA API of the guest for one device, as a kernel has it: maps pages and returns IOVAs, behind any vIOMMU or none.
 */
import { nowUs } from '#host';
import type { Gate } from '../../channel/gate.ts';
import { type Gpa, type Iova, PAGE_SIZE, PERM_RW, toIova } from '../../memory/address.ts';
import { Metrics } from '../../metrics/metrics.ts';
import type { Latencies } from '../../report/histograms.ts';
import { InFlight } from '../in-flight.ts';
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
  #domain: DmaDomain | undefined;

  /** While `gate` is closed, because the VM is paused, calls wait. */
  constructor(latencies: Latencies, iovas: IovaAllocator, gate?: Gate, metrics: Metrics = new Metrics()) {
    this.#metrics = metrics;
    this.#latencies = latencies;
    this.#iovas = iovas;
    this.#inFlight = new InFlight(gate);
  }

  /** Sets the domain of later maps; undefined for identity. */
  setDomain(domain: DmaDomain | undefined): void {
    this.#domain = domain;
  }

  /** The domain of later maps; undefined for identity. */
  get domain(): DmaDomain | undefined {
    return this.#domain;
  }

  /** @throws InFlightError while maps or unmaps are in flight */
  expectIdle(owner: string): void {
    this.#inFlight.expectNone(owner);
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
   * Unmaps a buffer. Strict: resolves when no device can reach the pages any more.
   * @param metrics as of {@link map}
   * @throws the domain's own errors
   */
  unmap(buffer: DmaBuffer, metrics: Metrics = this.#metrics): Promise<void> {
    return this.#inFlight.run('dma.unmap', () => this.#unmap(buffer, metrics));
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

  async #unmap({ iovas, domain }: DmaBuffer, metrics: Metrics): Promise<void> {
    if (!domain) return;
    const since = nowUs();
    const base = iovas[0] as Iova;
    await domain.unmap(base, iovas.length * PAGE_SIZE);
    this.#iovas.free(base, iovas.length);
    const us = nowUs() - since;
    this.#latencies.recordUs('unmap', us);
    metrics.trend('unmap_latency').add(us);
  }
}
