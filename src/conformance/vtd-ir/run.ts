/**
 * Runs recorded interrupt remapping vectors against IntelIommu. Every binding step must give the recorded result, or the
 * specification's: the message that leaves the unit, or the fault; and the unit's own messages.
 */
import * as vtd from '../../abi/vtd.ts';
import { type Iova, PAGE_SIZE } from '../../memory/address.ts';
import { DeviceAddressSpace } from '../../viommu/address-space.ts';
import type { Quirks } from '../../viommu/quirks.ts';
import type { InterruptAnswer } from '../../viommu/viommu.ts';
import { IntelIommu } from '../../viommu/vtd/iommu.ts';
import { MappingRecord } from '../mapping-record.ts';
import type { StepFailure, VectorOutcome } from '../outcome.ts';
import { q35Ram, type VectorRam } from '../vector-ram.ts';
import { bytesHex } from '../vector-text.ts';
import {
  type ExpectedInterrupt,
  type IrDmaStep,
  type IrStep,
  type IrVector,
  type MsiStep,
  parseIrVectors,
} from './vectors.ts';

export interface IrVectorOptions {
  /** `spec`: compares with the specification's answers where a step has them. `qemu`: with the recorded ones. */
  readonly quirks: Quirks;
  /** Named in error messages. */
  readonly file?: string;
}

/** Requester ID of the I/O APIC in the DMAR table. */
const IOAPIC_RID = 0xff00;
/** QEMU knows no requester of messages by plain DMA and of the I/O APIC. */
const NO_REQUESTER = 0xffff;
/** Fault reasons without an index in their record. */
const WITHOUT_INDEX: ReadonlySet<number> = new Set([
  vtd.FAULT.MESSAGE_RESERVED,
  vtd.FAULT.COMPATIBILITY_BLOCKED,
]);

/**
 * Runs each vector on a new unit.
 * @param vectors parsed content of a vector file: an array
 * @throws VectorFormatError for malformed input, naming file, vector and step
 */
export function runIrVectors(vectors: unknown, options: IrVectorOptions): VectorOutcome[] {
  const parsed = parseIrVectors(vectors, options.file);
  const ram = q35Ram();
  return parsed.map((vector) => {
    ram.clear();
    const failures = new VectorRun(ram, vector, options.quirks).run();
    return { name: vector.name, status: failures.length === 0 ? 'passed' : 'failed', failures };
  });
}

/** Expected and actual result of a step; undefined if there is nothing to compare. */
type Comparison = { readonly expected: string; readonly got: string } | undefined;

class VectorRun {
  readonly #ram: VectorRam;
  readonly #vector: IrVector;
  readonly #asQemu: boolean;
  readonly #iommu: IntelIommu;
  readonly #failures: StepFailure[] = [];
  /** Messages of the unit itself during the step. */
  #sent: string[] = [];

