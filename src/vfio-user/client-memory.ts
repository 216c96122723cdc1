/**
 * Memory that the client reads and writes for the device, by DMA_READ and DMA_WRITE messages.
 *
 * A device model's step does not wait for a reply. Its access is busy while the message is on its way. The model stalls, the server keeps serving the client, and the model's next step repeats its accesses: those that are
 * done are answered from here, until the step ends without a stall. A repeated write is not sent again.
 */
import type { PeerOutcome } from '../channel/peer-block.ts';
import type { Iova } from '../memory/address.ts';
import { encodeMessage, type Message } from './message.ts';
import { Command, DMA_ACCESS, FLAG_ERROR, TYPE_COMMAND } from './protocol.ts';

/** Most messages without a reply. */
const PENDING_LIMIT = 64;
/** Most bytes that are kept for a step that stalls. */
const KEPT_BYTES_LIMIT: number = 16 * 2 ** 20;

/** Sender of the messages; undefined while no client is connected. */
interface ClientPort {
  send(bytes: Uint8Array): void;
  /** Most bytes of one message's data. */
  readonly dataBytesMax: number;
}

interface Access {
  readonly iova: number;
  readonly length: number;
  readonly write: boolean;
  /** Data to write, or the data that were read. */
  data: Uint8Array;
  state: 'pending' | 'done' | 'failed';
  /** Nobody waits for the reply. */
  dropped: boolean;
}

/** The client's memory, by messages. */
export class ClientMemory {
  readonly counters = { reads: 0, writes: 0, errors: 0, probes: 0 };
  /** Called after a write is done. */
  onWritten: (iova: number, length: number) => void = () => {};
  #port: ClientPort | undefined;
  /** Accesses of the step that stalls, in order. */
  #kept: Access[] = [];
  #keptBytes = 0;
  /** Accesses without a reply, by message ID. */
  readonly #pending = new Map<number, Access>();
  #nextId = 1;

  /** Starts or ends a connection. Accesses on their way have failed then. */
  connect(port: ClientPort | undefined): void {
    this.#port = port;
    for (const access of this.#pending.values()) access.state = 'failed';
    this.#pending.clear();
  }

  /** Returns true while an access of the stalled step has no reply. */
  get waiting(): boolean {
    return this.#kept.some(({ state }) => state === 'pending');
  }

  /** Reads or writes at `iova`. Returns 'busy' until the client has answered, and 'refused' if it does not allow it. */
  access(isWrite: boolean, iova: Iova, bytes: Uint8Array): PeerOutcome {
    const most = Math.max(1, this.#port?.dataBytesMax ?? bytes.length);
    let isBusy = false;
    for (let at = 0; at < bytes.length; at += most) {
      const outcome = this.#piece(isWrite, (iova + at) as Iova, bytes.subarray(at, at + most));
      if (outcome === 'refused') return 'refused';
      isBusy ||= outcome === 'busy';
    }
    return isBusy ? 'busy' : 'done';
  }

  /** Performs an access of one message. */
  #piece(isWrite: boolean, iova: Iova, bytes: Uint8Array): PeerOutcome {
    const known = this.#kept.find(
      (access) =>
        access.iova === iova &&
        access.length === bytes.length &&
        access.write === isWrite &&
        (!isWrite || Buffer.compare(access.data, bytes) === 0),
    );
    if (!known) return this.#begin(isWrite, iova, bytes);
    if (known.state === 'pending') return 'busy';
    if (known.state === 'failed') return 'refused';
    if (!isWrite) bytes.set(known.data);
    return 'done';
  }

  /**
   * Reads a word that has no mapping, and ignores the answer. The client's vIOMMU translates it in vain, and so records
   * the fault that the device met.
   */
  probe(iova: Iova): void {
    if (!this.#port || this.#pending.size >= PENDING_LIMIT) return;
    this.counters.probes++;
    this.#send({ iova, length: 4, write: false, data: NO_BYTES, state: 'pending', dropped: true });
  }

  /** The step has ended without a stall: its accesses are not repeated. */
  endStep(): void {
    if (this.#kept.length === 0) return;
    for (const access of this.#kept) access.dropped = true;
    this.#kept = [];
    this.#keptBytes = 0;
  }

  /** Drops the data of a range that is no longer mapped. */
  forget(iova: number, end: number): void {
    const isInside = (access: Access) => access.iova < end && access.iova + access.length > iova;
    for (const access of this.#kept.filter(isInside)) access.dropped = true;
    this.#kept = this.#kept.filter((access) => !isInside(access));
    this.#keptBytes = this.#kept.reduce((sum, { length }) => sum + length, 0);
  }

  /** Takes a reply. Returns false if nobody has asked. */
  reply({ id, command, flags, payload }: Message): boolean {
    const access = this.#pending.get(id);
    if (!access || command !== (access.write ? Command.DMA_WRITE : Command.DMA_READ)) return false;
    this.#pending.delete(id);
    const ok = (flags & FLAG_ERROR) === 0 && (access.write || isData(payload, access));
    access.state = ok ? 'done' : 'failed';
    if (!ok && !access.dropped) this.counters.errors++;
    if (ok && access.write) this.onWritten(access.iova, access.length);
    // The message's bytes are reused after this call.
    if (ok && !access.write) access.data = new Uint8Array(payload.subarray(DMA_ACCESS.size));
    return true;
  }

  #begin(write: boolean, iova: Iova, bytes: Uint8Array): PeerOutcome {
    const { length } = bytes;
    if (!this.#port || this.#keptBytes + length > KEPT_BYTES_LIMIT) return 'refused';
    if (this.#pending.size >= PENDING_LIMIT) return 'busy';
    const data = write ? bytes.slice() : NO_BYTES;
    const access: Access = { iova, length, write, data, state: 'pending', dropped: false };
    this.#kept.push(access);
    this.#keptBytes += length;
    this.counters[write ? 'writes' : 'reads']++;
    this.#send(access);
    return 'busy';
  }

  #send(access: Access): void {
    do this.#nextId = (this.#nextId + 1) & 0xffff;
    while (this.#pending.has(this.#nextId));
    this.#pending.set(this.#nextId, access);
    const fixed = { address: BigInt(access.iova), count: BigInt(access.length) };
    const payload = DMA_ACCESS.encode(fixed, access.write ? access.length : 0);
    if (access.write) payload.set(access.data, DMA_ACCESS.size);
    const command = access.write ? Command.DMA_WRITE : Command.DMA_READ;
    this.#port!.send(encodeMessage(this.#nextId, command, TYPE_COMMAND, payload));
  }
}

const NO_BYTES = new Uint8Array();

/** Returns true if a reply to DMA_READ has the data that were asked for. */
const isData = (payload: Uint8Array, { length }: Access): boolean =>
  payload.length === DMA_ACCESS.size + length && DMA_ACCESS.read(payload).count === BigInt(length);
