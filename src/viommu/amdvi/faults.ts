/**
 * Faults of device requests, with the event (specification section 2.5) that reports each.
 */
import { EVENT, EVENT_PE, EVENT_PR, EVENT_RW, EVENT_RZ } from '../../abi/amdvi.ts';

export interface Fault {
  /** One of EVENT. */
  readonly code: number;
  /** Flags in word 1 of the event. */
  readonly flags: number;
  /** Address in the event; undefined for the request's own. */
  readonly address?: number;
  readonly text: string;
}

const fault = (code: number, flags: number, text: string, address?: number): Fault =>
  address === undefined ? { code, flags, text } : { code, flags, text, address };

const rw = (write: boolean): number => (write ? EVENT_RW : 0);

/** PR is 0, or no level covers the address. Hardware reports the direction here, too. */
export const notPresent = (write: boolean): Fault =>
  fault(EVENT.IO_PAGE_FAULT, rw(write), 'IO_PAGE_FAULT: the page is not present');

export const permissionDenied = (write: boolean): Fault =>
  fault(
    EVENT.IO_PAGE_FAULT,
    EVENT_PR | EVENT_PE | rw(write),
    `IO_PAGE_FAULT: no ${write ? 'write' : 'read'} permission`,
  );

/** A reserved bit, a level that is not below its own, an illegal page size, or skipped address bits that are not 0. */
export const illegalEntry = (write: boolean): Fault =>
  fault(
    EVENT.IO_PAGE_FAULT,
    EVENT_PR | EVENT_RZ | rw(write),
    'IO_PAGE_FAULT: the page table entry is illegal for this address',
  );

/** @param entry GPA of the page table entry */
export const unreadable = (entry: number): Fault =>
  fault(EVENT.PAGE_TAB_HARDWARE_ERROR, 0, 'PAGE_TAB_HARDWARE_ERROR: the page table is not memory', entry);

/** @param entry GPA of the device table entry */
export const deviceTableUnreadable = (write: boolean, entry: number): Fault =>
  fault(
    EVENT.DEV_TAB_HARDWARE_ERROR,
    rw(write),
    'DEV_TAB_HARDWARE_ERROR: the device table is not memory',
    entry,
  );

export const illegalDeviceTableEntry = (write: boolean): Fault =>
  fault(
    EVENT.ILLEGAL_DEV_TABLE_ENTRY,
    EVENT_RZ | rw(write),
    'ILLEGAL_DEV_TABLE_ENTRY: a reserved bit or mode of the device table entry',
  );

/** TV is 0, or the device has no entry. */
export const blockedByEntry = (write: boolean): Fault =>
  fault(EVENT.IO_PAGE_FAULT, rw(write), 'IO_PAGE_FAULT: the device table entry blocks the device');
