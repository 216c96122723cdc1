/**
 * The states of a migrating device and their transitions: version 2 of VFIO's migration interface, for a device with
 * VFIO_MIGRATION_STOP_COPY and VFIO_MIGRATION_PRE_COPY, without VFIO_MIGRATION_P2P.
 *
 * The numbers are those of `enum vfio_device_mig_state` in include/uapi/linux/vfio.h. The next states are those of
 * vfio_mig_get_next_state in drivers/vfio/vfio_main.c.
 */

export const MigrationState = {
  ERROR: 0,
  STOP: 1,
  RUNNING: 2,
  STOP_COPY: 3,
  RESUMING: 4,
  RUNNING_P2P: 5,
  PRE_COPY: 6,
  PRE_COPY_P2P: 7,
} as const;
export type MigrationState = (typeof MigrationState)[keyof typeof MigrationState];

const { STOP, RUNNING, STOP_COPY, RESUMING, PRE_COPY } = MigrationState;

/** The arcs that a device implements. All transitions are combined from them. */
export type MigrationArc =
  | 'stop'
  | 'run'
  | 'save'
  | 'saved'
  | 'resume'
  | 'resumed'
  | 'log'
  | 'unlog'
  | 'rest';
const ARCS: readonly {
  readonly from: MigrationState;
  readonly to: MigrationState;
  readonly arc: MigrationArc;
}[] = [
  { from: RUNNING, to: STOP, arc: 'stop' },
  { from: STOP, to: RUNNING, arc: 'run' },
  { from: STOP, to: STOP_COPY, arc: 'save' },
  { from: STOP_COPY, to: STOP, arc: 'saved' },
  { from: STOP, to: RESUMING, arc: 'resume' },
  { from: RESUMING, to: STOP, arc: 'resumed' },
  { from: RUNNING, to: PRE_COPY, arc: 'log' },
  { from: PRE_COPY, to: STOP_COPY, arc: 'rest' },
  { from: PRE_COPY, to: RUNNING, arc: 'unlog' },
];

/** States in which a stream is read. A transition may start or end there, but not pass through. */
const SAVING: readonly MigrationState[] = [STOP_COPY, PRE_COPY];
/** A stopped device that is saving cannot become a running one that is saving. The kernel returns EINVAL. */
const BLOCKED: readonly (readonly [MigrationState, MigrationState])[] = [[STOP_COPY, PRE_COPY]];

/** Returns a name such as `STOP_COPY`, or the number of an unknown state. */
export const migrationStateName = (state: number): string =>
  Object.entries(MigrationState).find(([, number]) => number === state)?.[0] ?? String(state);

/**
 * Returns the shortest sequence of arcs between two states that passes through no saving state; empty for equal
 * states. Returns undefined if the interface does not allow the transition: from or to ERROR, and to an unsupported
 * or unknown state.
 */
export function migrationRoute(
  current: number,
  target: number,
): { readonly to: MigrationState; readonly arc: MigrationArc }[] | undefined {
  if (!isSupported(current) || !isSupported(target)) return undefined;
  if (BLOCKED.some(([from, to]) => from === current && to === target)) return undefined;
  const ways: { readonly at: MigrationState; readonly arcs: (typeof ARCS)[number][] }[] = [
    { at: current, arcs: [] },
  ];
  // Breadth first over five states; no state is visited twice.
  const seen = new Set<MigrationState>([current]);
  for (const { at, arcs } of ways) {
    if (at === target) return arcs;
    if (SAVING.includes(at) && at !== current) continue;
    for (const arc of ARCS.filter(({ from, to }) => from === at && !seen.has(to))) {
      seen.add(arc.to);
      ways.push({ at: arc.to, arcs: [...arcs, arc] });
    }
  }
  return undefined;
}

const isSupported = (state: number): state is MigrationState => ARCS.some(({ from }) => from === state);
