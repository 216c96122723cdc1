/**
 * Engines of the vgpu: names, opcodes, register blocks, rings, commands and completions.
 *
 * The register blocks of both engines have the same table, at different offsets. The copy engine's registers have the
 * table's names, those of the compute engine a prefix.
 */
import type { RegisterSpec } from '../../registers/register-file.ts';

/**
 * Opcodes of commands.
 *
 * - `updatePtes` writes the page table entries of [target, target + length) and drops their shadow entries. `value` has
 *   the flags, which include the page size; `source` is the IOVA of the first page. The tables above must exist.
 * - `signal` writes `value` to the word at `target` after all earlier commands of its ring are visible.
 * - `wait` blocks its ring until the word at `source` equals `value` or has passed it, modulo 2^32.
 */
export const Opcode = {
  nop: 0,
  fill: 1,
  copy: 2,
  checksum: 3,
  updatePtes: 4,
  compute: 5,
  signal: 6,
  wait: 7,
} as const;
/** Kernels of `compute`, in its `value`: y (target) = scalar · x (source) + y; a sum; a hash; an endless loop. */
export const Kernel = { saxpy: 1, sum: 2, fnv1a: 3, spin: 4 } as const;
export type Opcode = (typeof Opcode)[keyof typeof Opcode];

/** Bytes of a fence's word, and the alignment of its address. */
export const FENCE_BYTES = 4;
/** Longest time between two polls of a fence. Nothing notifies the engine of a CPU's write. */
export const FENCE_POLL_US = 1000;

/** Returns true if a fence whose word is `word` has reached `value`, or passed it by less than 2^31. */
export const fencePassed = (word: number, value: number): boolean => ((word - value) | 0) >= 0;

/** An engine of a vgpu; each has its own ring. */
export type GpuEngine = 'copy' | 'compute';

/** Description of an engine. */
export interface GpuEngineSpec {
  /** BAR 0 offset of its register block. */
  readonly offset: number;
  /** Prefix of the names of its registers. */
  readonly prefix: '' | 'Compute';
  /** Shift of its causes in InterruptStatus. */
  readonly causeShift: number;
  /** Writable bits of Control. */
  readonly control: number;
  /** Opcodes that it runs. Any other command of its ring ends as badCommand. */
  readonly opcodes: readonly Opcode[];
}

export const CONTROL_ENABLE = 1;
/** Resets the device with both engines. Only the copy engine has this bit. */
export const CONTROL_RESET = 2;
/** Ends the current command, even a hung one, with the status `hung`, and continues with the next. Reads as 0. */
export const CONTROL_ENGINE_RESET = 4;
export const STATUS_RUNNING = 1;
/** The engine stopped because it could not access its ring or its completions. A device reset clears the bit. */
export const STATUS_HALTED = 2;
/** A command has used HangLimitUs of engine time and is stopped. An engine reset ends it. */
export const STATUS_HUNG = 4;

const { nop, fill, copy, checksum, updatePtes, compute, signal, wait } = Opcode;

/** Engines, in the order of their numbers. */
export const GPU_ENGINES: Readonly<Record<GpuEngine, GpuEngineSpec>> = {
  copy: {
    offset: 0,
    prefix: '',
    causeShift: 0,
    control: CONTROL_ENABLE | CONTROL_RESET | CONTROL_ENGINE_RESET,
    opcodes: [nop, fill, copy, checksum, updatePtes, signal, wait],
  },
  compute: {
    offset: 0x100,
    prefix: 'Compute',
    causeShift: 6,
    control: CONTROL_ENABLE | CONTROL_ENGINE_RESET,
    opcodes: [nop, compute, signal, wait],
  },
};

export const GPU_ENGINE_NAMES: readonly GpuEngine[] = Object.keys(GPU_ENGINES) as GpuEngine[];

/** Returns the default engine of an opcode: the first that runs it, or the copy engine for an invalid opcode. */
export const engineOf = (opcode: number): GpuEngine =>
  GPU_ENGINE_NAMES.find((name) => GPU_ENGINES[name].opcodes.some((each) => each === opcode)) ?? 'copy';

/** Causes of the copy engine in InterruptStatus. {@link engineCauses} has those of any engine. */
export const INTERRUPT_COMPLETION = 1;
export const INTERRUPT_FAULT = 2;
export const INTERRUPT_HALTED = 4;
export const INTERRUPT_HUNG = 8;

