/**
 * The guest of a VM over its lives: one worker after the other, from a boot to the next reset of the platform.
 *
 * A reset takes the guest wherever it is, as the reset button does. The load is data, so the next guest continues it:
 * the iterations that were in flight count as interrupted, and arrivals that become due meanwhile as dropped.
 */
import { nowUs } from '#host';
import type { GuestSnapshot } from '../../guest/protocol.ts';
import { type GuestOutcome, type GuestWorker, NOT_STARTED } from './guest-worker.ts';

/** Settings of a reboot. */
export interface RebootSettings {
  /** True if the guest's RAM is zeroed. */
  readonly clearRam: boolean;
}

interface LivesOwner {
  /** Starts a guest's worker. @param load state of the load that it continues, as JSON; empty for none */
  createWorker(load: string): GuestWorker;
  /** Resets the platform, between two guests. */
  resetPlatform(settings: RebootSettings): Promise<void>;
}

interface PendingReboot {
  readonly settings: RebootSettings;
  /** Reports that the next guest boots, or why none does. */
  readonly done: (error: string) => void;
}

export class GuestLives {
  readonly #owner: LivesOwner;
  #worker: GuestWorker | undefined;
  #isRunning = false;
  #isAborted = false;
  #reboot: PendingReboot | undefined;
  /** Durations of the reboots, from the reset to the start of the next guest, in microseconds. */
  readonly rebootsUs: number[] = [];

  constructor(owner: LivesOwner) {
    this.#owner = owner;
  }

  /** Worker of the current guest. */
  get worker(): GuestWorker | undefined {
    return this.#worker;
  }

  /** Starts the first guest's worker and has it load the script. */
  async load(): Promise<void> {
    this.#worker ??= this.#owner.createWorker('');
    await this.#worker.load();
  }

  /** Runs guests until one ends by itself. Resolves to their outcomes as one; NOT_STARTED after {@link abort}. */
  async run(snapshot?: GuestSnapshot): Promise<GuestOutcome> {
    const outcomes: GuestOutcome[] = [];
    try {
      if (!this.#worker && !this.#isAborted) await this.load();
      this.#isRunning = true;
      for (let from = snapshot; this.#worker; from = undefined) {
        const outcome = await this.#worker.run(from);
        outcomes.push(outcome);
        if (!this.#reboot || !outcome.halted || this.#isAborted) break;
        await this.#startNext(this.#reboot, outcome);
      }
    } finally {
      this.#isRunning = false;
      this.#endReboot('the VM has ended');
    }
    return outcomes.length === 0 ? NOT_STARTED : joined(outcomes);
  }

  /** Resets the platform and boots the guest again. Resolves to an empty text, or to why it does not. */
  reboot(settings: RebootSettings): Promise<string> {
    if (!this.#isRunning || this.#reboot)
      return Promise.resolve(
        `the VM ${this.#reboot ? 'reboots already' : 'does not run'}; accepted: a running VM`,
      );
    return new Promise((done) => {
      this.#reboot = { settings, done };
      this.#worker?.halt('reset');
    });
  }

  /** Ends the guest, because the VM is closed. */
  close(how: 'crash' | 'shutdown'): void {
    this.#worker?.halt(how);
  }

  /** Makes {@link run} resolve now. */
  abort(): void {
    this.#isAborted = true;
    this.#worker?.abort();
  }

  /** Ends the guest in order, because the run is interrupted. */
  interrupt(): void {
    this.#isAborted = true;
    void this.#worker?.interrupt();
  }

  async #startNext({ settings }: PendingReboot, { load = '' }: GuestOutcome): Promise<void> {
    const since = nowUs();
    await this.#owner.resetPlatform(settings);
    this.rebootsUs.push(nowUs() - since);
    this.#worker = this.#owner.createWorker(load);
    await this.#worker.load();
    this.#endReboot('');
  }

  #endReboot(error: string): void {
    this.#reboot?.done(error);
    this.#reboot = undefined;
  }
}

/** Returns the outcomes of consecutive guests as one. The summary merges histograms of the same name. */
function joined(outcomes: readonly GuestOutcome[]): GuestOutcome {
  const last = outcomes.at(-1) as GuestOutcome;
  const devices = Math.max(...outcomes.map(({ deviceHistograms }) => deviceHistograms.length));
  return {
    ...last,
    histograms: outcomes.flatMap(({ histograms }) => histograms),
    deviceHistograms: Array.from({ length: devices }, (_, device) =>
      outcomes.flatMap(({ deviceHistograms }) => deviceHistograms[device] ?? []),
    ),
  };
}
