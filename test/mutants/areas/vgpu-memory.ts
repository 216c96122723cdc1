/**
 * Mutants of the vgpu's memory: address spaces, page walks, shadow page tables, VRAM.
 */
import type { Mutant } from '../mutant.ts';

const SPACES = 'src/models/vgpu/mmu/address-spaces.ts';
const WALK = 'src/models/vgpu/mmu/page-walk.ts';
const SHADOW = 'src/models/vgpu/mmu/shadow-page-table.ts';
const ENTRIES = 'src/models/vgpu/mmu/shadow-entries.ts';
const VRAM = 'src/models/vgpu/mmu/vram.ts';
const ACCESS = 'src/models/vgpu/mmu/page-access.ts';

const SPACE_TESTS = ['test/unit/vgpu-address-spaces.test.ts'];
const PINS = ['test/unit/vgpu-pins.test.ts'];
const VRAM_TESTS = ['test/unit/vgpu-vram.test.ts'];
const PROPERTY = ['test/property/shadow-page-table.test.ts'];

export const VGPU_MEMORY_MUTANTS: readonly Mutant[] = [
  {
    id: 'vgpu-memory/context-table-keeps-shadows',
    file: SPACES,
    find: `    this.#count = Math.min(count, CONTEXTS_LIMIT);
    this.invalidate();`,
    replace: '    this.#count = Math.min(count, CONTEXTS_LIMIT);',
    why: 'Contexts keep the shadows of the old context table.',
    killedBy: SPACE_TESTS,
  },
  {
    id: 'vgpu-memory/contexts-unlimited',
    file: SPACES,
    find: 'Math.min(count, CONTEXTS_LIMIT)',
    replace: 'count',
    why: 'A guest has any count of contexts.',
    killedBy: SPACE_TESTS,
  },
  {
    id: 'vgpu-memory/root-keeps-shadow',
    file: SPACES,
    find: `    this.#base = pointer;
    this.#forget(0);`,
    replace: '    this.#base = pointer;',
    why: 'A new page table keeps the old shadow.',
    killedBy: PINS,
  },
  {
    id: 'vgpu-memory/forgets-without-unpin',
    file: SPACES,
    find: '    this.#shadows.get(context)?.dropAll();\n',
    replace: '',
    why: 'An invalidation leaks the pins of the shadow.',
    killedBy: PINS,
  },
  {
    id: 'vgpu-memory/unmap-spares-global',
    file: SPACES,
    find: '    this.#globalShadow.dropIova(iova, size);\n',
    replace: '',
    why: 'The global table keeps its pins at an unmap.',
    killedBy: SPACE_TESTS,
  },
  {
    id: 'vgpu-memory/unmap-spares-contexts',
    file: SPACES,
    find: '    for (const shadow of this.#shadows.values()) shadow.dropIova(iova, size);\n',
    replace: '',
    why: 'Contexts keep their pins at an unmap.',
    killedBy: PINS,
  },
  {
    id: 'vgpu-memory/reset-keeps-global-table',
    file: SPACES,
    find: `    this.dropAll();
    this.global.reset();`,
    replace: '    this.dropAll();',
    why: 'A reset keeps the global table.',
    killedBy: SPACE_TESTS,
  },
  {
    id: 'vgpu-memory/pins-unlimited',
    file: SPACES,
    find: 'for (const shadow of this.#shadows.values()) held += shadow.size;',
    replace: 'for (const shadow of this.#shadows.values()) held = Math.max(held, shadow.size);',
    why: 'The limit of pins holds for each context, not for the device.',
    killedBy: SPACE_TESTS,
  },
  {
    id: 'vgpu-memory/absent-root-is-read',
    file: SPACES,
    find: 'const absent = status === DMA_OK && (this.#root.getUint32(0, true) & GPU_ROOT_PRESENT) === 0;',
    replace: 'const absent = false;',
    why: 'A context without a root translates by page 0.',
    killedBy: SPACE_TESTS,
  },
  {
    id: 'vgpu-memory/stale-fault',
    file: SPACES,
    find: "    if (typeof page === 'number') this.lastFault = shadow.lastFault;\n",
    replace: '',
    why: 'The fault registers have the address of an earlier fault.',
    killedBy: ['test/unit/vgpu-commands.test.ts'],
  },
  {
    id: 'vgpu-memory/hit-ignores-permission',
    file: SHADOW,
    find: 'if (hit && (hit.perm & perm) === perm) return hit;',
    replace: 'if (hit) return hit;',
    why: 'A page that is shadowed for reads is written.',
    killedBy: PROPERTY,
  },
  {
    id: 'vgpu-memory/peek-ignores-permission',
    file: SHADOW,
    find: 'return entry && (entry.perm & perm) === perm ? entry : undefined;',
    replace: 'return entry;',
    why: 'A copy runs on into a read-only page.',
    killedBy: ['test/unit/vgpu-copy.test.ts'],
  },
  {
    id: 'vgpu-memory/raise-leaks-pin',
    file: SHADOW,
    find: 'if (hit) this.drop(hit);',
    replace: 'if (hit) this.forget(hit);',
    why: 'A page that is read and then written keeps two pins.',
    killedBy: PINS,
  },
  {
    id: 'vgpu-memory/write-only-pin',
    file: SHADOW,
    find: 'this.dma.pin(iova, perm | PERM_READ)',
    replace: 'this.dma.pin(iova, PERM_READ)',
    why: 'A page is pinned for reads and then written.',
    killedBy: ['test/unit/vgpu-commands.test.ts'],
  },
  {
    id: 'vgpu-memory/retry-is-fault',
    file: SHADOW,
    find: 'pfn === -DMA_RETRY ? DMA_RETRY : DMA_FAULT',
    replace: 'DMA_FAULT',
    why: 'A miss during a switch ends the command.',
    killedBy: PINS,
  },
  {
    id: 'vgpu-memory/unmap-one-page-more',
    file: SHADOW,
    find: '(iova + size) / PAGE_SIZE - 1]',
    replace: '(iova + size) / PAGE_SIZE]',
    why: 'An unmap drops the page behind its range.',
    killedBy: PINS,
  },
  {
    id: 'vgpu-memory/unmap-first-alias-only',
    file: SHADOW,
    find: `      const entry = this.entries.get(va);
      if (entry) this.drop(entry);
    }`,
    replace: `      const entry = this.entries.get(va);
      if (entry) this.drop(entry);
      return;
    }`,
    why: 'A page that is mapped at two GPU addresses keeps a pin.',
    killedBy: PINS,
  },
  {
    id: 'vgpu-memory/update-keeps-shadow',
    file: SHADOW,
    find: '    this.dropVa(va, bytes);\n',
    replace: '',
    why: 'An update by command does not take effect.',
    killedBy: SPACE_TESTS,
  },
  {
    id: 'vgpu-memory/drop-misses-last',
    file: SHADOW,
    find: 'for (let page = first; page < end; page++) {',
    replace: 'for (let page = first; page < end - 1; page++) {',
    why: 'The last page of a range keeps its shadow.',
    killedBy: SPACE_TESTS,
  },
  {
    id: 'vgpu-memory/drop-of-many-misses-first',
    file: SHADOW,
    find: 'if (entry.va >= first && entry.va < end) this.drop(entry);',
    replace: 'if (entry.va > first && entry.va < end) this.drop(entry);',
    why: 'The first page of a large range keeps its shadow.',
    killedBy: PROPERTY,
  },
  {
    id: 'vgpu-memory/vram-ends-one-page-late',
    file: SHADOW,
    find: 'if (offset + PAGE_SIZE > this.#vramBytes)',
    replace: 'if (offset > this.#vramBytes)',
    why: 'A GPU page behind VRAM is translated.',
    killedBy: VRAM_TESTS,
  },
  {
    id: 'vgpu-memory/regions-lose-count',
    file: ENTRIES,
    find: `    region.used--;
    this.size--;`,
    replace: '    region.used--;',
    why: 'The count of pins grows for ever, and every step drops all.',
    killedBy: PINS,
  },
  {
    id: 'vgpu-memory/absent-table-is-followed',
    file: WALK,
    find: `      if ((flags & GPU_PTE_PRESENT) === 0) return this.#refuse();
`,
    replace: '',
    why: 'A directory entry that is not present is followed.',
    killedBy: ['test/unit/vgpu-commands.test.ts', ...SPACE_TESTS],
  },
  {
    id: 'vgpu-memory/read-only-ignored',
    file: WALK,
    find: '((perm & PERM_WRITE) === 0 || (flags & GPU_PTE_WRITABLE) !== 0)',
    replace: '((perm & PERM_WRITE) === 0 || flags !== 0)',
    why: 'A read-only entry allows writes.',
    killedBy: ['test/unit/vgpu-commands.test.ts'],
  },
  {
    id: 'vgpu-memory/update-through-large-page',
    file: WALK,
    find: 'if ((this.#flags & GPU_PTE_PRESENT) === 0 || (level === 1 && (this.#flags & GPU_PTE_2M) !== 0))',
    replace: 'if ((this.#flags & GPU_PTE_PRESENT) === 0)',
    why: 'An update of a 4 KiB page under a 2 MiB page writes into its data.',
    killedBy: SPACE_TESTS,
  },
  {
    id: 'vgpu-memory/64k-writes-one-entry',
    file: WALK,
    find: 'flags & GPU_PTE_64K ? 128 : 8',
    replace: '8',
    why: 'A page of 64 KiB has one entry of sixteen.',
    killedBy: SPACE_TESTS,
  },
  {
    id: 'vgpu-memory/large-page-unaligned',
    file: WALK,
    find: '    if (this.#iova % bytes !== 0) return this.#refuse();\n',
    replace: '',
    why: 'A misaligned large page is translated.',
    killedBy: SPACE_TESTS,
  },
  {
    id: 'vgpu-memory/cleared-entry-keeps-address',
    file: WALK,
    find: 'entries.setUint32(at, flags & GPU_PTE_PRESENT ? ((iova % 2 ** 32) | flags) >>> 0 : 0, true);',
    replace: 'entries.setUint32(at, ((iova % 2 ** 32) | flags | GPU_PTE_PRESENT) >>> 0, true);',
    why: 'A cleared entry is still present.',
    killedBy: SPACE_TESTS,
  },
  {
    id: 'vgpu-memory/global-drops-one-entry',
    file: WALK,
    find: 'const [first, last] = [offset >>> 3, (offset + size - 1) >>> 3];',
    replace: 'const [first, last] = [offset >>> 3, offset >>> 3];',
    why: 'A write over two global entries drops the shadow of one.',
    killedBy: SPACE_TESTS,
  },
  {
    id: 'vgpu-memory/global-takes-large-pages',
    file: WALK,
    find: '    if (gpuPageBytes(flags) !== PAGE_SIZE) return DMA_FAULT;\n',
    replace: '',
    why: 'The global table takes one entry for a large page.',
    killedBy: SPACE_TESTS,
  },
  {
    id: 'vgpu-memory/vram-of-any-type',
    file: VRAM,
    find: 'Math.min(share, VRAM_BYTES_LIMIT)',
    replace: 'share',
    why: 'A type determines any amount of real memory.',
    killedBy: VRAM_TESTS,
  },
  {
    id: 'vgpu-memory/aperture-write-across-end',
    file: VRAM,
    find: 'if (at + size <= this.#vram.size) this.#vram.write(at, size, value);',
    replace: 'if (at < this.#vram.size) this.#vram.write(at, size, value);',
    why: 'A write across the end of VRAM throws.',
    killedBy: VRAM_TESTS,
  },
  {
    id: 'vgpu-memory/copy-in-page-offset',
    file: ACCESS,
    find: 'return this.store(to, target, vram.readable(offsetAt(from, source), length));',
    replace: 'return this.store(to, source, vram.readable(offsetAt(from, source), length));',
    why: 'A copy from VRAM uses the offset in the source page for the target.',
    killedBy: VRAM_TESTS,
  },
];
