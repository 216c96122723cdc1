/**
 * Corpus: the seven basic mutants of the pin table, and those that its history and its proofs have added.
 */
import type { CorpusEntry } from './entry.ts';

const PROTOCOL = 'src/pin-table/protocol.ts';
const READER = 'src/pin-table/reader.ts';
const WRITER = 'src/pin-table/writer.ts';
const COUNTS = 'src/pin-table/pin-counts.ts';
const KERNELS = 'src/explore/kernels/pin-table.ts';

const SECTIONS = `${KERNELS}#dmaSections`;
const PINS = `${KERNELS}#pins`;
const LINKS = `${KERNELS}#links`;

/** The seven that stress with real threads is measured by. */
export const SEVEN: readonly CorpusEntry[] = [
  {
    id: 'pin-table/store-for-and',
    harness: PINS,
    patches: [
      {
        file: PROTOCOL,
        find: "return (and(table, pinWord(entry), ~PIN_VALID, 'unmap.invalidate') & ~PIN_VALID) / PIN_ONE;",
        replace: `const pins = ld(table, pinWord(entry), 'unmap.pincount') & ~PIN_VALID;
          st(table, pinWord(entry), pins, 'unmap.invalidate');
          return pins / PIN_ONE;`,
      },
    ],
    fault:
      'The valid bit is cleared by a store, which overwrites a pin that comes between its load and its store.',
    rules: ['R6', 'pins balanced', 'lost-wake'],
    budget: 2000,
  },
  {
    id: 'pin-table/check-before-add',
    harness: PINS,
    patches: [
      {
        file: PROTOCOL,
        find: "const before = add(table, word, PIN_ONE, 'pin.inc');",
        replace: `const before = ld(table, word, 'pin.inc');
          if ((before & PIN_VALID) !== 0) add(table, word, PIN_ONE, 'pin.inc');
          else return false;`,
      },
    ],
    fault: 'The valid bit is read before the pin is added, so an unmap between the two does not see the pin.',
    rules: ['R6', 'pins balanced', 'lost-wake'],
    budget: 2000,
  },
  {
    id: 'pin-table/no-bump',
    harness: SECTIONS,
    patches: [
      {
        file: PROTOCOL,
        find: "return (add(table, WORD_GENERATION, 2, 'unmap.bump') + 2) | 0;",
        replace: "return ld(table, WORD_GENERATION, 'unmap.bump');",
      },
    ],
    fault: 'The generation stays, so that an unmap takes old sections for new ones.',
    rules: ['R6'],
    budget: 2000,
  },
  {
    id: 'pin-table/late-epoch',
    harness: SECTIONS,
    patches: [
      {
        file: READER,
        find: '      : dmaEnter(this.#table, this.#slot, this.#generation);',
        replace: '      : this.#generation;',
      },
      {
        file: READER,
        find: '    return lookup(this.#table, iova);',
        replace: `const leaf = lookup(this.#table, iova);
          this.#generation = dmaEnter(this.#table, this.#slot, this.#generation);
          return leaf;`,
      },
    ],
    fault: 'The epoch is published after the lookup.',
    rules: ['R6'],
    budget: 2000,
  },
  {
    id: 'pin-table/skipped-reader',
    harness: SECTIONS,
    patches: [
      {
        file: WRITER,
        find: 'for (let slot = 0; slot < this.#readers; slot++) {',
        replace: 'for (let slot = 0; slot < this.#readers - 1; slot++) {',
      },
    ],
    fault: 'The drain does not wait for the last reader.',
    rules: ['R6'],
    budget: 2000,
  },
  {
    id: 'pin-table/no-undo',
    harness: PINS,
    patches: [
      {
        file: PROTOCOL,
        find: "if (add(table, word, -PIN_ONE, 'pin.undo') === PIN_ONE) wake(table, word, 'pin.undo.wake');",
        replace: '',
      },
    ],
    fault: 'A pin that fails stays in the count.',
    rules: ['pins balanced', 'lost-wake', 'R6'],
    budget: 2000,
  },
  {
    id: 'pin-table/lost-notify',
    harness: SECTIONS,
    patches: [
      {
        file: PROTOCOL,
        find: "if (ld(table, WORD_WRITER_WAITING, 'dma.exit.waiting') !== 0) wake(table, epoch, 'dma.exit.wake');",
        replace: "ld(table, WORD_WRITER_WAITING, 'dma.exit.waiting');",
      },
    ],
    fault: 'A reader that leaves its section does not wake the writer.',
    rules: ['lost-wake'],
    budget: 2000,
  },
];

