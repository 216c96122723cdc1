/**
 * Driver side of a virtio-iommu's request queue: takes requests and returns their statuses. Several flows may submit
 * concurrently.
 */
import { after, nowUs } from '#host';
import * as format from '../../../abi/virtio-iommu.ts';
import type { GuestRam } from '../../../memory/guest-ram.ts';
import { InFlightError } from '../../in-flight.ts';
import type { PageAllocator } from '../../page-allocator.ts';
import type { RegisterPort } from '../../register-port.ts';
import { RING_ENTRIES, VirtioQueue, type VirtioQueueState } from './queue.ts';

/** Each request has two descriptors and a slot in the page of buffers. */
const SLOTS = RING_ENTRIES / 2;
const SLOT_BYTES = 64;
/** Offset of the tail, which the device writes, in a slot. */
const TAIL_OFFSET = 60;
/** Limit of requests with one notification. */
export const BATCH_LIMIT = SLOTS / 2;
/** Initial status; no device returns it. */
const NO_STATUS = 0xff;

/** Thrown when the device does not respond in time; the request may still be executed. */
export class RequestTimeout extends Error {
  constructor(what: string, timeoutMs: number) {
    super(`${what} not completed within ${timeoutMs} ms`);
    this.name = 'RequestTimeout';
  }
}

/** State of a request queue beside its pages, with no request in flight. */
export interface RequestQueueState {
  readonly queue: VirtioQueueState;
  /** GPA of the page of buffers. */
  readonly buffers: number;
  /** Free slots; the last is used next. */
  readonly free: readonly number[];
}

/** A flow that waits for slots. */
interface SlotWaiter {
  readonly count: number;
  resolve(slots: readonly number[]): void;
}

/** The request queue, with a slot for each request in flight. */
export class RequestQueue {
  readonly #ram: GuestRam;
  readonly #queue: VirtioQueue;
  readonly #timeoutMs: number;
  readonly #buffers: number;
  readonly #free: number[];
  /** Slots of requests in flight for which a flow waits. */
  readonly #pending = new Set<number>();
  /** Flows that wait for slots, in order of arrival. */
  readonly #waiters: SlotWaiter[] = [];

  /**
   * Allocates two pages.
   * @param saved state of an installed queue; then no page is allocated
   * @throws PageAllocatorExhausted
   */
  constructor(
    port: RegisterPort,
    ram: GuestRam,
    pages: PageAllocator,
    timeoutMs: number,
    saved?: RequestQueueState,
  ) {
    this.#ram = ram;
    this.#queue = new VirtioQueue(port, ram, pages, format.REQUEST_QUEUE, saved?.queue);
    this.#timeoutMs = timeoutMs;
    this.#buffers = saved?.buffers ?? pages.allocate();
    this.#free = saved ? [...saved.free] : Array.from({ length: SLOTS }, (_, i) => SLOTS - 1 - i);
  }

