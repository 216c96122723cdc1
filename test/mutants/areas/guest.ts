/**
 * Mutants of the guest: allocators, checks, DMA API, migration, saved states.
 */
import type { Mutant } from '../mutant.ts';

const PAGES = 'src/guest/page-allocator.ts';
const IOVAS = 'src/guest/iommu/iova-allocator.ts';
const VERIFIER = 'src/guest/verifier.ts';
const MUTEX = 'src/guest/mutex.ts';
const IN_FLIGHT = 'src/guest/in-flight.ts';
const DMA = 'src/guest/iommu/dma-api.ts';
const MIGRATION = 'src/guest/migration.ts';
const STATE = 'src/guest/guest-state.ts';
const PARTS = 'src/guest/vm-parts.ts';
const SWITCHED = 'src/guest/iommu/software-switched-iommu.ts';

const ALLOCATORS = ['test/unit/page-allocator.test.ts'];
const UNITS = ['test/unit/guest-parts.test.ts'];
const MOVED = ['test/unit/guest-state.test.ts'];

export const GUEST_MUTANTS: readonly Mutant[] = [
  {
    id: 'guest/pages-not-zeroed',
    file: PAGES,
    find: '    this.#ram.write(gpa, new Uint8Array(size));\n',
    replace: '',
    why: 'A page table begins with what the last owner has left.',
    killedBy: ALLOCATORS,
  },
  {
    id: 'guest/pages-run-into-blocks',
    file: PAGES,
    find: 'if (reused === undefined && this.#low + PAGE_SIZE > this.#high)',
    replace: 'if (reused === undefined && this.#low + PAGE_SIZE > this.#base + this.#size)',
    why: 'A page is a part of a block.',
    killedBy: ALLOCATORS,
  },
  {
    id: 'guest/block-freed-as-page',
    file: PAGES,
    find: '(size === PAGE_2M ? this.#freeBlocks : this.#free).push(gpa);',
    replace: 'this.#free.push(gpa);',
    why: 'A freed block is one page.',
    killedBy: ALLOCATORS,
  },
  {
    id: 'guest/freed-page-stays-live',
    file: PAGES,
    find: '    this.#live.delete(gpa);\n',
    replace: '',
    why: 'A page can be freed twice, and then belongs to two.',
    killedBy: ALLOCATORS,
  },
  {
    id: 'guest/restored-blocks-are-pages',
    file: PAGES,
    find: 'for (const gpa of saved.liveBlocks) allocator.#live.set(gpa, PAGE_2M);',
    replace: 'for (const gpa of saved.liveBlocks) allocator.#live.set(gpa, PAGE_SIZE);',
    why: 'A block of a guest that has moved is freed as one page.',
    killedBy: ALLOCATORS,
  },
  {
    id: 'guest/restored-free-pages-lost',
    file: PAGES,
    find: '    for (const gpa of saved.free) allocator.#free.push(gpa);\n',
    replace: '',
    why: 'Each move leaks the free pages.',
    killedBy: ALLOCATORS,
  },
  {
    id: 'guest/iova-beyond-end',
    file: IOVAS,
    find: 'if (iova + pages * PAGE_SIZE > this.#end)',
    replace: 'if (iova > this.#end)',
    why: 'A range of IOVAs runs beyond the end.',
    killedBy: UNITS,
  },
  {
    id: 'guest/oldest-iova-first',
    file: IOVAS,
    find: 'const reused = this.#free.get(pages)?.pop();',
    replace: 'const reused = this.#free.get(pages)?.shift();',
    why: 'An IOVA is reused late, so that a stale translation is not met.',
    killedBy: UNITS,
  },
  {
    id: 'guest/iova-of-any-size',
    file: IOVAS,
    find: '    const list = this.#free.get(pages);\n    if (list) list.push(iova);',
    replace: '    const list = this.#free.get(1) ?? this.#free.get(pages);\n    if (list) list.push(iova);',
    why: 'A range is freed under another size.',
    killedBy: UNITS,
  },
  {
    id: 'guest/restored-iovas-lost',
    file: IOVAS,
    find: '    for (const [pages, iovas] of free) allocator.#free.set(pages, [...iovas]);\n',
    replace: '',
    why: 'Each move leaks the free IOVAs.',
    killedBy: UNITS,
  },
  {
    id: 'guest/mismatch-uncounted',
    file: VERIFIER,
    find: "      this.#journal.add('mismatches', 1);\n",
    replace: '',
    why: 'A wrong byte is a text only.',
    killedBy: UNITS,
  },
  {
    id: 'guest/compares-first-page',
    file: VERIFIER,
    find: 'expected.subarray(i * PAGE_SIZE, (i + 1) * PAGE_SIZE)',
    replace: 'expected.subarray(0, PAGE_SIZE)',
    why: 'Every page is compared with the first.',
    killedBy: UNITS,
  },
  {
    id: 'guest/failed-check-uncounted',
    file: VERIFIER,
    find: "    this.#journal.add('checksFailed', 1);\n",
    replace: '',
    why: 'A failed check is a text only.',
    killedBy: UNITS,
  },
  {
    id: 'guest/check-inverted',
    file: VERIFIER,
    find: 'if (!holds) this.fail(text);',
    replace: 'if (holds === undefined) this.fail(text);',
    why: 'A condition that does not hold passes.',
    killedBy: UNITS,
  },
  {
    id: 'guest/mutex-ends-with-an-error',
    file: MUTEX,
    find: 'this.#last = result.catch(() => {});',
    replace: 'this.#last = result;',
    why: 'After one failure nothing runs any more.',
    killedBy: UNITS,
  },
  {
    id: 'guest/exclusive-beside-shared',
    file: MUTEX,
    find: '      await Promise.all(this.#shared);\n',
    replace: '',
    why: 'A device leaves a domain while a map is on its way.',
    killedBy: UNITS,
  },
  {
    id: 'guest/shared-beside-exclusive',
    file: MUTEX,
    find: '    while (this.#closed) await this.#closed;\n',
    replace: '',
    why: 'A map begins while a device enters its domain.',
    killedBy: UNITS,
  },
  {
    id: 'guest/failed-call-in-flight',
    file: IN_FLIGHT,
    find: `      if (call) calls.delete(call);
      this.#count(what, -1);`,
    replace: `      if (call) {
        calls.delete(call);
        this.#count(what, -1);
      }`,
    why: 'After a call that fails at once a guest cannot be saved any more.',
    killedBy: UNITS,
  },
  {
    id: 'guest/iova-free-before-unmap',
    file: DMA,
    find: '} else await domain.unmap(base, bytes);',
    replace: '} else await Promise.all([free(), domain.unmap(base, bytes)]);',
    why: 'An IOVA is used again while devices still reach its old page.',
    killedBy: UNITS,
  },
  {
    id: 'guest/call-while-paused',
    file: IN_FLIGHT,
    find: 'return this.#gate.pending?.then(() => this.run(what, work)) ?? this.#run(what, work);',
    replace: 'return this.#run(what, work);',
    why: 'A paused guest begins a map, and its move loses it.',
    killedBy: UNITS,
  },
  {
    id: 'guest/saved-before-pause',
    file: MIGRATION,
    find: '    guest.gate.close();\n',
    replace: '',
    why: 'The drivers of a saved guest still take calls.',
    killedBy: UNITS,
  },
  {
    id: 'guest/paused-after-abort',
    file: MIGRATION,
    find: `    } finally {
      guest.gate.open();
    }`,
    replace: '    } finally {\n    }',
    why: 'A guest whose move has failed stays paused.',
    killedBy: UNITS,
  },
  {
    id: 'guest/abort-untold',
    file: MIGRATION,
    find: 'await control.abortMigration(error instanceof Error ? error.message : String(error));',
    replace: 'await Promise.resolve();',
    why: 'The target of a failed move waits for its end.',
    killedBy: UNITS,
  },
  {
    id: 'guest/log-after-copy',
    file: MIGRATION,
    find: `  guest.ram.startLog(log);
  try {
    const script = await copyWhileWorking(guest, control, work);`,
    replace: `  try {
    const script = await copyWhileWorking(guest, control, work);
    guest.ram.startLog(log);`,
    why: 'Pages that the guest writes during the copy are lost.',
    killedBy: UNITS,
  },
  {
    id: 'guest/log-stays-after-abort',
    file: MIGRATION,
    find: '    guest.ram.stopLog();\n',
    replace: '',
    why: 'A guest whose move has failed marks pages for ever.',
    killedBy: UNITS,
  },
  {
    id: 'guest/state-of-other-viommu',
    file: STATE,
    find: 'if (state.viommu !== viommu)',
    replace: 'if (state.viommu === undefined)',
    why: 'A guest is restored behind another vIOMMU.',
    killedBy: MOVED,
  },
  {
    id: 'guest/state-of-other-version',
    file: STATE,
    find: 'if (state.version !== GUEST_STATE_VERSION)',
    replace: 'if (state.version === undefined)',
    why: 'A state of another version is restored.',
    killedBy: MOVED,
  },
  {
    id: 'guest/foreign-domain-saved',
    file: STATE,
    find: 'if (id === undefined || find(id) !== domain)',
    replace: 'if (id === undefined)',
    why: "A domain of a script's own driver is saved as another of the same ID.",
    killedBy: MOVED,
  },
  {
    id: 'guest/numbers-start-anew',
    file: PARTS,
    find: 'prng: saved ? Prng.from(saved.prng) : new Prng(task.seed ^ 0x5eed),',
    replace: 'prng: new Prng(task.seed ^ 0x5eed),',
    why: 'A moved guest repeats its random numbers.',
    killedBy: MOVED,
  },
  {
    id: 'guest/dma-domain-lost',
    file: PARTS,
    find: 'domainOf(saved?.devices[index]?.domain ?? null, iommu.findDomain)',
    replace: 'domainOf(null, iommu.findDomain)',
    why: 'The DMA API of a moved guest hands out identity.',
    killedBy: MOVED,
  },
  {
    id: 'guest/view-shown-while-disabled',
    file: SWITCHED,
    find: 'if (this.#enabled) await this.show(requesterId, view);',
    replace: 'await this.show(requesterId, view);',
    why: 'A domain takes effect although translation is disabled.',
    killedBy: ['test/unit/guest-iommu.test.ts'],
  },
  {
    id: 'guest/switch-lost-at-restore',
    file: SWITCHED,
    find: '    this.#enabled = enabled;\n',
    replace: '',
    why: 'A moved guest believes that translation is disabled.',
    killedBy: MOVED,
  },
];
