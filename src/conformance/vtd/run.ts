/**
 * Runs recorded VT-d vectors against IntelIommu. Every binding step must give the recorded result. With caching mode
 * the containers are compared too: after the driver's invalidations they must equal the guest's tables.
 */
import { hex, type Iova, PAGE_SIZE, PERM_READ, PERM_WRITE } from '../../memory/address.ts';
import type { GuestRam } from '../../memory/guest-ram.ts';
import { DeviceAddressSpace } from '../../viommu/address-space.ts';
import { IOVA_LIMIT } from '../../viommu/notifier.ts';
import type { Quirks } from '../../viommu/quirks.ts';
import type { TranslateResult } from '../../viommu/viommu.ts';
import { IntelIommu } from '../../viommu/vtd/iommu.ts';
import { MappingRecord } from '../mapping-record.ts';
import type { StepFailure, VectorOutcome } from '../outcome.ts';
import { q35Ram, type VectorRam } from '../vector-ram.ts';
import { bytesHex, requesterIdOf } from '../vector-text.ts';
import { type DmaStep, devicesOf, parseVtdVectors, type VtdStep, type VtdVector } from './vectors.ts';

export interface VtdVectorOptions {
  /** `spec`: steps marked as QEMU's quirks are not compared. `qemu`: all are, and the model answers as QEMU does. */
  readonly quirks: Quirks;
  /** Named in error messages. */
  readonly file?: string;
}

/**
 * Runs each vector on a new unit.
 * @param vectors parsed content of a vector file: an array
 * @throws VectorFormatError for malformed input, naming file, vector and step
 */
export function runVtdVectors(vectors: unknown, options: VtdVectorOptions): VectorOutcome[] {
  const parsed = parseVtdVectors(vectors, options.file);
  const ram = q35Ram();
  return parsed.map((vector) => {
    ram.clear();
    const failures = new VectorRun(ram, vector, options.quirks).run();
    return { name: vector.name, status: failures.length === 0 ? 'passed' : 'failed', failures };
  });
}

/** Expected and actual result of a step; undefined if there is nothing to compare. */
type Comparison = { readonly expected: string; readonly got: string } | undefined;

interface Device {
  readonly requesterId: number;
  readonly container: MappingRecord;
}

class VectorRun {
  readonly #ram: VectorRam;
  readonly #vector: VtdVector;
  readonly #quirks: Quirks;
  readonly #iommu: IntelIommu;
  readonly #devices: readonly Device[];
  readonly #failures: StepFailure[] = [];

