/**
 * The shared block between a device, its guest and the coordinator: doorbell, MMIO, control frames, interrupts,
 * state. One SharedArrayBuffer per device.
 */
import * as mem from '#mem';
import { Doorbell, doorbellWords } from './doorbell.ts';
import { FrameRing, frameRingBytes } from './frame-ring.ts';
import { MMIO_CHANNEL_BYTES, MMIO_WINDOW_BYTES, MmioPort, MmioServer } from './mmio-channel.ts';

const { rd, ld, st, add, wake, waitEq, waitEqAsync, wordsOf } = mem;

/** Who rings a device's doorbell. */
export const RING_MMIO = 0;
export const RING_CONTROL = 1;
export const RING_ENGINE = 2;
const SENDERS = 3;

/** Interrupt vectors a device may have (MSI's limit). */
export const MAX_VECTORS = 32;
/** Bytes of control frames in flight, each way. */
export const CONTROL_RING_BYTES = 16384;
/** Bytes of a migration stream that one control frame carries at most: half of the ring. */
export const DEVICE_DATA_BYTES_MAX: number = CONTROL_RING_BYTES / 2;

export const DeviceState = { starting: 0, ready: 1, stopped: 2, failed: 3 } as const;
export type DeviceState = (typeof DeviceState)[keyof typeof DeviceState];

const OFFSET_DOORBELL = 0;
const OFFSET_STATE = OFFSET_DOORBELL + doorbellWords(SENDERS) * 4;
/** Bumped by each interrupt and by each change of state: a guest waits on this one word. */
const OFFSET_EVENTS = OFFSET_STATE + 16;
const OFFSET_VECTORS = OFFSET_EVENTS + 4;
const OFFSET_MMIO = OFFSET_VECTORS + MAX_VECTORS * 4;
const OFFSET_TO_DEVICE = OFFSET_MMIO + MMIO_CHANNEL_BYTES;
const OFFSET_FROM_DEVICE = OFFSET_TO_DEVICE + frameRingBytes(CONTROL_RING_BYTES);
const OFFSET_WINDOW = OFFSET_FROM_DEVICE + frameRingBytes(CONTROL_RING_BYTES);
export const DEVICE_LINK_BYTES = OFFSET_WINDOW + MMIO_WINDOW_BYTES;

const STATE = 0;
const FAULTS_RECORDED = 1;
/** Odd while the device's thread is in a turn; changes with every turn. */
const TURN = 2;
const MEMORY_KIB = 3;
const EVENTS = 0;
const VECTORS = 1;

/** Rings a device's doorbell for whoever knows nothing of it but its link. */
export function ringDevice(link: SharedArrayBuffer, sender: number): void {
  new Doorbell(link, OFFSET_DOORBELL, SENDERS).ring(sender);
}

/** All ends of a link; each thread uses the ones that are its own. */
export class DeviceLink {
  readonly sab: SharedArrayBuffer;
  readonly doorbell: Doorbell;
  readonly toDevice: FrameRing;
  readonly fromDevice: FrameRing;
  readonly #state: mem.SharedWords;
  readonly #events: mem.SharedWords;

  constructor(sab: SharedArrayBuffer = new SharedArrayBuffer(DEVICE_LINK_BYTES)) {
    this.sab = sab;
    this.doorbell = new Doorbell(sab, OFFSET_DOORBELL, SENDERS);
    this.toDevice = new FrameRing(sab, OFFSET_TO_DEVICE, CONTROL_RING_BYTES);
    this.fromDevice = new FrameRing(sab, OFFSET_FROM_DEVICE, CONTROL_RING_BYTES);
    this.#state = wordsOf(sab, OFFSET_STATE, 4);
    this.#events = wordsOf(sab, OFFSET_EVENTS, 1 + MAX_VECTORS);
  }

  /** The guest's MMIO end. */
  mmioPort(): MmioPort {
    return new MmioPort(this.sab, OFFSET_MMIO, () => this.doorbell.ring(RING_MMIO), OFFSET_WINDOW);
  }

  /** The device's MMIO end (the supervisor closes it when the device is gone). */
  mmioServer(): MmioServer {
    return new MmioServer(this.sab, OFFSET_MMIO, OFFSET_WINDOW);
  }

  get state(): DeviceState {
    return ld(this.#state, STATE, 'link.word') as DeviceState;
  }

  setState(state: DeviceState): void {
    st(this.#state, STATE, state, 'link.word');
    this.#bumpEvents();
  }

  /** The device's: it is at work, and was not stuck before. */
  beginTurn(): void {
    const turn = rd(this.#state, TURN, 'link.word');
    st(this.#state, TURN, (turn + 2) | 1, 'link.word');
  }

  /** The device's: it goes to sleep. */
  endTurn(): void {
    st(this.#state, TURN, (rd(this.#state, TURN, 'link.word') + 1) & ~1, 'link.word');
  }

  /** Number of the device's turn, odd while it is at work: one that stays odd and the same is stuck in its model. */
  get turn(): number {
    return ld(this.#state, TURN, 'link.word');
  }

  /** The device's: so much of what it has allocated is memory that it has declared (DeviceMemory). */
  setMemoryBytes(bytes: number): void {
    st(this.#state, MEMORY_KIB, Math.ceil(bytes / 1024), 'link.word');
  }

  /** … as it last said, to the KiB. */
  get memoryBytes(): number {
    return ld(this.#state, MEMORY_KIB, 'link.word') * 1024;
  }

  /** The coordinator's: one more of this device's faults is recorded at the vIOMMU. */
  acknowledgeFault(): void {
    add(this.#state, FAULTS_RECORDED, 1, 'link.word');
    wake(this.#state, FAULTS_RECORDED, 'link.wait');
  }

  /**
   * The device's: waits until `count` of its faults are recorded, so that a guest which sees the failed command also
   * finds the fault. False on time-out.
   */
  waitFaults(count: number, timeoutMs: number): boolean {
    for (;;) {
      const recorded = ld(this.#state, FAULTS_RECORDED, 'link.word');
      if (recorded >= count) return true;
      if (!waitEq(this.#state, FAULTS_RECORDED, recorded, timeoutMs, 'link.wait')) return false;
    }
  }

  /** Raises an interrupt: counts it, then wakes the guest. */
  interrupt(vector: number): void {
    add(this.#events, VECTORS + (vector & (MAX_VECTORS - 1)), 1, 'link.word');
    this.#bumpEvents();
  }

  /** Interrupts raised on `vector` so far, modulo 2^32. */
  interrupts(vector: number): number {
    return ld(this.#events, VECTORS + vector, 'link.word') >>> 0;
  }

  /** How often each vector has been raised: a guest that comes from another host has counted them there. */
  get interruptCounts(): number[] {
    return Array.from({ length: MAX_VECTORS }, (_, vector) => this.interrupts(vector));
  }

  /** The coordinator's, before the device and its guest run here. */
  set interruptCounts(counts: readonly number[]) {
    for (let vector = 0; vector < MAX_VECTORS; vector++)
      st(this.#events, VECTORS + vector, (counts[vector] ?? 0) | 0, 'link.word');
  }

  get events(): number {
    return ld(this.#events, EVENTS, 'link.word');
  }

  /** Waits until there is an event after `events` was read. Undefined if there is one already. */
  waitEvents(events: number, timeoutMs: number): Promise<boolean> | undefined {
    return waitEqAsync(this.#events, EVENTS, events, timeoutMs, 'link.wait');
  }

  #bumpEvents(): void {
    add(this.#events, EVENTS, 1, 'link.word');
    wake(this.#events, EVENTS, 'link.wait');
  }
}
