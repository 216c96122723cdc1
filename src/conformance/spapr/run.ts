/**
 * Runs recorded sPAPR TCE vectors against SpaprIommu. Every step must give LoPAR's result (`spec`) or the recorded
 * QEMU's (`qemu`), and every device's container must equal its windows' TCEs.
 */

import * as spapr from '../../abi/spapr.ts';
import { DEFAULT_WINDOW_SIZE, DEFAULT_WINDOW_START } from '../../abi/spapr-host-bridges.ts';
import { hex, type Iova, offsetBy, PAGE_SIZE, PERM_READ, PERM_WRITE } from '../../memory/address.ts';
import { DeviceAddressSpace } from '../../viommu/address-space.ts';
import type { Quirks } from '../../viommu/quirks.ts';
import type { BridgeOptions } from '../../viommu/spapr/bridge.ts';
import { SpaprIommu } from '../../viommu/spapr/iommu.ts';
import { MappingRecord } from '../mapping-record.ts';
import type { StepFailure, VectorOutcome } from '../outcome.ts';
import { VectorRam } from '../vector-ram.ts';
import { bytesHex } from '../vector-text.ts';
import { parseSpaprVectors, type SpaprMachine, type SpaprStep, type SpaprVector } from './vectors.ts';

export interface SpaprVectorOptions {
  readonly quirks: Quirks;
}

/** RAM of the recorded machine. */
const RAM_BYTES = 2 ** 29;
/** Maximum failures reported for a vector. Later ones usually follow from the first. */
const FAILURE_LIMIT = 16;
/** Recorded value of an RTAS result word that was not written. */
const NOT_WRITTEN = 0xeeee_eeee;
/** mem_fill: the 8-byte word at address A is A times this. */
const FILL_FACTOR = 0x9e37_79b9_7f4a_7c15n;

const OPCODES: Readonly<Record<string, number>> = {
  H_GET_TCE: spapr.H_GET_TCE,
  H_PUT_TCE: spapr.H_PUT_TCE,
  H_STUFF_TCE: spapr.H_STUFF_TCE,
  H_PUT_TCE_INDIRECT: spapr.H_PUT_TCE_INDIRECT,
};

/**
 * Runs each vector on a new machine.
 * @param vectors parsed content of a vector file: an array
 * @throws VectorFormatError
 */
export function runSpaprVectors(vectors: unknown, { quirks }: SpaprVectorOptions): VectorOutcome[] {
  const parsed = parseSpaprVectors(vectors);
  const ram = VectorRam.create(RAM_BYTES);
  return parsed.map((vector) => {
    ram.clear();
    return new VectorRun(vector, quirks, ram).run();
  });
}

type StepOf<Op extends SpaprStep['op']> = Extract<SpaprStep, { op: Op }>;
type DmaStep = StepOf<'dma_read' | 'dma_write'>;

class VectorRun {
  readonly #vector: SpaprVector;
  readonly #quirks: Quirks;
  readonly #ram: VectorRam;
  readonly #iommu: SpaprIommu;
  readonly #spaces: readonly DeviceAddressSpace[];
  readonly #records: readonly MappingRecord[];
  readonly #failures: StepFailure[] = [];
  #at = 0;
  #op = '';

  constructor(vector: SpaprVector, quirks: Quirks, ram: VectorRam) {
    this.#vector = vector;
    this.#quirks = quirks;
    this.#ram = ram;
    this.#iommu = new SpaprIommu({ ram, quirks, ...machineOptions(vector.machine) });
    this.#records = vector.devices.map(() => new MappingRecord(ram));
    this.#spaces = vector.devices.map(
      ({ phb, slot }, i) =>
        new DeviceAddressSpace((phb << 8) | (slot << 3), this.#records[i] as MappingRecord, ram.regions),
    );
  }

