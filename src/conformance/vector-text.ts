/**
 * Text forms of values in recorded vectors.
 */
import { requesterId } from '../pci/config-space.ts';

/** Two hexadecimal digits a byte, without separators. */
export const bytesHex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');

/** Requester ID of `bus:device.function`, three hexadecimal numbers. */
export function requesterIdOf(bdf: string): number {
  const [bus = 0, device = 0, fn = 0] = bdf.split(/[:.]/).map((part) => Number.parseInt(part, 16));
  return requesterId(bus, device, fn);
}
