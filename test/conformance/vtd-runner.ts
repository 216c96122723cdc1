/**
 * Runs the recorded VT-d vectors against IntelIommu: every step that binds must give what the recorded machine gave.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';
import { type Iova, PERM_READ, PERM_WRITE } from '../../src/address/address.ts';
import { GuestRam } from '../../src/host/guest-ram.ts';
import { DeviceAddressSpace } from '../../src/viommu/address-space.ts';
import { IntelIommu } from '../../src/viommu/intel/iommu.ts';
import { RecordingNotifier } from '../unit/vtd-fakes.ts';

const PAGE = 4096;
const INTERRUPT_RANGE = [0xfee00000, 0xfef00000] as const;

export interface Step {
  readonly op: 'mem_write' | 'mem_read' | 'reg_write' | 'reg_read' | 'dma_write' | 'dma_read';
  readonly gpa?: string;
  readonly data?: string;
  readonly len?: number;
  readonly off?: string;
  readonly size?: 4 | 8;
  readonly value?: string;
  readonly expect?: string;
  readonly dev?: number;
  readonly iova?: string;
  readonly parts?: readonly { readonly expect: 'ok' | 'fault' }[];
  readonly impl_defined?: boolean;
  readonly quirk?: string;
}

export interface Vector {
  readonly name: string;
  readonly iommu: {
    readonly caching_mode: boolean;
    readonly scalable: boolean;
    readonly aw_bits: 39 | 48;
    readonly snoop_control?: boolean;
    readonly device_iotlb?: boolean;
    readonly stale_tm?: boolean;
    readonly dma_translation?: boolean;
    readonly intremap?: boolean;
  };
  readonly device?: { readonly bdf: string };
  readonly devices?: readonly { readonly bdf: string }[];
  readonly steps: readonly Step[];
}

/** The vectors of every `*.json.gz` in `folder`, by file name. */
export function loadVectors(folder: URL): Map<string, Vector[]> {
  const files = readdirSync(folder).filter((name) => name.endsWith('.json.gz'));
  return new Map(
    files.sort().map((name) => {
      const text = gunzipSync(readFileSync(new URL(name, folder))).toString('utf8');
      return [name.replace('.json.gz', ''), JSON.parse(text) as Vector[]];
    }),
  );
}

/** RAM that knows which pages were written, so that the next vector can start from zeros. */
export class ReusableRam extends GuestRam {
  readonly #dirty = new Set<number>();

  override write(gpa: number, bytes: Uint8Array): void {
    super.write(gpa, bytes);
    for (let page = Math.floor(gpa / PAGE); page * PAGE < gpa + bytes.length; page++) this.#dirty.add(page);
  }

  override publish32(gpa: number, value: number): void {
    super.publish32(gpa, value);
    this.#dirty.add(Math.floor(gpa / PAGE));
  }

  clear(): void {
    const zeros = new Uint8Array(PAGE);
    for (const page of this.#dirty) super.write(page * PAGE, zeros);
    this.#dirty.clear();
  }
}

export interface Outcome {
  readonly compared: number;
  readonly skipped: number;
  readonly failures: readonly string[];
}

const requesterIdOf = (bdf: string): number => {
  const [bus, device, fn] = bdf.split(/[:.]/).map((part) => Number.parseInt(part, 16)) as [
    number,
    number,
    number,
  ];
  return (bus << 8) | (device << 3) | fn;
};

const toHex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');

/** One vector on one fresh unit. */
export class VectorRun {
  readonly #ram: ReusableRam;
  readonly #vector: Vector;
  readonly #iommu: IntelIommu;
  readonly #requesters: readonly number[];
  readonly #notifiers: readonly RecordingNotifier[];
  readonly #failures: string[] = [];

  constructor(ram: ReusableRam, vector: Vector) {
    const settings = vector.iommu;
    this.#ram = ram;
    this.#vector = vector;
    this.#iommu = new IntelIommu({
      ram,
      awBits: settings.aw_bits,
      cachingMode: settings.caching_mode,
      snoopControl: settings.snoop_control ?? false,
      deviceIotlb: settings.device_iotlb ?? false,
      staleTm: settings.stale_tm ?? false,
      dmaTranslation: settings.dma_translation ?? true,
      intremap: settings.intremap ?? true,
    });
    const devices = vector.devices ?? (vector.device ? [vector.device] : []);
    this.#requesters = devices.map(({ bdf }) => requesterIdOf(bdf));
    this.#notifiers = devices.map(() => new RecordingNotifier(ram));
    for (const [i, requesterId] of this.#requesters.entries())
      this.#iommu.attach(
        new DeviceAddressSpace(requesterId, this.#notifiers[i] as RecordingNotifier, ram.regions),
      );
  }

