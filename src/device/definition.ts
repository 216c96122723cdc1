/**
 * A device in words and tables: identity, BARs as register tables, vectors, and a function that makes it work. What a
 * user's model file exports by default.
 */
import type { Iova } from '../address/address.ts';
import { ConfigSpace, type PciIdentity } from '../pci/config-space.ts';
import { RegisterFile, type RegisterSpec } from '../pci/registers.ts';
import {
  BAR_INDICES,
  type BarIndex,
  type BarRegion,
  type DeviceContext,
  type DeviceOptions,
  type ModelFactory,
  type StepResult,
} from './model.ts';

/** Smallest BAR (PCI Local Bus Specification 3.0 §6.2.5.1) and the largest that a model may declare. */
export const BAR_BYTES_MIN = 16;
export const BAR_BYTES_MAX = 0x4_0000;
export const MSI_VECTORS: readonly number[] = [1, 2, 4, 8, 16, 32];

/** One BAR: registers by table. Offsets that the table leaves out read 0, and are reported. */
export interface BarDefinition {
  /** A power of two from BAR_BYTES_MIN to BAR_BYTES_MAX. */
  readonly bytes: number;
  readonly registers: readonly RegisterSpec[];
}

/** Who the device says it is. */
export type DeviceIdentity = Omit<PciIdentity, 'bar0Bytes' | 'barBytes' | 'msiVectors'>;

/** What a defined device is given: the context of every model, and the spaces that its definition declared. */
export interface DefinedContext extends DeviceContext {
  readonly config: ConfigSpace;
  readonly options: DeviceOptions;
  /** The registers of a BAR. @throws DeviceDefinitionError for one that is not declared */
  bar(index: BarIndex): RegisterFile<string>;
}

/** What a defined device does; a device that only reacts to register writes needs none of it. */
export interface DeviceBehaviour {
  /** A bounded piece of work (microseconds); without it the device is always idle. */
  step?(): StepResult;
  /** Must drop every pin in [iova, iova + size) before it returns. */
  dmaUnmap?(iova: Iova, size: number): void;
  /** Must drop every pin. */
  close?(): void;
}

export interface DeviceDefinition {
  readonly identity: DeviceIdentity;
  readonly bars: Readonly<Partial<Record<BarIndex, BarDefinition>>>;
  /** MSI vectors: 1 (the default), 2, 4, 8, 16 or 32. */
  readonly vectors?: number;
  /** Called once per device, in its worker. */
  create(context: DefinedContext): DeviceBehaviour;
}

/** A definition, or the export of a model file, that cannot be used: what is wrong, and what is accepted. */
export class DeviceDefinitionError extends Error {
  override name = 'DeviceDefinitionError';
}

/** Types a model file's default export. Checked when the device is built. */
export const defineDevice = (definition: DeviceDefinition): DeviceDefinition => definition;

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null;

/** The factory of what a model file exports by default. @throws DeviceDefinitionError */
export function factoryOf(exported: unknown): ModelFactory {
  if (typeof exported === 'function') return exported as ModelFactory;
  if (!isObject(exported) || typeof exported.create !== 'function')
    throw new DeviceDefinitionError(
      'exports no device model by default; accepted: defineDevice({ identity, bars, create }), ' +
        'or a function (context, options) => model',
    );
  const definition = exported as unknown as DeviceDefinition;
  checkDefinition(definition);
  return (context, options) => new DefinedDevice(definition, context, options);
}

function checkDefinition({ identity, bars, vectors = 1 }: DeviceDefinition): void {
  const within = (what: string, value: unknown, max: number) => {
    if (!(Number.isInteger(value) && (value as number) >= 0 && (value as number) <= max))
      throw new DeviceDefinitionError(`${what} is ${String(value)}; accepted: 0 to 0x${max.toString(16)}`);
  };
  if (!isObject(identity))
    throw new DeviceDefinitionError('identity is missing; accepted: vendorId, deviceId, …');
  for (const name of ['vendorId', 'deviceId', 'subsystemVendorId', 'subsystemId'] as const)
    within(`identity.${name}`, identity[name], 0xffff);
  within('identity.revision', identity.revision, 0xff);
  within('identity.classCode', identity.classCode, 0xff_ffff);
  if (!MSI_VECTORS.includes(vectors))
    throw new DeviceDefinitionError(`vectors is ${vectors}; accepted: ${MSI_VECTORS.join(', ')}`);
  if (!isObject(bars))
    throw new DeviceDefinitionError('bars is missing; accepted: { 0: { bytes, registers } }');
  for (const [index, bar] of Object.entries(bars)) {
    if (!BAR_INDICES.includes(Number(index) as BarIndex))
      throw new DeviceDefinitionError(`bars has ${index}; accepted: 0 to 5`);
    const bytes: unknown = isObject(bar) ? bar.bytes : undefined;
    if (!isBarSize(bytes) || !Array.isArray(bar.registers))
      throw new DeviceDefinitionError(
        `bars[${index}] has ${String(bytes)} bytes; accepted: a power of two from ${BAR_BYTES_MIN} to ` +
          `${BAR_BYTES_MAX}, with a table of registers`,
      );
  }
}

const isBarSize = (bytes: unknown): bytes is number =>
  typeof bytes === 'number' &&
  bytes >= BAR_BYTES_MIN &&
  bytes <= BAR_BYTES_MAX &&
  Number.isInteger(Math.log2(bytes));

/** A definition at work. */
class DefinedDevice {
  readonly config: ConfigSpace;
  readonly bars: Readonly<Partial<Record<BarIndex, BarRegion>>>;
  readonly #behaviour: DeviceBehaviour;

  /** @throws RegisterTableError for a table that contradicts itself, and whatever `create` throws */
  constructor(definition: DeviceDefinition, context: DeviceContext, options: DeviceOptions) {
    const declared = Object.entries(definition.bars) as [string, BarDefinition][];
    const files = new Map(
      declared.map(([index, { bytes, registers }]) => [Number(index), new RegisterFile(bytes, registers)]),
    );
    const { 0: bar0Bytes = 0, ...barBytes } = Object.fromEntries(
      declared.map(([index, { bytes }]) => [index, bytes]),
    );
    const msiVectors = definition.vectors ?? 1;
    this.config = new ConfigSpace({ ...definition.identity, bar0Bytes, barBytes, msiVectors });
    this.bars = Object.fromEntries(files);
    const behaviour: unknown = definition.create({
      ...context,
      config: this.config,
      options,
      bar: (index) => {
        const file = files.get(index);
        if (!file) throw new DeviceDefinitionError(`BAR${index} is not declared in bars`);
        return file;
      },
    });
    if (!isObject(behaviour))
      throw new DeviceDefinitionError(
        `create() answers ${String(behaviour)}; accepted: an object, { step, … }`,
      );
    this.#behaviour = behaviour;
  }

  step(): StepResult {
    return this.#behaviour.step ? this.#behaviour.step() : 'idle';
  }

  dmaUnmap(iova: Iova, size: number): void {
    this.#behaviour.dmaUnmap?.(iova, size);
  }

  close(): void {
    this.#behaviour.close?.();
  }
}
