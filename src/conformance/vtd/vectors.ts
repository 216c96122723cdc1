/**
 * Format of recorded VT-d vectors: a JSON array. Each vector has a unit, its devices, and steps that run in order.
 */
import { z } from 'zod';
import { VectorFormatError } from '../outcome.ts';
import { vectorList } from '../vector-list.ts';

/** Maximum bytes of one DMA or memory access. */
const LENGTH_LIMIT = 2 ** 24;

const hexNumber = z.string().regex(/^0x[0-9a-f]{1,16}$/i, 'expected a hex number such as 0x1000');
/** An address in RAM, exact as a float64. */
const gpa = z.string().regex(/^0x[0-9a-f]{1,13}$/i, 'expected a guest physical address in hex, below 2^52');
const hexBytes = z.string().regex(/^(?:[0-9a-f]{2})*$/i, 'expected bytes in hex');
const length = z.int().min(0).max(LENGTH_LIMIT);
const registerSize = z.union([z.literal(4), z.literal(8)], 'expected 4 or 8');
const outcome = z.enum(['ok', 'fault']);
const marks = { impl_defined: z.boolean().optional(), quirk: z.string().optional() };
const dma = {
  ...marks,
  iova: hexNumber,
  len: length,
  dev: z.int().min(0).optional(),
  expect: outcome,
  parts: z.array(z.strictObject({ iova: hexNumber, len: length, expect: outcome })).optional(),
};

const step = z.discriminatedUnion('op', [
  z.strictObject({ op: z.literal('mem_write'), ...marks, gpa, data: hexBytes }),
  z.strictObject({ op: z.literal('mem_read'), ...marks, gpa, len: length, expect: hexBytes }),
  z.strictObject({
    op: z.literal('reg_write'),
    ...marks,
    off: hexNumber,
    size: registerSize,
    value: hexNumber,
  }),
  z.strictObject({
    op: z.literal('reg_read'),
    ...marks,
    off: hexNumber,
    size: registerSize,
    expect: hexNumber,
  }),
  z.strictObject({ op: z.literal('dma_write'), ...dma, data: hexBytes }),
  z.strictObject({ op: z.literal('dma_read'), ...dma, data: hexBytes.optional() }),
]);

const device = z.strictObject({
  bdf: z.string().regex(/^[0-9a-f]{2}:[01][0-9a-f]\.[0-7]$/i, 'expected bus:device.function such as 00:04.0'),
});

const vector = z.strictObject({
  name: z.string(),
  iommu: z.strictObject({
    caching_mode: z.boolean(),
    aw_bits: z.union([z.literal(39), z.literal(48)], 'expected 39 or 48'),
    scalable: z.boolean().optional(),
    first_stage: z.boolean().optional(),
    fs1gp: z.boolean().optional(),
    pasid_bits: z.int().min(0).max(20).optional(),
    snoop_control: z.boolean().optional(),
    device_iotlb: z.boolean().optional(),
    stale_tm: z.boolean().optional(),
    dma_translation: z.boolean().optional(),
    intremap: z.boolean().optional(),
  }),
  device: device.optional(),
  devices: z.array(device).optional(),
  steps: z.array(step),
});

export type VtdVector = z.infer<typeof vector>;
export type VtdStep = z.infer<typeof step>;
export type DmaStep = Extract<VtdStep, { readonly op: 'dma_read' | 'dma_write' }>;

/** Checks a whole file. @param file named in errors @throws VectorFormatError for the first problem */
export function parseVtdVectors(vectors: unknown, file = 'VT-d vectors'): VtdVector[] {
  return vectorList(vectors, file).map((each, index) => {
    const parsed = vector.safeParse(each);
    if (parsed.success) return checkedDevices(parsed.data, file);
    const [problem] = parsed.error.issues;
    const where = place(problem?.path ?? []);
    throw new VectorFormatError(`${file}: ${nameOf(each, index)}${where}: ${problem?.message}`);
  });
}

/** Checks that every DMA names a device of its vector. */
function checkedDevices(parsed: VtdVector, file: string): VtdVector {
  const count = devicesOf(parsed).length;
  for (const [index, { op, ...rest }] of parsed.steps.entries())
    if (op.startsWith('dma_') && ((rest as DmaStep).dev ?? 0) >= count)
      throw new VectorFormatError(
        `${file}: ${parsed.name} step ${index}, dev: the vector has ${count} devices`,
      );
  return parsed;
}

export const devicesOf = ({ device, devices }: VtdVector): readonly { readonly bdf: string }[] =>
  devices ?? (device ? [device] : []);

const nameOf = (each: unknown, index: number): string => {
  const name = (each as { name?: unknown } | null)?.name;
  return typeof name === 'string' ? name : `vector ${index}`;
};

/** Returns the path `steps.3.off` as " step 3, off". */
function place(path: readonly PropertyKey[]): string {
  const [first, second, ...rest] = path.map(String);
  if (first !== 'steps' || second === undefined)
    return path.length > 0 ? `, ${path.map(String).join('.')}` : '';
  return ` step ${second}${rest.length > 0 ? `, ${rest.join('.')}` : ''}`;
}
