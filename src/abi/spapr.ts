/**
 * Numbers of the PAPR hypervisor interface to TCE tables, under the specification's own names: shared by the model
 * and by the guest's driver.
 *
 * LoPAR is the Linux on Power Architecture Reference 2.9: hypercalls in "Logical Partitioning Option" (H_GET_TCE,
 * H_PUT_TCE, H_STUFF_TCE, H_PUT_TCE_INDIRECT), RTAS calls in "Run-Time Abstraction Services" (DMA window option).
 */

/** Hypercall opcodes. H_RTAS is not LoPAR's but KVM's and QEMU's way into RTAS. */
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

/** The name of a return code, or its number. */
export const returnName = (ret: bigint): string => RETURN_CODES.get(ret) ?? `${ret}`;

/** TCE bits, LoPAR "TCE Definition": Page Mapping and Control. Neither set is "Page Fault". */
export const TCE_READ = 1;
export const TCE_WRITE = 2;
export const TCE_PERM = 3n;

/** Most TCEs in one list page, and in one H_STUFF_TCE. */
export const TCE_CALL_LIMIT = 512;
/** A list of TCEs is one page of guest RAM. */
export const TCE_LIST_BYTES = 4096;

/** RTAS status words. */
export const RTAS_SUCCESS = 0;
export const RTAS_HARDWARE_ERROR = -1;
export const RTAS_PARAMETER_ERROR = -3;

export const QUERY_PE_DMA_WINDOW = 'ibm,query-pe-dma-window';
export const CREATE_PE_DMA_WINDOW = 'ibm,create-pe-dma-window';
export const REMOVE_PE_DMA_WINDOW = 'ibm,remove-pe-dma-window';
export const RESET_PE_DMA_WINDOW = 'ibm,reset-pe-dma-window';

/** RTAS tokens: the platform's choice, told to the guest in its device tree. These are QEMU's. */
export const RTAS_TOKENS: ReadonlyMap<string, number> = new Map([
  [QUERY_PE_DMA_WINDOW, 0x2026],
  [CREATE_PE_DMA_WINDOW, 0x2027],
  [REMOVE_PE_DMA_WINDOW, 0x2028],
  [RESET_PE_DMA_WINDOW, 0x2029],
]);

/** An RTAS argument block holds this many 32-bit words at most: token, nargs, nret, arguments and results. */
export const RTAS_WORD_LIMIT = 19;

/** ibm,query-pe-dma-window's mask of page sizes, by page shift. 2M is not in LoPAR 2.9's table; Linux and QEMU use it. */
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