  run(): Outcome {
    let compared = 0;
    let skipped = 0;
    for (const [index, step] of this.#vector.steps.entries()) {
      const binds = !(step.impl_defined || step.quirk);
      const problem = this.#step(step, binds);
      if (binds) compared++;
      else skipped++;
      if (binds && problem) this.#failures.push(`step ${index} ${step.op}: ${problem}`);
    }
    return { compared, skipped, failures: this.#failures };
  }

  /** Runs the step; returns what differs from the record. */
  #step(step: Step, binds: boolean): string | undefined {
    switch (step.op) {
      case 'mem_write':
        this.#ram.write(Number(step.gpa), Buffer.from(step.data as string, 'hex'));
        return undefined;
      case 'mem_read': {
        const got = toHex(this.#ram.read(Number(step.gpa), step.len as number));
        return got === step.expect ? undefined : `${got}, expected ${step.expect}`;
      }
      case 'reg_write': {
        const pending = this.#iommu.writeRegister(
          Number(step.off),
          step.size as number,
          BigInt(step.value as string),
        );
        return pending ? 'did not complete at once' : undefined;
      }
      case 'reg_read': {
        const got = this.#iommu.readRegister(Number(step.off), step.size as number);
        const same = got === BigInt(step.expect as string);
        return same ? undefined : `${step.off} reads ${got.toString(16)}, expected ${step.expect}`;
      }
      case 'dma_read':
      case 'dma_write':
        return this.#dma(step, binds);
    }
  }

  #dma(step: Step, binds: boolean): string | undefined {
    const write = step.op === 'dma_write';
    const bytes = write ? Buffer.from(step.data as string, 'hex') : Buffer.alloc(step.len as number);
    const iova = BigInt(step.iova as string);
    const parts: string[] = [];
    for (let at = 0; at < bytes.length; ) {
      const address = BigInt.asUintN(64, iova + BigInt(at));
      const offset = Number(address & 0xfffn);
      const length = Math.min(bytes.length - at, PAGE - offset);
      const page = Number(address & ~0xfffn);
      const part = bytes.subarray(at, at + length);
      parts.push(this.#dmaPart(step, page, offset, part, write, binds));
      at += length;
    }
    const outcome = parts.includes('fault') ? 'fault' : 'ok';
    if (outcome !== step.expect) return `${outcome}, expected ${step.expect}`;
    const expectedParts = step.parts?.map((part) => part.expect).join() ?? parts.join();
    if (parts.join() !== expectedParts) return `${parts.join()}, expected ${expectedParts}`;
    if (!write && step.data !== undefined && toHex(bytes) !== step.data)
      return `read ${toHex(bytes)}, expected ${step.data}`;
    return undefined;
  }

  #dmaPart(
    step: Step,
    page: number,
    offset: number,
    bytes: Buffer,
    write: boolean,
    binds: boolean,
  ): 'ok' | 'fault' {
    const device = step.dev ?? 0;
    const requesterId = this.#requesters[device] as number;
    const result = this.#iommu.translate(requesterId, page as Iova, write);
    if (binds && this.#vector.iommu.caching_mode) this.#checkContainer(device, page, write, result);
    if (!result.ok) return 'fault';
    const gpa = result.gpa + offset;
    if (!this.#ram.contains(gpa, bytes.length)) return 'ok';
    if (write) this.#ram.write(gpa, bytes);
    else bytes.set(this.#ram.read(gpa, bytes.length));
    return 'ok';
  }

  /** With caching mode a container must say, after the driver's invalidations, exactly what a walk says. */
  #checkContainer(
    device: number,
    page: number,
    write: boolean,
    result: ReturnType<IntelIommu['translate']>,
  ): void {
    if (page >= INTERRUPT_RANGE[0] && page < INTERRUPT_RANGE[1]) return;
    const held = (this.#notifiers[device] as RecordingNotifier).mappingAt(page);
    const allowed = held && (held.perm & (write ? PERM_WRITE : PERM_READ)) !== 0;
    const got = allowed ? held.gpa + (page - held.iova) : undefined;
    const expected = result.ok && this.#ram.contains(result.gpa, PAGE) ? result.gpa : undefined;
    if (got !== expected)
      this.#failures.push(`container maps ${page.toString(16)} to ${got}, tables to ${expected}`);
  }
}
