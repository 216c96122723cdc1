/**
 * The scheduling policies, as rules on virtual time: the slot with the smallest virtual time is next.
 *
 * - `best-effort`: round robin. A slot's virtual time is the start of its last turn. No command is preempted, and a
 *   turn continues while there is work: a slot with a full ring gets more than its neighbours.
 * - `equal-share`: fair queueing. Virtual time is the engine time used. A slot without work loses its turn, and may
 *   claim EQUAL_LAG_SLICES of it back later.
 * - `fixed-share`: virtual time is the engine time used divided by the share. A slot whose virtual time is ahead of
 *   the engine's clock must not run: a share is also a cap, even on an idle engine. Unused time beyond FIXED_BANK_NS
 *   is lost.
 */
export const POLICIES = ['best-effort', 'equal-share', 'fixed-share'] as const;
/** Name of a scheduling policy. */
export type Policy = (typeof POLICIES)[number];

/** Scheduling of an engine. */
export interface Scheduling {
  readonly policy: Policy;
  /** Time slice, µs of engine time: SLICE_US_MIN to SLICE_US_MAX. */
  readonly sliceUs: number;
}

export const SLICE_US_MIN = 50;
export const SLICE_US_MAX = 100_000;
export const DEFAULT_SCHEDULING: Scheduling = { policy: 'best-effort', sliceUs: 1000 };

/** Slices after which a best-effort turn ends with the running command. */
const BEST_EFFORT_SLICES = 16;
const EQUAL_LAG_SLICES = 8;
const FIXED_BANK_NS = 50e6;

/** @throws RangeError with the invalid value and the accepted range */
export function checkScheduling({ policy, sliceUs }: Scheduling): void {
  if (!POLICIES.includes(policy))
    throw new RangeError(`no scheduling policy '${policy}'; accepted: ${POLICIES.join(', ')}`);
  if (!Number.isInteger(sliceUs) || sliceUs < SLICE_US_MIN || sliceUs > SLICE_US_MAX)
    throw new RangeError(`a time slice of ${sliceUs} µs; accepted: ${SLICE_US_MIN} to ${SLICE_US_MAX}`);
}

/** The engine's state that the rules use. Times in ns. */
export interface EngineTimes {
  readonly clock: number;
  readonly floor: number;
  readonly sliceNs: number;
}

export interface PolicyRules {
  /** True if shares are caps. The clock then advances while the engine is idle. */
  readonly capped: boolean;
  /** Returns a slot's virtual time, adjusted for its idleness. */
  effective(virtual: number, times: EngineTimes): number;
  /** Returns the virtual time after a turn began. */
  begun(virtual: number, times: EngineTimes): number;
  /** Returns the virtual time after `ns` of work; `share` is in (0, 1]. */
  worked(virtual: number, ns: number, share: number): number;
  mayRun(virtual: number, times: EngineTimes): boolean;
  /** Returns true if a turn of `turnNs` ends here. */
  turnEnds(turnNs: number, sliceNs: number, atCommandEnd: boolean): boolean;
}

const bestEffort: PolicyRules = {
  capped: false,
  effective: (virtual) => virtual,
  begun: (_virtual, { clock }) => clock,
  worked: (virtual) => virtual,
  mayRun: () => true,
  turnEnds: (turnNs, sliceNs, atCommandEnd) => atCommandEnd && turnNs >= BEST_EFFORT_SLICES * sliceNs,
};

const equalShare: PolicyRules = {
  capped: false,
  effective: (virtual, { floor, sliceNs }) => Math.max(virtual, floor - EQUAL_LAG_SLICES * sliceNs),
  begun: (virtual) => virtual,
  worked: (virtual, ns) => virtual + ns,
  mayRun: () => true,
  turnEnds: (turnNs, sliceNs) => turnNs >= sliceNs,
};

const fixedShare: PolicyRules = {
  capped: true,
  effective: (virtual, { clock }) => Math.max(virtual, clock - FIXED_BANK_NS),
  begun: (virtual) => virtual,
  worked: (virtual, ns, share) => virtual + ns / share,
  mayRun: (virtual, { clock }) => virtual <= clock,
  turnEnds: (turnNs, sliceNs) => turnNs >= sliceNs,
};

/** In the order of POLICIES. */
export const RULES: readonly PolicyRules[] = [bestEffort, equalShare, fixedShare];
