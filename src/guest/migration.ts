/**
 * The guest's part of its migration: it works while its memory is copied, pauses on request, and hands over the state
 * of its drivers and its script. The script's function ends here; its `resume` starts at the other host.
 */
import { after, nowUs } from '#host';
import type { Gate } from '../channel/gate.ts';
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

/** Request to the script's work to end. */
export interface Pause {
  readonly requested: boolean;
  /** Resolves when the pause is requested. */
  readonly whenRequested: Promise<void>;
}

/** Options of GuestVm.migrate. */
export interface MigrateOptions extends Partial<MigrationSettings> {
  /**
   * Runs in the guest while its memory is copied. It must end within 10 s of `pause.requested`; commands to devices
   * may be in flight then. It returns plain JSON, the `state` of the scenario's `resume(vm, state)` at the other
   * host.
   */
  work?(pause: Pause): unknown;
}

/** Thrown in the script of a VM that has moved to another host; it is not a failure. */
export class VmMovedError extends Error {
  readonly stats: MigrationStats;
  constructor(stats: MigrationStats) {
    super(`the VM has moved to host ${stats.to}`);
    this.name = 'VmMovedError';
    this.stats = stats;
  }
}

/** The parts of a guest that its migration uses. */
interface MigratingGuest {
  readonly ram: GuestRam;
  /** Closed while the VM is paused: the drivers take nothing more, and complete nothing. */
  readonly gate: Gate;
  /** Returns what the drivers know beside RAM. @throws InFlightError */
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
 * Moves the VM. Never resolves: rejects with VmMovedError when the VM runs on the other host.
 * @throws MigrationError, or the error of `work`, if the VM stays
 */
export async function migrate(
  guest: MigratingGuest,
  control: VmControl,
  { work = () => undefined, ...options }: MigrateOptions,
): Promise<never> {
  const settings = { downtimeMs: DOWNTIME_LIMIT_MS, rounds: ROUNDS_LIMIT, compare: false, ...options };
  // Every thread that writes RAM attaches the log before the first page is copied: the coordinator first, then this
  // one.
  const log = await asMigration(control.beginMigration(settings));
  guest.ram.startLog(log);
  try {
    const script = await copyWhileWorking(guest, control, work);
    const since = nowUs();
    guest.gate.close();
    const state = JSON.stringify({ drivers: guest.save(), script: script ?? null });
    throw new VmMovedError(await asMigration(control.handOver(state, nowUs() - since)));
  } catch (error) {
    if (error instanceof VmMovedError) throw error;
    guest.ram.stopLog();
    try {
      await control.abortMigration(error instanceof Error ? error.message : String(error));
    } finally {
      guest.gate.open();
    }
    throw error;
  }
}

/** Resolves to the result of `work` when the work has ended and little is left to copy. */
async function copyWhileWorking(
  { gate }: MigratingGuest,
  control: VmControl,
  work: (pause: Pause) => unknown,
): Promise<unknown> {
  const pause = new PauseRequest();
  // The VM pauses as soon as the work has ended, so that its result is the last that the script knows.
  const working = begin(work, pause).then((result) => {
    if (pause.requested) gate.close();
    return result;
  });
  const copied = asMigration(control.copyMemory());
  try {
    // Failed work aborts the migration at once; work that ends early leaves the VM idle.
    await Promise.race([copied, working.then(() => copied)]);
  } catch (error) {
    pause.request();
    await withinPause(working).catch(() => {}); // the script continues only after its work has ended
    throw error;
  }
  pause.request();
  return withinPause(working);
}

/** Calls `work`. Resolves and rejects no later than its own promise. */
function begin(work: (pause: Pause) => unknown, pause: Pause): Promise<unknown> {
  try {
    return Promise.resolve(work(pause));
  } catch (error) {
    return Promise.reject(error);
  }
}

async function withinPause(working: Promise<unknown>): Promise<unknown> {
  let cancel = () => {};
  const late = new Promise<never>((_, reject) => {
    cancel = after(PAUSE_TIMEOUT_MS, () =>
      reject(
        new MigrationError(
          `the script's work did not end within ${PAUSE_TIMEOUT_MS} ms of the pause request`,
        ),
      ),
    );
  });
  try {
    return await Promise.race([working, late]);
  } finally {
    cancel();
  }
}

/** Rejects with MigrationError: Comlink delivers an error of the coordinator as a plain Error. */
async function asMigration<T>(call: T | Promise<T>): Promise<T> {
  try {
    return await call;
  } catch (error) {
    throw new MigrationError(error instanceof Error ? error.message : String(error));
  }
}
