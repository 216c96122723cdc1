/**
 * A device's part in DMA between devices: the BARs that it decodes, the slot for its own request to another device, and
 * the bits of the devices that ask it. It is a part of the device's link.
 *
 * A request is served once or not at all:
 * 1. The requester writes its request into its own slot and stores the state PENDING of the target. Then it sets its
 *    bit at the target.
 * 2. The target takes the bits, and exchanges PENDING of its own number for TAKEN.
 * 3. A requester that gives up exchanges the same PENDING for IDLE. Only one of the two exchanges succeeds.
 * 4. The target stores its answer before it exchanges TAKEN for DONE or REFUSED.
 * 5. A requester may also give up a request that is TAKEN: it exchanges TAKEN for ABANDONED, and leaves the slot alone
 *    until the target has set it to IDLE, or has ended.
 */
import * as mem from '#mem';

const { add, cas, copyIn, copyOut, ld, or, rd, st, wake, waitEq, wr, xchg, bytesOf, wordsOf } = mem;

/** Most devices of a VM that reach each other. */
export const PEERS_LIMIT = 64;
/** Most bytes of one request: it lies in a page. */
const PEER_BYTES_LIMIT = 4096;

const IDLE = 0;
const TAKEN = 1;
const DONE = 2;
const REFUSED = 3;
const ABANDONED = 4;
/** State of a request that waits, plus the number of its target. */
const PENDING = 0x100;

const WORD_STATE = 0;
const WORD_IS_WRITE = 1;
const WORD_ADDRESS = 2;
const WORD_LENGTH = 3;
/** Changes with each answer to this device, and with each request of another. */
const WORD_EVENTS = 4;
const WORD_ASKED = 5;
const ASKED_WORDS = PEERS_LIMIT / 32;
const WORD_BARS = 8;
const BARS = 6;
const HEADER_WORDS = WORD_BARS + BARS * 2;

export const PEER_BLOCK_BYTES: number = HEADER_WORDS * 4 + PEER_BYTES_LIMIT;

/** Part of a BAR. */
export interface BarPlace {
  readonly bar: number;
  readonly offset: number;
}

/** Request of another device: bytes to write, or room for the bytes that are read. */
interface PeerRequest {
  readonly isWrite: boolean;
  readonly address: number;
  readonly bytes: Uint8Array;
}

/** Result of a request. `busy`: nothing was done; the target has not served it in time. `refused`: nothing decodes it. */
export type PeerOutcome = 'done' | 'refused' | 'busy';

export class PeerBlock {
  readonly #words: mem.SharedWords;
  readonly #bytes: mem.SharedBytes;

  constructor(sab: SharedArrayBuffer, byteOffset: number) {
    this.#words = wordsOf(sab, byteOffset, HEADER_WORDS);
    this.#bytes = bytesOf(sab, byteOffset + HEADER_WORDS * 4, PEER_BYTES_LIMIT);
  }

