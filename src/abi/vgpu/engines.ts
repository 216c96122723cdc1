/**
 * The vgpu's command engines: what each is called and can do, its block of registers, its ring, and what goes through that.
 *
 * Both blocks are one table, at an offset of the engine's own; the names of the copy engine's registers are the table's.
 */
import type { RegisterSpec } from '../../registers/register-file.ts';

/**
 * `updatePtes` writes the page table entries of [target, target + length): value has the flags, and with them the page
 * size, source is the IOVA of the first page; what was shadowed there is forgotten. The tables above must be there.
 * `signal` writes value to the word at target once everything before it in its ring can be seen. `wait` keeps its ring
 * waiting until the word at source is equal to value or past it, modulo 2^32.
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
/** What `compute` runs, by its value: y (target) = scalar x (source) + y; a sum; a hash; a loop without an end. */
export const Kernel = { saxpy: 1, sum: 2, fnv1a: 3, spin: 4 } as const;
export type Opcode = (typeof Opcode)[keyof typeof Opcode];

/** Bytes of the word of a fence; its address is a multiple of them. */
export const FENCE_BYTES = 4;
/** A fence that an engine waits for is looked at at least this often: nothing tells of a CPU's write. */
export const FENCE_LOOK_US = 1000;

/** True if a fence whose word is `word` has come to `value`: less than half of all values lie between. */
export const fencePassed = (word: number, value: number): boolean => ((word - value) | 0) >= 0;

export type GpuEngine = 'copy' | 'compute';

export interface GpuEngineSpec {
  /** Of its block of registers. */
  readonly offset: number;
  /** Before the names of its registers. */
  readonly prefix: '' | 'Compute';
  /** What its causes in InterruptStatus are shifted by. */
  readonly causeShift: number;
  /** Bits of Control that can be written. */
  readonly control: number;
  /** What it runs; another command of its ring ends as badCommand. */
  readonly opcodes: readonly Opcode[];
}

export const CONTROL_ENABLE = 1;
/** Resets the device, both engines included. The copy engine's alone has it. */
export const CONTROL_RESET = 2;
/** Ends the command that runs, waits or hangs, with the status `hung`, and goes on with the next. Reads as 0. */
export const CONTROL_ENGINE_RESET = 4;
export const STATUS_RUNNING = 1;
/** The engine stopped because its ring or its completions could not be reached; a reset of the device clears it. */
export const STATUS_HALTED = 2;
/** A command has used HangLimitUs of engine time and is stopped; an engine reset ends it. */
export const STATUS_HUNG = 4;

const { nop, fill, copy, checksum, updatePtes, compute, signal, wait } = Opcode;

/** In the order of their numbers. */
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

/** The engine that a command is for if nothing is said: the first that runs it, the copy engine for what none does. */
export const engineOf = (opcode: number): GpuEngine =>
  GPU_ENGINE_NAMES.find((name) => GPU_ENGINES[name].opcodes.some((each) => each === opcode)) ?? 'copy';

/** Causes of the copy engine in InterruptStatus; see {@link engineCauses}. */
export const INTERRUPT_COMPLETION = 1;
export const INTERRUPT_FAULT = 2;
export const INTERRUPT_HALTED = 4;
export const INTERRUPT_HUNG = 8;

/** The bits that an engine has in InterruptStatus for these causes. */
export const engineCauses = (engine: GpuEngine, causes: number): number =>
  causes << GPU_ENGINES[engine].causeShift;

/** Engine time that one command may use, unless the guest sets another limit. */
export const HANG_LIMIT_US = 100_000;

/** The registers that every engine has. */
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
/** Their names in BAR 0. */
export type EngineRegisterName = EngineRegister | `Compute${EngineRegister}`;

const ALL32 = 0xffff_ffffn;
const ALL64 = 0xffff_ffff_ffff_ffffn;

/** An engine's block; offsets are from its first byte. Addresses are IOVAs (R1), but for the GPU address of a fault. */
const ENGINE_BLOCK: readonly RegisterSpec<EngineRegister>[] = [
  { name: 'Status', offset: 0x08, size: 4 },
  // What can be written is the engine's.
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

/** What a register of an engine's block is called in BAR 0. */
export const engineRegister = (engine: GpuEngine, name: EngineRegister): EngineRegisterName =>
  `${GPU_ENGINES[engine].prefix}${name}`;

/** What each register of an engine's block is called there. */
export const engineRegisterNames = (
  engine: GpuEngine,
): Readonly<Record<EngineRegister, EngineRegisterName>> =>
  Object.fromEntries(ENGINE_BLOCK.map(({ name }) => [name, engineRegister(engine, name)])) as Record<
    EngineRegister,
    EngineRegisterName
  >;

/** An engine's block of registers in BAR 0. */
export function engineRegisters(engine: GpuEngine): readonly RegisterSpec<EngineRegisterName>[] {
  const { offset, control } = GPU_ENGINES[engine];
  return ENGINE_BLOCK.map((spec) => ({
    ...spec,
    name: engineRegister(engine, spec.name),
    offset: offset + spec.offset,
    ...(spec.name === 'Control' ? { rw: BigInt(control) } : {}),
  }));
}

/** A ring has a power of two entries in this range; head and tail are indices modulo that number. */
export const RING_ENTRIES_MIN = 2;
export const RING_ENTRIES_MAX = 4096;

/** A ring entry: 16 little-endian words. Target and source are GPU virtual addresses of one context. */
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

/** Most bytes one command may move. */
export const COMMAND_LENGTH_LIMIT = 16 * 1024 * 1024;

/**
 * A completion record per ring slot: words status, result (of a checksum or kernel; the word that a wait has seen), 0,
 * sequence. The sequence is written last, after the rest is visible.
 */
export const COMPLETION_BYTES = 16;
export const CompletionWord = { status: 0, result: 1, sequence: 3 } as const;
export const CompletionStatus = { ok: 0, fault: 1, badCommand: 2, hung: 3 } as const;
