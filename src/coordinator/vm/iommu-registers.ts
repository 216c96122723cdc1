/**
 * The guest's way to its vIOMMU's registers: a ring of accesses, answered in order, with a bound on the writes whose
 * work is not yet complete.
 */
import { nowUs, sleep } from '#host';
import { MMIO_CHANNEL_BYTES, MmioServer } from '../../channel/mmio-channel.ts';
import type { Completion } from '../../viommu/completion.ts';
import type { VIommu } from '../../viommu/viommu.ts';

/** Accesses served per turn: one guest must not starve the others. */
const BURST = 64;
/** Writes whose work is under way; beyond it the guest's ring fills and the guest waits. */
const PENDING_WRITES_LIMIT = 32;
const SETTLE_POLL_MS = 5;
/** How long the end of a VM waits for writes still under way. */
const SETTLE_TIMEOUT_MS = 30_000;

export interface RegistersOwner {
  /** Has the ring served again, in a later turn. */
  again(): void;
  violation(kind: string, detail: string): void;
}

export class IommuRegisters {
  /** What the guest's thread is given. */
  readonly mmio = new SharedArrayBuffer(MMIO_CHANNEL_BYTES);
  readonly #iommu: VIommu;
  readonly #owner: RegistersOwner;
  readonly #server = new MmioServer(this.mmio, 0);
  #pending = 0;

  constructor(iommu: VIommu, owner: RegistersOwner) {
    this.#iommu = iommu;
    this.#owner = owner;
  }

  /** Serves what is in the ring. */
  serve(): void {
    if (this.#pending >= PENDING_WRITES_LIMIT) return;
    const more = this.#server.serve(
      {
        read: (_region, offset, size) => this.#iommu.readRegister(offset, size),
        write: (_region, offset, size, value) => this.#track(this.#iommu.writeRegister(offset, size, value)),
      },
      BURST,
    );
    if (more && this.#pending < PENDING_WRITES_LIMIT) this.#owner.again();
  }

  /** Lets writes that are under way come to their end, for a bounded time. */
  async settle(): Promise<void> {
    const deadline = nowUs() + SETTLE_TIMEOUT_MS * 1000;
    while (this.#pending > 0 && nowUs() < deadline) await sleep(SETTLE_POLL_MS);
    if (this.#pending > 0)
      this.#owner.violation('stuck-register-write', `${this.#pending} register writes did not complete`);
  }

  #track(work: Completion): void {
    if (!work) return;
    this.#pending++;
    const done = () => {
      this.#pending--;
      this.#owner.again();
    };
    work.then(done, (error: Error) => {
      this.#owner.violation('coordinator-error', `register write failed: ${error.message}`);
      done();
    });
  }
}
