/**
 * Differences between the QEMU version under test and 11.1.3, whose behaviour the model's `qemu` mode follows. Each row
 * names a difference that is not compared and the reason. Everything else is compared.
 */
import type { VtdStep } from '../../src/conformance/vtd/vectors.ts';
import type { Action, Flush } from './plan.ts';

type Version = readonly [major: number, minor: number];

export interface VersionFact {
  /** Newest version that is known to differ. Later ones up to 11.1 were not examined; they are compared. */
  readonly upTo: Version;
  readonly what: string;
  /** Returns the step with the answer of 11.1.3; undefined if the step is not affected. */
  readonly normalise: (step: VtdStep) => VtdStep | undefined;
  /** Returns a replacement of the action, where the difference would appear later. */
  readonly adapt?: (action: Action) => Action;
}

const FRCD_HI = 0x228;
const CAP = 0x08;
/** PASID value and PASID present bit in the upper half of a fault record. */
const FRCD_PV = 0xffffn << 40n;
const FRCD_PP = 1n << 31n;
const CAP_ESRTPS = 1n << 63n;

const VERSION_FACTS: readonly VersionFact[] = [
  {
    upTo: [7, 2],
    what: 'the PASID field of a fault record without PASID: 0xffff there, 0 here; software must ignore it',
    normalise: (step) => {
      const value = readOf(step, FRCD_HI);
      if (value === undefined || (value & FRCD_PV) !== FRCD_PV || (value & FRCD_PP) !== 0n) return undefined;
      return withValue(step, value & ~FRCD_PV);
    },
  },
  {
    upTo: [7, 2],
    what: 'CAP.ESRTPS: reported only by later versions',
    normalise: (step) => {
      const value = readOf(step, CAP);
      return value === undefined ? undefined : withValue(step, value | CAP_ESRTPS);
    },
  },
  {
    upTo: [7, 2],
    what: 'a wait descriptor with both SW and IF ends QEMU at an assertion: none is generated',
    normalise: () => undefined,
  },
  {
    upTo: [7, 2],
    what: 'a page-selective invalidation drops additional entries: a domain-selective one follows each, on both sides',
    normalise: () => undefined,
    adapt: (action) =>
      action.kind === 'tables' ? { ...action, flushes: action.flushes.flatMap(widened) } : action,
  },
];

const widened = (flush: Flush): Flush[] =>
  flush.kind === 'iotlb' && flush.granularity === 3
    ? [flush, { ...flush, granularity: 2, page: 0n, am: 0 }]
    : [flush];

/** Returns the actions, adapted to this version. */
export const adapted = (actions: readonly Action[], facts: readonly VersionFact[]): Action[] =>
  actions.map((action) => facts.reduce((held, { adapt }) => adapt?.(held) ?? held, action));

/** Returns the version in the output of `qemu --version`; undefined if it names no version. */
export function versionOf(text: string): Version | undefined {
  const found = /version (\d+)\.(\d+)/.exec(text);
  return found ? [Number(found[1]), Number(found[2])] : undefined;
}

export const factsOf = ([major, minor]: Version): VersionFact[] =>
  VERSION_FACTS.filter(({ upTo }) => major < upTo[0] || (major === upTo[0] && minor <= upTo[1]));

/** Returns the step with the answer of 11.1.3. */
export const normalised = (step: VtdStep, facts: readonly VersionFact[]): VtdStep =>
  facts.reduce((held, { normalise }) => normalise(held) ?? held, step);

function readOf(step: VtdStep, off: number): bigint | undefined {
  return step.op === 'reg_read' && Number(step.off) === off && step.size === 8
    ? BigInt(step.expect)
    : undefined;
}

const withValue = (step: VtdStep, value: bigint): VtdStep =>
  step.op === 'reg_read' ? { ...step, expect: `0x${value.toString(16)}` } : step;
