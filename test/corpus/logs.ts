/**
 * Corpus: mutants of the logs of written pages, and of a guest's journal. Each reverses or drops one step of an ordering argument in the sources.
 */
import type { CorpusEntry } from './entry.ts';

const JOURNAL = 'src/channel/guest-journal.ts';
const RAM_LOG = 'src/memory/ram-log.ts';
const PAGE_LOG = 'src/pin-table/page-log.ts';
const READER = 'src/pin-table/reader.ts';
const LAYOUT = 'src/gpu/layout.ts';
const LOGS = 'src/explore/kernels/logs.ts';

export const LOGS_OF_PAGES: readonly CorpusEntry[] = [
  {
    id: 'journal/end-before-bytes',
    harness: `${LOGS}#journalLines`,
    patches: [
      {
        file: JOURNAL,
        find: '    const prefix = Uint8Array.of(',
        replace:
          "    st(this.#words, WORD_END, end + PREFIX_BYTES + bytes.length, 'journal.end');\n    const prefix = Uint8Array.of(",
      },
    ],
    fault: 'The end of a journal is stored before the bytes of its new line.',
    rules: ['every byte'],
    budget: 2000,
  },
  {
    id: 'journal/torn-counter',
    harness: `${LOGS}#journalCounter`,
    patches: [
      {
        file: JOURNAL,
        find: 'st(this.#words, index + 1, high | CHANGING,',
        replace: 'st(this.#words, index + 1, high,',
      },
    ],
    fault:
      'A counter beyond 32 bits is read with its new upper and its old lower half. mdevsim had this fault.',
    rules: ['whole counter'],
    budget: 2000,
  },
  {
    id: 'engine/torn-time',
    harness: 'src/explore/kernels/engine.ts#engineClock',
    patches: [
      {
        file: LAYOUT,
        find: "st(words, index + 1, high | CHANGING, 'engine.clock');",
        replace: "st(words, index + 1, high, 'engine.clock');",
      },
    ],
    fault: 'A time of the engine is read with its new upper and its old lower half. mdevsim had this fault.',
    rules: ['whole counter'],
    budget: 2000,
  },
  {
    id: 'dirty-log/mark-before-write',
    harness: `${LOGS}#dirtyWrites`,
    patches: [
      {
        file: LOGS,
        find: "        wr(page, CONTENT, value, 'device.write');\n        if (logged) reader.markWritten(PFN);\n",
        replace:
          "        if (logged) reader.markWritten(PFN);\n        wr(page, CONTENT, value, 'device.write');\n",
      },
    ],
    fault: 'A device marks the page before it writes the bytes.',
    rules: ['dirty completeness'],
    budget: 2000,
  },
  {
    id: 'dirty-log/take-after-copy',
    harness: `${LOGS}#dirtyWrites`,
    patches: [
      {
        file: LOGS,
        find: "  if (table.log.take(PFN)) copy = rd(page, CONTENT, 'copy.read');\n  waitEq(",
        replace: "  copy = rd(page, CONTENT, 'copy.read');\n  table.log.take(PFN);\n  waitEq(",
      },
    ],
    fault: 'A migration copies the page and then clears its mark.',
    rules: ['dirty completeness'],
    budget: 2000,
  },
  {
    id: 'dirty-log/start-without-drain',
    harness: `${LOGS}#dirtyWrites`,
    patches: [
      {
        file: LOGS,
        find: '  table.bump();\n  for (let waiting = table.waitDrained(WAIT_MS); waiting; waiting = table.waitDrained(WAIT_MS)) await waiting;\n',
        replace: '',
      },
    ],
    fault: 'Logging counts as started while sections that began before it write without marks.',
    rules: ['dirty completeness'],
    budget: 2000,
  },
  {
    id: 'dirty-log/lost-between-get-and-clear',
    harness: `${LOGS}#dirtyWrites`,
    patches: [
      {
        file: PAGE_LOG,
        find: "return (and(this.#table, this.#written + at, ~bit, 'log.take') & bit) !== 0 || dirty;",
        replace:
          "const marks = ld(this.#table, this.#written + at, 'log.take');\n    st(this.#table, this.#written + at, marks & ~bit, 'log.take');\n    return true;",
      },
      {
        file: LOGS,
        find: '        if (logged) reader.markWritten(PFN);',
        replace:
          '        if (logged) reader.markWritten(PFN + 1);\n        if (logged) reader.markWritten(PFN);',
      },
      {
        file: LOGS,
        find: "  if (table.log.take(PFN)) copy = rd(page, CONTENT, 'copy.read');\n  waitEq(",
        replace: '  table.log.take(PFN + 1);\n  table.log.take(PFN + 1);\n  waitEq(',
      },
    ],
    correct: `${LOGS}#dirtyWrites`,
    fault:
      'The marks of a word are read and then stored without one bit: a mark of another page in between is lost.',
    rules: ['dirty completeness'],
    budget: 2000,
  },
  {
    id: 'dirty-log/no-mark-at-unpin',
    harness: `${LOGS}#dirtyPins`,
    patches: [{ file: READER, find: '    if (this.#log.logging) this.#log.mark(pfn);\n', replace: '' }],
    fault: 'An unpin does not mark the page that the device may have written.',
    rules: ['dirty completeness'],
    budget: 2000,
  },
  {
    id: 'dirty-log/flag-before-clear',
    harness: `${LOGS}#dirtyWrites`,
    patches: [
      {
        file: PAGE_LOG,
        find: "    if (on) fillWords(this.#table, this.#written, this.#words, 0, 'log.clear');\n    st(this.#table, WORD_LOGGING, on ? 1 : 0, 'log.flag');\n",
        replace:
          "    st(this.#table, WORD_LOGGING, on ? 1 : 0, 'log.flag');\n    if (on) fillWords(this.#table, this.#written, this.#words, 0, 'log.clear');\n",
      },
      {
        file: LOGS,
        find: "  await startLogging(table);\n  let copy = rd(page, CONTENT, 'copy.read');\n",
        replace:
          "  let copy = rd(page, CONTENT, 'copy.read');\n  await startLogging(table);\n  copy = rd(page, CONTENT, 'copy.read');\n",
      },
      {
        file: LOGS,
        find: '  table.bump();\n  for (let waiting = table.waitDrained(WAIT_MS); waiting; waiting = table.waitDrained(WAIT_MS)) await waiting;\n',
        replace: '',
      },
    ],
    fault: 'Marks are cleared after logging has begun, and a mark that came in between is lost.',
    rules: ['dirty completeness'],
    budget: 4000,
  },
  {
    id: 'ram-log/mark-before-write',
    harness: `${LOGS}#ramLog`,
    patches: [
      {
        file: LOGS,
        find: "        wr(page, CONTENT, value, 'guest.write');\n        log.mark(PAGE);\n",
        replace: "        log.mark(PAGE);\n        wr(page, CONTENT, value, 'guest.write');\n",
      },
    ],
    fault: 'A guest marks a page of RAM before it writes the bytes.',
    rules: ['dirty completeness'],
    budget: 2000,
  },
  {
    id: 'ram-log/load-and-store-for-exchange',
    harness: `${LOGS}#ramLog`,
    patches: [
      {
        file: RAM_LOG,
        find: "let bits = xchg(this.#words, at, 0, 'ramlog.take');",
        replace:
          "let bits = ld(this.#words, at, 'ramlog.take');\n      xchg(this.#words, at, 0, 'ramlog.take');",
      },
    ],
    fault: 'A harvest reads the marks and then clears them, so a mark in between is lost.',
    rules: ['dirty completeness'],
    budget: 2000,
  },
  {
    id: 'ram-log/clear-after-copy',
    harness: `${LOGS}#ramLog`,
    patches: [
      {
        file: RAM_LOG,
        find: `      let bits = xchg(this.#words, at, 0, 'ramlog.take');
      while (bits !== 0) {
        const lowest = 31 - Math.clz32(bits & -bits);
        visit(at * BITS + lowest);
        bits &= bits - 1;
      }
`,
        replace: `      let bits = ld(this.#words, at, 'ramlog.take');
      const all = bits;
      while (bits !== 0) {
        const lowest = 31 - Math.clz32(bits & -bits);
        visit(at * BITS + lowest);
        bits &= bits - 1;
      }
      and(this.#words, at, ~all, 'ramlog.take');
`,
      },
    ],
    fault: 'A harvest clears the marks after the pages have been copied.',
    rules: ['dirty completeness'],
    budget: 2000,
  },
];
