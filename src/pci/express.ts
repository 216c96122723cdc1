/**
 * PCI Express capability (PCI Express Base Specification 4.0) of a Root Complex Integrated Endpoint.
 */
import type { PciCapability } from './capability.ts';

/** Offset of the capability in the emulated devices. */
const EXPRESS_CAPABILITY = 0x70;
/** Offset of Device Control. */
export const EXPRESS_CONTROL: number = EXPRESS_CAPABILITY + 8;

/** Device Control: a write of 1 resets the function; reads as 0 (§7.5.3.4). */
export const CONTROL_FUNCTION_RESET: bigint = 1n << 15n;
/** Device Control: Max_Payload_Size, which a function-level reset preserves (§6.6.2). */
export const CONTROL_PAYLOAD = 0xe0n;

const ID = 0x10;
/** Version 2, device type 9: Root Complex Integrated Endpoint. */
const CAPABILITIES = 0x0092n;
/** Role-based error reporting, which every function must have, and function-level reset. */
const DEVICE_CAPABILITIES: bigint = (1n << 15n) | (1n << 28n);
/** Error reporting, relaxed ordering, payload size, no snoop, read request size and function-level reset. */
const DEVICE_CONTROL_WRITABLE = 0xf8ffn;
/** Relaxed ordering and no snoop enabled; read requests of 512 bytes. */
const DEVICE_CONTROL_RESET = 0x2810n;
const ERRORS_DETECTED = 0xfn;

export type ExpressRegister =
  | 'ExpressCapabilities'
  | 'ExpressDeviceCapabilities'
  | 'ExpressControl'
  | 'ExpressStatus';

/** Returns the registers of a device without link, slot and root port. Further registers of version 2 read as 0. */
export function expressCapability(): PciCapability {
  const at = EXPRESS_CAPABILITY;
  return {
    offset: at,
    id: ID,
    registers: [
      { name: 'ExpressCapabilities', offset: at + 2, size: 2, reset: CAPABILITIES },
      { name: 'ExpressDeviceCapabilities', offset: at + 4, size: 4, reset: DEVICE_CAPABILITIES },
      {
        name: 'ExpressControl',
        offset: EXPRESS_CONTROL,
        size: 2,
        reset: DEVICE_CONTROL_RESET,
        rw: DEVICE_CONTROL_WRITABLE,
      },
      { name: 'ExpressStatus', offset: at + 10, size: 2, w1c: ERRORS_DETECTED },
    ],
  };
}
