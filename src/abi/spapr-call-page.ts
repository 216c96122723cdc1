/**
 * Call page: the registers through which a guest of the emulator makes hypercalls, because its CPU does not trap. It
 * is the emulator's own interface. The page has slots of 8-byte little-endian registers, each for one call at a time.
 *
 * 1. The guest writes OPCODE, ARG0 … ARG5 and RECORD, then a sequence number ≠ 0 to DOORBELL. A doorbell is ignored
 *    while the slot's previous call has not returned.
 * 2. When the call returns, RET and OUT hold its result, and DONE reads the sequence number.
 * 3. If RECORD is the GPA, a multiple of 8, of CALL_RECORD_BYTES of RAM, the page then writes RET, OUT and last the
 *    low 32 bits of the sequence number there, and wakes the waiters on that word.
 */
export const CALL_PAGE_BYTES = 4096;
export const CALL_PAGE_ID_REG = 0x00;
/** 'sPAPRTCE' in ASCII. */
export const CALL_PAGE_ID = 0x7350_4150_5254_4345n;
/** Register with the count of slots. */
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

/** Record in guest RAM: RET and OUT, 8 bytes each, and the sequence number, 4 bytes, written last. */
export const CALL_RECORD_RET = 0;
export const CALL_RECORD_OUT = 8;
export const CALL_RECORD_SEQUENCE = 16;
export const CALL_RECORD_BYTES = 24;
