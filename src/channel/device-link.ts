/**
 * Device link: the memory that a device, its guest and the coordinator share. It holds the doorbell, the MMIO channel,
 * control frames, interrupts and the device's state. Each device has one SharedArrayBuffer.
 */
import * as mem from '#mem';
import { Doorbell, doorbellWords } from './doorbell.ts';
import { FrameRing, frameRingBytes } from './frame-ring.ts';
import type { Gate } from './gate.ts';
import { MMIO_CHANNEL_BYTES, MMIO_WINDOW_BYTES, MmioPort, MmioServer } from './mmio-channel.ts';
import { PEER_BLOCK_BYTES, PeerBlock } from './peer-block.ts';

const { rd, ld, st, add, xchg, wake, waitEq, waitEqAsync, wordsOf } = mem;

/** Senders of a device's doorbell. */
export const RING_MMIO = 0;
export const RING_CONTROL = 1;
export const RING_ENGINE = 2;
export const RING_PEER = 3;
const SENDERS = 4;

/** Most interrupt vectors of a device (MSI's limit). */
export const MAX_VECTORS = 32;
/** Bytes of control frames in flight in each direction. */
const CONTROL_RING_BYTES = 16384;
/** Most bytes of a migration stream in one control frame: half of the ring. */
export const DEVICE_DATA_BYTES_MAX: number = CONTROL_RING_BYTES / 2;

export const DeviceState = { starting: 0, ready: 1, stopped: 2, failed: 3 } as const;
export type DeviceState = (typeof DeviceState)[keyof typeof DeviceState];

const OFFSET_DOORBELL = 0;
const OFFSET_STATE = OFFSET_DOORBELL + doorbellWords(SENDERS) * 4;
/** Incremented by each interrupt and each change of state, so that a guest waits on one word. */
const OFFSET_EVENTS = OFFSET_STATE + 32;
const OFFSET_VECTORS = OFFSET_EVENTS + 4;
/** By vector: messages to be remapped, their address in two words, and their data. */
const OFFSET_MESSAGES = OFFSET_VECTORS + MAX_VECTORS * 4;
const MESSAGE_WORDS = 4;
const OFFSET_MMIO = OFFSET_MESSAGES + MAX_VECTORS * MESSAGE_WORDS * 4;
const OFFSET_TO_DEVICE = OFFSET_MMIO + MMIO_CHANNEL_BYTES;
const OFFSET_FROM_DEVICE = OFFSET_TO_DEVICE + frameRingBytes(CONTROL_RING_BYTES);
const OFFSET_WINDOW = OFFSET_FROM_DEVICE + frameRingBytes(CONTROL_RING_BYTES);
const OFFSET_PEER = OFFSET_WINDOW + MMIO_WINDOW_BYTES;
export const DEVICE_LINK_BYTES: number = OFFSET_PEER + PEER_BLOCK_BYTES;

const STATE = 0;
const FAULTS_RECORDED = 1;
/** Changes with every turn of the device's thread; odd during a turn. */
const TURN = 2;
const MEMORY_KIB = 3;
const PINNED_PAGES = 4;
const CACHE_HITS = 5;
const CACHE_MISSES = 6;
/** 1 while the vIOMMU remaps interrupt messages. */
const REMAPPING = 7;
const STATE_WORDS = 8;
const EVENTS = 0;
const VECTORS = 1;

/** A message-signalled interrupt. */
interface InterruptMessage {
  readonly address: number;
  readonly data: number;
}

/** A device's use of its container. */
export interface DeviceUse {
  /** Pages that it holds pinned. */
  readonly pinnedPages: number;
  /** Accesses with a translation that the device had cached, and those without, modulo 2^32. */
  readonly hits: number;
  readonly misses: number;
}

/** Rings a device's doorbell for a caller that has only the memory of its link. */
export function ringDevice(link: SharedArrayBuffer, sender: number): void {
  new Doorbell(link, OFFSET_DOORBELL, SENDERS).ring(sender);
}

