/**
 * Mutants of the guest's device drivers: the vgpu's, and a script's access to other devices.
 */
import type { Mutant } from '../mutant.ts';

const CONTEXT = 'src/guest/gpu/context.ts';
const DRIVER = 'src/guest/gpu/driver.ts';
const SAVED_GPU = 'src/guest/gpu/saved-state.ts';
const VRAM = 'src/guest/gpu/vram.ts';
const PROBE = 'src/guest/gpu/probe.ts';
const DEVICE = 'src/guest/pci-device.ts';

const UNITS = ['test/unit/guest-parts.test.ts'];
const GPU_MEMORY = ['test/unit/gpu-driver-memory.test.ts'];
const GPU = ['test/unit/gpu-driver.test.ts'];

export const GUEST_GPU_MUTANTS: readonly Mutant[] = [
  {
    id: 'guest/context-page-over-large-page',
    file: CONTEXT,
    find: '    writeEntry(this.#ram, this.#regionSlot(va), table, gpu.GPU_PTE_PRESENT);\n',
    replace: '',
    why: 'A page in a region of 2 MiB is written to a table that is not linked.',
    killedBy: UNITS,
  },
  {
    id: 'guest/context-beyond-end',
    file: CONTEXT,
    find: 'if (va < this.base || va + bytes > this.end)',
    replace: 'if (va < this.base || va > this.end)',
    why: 'A mapping of a context runs beyond its tables.',
    killedBy: UNITS,
  },
  {
    id: 'guest/context-large-page-misaligned',
    file: CONTEXT,
    find: 'if (va % page !== 0 || iova % page !== 0 || bytes % page !== 0)',
    replace: 'if (va % PAGE_SIZE !== 0 || iova % PAGE_SIZE !== 0 || bytes % page !== 0)',
    why: 'A misaligned large page is written.',
    killedBy: UNITS,
  },
  {
    id: 'guest/unmap-keeps-shadow',
    file: DRIVER,
    find: `this.#writePte(va / PAGE_SIZE + i, 0, 0);
    return this.writeRegister('TlbInvalidate', 1);`,
    replace: `this.#writePte(va / PAGE_SIZE + i, 0, 0);
    return undefined;`,
    why: 'The device uses pages that the guest has unmapped.',
    killedBy: GPU_MEMORY,
  },
  {
    id: 'guest/map-keeps-shadow',
    file: DRIVER,
    find: `this.#writePte(va / PAGE_SIZE + i, address, flags);
    return this.writeRegister('TlbInvalidate', 1);`,
    replace: `this.#writePte(va / PAGE_SIZE + i, address, flags);
    return undefined;`,
    why: 'The device uses the page that was mapped before.',
    killedBy: GPU_MEMORY,
  },
  {
    id: 'guest/map-beyond-tables',
    file: DRIVER,
    find: 'va % PAGE_SIZE !== 0 || va + addresses.length * PAGE_SIZE > GPU_VA_END',
    replace: 'va % PAGE_SIZE !== 0 || va > GPU_VA_END',
    why: 'A mapping runs beyond the tables of context 0.',
    killedBy: GPU_MEMORY,
  },
  {
    id: 'guest/reset-forgets-contexts',
    file: DRIVER,
    find: `    await this.#start();
    await this.#announceContexts();`,
    replace: '    await this.#start();',
    why: 'Contexts are gone after a reset of the function.',
    killedBy: GPU,
  },
  {
    id: 'guest/reset-forgets-global-table',
    file: DRIVER,
    find: '    for (const [index, entry] of this.#global)\n      await',
    replace: '    for (const [index, entry] of [...this.#global].slice(1))\n      await',
    why: 'The global table is empty after a reset of the function.',
    killedBy: GPU,
  },
  {
    id: 'guest/cleared-global-returns',
    file: DRIVER,
    find: 'if (entry === 0n) this.#global.delete(index);\n    else',
    replace: '',
    why: 'An entry that was cleared is kept for ever.',
    killedBy: GPU_MEMORY,
  },
  {
    id: 'guest/contexts-one-too-many',
    file: DRIVER,
    find: 'if (id >= vgpu.CONTEXTS_LIMIT)',
    replace: 'if (id > vgpu.CONTEXTS_LIMIT)',
    why: 'The driver creates a context that the device does not have.',
    killedBy: GPU_MEMORY,
  },
  {
    id: 'guest/unmapping-command-maps',
    file: DRIVER,
    find: 'const value = iova === undefined ? flags & ~vgpu.GPU_PTE_PRESENT : flags;',
    replace: 'const value = flags;',
    why: 'A command that unmaps maps IOVA 0.',
    killedBy: GPU_MEMORY,
  },
  {
    id: 'guest/hangs-lost-at-restore',
    file: DRIVER,
    find: '    this.hangs = saved.hangs;\n',
    replace: '    this.hangs = 0;\n',
    why: 'A moved driver has counted no hangs.',
    killedBy: GPU_MEMORY,
  },
  {
    id: 'guest/restores-unaligned-pages',
    file: SAVED_GPU,
    find: '      (value as number) % PAGE_SIZE === 0 &&\n',
    replace: '',
    why: 'A saved ring begins in the middle of a page.',
    killedBy: GPU,
  },
  {
    id: 'guest/restores-pages-outside-ram',
    file: SAVED_GPU,
    find: 'ram.contains(value as number, PAGE_SIZE)',
    replace: 'Number(value) >= 0',
    why: 'A saved ring lies outside RAM.',
    killedBy: GPU,
  },
  {
    id: 'guest/vram-piece-beyond-aperture',
    file: VRAM,
    find: 'Math.min(length - done, vgpu.APERTURE_BYTES - at)',
    replace: 'Math.min(length - done, vgpu.APERTURE_BYTES)',
    why: 'A piece runs beyond the aperture.',
    killedBy: GPU,
  },
  {
    id: 'guest/aperture-shared',
    file: VRAM,
    find: `    return this.#aperture.run(async () => {
      const size = await this.size();`,
    replace: `    return Promise.resolve().then(async () => {
      const size = await this.size();`,
    why: 'Two accesses move the aperture under each other.',
    killedBy: GPU_MEMORY,
  },
  {
    id: 'guest/flip-not-awaited',
    file: VRAM,
    find: 'if ((status & vgpu.DISPLAY_FLIP_PENDING) === 0) return;',
    replace: 'return;',
    why: 'A flip resolves before the frame shows it.',
    killedBy: GPU,
  },
  {
    id: 'guest/vectors-stay-masked',
    file: PROBE,
    find: '    await mmio.write(REGION_BAR0, entry + MSIX_ENTRY_CONTROL, 4, 0n);\n',
    replace: '',
    why: 'The driver enables MSI-X and leaves its vectors masked.',
    killedBy: GPU,
  },
  {
    id: 'guest/one-vector-of-many',
    file: DEVICE,
    find: 'const every = ((control >>> 1) & 7) << 4;',
    replace: 'const every = 0;',
    why: 'A device has one of its vectors.',
    killedBy: UNITS,
  },
  {
    id: 'guest/interrupt-missed-before-wait',
    file: DEVICE,
    find: '      if (raised !== seen) return raised;\n',
    replace: '      if (raised > seen + 1) return raised;\n',
    why: 'An interrupt that has already come is waited for.',
    killedBy: UNITS,
  },
  {
    id: 'guest/wait-for-lost-device',
    file: DEVICE,
    find: `      if (raised !== seen) return raised;
      this.#throwIfLost();`,
    replace: '      if (raised !== seen) return raised;',
    why: 'A script waits for a device that is lost until the time-out.',
    killedBy: UNITS,
  },
];
