/**
 * What a migration may be told, and what it tells.
 */

/** Downtime that a migration aims at, unless it is told another: QEMU's default. */
export const DOWNTIME_LIMIT_MS = 300;
/** Rounds of dirty pages after which the VM is paused, however much is left. */
export const ROUNDS_LIMIT = 30;
const ROUNDS_LIMIT_MAX = 1000;
/** How long the script's own work may go on once the VM is to pause. */
export const PAUSE_TIMEOUT_MS = 10_000;

export interface MigrationSettings {
  /** Number of the host process; undefined for the next. */
  readonly to?: number | undefined;
  /** The VM is paused when what is left should take no longer than this. */
  readonly downtimeMs: number;
  /** … or after so many rounds. */
  readonly rounds: number;
  /** Compare all RAM byte for byte before the VM goes on; not counted as downtime. */
  readonly compare: boolean;
}

/** One copy of what was dirty. */
export interface MigrationRound {
  /** Of pages; those full of zeros go as a few bytes. */
  readonly ramBytes: number;
  readonly deviceBytes: number;
  /** What went through the socket for both. */
  readonly sentBytes: number;
  readonly tookUs: number;
}

export interface MigrationStats {
  readonly from: number;
  readonly to: number;
  /** The first is all of RAM, the last is that with the VM paused. */
  readonly rounds: readonly MigrationRound[];
  /** True: paused because of the number of rounds, not because little was left. */
  readonly forced: boolean;
  readonly totalUs: number;
  /** From the guest's pause to its going on at the other host, without the comparison. */
  readonly downtimeUs: number;
  /** Bytes compared, and how many differed. */
  readonly comparedBytes: number;
  readonly differentBytes: number;
}

/** A migration that did not happen: the VM goes on where it was. */
export class MigrationError extends Error {
  override name = 'MigrationError';
}

/** @throws MigrationError naming the setting and what is accepted */
export function checkSettings({ to, downtimeMs, rounds }: MigrationSettings, hosts: number): void {
  const check = (holds: boolean, what: string, accepted: string): void => {
    if (!holds) throw new MigrationError(`${what}; accepted: ${accepted}`);
  };
  check(
    to === undefined || (Number.isInteger(to) && to >= 0 && to < hosts),
    `to: ${to}`,
    `0 to ${hosts - 1}, another host than this`,
  );
  check(Number.isFinite(downtimeMs) && downtimeMs >= 0, `downtimeMs: ${downtimeMs}`, 'milliseconds from 0');
  check(
    Number.isInteger(rounds) && rounds >= 1 && rounds <= ROUNDS_LIMIT_MAX,
    `rounds: ${rounds}`,
    `1 to ${ROUNDS_LIMIT_MAX}`,
  );
}

const mib = (bytes: number): string => `${(bytes / 2 ** 20).toFixed(1)} MiB`;
const ms = (us: number): string => `${(us / 1000).toFixed(1)} ms`;

/** A migration in a few lines, for the report. */
export function migrationLines(vm: number, stats: MigrationStats): string[] {
  const { from, to, rounds, forced, totalUs, downtimeUs, comparedBytes, differentBytes } = stats;
  const sent = rounds.reduce((sum, { sentBytes }) => sum + sentBytes, 0);
  const sizes = rounds.map(({ ramBytes, deviceBytes }) => mib(ramBytes + deviceBytes)).join(', ');
  const compared =
    comparedBytes > 0 ? `; ${mib(comparedBytes)} compared, ${differentBytes} bytes differ` : '';
  return [
    `VM ${vm}: host ${from} → ${to} in ${ms(totalUs)}, downtime ${ms(downtimeUs)}, ${mib(sent)} through the socket${compared}`,
    `VM ${vm}: ${rounds.length} rounds${forced ? ' (did not converge)' : ''}, of pages ${sizes}`,
  ];
}