/** All ends of a link. Each thread uses its own ends only. */
export class DeviceLink {
  readonly sab: SharedArrayBuffer;
  readonly doorbell: Doorbell;
  readonly toDevice: FrameRing;
  readonly fromDevice: FrameRing;
  readonly #state: mem.SharedWords;
  readonly #events: mem.SharedWords;
  readonly #messages: mem.SharedWords;

  constructor(sab: SharedArrayBuffer = new SharedArrayBuffer(DEVICE_LINK_BYTES)) {
    this.sab = sab;
    this.doorbell = new Doorbell(sab, OFFSET_DOORBELL, SENDERS);
    this.toDevice = new FrameRing(sab, OFFSET_TO_DEVICE, CONTROL_RING_BYTES);
    this.fromDevice = new FrameRing(sab, OFFSET_FROM_DEVICE, CONTROL_RING_BYTES);
    this.#state = wordsOf(sab, OFFSET_STATE, STATE_WORDS);
    this.#events = wordsOf(sab, OFFSET_EVENTS, 1 + MAX_VECTORS);
    this.#messages = wordsOf(sab, OFFSET_MESSAGES, MAX_VECTORS * MESSAGE_WORDS);
  }

  /** Returns the guest's end of the MMIO channel; see {@link MmioPort} for `gate`. */
  mmioPort(gate?: Gate): MmioPort {
    const ring = () => this.doorbell.ring(RING_MMIO);
    return new MmioPort(this.sab, OFFSET_MMIO, ring, OFFSET_WINDOW, gate);
  }

  /** Returns the device's end of the MMIO channel. The supervisor closes it when the device has ended. */
  mmioServer(): MmioServer {
    return new MmioServer(this.sab, OFFSET_MMIO, OFFSET_WINDOW);
  }

  /** Returns the device's part in DMA between devices. */
  peerBlock(): PeerBlock {
    return new PeerBlock(this.sab, OFFSET_PEER);
  }

