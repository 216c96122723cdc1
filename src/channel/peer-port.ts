/**
 * DMA of a device to the BARs of the other devices of its VM. The target serves it in its own thread, as it serves the
 * guest's accesses, and the requester waits for it.
 *
 * Devices that access each other at the same time do not wait for ever. A device that waits, and is asked by a device
 * with a lower number, withdraws its request and retries later. In a circle of waiting devices the highest number is
 * asked by a lower one, so the circle ends there.
 */
import { nowUs } from '#host';
import { DeviceLink, DeviceState, RING_PEER } from './device-link.ts';
import type { BarPlace, PeerBlock, PeerOutcome } from './peer-block.ts';

/** Longest wait of a device for another one. Unmaps of its own pages wait as long, because its DMA section is open. */
const PEER_WAIT_MS = 250;

/** A device that serves the requests of others. */
export interface PeerTarget {
  /** Performs an access of another device to a BAR: writes `bytes`, or fills them. */
  peerAccess(place: BarPlace, isWrite: boolean, bytes: Uint8Array): void;
}

interface Peer {
  readonly link: DeviceLink;
  readonly block: PeerBlock;
}

/** One device's end. */
export class PeerPort {
  /** The BARs that this device decodes, and its slot. */
  readonly own: PeerBlock;
  readonly #index: number;
  readonly #links: readonly SharedArrayBuffer[];
  readonly #waitMs: number;
  /** By number; opened on first use, since most devices never access another one. */
  readonly #peers: Peer[] = [];
  /** Target of the request that was abandoned last. */
  #abandoned = -1;

  /** @param links the links of the VM's devices by number, at most PEERS_LIMIT; that of this device is at `index` */
  constructor(index: number, links: readonly SharedArrayBuffer[], waitMs = PEER_WAIT_MS) {
    this.#index = index;
    this.#links = links;
    this.#waitMs = waitMs;
    this.own = this.#peer(index).block;
  }

  /** Writes or reads bytes of one page at a bus address that does not belong to this device. */
  access(isWrite: boolean, address: number, bytes: Uint8Array): PeerOutcome {
    const { own } = this;
    if (own.isAbandoned) {
      if (this.#isReady(this.#abandoned)) return 'busy';
      own.reclaim();
    }
    const target = this.#route(address, bytes.length);
    if (target < 0) return 'refused';
    const request = { isWrite, address, bytes };
    own.post(target, request);
    const { link, block } = this.#peer(target);
    block.ask(this.#index);
    link.doorbell.ring(RING_PEER);
    const deadline = nowUs() + this.#waitMs * 1000;
    for (;;) {
      const { events } = own;
      const outcome = own.answer(request);
      if (outcome) return outcome;
      const leftMs = (deadline - nowUs()) / 1000;
      if ((leftMs <= 0 || own.isAskedBelow(this.#index)) && own.withdraw(target)) return 'busy';
      if (leftMs > 0) own.waitEvents(events, leftMs);
      else if (own.abandon()) {
        this.#abandoned = target;
        return 'busy';
      }
    }
  }

  /** Serves the requests of other devices, at most one of each. Returns true if there were any. */
  serve(target: PeerTarget): boolean {
    const asked = this.own.takeAsked();
    for (const from of asked) {
      const { block } = this.#peer(from);
      const request = block.take(this.#index);
      if (!request) continue;
      const place = this.own.decode(request.address, request.bytes.length);
      if (place) target.peerAccess(place, request.isWrite, request.bytes);
      block.reply(place !== undefined, request);
    }
    return asked.length > 0;
  }

  /** Returns the number of the device that decodes a range of bus addresses, or -1. A lost device decodes nothing. */
  #route(address: number, length: number): number {
    for (let index = 0; index < this.#links.length; index++)
      if (index !== this.#index && this.#peer(index).block.decode(address, length) && this.#isReady(index))
        return index;
    return -1;
  }

  #isReady(index: number): boolean {
    return this.#peer(index).link.state === DeviceState.ready;
  }

  #peer(index: number): Peer {
    const known = this.#peers[index];
    if (known) return known;
    const link = new DeviceLink(this.#links[index]);
    const peer = { link, block: link.peerBlock() };
    this.#peers[index] = peer;
    return peer;
  }
}
