/**
 * The command engines of one vGPU: they take turns at its slot, a bounded piece each, and what one does may be what the
 * other waits for.
 *
 * A fence costs no engine time: it is looked at outside of a turn, and only when there is reason to. The other engine has
 * ended a command, a doorbell was rung, or FENCE_LOOK_US have passed.
 */

import { FENCE_LOOK_US } from '../../../abi/vgpu/vgpu.ts';
import type { DeviceTimers, StateReader, StateValues, StepResult } from '../../../device/model.ts';
import type { EngineSlot, Grant } from '../../../gpu/engine-slot.ts';
import type { CommandStreamer } from './command-streamer.ts';

/** How soon a vGPU whose share is used up asks again, while nobody else may run. */
const ASK_AGAIN_US = 1000;

export class Engines {
  readonly #streamers: readonly CommandStreamer[];
  readonly #slot: EngineSlot | undefined;
  readonly #timers: DeviceTimers;
  /** Which of them is next, if it has work. */
  #turn = 0;
  /** Engine time of the step, ns, and whether a command ended in it. */
  #costNs = 0;
  #ended = false;
  #askingAgain = false;
  /** When fences are looked at again; undefined while none is waited for. */
  #pollAtUs: number | undefined;
  #cancel = () => {};

  constructor(streamers: readonly CommandStreamer[], timers: DeviceTimers, slot: EngineSlot | undefined) {
    this.#streamers = streamers;
    this.#timers = timers;
    this.#slot = slot;
  }

  /** One bounded piece of one engine's work; of both, if the first stalls. */
  step(): StepResult {
    const looked = this.#pollFences();
    const first = this.#next();
    if (!first) {
      this.#slot?.release();
      return looked;
    }
    const grant = this.#slot?.acquire() ?? 'granted';
    if (grant !== 'granted') return this.#waitForEngine(grant);
    this.#costNs = 0;
    const stalled = this.#work(first);
    const result = stalled ? 'stalled' : this.#pollFences();
    const more = !stalled && this.#streamers.some(hasWork);
    // What halted has no ring any more; what stalls, for the sake of the address space, must not hold up the others.
    this.#slot?.charge(this.#costNs, this.#ended, more);
    return more ? 'more' : result;
  }

  /** Something has happened that a fence may have waited for. */
  recheckFences(): void {
    for (const { engine } of this.#streamers) engine.recheckFences();
  }

  /** Gives the engine of the physical GPU on. */
  release(): void {
    this.#slot?.release();
  }

  /** The registers have been reset. */
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
    if (leftUs < 0 || leftUs > FENCE_LOOK_US + 1)
      throw state.error('fenceLookLeftUs', `is ${leftUs}; accepted: 0 to ${FENCE_LOOK_US}`);
    this.#setTimer(this.#streamers.some(waits) ? leftUs : undefined);
  }

  /** The engine whose turn it is, or the one behind it that has work. A turn is over when it has been used. */
  #next(): CommandStreamer | undefined {
    const count = this.#streamers.length;
    for (let i = 0; i < count; i++) {
      const streamer = this.#streamers[(this.#turn + i) % count] as CommandStreamer;
      if (streamer.hasWork) return streamer;
    }
    return undefined;
  }

  /** A piece of its work; if it stalls, one of the other's, which may have all its pages. True if both stall. */
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

  /** Looks at the fences that there is reason to look at. `stalled` if one of them has to be looked at again. */
  #pollFences(): StepResult {
    let stalled = false;
    let waiting = false;
    for (const streamer of this.#streamers) {
      if (!streamer.waiting) continue;
      stalled = streamer.pollFence() || stalled;
      waiting = streamer.waiting || waiting;
    }
    if (waiting !== (this.#pollAtUs !== undefined)) this.#setTimer(waiting ? FENCE_LOOK_US : undefined);
    return stalled ? 'stalled' : 'idle';
  }

  /** Fences are looked at in `leftUs` from now on; undefined: no more. */
  #setTimer(leftUs: number | undefined): void {
    this.#cancel();
    this.#pollAtUs = leftUs === undefined ? undefined : this.#timers.nowUs() + leftUs;
    if (leftUs === undefined) return;
    this.#cancel = this.#timers.after(leftUs, () => {
      this.#pollAtUs = undefined;
      this.recheckFences();
    });
  }

  /** Whoever gives the engine on rings; a share that is used up comes back with time alone. */
  #waitForEngine(grant: Grant): StepResult {
    if (grant === 'retry' && !this.#askingAgain) {
      this.#askingAgain = true;
      this.#timers.after(ASK_AGAIN_US, () => {
        this.#askingAgain = false;
      });
    }
    return 'idle';
  }
}

/** Its state, under its name: see StateReader.part. */
const savePart = (streamer: CommandStreamer): StateValues =>
  Object.fromEntries(
    Object.entries(streamer.save()).map(([name, value]) => [`${streamer.name}.${name}`, value]),
  );

const hasWork = (streamer: CommandStreamer): boolean => streamer.hasWork;
const waits = (streamer: CommandStreamer): boolean => streamer.waiting;
