/**
 * The command engines of one vGPU. They take turns at its slot, one bounded piece each. One engine may signal the
 * fence that the other waits for.
 *
 * Polling a fence costs no engine time, so fences are polled outside of turns, and only when there is a reason: the
 * other engine ended a command, a guest wrote a doorbell, or FENCE_POLL_US have passed.
 */

import { FENCE_POLL_US } from '../../../abi/vgpu/vgpu.ts';
import type { DeviceTimers, StateReader, StateValues, StepResult } from '../../../device/model.ts';
import type { EngineSlot, Grant } from '../../../gpu/engine-slot.ts';
import type { CommandStreamer } from './command-streamer.ts';

/** Interval at which a vGPU whose share is used up retries, while no other vGPU may run. */
const RETRY_US = 1000;

export class Engines {
  readonly #streamers: readonly CommandStreamer[];
  readonly #slot: EngineSlot | undefined;
  readonly #timers: DeviceTimers;
  /** Index of the engine that is next, if it has work. */
  #turn = 0;
  /** Engine time of the step, ns, and whether a command ended in it. */
  #costNs = 0;
  #ended = false;
  #retryScheduled = false;
  /** Time of the next scheduled poll of fences; undefined while no engine waits for one. */
  #pollAtUs: number | undefined;
  #cancel = () => {};

  constructor(streamers: readonly CommandStreamer[], timers: DeviceTimers, slot: EngineSlot | undefined) {
    this.#streamers = streamers;
    this.#timers = timers;
    this.#slot = slot;
  }

  /** Does one bounded piece of one engine's work, and one of the other's if the first stalls. */
  step(): StepResult {
    const polled = this.#pollFences();
    const first = this.#next();
    if (!first) {
      this.#slot?.release();
      return polled;
    }
    const grant = this.#slot?.acquire() ?? 'granted';
    if (grant !== 'granted') return this.#waitForEngine(grant);
    this.#costNs = 0;
    const stalled = this.#work(first);
    const result = stalled ? 'stalled' : this.#pollFences();
    const more = !stalled && this.#streamers.some(hasWork);
    // A halted engine has no ring and no work. An engine that stalls for the address space must not block the other
    // vGPUs.
    this.#slot?.charge(this.#costNs, this.#ended, more);
    return more ? 'more' : result;
  }

  /** Schedules a recheck of all fences. */
  recheckFences(): void {
    for (const { engine } of this.#streamers) engine.recheckFences();
  }

  /** Releases the engine of the physical GPU. */
  release(): void {
    this.#slot?.release();
  }

  /** Called after the registers have been reset. */
  reset(): void {
    for (const streamer of this.#streamers) streamer.reset();
    this.#turn = 0;
    this.#setTimer(undefined);
  }

  close(): void {
    for (const streamer of this.#streamers) streamer.stop();
    this.#setTimer(undefined);
    this.release();
  }

  save(): StateValues {
    const leftUs = this.#pollAtUs === undefined ? 0 : this.#pollAtUs - this.#timers.nowUs();
    const own = { turn: this.#turn, fenceLookLeftUs: Math.max(0, leftUs) };
    return Object.assign(own, ...this.#streamers.map(savePart));
  }

  /** @throws StateError */
  restore(state: StateReader): void {
    for (const streamer of this.#streamers) streamer.restore(state.part(streamer.name));
    this.#turn = state.integer('turn', this.#streamers.length - 1);
    const leftUs = state.number('fenceLookLeftUs');
    if (leftUs < 0 || leftUs > FENCE_POLL_US + 1)
      throw state.error('fenceLookLeftUs', `is ${leftUs}; accepted: 0 to ${FENCE_POLL_US}`);
    this.#setTimer(this.#streamers.some(waits) ? leftUs : undefined);
  }

  /** Returns the first engine with work, beginning with the one whose turn it is. */
  #next(): CommandStreamer | undefined {
    const count = this.#streamers.length;
    for (let i = 0; i < count; i++) {
      const streamer = this.#streamers[(this.#turn + i) % count] as CommandStreamer;
      if (streamer.hasWork) return streamer;
    }
    return undefined;
  }

  /**
   * Does a piece of one engine's work. If it stalls, does one of the other's, whose pages may all be present. Returns
   * true if both stall.
   */
  #work(first: CommandStreamer): boolean {
    if (!this.#piece(first)) return false;
    const second = this.#next();
    return !second || second === first || this.#piece(second);
  }

  #piece(streamer: CommandStreamer): boolean {
    const stalled = streamer.step();
    this.#turn = (this.#streamers.indexOf(streamer) + 1) % this.#streamers.length;
    const { costNs, ended } = streamer.engine.lastStep;
    this.#costNs += costNs;
    this.#ended = ended;
    if (ended) for (const each of this.#streamers) if (each !== streamer) each.engine.recheckFences();
    return stalled;
  }

  /** Polls the fences whose recheck is scheduled. Returns `stalled` if one of them must be polled again. */
  #pollFences(): StepResult {
    let stalled = false;
    let waiting = false;
    for (const streamer of this.#streamers) {
      if (!streamer.waiting) continue;
      stalled = streamer.pollFence() || stalled;
      waiting = streamer.waiting || waiting;
    }
    if (waiting !== (this.#pollAtUs !== undefined)) this.#setTimer(waiting ? FENCE_POLL_US : undefined);
    return stalled ? 'stalled' : 'idle';
  }

  /** Schedules a poll of fences in `leftUs`; undefined cancels it. */
  #setTimer(leftUs: number | undefined): void {
    this.#cancel();
    this.#pollAtUs = leftUs === undefined ? undefined : this.#timers.nowUs() + leftUs;
    if (leftUs === undefined) return;
    this.#cancel = this.#timers.after(leftUs, () => {
      this.#pollAtUs = undefined;
      this.recheckFences();
    });
  }

  /** The owner of the engine rings when it hands the engine over. A share that is used up returns only with time. */
  #waitForEngine(grant: Grant): StepResult {
    if (grant === 'retry' && !this.#retryScheduled) {
      this.#retryScheduled = true;
      this.#timers.after(RETRY_US, () => {
        this.#retryScheduled = false;
      });
    }
    return 'idle';
  }
}

/** Prefixes the names of a streamer's state: see StateReader.part. */
const savePart = (streamer: CommandStreamer): StateValues =>
  Object.fromEntries(
    Object.entries(streamer.save()).map(([name, value]) => [`${streamer.name}.${name}`, value]),
  );

const hasWork = (streamer: CommandStreamer): boolean => streamer.hasWork;
const waits = (streamer: CommandStreamer): boolean => streamer.waiting;
