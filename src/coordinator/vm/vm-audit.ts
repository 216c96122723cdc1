/**
 * Audits of one VM's containers, in the two readings that src/viommu/audit.ts describes.
 */
import { sleep } from '#host';
import { ANNOUNCE_MS } from '../../guest/protocol.ts';
import { hex } from '../../memory/address.ts';
import type { Lacking } from '../../viommu/audit.ts';
import type { VmDevice } from './device.ts';
import type { VmTrace } from './vm-trace.ts';

type AuditedDevice = Pick<VmDevice, 'index' | 'name' | 'alive' | 'space'>;

/** The parts of a VM that its audits use. */
export interface AuditedVm {
  readonly devices: readonly AuditedDevice[];
  readonly trace: Pick<VmTrace, 'violation'>;
  /** Runs `work` when all that the guest has posted to its vIOMMU is complete, and before anything later. */
  quiesce(work: () => void): Promise<void>;
}

export class VmAudit {
  /** Count of audits so far. */
  count = 0;
  readonly #vm: AuditedVm;

  constructor(vm: AuditedVm) {
    this.#vm = vm;
  }

  /** Begins an audit: resolves to the count of differences, which may be changes that the guest is about to announce. */
  async begin(): Promise<number> {
    this.count++;
    let suspects = 0;
    await this.#vm.quiesce(() => {
      for (const { space } of this.#alive()) suspects += space.beginAudit();
    });
    return suspects;
  }

  /** Ends the audit: records missed invalidations, and resolves to their count and that of the lacking translations. */
  async end(): Promise<number> {
    let differences = 0;
    await this.#vm.quiesce(() => {
      for (const device of this.#alive())
        differences += this.#accuse(device) + (device.space.lacking()?.count ?? 0);
    });
    return differences;
  }

  /** Audits a VM whose script has ended. Translations that its devices lack to the end are violations, too. */
  async last(): Promise<void> {
    if ((await this.begin()) > 0) await sleep(ANNOUNCE_MS);
    await this.end();
    for (const { index, name, space } of this.#alive()) {
      const lacking = space.lacking();
      if (lacking) this.#vm.trace.violation(index, 'not-mapped', notMappedText(name, lacking));
    }
  }

  *#alive(): Iterable<AuditedDevice> {
    for (const device of this.#vm.devices) if (device.alive) yield device;
  }

  /** Records the invalidations that the guest has missed for one device; returns their count. */
  #accuse({ index, name, space }: AuditedDevice): number {
    const missed = space.endAudit();
    for (const { iova, size, held, expected } of missed) {
      const text = (gpa: number | undefined) => (gpa === undefined ? 'nothing' : hex(gpa));
      this.#vm.trace.violation(
        index,
        'missed-invalidation',
        `${name} IOVA ${hex(iova)} +${hex(size)}: container maps ${text(held)}, ` +
          `the guest's tables say ${text(expected)}`,
      );
    }
    return missed.length;
  }
}

const notMappedText = (name: string, { count, iova, size, reason }: Lacking): string =>
  `${name} lacks ${count} translations of the guest's tables, the first at IOVA ${hex(iova)} +${hex(size)}: ${reason}`;