  get state(): DeviceState {
    return ld(this.#state, STATE, 'link.word') as DeviceState;
  }

  setState(state: DeviceState): void {
    st(this.#state, STATE, state, 'link.word');
    this.#bumpEvents();
  }

  /** Device only: begins a turn. The number changes even within a turn, which shows that the device is not stuck. */
  beginTurn(): void {
    const turn = rd(this.#state, TURN, 'link.word');
    st(this.#state, TURN, (turn + 2) | 1, 'link.word');
  }

  /** Device only: ends the turn, before the thread sleeps. */
  endTurn(): void {
    st(this.#state, TURN, (rd(this.#state, TURN, 'link.word') + 1) & ~1, 'link.word');
  }

  /** Number of the device's turn, odd while it works. A device whose turn stays odd and equal is stuck in its model. */
  get turn(): number {
    return ld(this.#state, TURN, 'link.word');
  }

  /** Device only: publishes how many of its allocated bytes are declared memory (DeviceMemory). */
  setMemoryBytes(bytes: number): void {
    st(this.#state, MEMORY_KIB, Math.ceil(bytes / 1024), 'link.word');
  }

  /** Declared memory that the device last published, rounded up to KiB. */
  get memoryBytes(): number {
    return ld(this.#state, MEMORY_KIB, 'link.word') * 1024;
  }

  /** Device only: publishes its use of the container. */
  setUse({ pinnedPages, hits, misses }: DeviceUse): void {
    st(this.#state, PINNED_PAGES, pinnedPages, 'link.word');
    st(this.#state, CACHE_HITS, hits | 0, 'link.word');
    st(this.#state, CACHE_MISSES, misses | 0, 'link.word');
  }

  /** Use that the device has published last. */
  get use(): DeviceUse {
    const word = (index: number) => ld(this.#state, index, 'link.word') >>> 0;
    return { pinnedPages: word(PINNED_PAGES), hits: word(CACHE_HITS), misses: word(CACHE_MISSES) };
  }

  /** Coordinator only: one more of this device's faults is recorded at the vIOMMU. */
  acknowledgeFault(): void {
    add(this.#state, FAULTS_RECORDED, 1, 'link.word');
    wake(this.#state, FAULTS_RECORDED, 'link.wait');
  }

  /**
   * Device only: waits until `count` of its faults are recorded, so that a guest that sees the failed command also
   * finds the fault. Returns false on time-out.
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
    this.countInterrupts(vector, 1);
    this.#bumpEvents();
  }

  /** Counts interrupts without waking the guest; {@link wakeGuest} must follow. */
  countInterrupts(vector: number, count: number): void {
    add(this.#events, VECTORS + (vector & (MAX_VECTORS - 1)), count, 'link.word');
  }

  /** Wakes the guest for interrupts that have been counted. */
  wakeGuest(): void {
    this.#bumpEvents();
  }

  /** Coordinator only: has the device send its interrupts as messages from now on, or count them itself again. */
  set remapsInterrupts(on: boolean) {
    st(this.#state, REMAPPING, on ? 1 : 0, 'link.word');
  }

  /** True while the vIOMMU remaps interrupt messages. */
  get remapsInterrupts(): boolean {
    return ld(this.#state, REMAPPING, 'link.word') !== 0;
  }

  /**
   * Device only: posts `count` equal messages of a vector for the coordinator, whose doorbell must be rung after it. The
   * count is written last; the coordinator takes it first.
   */
  postMessages(vector: number, { address, data }: InterruptMessage, count: number): void {
    const at = (vector & (MAX_VECTORS - 1)) * MESSAGE_WORDS;
    st(this.#messages, at + 1, (address % 2 ** 32) | 0, 'link.word');
    st(this.#messages, at + 2, Math.floor(address / 2 ** 32) | 0, 'link.word');
    st(this.#messages, at + 3, data | 0, 'link.word');
    add(this.#messages, at, count, 'link.word');
  }

  /** Coordinator only: takes the posted messages of every vector. */
  takeMessages(visit: (vector: number, message: InterruptMessage, count: number) => void): void {
    for (let vector = 0; vector < MAX_VECTORS; vector++) {
      const at = vector * MESSAGE_WORDS;
      if (ld(this.#messages, at, 'link.word') === 0) continue;
      const count = xchg(this.#messages, at, 0, 'link.word') >>> 0;
      const word = (i: number) => ld(this.#messages, at + i, 'link.word') >>> 0;
      visit(vector, { address: word(2) * 2 ** 32 + word(1), data: word(3) }, count);
    }
  }

  /** Returns the count of interrupts raised on `vector`, modulo 2^32. */
  interrupts(vector: number): number {
    return ld(this.#events, VECTORS + vector, 'link.word') >>> 0;
  }

  /** Count of interrupts by vector. A migrated guest continues the counts of its previous host. */
  get interruptCounts(): number[] {
    return Array.from({ length: MAX_VECTORS }, (_, vector) => this.interrupts(vector));
  }

  /** Coordinator only, before the device and its guest run here. */
  set interruptCounts(counts: readonly number[]) {
    for (let vector = 0; vector < MAX_VECTORS; vector++)
      st(this.#events, VECTORS + vector, (counts[vector] ?? 0) | 0, 'link.word');
  }

  get events(): number {
    return ld(this.#events, EVENTS, 'link.word');
  }

  /** Waits until an event occurs after `events` was read. Returns undefined if one has already occurred. */
  waitEvents(events: number, timeoutMs: number): Promise<boolean> | undefined {
    return waitEqAsync(this.#events, EVENTS, events, timeoutMs, 'link.wait');
  }

  /** Ends the waits of {@link waitEvents} without an event. */
  endWaits(): void {
    wake(this.#events, EVENTS, 'link.wait');
  }

  #bumpEvents(): void {
    add(this.#events, EVENTS, 1, 'link.word');
    wake(this.#events, EVENTS, 'link.wait');
  }
}
