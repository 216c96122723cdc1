/**
 * The states of a device that migrates, and the ways between them: version 2 of VFIO's migration interface, for a device
 * with VFIO_MIGRATION_STOP_COPY and VFIO_MIGRATION_PRE_COPY, without VFIO_MIGRATION_P2P.
 *
 * The numbers are those of `enum vfio_device_mig_state` in include/uapi/linux/vfio.h, the answers those of
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

/** What a device does by itself: everything else is made of these. */
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

/** States in which a stream is read: a way may begin or end there, but not lead through. */
const SAVING: readonly MigrationState[] = [STOP_COPY, PRE_COPY];
/** The saving of a device that has stopped cannot become that of a running one. The kernel answers EINVAL. */
const BLOCKED: readonly (readonly [MigrationState, MigrationState])[] = [[STOP_COPY, PRE_COPY]];

/** `STOP_COPY`, or the number of what is no state. */
export const migrationStateName = (state: number): string =>
  Object.entries(MigrationState).find(([, number]) => number === state)?.[0] ?? String(state);

/**
 * The arcs from one state to another, none for the same: the shortest way that does not lead through a saving state.
 * Undefined if the interface does not allow it: from and to ERROR, to a state that is not supported or none.
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
  // Breadth first, over five states: no state is visited twice.
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
