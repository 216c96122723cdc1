/**
 * Format of recorded sPAPR TCE vectors.
 */
import { z } from 'zod';
import { VectorFormatError } from '../outcome.ts';
import { vectorList } from '../vector-list.ts';

/** Maximum problems named in one error. */
const PROBLEM_LIMIT = 8;

/** Any 64-bit value: "0x…", decimal digits or an integer. */
const word = z
  .union([
    z
      .string()
      .regex(/^(0x[0-9a-fA-F]{1,16}|[0-9]{1,20})$/, 'accepted: "0x…" or decimal digits, up to 64 bits'),
    z.int(),
  ])
  .transform((value) => BigInt.asUintN(64, BigInt(value)));
const length = z
  .int()
  .min(0)
  .max(2 ** 24);
const bytes = z.string().regex(/^(?:[0-9a-fA-F]{2})*$/, 'accepted: an even number of hexadecimal digits');
const verdict = z.enum(['ok', 'fault']);

// A step's answer is missing if the recorded machine had crashed. Nothing is then compared.

/** Verdict of a part, alone or with its address. */
const part = z.union([
  verdict,
  z.strictObject({ iova: word, len: length, expect: verdict }).transform(({ expect }) => expect),
]);

const dmaExpectation = {
  expect: verdict.nullable(),
  data: bytes.nullable(),
  parts: z.array(part).nullable(),
};

const hcall = z.strictObject({
  op: z.literal('hcall'),
  name: z.enum(['H_GET_TCE', 'H_PUT_TCE', 'H_STUFF_TCE', 'H_PUT_TCE_INDIRECT']),
  args: z.array(word).max(6),
  ret: z.string().nullish(),
  out: z.array(word).nullish(),
  spec: z
    .strictObject({ ret: z.string(), out: z.array(word) })
    .partial()
    .optional(),
});

const rtas = z.strictObject({
  op: z.literal('rtas'),
  name: z.string(),
  args: z.array(word).max(16),
  nret: z.int().min(1).max(16),
  status: z.int().nullish(),
  rets: z.array(word).nullish(),
  h_rtas: word.nullish(),
  spec: z
    .strictObject({ status: z.int(), rets: z.array(word) })
    .partial()
    .optional(),
});

const dmaRead = z.strictObject({
  op: z.literal('dma_read'),
  dev: z.int().min(0).default(0),
  iova: word,
  len: length,
  ...z.strictObject(dmaExpectation).partial().shape,
  spec: z.strictObject(dmaExpectation).partial().optional(),
});

const dmaWrite = z.strictObject({
  op: z.literal('dma_write'),
  dev: z.int().min(0).default(0),
  iova: word,
  len: length,
  data: bytes,
  expect: verdict.nullish(),
  parts: dmaExpectation.parts.optional(),
  spec: z.strictObject(dmaExpectation).partial().optional(),
});

const step = z.discriminatedUnion('op', [
  hcall,
  rtas,
  dmaRead,
  dmaWrite,
  z.strictObject({ op: z.literal('mem_write'), gpa: word, data: bytes }),
  z.strictObject({
    op: z.literal('mem_read'),
    gpa: word,
    len: length,
    expect: bytes.nullish(),
    spec: z.strictObject({ expect: bytes }).partial().optional(),
  }),
  z.strictObject({ op: z.literal('mem_fill'), gpa: word, len: length }),
  z.strictObject({
    op: z.literal('mem_fill_tces'),
    gpa: word,
    first: word,
    stride: word,
    count: z
      .int()
      .min(0)
      .max(2 ** 20),
  }),
]);

const bridge = z.strictObject({
  ddw: z.enum(['on', 'off']).optional(),
  pgsz: word.optional(),
  dma_win_addr: word.optional(),
  dma_win_size: word.optional(),
});

const vector = z.strictObject({
  name: z.string().min(1),
  window: z.strictObject({ liobn: word, start: word, size: word, page_shift: z.int() }),
  devices: z
    .array(z.strictObject({ phb: z.int().min(0).max(30), slot: z.int().min(0).max(31) }))
    .min(1)
    .max(32)
    .default([{ phb: 0, slot: 2 }]),
  machine: z
    .strictObject({
      phbs: z.int().min(1).max(31).default(1),
      phb0: bridge.optional(),
      vio: z.array(z.string()).max(32).default([]),
    })
    .optional(),
  overlapping_windows_from_step: z.int().min(0).optional(),
  steps: z.array(step),
});

export type SpaprVector = z.infer<typeof vector>;
export type SpaprStep = SpaprVector['steps'][number];
export type SpaprMachine = NonNullable<SpaprVector['machine']>;

/** @throws VectorFormatError for the first invalid vector */
export function parseSpaprVectors(vectors: unknown): SpaprVector[] {
  return vectorList(vectors, 'sPAPR vectors').map((each, index) => {
    const parsed = vector.safeParse(each);
    if (parsed.success) return parsed.data;
    const { issues } = parsed.error;
    const problems = issues
      .slice(0, PROBLEM_LIMIT)
      .map(({ path, message }) => `${[index, ...path].map(String).join('.')}: ${message}`);
    if (issues.length > PROBLEM_LIMIT) problems.push(`and ${issues.length - PROBLEM_LIMIT} more`);
    throw new VectorFormatError(`not sPAPR vectors: ${problems.join('; ')}`);
  });
}
