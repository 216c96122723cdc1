/**
 * Programming interface of the kernel's `mtty` sample (samples/vfio-mdev/mtty.c): a PCI serial card with one or two
 * 8250 ports, each behind its own I/O BAR.
 */
import type { PciIdentity } from '../pci/config-space.ts';
import type { RegisterSpec } from '../registers/register-file.ts';

/** Size of a port's BAR. */
export const MTTY_PORT_BYTES = 8;
/** Count of ports by mdev type name, as in the driver. */
export const MTTY_PORTS: Readonly<Record<string, number>> = { 'mtty-1': 1, 'mtty-2': 2 };

/** Offset of four vendor-defined words of the driver, which belong to no capability. */
const VENDOR_WORDS = 0x40;
const MARK = 0x23;
const MARKS = [MARK | (0x80 << 24), MARK, MARK, MARK] as const;
const LABEL_AT = 0x60;
const LABEL = 'PCI Serial/UART';

const vendorRegisters: readonly RegisterSpec[] = [
  ...MARKS.map((mark, index) => ({
    name: `Vendor${index}`,
    offset: VENDOR_WORDS + 4 * index,
    size: 4 as const,
    reset: BigInt(mark >>> 0),
  })),
  ...Array.from(LABEL, (letter, index) => ({
    name: `Label${index}`,
    offset: LABEL_AT + index,
    size: 1 as const,
    reset: BigInt(letter.charCodeAt(0)),
  })),
];

/**
 * Returns the identity of a card with `ports` ports. The sample has no capability. `msiVectors` 1 adds MSI, because the
 * emulator's guests receive interrupts by MSI.
 */
export const mttyIdentity = (ports: number, msiVectors: 0 | 1): PciIdentity => ({
  vendorId: 0x4348,
  deviceId: 0x3253,
  subsystemVendorId: 0x4348,
  subsystemId: 0x3253,
  revision: 0x10,
  classCode: 0x07_00_02, // serial controller, 16550
  bar0Bytes: MTTY_PORT_BYTES,
  barBytes: ports > 1 ? { 1: MTTY_PORT_BYTES } : {},
  ioBars: ports > 1 ? [0, 1] : [0],
  msiVectors,
  registers: vendorRegisters,
  command: 0x0001,
  status: 0x0200,
});
