/**
 * The interrupts that a device's configuration space declares.
 */

const INTERRUPT_PIN = 0x3d;
const CAPABILITIES_POINTER = 0x34;
const CAPABILITY_MSI = 0x05;
const CAPABILITY_MSIX = 0x11;
const MSIX_COUNT_MASK = 0x7ff;
/** Most capabilities of 256 bytes. */
const CAPABILITIES_LIMIT = 48;

/** A pointer to a capability in the list, and the pointer behind it. */
export interface CapabilityLink {
  /** Offset of the pointer. */
  readonly offset: number;
  /** Value that leads around the capability. */
  readonly next: number;
}

/** Calls `visit` for each capability: its ID, its offset, and that of the pointer to it. */
function eachCapability(view: DataView, visit: (id: number, at: number, pointer: number) => void): void {
  let pointer = CAPABILITIES_POINTER;
  for (let left = CAPABILITIES_LIMIT; left > 0; left--) {
    const at = view.getUint8(pointer);
    if (at < 0x40) return;
    visit(view.getUint8(at), at, pointer);
    pointer = at + 1;
  }
}

const viewOf = ({ buffer, byteOffset, length }: Uint8Array): DataView =>
  new DataView(buffer, byteOffset, length);

/** Returns the counts of interrupts by type: INTx, MSI, MSI-X, errors and release requests. */
export function irqCounts(config: Uint8Array, isMsixHidden: boolean): readonly number[] {
  const view = viewOf(config);
  let [msi, msix] = [0, 0];
  eachCapability(view, (id, at) => {
    if (id === CAPABILITY_MSI) msi = 1 << ((view.getUint16(at + 2, true) >>> 1) & 7);
    if (id === CAPABILITY_MSIX) msix = (view.getUint16(at + 2, true) & MSIX_COUNT_MASK) + 1;
  });
  return [view.getUint8(INTERRUPT_PIN) > 0 ? 1 : 0, msi, isMsixHidden ? 0 : msix, 1, 1];
}

/** Returns the link to MSI-X; undefined for a device without it. */
export function msixLink(config: Uint8Array): CapabilityLink | undefined {
  const view = viewOf(config);
  let found: CapabilityLink | undefined;
  eachCapability(view, (id, at, offset) => {
    if (id === CAPABILITY_MSIX) found = { offset, next: view.getUint8(at + 1) };
  });
  return found;
}
