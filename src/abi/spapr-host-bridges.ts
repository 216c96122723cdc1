/**
 * Host bridges of an sPAPR machine: unit IDs, LIOBNs and DMA windows. LoPAR leaves them to the platform. They are QEMU's,
 * except the default window of a scenario's machine.
 */

/** PHB n's unit id ("BUID") is this plus n. */
export const BUID_HI = 0x800_0000;
export const BUID_LO = 0x2000_0000;
/** LIOBN of PHB `phb`'s window in slot `slot`. */
export const liobnOf = (phb: number, slot: number): number => 0x8000_0000 + phb * 0x100 + slot;

/** Where QEMU has its windows. */
export const DEFAULT_WINDOW_START = 0;
export const DEFAULT_WINDOW_SIZE = 2 ** 30;
export const DYNAMIC_WINDOW_START = 2 ** 59;
export const DEFAULT_PAGE_SHIFT = 12;
/**
 * A scenario's machine: each device has a host bridge of its own, and its default window (`ibm,dma-window`) is as large
 * as the bus addresses that a guest's DMA API hands out.
 */
export const SCENARIO_WINDOW_SIZE = 2 ** 35;
/** The bridge of a device, by its requester ID: device 1 of bus 0 is behind bridge 0. */
export const bridgeOfDevice = (requesterId: number): number => ((requesterId >>> 3) & 0x1f) - 1;
/** A bridge's default window, as the device tree tells it. */
export const scenarioWindow = (bridge: number) => ({
  liobn: liobnOf(bridge, 0),
  start: DEFAULT_WINDOW_START,
  size: SCENARIO_WINDOW_SIZE,
  pageShift: DEFAULT_PAGE_SHIFT,
});
/** Page sizes of QEMU's bridges: 4K, 64K, 2M, 16M. */
export const DEFAULT_PAGE_SHIFTS: readonly number[] = [12, 16, 21, 24];
