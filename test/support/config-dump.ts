/**
 * Hex dump of a configuration space, as `lspci -xxx` prints it and `lspci -F FILE` reads it.
 */
import { bdfText, type ConfigSpace } from '../../src/pci/config-space.ts';

const LINE_BYTES = 16;

const hex = (value: number, digits: number): string => value.toString(16).padStart(digits, '0');

/** Returns one device's dump. It ends with an empty line, so dumps of several devices can be concatenated. */
export function configDump(requesterId: number, config: ConfigSpace): string {
  const bytes = config.bytes();
  const word = (offset: number) => hex(bytes[offset]! | (bytes[offset + 1]! << 8), 4);
  // lspci reads only the address of this line. The rest is for people, as in `lspci -n`.
  const lines = [`${bdfText(requesterId)} ${word(0x0a)}: ${word(0x00)}:${word(0x02)}`];
  for (let at = 0; at < bytes.length; at += LINE_BYTES) {
    const line = Array.from(bytes.subarray(at, at + LINE_BYTES), (byte) => hex(byte, 2));
    lines.push(`${hex(at, 2)}: ${line.join(' ')}`);
  }
  return `${lines.join('\n')}\n\n`;
}