  constructor(ram: VectorRam, vector: VtdVector, quirks: Quirks) {
    this.#ram = ram;
    this.#vector = vector;
    this.#quirks = quirks;
    this.#iommu = new IntelIommu(unitOf(vector, ram, quirks));
    this.#devices = devicesOf(vector).map(({ bdf }) => ({
      requesterId: requesterIdOf(bdf),
      container: new MappingRecord(ram),
    }));
    for (const { requesterId, container } of this.#devices)
      this.#iommu.attach(new DeviceAddressSpace(requesterId, container, ram.regions));
  }

  run(): StepFailure[] {
    for (const [index, step] of this.#vector.steps.entries()) {
      const compared = this.#step(step, index);
      if (compared && this.#binds(step) && compared.got !== compared.expected)
        this.#fail(index, step, compared);
    }
    return this.#failures;
  }

  #binds(step: VtdStep): boolean {
    return !step.impl_defined && (step.quirk === undefined || this.#quirks === 'qemu');
  }

  #fail(index: number, step: VtdStep, { expected, got }: NonNullable<Comparison>): void {
    this.#failures.push({ step: index, op: step.op, expected, got });
  }

  #step(step: VtdStep, index: number): Comparison {
    switch (step.op) {
      case 'mem_write':
        return this.#memoryWrite(Number(step.gpa), Buffer.from(step.data, 'hex'));
      case 'mem_read': {
        const inRam = this.#ram.contains(Number(step.gpa), step.len);
        const got = inRam ? bytesHex(this.#ram.read(Number(step.gpa), step.len)) : 'not RAM';
        return { expected: step.expect.toLowerCase(), got };
      }
      case 'reg_write': {
        const pending = this.#iommu.writeRegister(Number(step.off), step.size, BigInt(step.value));
        return { expected: 'complete', got: pending ? 'pending' : 'complete' };
      }
      case 'reg_read': {
        const got = this.#iommu.readRegister(Number(step.off), step.size);
        return { expected: BigInt(step.expect).toString(16), got: got.toString(16) };
      }
      case 'dma_read':
      case 'dma_write':
        return this.#dma(step, index);
    }
  }

  #memoryWrite(gpa: number, bytes: Uint8Array): Comparison {
    if (!this.#ram.contains(gpa, bytes.length)) return { expected: 'RAM', got: `${hex(gpa)} is not RAM` };
    this.#ram.write(gpa, bytes);
    return undefined;
  }

  /** Performs one DMA. Its parts, one for each page, are independent and in address order. */
  #dma(step: DmaStep, index: number): Comparison {
    const bytes = step.op === 'dma_write' ? Buffer.from(step.data, 'hex') : Buffer.alloc(step.len);
    const iova = BigInt(step.iova);
    const parts: ('ok' | 'fault')[] = [];
    for (let at = 0; at < bytes.length; ) {
      const address = BigInt.asUintN(64, iova + BigInt(at));
      const offset = Number(address & 0xfffn);
      const length = Math.min(bytes.length - at, PAGE_SIZE - offset);
      parts.push(
        this.#dmaPart(step, index, Number(address & ~0xfffn), offset, bytes.subarray(at, at + length)),
      );
      at += length;
    }
    const outcome = parts.includes('fault') ? 'fault' : 'ok';
    const data = step.op === 'dma_read' && step.data !== undefined;
    const said = (total: string, each: readonly string[], content: string | undefined) =>
      [total, ...(step.parts ? each : []), ...(data ? [content] : [])].join(' ');
    return {
      expected: said(step.expect, step.parts?.map((part) => part.expect) ?? [], step.data?.toLowerCase()),
      got: said(outcome, parts, bytesHex(bytes)),
    };
  }

  #dmaPart(step: DmaStep, index: number, page: number, offset: number, bytes: Buffer): 'ok' | 'fault' {
    const device = this.#devices[step.dev ?? 0] as Device;
    const write = step.op === 'dma_write';
    const result = this.#iommu.translate(device.requesterId, page as Iova, write);
    if (this.#vector.iommu.caching_mode && !step.impl_defined && step.quirk === undefined)
      this.#checkContainer(device, step, index, page, result);
    if (!result.ok) return 'fault';
    const gpa = result.gpa + offset;
    if (!this.#ram.contains(gpa, bytes.length)) return 'ok';
    if (write) this.#ram.write(gpa, bytes);
    else bytes.set(this.#ram.read(gpa, bytes.length));
    return 'ok';
  }

  /** Compares the container with the translation. It holds neither upper-half addresses nor the interrupt range. */
  #checkContainer(
    { container }: Device,
    step: DmaStep,
    index: number,
    page: number,
    result: TranslateResult,
  ): void {
    if (page >= IOVA_LIMIT || (page >= INTERRUPT_RANGE[0] && page < INTERRUPT_RANGE[1])) return;
    const held = container.mappingAt(page);
    const needed = step.op === 'dma_write' ? PERM_WRITE : PERM_READ;
    const got = held && (held.perm & needed) !== 0 ? hex(held.gpa + (page - held.iova)) : 'nothing';
    const inRam = result.ok && this.#ram.contains(result.gpa, PAGE_SIZE);
    const expected = inRam ? hex(result.gpa) : 'nothing';
    if (got !== expected)
      this.#fail(index, step, {
        expected: `container maps ${hex(page)} to ${expected}`,
        got: `to ${got}`,
      });
  }
}

const INTERRUPT_RANGE = [0xfee00000, 0xfef00000] as const;

const unitOf = ({ iommu }: VtdVector, ram: GuestRam, quirks: Quirks) => ({
  ram,
  quirks,
  awBits: iommu.aw_bits,
  cachingMode: iommu.caching_mode,
  snoopControl: iommu.snoop_control ?? false,
  deviceIotlb: iommu.device_iotlb ?? false,
  staleTm: iommu.stale_tm ?? false,
  dmaTranslation: iommu.dma_translation ?? true,
  intremap: iommu.intremap ?? true,
  eimeSticks: true,
  scalable: iommu.scalable ?? false,
  firstStage: iommu.first_stage ?? false,
  firstStage1G: iommu.fs1gp ?? true,
  pasidBits: iommu.pasid_bits ?? 0,
});
