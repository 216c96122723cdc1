/**
 * Forwards a vIOMMU's map events to a VFIO container. The notifier's GPAs are the container's vaddrs.
 */
import type { DeviceLink } from '../../channel/device-link.ts';
import type { Gpa, Iova } from '../../memory/address.ts';
import type { BusMemory } from '../../memory/bus-memory.ts';
import type { DmaWindow } from '../../memory/dma-window.ts';
import type { Completion } from '../../platform/completion.ts';
import type { Container } from '../../vfio/container.ts';
import { VfioError } from '../../vfio/errors.ts';
import { SpaprContainer } from '../../vfio/spapr-container.ts';
import type {
  IovaRange,
  MapNotifier,
  MapOutcome,
  Translation,
  TranslationVisitor,
} from '../../viommu/notifier.ts';

export class ContainerNotifier implements MapNotifier {
  readonly #container: Container;
  readonly #memory: Pick<BusMemory, 'contains'>;
  readonly #link: Pick<DeviceLink, 'remapsInterrupts'> | undefined;

  /** @param link of the device, which must know whether its interrupts are remapped */
  constructor(
    container: Container,
    memory: Pick<BusMemory, 'contains'>,
    link?: Pick<DeviceLink, 'remapsInterrupts'>,
  ) {
    this.#container = container;
    this.#memory = memory;
    this.#link = link;
  }

  remapInterrupts(on: boolean): void {
    if (this.#link) this.#link.remapsInterrupts = on;
  }

  map(iova: Iova, gpa: Gpa, size: number, perm: number): MapOutcome {
    // Checked first: garbage tables cause millions of these, and a thrown error costs microseconds.
    if (!this.#memory.contains(gpa, size)) return 'refused';
    try {
      this.#container.map(iova, gpa, size, perm);
      return 'mapped';
    } catch (error) {
      if (!(error instanceof VfioError)) throw error;
      return error.errno === 'ENOSPC' ? 'full' : 'refused';
    }
  }

  refusal(iova: Iova, gpa: Gpa, size: number, perm: number): string | undefined {
    const error = this.#container.refusal(iova, gpa, size, perm);
    // A mapping that is in the way is the container's difference, not its limit.
    return error?.errno === 'EEXIST' ? undefined : error?.message;
  }

  mapPages(iova: Iova, gpas: Float64Array, count: number, perm: number): boolean {
    return this.#container.mapPages(iova, gpas, count, perm);
  }

  unmap(ranges: readonly IovaRange[]): Completion {
    return this.#container.unmapMappings(ranges);
  }

  unmapAll(): Completion {
    return this.#container.unmapAll();
  }

  has(iova: Iova, gpa: Gpa, size: number, perm: number): boolean {
    return this.#container.has(iova, gpa, size, perm);
  }

  mappingAt(iova: number): Translation | undefined {
    const held = this.#container.mappingAt(iova);
    return held && { iova: held.iova, gpa: held.vaddr as Gpa, size: held.size, perm: held.perm };
  }

  forEachMapping(start: number, end: number, visit: TranslationVisitor): void {
    this.#container.forEach(start, end, (iova, size, vaddr, perm) =>
      visit(iova as Iova, vaddr as Gpa, size, perm),
    );
  }

  windows(windows: readonly DmaWindow[]): void {
    if (this.#container instanceof SpaprContainer) this.#container.setWindows(windows);
  }

  switchBegin(): void {
    this.#container.setSwitching(true);
  }

  switchEnd(): void {
    this.#container.setSwitching(false);
  }
}
