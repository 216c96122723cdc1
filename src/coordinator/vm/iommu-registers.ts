/**
 * The guest's register accesses to its vIOMMU: a ring that is served in order, with a limit on the register writes
 * whose commands are still in progress.
 */
import { nowUs, sleep } from '#host';
import { MMIO_CHANNEL_BYTES, MmioServer } from '../../channel/mmio-channel.ts';
import type { Completion } from '../../platform/completion.ts';
import type { VIommu } from '../../viommu/viommu.ts';

/** Maximum count of accesses served per turn, so that one guest cannot starve the others. */
const BURST = 64;
/** Maximum count of writes in progress. Above it the guest's ring fills and the guest waits. */
const PENDING_WRITES_LIMIT = 32;
const SETTLE_POLL_MS = 5;
/** Longest wait of the end of a VM for writes in progress. */
const SETTLE_TIMEOUT_MS = 30_000;

interface RegistersOwner {
  /** Schedules another serving of the ring, in a later turn. */
  reschedule(): void;
  violation(kind: string, detail: string): void;
  /** Ends the VM: its registers can no longer be served. */
  lose(error: unknown): void;
}

export class IommuRegisters {
  /** The channel, for the guest's thread. */
  readonly mmio = new SharedArrayBuffer(MMIO_CHANNEL_BYTES);
  #iommu: VIommu;
  readonly #owner: RegistersOwner;
  readonly #server = new MmioServer(this.mmio, 0);
  #pending = 0;

  constructor(iommu: VIommu, owner: RegistersOwner) {
    this.#iommu = iommu;
    this.#owner = owner;
  }

  /** Serves the accesses in the ring. */
  serve(): void {
    if (this.#pending >= PENDING_WRITES_LIMIT) return;
    const more = this.#server.serve(
      {
        read: (_region, offset, size) => this.#iommu.readRegister(offset, size),
        write: (_region, offset, size, value) => this.#track(this.#iommu.writeRegister(offset, size, value)),
      },
      BURST,
    );
    if (more && this.#pending < PENDING_WRITES_LIMIT) this.#owner.reschedule();
  }

  /**
   * Serves every access that the guest has posted by now. Resolves when none of them is left in the ring, at the latest
   * after SETTLE_TIMEOUT_MS; commands of the writes may still be in progress.
   */
  async serveAll(): Promise<void> {
    const mark = this.#server.posted;
    const deadline = nowUs() + SETTLE_TIMEOUT_MS * 1000;
    for (this.serve(); !this.#server.hasServed(mark) && nowUs() < deadline; this.serve())
      await sleep(SETTLE_POLL_MS);
  }

  /** Waits for the writes that the guest has posted, at most SETTLE_TIMEOUT_MS for each step. */
  async settle(): Promise<void> {
    await this.serveAll();
    const deadline = nowUs() + SETTLE_TIMEOUT_MS * 1000;
    while (this.#pending > 0 && nowUs() < deadline) await sleep(SETTLE_POLL_MS);
    if (this.#pending > 0)
      this.#owner.violation('stuck-register-write', `${this.#pending} register writes did not complete`);
  }

  /** Drops the accesses in the ring, whose guest has gone, and serves those of the next guest by another vIOMMU. */
  replace(iommu: VIommu): void {
    this.#server.discard();
    this.#iommu = iommu;
  }

  #track(work: Completion): void {
    if (!work) return;
    this.#pending++;
    const done = () => {
      this.#pending--;
      this.#owner.reschedule();
    };
    work
      .catch((error: Error) =>
        this.#owner.violation('coordinator-error', `register write failed: ${error.message}`),
      )
      .finally(done)
      .catch((error: unknown) => this.#owner.lose(error));
  }
}
