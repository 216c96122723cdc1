/**
 * Mutants of AMD-Vi, its guest driver, and VT-d's interrupt remapping.
 */
import type { Mutant } from '../mutant.ts';

const ENTRIES = 'src/viommu/amdvi/entries.ts';
const WALK = 'src/viommu/amdvi/page-tables.ts';
const TABLE = 'src/viommu/amdvi/device-table.ts';
const EXCLUSION = 'src/viommu/amdvi/tables.ts';
const BUFFER = 'src/viommu/amdvi/command-buffer.ts';
const COMMANDS = 'src/viommu/amdvi/commands.ts';
const DEVICES = 'src/viommu/amdvi/attached-devices.ts';
const LOG = 'src/viommu/amdvi/event-log.ts';
const UNIT = 'src/viommu/amdvi/iommu.ts';
const STATE = 'src/viommu/amdvi/state.ts';
const DRIVER = 'src/guest/iommu/amdvi/driver.ts';
const EDITOR = 'src/guest/iommu/amdvi/page-table-editor.ts';
const REMAPPING = 'src/viommu/vtd/interrupt-remapping.ts';
const PORT = 'src/device/interrupt-port.ts';

const VECTORS = ['test/conformance/amdvi.test.ts'];
const MODEL = ['test/unit/amdvi-iommu.test.ts'];
const TABLES = ['test/property/amdvi-page-tables.test.ts'];
const GUEST = ['test/unit/amdvi-driver.test.ts'];
const STATES = ['test/unit/viommu-state.test.ts'];
const INTERRUPTS = ['test/conformance/vtd-ir.test.ts'];
const ENTRY_CACHE = ['test/unit/vtd-interrupt-remapping.test.ts'];

