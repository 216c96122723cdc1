/**
 * Host bridges of an sPAPR machine: unit IDs, LIOBNs and DMA windows. LoPAR leaves their values to the platform. The
 * values are QEMU's, except the default window of a scenario's machine.
 */

/** Unit ID ("BUID") of PHB 0; that of PHB n is n more. */
export const BUID_HI = 0x800_0000;
export const BUID_LO = 0x2000_0000;
/** Returns the LIOBN of the window in slot `slot` of PHB `phb`. */
export const liobnOf = (phb: number, slot: number): number => 0x8000_0000 + phb * 0x100 + slot;

/** QEMU's windows. */
export const DEFAULT_WINDOW_START = 0;
export const DEFAULT_WINDOW_SIZE = 2 ** 30;
export const DYNAMIC_WINDOW_START = 2 ** 59;
export const DEFAULT_PAGE_SHIFT = 12;
/**
 * Size of the default window (`ibm,dma-window`) in a scenario's machine, where each device has its own host bridge. The
 * window covers all IOVAs that a guest's DMA API allocates.
 */
export const SCENARIO_WINDOW_SIZE = 2 ** 35;
/** Returns the bridge of a requester ID: device 1 of bus 0 is behind bridge 0. */
export const bridgeOfDevice = (requesterId: number): number => ((requesterId >>> 3) & 0x1f) - 1;
/** Returns a bridge's default window, as the device tree describes it. */
export const scenarioWindow = (bridge: number) => ({
  liobn: liobnOf(bridge, 0),
  start: DEFAULT_WINDOW_START,
  size: SCENARIO_WINDOW_SIZE,
  pageShift: DEFAULT_PAGE_SHIFT,
});
/** Page sizes of QEMU's bridges: 4K, 64K, 2M, 16M. */
export const DEFAULT_PAGE_SHIFTS: readonly number[] = [12, 16, 21, 24];
