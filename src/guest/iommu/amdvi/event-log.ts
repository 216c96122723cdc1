/**
 * Driver side of AMD-Vi's event log (specification section 2.5): a ring of one page that the hardware fills.
 */

import * as amdvi from '../../../abi/amdvi.ts';
import type { GuestRam } from '../../../memory/guest-ram.ts';
import type { PageAllocator } from '../../page-allocator.ts';
import type { RegisterPort } from '../../register-port.ts';
import type { GuestFault } from '../guest-iommu.ts';
import { baseOf } from './command-queue.ts';

const { CONTROL, STATUS } = amdvi;

/** Codes of events that report a request of a device. */
const DEVICE_EVENTS: ReadonlySet<number> = new Set([
  amdvi.EVENT.ILLEGAL_DEV_TABLE_ENTRY,
  amdvi.EVENT.IO_PAGE_FAULT,
  amdvi.EVENT.DEV_TAB_HARDWARE_ERROR,
  amdvi.EVENT.PAGE_TAB_HARDWARE_ERROR,
]);

/** State of the log beside its page. */
export interface EventLogState {
  /** GPA of the log. */
  readonly page: number;
  /** Offset of the next event to read. */
  readonly head: number;
}

export class GuestEventLog {
  readonly #port: RegisterPort;
  readonly #ram: GuestRam;
  readonly #page: number;
  #head: number;

  /** @param saved log that is in guest RAM already @throws PageAllocatorExhausted */
  constructor(port: RegisterPort, ram: GuestRam, pages: PageAllocator, saved?: EventLogState) {
    this.#port = port;
    this.#ram = ram;
    this.#page = saved?.page ?? pages.allocate();
    this.#head = saved?.head ?? 0;
  }

  save(): EventLogState {
    return { page: this.#page, head: this.#head };
  }

  /** Writes the log's place to the hardware, which sets head and tail to 0. */
  async install(): Promise<void> {
    await this.#port.write(amdvi.EVENT_BASE_REG, 8, baseOf(this.#page));
  }

  /** Reads all events, and restarts the log if it has overflowed. Resolves to the first fault of a device. */
  async drain(): Promise<GuestFault | undefined> {
    const tail = Number(await this.#port.read(amdvi.EVENT_TAIL_REG, 8)) & amdvi.POINTER_MASK;
    let first: GuestFault | undefined;
    for (; this.#head !== tail; this.#head = (this.#head + amdvi.EVENT_BYTES) % PAGE_BYTES)
      first ??= this.#faultAt(this.#page + this.#head);
    await this.#port.write(amdvi.EVENT_HEAD_REG, 8, BigInt(this.#head));
    const status = await this.#port.read(amdvi.STATUS_REG, 8);
    await this.#port.write(amdvi.STATUS_REG, 8, STATUS.EVENT_LOG_INT | STATUS.EVENT_OVERFLOW);
    if ((status & STATUS.EVENT_OVERFLOW) !== 0n) await this.#restart();
    return first;
  }

  async #restart(): Promise<void> {
    const control = await this.#port.read(amdvi.CONTROL_REG, 8);
    await this.#port.write(amdvi.CONTROL_REG, 8, control & ~CONTROL.EVENT_LOG_EN);
    await this.#port.write(amdvi.CONTROL_REG, 8, control);
  }

  #faultAt(event: number): GuestFault | undefined {
    const word = (i: number) => this.#ram.read32(event + 4 * i);
    const code = word(1) >>> amdvi.OPCODE_SHIFT;
    if (!DEVICE_EVENTS.has(code)) return undefined;
    return {
      requesterId: word(0) & 0xffff,
      iova: word(3) * 2 ** 32 + word(2),
      write: (word(1) & amdvi.EVENT_RW) !== 0,
      reason: code,
    };
  }
}

const PAGE_BYTES = amdvi.EVENT_BYTES * 2 ** Number(amdvi.BUFFER_LENGTH_MIN);