  /** Returns the state of the queue. @throws InFlightError while requests are in flight, or after a time-out */
  save(): RequestQueueState {
    const pending = SLOTS - this.#free.length;
    if (pending > 0) throw new InFlightError('the request queue', [`${pending} requests`]);
    return { queue: this.#queue.save(), buffers: this.#buffers, free: [...this.#free] };
  }

  /** Configures the empty queue in the device. */
  install(): Promise<void> {
    return this.#queue.install();
  }

  /**
   * Submits requests, which the device executes in order; resolves to the status of each.
   * @param what names the requests in errors
   * @throws RequestTimeout
   */
  async submit(requests: readonly Uint8Array[], what: string): Promise<number[]> {
    const statuses: number[] = [];
    for (let at = 0; at < requests.length; at += BATCH_LIMIT)
      statuses.push(...(await this.#submitBatch(requests.slice(at, at + BATCH_LIMIT), what)));
    return statuses;
  }

  async #submitBatch(requests: readonly Uint8Array[], what: string): Promise<number[]> {
    const deadline = nowUs() + this.#timeoutMs * 1000;
    const slots = await this.#takeSlots(requests.length, what);
    // No await before all requests are available, so that batches of several flows do not interleave.
    for (const [i, request] of requests.entries()) this.#place(slots[i] as number, request);
    await this.#queue.kick();
    await this.#wait(() => slots.every((slot) => !this.#pending.has(slot)), deadline, what);
    const statuses = slots.map((slot) => this.#ram.read(this.#gpa(slot) + TAIL_OFFSET, 1)[0] as number);
    this.#free.push(...slots);
    this.#serveWaiters();
    return statuses;
  }

  /** Takes free slots, after the flows that wait for some already. @throws RequestTimeout */
  async #takeSlots(count: number, what: string): Promise<readonly number[]> {
    if (this.#waiters.length === 0 && this.#free.length >= count) return this.#free.splice(-count);
    return new Promise((resolve, reject) => {
      const waiter: SlotWaiter = {
        count,
        resolve: (slots) => {
          cancel();
          resolve(slots);
        },
      };
      const cancel = after(this.#timeoutMs, () => {
        this.#waiters.splice(this.#waiters.indexOf(waiter), 1);
        reject(new RequestTimeout(`slots for ${what}`, this.#timeoutMs));
      });
      this.#waiters.push(waiter);
    });
  }

  /** Gives the free slots to the flows that wait for them, in order of arrival. */
  #serveWaiters(): void {
    for (let [first] = this.#waiters; first && this.#free.length >= first.count; [first] = this.#waiters) {
      this.#waiters.shift();
      first.resolve(this.#free.splice(-first.count));
    }
  }

  #place(slot: number, request: Uint8Array): void {
    const gpa = this.#gpa(slot);
    this.#ram.write(gpa, request);
    this.#ram.write(gpa + TAIL_OFFSET, new Uint8Array(format.TAIL_BYTES).fill(NO_STATUS));
    this.#queue.describe(2 * slot, gpa, request.length, false, 2 * slot + 1);
    this.#queue.describe(2 * slot + 1, gpa + TAIL_OFFSET, format.TAIL_BYTES, true);
    this.#pending.add(slot);
    this.#queue.offer(2 * slot);
  }

  async #wait(done: () => boolean, deadlineUs: number, what: string): Promise<void> {
    const seen = () => {
      for (let used = this.#queue.take(); used; used = this.#queue.take())
        this.#pending.delete(used.head / 2);
      return done();
    };
    // After a time-out the slots leak: the device may still write to them.
    if (!(await this.#queue.until(seen, deadlineUs))) throw new RequestTimeout(what, this.#timeoutMs);
  }

  #gpa(slot: number): number {
    return this.#buffers + SLOT_BYTES * slot;
  }
}

/** Encodes a request of `bytes` bytes; fields are value, offset and size. */
function encode(
  type: number,
  bytes: number,
  fields: readonly (readonly [number, number, 4 | 8])[],
): Uint8Array {
  const view = new DataView(new ArrayBuffer(bytes));
  view.setUint8(0, type);
  for (const [value, offset, size] of fields)
    if (size === 8) view.setBigUint64(offset, BigInt(value), true);
    else view.setUint32(offset, value, true);
  return new Uint8Array(view.buffer);
}

/** Encodes ATTACH; `flags` is ATTACH_F_*. */
export const attachRequest = (domain: number, endpoint: number, flags: number): Uint8Array =>
  encode(format.T_ATTACH, format.ATTACH_BYTES, [
    [domain, 4, 4],
    [endpoint, 8, 4],
    [flags, 12, 4],
  ]);

/** Encodes DETACH. */
export const detachRequest = (domain: number, endpoint: number): Uint8Array =>
  encode(format.T_DETACH, format.DETACH_BYTES, [
    [domain, 4, 4],
    [endpoint, 8, 4],
  ]);

/** Encodes MAP of `size` bytes; `perm` is PERM_READ | PERM_WRITE, which equal MAP_F_READ and MAP_F_WRITE. */
export const mapRequest = (
  domain: number,
  iova: number,
  gpa: number,
  size: number,
  perm: number,
): Uint8Array =>
  encode(format.T_MAP, format.MAP_BYTES, [
    [domain, 4, 4],
    [iova, 8, 8],
    [iova + size - 1, 16, 8],
    [gpa, 24, 8],
    [perm, 32, 4],
  ]);

/** Encodes UNMAP of `size` bytes at `iova`. */
export const unmapRequest = (domain: number, iova: number, size: number): Uint8Array =>
  encode(format.T_UNMAP, format.UNMAP_BYTES, [
    [domain, 4, 4],
    [iova, 8, 8],
    [iova + size - 1, 16, 8],
  ]);
