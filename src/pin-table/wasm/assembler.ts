/**
 * A small assembler for WebAssembly: the opcodes that the pin-table kernels need, in the stack machine's order.
 *
 * Code is a list of bytes, into which instructions are spread. Parameters, locals and results are int32 only.
 */
export type Code = readonly number[];

const I32 = 0x7f;
const BLOCK_EMPTY = 0x40;

/** Encodes unsigned LEB128. */
function unsigned(value: number): number[] {
  const bytes: number[] = [];
  for (let rest = value >>> 0; ; ) {
    const low = rest & 0x7f;
    rest >>>= 7;
    if (rest === 0) return [...bytes, low];
    bytes.push(low | 0x80);
  }
}
/** Encodes signed LEB128. */
function signed(value: number): number[] {
  const bytes: number[] = [];
  for (let rest = value | 0; ; ) {
    const low = rest & 0x7f;
    rest >>= 7;
    if ((rest === 0 && (low & 0x40) === 0) || (rest === -1 && (low & 0x40) !== 0)) return [...bytes, low];
    bytes.push(low | 0x80);
  }
}

const ALIGN_WORD = 2;
const memoryOp =
  (...opcode: number[]) =>
  (byteOffset = 0): Code => [...opcode, ALIGN_WORD, ...unsigned(byteOffset)];

export const get = (local: number): Code => [0x20, ...unsigned(local)];
export const set = (local: number): Code => [0x21, ...unsigned(local)];
export const tee = (local: number): Code => [0x22, ...unsigned(local)];
export const i32 = (value: number): Code => [0x41, ...signed(value)];
export const DROP: Code = [0x1a];
export const EQZ: Code = [0x45];
export const GE: Code = [0x4e];
export const EQ: Code = [0x46];
export const NE: Code = [0x47];
export const LT: Code = [0x48];
export const ADD: Code = [0x6a];
export const AND: Code = [0x71];
export const OR: Code = [0x72];
export const SHL: Code = [0x74];
export const SHR_U: Code = [0x76];
/** Plain load from the address on the stack plus `byteOffset`. */
export const load = memoryOp(0x28);
/** Pops value and address; a plain store. */
export const store = memoryOp(0x36);
export const atomicLoad = memoryOp(0xfe, 0x10);
export const atomicStore = memoryOp(0xfe, 0x17);
/** Pops address and operand, pushes the old value. */
export const atomicAdd = memoryOp(0xfe, 0x1e);
/** Pops address and maximum count of waiters, pushes the count of woken ones. */
export const atomicNotify = memoryOp(0xfe, 0x00);

/** Vectors of four int32, on the stack only. */
export const splat: Code = [0xfd, 0x11];
export const addVector: Code = [0xfd, 0xae, 0x01];
export const vector4 = (...lanes: readonly [number, number, number, number]): Code => [
  0xfd,
  0x0c,
  ...new Uint8Array(Int32Array.from(lanes).buffer),
];
/** Pops a vector and the address of its first word. */
export const storeVector = (byteOffset = 0): Code => [0xfd, 0x0b, ALIGN_WORD, ...unsigned(byteOffset)];

const END = 0x0b;
export const block = (...body: Code[]): Code => [0x02, BLOCK_EMPTY, ...body.flat(), END];
export const loop = (...body: Code[]): Code => [0x03, BLOCK_EMPTY, ...body.flat(), END];
/** Runs `body` if the top of the stack is not 0. */
export const when = (...body: Code[]): Code => [0x04, BLOCK_EMPTY, ...body.flat(), END];
/** Leaves the block `depth` levels out; repeats it if it is a loop. */
export const br = (depth: number): Code => [0x0c, depth];
export const brIf = (depth: number): Code => [0x0d, depth];

/** A function; it is exported if it has a name. Locals are numbered after the parameters. */
export interface Func {
  readonly name?: string;
  readonly params: number;
  readonly locals: number;
  readonly results: 0 | 1;
  readonly body: Code;
}

const section = (id: number, body: Code): Code => [id, ...unsigned(body.length), ...body];
const vector = (items: readonly Code[]): Code => [...unsigned(items.length), ...items.flat()];
const text = (value: string): Code => vector([...value].map((letter) => [letter.charCodeAt(0)]));

/** Assembles a module that imports one shared memory `env.memory` of at most `maxPages` pages of 64 KiB. */
export function assemble(functions: readonly Func[], maxPages: number): Uint8Array<ArrayBuffer> {
  const types = functions.map((f) => [
    0x60,
    ...vector(Array.from({ length: f.params }, () => [I32])),
    ...vector(f.results === 1 ? [[I32]] : []),
  ]);
  const bodies = functions.map((f) => {
    const code = [...(f.locals > 0 ? [1, ...unsigned(f.locals), I32] : [0]), ...f.body, END];
    return [...unsigned(code.length), ...code];
  });
  const exported = functions.flatMap((f, i) => (f.name ? [[...text(f.name), 0x00, ...unsigned(i)]] : []));
  const SHARED_WITH_MAXIMUM = 0x03;
  return Uint8Array.from([
    ...[0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
    ...section(1, vector(types)),
    ...section(
      2,
      vector([[...text('env'), ...text('memory'), 0x02, SHARED_WITH_MAXIMUM, 0, ...unsigned(maxPages)]]),
    ),
    ...section(3, vector(functions.map((_, i) => unsigned(i)))),
    ...section(7, vector(exported)),
    ...section(10, vector(bodies)),
  ]);
}
