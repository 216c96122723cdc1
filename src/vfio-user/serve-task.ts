/**
 * The task of the worker of one served device, and what it tells the main thread.
 */

import * as mem from '#mem';
import { wordsOf } from '#mem';
import type { GpuSlotHandle } from '../gpu/engine-slot.ts';

const { add, ld, st, xchg } = mem;

/** Words that the worker shares with the main thread. */
const TURN = 0;
const STOP = 1;
/** Count of pictures that are asked for and not yet sent. */
const PICTURES = 2;
const WORDS = 3;

/**
 * Words that a worker shares with its supervisor: the count of turns, which is odd during one, the request to stop,
 * and the sockets, which the supervisor closes for a worker that has died.
 */
export class ServeLink {
  readonly sab: SharedArrayBuffer;
  readonly #words: mem.SharedWords;

  constructor(sab = new SharedArrayBuffer(WORDS * Int32Array.BYTES_PER_ELEMENT)) {
    this.sab = sab;
    this.#words = wordsOf(sab);
  }

  get turn(): number {
    return ld(this.#words, TURN, 'link.word');
  }

  /** Worker only: begins or ends a turn. */
  changeTurn(): void {
    add(this.#words, TURN, 1, 'link.word');
  }

  get stopRequested(): boolean {
    return ld(this.#words, STOP, 'link.word') !== 0;
  }

  requestStop(): void {
    st(this.#words, STOP, 1, 'link.word');
  }

  /** Asks for the device's picture, which comes as a message. */
  requestPicture(): void {
    add(this.#words, PICTURES, 1, 'link.word');
  }

  /** Worker only: takes the requests for a picture. */
  takePictureRequests(): number {
    return xchg(this.#words, PICTURES, 0, 'link.word');
  }
}

export interface ServeTask {
  readonly name: string;
  /** Its number among the devices of the command. */
  readonly index: number;
  /** True if its frames are sent for a trace. */
  readonly traced: boolean;
  /** Name of a built-in model, or the URL of a file and its text. */
  readonly model: string;
  readonly modelSource: string;
  /** Folder of the captures of its clients' maps, or empty. */
  readonly captures: string;
  readonly socket: string;
  /** False for a device whose clients see no MSI-X capability. */
  readonly msix: boolean;
  readonly link: SharedArrayBuffer;
  /** Ledger of its descriptors and address space. */
  readonly ledger: SharedArrayBuffer;
  /** An event counter that ends the worker's wait. */
  readonly wakeFd: number;
  /** A vGPU's slot on a physical GPU, and the event counters of the vGPUs there by slot. */
  readonly gpu?: { readonly slot: GpuSlotHandle; readonly wakeFds: readonly number[] } | undefined;
}

/** Counts of one device at its end, or now. */
export interface ServedReport {
  readonly clients: number;
  readonly commands: number;
  readonly errors: number;
  /** Switches between the addresses of guest RAM and those of a vIOMMU. */
  readonly switches: number;
  readonly liveMaps: number;
  readonly peakMaps: number;
  /** Maps of one side, identity or translations, that arrived while some of the other side were live. */
  readonly mixedMaps: number;
  readonly maps: number;
  readonly unmaps: number;
  readonly heldPins: number;
  readonly pins: number;
  readonly faults: number;
  readonly interrupts: number;
  readonly signalled: number;
  readonly messageReads: number;
  readonly messageWrites: number;
  readonly lostAccesses: number;
  readonly violations: readonly string[];
  readonly violationCount: number;
  readonly lines: readonly string[];
  readonly metrics: readonly { readonly name: string; readonly value: number }[];
}

/** A message of the worker to the main thread. */
export type ServeEvent =
  | { readonly kind: 'ready' }
  | { readonly kind: 'connected' }
  | {
      readonly kind: 'disconnected';
      readonly reason: string;
      readonly liveMaps: number;
      readonly pins: number;
    }
  /** The displayed picture as a PNG; undefined for none. */
  | { readonly kind: 'picture'; readonly png: Uint8Array | undefined }
  | { readonly kind: 'frame'; readonly frame: Uint8Array }
  | { readonly kind: 'report'; readonly report: ServedReport };
