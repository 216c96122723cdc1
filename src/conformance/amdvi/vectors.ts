/**
 * Format of recorded AMD-Vi vectors: a JSON array. Each vector has a unit, its devices, and steps that run in order.
 * `spec` in a step has the specification's answer where the recorded program differs.
 */
import { z } from 'zod';
import { VectorFormatError } from '../outcome.ts';
import { vectorList } from '../vector-list.ts';

/** Maximum bytes of one DMA or memory access. */
const LENGTH_LIMIT = 2 ** 24;
/** Maximum entries of an event log. */
const LOG_LIMIT = 2 ** 15;

const hexNumber = z.string().regex(/^0x[0-9a-f]{1,16}$/i, 'expected a hex number such as 0x1000');
/** An address in RAM, exact as a float64. */
const gpa = z.string().regex(/^0x[0-9a-f]{1,13}$/i, 'expected a guest physical address in hex, below 2^52');
const hexBytes = z.string().regex(/^(?:[0-9a-f]{2})*$/i, 'expected bytes in hex');
const length = z.int().min(0).max(LENGTH_LIMIT);
const registerSize = z.union(
  [z.literal(1), z.literal(2), z.literal(4), z.literal(8)],
  'expected 1, 2, 4 or 8',
);
const bdf = z
  .string()
  .regex(/^[0-9a-f]{2}:[01][0-9a-f]\.[0-7]$/i, 'expected bus:device.function such as 00:04.0');
const outcome = z.enum(['ok', 'fault']);
const count = z.int().min(0).max(LOG_LIMIT);

const marks = {
  impl_defined: z.boolean().optional(),
  unobservable: z.unknown().optional(),
  quirk: z.string().optional(),
  irqs: count.optional(),
};
/** Marks, and the specification's values of some of the step's fields. */
const compared = <Fields extends z.core.$ZodShape>(fields: Fields) => ({
  ...marks,
  spec: z
    .strictObject({ any: z.boolean().optional(), irqs: count.optional(), ...fields })
    .partial()
    .optional(),
});

const number = z.union([z.int().min(0), hexNumber], 'expected a number');
/** Fields of one event to compare. A list accepts any of its values; null accepts any event. */
const eventFields = z
  .strictObject({
    code: z.union([number, z.array(number)]),
    devid: number,
    domid: number,
    i: number,
    pr: number,
    rw: number,
    pe: number,
    rz: number,
    addr: hexNumber,
  })
  .partial();
const parts = z.array(z.strictObject({ iova: hexNumber, len: length, expect: outcome }));
const dma = { iova: hexNumber, len: length, dev: z.int().min(0).optional(), expect: outcome };
const dmaSpec = { expect: outcome, data: hexBytes, parts: z.array(outcome) };

const step = z.discriminatedUnion('op', [
  z.strictObject({ op: z.literal('mem_write'), ...compared({}), gpa, data: hexBytes }),
  z.strictObject({
    op: z.literal('mem_read'),
    ...compared({ expect: hexBytes }),
    gpa,
    len: length,
    expect: hexBytes,
  }),
  z.strictObject({
    op: z.literal('reg_write'),
    ...compared({}),
    off: hexNumber,
    size: registerSize,
    value: hexNumber,
  }),
  z.strictObject({
    op: z.literal('reg_read'),
    ...compared({ expect: hexNumber }),
    off: hexNumber,
    size: registerSize,
    expect: hexNumber,
  }),
  z.strictObject({
    op: z.literal('cfg_write'),
    ...compared({}),
    bdf,
    off: hexNumber,
    size: registerSize,
    value: hexNumber,
  }),
  z.strictObject({
    op: z.literal('cfg_read'),
    ...compared({ expect: hexNumber }),
    bdf,
    off: hexNumber,
    size: registerSize,
    expect: hexNumber,
  }),
  z.strictObject({
    op: z.literal('dma_write'),
    ...compared(dmaSpec),
    ...dma,
    data: hexBytes,
    parts: parts.optional(),
  }),
  z.strictObject({
    op: z.literal('dma_read'),
    ...compared(dmaSpec),
    ...dma,
    data: hexBytes.optional(),
    parts: parts.optional(),
  }),
  z.strictObject({
    op: z.literal('events'),
    ...compared({ expect: z.array(eventFields.nullable()) }),
    base: gpa,
    entries: z.int().min(1).max(LOG_LIMIT),
    expect: z.array(z.strictObject({ raw: z.string().regex(/^[0-9a-f]{32}$/i), count })),
  }),
  z.strictObject({ op: z.literal('system_reset'), ...marks }),
]);

const device = z.strictObject({ bdf });

const vector = z.strictObject({
  name: z.string(),
  iommu: z.strictObject({
    dma_remap: z.boolean(),
    dma_translation: z.boolean().optional(),
    device_iotlb: z.boolean().optional(),
    xtsup: z.boolean().optional(),
    intremap: z.boolean().optional(),
  }),
  device: device.optional(),
  devices: z.array(device).optional(),
  /** The specification speaks for the first steps only. */
  spec_steps: z.int().min(0).optional(),
  steps: z.array(step),
});

export type AmdVector = z.infer<typeof vector>;
export type AmdStep = z.infer<typeof step>;
export type AmdDmaStep = Extract<AmdStep, { readonly op: 'dma_read' | 'dma_write' }>;
export type AmdEventsStep = Extract<AmdStep, { readonly op: 'events' }>;
export type AmdEventFields = z.infer<typeof eventFields>;

/** Checks a whole file. @param file named in errors @throws VectorFormatError for the first problem */
export function parseAmdVectors(vectors: unknown, file = 'AMD-Vi vectors'): AmdVector[] {
  return vectorList(vectors, file).map((each, index) => {
    const parsed = vector.safeParse(each);
    if (parsed.success) return checkedSteps(parsed.data, file);
    const [problem] = parsed.error.issues;
    throw new VectorFormatError(
      `${file}: ${nameOf(each, index)}${place(problem?.path ?? [])}: ${problem?.message}`,
    );
  });
}

/** Checks that every DMA names a device of its vector, and every configuration access the IOMMU's function. */
function checkedSteps(parsed: AmdVector, file: string): AmdVector {
  const devices = devicesOf(parsed).length;
  const wrong = (index: number, what: string) =>
    new VectorFormatError(`${file}: ${parsed.name} step ${index}, ${what}`);
  for (const [index, each] of parsed.steps.entries()) {
    if ('iova' in each && (each.dev ?? 0) >= devices)
      throw wrong(index, `dev: the vector has ${devices} devices`);
    if ('bdf' in each && each.bdf !== IOMMU_BDF) throw wrong(index, `bdf: the IOMMU is ${IOMMU_BDF}`);
  }
  return parsed;
}

const IOMMU_BDF = '00:01.0';

export const devicesOf = ({ device: one, devices }: AmdVector): readonly { readonly bdf: string }[] =>
  devices ?? (one ? [one] : []);

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
