/**
 * Settings and statistics of a migration.
 */

/** Default target for the downtime, as in QEMU. */
export const DOWNTIME_LIMIT_MS = 300;
/** Default limit of rounds; then the VM is paused, however much is left to copy. */
export const ROUNDS_LIMIT = 30;
const ROUNDS_LIMIT_MAX = 1000;
/** Time limit for the script's work after the pause request. */
export const PAUSE_TIMEOUT_MS = 10_000;

/** Settings of a migration. */
export interface MigrationSettings {
  /** Index of the host process, from 0; undefined for the next one. */
  readonly to?: number | undefined;
  /** Target for the downtime: the VM is paused when the rest should take no longer to copy. */
  readonly downtimeMs: number;
  /** Count of rounds after which the VM is paused in any case; 1 to 1000. */
  readonly rounds: number;
  /** Compare all RAM byte for byte before the VM resumes; not counted as downtime. */
  readonly compare: boolean;
}

/** One copy of the dirty pages. */
export interface MigrationRound {
  /** Size of the copied pages of guest RAM; a page full of zeros is sent as a few bytes. */
  readonly ramBytes: number;
  /** Size of the copied device memory. */
  readonly deviceBytes: number;
  /** Bytes sent through the socket for both. */
  readonly sentBytes: number;
  readonly tookUs: number;
}

/** Statistics of a completed migration. */
export interface MigrationStats {
  /** Indices of the host processes. */
  readonly from: number;
  readonly to: number;
  /** The first round copies all of RAM; during the last one the VM is paused. */
  readonly rounds: readonly MigrationRound[];
  /** True if the VM was paused by the limit of rounds, because the copy did not converge. */
  readonly forced: boolean;
  readonly totalUs: number;
  /** From the guest's pause until it resumes at the other host, without the comparison. */
  readonly downtimeUs: number;
  /** Count of compared bytes, and of those that differed; 0 without `compare`. */
  readonly comparedBytes: number;
  readonly differentBytes: number;
}

/** Thrown for a migration that failed; the VM stays and may continue. */
export class MigrationError extends Error {
  override name = 'MigrationError';
}

/** Checks the settings of a migration. @throws MigrationError that names the setting and what is accepted */
export function checkSettings({ to, downtimeMs, rounds }: MigrationSettings, hosts: number): void {
  const check = (holds: boolean, what: string, accepted: string): void => {
    if (!holds) throw new MigrationError(`${what}; accepted: ${accepted}`);
  };
  check(
    to === undefined || (Number.isInteger(to) && to >= 0 && to < hosts),
    `to: ${to}`,
    `0 to ${hosts - 1}, but not this host`,
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

/** Describes a migration in two lines, for the report. */
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
