/**
 * Mutants of what a device model sees: DMA and pins, memories, dirty pages, registers, migration stream, main loop.
 */
import type { Mutant } from '../mutant.ts';

const DMA = 'src/device/dma.ts';
const HELD = 'src/device/held-pages.ts';

const PINS = ['test/unit/dma-held.test.ts'];
const DIRTIES = ['test/unit/dirty-tracker.test.ts'];
const PAGES = ['test/unit/dma-pages.test.ts'];
const CONTRACT = ['test/unit/device-contract.test.ts'];

export const DEVICE_MUTANTS: readonly Mutant[] = [
  {
    id: 'device/second-pin-clean',
    file: DMA,
    find: 'if (record && this.#held.count(record.pfn) <= 1) this.#table.noteReleased(record.pfn);',
    replace: 'if (record) this.#table.noteReleased(record.pfn);',
    why: 'A page that is pinned twice and unpinned once is no longer dirty, so a migration loses it.',
    killedBy: DIRTIES,
  },
  {
    id: 'device/faults-and-writes',
    file: DMA,
    find: '          refusal = leaf === 0 ? 0 : -1;\n          break;',
    replace:
      '          refusal = leaf === 0 ? 0 : -1;\n          if (leaf !== 0 && perm === PERM_WRITE) this.#memory.write((framePfn(leaf) * PAGE_SIZE + inPage) as Hpa, bytes, at, Math.min(PAGE_SIZE - inPage, length - at));\n          break;',
    why: 'A write to a read-only page faults and is done nevertheless.',
    killedBy: PINS,
  },
  {
    id: 'device/write-to-read-only',
    file: DMA,
    find: 'if ((framePerm(leaf) & perm) !== perm) {',
    replace: 'if (leaf === 0) {',
    why: 'A device writes to a page that it may only read.',
    killedBy: PINS,
  },
  {
    id: 'device/write-unmarked',
    file: DMA,
    find: '        if (logged) this.#table.markWritten(framePfn(leaf));\n',
    replace: '',
    why: 'A page that a device has written is not dirty.',
    killedBy: DIRTIES,
  },
  {
    id: 'device/pin-unnoted',
    file: DMA,
    find: '    if (this.#held.count(pfn) === 0) this.#table.noteHeld(pfn);\n',
    replace: '',
    why: 'A pinned page is not dirty.',
    killedBy: DIRTIES,
  },
  {
    id: 'device/denied-peer-keeps-pin',
    file: DMA,
    find: '    this.#table.unpin(iova);\n    return PIN_DENIED;',
    replace: '    return PIN_DENIED;',
    why: 'A refused pin of a BAR stays and keeps an unmap from ending.',
    killedBy: PINS,
  },
  {
    id: 'device/pages-keep-pins',
    file: DMA,
    find: '        while (done > 0) this.unpin((iova + --done * PAGE_SIZE) as Iova);\n',
    replace: '',
    why: 'A pin of several pages that fails keeps those before the failure.',
    killedBy: PAGES,
  },
  {
    id: 'device/fault-during-switch',
    file: DMA,
    find: 'return (before & 1) !== 0 || this.#table.switchSequence !== before;',
    replace: 'return this.#table.switchSequence !== before;',
    why: 'An access during a switch is a fault.',
    killedBy: PINS,
  },
  {
    id: 'device/fault-across-switch',
    file: DMA,
    find: 'return (before & 1) !== 0 || this.#table.switchSequence !== before;',
    replace: 'return (before & 1) !== 0;',
    why: 'An access that meets a whole switch is a fault.',
    killedBy: PINS,
  },
  {
    id: 'device/dma-without-bus-master',
    file: DMA,
    find: ' || !this.#mastersBus())\n      return DMA_FAULT;',
    replace: ')\n      return DMA_FAULT;',
    why: 'A device reads and writes while Bus Master Enable is 0.',
    killedBy: CONTRACT,
  },
  {
    id: 'device/copy-without-bus-master',
    file: DMA,
    find: 'if (this.#mastersBus()) this.#memory.copy',
    replace: 'this.#memory.copy',
    why: 'A device copies between pinned pages while Bus Master Enable is 0.',
    killedBy: CONTRACT,
  },
  {
    id: 'device/second-page-unchecked',
    file: DMA,
    find: 'const last = Math.floor((address + length - 1) / 2 ** PAGE_SHIFT);',
    replace: 'const last = Math.floor(address / 2 ** PAGE_SHIFT);',
    why: 'A copy that ends in a page without a pin is not a violation.',
    killedBy: PINS,
  },
  {
    id: 'device/unpin-keeps-ledger',
    file: DMA,
    find: '    this.#held.remove(record.pfn);\n',
    replace: '',
    why: 'A model that uses a page after its unpin is not noticed.',
    killedBy: PINS,
  },
  {
    id: 'device/held-elsewhere',
    file: HELD,
    find: 'else if (count > 0) this.#elsewhere.set(pfn, count);',
    replace: 'else if (count > 1) this.#elsewhere.set(pfn, count);',
    why: 'A pin of memory outside the host pages is not in the ledger.',
    killedBy: PINS,
  },
];