  constructor(ram: VectorRam, vector: IrVector, quirks: Quirks) {
    this.#ram = ram;
    this.#vector = vector;
    this.#asQemu = quirks === 'qemu';
    const { iommu } = vector;
    this.#iommu = new IntelIommu({
      ram,
      quirks,
      awBits: iommu.aw_bits,
      cachingMode: iommu.caching_mode,
      scalable: iommu.scalable ?? false,
      dmaTranslation: iommu.dma_translation ?? true,
      intremap: iommu.intremap,
      eim: iommu.eim,
      raiseMsi: (address, data) => this.#sent.push(messageText(address, data)),
    });
    for (const id of new Set(vector.devices.map(({ rid }) => Number(rid))))
      this.#iommu.attach(new DeviceAddressSpace(id, new MappingRecord(ram), ram.regions));
  }

  run(): StepFailure[] {
    for (const [index, step] of this.#vector.steps.entries()) {
      this.#sent = [];
      const compared = this.#step(step);
      if (step.impl_defined) continue;
      if (compared && compared.got !== compared.expected) this.#fail(index, step, compared);
      const events = (!this.#asQemu && step.spec_events) || step.events || [];
      const expected = events
        .map(({ address, data }) => messageText(Number(address), Number(data)))
        .join(' ');
      const got = this.#sent.join(' ');
      if (got !== expected) this.#fail(index, step, { expected: `sent ${expected}`, got: `sent ${got}` });
    }
    return this.#failures;
  }

  #fail(index: number, step: IrStep, { expected, got }: NonNullable<Comparison>): void {
    this.#failures.push({ step: index, op: step.op, expected, got });
  }

  #step(step: IrStep): Comparison {
    switch (step.op) {
      case 'mem_write':
        this.#ram.write(Number(step.gpa), Buffer.from(step.data, 'hex'));
        return undefined;
      case 'mem_read':
        return {
          expected: step.expect.toLowerCase(),
          got: bytesHex(this.#ram.read(Number(step.gpa), step.len)),
        };
      case 'reg_write':
        this.#iommu.writeRegister(Number(step.off), step.size, BigInt(step.value));
        return undefined;
      case 'reg_read':
        return this.#readRegister(
          Number(step.off),
          step.size,
          this.#asQemu ? step.expect : (step.spec ?? step.expect),
        );
      case 'dma_write':
        return { expected: step.expect, got: this.#dma(step) };
      case 'msi':
        return this.#message(step);
    }
  }

  /** The rest of a fault record has no meaning while F is 0. */
  #readRegister(offset: number, size: number, expected: string): Comparison {
    const got = this.#iommu.readRegister(offset, size);
    const isRecord = offset >= vtd.FRCD_LO_REG && offset < vtd.FRCD_HI_REG + 8;
    const hasFault = (this.#iommu.readRegister(vtd.FRCD_HI_REG, 8) & vtd.FRCD.F) !== 0n;
    if (isRecord && !hasFault && !this.#asQemu) {
      const mask = offset + size === vtd.FRCD_HI_REG + 8 ? 1n << BigInt(8 * size - 1) : 0n;
      return { expected: (BigInt(expected) & mask).toString(16), got: (got & mask).toString(16) };
    }
    return { expected: BigInt(expected).toString(16), got: got.toString(16) };
  }

  #message(step: MsiStep): Comparison {
    const address = Number(step.address);
    const expected = (!this.#asQemu && step.spec) || step.expect;
    const rid = this.#requesterOf(step);
    if (!isInterrupt(address))
      return { expected: expectedText(expected), got: this.#write(step, rid, address) };
    const answer = this.#iommu.remapInterrupt(rid, address, Number(step.data));
    return { expected: expectedText(expected), got: answerText(answer, rid) };
  }

  #requesterOf({ via, dev = 0 }: MsiStep): number {
    if (this.#asQemu && (via === 'dma' || via === 'ioapic')) return NO_REQUESTER;
    return via === 'ioapic' ? IOAPIC_RID : Number(this.#vector.devices[dev]?.rid);
  }

  /** Writes a message to memory, as an ordinary DMA. */
  #write({ data }: MsiStep, rid: number, address: number): string {
    const bytes = new Uint8Array(4);
    new DataView(bytes.buffer).setUint32(0, Number(data), true);
    const before = this.#iommu.readRegister(vtd.FRCD_HI_REG, 8);
    const result = this.#iommu.translate(rid, (address - (address % PAGE_SIZE)) as Iova, true);
    if (!result.ok) {
      const isNew = (before & vtd.FRCD.F) === 0n;
      if (!isNew || (this.#iommu.readRegister(vtd.FRCD_HI_REG, 8) & vtd.FRCD.F) === 0n) return 'silent';
      return `blocked reason ${result.reason} addr ${address - (address % PAGE_SIZE)} rid ${rid}`;
    }
    const gpa = result.gpa + (address % PAGE_SIZE);
    if (this.#ram.contains(gpa, 4)) this.#ram.write(gpa, bytes);
    return 'memory';
  }

  #dma(step: IrDmaStep): 'ok' | 'fault' {
    const bytes = Buffer.from(step.data, 'hex');
    const rid = Number(this.#vector.devices[step.dev ?? 0]?.rid);
    let outcome: 'ok' | 'fault' = 'ok';
    for (let at = 0, iova = Number(step.iova); at < bytes.length; ) {
      const offset = iova % PAGE_SIZE;
      const length = Math.min(bytes.length - at, PAGE_SIZE - offset);
      const result = this.#iommu.translate(rid, (iova - offset) as Iova, true);
      if (!result.ok) outcome = 'fault';
      else if (this.#ram.contains(result.gpa + offset, length))
        this.#ram.write(result.gpa + offset, bytes.subarray(at, at + length));
      at += length;
      iova += length;
    }
    return outcome;
  }
}

const isInterrupt = (address: number): boolean => address >= 0xfee0_0000 && address < 0xfef0_0000;

const messageText = (address: number, data: number): string => `${address.toString(16)}=${data.toString(16)}`;

function expectedText(expected: ExpectedInterrupt): string {
  if ('delivered' in expected) {
    const { dest, dest_mode, redir_hint, vector, delivery_mode, trigger_mode, remapped } = expected.delivered;
    const fields = [dest, dest_mode, redir_hint, vector, delivery_mode, trigger_mode].map(Number);
    return `delivered ${fields.join(' ')} remapped ${remapped}`;
  }
  if ('blocked' in expected) {
    const { reason, rid, index, addr } = expected.blocked;
    if (addr !== undefined) return `blocked reason ${Number(reason)} addr ${Number(addr)} rid ${Number(rid)}`;
    return blockedText(Number(reason), Number(index ?? 0), Number(rid));
  }
  return 'silent' in expected ? 'silent' : 'memory';
}

function answerText(answer: InterruptAnswer, rid: number): string {
  if (answer.kind === 'blocked')
    return answer.recorded ? blockedText(answer.reason, answer.index, rid) : 'silent';
  const { dest, destMode, redirHint, vector, deliveryMode, triggerMode, remapped } = answer;
  const fields = [dest, destMode, redirHint, vector, deliveryMode, triggerMode];
  return `delivered ${fields.join(' ')} remapped ${remapped}`;
}

const blockedText = (reason: number, index: number, rid: number): string =>
  `blocked reason ${reason} ${WITHOUT_INDEX.has(reason) ? '' : `index ${index} `}rid ${rid}`;