  run(): VectorOutcome {
    const { name, steps, overlapping_windows_from_step: overlap } = this.#vector;
    for (const space of this.#spaces) this.#iommu.attach(space);
    this.#checkWindow();
    const end = this.#quirks === 'spec' ? Math.min(overlap ?? steps.length, steps.length) : steps.length;
    for (const [index, step] of steps.slice(0, end).entries()) {
      this.#at = index;
      this.#op = step.op;
      this.#step(step);
      if (this.#failures.length >= FAILURE_LIMIT) break;
    }
    this.#audit();
    const status = this.#failures.length === 0 ? 'passed' : 'failed';
    const outcome = { name, status, failures: this.#failures } as const;
    if (end === steps.length) return outcome;
    const reason = `windows overlap from step ${end} on: compared only with quirks 'qemu'`;
    return { ...outcome, status: end === 0 ? 'skipped' : status, reason };
  }

  readonly #runners: { readonly [Op in SpaprStep['op']]: (step: StepOf<Op>) => void } = {
    hcall: (step) => this.#hypercall(step),
    rtas: (step) => this.#rtas(step),
    dma_read: (step) => this.#dma(step, Buffer.alloc(step.len)),
    dma_write: (step) => this.#dma(step, Buffer.from(step.data, 'hex')),
    mem_write: ({ gpa, data }) => this.#ram.write(Number(gpa), Buffer.from(data, 'hex')),
    mem_read: (step) => this.#memRead(step),
    mem_fill: ({ gpa, len }) => this.#ram.write(Number(gpa), fillWords(gpa, len)),
    mem_fill_tces: ({ gpa, first, stride, count }) => {
      const tces = Buffer.alloc(8 * count);
      for (let i = 0; i < count; i++)
        tces.writeBigUInt64BE(BigInt.asUintN(64, first + BigInt(i) * stride), 8 * i);
      this.#ram.write(Number(gpa), tces);
    },
  };

  #step<Op extends SpaprStep['op']>(step: StepOf<Op>): void {
    const run = this.#runners[step.op as Op] as (step: StepOf<Op>) => void;
    run(step);
  }

  #expect(expected: string, got: string): void {
    if (expected === got || this.#failures.length >= FAILURE_LIMIT) return;
    this.#failures.push({ step: this.#at, op: this.#op, expected, got });
  }

  /** Returns the step with the answers to compare: with `spec`, the specification's replace the recorded ones. */
  #withAnswers<Step extends { readonly spec?: object | undefined }>(step: Step): Step {
    return this.#quirks === 'spec' && step.spec ? { ...step, ...step.spec } : step;
  }

