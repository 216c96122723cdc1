/**
 * Definition of a device by tables: its identity, its BARs as register tables, its vectors, and a function that
 * creates its behaviour. A user's model file exports one by default.
 */

import type { Iova } from '../../memory/address.ts';
import { ConfigSpace } from '../../pci/config-space.ts';
import { isObject } from '../../platform/is-object.ts';
import { RegisterFile, type RegisterSpec } from '../../registers/register-file.ts';
import { BAR_INDICES, type BarIndex, type BarRegion } from '../bar-region.ts';
import { checkOneOf } from '../check.ts';
import { DeviceDefinitionError } from '../errors.ts';
import { DeviceMemory } from '../memory.ts';
import type { DeviceContext, DeviceOptions, ModelFactory, ModelState, StepResult } from '../model.ts';
import { checkIdentity, type DeviceIdentity } from './identity.ts';

/** Sizes of the smallest BAR (PCI Local Bus Specification 3.0 §6.2.5.1) and of the largest BAR with registers. */
const BAR_BYTES_MIN = 16;
const BAR_BYTES_MAX = 0x4_0000;
/** Size of the largest BAR with memory. */
const MEMORY_BAR_BYTES_MAX = 0x1000_0000;
const MSI_VECTORS: readonly number[] = [1, 2, 4, 8, 16, 32];

/** A BAR with a register table. Offsets outside the table read 0, and are reported. */
export interface RegisterBarDefinition {
  /** A power of two from BAR_BYTES_MIN to BAR_BYTES_MAX. */
  readonly bytes: number;
  readonly registers: readonly RegisterSpec[];
}

/** A BAR with the device's own memory. */
export interface MemoryBarDefinition {
  /** A power of two from BAR_BYTES_MIN to MEMORY_BAR_BYTES_MAX. */
  readonly bytes: number;
  readonly memory: true;
}

/** A BAR of registers or of memory. */
export type BarDefinition = RegisterBarDefinition | MemoryBarDefinition;

/** The environment of a defined device: the context of every model, and the spaces that its definition declares. */
export interface DefinedContext extends DeviceContext {
  readonly config: ConfigSpace;
  readonly options: DeviceOptions;
  /** Returns the registers of a BAR. @throws DeviceDefinitionError for a BAR that is not declared with registers */
  bar(index: BarIndex): RegisterFile<string>;
  /** Returns the memory of a BAR. @throws DeviceDefinitionError for a BAR that is not declared with memory */
  memory(index: BarIndex): DeviceMemory;
}

/** The behaviour of a defined device. A device that only reacts to register writes needs none of these. */
export interface DeviceBehaviour {
  /** State that only the behaviour knows. A device without it cannot be migrated; empty values are allowed. */
  readonly state?: ModelState;
  /** Memories in addition to those of the BARs. */
  readonly memories?: readonly DeviceMemory[];
  /** Does a bounded piece of work (microseconds). Without it the device is always idle. */
  step?(): StepResult;
  /** Must drop every pin in [iova, iova + size) before it returns. */
  dmaUnmap?(iova: Iova, size: number): void;
  /** Must drop every pin. */
  close?(): void;
}

/** Definition of a device: identity, BARs and behaviour. */
export interface DeviceDefinition {
  readonly identity: DeviceIdentity;
  readonly bars: Readonly<Partial<Record<BarIndex, BarDefinition>>>;
  /** Count of MSI vectors: 1 (the default), 2, 4, 8, 16 or 32. */
  readonly vectors?: number;
  /** Called once per device, in its worker. */
  create(context: DefinedContext): DeviceBehaviour;
}

/** Types a model file's default export. The definition is checked when the device is created. */
export const defineDevice = (definition: DeviceDefinition): DeviceDefinition => definition;

/** Returns the factory of a model file's default export. @throws DeviceDefinitionError */
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
  checkIdentity(identity);
  checkOneOf('vectors', vectors, MSI_VECTORS);
  if (!isObject(bars))
    throw new DeviceDefinitionError('bars is missing; accepted: { 0: { bytes, registers } }');
  for (const [index, bar] of Object.entries(bars)) {
    if (!BAR_INDICES.includes(Number(index) as BarIndex))
      throw new DeviceDefinitionError(`bars has ${index}; accepted: 0 to 5`);
    const { bytes, registers, memory }: Record<string, unknown> = isObject(bar) ? bar : {};
    const [kind, largest] =
      memory === true ? ['memory: true', MEMORY_BAR_BYTES_MAX] : ['a table of registers', BAR_BYTES_MAX];
    if (!isBarSize(bytes, largest) || (memory === true) === Array.isArray(registers))
      throw new DeviceDefinitionError(
        `bars[${index}] has ${String(bytes)} bytes; accepted: a power of two from ${BAR_BYTES_MIN} to ` +
          `${largest}, with ${kind}`,
      );
  }
}

const isBarSize = (bytes: unknown, largest: number): boolean =>
  typeof bytes === 'number' &&
  bytes >= BAR_BYTES_MIN &&
  bytes <= largest &&
  Number.isInteger(Math.log2(bytes));

/** The model of a definition. */
class DefinedDevice {
  readonly config: ConfigSpace;
  readonly bars: Readonly<Partial<Record<BarIndex, BarRegion>>>;
  readonly #behaviour: DeviceBehaviour;

  /** @throws RegisterTableError for an inconsistent table, and whatever `create` throws */
  constructor(definition: DeviceDefinition, context: DeviceContext, options: DeviceOptions) {
    const declared = Object.entries(definition.bars) as [string, BarDefinition][];
    const regions = new Map(declared.map(([index, bar]) => [Number(index), regionOf(index, bar)]));
    const { 0: bar0Bytes = 0, ...barBytes } = Object.fromEntries(
      declared.map(([index, { bytes }]) => [index, bytes]),
    );
    const msiVectors = definition.vectors ?? 1;
    this.config = new ConfigSpace({ ...definition.identity, bar0Bytes, barBytes, msiVectors });
    this.bars = Object.fromEntries(regions);
    const behaviour: unknown = definition.create({
      ...context,
      config: this.config,
      options,
      bar: (index) => declaredAs(regions, index, RegisterFile<string>, 'registers'),
      memory: (index) => declaredAs(regions, index, DeviceMemory, 'memory'),
    });
    if (!isObject(behaviour))
      throw new DeviceDefinitionError(
        `create() returns ${String(behaviour)}; accepted: an object, { step, … }`,
      );
    this.#behaviour = behaviour;
  }

  get state(): ModelState | undefined {
    return this.#behaviour.state;
  }

  get memories(): readonly DeviceMemory[] {
    return this.#behaviour.memories ?? [];
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

const regionOf = (index: string, bar: BarDefinition): RegisterFile<string> | DeviceMemory =>
  'memory' in bar ? new DeviceMemory(`bar${index}`, bar.bytes) : new RegisterFile(bar.bytes, bar.registers);

function declaredAs<T>(
  regions: ReadonlyMap<number, unknown>,
  index: BarIndex,
  kind: abstract new (...args: never[]) => T,
  name: string,
): T {
  const region = regions.get(index);
  if (!(region instanceof kind))
    throw new DeviceDefinitionError(`BAR${index} is not declared in bars with ${name}`);
  return region;
}
