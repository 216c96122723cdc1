/**
 * Runs recorded AMD-Vi vectors against AmdViIommu. Every binding step must give the recorded result, or the
 * specification's. After every command that invalidates everything, the containers must equal the guest's tables.
 */
import * as amdvi from '../../abi/amdvi.ts';
import { type Iova, PAGE_SIZE } from '../../memory/address.ts';
import { DeviceAddressSpace } from '../../viommu/address-space.ts';
import { AmdViIommu } from '../../viommu/amdvi/iommu.ts';
import type { Quirks } from '../../viommu/quirks.ts';
import { MappingRecord } from '../mapping-record.ts';
import type { StepFailure, VectorOutcome } from '../outcome.ts';
import { q35Ram, type VectorRam } from '../vector-ram.ts';
import { bytesHex, requesterIdOf } from '../vector-text.ts';
import { type Compared, compareFields, compareRaw, type RawEvent } from './events.ts';
import {
  type AmdDmaStep,
  type AmdEventsStep,
  type AmdStep,
  type AmdVector,
  devicesOf,
  parseAmdVectors,
} from './vectors.ts';

export interface AmdVectorOptions {
  /** `spec`: compares with the specification's answers where a step has them. `qemu`: with the recorded ones. */
  readonly quirks: Quirks;
  /** Named in error messages. */
  readonly file?: string;
}

/**
 * Runs each vector on a new unit.
 * @param vectors parsed content of a vector file: an array
 * @throws VectorFormatError for malformed input, naming file, vector and step
 */
export function runAmdVectors(vectors: unknown, options: AmdVectorOptions): VectorOutcome[] {
  const parsed = parseAmdVectors(vectors, options.file);
  const ram = q35Ram();
  return parsed.map((vector) => {
    ram.clear();
    const failures = new VectorRun(ram, vector, options.quirks).run();
    return { name: vector.name, status: failures.length === 0 ? 'passed' : 'failed', failures };
  });
}

/** Largest access of QEMU's bus to memory that is not there. Each of them is translated, and may fault, alone. */
const BLOCKED_ACCESS_BYTES = 4;

class VectorRun {
  readonly #ram: VectorRam;
  readonly #vector: AmdVector;
  readonly #asQemu: boolean;
  readonly #quirks: Quirks;
  readonly #devices: readonly number[];
  readonly #failures: StepFailure[] = [];
  #iommu!: AmdViIommu;
  #spaces: DeviceAddressSpace[] = [];
  #interrupts = 0;

  constructor(ram: VectorRam, vector: AmdVector, quirks: Quirks) {
    this.#ram = ram;
    this.#vector = vector;
    this.#quirks = quirks;
    this.#asQemu = quirks === 'qemu';
    this.#devices = devicesOf(vector).map(({ bdf }) => requesterIdOf(bdf));
    this.#reset();
  }

