/**
 * Mutants of the address spaces behind every vIOMMU: switches, synchronisation, audits, parts of RAM, batches, commands.
 */
import type { Mutant } from '../mutant.ts';

const SPACE = 'src/viommu/address-space.ts';
const AUDIT = 'src/viommu/audit.ts';
const PARTS = 'src/viommu/ram-parts.ts';
const BATCH = 'src/viommu/map-batcher.ts';
const SERIAL = 'src/viommu/command-serial.ts';
const LOG = 'src/viommu/unmapped-log.ts';

const SWITCHES = ['test/unit/address-space.test.ts'];
const SYNCS = ['test/unit/address-space-sync.test.ts'];
const LIMITS = ['test/unit/address-space-limits.test.ts'];
const AUDITS = ['test/unit/address-space-limits.test.ts', 'test/unit/vm-audit.test.ts'];
const COMMANDS = ['test/unit/command-serial.test.ts'];
const BATCHES = ['test/unit/ram-parts.test.ts'];

export const VIOMMU_MUTANTS: readonly Mutant[] = [
  {
    id: 'viommu/replay-before-removal',
    file: SPACE,
    find: 'return whenDone(this.#notifier.unmapAll(), () => {',
    replace: 'void this.#notifier.unmapAll();\n    return whenDone(undefined, () => {',
    why: 'R2: a switch maps the new kind while devices still use the old one.',
    killedBy: SWITCHES,
  },
  {
    id: 'viommu/switch-explains-no-suspect',
    file: SPACE,
    find: '    this.#suspects.explain(0, Number.POSITIVE_INFINITY);\n',
    replace: '',
    why: 'A switch during an audit leaves suspects that no invalidation will name.',
    killedBy: LIMITS,
  },
  {
    id: 'viommu/permission-change',
    file: SPACE,
    find: 'if (leaf?.iova === iova && leaf.gpa === gpa && leaf.size === size && leaf.perm === perm) return;',
    replace: 'if (leaf?.iova === iova && leaf.gpa === gpa && leaf.size === size) return;',
    why: 'An invalidation does not withdraw a permission.',
    killedBy: SYNCS,
  },
  {
    id: 'viommu/page-permission-change',
    file: SPACE,
    find: 'if (leaf && leaf.gpa === held.gpa && leaf.perm === held.perm) return undefined;',
    replace: 'if (leaf && leaf.gpa === held.gpa) return undefined;',
    why: 'An invalidation of one page does not withdraw a permission.',
    killedBy: SYNCS,
  },
  {
    id: 'viommu/fault-in-gap',
    file: SPACE,
    find: '    if (gap) this.#notifier.switchBegin();\n    return whenDone',
    replace: '    return whenDone',
    why: 'A device faults while a translation is replaced.',
    killedBy: SYNCS,
  },
  {
    id: 'viommu/fault-in-page-gap',
    file: SPACE,
    find: '    if (gap) this.#notifier.switchBegin();\n    const unmapped',
    replace: '    const unmapped',
    why: 'A device faults while the translation of one page is replaced.',
    killedBy: SYNCS,
  },
  {
    id: 'viommu/removal-is-no-gap',
    file: SPACE,
    find: 'gap ||= leaf !== undefined && !switching;',
    replace: 'gap ||= !switching;',
    why: 'An access to a page that is only removed is delayed and not refused.',
    killedBy: SYNCS,
  },
  {
    id: 'viommu/no-hull',
    file: SPACE,
    find: 'for (let grown = true; grown; ) {',
    replace: 'for (let grown = false; grown; ) {',
    why: 'A superpage is not split when one of its pages is invalidated.',
    killedBy: SYNCS,
  },
  {
    id: 'viommu/room-unused',
    file: SPACE,
    find: '      mapNew();\n      this.#useRoom(source);\n',
    replace: '      mapNew();\n',
    why: 'Translations without room stay unmapped after an unmap.',
    killedBy: LIMITS,
  },
  {
    id: 'viommu/page-room-unused',
    file: SPACE,
    find: 'perm);\n      this.#useRoom(source);\n      if (gap)',
    replace: 'perm);\n      if (gap)',
    why: 'Translations without room stay unmapped after the unmap of one page.',
    killedBy: LIMITS,
  },
  {
    id: 'viommu/hungry-from-last',
    file: SPACE,
    find: 'this.#hungryFrom = Math.min(this.#hungryFrom, iova);',
    replace: 'this.#hungryFrom = iova;',
    why: 'Of several translations without room, only those from the last on are tried again.',
    killedBy: LIMITS,
  },
  {
    id: 'viommu/stale-entry-after-wait',
    file: SPACE,
    find: 'return unmapped.then(() => finish(source.leafAt(iova)));',
    replace: 'return unmapped.then(() => finish(leaf));',
    why: 'An entry that changed during the wait for a device is mapped as it was before.',
    killedBy: SYNCS,
  },
  {
    id: 'viommu/old-tables',
    file: SPACE,
    find: '    this.#source = source;\n    const since',
    replace: '    const since',
    why: 'After a move to other tables, invalidations read the old ones.',
    killedBy: SWITCHES,
  },
  {
    id: 'viommu/refused-ends-walk',
    file: SPACE,
    find: 'return !isFull;',
    replace: 'return false;',
    why: 'A translation that is in the way of another ends a replay.',
    killedBy: SWITCHES,
  },
  {
    id: 'viommu/sync-of-system',
    file: SPACE,
    find: "if (this.#kind !== 'iommu' || !this.#source) return undefined;\n    return this.#sync",
    replace: 'if (!this.#source) return undefined;\n    return this.#sync',
    why: 'An invalidation changes the mappings of a device that is not translated.',
    killedBy: SYNCS,
    equivalent: 'Only the kind iommu has a source: every switch to another kind clears it.',
  },
  {
    id: 'viommu/audit-ignores-permission',
    file: AUDIT,
    find: 'leaf.size === size && leaf.perm === perm) return true;',
    replace: 'leaf.size === size) return true;',
    why: 'An audit accepts a mapping with more permissions than the tables have.',
    killedBy: SYNCS,
  },
  {
    id: 'viommu/audit-accuses-full',
    file: AUDIT,
    find: '    if (notifier.refusal?.(iova, gpa, size, perm) !== undefined) return ++lacking < LACKING_LIMIT;\n',
    replace: '',
    why: 'An audit accuses the guest of translations for which the container has no room.',
    killedBy: AUDITS,
  },
  {
    id: 'viommu/audit-misses-unmapped',
    file: AUDIT,
    find: '    if (found.length < limit) found.push({ iova, size, held: undefined, expected: gpa });\n',
    replace: '',
    why: 'An audit does not see translations that are missing in the container.',
    killedBy: SYNCS,
  },
  {
    id: 'viommu/neighbour-explains',
    file: AUDIT,
    find: 'iova >= end || iova + size <= start',
    replace: 'iova > end || iova + size < start',
    why: 'An invalidation of the page beside a suspect explains it.',
    killedBy: LIMITS,
  },
  {
    id: 'viommu/changed-suspect',
    file: AUDIT,
    find: '        found?.size === suspect.size && found.held === suspect.held && found.expected === suspect.expected',
    replace: '        found !== undefined',
    why: 'An audit accuses of a difference that has changed since its first reading.',
    killedBy: LIMITS,
  },
  {
    id: 'viommu/part-at-start',
    file: PARTS,
    find: 'iova: offsetBy(iova, from - gpa), gpa',
    replace: 'iova, gpa',
    why: 'The part of a leaf that begins in RAM is mapped at the start of the leaf.',
    killedBy: LIMITS,
  },
  {
    id: 'viommu/leaf-outside-part',
    file: PARTS,
    find: 'if (part && iova >= part.iova && iova < part.iova + part.size) return part;',
    replace: 'if (part) return part;',
    why: 'An address of a leaf beyond RAM is translated like its part in RAM.',
    killedBy: BATCHES,
  },
  {
    id: 'viommu/parts-outside-range',
    file: PARTS,
    find: '        if (!part || part.iova >= end || part.iova + part.size <= start) continue;\n',
    replace: '        if (!part) continue;\n',
    why: 'An invalidation changes the part of a leaf that it does not name.',
    killedBy: BATCHES,
  },
  {
    id: 'viommu/batch-of-permissions',
    file: BATCH,
    find: 'iova !== this.#next || perm !== this.#perm || iova',
    replace: 'iova !== this.#next || iova',
    why: 'A replay maps pages with the permission of the page before them.',
    killedBy: BATCHES,
  },
  {
    id: 'viommu/batch-across-2m',
    file: BATCH,
    find: ' || iova % PAGE_2M === 0',
    replace: '',
    why: 'A batch of a replay continues beyond the 2 MiB that a leaf table covers.',
    killedBy: BATCHES,
  },
  {
    id: 'viommu/batch-refused-lost',
    file: BATCH,
    find: 'if (this.#mapOne(iova, this.#gpas[i] as Gpa, PAGE_SIZE, this.#perm) === false) return false;',
    replace:
      'if (i > 0 && this.#mapOne(iova, this.#gpas[i] as Gpa, PAGE_SIZE, this.#perm) === false) return false;',
    why: 'The first page of a batch that the container refuses is not mapped alone.',
    killedBy: BATCHES,
  },
  {
    id: 'viommu/failed-command-blocks',
    file: SERIAL,
    find: 'work.then(settle, settle)',
    replace: 'work.then(settle)',
    why: 'A command that fails keeps all later ones from running.',
    killedBy: COMMANDS,
  },
  {
    id: 'viommu/reentrant-command',
    file: SERIAL,
    find: 'if (!this.#tail && !this.#running) {',
    replace: 'if (!this.#tail) {',
    why: 'A command that is caused by a running one runs in the middle of it.',
    killedBy: COMMANDS,
  },
  {
    id: 'viommu/waiting-never-falls',
    file: SERIAL,
    find: '        this.#waiting--;\n',
    replace: '',
    why: 'Commands are dropped once 64 have ever waited.',
    killedBy: COMMANDS,
  },
  {
    id: 'viommu/log-repeats',
    file: LOG,
    find: '    if (entries.some((entry) => entry.iova === iova)) return false;\n',
    replace: '',
    why: 'Each invalidation logs the same unmapped translation again.',
    killedBy: LIMITS,
  },
];
