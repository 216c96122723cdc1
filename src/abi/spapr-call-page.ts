/**
 * The call page: this emulator's own way for a guest to make hypercalls without a CPU that traps. Slots of registers,
 * 8 bytes each, little endian; one call at a time in each:
 * write OPCODE, ARG0 … ARG5 and RECORD, then a sequence number ≠ 0 to DOORBELL. When the call has returned, RET and OUT hold its
 * result and DONE reads the sequence number; if RECORD is the GPA of CALL_RECORD_BYTES of RAM (a multiple of 8), RET, OUT
 * and then the low 32 bits of the sequence number are written there too, and who waits on that word is woken.
 * A doorbell in a slot whose call has not returned is ignored.
 */
export const CALL_PAGE_BYTES = 4096;
export const CALL_PAGE_ID_REG = 0x00;
/** 'sPAPRTCE' in ASCII. */
export const CALL_PAGE_ID = 0x7350_4150_5254_4345n;
/** Number of slots. */
export const CALL_SLOTS_REG = 0x08;
export const CALL_SLOTS = 16;
export const CALL_SLOT_BASE = 0x100;
export const CALL_SLOT_BYTES = 0x80;
export const CALL_OPCODE = 0x00;
export const CALL_ARG0 = 0x08;
export const CALL_ARGS = 6;
export const CALL_RECORD = 0x38;
export const CALL_DOORBELL = 0x40;
export const CALL_RET = 0x48;
export const CALL_OUT = 0x50;
export const CALL_DONE = 0x58;

/** The record in guest RAM: RET, OUT (8 bytes each), sequence number (4 bytes, written last). */
export const CALL_RECORD_RET = 0;
export const CALL_RECORD_OUT = 8;
export const CALL_RECORD_SEQUENCE = 16;
export const CALL_RECORD_BYTES = 24;