  run(): StepFailure[] {
    for (const [index, step] of this.#vector.steps.entries()) {
      this.#interrupts = 0;
      const compared = this.#step(step);
      if (!this.#binds(step, index)) continue;
      if (compared && compared.got !== compared.expected) this.#fail(index, step, compared);
      this.#compareInterrupts(index, step);
    }
    return this.#failures;
  }

  #reset(): void {
    const { dma_remap, dma_translation, xtsup } = this.#vector.iommu;
    this.#iommu = new AmdViIommu({
      ram: this.#ram,
      quirks: this.#quirks,
      dmaRemap: dma_remap || !this.#asQemu,
      dmaTranslation: dma_translation ?? true,
      xtsup: xtsup ?? false,
      raiseMsi: () => {
        this.#interrupts++;
      },
    });
    this.#spaces = this.#devices.map(
      (id) => new DeviceAddressSpace(id, new MappingRecord(this.#ram), this.#ram.regions),
    );
    for (const space of this.#spaces) this.#iommu.attach(space);
  }

  #binds(step: AmdStep, index: number): boolean {
    if (step.impl_defined || step.unobservable !== undefined) return false;
    if (this.#asQemu) return true;
    const { spec_steps: covered = Number.POSITIVE_INFINITY } = this.#vector;
    const spec = specOf(step);
    return index < covered && !spec?.any && (step.quirk === undefined || spec !== undefined);
  }

  #fail(index: number, step: AmdStep, { expected, got }: Compared): void {
    this.#failures.push({ step: index, op: step.op, expected, got });
  }

  /** Compares whether the unit has raised an interrupt. */
  #compareInterrupts(index: number, step: AmdStep): void {
    const spec = this.#asQemu ? undefined : specOf(step);
    const text = (count: number) => (count > 0 ? 'an interrupt' : 'no interrupt');
    const expected = text(spec?.irqs ?? step.irqs ?? 0);
    const got = text(this.#interrupts);
    if (got !== expected) this.#fail(index, step, { expected, got });
  }

  #step(step: AmdStep): Compared | undefined {
    switch (step.op) {
      case 'mem_write':
        this.#writeMemory(Number(step.gpa), Buffer.from(step.data, 'hex'));
        return undefined;
      case 'mem_read':
        return {
          expected: (this.#spec(step)?.expect ?? step.expect).toLowerCase(),
          got: bytesHex(this.#readMemory(Number(step.gpa), step.len)),
        };
      case 'reg_write':
        this.#iommu.writeRegister(Number(step.off), step.size, BigInt(step.value));
        return Number(step.off) === amdvi.COMMAND_TAIL_REG ? this.#audit() : undefined;
      case 'reg_read':
        return numbers(
          this.#spec(step)?.expect ?? step.expect,
          this.#iommu.readRegister(Number(step.off), step.size),
        );
      case 'cfg_write':
        this.#iommu.pci.registers.write(Number(step.off), step.size, BigInt(step.value));
        return undefined;
      case 'cfg_read':
        return numbers(
          this.#spec(step)?.expect ?? step.expect,
          this.#iommu.pci.registers.read(Number(step.off), step.size),
        );
      case 'events':
        return this.#events(step);
      case 'system_reset':
        this.#reset();
        return undefined;
      default:
        return this.#dma(step);
    }
  }

  /** Compares the containers with the guest's tables if the last command was INVALIDATE_IOMMU_ALL. */
  #audit(): Compared | undefined {
    const base = this.#iommu.readRegister(amdvi.COMMAND_BASE_REG, 8);
    const head = Number(this.#iommu.readRegister(amdvi.COMMAND_HEAD_REG, 8));
    const last = Number(base & amdvi.BASE_ADDRESS_MASK) + head - amdvi.COMMAND_BYTES;
    if (head === 0 || !this.#ram.contains(last, amdvi.COMMAND_BYTES)) return undefined;
    if (this.#ram.read32(last + 4) >>> amdvi.OPCODE_SHIFT !== amdvi.INVALIDATE_IOMMU_ALL) return undefined;
    const found = this.#spaces.flatMap((space) => space.audit());
    return {
      expected: 'containers equal the tables',
      got: found.length > 0 ? JSON.stringify(found[0]) : 'containers equal the tables',
    };
  }

  /** Returns zeros for bytes that are not RAM. */
  #readMemory(gpa: number, length: number): Uint8Array {
    if (this.#ram.contains(gpa, length)) return this.#ram.read(gpa, length);
    return Uint8Array.from({ length }, (_, i) =>
      this.#ram.contains(gpa + i, 1) ? (this.#ram.read(gpa + i, 1)[0] as number) : 0,
    );
  }

  /** Writes the bytes that are RAM; the others are lost. */
  #writeMemory(gpa: number, bytes: Uint8Array): void {
    if (this.#ram.contains(gpa, bytes.length)) this.#ram.write(gpa, bytes);
    else
      for (const [i, byte] of bytes.entries())
        if (this.#ram.contains(gpa + i, 1)) this.#ram.write(gpa + i, Uint8Array.of(byte));
  }

  #spec<Step extends AmdStep & { readonly spec?: unknown }>(step: Step): Step['spec'] {
    return this.#asQemu ? undefined : step.spec;
  }

  #events(step: AmdEventsStep): Compared {
    const read = (offset: number) => Number(this.#iommu.readRegister(offset, 8) & 0x7fff0n);
    const bytes = step.entries * amdvi.EVENT_BYTES;
    const [head, tail] = [read(amdvi.EVENT_HEAD_REG) % bytes, read(amdvi.EVENT_TAIL_REG) % bytes];
    const events: RawEvent[] = [];
    for (let at = head; at !== tail; at = (at + amdvi.EVENT_BYTES) % bytes)
      events.push(this.#ram.read(Number(step.base) + at, amdvi.EVENT_BYTES));
    this.#iommu.writeRegister(amdvi.EVENT_HEAD_REG, 8, BigInt(tail));
    const fields = this.#spec(step)?.expect;
    return fields ? compareFields(events, fields) : compareRaw(events, step);
  }

  /** Performs a DMA in its 4 KiB parts, in address order. */
  #dma(step: AmdDmaStep): Compared {
    const bytes = step.op === 'dma_write' ? Buffer.from(step.data, 'hex') : Buffer.alloc(step.len);
    const done: string[] = [];
    for (let at = 0; at < bytes.length; ) {
      const address = BigInt.asUintN(64, BigInt(step.iova) + BigInt(at));
      const offset = Number(address & 0xfffn);
      const length = Math.min(bytes.length - at, PAGE_SIZE - offset);
      done.push(this.#part(step, Number(address & ~0xfffn), offset, bytes.subarray(at, at + length)));
      at += length;
    }
    const spec = this.#spec(step);
    const outcome = spec?.expect ?? step.expect;
    const parts = spec?.parts ?? step.parts?.map((part) => part.expect);
    // A step that only the specification blocks has no data.
    const data = spec?.data ?? (spec?.expect === 'fault' ? undefined : step.data);
    const compares = step.op === 'dma_read' && data !== undefined;
    const said = (total: string, each: readonly string[], content: string) =>
      [total, ...(parts ? each : []), ...(compares ? [content.toLowerCase()] : [])].join(' ');
    return {
      expected: said(outcome, parts ?? [], data ?? ''),
      got: said(done.includes('fault') ? 'fault' : 'ok', done, bytesHex(bytes)),
    };
  }

  #part(step: AmdDmaStep, page: number, offset: number, bytes: Buffer): 'ok' | 'fault' {
    const device = this.#devices[step.dev ?? 0] as number;
    const write = step.op === 'dma_write';
    // Beyond 2^53 only the page is exact.
    const at = (byte: number) => (page < 2 ** 53 ? page + offset + byte : page) as Iova;
    const result = this.#iommu.translate(device, at(0), write);
    if (!result.ok) {
      if (this.#asQemu)
        for (const byte of laterAccesses(offset, bytes.length))
          this.#iommu.translate(device, at(byte), write);
      return 'fault';
    }
    const gpa = result.gpa + (page < 2 ** 53 ? 0 : offset);
    if (!this.#ram.contains(gpa, bytes.length)) return 'ok';
    if (write) this.#ram.write(gpa, bytes);
    else bytes.set(this.#ram.read(gpa, bytes.length));
    return 'ok';
  }
}

/** Yields where a blocked access of QEMU continues after its first piece: pieces are aligned, of 4 bytes at most. */
function* laterAccesses(offset: number, length: number): Iterable<number> {
  for (let done = 0; ; ) {
    let piece = BLOCKED_ACCESS_BYTES;
    while ((offset + done) % piece !== 0 || piece > length - done) piece /= 2;
    done += piece;
    if (done >= length) return;
    yield done;
  }
}

const specOf = (step: AmdStep): { any?: boolean | undefined; irqs?: number | undefined } | undefined =>
  'spec' in step ? step.spec : undefined;

const numbers = (expected: string, got: bigint): Compared => ({
  expected: BigInt(expected).toString(16),
  got: got.toString(16),
});