  /** Publishes the address that a BAR decodes, 0 for none, and the size of its region. The size never changes. */
  setBar(bar: number, address: number, size: number): void {
    st(this.#words, WORD_BARS + bar * 2 + 1, size, 'peer.bar');
    st(this.#words, WORD_BARS + bar * 2, address | 0, 'peer.bar');
  }

  /** Returns the place of a range of bus addresses in the BARs of this device, if it decodes all of it. */
  decode(address: number, length: number): BarPlace | undefined {
    for (let bar = 0; bar < BARS; bar++) {
      const base = ld(this.#words, WORD_BARS + bar * 2, 'peer.bar') >>> 0;
      if (base === 0 || address < base) continue;
      const size = ld(this.#words, WORD_BARS + bar * 2 + 1, 'peer.bar') >>> 0;
      if (address + length <= base + size) return { bar, offset: address - base };
    }
    return undefined;
  }

  /** Requester: posts a request to the device `target`. The slot is free. */
  post(target: number, { isWrite, address, bytes }: PeerRequest): void {
    wr(this.#words, WORD_IS_WRITE, isWrite ? 1 : 0, 'peer.request');
    wr(this.#words, WORD_ADDRESS, address | 0, 'peer.request');
    wr(this.#words, WORD_LENGTH, bytes.length, 'peer.request');
    if (isWrite) copyIn(this.#bytes, 0, bytes, 0, bytes.length, 'peer.request');
    st(this.#words, WORD_STATE, PENDING + target, 'peer.state');
  }

  /** Requester: returns true if it has taken back its request to `target`, which has not begun to serve it. */
  withdraw(target: number): boolean {
    return cas(this.#words, WORD_STATE, PENDING + target, IDLE, 'peer.state') === PENDING + target;
  }

  /** Requester: returns true if it has given up a request that the target is serving. */
  abandon(): boolean {
    return cas(this.#words, WORD_STATE, TAKEN, ABANDONED, 'peer.state') === TAKEN;
  }

  /** True while the target of an abandoned request may still use the slot. */
  get isAbandoned(): boolean {
    return ld(this.#words, WORD_STATE, 'peer.state') === ABANDONED;
  }

  /** Frees the slot of an abandoned request whose target has ended. */
  reclaim(): void {
    st(this.#words, WORD_STATE, IDLE, 'peer.state');
  }

  /** Requester: ends an answered request, with the bytes that were read; undefined while it has no answer. */
  answer({ isWrite, bytes }: PeerRequest): PeerOutcome | undefined {
    const state = ld(this.#words, WORD_STATE, 'peer.state');
    if (state !== DONE && state !== REFUSED) return undefined;
    if (state === DONE && !isWrite) copyOut(bytes, 0, this.#bytes, 0, bytes.length, 'peer.request');
    st(this.#words, WORD_STATE, IDLE, 'peer.state');
    return state === DONE ? 'done' : 'refused';
  }

  /** Target `self`: takes the request of this device, if it is for `self` and has not been withdrawn. */
  take(self: number): PeerRequest | undefined {
    if (cas(this.#words, WORD_STATE, PENDING + self, TAKEN, 'peer.state') !== PENDING + self)
      return undefined;
    const bytes = new Uint8Array(rd(this.#words, WORD_LENGTH, 'peer.request'));
    const isWrite = rd(this.#words, WORD_IS_WRITE, 'peer.request') !== 0;
    if (isWrite) copyOut(bytes, 0, this.#bytes, 0, bytes.length, 'peer.request');
    return { isWrite, address: rd(this.#words, WORD_ADDRESS, 'peer.request') >>> 0, bytes };
  }

  /** Target: answers the request that it has taken, and wakes the requester. */
  reply(done: boolean, { isWrite, bytes }: PeerRequest): void {
    if (done && !isWrite) copyIn(this.#bytes, 0, bytes, 0, bytes.length, 'peer.request');
    const state = cas(this.#words, WORD_STATE, TAKEN, done ? DONE : REFUSED, 'peer.state');
    if (state === ABANDONED) st(this.#words, WORD_STATE, IDLE, 'peer.state');
    this.#wake();
  }

  /** Notes a request of the device `from` to this one, and wakes it if it waits for an answer of its own. */
  ask(from: number): void {
    or(this.#words, WORD_ASKED + (from >>> 5), 1 << (from & 31), 'peer.asked');
    this.#wake();
  }

  /** Takes the numbers of the devices that have asked this one, lowest first. */
  takeAsked(): number[] {
    const asked: number[] = [];
    for (let word = 0; word < ASKED_WORDS; word++) {
      if (ld(this.#words, WORD_ASKED + word, 'peer.asked') === 0) continue;
      for (let bits = xchg(this.#words, WORD_ASKED + word, 0, 'peer.asked'); bits !== 0; bits &= bits - 1)
        asked.push(word * 32 + 31 - Math.clz32(bits & -bits));
    }
    return asked;
  }

  /** Returns true if a device with a number below `self` has asked this one. */
  isAskedBelow(self: number): boolean {
    for (let word = 0; word * 32 < self; word++) {
      const below = self - word * 32 >= 32 ? -1 : (1 << (self - word * 32)) - 1;
      if ((ld(this.#words, WORD_ASKED + word, 'peer.asked') & below) !== 0) return true;
    }
    return false;
  }

  get events(): number {
    return ld(this.#words, WORD_EVENTS, 'peer.events');
  }

  /** Blocks until an event occurs after `events` was read, at most `timeoutMs`. */
  waitEvents(events: number, timeoutMs: number): void {
    waitEq(this.#words, WORD_EVENTS, events, timeoutMs, 'peer.wait');
  }

  #wake(): void {
    add(this.#words, WORD_EVENTS, 1, 'peer.events');
    wake(this.#words, WORD_EVENTS, 'peer.wait');
  }
}
