/**
 * Files of recorded VFIO vectors: `{kernel, section, vectors: [{name, desc, steps: [{op, …}]}]}`, plain or gzipped.
 */
import { readFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';
import { z } from 'zod';

/** Maximum size of an unpacked file in bytes. */
const VECTOR_FILE_LIMIT = 256 * 2 ** 20;

/** Thrown for a file that cannot be run. The message names the file and, if known, the vector and the step. */
export class VectorFileError extends Error {
  constructor(where: string, problem: string) {
    super(`${where}: ${problem}`);
    this.name = 'VectorFileError';
  }
}

/** Thrown for a valid step that is not modelled: its vector is skipped. */
export class NotModelledError extends Error {
  constructor(what: string) {
    super(`${what} is not modelled`);
    this.name = 'NotModelledError';
  }
}

const STEP = z.looseObject({ op: z.string() });
const VECTOR = z.looseObject({ name: z.string(), desc: z.string().default(''), steps: z.array(STEP) });
const FILE = z.looseObject({ section: z.string(), vectors: z.array(VECTOR) });

/** One recorded call: `op`, its inputs and its outputs. */
export type Step = z.infer<typeof STEP>;
export type Vector = z.infer<typeof VECTOR>;
export type VectorFile = z.infer<typeof FILE> & { readonly path: string };

/** Reads and checks a file. @throws VectorFileError, and the file system's errors */
export function readVectorFile(path: string): VectorFile {
  const parsed = FILE.safeParse(readJsonFile(path));
  if (parsed.success) return { ...parsed.data, path };
  const [issue] = parsed.error.issues;
  throw new VectorFileError(path, `${placeOf(issue?.path ?? [])}${issue?.message ?? 'not a vector file'}`);
}

/** Reads a JSON file, plain or gzipped. @throws VectorFileError, and the file system's errors */
export function readJsonFile(path: string): unknown {
  const bytes = readFileSync(path);
  try {
    const text = path.endsWith('.gz') ? gunzipSync(bytes, { maxOutputLength: VECTOR_FILE_LIMIT }) : bytes;
    return JSON.parse(text.toString('utf8'));
  } catch (error) {
    throw new VectorFileError(path, `not JSON (${error instanceof Error ? error.message : String(error)})`);
  }
}

/** Converts the path of a problem to text, such as `vector 3 step 7: `. */
function placeOf(path: readonly PropertyKey[]): string {
  const [, vector, , step] = path;
  const key = path.at(-1);
  const words = [
    typeof vector === 'number' ? `vector ${vector}` : '',
    typeof step === 'number' ? `step ${step}` : '',
    typeof key === 'string' ? `"${key}"` : '',
  ].filter((word) => word !== '');
  return words.length > 0 ? `${words.join(' ')}: ` : '';
}

/** Inputs of a step, each checked when it is read. The methods throw {@link VectorFileError}. */
export class StepInputs {
  readonly #step: Step;
  readonly #where: string;

  constructor(step: Step, where: string) {
    this.#step = step;
    this.#where = where;
  }

  has(key: string): boolean {
    return this.#step[key] !== undefined;
  }

  text(key: string): string {
    const value = this.#step[key];
    return typeof value === 'string' ? value : this.#refuse(key, 'a string');
  }

  number(key: string, absent?: number): number {
    const value = this.#step[key] ?? absent;
    return typeof value === 'number' && Number.isSafeInteger(value) ? value : this.#refuse(key, 'a number');
  }

  /** Returns a 64-bit value, written in hex. */
  u64(key: string): bigint {
    const value = this.#step[key];
    if (typeof value !== 'string' || !/^0x[0-9a-f]{1,16}$/i.test(value))
      return this.#refuse(key, '0x… of 64 bits');
    return BigInt(value);
  }

  /** Returns flags as bits, from a number or a list of names. A name like `0x8` is the bits themselves. */
  flags(key: string, bits: Readonly<Record<string, number>>): number {
    const value = this.#step[key];
    if (typeof value === 'number') return value;
    if (!Array.isArray(value)) return this.#refuse(key, 'a list of flags');
    return value.reduce<number>((sum, name) => {
      const bit = bits[String(name)] ?? (/^0x[0-9a-f]+$/.test(String(name)) ? Number(name) : undefined);
      return bit === undefined ? this.#refuse(key, `flags of ${Object.keys(bits).join(', ')}`) : sum | bit;
    }, 0);
  }

  bytes(key: string): Uint8Array {
    const value = this.#step[key];
    if (typeof value !== 'string' || !/^([0-9a-f]{2})*$/i.test(value))
      return this.#refuse(key, 'bytes in hex');
    return Uint8Array.from(Buffer.from(value, 'hex'));
  }

  raw(key: string): unknown {
    return this.#step[key];
  }

  #refuse(key: string, wanted: string): never {
    throw new VectorFileError(
      this.#where,
      `"${key}" is ${JSON.stringify(this.#step[key])}; expected ${wanted}`,
    );
  }
}
