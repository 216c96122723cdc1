/**
 * The harnesses of the protocol kernels, by name.
 */

/** File in this folder of each harness, without extension, and its export. */
export const KERNELS: Readonly<Record<string, readonly [file: string, name: string]>> = {
  'dma-sections': ['pin-table', 'dmaSections'],
  pins: ['pin-table', 'pins'],
  links: ['pin-table', 'links'],
  relinked: ['pin-table', 'relinked'],
  remapped: ['pin-table', 'remapped'],
};
