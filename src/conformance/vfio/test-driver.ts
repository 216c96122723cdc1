/**
 * The recorder's own mdev driver. It pins on request, counts its references per IOVA, and unpins on dma_unmap by a
 * policy.
 */
import { PAGE_SIZE } from '../../memory/address.ts';
import type { DeviceOps, VfioDevice } from '../../vfio/uapi/group.ts';
import { dmaRw, pinPages, unpinPages } from '../../vfio/uapi/mdev-access.ts';
import type { PageFrame, UserMemory } from '../../vfio/uapi/user-memory.ts';
import { PIN_PAGES_MAX } from '../../vfio/uapi/vfio-uapi.ts';

/** One dma_unmap that the driver received. */
export interface Callback {
  readonly device: string;
  readonly iova: bigint;
  readonly size: bigint;
  /** Counts of references that the driver dropped, and that it still holds at any IOVA. */
  readonly released: number;
  readonly left: number;
}

interface PolicyState {
  /** Count of requests since the policy was set. */
  readonly requests: number;
  readonly argument: number;
}

/** Policies: each selects, of the references in the range (ascending), those that one request drops. */
const POLICIES: Readonly<
  Record<string, (refs: readonly (readonly [bigint, number])[], state: PolicyState) => [bigint, number][]>
> = {
  unpin_all: (refs) => refs.map(([iova, count]) => [iova, count]),
  ignore: () => [],
  skip_first_n: (refs, { requests, argument }) =>
    requests <= argument ? [] : refs.map(([iova, count]) => [iova, count]),
  one_ref_per_page: (refs) => refs.map(([iova]) => [iova, 1]),
  lowest_page_only: (refs) => refs.slice(0, 1).map(([iova, count]) => [iova, count]),
};

export const POLICY_NAMES: ReadonlySet<string> = new Set(Object.keys(POLICIES));

/** One instance of the driver. */
export class TestDriver implements DeviceOps {
  readonly dmaUnmap?: DeviceOps['dmaUnmap'];
  /** Name of the device's first open file in the vector. */
  label = '';
  device: VfioDevice | undefined;
  readonly #refs = new Map<bigint, number>();
  readonly #notified: (callback: Callback) => void;
  #policy = 'unpin_all';
  #argument = 0;
  #requests = 0;
  #unpinOnClose = true;

  constructor(hasDmaUnmap: boolean, notified: (callback: Callback) => void) {
    this.#notified = notified;
    if (hasDmaUnmap) this.dmaUnmap = (iova, size) => this.#unmapped(iova, size);
  }

  setPolicy(policy: string, argument: number, unpinOnClose: boolean): void {
    this.#policy = policy;
    this.#argument = argument;
    this.#requests = 0;
    this.#unpinOnClose = unpinOnClose;
  }

  /** @throws VfioError */
  pin(iova: bigint, count: number, perm: number): PageFrame[] {
    const device = this.#open();
    const frames = pinPages(device.iommu, device, iova, count, perm);
    for (const page of pagesFrom(iova, count)) this.#refs.set(page, (this.#refs.get(page) ?? 0) + 1);
    return frames;
  }

  /** @throws VfioError if the device is not open */
  unpin(iova: bigint, count: number): void {
    const device = this.#open();
    unpinPages(device.iommu, device, iova, count);
    if (count <= 0 || count > PIN_PAGES_MAX) return;
    for (const page of pagesFrom(iova, count)) if (!this.#drop(page, 1)) return;
  }

  /** @throws VfioError */
  rw(iova: bigint, data: Uint8Array, write: boolean, caller: UserMemory | undefined): void {
    dmaRw(this.#open().iommu, iova, data, write, caller);
  }

  close(): void {
    const mayUnpin = this.#unpinOnClose && this.device?.quarantined === '';
    if (mayUnpin) for (const [iova, count] of [...this.#refs]) this.#unpinRefs(iova, count);
    this.#refs.clear();
    this.setPolicy('unpin_all', 0, true);
  }

  #open(): VfioDevice {
    if (!this.device) throw new Error('the driver has no device');
    return this.device;
  }

  #unmapped(iova: bigint, size: bigint): void {
    const inside = [...this.#refs].filter(([page]) => page >= iova && page < iova + size);
    inside.sort(([a], [b]) => (a < b ? -1 : 1));
    const state = { requests: ++this.#requests, argument: this.#argument };
    let released = 0;
    for (const [page, count] of POLICIES[this.#policy]?.(inside, state) ?? []) {
      this.#unpinRefs(page, count);
      released += count;
    }
    const left = [...this.#refs.values()].reduce((sum, count) => sum + count, 0);
    this.#notified({ device: this.label, iova, size, released, left });
  }

  #unpinRefs(iova: bigint, count: number): void {
    const device = this.#open();
    for (let done = 0; done < count; done++) unpinPages(device.iommu, device, iova, 1);
    this.#drop(iova, count);
  }

  #drop(iova: bigint, count: number): boolean {
    const held = this.#refs.get(iova);
    if (held === undefined) return false;
    if (held > count) this.#refs.set(iova, held - count);
    else this.#refs.delete(iova);
    return true;
  }
}

function pagesFrom(iova: bigint, count: number): bigint[] {
  return Array.from({ length: count }, (_, i) => iova + BigInt(i * PAGE_SIZE));
}
