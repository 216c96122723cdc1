/**
 * Constants of PAPR's hypervisor interface to TCE tables, under the specification's names. The model and the guest's
 * driver share them.
 *
 * LoPAR is the Linux on Power Architecture Reference 2.9. Hypercalls are in "Logical Partitioning Option" (H_GET_TCE,
 * H_PUT_TCE, H_STUFF_TCE, H_PUT_TCE_INDIRECT), RTAS calls in "Run-Time Abstraction Services" (DMA window option).
 */

/** Hypercall opcodes. H_RTAS is not in LoPAR; KVM and QEMU use it to enter RTAS. */
export const H_GET_TCE = 0x1c;
export const H_PUT_TCE = 0x20;
export const H_STUFF_TCE = 0x138;
export const H_PUT_TCE_INDIRECT = 0x13c;
export const H_RTAS = 0xf000;

/** Hypercall return codes, as signed values of r3. */
export const H_BUSY = 1n;
export const H_SUCCESS = 0n;
export const H_FUNCTION = -2n;
export const H_PARAMETER = -4n;
export const H_NOT_ENOUGH_RESOURCES = -44n;
export const H_P4 = -57n;

const RETURN_CODES: ReadonlyMap<bigint, string> = new Map([
  [H_BUSY, 'H_BUSY'],
  [H_SUCCESS, 'H_SUCCESS'],
  [H_FUNCTION, 'H_FUNCTION'],
  [H_PARAMETER, 'H_PARAMETER'],
  [H_NOT_ENOUGH_RESOURCES, 'H_NOT_ENOUGH_RESOURCES'],
  [H_P4, 'H_P4'],
]);

/** Returns the name of a return code, or its number. */
export const returnName = (ret: bigint): string => RETURN_CODES.get(ret) ?? `${ret}`;

/** TCE bits, LoPAR "TCE Definition": Page Mapping and Control. With neither bit set an access is a page fault. */
export const TCE_READ = 1;
export const TCE_WRITE = 2;
export const TCE_PERM = 3n;

/** Most TCEs in one list page and in one H_STUFF_TCE. */
export const TCE_CALL_LIMIT = 512;
/** Size of a list of TCEs: one page of guest RAM. */
export const TCE_LIST_BYTES = 4096;

/** RTAS status words. */
export const RTAS_SUCCESS = 0;
export const RTAS_HARDWARE_ERROR = -1;
export const RTAS_PARAMETER_ERROR = -3;

export const QUERY_PE_DMA_WINDOW = 'ibm,query-pe-dma-window';
export const CREATE_PE_DMA_WINDOW = 'ibm,create-pe-dma-window';
export const REMOVE_PE_DMA_WINDOW = 'ibm,remove-pe-dma-window';
export const RESET_PE_DMA_WINDOW = 'ibm,reset-pe-dma-window';

/** RTAS tokens. The platform chooses them and passes them to the guest in the device tree; these are QEMU's. */
export const RTAS_TOKENS: ReadonlyMap<string, number> = new Map([
  [QUERY_PE_DMA_WINDOW, 0x2026],
  [CREATE_PE_DMA_WINDOW, 0x2027],
  [REMOVE_PE_DMA_WINDOW, 0x2028],
  [RESET_PE_DMA_WINDOW, 0x2029],
]);

/** Most 32-bit words of an RTAS argument block: token, nargs, nret, arguments and results. */
export const RTAS_WORD_LIMIT = 19;

/** Page sizes of ibm,query-pe-dma-window as mask bits, by page shift. LoPAR 2.9 lacks 2M; Linux and QEMU use it. */
export const PAGE_SHIFT_MASKS: ReadonlyMap<number, number> = new Map([
  [12, 0x1],
  [16, 0x2],
  [24, 0x4],
  [25, 0x8],
  [26, 0x10],
  [27, 0x20],
  [28, 0x40],
  [34, 0x80],
  [21, 0x100],
]);