  #hypercall(step: StepOf<'hcall'>): void {
    const { name, args, ret, out } = this.#withAnswers(step);
    const result = this.#iommu.hypercall(OPCODES[name] as number, args);
    if (result instanceof Promise) {
      this.#expect('a result at once', 'a promise');
      return;
    }
    if (!ret) return;
    const values = ret === 'H_SUCCESS' ? (out ?? []) : [];
    this.#expect(callText(name, ret, values), callText(name, spapr.returnName(result.ret), result.out));
  }

  #rtas(step: StepOf<'rtas'>): void {
    const { name, args, nret, status, rets, h_rtas: ret } = this.#withAnswers(step);
    const result = this.#iommu.rtas(name, args.map(wordOf), nret);
    if (result instanceof Promise) {
      this.#expect('a result at once', 'a promise');
      return;
    }
    const expectedRet = BigInt.asIntN(64, ret ?? 0n);
    this.#expect(`${name} ${spapr.returnName(expectedRet)}`, `${name} ${spapr.returnName(result.ret)}`);
    if (typeof status !== 'number' || expectedRet !== spapr.H_SUCCESS) return;
    const got = Array.from({ length: nret - 1 }, (_, i) => result.rets[i] ?? NOT_WRITTEN);
    const text = (word: number, words: readonly (number | bigint)[]) =>
      `${name} ${word} [${words.map((value) => hex(Number(value))).join(' ')}]`;
    this.#expect(text(status, rets ?? []), text(result.status, got));
  }

  #memRead(step: StepOf<'mem_read'>): void {
    const { gpa, len, expect } = this.#withAnswers(step);
    if (expect) this.#expect(expect, bytesHex(this.#ram.read(Number(gpa), len)));
  }

  /** Performs one DMA. The pieces of each 4 KiB page are independent: a fault in one does not stop the others. */
  #dma(step: DmaStep, bytes: Buffer): void {
    const { expect, parts, data } = this.#withAnswers(step as StepOf<'dma_read'>);
    const write = step.op === 'dma_write';
    const got: string[] = [];
    for (let at = 0; at < bytes.length; ) {
      const address = BigInt.asUintN(64, step.iova + BigInt(at));
      const offset = Number(address & 0xfffn);
      const piece = bytes.subarray(at, at + Math.min(bytes.length - at, PAGE_SIZE - offset));
      got.push(this.#dmaPiece(step.dev, Number(address & ~0xfffn), offset, piece, write));
      at += piece.length;
    }
    const whole = got.includes('fault') ? 'fault' : 'ok';
    if (!expect) return;
    this.#expect(expect, whole);
    if (whole !== expect) return;
    if (parts) this.#expect(parts.join(' '), got.join(' '));
    if (!write && data) this.#expect(data, bytesHex(bytes));
  }

  #dmaPiece(device: number, page: number, offset: number, bytes: Buffer, write: boolean): 'ok' | 'fault' {
    const space = this.#spaces[device];
    if (!space) {
      this.#expect(`a device below ${this.#spaces.length}`, `device ${device}`);
      return 'fault';
    }
    const result = this.#iommu.translate(space.requesterId, page as Iova, write);
    const held = (this.#records[device] as MappingRecord).mappingAt(page);
    const allowed = held && (held.perm & (write ? PERM_WRITE : PERM_READ)) !== 0;
    const container = allowed ? offsetBy(held.gpa, page - held.iova) : undefined;
    this.#expect(
      `container maps ${hex(page)} to ${result.ok ? hex(result.gpa) : 'nothing'}`,
      `container maps ${hex(page)} to ${container === undefined ? 'nothing' : hex(container)}`,
    );
    if (!result.ok) return 'fault';
    if (write) this.#ram.write(result.gpa + offset, bytes);
    else bytes.set(this.#ram.read(result.gpa + offset, bytes.length));
    return 'ok';
  }

  #checkWindow(): void {
    const { liobn, start, size, page_shift: pageShift } = this.#vector.window;
    const window = this.#iommu.windowOf(liobn);
    this.#op = 'window';
    const text = (from: bigint, bytes: bigint, shift: number) => `${hex(from)} +${hex(bytes)} shift ${shift}`;
    this.#expect(
      text(start, size, pageShift),
      window ? text(BigInt(window.start), BigInt(window.end - window.start), window.pageShift) : 'none',
    );
  }

  #audit(): void {
    this.#op = 'audit';
    for (const [device, space] of this.#spaces.entries())
      for (const { iova, held, expected } of space.audit())
        this.#expect(
          `device ${device} maps ${hex(iova)} to ${expected === undefined ? 'nothing' : hex(expected)}`,
          held === undefined ? 'nothing' : hex(held),
        );
  }
}

/** Returns the options of the recorded machine's unit. */
function machineOptions(machine: SpaprMachine | undefined) {
  const first = machine?.phb0;
  const bridge: BridgeOptions = {
    dynamicWindows: first?.ddw !== 'off',
    ...(first?.pgsz === undefined ? {} : { pageShifts: shiftsOf(first.pgsz) }),
    defaultWindow: {
      start: Number(first?.dma_win_addr ?? DEFAULT_WINDOW_START),
      size: Number(first?.dma_win_size ?? DEFAULT_WINDOW_SIZE),
    },
  };
  return {
    bridges: [bridge, ...Array.from({ length: (machine?.phbs ?? 1) - 1 }, () => ({}))],
    bridgeOf: (requesterId: number) => requesterId >>> 8,
    vioLiobns: (machine?.vio ?? []).map((device) => Number(/reg=(0x[0-9a-f]+|\d+)/i.exec(device)?.[1] ?? 0)),
  };
}

/** Returns the page shifts of a page size mask, without those that a query cannot report. */
const shiftsOf = (sizes: bigint): number[] =>
  [...spapr.PAGE_SHIFT_MASKS.keys()].filter((shift) => ((sizes >> BigInt(shift)) & 1n) !== 0n);

/** Returns the low 32 bits: an RTAS argument. */
const wordOf = (value: bigint): number => Number(BigInt.asUintN(32, value));

const callText = (name: string, ret: string, out: readonly bigint[]): string =>
  `${name} ${ret} [${out.map(hex).join(' ')}]`;

function fillWords(gpa: bigint, length: number): Buffer {
  const words = Buffer.alloc(Math.ceil(length / 8) * 8);
  for (let at = 0; at < words.length; at += 8)
    words.writeBigUInt64LE(BigInt.asUintN(64, (gpa + BigInt(at)) * FILL_FACTOR), at);
  return words.subarray(0, length);
}