const FURTHER: readonly CorpusEntry[] = [
  {
    id: 'pin-table/lost-notify-of-unpin',
    harness: PINS,
    patches: [
      {
        file: PROTOCOL,
        find: "if (add(table, word, -PIN_ONE, 'unpin.dec') === PIN_ONE) wake(table, word, 'unpin.wake');",
        replace: "add(table, word, -PIN_ONE, 'unpin.dec');",
      },
    ],
    fault: 'The last unpin of an invalid leaf does not wake the unmap.',
    rules: ['lost-wake'],
    budget: 2000,
  },
  {
    id: 'pin-table/lost-notify-of-undo',
    harness: PINS,
    patches: [
      {
        file: PROTOCOL,
        find: "if (add(table, word, -PIN_ONE, 'pin.undo') === PIN_ONE) wake(table, word, 'pin.undo.wake');",
        replace: "add(table, word, -PIN_ONE, 'pin.undo');",
      },
    ],
    fault: 'A pin that fails is undone without waking the unmap that has counted it.',
    rules: ['lost-wake'],
    budget: 4000,
  },
  {
    id: 'pin-table/store-for-or',
    harness: PINS,
    patches: [
      {
        file: PROTOCOL,
        find: "  st(table, entry, frame, 'map.frame');\n  // `or`, never `store`: a pin that fails on the previous mapping may be between its +2 and its -2.\n  or(table, pinWord(entry), PIN_VALID, 'map.valid');",
        replace:
          "  st(table, entry, frame, 'map.frame');\n  st(table, pinWord(entry), PIN_VALID, 'map.valid');",
      },
    ],
    fault: 'A map stores the valid bit over a pin that is about to be undone.',
    rules: ['pins balanced', 'R6', 'lost-wake'],
    budget: 4000,
  },
  {
    id: 'pin-table/clear-before-0-pins',
    harness: PINS,
    patches: [
      {
        file: KERNELS,
        find: '    while (this.table.pins(iova, size) > 0) await this.table.waitPins(iova, size, WAIT_MS);\n',
        replace: '',
      },
    ],
    fault: 'An unmap does not wait for the pins.',
    rules: ['R6', 'pins balanced'],
    budget: 2000,
  },
  {
    id: 'pin-table/reuse-before-drain',
    harness: SECTIONS,
    patches: [
      {
        file: KERNELS,
        find: `    for (let waiting = this.table.waitDrained(WAIT_MS); waiting; waiting = this.table.waitDrained(WAIT_MS))
      await waiting;
`,
        replace: '',
      },
    ],
    fault: 'An unmap completes while sections that began before it are open.',
    rules: ['R6'],
    budget: 2000,
  },
  {
    id: 'pin-table/load-before-flag',
    harness: SECTIONS,
    patches: [
      {
        file: WRITER,
        find: `      this.#raiseWaiting(1);
      // Load again after raising the flag: the reader may have left before it, and then wakes nobody.
      const epoch = readerBlocking(this.#table, slot, this.#generation);`,
        replace: `      const epoch = readerBlocking(this.#table, slot, this.#generation);
      const late = epoch === OUTSIDE ? undefined : waitEqAsync(this.#table, readerEpoch(slot), epoch, timeoutMs, 'unmap.epochwait');
      this.#raiseWaiting(1);
      if (late) return late;`,
      },
    ],
    fault: 'The writer sleeps before it raises its flag, so a reader that leaves in between wakes nobody.',
    rules: ['lost-wake'],
    budget: 2000,
  },
  {
    id: 'pin-table/no-pin-on-link',
    harness: LINKS,
    patches: [
      { file: COUNTS, find: '  if (!pinAcquire(table, link)) return PIN_UNMAPPED;\n', replace: '' },
      { file: COUNTS, find: '  if (result < 0) pinRelease(table, link);\n', replace: '' },
      { file: COUNTS, find: '  pinRelease(table, link);\n  return true;\n', replace: '  return true;\n' },
    ],
    fault: 'A pin of a page does not pin its leaf table, which an unmap drops as a whole.',
    rules: ['R6', 'pins balanced'],
    budget: 2000,
  },
  {
    id: 'pin-table/link-pin-kept',
    harness: PINS,
    patches: [{ file: COUNTS, find: '  if (result < 0) pinRelease(table, link);\n', replace: '' }],
    fault: 'A pin that fails at the leaf keeps its pin of the link.',
    rules: ['lost-wake', 'pins balanced'],
    budget: 4000,
  },
  {
    id: 'pin-table/stale-link',
    harness: `${KERNELS}#relinked`,
    patches: [
      {
        file: COUNTS,
        find: "  const node = rd(table, link, 'walk.mid');\n  const linked",
        replace: '  const node = child;\n  const linked',
      },
    ],
    fault: 'A pin follows the link that it loaded before it pinned the link, into a table that was removed.',
    rules: ['R6', 'pins balanced', 'lost-wake'],
    budget: 4000,
  },
  {
    id: 'pin-table/frame-before-pin',
    harness: `${KERNELS}#remapped`,
    patches: [
      {
        file: COUNTS,
        find: `  if ((rd(table, entry, 'walk.leaf') & PERM_MASK) === 0) return PIN_UNMAPPED;
  if (!pinAcquire(table, entry)) return PIN_UNMAPPED;
  // Only now: the pin keeps the frame word, and with it the mapping.
  const frame = rd(table, entry, 'walk.frame');`,
        replace: `  const frame = rd(table, entry, 'walk.frame');
  if ((frame & PERM_MASK) === 0) return PIN_UNMAPPED;
  if (!pinAcquire(table, entry)) return PIN_UNMAPPED;`,
      },
    ],
    fault: 'The frame is read before the leaf is pinned, and the leaf is mapped to another frame in between.',
    rules: ['R6'],
    budget: 4000,
  },
  {
    id: 'pin-table/no-confirm',
    harness: SECTIONS,
    patches: [
      {
        file: PROTOCOL,
        find: `    st(table, epoch, generation, 'dma.enter.publish');
    const now = ld(table, WORD_GENERATION, 'dma.enter.confirm');`,
        replace: `    generation = ld(table, WORD_GENERATION, 'dma.enter.confirm');
    st(table, epoch, generation, 'dma.enter.publish');
    const now = generation;`,
      },
    ],
    fault:
      'No load confirms the published generation: plain loads may still return what an unmap has cleared.',
    rules: ['R6'],
    budget: 4000,
    weak: true,
  },
];

export const PIN_TABLE: readonly CorpusEntry[] = [...SEVEN, ...FURTHER];
