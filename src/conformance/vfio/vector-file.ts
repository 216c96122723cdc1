/**
 * Files of recorded VFIO vectors: `{kernel, section, vectors: [{name, desc, steps: [{op, …}]}]}`, plain or gzipped.
 */
import { gunzipSync } from 'node:zlib';
import { z } from 'zod';
import { FileRefusedError, readBounded } from '../../platform/bounded-file.ts';
import { parseBoundedJson } from '../../platform/bounded-json.ts';
import { boundedText, oneLine } from '../../report/text.ts';
import { pageOf } from '../../vfio/uapi/vfio-uapi.ts';
import { checkVectors } from '../vector-list.ts';

/** Maximum size of a file in bytes, packed and unpacked. The largest recorded one has 1.2 MiB. */
const VECTOR_FILE_LIMIT = 16 * 2 ** 20;

/** Thrown for a file that cannot be run. The message names the file and, if known, the vector and the step. */
export class VectorFileError extends Error {
  constructor(where: string, problem: string) {
    super(`${oneLine(boundedText(where))}: ${oneLine(boundedText(problem))}`);
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

/** All fields of a step: inputs, and recorded outputs. */
const STEP_FIELDS: ReadonlySet<string> = new Set(
  `_incomplete arg argsz argsz_out attempts bitmap bitmap_pgsize bitmap_prefill bitmap_sane bitmap_size cap_offset caps
  cmd cmd_nr container count data device dma_unmap_cb entries errno eventfd ext ext_name flags from_kthread group index
  iova iova_pgsizes iova_start klog len limit mdev mode name note npage num_irqs num_regions obj offset op pages
  pages_nonnull path pattern_start prot region ret shared size size_out stage start state state_after_1500ms stride
  succeeded text type type_name unpin_on_close vaddr vmlck_kb write`.split(/\s+/),
);
const STEP = z.looseObject({ op: z.string() }).superRefine((step, context) => {
  const unknown = Object.keys(step).find((key) => !STEP_FIELDS.has(key));
  if (unknown !== undefined) context.addIssue({ code: 'custom', path: [unknown], message: 'unknown field' });
});
const VECTOR = z.strictObject({
  name: z.string(),
  desc: z.string().default(''),
  section: z.string().optional(),
  backing: z.unknown().optional(),
  end: z.unknown().optional(),
  steps: z.array(STEP),
});
const FILE = z.strictObject({
  kernel: z.unknown().optional(),
  section: z.string(),
  vectors: z.array(z.unknown()),
});

/** One recorded call: `op`, its inputs and its outputs. */
export type Step = z.infer<typeof STEP>;
export type Vector = z.infer<typeof VECTOR>;
export interface VectorFile {
  readonly path: string;
  readonly section: string;
  readonly vectors: readonly Vector[];
}

/** Reads and checks a file. @throws VectorFileError, and the file system's errors */
export function readVectorFile(path: string): VectorFile {
  const { section, vectors } = checked(FILE, readJsonFile(path), path, []);
  checkVectors(vectors, path);
  return {
    path,
    section,
    vectors: vectors.map((vector, index) => checked(VECTOR, vector, path, ['vectors', index])),
  };
}

/** @throws VectorFileError for the first problem */
function checked<T>(shape: z.ZodType<T>, value: unknown, path: string, at: readonly PropertyKey[]): T {
  const parsed = shape.safeParse(value);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  const place = placeOf([...at, ...(issue?.path ?? [])]);
  throw new VectorFileError(path, `${place}${issue?.message ?? 'not a vector file'}`);
}

/** Reads a JSON file, plain or gzipped. @throws VectorFileError, and the file system's errors */
export function readJsonFile(path: string): unknown {
  try {
    const bytes = readBounded(path, VECTOR_FILE_LIMIT);
    return parseBoundedJson(path.endsWith('.gz') ? unpacked(bytes) : bytes);
  } catch (error) {
    if (error instanceof FileRefusedError || error instanceof RangeError)
      throw new VectorFileError(path, error.message);
    if (!(error instanceof SyntaxError)) throw error;
    throw new VectorFileError(path, `not JSON (${error.message})`);
  }
}

/** @throws SyntaxError for data that are not gzip's; RangeError beyond VECTOR_FILE_LIMIT */
function unpacked(bytes: Buffer): Buffer {
  try {
    return gunzipSync(bytes, { maxOutputLength: VECTOR_FILE_LIMIT });
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (code === 'ERR_BUFFER_TOO_LARGE')
      throw new RangeError(
        `more than ${VECTOR_FILE_LIMIT} bytes unpacked; accepted: up to ${VECTOR_FILE_LIMIT}`,
      );
    throw new SyntaxError(`gzip: ${message}`);
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

/** Maximum count of pages that a step maps or unmaps in the process. */
const PAGES_LIMIT = 4096;

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

  /** Returns a count of pages, from a size in hex. */
  pages(key: string): number {
    const pages = pageOf(this.u64(key));
    return pages <= PAGES_LIMIT ? pages : this.#refuse(key, `up to ${PAGES_LIMIT} pages`);
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
    if (typeof value !== 'string' || !/^(?:[0-9a-f]{2})*$/i.test(value))
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
