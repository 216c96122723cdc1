/**
 * The QEMU arguments that attach a served device.
 */

/** Quotes a text for a POSIX shell. */
const quoted = (text: string): string => `'${text.replaceAll("'", "'\\''")}'`;

/** Returns the `-device` argument for a socket, as a shell reads it. */
export const qemuArguments = (socket: string): string =>
  `-device ${quoted(JSON.stringify({ driver: 'vfio-user-pci', socket: { type: 'unix', path: socket } }))}`;
