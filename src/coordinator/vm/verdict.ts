/**
 * The verdict on one VM: its violations and its DMA faults, expected and unexpected.
 */
import { hex, PAGE_SIZE } from '../../memory/address.ts';
import { bdfText } from '../../pci/config-space.ts';
import type { FrameBodies } from '../../proto/schema.ts';
import { boundedText } from '../../report/text.ts';
import type { DmaFaultRecord } from '../../viommu/viommu.ts';

type Violation = FrameBodies['violation'];

/** Maximum count of violations per VM that are kept with their text; further ones are counted by kind. */
export const VIOLATION_LIMIT = 32;
/** Maximum length of a kind, and maximum count of kinds that are counted apart; the rest is counted as others. */
const KIND_LENGTH_LIMIT = 64;
const KINDS_LIMIT = 64;
const OTHER_KINDS = 'others';
/** Maximum count of announced faults that have not occurred yet. */
export const EXPECTED_FAULT_LIMIT = 4096;

/** Announced faults, by `device:page` with their count, and devices whose removal was announced. */
export interface Expectations {
  readonly faults: readonly (readonly [key: string, count: number])[];
  readonly removals: readonly number[];
}

export class VmVerdict {
  faultsExpected = 0;
  faultsUnexpected = 0;
  /** Texts of the first unexpected faults. */
  readonly unexpectedFaults: string[] = [];
  readonly #violations: Violation[] = [];
  readonly #more = new Map<string, number>();
  /** `device:page` → count of announced faults. */
  readonly #expected = new Map<string, number>();
  /** `device:page` where faults may occur or not. */
  readonly #allowed = new Set<string>();
  #allowsAll = false;
  readonly #lost = new Set<number>();
  /** Devices whose removal was announced and has not occurred yet. */
  readonly #removals = new Set<number>();

  /** Adds a violation. Its texts may come from a device model and be of any length. */
  violation(kind: string, detail: string, repeats = 0): void {
    const name = boundedText(kind, KIND_LENGTH_LIMIT);
    if (this.#violations.length < VIOLATION_LIMIT)
      this.#violations.push({ kind: name, detail: boundedText(detail), repeats });
    else {
      const counted = this.#more.has(name) || this.#more.size < KINDS_LIMIT ? name : OTHER_KINDS;
      this.#more.set(counted, (this.#more.get(counted) ?? 0) + 1 + repeats);
    }
  }

  violations(): Violation[] {
    const more = [...this.#more].map(([kind, repeats]) => ({
      kind,
      detail: 'and more of the same',
      repeats,
    }));
    return [...this.#violations, ...more];
  }

  /** Drops the announced faults of a lost device: they can no longer occur and must not count as missing. */
  deviceLost(device: number): void {
    this.#lost.add(device);
    for (const key of this.#expected.keys()) if (key.startsWith(`${device}:`)) this.#expected.delete(key);
  }

  /**
   * Drops all announcements, because the guest that has made them has gone.
   * @param isClosing true if the VM is closed while its devices work: all their faults are allowed from now on
   */
  guestGone(isClosing = false): void {
    this.#expected.clear();
    this.#allowed.clear();
    this.#removals.clear();
    this.#allowsAll = isClosing;
  }

  expectFault(device: number, iova: number): void {
    if (this.#lost.has(device)) return;
    const key = keyOf(device, iova);
    if (this.#expected.size < EXPECTED_FAULT_LIMIT)
      this.#expected.set(key, (this.#expected.get(key) ?? 0) + 1);
  }

  /** Allows or forbids faults that may occur or not. */
  allowFault(device: number, iova: number, allowed: boolean): void {
    const key = keyOf(device, iova);
    if (!allowed) this.#allowed.delete(key);
    else if (this.#allowed.size < EXPECTED_FAULT_LIMIT) this.#allowed.add(key);
  }

  /** Counts a fault; returns true if it was announced or allowed. */
  fault(device: number, record: DmaFaultRecord): boolean {
    const key = keyOf(device, record.iova);
    const announced = this.#expected.get(key) ?? 0;
    if (announced > 0) {
      if (announced === 1) this.#expected.delete(key);
      else this.#expected.set(key, announced - 1);
      this.faultsExpected++;
      return true;
    }
    if (this.#allowsAll || this.#allowed.has(key)) {
      this.faultsExpected++;
      return true;
    }
    this.faultsUnexpected++;
    if (this.unexpectedFaults.length < VIOLATION_LIMIT) this.unexpectedFaults.push(faultText(record));
    return false;
  }

  /** Announces that the host removes a device. */
  expectRemoval(device: number): void {
    if (!this.#lost.has(device)) this.#removals.add(device);
  }

  /** Records that the host removes a device; returns true if that was announced. */
  removed(device: number): boolean {
    return this.#removals.delete(device);
  }

  /** Count of announced removals that have not occurred. */
  get missingRemovals(): number {
    return this.#removals.size;
  }

  /** Announcements that are still open, for a VM that moves to another host. */
  get expectations(): Expectations {
    return { faults: [...this.#expected], removals: [...this.#removals] };
  }

  /** Continues with the expectations of the last host. Those beyond the limit are dropped. */
  set expectations({ faults, removals }: Expectations) {
    for (const [key, count] of faults.slice(0, EXPECTED_FAULT_LIMIT)) this.#expected.set(key, count);
    for (const device of removals) this.expectRemoval(device);
    for (const device of this.#lost) this.deviceLost(device);
  }

  /** Count of announced faults that have not occurred. The isolation that they would prove was not observed. */
  get missingFaults(): number {
    let missing = 0;
    for (const count of this.#expected.values()) missing += count;
    return missing;
  }
}

const keyOf = (device: number, iova: number): string => `${device}:${Math.floor(iova / PAGE_SIZE)}`;

/** Returns a fault as one line, like a DMAR fault in a guest's log. */
const faultText = ({ requesterId, iova, write, reason, text }: DmaFaultRecord): string =>
  `DMA ${write ? 'write' : 'read'} by ${bdfText(requesterId)} to ${hex(iova)} faulted: reason ${hex(reason)} ${text}`;
