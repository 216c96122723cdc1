/**
 * A guest's own part in its migration: it works on while its memory is copied, stops when it is told to, and hands over
 * what its drivers and its script know. The script's function ends here; at the other host its `resume` begins.
 */
import { after, nowUs } from '#host';
import type { GuestRam } from '../memory/guest-ram.ts';
import {
  DOWNTIME_LIMIT_MS,
  MigrationError,
  type MigrationSettings,
  type MigrationStats,
  PAUSE_TIMEOUT_MS,
  ROUNDS_LIMIT,
} from './migration-settings.ts';
import type { VmControl } from './protocol.ts';

/** Tells a script's work when it has to end. */
export interface Pause {
  readonly requested: boolean;
  /** Resolves when it is requested. */
  readonly whenRequested: Promise<void>;
}

export interface MigrateOptions extends Partial<MigrationSettings> {
  /**
   * What the guest does while its memory is copied; it must end soon after `pause` is requested, commands to devices may
   * be in flight. What it returns, plain JSON, is what the scenario's `resume(vm, state)` is given at the other host.
   */
  work?(pause: Pause): unknown;
}

/** Thrown in the script of a VM that now runs elsewhere: it ends here. */
export class VmMovedError extends Error {
  readonly stats: MigrationStats;
  constructor(stats: MigrationStats) {
    super(`the VM has moved to host ${stats.to}`);
    this.name = 'VmMovedError';
    this.stats = stats;
  }
}

/** The guest, as far as its migration needs it. */
interface MigratingGuest {
  readonly ram: GuestRam;
  /** What its drivers know beside RAM. @throws Error naming what is under way */
  save(): unknown;
}

class PauseRequest implements Pause {
  requested = false;
  readonly whenRequested: Promise<void>;
  #resolve = () => {};

  constructor() {
    this.whenRequested = new Promise((resolve) => {
      this.#resolve = resolve;
    });
  }

  request(): void {
    this.requested = true;
    this.#resolve();
  }
}

/**
 * Moves the VM. Never resolves: it throws VmMovedError when the VM runs elsewhere.
 * @throws MigrationError if it does not, and stays; what `work` throws, likewise
 */
export async function migrate(
  guest: MigratingGuest,
  control: VmControl,
  { work = () => undefined, ...options }: MigrateOptions,
): Promise<never> {
  const settings = { downtimeMs: DOWNTIME_LIMIT_MS, rounds: ROUNDS_LIMIT, compare: false, ...options };
  // Every thread that writes RAM attaches the log before the first page is copied: the coordinator now, this one next.
  const log = await asMigration(control.beginMigration(settings));
  guest.ram.startLog(log);
  try {
    const script = await copyWhileWorking(control, work);
    const since = nowUs();
    const state = JSON.stringify({ drivers: guest.save(), script: script ?? null });
    throw new VmMovedError(await asMigration(control.handOver(state, nowUs() - since)));
  } catch (error) {
    if (error instanceof VmMovedError) throw error;
    guest.ram.stopLog();
    await control.abortMigration(error instanceof Error ? error.message : String(error));
    throw error;
  }
}

/** Resolves to what the work came to, when it has ended and little is left to copy. */
async function copyWhileWorking(control: VmControl, work: (pause: Pause) => unknown): Promise<unknown> {
  const pause = new PauseRequest();
  const working = Promise.resolve().then(() => work(pause));
  const copied = asMigration(control.copyMemory());
  try {
    // Work that fails ends the migration at once; work that ends early leaves the VM idle.
    await Promise.race([copied, working.then(() => copied)]);
  } catch (error) {
    pause.request();
    await withinPause(working).catch(() => {}); // the script goes on only when its work does not
    throw error;
  }
  pause.request();
  return withinPause(working);
}

async function withinPause(working: Promise<unknown>): Promise<unknown> {
  let cancel = () => {};
  const late = new Promise<never>((_, reject) => {
    cancel = after(PAUSE_TIMEOUT_MS, () =>
      reject(new MigrationError(`the script's work did not end within ${PAUSE_TIMEOUT_MS} ms of the pause`)),
    );
  });
  try {
    return await Promise.race([working, late]);
  } finally {
    cancel();
  }
}

/** What the coordinator throws arrives as a plain error. */
async function asMigration<T>(call: T | Promise<T>): Promise<T> {
  try {
    return await call;
  } catch (error) {
    throw new MigrationError(error instanceof Error ? error.message : String(error));
  }
}