export const AMDVI_MUTANTS: readonly Mutant[] = [
  {
    id: 'amdvi/upper-permissions-ignored',
    file: ENTRIES,
    find: 'this.perm = allowed & permOf(high);',
    replace: 'this.perm = permOf(high);',
    why: 'Permissions of the device and of upper levels do not bind.',
    killedBy: TABLES,
  },
  {
    id: 'amdvi/leaf-reserved-bits',
    file: ENTRIES,
    find: "if ((high & amdvi.LEAF_RESERVED) !== 0) return 'invalid';",
    replace: '',
    why: 'A leaf with reserved bits translates.',
    killedBy: TABLES,
  },
  {
    id: 'amdvi/size-beyond-level',
    file: ENTRIES,
    find: 'this.size > span && this.size < span * amdvi.PTES',
    replace: 'this.size > span',
    why: 'A page may be larger than its level allows.',
    killedBy: VECTORS,
  },
  {
    id: 'amdvi/level-not-below',
    file: ENTRIES,
    find: "if (next >= level) return 'invalid';",
    replace: "if (next > level) return 'invalid';",
    why: 'A table may name its own level.',
    killedBy: VECTORS,
  },
  {
    id: 'amdvi/skipped-bits',
    file: WALK,
    find: 'return iova % amdvi.spanOfLevel(level) >= amdvi.spanOfLevel(this.#decoder.next + 1);',
    replace: 'return false;',
    why: 'A level that is skipped repeats its table.',
    killedBy: VECTORS,
  },
  {
    id: 'amdvi/whole-page-of-one-entry',
    file: WALK,
    find: 'if ((this.#ram.wordAt(words + 2 * i) & LEAF_LOW) !== low) return false;',
    replace: '',
    why: 'A page with an encoded size is mapped whole though its entries differ.',
    killedBy: TABLES,
  },
  {
    id: 'amdvi/table-size',
    file: TABLE,
    find: 'if (requesterId >= this.#entries && !this.#asQemu)',
    replace: 'if (requesterId > this.#entries && !this.#asQemu)',
    why: 'A device just beyond the table is translated.',
    killedBy: VECTORS,
  },
  {
    id: 'amdvi/exclusion-for-all',
    file: TABLE,
    find: 'if (!excluded && (base & amdvi.EXCLUSION_ALLOW) === 0n) return undefined;',
    replace: '',
    why: 'The exclusion range applies to devices without EX.',
    killedBy: MODEL,
  },
  {
    id: 'amdvi/exclusion-end',
    file: TABLE,
    find: "this.#registers.get('ExclusionLimit') & amdvi.BASE_ADDRESS_MASK) + 4096;",
    replace: "this.#registers.get('ExclusionLimit') & amdvi.BASE_ADDRESS_MASK);",
    why: 'The last page of the exclusion range is translated.',
    killedBy: MODEL,
  },
  {
    id: 'amdvi/exclusion-tables-inside',
    file: EXCLUSION,
    find: 'this.#tables.walk(start, Math.min(end, from), this.#outside(tell, 0, from));',
    replace: 'this.#tables.walk(start, Math.min(end, from), tell);',
    why: 'A large page is mapped into the exclusion range.',
    killedBy: MODEL,
  },
  {
    id: 'amdvi/head-before-work',
    file: BUFFER,
    find: 'const advanced = work.then(() => this.#advance());',
    replace: 'this.#advance();\n        const advanced = work;',
    why: 'The head passes a command whose work is not complete.',
    killedBy: MODEL,
  },
  {
    id: 'amdvi/illegal-continues',
    file: BUFFER,
    find: 'this.#stopped = true;\n    setStatus(this.#registers, STATUS.CMD_BUF_RUN, false);',
    replace: 'setStatus(this.#registers, STATUS.CMD_BUF_RUN, true);',
    why: 'An illegal command does not stop the fetching.',
    killedBy: VECTORS,
  },
  {
    id: 'amdvi/size-code',
    file: COMMANDS,
    find: 'let size = 2 ** 13;',
    replace: 'let size = 2 ** 12;',
    why: 'An invalidation of several pages covers half of them.',
    killedBy: GUEST,
  },
  {
    id: 'amdvi/all-forgets-tables',
    file: DEVICES,
    find: 'return flush ? device.space.sync(0, IOVA_LIMIT) : undefined;',
    replace: 'return undefined;',
    why: 'INVALIDATE_IOMMU_ALL does not reread the page tables of a device whose entry has not changed.',
    killedBy: TABLES,
  },
  {
    id: 'amdvi/pages-of-every-domain',
    file: DEVICES,
    find: 'const devices = this.#byDomain.get(request.domainId);',
    replace: 'const devices = new Set(this.#devices.values());',
    why: 'An invalidation of one domain changes the containers of others.',
    killedBy: MODEL,
  },
  {
    id: 'amdvi/log-overflow-goes-unseen',
    file: LOG,
    find: 'if (next === this.#head) {',
    replace: 'if (next === this.#tail) {',
    why: 'A full log overwrites its oldest event.',
    killedBy: VECTORS,
  },
  {
    id: 'amdvi/run-bits-early',
    file: UNIT,
    find: 'return whenDone(changed ? this.#refreshAll() : undefined, () => {',
    replace: 'if (changed) void this.#refreshAll();\n      return whenDone(undefined, () => {',
    why: 'The run bits announce a switch that is not complete.',
    killedBy: MODEL,
  },
  {
    id: 'amdvi/exclusion-untold',
    file: UNIT,
    find: 'if (this.#enabled) this.#submit(() => this.#refreshAll());',
    replace: '',
    why: 'Containers do not follow a change of the exclusion range.',
    killedBy: MODEL,
  },
  {
    id: 'amdvi/suppressed-again',
    file: STATE,
    find: "for (const id of ids(state, 'logged', !asQemu)) logged.add(id);",
    replace: "ids(state, 'logged', !asQemu);",
    why: 'A device that suppresses later events reports one again on its new host.',
    killedBy: STATES,
  },
  {
    id: 'amdvi/driver-flushes-nothing',
    file: DRIVER,
    find: 'if (this.#enabled) await this.#commands.submit(commands, what);',
    replace: 'if (!this.#enabled) await this.#commands.submit(commands, what);',
    why: 'The driver announces its changes only while nothing is translated.',
    killedBy: GUEST,
  },
  {
    id: 'amdvi/driver-switches-among-maps',
    file: DRIVER,
    find: 'this.#running.runExclusive(work)',
    replace: 'work()',
    why: 'A command is submitted while the command buffer stops, and is never executed.',
    killedBy: GUEST,
  },
  {
    id: 'amdvi/driver-encodes-half',
    file: EDITOR,
    find: 'const address = encoded ? gpa + size / 2 - PAGE_SIZE : gpa;',
    replace: 'const address = encoded ? gpa + size - PAGE_SIZE : gpa;',
    why: 'A page of an encoded size is twice as large.',
    killedBy: GUEST,
  },
  {
    id: 'amdvi/driver-keeps-split-page',
    file: EDITOR,
    find: 'for (const leaf of cut) this.#split(leaf);',
    replace: '',
    why: 'The rest of a page that is unmapped in part still translates to the whole page.',
    killedBy: GUEST,
  },
  {
    id: 'interrupts/source-not-validated',
    file: REMAPPING,
    find: 'return ((requesterId ^ sid) & mask) === 0;',
    replace: 'return mask !== 0;',
    why: 'A device raises the interrupt of another one.',
    killedBy: INTERRUPTS,
  },
  {
    id: 'interrupts/compatibility-passes',
    file: REMAPPING,
    find: 'if (this.#asQemu || (this.#compatible && !this.#extended)) return',
    replace: 'if (this.#asQemu || this.#compatible || !this.#extended) return',
    why: 'A message in compatibility format passes remapping.',
    killedBy: INTERRUPTS,
  },
  {
    id: 'interrupts/cache-kept',
    file: REMAPPING,
    find: 'if (index >= request.start && index < request.end) this.#cache.delete(index);',
    replace: 'if (index === request.start) this.#cache.delete(index);',
    why: 'An invalidation of several entries drops the first one.',
    killedBy: ENTRY_CACHE,
  },
  {
    id: 'interrupts/cache-unbounded',
    file: REMAPPING,
    find: 'if (this.#cache.size >= CACHE_LIMIT) this.#cache.clear();',
    replace: '',
    why: 'A guest fills the host memory with entries.',
    killedBy: ENTRY_CACHE,
  },
  {
    id: 'interrupts/table-survives-srtp',
    file: REMAPPING,
    find: 'this.#extended = this.#hasExtended && (irta & ir.IRTA_EIME) !== 0n;\n    this.#cache.clear();',
    replace: 'this.#extended = this.#hasExtended && (irta & ir.IRTA_EIME) !== 0n;',
    why: 'Entries of the old table stay in use.',
    killedBy: ENTRY_CACHE,
  },
  {
    id: 'interrupts/counted-while-remapped',
    file: PORT,
    find: 'if (this.#link.remapsInterrupts) {',
    replace: 'if (!this.#link.remapsInterrupts) {',
    why: 'A device counts its interrupts past the remapping.',
    killedBy: ['test/unit/interrupt-port.test.ts'],
  },
];