/** Returns the InterruptStatus bits of an engine for these causes. */
export const engineCauses = (engine: GpuEngine, causes: number): number =>
  causes << GPU_ENGINES[engine].causeShift;

/** Reset value of HangLimitUs: engine time that one command may use. */
export const HANG_LIMIT_US = 100_000;

/** Registers of an engine. */
export type EngineRegister =
  | 'Status'
  | 'Control'
  | 'RingBase'
  | 'RingEntries'
  | 'RingHead'
  | 'RingTail'
  | 'CompletionBase'
  | 'FaultAddress'
  | 'FaultAddressHigh'
  | 'FaultIova'
  | 'FaultContext'
  | 'HangLimitUs';
/** Names of the engines' registers in BAR 0. */
export type EngineRegisterName = EngineRegister | `Compute${EngineRegister}`;

const ALL32 = 0xffff_ffffn;
const ALL64 = 0xffff_ffff_ffff_ffffn;

/** Register block of an engine. Addresses are IOVAs (R1), except the GPU virtual address of a fault. */
const ENGINE_BLOCK: readonly RegisterSpec<EngineRegister>[] = [
  { name: 'Status', offset: 0x08, size: 4 },
  // GpuEngineSpec has the writable bits.
  { name: 'Control', offset: 0x0c, size: 4 },
  { name: 'RingBase', offset: 0x10, size: 8, rw: ALL64 },
  { name: 'RingEntries', offset: 0x18, size: 4, rw: ALL32 },
  { name: 'RingHead', offset: 0x1c, size: 4 },
  { name: 'RingTail', offset: 0x20, size: 4, rw: ALL32 },
  { name: 'CompletionBase', offset: 0x28, size: 8, rw: ALL64 },
  { name: 'FaultAddress', offset: 0x48, size: 4 },
  { name: 'FaultAddressHigh', offset: 0x4c, size: 4 },
  { name: 'FaultIova', offset: 0x50, size: 8 },
  { name: 'FaultContext', offset: 0x58, size: 4 },
  { name: 'HangLimitUs', offset: 0x68, size: 4, reset: BigInt(HANG_LIMIT_US), rw: ALL32 },
];

/** Returns the BAR 0 name of an engine's register. */
export const engineRegister = (engine: GpuEngine, name: EngineRegister): EngineRegisterName =>
  `${GPU_ENGINES[engine].prefix}${name}`;

/** Returns the BAR 0 names of all of an engine's registers. */
export const engineRegisterNames = (
  engine: GpuEngine,
): Readonly<Record<EngineRegister, EngineRegisterName>> =>
  Object.fromEntries(ENGINE_BLOCK.map(({ name }) => [name, engineRegister(engine, name)])) as Record<
    EngineRegister,
    EngineRegisterName
  >;

/** Returns an engine's register block in BAR 0. */
export function engineRegisters(engine: GpuEngine): readonly RegisterSpec<EngineRegisterName>[] {
  const { offset, control } = GPU_ENGINES[engine];
  return ENGINE_BLOCK.map((spec) => ({
    ...spec,
    name: engineRegister(engine, spec.name),
    offset: offset + spec.offset,
    ...(spec.name === 'Control' ? { rw: BigInt(control) } : {}),
  }));
}

/** Range of a ring's count of entries, a power of two. Head and tail are indices modulo that count. */
export const RING_ENTRIES_MIN = 2;
export const RING_ENTRIES_MAX = 4096;

/** A ring entry has 16 little-endian words. Target and source are GPU virtual addresses of the entry's context. */
export const COMMAND_BYTES = 64;
export const CommandWord = {
  opcode: 0,
  sequence: 1,
  target: 4,
  source: 5,
  length: 6,
  value: 7,
  targetHigh: 8,
  sourceHigh: 9,
  context: 10,
  scalar: 11,
} as const;

/** Count of words of a ring entry that have a meaning. */
export const COMMAND_WORDS = 12;

/** Most bytes that one command may move. */
export const COMMAND_LENGTH_LIMIT = 16 * 1024 * 1024;

/**
 * Completion record of a ring entry: the words status, result, 0 and sequence. The result is that of a checksum or
 * kernel, or the word that a wait has read. The sequence is written last, after the other words are visible.
 */
export const COMPLETION_BYTES = 16;
export const CompletionWord = { status: 0, result: 1, sequence: 3 } as const;
/** Status of a completed command. */
export const CompletionStatus = { ok: 0, fault: 1, badCommand: 2, hung: 3 } as const;
