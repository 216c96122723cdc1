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
  unmaps: ['container', 'unmaps'],
  switches: ['container', 'switches'],
  'dirty-writes': ['logs', 'dirtyWrites'],
  'dirty-pins': ['logs', 'dirtyPins'],
  'ram-log': ['logs', 'ramLog'],
  'journal-lines': ['logs', 'journalLines'],
  'journal-counter': ['logs', 'journalCounter'],
  doorbell: ['links', 'doorbell'],
  'frame-ring': ['links', 'frameRing'],
  mmio: ['links', 'mmio'],
  'mmio-close': ['links', 'mmioClose'],
  peers: ['links', 'peers'],
  'engine-turns': ['engine', 'engineTurns'],
  'engine-queue': ['engine', 'engineQueue'],
  'engine-clock': ['engine', 'engineClock'],
};
