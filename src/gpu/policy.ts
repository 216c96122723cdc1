/**
 * The scheduling policies, as rules on virtual time: the slot with the smallest one is next.
 *
 * - `best-effort`: round robin; a slot's virtual time is when its last turn began. Nobody is preempted within a command,
 *   and a turn goes on while there is work: a slot with a full ring has more than its neighbours.
 * - `equal-share`: fair queueing; virtual time is the engine time used. Who has no work gives his turn away and may claim
 *   EQUAL_LAG_SLICES of it back later.
 * - `fixed-share`: virtual time is the engine time used divided by the share, and nobody may run whose virtual time is
 *   ahead of the engine's clock: a share is a cap too, also on an idle engine. What was not used is lost, but for
 *   FIXED_BANK_NS.
 */
export const POLICIES = ['best-effort', 'equal-share', 'fixed-share'] as const;
export type Policy = (typeof POLICIES)[number];

/** How the engine is divided. */
export interface Scheduling {
  readonly policy: Policy;
  /** Time slice, µs of engine time: SLICE_US_MIN to SLICE_US_MAX. */
  readonly sliceUs: number;
}

export const SLICE_US_MIN = 50;
export const SLICE_US_MAX = 100_000;
export const DEFAULT_SCHEDULING: Scheduling = { policy: 'best-effort', sliceUs: 1000 };

/** Slices after which a best-effort turn ends with the command that runs. */
const BEST_EFFORT_SLICES = 16;
const EQUAL_LAG_SLICES = 8;
const FIXED_BANK_NS = 50e6;

/** @throws RangeError naming what is wrong and the accepted range */
export function checkScheduling({ policy, sliceUs }: Scheduling): void {
  if (!POLICIES.includes(policy))
    throw new RangeError(`no scheduling policy '${policy}'; accepted: ${POLICIES.join(', ')}`);
  if (!Number.isInteger(sliceUs) || sliceUs < SLICE_US_MIN || sliceUs > SLICE_US_MAX)
    throw new RangeError(`a time slice of ${sliceUs} µs; accepted: ${SLICE_US_MIN} to ${SLICE_US_MAX}`);
}

/** The state that the rules look at. Times in ns. */
export interface EngineTimes {
  readonly clock: number;
  readonly floor: number;
  readonly sliceNs: number;
}

export interface PolicyRules {
  /** True if shares are caps: then the clock goes on while the engine idles. */
  readonly capped: boolean;
  /** A slot's virtual time as it counts now, after whatever of its idleness is forgiven. */
  effective(virtual: number, times: EngineTimes): number;
  /** Virtual time after a turn began. */
  begun(virtual: number, times: EngineTimes): number;
  /** Virtual time after `ns` of work; `share` in (0, 1]. */
  worked(virtual: number, ns: number, share: number): number;
  mayRun(virtual: number, times: EngineTimes): boolean;
  /** True if a turn of `turnNs` ends here. */
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
