/**
 * Mutants of the VT-d unit: page tables of both stages, faults, saved state.
 */
import type { Mutant } from '../mutant.ts';

const FIRST = 'src/viommu/vtd/first-stage.ts';
const SECOND = 'src/viommu/vtd/second-level.ts';
const TABLES = 'src/viommu/vtd/page-tables.ts';
const INTERRUPTS = 'src/viommu/interrupt-range.ts';
const FAULTS = 'src/viommu/vtd/faults.ts';
const STATE = 'src/viommu/vtd/state.ts';
const CACHES = 'src/viommu/vtd/qemu-caches.ts';

const MODEL = ['test/unit/vtd-model.test.ts'];
const SCALABLES = ['test/unit/vtd-scalable.test.ts'];
const VECTORS = ['test/conformance/vtd.test.ts'];
const FIRSTS = ['test/property/vtd-first-stage.test.ts'];
const SECONDS = ['test/property/vtd-second-level.test.ts'];
const STATES = ['test/unit/viommu-state.test.ts'];
const CONTEXTS = ['test/unit/vtd-contexts.test.ts'];

export const VTD_TABLES_MUTANTS: readonly Mutant[] = [
  {
    id: 'vtd-tables/supervisor-page',
    file: FIRST,
    find: 'const USABLE = vtd.FS_P | vtd.FS_US;',
    replace: 'const USABLE = vtd.FS_P;',
    why: 'A container maps pages that only the supervisor may use.',
    killedBy: CONTEXTS,
  },
  {
    id: 'vtd-tables/dirty-tables',
    file: FIRST,
    find: 'this.#mark(entry, low, leaf && write);',
    replace: 'this.#mark(entry, low, write);',
    why: 'A write sets D in the entries of tables above its leaf.',
    killedBy: FIRSTS,
  },
  {
    id: 'vtd-tables/level-4-leaf',
    file: SECOND,
    find: 'BIT_11 | vtd.SL_PS]',
    replace: 'BIT_11]',
    why: 'PS in an entry of level 4 is ignored.',
    killedBy: SECONDS,
  },
  {
    id: 'vtd-tables/leaf-permission-alone',
    file: TABLES,
    find: 'this.#walkTable(walk, tablePointer(low, high & HIGH_ADDRESS), level - 1, base + i * span, granted);',
    replace:
      'this.#walkTable(walk, tablePointer(low, high & HIGH_ADDRESS), level - 1, base + i * span, perm);',
    why: 'A replay ignores the permissions of upper levels.',
    killedBy: SECONDS,
  },
  {
    id: 'vtd-tables/pat-is-address',
    file: TABLES,
    find: 'tablePointer((low & -size) >>> 0,',
    replace: 'tablePointer(low,',
    why: 'Bit 12 (PAT) of a large first-stage leaf counts as address.',
    killedBy: SCALABLES,
  },
  {
    id: 'vtd-tables/part-above-interrupts',
    file: INTERRUPTS,
    find: 'offsetBy(gpa, skipped)',
    replace: 'gpa',
    why: 'The part of a large leaf above the interrupt range is mapped to its start.',
    killedBy: MODEL,
  },
  {
    id: 'vtd-tables/target-in-interrupt-range',
    file: TABLES,
    find: '      if (!touchesInterruptRange(page, span)) this.#emit(',
    replace: '      this.#emit(',
    why: 'A replay maps leaves that lead to the interrupt range.',
    killedBy: CONTEXTS,
  },
  {
    id: 'vtd-tables/overflow-by-same-device',
    file: FAULTS,
    find: '      if (Number(held & vtd.FRCD.SID_MASK) !== requesterId) this.#setStatus(vtd.FSTS_PFO);\n',
    replace: '      this.#setStatus(vtd.FSTS_PFO);\n',
    why: 'A second fault of the same device sets PFO.',
    killedBy: VECTORS,
  },
  {
    id: 'vtd-tables/message-per-fault',
    file: FAULTS,
    find: '    if ((before & (vtd.FSTS_PFO | vtd.FSTS_PPF | vtd.FSTS_IQE)) === 0) this.#event.signal();',
    replace: '    this.#event.signal();',
    why: 'Each pending cause sends a message of its own.',
    killedBy: CONTEXTS,
  },
  {
    id: 'vtd-tables/masked-event',
    file: FAULTS,
    find: 'if ((control & vtd.EVENT_IP) === 0 || (control & vtd.EVENT_IM) !== 0) return;',
    replace: 'if ((control & vtd.EVENT_IP) === 0) return;',
    why: 'A masked event sends its message.',
    killedBy: MODEL,
  },
  {
    id: 'vtd-tables/completion-repeats',
    file: FAULTS,
    find: "    if ((this.#registers.get32('ICS') & vtd.ICS_IWC) !== 0) return;\n",
    replace: '',
    why: 'A completion event is sent again before software has cleared IWC.',
    killedBy: CONTEXTS,
  },
  {
    id: 'vtd-tables/restored-root',
    file: STATE,
    find: "contexts.setRoot(within(state, 'rootInUse', softwareBits(registers, 'RTADDR')));",
    replace:
      "within(state, 'rootInUse', softwareBits(registers, 'RTADDR'));\n  contexts.setRoot(registers.get('RTADDR'));",
    why: 'A migrated unit uses a root that software has written and not yet set.',
    killedBy: CONTEXTS,
  },
  {
    id: 'vtd-tables/restored-wait',
    file: STATE,
    find: "enabled, state.boolean('lastDescriptorWaits'));",
    replace: "enabled, state.boolean('lastDescriptorWaits') && false);",
    why: 'A migrated unit has forgotten that its last descriptor was a wait (QEMU).',
    killedBy: STATES,
  },
  {
    id: 'vtd-tables/pass-through-kept',
    file: CACHES,
    find: 'for (const devices of [this.#contexts, this.#passThrough])',
    replace: 'for (const devices of [this.#contexts])',
    why: 'A device-selective invalidation does not end pass-through (QEMU).',
    killedBy: CONTEXTS,
  },
];
