/**
 * Mutants of guest RAM, its log, and host memory.
 */
import type { Mutant } from '../mutant.ts';

const RAM = 'src/memory/guest-ram.ts';
const LOG = 'src/memory/ram-log.ts';
const HOST = 'src/memory/host-memory.ts';

const RAM_TESTS = ['test/unit/guest-ram.test.ts'];
const LOG_TESTS = ['test/unit/ram-log.test.ts'];

export const MEMORY_MUTANTS: readonly Mutant[] = [
  {
    id: 'memory/range-across-hole',
    file: RAM,
    find: '((gpa >= 0 && gpa + length <= this.#below4g) ||',
    replace: '((gpa >= 0 && gpa < this.#below4g) ||',
    why: 'A range across the hole below 4 GiB is RAM.',
    killedBy: RAM_TESTS,
  },
  {
    id: 'memory/range-beyond-end',
    file: RAM,
    find: '(gpa >= FOUR_GIB && gpa + length <= this.#end)',
    replace: '(gpa >= FOUR_GIB && gpa < this.#end)',
    why: 'A range across the end of RAM is RAM.',
    killedBy: RAM_TESTS,
  },
  {
    id: 'memory/marks-first-page-only',
    file: RAM,
    find: 'const last = Math.floor(this.#linear(gpa + length - 1) / PAGE_SIZE);',
    replace: 'const last = first;',
    why: 'A write over two pages marks one; a migration loses the other.',
    killedBy: LOG_TESTS,
  },
  {
    id: 'memory/bits-unmarked',
    file: RAM,
    find: `    or(this.#words, this.#wordIndex(gpa), bits, 'ram.word');
    if (this.#log !== undefined) this.#mark(gpa, 4);`,
    replace: "    or(this.#words, this.#wordIndex(gpa), bits, 'ram.word');",
    why: 'A migration loses bits that the vIOMMU has set.',
    killedBy: LOG_TESTS,
  },
  {
    id: 'memory/publish-unmarked',
    file: RAM,
    find: `    st(this.#words, index, value, 'ram.word');
    if (this.#log !== undefined) this.#mark(gpa, 4);`,
    replace: "    st(this.#words, index, value, 'ram.word');",
    why: 'A migration loses a status word.',
    killedBy: LOG_TESTS,
  },
  {
    id: 'memory/publish-wakes-nobody',
    file: RAM,
    find: "    wake(this.#words, index, 'ram.wait');\n",
    replace: '',
    why: 'A waiter sleeps to its time-out.',
    killedBy: RAM_TESTS,
  },
  {
    id: 'memory/high-pages-numbered-from-0',
    file: RAM,
    find: 'return gpa >= FOUR_GIB ? gpa - FOUR_GIB + this.#below4g : gpa;',
    replace: 'return gpa >= FOUR_GIB ? gpa - FOUR_GIB : gpa;',
    why: 'Writes above 4 GiB mark pages below.',
    killedBy: LOG_TESTS,
  },
  {
    id: 'memory/page-of-wrong-direction',
    file: RAM,
    find: 'this.#sections ??= inverse(this.#frames);',
    replace: 'this.#sections ??= this.#frames;',
    why: 'A host page is found at the GPA of another.',
    killedBy: LOG_TESTS,
  },
  {
    id: 'memory/extents-ignore-frames',
    file: RAM,
    find: 'const length = Math.min(left, FRAME_SIZE - (at % FRAME_SIZE));',
    replace: 'const length = left;',
    why: 'A mapping over two frames continues in a foreign one.',
    killedBy: RAM_TESTS,
  },
  {
    id: 'memory/write-beyond-frame',
    file: RAM,
    find: 'length > 0 && (gpa % FRAME_SIZE) + length <= FRAME_SIZE;',
    replace: 'length > 0 && length <= FRAME_SIZE;',
    why: 'A write over two frames goes into a foreign one.',
    killedBy: RAM_TESTS,
  },
  {
    id: 'memory/compares-last-frame-only',
    file: RAM,
    find: 'same &&= equals(',
    replace: 'same = equals(',
    why: 'A wrong byte in the first of two frames is not found.',
    killedBy: RAM_TESTS,
  },
  {
    id: 'memory/zero-by-first-word',
    file: RAM,
    find: "      if (!equals(this.host.bytes, offset, ZERO_PAGE, 'ram.copy')) return false;\n",
    replace: '',
    why: 'A page that begins with zeros is not sent.',
    killedBy: LOG_TESTS,
  },
  {
    id: 'memory/zero-of-first-page',
    file: RAM,
    find: 'for (let at = gpa; at < gpa + bytes; at += PAGE_SIZE) {',
    replace: 'for (let at = gpa; at < gpa + PAGE_SIZE; at += PAGE_SIZE) {',
    why: 'A block whose first page is zero is not sent.',
    killedBy: LOG_TESTS,
  },
  {
    id: 'memory/log-of-any-size',
    file: RAM,
    find: 'if (handle && handle.byteLength !== RamLog.bytesFor(this.size))',
    replace: 'if (handle && handle.byteLength > RamLog.bytesFor(this.size))',
    why: 'A log of other RAM is attached.',
    killedBy: LOG_TESTS,
  },
  {
    id: 'memory/words-unaligned',
    file: RAM,
    find: 'if (offset < 0 || (gpa & 3) !== 0)',
    replace: 'if (offset < 0)',
    why: 'An unaligned word is read as its neighbour.',
    killedBy: RAM_TESTS,
  },
  {
    id: 'memory/take-clears-word',
    file: LOG,
    find: "return (and(this.#words, at, ~bit, 'ramlog.take') & bit) !== 0;",
    replace: "return (and(this.#words, at, 0, 'ramlog.take') & bit) !== 0;",
    why: 'The marks of 31 neighbours are lost.',
    killedBy: LOG_TESTS,
  },
  {
    id: 'memory/take-keeps-mark',
    file: LOG,
    find: "return (and(this.#words, at, ~bit, 'ramlog.take') & bit) !== 0;",
    replace: 'return true;',
    why: 'A page is sent for ever.',
    killedBy: LOG_TESTS,
  },
  {
    id: 'memory/harvest-keeps-marks',
    file: LOG,
    find: "let bits = xchg(this.#words, at, 0, 'ramlog.take');",
    replace: "let bits = ld(this.#words, at, 'ramlog.take');",
    why: 'A harvest leaves its marks, and rounds never end.',
    killedBy: LOG_TESTS,
  },
  {
    id: 'memory/mark-of-whole-word',
    file: LOG,
    find: '(run === BITS ? -1 : (1 << run) - 1) << bit',
    replace: '((1 << run) - 1) << bit',
    why: 'A write of 32 pages marks none.',
    killedBy: LOG_TESTS,
  },
  {
    id: 'memory/host-range-across-end',
    file: HOST,
    find: 'if (!(offset >= 0 && offset + length <= this.size))',
    replace: 'if (!(offset >= 0 && offset < this.size))',
    why: 'An access across the end of a slab is cut.',
    killedBy: RAM_TESTS,
  },
  {
    id: 'memory/hpa-beyond-limit',
    file: HOST,
    find: 'if (base + size > HPA_LIMIT)',
    replace: 'if (base > HPA_LIMIT)',
    why: 'A host page does not fit the pin table.',
    killedBy: RAM_TESTS,
  },
];
